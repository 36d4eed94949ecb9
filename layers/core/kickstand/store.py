"""Reads and writes photos, records and events in AWS."""

import json
import logging
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from heapq import merge
from itertools import groupby
from typing import Any, TypeVar

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import BotoCoreError, ClientError

from kickstand.batches import in_batches
from kickstand.clients import DynamoDBClient, EventBridgeClient, S3Client
from kickstand.errors import InvalidImage, StoreUnavailable, first_complaint
from kickstand.events import ImageRef, Payload
from kickstand.records import LaterDecision, Record

logger = logging.getLogger(__name__)
P = TypeVar("P", bound=Payload)

EVENT_SOURCE = "kickstand"
RECORDS_BY_CHANGE = "RecordsByChange"  # the index of when a record was written or answered: changed_on, changed_at
SHARDS = 8
"""Number of partitions for a day's part of the index: each takes 1,000 writes a second
(https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html). A run reads all."""

_DIGITS = Context(prec=38, traps=[])
_GONE = {
    "NoSuchKey": "no longer there",
    "NoSuchVersion": "no longer there",
    "PreconditionFailed": "replaced before it was read; the newer upload has an event of its own",
    "InvalidObjectState": "archived",
}
_THROTTLED = {
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "SlowDown",
    "ThrottlingException",
    "TooManyRequestsException",
}


def read_image(s3: S3Client, ref: ImageRef, max_bytes: int) -> bytes:
    """The bytes of exactly this upload, read once.

    Raises InvalidImage if the upload was deleted or is larger than max_bytes, StoreUnavailable if S3 fails.
    """
    exactly: Any = {"VersionId": ref.version_id} if ref.version_id else {"IfMatch": ref.etag}
    try:
        with transient("S3"):
            answer = s3.get_object(Bucket=ref.bucket, Key=ref.key, **exactly)
            if answer["ContentLength"] > max_bytes:
                answer["Body"].close()
                raise InvalidImage(f"{ref.uri}: {answer['ContentLength']:,} bytes, more than {max_bytes:,}")
            return answer["Body"].read()
    except ClientError as error:
        reason = _GONE.get(error.response["Error"]["Code"]) or _find_lock(s3, ref, exactly, error)
        if reason:
            raise InvalidImage(f"{ref.uri}: {reason}") from error
        raise


def _find_lock(s3: S3Client, ref: ImageRef, exactly: Any, error: ClientError) -> str | None:
    """Why the upload cannot be decrypted; None if the error has another cause.

    The bucket's policy refuses uploads with another key than S3's own, but older objects and copies may have one. For a
    KMS key S3 answers "access denied", as for a missing permission: a HEAD request, which needs no key, finds out which
    of the two it is.
    """
    code = error.response["Error"]["Code"]
    if code == "InvalidRequest":
        return "encrypted with the uploader's own key (SSE-C)"
    if code.startswith("KMS."):
        return f"encrypted with a KMS key that cannot be used ({code})"
    if code != "AccessDenied":
        return None
    try:
        s3.head_object(Bucket=ref.bucket, Key=ref.key, **exactly)
    except (BotoCoreError, ClientError):
        return None
    return "encrypted with a KMS key that Kickstand has no permission to use"


