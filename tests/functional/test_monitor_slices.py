"""A backlog is worked off in slices: whatever is answered meanwhile, each photo is counted once."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from moto import mock_aws

from kickstand.clients import DynamoDBClient, EventBridgeClient
from kickstand.monitor import store
from kickstand.monitor.run import MonitorSettings, MonitorState, Watch
from kickstand.monitor.store import MONITOR, run_monitor
from kickstand.records import Record
from kickstand.store import changed, load_state, put_record, read_changes, to_item
from kickstand_cli.project import PROJECT
from tests.stream import make_records
from tests.tables import create_tables

START = datetime(2026, 5, 4, 1, tzinfo=UTC)
SETTINGS = MonitorSettings.model_validate(
    {
        "RECORDS_TABLE": "RecordsTable",
        "REVIEWS_TABLE": "none",
        "CONTROL_TABLE": "ControlTable",
        "IMAGE_BUCKET": "photos",
        "REVIEW_EVERYTHING_WHEN": "never",
        "LAG_SECONDS": "0",
        "MODEL_DIR": str(PROJECT),
    }
)


@pytest.fixture
def clients() -> Iterator[tuple[DynamoDBClient, EventBridgeClient]]:
    with mock_aws():
        dynamodb = boto3.client("dynamodb", region_name="us-east-1")
        create_tables(dynamodb, "RecordsTable", "ControlTable")
        yield dynamodb, boto3.client("events", region_name="us-east-1")


def recorded(number: int) -> list[Record]:
    """Records a minute apart, of photos that nobody has answered yet."""
    return [
        record.model_copy(update={"recorded_at": START + timedelta(minutes=minute), "review": None})
        for minute, record in enumerate(make_records(number))
    ]


def answer(dynamodb: DynamoDBClient, record: Record, at: datetime) -> None:
    """A person answers, which takes the record to a later place in the index."""
    item = to_item(record) | changed(record.image, at)
    item["review"] = {"M": {"status": {"S": "answered"}, "why": {"S": "audit"}, "requested_at": {"S": at.isoformat()}}}
    dynamodb.put_item(TableName="RecordsTable", Item=item)


@settings(
    max_examples=10,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(
    before=st.sets(st.integers(0, 39)),
    meanwhile=st.lists(st.sets(st.integers(0, 39), max_size=8), min_size=1, max_size=4),
    slices=st.integers(1, 3),
)
def test_each_photo_is_counted_once_however_the_backlog_is_cut(
    clients: tuple[DynamoDBClient, EventBridgeClient],
    monkeypatch: pytest.MonkeyPatch,
    before: set[int],
    meanwhile: list[set[int]],
    slices: int,
) -> None:
    dynamodb, events = clients
    monkeypatch.setattr(store, "MOST", 6)
    for table, names in {"RecordsTable": "image version", "ControlTable": "id"}.items():
        for item in dynamodb.scan(TableName=table)["Items"]:
            dynamodb.delete_item(TableName=table, Key={name: item[name] for name in names.split()})
    watch = Watch(policy_version=next(iter(make_records(1))).decision.policy_version or "")
    run_monitor(dynamodb, events, SETTINGS, watch, START - timedelta(hours=1))
    records = recorded(40)
    for record in records:
        put_record(dynamodb, "RecordsTable", record)
    now = START + timedelta(hours=2)
    for number in before:
        answer(dynamodb, records[number], now - timedelta(minutes=1, seconds=number))
    images, answered = 0, set(before)
    for numbers in [*meanwhile, *[set[int]()] * 8]:
        left = iter([1000.0] * (slices - 1))
        run = run_monitor(dynamodb, events, SETTINGS, watch, now, lambda: next(left, 0.0))  # noqa: B023
        assert run
        images += run.images
        for number in numbers - answered:
            answer(dynamodb, records[number], now + timedelta(minutes=5))
        answered |= numbers  # an answer stands
        now += timedelta(minutes=15)
    state, *_ = load_state(dynamodb, "ControlTable", MONITOR, MonitorState)
    assert state
    assert (images, state.slices) == (40, ())
    accepted = Counter(record.recorded_at.date() for record in records)
    assert state.accepted.images == accepted


def test_records_come_in_the_order_of_time_or_the_newest_first(
    clients: tuple[DynamoDBClient, EventBridgeClient],
) -> None:
    dynamodb, _ = clients
    records = [
        record.model_copy(update={"recorded_at": START + timedelta(hours=hour)})
        for hour, record in enumerate(recorded(250))
    ]
    for record in records:
        put_record(dynamodb, "RecordsTable", record)
    ends = START - timedelta(hours=1), START + timedelta(days=20)
    found = [record.recorded_at for record in read_changes(dynamodb, "RecordsTable", *ends)]
    newest = [record.recorded_at for record in read_changes(dynamodb, "RecordsTable", *ends, newest_first=True)]
    times = [record.recorded_at for record in records]
    for start in range(0, 250, 100):  # each hundred is unsorted
        assert sorted(found[start : start + 100]) == times[start : start + 100]
        assert sorted(newest[start : start + 100], reverse=True) == times[::-1][start : start + 100]
