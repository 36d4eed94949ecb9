"""On a schedule: find missing uploads, report them and send them again; and audit the bucket in slices."""

import os
from datetime import UTC, datetime
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import Field

from kickstand.clients import PATIENT, quick_times
from kickstand.events import Payload
from kickstand.ledger.books import Books
from kickstand.ledger.letters import heal_letters
from kickstand.ledger.store import (
    NAME_AT_MOST,
    RESERVE_SECONDS,
    go_on_with_audit,
    keep_ledger,
    replay,
)
from kickstand.settings import Settings


class KeepLedgerSettings(Settings):
    image_bucket: str
    records_table: str
    reviews_table: str
    control_table: str
    letters_table: str
    new_uploads: str
    waiting_queue: str
    dead_letter_queue: str
    review_image: str
    retention_days: int = Field(ge=0)


class LedgerRequest(Payload):
    """A scheduled run; audit: whether to start an audit of the whole bucket, unless one is in progress."""

    audit: bool = False


logger = Logger()
metrics = Metrics()
BOOKS = Books(
    s3=boto3.Session(botocore_session=quick_times()).client("s3", config=PATIENT),
    dynamodb=boto3.client("dynamodb", config=PATIENT),
    sqs=boto3.client("sqs", config=PATIENT),
    stepfunctions=boto3.client("stepfunctions", config=PATIENT),
    **KeepLedgerSettings.model_validate(os.environ).model_dump(),
)


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    request, now = LedgerRequest.model_validate(event), datetime.now(UTC)

    def seconds_left() -> float:
        return context.get_remaining_time_in_millis() / 1000

    ledger, lost = keep_ledger(BOOKS, now, seconds_left)
    if lost:
        logger.error("state lost", reason=lost)
    metrics.add_metric(name="LedgerMissing", unit=MetricUnit.Count, value=ledger.missing)
    for missing in ledger.lacks[:NAME_AT_MOST]:
        logger.warning("missing", image=missing.image, version=missing.version, lack=missing.lack)
    refused = replay(BOOKS, ledger.lacks, now)
    for (image, version), reason in refused.items():
        logger.error("not sent again", image=image, version=version, reason=reason)
    replayed = len(ledger.lost) - len(refused)
    logger.info(
        "ledger done", uploads=ledger.uploads, under_way=ledger.under_way, replayed=replayed, counts=ledger.counts
    )
    letters = heal_letters(BOOKS, now, lambda: seconds_left() > RESERVE_SECONDS)
    metrics.add_metric(name="DeadLetters", unit=MetricUnit.Count, value=letters.for_a_person)
    logger.info("dead letters", **letters.model_dump())
    standing = go_on_with_audit(BOOKS, now, seconds_left, begin=request.audit or bool(lost))
    logger.info(
        "audit",
        part=standing.audit and standing.audit.part,
        uploads=(standing.audit.found if standing.audit else standing.last).uploads,
        missing=standing.last.missing,
    )
    if lost:  # an alarm fires; the run has done its work, and the next one reads the new state
        raise ValueError(lost)
    told = {"replayed": replayed, "refused": len(refused), "letters": letters.model_dump()}
    return {"uploads": ledger.uploads, **ledger.counts, **told}
