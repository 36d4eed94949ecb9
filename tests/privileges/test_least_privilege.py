"""Each role may do what its function or state machine does, and nothing else.

What functions do is read from build/calls, which every test that runs a handler writes (see tests/conftest.py); what
state machines do, from their definitions; what both may do, from the template as SAM expands it. `make test` runs this
last. `make test` must have run all tests: without some of them, what only they show seems to be unused.
"""

import copy
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest
import yaml

from kickstand_cli.local.template import load_yaml
from kickstand_cli.project import PROJECT, TEMPLATE

CALLS = PROJECT / "build/calls"
Document = dict[str, Any]


class Right(NamedTuple):
    """An action of IAM on a resource. resource: its logical ID and what follows; of a role's right, a pattern."""

    action: str
    resource: str

    def allows(self, need: "Right") -> bool:
        return self.action == need.action and fnmatchcase(need.resource, self.resource)


def compare(rights: set[Right], needs: set[Right]) -> tuple[set[Right], set[Right]]:
    """The needs that no right allows, and the rights that no need uses."""
    missing = {need for need in needs if not any(right.allows(need) for right in rights)}
    return missing, {right for right in rights if not any(right.allows(need) for need in needs)}


# ---- what the roles may do

EXPAND = """
import json, sys
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
document, parameters = json.load(sys.stdin)
print(json.dumps(Translator({}, Parser()).translate(document, parameters)))
"""
SAM_ADDS = {"AWSLambdaBasicExecutionRole", "AWSXrayWriteOnlyAccess", "AWSXRayDaemonWriteAccess"}  # logs and traces
UNRESTRICTED = {  # why the action may be allowed on every resource
    **dict.fromkeys(
        (
            *("logs:CreateLogDelivery", "logs:GetLogDelivery", "logs:UpdateLogDelivery", "logs:DeleteLogDelivery"),
            *("logs:ListLogDeliveries", "logs:PutResourcePolicy", "logs:DescribeResourcePolicies"),
            "logs:DescribeLogGroups",
        ),
        "log delivery of Step Functions knows no resources: "
        "https://docs.aws.amazon.com/step-functions/latest/dg/cw-logs.html",
    ),
    "cloudwatch:DescribeAlarms": "alarms are described by list, not by name",
    "cloudwatch:PutMetricData": "metrics are no resources; the namespace is a condition",
}


def expand(document: Document) -> Document:
    """The template after SAM's transform, all parameters at their defaults."""
    document = copy.deepcopy(document)
    for resource in document["Resources"].values():
        for uri in {"CodeUri", "ContentUri", "DefinitionUri", "Location"} & resource.get("Properties", {}).keys():
            resource["Properties"][uri] = "s3://packages/package"
    parameters = {name: item["Default"] for name, item in document["Parameters"].items() if "Default" in item}
    command = [str(PROJECT / ".venv-sam/bin/python"), "-c", EXPAND]
    text = json.dumps([document, parameters])
    environment = {**os.environ, "AWS_DEFAULT_REGION": "us-east-1"}
    ran = subprocess.run(command, input=text, capture_output=True, text=True, check=True, env=environment)
    expanded: Document = json.loads(ran.stdout)
    return expanded


def rights(expanded: Document, role: str) -> set[Right]:
    """What the role may do, whichever way conditions fall."""
    found = set()
    for statement in statements(expanded["Resources"][role]["Properties"].get("Policies", [])):
        assert statement["Effect"] == "Allow"
        for action in listed(statement["Action"]):
            found |= {Right(action, name(resource)) for resource in listed(statement["Resource"])}
    return found


