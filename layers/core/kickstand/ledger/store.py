"""What the ledger is drawn up from in AWS, and how what is missing is sent again."""

import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from kickstand.clients import DynamoDBClient, S3Client, SFNClient, SQSClient
from kickstand.events import ImageRef
from kickstand.ledger.balance import Entry, Key, Lack, Ledger, Missing, Question, balance
from kickstand.records import Record
from kickstand.review.rules import Refused, Review
from kickstand.review.store import load_review, record_review
from kickstand.store import from_item, get_item, plain

GRACE = timedelta(minutes=15)  # all attempts of an execution together take five at most
REPLAY_AT_MOST = 100  # in one run: what is missing in thousands has a cause that somebody must find first
_HOLD_SECONDS = 60  # nobody else sees the dead letters while they are read
_ENVELOPE = {"version", "id", "detail-type", "source", "account", "time", "region", "resources", "detail"}


@dataclass(frozen=True)
class Books:
    """Where everything is written down: boto3's clients, and what the stack's outputs name.

    poll_seconds: how long SQS may look for dead letters on all its servers; with 0 it may overlook some.
    """

    s3: S3Client
    dynamodb: DynamoDBClient
    sqs: SQSClient
    stepfunctions: SFNClient
    image_bucket: str
    records_table: str
    reviews_table: str
    dead_letter_queue: str
    classify_image: str
    review_image: str
    poll_seconds: int = 1


class Letter(NamedTuple):
    """A message in the dead-letter queue. key: the upload that it is about; None where it names none."""

    id: str
    receipt: str
    event: dict[str, Any]
    key: Key | None

    @property
    def about_review(self) -> bool:
        """Whether it comes from review_image, not from classify_image."""
        return "image_ref" in self.event["detail"]


def draw_up(books: Books, closes_at: datetime, name_at_most: int | None = None) -> Ledger:
    """The ledger of all uploads; see `ledger.balance`. Nothing is changed."""
    letters = read_letters(books)
    release(books, letters)
    return balance(
        list_uploads(books),
        lambda: list_entries(books),
        list_questions(books),
        {letter.key for letter in letters if letter.key},
        closes_at,
        name_at_most,
    )


def keep_ledger(books: Books, now: datetime) -> Ledger:
    """One run's ledger, as the function keeps it; `replay_lost` sends again what it lacks."""
    return draw_up(books, now - GRACE, name_at_most=REPLAY_AT_MOST)


def replay_lost(books: Books, ledger: Ledger, now: datetime) -> None:
    """Send again what is lost. Dead letters are left to a person: whatever failed would fail again."""
    for missing in ledger.lost:
        replay(books, missing, now)


# ---- what there is


def list_uploads(books: Books) -> Iterator[ImageRef]:
    """Every version of every object in the bucket."""
    for page in books.s3.get_paginator("list_object_versions").paginate(Bucket=books.image_bucket):
        for found in page.get("Versions", []):
            yield ImageRef(
                bucket=books.image_bucket,
                key=found["Key"],
                etag=found["ETag"].strip('"'),
                version_id=None if found["VersionId"] == "null" else found["VersionId"],
                size=found["Size"],
                uploaded_at=found["LastModified"],
            )


def list_entries(books: Books) -> Iterator[Entry]:
    """Every record, as far as the ledger needs it."""
    parts = ["image", "version", "decision.route", "audited", "recorded_at", "review.status"]
    return map(Entry.model_validate, _scan(books, books.records_table, parts))


def list_questions(books: Books) -> Iterator[Question]:
    """Every review, as far as the ledger needs it."""
    return map(Question.model_validate, _scan(books, books.reviews_table, ["image", "version", "answer.answered_at"]))


def _scan(books: Books, table: str, parts: Sequence[str]) -> Iterator[dict[str, Any]]:
    names = {name: f"#{name}" for part in parts for name in part.split(".")}  # some words are DynamoDB's own
    pages = books.dynamodb.get_paginator("scan").paginate(
        TableName=table,
        ProjectionExpression=", ".join(".".join(names[name] for name in part.split(".")) for part in parts),
        ExpressionAttributeNames={placeholder: name for name, placeholder in names.items()},
    )
    for page in pages:
        yield from map(plain, page["Items"])


