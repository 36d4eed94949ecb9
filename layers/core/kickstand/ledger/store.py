"""Runs of the ledger: read the outcomes of uploads in AWS, and send missing uploads again."""

import itertools
import random
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

from kickstand.batches import in_batches
from kickstand.events import ImageRef, Moment, Payload, is_folder
from kickstand.ledger.balance import Audit, Entry, Key, Lack, Ledger, Missing, Part, balance, has_ended
from kickstand.ledger.books import (
    ENTRY_PARTS,
    SQS_BATCH,
    Books,
    Fate,
    as_event,
    delete_messages,
    find_images,
    holds_messages,
    read_outcomes,
    send_uploads,
)
from kickstand.ledger.letters import find_letters, record_letters, scan_letters
from kickstand.review.store import record_review, restore_review
from kickstand.store import load_state, name_parts, readable, save_state, transient

GRACE = timedelta(minutes=15)  # all attempts of an execution together take at most five
NAME_AT_MOST = 50  # missing uploads in the saved state: one DynamoDB item of 400 KB
PAGE = 1000  # versions of objects, S3's maximum
SAVE_AFTER = 20  # pages of an audit
RESERVE_SECONDS = 300  # of a run, for the audit and for reporting
LAST_SECONDS = 60  # of a run, for saving the audit
_HOLD_NEW_SECONDS = 1800  # longer than a run of at most 900 s: no other run receives its messages meanwhile
_OPEN_AT_MOST = 10_000  # new uploads without an outcome in one run; SQS hands out at most 120,000
_LONGEST_WAIT = timedelta(days=1)  # while uploads wait to be classified, newer ones do not count as missing
LEDGER = "ledger"


class Standing(Payload):
    """The state of the ledger between runs.

    run, run_at: the result of the last run about new uploads, and its time.
    audit: the one in progress. last, last_closed_at: the last complete audit, without uploads that are no longer
        missing.
    """

    run: Ledger = Ledger()
    run_at: Moment | None = None
    audit: Audit | None = None
    last: Ledger = Ledger()
    last_closed_at: Moment | None = None


def draw_up(
    books: Books,
    now: datetime,
    grace: timedelta = timedelta(0),
    begun: Audit | None = None,
    save: Callable[[Audit], object] = lambda _audit: None,
) -> Ledger:
    """The ledger of all uploads: a complete audit, which names all missing uploads.

    begun: an interrupted audit to continue. save: called with the audit after every SAVE_AFTER pages.
    """
    audit = begun or begin_audit(books, now, grace, None)
    for page in itertools.count(1):
        if audit.part is Part.DONE:
            break
        audit = read_page(books, audit, now)
        if page % SAVE_AFTER == 0:
            save(audit)
    return audit.found


def begin_audit(books: Books, now: datetime, grace: timedelta, name_at_most: int | None) -> Audit:
    """A new audit. The dead letters are moved into their table first."""
    complete = record_letters(books)
    closes_at = now - grace
    return Audit(
        closes_at=closes_at,
        late_at=_find_late_at(books, complete, closes_at),
        opens_at=books.opens_at(now),
        name_at_most=name_at_most,
    )


def _find_late_at(books: Books, complete: bool, closes_at: datetime) -> datetime:
    """Later uploads may have no outcome yet. complete: whether all dead letters are in their table."""
    late = not complete or holds_messages(books, books.waiting_queue)
    return closes_at - _LONGEST_WAIT if late else closes_at


# ---- new uploads


