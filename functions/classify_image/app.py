"""State "Classify Image": ask the model, in this function or behind a SageMaker endpoint."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from kickstand.classify.photo_quality import find_flaw
from kickstand.classify.policy import decide
from kickstand.events import Prediction, PreparedImage, Route

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.circuit_breaker import CircuitTransition

    from kickstand.classify.endpoint import GuardedEndpoint
    from kickstand.classify.inference import EmbeddedModel

logger = Logger()
metrics = Metrics()
version_metrics = EphemeralMetrics()


def load_model() -> "EmbeddedModel | GuardedEndpoint":
    """The model that the deployment chose; what only the other one needs is not imported."""
    artefact = Path(os.environ["MODEL_DIR"])
    match os.environ["INFERENCE_BACKEND"]:
        case "embedded":
            return load_embedded(artefact)
        case "sagemaker":
            return guard_endpoint(artefact)
        case backend:
            raise ValueError(f"INFERENCE_BACKEND is {backend!r}, not 'embedded' or 'sagemaker'")


def load_embedded(artefact: Path) -> "EmbeddedModel":
    from kickstand.classify.inference import EmbeddedModel

    return EmbeddedModel(artefact)


def guard_endpoint(artefact: Path) -> "GuardedEndpoint":
    from kickstand.classify.artefact import read_card
    from kickstand.classify.endpoint import EndpointModel, GuardedEndpoint, connect

    runtime, circuits = connect(int(os.environ["ENDPOINT_TIMEOUT_SECONDS"]), os.environ["CONTROL_TABLE"])
    endpoint = EndpointModel(runtime, os.environ["ENDPOINT_NAME"], read_card(artefact))
    recovery_seconds = int(os.environ["ENDPOINT_RECOVERY_SECONDS"])
    return GuardedEndpoint(endpoint, lambda: load_embedded(artefact), circuits, recovery_seconds, on_transition)


def on_transition(transition: "CircuitTransition") -> None:
    logger.warning("circuit", before=transition.from_state, after=transition.to_state)
    if transition.to_state == "OPEN":
        metrics.add_metric(name="CircuitOpen", unit=MetricUnit.Count, value=1)


MODEL = load_model()


def count_review(image: PreparedImage, prediction: Prediction, version: str) -> None:
    """By version, so that a rollout is rolled back when the new one asks people more often than the old one."""
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
    if prediction.backend == "sagemaker":
        metrics.add_metric(name="EndpointLatency", unit=MetricUnit.Milliseconds, value=prediction.latency_ms)
    if prediction.fallback:
        metrics.add_metric(name="FallbackAnswers", unit=MetricUnit.Count, value=1)
        logger.warning("fallback", reason=prediction.fallback)
    metrics.add_metric(name="Confidence", unit=MetricUnit.NoUnit, value=prediction.confidence)
    count_review(image, prediction, context.function_version)
    logger.info("classified", sha256=image.sha256, label=prediction.label, confidence=prediction.confidence)
    return prediction.model_dump(mode="json")
