"""Asks AWS itself about the state machines: `make validate-live` calls this. It needs credentials, and makes nothing.

ValidateStateMachineDefinition reads each definition as it would be deployed. TestState, with a mock in a task's place,
then says where AWS's own engine goes from each task on each error that it catches, and on one that nobody knows.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import boto3

from tests.contracts.flow import INPUTS, Shape, example, ways
from tests.contracts.stacks import Document, definition, stack

UNKNOWN = "Kickstand.NoSuchError"  # only States.ALL can catch it


class Expected(NamedTuple):
    """What AWS is to say when the state ends with this error, its retries used up. state: the next one."""

    error: str
    state: str | None


def main() -> int:
    """How many findings there are: each is printed."""
    client: Any = boto3.client("stepfunctions")
    found = [finding for name, machine in machines().items() for finding in ask(client, name, machine)]
    sys.stdout.write("\n".join([*found, f"{len(found)} findings", ""]))
    return len(found)


def machines() -> dict[str, tuple[Document, str]]:
    """Each definition and its type, by the state machine's logical ID."""
    found = stack().of("StepFunctions::StateMachine")
    return {name: (definition(properties), properties["StateMachineType"]) for name, properties in found.items()}


def ask(client: Any, name: str, machine: tuple[Document, str]) -> Iterator[str]:
    """What AWS finds fault with."""
    whole, kind = machine
    text = json.dumps(whole)
    answer = client.validate_state_machine_definition(definition=text, type=kind, severity="WARNING")
    for diagnostic in answer["diagnostics"]:
        yield f"{name}: {diagnostic['severity']} {diagnostic['code']} {diagnostic['message']}"
    if answer["result"] != "OK":
        return
    inputs = dict(ways(whole, INPUTS[name][:1]))
    for state_name, state in whole["States"].items():
        for expected in expectations(state):
            went = client.test_state(**request(text, state_name, state, inputs[state_name], expected.error)).get(
                "nextState"
            )
            if went != expected.state:
                yield f"{name}, {state_name}: on {expected.error} AWS goes to {went}, not to {expected.state}"


def expectations(state: Document) -> Iterator[Expected]:
    """Where each error leads; only tasks fail."""
    if state["Type"] != "Task" or "Catch" not in state:
        return
    names = [error for catcher in state["Catch"] for error in catcher["ErrorEquals"] if error != "States.ALL"]
    for error in [*names, UNKNOWN]:
        rules = (rule for rule in state["Catch"] if {error, "States.ALL"} & set(rule["ErrorEquals"]))
        yield Expected(error, next((rule["Next"] for rule in rules), None))


def request(text: str, name: str, state: Document, found: Shape, error: str) -> dict[str, Any]:
    """TestState's parameters for this error after the last retry. found: the shape of the state's input."""
    attempts = sum(retrier["MaxAttempts"] for retrier in state.get("Retry", []))
    return {
        "definition": text,
        "stateName": name,
        "input": json.dumps(example(found)),
        "mock": {"errorOutput": {"error": error, "cause": "asked by make validate-live"}},
        "stateConfiguration": {"retrierRetryCount": attempts},
    }


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
