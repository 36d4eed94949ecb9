"""Drift: how often it cries wolf, how soon it notices, and that it may be stopped and restarted anywhere."""

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kickstand.classify.policy import decide
from kickstand.classify.promise import Promise
from kickstand.events import (
    Decision,
    ImageRef,
    ImageStatistics,
    ImageSummary,
    Prediction,
    Reason,
    Route,
    SelectivePolicy,
)
from kickstand.monitor.drift import (
    CLASS_MIX,
    EXAMPLES,
    FEATURES,
    Baseline,
    Budget,
    Checkpoint,
    Drift,
    Finding,
    Observation,
    PromisedMix,
    Severity,
    describe,
    list_events,
    make_baseline,
    observe,
    ratios,
)
from kickstand.records import Record
from tests.stream import list_alarms

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
POLICY = SelectivePolicy(policy_version="p1", accept_at=0.8, neither_accept_at_most=0.2, neither_reject_at_least=0.8)
BUDGET = Budget(images_per_day=100)
MIX = PromisedMix(
    "m1",
    "p1",
    Promise(max_risk={"bicycle": 0.02, "motorcycle": 0.02}, mix={"motorcycle": (0.3, 0.7)}),
    {"bicycle": 0.72, "motorcycle": 0.72},
)


def recorded(
    i: int, draw: random.Random, dark: float = 1.0, foreign: float = 0.0, motorcycles: float = 0.5, model: str = "m1"
) -> Record:
    """The i-th photo of a made-up stream. dark: multiplies brightness; foreign: share that shows neither."""
    neither = draw.betavariate(8, 2) if draw.random() < foreign else draw.betavariate(1, 30)
    confidence = 0.5 + draw.betavariate(6, 1) / 2
    label, other = ("motorcycle", "bicycle") if draw.random() < motorcycles else ("bicycle", "motorcycle")
    prediction = Prediction.of(
        {label: confidence, other: 1 - confidence},
        neither=neither,
        model_version=model,
        backend="embedded",
        latency_ms=1.0,
    )
    ref = ImageRef(bucket="photos", key=f"{i}.jpg", etag="e", version_id="v", uploaded_at=NOON)
    return Record(
        image=ref.uri,
        version="v",
        image_ref=ref,
        prepared_image=ImageSummary(
            sha256="0" * 64,
            format="PNG",
            width=32,
            height=32,
            statistics=ImageStatistics(
                brightness=draw.betavariate(4, 4) * dark,
                contrast=draw.betavariate(4, 8) * dark,
                sharpness=draw.betavariate(3, 9),
                saturation=draw.betavariate(2, 6),
            ),
        ),
        prediction=prediction,
        decision=decide(prediction, POLICY),
        execution="arn",
        recorded_at=NOON + timedelta(minutes=i),
    )


def unreadable(i: int) -> Record:
    decision = Decision(route=Route.REJECT, reason=Reason.UNREADABLE)
    known = recorded(i, random.Random(i))
    return known.model_copy(update={"prepared_image": None, "prediction": None, "decision": decision})


def stream(n: int, seed: int, first: int = 0, **shift: Any) -> list[Record]:
    draw = random.Random(seed)
    return [recorded(first + i, draw, **shift) for i in range(n)]


def baseline_of(records: Sequence[Record]) -> Baseline:
    seen = [observe(record, "m1", "p1") for record in records]
    return make_baseline([(one.features, one.rates) for one in seen], "made up", "m1", "p1")


BASELINE = baseline_of(stream(1000, seed=1))


def after(records: Sequence[Record]) -> dict[str, Finding]:
    drift = Drift(BASELINE, BUDGET)
    drift.read(records)
    return {finding.statistic: finding for finding in drift.findings()}


def alarms(records: Sequence[Record]) -> set[str]:
    return {name for name, finding in after(records).items() if finding.alarm}


def test_an_empty_stream_says_nothing() -> None:
    assert alarms([]) == set()
    assert {finding.strength for finding in after([]).values()} == {0.0}


def test_equal_images_make_equal_baselines_in_every_process() -> None:
    """A set's order differs from process to process, and the version is a hash of the baseline as it is written."""
    assert [*BASELINE.features] == [*FEATURES]


def test_a_stream_like_the_baseline_raises_no_alarm() -> None:
    assert alarms(stream(3000, seed=2)) == set()


