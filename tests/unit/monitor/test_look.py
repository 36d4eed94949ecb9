"""Looks of the scheduled monitor come to the same as one look at everything, however late people answer."""

import random
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest

from kickstand.classify.policy import Switch
from kickstand.events import Decision, Reason, Route
from kickstand.monitor.drift import Budget, Drift
from kickstand.monitor.live_accuracy import WINDOW, PromiseStatus, check_promise, estimate, outcomes
from kickstand.monitor.look import LONGEST_GAP, Look, MonitorState, Watch, advance, measure, resume
from kickstand.records import Record
from tests.stream import NOON, make_records, make_stream_baseline

WATCH = Watch(model_version="m1", policy_version="p1", max_risk=0.2)
LAG = timedelta(minutes=2)


def as_of(record: Record, now: datetime) -> Record:
    """The record as the table holds it then."""
    answer = record.review.answer if record.review else None
    if answer is None or answer.answered_at > now:
        return record.model_copy(update={"review": None, "changed_at": record.recorded_at})
    return record.model_copy(update={"changed_at": answer.answered_at})


def look_at(
    state: MonitorState | None, records: Sequence[Record], now: datetime, watch: Watch = WATCH
) -> tuple[Look, MonitorState]:
    """What the function does at this moment."""
    state = resume(state, watch, now - LAG)
    there = [as_of(record, now) for record in records if record.recorded_at <= now]
    changes = [record for record in there if record.changed_at and record.changed_at > state.until]
    random.Random(now.timestamp()).shuffle(changes)
    return advance(state, changes, watch, now - LAG, "photos")


def looks(
    records: Sequence[Record], every: timedelta, days: float, watch: Watch = WATCH
) -> list[tuple[Look, MonitorState]]:
    found: list[tuple[Look, MonitorState]] = []
    now = NOON
    while now <= NOON + timedelta(days=days):
        found.append(look_at(found[-1][1] if found else None, records, now, watch))
        now += every
    return found


STREAM = list(make_records(700))  # one every ten minutes: five days


@pytest.mark.parametrize("every", [timedelta(minutes=47), timedelta(hours=9)])
def test_accuracy_counts_every_answer_once_though_it_comes_looks_later(every: timedelta) -> None:
    *_, (look, _) = looks(STREAM, every, days=9)
    rounded = [one._replace(expected=round(one.expected, 2)) for one in outcomes(STREAM, Route.ACCEPT)]
    assert look.accepted == estimate(rounded)
    assert look.accepted.answers > 30


def test_the_promise_is_judged_alike_in_parts_and_at_once() -> None:
    *_, (look, _) = looks(STREAM, timedelta(hours=3), days=9)
    whole = check_promise(STREAM, 0.2, Budget(images_per_day=100))
    assert look.promise is not None
    assert look.promise.model_dump(exclude={"evidence"}) == whole.model_dump(exclude={"evidence"})
    assert look.promise.evidence == pytest.approx(whole.evidence, rel=1e-3)


def test_drift_sees_every_image_once() -> None:
    baseline = make_stream_baseline()
    watch = WATCH.model_copy(update={"baseline": baseline})
    *_, (_, state) = looks(STREAM, timedelta(minutes=95), days=6, watch=watch)
    whole = Drift(baseline, Budget(images_per_day=144))
    whole.read(STREAM)
    assert state.drift == whole.checkpoint()


def test_looking_again_without_having_written_the_state_changes_nothing() -> None:
    _, state = look_at(None, STREAM, NOON + timedelta(hours=20))
    now = NOON + timedelta(hours=30)
    assert look_at(state, STREAM, now) == look_at(state, STREAM, now)


def test_an_empty_window_is_fine() -> None:
    look, state = look_at(None, [], NOON)
    assert (look.images, look.accepted.images, look.harm) == (0, 0, "")
    assert look_at(state, [], NOON + timedelta(minutes=15))[1].until == NOON + timedelta(minutes=13)


def test_harm_is_noted_once_and_forgotten_when_it_is_over() -> None:
    watch = WATCH.model_copy(update={"baseline": make_stream_baseline()})
    states = [state for _, state in looks(list(make_records(700, night_from=144)), timedelta(hours=4), 4, watch)]
    degraded = [state.degraded for state in states]
    assert degraded[0] is None
    assert len({one.degraded_at for one in degraded if one}) == 1
    announced = states[-1].model_copy(update={"announced": True, "switched": True})
    fresh = watch.model_copy(update={"baseline": None})  # nothing to compare with any more
    _, after = look_at(announced, STREAM, NOON + timedelta(days=4, hours=1), fresh)
    assert (after.degraded, after.announced, after.switched) == (None, False, False)


