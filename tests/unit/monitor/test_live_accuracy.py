"""Live accuracy: the interval covers, whoever was asked; and a broken promise is noticed, a kept one left alone."""

import random
from datetime import UTC, date, datetime, timedelta

import pytest

from kickstand.classify.promise import ANY_LABEL, Promise
from kickstand.events import (
    Answer,
    Decision,
    ImageRef,
    Prediction,
    Reason,
    ReviewOutcome,
    ReviewStatus,
    Route,
    Shown,
)
from kickstand.monitor.drift import Budget
from kickstand.monitor.live_accuracy import (
    Accepted,
    Cell,
    Claim,
    Evidence,
    Outcome,
    PromiseCheck,
    PromiseStatus,
    check_promise,
    estimate,
    judge,
    list_claims,
    outcomes,
)
from kickstand.quality import clopper_pearson
from kickstand.records import Record
from tests.stream import make_records

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
BUDGET = Budget(images_per_day=1000)
OLDER = Promise(max_risk={ANY_LABEL: 0.02})
EACH = Promise(max_risk={"bicycle": 0.02, "motorcycle": 0.02})
REASONS = {Route.ACCEPT: Reason.CONFIDENT, Route.REVIEW: Reason.UNSURE, Route.REJECT: Reason.NEITHER}


def recorded(
    i: int,
    route: Route = Route.ACCEPT,
    said: str | None = None,
    audited: bool = False,
    audit_probability: float | None = 0.1,
    confidence: float = 0.98,
    neither: float = 0.0,
    reason: Reason | None = None,
    label: str = "bicycle",
) -> Record:
    """The i-th image. label: the model's prediction; said: the reviewer's answer."""
    other = "motorcycle" if label == "bicycle" else "bicycle"
    ref = ImageRef(bucket="photos", key=f"{i}.jpg", etag="e", version_id="v", uploaded_at=NOON)
    at = NOON + timedelta(minutes=i)
    answer = said and Answer(
        label=said, reviewer="r", answered_at=at, seconds_taken=1, shown=Shown(explanation="", choices=())
    )
    return Record(
        image=ref.uri,
        version="v",
        image_ref=ref,
        prediction=Prediction.of(
            {label: confidence, other: 1 - confidence},
            neither=neither,
            model_version="m",
            backend="embedded",
            latency_ms=1,
        ),
        decision=Decision(route=route, reason=reason or REASONS[route]),
        execution="arn",
        recorded_at=at,
        audit_probability=1.0 if route is Route.REVIEW else audit_probability,
        audited=audited,
        review=ReviewOutcome(status=ReviewStatus.ANSWERED, why="audit", requested_at=at, answer=answer)
        if answer
        else None,
    )


def world(draw: random.Random, n: int, audit: float, boast: float = 0.0) -> tuple[list[Outcome], float]:
    """Images, hard and easy. All hard ones go to review, of the easy ones a random few. And the true error rate.

    boast: how much smaller the errors expected are than the true ones.
    """
    seen, errors = [], 0
    for _ in range(n):
        hard = draw.random() < 0.25
        risk = draw.uniform(0.1, 0.5) if hard else draw.uniform(0.0, 0.04)
        wrong = draw.random() < risk
        errors += wrong
        chance = 1.0 if hard else audit
        seen.append(Outcome(risk * (1 - boast), wrong if draw.random() < chance else None, chance))
    return seen, errors / n


@pytest.mark.parametrize(("n", "audit", "boast"), [(300, 0.05, 0.0), (300, 0.05, 0.9), (900, 0.02, 0.5)])
def test_the_interval_covers_although_reviews_are_biased_towards_hard_images(
    n: int, audit: float, boast: float
) -> None:
    draw, rounds, hits, naive, total = random.Random(1), 120, 0, 0.0, 0.0
    for _ in range(rounds):
        seen, error_rate = world(draw, n, audit, boast)
        live = estimate(seen)
        hits += live.low <= 1 - error_rate <= live.high
        answered = [one.wrong for one in seen if one.wrong is not None]
        naive += (1 - sum(answered) / len(answered)) - (1 - error_rate)
        total += live.accuracy - (1 - error_rate)
    assert hits / rounds >= 0.95
    assert abs(total / rounds) < 0.01
    assert naive / rounds < -0.1  # what one would get by taking the reviewed images for all


