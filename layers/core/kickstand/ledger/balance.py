"""The ledger: every upload has exactly one outcome, or is reported as missing."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from pydantic import AliasChoices, AliasPath, ConfigDict, Field

from kickstand.events import ImageRef, Moment, OfUpload, Payload, ReviewStatus, Route
from kickstand.text import counted

Key = tuple[str, str]
"""The key of an upload: its image (s3://bucket/key) and its version."""


class Place(StrEnum):
    """The outcome of an upload.

    accepted, rejected: by its record.
    waiting: for a reviewer.
    reviewed: a person has answered, whatever the model said; an audited photo too.
    dead_letter: it has failed, and has had no outcome since. This takes precedence over the others.
    missing: none of these, or the photo was deleted.
    """

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    WAITING = "waiting"
    REVIEWED = "reviewed"
    DEAD_LETTER = "dead_letter"
    MISSING = "missing"


class Lack(StrEnum):
    """What an upload lacks.

    decision: it is in the bucket, but has neither a record nor a dead letter.
    question: it should be under review, but is not.
    answer: a person has answered, but the record does not have the answer.
    review: the record has an answer, but the table of reviews does not.
    image: it has a record, but the bucket does not have this version.
    """

    DECISION = "decision"
    QUESTION = "question"
    ANSWER = "answer"
    REVIEW = "review"
    IMAGE = "image"


class Missing(OfUpload):
    """An upload without an outcome. image_ref: None if the photo was deleted."""

    lack: Lack
    image_ref: ImageRef | None = None


class Entry(OfUpload):
    """The part of a decision record that the ledger reads.

    review, answered_at: of its review. keep_until: as in `Record`.
    """

    route: Route = Field(validation_alias=AliasPath("decision", "route"))
    audited: bool = False
    recorded_at: Moment
    uploaded_at: Moment | None = Field(None, validation_alias=AliasPath("image_ref", "uploaded_at"))
    review: ReviewStatus | None = Field(None, validation_alias=AliasPath("review", "status"))
    answered_at: Moment | None = Field(None, validation_alias=AliasPath("review", "answer", "answered_at"))
    keep_until: int | None = Field(None, validation_alias=AliasChoices("keep_until", "expires_at"))

    @property
    def began_at(self) -> datetime:
        """When it was uploaded; if unknown, when it was recorded."""
        return self.uploaded_at or self.recorded_at

    def has_expired(self, now: datetime) -> bool:
        """Whether DynamoDB may have deleted its record or review."""
        return self.keep_until is not None and self.keep_until <= now.timestamp()

    def agrees(self, question: "Question | None") -> bool:
        """Whether the table of reviews has the record's answer."""
        told = question and question.answered_at
        return told is not None and self.answered_at in (None, told)

    @property
    def asks_a_person(self) -> bool:
        """Whether it should have a review."""
        return self.audited or self.route is Route.REVIEW


class Question(OfUpload):
    """The part of a review that the ledger reads."""

    answered_at: Moment | None = Field(None, validation_alias=AliasPath("answer", "answered_at"))


class Ledger(Payload):
    """The number of uploads by outcome. Their sum is the number of all known uploads.

    missing: uploads without an outcome; `lacks` names them, up to the requested number.
    under_way: too new to have an outcome; not counted as uploads yet.
    expired: older than the retention; no longer counted as uploads.
    """

    accepted: int = 0
    rejected: int = 0
    waiting: int = 0
    reviewed: int = 0
    dead_letter: int = 0
    missing: int = 0
    under_way: int = 0
    expired: int = 0
    lacks: tuple[Missing, ...] = Field(default=(), repr=False)

    @property
    def uploads(self) -> int:
        """The number of all uploads, missing ones too."""
        return sum(self.counts.values())

    @property
    def counts(self) -> dict[str, int]:
        """The number of uploads with each outcome, by its name."""
        return {place.value: getattr(self, place) for place in Place}

    @property
    def lost(self) -> list[Missing]:
        """Missing uploads that can be sent again: all but those whose photo was deleted."""
        return [missing for missing in self.lacks if missing.lack is not Lack.IMAGE]

    def __str__(self) -> str:
        """In one line.

        >>> print(Ledger(accepted=30, rejected=4, waiting=5, reviewed=1))
        ledger: 40 uploads = 30 accepted + 4 rejected + 5 waiting + 1 reviewed + 0 dead-letter
        """
        ends = (f"{self.counts[place]:,} {place.replace('_', '-')}" for place in Place if place is not Place.MISSING)
        rest = {"missing": self.missing, "under way": self.under_way, "expired": self.expired}
        doubts = (f", {number:,} {word}" for word, number in rest.items() if number)
        return f"ledger: {counted(self.uploads, 'upload')} = {' + '.join(ends)}{''.join(doubts)}"

    def plus(self, other: "Ledger", name_at_most: int | None = None) -> "Ledger":
        """The sum of both ledgers. name_at_most: how many missing uploads are named; None for all."""
        numbers = {name: getattr(self, name) + getattr(other, name) for name in (*Place, "under_way", "expired")}
        return Ledger(lacks=(*self.lacks, *other.lacks)[:name_at_most], **numbers)


def balance(
    uploads: Iterable[ImageRef],
    entries: Mapping[Key, Entry],
    questions: Mapping[Key, Question],
    letters: Container[Key],
    closes_at: datetime,
    opens_at: datetime | None = None,
) -> Ledger:
    """The ledger of these uploads, which are in the bucket.

    entries, questions: their records and reviews. letters: the uploads that are dead letters.
    closes_at: later uploads may still be under way, and never count as missing.
    opens_at: earlier uploads have expired, and never count as missing; None if nothing expires.
    """
    counts: Counter[str] = Counter()
    lacks = []
    for ref in uploads:
        key = ref.upload
        entry = entries.get(key)
        if key in letters:
            place: Place | Lack = Place.DEAD_LETTER
        elif entry:
            place = _place(entry, questions.get(key), closes_at)
        elif opens_at and ref.uploaded_at < opens_at:
            counts["expired"] += 1
            continue
        elif ref.uploaded_at >= closes_at:
            counts["under_way"] += 1
            continue
        else:
            place = Lack.DECISION
        if isinstance(place, Lack):
            lacks.append(Missing(image=ref.uri, version=ref.version, lack=place, image_ref=ref))
            place = Place.MISSING
        counts[place] += 1
    return Ledger(lacks=tuple(lacks), **counts)


def has_ended(entry: Entry, question: Question | None, now: datetime) -> bool:
    """Whether the upload has an outcome, or waits for a person."""
    if entry.has_expired(now):
        return True
    if entry.review is ReviewStatus.ANSWERED:
        return entry.agrees(question)
    if question is None:
        return not entry.asks_a_person
    return not question.answered_at


def _place(entry: Entry, question: Question | None, closes_at: datetime) -> Place | Lack:
    """The outcome of a recorded upload, or what it lacks."""
    excused = entry.has_expired(closes_at)
    if entry.review is ReviewStatus.ANSWERED:
        excused |= entry.answered_at is not None and entry.answered_at >= closes_at
        return Place.REVIEWED if excused or entry.agrees(question) else Lack.REVIEW
    if question and question.answered_at:
        return Place.REVIEWED if excused or question.answered_at >= closes_at else Lack.ANSWER
    if entry.asks_a_person and not question and not excused and entry.recorded_at < closes_at:
        return Lack.QUESTION
    return _PLACES[entry.route]


_PLACES = {Route.ACCEPT: Place.ACCEPTED, Route.REJECT: Place.REJECTED, Route.REVIEW: Place.WAITING}


# ---- an audit of the whole bucket, page by page


class Part(StrEnum):
    """The next part of an audit.

    bucket: every version of every object, by key, with its outcome. records: the whole table of records, to check
    for records without an object. doubts: the table again, to name these. letters: the dead letters.
    """

    BUCKET = "bucket"
    RECORDS = "records"
    DOUBTS = "doubts"
    LETTERS = "letters"
    DONE = "done"


GROUPS = 4096


class Audit(Payload):
    """The state of a comparison of the whole bucket with all outcomes. Its size does not grow.

    closes_at: later events are left out.
    late_at: later uploads may still wait to be classified, or to become dead letters.
    opens_at: earlier uploads have expired, and need not be in the bucket.
    name_at_most: how many missing uploads are named; None for all.
    marker: where the next page begins, as a parameter of S3 or DynamoDB.
    sums: for each of GROUPS groups of uploads, the exclusive or of the hashes of those that have a record and are in
        the bucket; the part "records" removes the hash of each record. If the rest of a group is not zero, its records
        and the bucket differ, so only these groups are read again.
    surplus: how many more records there are than such uploads. gone: number of deleted photos found so far.
    """

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    closes_at: Moment
    late_at: Moment | None = None
    opens_at: Moment | None = None
    name_at_most: int | None = None
    part: Part = Part.BUCKET
    marker: dict[str, Any] = Field(default_factory=dict)
    sums: bytes = Field(default=bytes(8 * GROUPS), min_length=8 * GROUPS, max_length=8 * GROUPS, repr=False)
    surplus: int = 0
    gone: int = 0
    found: Ledger = Ledger()

    def compares(self, entry: Entry) -> bool:
        """Whether the bucket must have this record's object."""
        if entry.has_expired(self.closes_at) or entry.recorded_at >= self.closes_at:
            return False
        return self.opens_at is None or entry.began_at >= self.opens_at

    def saw(self, keys: Iterable[Key]) -> bytes:
        """The sums, with these uploads added or removed."""
        sums = array("Q", self.sums)
        for key in keys:
            value = _hash(key)
            sums[value % GROUPS] ^= value
        return sums.tobytes()

    def doubts(self, keys: Iterable[Key]) -> list[Key]:
        """The uploads in groups whose records and bucket differ."""
        sums = array("Q", self.sums)
        return [key for key in keys if sums[_hash(key) % GROUPS]]

    def go_on(self, marker: dict[str, Any], after: Part, found: Ledger | None = None, **more: Any) -> Self:
        """The audit at its next page, or at the next part."""
        state = {"marker": marker, "part": self.part if marker else after} | more
        if found:
            state["found"] = self.found.plus(found, self.name_at_most)
        return self.model_copy(update=state)


def _hash(key: Key) -> int:
    """The same in every process, unlike Python's own."""
    return int.from_bytes(
        hashlib.blake2b("\n".join(key).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )
