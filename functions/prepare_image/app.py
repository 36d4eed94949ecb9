"""State "Prepare Image": read the uploaded object once and make the model's input of it."""

import os
from pathlib import Path
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from kickstand.classify.artefact import read_card
from kickstand.classify.images import MAX_IMAGE_BYTES, prepare
from kickstand.events import ImageRef
from kickstand.settings import Settings
from kickstand.store import read_image


class PrepareImageSettings(Settings):
    model_dir: Path


logger = Logger()
metrics = Metrics()
s3 = boto3.client("s3")
settings = PrepareImageSettings.model_validate(os.environ)
INPUT_SHAPE = read_card(settings.model_dir).input_shape


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    metrics.add_metric(name="ImagesReceived", unit=MetricUnit.Count, value=1)
    ref = ImageRef.model_validate(event)
    logger.append_keys(image=ref.uri, version=ref.version)
    data = read_image(s3, ref, MAX_IMAGE_BYTES)
    prepared = prepare(data, ref.uri, INPUT_SHAPE)
    metrics.add_metric(name="ImageBytes", unit=MetricUnit.Bytes, value=len(data))
    logger.info("prepared", format=prepared.format, width=prepared.width, height=prepared.height)
    return prepared.model_dump(mode="json")
