"""States "Ask a Person" and "Ask Again": put the question where reviewers find it; the answer wakes the execution."""

import os
from datetime import UTC, datetime
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import SecretStr

from kickstand.records import Record
from kickstand.review_store import ask_person

logger = Logger()
metrics = Metrics()
tracer = Tracer()
dynamodb = boto3.client("dynamodb")
REVIEWS_TABLE = os.environ["REVIEWS_TABLE"]


@logger.inject_lambda_context(clear_state=True)
@tracer.capture_lambda_handler
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """event: `record`; `execution`, its ARN; `task_token`; `again`, whether the first wait is over."""
    record, token, again = Record.model_validate(event["record"]), SecretStr(event["task_token"]), event["again"]
    review = ask_person(dynamodb, REVIEWS_TABLE, record, event["execution"], token, again, datetime.now(UTC))
    metrics.add_metric(name="ReviewsEscalated" if again else "ReviewsOpened", unit=MetricUnit.Count, value=1)
    logger.info("asked", image=review.image, version=review.version, why=review.why, status=review.status)
    return {"image": review.image, "version": review.version, "status": review.status}
