"""The container of a SageMaker endpoint: built from serving/Dockerfile, run as SageMaker does, asked by an AWS SDK."""

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError
from waitress.server import create_server

from kickstand.classify.images import MAX_IMAGE_BYTES, prepare
from kickstand.classify.inference import EmbeddedModel
from kickstand.classify.invocations import BARE_LIST
from kickstand_cli.classify.serve import runtime
from kickstand_cli.project import MODEL, PROJECT

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

DOCKERFILE = PROJECT / "serving/Dockerfile"
IMAGE = "kickstand-serving:tested"
SAMPLES = PROJECT / "samples/images"
PNG = (PROJECT / "events/photo.png").read_bytes()
JPEG = (SAMPLES / "motorcycle/red-sport.jpg").read_bytes()

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.enable_socket]


def docker(*arguments: str) -> str:
    ran = subprocess.run(["docker", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout.strip()


@dataclass
class Container:
    identifier: str
    port: int

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        """Status and body of the answer."""
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=200)) as connection:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read()


@pytest.fixture(scope="module")
def container(fetch: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """`docker run <image> serve`, with the artefact where SageMaker unpacks it."""
    (base,) = re.findall(r"^FROM (\S+)$", DOCKERFILE.read_text("utf-8"), re.M)
    fetch(base)
    docker("build", "--file", "serving/Dockerfile", "--tag", IMAGE, ".")
    room = ["--memory", "2g"]  # what serving.yaml gives a serverless endpoint
    artefact = ["--volume", f"{MODEL}:/opt/ml/model:ro"]
    identifier = docker("run", "--detach", *room, *artefact, "--publish", "127.0.0.1::8080", IMAGE, "serve")
    try:
        yield Container(identifier, int(docker("port", identifier, "8080/tcp").rpartition(":")[2]))
    finally:
        docker("rm", "--force", identifier)


@pytest.fixture(scope="module")
def answering(container: Container) -> Container:
    """The container, once it answers /ping."""
    patience = time.monotonic() + 300
    while True:
        try:
            status, _ = container.ask("GET", "/ping")
        except OSError:
            status = 0
        if status == 200:
            return container
        assert time.monotonic() < patience, docker("logs", container.identifier)
        time.sleep(0.1)


@pytest.fixture(scope="module")
def sagemaker(answering: Container) -> Iterator[Any]:
    """An SDK's client of SageMaker's runtime, behind which the container stands."""

    def forward(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        kind, accept = environ.get("CONTENT_TYPE", ""), environ.get("HTTP_ACCEPT", "")
        status, answer = answering.ask("POST", environ["PATH_INFO"], body, Content_Type=kind, Accept=accept)
        start_response(f"{status} ", [("Content-Type", "application/json")])
        return [answer]

    server: Any = create_server(runtime(forward), host="127.0.0.1", port=0)
    threading.Thread(target=server.run, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", f"http://127.0.0.1:{server.effective_port}")
        client = boto3.client("sagemaker-runtime")
        yield client
        client.close()
    server.close()


def invoke(sagemaker: Any, body: bytes, kind: str, **accept: str) -> Any:
    answer = sagemaker.invoke_endpoint(EndpointName="photos", ContentType=kind, Body=body, **accept)
    return json.loads(answer["Body"].read())


@pytest.mark.parametrize(("kind", "body"), [("image/png", PNG), ("image/jpeg", JPEG), ("application/x-image", JPEG)])
def test_an_image_gets_the_answer_that_the_function_gives(sagemaker: Any, kind: str, body: bytes) -> None:
    model = EmbeddedModel(MODEL)
    expected = model.predict(prepare(body, "", model.card.input_shape))
    answer = invoke(sagemaker, body, kind)
    assert answer == expected.model_dump(include=set(answer))
    assert invoke(sagemaker, body, kind, Accept=BARE_LIST) == list(expected.probabilities.values())


@pytest.mark.parametrize(
    ("file", "reason"), [("empty.jpg", "0 bytes"), ("truncated.jpg", "upload incomplete"), ("document.pdf", "a PDF")]
)
def test_what_is_no_image_is_refused_with_the_reason(sagemaker: Any, file: str, reason: str) -> None:
    with pytest.raises(ClientError) as raised:
        invoke(sagemaker, (SAMPLES / "broken" / file).read_bytes(), "image/jpeg")
    assert raised.value.response["Error"]["Code"] == "ModelError"
    assert raised.value.response["OriginalStatusCode"] == 400  # type: ignore[typeddict-item]
    assert reason in json.loads(raised.value.response["OriginalMessage"])["error"]  # type: ignore[typeddict-item]


def test_what_is_larger_than_an_upload_may_be_is_refused(answering: Container) -> None:
    too_much = str(MAX_IMAGE_BYTES + 2)  # said, not sent
    assert answering.ask("POST", "/invocations", Content_Type="image/png", Content_Length=too_much)[0] == 413


def test_it_ends_when_it_is_told_to(answering: Container) -> None:
    docker("stop", "--time", "30", answering.identifier)  # after so long SageMaker kills, and then the code is 137
    assert docker("inspect", "--format", "{{.State.ExitCode}}", answering.identifier) == "0"
