"""`sam build` and `sam local`, for real: functions in their containers, on their sample events, against moto."""

import json
import os
import socket
import subprocess
import sys
import time
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
FUNCTIONS = {  # without those of nested stacks, whose layers SAM CLI does not find: docs/sam-local.md
    resource["Properties"]["CodeUri"].split("/")[1]: name
    for name, resource in load_yaml(PROJECT / "template.yaml")["Resources"].items()
    if resource["Type"] == "AWS::Serverless::Function"
}
ENVIRONMENT = {**os.environ, "SAM_CLI_TELEMETRY": "0"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.enable_socket]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def local_aws(fetch: Callable[[str], None], absent: Callable[[str, str], NoReturn]) -> Iterator[str]:
    """The address of events/local_aws.py, as a container and this test reach it."""
    fetch(IMAGE)
    if not SAM.exists():
        absent("container", "SAM CLI is not installed: make build")
    command = [sys.executable, "events/local_aws.py", "--port", str(free_port())]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            said = server.stdout.readline()
            yield said.split(" on ")[1].split(",")[0]
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def variables(local_aws: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """events/env.json, for this local AWS."""
    file = tmp_path_factory.mktemp("sam") / "env.json"
    file.write_text((PROJECT / "events/env.json").read_text("utf-8").replace("5055", local_aws.rsplit(":", 1)[1]))
    return file


@pytest.fixture(scope="module")
def invoke(variables: Path, built: Path) -> Callable[..., Any]:
    """Runs a command of docs/sam-local.md: `sam local invoke`."""

    def invoke(function: str, event: str = "") -> Any:
        arguments = [FUNCTIONS[function], "--event", f"events/{event or function}.json", "--env-vars", variables]
        ran = subprocess.run(
            [SAM, "local", "invoke", *arguments, "--skip-pull-image"],
            cwd=PROJECT,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert ran.stdout.strip(), ran.stderr  # exit status 0 says nothing: the function may have raised or been killed
        return json.loads(ran.stdout)

    return invoke


@pytest.fixture(scope="module")
def ask(variables: Path, built: Path) -> Iterator[Callable[[str], Any]]:
    """Asks `sam local start-lambda`, by an AWS SDK: it reads the template once, where each `invoke` does it anew."""
    port, log = free_port(), variables.parent / "start-lambda.log"
    arguments = ["--port", str(port), "--env-vars", str(variables), "--skip-pull-image"]
    command = [str(SAM), "local", "start-lambda", *arguments]
    with log.open("w") as file, subprocess.Popen(command, cwd=PROJECT, env=ENVIRONMENT, stderr=file) as server:
        while "Press CTRL+C" not in log.read_text("utf-8"):
            assert server.poll() is None, log.read_text("utf-8")
            time.sleep(0.1)
        client = boto3.client("lambda", endpoint_url=f"http://127.0.0.1:{port}")

        def ask(function: str) -> Any:
            event = json.dumps(sample(function))
            return json.loads(client.invoke(FunctionName=FUNCTIONS[function], Payload=event)["Payload"].read())

        try:
            yield ask
        finally:
            client.close()
            server.terminate()


def sample(event: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((PROJECT / f"events/{event}.json").read_bytes())
    return content


def test_prepare_image_reads_the_photo_from_the_bucket(invoke: Callable[[str], Any]) -> None:
    assert {**invoke("prepare_image"), "png": ""} == {**sample("classify_image"), "png": ""}


def test_classify_image_asks_the_model_in_its_layer(ask: Callable[[str], Any]) -> None:
    card = json.loads((PROJECT / "layers/model/model/model.json").read_bytes())
    answer = ask("classify_image")
    assert list(answer["probabilities"]) == card["labels"]
    assert (answer["backend"], answer["model_version"]) == ("embedded", card["model_version"])


def test_decide_chooses_a_route(ask: Callable[[str], Any]) -> None:
    assert ask("decide")["route"] in ("accept", "review", "reject")


def test_record_result_writes_the_record_once(ask: Callable[[str], Any], local_aws: str) -> None:
    assert ask("record_result")["duplicate"] is False
    assert ask("record_result")["duplicate"] is False  # the same execution again is a retry
    dynamodb = boto3.client("dynamodb", endpoint_url=local_aws)
    (record,) = map(from_item, dynamodb.scan(TableName="RecordsTable")["Items"])
    assert record.execution == sample("record_result")["execution"].rpartition(":")[2]


def test_check_golden_images_tells_codedeploy_even_that_it_could_not_check(ask: Callable[[str], Any]) -> None:
    told = " ".join(ask("check_golden_images")["stackTrace"])  # moto has no such call of CodeDeploy
    assert "put_lifecycle_event_hook_execution_status" in told


def test_the_report_is_drawn_by_the_libraries_of_lambdas_system(ask: Callable[[str], Any]) -> None:
    """tests/package runs the other functions too, on this machine's."""
    assert "errorType" not in (ask("report") or {})


def test_a_function_that_raises_says_so_on_stdout(invoke: Callable[..., Any]) -> None:
    answer = invoke("prepare_image", event="s3_object_created")  # of a version that this bucket does not have
    assert answer["errorType"] == "InvalidImage"
    assert answer["errorMessage"].endswith("uploads/bicycle.png: no longer there")