def close_new(books: Books, closes_at: datetime, seconds_left: Callable[[], float]) -> Ledger:
    """The ledger of the uploads whose outcome was not known so far.

    An upload with an outcome leaves the queue of new uploads; one without stays there for the next run. So none is
    forgotten if this is interrupted. It stops when RESERVE_SECONDS are left; the next run continues.
    """
    complete = record_letters(books, lambda: seconds_left() > RESERVE_SECONDS)
    found, kept = Ledger(), list[str]()
    late_at: datetime | None = None
    while len(kept) < _OPEN_AT_MOST and seconds_left() > RESERVE_SECONDS and (taken := _take_new(books)):
        refs = {ref.upload: ref for ref, _ in taken if ref}
        entries, questions = read_outcomes(books, refs)
        ended = {key for key, entry in entries.items() if has_ended(entry, questions.get(key), closes_at)}
        letters = find_letters(books, refs.keys() - ended)
        ended |= letters
        if late_at is None and refs.keys() - ended:
            late_at = _find_late_at(books, complete, closes_at)
        rest = balance([refs[key] for key in refs.keys() - ended], entries, questions, (), late_at or closes_at)
        rest, expired = check_images(books, rest, closes_at)
        ended |= expired
        done = balance([refs[key] for key in ended - expired], entries, questions, letters, closes_at)
        waiting = rest.uploads - rest.missing + rest.under_way  # for a person, whose review is not open yet
        rest = Ledger(missing=rest.missing, under_way=waiting, expired=len(expired), lacks=rest.lacks)
        found = found.plus(done).plus(rest)
        gone = {receipt for ref, receipt in taken if ref and ref.upload in ended}
        delete_messages(books, books.new_uploads, gone)
        kept += [receipt for _, receipt in taken if receipt not in gone]
    for some in in_batches(kept, SQS_BATCH):
        books.sqs.change_message_visibility_batch(
            QueueUrl=books.new_uploads,
            Entries=[
                {"Id": str(place), "ReceiptHandle": receipt, "VisibilityTimeout": 0}
                for place, receipt in enumerate(some)
            ],
        )
    return found


def check_images(books: Books, ledger: Ledger, now: datetime) -> tuple[Ledger, set[Key]]:
    """The ledger in which deleted photos count as missing, without the expired uploads; and these."""
    uploaded = {
        missing.key: missing.image_ref.uploaded_at
        for missing in ledger.lost
        if missing.image_ref and missing.lack in (Lack.DECISION, Lack.QUESTION)
    }
    fates = find_images(books, uploaded, now)
    expired = {key for key, fate in fates.items() if fate is Fate.EXPIRED}
    lacks = tuple(
        missing.model_copy(update={"lack": Lack.IMAGE, "image_ref": None})
        if fates.get(missing.key) is Fate.GONE
        else missing
        for missing in ledger.lacks
        if missing.key not in expired
    )
    return ledger.model_copy(update={"lacks": lacks, "missing": ledger.missing - len(expired)}), expired


def _take_new(books: Books) -> list[tuple[ImageRef | None, str]]:
    """Up to 100 new uploads, each with its receipt; None for a message without an upload."""
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


# ---- a run, and an audit in slices


def keep_ledger(books: Books, now: datetime, seconds_left: Callable[[], float]) -> tuple[Ledger, str]:
    """One run: new uploads, and those still missing since the last audit; `replay` sends these again.

    Also returns why the ledger's state could not be read, usually nothing; then a new one has replaced it.
    """
    found = close_new(books, now - GRACE, seconds_left)
    standing, revision, lost = load_standing(books)
    last = recheck(books, standing.last, now - GRACE)
    run = found.plus(Ledger(), NAME_AT_MOST)
    _save_standing(books, standing.model_copy(update={"run": run, "run_at": now, "last": last}), revision)
    named = {missing.key for missing in found.lacks}
    lacks = tuple(missing for missing in last.lacks if missing.key not in named)
    return found.plus(Ledger(missing=last.missing - len(last.lacks) + len(lacks), lacks=lacks)), lost


