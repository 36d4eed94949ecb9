"""Runs of the scheduled monitor give the same report as one run over everything, however late people answer."""

import json
import random
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from math import fsum
from typing import Any, cast

import pytest

from kickstand.classify.policy import Switch, decide
from kickstand.classify.promise import ANY_LABEL, Promise
from kickstand.clients import DynamoDBClient
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
from kickstand.monitor.drift import CLASS_MIX, Budget, Drift, Observation, describe
from kickstand.monitor.live_accuracy import (
    MOST_CELLS,
    WINDOW,
    Cell,
    Outcome,
    PromiseStatus,
    accepted_by_label,
    check_promise,
    estimate,
    outcomes,
)
from kickstand.monitor.run import LONGEST_GAP, MonitorState, Run, Watch, advance, examine, measure, resume
from kickstand.monitor.store import MONITOR
from kickstand.records import Record
from kickstand.store import save_state
from tests.stream import CARD, NOON, list_alarms, make_records, make_stream_baseline

EACH = Promise(max_risk={"bicycle": 0.2, "motorcycle": 0.2})
OLDER = Promise(max_risk={ANY_LABEL: 0.2})
WATCH = Watch(model_version="m1", policy_version="p1", promise=EACH)
LAG = timedelta(minutes=2)
SHOWN = Shown(explanation="", choices=())


def as_of(record: Record, now: datetime) -> Record:
    """The record as the table holds it then."""
    answer = record.review.answer if record.review else None
    if answer is None or answer.answered_at > now:
        return record.model_copy(update={"review": None, "changed_at": record.recorded_at})
    return record.model_copy(update={"changed_at": answer.answered_at})


def run_once(
    state: MonitorState | None, records: Sequence[Record], now: datetime, watch: Watch = WATCH
) -> tuple[Run, MonitorState]:
    """What the function does at this moment."""
    state = resume(state, watch, now - LAG)
    there = [as_of(record, now) for record in records if record.recorded_at <= now]
    changes = [record for record in there if record.changed_at and record.changed_at > state.until]
    random.Random(now.timestamp()).shuffle(changes)
    return advance(state, changes, watch, now - LAG, "photos")


def runs(
    records: Sequence[Record], every: timedelta, days: float, watch: Watch = WATCH
) -> list[tuple[Run, MonitorState]]:
    found: list[tuple[Run, MonitorState]] = []
    now = NOON
    while now <= NOON + timedelta(days=days):
        found.append(run_once(found[-1][1] if found else None, records, now, watch))
        now += every
    return found


STREAM = list(make_records(700))  # one every ten minutes: five days


@pytest.mark.parametrize("every", [timedelta(minutes=47), timedelta(hours=9)])
def test_accuracy_counts_every_answer_once_though_it_comes_runs_later(every: timedelta) -> None:
    *_, (seen, _) = runs(STREAM, every, days=9)
    assert seen.accepted == estimate(cell_means(STREAM))
    assert seen.accepted_by_label == {
        label: estimate(cell_means(part)) for label, part in accepted_by_label(STREAM).items()
    }
    assert seen.accepted.answers > 30


def cell_means(records: Sequence[Record]) -> list[Outcome]:
    """The accepted predictions, of each the mean of what is expected of those of its label and day."""
    accepted = [record for record in records if record.used_prediction and record.decision.by_policy is Route.ACCEPT]
    known = outcomes(accepted)
    cells: dict[tuple[str, date], list[float]] = {}
    places = [(record.prediction.label, record.recorded_at.date()) for record in accepted if record.prediction]
    for place, one in zip(places, known, strict=True):
        cells.setdefault(place, []).append(one.expected)
    return [
        one._replace(expected=round(fsum(cells[place]), 6) / len(cells[place]))
        for place, one in zip(places, known, strict=True)
    ]


