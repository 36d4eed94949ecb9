"""What a run of backfill decides, what it may cost, and how far a batch of it has come."""

from collections.abc import Collection
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from urllib.parse import unquote_plus

from pydantic import AliasPath, Field

from kickstand.events import Payload, is_folder

ARCHIVED = {"GLACIER", "DEEP_ARCHIVE"}
"""S3's storage classes that have to be restored before they can be read."""
MOST_ROUNDS = 20  # in a row in which not one photo of a batch could be executed; then they are named and left


class Order(Payload):
    """What one run decides. It travels to every batch, and is kept so that the run can be resumed.

    run: its name, also the name of its execution.
    since, until: only photos that were uploaded in this time; what is newer than the run is not the past.
    model_version_before: decide again what this model version has decided; None: decide what has no record.
    dollars_per_photo, dollars_per_key: what one decision, and what looking for one, is assumed to cost.
    inventory: manifest of an S3 inventory, s3://bucket/key, instead of the bucket's listing.
    """

    run: str = Field(min_length=1, max_length=40)
    prefix: str = ""
    since: datetime | None = None
    until: datetime
    model_version_before: str | None = None
    dollars_per_photo: Decimal = Field(gt=0)
    dollars_per_key: Decimal = Field(ge=0)
    inventory: str | None = None


class State(StrEnum):
    """Of a run. SPENT: there was no money left for the next photo. BROKEN: the execution failed."""

    RUNNING = "running"
    STOPPED = "stopped"
    SPENT = "spent"
    BROKEN = "broken"
    DONE = "done"


class Skip(StrEnum):
    """Why a key is not executed. These are also the counters of a run."""

    DECIDED = "decided_before"
    OTHER = "not_asked_for"
    GONE = "gone"
    ARCHIVED = "archived"
    EXPIRED = "expired"


class Run(Payload):
    """A run as the table of controls holds it: one at a time, the last one stays readable.

    executed: photos whose execution was started. unfinished: photos that could not be executed; see the log.
    failed_batches: batches whose function failed; each is a dead letter that names no upload.
    """

    order: Order
    state: State
    execution: str
    started_at: datetime
    ended_at: datetime | None = None
    dollars_left: Decimal
    dollars_spent: Decimal = Decimal(0)
    keys: int = 0
    executed: int = 0
    unfinished: int = 0
    failed_batches: int = 0
    decided_before: int = 0
    not_asked_for: int = 0
    gone: int = 0
    archived: int = 0
    expired: int = 0


class Key(Payload):
    """One entry of a bucket's listing, or one line of its inventory.

    key: URL-encoded in an inventory. is_latest, is_delete_marker: of an inventory of all versions.
    """

    key: str = Field(validation_alias="Key", min_length=1)
    is_latest: bool = Field(default=True, validation_alias="IsLatest")
    is_delete_marker: bool = Field(default=False, validation_alias="IsDeleteMarker")

    def decoded(self, encoded: bool) -> str:
        """The object's key.

        >>> Key(key="a+b%2Bc.jpg").decoded(encoded=True), Key(key="a+b%2Bc.jpg").decoded(encoded=False)
        ('a b+c.jpg', 'a+b%2Bc.jpg')
        """
        return unquote_plus(self.key) if encoded else self.key


class Status(StrEnum):
    """Of a batch after an invocation. ENDED: the run was stopped, or has no money left."""

    DONE = "done"
    LEFT = "left"
    ENDED = "ended"


class Progress(Payload):
    """How far a batch has come.

    left: positions of the keys that are still to be done; None before the first invocation.
    rounds: in a row in which not one photo could be executed.
    """

    status: Status = Status.LEFT
    left: tuple[int, ...] | None = None
    rounds: int = 0
    wait_seconds: int = 0


class Batch(Payload):
    """What Distributed Map gives a batch, and what an invocation before has left of it."""

    keys: tuple[Key, ...] = Field(validation_alias="Items", min_length=1)
    order: Order = Field(validation_alias=AliasPath("BatchInput", "order"))
    progress: Progress = Progress()


def find_skip(key: str, head: Any, order: Order, retention_days: int, now: datetime) -> Skip | None:
    """Why S3's answer to HeadObject excludes the object; None where it does not.

    retention_days: 0 for ever. A record of an older photo would be deleted as soon as it is written.
    """
    uploaded_at: datetime = head["LastModified"]
    if (
        is_folder(key, head["ContentLength"])
        or uploaded_at > order.until
        or (order.since and uploaded_at < order.since)
    ):
        return Skip.OTHER
    if retention_days and uploaded_at + timedelta(days=retention_days) <= now:
        return Skip.EXPIRED
    if head.get("StorageClass") in ARCHIVED and 'ongoing-request="false"' not in head.get("Restore", ""):
        return Skip.ARCHIVED
    return None


def is_wanted(decided_by: Collection[str | None] | None, order: Order, current: str) -> bool:
    """Whether the photo is to be decided.

    decided_by: the model versions of its decisions, None for an unreadable photo; None where it has no record.
    current: the model version that decides now.

    >>> order = Order(run="r", until="2026-05-04T00:00Z", dollars_per_photo=1, dollars_per_key=0)
    >>> is_wanted(None, order, "v2"), is_wanted(["v1"], order, "v2")
    (True, False)
    >>> again = order.model_copy(update={"model_version_before": "v1"})
    >>> [is_wanted(models, again, "v2") for models in (None, ["v1"], ["v1", "v2"], ["v0"])]
    [False, True, False, False]
    """
    if decided_by is None:
        return order.model_version_before is None
    before = order.model_version_before
    return before is not None and before in decided_by and current not in decided_by
