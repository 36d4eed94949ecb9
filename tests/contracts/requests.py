"""What each role asks of AWS: functions by what the tests have seen, state machines and jobs by their definitions."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kickstand.store import EVENT_SOURCE
from kickstand_cli.project import PROJECT
from tests.contracts.policies import Request
from tests.contracts.recorded import Call
from tests.contracts.stacks import ACCOUNT, Document, Stack, definition, folder_of

SERVICES = {"sagemaker-runtime": "sagemaker", "stepfunctions": "states"}  # IAM's prefixes, where they differ
ACTIONS = {  # of IAM, where it is not called as the operation is
    "lambda:Invoke": "lambda:InvokeFunction",
    "s3:HeadObject": "s3:GetObject",
    "s3:ListObjectVersions": "s3:ListBucketVersions",
    "s3:ListObjectsV2": "s3:ListBucket",
    "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
    "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
    "sqs:SendMessageBatch": "sqs:SendMessage",
}
LOG_DELIVERY = (  # of Step Functions, which knows no resources: https://docs.aws.amazon.com/step-functions/latest/dg/cw-logs.html
    *("CreateLogDelivery", "GetLogDelivery", "UpdateLogDelivery", "DeleteLogDelivery", "ListLogDeliveries"),
    *("PutResourcePolicy", "DescribeResourcePolicies", "DescribeLogGroups"),
)


class Asker:
    """What the roles of one stack ask for."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.events = f"arn:{stack.partition}:events:{stack.region}:{ACCOUNT}:event-bus/default"

    def arn(self, service: str, resource: str) -> str:
        return f"arn:{self.stack.partition}:{service}:{self.stack.region}:{ACCOUNT}:{resource}"

    # ---- functions

    def by_function(self, function: str, calls: Iterable[Call]) -> set[Request]:
        """What the role of this function asks for. function: its logical ID."""
        properties = self.stack.all[function]["Properties"]
        found = set()
        for call in calls:
            if call.function == folder_of(properties):
                try:
                    found |= self.of_call(call.service, call.operation, call.named)
                except (LookupError, ValueError) as error:
                    error.add_note(f"the recorded call: {call}")
                    raise
        for config in self.stack.of("Lambda::EventInvokeConfig").values():
            if config["FunctionName"] == self.stack.physical(function):
                found |= {Request("sqs:SendMessage", arn) for arn in of_key(config, "Destination")}
        for source in self.stack.of("Lambda::EventSourceMapping").values():  # Lambda reads the queue in its name
            if source["FunctionName"] == self.stack.physical(function):
                asked = ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes")
                found |= {Request(f"sqs:{action}", source["EventSourceArn"]) for action in asked}
        return found

    def of_call(self, service: str, operation: str, named: Document) -> set[Request]:
        """What a call asks for. Its names are those of the local stack: each is a logical ID, or a bucket of photos."""
        called = f"{SERVICES.get(service, service)}:{operation}"
        if called == "s3:CopyObject":  # no right goes by that name
            return self.of_call("s3", "GetObject", named["CopySource"]) | self.of_call("s3", "PutObject", named)
        action = ACTIONS.get(called, called)
        if service == "s3":
            return self._of_s3(action, named)
        match action.partition(":")[0]:
            case "dynamodb":
                table = self.arn("dynamodb", f"table/{self.stack.physical(named['TableName'])}")
                index = f"/index/{named['IndexName']}" if "IndexName" in named else ""
                keys = {("dynamodb:LeadingKeys", named["Key"]["id"]["S"])} if "id" in named.get("Key", {}) else set()
                return {Request(action, f"{table}{index}", frozenset(keys))}
            case "events":
                return {Request(action, self.events, frozenset({("events:source", EVENT_SOURCE)}))}
            case "sqs":
                queue = self.stack.physical(named["QueueUrl"].rpartition("/")[2]).rpartition("/")[2]
                return {Request(action, self.arn("sqs", queue))}
            case "sns":
                return {Request(action, self.stack.physical(named["TopicArn"].rpartition(":")[2]))}
            case "lambda":
                name, _, version = named["FunctionName"].rpartition(":function:")[2].partition(":")
                name, dot, _ = name.partition(".")  # the local stack's name for a published version ends in ".Version"
                version = version or ("1" if dot else "")
                return {Request(action, self.arn("lambda", f"function:{self.stack.physical(name)}:{version}"))}
            case "codedeploy":
                return {Request(action, self.arn("codedeploy", "deploymentgroup:application/group"))}
        if action == "sagemaker:InvokeEndpoint":
            return {Request(action, self.arn("sagemaker", f"endpoint/{self.stack.physical('Endpoint')}"))}
        if action == "sagemaker:DescribeModelPackage":
            group = self.stack.physical("ModelPackageGroup").replace(":model-package-group/", ":model-package/")
            return {Request(action, f"{group}/{named['ModelPackageName'].rpartition('/')[2]}")}
        if action == "states:SendTaskSuccess":  # the token names no state machine; IAM knows whose it is
            return {Request(action, self.stack.physical("ReviewImageStateMachine"))}
        called = named.get("executionArn") or named["stateMachineArn"]
        kind, *names = called.split(":")[5:] or ["stateMachine", called]  # events/env.json gives only its logical ID
        names[0] = self.stack.physical(names[0]).rpartition(":")[2]
        return {Request(action, self.arn("states", ":".join([kind, *names])))}

    def _of_s3(self, action: str, named: Document) -> set[Request]:
        bucket = f"arn:{self.stack.partition}:s3:::{self.bucket(named['Bucket'])}"
        if "Key" not in named:
            return {Request(action, bucket)}
        if action != "s3:GetObject":
            return {Request(action, f"{bucket}/{named['Key']}")}
        # Without the right to list, S3 says of an object that is gone that access is denied; so with a version.
        version = "Version" if "VersionId" in named else ""
        lists = {"s3:ListBucket", "s3:ListBucketVersions"} if version else {"s3:ListBucket"}
        return {Request(f"{action}{version}", f"{bucket}/{named['Key']}"), *(Request(one, bucket) for one in lists)}

    def bucket(self, name: str) -> str:
        """The bucket of this name in tests, which ends with its logical ID in small letters; or else one of photos."""
        found = [logical_id for logical_id in self.stack.of("S3::Bucket") if name.endswith(logical_id.lower())]
        return self.stack.physical(found[0] if found else "ImageBucket")

    # ---- state machines

    def by_machine(self, machine: str) -> set[Request]:
        """What the role of this state machine asks for, for its tasks and its logs. machine: its logical ID."""
        properties = self.stack.all[machine]["Properties"]
        found = {Request(f"logs:{action}", "*") for action in LOG_DELIVERY if "LoggingConfiguration" in properties}
        whole = definition(properties)
        for task in tasks(whole):
            found |= self._of_task(task["Resource"], task.get("Parameters", {}))
        for state in whole["States"].values():
            if "ItemReader" in state:  # Distributed Map: it reads the items, and starts itself with each batch
                found |= {self._of_reader(state["ItemReader"])}
                found |= {Request("states:StartExecution", self.stack.physical(machine))}
        return found

    def _of_reader(self, reader: Document) -> Request:
        if reader["Resource"].endswith(":s3:listObjectsV2"):
            return Request("s3:ListBucket", f"arn:{self.stack.partition}:s3:::{reader['Parameters']['Bucket']}")
        return Request("s3:GetObject", f"arn:{self.stack.partition}:s3:::inventories/photos/manifest.json")

    def _of_task(self, called: str, parameters: Document) -> set[Request]:
        integration = called.partition(":states:::")[2].removesuffix(".waitForTaskToken")
        if not integration:
            return {Request("lambda:InvokeFunction", called)}
        match integration.split(":"):
            case ["lambda", "invoke"]:
                return {Request("lambda:InvokeFunction", parameters["FunctionName"])}
            case ["sqs", "sendMessage"]:
                return {Request("sqs:SendMessage", self.arn("sqs", parameters["QueueUrl"].rpartition("/")[2]))}
            case ["sns", "publish"]:
                return {Request("sns:Publish", parameters["TopicArn"])}
            case ["dynamodb", operation]:
                table = self.arn("dynamodb", f"table/{parameters['TableName']}")
                keys = frozenset({("dynamodb:LeadingKeys", parameters["Key"]["id"]["S"])})
                return {Request(f"dynamodb:{capital(operation)}", table, keys)}
            case ["aws-sdk", "sagemaker", operation]:
                return self._of_sagemaker(capital(operation), filled(parameters, self.state()))
        raise AssertionError(f"{called}: say here what rights it takes")

    def state(self) -> Document:
        """What train_model knows when it asks SageMaker for something."""
        bucket = self.stack.physical("TrainingBucket")
        text = (PROJECT / "events/evaluate_model.json").read_text("utf-8").replace("kickstand-trainingbucket", bucket)
        state: Document = json.loads(text)
        return state | {"evaluation": {"report_uri": f"s3://{bucket}/runs/20260504T100000/evaluation.json"}}

    def _of_sagemaker(self, operation: str, asked: Document) -> set[Request]:
        action, kind = f"sagemaker:{operation}", re.sub("^[A-Z][a-z]+", "", operation)
        if kind == "ModelPackage":  # SageMaker sees to it that who registers a model may read what is registered
            group = self.arn("sagemaker", f"model-package-group/{asked['ModelPackageGroupName']}")
            package = self.arn("sagemaker", f"model-package/{asked['ModelPackageGroupName']}/1")
            reads = {Request("s3:GetObject", arn) for _, arn in self.places(asked)}
            return {Request(action, group), Request(action, package), *reads}
        resource = re.sub(r"(?<!^)([A-Z])", r"-\1", kind).lower()
        passed = {asked[key] for key in ("RoleArn", "ExecutionRoleArn") if key in asked}
        to = frozenset({("iam:PassedToService", "sagemaker.amazonaws.com")})
        return {
            Request(action, self.arn("sagemaker", f"{resource}/{asked[f'{kind}Name']}")),
            *(Request("iam:PassRole", role, to) for role in passed),
        }

    # ---- the jobs of SageMaker, and what other services do with a role

    def by_training_jobs(self) -> set[Request]:
        """What SageMaker's jobs ask for, by what train_model gives them to read and to write."""
        found: set[Request] = set()
        for group in ("/aws/sagemaker/TrainingJobs", "/aws/sagemaker/TransformJobs"):
            found |= self.by_container(group) | {Request("logs:CreateLogGroup", self.arn("logs", f"log-group:{group}"))}
        found |= {Request("cloudwatch:PutMetricData", "*")}
        for task in tasks(definition(self.stack.all["TrainModelStateMachine"]["Properties"])):
            if not re.search(r":sagemaker:create(TrainingJob|TransformJob|Model)$", task["Resource"]):
                continue
            for within, arn in self.places(filled(task["Parameters"], self.state())):
                does = ["GetObject"]
                if within.endswith(".S3OutputPath"):
                    does = ["PutObject"]
                elif ".CheckpointConfig" in within:  # fetched, and kept the same as the container's folder
                    does = ["GetObject", "PutObject", "DeleteObject"]
                found |= {Request(f"s3:{action}", arn) for action in does}
                found |= {Request("s3:ListBucket", arn.partition("/")[0]) for action in does if action == "GetObject"}
        return found

    def by_endpoint(self) -> set[Request]:
        """https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html#sagemaker-roles-createmodel-perms"""
        found = {one for one in self.by_container(self.stack.physical("EndpointLogs")) if "/x" not in one.resource}
        found |= {self.pull(action, "kickstand") for action in PULLS}
        namespace = frozenset({("cloudwatch:namespace", "/aws/sagemaker/Endpoints")})
        captured = f"arn:{self.stack.partition}:s3:::{self.stack.physical('CaptureBucket')}/captured/x"
        return found | {
            Request("cloudwatch:PutMetricData", "*", namespace),
            Request("s3:GetObject", f"arn:{self.stack.partition}:s3:::models/model.tar.gz"),
            Request("s3:PutObject", captured),
        }

    def by_container(self, group: str) -> set[Request]:
        """What every container of SageMaker asks for."""
        logs = ("CreateLogStream", "DescribeLogStreams", "PutLogEvents")
        return {
            Request("ecr:GetAuthorizationToken", "*"),
            *(self.pull(action, "x") for action in PULLS),
            *(Request(f"logs:{action}", self.arn("logs", f"log-group:{group}:log-stream:x")) for action in logs),
        }

    def pull(self, action: str, repository: str) -> Request:
        return Request(f"ecr:{action}", self.arn("ecr", f"repository/{repository}"))

    def by_codedeploy(self) -> set[Request]:
        """https://docs.aws.amazon.com/codedeploy/latest/userguide/getting-started-create-service-role.html"""
        name = self.stack.physical("ClassifyImageFunction")
        function, alias = self.arn("lambda", f"function:{name}"), self.arn("lambda", f"function:{name}:live")
        hook = self.arn("lambda", f"function:{self.stack.physical('CheckGoldenImagesFunction')}")
        return {
            *(Request(f"lambda:{action}", arn) for action in ("GetAlias", "UpdateAlias") for arn in (function, alias)),
            Request("lambda:GetProvisionedConcurrencyConfig", alias),
            Request("lambda:InvokeFunction", hook),
            Request("cloudwatch:DescribeAlarms", self.arn("cloudwatch", "alarm:*")),
        }

    def by_rule(self, role: str) -> set[Request]:
        """What EventBridge does with the role of a rule's target."""
        arn = f"role/{self.stack.physical(role)}"
        return {
            Request("states:StartExecution", target["Arn"])
            for rule in self.stack.of("Events::Rule").values()
            for target in rule["Targets"]
            if target.get("RoleArn", "").endswith(arn)
        }

    def places(self, part: Any, within: str = "") -> Iterator[tuple[str, str]]:
        """Every place on S3 in this part of a request, and which members it is in; of a folder, something in it."""
        if isinstance(part, dict):
            for member, value in part.items():
                yield from self.places(value, f"{within}.{member}")
        elif isinstance(part, list):
            for value in part:
                yield from self.places(value, within)
        elif isinstance(part, str) and "s3://" in part:
            place = part.strip('"').removeprefix("s3://")
            key = place if Path(place).suffix else f"{place.rstrip('/')}/x"
            yield within, f"arn:{self.stack.partition}:s3:::{key}"

    def all(self, calls: Iterable[Call]) -> dict[str, set[Request]]:
        """By the logical ID of the role."""
        calls = list(calls)
        found = {}
        for role in self.stack.of("IAM::Role"):
            name = role.removesuffix("Role")
            if name in self.stack.of("Lambda::Function"):
                found[role] = self.by_function(name, calls)
            elif name in self.stack.of("StepFunctions::StateMachine"):
                found[role] = self.by_machine(name)
            else:
                named = {"TrainingRole": self.by_training_jobs, "EndpointRole": self.by_endpoint}
                named |= {"RolloutRole": self.by_codedeploy}
                found[role] = named[role]() if role in named else self.by_rule(role)
        return found


