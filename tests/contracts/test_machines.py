"""State machines as they are deployed: every error has a way on, every path is there, and no partition is assumed."""

import json
import re
from collections.abc import Iterator

import pytest

from kickstand_cli.project import PROJECT
from tests.contracts.flow import INPUTS, RETURNS, Missing, explore, operation_model, selected
from tests.contracts.requests import tasks
from tests.contracts.stacks import ALL, Document, Stack, definition, stack

MACHINES: dict[str, Document] = {
    name: definition(properties) for name, properties in stack().of("StepFunctions::StateMachine").items()
}
MACHINES |= {  # what a Map does with each item or batch
    f"{machine}: {name}": state["ItemProcessor"]
    for machine, whole in MACHINES.items()
    for name, state in whole["States"].items()
    if state["Type"] == "Map"
}
TASKS = {
    (machine, name): state
    for machine, whole in MACHINES.items()
    for name, state in whole["States"].items()
    if state["Type"] == "Task"
}
every_machine = pytest.mark.parametrize("machine", MACHINES)
every_task = pytest.mark.parametrize(("machine", "task"), TASKS)

# https://docs.aws.amazon.com/step-functions/latest/dg/sfn-best-practices.html#bp-lambda-serviceexception
TRANSIENT = {
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.TooManyRequestsException",
}
# https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
ANY_TASK = {"States.TaskFailed", "States.Timeout", "States.Permissions", "States.ResultPathMatchFailure"}
LAMBDA = TRANSIENT | {"Lambda.Unknown", "Lambda.ResourceNotReadyException", "Sandbox.Timedout", "OutOfMemoryError"}
UNCAUGHT = {  # what States.ALL does not catch, and why nothing else has to
    "States.Runtime": "no path is missing on any way through a machine: the tests below",
    "States.DataLimitExceeded": "a photo's pixels and a dataset's description are bounded: PreparedImage.png, Dataset",
}
PREFIXES = {"dynamodb": "DynamoDB", "sagemaker": "SageMaker", "sns": "SNS", "sqs": "SQS"}


def integration(task: Document) -> tuple[str, str] | None:
    """Service and operation; None where it is a Lambda function."""
    name = task["Resource"].partition(":states:::")[2].removesuffix(".waitForTaskToken").removeprefix("aws-sdk:")
    return None if name in ("", "lambda:invoke") else tuple(name.split(":"))


def errors(task: Document) -> set[str]:
    """The names of all errors that AWS documents for the task."""
    called = integration(task)
    if called is None:
        return ANY_TASK | LAMBDA
    service, operation = called
    shapes = operation_model(service, operation).error_shapes
    return ANY_TASK | {f"{PREFIXES[service]}.{shape.name}" for shape in shapes}


def is_matched(error: str, rules: list[Document]) -> bool:
    """https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html#error-handling-error-names"""
    names = {name for rule in rules for name in rule["ErrorEquals"]}
    if error in UNCAUGHT:
        return error in names
    return bool(names & {error, "States.ALL"} or ("States.TaskFailed" in names and error != "States.Timeout"))


def following(state: Document) -> Iterator[str]:
    for rule in [state, *state.get("Choices", []), *state.get("Catch", [])]:
        yield from (rule[word] for word in ("Next", "Default") if word in rule)


@every_task
def test_every_error_that_aws_documents_is_retried_or_caught(machine: str, task: str) -> None:
    state, states = TASKS[machine, task], MACHINES[machine]["States"]
    if all(states[name]["Type"] == "Fail" for name in following(state)):
        return  # the last resort: after it the execution fails anyway
    handled = [*state.get("Retry", []), *state.get("Catch", [])]
    assert [error for error in sorted(errors(state)) if not is_matched(error, handled)] == []


@every_task
def test_what_passes_by_itself_is_tried_again(machine: str, task: str) -> None:
    state = TASKS[machine, task]
    transient = TRANSIENT if integration(state) is None else errors(state) & THROTTLING
    assert [error for error in sorted(transient) if not is_matched(error, state.get("Retry", []))] == []


THROTTLING = {
    "DynamoDB.InternalServerError",
    "DynamoDB.ProvisionedThroughputExceededException",
    "DynamoDB.RequestLimitExceeded",
    "DynamoDB.ThrottlingException",
    "SNS.InternalErrorException",
    "SNS.ThrottledException",
    "SQS.RequestThrottled",
}


@every_machine
def test_every_way_through_a_machine_finds_what_each_state_reads(machine: str) -> None:
    assert explore(MACHINES[machine], INPUTS[machine]) == set()


@every_machine
def test_aws_always_answers_with_what_is_selected_of_its_answer(machine: str) -> None:
    assert selected(MACHINES[machine]) == set()


def test_a_path_that_one_way_lacks_is_found() -> None:
    machine = json.loads(json.dumps(MACHINES["ClassifyImageStateMachine"]))
    machine["States"]["Record Result"]["Parameters"]["label.$"] = "$.prediction.label"  # an unreadable photo has none
    before = explore(MACHINES["ClassifyImageStateMachine"], INPUTS["ClassifyImageStateMachine"])
    after = explore(machine, INPUTS["ClassifyImageStateMachine"])
    assert after - before == {Missing("Record Result", "$.prediction.label")}


@pytest.mark.parametrize(
    ("function", "sample", "member"),
    [
        ("PrepareImageFunction", "classify_image", ""),
        ("ClassifyImageFunction:live", "decide", "prediction"),
        ("PrepareDatasetFunction", "evaluate_model", "dataset"),
    ],
)
def test_a_functions_answer_is_what_the_next_ones_sample_holds(function: str, sample: str, member: str) -> None:
    event: Document = json.loads((PROJECT / f"events/{sample}.json").read_bytes())
    assert RETURNS[function][0].keys() >= (event[member] if member else event).keys()


# ---- partitions


@pytest.mark.parametrize(
    ("partition", "region", "console"),
    [
        ("aws", "eu-central-1", "console.aws.amazon.com"),
        ("aws-cn", "cn-north-1", "console.amazonaws.cn"),
        ("aws-us-gov", "us-gov-west-1", "console.amazonaws-us-gov.com"),
    ],
)
def test_a_stack_is_at_home_in_every_partition(partition: str, region: str, console: str) -> None:
    host = "amazonaws.com.cn" if partition == "aws-cn" else "amazonaws.com"
    images = dict.fromkeys(("ServingImage", "TrainingImage"), f"123456789012.dkr.ecr.{region}.{host}/image:1")
    deployed = Stack(parameters=ALL | images, partition=partition, region=region)
    machines = {name: definition(each) for name, each in deployed.of("StepFunctions::StateMachine").items()}
    text = json.dumps([deployed.all, machines, deployed.answers])
    assert set(re.findall(r"arn:(aws[a-z-]*):", text)) == {partition}
    assert set(re.findall(r"https://(?:[a-z0-9-]+\.)?(console\.[a-z.-]+)/", text)) == {console}
    repositories = re.findall(r":repository/([^\"]*)", text)
    assert "image*" in repositories
    if partition != "aws":
        assert "us-east-1" not in text


def test_no_definition_names_a_partition() -> None:
    for path in [*PROJECT.glob("*.yaml"), *PROJECT.glob("statemachine/*.yaml")]:
        assert "arn:aws:" not in path.read_text("utf-8"), path.name


def test_tasks_within_maps_are_seen_too() -> None:
    inner = {
        "States": {"A": {"Type": "Task"}, "M": {"Type": "Map", "ItemProcessor": {"States": {"B": {"Type": "Task"}}}}}
    }
    assert len(list(tasks(inner))) == 2
