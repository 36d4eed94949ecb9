"""`sam build` and `sam local invoke`, for real: every function in its container, on its sample event, against moto."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import boto3
import pytest

from kickstand.store import from_item
from kickstand_cli.local.template import load_yaml

PROJECT = Path(__file__).parents[2]
SAM = PROJECT / ".venv-sam/bin/sam"
IMAGE = "public.ecr.aws/lambda/python:3.13-x86_64"
FUNCTIONS = {
    resource["Properties"]["CodeUri"].split("/")[1]: name
    for name, resource in load_yaml(PROJECT / "template.yaml")["Resources"].items()
    if resource["Type"] == "AWS::Serverless::Function"
}
TESTED = {"prepare_image", "classify_image", "decide", "record_result", "check_golden_images"}  # one by one, below

pytestmark = [pytest.mark.timeout(600), pytest.mark.enable_socket]


def succeeds(*command: str, seconds: float = 20) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=seconds, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@pytest.fixture(scope="module")
def engine(absent: Callable[[str, str], NoReturn]) -> None:
    """A container engine that answers, Lambda's base image, and SAM CLI."""
    if not succeeds("docker", "info"):
        absent("container", "no container engine answers (docker info)")
    if not succeeds("docker", "image", "inspect", IMAGE) and not succeeds("docker", "pull", IMAGE, seconds=300):
        absent("container", f"{IMAGE} is not here and cannot be pulled")
    if not SAM.exists():
        absent("container", "SAM CLI is not installed: make build")


@pytest.fixture(scope="module")
def local_aws(engine: None) -> Iterator[str]:
    """The address of events/local_aws.py, as a container and this test reach it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "events/local_aws.py", "--port", str(port)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            said = server.stdout.readline()
            yield said.split(" on ")[1].split(",")[0]
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def invoke(local_aws: str, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Runs the commands of docs/sam-local.md."""
    port = local_aws.rsplit(":", 1)[1]
    variables = tmp_path_factory.mktemp("sam") / "env.json"
    variables.write_text((PROJECT / "events/env.json").read_text("utf-8").replace("5055", port), "utf-8")

    def invoke(function: str, event: str = "") -> Any:
        arguments = [FUNCTIONS[function], "--event", f"events/{event or function}.json", "--env-vars", str(variables)]
        ran = subprocess.run(
            [SAM, "local", "invoke", *arguments, "--skip-pull-image"],
            cwd=PROJECT,
            env={**os.environ, "SAM_CLI_TELEMETRY": "0"},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert ran.stdout.strip(), ran.stderr  # exit status 0 says nothing: the function may have raised or been killed
        return json.loads(ran.stdout)

    return invoke


def sample(event: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((PROJECT / f"events/{event}.json").read_bytes())
    return content


def test_prepare_image_reads_the_photo_from_the_bucket(invoke: Callable[[str], Any]) -> None:
    assert {**invoke("prepare_image"), "png": ""} == {**sample("classify_image"), "png": ""}


def test_classify_image_asks_the_model_in_its_layer(invoke: Callable[[str], Any]) -> None:
    card = json.loads((PROJECT / "layers/model/model/model.json").read_bytes())
    answer = invoke("classify_image")
    assert list(answer["probabilities"]) == card["labels"]
    assert (answer["backend"], answer["model_version"]) == ("embedded", card["model_version"])


def test_decide_chooses_a_route(invoke: Callable[[str], Any]) -> None:
    assert invoke("decide")["route"] in ("accept", "review", "reject")


def test_record_result_writes_the_record_once(invoke: Callable[[str], Any], local_aws: str) -> None:
    assert invoke("record_result")["duplicate"] is False
    assert invoke("record_result")["duplicate"] is False  # the same execution again is a retry
    dynamodb = boto3.client("dynamodb", endpoint_url=local_aws)
    (record,) = map(from_item, dynamodb.scan(TableName="RecordsTable")["Items"])
    assert record.execution == sample("record_result")["execution"]


def test_check_golden_images_tells_codedeploy_even_that_it_could_not_check(invoke: Callable[[str], Any]) -> None:
    told = " ".join(invoke("check_golden_images")["stackTrace"])  # moto has no such call of CodeDeploy
    assert "put_lifecycle_event_hook_execution_status" in told


@pytest.mark.parametrize("function", sorted(FUNCTIONS.keys() - TESTED))
def test_every_other_function_answers(invoke: Callable[[str], Any], function: str) -> None:
    assert "errorType" not in (invoke(function) or {})


def test_a_function_that_raises_says_so_on_stdout(invoke: Callable[..., Any]) -> None:
    answer = invoke("prepare_image", event="s3_object_created")  # of a version that this bucket does not have
    assert answer["errorType"] == "InvalidImage"
    assert answer["errorMessage"].endswith("uploads/bicycle.png: no longer there")
