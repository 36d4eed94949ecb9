"""Live quality seen closer: biased reviews do not bias it, and its intervals cover."""

import itertools
import random
from datetime import timedelta

import pytest

from kickstand.events import Answer, ReviewOutcome, ReviewStatus, Route, Shown
from kickstand.monitor.live_quality import confusion, reliability, review_load, risk_coverage
from kickstand.records import Record
from tests.stream import CARD, NOON, make_records

RECORDS = list(make_records(2_000))


def answered(record: Record, label: str) -> Record:
    answer = Answer(
        label=label, reviewer="Ada", answered_at=NOON, seconds_taken=1, shown=Shown(explanation="", choices=())
    )
    outcome = ReviewOutcome(status=ReviewStatus.ANSWERED, why="audit", requested_at=NOON, answer=answer)
    return record.model_copy(update={"review": outcome})


def test_bins_hold_about_equally_many_answers_and_lie_on_the_diagonal_of_a_calibrated_model() -> None:
    bins = reliability(RECORDS)
    assert len(bins) == 8
    answers = [part.live.answers for part in bins]
    assert max(answers) <= 2 * min(answers)
    assert all(one.high <= other.low for one, other in itertools.pairwise(bins))
    assert all(part.live.low <= part.live.predicted <= part.live.high for part in bins)


def test_every_image_is_in_one_bin() -> None:
    assert sum(part.live.images for part in reliability(RECORDS)) == len(RECORDS)


def test_the_curve_holds_the_policys_own_point_with_its_live_accuracy() -> None:
    curve = risk_coverage(RECORDS, CARD.policy)
    own = next(point for point in curve if point.accept_at == CARD.policy.accept_at)
    accepted = sum(record.decision.route is Route.ACCEPT for record in RECORDS)
    assert own.live.images == accepted
    assert own.coverage == pytest.approx(accepted / len(RECORDS))
    assert [point.coverage for point in curve] == sorted(point.coverage for point in curve)


def test_with_a_threshold_for_each_label_there_is_a_curve_for_each_with_its_own_point() -> None:
    thresholds = {"bicycle": 0.7, "motorcycle": 0.95}
    curve = risk_coverage(RECORDS, CARD.policy.model_copy(update={"thresholds": thresholds}))
    for label, threshold in thresholds.items():
        own = next(point for point in curve if (point.label, point.accept_at) == (label, threshold))
        accepted = sum(
            record.prediction is not None
            and record.prediction.label == label
            and record.prediction.confidence >= threshold
            and record.prediction.neither <= CARD.policy.neither_accept_at_most
            for record in RECORDS
        )
        assert own.live.images == accepted
        assert own.coverage == pytest.approx(accepted / len(RECORDS), abs=1e-6)


@pytest.mark.parametrize("gates", [{"thresholds": {"bicycle": None}}, {"neither_accept_at_most": 0.0}])
def test_where_nothing_is_accepted_the_curve_is_drawn_without_the_gate(gates: dict[str, object]) -> None:
    curve = risk_coverage(RECORDS, CARD.policy.model_copy(update=gates))
    labels = gates.get("thresholds", {"bicycle": 0, "motorcycle": 0})
    assert isinstance(labels, dict)
    answered = sum(record.prediction is not None and record.prediction.label in labels for record in RECORDS)
    assert curve[-1].live.images == answered


def test_people_who_err_widen_every_interval() -> None:
    for narrow, wide in zip(reliability(RECORDS), reliability(RECORDS, label_error=0.05), strict=True):
        assert wide.live.low <= narrow.live.low <= narrow.live.high <= wide.live.high
    for row, wider in zip(confusion(RECORDS), confusion(RECORDS, label_error=0.05), strict=True):
        for truth, cell in row.truth.items():
            assert wider.truth[truth].low <= cell.low <= cell.high <= wider.truth[truth].high


def test_unreadable_images_count_for_coverage() -> None:
    unreadable = RECORDS[0].model_copy(update={"prediction": None, "prepared_image": None})
    half = risk_coverage([*RECORDS[:500], *[unreadable] * 500], CARD.policy)
    assert max(point.coverage for point in half) < 0.5


def test_each_row_of_the_confusion_adds_up_and_says_of_how_many_images() -> None:
    rows = confusion(RECORDS)
    assert [row.answer for row in rows] == ["bicycle", "motorcycle", "neither"]
    assert sum(row.images for row in rows) == len(RECORDS)
    for row in rows:
        assert sum(cell.share for cell in row.truth.values()) == pytest.approx(1, abs=0.05)
        assert all(cell.low <= cell.share <= cell.high for cell in row.truth.values())


def test_the_interval_of_a_cell_covers_the_truth_when_people_see_the_hard_images() -> None:
    """Reviews show unsure images, of which many are wrong; the accepted are audited one in ten."""
    truth = {(record.image): record for record in RECORDS}
    draw, covered, runs = random.Random(3), 0, 30
    for _ in range(runs):
        seen, wrong = [], 0
        for record in truth.values():
            prediction = record.prediction
            if prediction is None or record.decision.route is Route.REJECT or prediction.label != "bicycle":
                continue
            really = "bicycle" if draw.random() < prediction.confidence else "motorcycle"
            wrong += really != "bicycle"
            review = record.decision.route is Route.REVIEW
            told = review or draw.random() < 0.1
            fresh = record.model_copy(update={"review": None, "audited": told and not review})
            seen.append(answered(fresh, really) if told else fresh)
        cell = confusion(seen)[0].truth["motorcycle"]
        covered += cell.low <= wrong / len(seen) <= cell.high
    assert covered >= 0.95 * runs


def test_the_load_counts_what_waits_and_for_how_long() -> None:
    asked = [record for record in RECORDS if record.asks_a_person]
    as_of = NOON + timedelta(days=30)
    load = review_load(RECORDS, as_of)
    assert load.asked == len(asked)
    assert load.answered + load.waiting == load.asked
    oldest = min(record.recorded_at for record in asked if record.review is None)
    assert load.oldest_hours == pytest.approx((as_of - oldest) / timedelta(hours=1), abs=0.01)
    assert load.median_hours
    assert 1 < load.median_hours < 10


def test_nothing_asked_is_no_load_and_no_answers_no_curve() -> None:
    silent = [record.model_copy(update={"review": None, "audited": False}) for record in RECORDS[:50]]
    assert reliability(silent) == ()
    assert all(point.live.answers == 0 for point in risk_coverage(silent, CARD.policy))
    assert review_load([], None).oldest_hours is None
