"""State "Backfill Photos": classify the photos of a batch that the run selects, within the capacity of backfill."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import Field

from kickstand.backfill.rules import Batch
from kickstand.backfill.store import Lane, decide_batch
from kickstand.classify.admission import Workflow, WorkflowType
from kickstand.classify.artefact import read_card
from kickstand.clients import BRIEF, EXECUTION, PATIENT
from kickstand.settings import Settings


class BackfillPhotosSettings(Settings):
    image_bucket: str
    records_table: str
    control_table: str
    upload_queue: str
    classify_image: str
    workflow_type: WorkflowType
    photos_at_once: int = Field(ge=1)
    retention_days: int = Field(ge=0)
    model_dir: Path


logger = Logger()
settings = BackfillPhotosSettings.model_validate(os.environ)
LANE = Lane(
    s3=boto3.client("s3", config=PATIENT),
    dynamodb=boto3.client("dynamodb", config=PATIENT),
    sqs=boto3.client("sqs", config=BRIEF),
    workflow=Workflow(boto3.client("stepfunctions", config=EXECUTION), settings.classify_image, settings.workflow_type),
    image_bucket=settings.image_bucket,
    records_table=settings.records_table,
    control_table=settings.control_table,
    upload_queue=settings.upload_queue,
    photos_at_once=settings.photos_at_once,
    retention_days=settings.retention_days,
    model_version=read_card(settings.model_dir).model_version,
)


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    batch = Batch.model_validate(event)

    def seconds_left() -> float:
        return context.get_remaining_time_in_millis() / 1000

    def warn(image: str) -> None:
        logger.warning("unfinished", image=image, run=batch.order.run)

    progress = decide_batch(LANE, batch, datetime.now(UTC), seconds_left, warn)
    logger.info(
        "batch", run=batch.order.run, keys=len(batch.keys), status=progress.status, left=len(progress.left or ())
    )
    return progress.model_dump(mode="json")
