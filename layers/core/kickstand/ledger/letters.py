"""Dead letters: a table holds one for each failed upload; most are sent again automatically and succeed."""

import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import Field

from kickstand.errors import first_complaint
from kickstand.events import ImageRef, Moment, Payload
from kickstand.ledger.balance import Key, has_ended
from kickstand.ledger.books import (
    Books,
    Fate,
    delete_messages,
    find_images,
    find_record,
    holds_messages,
    read_outcomes,
    start,
)
from kickstand.ledger.books import send_uploads as send
from kickstand.review.rules import Refused, UnreadableReview
from kickstand.review.store import load_review, record_review
from kickstand.store import item_key, key_of, plain, read_items, transient, update_item_if

logger = logging.getLogger(__name__)

REDRIVE_AFTER = (timedelta(0), timedelta(hours=2), timedelta(hours=12))
"""Delays until a failed upload is automatically sent again, one for each time; after the last, a person must act."""
LATE = {  # errors that say nothing about the photo: the same list as in the state machine
    "Lambda.TooManyRequestsException",
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.Unknown",
    "ModelUnavailable",
    "Sandbox.Timedout",
    "States.Timeout",
    "StoreUnavailable",
}
UNDELIVERED = ""
"""The error of an event that EventBridge could not deliver, so that no execution could fail."""
UNREADABLE = "Unreadable"
"""The error of a letter whose item is damaged, or was written by a newer version: it waits for a person."""
_KEPT_FOR = timedelta(days=14)  # after success, so that an upload that fails again is not sent again without end
_MALFORMED = (ValueError, AttributeError, KeyError, TypeError, RecursionError)
_CLOCKS_DIFFER_BY = timedelta(minutes=1)  # at most: an execution may fail just after it has written its record
_NO_UPLOAD = "no upload"  # in place of the image, for a message without an upload
_HOLD_SECONDS = 60  # while ten messages are stored
_PAGE = 1000
_CAUSE_AT_MOST = 2000  # characters
_EVENT_AT_MOST = 262_144  # bytes, the queue's limit: with the rest it fits into an item of 400 KB
_ENVELOPE = {"version", "id", "detail-type", "source", "account", "time", "region", "resources", "detail"}


class Letter(Payload):
    """A failed upload, with its latest failure.

    image, version: of the upload; for a message without an upload, a fixed word and the message's id.
    event: the input to process again, as JSON; for a message without an upload, the whole message.
    error, cause: of the latest failure.
    redrives: how often it was sent again.
    """

    image: str
    version: str
    event: str = ""
    error: str = UNDELIVERED
    cause: str = ""
    failed_at: Moment
    redrives: int = Field(default=0, ge=0)
    redriven_at: Moment | None = None

    @property
    def key(self) -> Key | None:
        """The upload; None if the message names none, or the letter cannot be read."""
        return None if self.image == _NO_UPLOAD or self.error == UNREADABLE else (self.image, self.version)

    @property
    def about_review(self) -> bool:
        """Whether it comes from review_image, not from classify_image."""
        return "image_ref" in json.loads(self.event)["detail"]

    @property
    def uploaded_at(self) -> datetime:
        """When its photo was uploaded."""
        event = json.loads(self.event)
        time: str = event["detail"]["image_ref"]["uploaded_at"] if self.about_review else event["time"]
        return datetime.fromisoformat(time)

    @property
    def heals(self) -> bool:
        """Whether it is sent again automatically."""
        late = self.error in LATE or self.error == UNDELIVERED or "Throttl" in self.error
        return self.key is not None and late and self.redrives < len(REDRIVE_AFTER)

    @property
    def has_failed_since(self) -> bool:
        """Whether it has failed since it was last sent again."""
        return self.redriven_at is None or self.failed_at > self.redriven_at

    @property
    def due_at(self) -> datetime | None:
        """When it is to be sent again; None where it waits for a person."""
        latest = max(self.failed_at, self.redriven_at or self.failed_at)
        return latest + REDRIVE_AFTER[self.redrives] if self.heals else None

    def is_due(self, now: datetime) -> bool:
        """Whether it is to be sent again now."""
        return self.due_at is not None and self.due_at <= now


class Healing(Payload):
    """What a run has done about the dead letters.

    sent: sent again. closed: their uploads now have an outcome, or have expired. refused: AWS did not accept them.
    for_a_person: they need a person.
    """

    sent: int = 0
    closed: int = 0
    refused: int = 0
    for_a_person: int = 0


