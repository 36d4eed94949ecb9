"""Dead letters: what a message is taken for, and which ones are sent again by themselves."""

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from kickstand.events import ImageRef
from kickstand.ledger.books import HIDDEN_FOR, Books, as_event, delete_messages
from kickstand.ledger.letters import LATE, REDRIVE_AFTER, Letter, read_letter
from kickstand_cli.local.cost import hidden_days
from kickstand_cli.project import PROJECT

FAILED_AT = datetime(2026, 5, 4, 12, tzinfo=UTC)
PHOTO = ImageRef(bucket="photos", key="ä b.png", etag="e", version_id="1", uploaded_at=FAILED_AT - timedelta(hours=1))


def letter(error: str = "", **rest: Any) -> Letter:
    body = as_event(PHOTO) | ({"error": {"Error": error, "Cause": "why"}} if error else {})
    return read_letter("message", json.dumps(body), FAILED_AT).model_copy(update=rest)


def test_a_letter_names_its_upload_and_what_has_failed() -> None:
    found = letter("ValueError")
    assert found.key == ("s3://photos/ä b.png", "1")
    assert (found.error, found.cause, found.uploaded_at) == ("ValueError", "why", PHOTO.uploaded_at)
    assert json.loads(found.event) == as_event(PHOTO)


def test_what_the_steps_have_added_is_not_kept() -> None:
    body = as_event(PHOTO) | {"prepared_image": {"png": "long"}, "error": {"Error": "ValueError", "Cause": "x" * 9000}}
    found = read_letter("message", json.dumps(body), FAILED_AT)
    assert "prepared_image" not in found.event
    assert len(found.cause) == 2000


@pytest.mark.parametrize(
    "body",
    [
        "[" * 200_000,
        '{"detail":' * 50_000,
        json.dumps(as_event(PHOTO) | {"resources": ["é" * 120_000]}, ensure_ascii=False),
    ],
    ids=["deep list", "deep object", "longer as JSON in ASCII than an item may be"],
)
def test_a_message_that_no_letter_can_hold_is_kept_as_it_is(body: str) -> None:
    found = read_letter("message", body, FAILED_AT)
    assert (found.key, found.version, found.event) == (None, "message", body)


@pytest.mark.parametrize(
    ("error", "heals"),
    [*((error, True) for error in sorted(LATE)), ("", True), ("SNS.ThrottledException", True), ("ValueError", False)],
)
def test_a_letter_heals_by_itself_where_its_error_says_nothing_about_the_photo(error: str, heals: bool) -> None:
    assert letter(error).heals is heals


def test_the_errors_that_heal_are_those_that_the_state_machine_takes_for_late() -> None:
    states = yaml.safe_load((PROJECT / "statemachine/classify_image.asl.yaml").read_text("utf-8"))["States"]
    late = [
        rule["ErrorEquals"]
        for state in states.values()
        for rule in state.get("Catch", [])
        if rule["Next"] == "Only Late?"
    ]
    assert {error for errors in late for error in errors} == LATE


def test_a_letter_is_sent_again_three_times_with_growing_pauses() -> None:
    now, found = FAILED_AT, []
    waiting = letter("StoreUnavailable")
    for hour in range(48):
        now = FAILED_AT + timedelta(hours=hour)
        if waiting.is_due(now):
            found.append(hour)
            update = {"redrives": waiting.redrives + 1, "redriven_at": now, "failed_at": now + timedelta(minutes=1)}
            waiting = waiting.model_copy(update=update)
    assert found == [0, 3, 16]
    assert len(found) == len(REDRIVE_AFTER)
    assert not waiting.heals


def test_what_was_replaced_is_kept_as_long_as_the_template_says() -> None:
    assert timedelta(days=hidden_days()) == HIDDEN_FOR


def test_a_message_that_sqs_does_not_delete_is_named_and_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[list[str]] = []

    class Queues:
        def delete_message_batch(self, QueueUrl: str, Entries: list[dict[str, str]]) -> dict[str, Any]:  # noqa: N803
            asked.append([entry["ReceiptHandle"] for entry in Entries])
            return {"Failed": [{"Id": "0", "Code": "InternalError"}]} if len(asked) == 1 else {}

    receipts = [str(number) for number in range(12)]
    delete_messages(cast("Books", SimpleNamespace(sqs=Queues())), "letters", receipts)
    assert asked == [receipts[:10], receipts[10:]]
    assert [record.getMessage() for record in caplog.records] == ["a message was not deleted: letters: InternalError"]