@pytest.mark.parametrize("errors", [0, 1, 3])
def test_the_interval_of_few_audits_is_little_wider_than_the_exact_binomial_one(errors: int) -> None:
    seen = [Outcome(0.01, i < errors, 0.1) for i in range(60)] + [Outcome(0.01, None, 0.1)] * 540
    live, exact = estimate(seen), clopper_pearson(60 - errors, 60)
    assert live.low <= exact.low + 0.01
    assert live.high - live.low < 1.8 * (exact.high - exact.low)


def test_good_confidences_narrow_the_estimate_down() -> None:
    draw, with_confidence, without = random.Random(4), [], []
    for _ in range(100):
        seen, error_rate = world(draw, 400, 0.1)
        blunt = [one._replace(expected=0.5) for one in seen]
        with_confidence.append((1 - estimate(seen).accuracy - error_rate) ** 2)
        without.append((1 - estimate(blunt).accuracy - error_rate) ** 2)
    assert sum(with_confidence) < sum(without)


def test_without_a_single_answer_anything_is_possible() -> None:
    live = estimate([Outcome(0.1, None, 0.0)] * 50)
    assert (live.accuracy, live.low, live.high, live.answers) == (0.9, 0.0, 1.0, 0)


def test_an_empty_window_is_fine() -> None:
    live = estimate([])
    assert (live.images, live.low, live.high) == (0, 0.0, 1.0)
    assert check([]).status is PromiseStatus.OPEN


def test_images_that_nobody_was_to_be_asked_about_widen_the_interval_by_their_share() -> None:
    live = estimate([Outcome(0.0, False, 1.0)] * 300 + [Outcome(0.0, None, 0.0)] * 100)
    assert live.low < 0.75
    assert live.high == 1.0


@pytest.mark.parametrize(
    ("route", "said", "wrong"),
    [
        (Route.ACCEPT, "bicycle", False),
        (Route.ACCEPT, "motorcycle", True),
        (Route.ACCEPT, "neither", True),
        (Route.REVIEW, "bicycle", False),
        (Route.REJECT, "neither", False),
        (Route.REJECT, "bicycle", True),
        (Route.ACCEPT, "cannot_tell", None),
        (Route.ACCEPT, None, None),
    ],
)
def test_a_persons_answer_judges_the_models(route: Route, said: str | None, wrong: bool | None) -> None:
    assert judge(recorded(0, route, said)) is wrong


def test_reviews_that_wait_lower_the_probability_of_knowing() -> None:
    records = [recorded(i, Route.REVIEW, "bicycle" if i < 5 else None) for i in range(20)]
    assert {one.probability for one in outcomes(records)} == {0.25}


def test_an_answer_nobody_drew_a_lot_for_does_not_count() -> None:
    (seen,) = outcomes([recorded(0, Route.ACCEPT, "motorcycle", audited=False)])
    assert seen.wrong is None


def check(records: list[Record]) -> PromiseCheck:
    """Of the older promise, about all accepted predictions together."""
    (found,) = check_promise(records, OLDER, BUDGET)
    return found


def audited(n: int, error_rate: float, seed: int) -> list[Record]:
    draw = random.Random(seed)
    return [recorded(i, said="motorcycle" if draw.random() < error_rate else "bicycle", audited=True) for i in range(n)]


def test_few_audits_leave_the_promise_open_and_say_how_many_are_missing() -> None:
    found = check(audited(20, 0.0, 1))
    assert (found.status, found.audits_missing) == (PromiseStatus.OPEN, 129)
    assert found.supported


