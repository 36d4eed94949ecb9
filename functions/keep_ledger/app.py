"""On a schedule: draw up the ledger, tell CloudWatch what is missing, and send it again."""

import os
from datetime import UTC, datetime
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from kickstand.clients import PATIENT
from kickstand.ledger.store import Books, keep_ledger, replay_lost
from kickstand.settings import Settings


class KeepLedgerSettings(Settings):
    image_bucket: str
    records_table: str
    reviews_table: str
    dead_letter_queue: str
    classify_image: str


logger = Logger()
metrics = Metrics()
BOOKS = Books(
    s3=boto3.client("s3", config=PATIENT),
    dynamodb=boto3.client("dynamodb", config=PATIENT),
    sqs=boto3.client("sqs", config=PATIENT),
    stepfunctions=boto3.client("stepfunctions", config=PATIENT),
    review_image="",  # only dead letters start it, and this function leaves them alone
    **KeepLedgerSettings.model_validate(os.environ).model_dump(),
)


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    now = datetime.now(UTC)
    ledger = keep_ledger(BOOKS, now)
    metrics.add_metric(name="LedgerMissing", unit=MetricUnit.Count, value=ledger.missing)
    for missing in ledger.lacks:
        logger.warning("missing", image=missing.image, version=missing.version, lack=missing.lack)
    replay_lost(BOOKS, ledger, now)  # last: what is missing is told even where sending it again fails
    replayed = len(ledger.lost)
    logger.info("drawn up", uploads=ledger.uploads, under_way=ledger.under_way, replayed=replayed, counts=ledger.counts)
    return {"uploads": ledger.uploads, **ledger.counts, "replayed": replayed}
