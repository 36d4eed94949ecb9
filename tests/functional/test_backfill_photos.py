"""A batch of the past, the handler as Lambda loads it: what it executes, what it leaves out, what it may cost."""

import copy
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from kickstand.backfill.rules import MOST_ROUNDS, Order, Run, State
from kickstand.backfill.store import CONTROL, LATER_SECONDS, PACE_SECONDS, begin, end, load_run
from kickstand.classify.artefact import read_card
from kickstand.errors import StoreUnavailable
from kickstand.records import LaterDecision, Record
from kickstand.store import put_later, put_record, record_item
from kickstand_cli.project import MODEL
from tests.functional.test_handlers import Loaded
from tests.stream import make_records
from tests.tables import create_tables

BUCKET, MACHINE = "kickstand-photos", "arn:aws:states:us-east-1:123456789012:stateMachine:ClassifyImageStateMachine"
CARD = read_card(MODEL)
NOW = datetime.now(UTC)
ORDER = Order(
    run="first",
    until=NOW + timedelta(hours=1),
    dollars_per_photo=Decimal("0.01"),
    dollars_per_key=Decimal("0.001"),
)


class Past:
    """A bucket, the tables, the function, and a workflow that writes down what it is asked to execute.

    ends: how executions end, the next one first; then they succeed. meanwhile: is called in each execution,
    with its key.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
        self.s3, self.dynamodb, self.sqs = boto3.client("s3"), boto3.client("dynamodb"), boto3.client("sqs")
        self.s3.create_bucket(Bucket=BUCKET)
        self.s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        create_tables(self.dynamodb, "RecordsTable", "ControlTable")
        self.queue = self.sqs.create_queue(QueueName="UploadQueue")["QueueUrl"]
        queue = {"IMAGE_BUCKET": BUCKET, "UPLOAD_QUEUE": self.queue, "CLASSIFY_IMAGE": MACHINE}
        self.function = Loaded("backfill_photos", monkeypatch, **(queue | changes))
        self.asked: list[dict[str, Any]] = []
        self.ends: list[Any] = []
        self.meanwhile: Callable[[str], None] = lambda key: None
        events = self.function.module.LANE.workflow.stepfunctions.meta.events
        events.register("before-call.sfn", self._execute)

    def _execute(self, params: dict[str, Any], **_: Any) -> Any:
        ended: dict[str, Any] = self.ends.pop(0) if self.ends else {"status": "SUCCEEDED"}
        if "Error" not in ended:
            event = json.loads(json.loads(params["body"])["input"])
            self.asked.append(event)
            self.meanwhile(event["detail"]["object"]["key"])
        status = ended.get("ResponseMetadata", {}).get("HTTPStatusCode", 400 if "Error" in ended else 200)
        return SimpleNamespace(status_code=status), ended

    def put(self, *keys: str, **options: Any) -> None:
        for key in keys:
            self.s3.put_object(Bucket=BUCKET, Key=key, Body=b"photo", **options)

    def begin(self, dollars: str = "10", order: Order = ORDER) -> None:
        run = Run(order=order, state=State.RUNNING, execution="e", started_at=NOW, dollars_left=Decimal(dollars))
        before = load_run(self.dynamodb, "ControlTable")
        assert begin(self.dynamodb, "ControlTable", run, before.order.run if before else None)

    def __call__(self, *keys: str, order: Order = ORDER, **progress: Any) -> dict[str, Any]:
        batch: dict[str, Any] = {"Items": [{"Key": key} for key in keys]}
        batch["BatchInput"] = {"order": json.loads(order.model_dump_json())}
        answer: dict[str, Any] = self.function(batch | ({"progress": progress} if progress else {}))
        return answer

    @property
    def run(self) -> Run:
        found = load_run(self.dynamodb, "ControlTable")
        assert found
        return found

    def record(self, key: str, model_version: str) -> Record:
        """What has been decided about this photo, by this model version."""
        head = self.s3.head_object(Bucket=BUCKET, Key=key)
        record = next(iter(make_records(1)))
        assert record.prediction
        ref = record.image_ref.model_copy(update={"bucket": BUCKET, "key": key, "version_id": head["VersionId"]})
        prediction = record.prediction.model_copy(update={"model_version": model_version})
        changes = {"image": ref.uri, "version": ref.version, "image_ref": ref, "prediction": prediction}
        return put_record(self.dynamodb, "RecordsTable", record.model_copy(update=changes))

    @property
    def keys(self) -> list[str]:
        """What was executed, in order of the keys: those of one group run side by side."""
        return sorted(event["detail"]["object"]["key"] for event in self.asked)


@pytest.fixture
def aws() -> Iterator[None]:
    with mock_aws():
        yield


@pytest.fixture
def past(aws: None, monkeypatch: pytest.MonkeyPatch) -> Past:
    return Past(monkeypatch)


def test_a_photo_is_executed_as_its_upload_would_have_been(past: Past) -> None:
    past.put("a b+c%2F ä.png")
    past.begin()
    assert past("a b+c%2F ä.png")["status"] == "done"
    (event,) = past.asked
    head = past.s3.head_object(Bucket=BUCKET, Key="a b+c%2F ä.png")
    assert event["detail"]["object"] == {
        "key": "a b+c%2F ä.png",
        "etag": head["ETag"].strip('"'),
        "size": 5,
        "version-id": head["VersionId"],
    }
    assert datetime.fromisoformat(event["time"]) == head["LastModified"]
    assert "again" not in event["detail"]


def test_what_is_gone_archived_or_not_asked_for_is_left_out_and_counted(past: Past) -> None:
    past.put("photo", "old version", "deleted", "late")
    past.put("old version")
    past.put("archive", StorageClass="DEEP_ARCHIVE")
    past.s3.delete_object(Bucket=BUCKET, Key="deleted")
    past.record("late", "any")
    past.begin()
    past("photo", "old version", "deleted", "never there", "archive", "late")
    assert past.keys == ["old version", "photo"]
    run = past.run
    assert (run.keys, run.executed, run.gone, run.archived, run.decided_before) == (6, 2, 2, 1, 1)


@pytest.mark.parametrize(("since", "until", "executed"), [(-1, 1, 1), (1, 2, 0), (-2, -1, 0), (None, 1, 1)])
def test_only_photos_of_the_time_asked_for_are_executed(
    past: Past, since: int | None, until: int, executed: int
) -> None:
    past.put("photo")
    order = ORDER.model_copy(
        update={"since": None if since is None else NOW + timedelta(hours=since), "until": NOW + timedelta(hours=until)}
    )
    past.begin(order=order)
    past("photo", order=order)
    assert past.run.executed == executed
    assert past.run.not_asked_for == 1 - executed


def test_a_photo_older_than_the_retention_is_left_out(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record would be deleted as soon as it was written."""
    past = Past(monkeypatch, RETENTION_DAYS="30")
    past.put("photo")
    past.function.module.datetime = SimpleNamespace(now=lambda zone: datetime.now(zone) + timedelta(days=31))
    past.begin()
    past("photo")
    assert (past.run.executed, past.run.expired) == (0, 1)


