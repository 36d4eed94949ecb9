"""State "Classify Image": ask the model, in this function or behind a SageMaker endpoint."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from kickstand.classify.photo_quality import find_flaw
from kickstand.classify.policy import decide
from kickstand.events import Prediction, PreparedImage, Route
from kickstand.settings import Settings

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.circuit_breaker import CircuitTransition

    from kickstand.classify.endpoint import GuardedEndpoint
    from kickstand.classify.inference import EmbeddedModel


class ClassifyImageSettings(Settings):
    model_dir: Path
    inference_backend: Literal["embedded", "sagemaker"]


class EndpointSettings(Settings):
    """The additional settings of the backend "sagemaker"."""

    endpoint_name: str
    endpoint_timeout_seconds: int
    endpoint_recovery_seconds: int
    control_table: str


logger = Logger()
metrics = Metrics()
version_metrics = EphemeralMetrics()
settings = ClassifyImageSettings.model_validate(os.environ)


def load_model() -> "EmbeddedModel | GuardedEndpoint":
    """The model that the deployment has chosen. Imports only what this model needs."""
    return load_embedded() if settings.inference_backend == "embedded" else guard_endpoint()


def load_embedded() -> "EmbeddedModel":
    from kickstand.classify.inference import EmbeddedModel

    return EmbeddedModel(settings.model_dir)


def guard_endpoint() -> "GuardedEndpoint":
    from kickstand.classify.artefact import read_card
    from kickstand.classify.endpoint import EndpointModel, GuardedEndpoint, connect

    its = EndpointSettings.model_validate(os.environ)
    runtime, circuits = connect(its.endpoint_timeout_seconds, its.control_table)
    endpoint = EndpointModel(runtime, its.endpoint_name, read_card(settings.model_dir))
    return GuardedEndpoint(endpoint, load_embedded, circuits, its.endpoint_recovery_seconds, on_transition)


def on_transition(transition: "CircuitTransition") -> None:
    logger.warning("circuit", before=transition.from_state, after=transition.to_state)
    if transition.to_state == "OPEN":
        metrics.add_metric(name="CircuitOpen", unit=MetricUnit.Count, value=1)


MODEL = load_model()


def count_review(image: PreparedImage, prediction: Prediction, version: str) -> None:
    """By version, so that a rollout is rolled back if the new version sends more photos to review."""
    if prediction.policy:
        asks = decide(prediction, prediction.policy, flaw=find_flaw(image.statistics)).route is Route.REVIEW
        version_metrics.add_dimension(name="version", value=version)
        version_metrics.add_metric(name="VersionReviewShare", unit=MetricUnit.NoUnit, value=float(asks))
        version_metrics.flush_metrics()


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    image = PreparedImage.model_validate(event)
    prediction = MODEL.predict(image)
    metrics.add_metric(name="InferenceLatency", unit=MetricUnit.Milliseconds, value=prediction.latency_ms)
    if prediction.fallback:
        metrics.add_metric(name="FallbackAnswers", unit=MetricUnit.Count, value=1)
        logger.warning("fallback", reason=prediction.fallback)
    count_review(image, prediction, context.function_version)
    logger.info(
        "classified",
        sha256=image.sha256,
        label=prediction.label,
        confidence=prediction.confidence,
        backend=prediction.backend,
        latency_ms=prediction.latency_ms,
    )
    return prediction.model_dump(mode="json")
