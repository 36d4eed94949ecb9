"""Deployments without AWS: the templates as SAM expands them, nested stacks too, with every value filled in.

Names, ARNs and attributes are those that CloudFormation would give, where policies, alarms or state machines use them.
"""

import atexit
import json
import subprocess
import uuid
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from kickstand_cli.local.template import Template, load_yaml
from kickstand_cli.project import PROJECT, TEMPLATE

Document = dict[str, Any]

ACCOUNT = "123456789012"
SERVES = {
    "InferenceBackend": "sagemaker",
    "Serving": "instances",
    "ServingImage": f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/kickstand:1",
    "ServingModel": "s3://models/model.tar.gz",
}
TRAINS = {"Training": "on", "TrainingImage": f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/train:1"}
ALL = SERVES | TRAINS | {"AlarmEmail": "ops@example.com", "ReviewEmail": "reviewers@example.com"}
ALL |= {"InventoryBucket": "inventories"}
"""Parameters with which every resource of every template is made."""

LOCAL_FILES = {"CodeUri", "ContentUri", "DefinitionUri"}
ARNS = {  # what follows arn:partition:
    "AWS::ApplicationAutoScaling::ScalableTarget": "application-autoscaling:{region}:{account}:scalable-target/{name}",
    "AWS::CloudWatch::Alarm": "cloudwatch:{region}:{account}:alarm:{name}",
    "AWS::CloudWatch::Dashboard": "cloudwatch::{account}:dashboard/{name}",
    "AWS::CodeDeploy::Application": "codedeploy:{region}:{account}:application:{name}",
    "AWS::DynamoDB::Table": "dynamodb:{region}:{account}:table/{name}",
    "AWS::Events::Rule": "events:{region}:{account}:rule/{name}",
    "AWS::IAM::Role": "iam::{account}:role/{name}",
    "AWS::Lambda::Alias": "lambda:{region}:{account}:function:{function}:{Name}",
    "AWS::Lambda::Function": "lambda:{region}:{account}:function:{name}",
    "AWS::Lambda::LayerVersion": "lambda:{region}:{account}:layer:{name}:1",
    "AWS::Lambda::Version": "lambda:{region}:{account}:function:{function}:{version}",
    "AWS::Logs::LogGroup": "logs:{region}:{account}:log-group:{name}:*",
    "AWS::S3::Bucket": "s3:::{name}",
    "AWS::SNS::Topic": "sns:{region}:{account}:{name}",
    "AWS::SQS::Queue": "sqs:{region}:{account}:{name}",
    "AWS::SageMaker::Endpoint": "sagemaker:{region}:{account}:endpoint/{name}",
    "AWS::SageMaker::Model": "sagemaker:{region}:{account}:model/{name}",
    "AWS::SageMaker::ModelPackageGroup": "sagemaker:{region}:{account}:model-package-group/{name}",
    "AWS::StepFunctions::StateMachine": "states:{region}:{account}:stateMachine:{name}",
}
NAMED_BY_ARN = {
    "AWS::Lambda::Alias",
    "AWS::Lambda::LayerVersion",
    "AWS::Lambda::Version",
    "AWS::SNS::Topic",
    "AWS::SageMaker::ModelPackageGroup",
    "AWS::StepFunctions::StateMachine",
}


read = cache(load_yaml)


TRANSLATE = """
import json, logging, sys
import boto3
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
logging.disable()  # it talks about its own metrics
for line in sys.stdin:
    document, parameters, region = json.loads(line)
    translator = Translator({}, Parser(), boto_session=boto3.Session(region_name=region))
    print(json.dumps(translator.translate(document, parameters)), flush=True)
"""


@cache
def translator() -> "subprocess.Popen[str]":
    """SAM's transform, of the version that deploys, in the environment of its own that its pins need."""
    python = PROJECT / ".venv-sam/bin/python"
    assert python.exists(), "SAM CLI is not installed: make .venv-sam/.installed"
    process = subprocess.Popen([python, "-c", TRANSLATE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.kill)
    return process


def expand(document: Document, parameters: Mapping[str, str], region: str, changed: str) -> Document:
    """What SAM's transform makes of the template. changed: the folder or file that has new content."""
    document = spelled_out(document)
    for resource in document["Resources"].values():
        for uri in LOCAL_FILES & resource.get("Properties", {}).keys():
            path = resource["Properties"][uri]
            resource["Properties"][uri] = f"s3://{'changed' if path == changed else 'packages'}/{path}"
    process = translator()
    assert process.stdin
    assert process.stdout
    process.stdin.write(json.dumps([document, dict(parameters), region]) + "\n")
    process.stdin.flush()
    expanded: Document = json.loads(process.stdout.readline())
    return expanded


def spelled_out(part: Any) -> Any:
    """A copy whose `!GetAtt X.Arn` are lists, as SAM CLI hands them to the transform, which changes no others."""
    match part:
        case {"Fn::GetAtt": str(path)}:
            return {"Fn::GetAtt": path.split(".", 1)}
        case dict():
            return {key: spelled_out(value) for key, value in part.items()}
        case list():
            return [spelled_out(value) for value in part]
    return part


class Stack(Template):
    """A stack with its nested ones. resources: what is made, resolved, by logical ID.

    parameters: of the template, where they differ from the defaults. changed: a folder or file whose content is new.
    renamed: resources that take the place of others of the same logical ID.
    """

    def __init__(
        self,
        path: Path = TEMPLATE,
        parameters: Mapping[str, str] | None = None,
        name: str = "kickstand-dev",
        partition: str = "aws",
        region: str = "us-east-1",
        changed: str = "",
        renamed: frozenset[str] = frozenset(),
    ) -> None:
        self.made_of = path, parameters, name, partition, region, changed
        document = read(path)
        given = {key: str(item.get("Default", "")) for key, item in document["Parameters"].items()} | {
            key: str(value) for key, value in (parameters or {}).items()
        }
        assert given.keys() == document["Parameters"].keys(), f"{path.name}: no such parameter"
        self.name, self.partition, self.region, self.renamed = name, partition, region, renamed
        self._expanded = expand(document, given, region, changed)
        self._conditions = self._expanded.get("Conditions", {})
        self._reference, self._attribute = self._ref, self._get
        suffix = {"aws-cn": "amazonaws.com.cn"}.get(partition, "amazonaws.com")
        self.identifier = uuid.uuid5(uuid.NAMESPACE_URL, f"{region}/{name}")
        self._values = given | {
            "AWS::Partition": partition,
            "AWS::Region": region,
            "AWS::AccountId": ACCOUNT,
            "AWS::URLSuffix": suffix,
            "AWS::StackName": name,
            "AWS::StackId": f"arn:{partition}:cloudformation:{region}:{ACCOUNT}:stack/{name}/{self.identifier}",
            "AWS::NoValue": None,
        }
        self._mappings: Document = self._expanded.get("Mappings", {})

    @cached_property
    def nested(self) -> dict[str, "Stack"]:
        """The nested stacks that are made, by logical ID."""
        return {
            key: Stack(
                self.made_of[0].parent / resource["Properties"]["TemplateURL"],
                self.resolve(resource["Properties"]["Parameters"]),
                f"{self.name}-{key}",
                *self.made_of[3:],
                self.renamed,
            )
            for key, resource in self._expanded["Resources"].items()
            if resource["Type"] == "AWS::CloudFormation::Stack" and self.holds(resource.get("Condition"))
        }

    @cached_property
    def own(self) -> dict[str, Document]:
        """Its own resources, without the nested stacks'."""
        return {
            key: self.resolve({name: part for name, part in resource.items() if name != "Condition"})
            for key, resource in self._expanded["Resources"].items()
            if self.holds(resource.get("Condition"))
        }

    @cached_property
    def all(self) -> dict[str, Document]:
        """Its resources and the nested stacks', none of which goes by the same logical ID."""
        found = dict(self.own)
        for stack in self.nested.values():
            assert not stack.all.keys() & found.keys()
            found |= stack.all
        return found

    def of(self, kind: str) -> dict[str, Document]:
        """The properties of all resources of this type, by logical ID."""
        return {key: item.get("Properties", {}) for key, item in self.all.items() if item["Type"] == f"AWS::{kind}"}

    def physical(self, logical_id: str) -> str:
        """What `Ref` gives, here or in a nested stack."""
        homes = [self, *self.nested.values()]
        return next(stack._ref(logical_id) for stack in homes if logical_id in stack._expanded["Resources"])

    @cached_property
    def answers(self) -> dict[str, Any]:
        """The stack's outputs."""
        return {
            key: self.resolve(output["Value"])
            for key, output in self._expanded.get("Outputs", {}).items()
            if self.holds(output.get("Condition"))
        }

    # ---- what CloudFormation gives

    def _ref(self, logical_id: str) -> str:
        kind = self._expanded["Resources"][logical_id]["Type"]
        if kind in NAMED_BY_ARN:
            return self._get(logical_id, "Arn")
        if kind == "AWS::SQS::Queue":
            return f"https://sqs.{self.region}.{self._values['AWS::URLSuffix']}/{ACCOUNT}/{self._name(logical_id)}"
        return self._name(logical_id)

    def _get(self, logical_id: str, attribute: str) -> str:
        if attribute.startswith("Outputs."):
            return str(self.nested[logical_id].answers[attribute.removeprefix("Outputs.")])
        resource = self._expanded["Resources"][logical_id]
        if attribute.endswith("Name"):
            return self._name(logical_id)
        if attribute == "Version":
            return str(int(logical_id[-6:], 16) + (logical_id in self.renamed))
        assert attribute == "Arn" or attribute.endswith("GroupArn"), f"{logical_id}.{attribute}"
        properties = resource.get("Properties", {})
        named = {
            "name": self._name(logical_id),
            "function": self.resolve(properties["FunctionName"]) if "FunctionName" in properties else "",
            "version": self._get(logical_id, "Version") if resource["Type"] == "AWS::Lambda::Version" else "",
            "Name": properties.get("Name", ""),
        }
        return f"arn:{self.partition}:" + ARNS[resource["Type"]].format(region=self.region, account=ACCOUNT, **named)

    def _name(self, logical_id: str) -> str:
        resource = self._expanded["Resources"][logical_id]
        word = resource["Type"].rpartition("::")[2]
        given = {f"{word}Name", "LayerName"} & resource.get("Properties", {}).keys()
        for key in given - {"FunctionName"}:
            return str(self.resolve(resource["Properties"][key]))
        name = f"{self.name}-{logical_id}{'-2' if logical_id in self.renamed else ''}"
        return name.lower() if word == "Bucket" else name

    def _intrinsic(self, name: str, argument: Any) -> Any:
        if name == "Fn::FindInMap":
            entry, *keys = argument if not isinstance(argument[-1], dict) else argument[:3]
            found = self._mappings[entry].get(self.resolve(keys[0]), {}).get(self.resolve(keys[1]))
            if found is None and isinstance(argument[-1], dict):
                return self.resolve(argument[-1]["DefaultValue"])
            return found
        return super()._intrinsic(name, argument)


@cache
def stack(name: str = "kickstand-dev", **parameters: str) -> Stack:
    """The stack with every resource, but for these parameters."""
    return Stack(parameters=ALL | parameters, name=name)


def definition(machine: Document) -> Document:
    """A state machine's definition with its substitutions. machine: its resolved properties."""
    file = machine["DefinitionS3Location"]["Key"]
    text = (PROJECT / file).read_text("utf-8")
    for name, value in machine.get("DefinitionSubstitutions", {}).items():
        text = text.replace(f"${{{name}}}", json.dumps(str(value))[1:-1])
    found: Document = yaml.safe_load(text)
    return found


def folder_of(function: Document) -> str:
    """The folder of a function's code below functions/. function: its resolved properties."""
    return str(function["Code"]["S3Key"]).rpartition("/")[2]