def test_a_batch_that_comes_twice_executes_nothing_that_has_its_decision(past: Past) -> None:
    past.put("a", "b")
    past.begin()
    past.record("a", "any")
    past("a", "b")
    past.record("b", "any")
    past("a", "b")
    assert past.keys == ["b"]


# ---- money


def test_batches_side_by_side_never_take_more_than_there_is(past: Past) -> None:
    """While a batch executes its first photos the next one begins, and so on; each has paid before it executes."""
    batches = [[f"{batch}/{number}" for number in range(7)] for batch in range(4)]
    past.put(*(key for batch in batches for key in batch))
    past.begin(dollars="0.138")  # enough for 28 keys and 11 photos
    others = iter(batches[1:])

    def begin_another(key: str) -> None:
        if key.endswith("/0") and (keys := next(others, None)):
            past(*keys)

    past.meanwhile = begin_another
    past(*batches[0])
    assert len(past.asked) == past.run.executed == 11
    assert past.run.keys == 28
    assert past.run.dollars_spent == Decimal("0.138")
    assert (past.run.dollars_left, past.run.state) == (Decimal(0), State.SPENT)


def test_money_that_is_enough_for_no_key_ends_the_run_before_anything_is_read(past: Past) -> None:
    past.begin(dollars="0.001")
    assert past("a", "b")["status"] == "ended"
    assert (past.run.state, past.run.keys) == (State.SPENT, 0)


