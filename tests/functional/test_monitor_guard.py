"""The monitor does not die of bad news, and its switch does not end by itself."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from moto import mock_aws
from pydantic import ValidationError

from kickstand.classify.policy import NO_END, Switch, read_switch
from kickstand.classify.promise import Promise
from kickstand.classify.store import SWITCH, load_switch, switch_off, switch_on
from kickstand.clients import DynamoDBClient, EventBridgeClient
from kickstand.events import Answer, ReviewOutcome, ReviewStatus, Route
from kickstand.monitor.live_accuracy import Evidence
from kickstand.monitor.run import MonitorSettings, MonitorState, Run, Watch
from kickstand.monitor.store import MONITOR, run_monitor
from kickstand.records import Record
from kickstand.store import load_state, put_record, record_item, save_state
from kickstand_cli.project import PROJECT
from tests.stream import make_records
from tests.tables import create_tables

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
QUARTER = timedelta(minutes=15)
SETTINGS = MonitorSettings.model_validate(
    {
        "RECORDS_TABLE": "RecordsTable",
        "REVIEWS_TABLE": "none",
        "CONTROL_TABLE": "ControlTable",
        "IMAGE_BUCKET": "photos",
        "REVIEW_EVERYTHING_WHEN": "promise",
        "LAG_SECONDS": "0",
        "MODEL_DIR": str(PROJECT),
    }
)
PROMISE = Promise(max_risk={"bicycle": 0.2, "motorcycle": 0.2})
WATCH = Watch(model_version="m1", policy_version="p1", promise=PROMISE)
Clients = tuple[DynamoDBClient, EventBridgeClient]


@pytest.fixture
def clients() -> Iterator[Clients]:
    with mock_aws():
        dynamodb = boto3.client("dynamodb", region_name="us-east-1")
        create_tables(dynamodb, "RecordsTable", "ControlTable")
        yield dynamodb, boto3.client("events", region_name="us-east-1")


def answered(number: int, at: datetime, right: bool, name: str) -> list[Record]:
    """Accepted answers, of which each was audited at this moment."""
    accepted = [record for record in make_records(40) if record.decision.route is Route.ACCEPT]
    found = []
    for i in range(number):
        record = accepted[i % len(accepted)]
        assert record.prediction
        other = next(label for label in record.prediction.probabilities if label != record.prediction.label)
        told = Answer.model_validate(
            {
                "label": record.prediction.label if right else other,
                "reviewer": "Ada",
                "answered_at": at,
                "seconds_taken": 1,
                "shown": {"explanation": "", "choices": ()},
            }
        )
        update: dict[str, Any] = {
            "image": f"s3://photos/{name}-{i}.png",
            "recorded_at": at,
            "audited": True,
            "audit_probability": 1.0,
            "review": ReviewOutcome(status=ReviewStatus.ANSWERED, why="audit", requested_at=at, answer=told),
        }
        found.append(record.model_copy(update=update))
    return found


def put(clients: Clients, records: list[Record]) -> None:
    for record in records:
        put_record(clients[0], "RecordsTable", record)


def run(clients: Clients, now: datetime, watch: Watch = WATCH) -> Run:
    seen = run_monitor(*clients, SETTINGS, watch, now)
    assert seen
    return seen


def decide_says(clients: Clients, now: datetime) -> str | None:
    """What Decide makes of what the state "Read Switch" finds at this moment."""
    return read_switch(clients[0].get_item(TableName="ControlTable", Key=SWITCH), now)


def harm(clients: Clients) -> None:
    run(clients, NOW)
    put(clients, answered(40, NOW + timedelta(minutes=5), False, "wrong"))
    assert run(clients, NOW + QUARTER).broken_promise


def state_item(clients: Clients) -> Any:
    return clients[0].get_item(TableName="ControlTable", Key={"id": {"S": "monitor"}})["Item"]


def damage(clients: Clients, **changes: Any) -> None:
    item = state_item(clients) | changes
    clients[0].put_item(TableName="ControlTable", Item={name: value for name, value in item.items() if value})


def test_the_automatic_switch_is_on_for_years_without_another_run(clients: Clients) -> None:
    harm(clients)
    item = clients[0].get_item(TableName="ControlTable", Key=SWITCH)["Item"]
    assert "expires_at" not in item
    assert decide_says(clients, NOW + timedelta(days=3650))


def test_a_run_that_finds_no_harm_ends_the_automatic_switch(clients: Clients) -> None:
    harm(clients)
    anew = WATCH.model_copy(update={"policy_version": "p2"})
    assert run(clients, NOW + 2 * QUARTER, anew).harm == ""
    assert decide_says(clients, NOW + 2 * QUARTER) is None
    run(clients, NOW + 3 * QUARTER, anew)
    state, *_ = load_state(clients[0], "ControlTable", MONITOR, MonitorState)
    assert state
    assert not state.switched


def test_a_pause_of_the_monitor_ends_neither_harm_nor_switch(clients: Clients) -> None:
    harm(clients)
    later = NOW + timedelta(days=9)
    assert run(clients, later).broken_promise
    assert decide_says(clients, later)


def test_whoever_switches_it_off_is_obeyed_and_new_harm_switches_it_on_again(clients: Clients) -> None:
    harm(clients)
    switch_off(clients[0], "ControlTable")
    assert run(clients, NOW + 2 * QUARTER).harm
    assert decide_says(clients, NOW + 2 * QUARTER) is None
    anew = WATCH.model_copy(update={"policy_version": "p2"})
    run(clients, NOW + 3 * QUARTER, anew)
    again = answered(40, NOW + 3 * QUARTER + timedelta(minutes=1), False, "again")
    new = [
        record.model_copy(update={"decision": record.decision.model_copy(update={"policy_version": "p2"})})
        for record in again
    ]
    put(clients, new)
    assert run(clients, NOW + 4 * QUARTER, anew).broken_promise
    assert decide_says(clients, NOW + 4 * QUARTER)


@pytest.mark.parametrize("expired_item_is_gone", [False, True])
def test_when_a_persons_switch_ends_before_the_harm_does_the_monitors_comes_back(
    clients: Clients, expired_item_is_gone: bool
) -> None:
    harm(clients)
    end = NOW + timedelta(hours=1)
    own = Switch(reason="I look at it", by="Ada", since=NOW, until=end)
    switch_on(clients[0], "ControlTable", own)
    run(clients, NOW + 2 * QUARTER)
    assert load_switch(clients[0], "ControlTable") == own
    if expired_item_is_gone:
        switch_off(clients[0], "ControlTable")  # as the table's time to live does
    run(clients, end)
    assert decide_says(clients, end + timedelta(days=30))


DAMAGES: dict[str, dict[str, Any]] = {
    "truncated": {"state": {"S": '{"until":"2026-05-04T12:15:00Z","accep'}},
    "empty": {"state": {"S": ""}},
    "not JSON": {"state": {"S": "\0\x01"}},
    "null where a number belongs": {
        "state": {
            "S": json.dumps(
                {
                    "until": "2026-05-04T12:15:00Z",
                    "accepted": {
                        "policy_version": "p1",
                        "since": "2026-05-04T12:00:00Z",
                        "against": {"bicycle": {"wealth": [None, None, None]}},
                    },
                }
            )
        }
    },
    "of a version that keeps more gamblers": {
        "state": {
            "S": json.dumps(
                {
                    "until": "2026-05-04T12:15:00Z",
                    "accepted": {
                        "policy_version": "p1",
                        "since": "2026-05-04T12:00:00Z",
                        "against": {"bicycle": {"restarted": [1, 1, 1, 1, 1]}},
                    },
                }
            )
        }
    },
    "an alarm that no event leads": {
        "state": {
            "S": json.dumps(
                {
                    "until": "2026-05-04T12:15:00Z",
                    "accepted": {"policy_version": "p1", "since": "2026-05-04T12:00:00Z"},
                    "drift": {
                        "baseline_version": "",
                        "raised": {"neither": ["2026-05-04T12:00:00Z", "2026-05-04T12:00:00Z", 9]},
                    },
                }
            )
        }
    },
    "a list": {"state": {"S": "[" * 50_000}},
    "no state": {"state": None},
    "no revision": {"revision": None, "state": {"S": "x"}},
    "a revision that is text": {"revision": {"S": "x"}, "state": {"S": "x"}},
    "both of another type": {"revision": {"L": []}, "state": {"N": "1"}},
}


@pytest.mark.parametrize("harmed", [True, False])
@pytest.mark.parametrize("changes", DAMAGES.values(), ids=DAMAGES)
def test_a_state_that_cannot_be_read_is_harm_and_is_followed_by_one_that_can(
    clients: Clients, changes: dict[str, Any], harmed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if harmed:
        harm(clients)
    else:
        run(clients, NOW)
    damage(clients, **changes)
    with caplog.at_level(logging.ERROR):
        seen = run(clients, NOW + 2 * QUARTER)
    assert "the monitor's state cannot be read" in caplog.text
    assert "the monitor's state could not be read" in seen.harm
    assert decide_says(clients, NOW + timedelta(days=400))
    again = run(clients, NOW + 3 * QUARTER)
    assert "could not be read" in again.harm
    assert decide_says(clients, NOW + timedelta(days=400))


def test_after_a_lost_state_answers_that_show_the_promise_end_the_switch(clients: Clients) -> None:
    run(clients, NOW)
    damage(clients, state={"S": "x"})
    assert run(clients, NOW + QUARTER).harm
    put(clients, answered(150, NOW + QUARTER + timedelta(minutes=1), True, "right"))
    seen = run(clients, NOW + 2 * QUARTER)
    assert [check.status for check in seen.promises] == ["kept", "kept"]
    assert seen.harm == ""
    assert decide_says(clients, NOW + 2 * QUARTER) is None


def test_after_a_lost_state_a_person_who_switches_off_ends_the_harm_too(clients: Clients) -> None:
    run(clients, NOW)
    damage(clients, state={"S": "x"})
    run(clients, NOW + QUARTER)
    switch_off(clients[0], "ControlTable")
    assert run(clients, NOW + 2 * QUARTER).harm == ""
    assert decide_says(clients, NOW + 2 * QUARTER) is None


@pytest.mark.parametrize("bad", [float("inf"), float("nan"), -1.0])
def test_a_state_that_could_not_be_read_again_is_not_written(clients: Clients, bad: float) -> None:
    run(clients, NOW)
    before = state_item(clients)
    state, revision, _ = load_state(clients[0], "ControlTable", MONITOR, MonitorState)
    assert state
    hurt = Evidence().model_copy(update={"wealth": (bad, 1.0, 1.0)})
    accepted = state.accepted.model_copy(update={"against": {"bicycle": hurt}})
    with pytest.raises(ValidationError, match="wealth"):
        save_state(clients[0], "ControlTable", MONITOR, state.model_copy(update={"accepted": accepted}), revision)
    assert state_item(clients) == before


@pytest.mark.parametrize(
    "hurt",
    [
        {"decision": {"M": {"route": {"S": "sideways"}, "reason": {"S": "confident"}}}},
        {"recorded_at": {"NULL": True}},
        {"prediction": {"S": "x"}},
        {"audit_probability": {"N": "-1"}},
        {"image_ref": {"M": {}}},
    ],
)
def test_a_record_that_cannot_be_read_hides_no_other_one(
    clients: Clients, hurt: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    run(clients, NOW)
    records = answered(40, NOW + timedelta(minutes=5), False, "wrong")
    put(clients, records)
    item = record_item(records[0].model_copy(update={"image": "s3://photos/hurt.png"}))
    clients[0].put_item(TableName="RecordsTable", Item=item | hurt)
    seen = run(clients, NOW + QUARTER)
    assert (seen.images, seen.broken_promise) == (40, True)
    assert "s3://photos/hurt.png" in caplog.text


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"until": {"NULL": True}},
        {"until": {"S": "soon"}, "reason": {"S": "r"}, "by": {"S": "b"}, "since": {"S": "2026-05-04"}},
        {"reason": {"L": []}, "by": {"S": "b"}},
    ],
)
def test_a_switch_that_cannot_be_read_is_on_for_decide_and_for_the_monitor(
    clients: Clients, item: dict[str, Any]
) -> None:
    clients[0].put_item(TableName="ControlTable", Item=SWITCH | item)
    assert "cannot be read" in (decide_says(clients, NOW) or "")
    switch = load_switch(clients[0], "ControlTable")
    assert switch
    assert switch.is_on(NOW)
    assert switch.until == NO_END
    harm(clients)
    assert decide_says(clients, NOW + QUARTER)
