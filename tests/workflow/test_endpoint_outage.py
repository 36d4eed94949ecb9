"""The endpoint dies, comes back and hangs while images come in: each gets a decision, its record says by whom."""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import pytest

from kickstand.classify.endpoint import FAILURES_IN_A_ROW
from kickstand.classify.inference import EmbeddedModel
from kickstand.classify.invocations import serve
from kickstand.events import Prediction
from kickstand_cli.classify.serve import runtime
from kickstand_cli.local.stack import Stack, deploy
from kickstand_cli.project import PROJECT

PHOTOS = sorted((PROJECT / "layers/model/golden").rglob("*.jpg"))
SETTINGS = {
    "InferenceBackend": "sagemaker",
    "EndpointName": "photos",
    "EndpointRecoverySeconds": "3600",  # longer than any test: `recovery_time_passes` ends it
    "AuditRate": "0",
}


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None: ...


class Endpoint:
    """Answers on one port; can die, start again, and hang."""

    def __init__(self) -> None:
        self.app = runtime(serve(EmbeddedModel(PROJECT / "layers/model/model")))
        self.port, self.requests = 0, 0
        self.released = threading.Event()
        self.released.set()

    def start(self) -> None:
        self.server = Server(("127.0.0.1", self.port), Quiet)
        self.port = self.server.server_port
        self.server.set_app(self.answer)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.requests += 1
        self.released.wait()
        return self.app(environ, start_response)

    def die(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    endpoint.start()
    yield endpoint
    endpoint.released.set()
    endpoint.die()


@pytest.fixture
def stack(endpoint: Endpoint, timeout_seconds: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    with deploy(PROJECT / "template.yaml", SETTINGS | {"EndpointTimeoutSeconds": str(timeout_seconds)}) as stack:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", f"http://127.0.0.1:{endpoint.port}")
        yield stack


def answers(stack: Stack, phase: str, photos: int = 12) -> list[Prediction]:
    for number in range(photos):
        photo = PHOTOS[number % len(PHOTOS)]
        stack.upload(f"{phase}/{number}.jpg", photo.read_bytes())
    stack.settle()
    records = [record for record in stack.records() if f"/{phase}/" in record.image]
    assert len(records) == photos
    return [record.prediction for record in records if record.prediction]


CIRCUIT: Any = {"TableName": "ControlTable", "Key": {"id": {"S": "endpoint:photos"}}}


def state(stack: Stack) -> str:
    return stack.dynamodb.get_item(**CIRCUIT)["Item"]["state"]["S"]


def by_backend(predictions: list[Prediction]) -> Counter[str]:
    for prediction in predictions:
        assert (prediction.backend == "embedded") == bool(prediction.fallback)
    return Counter(prediction.backend for prediction in predictions)


def recovery_time_passes(stack: Stack) -> None:
    """As if the circuit had been opened long ago; in a new sandbox, for one remembers the circuit for some seconds."""
    long_ago: Any = {":long_ago": {"N": "0"}}
    stack.dynamodb.update_item(
        **CIRCUIT, UpdateExpression="SET opened_at = :long_ago", ExpressionAttributeValues=long_ago
    )
    stack.functions["ClassifyImageFunction"].handler = None


@pytest.mark.parametrize("timeout_seconds", [60])  # an endpoint that answers is waited for, however busy the machine is
def test_every_image_gets_a_decision_while_the_endpoint_dies(stack: Stack, endpoint: Endpoint) -> None:
    assert by_backend(answers(stack, "healthy")) == {"sagemaker": 12}

    endpoint.die()
    dead = answers(stack, "dead")
    assert by_backend(dead) == {"embedded": 12}
    assert sum("Could not connect" in str(answer.fallback) for answer in dead) == FAILURES_IN_A_ROW  # then: not asked
    assert state(stack) == "OPEN"

    endpoint.start()
    recovery_time_passes(stack)
    assert by_backend(answers(stack, "restarted")) == {"sagemaker": 12}
    assert state(stack) == "CLOSED"

    assert len(stack.records()) == 36
    assert stack.dead_letters() == []
    assert stack.ledger().missing == 0


@pytest.mark.parametrize("timeout_seconds", [1])
def test_every_image_gets_a_decision_while_the_endpoint_hangs(stack: Stack, endpoint: Endpoint) -> None:
    endpoint.released.clear()
    hanging = answers(stack, "hanging")
    assert by_backend(hanging) == {"embedded": 12}
    assert sum("Read timeout" in str(answer.fallback) for answer in hanging) == FAILURES_IN_A_ROW
    assert endpoint.requests == FAILURES_IN_A_ROW
    assert state(stack) == "OPEN"
    assert stack.dead_letters() == []
    assert stack.ledger().missing == 0
