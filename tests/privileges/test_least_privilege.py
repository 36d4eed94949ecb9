"""Each role may do what its function or state machine does, and nothing else.

What functions do is read from build/calls, which every test that runs a handler writes (see tests/conftest.py); what
state machines do, from their definitions; what both may do, from the template as SAM expands it. `make test` runs this
last. It needs the calls of all tests that are not slow: without some of them, what only they show seems to be unused.
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

from kickstand_cli.local.template import load_yaml, nested_templates
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


# ---- the template and its nested ones, as one


def whole(path: Path) -> Document:
    """The template with what its nested stacks hold; what it gives them goes by its own name there, too."""
    document: Document = load_yaml(path)
    for stack, file in nested_templates(path).items():
        given = document["Resources"][stack]["Properties"]["Parameters"]
        nested = load_yaml(file)
        for section in ("Conditions", "Resources"):
            own = with_given(nested.get(section, {}), given)
            twice = own.keys() & document[section].keys()
            assert all(own[name] == document[section][name] for name in twice), f"{file.name}: a name means two things"
            document[section] |= own
    return document


def with_given(part: Any, given: Document) -> Any:
    """This part of a nested template, with what it is given in place of its parameters."""
    match part:
        case {"Ref": parameter} if parameter in given:
            return given[parameter]
        case dict():
            return {key: with_given(value, given) for key, value in part.items()}
        case list():
            return [with_given(value, given) for value in part]
        case str():
            names = {parameter: value["Ref"] for parameter, value in given.items() if value.keys() == {"Ref"}}
            return re.sub(r"\$\{(\w+)\}", lambda found: f"${{{names.get(found[1], found[1])}}}", part)
    return part


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
    "ecr:GetAuthorizationToken": "the token is the registry's; which images it lets in, other actions say",
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
                text = text.split(":", 5)[5].removeprefix("table/")
            if text.startswith("endpoint/"):
                return "endpoint/*"  # which one, a parameter says
            return re.sub(r"\$\{(\w+)(?:\.\w+)?\}", r"\1", text)
        case {"Fn::Select": [_, {"Fn::Split": [_, arn]}]}:
            return name(arn)
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


def needs_of_call(service: str, operation: str, named: dict[str, Any]) -> set[Right]:
    """The rights that a call to AWS takes."""
    prefix = SERVICES.get(service, service)
    called = f"{prefix}:{operation}"
    if called == "s3:CopyObject":  # no right goes by that name
        return needs_of_call("s3", "GetObject", named["CopySource"]) | needs_of_call("s3", "PutObject", named)
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
        gone |= {Right("s3:ListBucketVersions", bucket)} if action == "s3:GetObjectVersion" else set()
        return {Right(action, f"{bucket}/{named['Key']}"), *gone}
    if index := named.get("IndexName"):
        return {Right(action, f"{named['TableName']}/index/{index}")}
    if function := named.get("FunctionName"):
        return {Right(action, function.rpartition(":function:")[2].replace(".Version", ":1"))}
    if arn := named.get("executionArn") or named.get("ModelPackageName"):
        return {Right(action, arn.split(":", 5)[5])}
    owner = next((value for key, value in named.items() if key in ("TableName", "QueueUrl", "TopicArn")), None)
    return {Right(action, re.split(r"[:/]", owner or named.get("stateMachineArn", "*"))[-1])}


@cache
def logical_bucket(name: str) -> str:
    """The bucket of this name in tests: its logical ID in small letters at the end, or else a sample's, of photos."""
    found = [bucket for bucket in of_type(whole(TEMPLATE), "AWS::S3::Bucket") if name.endswith(bucket.lower())]
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


def needs_of_failed_events(expanded: Document, function: str) -> set[Right]:
    """Lambda itself sends an event that the function has failed at, by the function's role."""
    attempts = expanded["Resources"].get(f"{function}EventInvokeConfig", {"Properties": {}})["Properties"]
    destination = attempts.get("DestinationConfig", {}).get("OnFailure")
    return {Right("sqs:SendMessage", name(destination["Destination"]))} if destination else set()


# ---- what state machines do


def substitutions(machine: Document) -> dict[str, str]:
    """What `${Name}` in its definition stands for."""
    return {f"${{{key}}}": name(value) for key, value in machine.get("DefinitionSubstitutions", {}).items()}


