"""`kickstand load-test`: bursts with bad files, duplicates and throttling; each upload is decided exactly once."""

import json
import time
from collections import Counter
from itertools import count
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from kickstand_cli.local import load as load_command
from kickstand_cli.local.load import BURST, Profile, Sent, compose, starts_at
from kickstand_cli.local.stack import Stack
from kickstand_cli.main import app


@pytest.mark.parametrize("waves", [[], ["--waves", "2"]])
def test_a_throttled_burst_balances(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, waves: list[str]) -> None:
    sleep, ticks = time.sleep, count()
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    # Waves last for a number of calls then, on a fast machine and on a slow one.
    clock = SimpleNamespace(monotonic=lambda: next(ticks) / 10, sleep=time.sleep)
    monkeypatch.setattr(load_command, "time", clock)
    monkeypatch.chdir(tmp_path)
    shares = ["--bad", "0.2", "--duplicates", "0.2", "--throttle", "0.2", *waves]
    arguments = ["load-test", "-n", "20", "--rate", "1000", *shares, "--json"]
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0, told.output
    summary = json.loads(told.stdout.splitlines()[-1])
    assert (summary["uploads"], summary["bad"] >= 4, summary["duplicates"]) == (20, True, 4)
    assert sum(summary["faults"].values()) > 0
    assert (summary["ledger"]["missing"], summary["doubled"], summary["wrong"]) == (0, 0, 0)


def test_the_shares_are_exact_and_the_same_seed_gives_the_same_uploads() -> None:
    def composed() -> list[Sent]:
        return list(compose(200, None, 0.05, 0.1, Random(4), []))

    sent = composed()
    assert composed() == sent
    assert len(sent) == 200
    assert sum(item.duplicate for item in sent) == 20
    assert sum(item.bad for item in sent if not item.duplicate) == 10
    assert max(Counter(item.key for item in sent).values()) > 1


@pytest.mark.parametrize("number", [1, 3])
def test_there_are_as_many_uploads_as_asked_for_whatever_the_shares_are(number: int) -> None:
    assert [item.duplicate for item in compose(number, None, 1, 1, Random(4), [])] == [False, True, True][:number]


@pytest.mark.parametrize("profile", Profile)
def test_every_profile_ends_at_the_asked_rate(profile: Profile) -> None:
    times = [starts_at(position, 400, profile, 50) for position in range(400)]
    assert times == sorted(times)
    assert 8 - BURST / 50 <= times[-1] <= 8


def test_when_nothing_is_decided_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    def burn(stack: Stack, *_: object) -> SimpleNamespace:
        def fail(event: object, context: object) -> None:
            raise ZeroDivisionError("the policy is on fire")

        stack.functions["DecideFunction"].handler = fail
        return SimpleNamespace(thrown={}, refuse_model=lambda _: None)

    monkeypatch.setattr(load_command, "Throttling", burn)
    told = CliRunner().invoke(app, ["load-test", "-n", "2", "--bad", "0", "--duplicates", "0", "--rate", "1000"])
    assert told.exit_code == 4, told.output
    assert "ALL FAILED" in told.stdout
    assert "balanced" not in told.stdout
