"""Numbers as DynamoDB keeps them, times as everything reads them, and which of several uploads is the latest."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from boto3.dynamodb.types import TypeSerializer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kickstand.events import ImageRef, Prediction, find_latest
from kickstand.records import Record
from kickstand.store import as_number, from_item, record_item
from tests.stream import make_records

RECORD = next(make_records(1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-200", "0"),
        ("-1e-200", "0"),
        ("0e999999", "0"),
        ("1e-130", "1e-130"),
        ("9.9e-131", "0"),
        ("1e125", "1e125"),
        ("0.1234567890123456789012345678901234567890123456789", "0.12345678901234567890123456789012345679"),
        ("12", "12"),
    ],
)
def test_a_number_is_kept_as_dynamodb_can(text: str, expected: str) -> None:
    number = as_number(text)
    assert number == Decimal(expected)
    TypeSerializer().serialize(number)  # which raises for what it cannot write exactly


@pytest.mark.parametrize("text", ["1e126", "-1e400", "9" * 200])
def test_a_number_that_is_too_large_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="too large"):
        as_number(text)


@given(st.floats(0.0, 1.0))
def test_any_probability_can_be_recorded_and_read_again(p: float) -> None:
    prediction = Prediction.of(
        {"bicycle": 1.0, "motorcycle": p}, neither=p, model_version="m", backend="sagemaker", latency_ms=p
    )
    again = from_item(record_item(RECORD.model_copy(update={"prediction": prediction})))
    assert again.prediction
    assert again.prediction.neither == pytest.approx(p, abs=1e-130)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_finite_number_is_neither_read_nor_written(bad: float) -> None:
    assert RECORD.prediction
    with pytest.raises(ValidationError, match="finite"):
        Prediction.model_validate(RECORD.prediction.model_dump() | {"latency_ms": bad})
    hurt = RECORD.model_copy(update={"audit_probability": bad})  # which checks nothing
    with pytest.raises(ValueError, match="no number that can be stored"):
        record_item(hurt)
    with pytest.raises(ValidationError):
        Record.model_validate_json(hurt.model_dump_json())


@pytest.mark.parametrize(
    ("told", "utc"),
    [
        ("2026-05-04T01:00:00", "2026-05-04T01:00:00+00:00"),
        ("2026-05-04T01:00:00+09:00", "2026-05-03T16:00:00+00:00"),
        ("2026-05-04T01:00:00-03:30", "2026-05-04T04:30:00+00:00"),
        ("2026-05-04T01:00:00Z", "2026-05-04T01:00:00+00:00"),
    ],
)
def test_every_time_is_utc(told: str, utc: str) -> None:
    record = Record.model_validate(RECORD.model_dump() | {"recorded_at": told})
    assert record.recorded_at.isoformat() == utc


@pytest.mark.parametrize("told", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_outside_of_the_calendar_is_refused(told: str) -> None:
    with pytest.raises(ValidationError, match="outside of the years"):
        Record.model_validate(RECORD.model_dump() | {"recorded_at": told})


def uploaded(version: str, seconds: float = 0, sequencer: str = "") -> ImageRef:
    at = datetime(2026, 5, 4, tzinfo=UTC) + timedelta(seconds=seconds)
    return ImageRef(bucket="photos", key="k", etag=version, version_id=version, uploaded_at=at, sequencer=sequencer)


@pytest.mark.parametrize(
    ("uploads", "latest"),
    [
        ([uploaded("old", sequencer="617F08299329D189"), uploaded("new", sequencer="617F08299329D18A")], ["new"]),
        ([uploaded("new", sequencer="617f08299329d18a"), uploaded("old", sequencer="617F08299329D189")], ["new"]),
        ([uploaded("old", 5, "00AA"), uploaded("new", 0, "00AB")], ["new"]),
        ([uploaded("old", sequencer="0055"), uploaded("new", sequencer="00550001")], ["new"]),
        ([uploaded("a", sequencer="00AB"), uploaded("b", sequencer="00AB")], ["a", "b"]),
        ([uploaded("a"), uploaded("b")], ["a", "b"]),
        ([uploaded("a", 1), uploaded("b", sequencer="FF")], ["a"]),
        ([uploaded("a")], ["a"]),
    ],
)
def test_the_latest_upload_is_s3s(uploads: list[ImageRef], latest: list[str]) -> None:
    assert [ref.version for ref in find_latest(uploads)] == latest
    assert sorted(ref.version for ref in find_latest(uploads[::-1])) == sorted(latest)
