"""Events become references, and the state of an execution becomes a record."""

import copy
import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from kickstand.events import Decision, ImageRef, Reason, Route
from kickstand.records import Record, compose_record
from kickstand.store import from_item, record_item, to_item
from kickstand_cli.local.cost import billed_bytes

EVENT: dict[str, Any] = {
    "source": "aws.s3",
    "detail-type": "Object Created",
    "time": "2026-05-01T12:00:00Z",
    "detail": {
        "bucket": {"name": "photos"},
        "object": {"key": "a b+c/é.jpg", "size": 5, "etag": "e7ag", "version-id": "v1", "sequencer": "00"},
    },
}
NOW = datetime(2026, 5, 1, 12, 0, 1, tzinfo=UTC)


def unreadable(cause: str) -> dict[str, Any]:
    return {
        **EVENT,
        "error": {"Error": "InvalidImage", "Cause": cause},
        "decision": {"route": "reject", "reason": "unreadable"},
    }


def test_the_record_of_an_unreadable_image_holds_the_reason_and_no_photo() -> None:
    refused = {key: value for key, value in unreadable("").items() if key != "error"}
    refused["decision"] |= {"explanation": "photo.png: 0 bytes"}
    record = compose_record(refused, "arn:execution", NOW)
    assert (record.decision.explanation, record.prepared_image) == ("photo.png: 0 bytes", None)


def test_the_reference_takes_the_key_as_it_is() -> None:
    ref = ImageRef.model_validate(EVENT)
    assert (ref.uri, ref.version, ref.size) == ("s3://photos/a b+c/é.jpg", "v1", 5)
    assert ref.uploaded_at == datetime(2026, 5, 1, 12, tzinfo=UTC)


def test_without_versions_the_etag_tells_uploads_apart() -> None:
    event = copy.deepcopy(EVENT)
    del event["detail"]["object"]["version-id"]
    assert ImageRef.model_validate(event).version == "e7ag"


def test_two_uploads_never_share_a_key_in_the_table() -> None:
    other = copy.deepcopy(EVENT)
    other["detail"]["object"]["version-id"] = "v2"
    keys = {ref.upload for ref in (ImageRef.model_validate(EVENT), ImageRef.model_validate(other))}
    assert len(keys) == 2


@pytest.mark.parametrize("missing", ["bucket", "object"])
def test_an_event_without_an_image_is_refused_by_the_field_that_is_missing(missing: str) -> None:
    event = copy.deepcopy(EVENT)
    del event["detail"][missing]
    with pytest.raises(ValidationError, match=missing):
        ImageRef.model_validate(event)


def test_an_unreadable_image_is_recorded_with_what_was_wrong() -> None:
    record = compose_record(unreadable(json.dumps({"errorMessage": "photos/a: 0 bytes"})), "arn:x", NOW)
    assert (record.decision.route, record.decision.reason) == (Route.REJECT, Reason.UNREADABLE)
    assert record.decision.explanation == "photos/a: 0 bytes"
    assert record.prediction is None


@pytest.mark.parametrize("cause", ["plain words", '["no message"]', '{"other": 1}'])
def test_a_cause_of_another_shape_is_kept_as_it_is(cause: str) -> None:
    assert compose_record(unreadable(cause), "arn:x", NOW).decision.explanation == cause


def decided(route: str = "accept") -> dict[str, Any]:
    """The state of an execution that has decided."""
    return {
        **EVENT,
        "prepared_image": {
            "png": "iVBORw0=",
            "sha256": "0" * 64,
            "format": "JPEG",
            "width": 4000,
            "height": 3000,
            "statistics": {
                "brightness": 0.12345,
                "contrast": 0.23456,
                "sharpness": 0.34567,
                "saturation": 0.45678,
                "glare": 0.00123,
                "shorter_side": 3000,
            },
        },
        "prediction": {
            "label": "bicycle",
            "confidence": 0.999999,
            "probabilities": {"bicycle": 0.999999, "motorcycle": 1e-06},
            "neither": 0.0,
            "model_version": "m1",
            "backend": "embedded",
            "latency_ms": 1.234,
        },
        "decision": {"route": route, "reason": "confident", "explanation": "sure", "policy_version": "p1"},
    }


