"""The local reader of SAM templates resolves what CloudFormation would, and says what it cannot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kickstand_cli.local.template import Template, TemplateError

TEMPLATE = """
Parameters:
  Kind: {Type: String, Default: small, AllowedValues: [small, large]}
  Count: {Type: Number, Default: 3}
  Needed: {Type: String}
Conditions:
  IsLarge: !Equals [!Ref Kind, large]
  IsSmallAndNeeded: !And [!Not [!Condition IsLarge], !Or [!Equals [!Ref Needed, "yes"], !Equals [1, 2]]]
Resources:
  Queue: {Type: AWS::SQS::Queue}
  OnlyLarge: {Type: AWS::SQS::Queue, Condition: IsLarge}
Outputs: {}
"""


def read(tmp_path: Path, parameters: Mapping[str, str] | None = None, text: str = TEMPLATE) -> Template:
    path = tmp_path / "template.yaml"
    path.write_text(text)
    return Template(
        path,
        {"Needed": "yes", **(parameters or {})},
        reference=lambda resource: f"ref-of-{resource}",
        attribute=lambda resource, attribute: f"{resource}/{attribute}",
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"Ref": "Kind"}, "small"),
        ({"Ref": "Count"}, "3"),
        ({"Ref": "Queue"}, "ref-of-Queue"),
        ({"Ref": "AWS::Region"}, "us-east-1"),
        ({"Fn::GetAtt": "Queue.Arn"}, "Queue/Arn"),
        ({"Fn::GetAtt": ["Queue", "Arn"]}, "Queue/Arn"),
        ({"Fn::Sub": "${Queue.Arn}/${Kind}/${AWS::Partition}"}, "Queue/Arn/small/aws"),
        ({"Fn::Sub": ["${Own}-${Kind}", {"Own": {"Ref": "Queue"}}]}, "ref-of-Queue-small"),
        ({"Fn::Sub": "${!Literal}"}, "${Literal}"),
        ({"Fn::If": ["IsLarge", 1, 2]}, 2),
        ({"Fn::If": ["IsSmallAndNeeded", 1, 2]}, 1),
        ({"Fn::Join": ["-", ["a", {"Ref": "Kind"}]]}, "a-small"),
        ([1, {"Ref": "AWS::NoValue"}, 2], [1, 2]),
        ({"kept": 1, "dropped": {"Fn::If": ["IsLarge", 1, {"Ref": "AWS::NoValue"}]}}, {"kept": 1}),
    ],
)
def test_intrinsic_functions_are_resolved(tmp_path: Path, value: Any, expected: Any) -> None:
    assert read(tmp_path).resolve(value) == expected


def test_conditions_decide_what_exists(tmp_path: Path) -> None:
    assert not read(tmp_path).wanted("OnlyLarge")
    assert read(tmp_path, {"Kind": "large"}).wanted("OnlyLarge")
    assert read(tmp_path).wanted("Queue")


@pytest.mark.parametrize(
    ("parameters", "text", "message"),
    [
        ({"Absent": "x"}, TEMPLATE, "no parameter Absent"),
        ({"Kind": "huge"}, TEMPLATE, "Kind is 'huge', not one of"),
        ({}, TEMPLATE.replace("Needed: {", "Other: {"), "no parameter Needed"),
        ({}, "Resources: [", "template.yaml"),
    ],
)
def test_what_the_template_does_not_allow_is_refused_by_name(
    tmp_path: Path, parameters: dict[str, str], text: str, message: str
) -> None:
    with pytest.raises(TemplateError, match=message):
        read(tmp_path, parameters, text)


def test_a_parameter_without_a_value_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "template.yaml"
    path.write_text(TEMPLATE)
    with pytest.raises(TemplateError, match="Needed needs a value"):
        Template(path, {}, reference=str, attribute=lambda resource, attribute: resource + attribute)


def test_an_unknown_function_is_an_error_not_a_guess(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="Fn::Base64"):
        read(tmp_path).resolve({"Fn::Base64": "x"})
