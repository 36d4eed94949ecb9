"""`kickstand ledger` and the function that keeps the ledger, on the shipped stack."""

import io
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from PIL import Image
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from kickstand.ledger import store
from kickstand.review.rules import answer, claim, open_review
from kickstand.store import to_item
from kickstand_cli.local.stack import Stack, deploy
from kickstand_cli.main import app

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def stack() -> Iterator[Stack]:
    with deploy(PROJECT / "template.yaml", {"AuditRate": "0"}) as stack:
        yield stack


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), "grey").save(buffer, "PNG")
    return buffer.getvalue()


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
    (target,) = (target for target in stack._targets if "ClassifyImage" in target.receiver)
    stack.sqs.purge_queue(QueueUrl=target.queue_url)
    return key


def kickstand_ledger(stack: Stack, tmp_path: Path, *options: str, audit: bool = True) -> Result:
    outputs = tmp_path / "outputs.json"
    outputs.write_text(json.dumps(stack.outputs))
    options = (*options, "--audit", "--grace", "0") if audit else options
    return CliRunner().invoke(app, ["ledger", "--outputs", str(outputs), *options])


def test_all_is_well_where_every_upload_has_ended(stack: Stack, tmp_path: Path) -> None:
    upload(stack, 3)
    result = kickstand_ledger(stack, tmp_path)
    assert result.exit_code == 0
    assert result.stdout.startswith("ledger: 3 uploads = ")
    assert "missing" not in result.output


def test_a_lost_upload_is_named_and_an_exit_code_of_its_own_tells(stack: Stack, tmp_path: Path) -> None:
    upload(stack)
    key = lose(stack)
    result = kickstand_ledger(stack, tmp_path)
    assert result.exit_code == 4
    assert ", 1 missing\n" in result.output
    assert f"/{key} (version " in result.output
    assert "nothing was decided about it" in result.output
    told = json.loads(kickstand_ledger(stack, tmp_path, "--json").stdout)
    assert (told["uploads"], told["missing"]) == (2, 1)
    assert [(lack["image"].rsplit("/", 1)[1], lack["lack"]) for lack in told["lacks"]] == [(key, "decision")]


def test_a_lost_upload_is_sent_again(stack: Stack, tmp_path: Path) -> None:
    lose(stack)
    result = kickstand_ledger(stack, tmp_path, "--replay", "--wait", "100")
    assert "replayed: 1 sent again" in result.output
    stack.settle()
    assert kickstand_ledger(stack, tmp_path).exit_code == 0
    assert len(stack.records()) == 1


def test_a_dead_letter_is_done_again_and_thrown_away_once_its_record_exists(stack: Stack, tmp_path: Path) -> None:
    function = stack._lambdas.functions["RecordResultFunction"]
    handler, function.handler = function.load(), lambda event, context: 1 / 0
    upload(stack)
    assert json.loads(kickstand_ledger(stack, tmp_path, "--json").stdout)["dead_letter"] == 1

    kickstand_ledger(stack, tmp_path, "--replay", "--wait", "2")
    stack.settle()
    assert {letter["error"]["Error"] for letter in stack.dead_letters()} == {"ZeroDivisionError"}  # still at fault

    function.handler = handler
    kickstand_ledger(stack, tmp_path, "--replay", "--wait", "100")
    stack.settle()
    assert stack.dead_letters() == []
    assert len(stack.records()) == 1


def test_exactly_the_removed_image_is_named_and_stays_named(stack: Stack, tmp_path: Path) -> None:
    uploads = upload(stack, 3)
    key, version = uploads[1]
    stack.s3.delete_object(Bucket=stack.outputs["ImageBucketName"], Key=key, VersionId=version)
    for options in ([], ["--replay"]):
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
    monkeypatch.setattr(store, "REPLAY_AT_MOST", 2)
    lose(stack, 3)
    told = keep_ledger(stack)
    assert (told["missing"], told["replayed"]) == (3, 2)
    stack.settle()
    assert (keep_ledger(stack)["missing"], len(stack.records())) == (1, 2)


def test_what_is_missing_is_told_even_where_it_cannot_be_sent_again(
    stack: Stack,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(store, "GRACE", timedelta(0))
    monkeypatch.setattr(store, "replay", lambda *_: 1 / 0)
    key = lose(stack)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        keep_ledger(stack)
    assert missing_in(capsys.readouterr().out) == [1]
    (told,) = (record for record in caplog.records if record.message == "missing")
    assert str(getattr(told, "image", "")).endswith(key)


def test_the_function_writes_an_answer_into_the_record_that_has_missed_it(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "GRACE", timedelta(0))
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
    assert keep_ledger(stack)["replayed"] == 1
    (record,) = stack.records()
    assert record.review is not None
    assert record.review.answer == answered.answer
    assert keep_ledger(stack)["missing"] == 0


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
    assert shown.output.count("never yet") == 2
    told = json.loads(kickstand_ledger(stack, tmp_path, "--json", audit=False).stdout)
    assert told["whole_bucket"]["until"] is None


def test_the_function_leaves_dead_letters_to_a_person(stack: Stack) -> None:
    stack._lambdas.functions["DecideFunction"].handler = lambda event, context: 1 / 0
    upload(stack)
    told = keep_ledger(stack)
    assert (told["dead_letter"], told["replayed"]) == (1, 0)
    assert len(stack.dead_letters()) == 1


def test_the_schedule_does_not_fire_locally(stack: Stack) -> None:
    upload(stack)
    assert stack._lambdas.functions["KeepLedgerFunction"].handler is None