def test_what_step_functions_refuses_is_not_paid_for_and_tried_again_later(past: Past) -> None:
    past.put("a", "b")
    past.begin()
    refused = {"Error": {"Code": "ThrottlingException"}, "ResponseMetadata": {"HTTPStatusCode": 400}}
    past.ends = [refused]
    progress = past("a", "b")
    assert (progress["status"], progress["wait_seconds"], len(progress["left"])) == ("left", LATER_SECONDS, 1)
    assert past.run.dollars_spent == Decimal("0.012")
    assert past("a", "b", **progress)["status"] == "done"
    assert past.keys == ["a", "b"]
    assert past.run.dollars_spent == Decimal("0.022")


def test_what_may_have_been_executed_is_paid_for(past: Past) -> None:
    past.put("a")
    past.begin()
    past.ends = [{"Error": {"Code": "InternalFailure"}, "ResponseMetadata": {"HTTPStatusCode": 500}}]
    progress = past("a")
    assert (progress["status"], past.run.executed) == ("left", 0)
    assert past.run.dollars_spent == Decimal("0.011")


def test_a_photo_that_can_never_be_executed_is_named_and_counted(past: Past) -> None:
    past.put("a")
    past.begin()
    progress: dict[str, Any] = {}
    for _ in range(MOST_ROUNDS):
        past.ends = [{"status": "TIMED_OUT"}]
        progress = past("a", **progress)
    assert progress["status"] == "done"
    assert past.run.unfinished == 1


# ---- a run that has ended, and one that has to wait


def test_a_stopped_run_executes_nothing_more(past: Past) -> None:
    past.put("a")
    past.begin()
    assert end(past.dynamodb, "ControlTable", ORDER.run, State.STOPPED, NOW)
    assert past("a")["status"] == "ended"
    assert past.asked == []
    assert past.run.state == State.STOPPED


def test_a_batch_of_an_older_run_neither_executes_nor_counts(past: Past) -> None:
    past.put("a")
    past.begin()
    end(past.dynamodb, "ControlTable", ORDER.run, State.STOPPED, NOW)
    past.begin(order=ORDER.model_copy(update={"run": "second"}))
    assert past("a")["status"] == "ended"
    assert (past.asked, past.run.keys, past.run.state) == ([], 0, State.RUNNING)


def test_of_two_runs_that_are_started_at_once_one_begins(past: Past) -> None:
    def start(run: str, after: str | None) -> bool:
        order = ORDER.model_copy(update={"run": run})
        standing = Run(order=order, state=State.RUNNING, execution="e", started_at=NOW, dollars_left=Decimal(1))
        return begin(past.dynamodb, "ControlTable", standing, after)

    assert [start("a", None), start("b", None)] == [True, False]
    assert [start("c", "a"), start("d", "a")] == [True, False]
    assert past.run.order.run == "c"


def test_live_uploads_come_first(past: Past) -> None:
    past.put("a")
    past.begin()
    past.sqs.send_message(QueueUrl=past.queue, MessageBody="an upload")
    progress = past("a")
    assert (progress["status"], progress["left"], progress["wait_seconds"]) == ("left", [0], LATER_SECONDS)
    assert past.asked == []
    past.sqs.purge_queue(QueueUrl=past.queue)
    assert past("a", **progress)["status"] == "done"
    assert past.keys == ["a"]