def statements(part: Any) -> Iterator[Document]:
    """Every policy statement in this part of the template."""
    if isinstance(part, dict) and "Effect" in part:
        yield part
    else:
        for value in part.values() if isinstance(part, dict) else part if isinstance(part, list) else []:
            yield from statements(value)


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def name(resource: Any) -> str:
    """`{"Fn::GetAtt": ["Table", "Arn"]}` is "Table"; of an ARN that is written out, what follows the account."""
    match resource:
        case {"Ref": logical_id}:
            return str(logical_id)
        case {"Fn::GetAtt": [logical_id, _]}:
            return str(logical_id)
        case {"Fn::GetAtt": path}:
            return str(path).partition(".")[0]
        case {"Fn::Sub": [text, _]} | {"Fn::Sub": str(text)}:
            text = re.sub(r"\$\{AWS::\w+\}", "", text)
            if text.startswith("arn:"):
                text = text.split(":", 5)[5]
            if text.startswith("endpoint/"):
                return "endpoint/*"  # which one, a parameter says
            return re.sub(r"\$\{(\w+)(?:\.\w+)?\}", r"\1", text)
        case str():
            return resource
    raise AssertionError(f"{resource}: this test cannot read such a resource")


# ---- what functions do

SERVICES = {"sagemaker-runtime": "sagemaker", "stepfunctions": "states"}  # IAM's prefixes, where they differ
ACTIONS = {  # of IAM, where it is not called as the operation is
    "lambda:Invoke": "lambda:InvokeFunction",
    "s3:HeadObject": "s3:GetObject",
    "s3:ListObjectVersions": "s3:ListBucketVersions",
    "s3:ListObjectsV2": "s3:ListBucket",
}
WITH_VERSION = {"s3:GetObject": "s3:GetObjectVersion", "s3:HeadObject": "s3:GetObjectVersion"}
ELSEWHERE = {  # resources that no call names, or that are not the stack's
    "sagemaker:InvokeEndpoint": "endpoint/*",
    "events:PutEvents": "event-bus/default",
    "states:SendTaskSuccess": "ReviewImageStateMachine",
    "codedeploy:PutLifecycleEventHookExecutionStatus": "deploymentgroup:*",
}


def needs_of_call(service: str, operation: str, named: dict[str, str]) -> set[Right]:
    """The rights that a call to AWS takes."""
    prefix = SERVICES.get(service, service)
    called = f"{prefix}:{operation}"
    action = WITH_VERSION.get(called) if "VersionId" in named else None
    action = action or ACTIONS.get(called, called)
    if action in ELSEWHERE:
        return {Right(action, ELSEWHERE[action])}
    if service == "s3":
        bucket = logical_bucket(named["Bucket"])
        if "Key" not in named:
            return {Right(action, bucket)}
        # Without the right to list, S3 says of an object that is gone that access is denied.
        gone = {Right("s3:ListBucket", bucket)} if action.startswith("s3:GetObject") else set()
        return {Right(action, f"{bucket}/{named['Key']}"), *gone}
    if index := named.get("IndexName"):
        return {Right(action, f"{named['TableName']}/index/{index}")}
    if function := named.get("FunctionName"):
        return {Right(action, function.rpartition(":function:")[2].replace(".Version", ":1"))}
    owner = next((value for key, value in named.items() if key in ("TableName", "QueueUrl", "TopicArn")), None)
    return {Right(action, re.split(r"[:/]", owner or named.get("stateMachineArn", "*"))[-1])}


@cache
def logical_bucket(name: str) -> str:
    """The bucket of this name in tests: its logical ID in small letters at the end, or else a sample's, of photos."""
    found = [bucket for bucket in of_type(load_yaml(TEMPLATE), "AWS::S3::Bucket") if name.endswith(bucket.lower())]
    return found[0] if found else "ImageBucket"


@pytest.fixture(scope="module")
def calls(absent: Callable[[str, str], NoReturn]) -> dict[str, set[Right]]:
    """What each function has been seen to need."""
    files = list(CALLS.glob("*.json"))
    if not files:
        absent("calls", "no calls of functions have been recorded: make test does it")
    needs: dict[str, set[Right]] = {}
    for file in files:
        for function, service, operation, named in json.loads(file.read_bytes()):
            needs.setdefault(function, set()).update(needs_of_call(service, operation, json.loads(named)))
    return needs


