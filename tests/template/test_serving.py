"""What serving.yaml promises: an endpoint that may do little, whose data is kept safe, and whose updates go back."""

import re
from typing import Any

import pytest

from kickstand_cli.local.template import load_yaml
from kickstand_cli.project import PROJECT

MAIN: dict[str, Any] = load_yaml(PROJECT / "template.yaml")
SERVING: dict[str, Any] = load_yaml(PROJECT / "serving.yaml")
RESOURCES: dict[str, dict[str, Any]] = SERVING["Resources"]
STATEMENTS: list[dict[str, Any]] = [
    statement.get("Fn::If", [None, statement])[1]
    for policy in RESOURCES["EndpointRole"]["Properties"]["Policies"]
    for statement in policy["PolicyDocument"]["Statement"]
]


def of(name: str) -> dict[str, Any]:
    properties: dict[str, Any] = RESOURCES[name]["Properties"]
    return properties


def test_it_is_off_by_default_and_then_nothing_of_it_is_made() -> None:
    assert MAIN["Parameters"]["Serving"]["Default"] == "none"
    assert MAIN["Conditions"]["Serves"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "Serving"}, "none"]}]}
    stack = MAIN["Resources"]["ServingStack"]
    assert (stack["Condition"], stack["Properties"]["TemplateURL"]) == ("Serves", "serving.yaml")


def test_the_main_template_gives_every_parameter_that_has_no_default() -> None:
    given = MAIN["Resources"]["ServingStack"]["Properties"]["Parameters"].keys()
    assert given <= SERVING["Parameters"].keys()
    assert given >= {name for name, item in SERVING["Parameters"].items() if "Default" not in item}


def test_captured_data_is_private_encrypted_expires_and_is_reached_by_tls_only() -> None:
    bucket = of("CaptureBucket")
    assert bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert bucket["LifecycleConfiguration"]["Rules"][0]["ExpirationInDays"]
    (denied,) = of("CaptureBucketPolicy")["PolicyDocument"]["Statement"]
    assert (denied["Effect"], denied["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})


def test_instances_capture_requests_and_answers_and_serverless_is_not_asked_to() -> None:
    condition, capture, otherwise = of("EndpointConfig")["DataCaptureConfig"]["Fn::If"]
    assert (condition, otherwise) == ("OnInstances", {"Ref": "AWS::NoValue"})
    assert capture["EnableCapture"] is True
    assert {option["CaptureMode"] for option in capture["CaptureOptions"]} == {"Input", "Output"}


def test_an_update_takes_part_of_the_traffic_first_and_alarms_roll_it_back() -> None:
    deployment = of("Endpoint")["DeploymentConfig"]
    routing = deployment["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    assert routing["Type"] == "CANARY"
    assert routing["CanarySize"]["Value"] <= 50  # SageMaker refuses more
    watched = {alarm["AlarmName"]["Ref"] for alarm in deployment["AutoRollbackConfiguration"]["Alarms"]}
    assert watched == {name for name, item in RESOURCES.items() if item["Type"] == "AWS::CloudWatch::Alarm"}


def test_the_variant_keeps_its_name_so_that_an_update_can_be_blue_green() -> None:
    _, *variants = of("EndpointConfig")["ProductionVariants"][0]["Fn::If"]
    assert {variant["VariantName"] for variant in variants} == {"live"}


def test_a_canary_finds_two_instances_at_least() -> None:
    assert SERVING["Parameters"]["MinInstances"]["MinValue"] >= 2


def test_scaling_follows_the_load_out_quickly_and_in_slowly() -> None:
    policy = of("EndpointScalingPolicy")["TargetTrackingScalingPolicyConfiguration"]
    assert policy["ScaleOutCooldown"] < policy["ScaleInCooldown"]
    assert policy["PredefinedMetricSpecification"]["PredefinedMetricType"] == "SageMakerVariantInvocationsPerInstance"


def test_the_endpoints_log_expires_and_is_the_only_one_that_it_may_write() -> None:
    logs, endpoint = of("EndpointLogs"), of("Endpoint")
    assert logs["RetentionInDays"]
    name, values = logs["LogGroupName"]["Fn::Sub"]
    assert name == "/aws/sagemaker/Endpoints/" + endpoint["EndpointName"]["Fn::Sub"][0]
    assert values == endpoint["EndpointName"]["Fn::Sub"][1]
    assert [item["Resource"] for item in STATEMENTS if "logs:PutLogEvents" in item["Action"]] == [
        {"Fn::Sub": "${EndpointLogs.Arn}"}
    ]


@pytest.mark.parametrize(("name", "allowed"), [("", True), ("photos-2", True), ("Photos", False), ("photoS", False)])
def test_only_an_endpoint_without_capitals_can_be_named_for_its_arn_has_none(name: str, allowed: bool) -> None:
    assert bool(re.search(MAIN["Parameters"]["EndpointName"]["AllowedPattern"], name)) is allowed


def test_the_endpoint_that_the_stack_brings_has_no_capitals_in_its_name() -> None:
    name, values = of("Endpoint")["EndpointName"]["Fn::Sub"]
    assert re.sub(r"\$\{\w+\}", "", name).islower()
    assert values == {"Id": {"Fn::Select": [2, {"Fn::Split": ["/", {"Ref": "AWS::StackId"}]}]}}  # a UUID
