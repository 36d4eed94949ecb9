"""What the ledger is drawn up from in AWS, and how what is missing is sent again."""

import json
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from kickstand.clients import DynamoDBClient, S3Client, SFNClient, SQSClient
from kickstand.events import ImageRef, Payload
from kickstand.ledger.balance import Audit, Entry, Key, Lack, Ledger, Missing, Part, Question, balance, has_ended
from kickstand.records import Record
from kickstand.review.rules import Refused, Review
from kickstand.review.store import load_review, record_review
from kickstand.store import from_item, get_item, name_parts, plain, put_item_if, read_items, transient

GRACE = timedelta(minutes=15)  # all attempts of an execution together take five at most
REPLAY_AT_MOST = 100  # in one run: what is missing in thousands has a cause that somebody must find first
NAME_AT_MOST = 50  # of an audit's missing uploads: they are kept in one DynamoDB item, which holds 400 KB
PAGE = 1000  # versions of objects, S3's most
SAVE_AFTER = 20  # pages of an audit
RESERVE_SECONDS = 300  # of a run, for the audit and for telling what was found
LAST_SECONDS = 60  # of a run, for saving where the audit is
_HOLD_SECONDS = 60  # nobody else sees the dead letters while they are read
_HOLD_NEW_SECONDS = 1800  # nobody else sees new uploads while a run, of 900 s at most, checks them
_OPEN_AT_MOST = 10_000  # new uploads without an outcome in one run; SQS hands out 120,000 at most
_LONGEST_WAIT = timedelta(days=1)  # while uploads wait to be classified, younger ones are not missing
_LEDGER = {"id": {"S": "ledger"}}
_ENVELOPE = {"version", "id", "detail-type", "source", "account", "time", "region", "resources", "detail"}


@dataclass(frozen=True)
class Books:
    """Where everything is written down: boto3's clients, and what the stack's outputs name.

    control_table: where the ledger stands. new_uploads: the queue of uploads whose outcome is not known yet.
    waiting_queue: where uploads wait until they can be classified; empty where there is no such queue.
    poll_seconds: how long SQS may search all its servers for messages; with 0 it may overlook some.
    """

    s3: S3Client
    dynamodb: DynamoDBClient
    sqs: SQSClient
    stepfunctions: SFNClient
    image_bucket: str
    records_table: str
    reviews_table: str
    control_table: str
    new_uploads: str
    dead_letter_queue: str
    classify_image: str
    review_image: str
    poll_seconds: int = 1
    waiting_queue: str = ""


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


class Standing(Payload):
    """Where the ledger stands, between its runs.

    run, run_at: what the last run found among new uploads, and when.
    audit: the one that is under way. last, last_closed_at: what the last complete audit found, less what has healed.
    """

    run: Ledger = Ledger()
    run_at: datetime | None = None
    audit: Audit | None = None
    last: Ledger = Ledger()
    last_closed_at: datetime | None = None


def draw_up(books: Books, closes_at: datetime, name_at_most: int | None = None) -> Ledger:
    """The ledger of all uploads: an audit from beginning to end. Nothing is changed."""
    audit, letters = Audit(closes_at=closes_at, name_at_most=name_at_most), _letter_keys(books)
    while audit.part is not Part.DONE:
        audit = read_page(books, audit, letters)
    return audit.found


# ---- what is new


def close_new(books: Books, closes_at: datetime, seconds_left: Callable[[], float]) -> Ledger:
    """The ledger of the uploads whose outcome was not known so far.

    What has an outcome leaves the queue of new uploads; what has none stays there for the next run. So nothing is
    forgotten wherever this stops. After RESERVE_SECONDS of the time left, the next run goes on.
    """
    found, kept = Ledger(), list[str]()
    letters: set[Key] | None = None
    while len(kept) < _OPEN_AT_MOST and seconds_left() > RESERVE_SECONDS and (taken := _take_new(books)):
        refs = {(ref.uri, ref.version): ref for ref, _ in taken if ref}
        entries, questions = read_outcomes(books, refs)
        ended = {key for key, entry in entries.items() if has_ended(entry, questions.get(key))}
        if letters is None and refs.keys() - ended:
            letters = _letter_keys(books)
        ended |= refs.keys() & (letters or set())
        done = balance([refs[key] for key in ended], entries, questions, letters or (), closes_at)
        late = closes_at - _LONGEST_WAIT if refs.keys() - ended and _uploads_wait(books) else closes_at
        rest = balance([refs[key] for key in refs.keys() - ended], entries, questions, (), late)
        waiting = rest.uploads - rest.missing + rest.under_way  # for a person who has not been asked yet
        rest = Ledger(missing=rest.missing, under_way=waiting, lacks=rest.lacks)
        found = found.plus(done).plus(rest, REPLAY_AT_MOST)
        gone = {receipt for ref, receipt in taken if ref and (ref.uri, ref.version) in ended}
        _delete_new(books, list(gone))
        kept += [receipt for _, receipt in taken if receipt not in gone]
    for some in _in_tens(kept):
        books.sqs.change_message_visibility_batch(
            QueueUrl=books.new_uploads,
            Entries=[
                {"Id": str(place), "ReceiptHandle": receipt, "VisibilityTimeout": 0}
                for place, receipt in enumerate(some)
            ],
        )
    return found


