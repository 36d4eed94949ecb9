"""The model behind a SageMaker endpoint: the same predictions as the embedded one."""

import base64
import json
import time
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from kickstand.artefact import ModelCard
from kickstand.errors import ModelUnavailable
from kickstand.events import Prediction, PreparedImage

if TYPE_CHECKING:
    from mypy_boto3_sagemaker_runtime import SageMakerRuntimeClient


class EndpointModel:
    """A SageMaker endpoint that answers image/png with JSON.

    Two answers are understood: `{"probabilities": {label: p, …}, "neither": p, "model_version": v}`, and the bare
    list of probabilities, in label order, of SageMaker's built-in image classification, which cannot say "neither".
    https://docs.aws.amazon.com/sagemaker/latest/dg/IC-HowItWorks.html
    """

    def __init__(self, runtime: "SageMakerRuntimeClient", name: str, card: ModelCard) -> None:
        self._runtime, self._name, self._card = runtime, name, card

    def predict(self, image: PreparedImage) -> Prediction:
        """The endpoint's prediction; latency_ms includes the network.

        Raises ModelUnavailable when the endpoint fails, or when its answer is not one of the two.
        """
        started = time.perf_counter()
        try:
            answer = self._runtime.invoke_endpoint(
                EndpointName=self._name,
                ContentType="image/png",
                Accept="application/json",
                Body=base64.b64decode(image.png),
            )
            body = answer["Body"].read()
        except (BotoCoreError, ClientError) as error:
            raise ModelUnavailable(f"endpoint {self._name}: {error}") from error
        elapsed = (time.perf_counter() - started) * 1000
        try:
            return read_answer(json.loads(body), self._card, self._name, elapsed)
        except (ValueError, KeyError, TypeError) as error:
            raise ModelUnavailable(f"endpoint {self._name}: unreadable answer {body[:200]!r}: {error}") from error


def read_answer(answer: Any, card: ModelCard, endpoint: str, latency_ms: float) -> Prediction:
    """The prediction in an endpoint's answer.

    Raises ValueError, KeyError or TypeError where it is neither of the two that `EndpointModel` knows.
    """
    if isinstance(answer, list):
        probabilities = dict(zip(card.labels, answer, strict=True))
        neither, version = 0.0, f"endpoint:{endpoint}"
    else:
        probabilities = {label: answer["probabilities"][label] for label in card.labels}
        neither, version = answer["neither"], answer["model_version"]
    return Prediction.of(
        probabilities,
        neither=neither,
        model_version=version,
        backend="sagemaker",
        latency_ms=latency_ms,
        policy=card.policy,
    )