@pytest.mark.parametrize("promise", [EACH, OLDER, EACH.model_copy(update={"label_error": 0.05})])
def test_the_promise_is_judged_alike_in_parts_and_at_once(promise: Promise) -> None:
    watch = WATCH.model_copy(update={"promise": promise})
    *_, (seen, _) = runs(STREAM, timedelta(hours=3), days=9, watch=watch)
    whole = check_promise(STREAM, promise, Budget(images_per_day=100))
    assert [one.label for one in seen.promises] == [*promise.max_risk]
    for part, one in zip(seen.promises, whole, strict=True):
        assert part.model_dump(exclude={"evidence"}) == one.model_dump(exclude={"evidence"})
        assert part.evidence == pytest.approx(one.evidence, rel=1e-3)


def test_drift_sees_every_image_once() -> None:
    baseline = make_stream_baseline()
    watch = WATCH.model_copy(update={"baseline": baseline})
    *_, (_, state) = runs(STREAM, timedelta(minutes=95), days=6, watch=watch)
    whole = Drift(baseline, Budget(images_per_day=144))
    whole.read(STREAM)
    assert state.drift == whole.checkpoint()


def test_a_second_run_from_an_unsaved_state_changes_nothing() -> None:
    _, state = run_once(None, STREAM, NOON + timedelta(hours=20))
    now = NOON + timedelta(hours=30)
    assert run_once(state, STREAM, now) == run_once(state, STREAM, now)


def test_an_empty_window_is_fine() -> None:
    seen, state = run_once(None, [], NOON)
    assert (seen.images, seen.accepted.images, seen.harm) == (0, 0, "")
    assert run_once(state, [], NOON + timedelta(minutes=15))[1].until == NOON + timedelta(minutes=13)


def test_harm_is_noted_once_and_forgotten_when_it_is_over() -> None:
    watch = WATCH.model_copy(update={"baseline": make_stream_baseline()})
    states = [state for _, state in runs(list(make_records(700, night_from=144)), timedelta(hours=4), 4, watch)]
    degraded = [state.degraded for state in states]
    assert degraded[0] is None
    assert len({one.degraded_at for one in degraded if one}) == 1
    announced = states[-1].model_copy(update={"announced": True, "switched": True})
    fresh = watch.model_copy(update={"baseline": None})  # nothing to compare with any more
    _, after = run_once(announced, STREAM, NOON + timedelta(days=4, hours=1), fresh)
    assert (after.degraded, after.announced) == (None, False)
    assert after.switched  # until the monitor has switched it off


def test_a_new_policy_is_judged_by_its_own_answers() -> None:
    *_, (_, state) = runs(STREAM, timedelta(hours=12), days=2)
    seen, after = run_once(
        state, STREAM, NOON + timedelta(days=2, hours=1), WATCH.model_copy(update={"policy_version": "p2"})
    )
    assert (seen.accepted.images, after.accepted.since) == (0, state.until)


def test_after_a_long_pause_it_leaves_out_what_nobody_watched_and_keeps_what_it_knows() -> None:
    watch = WATCH.model_copy(update={"baseline": make_stream_baseline()})
    *_, (_, state) = runs(STREAM, timedelta(hours=12), days=1, watch=watch)
    now = state.until + LONGEST_GAP + LAG + timedelta(hours=1)
    resumed = resume(state, watch, now - LAG)
    assert (resumed.drift, resumed.accepted.cells) == (state.drift, state.accepted.cells)
    assert resumed.accepted.since == now - LAG - LONGEST_GAP
    assert resumed.until == now - LAG - LONGEST_GAP


