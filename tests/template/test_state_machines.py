"""What every state machine promises, read off its definition: no failure without a way on, no attempt too many."""

import inspect
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kickstand import errors
from kickstand_cli.local.template import all_resources
from kickstand_cli.project import PROJECT, TEMPLATE

MACHINES: dict[str, dict[str, Any]] = {
    Path(resource["Properties"]["DefinitionUri"]).name.split(".")[0]: resource["Properties"]
    for resource in all_resources(TEMPLATE).values()
    if resource["Type"] == "AWS::Serverless::StateMachine"
}
DEFINITIONS: dict[str, dict[str, Any]] = {
    name: yaml.safe_load((PROJECT / machine["DefinitionUri"]).read_text("utf-8")) for name, machine in MACHINES.items()
}
DEFINITIONS |= {  # what a Map does with each item is a state machine of its own
    f"{machine}: {name}": state["ItemProcessor"]
    for machine, definition in DEFINITIONS.items()
    for name, state in definition["States"].items()
    if state["Type"] == "Map"
}
TASKS = {
    (machine, name): state
    for machine, definition in DEFINITIONS.items()
    for name, state in definition["States"].items()
    if state["Type"] == "Task"
}
EXPRESS_LIMIT = 300  # https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html
REFUSED = ["Lambda.TooManyRequestsException"]  # at once: such an attempt takes no time
OUR_ERRORS = {
    name
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__ == errors.__name__
}

every_machine = pytest.mark.parametrize("machine", DEFINITIONS)
every_file = pytest.mark.parametrize("machine", MACHINES)
every_task = pytest.mark.parametrize(("machine", "task"), TASKS)


def exits(state: dict[str, Any]) -> Iterator[str]:
    """The states that can come next."""
    for rule in [state, *state.get("Choices", []), *state.get("Catch", [])]:
        yield from (rule[word] for word in ("Next", "Default") if word in rule)


def is_last_resort(machine: str, state: dict[str, Any]) -> bool:
    """Whether the execution fails after this state anyway."""
    return all(DEFINITIONS[machine]["States"][name]["Type"] == "Fail" for name in exits(state))


def caught_or_retried(machine: str) -> set[str]:
    return {
        error
        for (owner, _), state in TASKS.items()
        if owner == machine
        for rule in [*state.get("Retry", []), *state.get("Catch", [])]
        for error in rule["ErrorEquals"]
    }


def longest(state: dict[str, Any]) -> float:
    """Seconds that a state takes when every attempt runs into its timeout and every back-off is the longest."""
    if state["Type"] != "Task":
        return 0
    retriers = state.get("Retry", [])
    attempts = 1 + sum(retrier["MaxAttempts"] for retrier in retriers if retrier["ErrorEquals"] != REFUSED)
    waits = [
        min(retrier["IntervalSeconds"] * retrier["BackoffRate"] ** attempt, retrier.get("MaxDelaySeconds", math.inf))
        for retrier in retriers
        for attempt in range(retrier["MaxAttempts"])
    ]
    return float(attempts * state["TimeoutSeconds"] + sum(waits))


def longest_path(definition: dict[str, Any], start: str, before: tuple[str, ...] = ()) -> float:
    """Seconds from this state to the end, by the slowest way. Fails on a loop."""
    assert start not in before, f"a loop: {' → '.join((*before, start))}"
    state = definition["States"][start]
    ways = [longest_path(definition, following, (*before, start)) for following in exits(state)]
    return longest(state) + max(ways, default=0)


def paths(part: Any) -> Iterator[str]:
    """Every JSONPath in a definition."""
    if isinstance(part, dict):
        for value in part.values():
            yield from paths(value)
    elif isinstance(part, list):
        for value in part:
            yield from paths(value)
    elif isinstance(part, str) and part.startswith("$"):
        yield part


@every_task
def test_a_task_has_a_timeout(machine: str, task: str) -> None:
    assert {"TimeoutSeconds", "TimeoutSecondsPath"} & TASKS[machine, task].keys()


@every_task
def test_a_task_waits_longer_before_each_attempt_with_jitter(machine: str, task: str) -> None:
    for retrier in TASKS[machine, task]["Retry"]:
        assert retrier["JitterStrategy"] == "FULL"
        assert retrier["MaxAttempts"] >= 1
        assert retrier["BackoffRate"] > 1


@every_task
def test_whatever_else_a_task_raises_is_caught_and_keeps_the_input(machine: str, task: str) -> None:
    state = TASKS[machine, task]
    if is_last_resort(machine, state):
        return
    assert state["Catch"][-1]["ErrorEquals"] == ["States.ALL"]
    for catcher in state["Catch"]:
        assert catcher["ResultPath"].startswith("$."), catcher
        assert catcher["Next"] != task


