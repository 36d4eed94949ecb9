"""State "Classify Image": ask the model, in this function or behind a SageMaker endpoint."""

import os
from pathlib import Path
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config

from kickstand.artefact import read_card
from kickstand.endpoint import EndpointModel
from kickstand.events import Prediction, PreparedImage, Route
from kickstand.inference import EmbeddedModel
from kickstand.policy import decide

logger = Logger()
metrics = Metrics()
version_metrics = EphemeralMetrics()
tracer = Tracer()


def load_model() -> EmbeddedModel | EndpointModel:
    """The model that the deployment chose."""
    artefact = Path(os.environ["MODEL_DIR"])
    match os.environ["INFERENCE_BACKEND"]:
        case "embedded":
            return EmbeddedModel(artefact)
        case "sagemaker":
            # One attempt inside the function's timeout: the state machine does the retrying.
            once = Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1})
            runtime = boto3.client("sagemaker-runtime", config=once)
            return EndpointModel(runtime, os.environ["ENDPOINT_NAME"], read_card(artefact))
        case backend:
            raise ValueError(f"INFERENCE_BACKEND is {backend!r}, not 'embedded' or 'sagemaker'")


MODEL = load_model()


def count_review(prediction: Prediction, version: str) -> None:
    """By version, so that a rollout is rolled back when the new one asks people more often than the old one."""
    if prediction.policy:
        asks = decide(prediction, prediction.policy).route is Route.REVIEW
        version_metrics.add_dimension(name="version", value=version)
        version_metrics.add_metric(name="ReviewShare", unit=MetricUnit.NoUnit, value=float(asks))
        version_metrics.flush_metrics()


@logger.inject_lambda_context(clear_state=True)
@tracer.capture_lambda_handler(capture_response=False)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    image = PreparedImage.model_validate(event)
    prediction = MODEL.predict(image)
    metrics.add_metric(name="InferenceLatency", unit=MetricUnit.Milliseconds, value=prediction.latency_ms)
    metrics.add_metric(name="Confidence", unit=MetricUnit.NoUnit, value=prediction.confidence)
    count_review(prediction, context.function_version)
    logger.info("classified", sha256=image.sha256, label=prediction.label, confidence=prediction.confidence)
    return prediction.model_dump(mode="json")
