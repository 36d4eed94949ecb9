"""`kickstand serve`: SageMaker's inference contract over HTTP, through boto3."""

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from threading import Event, Semaphore
from time import sleep
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from kickstand.classify.container import listen, run
from kickstand.classify.images import MAX_IMAGE_BYTES, prepare
from kickstand.classify.inference import EmbeddedModel
from kickstand.classify.invocations import BARE_LIST, JSON, choose_type, serve
from kickstand.events import PreparedImage
from kickstand_cli.project import PROJECT

SAMPLES = PROJECT / "samples/images"
PNG = (PROJECT / "events/photo.png").read_bytes()
JPEG = (SAMPLES / "motorcycle/red-sport.jpg").read_bytes()
WEBP = (SAMPLES / "formats/twice-1.webp").read_bytes()


@pytest.fixture(scope="module")
def model() -> EmbeddedModel:
    return EmbeddedModel(PROJECT / "layers/model/model")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    command = [str(Path(sys.executable).parent / "kickstand"), "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline().rsplit(":", 1)[1])
        server.terminate()


@pytest.fixture
def sagemaker(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", f"http://127.0.0.1:{port}")
    client = boto3.client("sagemaker-runtime")
    yield client
    client.close()


def invoke(sagemaker: Any, body: bytes, kind: str = "image/jpeg", **accept: str) -> Any:
    answer = sagemaker.invoke_endpoint(EndpointName="photos", ContentType=kind, Body=body, **accept)
    return json.loads(answer["Body"].read())


def requested(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    """Status and body of what is answered; a Content-Length among the headers need not be the body's."""
    with closing(HTTPConnection("127.0.0.1", port)) as connection:
        connection.putrequest(method, path)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        with connection.getresponse() as answer:
            return answer.status, answer.read()


def test_a_ping_is_answered(port: int) -> None:
    assert requested(port, "GET", "/ping") == (200, b"")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("image/png", PNG),
        ("image/jpeg", JPEG),
        ("image/jpeg; q=1", JPEG),
        ("IMAGE/JPG", JPEG),
        ("image/webp", WEBP),
        ("application/x-image", PNG),
    ],
)
def test_an_image_gets_the_embedded_models_answer(sagemaker: Any, model: EmbeddedModel, kind: str, body: bytes) -> None:
    expected = model.predict(prepare(body, "", model.card.input_shape))
    answer = invoke(sagemaker, body, kind)
    assert answer == expected.model_dump(include=set(answer))
    assert answer.keys() == {"label", "confidence", "probabilities", "neither", "model_version"}


def test_what_the_workflow_has_prepared_is_not_changed_again(model: EmbeddedModel) -> None:
    prepared = PreparedImage.model_validate_json((PROJECT / "events/classify_image.json").read_bytes())
    again = prepare(base64.b64decode(prepared.png), "", model.card.input_shape)
    assert model.predict(again).probabilities == model.predict(prepared).probabilities


def test_the_built_in_algorithms_bare_list_is_in_label_order(sagemaker: Any, model: EmbeddedModel) -> None:
    probabilities = invoke(sagemaker, JPEG)["probabilities"]
    assert invoke(sagemaker, JPEG, Accept=BARE_LIST) == [probabilities[label] for label in model.card.labels]


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("empty.jpg", "0 bytes"),
        ("truncated.jpg", "upload incomplete; send it again"),
        ("document.pdf", "not a photo (a PDF)"),
        ("bomb-of-pixels.png", "more than 50,000,000 pixels"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(sagemaker: Any, file: str, reason: str) -> None:
    with pytest.raises(ClientError) as raised:
        invoke(sagemaker, (SAMPLES / "broken" / file).read_bytes())
    assert raised.value.response["Error"]["Code"] == "ModelError"
    assert raised.value.response["OriginalStatusCode"] == 400  # type: ignore[typeddict-item]
    assert reason in json.loads(raised.value.response["OriginalMessage"])["error"]  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/invocations", {"Content_Type": "text/csv"}, 415),
        ("POST", "/invocations", {"Content_Type": "application/octet-stream"}, 415),
        ("POST", "/invocations", {}, 415),
        ("POST", "/invocations", {"Content_Type": "image/png", "Accept": "text/csv"}, 406),
        ("POST", "/invocations", {"Content_Type": "image/png", "Content_Length": str(MAX_IMAGE_BYTES + 2)}, 413),
        ("GET", "/invocations", {}, 405),
        ("POST", "/ping", {}, 405),
        ("GET", "/", {}, 404),
    ],
)
def test_a_request_outside_the_contract_is_refused(
    port: int, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answered, content = requested(port, method, path, b"x", **headers)
    assert answered == status
    assert content


def test_many_at_once_get_each_their_own_answer(sagemaker: Any) -> None:
    bodies = [PNG, JPEG] * 16
    alone = [invoke(sagemaker, body) for body in bodies[:2]]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda body: invoke(sagemaker, body), bodies)) == alone * 16


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", JSON),
        ("application/json, text/plain, */*", JSON),  # axios
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", JSON),  # Java
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", JSON),  # browsers
        ("APPLICATION/JSON", JSON),
        ("application/json; charset=utf-8", JSON),
        ("application/json;q=0.1", JSON),
        ("text/html, *; q=.2", JSON),
        ("text/csv, application/json;q=0.001", JSON),
        ("application/*", JSON),
        (" , application/json ,, ", JSON),
        ('text/x; note="a, b; q=0", application/json', JSON),
        (BARE_LIST, BARE_LIST),
        ("application/json ; Answer=probabilities", BARE_LIST),
        ('application/json;answer="probabilities"', BARE_LIST),
        ("application/json;answer=probabilities, application/json;q=0.5", BARE_LIST),
        ("application/json;answer=probabilities;q=0.5, application/json", JSON),
        ("application/json;answer=probabilities;q=0, */*", JSON),
        ("*/*, application/json;q=0", None),
        ("application/json;q=0", None),
        ("*/*;q=0", None),
        ("text/csv", None),
        ("application/jsonlines", None),
        ("application/json;answer=words", None),
        ("nonsense", None),
        ("application/json;q=NaN", None),
        ("application/json;q=2", None),
    ],
)
def test_an_accept_header_chooses_the_kind_of_answer(accept: str, expected: str | None) -> None:
    assert choose_type(accept) == expected