def needs_of_machine(machine: Document, definition: Document) -> set[Right]:
    """The rights that its tasks, its logs and its own children take."""
    substituted = substitutions(machine)

    def resource(value: str) -> str:
        return substituted.get(value, value.split(":", 5)[-1])

    needs = set()
    for task in tasks(definition):
        called, parameters = task["Resource"], task.get("Parameters", {})
        match called.rpartition(":states:::")[2].partition("."):
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
            case (integration, "", _) if integration.startswith("aws-sdk:sagemaker:"):
                operation = integration.rpartition(":")[2]
                needs |= needs_of_sagemaker(operation, filled(parameters, substituted))
            case (integration, "", _) if integration.startswith("dynamodb:"):
                operation = integration.removeprefix("dynamodb:")
                action = f"dynamodb:{operation[0].upper()}{operation[1:]}"
                needs.add(Right(action, resource(parameters["TableName"])))
            case _:
                raise AssertionError(f"{called}: say here what rights it takes")
    if machine.get("LoggingConfiguration"):
        needs |= {Right(action, "*") for action in UNRESTRICTED if action.startswith("logs:")}
    return needs


# What train_model knows when it asks SageMaker for something; the bucket goes by its logical ID.
SAMPLE = (
    (PROJECT / "events/evaluate_model.json").read_text("utf-8").replace("kickstand-trainingbucket", "TrainingBucket")
)
STATE = json.loads(SAMPLE) | {"evaluation": {"report_uri": "s3://TrainingBucket/runs/20260504T100000/evaluation.json"}}


def filled(parameters: Any, substituted: dict[str, str]) -> Any:
    """A task's parameters, as they are after substitution when the state is STATE."""
    match parameters:
        case dict():
            return {
                key.removesuffix(".$"): evaluated(text) if key.endswith(".$") else text
                for key, text in ((key, filled(value, substituted)) for key, value in parameters.items())
            }
        case list():
            return [filled(item, substituted) for item in parameters]
        case str():
            return re.sub(r"\$\{\w+\}", lambda found: substituted[found[0]], parameters)
    return parameters


def evaluated(expression: str) -> str:
    """The path's or the format's value; that of a path which STATE does not have is empty."""
    if formatted := re.fullmatch(r"States\.Format\('(.*)', ([^,]*)\)", expression):
        return formatted[1].format(evaluated(formatted[2]))
    found: Any = STATE
    for word in expression.removeprefix("$.").split("."):
        found = found.get(word, {})
    return str(found or "")


def needs_of_sagemaker(operation: str, asked: Document) -> set[Right]:
    """The rights that asking SageMaker for this takes."""
    action, kind = f"sagemaker:{operation[0].upper()}{operation[1:]}", re.sub("^[a-z]+", "", operation)
    if kind == "ModelPackage":  # SageMaker sees to it that whoever registers a model may read what is registered
        read = {Right("s3:GetObject", place) for _, place in places(asked)}
        return {Right(action, asked["ModelPackageGroupName"]), Right(action, "model-package/kickstand-x/1"), *read}
    resource = re.sub(r"(?<!^)([A-Z])", r"-\1", kind).lower()
    passed = asked.get("RoleArn") or asked.get("ExecutionRoleArn")
    roles = {Right("iam:PassRole", passed)} if passed else set()
    return {Right(action, f"{resource}/{asked[f'{kind}Name']}"), *roles}


def places(part: Any, within: str = "") -> Iterator[tuple[str, str]]:
    """Every place on S3 in this part of a request, and which members it is in; of a folder, something in it."""
    if isinstance(part, dict):
        for member, value in part.items():
            yield from places(value, f"{within}.{member}")
    elif isinstance(part, list):
        for value in part:
            yield from places(value, within)
    elif isinstance(part, str) and "s3://" in part:
        place = part.strip('"').removeprefix("s3://")
        yield within, place if Path(place).suffix else f"{place.rstrip('/')}/x"


def tasks(definition: Document) -> Iterator[Document]:
    for state in definition["States"].values():
        if state["Type"] == "Task":
            yield state
        for inner in [state.get("ItemProcessor"), *state.get("Branches", [])]:
            if inner:
                yield from tasks(inner)


# ---- what SageMaker's jobs do

# What every job does with its container, its log and its metrics:
# https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html#sagemaker-roles-createtrainingjob-perms
PULLS = ("BatchCheckLayerAvailability", "BatchGetImage", "GetDownloadUrlForLayer")
LOGS = ("CreateLogGroup", "CreateLogStream", "DescribeLogStreams", "PutLogEvents")
EVERY_JOB = {
    Right("cloudwatch:PutMetricData", "*"),
    Right("ecr:GetAuthorizationToken", "*"),
    *(Right(f"ecr:{action}", "repository/x") for action in PULLS),
    *(Right(f"logs:{action}", "log-group:/aws/sagemaker/x") for action in LOGS),
}


