"""Names that meet: what alarms and dashboards read is what functions emit, in this stack and in no other."""

import json
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

import pytest

from tests.contracts import recorded
from tests.contracts.stacks import Document, Stack, definition, folder_of, stack

AWS_DIMENSIONS = {  # a dimension of AWS's own metrics names a resource of these types
    "EndpointName": "SageMaker::Endpoint",
    "FunctionName": "Lambda::Function",
    "QueueName": "SQS::Queue",
    "StateMachineArn": "StepFunctions::StateMachine",
}


class Metric(NamedTuple):
    namespace: str
    name: str
    dimensions: frozenset[tuple[str, str]]


def alarmed(deployed: Stack) -> Iterator[tuple[str, Metric]]:
    """Every metric that an alarm reads, with the alarm's logical ID."""
    for name, alarm in deployed.of("CloudWatch::Alarm").items():
        for source in [alarm, *(part.get("MetricStat", {}).get("Metric", {}) for part in alarm.get("Metrics", []))]:
            if "MetricName" in source:
                pairs = ((each["Name"], each["Value"]) for each in source["Dimensions"])
                yield name, Metric(source["Namespace"], source["MetricName"], frozenset(pairs))


def drawn(deployed: Stack) -> Iterator[Metric]:
    """Every metric on a dashboard, CloudWatch's shorthand written out."""
    for board in deployed.of("CloudWatch::Dashboard").values():
        for widget in json.loads(board["DashboardBody"])["widgets"]:
            words: list[str] = []
            for row in widget["properties"].get("metrics", []):
                if "expression" in row[0]:
                    continue
                words = spell_out([word for word in row if isinstance(word, str)], words)
                namespace, name, *rest = words
                yield Metric(namespace, name, frozenset(zip(rest[::2], rest[1::2], strict=True)))


def spell_out(row: list[str], above: list[str]) -> list[str]:
    """A metric in full; "." stands for the word above, "..." for all of them."""
    if row == ["..."]:
        return above
    return [above[i] if word == "." else word for i, word in enumerate(row)]


def read(deployed: Stack) -> set[Metric]:
    return {metric for _, metric in alarmed(deployed)} | set(drawn(deployed))


def sent(deployed: Stack, seen: set[recorded.Emitted]) -> dict[Metric, str]:
    """What the functions emit in this stack, by what the tests have seen and each function's settings; and which."""
    found = {}
    for name, function in deployed.of("Lambda::Function").items():
        variables = function["Environment"]["Variables"]
        values = {"service": variables["POWERTOOLS_SERVICE_NAME"]}
        values |= {"version": version_of(deployed, name)} if name == "ClassifyImageFunction" else {}
        for emitted in seen:
            if emitted.function == folder_of(function):
                pairs = frozenset((dimension, values[dimension]) for dimension in emitted.dimensions)
                found[Metric(variables["POWERTOOLS_METRICS_NAMESPACE"], emitted.name, pairs)] = name
    return found


def version_of(deployed: Stack, function: str) -> str:
    (version,) = (name for name in deployed.of("Lambda::Version") if name.startswith(f"{function}Version"))
    return deployed.physical(version).rpartition(":")[2]


@pytest.fixture(scope="module")
def seen(absent: Callable[[str, str], NoReturn]) -> set[recorded.Emitted]:
    return recorded.metrics(absent)


def test_every_metric_of_ours_that_is_read_is_emitted_with_just_these_dimensions(seen: set[recorded.Emitted]) -> None:
    own = {metric for metric in read(stack()) if not metric.namespace.startswith("AWS/")}
    assert len(own) > 20
    assert own - sent(stack(), seen).keys() == set()


def test_every_metric_that_is_emitted_is_read(seen: set[recorded.Emitted]) -> None:
    """CloudWatch charges for each, seen or not."""
    unread = {
        f"{metric.name} of {function}"
        for metric, function in sent(stack(), seen).items()
        if metric not in read(stack())
    }
    assert sorted(unread) == []


def test_every_metric_of_aws_that_is_read_is_one_of_this_stacks_resources() -> None:
    deployed = stack()
    for metric in read(deployed):
        if metric.namespace.startswith("AWS/"):
            for name, value in metric.dimensions:
                if kind := AWS_DIMENSIONS.get(name):
                    named = {deployed.physical(key).rpartition("/")[2] for key in deployed.of(kind)}
                    assert value in named, metric