def _uploads_wait(books: Books) -> bool:
    """Whether uploads wait for the account's concurrency, so that what is late is not lost."""
    if not books.waiting_queue:
        return False
    counts = books.sqs.get_queue_attributes(
        QueueUrl=books.waiting_queue,
        AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesDelayed"],
    )["Attributes"]
    return any(int(number) for number in counts.values())


def _take_new(books: Books) -> list[tuple[ImageRef | None, str]]:
    """Up to 100 new uploads, each with its receipt; None for a message that names none."""
    taken: list[tuple[ImageRef | None, str]] = []
    while len(taken) < 100 and (
        messages := books.sqs.receive_message(
            QueueUrl=books.new_uploads,
            MaxNumberOfMessages=10,
            VisibilityTimeout=_HOLD_NEW_SECONDS,
            WaitTimeSeconds=books.poll_seconds,
        ).get("Messages")
    ):
        for message in messages:
            try:
                taken.append((ImageRef.model_validate_json(message["Body"]), message["ReceiptHandle"]))
            except ValueError:
                taken.append((None, message["ReceiptHandle"]))
    return taken


def _delete_new(books: Books, receipts: Sequence[str]) -> None:
    for some in _in_tens(receipts):
        books.sqs.delete_message_batch(
            QueueUrl=books.new_uploads,
            Entries=[{"Id": str(place), "ReceiptHandle": receipt} for place, receipt in enumerate(some)],
        )


def _in_tens(receipts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (receipts[start : start + 10] for start in range(0, len(receipts), 10))


# ---- a run, and an audit by slices


def keep_ledger(books: Books, now: datetime, seconds_left: Callable[[], float]) -> Ledger:
    """One run: what is new, and what is still missing since the last audit; `replay_lost` sends it again."""
    found = close_new(books, now - GRACE, seconds_left)
    standing, revision = load_standing(books)
    last = recheck(books, standing.last, now - GRACE)
    save_standing(books, standing.model_copy(update={"run": found, "run_at": now, "last": last}), revision)
    named = {(lack.image, lack.version) for lack in found.lacks}
    lacks = tuple(lack for lack in last.lacks if (lack.image, lack.version) not in named)
    return found.plus(Ledger(missing=last.missing - len(last.lacks) + len(lacks), lacks=lacks))


def recheck(books: Books, ledger: Ledger, closes_at: datetime) -> Ledger:
    """The ledger without those of its named missing uploads that are not missing any more."""
    there = [lack for lack in ledger.lacks if (lack.lack is Lack.IMAGE) != _is_there(books, lack.image, lack.version)]
    entries, questions = read_outcomes(books, [(lack.image, lack.version) for lack in there])
    refs = [lack.image_ref for lack in there if lack.image_ref]
    gone = tuple(lack for lack in there if lack.lack is Lack.IMAGE and (lack.image, lack.version) in entries)
    lacks = balance(refs, entries, questions, _letter_keys(books) if refs else (), closes_at).lacks + gone
    return ledger.model_copy(
        update={"lacks": lacks, "missing": ledger.missing - len(ledger.lacks) + len(lacks)},
    )


def go_on_with_audit(books: Books, now: datetime, seconds_left: Callable[[], float], begin: bool) -> Standing:
    """Go on with the audit that is under way, or begin one; it is saved after every SAVE_AFTER pages.

    It stops when LAST_SECONDS are left, and the next run goes on. Of two runs at once, one does its pages in vain.
    """
    standing, revision = load_standing(books)
    if standing.audit is None:
        if not begin:
            return standing
        standing = standing.model_copy(update={"audit": Audit(closes_at=now - GRACE, name_at_most=NAME_AT_MOST)})
    letters = _letter_keys(books)
    while (audit := standing.audit) and seconds_left() > LAST_SECONDS:
        for _ in range(SAVE_AFTER):
            if audit.part is Part.DONE or seconds_left() <= LAST_SECONDS:
                break
            audit = read_page(books, audit, letters)
        done = {"audit": None, "last": audit.found, "last_closed_at": audit.closes_at}
        standing = standing.model_copy(update=done if audit.part is Part.DONE else {"audit": audit})
        if not save_standing(books, standing, revision):
            break
        revision += 1
    return standing


def load_standing(books: Books) -> tuple[Standing, int]:
    """Where the ledger stands, and how often that has been written."""
    item = get_item(books.dynamodb, books.control_table, _LEDGER)
    return (Standing.model_validate_json(item["state"]["S"]), int(item["revision"]["N"])) if item else (Standing(), 0)


def save_standing(books: Books, standing: Standing, revision: int) -> bool:
    """Whether it could take the place of that revision: nobody else was faster."""
    item = _LEDGER | {"revision": {"N": str(revision + 1)}, "state": {"S": standing.model_dump_json(exclude_none=True)}}
    if not revision:
        return put_item_if(books.dynamodb, books.control_table, item, "attribute_not_exists(id)")
    values = {":revision": {"N": str(revision)}}
    return put_item_if(
        books.dynamodb, books.control_table, item, "revision = :revision", ExpressionAttributeValues=values
    )


def replay_lost(books: Books, ledger: Ledger, now: datetime) -> None:
    """Send again what is lost. Dead letters are left to a person: what failed would fail again."""
    for missing in ledger.lost:
        replay(books, missing, now)


# ---- an audit, page by page


def read_page(books: Books, audit: Audit, letters: Collection[Key]) -> Audit:
    """The audit after its next page. letters: the uploads in the dead-letter queue."""
    match audit.part:
        case Part.BUCKET:
            return _read_bucket(books, audit, letters)
        case Part.RECORDS:
            keys, marker = _scan_keys(books, audit)
            sums = audit.saw(keys)
            after = Part.DOUBTS if any(sums) else Part.LETTERS
            return audit.go_on(marker, after, sums=sums, surplus=audit.surplus + len(keys))
        case Part.DOUBTS:
            keys, marker = _scan_keys(books, audit)
            gone = [key for key in audit.doubts(keys) if not _is_there(books, *key)]
            number = audit.gone + len(gone)
            if audit.name_at_most is None or len(audit.found.lacks) + len(gone) < audit.name_at_most:
                return audit.go_on(marker, Part.LETTERS, _without_image(gone), gone=number)
            # Enough are named, and how many there are has been counted.
            found = _without_image(gone).plus(Ledger(missing=max(0, audit.surplus - number)))
            return audit.go_on({}, Part.LETTERS, found)
        case _:
            entries, _ = read_outcomes(books, list(letters))
            gone = [key for key in letters if key not in entries and not _is_there(books, *key)]
            return audit.go_on({}, Part.DONE, _without_image(gone))


def _read_bucket(books: Books, audit: Audit, letters: Collection[Key]) -> Audit:
    page = books.s3.list_object_versions(Bucket=books.image_bucket, MaxKeys=PAGE, **audit.marker)
    uploads = [
        ImageRef(
            bucket=books.image_bucket,
            key=found["Key"],
            etag=found["ETag"].strip('"'),
            version_id=None if found["VersionId"] == "null" else found["VersionId"],
            size=found["Size"],
            uploaded_at=found["LastModified"],
        )
        for found in page.get("Versions", [])
    ]
    entries, questions = read_outcomes(books, [(ref.uri, ref.version) for ref in uploads])
    compared = [entry.key for entry in entries.values() if audit.compares(entry)]
    marker = {}
    if page["IsTruncated"]:
        marker = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}
    return audit.go_on(
        marker,
        Part.RECORDS,
        balance(uploads, entries, questions, letters, audit.closes_at),
        sums=audit.saw(compared),
        surplus=audit.surplus - len(compared),
    )


