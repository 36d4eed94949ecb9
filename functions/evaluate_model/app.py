"""State "Evaluate Model": compare champion and challenger on the same held-out photos; the gate decides."""

import os
from pathlib import Path
from typing import Any

import boto3
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import Field

from kickstand.clients import PATIENT
from kickstand.lifecycle.evaluation_store import Evaluating, evaluate
from kickstand.settings import Settings


class EvaluateModelSettings(Settings):
    training_bucket: str
    model_dir: Path
    inference_image: str
    image_classification_image: str = Field(min_length=0)  # empty if it is not used


logger = Logger()
s3 = boto3.client("s3", config=PATIENT)
settings = EvaluateModelSettings.model_validate(os.environ)
IMAGES = {"kickstand": settings.inference_image, "image-classification": settings.image_classification_image}


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    evaluating = Evaluating.model_validate(event)
    evaluation = evaluate(s3, settings.training_bucket, settings.model_dir, evaluating)
    logger.info("judged", promote=evaluation.promote, reason=evaluation.reason)
    return {**evaluation.model_dump(mode="json"), "inference_image": IMAGES[evaluating.algorithm]}