def test_enough_audits_without_an_error_show_the_promise() -> None:
    assert check(audited(149, 0.0, 1)).status is PromiseStatus.KEPT


def test_a_broken_promise_is_noticed() -> None:
    assert check(audited(150, 0.10, 2)).status is PromiseStatus.BROKEN


def test_before_the_alarm_the_promise_is_no_longer_supported() -> None:
    seen = [check(audited(150, 0.10, 2)[:n]).status for n in range(0, 150, 5)]
    assert seen.index(PromiseStatus.DOUBTFUL) < seen.index(PromiseStatus.BROKEN)


def test_a_promise_that_is_just_kept_is_hardly_ever_doubted() -> None:
    records = {seed: audited(300, 0.02, seed) for seed in range(60)}
    statuses = [check(some).status for some in records.values()]
    assert statuses.count(PromiseStatus.BROKEN) == 0
    assert statuses.count(PromiseStatus.DOUBTFUL) <= 60 * 0.05


def test_a_change_for_the_worse_after_a_long_good_time_is_noticed() -> None:
    late = [record.model_copy(update={"audit_probability": 0.1}) for record in audited(400, 0.0, 3)]
    bad = [recorded(400 + i, said="motorcycle" if i % 5 == 0 else "bicycle", audited=True) for i in range(100)]
    assert check(late + bad).status is PromiseStatus.BROKEN


def test_answers_that_the_switch_kept_from_being_accepted_count_as_accepted_ones_all_checked() -> None:
    kept = [
        recorded(i, Route.REVIEW, "bicycle" if i % 10 else "motorcycle", reason=Reason.REVIEW_EVERYTHING)
        for i in range(400)
    ]
    accepted = estimate(outcomes(kept, Route.ACCEPT))
    assert (accepted.images, accepted.answers, accepted.accuracy) == (400, 400, 0.9)
    assert outcomes(kept, Route.REVIEW) == []
    promise = check(kept)
    assert (promise.audits, promise.errors, promise.supported) == (400, 40, False)


def said_of(n: int, label: str, error_rate: float, draw: random.Random, label_error: float = 0.0) -> list[Record]:
    """Audits of accepted predictions of a label, some of them wrong; people err on each with this probability."""
    other = "motorcycle" if label == "bicycle" else "bicycle"
    found = []
    for i in range(n):
        wrong = draw.random() < error_rate
        wrong ^= draw.random() < label_error
        found.append(recorded(draw.randrange(10**6) + i, said=other if wrong else label, audited=True, label=label))
    return found


def test_a_rare_label_is_found_wrong_while_all_answers_together_keep_the_promise() -> None:
    """One answer in five is "motorcycle", and 5 % of those are wrong: 1 % of all answers."""
    draw, found, total = random.Random(3), 0, 0
    for _ in range(10):
        records = said_of(2_400, "bicycle", 0.0, draw) + said_of(600, "motorcycle", 0.05, draw)
        checks = {one.label: one for one in check_promise(records, EACH, BUDGET)}
        found += not checks["motorcycle"].supported
        total += check(records).supported
        assert checks["bicycle"].status is PromiseStatus.KEPT
    assert total == 10
    assert found >= 9


@pytest.mark.parametrize("label_error", [0.0, 0.02, 0.1])
def test_a_promise_that_is_just_kept_for_each_label_is_hardly_ever_doubted_however_people_err(
    label_error: float,
) -> None:
    """The limit on doubt holds for all labels together, and for the worst reviewers that label_error allows."""
    draw, runs, promise = random.Random(4), 60, EACH.model_copy(update={"label_error": label_error})
    statuses = []
    for _ in range(runs):
        records = [one for label in EACH.max_risk for one in said_of(250, label, 0.02, draw, label_error)]
        statuses += [one.status for one in check_promise(records, promise, BUDGET)]
    assert statuses.count(PromiseStatus.BROKEN) == 0
    assert statuses.count(PromiseStatus.DOUBTFUL) <= runs * 0.05


