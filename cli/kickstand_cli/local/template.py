"""Reads a SAM template and resolves its intrinsic functions."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from kickstand.clients import DynamoDBClient


class TemplateError(Exception):
    """The template has an error, or a part that cannot run on this machine."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # in C: seven times as fast
    """YAML with CloudFormation's short tags: `!Ref X` is {"Ref": "X"}, `!GetAtt X.Arn` is {"Fn::GetAtt": "X.Arn"}."""


def _short_tag(loader: yaml.Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)  # type: ignore[arg-type]
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _short_tag)


def load_yaml(path: Path) -> Any:
    """The file's content, short tags expanded. Raises TemplateError naming the file and the line."""
    try:
        return yaml.load(path.read_text("utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (OSError, yaml.YAMLError) as error:
        raise TemplateError(f"{path}: {error}") from error


def nested_templates(path: Path) -> dict[str, Path]:
    """The templates of the template's nested stacks, by logical ID."""
    return {
        name: path.parent / resource["Properties"]["TemplateURL"]
        for name, resource in load_yaml(path)["Resources"].items()
        if resource["Type"] == "AWS::CloudFormation::Stack"
    }


def all_resources(path: Path) -> dict[str, dict[str, Any]]:
    """The template's resources and those of its nested stacks, by logical ID, as they are written."""
    templates = path, *nested_templates(path).values()
    return {name: resource for each in templates for name, resource in load_yaml(each)["Resources"].items()}


class Template:
    """A template with values for its parameters. reference, attribute: what `Ref` and `Fn::GetAtt` of a resource give.

    Raises TemplateError for a parameter that the template does not have, that lacks a value, or that cannot have it.
    """

    def __init__(
        self,
        path: Path,
        parameters: Mapping[str, str],
        reference: Callable[[str], str],
        attribute: Callable[[str, str], str],
    ) -> None:
        document = load_yaml(path)
        self.folder = path.parent
        self.resources: dict[str, dict[str, Any]] = document["Resources"]
        self.function_globals: dict[str, Any] = document.get("Globals", {}).get("Function", {})
        self.outputs: dict[str, Any] = document.get("Outputs", {})
        self._conditions: dict[str, Any] = document.get("Conditions", {})
        self._mappings: dict[str, Any] = document.get("Mappings", {})
        self._reference, self._attribute = reference, attribute
        self._values: dict[str, Any] = {
            "AWS::Partition": "aws",
            "AWS::URLSuffix": "amazonaws.com",
            "AWS::Region": "us-east-1",
            "AWS::AccountId": "123456789012",
            "AWS::StackName": "kickstand-local",
            "AWS::StackId": "arn:aws:cloudformation:us-east-1:123456789012:stack/kickstand-local/local",
            "AWS::NoValue": None,
        }
        declared = document.get("Parameters", {})
        if unknown := parameters.keys() - declared.keys():
            raise TemplateError(f"{path}: no parameter {', '.join(sorted(unknown))}")
        for name, declaration in declared.items():
            value = parameters.get(name, declaration.get("Default"))
            if value is None:
                raise TemplateError(f"{path}: parameter {name} needs a value")
            if str(value) not in map(str, declaration.get("AllowedValues", [value])):
                raise TemplateError(f"{path}: parameter {name} is {value!r}, not one of {declaration['AllowedValues']}")
            self._values[name] = str(value)

    def wanted(self, logical_id: str) -> bool:
        """Whether the resource's Condition, if any, holds."""
        return self.holds(self.resources[logical_id].get("Condition"))

    def holds(self, condition: str | None) -> bool:
        """Whether the condition of this name holds; none always does."""
        return condition is None or self._holds(condition)

    def resolve(self, value: Any) -> Any:
        """The value with every intrinsic function replaced by its result."""
        if isinstance(value, list):
            return [item for item in map(self.resolve, value) if item is not None]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((name, argument),) = value.items()
            if name == "Ref":
                return self._values[argument] if argument in self._values else self._reference(argument)
            if name == "Condition" and isinstance(argument, str):
                return self._holds(argument)
            if name.startswith("Fn::"):
                return self._intrinsic(name, argument)
        resolved = {key: self.resolve(item) for key, item in value.items()}
        return {key: item for key, item in resolved.items() if item is not None}

    def _intrinsic(self, name: str, argument: Any) -> Any:
        match name:
            case "Fn::GetAtt":
                resource, attribute = argument.split(".", 1) if isinstance(argument, str) else argument
                return self._attribute(resource, attribute)
            case "Fn::Sub":
                text, extra = (argument, {}) if isinstance(argument, str) else argument
                filled = re.sub(r"\$\{([^!}][^}]*)\}", lambda match: str(self._substitute(match[1], extra)), text)
                return filled.replace("${!", "${")
            case "Fn::If":
                return self.resolve(argument[1] if self._holds(argument[0]) else argument[2])
            case "Fn::Equals":
                left, right = map(self.resolve, argument)
                return bool(left == right)
            case "Fn::Not":
                return not self.resolve(argument[0])
            case "Fn::And":
                return all(self.resolve(item) for item in argument)
            case "Fn::Or":
                return any(self.resolve(item) for item in argument)
            case "Fn::FindInMap":
                mapping, first, second = map(self.resolve, argument)
                return self._mappings[mapping][first][second]
            case "Fn::Select":
                return self.resolve(argument[1])[int(argument[0])]
            case "Fn::Split":
                return str(self.resolve(argument[1])).split(argument[0])
            case "Fn::Join":
                return argument[0].join(map(str, self.resolve(argument[1])))
        raise TemplateError(f"{name} is not resolved locally")

    def _substitute(self, name: str, extra: Mapping[str, Any]) -> Any:
        if name in extra:
            return self.resolve(extra[name])
        return self.resolve({"Fn::GetAtt": name} if "." in name else {"Ref": name})

    def _holds(self, condition: str) -> bool:
        return bool(self.resolve(self._conditions[condition]))


def create_table(dynamodb: DynamoDBClient, name: str, properties: Mapping[str, Any]) -> str:
    """Make a table of a template, with the parts of it that reads and writes depend on; returns its ARN."""
    taken = ("AttributeDefinitions", "KeySchema", "BillingMode", "GlobalSecondaryIndexes")
    table = dynamodb.create_table(TableName=name, **{part: properties[part] for part in taken if part in properties})
    return str(table["TableDescription"]["TableArn"])
