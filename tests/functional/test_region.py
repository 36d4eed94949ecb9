"""One rule names the region of commands and of make deploy."""

import json
from pathlib import Path

import boto3
import pytest
from moto import mock_aws
from typer.testing import CliRunner

from kickstand_cli.deployment import find_region, name_region, use_region
from kickstand_cli.main import app
from kickstand_cli.terminal import CommandError


@pytest.fixture(autouse=True)
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No region in the environment, and two profiles: one with a region, one without."""
    config = tmp_path / "config"
    config.write_text("[profile work]\nregion = eu-north-1\n\n[profile bare]\noutput = json\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


@pytest.mark.parametrize(
    ("environment", "region"),
    [
        ({"AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "us-west-2", "AWS_PROFILE": "work"}, "eu-central-1"),
        ({"AWS_DEFAULT_REGION": "us-west-2", "AWS_PROFILE": "work"}, "us-west-2"),
        ({"AWS_REGION": "", "AWS_PROFILE": "work"}, "eu-north-1"),
    ],
)
def test_the_environment_names_the_region_before_the_profile(
    environment: dict[str, str], region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert find_region() == region


def test_without_a_region_nothing_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "bare")

    with pytest.raises(CommandError, match="AWS_REGION"):
        find_region()


def test_every_client_of_a_command_uses_the_region_that_it_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_REGION", "ap-southeast-2")

    name_region(use_region())

    assert boto3.client("s3").meta.region_name == "ap-southeast-2"
    assert "ap-southeast-2" in capsys.readouterr().err


@mock_aws
def test_a_command_reads_the_stack_in_the_region_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    boto3.client("dynamodb", region_name="eu-central-1").create_table(
        TableName="control",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
    )
    outputs = tmp_path / "outputs.json"
    outputs.write_text(json.dumps({"ControlTableName": "control"}))

    result = CliRunner().invoke(app, ["switch", "status", "--outputs", str(outputs)])

    assert (result.exit_code, result.stderr) == (0, "AWS region: eu-central-1\n"), result.output
