"""`kickstand dead-letters`: what it lists, on the shipped stack."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from kickstand.events import ImageRef
from kickstand.ledger.books import as_event
from kickstand.ledger.letters import UNREADABLE, Letter, heal_letters, read_letter, redrive
from kickstand.review.rules import UnreadableReview
from kickstand.store import to_item
from kickstand_cli.local.stack import Stack, deploy
from kickstand_cli.main import app
from kickstand_cli.project import TEMPLATE

NOW = datetime.now(UTC)
PERSON = "waits for you: kickstand ledger --redrive"


@pytest.fixture(scope="module")
def deployed() -> Iterator[Stack]:
    with deploy(TEMPLATE) as stack:
        yield stack


@pytest.fixture
def stack(deployed: Stack) -> Iterator[Stack]:
    """A stack without dead letters."""
    yield deployed
    table = deployed.outputs["LettersTableName"]
    for item in deployed.dynamodb.scan(TableName=table)["Items"]:
        deployed.dynamodb.delete_item(TableName=table, Key={name: item[name] for name in ("image", "version")})


def keep(stack: Stack, key: str = "a.png", *, there: bool = True, minutes: int = 5, **rest: Any) -> Letter:
    """Writes a letter about a photo that failed this many minutes ago."""
    version = stack.s3.put_object(Bucket=stack.outputs["ImageBucketName"], Key=key, Body=b"x")["VersionId"]
    bucket = stack.outputs["ImageBucketName"]
    if not there:
        stack.s3.delete_object(Bucket=bucket, Key=key, VersionId=version)
    uploaded_at = NOW - timedelta(minutes=minutes + 1)
    ref = ImageRef(bucket=bucket, key=key, etag="e", version_id=version, uploaded_at=uploaded_at)
    about = {"image": ref.uri, "version": version, "event": json.dumps(as_event(ref)), "error": "ValueError"}
    letter = Letter.model_validate({**about, "failed_at": NOW - timedelta(minutes=minutes), **rest})
    stack.dynamodb.put_item(TableName=stack.outputs["LettersTableName"], Item=to_item(letter))
    return letter


def listed(stack: Stack, tmp_path: Path, *options: str) -> Result:
    outputs = tmp_path / "outputs.json"
    outputs.write_text(json.dumps(stack.outputs))
    result = CliRunner().invoke(app, ["dead-letters", "--outputs", str(outputs), *options])
    assert result.exit_code == 0, result.output
    return result


def test_none_is_said_and_is_no_error(stack: Stack, tmp_path: Path) -> None:
    assert listed(stack, tmp_path).stdout == "No dead letters.\n"
    told = json.loads(listed(stack, tmp_path, "--json").stdout)
    assert told == {"dead_letters": 0, "more_in_queue": False, "letters": []}


def test_what_a_function_has_raised_is_listed_in_plain_words(stack: Stack, tmp_path: Path) -> None:
    cause = json.dumps({"errorMessage": "no such  mode\nas CMYK", "errorType": "ValueError", "stackTrace": ["…"]})
    letter = keep(stack, cause=cause, redrives=2)
    shown = " ".join(listed(stack, tmp_path).stdout.split())
    assert f"a.png {letter.failed_at:%Y-%m-%d %H:%M} 2 ValueError: no such mode as CMYK; {PERSON}" in shown
    (told,) = json.loads(listed(stack, tmp_path, "--json").stdout)["letters"]
    assert (told["workflow"], told["in_words"], told["next"]) == ("classify_image", "no such mode as CMYK", PERSON)
    assert (told["cause"], told["redrives"]) == (cause, 2)


@pytest.mark.parametrize(
    ("letter", "next_"),
    [
        ({"error": "States.Timeout"}, "is tried again by the next ledger run, within an hour"),
        ({"error": "", "redrives": 1}, "is tried again by the first ledger run after"),
        ({"error": "States.Timeout", "redrives": 3}, PERSON),
        ({"error": "States.Timeout", "there": False}, "stays: its photo was deleted"),
        (
            {"image": "no upload", "version": "message", "event": "{", "error": ""},
            "waits for you: it cannot be sent again",
        ),
    ],
)
def test_it_says_what_happens_next(letter: dict[str, Any], next_: str, stack: Stack, tmp_path: Path) -> None:
    kept = keep(stack, **letter)
    (told,) = json.loads(listed(stack, tmp_path, "--json").stdout)["letters"]
    assert told["next"].startswith(next_)
    assert (told["workflow"] is None) == (kept.key is None)


def test_the_newest_come_first_and_the_rest_is_counted(stack: Stack, tmp_path: Path) -> None:
    for minutes in (30, 10, 20):
        keep(stack, f"{minutes}.png", minutes=minutes)
    result = listed(stack, tmp_path, "--limit", "2")
    assert [line.split()[0] for line in result.stdout.splitlines() if ".png" in line] == ["10.png", "20.png"]
    assert result.stdout.endswith("2 of 3 dead letters; --limit shows more\n")


def test_a_name_a_cause_and_an_error_steer_no_terminal(stack: Stack, tmp_path: Path) -> None:
    keep(stack, "a\x1b[2J\u202e.png", error="\x1b]0;PWNED\x07", cause="[red]\x9b2J")
    shown = listed(stack, tmp_path).stdout
    assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(shown)
    assert r"a\x1b[2J\u202e.png" in shown
    assert r"\x1b]0;PWNED\x07: [red]\x9b2J" in shown


def test_what_is_still_in_the_queue_is_announced(stack: Stack, tmp_path: Path) -> None:
    queue = stack.outputs["DeadLetterQueueUrl"]
    stack.sqs.send_message(QueueUrl=queue, MessageBody="{}")
    result = listed(stack, tmp_path)
    stack.sqs.purge_queue(QueueUrl=queue)
    assert result.stdout == "No dead letters.\n"
    assert "kickstand ledger --audit" in result.stderr


@pytest.mark.parametrize(
    "damaged",
    [{"failed_at": {"S": ""}}, {"event": {"S": "{}"}}, {"event": {"S": "[" * 100_000}}, {"redrives": {"N": "-9"}}],
)
def test_a_letter_that_cannot_be_read_waits_for_a_person_and_keeps_no_other_back(
    stack: Stack, tmp_path: Path, damaged: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    hurt = keep(stack, "hurt.png", error="StoreUnavailable")
    keep(stack, "late.png", error="StoreUnavailable")
    stack.dynamodb.put_item(TableName=stack.outputs["LettersTableName"], Item=to_item(hurt) | damaged)
    healed = heal_letters(stack.books(), NOW)
    stack.settle()
    assert (healed.sent, healed.for_a_person) == (1, 1)
    assert f"cannot be read: {hurt.image} " in caplog.text
    shown = {letter["image"]: letter for letter in json.loads(listed(stack, tmp_path, "--json").stdout)["letters"]}
    assert (len(shown), shown[hurt.image]["error"], shown[hurt.image]["version"]) == (2, UNREADABLE, hurt.version)
    assert "hurt.png" in listed(stack, tmp_path).stdout


def test_a_review_that_cannot_be_read_starts_no_execution_again_and_its_letter_says_why(stack: Stack) -> None:
    key = {"image": {"S": "s3://photos/a"}, "version": {"S": "v"}}
    stack.dynamodb.put_item(TableName=stack.outputs["ReviewsTableName"], Item=key | {"status": {"S": "paused"}})
    ref = ImageRef(bucket="photos", key="a", etag="e", version_id="v", uploaded_at=NOW)
    detail = {"image": ref.uri, "version": "v", "image_ref": ref.model_dump(mode="json")}
    failed = {"detail-type": "Review Requested", "detail": detail, "error": {"Error": UnreadableReview.__name__}}
    letter = read_letter("message", json.dumps(failed), NOW)
    item = {name: value for name, value in to_item(letter).items() if name != "redrives"}
    stack.dynamodb.put_item(TableName=stack.outputs["LettersTableName"], Item=item)
    before = stack.executions()
    assert letter.key == (ref.uri, "v")
    assert "cannot be read" in redrive(stack.books(), [letter], NOW)[letter.key]
    assert stack.executions() == before
