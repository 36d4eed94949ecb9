"""State "Record Result": write the decision record, once, and announce it."""

import os
from datetime import UTC, datetime
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from kickstand.records import Recording, compose_record
from kickstand.review.audit import sample
from kickstand.store import announce, put_record

logger = Logger()
metrics = Metrics()
dynamodb = boto3.client("dynamodb")
events = boto3.client("events")
RECORDS_TABLE = os.environ["RECORDS_TABLE"]
AUDIT_RATE, AUDIT_KEY = float(os.environ["AUDIT_RATE"]), os.environ["AUDIT_KEY"].encode()


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    recording = Recording.model_validate(event)
    composed = compose_record(recording.state, recording.execution, datetime.now(UTC))
    record = sample(composed, AUDIT_RATE, AUDIT_KEY)
    stored = put_record(dynamodb, RECORDS_TABLE, record)
    # Repeated for a duplicate too: whoever wrote the record may have died before announcing it.
    announce(events, stored)
    duplicate = stored.execution != record.execution
    metrics.add_metric(name="DuplicateUploads" if duplicate else "ImagesRecorded", unit=MetricUnit.Count, value=1)
    logger.info("recorded", image=stored.image, version=stored.version, duplicate=duplicate)
    return {"image": stored.image, "version": stored.version, "duplicate": duplicate}