# ---- what state machines do


def needs_of_machine(machine: Document, definition: Document) -> set[Right]:
    """The rights that its tasks, its logs and its own children take."""
    substituted = {f"${{{key}}}": name(value) for key, value in machine.get("DefinitionSubstitutions", {}).items()}

    def resource(value: str) -> str:
        return substituted.get(value, value.split(":", 5)[-1])

    needs = set()
    for task in tasks(definition):
        called, parameters = task["Resource"], task.get("Parameters", {})
        match called.removeprefix("arn:aws:states:::").partition("."):
            case (direct, _, _) if direct in substituted:
                needs.add(Right("lambda:InvokeFunction", resource(direct)))
            case ("lambda:invoke", _, _):
                needs.add(Right("lambda:InvokeFunction", resource(parameters["FunctionName"])))
            case ("sqs:sendMessage", _, _):
                needs.add(Right("sqs:SendMessage", resource(parameters["QueueUrl"])))
            case ("sns:publish", _, _):
                needs.add(Right("sns:Publish", resource(parameters["TopicArn"])))
            case ("events:putEvents", _, _):
                needs.add(Right("events:PutEvents", "event-bus/default"))
            case (integration, "", _) if integration.startswith("dynamodb:"):
                operation = integration.removeprefix("dynamodb:")
                action = f"dynamodb:{operation[0].upper()}{operation[1:]}"
                needs.add(Right(action, resource(parameters["TableName"])))
            case _:
                raise AssertionError(f"{called}: say here what rights it takes")
    if machine.get("LoggingConfiguration"):
        needs |= {Right(action, "*") for action in UNRESTRICTED if action.startswith("logs:")}
    return needs


def tasks(definition: Document) -> Iterator[Document]:
    for state in definition["States"].values():
        if state["Type"] == "Task":
            yield state
        for inner in [state.get("ItemProcessor"), *state.get("Branches", [])]:
            if inner:
                yield from tasks(inner)


# ---- the comparison


@pytest.fixture(scope="module")
def template(absent: Callable[[str, str], NoReturn]) -> Document:
    if not (PROJECT / ".venv-sam/bin/python").exists():
        absent("sam", "SAM CLI is not installed: make build")
    document: Document = load_yaml(TEMPLATE)
    return document


@pytest.fixture(scope="module")
def expanded(template: Document) -> Document:
    return expand(template)


def of_type(document: Document, kind: str) -> list[str]:
    return [name for name, resource in document["Resources"].items() if resource["Type"] == kind]


def told(missing: Iterable[Right], unused: Iterable[Right]) -> str:
    pairs = [*(("missing", right) for right in missing), *(("unused", right) for right in unused)]
    return "\n".join(f"{what} {right.action} on {right.resource}" for what, right in pairs)


def test_each_function_may_do_what_it_does_and_nothing_else(
    template: Document, expanded: Document, calls: dict[str, set[Right]]
) -> None:
    differences = {}
    for function in of_type(template, "AWS::Serverless::Function"):
        folder = Path(template["Resources"][function]["Properties"]["CodeUri"])
        if "boto3" in (PROJECT / folder / "app.py").read_text("utf-8"):
            assert folder.name in calls, f"no test has seen {function} call AWS"
        missing, unused = compare(rights(expanded, f"{function}Role"), calls.get(folder.name, set()))
        if missing or unused:
            differences[function] = told(missing, unused)
    assert not differences, "\n\n".join(f"{name}:\n{difference}" for name, difference in differences.items())


