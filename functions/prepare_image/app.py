"""State "Prepare Image": read the uploaded object once, and turn it into the model's input."""

import os
from pathlib import Path
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from kickstand.classify.artefact import read_card
from kickstand.classify.decoding import start as start_decoder
from kickstand.classify.images import MAX_IMAGE_BYTES, prepare
from kickstand.clients import BRIEF
from kickstand.errors import InvalidImage
from kickstand.events import ImageRef, PreparedImage
from kickstand.settings import Settings
from kickstand.store import read_image


class PrepareImageSettings(Settings):
    model_dir: Path


logger = Logger()
metrics = Metrics()
s3 = boto3.client("s3", config=BRIEF)
settings = PrepareImageSettings.model_validate(os.environ)
start_decoder(wall_s=12)  # while the rest is imported, and well within the function's time-out
INPUT_SHAPE = read_card(settings.model_dir).input_shape


def prepare_upload(upload: dict[str, Any]) -> PreparedImage:
    """The model's input for this upload. Raises InvalidImage if it is not a readable photo."""
    ref = ImageRef.model_validate(upload)
    logger.append_keys(image=ref.uri, version=ref.version)
    data = read_image(s3, ref, MAX_IMAGE_BYTES)
    logger.append_keys(bytes=len(data))
    return prepare(data, ref.uri, INPUT_SHAPE)


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """event: the upload, and how to report an unreadable file: an older state machine expects an error."""
    metrics.add_metric(name="ImagesReceived", unit=MetricUnit.Count, value=1)
    try:
        prepared = prepare_upload(event)
    except InvalidImage as error:
        if "unreadable" not in event:
            raise
        logger.info("unreadable", reason=str(error))
        return {"unreadable": str(error)}
    logger.info("prepared", format=prepared.format, width=prepared.width, height=prepared.height)
    return prepared.model_dump(mode="json")