def test_a_new_policy_is_judged_by_its_own_answers() -> None:
    *_, (_, state) = looks(STREAM, timedelta(hours=12), days=2)
    look, after = look_at(
        state, STREAM, NOON + timedelta(days=2, hours=1), WATCH.model_copy(update={"policy_version": "p2"})
    )
    assert (look.accepted.images, after.accepted.since) == (0, state.until)


def test_after_a_long_pause_it_begins_anew_and_keeps_what_it_knows_of_drift() -> None:
    watch = WATCH.model_copy(update={"baseline": make_stream_baseline()})
    *_, (_, state) = looks(STREAM, timedelta(hours=12), days=1, watch=watch)
    now = state.until + LONGEST_GAP + LAG + timedelta(hours=1)
    resumed = resume(state, watch, now - LAG)
    assert (resumed.drift, resumed.accepted.days) == (state.drift, {})
    assert resumed.until == now - LAG - LONGEST_GAP


def test_what_is_kept_stays_small_and_forgets_what_is_older_than_the_window() -> None:
    daily = [
        record.model_copy(update={"recorded_at": record.recorded_at + timedelta(days=i // 2)})
        for i, record in enumerate(STREAM[:90])
    ]
    *_, (look, state) = looks(daily, timedelta(hours=23), days=46)
    assert min(state.accepted.days) >= (state.until - WINDOW).date()
    assert look.accepted.images < 65
    assert len(state.model_dump_json()) < 20_000


def test_answers_under_the_switch_mend_the_promise() -> None:
    kept = Decision(route=Route.REVIEW, reason=Reason.REVIEW_EVERYTHING, policy_version="p1")
    everything = [
        record.model_copy(update={"decision": kept, "audit_probability": 1.0})
        if record.decision.route is Route.ACCEPT
        else record
        for record in STREAM
    ]
    *_, (look, _) = looks(everything, timedelta(hours=6), days=9)
    assert look.promise is not None
    assert look.promise.status is not PromiseStatus.BROKEN
    assert look.accepted.images == sum(record.decision.by_policy is Route.ACCEPT for record in STREAM)


def measured(look: Look, oldest: datetime | None = None, switch: Switch | None = None) -> dict[str, float]:
    return {name: value for name, _, value in measure(look, oldest, switch, NOON)}


def test_a_run_without_images_measures_no_share_and_no_accuracy() -> None:
    empty, _ = look_at(None, [], NOON)
    assert measured(empty) == dict.fromkeys(
        (
            *("OldestReviewHours", "ReviewEverything", "MonitorImages"),
            *("PromiseUnsupported", "DriftPages", "DriftNotices", "DriftStrength"),
        ),
        0.0,
    )


def test_a_run_measures_shares_and_accuracy_in_per_cent_and_how_long_people_keep_photos_waiting() -> None:
    *_, (look, _) = looks(STREAM, timedelta(hours=6), days=1)
    found = measured(look, oldest=NOON - timedelta(hours=3))
    assert found["MonitorImages"] == look.images > 0
    assert found["PercentReviewed"] == 100 * look.routes[Route.REVIEW] / look.images
    assert found["AcceptedAccuracyLow"] < found["AcceptedAccuracy"] <= 100
    assert found["OldestReviewHours"] == 3


def test_the_switch_is_measured_until_it_ends() -> None:
    empty, _ = look_at(None, [], NOON)
    on = Switch(reason="r", by="Ada", since=NOON, until=NOON + timedelta(hours=1))
    assert measured(empty, switch=on)["ReviewEverything"] == 1
    assert measured(empty, switch=on.model_copy(update={"until": NOON}))["ReviewEverything"] == 0


def test_harm_turns_the_switch_on_as_far_as_the_setting_says() -> None:
    night = WATCH.model_copy(update={"baseline": make_stream_baseline()})
    drifted = looks(list(make_records(700, night_from=144)), timedelta(hours=4), 4, night)[-1][0]
    assert drifted.symptoms
    assert not drifted.broken_promise
    assert [drifted.calls_for_review(when) for when in ("never", "promise", "harm")] == [False, False, True]
    promise = check_promise(STREAM, 0.2, Budget(images_per_day=100)).model_copy(update={"status": PromiseStatus.BROKEN})
    broken = drifted.model_copy(update={"promise": promise})
    assert [broken.calls_for_review(when) for when in ("never", "promise", "harm")] == [False, True, True]
    fine, _ = look_at(None, [], NOON)
    assert not fine.calls_for_review("harm")
