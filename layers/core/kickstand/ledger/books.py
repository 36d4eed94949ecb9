"""The tables, queues and buckets of a stack: what they say about an upload, and how it is sent again."""

import json
import logging
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from kickstand.batches import in_batches
from kickstand.clients import DynamoDBClient, S3Client, SFNClient, SQSClient
from kickstand.events import ImageRef
from kickstand.ledger.balance import Entry, Key, Question
from kickstand.records import Record
from kickstand.store import from_item, get_item, item_key, read_items, readable

logger = logging.getLogger(__name__)

HIDDEN_FOR = timedelta(days=7)  # how long S3 keeps a replaced or deleted version: NoncurrentDays in the template
SQS_BATCH = 10  # messages that SQS accepts at a time
_AT_ONCE = 8  # requests to S3


@dataclass(frozen=True)
class Books:
    """boto3's clients, and the resources named by the stack's outputs.

    control_table: holds the ledger's state. letters_table: the dead letters, by upload.
    new_uploads: the queue that holds uploads whose outcome is not known yet.
    waiting_queue: the upload queue, in which uploads wait to be classified.
    dead_letter_queue: the ledger moves dead letters from it into the table.
    retention_days: after which S3 deletes a photo; 0 for never.
    poll_seconds: how long SQS may search all its servers for messages; with 0 it may miss some.
    """

    s3: S3Client
    dynamodb: DynamoDBClient
    sqs: SQSClient
    stepfunctions: SFNClient
    image_bucket: str
    records_table: str
    reviews_table: str
    control_table: str
    letters_table: str
    new_uploads: str
    waiting_queue: str
    dead_letter_queue: str
    review_image: str
    retention_days: int = 0
    poll_seconds: int = 1

    def opens_at(self, now: datetime) -> datetime | None:
        """Photos uploaded earlier have expired; None if photos do not expire."""
        return now - timedelta(days=self.retention_days) if self.retention_days else None


class Fate(StrEnum):
    """The state of an object. expired: past its retention. gone: deleted by something else."""

    THERE = "there"
    EXPIRED = "expired"
    GONE = "gone"


# ---- records, reviews and objects of uploads

ENTRY_PARTS = (
    *("image", "version", "decision.route", "audited", "recorded_at", "image_ref.uploaded_at"),
    *("review.status", "review.answer.answered_at", "keep_until", "expires_at"),
)
_QUESTION_PARTS = ("image", "version", "answer.answered_at")


def read_outcomes(books: Books, keys: Collection[Key]) -> tuple[dict[Key, Entry], dict[Key, Question]]:
    """The records and reviews of these uploads, if they have any."""
    items = read_items(books.dynamodb, books.records_table, keys, ENTRY_PARTS)
    entries = {entry.key: entry for entry in readable(items, Entry)}
    asking = [key for key, entry in entries.items() if entry.asks_a_person or entry.review]
    items = read_items(books.dynamodb, books.reviews_table, asking, _QUESTION_PARTS)
    return entries, {question.key: question for question in readable(items, Question)}


def find_record(books: Books, key: Key) -> Record | None:
    """The record of this upload."""
    item = get_item(books.dynamodb, books.records_table, item_key(*key))
    return from_item(item) if item else None


def find_images(books: Books, uploaded: Mapping[Key, datetime], now: datetime) -> dict[Key, Fate]:
    """The states of these uploads' objects. uploaded: when each was uploaded."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip(uploaded, pool.map(lambda key: _fate(books, key, uploaded[key], now), uploaded), strict=True))


def _fate(books: Books, key: Key, uploaded_at: datetime, now: datetime) -> Fate:
    image, version = key
    opens_at = books.opens_at(now)
    if opens_at and uploaded_at < opens_at:
        return Fate.EXPIRED
    name = image.removeprefix(f"s3://{books.image_bucket}/")
    hidden = False
    for page in books.s3.get_paginator("list_object_versions").paginate(Bucket=books.image_bucket, Prefix=name):
        everything: list[Any] = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        for found in everything:
            if found["Key"] == name:
                if version in (found["VersionId"], found.get("ETag", "").strip('"')):
                    return Fate.THERE
                hidden |= uploaded_at < found["LastModified"] <= now - HIDDEN_FOR
        if any(found["Key"] != name for found in everything):  # the shortest comes first
            break
    return Fate.EXPIRED if opens_at and hidden else Fate.GONE


def holds_messages(books: Books, queue: str) -> bool:
    """Whether the queue has messages, also received or delayed ones."""
    counts = books.sqs.get_queue_attributes(
        QueueUrl=queue,
        AttributeNames=[
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateNumberOfMessagesDelayed",
        ],
    )["Attributes"]
    return any(int(number) for number in counts.values())


def delete_messages(books: Books, queue: str, receipts: Iterable[str]) -> None:
    """Delete the received messages with these receipts from the queue. One that SQS does not delete comes again."""
    for some in in_batches(receipts, SQS_BATCH):
        answer = books.sqs.delete_message_batch(
            QueueUrl=queue,
            Entries=[{"Id": str(place), "ReceiptHandle": receipt} for place, receipt in enumerate(some)],
        )
        for entry in answer.get("Failed", []):
            logger.warning("a message was not deleted: %s: %s", queue, entry.get("Message", entry["Code"]))


# ---- sending again


def send_uploads(books: Books, events: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Put the events into the upload queue, which paces them. Returns for each why it was refused, or nothing."""
    for some in in_batches(events, SQS_BATCH):
        try:
            answer = books.sqs.send_message_batch(
                QueueUrl=books.waiting_queue,
                Entries=[{"Id": str(place), "MessageBody": json.dumps(event)} for place, event in enumerate(some)],
            )
        except Exception as error:  # report these ten, and send the others
            yield from (repr(error) for _ in some)
        else:
            refused = {entry["Id"]: entry.get("Message", entry["Code"]) for entry in answer.get("Failed", [])}
            yield from (refused.get(str(place), "") for place in range(len(some)))


def start(books: Books, state_machine: str, event: Mapping[str, Any]) -> None:
    """Start an execution on the event. Raises botocore's ClientError if AWS refuses."""
    books.stepfunctions.start_execution(
        stateMachineArn=state_machine, name=f"replay-{uuid.uuid4()}", input=json.dumps(event)
    )


def as_event(ref: ImageRef) -> dict[str, Any]:
    """The event "Object Created" of this upload, with the fields that the workflow reads."""
    uploaded = {"key": ref.key, "etag": ref.etag, "size": ref.size, "version-id": ref.version_id}
    return {
        "source": "aws.s3",
        "detail-type": "Object Created",
        "time": ref.uploaded_at.isoformat(),
        "detail": {
            "bucket": {"name": ref.bucket},
            "object": {name: value for name, value in uploaded.items() if value is not None},
        },
    }
