"""`kickstand ledger` and the function that keeps the ledger, on the shipped stack."""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError, EndpointConnectionError
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from kickstand.events import ImageRef, ReviewStatus
from kickstand.ledger import books as books_module
from kickstand.ledger import letters, store
from kickstand.ledger.balance import Lack, Ledger
from kickstand.ledger.books import as_event
from kickstand.ledger.store import begin_audit, close_new, draw_up
from kickstand.review.rules import Review, answer, claim, open_review
from kickstand.store import load_state, record_item, to_item
from kickstand_cli.datasets.download import locate_cache
from kickstand_cli.local.stack import Stack, deploy
from kickstand_cli.main import app
from kickstand_cli.project import PROJECT
from tests.photos import png
from tests.workflow.conftest import raised


@pytest.fixture
def stack() -> Iterator[Stack]:
    with deploy(PROJECT / "template.yaml", {"AuditRate": "0"}) as stack:
        yield stack


def upload(stack: Stack, number: int = 1) -> list[tuple[str, str]]:
    """Uploads photos and waits; returns their keys and versions."""
    uploads = [(name, stack.upload(name, png())) for name in (f"{uuid.uuid4()} é.png" for _ in range(number))]
    stack.settle()
    return uploads


def lose(stack: Stack, number: int = 1) -> str:
    """Uploads photos whose events get lost; returns the last one's key."""
    for _ in range(number):
        key = f"{uuid.uuid4()} +é.png"
        stack.upload(key, png())
    (target,) = (target for target in stack._targets if target.receiver.endswith(":UploadQueue"))
    stack.sqs.purge_queue(QueueUrl=target.queue_url)
    return key


def end(stack: Stack, review: Review) -> None:
    """Ends the execution that waits for the answer."""
    stack.stepfunctions.stop_execution(executionArn=review.execution)
    if review.task_token:
        with suppress(ClientError):
            stack.stepfunctions.send_task_failure(taskToken=review.task_token.get_secret_value())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted audits of other tests are not gone on with."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def kickstand_ledger(stack: Stack, tmp_path: Path, *options: str, audit: bool = True) -> Result:
    outputs = tmp_path / "outputs.json"
    outputs.write_text(json.dumps(stack.outputs))
    options = ("--audit", "--grace", "0", *options) if audit else options
    return CliRunner().invoke(app, ["ledger", "--outputs", str(outputs), *options])


def test_all_is_well_where_every_upload_has_ended(stack: Stack, tmp_path: Path) -> None:
    upload(stack, 3)
    result = kickstand_ledger(stack, tmp_path)
    assert result.exit_code == 0
    assert result.stdout.startswith("ledger: 3 uploads = ")
    assert "missing" not in result.output


def test_a_folder_of_the_console_is_no_upload(stack: Stack) -> None:
    photo = png()
    for key, data in (("2026/", b""), ("2026/a.png", photo), ("album/", photo), ("empty.png", b"")):
        stack.upload(key, data)
    stack.settle()
    assert sorted(record.image_ref.key for record in stack.records()) == ["2026/a.png", "album/", "empty.png"]
    ledger = stack.ledger()
    assert (ledger.uploads, ledger.missing, ledger.under_way) == (3, 0, 0)
    new = close_new(replace(stack.books(), poll_seconds=0), datetime.now(UTC), lambda: 900.0)
    assert (new.uploads, new.missing, new.under_way) == (3, 0, 0)


def test_a_folder_that_an_older_template_has_decided_stays_in_the_ledger(stack: Stack) -> None:
    version = stack.upload("2026/", b"")
    (target,) = (target for target in stack._targets if target.receiver.endswith(":UploadQueue"))
    (found,) = stack.s3.list_object_versions(Bucket=stack.outputs["ImageBucketName"])["Versions"]
    ref = ImageRef(
        bucket=stack.outputs["ImageBucketName"],
        key="2026/",
        etag=found["ETag"].strip('"'),
        version_id=version,
        size=0,
        uploaded_at=found["LastModified"],
    )
    stack.start(target, as_event(ref))
    stack.settle()
    ledger = stack.ledger()
    assert (ledger.uploads, ledger.rejected, ledger.missing) == (1, 1, 0)


