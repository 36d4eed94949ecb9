"""State "Prepare Dataset": put the base dataset and people's new answers into the folder of this run."""

import os
from pathlib import Path
from typing import Any

import boto3
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import Field

from kickstand.classify.artefact import read_card
from kickstand.classify.decoding import start as start_decoder
from kickstand.clients import PATIENT
from kickstand.events import Payload
from kickstand.lifecycle.dataset_store import prepare_dataset
from kickstand.review.store import list_reviews
from kickstand.settings import Settings


class PrepareDatasetSettings(Settings):
    training_bucket: str
    reviews_table: str
    model_dir: Path


class DatasetRequest(Payload):
    """execution_name: of the training's execution."""

    execution_name: str = Field(min_length=1)


logger = Logger()
s3 = boto3.client("s3", config=PATIENT)
dynamodb = boto3.client("dynamodb", config=PATIENT)
settings = PrepareDatasetSettings.model_validate(os.environ)
start_decoder(wall_s=12)  # while the rest is imported, and well within the function's time-out
CARD = read_card(settings.model_dir)


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    request = DatasetRequest.model_validate(event)
    reviews = list_reviews(dynamodb, settings.reviews_table)
    dataset = prepare_dataset(
        s3, settings.training_bucket, reviews, request.execution_name, CARD.labels, CARD.input_shape
    )
    logger.info(
        "prepared",
        dataset=dataset.uri,
        counts=dataset.counts,
        reviewed=dataset.reviewed,
        left_out=dataset.left_out,
    )
    return dataset.model_dump(mode="json")
