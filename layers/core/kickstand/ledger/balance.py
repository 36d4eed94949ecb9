"""The ledger: every upload has ended in exactly one place, or is named as missing."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from enum import StrEnum
from itertools import chain

from pydantic import AliasPath, Field

from kickstand.events import ImageRef, Payload, ReviewStatus, Route

Key = tuple[str, str]
"""Which upload: its image (s3://bucket/key) and its version."""


class Place(StrEnum):
    """Where an upload has ended.

    accepted, rejected: as its record says.
    waiting: for a person, who has been asked.
    reviewed: a person has answered; whatever the model said, so an audited image too.
    dead_letter: a message about it lies in the dead-letter queue. Whatever else is known, somebody has to look.
    missing: none of these is so, or the image itself is gone.
    """

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    WAITING = "waiting"
    REVIEWED = "reviewed"
    DEAD_LETTER = "dead_letter"
    MISSING = "missing"


class Lack(StrEnum):
    """What is missing of an upload.

    decision: it lies in the bucket, and there is neither a record nor a dead letter.
    question: a person should have been asked, and was not.
    answer: a person has answered, and the record does not say so.
    image: there is a record or a dead letter, and no such version in the bucket.
    """

    DECISION = "decision"
    QUESTION = "question"
    ANSWER = "answer"
    IMAGE = "image"


class Missing(Payload):
    """An upload that has ended nowhere. image_ref: None where the image itself is gone."""

    image: str
    version: str
    lack: Lack
    image_ref: ImageRef | None = None


class Entry(Payload):
    """What the ledger needs to know of a decision record. review: what it says of its review."""

    image: str
    version: str
    route: Route = Field(validation_alias=AliasPath("decision", "route"))
    audited: bool = False
    recorded_at: datetime
    review: ReviewStatus | None = Field(None, validation_alias=AliasPath("review", "status"))


class Question(Payload):
    """What the ledger needs to know of a review."""

    image: str
    version: str
    answered_at: datetime | None = Field(None, validation_alias=AliasPath("answer", "answered_at"))


class Ledger(Payload):
    """How many uploads ended where. Their sum is the number of uploads known from anywhere.

    missing: those that ended nowhere; named in `lacks`, as many as were asked for.
    under_way: so young that they may still be on their way; they are not among the uploads yet.
    """

    accepted: int = 0
    rejected: int = 0
    waiting: int = 0
    reviewed: int = 0
    dead_letter: int = 0
    missing: int = 0
    under_way: int = 0
    lacks: tuple[Missing, ...] = Field(default=(), repr=False)

    @property
    def uploads(self) -> int:
        """All that have ended somewhere, or nowhere."""
        return sum(self.counts.values())

    @property
    def counts(self) -> dict[str, int]:
        """The number at each place, by its name."""
        return {place.value: getattr(self, place) for place in Place}

    @property
    def lost(self) -> list[Missing]:
        """What can be sent again: all that is missing, save images that are gone."""
        return [missing for missing in self.lacks if missing.lack is not Lack.IMAGE]

    def __str__(self) -> str:
        """In one line.

        >>> print(Ledger(accepted=30, rejected=4, waiting=5, reviewed=1))
        ledger: 40 uploads = 30 accepted + 4 rejected + 5 waiting + 1 reviewed + 0 dead-letter
        """
        ends = (f"{self.counts[place]} {place.replace('_', '-')}" for place in Place if place is not Place.MISSING)
        rest = {"missing": self.missing, "under way": self.under_way}
        doubts = (f", {number} {word}" for word, number in rest.items() if number)
        return f"ledger: {self.uploads} uploads = {' + '.join(ends)}{''.join(doubts)}"


def balance(
    uploads: Iterable[ImageRef],
    entries: Callable[[], Iterable[Entry]],
    questions: Iterable[Question],
    letters: Collection[Key],
    closes_at: datetime,
    name_at_most: int | None = None,
) -> Ledger:
    """The ledger of all uploads, from what the bucket, the tables and the dead-letter queue hold.

    uploads: every version of every object in the bucket.
    entries: reads the records from the beginning at each call; the second one, only if an image is gone, finds its
        name. In between the ledger keeps 64-bit hashes, about 100 bytes for each record: among a million uploads
        two are taken for one with a probability of 3e-8.
    letters: the uploads in the dead-letter queue.
    closes_at: what happened later may still be under way, and is never missing.
    name_at_most: how many of the missing to name; None for all.
    """
    asked = {hash((question.image, question.version)): question.answered_at for question in questions}
    places: dict[int, Place | Lack] = {}
    for entry in entries():
        key = hash((entry.image, entry.version))
        places[key] = _place(entry, key in asked, asked.get(key), closes_at)
    places |= dict.fromkeys(map(hash, letters), Place.DEAD_LETTER)

    counts: Counter[str] = Counter()
    lacks: list[Missing] = []

    def miss(image: str, version: str, lack: Lack, image_ref: ImageRef | None = None) -> None:
        counts[Place.MISSING] += 1
        if name_at_most is None or len(lacks) < name_at_most:
            lacks.append(Missing(image=image, version=version, lack=lack, image_ref=image_ref))

    for ref in uploads:
        place = places.pop(hash((ref.uri, ref.version)), Lack.DECISION)
        if isinstance(place, Place):
            counts[place] += 1
        elif place is Lack.DECISION and ref.uploaded_at >= closes_at:
            counts["under_way"] += 1
        else:
            miss(ref.uri, ref.version, place, ref)
    if places:  # decided about, or in the queue, and not in the bucket
        for image, version in chain(((entry.image, entry.version) for entry in entries()), letters):
            if places.pop(hash((image, version)), None):
                miss(image, version, Lack.IMAGE)
    return Ledger(lacks=tuple(lacks), **counts)


def _place(entry: Entry, asked: bool, answered_at: datetime | None, closes_at: datetime) -> Place | Lack:
    """Where the recorded upload is, or what is missing."""
    if answered_at:
        told = entry.review is ReviewStatus.ANSWERED or answered_at >= closes_at
        return Place.REVIEWED if told else Lack.ANSWER
    if (entry.audited or entry.route is Route.REVIEW) and not asked and entry.recorded_at < closes_at:
        return Lack.QUESTION
    return _PLACES[entry.route]


_PLACES = {Route.ACCEPT: Place.ACCEPTED, Route.REJECT: Place.REJECTED, Route.REVIEW: Place.WAITING}