@pytest.mark.parametrize(
    ("shift", "moved", "severity"),
    [
        ({"dark": 0.4}, "brightness", Severity.NOTICE),
        ({"foreign": 0.2}, "flagged", Severity.PAGE),
        ({"foreign": 0.2}, "neither", Severity.PAGE),
        ({"motorcycles": 0.85}, CLASS_MIX, Severity.PAGE),
    ],
)
def test_a_shift_is_found_within_200_images(shift: dict[str, float], moved: str, severity: Severity) -> None:
    found = after(stream(200, seed=3) + stream(200, seed=4, first=200, **shift))[moved]
    assert found.alarm
    assert found.severity is severity


def test_broken_uploads_raise_the_share_of_rejections() -> None:
    assert alarms([unreadable(i) for i in range(40)]) == {"rejected"}


def test_darkness_is_told_from_harm() -> None:
    assert alarms(stream(200, seed=5, dark=0.4)) == {"brightness", "contrast"}


def test_the_alarm_says_since_when_and_shows_the_images() -> None:
    finding = after(stream(300, seed=6) + stream(100, seed=7, first=300, dark=0.3))["brightness"]
    assert finding.since is not None
    assert abs(finding.since - (NOON + timedelta(minutes=300))) < timedelta(minutes=15)
    assert len(finding.examples) == EXAMPLES
    assert all(int(example.image.split("/")[-1].removesuffix(".jpg")) >= 285 for example in finding.examples)
    assert "brightness below" in describe(finding)


@pytest.mark.parametrize(
    ("shift", "moved"),
    [({"dark": 0.4}, "brightness"), ({"dark": 0.75}, "brightness"), ({"foreign": 0.1}, "flagged")],
)
def test_the_change_is_dated_within_a_few_dozen_images(shift: dict[str, float], moved: str) -> None:
    for seed in range(3):
        finding = after(stream(300, seed=100 + seed) + stream(300, seed=200 + seed, first=300, **shift))[moved]
        assert finding.since is not None
        assert abs(finding.since - (NOON + timedelta(minutes=300))) < timedelta(minutes=50)


def test_an_alarm_knows_its_beginning_even_when_the_stream_has_calmed_down() -> None:
    drift = Drift(BASELINE, BUDGET)
    drift.read(stream(100, seed=16) + stream(40, seed=17, first=100, dark=0.3))
    for i in range(140, 200):
        drift.read(stream(1, seed=i, first=i))
        for finding in drift.findings():
            assert not finding.alarm or finding.since is not None
            assert describe(finding)


def test_reading_in_parts_with_checkpoints_comes_to_the_same_as_reading_at_once() -> None:
    records = stream(150, seed=8) + stream(100, seed=9, first=150, dark=0.5, foreign=0.3)
    whole = Drift(BASELINE, BUDGET)
    whole.read(records)
    checkpoint: Checkpoint | None = None
    for start in range(0, 250, 37):
        part = Drift(BASELINE, BUDGET, checkpoint)
        part.read([])
        part.read(reversed(records[max(0, start - 20) : start + 37]))  # out of order, and some a second time
        checkpoint = Checkpoint.model_validate_json(part.checkpoint().model_dump_json())
    assert checkpoint == whole.checkpoint()


def test_a_checkpoint_stays_small_however_long_the_stream() -> None:
    drift = Drift(BASELINE, BUDGET)
    drift.read(stream(2000, seed=10, dark=0.5, foreign=0.5))
    assert len(drift.checkpoint().model_dump_json()) < 40_000


def test_a_checkpoint_of_another_baseline_counts_for_nothing() -> None:
    moved = Drift(BASELINE, BUDGET)
    moved.read(stream(200, seed=11, dark=0.3))
    fresh = Drift(baseline_of(stream(1000, seed=12)), BUDGET, moved.checkpoint())
    assert not any(finding.alarm for finding in fresh.findings())


def test_an_alarm_ends_when_its_cause_does_and_is_counted_once() -> None:
    drift = Drift(BASELINE, BUDGET)
    drift.read(stream(200, seed=13) + stream(200, seed=14, first=200, dark=0.4))
    assert list_alarms(drift).count("brightness") == 1
    drift.read(stream(400, seed=15, first=400))
    assert not any(finding.alarm for finding in drift.findings())
    assert list_alarms(drift).count("brightness") == 1