@every_task
def test_states_all_stands_alone_and_last(machine: str, task: str) -> None:
    for word in ("Retry", "Catch"):
        rules = [rule["ErrorEquals"] for rule in TASKS[machine, task].get(word, [])]
        assert all("States.ALL" not in rule for rule in rules[:-1])
        assert all(rule == ["States.ALL"] for rule in rules if "States.ALL" in rule)


@every_task
def test_a_task_adds_one_noun_or_nothing(machine: str, task: str) -> None:
    path = TASKS[machine, task].get("ResultPath", "$")
    assert path is None or re.fullmatch(r"\$\.[a-z_]+", path)


def test_batches_of_an_inventory_take_the_same_way_as_those_of_the_bucket() -> None:
    """AWS wants other names for their states, and that is all the difference there may be."""
    text = json.dumps(DEFINITIONS["backfill: Decide Inventory"])
    assert json.loads(text.replace(" (Inventory)", "")) == DEFINITIONS["backfill: Decide Bucket"]


@pytest.mark.parametrize("name", ["Decide Bucket", "Decide Inventory"])
def test_whatever_ends_a_map_is_caught_and_keeps_the_input(name: str) -> None:
    state = DEFINITIONS["backfill"]["States"][name]
    (catcher,) = state["Catch"]
    assert (catcher["ErrorEquals"], catcher["ResultPath"]) == (["States.ALL"], "$.error")
    assert state["ResultPath"] is None  # what all batches hand over may be too much for a state
    assert state["ItemBatcher"]["MaxInputBytesPerBatch"] <= 128 * 1024


@every_machine
def test_every_choice_has_a_default(machine: str) -> None:
    for name, state in DEFINITIONS[machine]["States"].items():
        assert state["Type"] != "Choice" or "Default" in state, name


@every_machine
def test_every_state_is_reached_and_every_way_leads_to_a_state(machine: str) -> None:
    states = DEFINITIONS[machine]["States"]
    reached, waiting = set[str](), [DEFINITIONS[machine]["StartAt"]]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += exits(states[name])
    assert reached == states.keys()


@every_machine
def test_every_way_ends_in_an_outcome(machine: str) -> None:
    for name, state in DEFINITIONS[machine]["States"].items():
        assert state["Type"] in ("Succeed", "Fail") or list(exits(state)), name
        assert "End" not in state, f"{name}: an outcome has a name"


@every_file
def test_the_template_fills_in_just_the_names_that_the_definition_has(machine: str) -> None:
    text = (PROJECT / MACHINES[machine]["DefinitionUri"]).read_text("utf-8")
    assert set(re.findall(r"\$\{(\w+)\}", text)) == MACHINES[machine]["DefinitionSubstitutions"].keys()


@every_machine
def test_every_error_name_is_one_of_ours_or_of_aws(machine: str) -> None:
    unknown = {
        name
        for name in caught_or_retried(machine) - OUR_ERRORS
        if not re.match(r"(DynamoDB|Lambda|Sandbox|States|SageMaker)\.\w+$", name)
    }
    assert not unknown


def test_every_error_of_ours_makes_a_difference_to_a_state_machine() -> None:
    assert {error for machine in MACHINES for error in caught_or_retried(machine)} >= OUR_ERRORS


@every_file
def test_a_workflow_that_may_run_as_express_fits_into_its_limits(machine: str) -> None:
    if MACHINES[machine].get("Type") == "STANDARD":
        return
    definition = DEFINITIONS[machine]
    assert longest_path(definition, definition["StartAt"]) <= definition["TimeoutSeconds"] < EXPRESS_LIMIT
    assert ".sync" not in json.dumps(definition)
    assert ".waitForTaskToken" not in json.dumps(definition)


@every_machine
def test_a_definition_keeps_to_what_runs_locally_as_on_aws(machine: str) -> None:
    definition = DEFINITIONS[machine]
    assert definition.get("QueryLanguage", "JSONPath") == "JSONPath"
    for name, state in definition["States"].items():
        assert state["Type"] in {"Task", "Pass", "Choice", "Wait", "Map", "Parallel", "Succeed", "Fail"}, name
        assert not {"Assign", "QueryLanguage", "Arguments", "Output"} & state.keys(), name
    for path in paths(definition):
        assert "[?" not in path, f"{path}: a filter that matches nothing fails in one engine and is null in another"
        assert ".." not in path


@every_task
def test_a_task_calls_one_of_our_functions_or_an_integration_that_runs_locally(machine: str, task: str) -> None:
    integrations = (
        r"(lambda:invoke|sqs:sendMessage|sns:publish|events:putEvents|dynamodb:\w+|aws-sdk:sagemaker:\w+)"
        r"(\.waitForTaskToken)?"
    )
    resource = TASKS[machine, task]["Resource"]
    assert re.fullmatch(rf"\${{\w+FunctionArn}}|arn:\${{Partition}}:states:::{integrations}", resource)
