"""What `make validate-live` asks AWS fits botocore's model of it; AWS itself has not been asked."""

import json
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from statemachine.validate_live import UNKNOWN, Expected, ask, expectations, machines, request
from tests.contracts.flow import INPUTS, ways
from tests.contracts.stacks import Document

WELL = {"result": "OK", "diagnostics": [], "truncated": False}


def answers(name: str, machine: tuple[Document, str], wrong: str | None = None) -> list[str]:
    """The findings where AWS answers as expected, but for one state."""
    client: Any = boto3.client("stepfunctions")
    whole, kind = machine
    with Stubber(client) as stub:
        text = json.dumps(whole)
        stub.add_response(
            "validate_state_machine_definition", WELL, {"definition": text, "type": kind, "severity": "WARNING"}
        )
        inputs = dict(ways(whole, INPUTS[name][:1]))
        for state_name, state in whole["States"].items():
            for expected in expectations(state):
                told = {"status": "CAUGHT_ERROR", "nextState": "Elsewhere" if state_name == wrong else expected.state}
                stub.add_response(
                    "test_state", told, request(text, state_name, state, inputs[state_name], expected.error)
                )
        found = list(ask(client, name, machine))
        stub.assert_no_pending_responses()
    return found


@pytest.mark.parametrize("name", machines())
def test_aws_is_asked_what_it_understands(name: str) -> None:
    assert answers(name, machines()[name]) == []


def test_what_aws_does_otherwise_is_a_finding() -> None:
    (name, machine), *_ = machines().items()
    found = answers(name, machine, wrong="Decide")
    assert found == [
        f"{name}, Decide: on {expected.error} AWS goes to Elsewhere, not to {expected.state}"
        for expected in expectations(machine[0]["States"]["Decide"])
    ]


def test_each_error_leads_to_the_first_rule_that_names_it() -> None:
    state = machines()["ReviewImageStateMachine"][0]["States"]["Ask a Person"]
    assert Expected("AlreadyAnswered", "Record Review") in list(expectations(state))
    assert Expected(UNKNOWN, "Keep Failed Review") in list(expectations(state))
