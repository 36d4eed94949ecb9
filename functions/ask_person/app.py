"""States "Ask a Person" and "Ask Again": put the question on the review page; the answer resumes the execution."""

import os
from datetime import UTC, datetime
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from kickstand.clients import BRIEF
from kickstand.review.rules import Asking
from kickstand.review.store import ask_person
from kickstand.settings import Settings


class AskPersonSettings(Settings):
    reviews_table: str
    records_table: str


logger = Logger()
metrics = Metrics()
dynamodb = boto3.client("dynamodb", config=BRIEF)
settings = AskPersonSettings.model_validate(os.environ)


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    asking = Asking.model_validate(event)
    review = ask_person(
        dynamodb,
        (settings.reviews_table, settings.records_table),
        asking.record,
        asking.execution,
        asking.task_token,
        asking.again,
        datetime.now(UTC),
    )
    metrics.add_metric(name="ReviewsEscalated" if asking.again else "ReviewsOpened", unit=MetricUnit.Count, value=1)
    logger.info("asked", image=review.image, version=review.version, why=review.why, status=review.status)
    return {"image": review.image, "version": review.version, "status": review.status}