def test_each_state_machine_may_do_what_it_does_and_nothing_else(template: Document, expanded: Document) -> None:
    differences = {}
    for machine in of_type(template, "AWS::Serverless::StateMachine"):
        file = PROJECT / template["Resources"][machine]["Properties"]["DefinitionUri"]
        needs = needs_of_machine(expanded["Resources"][machine]["Properties"], yaml.safe_load(file.read_text("utf-8")))
        missing, unused = compare(rights(expanded, f"{machine}Role"), needs)
        if missing or unused:
            differences[machine] = told(missing, unused)
    assert not differences, "\n\n".join(f"{name}:\n{difference}" for name, difference in differences.items())


def test_every_rule_may_start_its_state_machine_and_nothing_else(expanded: Document) -> None:
    for rule in of_type(expanded, "AWS::Events::Rule"):
        for target in expanded["Resources"][rule]["Properties"]["Targets"]:
            if "RoleArn" in target:
                assert rights(expanded, name(target["RoleArn"])) == {
                    Right("states:StartExecution", name(target["Arn"]))
                }


def test_no_role_has_more_policies_than_these_and_those_of_logs_and_traces(expanded: Document) -> None:
    for role in of_type(expanded, "AWS::IAM::Role"):
        managed = expanded["Resources"][role]["Properties"].get("ManagedPolicyArns", [])
        assert {str(policy).rpartition("/")[2].strip("'}") for policy in managed} <= SAM_ADDS, role


def test_no_action_is_a_pattern_and_every_resource_is_allowed_only_for_a_reason(expanded: Document) -> None:
    for role in of_type(expanded, "AWS::IAM::Role"):
        for right in rights(expanded, role):
            assert "*" not in right.action
            assert right.resource != "*" or UNRESTRICTED[right.action], f"{role}: {right}"


# ---- the comparison can fail


def changed(template: Document, function: str, action: str, replacement: list[str]) -> Document:
    """The template, with other actions in place of this one of the function's."""
    document = copy.deepcopy(template)
    for statement in statements(document["Resources"][function]["Properties"]["Policies"]):
        actions = listed(statement["Action"])
        if action in actions:
            statement["Action"] = [*(other for other in actions if other != action), *replacement]
    return document


def test_a_right_that_is_taken_away_is_missing(template: Document, expanded: Document) -> None:
    needs = {Right("dynamodb:PutItem", "RecordsTable"), Right("events:PutEvents", "event-bus/default")}
    assert compare(rights(expanded, "RecordResultFunctionRole"), needs) == (set(), set())
    narrower = expand(changed(template, "RecordResultFunction", "dynamodb:PutItem", ["dynamodb:GetItem"]))
    missing, unused = compare(rights(narrower, "RecordResultFunctionRole"), needs)
    assert missing == {Right("dynamodb:PutItem", "RecordsTable")}
    assert unused == {Right("dynamodb:GetItem", "RecordsTable")}


def test_a_right_on_another_resource_is_missing_and_unused() -> None:
    need, right = Right("s3:GetObject", "ImageBucket/a/b.png"), Right("s3:GetObject", "ReportBucket/*")
    assert compare({right}, {need}) == ({need}, {right})
    assert compare({Right("s3:GetObject", "ImageBucket/*")}, {need}) == (set(), set())


def test_a_task_that_its_machine_may_not_do_is_missing(template: Document, expanded: Document) -> None:
    machine = expanded["Resources"]["ReviewImageStateMachine"]["Properties"]
    file = PROJECT / template["Resources"]["ReviewImageStateMachine"]["Properties"]["DefinitionUri"]
    definition = yaml.safe_load(file.read_text("utf-8"))
    definition["States"]["Tell"] = {
        "Type": "Task",
        "Resource": "arn:aws:states:::dynamodb:putItem",
        "Parameters": {"TableName": "${ReviewTopicArn}"},
    }
    missing, _ = compare(rights(expanded, "ReviewImageStateMachineRole"), needs_of_machine(machine, definition))
    assert missing == {Right("dynamodb:PutItem", "ReviewTopic")}