def test_scores_of_another_model_are_not_compared() -> None:
    seen = observe(recorded(0, random.Random(0), model="m2"), "m1", "p1")
    assert set(seen.features) == {"brightness", "contrast", "sharpness", "saturation"}
    assert not seen.rates


def test_routes_of_another_policy_are_not_compared() -> None:
    seen = observe(recorded(0, random.Random(0)), "m1", "another")
    assert "confidence" in seen.features
    assert not {"flagged", "reviewed", "rejected"} & set(seen.rates)


def test_a_statistic_that_nothing_could_be_compared_in_says_so() -> None:
    records = [recorded(i, random.Random(i), model="m2") for i in range(20)]
    assert {name for name, finding in after(records).items() if finding.seen} == {
        "brightness",
        "contrast",
        "sharpness",
        "saturation",
    }


def test_an_event_at_its_limit_is_a_fair_bet_and_below_it_a_bad_one() -> None:
    for limit in (0.01, 0.3, 0.9):
        for up, down in ratios(limit):
            assert limit * up + (1 - limit) * down == pytest.approx(1.0)
            assert limit / 2 * up + (1 - limit / 2) * down < 1.0


def test_the_limit_leaves_room_for_the_baselines_own_error() -> None:
    for event in list_events(BASELINE):
        assert event.usual < event.limit < event.usual + 0.1


def worlds(n: int) -> Iterator[tuple[Baseline, list[Observation]]]:
    """A population of 400 photos; from it a baseline and an endless stream, each drawn anew."""
    population = [observe(record, "m1", "p1") for record in stream(400, seed=20)]
    for seed in range(n):
        draw = random.Random(seed)
        baseline = make_baseline(
            [(one.features, one.rates) for one in draw.choices(population, k=200)], "drawn", "m1", "p1"
        )
        yield (
            baseline,
            [
                one._replace(image=str(i), at=NOON + timedelta(minutes=i))
                for i, one in enumerate(draw.choices(population, k=900))
            ],
        )


def test_false_alarms_stay_within_the_budget_though_the_baseline_is_small() -> None:
    """90 days at 10 images a day, 25 times over: the budget allows 25 alarms."""
    budget, count, runs = Budget(images_per_day=10), 0, 25
    for baseline, observations in worlds(runs):
        drift = Drift(baseline, budget)
        for observation in observations:
            drift.see(observation)
        count += len(list_alarms(drift))
    assert count <= runs * 0.1  # in fact far fewer: no event is as frequent as its limit allows


def test_the_switch_does_not_keep_up_the_alarm_that_it_answers() -> None:
    made = [recorded(i, random.Random(i)) for i in range(200)]
    kept = [
        record.model_copy(
            update={"decision": Decision(route=Route.REVIEW, reason=Reason.REVIEW_EVERYTHING, policy_version="p1")}
        )
        if record.decision.route is Route.ACCEPT
        else record
        for record in made
    ]
    assert [observe(record, "m1", "p1") for record in kept] == [observe(record, "m1", "p1") for record in made]


def test_ten_thousand_images_out_of_the_ordinary_leave_a_checkpoint_that_can_be_kept() -> None:
    drift = Drift(None, Budget(images_per_day=1e12, false_alarms=1e-6), None, MIX)
    for i in range(10_000):
        rates = {f"{CLASS_MIX}:{label}": True for label in MIX.shares_at_most}
        drift.see(Observation(f"{i}.png", "v", NOON + timedelta(seconds=i), {}, rates))
    kept = drift.checkpoint()
    assert Checkpoint.model_validate_json(kept.model_dump_json()) == kept
    assert all(finding.alarm and finding.strength == 1.0 for finding in drift.findings())


@pytest.mark.parametrize("false_alarms", [90.0, 1e6])
def test_so_many_allowed_alarms_that_any_image_raises_one_are_no_error(false_alarms: float) -> None:
    drift = Drift(None, Budget(images_per_day=1, false_alarms=false_alarms), None, MIX)
    assert all(0 <= finding.strength <= 1 for finding in drift.findings())


def test_a_checkpoint_with_another_number_of_events_begins_anew() -> None:
    drift = Drift(None, Budget(), None, MIX)
    kept = drift.checkpoint().model_copy(update={"events": drift.checkpoint().events[:1], "n": 5})
    assert Drift(None, Budget(), kept, MIX).n == 0