def read_letters(books: Books, hold_seconds: int = _HOLD_SECONDS) -> list[Letter]:
    """All dead letters; nobody else sees them for hold_seconds, unless they are released."""
    letters: dict[str, Letter] = {}
    while messages := books.sqs.receive_message(
        QueueUrl=books.dead_letter_queue,
        MaxNumberOfMessages=10,
        VisibilityTimeout=hold_seconds,
        WaitTimeSeconds=books.poll_seconds,
    ).get("Messages"):
        before = len(letters)
        for message in messages:
            letters[message["MessageId"]] = _open(message["MessageId"], message["ReceiptHandle"], message["Body"])
        if len(letters) == before:  # so many that the first ones are to be seen again
            break
    return list(letters.values())


def release(books: Books, letters: Iterable[Letter]) -> None:
    """Let others see the dead letters again."""
    for letter in letters:
        books.sqs.change_message_visibility(
            QueueUrl=books.dead_letter_queue, ReceiptHandle=letter.receipt, VisibilityTimeout=0
        )


def _open(identifier: str, receipt: str, body: str) -> Letter:
    try:
        state = json.loads(body)
        event = {name: value for name, value in state.items() if name in _ENVELOPE}
        about = event["detail"]
        if "image_ref" in about:
            return Letter(identifier, receipt, event, (about["image"], about["version"]))
        ref = ImageRef.model_validate(event)
        return Letter(identifier, receipt, event, (ref.uri, ref.version))
    except (ValueError, AttributeError, KeyError, TypeError):
        return Letter(identifier, receipt, {"detail": {}}, None)


# ---- what is done about it


def replay(books: Books, missing: Missing, now: datetime) -> None:
    """Send again what is missing of this upload. Sending twice does no harm; of an image that is gone nothing can be.

    Raises StoreUnavailable, or botocore's ClientError, when AWS does not take it.
    """
    match missing.lack:
        case Lack.DECISION | Lack.QUESTION if missing.image_ref:
            _start(books, books.classify_image, as_event(missing.image_ref))
        case Lack.ANSWER:
            record_review(
                books.dynamodb,
                books.reviews_table,
                books.records_table,
                missing.image,
                missing.version,
                answered=True,
                now=now,
            )


def redrive(books: Books, letter: Letter, now: datetime) -> None:
    """Do again what the dead letter tells of; the letter stays until it is thrown away."""
    if letter.key is None:
        return
    if not letter.about_review:
        _start(books, books.classify_image, letter.event)
        return
    review = _find_review(books, letter.key)
    if review is None:
        _start(books, books.review_image, letter.event)
    elif review.answer and find_record(books, letter.key):
        record_review(books.dynamodb, books.reviews_table, books.records_table, *letter.key, answered=True, now=now)
    # Else the question stands on the reviewers' page, and is answered there without any execution.


def throw_away(books: Books, letter: Letter) -> None:
    """Delete the message."""
    books.sqs.delete_message(QueueUrl=books.dead_letter_queue, ReceiptHandle=letter.receipt)


def is_settled(books: Books, key: Key) -> bool:
    """Whether the upload has a record, whoever must be asked has been, and the record tells of any answer."""
    record = find_record(books, key)
    if record is None:
        return False
    review = _find_review(books, key)
    if review is None:
        return not record.asks_a_person
    return review.answer is None or bool(record.review and record.review.answer)


def find_record(books: Books, key: Key) -> Record | None:
    """The record of this upload."""
    image, version = key
    item = get_item(books.dynamodb, books.records_table, {"image": {"S": image}, "version": {"S": version}})
    return from_item(item) if item else None


def as_event(ref: ImageRef) -> dict[str, Any]:
    """The event "Object Created" of this upload, as far as the workflow reads it."""
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


def _find_review(books: Books, key: Key) -> Review | None:
    try:
        return load_review(books.dynamodb, books.reviews_table, *key)
    except Refused:
        return None


def _start(books: Books, state_machine: str, event: dict[str, Any]) -> None:
    books.stepfunctions.start_execution(
        stateMachineArn=state_machine, name=f"replay-{uuid.uuid4()}", input=json.dumps(event)
    )
