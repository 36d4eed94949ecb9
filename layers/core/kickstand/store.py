"""What Kickstand reads and writes in AWS: images, records, events."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import BotoCoreError, ClientError

from kickstand.errors import InvalidImage, StoreUnavailable
from kickstand.events import ImageRef, Payload
from kickstand.records import Record

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_events import EventBridgeClient
    from mypy_boto3_events.type_defs import PutEventsRequestEntryTypeDef
    from mypy_boto3_s3 import S3Client

EVENT_SOURCE = "kickstand"

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


def read_image(s3: "S3Client", ref: ImageRef, max_bytes: int) -> bytes:
    """The uploaded bytes of exactly this upload, read once.

    Raises InvalidImage when that upload is gone or larger than max_bytes, StoreUnavailable when S3 has trouble.
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
        if reason := _GONE.get(error.response["Error"]["Code"]):
            raise InvalidImage(f"{ref.uri}: {reason}") from error
        raise


def put_record(dynamodb: "DynamoDBClient", table: str, record: Record) -> Record:
    """Write the record unless this upload has one; returns the one that stands in the table.

    Raises StoreUnavailable when DynamoDB has trouble.
    """
    try:
        with transient("DynamoDB"):
            dynamodb.put_item(
                TableName=table,
                Item=to_item(record),
                ConditionExpression="attribute_not_exists(image)",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
    except dynamodb.exceptions.ConditionalCheckFailedException as error:
        return from_item(error.response["Item"])  # type: ignore[typeddict-item]
    return record


def announce(events: "EventBridgeClient", record: Record) -> None:
    """Publish "Image Classified" and, where a person must decide, "Review Requested".

    EventBridge delivers at least once and so do we: consumers tell repeats by image and version.
    Raises StoreUnavailable when EventBridge does not take them.
    """
    names = ["Image Classified", *(["Review Requested"] if record.asks_a_person else [])]
    detail = record.model_dump_json(
        exclude_none=True, exclude={"review"}
    )  # a reviewer's name is nobody else's business
    entries: list[PutEventsRequestEntryTypeDef] = [
        {"Source": EVENT_SOURCE, "DetailType": name, "Detail": detail, "Resources": [record.execution]}
        for name in names
    ]
    with transient("EventBridge"):
        answer = events.put_events(Entries=entries)
    if answer["FailedEntryCount"]:
        refused = next(entry for entry in answer["Entries"] if "ErrorCode" in entry)
        raise StoreUnavailable(f"EventBridge: {refused['ErrorCode']}: {refused.get('ErrorMessage', '')}")


def to_item(payload: Payload) -> dict[str, Any]:
    """The payload as a DynamoDB item; numbers become exact decimals."""
    plain = json.loads(payload.model_dump_json(exclude_none=True), parse_float=Decimal)
    return {name: TypeSerializer().serialize(value) for name, value in plain.items()}


def from_item(item: dict[str, Any]) -> Record:
    """The record that a DynamoDB item holds; a newer item's unknown attributes are ignored."""
    return Record.model_validate({name: TypeDeserializer().deserialize(value) for name, value in item.items()})


@contextmanager
def transient(service: str) -> Iterator[None]:
    """Tells trouble that passes (throttling, 5xx, the network) from an answer that stays."""
    try:
        yield
    except ClientError as error:
        answer = error.response
        if answer["ResponseMetadata"]["HTTPStatusCode"] >= 500 or answer["Error"]["Code"] in _THROTTLED:
            raise StoreUnavailable(f"{service}: {error}") from error
        raise
    except BotoCoreError as error:
        raise StoreUnavailable(f"{service}: {error}") from error