def put_record(dynamodb: DynamoDBClient, table: str, record: Record) -> Record:
    """Write the record unless this upload has one. Returns the record in the table.

    Raises StoreUnavailable if DynamoDB fails.
    """
    try:
        with transient("DynamoDB"):
            dynamodb.put_item(
                TableName=table,
                Item=record_item(record),
                ConditionExpression="attribute_not_exists(image)",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
    except dynamodb.exceptions.ConditionalCheckFailedException as error:
        return from_item(error.response["Item"])  # type: ignore[typeddict-item]
    return record


def put_later(dynamodb: DynamoDBClient, table: str, image: str, version: str, later: LaterDecision) -> bool:
    """Add the decision to the upload's record, and change nothing else. Returns whether it was added.

    It is not if the record was deleted, or has a decision of this model version. `later_by` holds the versions, since a
    condition cannot search a list. Raises StoreUnavailable if DynamoDB fails.
    """
    model = later.prediction.model_version
    return update_item_if(
        dynamodb,
        table,
        item_key(image, version),
        "SET later = list_append(if_not_exists(later, :none), :later) ADD later_by :models",
        "attribute_exists(image) AND "
        "(attribute_not_exists(prediction) OR prediction.model_version <> :model) AND "
        "(attribute_not_exists(later_by) OR NOT contains(later_by, :model))",
        {
            ":none": {"L": []},
            ":later": {"L": [{"M": _as_item(later.model_dump_json(exclude_defaults=True))}]},
            ":models": {"SS": [model]},
            ":model": {"S": model},
        },
    )


def record_item(record: Record) -> dict[str, Any]:
    """The record's first item: with its place in the index by time, and without default values.

    The table's time to live reads `expires_at`. A record under review gets it with the outcome of the review.
    """
    item = _as_item(record.model_dump_json(exclude_defaults=True)) | changed(record.image, record.recorded_at)
    if "keep_until" in item and not record.asks_a_person:
        item["expires_at"] = item.pop("keep_until")
    return item


def changed(image: str, at: datetime) -> dict[str, Any]:
    """The attributes that put a record at its place in the index by time."""
    at = at.astimezone(UTC)
    return {
        "changed_on": {"S": f"{at:%Y-%m-%d}#{zlib.crc32(image.encode()) % SHARDS}"},
        "changed_at": {"S": at.isoformat(timespec="microseconds")},
    }


def read_changes(
    dynamodb: DynamoDBClient, table: str, after: datetime, until: datetime, newest_first: bool = False
) -> Iterator[Record]:
    """The records that were written or answered after the first moment and until the second, as they are now, by time.

    The index holds only keys, since an index of whole records would double the cost of the table; the records are
    fetched 100 at a time, each hundred unsorted. The index follows the table within a second or so: leave the latest
    minute to the next run. Raises StoreUnavailable if DynamoDB fails.
    """
    found = (key for _, key in _keys_by_change(dynamodb, table, after, until, newest_first))
    for some in in_batches(found, 100):
        yield from readable(read_items(dynamodb, table, some), Record)


def slice_changes(
    dynamodb: DynamoDBClient, table: str, after: datetime, until: datetime, most: int
) -> Iterator[tuple[datetime, list[Record]]]:
    """The same in slices of `most` records, or some more if several changed at one moment.

    Each slice holds all changes until its moment; the last slice's moment is `until`.
    """
    keys: list[tuple[str, str]] = []
    for at, together in groupby(_keys_by_change(dynamodb, table, after, until), lambda change: change[0]):
        keys += [key for _, key in together]
        if len(keys) >= most:
            yield datetime.fromisoformat(at), [*readable(read_items(dynamodb, table, keys), Record)]
            keys = []
    yield until, [*readable(read_items(dynamodb, table, keys), Record)]


def _keys_by_change(
    dynamodb: DynamoDBClient, table: str, after: datetime, until: datetime, newest_first: bool = False
) -> Iterator[tuple[str, tuple[str, str]]]:
    """Times and keys of changed records, in the order of time; reads no more than the caller takes."""
    first, last = (
        moment.astimezone(UTC).isoformat(timespec="microseconds")
        for moment in (after + timedelta(microseconds=1), until)
    )
    number = (until.astimezone(UTC).date() - after.astimezone(UTC).date()).days + 1
    days = [f"{after.astimezone(UTC) + timedelta(days=day):%Y-%m-%d}" for day in range(number)]

    def read(partition: str) -> Iterator[tuple[str, tuple[str, str]]]:
        with transient("DynamoDB"):
            for page in dynamodb.get_paginator("query").paginate(
                TableName=table,
                IndexName=RECORDS_BY_CHANGE,
                KeyConditionExpression="changed_on = :on AND changed_at BETWEEN :first AND :last",
                ExpressionAttributeValues={":on": {"S": partition}, ":first": {"S": first}, ":last": {"S": last}},
                ScanIndexForward=not newest_first,
                PaginationConfig={"PageSize": 1000},
            ):
                for item in page["Items"]:
                    yield item["changed_at"]["S"], key_of(item)

    for day in reversed(days) if newest_first else days:
        yield from merge(*(read(f"{day}#{shard}") for shard in range(SHARDS)), reverse=newest_first)


def read_items(
    dynamodb: DynamoDBClient,
    table: str,
    keys: Iterable[tuple[str, str]],
    parts: Sequence[str] = (),
    consistent: bool = False,
) -> Iterator[dict[str, Any]]:
    """The items with these images and versions, 100 at a time, unsorted. parts: the attributes to read; else all.

    consistent: as they are now, at twice the price; otherwise as they were up to a second ago.

    Raises StoreUnavailable if DynamoDB fails.
    """
    for some in in_batches(dict.fromkeys(keys), 100):  # DynamoDB refuses a request with a key twice
        wanted = [item_key(*key) for key in some]
        asked: Any = {table: {"Keys": wanted, "ConsistentRead": consistent} | name_parts(parts)}
        while asked:
            with transient("DynamoDB"):
                answer = dynamodb.batch_get_item(RequestItems=asked)
            yield from answer["Responses"].get(table, [])
            asked = answer.get("UnprocessedKeys")


def item_key(image: str, version: str) -> dict[str, Any]:
    """The key of the upload's item, in every table of uploads."""
    return {"image": {"S": image}, "version": {"S": version}}


def key_of(item: Mapping[str, Any]) -> tuple[str, str]:
    """The upload that the item is about: its image and version."""
    return item["image"]["S"], item["version"]["S"]


def name_parts(parts: Sequence[str]) -> dict[str, Any]:
    """Parameters that make DynamoDB read only these attributes."""
    names = {name: f"#{name}" for part in parts for name in part.split(".")}  # some words are reserved in DynamoDB
    if not names:
        return {}
    return {
        "ProjectionExpression": ", ".join(".".join(names[name] for name in part.split(".")) for part in parts),
        "ExpressionAttributeNames": {placeholder: name for name, placeholder in names.items()},
    }


def announce(events: EventBridgeClient, record: Record, execution: str) -> None:
    """Publish "Image Classified" and, for a photo that goes to review, "Review Requested".

    execution: ARN of the one that publishes. EventBridge delivers at least once, and so does Kickstand: consumers
    recognise repeats by image and version.
    Raises StoreUnavailable if EventBridge does not accept them.
    """
    names = ["Image Classified", *(["Review Requested"] if record.asks_a_person else [])]
    # A reviewer's name is personal data.
    detail = record.model_dump_json(exclude_none=True, exclude={"review", "later"})
    publish(events, names, detail, [execution])


def publish(events: EventBridgeClient, names: Sequence[str], detail: str, resources: Sequence[str] = ()) -> None:
    """Publish an event of each of these types, with the same detail, which is JSON.

    Raises StoreUnavailable if EventBridge does not accept them.
    """
    entries: Any = [
        {"Source": EVENT_SOURCE, "DetailType": name, "Detail": detail, "Resources": resources} for name in names
    ]
    with transient("EventBridge"):
        answer = events.put_events(Entries=entries)
    if answer["FailedEntryCount"]:
        refused = next(entry for entry in answer["Entries"] if "ErrorCode" in entry)
        raise StoreUnavailable(f"EventBridge: {refused['ErrorCode']}: {refused.get('ErrorMessage', '')}")


def to_item(payload: Payload) -> dict[str, Any]:
    """The payload as a DynamoDB item; numbers become exact decimals."""
    return _as_item(payload.model_dump_json(exclude_none=True))


def _as_item(text: str) -> dict[str, Any]:
    plain = json.loads(text, parse_float=as_number, parse_int=as_number, parse_constant=_refuse)
    return {name: TypeSerializer().serialize(value) for name, value in plain.items()}


def as_number(text: str) -> Decimal:
    """The number as DynamoDB can store it: at most 38 digits, and 0 if it is closer to 0 than 1E-130.

    Raises ValueError for one that is too large. https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/HowItWorks.NamingRulesDataTypes.html

    >>> as_number("1e-200"), as_number("0.25")
    (Decimal('0'), Decimal('0.25'))
    """
    number = Decimal(text)
    if number.adjusted() < -130 or not number:
        return Decimal(0)
    if number.adjusted() > 125:
        raise ValueError(f"{text[:40]}: too large a number for DynamoDB")
    return number.normalize(_DIGITS) if len(number.as_tuple().digits) > 38 else number


def _refuse(constant: str) -> Decimal:
    raise ValueError(f"{constant}: no number that can be stored")


def plain(item: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a DynamoDB item."""
    return {name: TypeDeserializer().deserialize(value) for name, value in item.items()}


def from_item(item: Mapping[str, Any]) -> Record:
    """The record that a DynamoDB item holds; a newer item's unknown attributes are ignored.

    Raises ValueError, naming the upload.
    """
    try:
        return Record.model_validate(plain(item))
    except ValueError as error:
        raise ValueError(f"the record of {_say_unreadable(item, error)}") from error


def readable(items: Iterable[Mapping[str, Any]], kind: type[P]) -> Iterator[P]:
    """The payloads in these items. An unreadable one is logged and skipped, so that the others are read."""
    for item in items:
        try:
            yield kind.model_validate(plain(item))
        except ValueError as error:
            logger.error("left out: %s", _say_unreadable(item, error))


def _say_unreadable(item: Mapping[str, Any], error: ValueError) -> str:
    image, version = (item.get(name, {}).get("S") for name in ("image", "version"))
    return f"{image} (version {version}) cannot be read: {first_complaint(error)}"


def get_item(dynamodb: DynamoDBClient, table: str, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The item as it is now; None if there is none. Raises StoreUnavailable."""
    with transient("DynamoDB"):
        return dynamodb.get_item(TableName=table, Key=key, ConsistentRead=True).get("Item")


def put_item_if(dynamodb: DynamoDBClient, table: str, item: Mapping[str, Any], condition: str, **more: Any) -> bool:
    """Write the item if the condition holds. Returns whether it did. Raises StoreUnavailable.

    more: names and values of the condition, as parameters of DynamoDB's PutItem.
    """
    try:
        with transient("DynamoDB"):
            dynamodb.put_item(TableName=table, Item=item, ConditionExpression=condition, **more)
    except dynamodb.exceptions.ConditionalCheckFailedException:
        return False
    return True


def update_item_if(
    dynamodb: DynamoDBClient,
    table: str,
    key: Mapping[str, Any],
    update: str,
    condition: str,
    values: Mapping[str, Any],
    **more: Any,
) -> bool:
    """Change the item if the condition holds. Returns whether it did. Raises StoreUnavailable.

    more: as for `put_item_if`.
    """
    try:
        with transient("DynamoDB"):
            dynamodb.update_item(
                TableName=table,
                Key=key,
                UpdateExpression=update,
                ConditionExpression=condition,
                ExpressionAttributeValues=values,
                **more,
            )
    except dynamodb.exceptions.ConditionalCheckFailedException:
        return False
    return True


def load_state(dynamodb: DynamoDBClient, table: str, name: str, kind: type[P]) -> tuple[P | None, Any, str]:
    """A state in the control table, its revision as in the table, and why the state cannot be read.

    None, None and "" before it is first saved. Raises StoreUnavailable.
    """
    item: Any = get_item(dynamodb, table, {"id": {"S": name}})
    if item is None:
        return None, None, ""
    revision = item.get("revision", {})
    try:
        return kind.model_validate_json(item["state"]["S"]), revision, ""
    except KeyError:
        return None, revision, "the item has no text"
    except ValueError as error:
        return None, revision, first_complaint(error)


def save_state(dynamodb: DynamoDBClient, table: str, name: str, state: Payload, standing: Any) -> Any:
    """Save the state in place of the present revision. Returns its revision; None if another run was faster.

    standing: the revision as `load_state` or this returns it. Raises ValueError for a state that could not be read
    again, StoreUnavailable.
    """
    text = state.model_dump_json(exclude_defaults=True)
    type(state).model_validate_json(text)
    try:
        number = int(standing["N"])
    except (KeyError, TypeError, ValueError):  # there is none, or somebody has damaged it
        number = 0
    revision = {"N": str(number + 1)}
    item = {"id": {"S": name}, "revision": revision, "state": {"S": text}}
    more = {}
    if standing is None:
        condition = "attribute_not_exists(id)"
    elif not standing:
        condition = "attribute_not_exists(revision)"
    else:
        condition, more = "revision = :standing", {"ExpressionAttributeValues": {":standing": standing}}
    return revision if put_item_if(dynamodb, table, item, condition, **more) else None


def _is_throttled(code: str) -> bool:
    return code.rpartition(".")[2] in _THROTTLED  # "KMS.ThrottlingException" comes from S3


@contextmanager
def transient(service: str) -> Iterator[None]:
    """Turns temporary errors (throttling, 5xx, the network) into StoreUnavailable; permanent ones pass."""
    try:
        yield
    except ClientError as error:
        answer = error.response
        if answer["ResponseMetadata"]["HTTPStatusCode"] >= 500 or _is_throttled(answer["Error"]["Code"]):
            raise StoreUnavailable(f"{service}: {error}") from error
        raise
    except BotoCoreError as error:
        raise StoreUnavailable(f"{service}: {error}") from error