def recheck(books: Books, ledger: Ledger, closes_at: datetime) -> Ledger:
    """The ledger without named uploads that are no longer missing."""
    keys = [missing.key for missing in ledger.lacks]
    entries, questions = read_outcomes(books, keys)
    letters = find_letters(books, keys)
    refs = {missing.key: missing.image_ref for missing in ledger.lacks if missing.image_ref}
    uploaded = {key: entry.began_at for key, entry in entries.items()}
    uploaded |= {key: ref.uploaded_at for key, ref in refs.items()}
    fates = find_images(books, {key: uploaded.get(key, closes_at) for key in keys}, closes_at)
    there = [ref for key, ref in refs.items() if fates[key] is Fate.THERE]
    known = {*entries, *letters}
    lost = tuple(
        missing.model_copy(update={"lack": Lack.IMAGE, "image_ref": None})
        for missing in ledger.lacks
        if fates[missing.key] is Fate.GONE and (missing.lack is not Lack.IMAGE or missing.key in known)
    )
    lacks = balance(there, entries, questions, letters, closes_at, books.opens_at(closes_at)).lacks + lost
    return ledger.model_copy(
        update={"lacks": lacks, "missing": ledger.missing - len(ledger.lacks) + len(lacks)},
    )


def go_on_with_audit(books: Books, now: datetime, seconds_left: Callable[[], float], begin: bool) -> Standing:
    """Continue the audit in progress, or start one; it is saved after every SAVE_AFTER pages.

    It stops when LAST_SECONDS are left, and the next run continues. If two runs overlap, one has no effect.
    """
    standing, revision, _ = load_standing(books)
    if standing.audit is None:
        if not begin:
            return standing
        standing = standing.model_copy(update={"audit": begin_audit(books, now, GRACE, NAME_AT_MOST)})
    while (audit := standing.audit) and seconds_left() > LAST_SECONDS:
        for _ in range(SAVE_AFTER):
            if audit.part is Part.DONE or seconds_left() <= LAST_SECONDS:
                break
            audit = read_page(books, audit, now)
        done = {"audit": None, "last": audit.found, "last_closed_at": audit.closes_at}
        standing = standing.model_copy(update=done if audit.part is Part.DONE else {"audit": audit})
        if not (revision := _save_standing(books, standing, revision)):
            break
    return standing


def load_standing(books: Books) -> tuple[Standing, Any, str]:
    """The state of the ledger, its revision, and why another state in the table cannot be read: then this is new."""
    standing, revision, lost = load_state(books.dynamodb, books.control_table, LEDGER, Standing)
    why = f"the ledger's state cannot be read ({lost}); its next run starts with a new one" if lost else ""
    return standing or Standing(), revision, why


def _save_standing(books: Books, standing: Standing, revision: Any) -> Any:
    """The new revision; None if somebody else was faster."""
    return save_state(books.dynamodb, books.control_table, LEDGER, standing, revision)


# ---- an audit, page by page


def read_page(books: Books, audit: Audit, now: datetime) -> Audit:
    """The audit after its next page."""
    match audit.part:
        case Part.BUCKET:
            return _read_bucket(books, audit)
        case Part.RECORDS:
            recorded, marker = _scan_entries(books, audit)
            sums = audit.saw(entry.key for entry in recorded)
            after = Part.DOUBTS if any(sums) else Part.LETTERS
            return audit.go_on(marker, after, sums=sums, surplus=audit.surplus + len(recorded))
        case Part.DOUBTS:
            return _read_doubts(books, audit, now)
        case _:
            letters, marker = scan_letters(books, audit.marker)
            uploaded = {letter.key: letter.uploaded_at for letter in letters if letter.key}
            entries, _ = read_outcomes(books, uploaded)
            fates = find_images(books, {key: at for key, at in uploaded.items() if key not in entries}, now)
            return audit.go_on(marker, Part.DONE, _without_image([key for key in fates if fates[key] is Fate.GONE]))