def _scan_keys(books: Books, audit: Audit) -> tuple[list[Key], dict[str, Any]]:
    """The next records that must have an object in the bucket, and where the page after them begins."""
    with transient("DynamoDB"):
        page = books.dynamodb.scan(
            TableName=books.records_table, **name_parts(_ENTRY_PARTS), **({"Limit": PAGE} | audit.marker)
        )
    entries = [Entry.model_validate(plain(item)) for item in page["Items"]]
    marker = {"ExclusiveStartKey": page["LastEvaluatedKey"]} if "LastEvaluatedKey" in page else {}
    return [entry.key for entry in entries if audit.compares(entry)], marker


def _without_image(keys: Iterable[Key]) -> Ledger:
    lacks = tuple(Missing(image=image, version=version, lack=Lack.IMAGE) for image, version in keys)
    return Ledger(missing=len(lacks), lacks=lacks)


def _is_there(books: Books, image: str, version: str) -> bool:
    """Whether the bucket has this version."""
    key = image.removeprefix(f"s3://{books.image_bucket}/")
    for page in books.s3.get_paginator("list_object_versions").paginate(Bucket=books.image_bucket, Prefix=key):
        for found in page.get("Versions", []):
            if found["Key"] != key:  # the shortest comes first
                return False
            if version in (found["VersionId"], found["ETag"].strip('"')):
                return True
    return False


# ---- what there is

_ENTRY_PARTS = ("image", "version", "decision.route", "audited", "recorded_at", "review.status")
_QUESTION_PARTS = ("image", "version", "answer.answered_at")


def read_outcomes(books: Books, keys: Collection[Key]) -> tuple[dict[Key, Entry], dict[Key, Question]]:
    """The records and the reviews of these uploads, where there are any."""
    items = read_items(books.dynamodb, books.records_table, keys, _ENTRY_PARTS)
    entries = {entry.key: entry for entry in map(Entry.model_validate, map(plain, items))}
    asking = [key for key, entry in entries.items() if entry.asks_a_person or entry.review]
    items = read_items(books.dynamodb, books.reviews_table, asking, _QUESTION_PARTS)
    return entries, {question.key: question for question in map(Question.model_validate, map(plain, items))}


def _letter_keys(books: Books) -> set[Key]:
    letters = read_letters(books)
    release(books, letters)
    return {letter.key for letter in letters if letter.key}


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
