"""The bound on the label error holds, for equal photos and for hard ones, and there is none without evidence."""

import random
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from kickstand.events import Answer, Decision, GoldenAnswer, ImageRef, Reason, ReviewOutcome, ReviewStatus, Route, Shown
from kickstand.quality import upper_bound
from kickstand.records import Record
from kickstand.review.agreement import agreement, conclude, describe

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def said(label: str | None, reviewer: str) -> Answer | None:
    shown = Shown(explanation="", choices=())
    if label is None:
        return None
    return Answer(label=label, reviewer=reviewer, answered_at=NOON, seconds_taken=1, shown=shown)


def reviewed(first: str | None, second: str | None = None, golden: str | None = None) -> Record:
    """A record with these answers; the golden photo shows a bicycle."""
    ref = ImageRef(bucket="photos", key="a.jpg", etag="e", version_id="v", uploaded_at=NOON)
    outcome = ReviewOutcome(
        status=ReviewStatus.ANSWERED if first else ReviewStatus.WAITING,
        why="unsure",
        requested_at=NOON,
        answer=said(first, "Ada"),
        second=said(second, "Grace"),
        golden=GoldenAnswer(photo="bicycle/a.jpg", expected="bicycle", label=golden, answered_at=NOON)
        if golden
        else None,
    )
    decision = Decision(route=Route.REVIEW, reason=Reason.UNSURE)
    return Record(
        image=ref.uri, version="v", image_ref=ref, decision=decision, execution="arn", recorded_at=NOON, review=outcome
    )


def test_pairs_and_golden_answers_are_counted_where_nobody_said_that_they_cannot_tell() -> None:
    records = [
        reviewed("bicycle", "bicycle", golden="bicycle"),
        reviewed("bicycle", "motorcycle", golden="motorcycle"),
        reviewed("neither", "bicycle", golden="cannot_tell"),
        reviewed("cannot_tell", "bicycle"),
        reviewed("bicycle", "cannot_tell"),
        reviewed("cannot_tell", "cannot_tell"),
        reviewed("bicycle"),
        reviewed(None),
        reviewed(None).model_copy(update={"review": None}),
    ]
    found = agreement(records)
    assert (found.pairs, found.disagreed, found.golden, found.golden_wrong) == (3, 2, 2, 1)
    assert agreement(records, golden=(10, 3)).golden_wrong == 4


@pytest.mark.parametrize("golden", [(0, 0), (500, 0), (500, 400)])
def test_without_pairs_there_is_no_label_error_however_many_golden_photos_were_answered(
    golden: tuple[int, int],
) -> None:
    """They are easy: who knows them all may still err on real photos."""
    found = agreement([reviewed("bicycle")], golden)
    assert (found.label_error, found.label_error_at_most) == (None, None)
    assert "nothing is known" in describe(found)


def test_pairs_that_all_agree_leave_a_bound_and_never_zero() -> None:
    few, many = conclude(1, 0, 0, 0), conclude(200, 0, 0, 0)
    assert few.label_error_at_most == pytest.approx(0.95, abs=2e-6)
    assert many.label_error == 0
    assert many.label_error_at_most == pytest.approx(upper_bound(0, 200), abs=2e-6)


def test_golden_photos_answered_wrongly_raise_the_bound_and_ones_answered_rightly_leave_it() -> None:
    """Two who press the same button unseen agree on every photo."""
    pairs = conclude(300, 6, 0, 0)
    assert conclude(300, 6, 1, 0).label_error_at_most == pairs.label_error_at_most
    blind = conclude(300, 6, 40, 20)
    assert blind.label_error == 0.5
    assert blind.label_error_at_most == pytest.approx(upper_bound(20, 40), abs=2e-6)


def test_more_confidence_takes_a_wider_bound() -> None:
    bounds = [conclude(60, 3, 0, 0, level).label_error_at_most or 0 for level in (0.5, 0.9, 0.95, 0.99)]
    assert bounds == sorted(set(bounds))


LABELS = ("bicycle", "motorcycle", "neither")
WORLDS = 400


def broken(errors: Callable[[random.Random], tuple[float, float]], n: int = 120) -> float:
    """The share of made-up worlds in which the first answers err more often than the bound says.

    errors: how probably the first and the second reviewer err on a photo, drawn for each photo.
    """
    draw = random.Random(15)
    mean = sum(errors(draw)[0] for _ in range(20_000)) / 20_000
    failures = 0
    for _ in range(WORLDS):
        disagreed = 0
        for _ in range(n):
            answers = [draw.choice(LABELS[1:]) if draw.random() < error else LABELS[0] for error in errors(draw)]
            disagreed += answers[0] != answers[1]
        failures += mean > (conclude(n, disagreed, 0, 0).label_error_at_most or 0)
    return failures / WORLDS


@pytest.mark.parametrize("error", [0.0, 0.005, 0.02, 0.05, 0.1])
def test_the_bound_is_broken_in_at_most_one_world_in_twenty(error: float) -> None:
    assert broken(lambda _: (error, error)) <= 0.05


def test_it_holds_where_nearly_all_errors_come_from_a_few_hard_photos() -> None:
    def errors(draw: random.Random) -> tuple[float, float]:
        error = 0.45 if draw.random() < 0.1 else 0.0
        return error, error

    assert broken(errors) <= 0.05


def test_it_holds_for_a_careless_reviewer_whom_a_careful_one_checks() -> None:
    assert broken(lambda _: (0.1, 0.0)) <= 0.05