def read_letter(identifier: str, body: str, failed_at: datetime) -> Letter:
    """The message as a dead letter, whatever its content."""
    try:
        state = json.loads(body)
        event = {name: value for name, value in state.items() if name in _ENVELOPE}
        error = state.get("error") or {}
        about = event["detail"]
        if "image_ref" in about:
            ref = ImageRef.model_validate(about["image_ref"])
            image, version = about["image"], about["version"]
        else:
            ref = ImageRef.model_validate(event)
            image, version = ref.upload
        letter = Letter(
            image=image,
            version=version,
            event=json.dumps(event),
            error=error.get("Error", UNDELIVERED),
            cause=error.get("Cause", "")[:_CAUSE_AT_MOST].encode("utf-8", "replace").decode(),
            failed_at=failed_at,
        )
        fits = 0 < len(image.encode()) <= 2048 and 0 < len(version.encode()) <= 1024  # DynamoDB's limits for keys
        if fits and len(letter.event) <= _EVENT_AT_MOST and letter.uploaded_at.tzinfo:
            return letter
    except _MALFORMED:
        pass
    return Letter(image=_NO_UPLOAD, version=identifier, event=body, failed_at=failed_at)


# ---- the table


def record_letters(books: Books, go_on: Callable[[], bool] = lambda: True) -> bool:
    """Move the dead letters from the queue into the table. Returns whether all are there.

    It loses none if it is interrupted or runs twice at a time: a message is deleted once it is stored, and storing it
    again changes nothing.
    """
    while go_on() and (
        messages := books.sqs.receive_message(
            QueueUrl=books.dead_letter_queue,
            AttributeNames=["SentTimestamp"],
            MaxNumberOfMessages=10,
            VisibilityTimeout=_HOLD_SECONDS,
            WaitTimeSeconds=books.poll_seconds,
        ).get("Messages")
    ):
        for message in messages:
            sent = datetime.fromtimestamp(int(message["Attributes"]["SentTimestamp"]) / 1000, UTC)
            letter = read_letter(message["MessageId"], message["Body"], sent)
            _keep(books, letter)
        delete_messages(books, books.dead_letter_queue, (message["ReceiptHandle"] for message in messages))
    return not holds_messages(books, books.dead_letter_queue)


def _keep(books: Books, letter: Letter) -> None:
    """Store the latest failure, and keep the count of retries."""
    _update(
        books,
        letter,
        "SET event = :event, #error = :error, cause = :cause, failed_at = :at REMOVE healed_at, expires_at",
        "attribute_not_exists(failed_at) OR failed_at < :at",
        {
            ":event": {"S": letter.event},
            ":error": {"S": letter.error},
            ":cause": {"S": letter.cause},
            ":at": _moment(letter.failed_at),
        },
        ExpressionAttributeNames={"#error": "error"},
    )


def find_letters(books: Books, keys: Iterable[Key], consistent: bool = True) -> set[Key]:
    """The uploads that are dead letters. consistent: includes those stored just now."""
    parts = ("image", "version", "healed_at")
    items = read_items(books.dynamodb, books.letters_table, keys, parts, consistent)
    return {key_of(item) for item in items if "healed_at" not in item}


def scan_letters(books: Books, marker: dict[str, Any]) -> tuple[list[Letter], dict[str, Any]]:
    """A page of the open dead letters, and where the next page begins."""
    with transient("DynamoDB"):
        page = books.dynamodb.scan(
            TableName=books.letters_table,
            FilterExpression="attribute_not_exists(healed_at)",
            **({"Limit": _PAGE} | marker),
        )
    following = {"ExclusiveStartKey": page["LastEvaluatedKey"]} if "LastEvaluatedKey" in page else {}
    return [_read_item(item) for item in page["Items"]], following


def _read_item(item: Mapping[str, Any]) -> Letter:
    try:
        letter = Letter.model_validate(plain(item))
        if letter.key is None or letter.uploaded_at.tzinfo:
            return letter
        why = "its event has a time without a zone"
    except _MALFORMED as error:
        why = first_complaint(error) if isinstance(error, ValueError) else f"its event is no upload ({error!r})"
    image, version = item["image"]["S"], item["version"]["S"]
    logger.error("this dead letter cannot be read: %s (version %s): %s", image, version, why)
    at = datetime.fromtimestamp(0, UTC)
    return Letter(image=image, version=version, error=UNREADABLE, cause=why, failed_at=at)


def open_letters(books: Books) -> Iterator[list[Letter]]:
    """All open dead letters, page by page."""
    letters, marker = scan_letters(books, {})
    yield letters
    while marker:
        letters, marker = scan_letters(books, marker)
        yield letters


# ---- send again, and close


