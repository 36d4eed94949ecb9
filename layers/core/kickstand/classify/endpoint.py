"""The model behind a SageMaker endpoint: the embedded model classifies if the endpoint cannot."""

import base64
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import boto3
from aws_lambda_powertools.utilities.circuit_breaker import (
    CircuitBreakerConfig,
    CircuitBreakerOpenError,
    CircuitTransition,
    circuit_breaker,
)
from aws_lambda_powertools.utilities.circuit_breaker.persistence import (
    CircuitBreakerDynamoDBPersistence,
    CircuitBreakerPersistenceLayer,
)
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from kickstand.classify.artefact import ModelCard, read_probabilities, read_probability
from kickstand.clients import SageMakerRuntimeClient
from kickstand.errors import ModelUnavailable
from kickstand.events import Prediction, PreparedImage

LONGEST_VERSION = 256
FAILURES_IN_A_ROW = 3  # in one sandbox: each has made a photo wait for the endpoint's timeout


if TYPE_CHECKING:
    from kickstand.classify.inference import EmbeddedModel


class EndpointModel:
    """A SageMaker endpoint that answers image/png with JSON.

    Two kinds of answer are supported: `{"probabilities": {class: p, …}, "neither": p, "model_version": v}`, and the
    plain list of probabilities of SageMaker's built-in image classification, which has no "neither".
    https://docs.aws.amazon.com/sagemaker/latest/dg/IC-HowItWorks.html
    """

    def __init__(self, runtime: SageMakerRuntimeClient, name: str, card: ModelCard) -> None:
        self._runtime, self.name, self._card = runtime, name, card

    def predict(self, image: PreparedImage) -> Prediction:
        """The endpoint's prediction; latency_ms includes the network.

        Raises ModelUnavailable if the endpoint fails, or its answer is not one of the two kinds.
        """
        started = time.perf_counter()
        try:
            answer = self._runtime.invoke_endpoint(
                EndpointName=self.name,
                ContentType="image/png",
                Accept="application/json",
                Body=base64.b64decode(image.png),
            )
            body = answer["Body"].read()
        except (BotoCoreError, ClientError) as error:
            raise ModelUnavailable(f"endpoint {self.name}: {error}") from error
        elapsed = (time.perf_counter() - started) * 1000
        try:
            return read_answer(json.loads(body), self._card, self.name, elapsed)
        except (ValueError, RecursionError) as error:
            raise ModelUnavailable(f"endpoint {self.name}: unreadable answer {body[:200]!r}: {error}") from error


class GuardedEndpoint:
    """An endpoint behind a circuit breaker, and the embedded model behind both: every photo gets a prediction.

    load_fallback: called once, at the first photo that the endpoint does not classify.
    circuits: the circuit's state, shared by all sandboxes; if it cannot be read, the endpoint is called.
    recovery_seconds: how long an open circuit stays open before one sandbox tries the endpoint with one photo, which is
        classified either way. One success closes the circuit: the sandbox may never get a second photo.
    on_transition: called at every change of the circuit's state.

    Circuit breaker: Nygard, Release It!, 2nd edition (2018), chapter 5.
    """

    def __init__(
        self,
        endpoint: EndpointModel,
        load_fallback: "Callable[[], EmbeddedModel]",
        circuits: CircuitBreakerPersistenceLayer,
        recovery_seconds: int,
        on_transition: Callable[[CircuitTransition], None],
    ) -> None:
        config = CircuitBreakerConfig(FAILURES_IN_A_ROW, recovery_seconds, success_threshold=1)
        guard = circuit_breaker(f"endpoint:{endpoint.name}", circuits, on_transition=on_transition, config=config)
        self._ask: Callable[[PreparedImage], Prediction] = guard(endpoint.predict)
        self._load_fallback = load_fallback
        self._fallback: EmbeddedModel | None = None

    def predict(self, image: PreparedImage) -> Prediction:
        """The endpoint's prediction, else the embedded model's, which says why.

        Raises ModelUnavailable if that cannot be loaded either.
        """
        try:
            return self._ask(image)
        except CircuitBreakerOpenError:
            why = "the circuit is open, because the endpoint failed a moment ago"
        except ModelUnavailable as error:
            why = str(error)[:300]
        self._fallback = self._fallback or self._load_fallback()
        return self._fallback.predict(image).model_copy(update={"fallback": why})


def connect(
    timeout_seconds: int, control_table: str
) -> tuple[SageMakerRuntimeClient, CircuitBreakerDynamoDBPersistence]:
    """Clients of SageMaker's runtime and of the table of circuits, with short timeouts."""

    def once(read_timeout: int) -> Config:  # the breaker and the fallback are the second attempt
        return Config(connect_timeout=1, read_timeout=read_timeout, retries={"total_max_attempts": 1})

    runtime = boto3.client("sagemaker-runtime", config=once(timeout_seconds))
    dynamodb = boto3.client("dynamodb", config=once(1))
    return runtime, CircuitBreakerDynamoDBPersistence(control_table, expiry_attr="expires_at", boto3_client=dynamodb)


def read_answer(answer: Any, card: ModelCard, endpoint: str, latency_ms: float) -> Prediction:
    """The prediction in an endpoint's answer. Raises ValueError unless it is one of the two kinds that `EndpointModel`
    supports, with valid probabilities.
    """
    if isinstance(answer, list):
        probabilities, neither, version = read_probabilities(answer, card.labels), 0.0, f"endpoint:{endpoint}"
    elif isinstance(answer, dict) and answer.keys() >= {"probabilities", "neither", "model_version"}:
        probabilities = read_probabilities(answer["probabilities"], card.labels)
        neither, version = read_probability(answer["neither"], "neither"), answer["model_version"]
        if not isinstance(version, str) or not version or len(version) > LONGEST_VERSION:
            raise ValueError(f"model_version: {str(version)[:40]!r} is no name of a model")
    else:
        raise ValueError("neither a list of probabilities nor an object with probabilities, neither and model_version")
    return Prediction.of(
        probabilities,
        neither=neither,
        model_version=version,
        backend="sagemaker",
        latency_ms=latency_ms,
        policy=card.policy,
    )