def _read_bucket(books: Books, audit: Audit) -> Audit:
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
    entries, questions = read_outcomes(books, [ref.upload for ref in uploads])
    # A folder marker that an older version of the template has decided is counted on both sides.
    uploads = [ref for ref in uploads if ref.upload in entries or not is_folder(ref.key, ref.size or 0)]
    keys = [ref.upload for ref in uploads]
    compared = [entry.key for entry in entries.values() if audit.compares(entry)]
    marker = {}
    if page["IsTruncated"]:
        marker = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}
    # If there is a record, missing a dead letter of this moment is acceptable, at half the price.
    letters = find_letters(books, set(keys) - entries.keys()) | find_letters(books, entries, consistent=False)
    closes_at = audit.late_at or audit.closes_at
    return audit.go_on(
        marker,
        Part.RECORDS,
        balance(uploads, entries, questions, letters, closes_at, audit.opens_at),
        sums=audit.saw(compared),
        surplus=audit.surplus - len(compared),
    )


def _read_doubts(books: Books, audit: Audit, now: datetime) -> Audit:
    entries, marker = _scan_entries(books, audit)
    doubted = set(audit.doubts(entry.key for entry in entries))
    fates = find_images(books, {entry.key: entry.began_at for entry in entries if entry.key in doubted}, now)
    gone = [key for key, fate in fates.items() if fate is Fate.GONE]
    expired = sum(fate is Fate.EXPIRED for fate in fates.values())
    found = _without_image(gone).plus(Ledger(expired=expired))
    number = audit.gone + len(gone) + expired
    if audit.name_at_most is None or len(audit.found.lacks) + len(gone) < audit.name_at_most:
        return audit.go_on(marker, Part.LETTERS, found, gone=number)
    # Enough are named; the count is complete.
    rest = Ledger(missing=max(0, audit.surplus - number))
    return audit.go_on({}, Part.LETTERS, found.plus(rest))


def _scan_entries(books: Books, audit: Audit) -> tuple[list[Entry], dict[str, Any]]:
    """The next records that must have an object in the bucket, and where the next page begins."""
    with transient("DynamoDB"):
        page = books.dynamodb.scan(
            TableName=books.records_table, **name_parts(ENTRY_PARTS), **({"Limit": PAGE} | audit.marker)
        )
    entries = [*readable(page["Items"], Entry)]
    marker = {"ExclusiveStartKey": page["LastEvaluatedKey"]} if "LastEvaluatedKey" in page else {}
    return [entry for entry in entries if audit.compares(entry)], marker


def _without_image(keys: Iterable[Key]) -> Ledger:
    lacks = tuple(Missing(image=image, version=version, lack=Lack.IMAGE) for image, version in keys)
    return Ledger(missing=len(lacks), lacks=lacks)


# ---- send again


def replay(books: Books, lacks: Iterable[Missing], now: datetime) -> dict[Key, str]:
    """Send missing uploads again. Returns those that AWS refused, and why. Sending twice does no harm.

    The order is random, so that one that always fails does not block the others. Dead letters are not among them.
    """
    lost = [missing for missing in lacks if missing.lack is not Lack.IMAGE]
    random.shuffle(lost)
    uploads = [missing for missing in lost if missing.lack in (Lack.DECISION, Lack.QUESTION) and missing.image_ref]
    events = (as_event(missing.image_ref) for missing in uploads if missing.image_ref)
    reasons = zip(uploads, send_uploads(books, events), strict=True)
    refused = {missing.key: reason for missing, reason in reasons if reason}
    for missing in lost:
        try:
            _complete(books, missing, now)
        except Exception as error:  # it is named, and the others are sent
            refused[missing.key] = repr(error)
    return refused


def _complete(books: Books, missing: Missing, now: datetime) -> None:
    """Copy an answer to the table that lacks it."""
    tables = books.reviews_table, books.records_table
    match missing.lack:
        case Lack.ANSWER:
            record_review(books.dynamodb, tables, missing.key, answered=True, now=now)
        case Lack.REVIEW:
            restore_review(books.dynamodb, books.stepfunctions, tables, missing.key, now)