def heal_letters(books: Books, now: datetime, go_on: Callable[[], bool] = lambda: True) -> Healing:
    """Send late uploads again, and close dead letters whose uploads now have an outcome.

    After len(REDRIVE_AFTER) times a dead letter needs a person, and so does one that a retry does not cure.
    """
    done = dict.fromkeys(Healing.model_fields, 0)
    for letters in open_letters(books):
        if not go_on():
            break
        closed = close_settled(books, letters, now)
        due = [letter for letter in letters if letter.key not in closed and letter.is_due(now)]
        photos = {letter.key: letter.uploaded_at for letter in due if letter.key and not letter.about_review}
        fates = find_images(books, photos, now)
        expired = [letter for letter in due if letter.key and fates.get(letter.key) is Fate.EXPIRED]
        closed |= {letter.key for letter in expired if letter.key and _close(books, letter, now)}
        gone = {key for key, fate in fates.items() if fate is Fate.GONE}
        again = [letter for letter in due if letter.key not in closed | gone]
        refused = redrive(books, again, now)
        done["sent"] += len(again) - len(refused)
        done["refused"] += len(refused)
        done["closed"] += len(closed)
        done["for_a_person"] += sum(
            letter.key not in closed and (letter.key in gone or not letter.heals) for letter in letters
        )
    return Healing(**done)


def close_settled(books: Books, letters: Collection[Letter], now: datetime) -> set[Key]:
    """Close those whose uploads got an outcome after the failure, by a retry or by a backfill."""
    named = {letter.key: letter for letter in letters if letter.key}
    entries, questions = read_outcomes(books, named)
    return {
        key
        for key, entry in entries.items()
        if has_ended(entry, questions.get(key), now)
        and (not named[key].has_failed_since or entry.recorded_at > named[key].failed_at + _CLOCKS_DIFFER_BY)
        and _close(books, named[key], now)
    }


def redrive(books: Books, letters: Iterable[Letter], now: datetime) -> dict[Key, str]:
    """Send the dead letters again, whatever their error. Returns those that AWS refused, and why.

    A dead letter stays until its upload has an outcome. If two callers send it at a time, only one does.
    """
    claimed = [letter for letter in letters if letter.key and _claim(books, letter, now)]
    uploads = [letter for letter in claimed if not letter.about_review]
    reasons = zip(uploads, send(books, (json.loads(letter.event) for letter in uploads)), strict=True)
    refused = {letter.key: reason for letter, reason in reasons if reason and letter.key}
    for letter in claimed:
        if letter.key and letter.about_review:
            try:
                _redo_review(books, letter, letter.key, now)
            except Exception as error:  # report it, and send the others
                refused[letter.key] = repr(error)
    return refused


def _redo_review(books: Books, letter: Letter, key: Key, now: datetime) -> None:
    """Repeat a failed execution of review_image."""
    try:
        review = load_review(books.dynamodb, books.reviews_table, *key)
    except UnreadableReview:  # another execution could not read it either
        raise
    except Refused:
        start(books, books.review_image, json.loads(letter.event))
        return
    if review.answer and find_record(books, key):
        record_review(books.dynamodb, (books.reviews_table, books.records_table), key, answered=True, now=now)
    # Otherwise the question is on the review page, where it can be answered without an execution.


def _claim(books: Books, letter: Letter, now: datetime) -> bool:
    """Mark it as sent. Returns whether nobody else has sent it meanwhile."""
    at = max(now, letter.failed_at)  # with a clock behind that of SQS, this failure would count as a later one
    return _update(
        books,
        letter,
        "SET redrives = :number, redriven_at = :now",
        "attribute_exists(image) AND attribute_not_exists(healed_at) AND "
        + ("redrives = :standing" if letter.redrives else "attribute_not_exists(redrives)"),
        {":number": {"N": str(letter.redrives + 1)}, ":now": _moment(at)}
        | ({":standing": {"N": str(letter.redrives)}} if letter.redrives else {}),
    )


def _close(books: Books, letter: Letter, now: datetime) -> bool:
    """Mark it as done. Returns whether it has not failed again meanwhile."""
    return _update(
        books,
        letter,
        "SET healed_at = :now, expires_at = :end",
        "failed_at = :failed",
        {
            ":now": _moment(now),
            ":end": {"N": str(int((now + _KEPT_FOR).timestamp()))},
            ":failed": _moment(letter.failed_at),
        },
    )


def _update(
    books: Books,
    letter: Letter,
    change: str,
    condition: str,
    values: dict[str, Any],
    **more: Any,
) -> bool:
    """Whether the condition held, and the dead letter was changed."""
    key = item_key(letter.image, letter.version)
    return update_item_if(books.dynamodb, books.letters_table, key, change, condition, values, **more)


def _moment(at: datetime) -> Any:
    return {"S": at.astimezone(UTC).isoformat(timespec="microseconds")}
