"""What a run of backfill decides, what it may cost, and the progress of a batch."""

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
MOST_ROUNDS = 20  # in a row without a single execution in a batch; then its photos are logged and skipped


class Order(Payload):
    """What one run decides. Every batch receives it, and it is stored so that the run can be resumed.

    run: its name, also the name of its execution.
    since, until: only photos that were uploaded in this time, before the run.
    model_version_before: decide the photos of this model version again; None: decide photos without a record.
    dollars_per_photo, dollars_per_key: the assumed cost of a decision, and of checking a key.
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
    """Of a run. SPENT: the cost limit is reached. BROKEN: the execution failed."""

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
    """A run as stored in the control table: one at a time; the last one stays readable.

    executed: photos whose execution was started. unfinished: photos that could not be executed; the log names them.
    failed_batches: batches whose function failed; each is a dead letter without an upload.
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


class Listed(Payload):
    """One entry of the bucket's listing or inventory.

    key: URL-encoded in an inventory. is_latest, is_delete_marker: of an inventory of all versions.
    """

    key: str = Field(validation_alias="Key", min_length=1)
    is_latest: bool = Field(default=True, validation_alias="IsLatest")
    is_delete_marker: bool = Field(default=False, validation_alias="IsDeleteMarker")

    def decoded(self, encoded: bool) -> str:
        """The object's key.

        >>> Listed(key="a+b%2Bc.jpg").decoded(encoded=True), Listed(key="a+b%2Bc.jpg").decoded(encoded=False)
        ('a b+c.jpg', 'a+b%2Bc.jpg')
        """
        return unquote_plus(self.key) if encoded else self.key


class Status(StrEnum):
    """Of a batch after an invocation. ENDED: the run was stopped, or has reached its cost limit."""

    DONE = "done"
    LEFT = "left"
    ENDED = "ended"


class Progress(Payload):
    """The progress of a batch.

    left: positions of the keys that are still to be done; None before the first invocation.
    rounds: number in a row without a single execution.
    """

    status: Status = Status.LEFT
    left: tuple[int, ...] | None = None
    rounds: int = 0
    wait_seconds: int = 0


class Batch(Payload):
    """A batch from Distributed Map, and what an earlier invocation has left of it."""

    keys: tuple[Listed, ...] = Field(validation_alias="Items", min_length=1)
    order: Order = Field(validation_alias=AliasPath("BatchInput", "order"))
    progress: Progress = Progress()


def find_skip(key: str, head: Any, order: Order, retention_days: int, now: datetime) -> Skip | None:
    """Why the object is skipped, from S3's answer to HeadObject; None if it is not.

    retention_days: 0 for no limit. The record of an older photo would be deleted as soon as it is written.
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

    decided_by: the model versions of its decisions, None for an unreadable photo; None without a record.
    current: the model version that serves now.

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
