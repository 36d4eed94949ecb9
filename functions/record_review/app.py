"""States "Record Review" and "Record Unanswered": write the outcome of the review into the decision record."""

import os
from datetime import UTC, datetime
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from kickstand.clients import BRIEF
from kickstand.review.rules import Closing
from kickstand.review.store import record_review
from kickstand.settings import Settings


class RecordReviewSettings(Settings):
    reviews_table: str
    records_table: str


logger = Logger()
metrics = Metrics()
dynamodb = boto3.client("dynamodb", config=BRIEF)
settings = RecordReviewSettings.model_validate(os.environ)
TABLES = settings.reviews_table, settings.records_table


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    closing = Closing.model_validate(event)
    review = record_review(dynamodb, TABLES, closing.key, answered=closing.answered, now=datetime.now(UTC))
    if review is None:
        logger.info("forgotten", image=closing.image, version=closing.version)
        return {"image": closing.image, "version": closing.version, "status": "forgotten"}
    metrics.add_metric(name="ReviewsUnanswered", unit=MetricUnit.Count, value=int(not closing.answered))
    logger.info("recorded", image=review.image, version=review.version, status=review.status)
    return {"image": review.image, "version": review.version, "status": review.status}
