"""The demo's simulated weeks: calm, one incident that is noticed and ends, and always the same."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kickstand.classify.artefact import read_card
from kickstand.events import Route
from kickstand.monitor.drift import Budget, images_per_day
from kickstand.monitor.run import MonitorReport, Watch, examine, read_watch
from kickstand.records import Record
from kickstand.report.page import verdict
from kickstand_cli.local.demo_weeks import NOT_SIMULATED, Album, is_dark, plan, simulate, simulate_weeks
from kickstand_cli.project import MODEL

CARD = read_card(MODEL)
END = datetime(2026, 11, 29, tzinfo=UTC)


@pytest.fixture(scope="module")
def watch() -> Watch:
    return read_watch(MODEL)


@pytest.fixture(scope="module")
def records(watch: Watch) -> list[Record]:
    assert watch.baseline
    return simulate(CARD, watch.baseline, END)


def monitored(records: list[Record], watch: Watch) -> MonitorReport:
    pace = images_per_day([record.recorded_at for record in records])
    return examine(records, watch, Budget(images_per_day=pace))[0]


def test_the_same_arguments_give_the_same_records(records: list[Record], watch: Watch) -> None:
    assert watch.baseline
    assert simulate(CARD, watch.baseline, END) == records


def test_before_the_incident_no_alarm_is_raised(records: list[Record], watch: Watch) -> None:
    calm = [record for record in records if record.recorded_at < plan(END).start]
    assert len(calm) > 800
    seen = monitored(calm, watch)
    assert (seen.moved, seen.ended) == ((), ())


def test_the_incident_is_noticed_while_it_lasts_and_over_at_the_end(records: list[Record], watch: Watch) -> None:
    incident = plan(END)
    during = monitored([record for record in records if record.recorded_at < incident.end], watch)
    assert {"brightness", "confidence", "reviewed"} <= {finding.statistic for finding in during.moved}
    assert verdict(during).words == "The model is worse"
    seen = monitored(records, watch)
    assert seen.moved == ()
    assert {"brightness", "confidence", "reviewed"} <= {end.finding.statistic for end in seen.ended}
    for end in seen.ended:
        assert end.finding.raised_at
        assert incident.start < end.finding.raised_at < incident.end < end.ended_at
    assert verdict(seen)[:2] == ("accept", "All is well")


def test_people_answer_what_they_are_asked_except_for_the_latest(records: list[Record]) -> None:
    asked = [record for record in records if record.asks_a_person]
    waiting = [record for record in asked if record.review is None]
    assert {record.decision.route for record in asked} == {Route.REVIEW, Route.ACCEPT}
    assert 0 < len(waiting) < 10
    assert min(record.recorded_at for record in waiting) > max(record.recorded_at for record in records[:-100])


def test_photos_are_the_samples_and_dark_while_the_lamp_is_out(records: list[Record]) -> None:
    album = Album(CARD)
    dark = next(record for record in records if is_dark(record))
    bright = dark.model_copy(
        update={"image_ref": dark.image_ref.model_copy(update={"key": dark.image_ref.key.replace("dark-", "")})}
    )
    shown, other = album(dark), album(bright)
    assert shown
    assert shown.startswith("data:image/jpeg;base64,")
    assert other != shown


def test_without_a_baseline_nothing_is_simulated_and_that_is_said(tmp_path: Path) -> None:
    card = json.loads((MODEL / "model.json").read_text("utf-8"))
    (tmp_path / "model.json").write_text(json.dumps({**card, "baseline": None}))
    weeks = simulate_weeks(tmp_path, CARD, END)
    assert weeks.records == ""
    assert weeks.about == NOT_SIMULATED
    assert NOT_SIMULATED.partition(" ")[2] in weeks.page