@pytest.mark.parametrize("label_error", [0.0, 0.1])
def test_false_alarms_stay_within_the_budget_shared_by_the_labels(label_error: float) -> None:
    """90 days at 10 photos a day, one in two audited, a fifth of a false alarm allowed; each promise is just kept."""
    budget, audits, runs, broken = Budget(images_per_day=10, false_alarms=0.2), 150, 150, 0
    promise = Promise(max_risk=dict.fromkeys("abc", 0.02), label_error=label_error)
    draw = random.Random(8)
    for claim in list_claims(promise) * runs:
        evidence, limit = Evidence(), claim.limit(budget, audits, 900)
        for _ in range(audits):
            wrong = draw.random() < 0.02
            wrong ^= draw.random() < label_error
            evidence = evidence.after(wrong, 0.5, claim, limit)
        broken += evidence.broken
    assert broken <= 0.2 * runs


def test_evidence_stays_finite_however_many_answers_are_wrong() -> None:
    (claim,) = list_claims(OLDER)
    evidence = Evidence()
    for _ in range(2_000):
        evidence = evidence.after(True, 1.0, claim, 1e9)
    assert Evidence.model_validate_json(evidence.model_dump_json()) == evidence


def test_people_who_err_do_not_make_a_broken_promise_look_kept() -> None:
    """Reviewers who overlook one error in ten: at a true error rate of 2.1 % they find 1.9 %."""
    draw, kept, promise = random.Random(5), 0, EACH.model_copy(update={"label_error": 0.1})
    for _ in range(20):
        records = said_of(1_500, "bicycle", 0.021 * 0.9, draw)
        bicycle, _ = check_promise(records, promise, BUDGET)
        kept += bicycle.status is PromiseStatus.KEPT
    assert kept <= 20 * 0.05
    shown = check_promise(said_of(2_000, "bicycle", 0.001, draw), promise, BUDGET)[0]
    assert shown.status is PromiseStatus.KEPT


def test_more_wrong_labels_need_more_audits() -> None:
    missing = [
        check_promise([], EACH.model_copy(update={"label_error": error}), BUDGET)[0].audits_missing
        for error in (0.0, 0.02, 0.1)
    ]
    assert missing == sorted(missing)
    assert missing[0] == 183  # 0.98 ** 183 < 0.05 / 2


def test_a_photo_of_none_of_the_labels_is_a_wrong_answer() -> None:
    records = [recorded(i, said="neither", audited=True, label="motorcycle") for i in range(12)]
    checks = {one.label: one for one in check_promise(records, EACH, BUDGET)}
    assert (checks["motorcycle"].errors, checks["motorcycle"].supported) == (12, False)
    assert (checks["bicycle"].audits, checks["bicycle"].status) == (0, PromiseStatus.OPEN)


def test_a_label_whose_answers_are_never_accepted_is_not_checked_and_takes_no_part_of_the_budget() -> None:
    records = said_of(149, "bicycle", 0.0, random.Random(6))
    (only,) = check_promise(records, EACH, BUDGET, refused=["motorcycle"])
    assert (only.label, only.status) == ("bicycle", PromiseStatus.KEPT)
    assert check_promise(records, EACH, BUDGET, refused=["bicycle", "motorcycle"]) == ()


def test_answers_that_the_switch_kept_from_being_accepted_count_for_their_label() -> None:
    kept = [
        recorded(i, Route.REVIEW, "bicycle", reason=Reason.REVIEW_EVERYTHING, label="motorcycle") for i in range(10)
    ]
    checks = {one.label: one for one in check_promise(kept, EACH, BUDGET)}
    assert (checks["motorcycle"].audits, checks["bicycle"].audits) == (10, 0)