def test_a_port_that_is_used_is_named(port: int) -> None:
    command = [str(Path(sys.executable).parent / "kickstand"), "serve", "--port", str(port)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"error: port {port}: Address already in use; choose another with --port\n"


def test_a_list_of_types_is_answered(port: int) -> None:
    headers = {"Content_Type": "image/png", "Accept": "application/json, text/plain, */*"}
    status, body = requested(port, "POST", "/invocations", PNG, **headers)
    assert (status, "label" in json.loads(body)) == (200, True)


class Slow:
    """An application that answers once it is let."""

    def __init__(self) -> None:
        self.begun, self.let = Semaphore(0), Event()

    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        self.begun.release()
        self.let.wait()
        start_response("200 OK", [("Content-Length", "100000")])
        return [b"x" * 100_000]


def test_what_has_been_asked_is_answered_after_sigterm() -> None:
    """Two are being answered, two wait for a thread; all get whole answers, and nobody is let in any more."""
    slow = Slow()
    server = listen(slow, "127.0.0.1", 0, threads=2)
    port = server.effective_port

    def stop_amid() -> list[tuple[int, int]]:
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(requested, port, "GET", "/") for _ in range(4)]
            for _ in range(2):
                slow.begun.acquire()
            while len(server.active_channels) < 4 or not server.task_dispatcher.queue:
                sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
            while server.socket.fileno() >= 0:
                sleep(0.01)
            slow.let.set()
            return [(status, len(body)) for status, body in (one.result() for one in asked)]

    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(stop_amid)
        run(server, stop_seconds=60)
        assert answers.result() == [(200, 100_000)] * 4
    with pytest.raises(OSError, match=r"refused|closed"):
        requested(port, "GET", "/")


def test_an_idle_connection_does_not_keep_the_server(model: EmbeddedModel) -> None:
    server = listen(serve(model), "127.0.0.1", 0, threads=1)
    with closing(HTTPConnection("127.0.0.1", server.effective_port)) as connection, ThreadPoolExecutor(1) as pool:

        def stop_idle() -> None:
            connection.request("GET", "/ping")
            connection.getresponse().read()
            os.kill(os.getpid(), signal.SIGTERM)

        done = pool.submit(stop_idle)
        run(server, stop_seconds=3600)
        done.result()


def test_what_takes_longer_than_the_server_may_wait_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    slow = Slow()
    server = listen(slow, "127.0.0.1", 0, threads=1)
    with ThreadPoolExecutor(1) as pool:

        def ask() -> None:
            with closing(HTTPConnection("127.0.0.1", server.effective_port)) as connection:
                connection.request("GET", "/")
                slow.begun.acquire()
                os.kill(os.getpid(), signal.SIGTERM)
                with pytest.raises(OSError, match=r".*"):
                    connection.getresponse()

        asked = pool.submit(ask)
        run(server, stop_seconds=0)
        slow.let.set()
        asked.result()
    assert "1 connections were not answered" in caplog.text
