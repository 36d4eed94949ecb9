"""Reading a deployed stack's records, by `kickstand monitor` and by time."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import boto3
import pytest
import typer
from moto import mock_aws
from typer.testing import CliRunner

from kickstand.records import Record
from kickstand.store import put_record, read_changes
from kickstand_cli.monitor.baseline import baseline
from kickstand_cli.monitor.monitor import monitor
from tests.stream import make_records
from tests.tables import create_tables

NOON = datetime.now(UTC).replace(hour=12) - timedelta(days=3)  # a run reads each day since
RECORD = {
    "version": "v",
    "image_ref": {"bucket": "photos", "key": "a.jpg", "etag": "e", "uploaded_at": "2026-05-04T12:00:00Z"},
    "decision": {"route": "reject", "reason": "unreadable"},
    "execution": "arn",
    "recorded_at": "2026-05-04T12:00:00Z",
}


@pytest.fixture
def records() -> Iterator[str]:
    """The template's table of records, empty."""
    with mock_aws():
        create_tables(boto3.client("dynamodb"), "RecordsTable")
        yield "RecordsTable"


OUTPUTS = (
    *("ImageBucketName", "ReviewsTableName", "DeadLetterQueueUrl"),
    *("ClassifyImageStateMachineArn", "ReviewImageStateMachineArn"),
)


def recorded(number: int, at: datetime) -> Record:
    return Record.model_validate({**RECORD, "image": f"s3://photos/{number}.jpg", "recorded_at": at})


@pytest.mark.parametrize(("options", "images"), [([], 30), (["--since", f"{NOON:%Y-%m-%d}T13:00"], 20)])
def test_the_tables_records_are_read(tmp_path: Path, records: str, options: list[str], images: int) -> None:
    app = typer.Typer()
    app.command()(monitor)
    outputs = tmp_path / "outputs.json"
    outputs.write_text(json.dumps(dict.fromkeys(OUTPUTS, "none") | {"RecordsTableName": records}))
    (tmp_path / "model.json").write_text("{}")
    for i in range(30):
        put_record(boto3.client("dynamodb"), records, recorded(i, NOON + timedelta(days=i // 10, hours=-1)))
    result = CliRunner().invoke(app, ["--outputs", str(outputs), "--model", str(tmp_path), "--json", *options])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["images"] == images


def test_a_look_finds_what_was_written_after_the_last_one_and_nothing_twice(records: str) -> None:
    dynamodb = boto3.client("dynamodb")
    moments = [NOON + timedelta(hours=5 * i, microseconds=i) for i in range(12)]
    written = [recorded(i, at) for i, at in enumerate(moments)]
    for record in written:
        put_record(dynamodb, records, record)
    runs = [
        list(read_changes(dynamodb, records, *run))
        for run in pairwise([NOON - timedelta(1), *moments[::4], moments[-1]])
    ]
    assert [len(run) for run in runs] == [1, 4, 4, 3]
    assert sorted(record.image for run in runs for record in run) == sorted(record.image for record in written)
    assert list(read_changes(dynamodb, records, moments[-1], moments[-1] + timedelta(days=1))) == []


def test_more_records_than_one_answer_holds_are_read(records: str) -> None:
    dynamodb = boto3.client("dynamodb")
    same = [recorded(i, NOON).model_copy(update={"image": "s3://photos/a.jpg", "version": f"{i}"}) for i in range(120)]
    for record in same:
        put_record(dynamodb, records, record)
    found = read_changes(dynamodb, records, NOON - timedelta(seconds=1), NOON)
    assert {record.version for record in found} == {record.version for record in same}


def test_a_baseline_is_made_of_the_stacks_records_since_a_moment(tmp_path: Path, records: str) -> None:
    app = typer.Typer()
    app.command()(baseline)
    outputs, card = tmp_path / "outputs.json", tmp_path / "model.json"
    outputs.write_text(json.dumps(dict.fromkeys(OUTPUTS, "none") | {"RecordsTableName": records}))
    card.write_bytes((Path(__file__).parents[2] / "layers/model/model/model.json").read_bytes())
    dynamodb = boto3.client("dynamodb")
    for i, record in enumerate(make_records(150)):
        put_record(dynamodb, records, record.model_copy(update={"recorded_at": NOON + timedelta(minutes=10 * i)}))
    since = (NOON + timedelta(minutes=295)).isoformat()  # one record every ten minutes
    result = CliRunner().invoke(app, ["--outputs", str(outputs), "--model", str(tmp_path), "--since", since])
    assert result.exit_code == 0, result.output
    made = json.loads(card.read_bytes())["baseline"]
    assert (made["source"], made["features"]["brightness"]["n"]) == ("records", 120)
