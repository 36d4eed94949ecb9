"""Runs of backfill: the item that controls a run, and the execution of a batch of photos."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from botocore.exceptions import ClientError

from kickstand.backfill.rules import (
    MOST_ROUNDS,
    Batch,
    Order,
    Progress,
    Run,
    Skip,
    State,
    Status,
    find_skip,
    is_wanted,
)
from kickstand.classify.admission import Workflow, WorkflowType, admit
from kickstand.clients import DynamoDBClient, S3Client, SQSClient
from kickstand.events import ImageRef, hash_upload
from kickstand.ledger.books import as_event
from kickstand.store import get_item, plain, put_item_if, read_items, transient, update_item_if

CONTROL = {"id": {"S": "backfill"}}
LONGEST_SECONDS = 300  # an execution takes at most 290: none is started with less time left
LATER_SECONDS = 60  # while uploads wait, or AWS refuses executions
PACE_SECONDS = 3  # between groups of STANDARD executions, which cannot be waited for: one takes about a second
_PARTS = ("image", "version", "prediction.model_version", "later_by")


@dataclass(frozen=True)
class Lane:
    """The resources of a run. photos_at_once: of one batch. model_version: the model that serves now."""

    s3: S3Client
    dynamodb: DynamoDBClient
    sqs: SQSClient
    workflow: Workflow
    image_bucket: str
    records_table: str
    control_table: str
    upload_queue: str
    photos_at_once: int
    retention_days: int
    model_version: str


# ---- the item that controls a run


def load_run(dynamodb: DynamoDBClient, table: str) -> Run | None:
    """The present run, or else the last one; None if there was none. Raises StoreUnavailable."""
    item = get_item(dynamodb, table, CONTROL)
    if item is None:
        return None
    values = plain(item)
    return Run.model_validate(values | {"order": json.loads(values["run_order"])})


def begin(dynamodb: DynamoDBClient, table: str, run: Run, after: str | None) -> bool:
    """Whether the run could take the item. after: the ended run that it replaces; None if there is none.

    Raises StoreUnavailable.
    """
    parts = run.model_dump(mode="json", include={"state", "execution", "started_at"})
    counters = set(Run.model_fields) - {"order", "ended_at", *parts}
    item = CONTROL | {"run": {"S": run.order.run}, "run_order": {"S": run.order.model_dump_json(exclude_none=True)}}
    item |= {name: {"S": value} for name, value in parts.items()}
    item |= {name: {"N": str(getattr(run, name))} for name in counters}
    if after is None:
        return put_item_if(dynamodb, table, item, "attribute_not_exists(id)")
    return put_item_if(
        dynamodb,
        table,
        item,
        "#run = :after",
        ExpressionAttributeNames={"#run": "run"},
        ExpressionAttributeValues={":after": {"S": after}},
    )


def end(dynamodb: DynamoDBClient, table: str, run: str, state: State, now: datetime) -> bool:
    """End the run in this state. Returns whether it was running. Raises StoreUnavailable."""
    values = {":state": {"S": state}, ":now": {"S": now.isoformat()}}
    return _change(dynamodb, table, run, "SET #state = :state, ended_at = :now", values, "#state = :running")


def pay(dynamodb: DynamoDBClient, table: str, run: str, dollars: Decimal, **counted: int) -> bool:
    """Reserve this much of the run's cost limit. Returns whether the run is still running and has enough left.

    It is one conditional write, so parallel batches cannot exceed the limit. counted: what the money is spent on.
    Raises StoreUnavailable.
    """
    update = "SET dollars_left = dollars_left - :dollars, dollars_spent = dollars_spent + :dollars"
    values = {":dollars": {"N": str(dollars)}}
    return _count(dynamodb, table, run, counted, update, values, "#state = :running AND dollars_left >= :dollars")


def count(dynamodb: DynamoDBClient, table: str, run: str, counted: Mapping[str, int], back: Decimal) -> None:
    """Count the outcomes of keys, and give back unspent money; also for a run that has ended."""
    if back or any(counted.values()):
        update = "SET dollars_left = dollars_left + :back, dollars_spent = dollars_spent - :back"
        _count(dynamodb, table, run, counted, update, {":back": {"N": str(back)}})


def _count(
    dynamodb: DynamoDBClient,
    table: str,
    run: str,
    counted: Mapping[str, int],
    update: str,
    values: dict[str, Any],
    condition: str = "",
) -> bool:
    numbers = {name: number for name, number in counted.items() if number}
    values |= {f":{name}": {"N": str(number)} for name, number in numbers.items()}
    update += " ADD " * bool(numbers) + ", ".join(f"#{name} :{name}" for name in numbers)
    return _change(dynamodb, table, run, update, values, condition, {f"#{name}": name for name in numbers})


def _change(
    dynamodb: DynamoDBClient,
    table: str,
    run: str,
    update: str,
    values: dict[str, Any],
    condition: str,
    names: Mapping[str, str] | None = None,
) -> bool:
    """Whether the item belongs to this run, and the condition held."""
    names, values = {"#run": "run", **(names or {})}, {":run": {"S": run}, **values}
    if condition:
        names, values = names | {"#state": "state"}, values | {":running": {"S": State.RUNNING}}
    condition = " AND ".join(filter(None, ("#run = :run", condition)))
    return update_item_if(dynamodb, table, CONTROL, update, condition, values, ExpressionAttributeNames=names)


# ---- a batch


def decide_batch(
    lane: Lane, batch: Batch, now: datetime, seconds_left: Callable[[], float], on_unfinished: Callable[[str], None]
) -> Progress:
    """Classify the selected photos of the batch, some at once, while the run has time and money.

    on_unfinished: called for each photo that could not be executed in any round. Raises StoreUnavailable.
    """
    order, positions = batch.order, batch.progress.left
    if positions is None:
        positions = tuple(range(len(batch.keys)))
        dollars = order.dollars_per_key * len(positions)
        if not pay(lane.dynamodb, lane.control_table, order.run, dollars, keys=len(positions)):
            end(lane.dynamodb, lane.control_table, order.run, State.SPENT, now)  # unless it has ended before
            return Progress(status=Status.ENDED)
    found = find_photos(lane, batch, positions, now)
    skips = [skip for skip in found.values() if isinstance(skip, Skip)]
    count(lane.dynamodb, lane.control_table, order.run, {skip: skips.count(skip) for skip in Skip}, Decimal(0))
    photos = {position: ref for position, ref in found.items() if isinstance(ref, ImageRef)}
    waiting, rounds = list(photos), batch.progress.rounds
    while waiting:
        if _uploads_wait(lane):
            return Progress(left=tuple(waiting), rounds=rounds, wait_seconds=LATER_SECONDS)
        if seconds_left() < LONGEST_SECONDS:
            return Progress(left=tuple(waiting), rounds=rounds)
        group = waiting[: _affordable(lane, order, min(lane.photos_at_once, len(waiting)), now)]
        if not group:
            return Progress(status=Status.ENDED)
        failed = _execute(lane, order, {position: photos[position] for position in group})
        waiting = [*failed, *waiting[len(group) :]]
        rounds = rounds + 1 if len(failed) == len(group) else 0
        if rounds >= MOST_ROUNDS:
            for position in waiting:
                on_unfinished(photos[position].uri)
            count(lane.dynamodb, lane.control_table, order.run, {"unfinished": len(waiting)}, Decimal(0))
            break
        if failed:
            return Progress(left=tuple(waiting), rounds=rounds, wait_seconds=LATER_SECONDS)
        if waiting and lane.workflow.type is WorkflowType.STANDARD:
            return Progress(left=tuple(waiting), rounds=rounds, wait_seconds=PACE_SECONDS)
    return Progress(status=Status.DONE, left=())


def find_photos(lane: Lane, batch: Batch, positions: Sequence[int], now: datetime) -> dict[int, ImageRef | Skip]:
    """The object under each key now, or why it is skipped. Raises StoreUnavailable."""
    with ThreadPoolExecutor(10) as pool:
        heads = pool.map(lambda position: _find(lane, batch, position, now), positions)
        found = dict(zip(positions, heads, strict=True))
    refs = {ref.upload: ref for ref in found.values() if isinstance(ref, ImageRef)}
    models = read_models(lane.dynamodb, lane.records_table, refs)
    for position, ref in found.items():
        if isinstance(ref, ImageRef) and not is_wanted(models.get(ref.upload), batch.order, lane.model_version):
            has_one = ref.upload in models
            found[position] = Skip.DECIDED if has_one else Skip.OTHER
    return found


def read_models(
    dynamodb: DynamoDBClient, table: str, keys: Collection[tuple[str, str]]
) -> dict[tuple[str, str], set[str | None]]:
    """The model versions that have decided each of these uploads, if it has a record."""
    found: dict[tuple[str, str], set[str | None]] = {}
    for item in map(plain, read_items(dynamodb, table, keys, _PARTS)):
        first = item.get("prediction", {}).get("model_version")
        found[item["image"], item["version"]] = {first, *item.get("later_by", ())}
    return found


def _find(lane: Lane, batch: Batch, position: int, now: datetime) -> ImageRef | Skip:
    entry, order = batch.keys[position], batch.order
    key = entry.decoded(encoded=order.inventory is not None)
    if entry.is_delete_marker or not entry.is_latest or not key.startswith(order.prefix):
        return Skip.OTHER
    try:
        with transient("S3"):
            head = lane.s3.head_object(Bucket=lane.image_bucket, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NotFound"):
            return Skip.GONE
        raise
    version = head.get("VersionId")
    return find_skip(key, head, order, lane.retention_days, now) or ImageRef(
        bucket=lane.image_bucket,
        key=key,
        etag=head["ETag"].strip('"'),
        version_id=None if version == "null" else version,
        size=head["ContentLength"],
        uploaded_at=head["LastModified"],
    )


def _uploads_wait(lane: Lane) -> bool:
    """Whether live uploads wait for concurrency: they come first."""
    with transient("SQS"):
        counts = lane.sqs.get_queue_attributes(
            QueueUrl=lane.upload_queue, AttributeNames=["ApproximateNumberOfMessages"]
        )["Attributes"]
    return int(counts["ApproximateNumberOfMessages"]) > 0


def _affordable(lane: Lane, order: Order, number: int, now: datetime) -> int:
    """How many of these photos can be executed; their cost is reserved. 0 if the run has ended, or ends now."""
    while number and not pay(
        lane.dynamodb, lane.control_table, order.run, order.dollars_per_photo * number, executed=number
    ):
        run = load_run(lane.dynamodb, lane.control_table)
        if run is None or run.order.run != order.run or run.state is not State.RUNNING:
            return 0
        number = min(number - 1, int(run.dollars_left / order.dollars_per_photo))
    if not number:
        end(lane.dynamodb, lane.control_table, order.run, State.SPENT, now)
    return number


def _execute(lane: Lane, order: Order, photos: Mapping[int, ImageRef]) -> list[int]:
    """Execute these at once. Returns the positions of those that were not executed; throttled ones cost nothing.

    After an internal error of AWS the execution may still have run, so it costs.
    """
    uploads = {f"{order.run}-{_name(ref)}": as_event(ref) for ref in photos.values()}
    if order.model_version_before is not None:
        for event in uploads.values():
            event["detail"]["again"] = order.run
    left = admit(lane.workflow, {name: json.dumps(event) for name, event in uploads.items()}, wait=True)
    failed = [position for position, ref in photos.items() if f"{order.run}-{_name(ref)}" in left]
    refused = sum(
        isinstance(error, ClientError) and error.response["ResponseMetadata"]["HTTPStatusCode"] < 500
        for error in left.values()
    )
    back = order.dollars_per_photo * refused
    count(lane.dynamodb, lane.control_table, order.run, {"executed": -len(failed)}, back)
    return failed


def _name(ref: ImageRef) -> str:
    """The same name for the same upload: STANDARD starts no second execution with it."""
    return hash_upload(*ref.upload).hex()[:32]
