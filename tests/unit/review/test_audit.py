"""The random audit: chosen by lot, the same lot for one image, and its probability on record."""

import math
from datetime import UTC, datetime

import pytest

from kickstand.events import Decision, ImageRef, Reason, Route
from kickstand.records import Record
from kickstand.review.audit import asks_twice, draw, pick_golden, sample

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def recorded(name: str, route: Route = Route.ACCEPT, reason: Reason = Reason.CONFIDENT) -> Record:
    ref = ImageRef(bucket="photos", key=name, etag="e", version_id="v", uploaded_at=NOON)
    return Record(
        image=ref.uri,
        version="v",
        image_ref=ref,
        decision=Decision(route=route, reason=reason),
        execution="arn",
        recorded_at=NOON,
    )


@pytest.mark.parametrize("rate", [0.02, 0.5])
def test_the_lot_falls_on_as_many_as_the_rate_says(rate: float) -> None:
    n = 20_000
    chosen = sum(sample(recorded(f"{i}.jpg"), rate, b"key").audited for i in range(n))
    deviation = math.sqrt(n * rate * (1 - rate))  # of a binomial distribution
    assert abs(chosen - n * rate) < 3 * deviation


@pytest.mark.parametrize(("rate", "expected"), [(0.0, False), (1.0, True)])
def test_a_rate_of_none_audits_none_and_a_rate_of_all_audits_all(rate: float, expected: bool) -> None:
    assert {sample(recorded(f"{i}.jpg"), rate, b"key").audited for i in range(500)} == {expected}


def test_a_retry_draws_the_same_lot() -> None:
    record = recorded("a.jpg")
    later = record.model_copy(update={"execution": "another", "recorded_at": NOON.replace(hour=13)})
    assert sample(record, 0.5, b"key").audited == sample(later, 0.5, b"key").audited


def test_another_key_and_another_version_draw_lots_of_their_own() -> None:
    lots = {draw("s3://photos/a.jpg", version, key) for version in ("v1", "v2") for key in (b"one", b"two")}
    assert len(lots) == 4


@pytest.mark.parametrize(
    ("route", "reason", "probability"),
    [
        (Route.ACCEPT, Reason.CONFIDENT, 0.1),
        (Route.REJECT, Reason.NEITHER, 0.1),
        (Route.REJECT, Reason.UNREADABLE, 0.0),
        (Route.REJECT, Reason.RETAKE, 0.0),
        (Route.REVIEW, Reason.UNSURE, 1.0),
        (Route.REVIEW, Reason.PERHAPS_NEITHER, 1.0),
    ],
)
def test_the_record_says_how_probable_it_was_that_a_person_is_asked(
    route: Route, reason: Reason, probability: float
) -> None:
    records = [sample(recorded(f"{i}.jpg", route, reason), 0.1, b"key") for i in range(200)]
    assert {record.audit_probability for record in records} == {probability}
    assert any(record.asks_a_person for record in records) == (probability > 0)


def test_a_photo_that_goes_to_a_person_anyway_is_no_audit() -> None:
    assert not sample(recorded("a.jpg", Route.REVIEW, Reason.UNSURE), 1.0, b"key").audited


def test_whether_a_second_reviewer_is_asked_depends_neither_on_the_audit_nor_on_golden_photos() -> None:
    """By the audit's draw, every audited photo would be asked about twice and no other one."""
    n, share = 20_000, 0.1
    names = [f"s3://photos/{i}.jpg" for i in range(n)]
    twice = {name for name in names if asks_twice(name, "v", share, b"key")}
    audited = {name for name in names if draw(name, "v", b"key") < share}
    golden = {name for name in names if pick_golden("ab", name, "v", share, b"key")}
    assert twice == {name for name in names if asks_twice(name, "v", share, b"key")}
    for drawn in (twice, audited, golden):
        assert abs(len(drawn) - n * share) < 3 * math.sqrt(n * share * (1 - share))
    for one, other in ((twice, audited), (twice, golden), (audited, golden)):
        both = share * share
        assert abs(len(one & other) - n * both) < 3 * math.sqrt(n * both * (1 - both))


def test_each_golden_photo_is_shown_about_as_often_and_without_photos_none_is() -> None:
    shown = [pick_golden("abcd", f"{i}.jpg", "v", 1.0, b"key") for i in range(4_000)]
    assert all(900 < shown.count(photo) < 1100 for photo in "abcd")
    assert pick_golden("", "a.jpg", "v", 1.0, b"key") is None
