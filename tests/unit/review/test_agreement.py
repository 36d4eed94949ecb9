"""The bound on the label error holds, for equal photos and for hard ones, and there is none without evidence."""

import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from kickstand.events import Answer, Decision, GoldenAnswer, ImageRef, Reason, ReviewOutcome, ReviewStatus, Route, Shown
from kickstand.quality import upper_bound
from kickstand.records import Record
from kickstand.review.agreement import FEWEST_CHECKS, UNCONFIRMED, agreement, choose_answers, conclude, describe
from kickstand.review.rules import AUDIT, CANNOT_TELL, Review

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


@pytest.mark.parametrize("golden", [(0, 0), (500, 0), (500, 400)])
def test_without_pairs_there_is_no_label_error_however_many_golden_photos_were_answered(
    golden: tuple[int, int],
) -> None:
    """They are easy: who knows them all may still err on real photos."""
    found = conclude(0, 0, *golden)
    assert (found.label_error, found.label_error_at_most) == (None, None)
    assert "it is unknown" in describe(found)


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


def answered(n: int, label: str, reviewer: str, second: tuple[str, str] | None = None, **more: Any) -> Review:
    """The n-th photo's review. second: who answered it too, and what."""

    def given(label: str, reviewer: str) -> Answer:
        shown = Shown(explanation="", choices=())
        return Answer(label=label, reviewer=reviewer, answered_at=NOON, seconds_taken=1, shown=shown)

    ref = ImageRef(bucket="photos", key=f"{reviewer}/{n}.png", etag="e", uploaded_at=NOON)
    fields: dict[str, Any] = {
        "image": ref.uri,
        "version": "v",
        "image_ref": ref,
        "why": "unsure",
        "route": Route.REVIEW,
        "explanation": "",
        "audit_probability": 1,
        "requested_at": NOON,
        "execution": "arn",
        "task_token": None,
        "answer": given(label, reviewer),
        "second": given(second[1], second[0]) if second else None,
        **more,
    }
    return Review(**fields)


def chosen(reviews: list[Review], base: int = 0) -> Counter[str]:
    """How many are taken (the empty word), and left out for which reason."""
    bases = {(held_out, label): base for held_out in (True, False) for label in ("bicycle", "motorcycle")}
    return Counter(why for _, why in choose_answers(reviews, bases))


def vouched(reviewer: str) -> list[Review]:
    return [answered(1000 + n, "bicycle", reviewer, ("Zoe", "bicycle")) for n in range(FEWEST_CHECKS)]


def test_one_unknown_reviewer_gives_at_most_twenty_answers_about_a_label() -> None:
    many = [answered(n, "motorcycle", "Eve") for n in range(500)]
    assert chosen(many) == {"": UNCONFIRMED, "too_many_of_one": 480}
    assert chosen(many, base=400) == {"": 100, "too_many_of_one": 400}


def test_many_names_that_nobody_knows_give_no_more_than_one() -> None:
    assert chosen([answered(n, "motorcycle", f"Eve {n}") for n in range(500)])[""] == UNCONFIRMED


def test_held_out_images_and_each_label_have_an_allowance_of_their_own() -> None:
    kinds = [(label, why) for label in ("bicycle", "motorcycle") for why in (AUDIT, "unsure")]
    many = [answered(n, label, "Eve", why=why) for n, (label, why) in enumerate(kinds * 99)]
    assert chosen(many)[""] == 4 * UNCONFIRMED


def test_a_reviewer_who_is_known_has_an_allowance_of_their_own() -> None:
    many = [answered(n, "motorcycle", name) for name in ("Ada", "ada", "Bob") for n in range(100)]
    found = chosen([*many, *vouched("Ada"), *vouched("Bob")])
    assert found == {"": 2 * UNCONFIRMED + 2 * FEWEST_CHECKS, "too_many_of_one": 300 - 2 * UNCONFIRMED}


def test_answers_that_two_gave_alike_count_without_limit_and_contradictory_ones_never() -> None:
    alike = [answered(n, "bicycle", "Ada", ("Bob", "bicycle")) for n in range(300)]
    differing = [answered(n, "bicycle", "Cay", ("Dee", "motorcycle")) for n in range(30)]
    doubtful = [answered(n, "bicycle", "Fay", ("Gil", CANNOT_TELL)) for n in range(3)]
    assert chosen([*alike, *differing, *doubtful]) == {"": 303, "contradictory": 30}


def test_who_is_contradicted_too_often_is_not_learnt_from() -> None:
    contradicted = [answered(n, "motorcycle", "Eve", ("Bob", "bicycle")) for n in range(2)]
    agreed = [answered(10 + n, "bicycle", "Eve", ("Bob", "bicycle")) for n in range(7)]
    rest = [answered(100 + n, "motorcycle", "Eve") for n in range(10)]
    assert chosen([*contradicted, *agreed, *rest])["not_trusted"] == 10  # 2 of 9 checks
    agreed.append(answered(99, "bicycle", "Eve", ("Bob", "bicycle")))
    assert chosen([*contradicted, *agreed, *rest])["not_trusted"] == 0  # 2 of 10


def test_wrong_answers_about_golden_photos_count_against_who_gave_them() -> None:
    golden = GoldenAnswer(photo="p", expected="bicycle", label="motorcycle", answered_at=NOON)
    checked = [answered(n, "motorcycle", "Eve", golden=golden) for n in range(FEWEST_CHECKS)]
    assert chosen(checked) == {"not_trusted": FEWEST_CHECKS}


def test_the_choice_depends_on_names_of_photos_and_not_on_their_order() -> None:
    many = [answered(n, "motorcycle", "Eve") for n in range(60)]
    taken = [{review.image for review, why in choose_answers(reviews, {}) if not why} for reviews in (many, many[::-1])]
    assert taken[0] == taken[1]


def test_an_open_review_and_one_that_could_not_tell_are_none() -> None:
    assert chosen([answered(1, CANNOT_TELL, "Ada"), answered(2, "bicycle", "Ada", answer=None)]) == {CANNOT_TELL: 1}