def test_a_batch_that_has_no_time_left_goes_on_in_the_next_invocation(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    past.put("a")
    past.begin()
    monkeypatch.setattr("kickstand_cli.local.functions.Context.get_remaining_time_in_millis", lambda _: 299_000)
    progress = past("a")
    assert (progress["status"], progress["left"], past.asked) == ("left", [0], [])


def test_a_standard_workflow_is_not_waited_for_so_groups_follow_each_other_slowly(
    aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    past = Past(monkeypatch, WORKFLOW_TYPE="STANDARD", PHOTOS_AT_ONCE="2")
    past.put("a", "b", "c")
    past.begin()
    started = {"executionArn": "arn", "startDate": NOW}
    past.ends = [started] * 3
    progress = past("a", "b", "c")
    assert (progress["left"], progress["wait_seconds"]) == ([2], PACE_SECONDS)
    assert past("a", "b", "c", **progress)["status"] == "done"
    assert past.keys == ["a", "b", "c"]


def test_trouble_that_passes_is_worth_a_retry(past: Past) -> None:
    past.begin()

    def fail(**_: Any) -> Any:
        return SimpleNamespace(status_code=503), {
            "Error": {"Code": "503", "Message": "Slow Down"},
            "ResponseMetadata": {"HTTPStatusCode": 503},
        }

    past.function.module.LANE.s3.meta.events.register("before-call.s3.HeadObject", fail)
    with pytest.raises(StoreUnavailable):
        past("a")


def test_access_that_is_denied_fails_the_batch(past: Past) -> None:
    past.begin()

    def fail(**_: Any) -> Any:
        return SimpleNamespace(status_code=403), {
            "Error": {"Code": "403", "Message": "Forbidden"},
            "ResponseMetadata": {"HTTPStatusCode": 403},
        }

    past.function.module.LANE.s3.meta.events.register("before-call.s3.HeadObject", fail)
    with pytest.raises(ClientError):
        past("a")


# ---- again, by a newer model


AGAIN = ORDER.model_copy(update={"run": "again", "model_version_before": "old"})


def later(model_version: str, record: Record) -> LaterDecision:
    assert record.prediction
    prediction = record.prediction.model_copy(update={"model_version": model_version})
    return LaterDecision(prediction=prediction, decision=record.decision, execution="e", decided_at=NOW, by="again")


def test_only_what_that_model_version_decided_is_decided_again_and_once(past: Past) -> None:
    past.put("old", "other", "none", "done", "old later")
    records = {key: past.record(key, key.partition(" ")[0]) for key in ("old", "other")}
    done, old_later = past.record("done", "old"), past.record("old later", "older")
    assert put_later(past.dynamodb, "RecordsTable", *done.key, later(CARD.model_version, done))
    assert put_later(past.dynamodb, "RecordsTable", *old_later.key, later("old", old_later))
    past.begin(order=AGAIN)
    past("old", "other", "none", "done", "old later", order=AGAIN)
    assert past.keys == ["old", "old later"]
    assert {event["detail"]["again"] for event in past.asked} == {"again"}
    assert records["other"].later == ()
    assert past.run.decided_before == 2
    assert past.run.not_asked_for == 1


def test_the_first_decision_stays_and_each_model_version_decides_once(past: Past) -> None:
    past.put("photo")
    record = past.record("photo", "old")
    key = {"image": {"S": record.image}, "version": {"S": record.version}}

    def add(model_version: str) -> bool:
        return put_later(past.dynamodb, "RecordsTable", *record.key, later(model_version, record))

    assert [add(version) for version in ("old", "new", "new", "newer")] == [False, True, False, True]
    item = past.dynamodb.get_item(TableName="RecordsTable", Key=key)["Item"]
    unchanged = copy.deepcopy(item)
    assert [one["M"]["prediction"]["M"]["model_version"]["S"] for one in unchanged.pop("later")["L"]] == [
        "new",
        "newer",
    ]
    del unchanged["later_by"]
    assert unchanged == record_item(record)


def test_a_photo_that_was_forgotten_meanwhile_gets_no_record_by_a_repeated_decision(past: Past) -> None:
    record = next(iter(make_records(1)))
    assert not put_later(past.dynamodb, "RecordsTable", *record.key, later("new", record))
    assert past.dynamodb.scan(TableName="RecordsTable")["Count"] == 0
    assert "Item" not in past.dynamodb.get_item(TableName="ControlTable", Key=CONTROL)


def test_a_repeated_decision_of_what_cannot_be_read_any_more_changes_nothing(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    past.put("photo")
    record = past.record("photo", "old")
    past.begin(order=AGAIN)
    past("photo", order=AGAIN)
    (event,) = past.asked
    state = event | {"decision": {"route": "reject", "reason": "unreadable", "explanation": "no longer there"}}
    answer = Loaded("record_result", monkeypatch)({"state": state, "execution": "arn:execution"})
    assert answer == {"image": record.image, "version": record.version, "duplicate": True}
    (item,) = past.dynamodb.scan(TableName="RecordsTable")["Items"]
    assert item == record_item(record)