PULLS = ("BatchCheckLayerAvailability", "BatchGetImage", "GetDownloadUrlForLayer")


def capital(operation: str) -> str:
    return operation[0].upper() + operation[1:]


def of_key(part: Any, key: str) -> Iterator[str]:
    """Every value of this key in a part of a template."""
    for name, value in part.items() if isinstance(part, dict) else ():
        if name == key:
            yield value
        yield from of_key(value, key)


def tasks(machine: Document) -> Iterator[Document]:
    """Every task of a state machine, those within Map and Parallel too."""
    for state in machine["States"].values():
        if state["Type"] == "Task":
            yield state
        for inner in [state.get("ItemProcessor"), *state.get("Branches", [])]:
            if inner:
                yield from tasks(inner)


def filled(parameters: Any, state: Document) -> Any:
    """A task's parameters, as they are when this is the state."""
    match parameters:
        case dict():
            return {
                key.removesuffix(".$"): evaluated(value, state) if key.endswith(".$") else filled(value, state)
                for key, value in parameters.items()
            }
        case list():
            return [filled(item, state) for item in parameters]
    return parameters


def evaluated(expression: str, state: Document) -> str:
    """The path's or the format's value; that of a path which the state does not have is empty."""
    if formatted := re.fullmatch(r"States\.Format\('(.*)', ([^,]*)\)", expression):
        return formatted[1].format(evaluated(formatted[2], state))
    found: Any = state
    for word in expression.removeprefix("$.").split("."):
        found = found.get(word, {})
    return str(found or "")
