"""The simulation of bursts: throttling alone makes no dead letter, and every upload is recorded."""

import pytest

from bench.burst import Burst, Design, in_waves, postponement, shipped

WAITS = pytest.mark.parametrize("design", [Design.EXPRESS, Design.STANDARD])


@pytest.mark.parametrize("concurrency", [10, 100, 1_000])
def test_ten_thousand_photos_in_ten_seconds_are_all_recorded_and_none_is_a_dead_letter(concurrency: int) -> None:
    outcome = Burst(10_000, 10, concurrency, Design.EXPRESS).run()
    assert (outcome.recorded, outcome.dead_letters) == (10_000, 0)
    assert outcome.refused == 0  # admission leaves a tenth of the account to others
    assert outcome.emptied < 3_600 * 10 / concurrency + 60


@WAITS
def test_an_account_that_others_take_in_waves_makes_uploads_late_and_no_dead_letters(design: Design) -> None:
    others = in_waves(10, 1.0, every=60, lasts=45)
    outcome = Burst(500, 10, 10, design, others=others).run()
    assert (outcome.recorded, outcome.dead_letters) == (500, 0)
    assert outcome.refused > 0
    assert outcome.postponed > 0


def test_without_the_queue_the_same_burst_leaves_dead_letters() -> None:
    outcome = Burst(1_000, 10, 10, Design.FORMER).run()
    assert outcome.recorded + outcome.dead_letters == 1_000
    assert outcome.dead_letters > 300


def test_a_seed_gives_the_same_burst_again() -> None:
    assert Burst(200, 1, 10, Design.STANDARD, seed=4).run() == Burst(200, 1, 10, Design.STANDARD, seed=4).run()


def test_where_a_throttled_upload_goes_is_read_from_the_state_machine() -> None:
    assert shipped(10, Design.EXPRESS).postpones == (300, 900)
    keeps = {"Type": "Task", "Parameters": {"QueueUrl": "${DeadLetterQueueUrl}"}}
    prepare = {"Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Keep Failed Upload"}]}
    assert postponement({"Prepare Image": prepare, "Keep Failed Upload": keeps}) is None