def test_what_is_kept_stays_small_and_forgets_what_is_older_than_the_window() -> None:
    daily = [
        record.model_copy(update={"recorded_at": record.recorded_at + timedelta(days=i // 2)})
        for i, record in enumerate(STREAM[:90])
    ]
    *_, (seen, state) = runs(daily, timedelta(hours=23), days=46)
    assert min(cell.day for row in state.accepted.cells.values() for cell in row) >= (state.until - WINDOW).date()
    assert seen.accepted.images < 65
    assert len(state.model_dump_json()) < 20_000


def item_size(state: MonitorState) -> int:
    """Of the item that the table keeps, as DynamoDB counts it: UTF-8 bytes of names and strings, numbers at most 21."""
    written: list[dict[str, dict[str, str]]] = []

    class Table:
        def put_item(self, **request: Any) -> None:
            written.append(request["Item"])

    assert save_state(cast("DynamoDBClient", Table()), "ControlTable", MONITOR, state, None)
    (item,) = written
    assert item["id"]["S"] == MONITOR
    return sum(
        len(name.encode()) + (21 if kind == "N" else len(value.encode()))
        for name, typed in item.items()
        for kind, value in typed.items()
    )


def crowded(labels: Sequence[str], day: int, chance: float, key: str) -> Iterator[Record]:
    """An accepted, audited and wrong prediction of each label on this day."""
    at = NOON + timedelta(days=day)
    for number, label in enumerate(labels):
        other = labels[number - 1]
        probabilities = dict.fromkeys(labels, 0.0) | {label: 0.987654321, other: 0.012345679}
        told = Answer(label=other, reviewer="Ada", answered_at=at, seconds_taken=1, shown=SHOWN)
        yield Record(
            image=f"s3://photos/{key}",
            version=f"{day}-{number}",
            image_ref=ImageRef(bucket="photos", key=key, etag="e", uploaded_at=at),
            prediction=Prediction.of(probabilities, neither=0.0, model_version="m1", backend="embedded", latency_ms=1),
            decision=Decision(route=Route.ACCEPT, reason=Reason.CONFIDENT, policy_version="p1"),
            execution="arn",
            recorded_at=at + timedelta(seconds=number),
            audit_probability=chance,
            audited=True,
            review=ReviewOutcome(status=ReviewStatus.ANSWERED, why="audit", requested_at=at, answer=told),
        )


def test_the_state_of_100_labels_and_a_month_of_any_number_of_photos_fits_into_one_item() -> None:
    """Long labels and keys, every promise broken, two audit rates on every day, and numbers as large as they come."""
    labels = [f"a vehicle of the kind number {number:03}, in full" for number in range(100)]
    promise = Promise(max_risk=dict.fromkeys(labels, 0.02), mix=dict.fromkeys(labels, (0.0, 0.02)))
    baseline = make_stream_baseline()
    watch = Watch(
        model_version="m1",
        policy_version="p1",
        baseline=baseline,
        promise=promise,
        shares_at_most=dict.fromkeys([*labels, "neither"], 1e-6),
    )
    state: MonitorState | None = None
    for day in range(32):
        until = NOON + timedelta(days=day, hours=1)
        changes = [one for chance in (0.0212345, 1.0) for one in crowded(labels, day, chance, f"{day}{'k' * 1_000}")]
        changes = [one.model_copy(update={"version": f"{one.version}/{i}"}) for i, one in enumerate(changes)]
        seen, state = advance(resume(state, watch, until), changes, watch, until, "photos")
    assert state
    assert state.degraded
    assert len(seen.symptoms) > 100
    assert seen.harm.endswith(f"; and {len(seen.symptoms) - 5} more")
    degraded = state.degraded.model_copy(update={"findings": seen.symptoms, "reason": seen.harm})
    assert sum(map(len, state.accepted.cells.values())) <= MOST_CELLS
    assert state.accepted.days_per_cell == 4
    many = {
        label: tuple(
            Cell(cell.day, cell.chance, 123_456_789, 123_456_789, 123_456_789, 123_456_789, 12_345_678.123456)
            for cell in row
        )
        for label, row in state.accepted.cells.items()
    }
    accepted = state.accepted.model_copy(update={"cells": many})
    # As many cells as there may be at all.
    full = many | {"x" * 40: (many[labels[0]] * MOST_CELLS)[: MOST_CELLS - sum(map(len, many.values()))]}
    for cells in (many, full):
        worst = {"accepted": accepted.model_copy(update={"cells": cells}), "degraded": degraded}
        assert item_size(state.model_copy(update=worst)) < 400 * 1024
    assert MonitorState.model_validate_json(state.model_dump_json(exclude_defaults=True)) == state


def test_a_state_of_before_labels_were_told_apart_is_read_and_goes_on() -> None:
    """As the version before wrote it: cells by day without a label, one evidence about all answers."""
    day = NOON.date().isoformat()
    older = {
        "until": (NOON + timedelta(hours=1)).isoformat(),
        "accepted": {
            "policy_version": "p1",
            "since": (NOON - timedelta(days=1)).isoformat(),
            "images": {day: 60},
            "days": {
                day: [
                    {"expected": 0.01, "chance": 0.1, "images": 40, "asked": 4, "right": 3},
                    {"expected": 0.03, "chance": 0.1, "images": 10, "asked": 2, "wrong": 1},
                ]
            },
            "least": 0.1,
            "evidence": {"wealth": [2.0, 3.0, 4.0], "restarted": [5.0, 6.0, 7.0]},
        },
    }
    state = MonitorState.model_validate_json(json.dumps(older))
    watch = WATCH.model_copy(update={"promise": OLDER})
    seen, after = advance(state, [], watch, NOON + timedelta(hours=2), "photos")
    (promise,) = seen.promises
    assert (promise.label, promise.audits, promise.errors, promise.evidence) == ("", 4, 1, 3.0)
    assert (seen.accepted.images, seen.accepted.predicted, seen.accepted_by_label) == (50, 0.986, {})
    late = audit(answered_at=NOON + timedelta(hours=2, minutes=30))
    seen, _ = advance(after, [late], watch, NOON + timedelta(hours=3), "photos")
    assert (seen.promises[0].audits, seen.accepted.images) == (5, 50)
    assert seen.promises[0].evidence != 3.0


def audit(answered_at: datetime) -> Record:
    """Of a photo that was recorded at noon."""
    answer = Answer(label="motorcycle", reviewer="Ada", answered_at=answered_at, seconds_taken=1, shown=SHOWN)
    record = next(one for one in STREAM if one.decision.route is Route.ACCEPT)
    outcome = ReviewOutcome(status=ReviewStatus.ANSWERED, why="audit", requested_at=NOON, answer=answer)
    return record.model_copy(
        update={
            "recorded_at": NOON,
            "audited": True,
            "audit_probability": 0.1,
            "review": outcome,
            "changed_at": answered_at,
        }
    )


def test_only_the_label_that_breaks_its_promise_is_named_and_counted() -> None:
    records = [
        one
        for day in range(20)
        for one in crowded(["bicycle", "motorcycle"], 0, 0.1, f"{day}.jpg")
        if one.prediction and one.prediction.label == "motorcycle"
    ]
    state = resume(None, WATCH, NOON)
    seen, after = advance(state, records, WATCH, NOON + timedelta(hours=1), "photos")
    (symptom,) = seen.symptoms
    assert (symptom.statistic, symptom.label) == ("promise", "motorcycle")
    assert symptom.description == "20 of 20 audited predictions “motorcycle” wrong, guaranteed at most 20.0%"
    assert measured(seen)["PromiseUnsupported"] == 1
    assert seen.labels["motorcycle"]["promise"] == "broken"
    assert seen.labels["bicycle"] == {"promise": "open", "evidence": 1.0}
    assert after.degraded
    assert after.degraded.findings == (symptom,)
    for day in range(1, 3 * WINDOW.days):
        seen, after = advance(after, [], WATCH, NOON + timedelta(days=day), "photos")
    assert seen.symptoms == (symptom,)  # also once the window holds none of these audits


def answers(share: float, n: int, foreign: float = 0.02) -> list[Record]:
    """Photos of which this many get the prediction "motorcycle", with photos of none of the labels among them."""
    draw = random.Random(share)
    made = []
    for i in range(n):
        record = STREAM[i % len(STREAM)]
        label, other = ("motorcycle", "bicycle") if draw.random() < share else ("bicycle", "motorcycle")
        prediction = Prediction.of(
            {label: 0.9, other: 0.1},
            neither=0.5 if draw.random() < foreign else 0.0,
            model_version="m1",
            backend="embedded",
            latency_ms=1,
        )
        at = NOON + timedelta(minutes=i)
        made.append(
            record.model_copy(
                update={
                    "image": f"s3://photos/{i}.png",
                    "prediction": prediction,
                    "decision": decide(prediction, CARD.policy),
                    "recorded_at": at,
                }
            )
        )
    return made


MIXED = WATCH.model_copy(
    update={
        "promise": Promise(max_risk=EACH.max_risk, mix={"motorcycle": (0.3, 0.7)}, foreign_share=0.05),
        "shares_at_most": {"bicycle": 0.72, "motorcycle": 0.72, "neither": 0.08},
    }
)
PACE = Budget(images_per_day=1_000)


@pytest.mark.parametrize("with_baseline", [True, False])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_a_stream_at_any_promised_mix_raises_no_alarm_about_it(share: float, with_baseline: bool) -> None:
    """The baseline is half and half."""
    baseline = make_stream_baseline() if with_baseline else None
    report, _ = examine(answers(share, 1_000), MIXED.model_copy(update={"baseline": baseline}), PACE)
    assert not any(finding.alarm for finding in report.drift or () if finding.statistic == CLASS_MIX)
    assert {one.label: one.promised for one in report.mix} == {
        "bicycle": (0.3, 0.7),
        "motorcycle": (0.3, 0.7),
        "neither": (0.0, 0.05),
    }


def test_false_alarms_about_the_mix_stay_within_the_budget_at_its_very_limit() -> None:
    """90 days at 10 photos a day, 60 times; a fifth of a false alarm allowed in 90 days."""
    budget, runs, count = Budget(images_per_day=10, false_alarms=0.2), 60, 0
    for seed in range(runs):
        draw, drift = random.Random(seed), Drift(None, budget, None, MIXED.mix)
        for i in range(900):
            motorcycle = draw.random() < MIXED.shares_at_most["motorcycle"]
            rates = {"bicycle": not motorcycle, "motorcycle": motorcycle, "neither": False}
            told = {f"{CLASS_MIX}:{label}": hit for label, hit in rates.items()}
            drift.see(Observation(f"{i}.png", "v", NOON + timedelta(minutes=i), {}, told))
        count += len(list_alarms(drift))
    assert count <= 0.2 * runs


def test_without_a_promised_mix_the_stream_is_compared_with_the_baseline() -> None:
    watch = WATCH.model_copy(update={"baseline": make_stream_baseline()})
    report, _ = examine(answers(0.9, 400), watch, PACE)
    assert CLASS_MIX in {finding.statistic for finding in report.paged}
    assert report.mix == ()


@pytest.mark.parametrize(
    ("share", "foreign", "sentence"),
    [
        (
            0.9,
            0.02,
            "the share of predictions motorcycle is above 72 %, the maximum that the guaranteed mix (30 % to 70 %) "
            "allows: renew the guarantee by `kickstand policy` with a wider `--mix`",
        ),
        (
            0.1,
            0.02,
            "the share of predictions bicycle is above 72 %, the maximum that the guaranteed mix (30 % to 70 %) "
            "allows: renew the guarantee by `kickstand policy` with a wider `--mix`",
        ),
        (
            0.5,
            0.25,
            "the share of photos that may show none of the classes is above 8 %, the maximum that the guarantee allows "
            "(up to 5 % of them): renew it by `kickstand policy` with a larger `--neither-share`",
        ),
    ],
)
def test_a_mix_outside_the_promised_range_is_harm_and_says_how_to_answer_it(
    share: float, foreign: float, sentence: str
) -> None:
    report, _ = examine(answers(share, 400, foreign), MIXED, PACE)
    (finding,) = report.paged
    assert finding.statistic == CLASS_MIX
    assert describe(finding).startswith(sentence)
    assert report.harmed


def test_a_share_a_little_above_the_promised_range_is_found_too() -> None:
    report, _ = examine(answers(0.8, 1_500), MIXED, PACE)
    (finding,) = report.paged
    assert "predictions motorcycle" in describe(finding)
    assert finding.n > 100


def test_the_mix_is_that_of_the_promise_though_the_baseline_is_of_an_older_policy() -> None:
    baseline = make_stream_baseline().model_copy(update={"policy_version": "p0"})
    report, _ = examine(answers(0.5, 400, 0.25), MIXED.model_copy(update={"baseline": baseline}), PACE)
    assert CLASS_MIX in {finding.statistic for finding in report.paged}


def test_a_promise_is_not_tested_by_answers_of_another_policy() -> None:
    assert all(check.audits for check in examine(STREAM, WATCH, PACE)[0].promises)
    report, _ = examine(STREAM, WATCH.model_copy(update={"policy_version": "p2"}), PACE)
    assert [check.audits for check in report.promises] == [0, 0]
    assert report.accepted.answers


def test_a_new_promised_mix_begins_without_the_evidence_against_the_old_one() -> None:
    baseline = make_stream_baseline()
    narrow = MIXED.model_copy(update={"baseline": baseline})
    _, checkpoint = examine(answers(0.9, 400), narrow, PACE)
    wide = narrow.model_copy(update={"shares_at_most": {"bicycle": 0.97, "motorcycle": 0.97, "neither": 0.08}})
    report, _ = examine([], wide, PACE, checkpoint)
    assert report.moved == ()
    report, _ = examine([], narrow, PACE, checkpoint)
    assert {finding.statistic for finding in report.moved} >= {CLASS_MIX}


def test_answers_under_the_switch_mend_the_promise() -> None:
    kept = Decision(route=Route.REVIEW, reason=Reason.REVIEW_EVERYTHING, policy_version="p1")
    everything = [
        record.model_copy(update={"decision": kept, "audit_probability": 1.0})
        if record.decision.route is Route.ACCEPT
        else record
        for record in STREAM
    ]
    *_, (seen, _) = runs(everything, timedelta(hours=6), days=9)
    assert all(promise.status is not PromiseStatus.BROKEN for promise in seen.promises)
    assert seen.accepted.images == sum(record.decision.by_policy is Route.ACCEPT for record in STREAM)


def measured(seen: Run, oldest: datetime | None = None, switch: Switch | None = None) -> dict[str, float]:
    return {name: value for name, _, value in measure(seen, oldest, switch, NOON)}


def test_a_run_without_images_measures_no_share_and_no_accuracy() -> None:
    empty, _ = run_once(None, [], NOON)
    assert measured(empty) == dict.fromkeys(
        (
            *("OldestReviewHours", "ReviewEverything"),
            *("PromiseUnsupported", "DriftPages", "DriftNotices", "DriftStrength"),
        ),
        0.0,
    )


def test_a_run_measures_shares_and_accuracy_in_per_cent_and_how_long_people_keep_photos_waiting() -> None:
    *_, (seen, _) = runs(STREAM, timedelta(hours=6), days=1)
    found = measured(seen, oldest=NOON - timedelta(hours=3))
    assert found["PercentReviewed"] == 100 * seen.routes[Route.REVIEW] / seen.images
    assert found["AcceptedAccuracyLow"] < found["AcceptedAccuracy"] <= 100
    assert found["OldestReviewHours"] == 3


def test_the_switch_is_measured_until_it_ends() -> None:
    empty, _ = run_once(None, [], NOON)
    on = Switch(reason="r", by="Ada", since=NOON, until=NOON + timedelta(hours=1))
    assert measured(empty, switch=on)["ReviewEverything"] == 1
    assert measured(empty, switch=on.model_copy(update={"until": NOON}))["ReviewEverything"] == 0


def test_harm_turns_the_switch_on_as_far_as_the_setting_says() -> None:
    night = WATCH.model_copy(update={"baseline": make_stream_baseline()})
    drifted = runs(list(make_records(700, night_from=144)), timedelta(hours=4), 4, night)[-1][0]
    assert drifted.symptoms
    assert not drifted.broken_promise
    assert [drifted.calls_for_review(when) for when in ("never", "promise", "harm")] == [False, False, True]
    fine, other = check_promise(STREAM, EACH, Budget(images_per_day=100))
    broken = drifted.model_copy(update={"promises": (fine, other.model_copy(update={"status": PromiseStatus.BROKEN}))})
    assert [broken.calls_for_review(when) for when in ("never", "promise", "harm")] == [False, True, True]
    empty, _ = run_once(None, [], NOON)
    assert not empty.calls_for_review("harm")