def test_two_stacks_read_none_of_each_others_metrics() -> None:
    dev, prod = stack("kickstand-dev"), stack("kickstand-prod")
    assert len(read(dev)) == len(read(prod)) > 40
    assert {metric.name for metric in read(dev) & read(prod)} == set()


def test_two_stacks_have_no_name_in_common() -> None:
    dev, prod = stack("kickstand-dev"), stack("kickstand-prod")
    assert {key for key in dev.all if name_of(dev, key) == name_of(prod, key)} == set()


def name_of(deployed: Stack, logical_id: str) -> str:
    properties = deployed.all[logical_id].get("Properties", {})
    if deployed.all[logical_id]["Type"] == "AWS::Lambda::LayerVersion":  # unnamed, SAM gives it its logical ID's stem
        return str(properties["LayerName"])
    return deployed.physical(logical_id)


# ---- what an alarm means


def outcomes(machine: Document) -> Iterator[tuple[str, str, Document]]:
    """Each task, a system fault that it catches, and the state that comes next."""
    for name, state in machine["States"].items():
        for catcher in state.get("Catch", []):
            for error in catcher["ErrorEquals"]:
                if "." not in error:
                    yield name, error, machine["States"][catcher["Next"]]


def fails(machine: Document, state: Document) -> bool:
    """Whether the execution fails, whichever way it continues from this state."""
    following = [state[word] for word in ("Next", "Default") if word in state]
    following += [rule["Next"] for rule in state.get("Choices", [])]
    return state["Type"] == "Fail" or (
        bool(following) and all(fails(machine, machine["States"][name]) for name in following)
    )


def test_an_error_that_is_an_answer_raises_no_alarm() -> None:
    """A task whose error leads to a success must not be counted among the errors that wake somebody.

    What is tried again is no answer: it is a fault that may pass, however late the photo is then.
    """
    deployed = stack()
    watched = {
        dict(metric.dimensions).get("FunctionName") for _, metric in alarmed(deployed) if metric.name == "Errors"
    }
    answers = set()
    for properties in deployed.of("StepFunctions::StateMachine").values():
        machine = definition(properties)
        for task, error, following in outcomes(machine):
            passes = any(error in rule["ErrorEquals"] for rule in machine["States"][task]["Retry"])
            if not passes and not fails(machine, following) and not answers_without(machine, task, error):
                answers |= {(machine["States"][task]["Resource"].rpartition(":")[2], error)}
    assert {(name, error) for name, error in answers if name in watched} == set()


def answers_without(machine: Document, task: str, error: str) -> bool:
    """Whether the function is asked to answer in place of raising this error, as its older version does."""
    asks = {"Type": "Pass", "Result": "answer", "ResultPath": "$.unreadable", "Next": task}
    return error == "InvalidImage" and asks in machine["States"].values()


def test_an_alarm_on_what_a_job_finds_holds_between_its_runs_and_its_silence_is_an_alarm(
    seen: set[recorded.Emitted],
) -> None:
    deployed = stack()
    emitters = sent(deployed, seen)
    scheduled = {name for name in deployed.of("Lambda::Function") if is_scheduled(deployed, name)}
    breaching = set()
    for name, metric in alarmed(deployed):
        alarm = deployed.all[name]["Properties"]
        emitter = emitters.get(metric) or by_function_name(deployed, metric)
        if emitter in scheduled and metric.namespace == "Kickstand" and alarm["TreatMissingData"] != "breaching":
            assert alarm["TreatMissingData"] == "ignore", f"{name}: silence says that all is well"
        if alarm["TreatMissingData"] == "breaching":
            breaching.add(emitter)
    assert scheduled == breaching & scheduled


def by_function_name(deployed: Stack, metric: Metric) -> str | None:
    """The function that one of Lambda's metrics is about."""
    about = dict(metric.dimensions).get("FunctionName")
    return next((name for name in deployed.of("Lambda::Function") if deployed.physical(name) == about), None)


def is_scheduled(deployed: Stack, function: str) -> bool:
    arn = f":function:{deployed.physical(function)}"
    return any(
        "ScheduleExpression" in rule and any(target["Arn"].endswith(arn) for target in rule["Targets"])
        for rule in deployed.of("Events::Rule").values()
    )