@pytest.mark.parametrize("route", ["accept", "review"])
@pytest.mark.parametrize("retention_days", [0, 30])
def test_a_record_survives_the_table(route: str, retention_days: int) -> None:
    record = compose_record(decided(route), "arn:x", NOW, retention_days)
    assert from_item(to_item(record)) == record
    assert from_item(record_item(record)).model_copy(update={"changed_at": None}) == record
    assert Record.model_validate_json(record.model_dump_json(exclude_none=True)) == record
    assert "png" not in record.model_dump_json()


def test_an_older_reader_ignores_what_a_newer_writer_added() -> None:
    item = to_item(compose_record(unreadable("x"), "arn:x", NOW))
    assert from_item({**item, "added_later": {"S": "new"}}).version == "v1"


def test_a_record_that_cannot_be_read_is_named_in_one_line() -> None:
    item = {**to_item(compose_record(unreadable("x"), "arn:x", NOW)), "decision": {"S": "lost"}, "audited": {"S": "?"}}
    with pytest.raises(ValueError, match=r"^the record of s3:.+ \(version v1\) cannot be read: \S+: .+, and 1 more$"):
        from_item(item)


def test_a_reason_that_a_newer_version_has_written_is_read_and_kept_as_it_stands() -> None:
    decision = Decision.model_validate_json('{"route": "reject", "reason": "stolen"}')
    assert decision.reason not in list(Reason)
    assert decision.model_dump(mode="json")["reason"] == "stolen"
    with pytest.raises(ValidationError):
        Decision.model_validate({"route": "reject", "reason": 3})


def test_a_record_names_its_execution_by_the_last_part_of_the_arn() -> None:
    arn = "arn:aws:states:eu-west-1:1:express:ClassifyImageStateMachine-x:name:6a9cac56-1d2f"
    assert compose_record(decided(), arn, NOW).execution == "6a9cac56-1d2f"


def test_a_record_expires_when_its_photo_does() -> None:
    item = record_item(compose_record(decided(), "arn:x", NOW, retention_days=30))
    assert item["expires_at"] == {"N": str(int(datetime(2026, 5, 31, 12, tzinfo=UTC).timestamp()))}


@pytest.mark.parametrize(("route", "days"), [("review", 30), ("accept", 0)])
def test_a_record_that_waits_for_a_person_or_is_kept_for_ever_does_not_expire(route: str, days: int) -> None:
    assert "expires_at" not in record_item(compose_record(decided(route), "arn:x", NOW, days))


def test_the_record_of_an_accepted_photo_is_billed_as_one_write() -> None:
    """With names as AWS gives them, a key of 34 bytes, and a retention."""
    event = copy.deepcopy(decided())
    event["detail"] = {
        "bucket": {"name": "kickstand-prod-imagebucket-1a2b3c4d5e6f"},
        "object": {
            "key": "2026/11/29/van-17/IMG_20261129.jpg",
            "size": 2_123_456,
            "etag": "d41d8cd98f00b204e9800998ecf8427e",
            "version-id": "3sL4kqtJlcpXroDTDmJ.rmSpXd3dIbrH",
        },
    }
    event["prediction"] |= {"model_version": "a19f813d", "neither": 0.001415}
    event["prediction"] |= {"confidence": 0.998823, "probabilities": {"bicycle": 0.998823, "motorcycle": 0.001177}}
    event["decision"] |= {
        "explanation": "motorcycle with confidence 0.999, accepted as motorcycle from 0.940",
        "policy_version": "96efd3ab",
    }
    execution = f"arn:aws:states:us-east-1:123456789012:express:ClassifyImageStateMachine-x:y:{uuid.UUID(int=0)}"
    record = compose_record(event, execution, NOW.replace(microsecond=123456), retention_days=30)
    item = record_item(record.model_copy(update={"audit_probability": 0.02}))
    assert 900 < billed_bytes(item) <= 1024
