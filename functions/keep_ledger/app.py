"""On a schedule: draw up the ledger, tell CloudWatch what is missing, and send it again."""

import os
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from kickstand.ledger.balance import Lack
from kickstand.ledger.store import Books, draw_up, replay

logger = Logger()
metrics = Metrics()
BOOKS = Books(
    s3=boto3.client("s3"),
    dynamodb=boto3.client("dynamodb"),
    sqs=boto3.client("sqs"),
    stepfunctions=boto3.client("stepfunctions"),
    bucket=os.environ["IMAGE_BUCKET"],
    records_table=os.environ["RECORDS_TABLE"],
    reviews_table=os.environ["REVIEWS_TABLE"],
    dead_letter_queue=os.environ["DEAD_LETTER_QUEUE"],
    classify_image=os.environ["CLASSIFY_IMAGE"],
    review_image="",  # dead letters are left to a person: whatever failed would fail again
)
GRACE = timedelta(minutes=15)  # all attempts of an execution together take five at most
REPLAY_AT_MOST = 100  # in one look: what is missing in thousands has a cause that somebody must find first


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    now = datetime.now(UTC)
    ledger = draw_up(BOOKS, now - GRACE, name_at_most=REPLAY_AT_MOST)
    for place, number in ledger.counts.items():
        metrics.add_metric(name=f"Ledger{place.title().replace('_', '')}", unit=MetricUnit.Count, value=number)
    for missing in ledger.lacks:
        logger.warning("missing", image=missing.image, version=missing.version, lack=missing.lack)
    lost = [missing for missing in ledger.lacks if missing.lack is not Lack.IMAGE]
    for missing in lost:
        replay(BOOKS, missing, now)
    logger.info(
        "drawn up", uploads=ledger.uploads, under_way=ledger.under_way, replayed=len(lost), counts=ledger.counts
    )
    return {"uploads": ledger.uploads, **ledger.counts, "replayed": len(lost)}