def test_a_lost_upload_is_named_and_an_exit_code_of_its_own_tells(stack: Stack, tmp_path: Path) -> None:
    upload(stack)
    key = lose(stack)
    result = kickstand_ledger(stack, tmp_path)
    assert result.exit_code == 4
    assert ", 1 missing\n" in result.output
    assert f"/{key} (version " in result.output
    assert "was uploaded, but has no decision" in result.output
    told = json.loads(kickstand_ledger(stack, tmp_path, "--json").stdout)
    assert (told["uploads"], told["missing"]) == (2, 1)
    assert [(lack["image"].rsplit("/", 1)[1], lack["lack"]) for lack in told["lacks"]] == [(key, "decision")]


def test_a_lost_upload_is_sent_again(stack: Stack, tmp_path: Path) -> None:
    lose(stack)
    result = kickstand_ledger(stack, tmp_path, "--redrive", "--wait", "0")
    assert "processed again: 1, of which 0 have an outcome now" in result.output
    stack.settle()
    assert kickstand_ledger(stack, tmp_path).exit_code == 0
    assert len(stack.records()) == 1


def break_for(stack: Stack, function: str, error: str) -> Callable[[], None]:
    """The function fails with this error, until what is returned is called."""
    broken = stack.functions[function]
    handler = broken.load()

    def fail(event: object, context: object) -> None:
        raise raised(error)

    broken.handler = fail
    return lambda: setattr(broken, "handler", handler)


def post(stack: Stack, letter: object) -> None:
    """Puts a message into the dead-letter queue."""
    stack.sqs.send_message(QueueUrl=stack.outputs["DeadLetterQueueUrl"], MessageBody=json.dumps(letter))


def test_a_dead_letter_stays_until_its_upload_has_an_outcome(stack: Stack, tmp_path: Path) -> None:
    repair = break_for(stack, "RecordResultFunction", "ZeroDivisionError")
    upload(stack)
    shown = kickstand_ledger(stack, tmp_path)
    assert "1 dead-letter" in shown.output
    assert "dead letters: 1 failed with ZeroDivisionError" in shown.output

    for _ in range(2):
        kickstand_ledger(stack, tmp_path, "--redrive", "--wait", "0")
        stack.settle()
        assert json.loads(kickstand_ledger(stack, tmp_path, "--json").stdout)["dead_letter"] == 1

    repair()
    kickstand_ledger(stack, tmp_path, "--redrive", "--wait", "0")
    stack.settle()
    assert len(stack.records()) == 1
    assert keep_ledger(stack)["letters"]["closed"] == 1
    assert stack.dead_letters() == []
    assert json.loads(kickstand_ledger(stack, tmp_path, "--json").stdout)["dead_letter"] == 0


def test_exactly_the_removed_image_is_named_and_stays_named(stack: Stack, tmp_path: Path) -> None:
    uploads = upload(stack, 3)
    key, version = uploads[1]
    stack.s3.delete_object(Bucket=stack.outputs["ImageBucketName"], Key=key, VersionId=version)
    for options in ([], ["--redrive"]):
        result = kickstand_ledger(stack, tmp_path, *options)
        assert result.exit_code == 4
        assert "ledger: 3 uploads" in result.output
        assert f"/{key} (version {version}) is gone" in result.output
        assert result.output.count("is gone") == result.output.count("ledger:")


def test_what_is_no_stack_is_a_one_line_error(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "no.json").write_text('{"Other": "stack"}')
    for options in (["--stack-name", "no-such-stack"], ["--outputs", str(tmp_path / "no.json")]):
        result = CliRunner().invoke(app, ["ledger", *options])
        assert result.exit_code == 1
        assert result.output.splitlines()[-1].startswith("error: ")


# ---- the function