def needs_of_jobs(machine: Document, definition: Document) -> set[Right]:
    """The rights that the jobs take which the machine asks for, by what they are to read and to write."""
    substituted = substitutions(machine)
    needs = set(EVERY_JOB)
    for task in tasks(definition):
        if not re.search(r":sagemaker:create(TrainingJob|TransformJob|Model)$", task["Resource"]):
            continue
        for within, place in places(filled(task["Parameters"], substituted)):
            does = ["GetObject"]
            if within.endswith(".S3OutputPath"):
                does = ["PutObject"]
            elif ".CheckpointConfig" in within:  # what is there is fetched, and kept the same as the container's folder
                does = ["GetObject", "PutObject", "DeleteObject"]
            needs |= {Right(f"s3:{action}", place) for action in does}
            needs |= {Right("s3:ListBucket", place.partition("/")[0]) for action in does if action == "GetObject"}
    return needs


# ---- the comparison


@pytest.fixture(scope="module")
def template(absent: Callable[[str, str], NoReturn]) -> Document:
    if not (PROJECT / ".venv-sam/bin/python").exists():
        absent("sam", "SAM CLI is not installed: make build")
    return whole(TEMPLATE)


@pytest.fixture(scope="module")
def expanded(template: Document) -> Document:
    return expand(template)


def of_type(document: Document, kind: str) -> list[str]:
    return [name for name, resource in document["Resources"].items() if resource["Type"] == kind]


def definition_of(template: Document, machine: str) -> Document:
    file = PROJECT / template["Resources"][machine]["Properties"]["DefinitionUri"]
    definition: Document = yaml.safe_load(file.read_text("utf-8"))
    return definition


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
        needs = calls.get(folder.name, set()) | needs_of_failed_events(expanded, function)
        missing, unused = compare(rights(expanded, f"{function}Role"), needs)
        if missing or unused:
            differences[function] = told(missing, unused)
    assert not differences, "\n\n".join(f"{name}:\n{difference}" for name, difference in differences.items())


def test_each_state_machine_may_do_what_it_does_and_nothing_else(template: Document, expanded: Document) -> None:
    differences = {}
    for machine in of_type(template, "AWS::Serverless::StateMachine"):
        needs = needs_of_machine(expanded["Resources"][machine]["Properties"], definition_of(template, machine))
        missing, unused = compare(rights(expanded, f"{machine}Role"), needs)
        if missing or unused:
            differences[machine] = told(missing, unused)
    assert not differences, "\n\n".join(f"{name}:\n{difference}" for name, difference in differences.items())


def test_a_training_job_may_do_what_is_asked_of_it_and_nothing_else(template: Document, expanded: Document) -> None:
    machine = expanded["Resources"]["TrainModelStateMachine"]["Properties"]
    missing, unused = compare(
        rights(expanded, "TrainingRole"), needs_of_jobs(machine, definition_of(template, "TrainModelStateMachine"))
    )
    assert not missing | unused, told(missing, unused)


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
    definition = definition_of(template, "ReviewImageStateMachine")
    definition["States"]["Tell"] = {
        "Type": "Task",
        "Resource": "arn:${Partition}:states:::dynamodb:putItem",
        "Parameters": {"TableName": "${ReviewTopicArn}"},
    }
    missing, _ = compare(rights(expanded, "ReviewImageStateMachineRole"), needs_of_machine(machine, definition))
    assert missing == {Right("dynamodb:PutItem", "ReviewTopic")}


def test_a_job_that_is_to_read_elsewhere_lacks_the_right(template: Document, expanded: Document) -> None:
    definition = definition_of(template, "TrainModelStateMachine")
    training = definition["States"]["Train Kickstand"]["Parameters"]
    training["InputDataConfig"][0]["DataSource"]["S3DataSource"] = {"S3Uri": "s3://${TrainingBucket}/base/train/"}
    machine = expanded["Resources"]["TrainModelStateMachine"]["Properties"]
    missing, _ = compare(rights(expanded, "TrainingRole"), needs_of_jobs(machine, definition))
    assert missing == {Right("s3:GetObject", "TrainingBucket/base/train/x")}


def test_what_a_nested_stack_is_given_goes_by_its_own_name(expanded: Document) -> None:
    assert Right("sns:Publish", "AlarmTopic") in rights(expanded, "AnnounceApprovalFunctionRole")
    assert Right("dynamodb:PutItem", "ControlTable") in rights(expanded, "AnnounceApprovalFunctionRole")
