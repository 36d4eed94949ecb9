"""State "Record Result": write the decision record, once, and announce it."""

import os
from datetime import UTC, datetime
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import Field

from kickstand.clients import BRIEF
from kickstand.events import ImageRef, Probability
from kickstand.records import Recording, compose_later, compose_record
from kickstand.review.audit import sample
from kickstand.settings import Settings
from kickstand.store import announce, put_later, put_record


class RecordResultSettings(Settings):
    records_table: str
    audit_rate: Probability
    audit_key: bytes = Field(min_length=1)
    retention_days: int = Field(ge=0)


logger = Logger()
metrics = Metrics()
dynamodb = boto3.client("dynamodb", config=BRIEF)
events = boto3.client("events", config=BRIEF)
settings = RecordResultSettings.model_validate(os.environ)


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    recording = Recording.model_validate(event)
    if recording.again is not None:
        return record_later(recording, recording.again)
    composed = compose_record(recording.state, recording.execution, datetime.now(UTC), settings.retention_days)
    record = sample(composed, settings.audit_rate, settings.audit_key)
    stored = put_record(dynamodb, settings.records_table, record)
    # For a duplicate too: the execution that wrote the record may have failed before it published the event.
    announce(events, stored, recording.execution)
    duplicate = stored.execution.rpartition(":")[2] != record.execution
    metrics.add_metric(name="DuplicateUploads" if duplicate else "ImagesRecorded", unit=MetricUnit.Count, value=1)
    logger.info("recorded", image=stored.image, version=stored.version, duplicate=duplicate)
    return {"image": stored.image, "version": stored.version, "duplicate": duplicate}


def record_later(recording: Recording, run: str) -> dict[str, Any]:
    """Add a repeated decision to the record. No event is published: there is no new upload, and no new review."""
    ref = ImageRef.model_validate(recording.state)
    later = compose_later(recording.state, recording.execution, datetime.now(UTC), run)
    added = later is not None and put_later(dynamodb, settings.records_table, *ref.upload, later)
    metrics.add_metric(name="ImagesDecidedAgain", unit=MetricUnit.Count, value=int(added))
    logger.info("decided again", image=ref.uri, version=ref.version, added=added, readable=later is not None)
    return {"image": ref.uri, "version": ref.version, "duplicate": not added}