def keep_ledger(stack: Stack, audit: bool = False) -> dict[str, Any]:
    """Invokes the function."""
    event = b'{"audit": true}' if audit else (PROJECT / "events/keep_ledger.json").read_bytes()
    stack.deliver()
    answer = boto3.client("lambda").invoke(FunctionName=stack.outputs["KeepLedgerFunctionName"], Payload=event)
    told: dict[str, Any] = json.loads(answer["Payload"].read())
    assert "errorType" not in told, told
    return told


def missing_in(output: str) -> list[float]:
    """The metric of the last metrics blob that was printed."""
    blobs = [json.loads(line) for line in output.splitlines() if line.startswith('{"_aws"')]
    values: list[float] = blobs[-1]["LedgerMissing"]
    return values


def test_the_function_says_where_every_upload_is(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    upload(stack, 2)
    told = keep_ledger(stack)
    assert (told["uploads"], told["missing"], told["replayed"]) == (2, 0, 0)
    assert missing_in(capsys.readouterr().out) == [0]


def test_the_function_leaves_young_uploads_alone(stack: Stack) -> None:
    lose(stack)
    told = keep_ledger(stack)
    assert (told["uploads"], told["missing"], told["replayed"]) == (0, 0, 0)


def test_the_function_sends_lost_uploads_again_and_tells_their_number(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "GRACE", timedelta(0))
    lose(stack, 3)
    told = keep_ledger(stack)
    assert (told["missing"], told["replayed"]) == (3, 3)
    stack.settle()
    assert (keep_ledger(stack)["missing"], len(stack.records())) == (0, 3)


def test_one_upload_that_cannot_be_sent_again_is_named_and_keeps_no_other_back(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store, "GRACE", timedelta(0))
    key = lose(stack, 3)
    send = BaseClient._make_api_call  # type: ignore[attr-defined]

    def refuse(client: BaseClient, operation: str, parameters: dict[str, Any]) -> Any:
        if operation == "SendMessageBatch":
            entries = parameters["Entries"]
            bad = [entry for entry in entries if key in json.loads(entry["MessageBody"])["detail"]["object"]["key"]]
            answer = send(client, operation, parameters | {"Entries": [e for e in entries if e not in bad]})
            failed = [{"Id": entry["Id"], "Code": "Throttled", "SenderFault": False} for entry in bad]
            return answer | {"Failed": failed}
        return send(client, operation, parameters)

    monkeypatch.setattr(BaseClient, "_make_api_call", refuse)
    told = keep_ledger(stack)
    assert (told["missing"], told["replayed"], told["refused"]) == (3, 2, 1)
    assert missing_in(capsys.readouterr().out) == [3]
    (named,) = (record for record in caplog.records if record.message == "not sent again")
    assert str(getattr(named, "image", "")).endswith(key)
    stack.settle()
    assert len(stack.records()) == 2


def test_when_the_queue_takes_nothing_the_run_still_ends_and_an_answer_is_still_written(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "GRACE", timedelta(0))
    untold(stack)
    lose(stack, 11)
    send = BaseClient._make_api_call  # type: ignore[attr-defined]

    def refuse(client: BaseClient, operation: str, parameters: dict[str, Any]) -> Any:
        if operation == "SendMessageBatch":
            raise EndpointConnectionError(endpoint_url="https://sqs")
        return send(client, operation, parameters)

    monkeypatch.setattr(BaseClient, "_make_api_call", refuse)
    told = keep_ledger(stack)
    assert (told["missing"], told["replayed"], told["refused"]) == (12, 1, 11)
    (record,) = stack.records()
    assert record.review
    assert record.review.answer


def items(stack: Stack, table: str) -> list[dict[str, Any]]:
    """All that the table holds."""
    return [dict(item) for item in stack.dynamodb.scan(TableName=stack.outputs[table])["Items"]]


def untold(stack: Stack) -> Review:
    """A photo that a person has answered, of which the record tells nothing yet."""
    upload(stack)
    (record,) = stack.records()
    now = datetime.now(UTC)
    review = open_review(record, "an execution", SecretStr("its token"), now)
    answered = answer(claim(review, "Ada", now), "bicycle", "Ada", ["bicycle", "motorcycle"], now)
    item = to_item(answered) | {"task_token": {"S": "its token"}}
    stack.dynamodb.put_item(TableName=stack.outputs["ReviewsTableName"], Item=item)
    stack.dynamodb.update_item(  # as of a photo that a person was asked about
        TableName=stack.outputs["RecordsTableName"],
        Key={"image": {"S": record.image}, "version": {"S": record.version}},
        UpdateExpression="SET audited = :true",
        ExpressionAttributeValues={":true": {"BOOL": True}},
    )
    return answered


def test_the_function_writes_an_answer_into_the_record_that_has_missed_it(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "GRACE", timedelta(0))
    answered = untold(stack)
    assert keep_ledger(stack)["replayed"] == 1
    (record,) = stack.records()
    assert record.review is not None
    assert record.review.answer == answered.answer
    assert keep_ledger(stack)["missing"] == 0


# ---- an answer that the table of reviews has lost


@pytest.mark.parametrize("loss", ["row", "answer", "other answer"])
def test_an_answer_that_only_the_record_tells_of_is_restored_and_nobody_is_asked_again(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    monkeypatch.setattr(store, "GRACE", timedelta(0))
    answered = untold(stack)
    keep_ledger(stack)
    (kept,) = items(stack, "ReviewsTableName")
    if loss == "row":
        key = {name: kept[name] for name in ("image", "version")}
        stack.dynamodb.delete_item(TableName=stack.outputs["ReviewsTableName"], Key=key)
    elif loss == "answer":  # as a backup from before the answer has it
        again = {"status": {"S": "waiting"}, "task_token": {"S": "of an execution that asks again"}}
        item = {name: value for name, value in kept.items() if name != "answer"} | again
        stack.dynamodb.put_item(TableName=stack.outputs["ReviewsTableName"], Item=item)
    else:  # taken after such a backup
        told = {"label": {"S": "motorcycle"}, "answered_at": {"S": datetime.now(UTC).isoformat()}}
        item = kept | {"answer": {"M": kept["answer"]["M"] | told}}
        stack.dynamodb.put_item(TableName=stack.outputs["ReviewsTableName"], Item=item)
    shown = kickstand_ledger(stack, tmp_path)
    assert shown.exit_code == 4
    assert "the table of reviews has lost the answer" in shown.output

    keep_ledger(stack, audit=True)
    keep_ledger(stack)
    stack.settle()
    (review,) = stack.reviews()
    assert (review.status, review.answer) == (ReviewStatus.ANSWERED, answered.answer)
    assert stack.executions("RUNNING") == []
    assert kickstand_ledger(stack, tmp_path).exit_code == 0


def test_what_an_audit_misses_stands_until_it_has_healed(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "GRACE", timedelta(0))
    ((key, version), _) = upload(stack, 2)
    stack.s3.delete_object(Bucket=stack.outputs["ImageBucketName"], Key=key, VersionId=version)
    keep_ledger(stack, audit=True)
    for _ in range(2):
        assert keep_ledger(stack)["missing"] == 1
    shown = kickstand_ledger(stack, tmp_path, audit=False)
    assert shown.exit_code == 4
    assert f"/{key} (version {version}) is gone" in shown.output
    lost = stack.dynamodb.scan(TableName=stack.outputs["RecordsTableName"])["Items"]
    for item in lost:
        if item["image"]["S"].endswith(key):
            at = {name: item[name] for name in ("image", "version")}
            stack.dynamodb.delete_item(TableName=stack.outputs["RecordsTableName"], Key=at)
    assert keep_ledger(stack)["missing"] == 0
    assert kickstand_ledger(stack, tmp_path, audit=False).exit_code == 0


def test_before_the_first_run_the_command_says_so(stack: Stack, tmp_path: Path) -> None:
    shown = kickstand_ledger(stack, tmp_path, audit=False)
    assert shown.exit_code == 0
    assert shown.output.count("not read yet") == 2
    told = json.loads(kickstand_ledger(stack, tmp_path, "--json", audit=False).stdout)
    assert told["whole_bucket"]["until"] is None


# ---- dead letters heal, or wait for a person


def test_what_has_failed_for_a_reason_waits_for_a_person(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    break_for(stack, "DecideFunction", "ZeroDivisionError")
    upload(stack)
    for _ in range(2):
        told = keep_ledger(stack)
        assert told["letters"] == {"sent": 0, "closed": 0, "refused": 0, "for_a_person": 1}
        assert told["replayed"] == 0
    blobs = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{"_aws"')]
    assert blobs[-1]["DeadLetters"] == [1]
    assert len(stack.dead_letters()) == 1


def test_what_was_only_late_is_sent_again_by_itself_and_closed_once_it_is_recorded(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((_, version),) = upload(stack)
    (record,) = stack.records()
    at = {"image": {"S": record.image}, "version": {"S": version}}
    stack.dynamodb.delete_item(TableName=stack.outputs["RecordsTableName"], Key=at)
    event = as_event(record.image_ref)
    post(stack, event | {"attempts": 10, "error": {"Error": "States.Timeout", "Cause": ""}})
    assert keep_ledger(stack)["letters"]["sent"] == 1
    stack.settle()
    assert [record.version for record in stack.records()] == [version]
    assert keep_ledger(stack)["letters"] == {"sent": 0, "closed": 1, "refused": 0, "for_a_person": 0}
    assert stack.ledger().dead_letter == 0


def test_what_stays_late_is_sent_again_three_times_and_then_waits_for_a_person(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters, "REDRIVE_AFTER", (timedelta(0),) * 3)
    upload(stack)
    (record,) = stack.records()
    letter = as_event(record.image_ref) | {"error": {"Error": "StoreUnavailable", "Cause": ""}}
    found = []
    for _ in range(5):
        post(stack, letter)  # it fails again each time
        time.sleep(0.002)  # SQS counts milliseconds
        found.append(keep_ledger(stack)["letters"])
    assert [each["sent"] for each in found] == [1, 1, 1, 0, 0]
    assert [each["for_a_person"] for each in found] == [0, 0, 0, 1, 1]


def test_an_undelivered_question_is_asked(stack: Stack) -> None:
    upload(stack)
    (record,) = stack.records()
    asking = record.model_copy(update={"audited": True})
    stack.dynamodb.put_item(TableName=stack.outputs["RecordsTableName"], Item=record_item(asking))
    post(stack, {"source": "kickstand", "detail-type": "Review Requested", "detail": asking.model_dump(mode="json")})
    assert keep_ledger(stack)["letters"]["sent"] == 1
    stack.settle()
    (review,) = stack.reviews()
    assert review.image == record.image
    assert keep_ledger(stack)["letters"]["closed"] == 1
    end(stack, review)


@pytest.mark.parametrize(
    "body",
    ["", "[]", "null", '{"detail": 5}', '{"detail": {"image_ref": 1}}', '{"detail": "image_ref"}', "\ud83d\ude00"],
)
def test_a_message_that_names_no_upload_waits_for_a_person_and_disturbs_nothing(stack: Stack, body: str) -> None:
    upload(stack)
    stack.sqs.send_message(QueueUrl=stack.outputs["DeadLetterQueueUrl"], MessageBody=body or " ")
    for _ in range(2):
        told = keep_ledger(stack)
        assert told["letters"] == {"sent": 0, "closed": 0, "refused": 0, "for_a_person": 1}
    assert stack.ledger().uploads == 1


@pytest.mark.parametrize(
    "odd", [{"key": "x" * 3000}, {"key": "\ud800"}, {"key": "a", "version-id": "v" * 2000}, {"key": "a", "size": -1}]
)
def test_a_letter_about_what_no_table_can_hold_is_kept_as_it_is(stack: Stack, odd: dict[str, object]) -> None:
    detail = {"bucket": {"name": "photos"}, "object": {"etag": "e"} | odd}
    post(stack, {"time": "2026-05-01T12:00:00Z", "detail": detail, "error": {"Error": "StoreUnavailable"}})
    told = keep_ledger(stack)["letters"]
    assert (told["sent"], told["for_a_person"]) == (0, 1)


@pytest.mark.parametrize(("minutes", "closed"), [(2, 1), (0, 0), (-2, 0)])
def test_a_letter_is_closed_where_something_else_has_decided_its_upload_since(
    stack: Stack, minutes: int, closed: int
) -> None:
    upload(stack)
    (record,) = stack.records()
    failed_at = record.recorded_at - timedelta(minutes=minutes)
    body = as_event(record.image_ref) | {"error": {"Error": "ZeroDivisionError", "Cause": ""}}
    letters._keep(stack.books(), letters.read_letter("message", json.dumps(body), failed_at))
    told = keep_ledger(stack)["letters"]
    assert (told["closed"], told["for_a_person"]) == (closed, 1 - closed)
    assert stack.ledger().dead_letter == 1 - closed


def test_a_letter_that_is_sent_again_by_a_clock_that_is_behind_is_closed_once_it_is_recorded(stack: Stack) -> None:
    repair = break_for(stack, "DecideFunction", "ZeroDivisionError")
    upload(stack)
    repair()
    stack.ledger()
    (page,) = letters.open_letters(stack.books())
    letters.redrive(stack.books(), page, datetime.now(UTC) - timedelta(hours=1))
    stack.settle()
    told = keep_ledger(stack)
    assert (told["letters"]["closed"], told["dead_letter"]) == (1, 0)


def test_two_ledgers_at_once_find_the_same_and_send_a_letter_again_once(stack: Stack) -> None:
    break_for(stack, "DecideFunction", "ZeroDivisionError")
    upload(stack, 3)
    books = stack.books()
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: stack.ledger(), range(2)))
    # What one of them has received and not yet written down is under way for the other.
    assert [(found.dead_letter + found.under_way, found.missing) for found in both] == [(3, 0)] * 2
    assert (found := stack.ledger()).dead_letter == 3, found
    (page,) = letters.open_letters(books)
    now = datetime.now(UTC)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: letters.redrive(books, page, now), range(2)))
    waiting = stack.sqs.get_queue_attributes(
        QueueUrl=stack.outputs["UploadQueueUrl"], AttributeNames=["ApproximateNumberOfMessages"]
    )["Attributes"]
    assert int(waiting["ApproximateNumberOfMessages"]) == 3


def test_what_another_reader_holds_in_the_dead_letter_queue_is_not_missing(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "GRACE", timedelta(0))
    break_for(stack, "DecideFunction", "ZeroDivisionError")
    upload(stack)
    held = stack.sqs.receive_message(QueueUrl=stack.outputs["DeadLetterQueueUrl"], VisibilityTimeout=3600)["Messages"]
    assert len(held) == 1
    told = keep_ledger(stack)
    assert (told["missing"], told["replayed"]) == (0, 0)
    assert (stack.ledger().missing, stack.ledger().under_way) == (0, 1)


# ---- photos that have expired


def expire(stack: Stack, key: str, version: str) -> None:
    stack.s3.delete_object(Bucket=stack.outputs["ImageBucketName"], Key=key, VersionId=version)


def test_of_images_that_are_gone_only_those_that_had_not_expired_are_missing(stack: Stack) -> None:
    (old, new) = upload(stack, 2)
    for each in (old, new):
        expire(stack, *each)
    for item in items(stack, "RecordsTableName"):
        if item["image"]["S"].endswith(old[0]):
            item["image_ref"]["M"]["uploaded_at"] = {"S": "2026-01-01T00:00:00+00:00"}
            stack.dynamodb.put_item(TableName=stack.outputs["RecordsTableName"], Item=item)
    found = draw_up(replace(stack.books(), retention_days=30), datetime.now(UTC))
    assert [(missing.image.rpartition("/")[2], missing.lack) for missing in found.lacks] == [(new[0], Lack.IMAGE)]
    assert stack.ledger().missing == 2


@pytest.mark.parametrize(("days", "missing"), [(30, 0), (0, 1)])
def test_a_version_that_was_replaced_a_week_ago_has_expired_where_photos_expire(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, days: int, missing: int
) -> None:
    (key, first) = upload(stack)[0]
    (item,) = items(stack, "RecordsTableName")
    stack.upload(key, png())
    stack.settle()
    item["image_ref"]["M"]["uploaded_at"] = {"S": (datetime.now(UTC) - timedelta(hours=1)).isoformat()}
    stack.dynamodb.put_item(TableName=stack.outputs["RecordsTableName"], Item=item)
    expire(stack, key, first)
    monkeypatch.setattr(books_module, "HIDDEN_FOR", timedelta(0))
    found = draw_up(replace(stack.books(), retention_days=days), datetime.now(UTC))
    assert (found.missing, found.expired) == (missing, 1 - missing)


def test_an_upload_whose_image_is_gone_is_missing_as_such_and_not_sent_again(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "GRACE", timedelta(0))
    key = lose(stack)
    (version,) = stack.s3.list_object_versions(Bucket=stack.outputs["ImageBucketName"], Prefix=key)["Versions"]
    expire(stack, key, version["VersionId"])
    told = keep_ledger(stack)
    assert (told["missing"], told["replayed"]) == (1, 0)
    stack.settle()
    assert stack.records() == []


def test_an_upload_that_has_expired_is_neither_missing_nor_sent_again(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(stack)
    stack.deliver()
    later = datetime.now(UTC) + timedelta(days=2)
    books = replace(stack.books(), retention_days=1)
    found, _ = store.keep_ledger(books, later, lambda: 900)
    assert (found.missing, found.expired, found.lost) == (0, 1, [])
    assert store.keep_ledger(books, later, lambda: 900)[0].expired == 0  # it has left the queue


# ---- an audit that is interrupted


@pytest.fixture
def short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit reads one object at a time, and is saved after each."""
    monkeypatch.setattr(store, "PAGE", 1)
    monkeypatch.setattr(store, "SAVE_AFTER", 1)


def test_an_audit_that_was_killed_goes_on_where_it_was(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_pages: None
) -> None:
    upload(stack, 5)
    send = BaseClient._make_api_call  # type: ignore[attr-defined]
    pages: list[str] = []

    def killed(client: BaseClient, operation: str, parameters: dict[str, Any]) -> Any:
        if operation == "ListObjectVersions":
            pages.append(parameters.get("KeyMarker", ""))
            if len(pages) == 4:
                raise KeyboardInterrupt
        return send(client, operation, parameters)

    monkeypatch.setattr(BaseClient, "_make_api_call", killed)
    kickstand_ledger(stack, tmp_path)
    again = kickstand_ledger(stack, tmp_path)
    assert "continues an interrupted audit after 3 uploads" in again.output
    assert "ledger: 5 uploads" in again.output
    assert len(pages) == 4 + 2
    kickstand_ledger(stack, tmp_path)
    assert len(pages) == 4 + 2 + 5  # nothing was left to continue with


def test_an_audit_begins_anew_where_that_is_asked_for(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(stack, 2)
    found = begin_audit(stack.books(), datetime.now(UTC), timedelta(0), None)
    saved = locate_cache() / f"audit-{stack.outputs['ImageBucketName']}-0.json"
    saved.parent.mkdir(parents=True)
    saved.write_text(found.model_copy(update={"found": Ledger(accepted=7)}).model_dump_json())
    assert "ledger: 2 uploads" in kickstand_ledger(stack, tmp_path, "--restart").output
    assert not saved.exists()
    saved.write_text("broken off")
    assert "ledger: 2 uploads" in kickstand_ledger(stack, tmp_path).output


def test_an_audit_with_another_grace_does_not_go_on_with_an_interrupted_one(stack: Stack, tmp_path: Path) -> None:
    lose(stack, 2)
    found = begin_audit(stack.books(), datetime.now(UTC), timedelta(minutes=15), None)
    saved = locate_cache() / f"audit-{stack.outputs['ImageBucketName']}-15.json"
    saved.parent.mkdir(parents=True)
    saved.write_text(found.model_copy(update={"found": Ledger(accepted=7)}).model_dump_json())
    assert "0 dead-letter, 2 missing" in kickstand_ledger(stack, tmp_path).output
    assert "ledger: 7 uploads" in kickstand_ledger(stack, tmp_path, "--grace", "15").output


def test_an_audit_without_a_place_for_its_bookmark_ends_all_the_same(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_pages: None
) -> None:
    upload(stack, 3)
    (tmp_path / "no folder").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no folder"))
    told = kickstand_ledger(stack, tmp_path)
    assert told.exit_code == 0, told.output
    assert "ledger: 3 uploads" in told.stdout
    assert told.stderr.count("an interrupted audit would start again") == 1


def test_the_schedule_does_not_fire_locally(stack: Stack) -> None:
    upload(stack)
    assert stack.functions["KeepLedgerFunction"].handler is None


# ---- what is damaged, or was written by a newer version


@pytest.mark.parametrize(
    "damaged", [{"state": {"S": '{"run": null}'}, "revision": {"N": "7"}}, {"revision": {"S": "x"}}, {}]
)
def test_a_state_that_cannot_be_read_is_replaced_and_the_run_does_its_work_and_fails_once(
    stack: Stack,
    tmp_path: Path,
    damaged: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "GRACE", timedelta(0))
    upload(stack)
    break_for(stack, "DecideFunction", "ZeroDivisionError")
    upload(stack)
    stack.dynamodb.put_item(TableName=stack.outputs["ControlTableName"], Item={"id": {"S": "ledger"}} | damaged)
    shown = kickstand_ledger(stack, tmp_path, audit=False)
    assert (shown.exit_code, "the ledger's state cannot be read" in shown.stderr) == (1, True)
    failed = boto3.client("lambda").invoke(FunctionName="KeepLedgerFunction", Payload="{}")
    assert "the ledger's state cannot be read" in json.loads(failed["Payload"].read())["errorMessage"]
    blobs = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{"_aws"')]
    assert blobs[-1]["DeadLetters"] == [1]  # the letters were read all the same
    assert "errorMessage" not in keep_ledger(stack)
    told = json.loads(kickstand_ledger(stack, tmp_path, "--json", audit=False).stdout)["whole_bucket"]
    assert (told["rejected"], told["dead_letter"]) == (1, 1)  # an audit has begun with the new state


def test_a_run_reads_the_ledgers_state_twice(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def load(*parts: Any) -> Any:
        read.append(parts[2])
        return load_state(*parts)

    monkeypatch.setattr(store, "load_state", load)
    keep_ledger(stack)
    assert read == ["ledger", "ledger"]  # for the new uploads, and for the audit


def test_a_record_that_cannot_be_read_is_missing_and_keeps_no_other_back(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store, "GRACE", timedelta(0))
    upload(stack, 3)
    hurt = record_item(stack.records()[0])
    hurt["decision"]["M"]["route"] = {"S": "postponed"}
    stack.dynamodb.put_item(TableName=stack.outputs["RecordsTableName"], Item=hurt)
    audited = kickstand_ledger(stack, tmp_path)
    assert audited.exit_code == 4
    assert "3 uploads = 0 accepted + 2 rejected" in audited.stdout
    assert "1 missing" in audited.stdout
    told = keep_ledger(stack, audit=True)
    assert (told["uploads"], told["rejected"], told["missing"]) == (3, 2, 1)
    assert hurt["image"]["S"] in caplog.text
    outputs = tmp_path / "outputs.json"
    for command in (["monitor"], ["report", "--out", str(tmp_path / "page.html")]):
        shown = CliRunner().invoke(app, [*command, "--outputs", str(outputs), "--json"])
        assert json.loads(shown.stdout)["images"] == 2