@pytest.mark.parametrize("errs", [0.0, 1.0])
def test_the_interval_holds_though_labels_err_either_way(errs: float) -> None:
    """errs 0: an error is overlooked one time in ten. errs 1: a correct prediction is called wrong one time in ten."""
    draw, rounds, hits, without = random.Random(7), 100, 0, 0
    for _ in range(rounds):
        seen, errors = [], 0
        for _ in range(1_500):
            wrong = draw.random() < 0.2
            errors += wrong
            slip = draw.random() < 0.1 and wrong != bool(errs)
            seen.append(Outcome(0.2, wrong ^ slip if draw.random() < 0.5 else None, 0.5))
        hits += (wide := estimate(seen, label_error=0.1)).low <= 1 - errors / 1_500 <= wide.high
        without += (narrow := estimate(seen)).low <= 1 - errors / 1_500 <= narrow.high
    assert hits / rounds >= 0.95
    assert without < hits


def test_without_an_answer_anything_is_possible_however_people_err() -> None:
    live = estimate([Outcome(0.1, None, 0.1)] * 50, label_error=0.05)
    assert (live.low, live.high) == (0.0, 1.0)


def as_read_again(evidence: Evidence) -> Evidence:
    return Evidence.model_validate_json(evidence.model_dump_json())


@pytest.mark.parametrize("max_risk", [0.0, 0.005, 0.02, 0.5])
@pytest.mark.parametrize("chance", [1.0, 0.02, 1e-9])
def test_ten_thousand_wrong_audits_and_any_number_of_right_ones_leave_evidence_that_can_be_kept(
    max_risk: float, chance: float
) -> None:
    claim, evidence = Claim("bicycle", max_risk, 0.0, 0.95, 1), Evidence()
    for _ in range(10_000):
        evidence = evidence.after(True, chance, claim, 20.0)
    assert evidence.broken
    assert as_read_again(evidence) == evidence
    for _ in range(400_000):
        before, evidence = evidence, evidence.after(False, chance, claim, 20.0)
        if evidence.wealth == before.wealth and evidence.restarted == before.restarted:
            break
    # so it stays, however many more follow
    assert (evidence.wealth, evidence.restarted) == (before.wealth, before.restarted)
    assert as_read_again(evidence) == evidence


@pytest.mark.slow
def test_a_million_audits_one_by_one_leave_evidence_that_can_be_kept() -> None:
    claim, evidence = Claim("bicycle", 0.02, 0.01, 0.95, 2), Evidence()
    for i in range(1_000_000):
        evidence = evidence.after(i % 50 == 0 or i < 10_000, 0.02, claim, 20.0)
    assert evidence.broken
    assert as_read_again(evidence) == evidence


@pytest.mark.parametrize(
    ("right", "wrong"), [(0, 10_000), (10_000_000, 10_000), (5_000_000, 5_000_000), (0, 10_000_000)]
)
def test_ten_million_answers_have_finite_shares(right: int, wrong: int) -> None:
    row = (Cell(date(2026, 5, 4), 0.02, 10_000_000 + wrong, right + wrong, right, wrong, 1e5),)
    accepted = Accepted(policy_version="p", since=NOON, cells={"bicycle": (*row, Cell(date(2026, 5, 5), 1.0, 9, 9, 9))})
    live = accepted.estimate(0.95, 0.01)
    assert 0 <= live.low <= live.accuracy <= live.high <= 1
    (check,) = accepted.check_promise([Claim("bicycle", 0.02, 0.01, 0.95, 1)])
    assert (check.audits, check.errors) == (right + wrong + 9, wrong)


def test_who_is_asked_with_next_to_no_chance_outweighs_nobody() -> None:
    record = next(record for record in make_records(200) if record.audited and record.review)
    (seen,) = outcomes([record.model_copy(update={"audit_probability": 1e-320})])
    assert seen.probability == 0.0
    assert estimate([seen]).low == 0.0
