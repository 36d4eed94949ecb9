"""Calls of AWS: each is known to AWS, ends before its function, and its answer is read where it may say no."""

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import botocore.session
import pytest
from botocore import xform_name

from kickstand_cli.project import PROJECT
from tests.contracts import recorded
from tests.contracts.changes import PARAMETERS
from tests.contracts.stacks import folder_of, stack

PLAYS_AWS = {"load.py", "stack.py"}  # of the local stack: what they call is this machine's
SOURCES = sorted(
    path
    for folder in ("functions", "layers/core", "cli", "training", "serving")
    for path in PROJECT.glob(f"{folder}/**/*.py")
    if re.search(r"boto3|kickstand\.clients", path.read_text("utf-8")) and path.name not in PLAYS_AWS
)
CLIENTS = {  # the service of a client, by what the code calls it
    "cloudformation": "cloudformation",
    "codedeploy": "codedeploy",
    "dynamodb": "dynamodb",
    "events": "events",
    "lambda": "lambda",
    "lambdas": "lambda",
    "logs": "logs",
    "runtime": "sagemaker-runtime",
    "s3": "s3",
    "sagemaker": "sagemaker",
    "sns": "sns",
    "sqs": "sqs",
    "stepfunctions": "stepfunctions",
    "sts": "sts",
}
PARTIAL = re.compile(r"Unprocessed\w+|Failed(EntryCount|RecordCount)?|Errors|FunctionError")
"""Members of an answer that say what has not been done, though the call has succeeded."""
NOT_CALLS = {"generate_presigned_url", "get_paginator", "upload_file"}  # boto3's own


class Found(NamedTuple):
    """A call in the code. around: the function that it stands in. is_statement: its answer is thrown away."""

    place: str
    service: str
    operation: str
    call: ast.Call
    around: ast.AST
    is_statement: bool


@cache
def model(service: str) -> Any:
    return botocore.session.get_session().get_service_model(service)


@cache
def operations(service: str) -> dict[str, str]:
    """The API's name of each operation, by boto3's."""
    return {xform_name(name): name for name in model(service).operation_names}


def client_of(node: ast.expr) -> str | None:
    """The service of the client that the expression is."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "boto3.client":
        return str(ast.literal_eval(node.args[0]))
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return CLIENTS.get(name.strip("_"))


def find(path: Path) -> Iterator[Found]:
    """Every call of a client's method, and of a paginator's `paginate`, as the operation that it makes."""
    tree = ast.parse(path.read_text("utf-8"))
    statements = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    around: dict[ast.AST, ast.AST] = {}
    for function in ast.walk(tree):  # outer ones come first: the innermost stays
        if isinstance(function, ast.FunctionDef | ast.Module | ast.Lambda):
            around |= dict.fromkeys(ast.walk(function), function)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, method = node.func.value, node.func.attr
        if method == "paginate" and isinstance(owner, ast.Call) and isinstance(owner.func, ast.Attribute):
            method, owner = str(ast.literal_eval(owner.args[0])), owner.func.value
        if (service := client_of(owner)) and method not in NOT_CALLS:
            place = f"{path.relative_to(PROJECT)}:{node.lineno}"
            yield Found(place, service, method, node, around[node], node in statements)


CALLS = [found for path in SOURCES for found in find(path)]
every_call = pytest.mark.parametrize("found", CALLS, ids=lambda found: f"{found.place} {found.operation}")


def test_the_calls_are_found() -> None:
    assert len(CALLS) > 60
    assert {found.service for found in CALLS} >= {"dynamodb", "s3", "sqs", "sns", "events", "stepfunctions", "lambda"}


def test_every_client_goes_by_a_name_that_tells_its_service() -> None:
    for path in SOURCES:
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                pairs = zip(elements(targets[0]), elements(node.value), strict=False)
                for target, value in pairs:
                    if isinstance(value, ast.Call) and ast.unparse(value.func) == "boto3.client":
                        assert client_of(target) == client_of(value), f"{path.name}: {ast.unparse(node)}"


def elements(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


@every_call
def test_aws_knows_the_operation_and_its_parameters(found: Found) -> None:
    operation = operations(found.service).get(found.operation)
    assert operation, f"{found.service} has no such operation"
    shape = model(found.service).operation_model(operation).input_shape
    named = {keyword.arg for keyword in found.call.keywords}
    assert not found.call.args, "by name only"
    assert named - {None, "PaginationConfig"} <= (shape.members.keys() if shape else set())
    if None not in named and shape:
        assert set(shape.required_members) <= named


@every_call
def test_an_answer_that_may_say_what_was_not_done_is_read(found: Found) -> None:
    assert unread(found) == set()


def unread(found: Found) -> set[str]:
    """Which members that say so the function around the call never names."""
    shape = model(found.service).operation_model(operations(found.service)[found.operation]).output_shape
    partial = {name for name in shape.members if PARTIAL.fullmatch(name)} if shape else set()
    read = {node.value for node in ast.walk(found.around) if isinstance(node, ast.Constant)} - {None}
    return partial if found.is_statement else partial - read


@pytest.mark.parametrize(
    ("code", "missed"),
    [
        ("def f(events): events.put_events(Entries=[])", {"FailedEntryCount"}),
        ("def f(events):\n answer = events.put_events(Entries=[])\n return answer", {"FailedEntryCount"}),
        ("def f(events):\n answer = events.put_events(Entries=[])\n return answer['FailedEntryCount']", set()),
        ("def f(s3): s3.delete_objects(Bucket='b', Delete={})", {"Errors"}),
        ("def f(sqs): return sqs.change_message_visibility_batch(QueueUrl='', Entries=[])", {"Failed"}),
        ("def f(dynamodb): dynamodb.batch_write_item(RequestItems={})", {"UnprocessedItems"}),
        ("def f(lambdas): return lambdas.invoke(FunctionName='f')['Payload']", {"FunctionError"}),
    ],
)
def test_an_answer_that_nobody_reads_is_found(
    code: str, missed: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.PROJECT", tmp_path)
    (tmp_path / "code.py").write_text(code)
    assert [unread(found) for found in find(tmp_path / "code.py")] == [missed]


def test_a_call_that_hangs_ends_before_its_function_does(absent: Callable[[str, str], NoReturn]) -> None:
    """With all its attempts: a function that is killed says nothing, and its state machine takes that for a fault."""
    limits = {folder_of(function): function["Timeout"] for function in stack().of("Lambda::Function").values()}
    longest = 1 + PARAMETERS["EndpointTimeoutSeconds"]["MaxValue"]  # a test may wait longer for the endpoint
    late = {
        f"{call.function}: {call.service} may take {call.patience} s of {limits[call.function]}"
        for call in recorded.calls(absent)
        if (longest if call.service == "sagemaker-runtime" else call.patience) >= limits[call.function]
    }
    assert sorted(late) == []
