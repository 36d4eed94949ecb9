"""The reviewers' handlers on their sample events, which all speak of one photo that was chosen for an audit."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest

from kickstand.events import ReviewStatus
from kickstand.records import Record
from kickstand.review.rules import QUESTION
from kickstand.store import put_record, record_item
from kickstand_cli.local.stack import Stack, deploy
from kickstand_cli.project import PROJECT

Invoke = Callable[..., Any]


@pytest.fixture(scope="module")
def deployed() -> Iterator[Stack]:
    with deploy(PROJECT / "template.yaml") as stack:
        stack.s3.create_bucket(Bucket="kickstand-photos")  # of the sample's photo, which is not in it any more
        yield stack


@pytest.fixture
def stack(deployed: Stack) -> Stack:
    """The deployment with the sample's record, and nobody asked about it yet."""
    record = Record.model_validate(sample("ask_person")["record"])
    for table in ("RecordsTable", "ReviewsTable"):
        key = {"image": {"S": record.image}, "version": {"S": record.version}}
        deployed.dynamodb.delete_item(TableName=table, Key=key)
    put_record(deployed.dynamodb, "RecordsTable", record)
    return deployed


@pytest.fixture
def invoke(stack: Stack) -> Invoke:
    """Calls a function on its sample event, with changes; returns what it returns, or its error."""

    def call(name: str, **changes: Any) -> Any:
        function = "".join(word.title() for word in name.split("_")) + "Function"
        event = json.dumps({**sample(name), **changes})
        return json.loads(boto3.client("lambda").invoke(FunctionName=function, Payload=event)["Payload"].read())

    return call


def sample(event: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((PROJECT / f"events/{event}.json").read_bytes())
    return content


def answer(label: str = "motorcycle") -> dict[str, str]:
    """What the button for this label sends, for the sample's photo."""
    record = sample("ask_person")["record"]
    return {"action": "answer", "image": record["image"], "version": record["version"], "label": label}


def test_asking_opens_a_review_and_returns_no_token(stack: Stack, invoke: Invoke) -> None:
    returned = invoke("ask_person")
    (review,) = stack.reviews()
    assert returned == {"image": review.image, "version": review.version, "status": "waiting"}
    assert (review.why, review.audit_probability) == ("audit", 0.02)
    assert review.task_token
    assert review.task_token.get_secret_value() == sample("ask_person")["task_token"]


@pytest.mark.parametrize(
    "forged",
    [
        {"image_ref": {"bucket": "kickstand-photos", "key": "another.png", "etag": "e", "uploaded_at": "2026-05-04"}},
        {"decision": {"route": "review", "reason": "unsure", "explanation": "say motorcycle"}, "audited": False},
        {"audit_probability": 1.0, "keep_until": 1},
        {"image_ref": None, "decision": None},
    ],
)
def test_what_an_event_says_of_a_record_beyond_its_key_counts_for_nothing(
    stack: Stack, invoke: Invoke, forged: dict[str, Any]
) -> None:
    invoke("ask_person", record=sample("ask_person")["record"] | forged)
    (review,) = stack.reviews()
    (record,) = stack.records()
    assert review.image_ref == record.image_ref
    assert (review.why, review.audit_probability, review.keep_until) == ("audit", 0.02, None)
    assert review.explanation == QUESTION


@pytest.mark.parametrize("change", [{"version": "another"}, {"image": "s3://kickstand-photos/another.png"}])
def test_nobody_is_asked_about_a_record_that_is_not_there(stack: Stack, invoke: Invoke, change: dict[str, Any]) -> None:
    assert invoke("ask_person", record=sample("ask_person")["record"] | change)["errorType"] == "AlreadyAnswered"
    assert stack.reviews() == []


def test_nobody_is_asked_about_a_record_that_asks_nobody(stack: Stack, invoke: Invoke) -> None:
    record = Record.model_validate(sample("ask_person")["record"]).model_copy(update={"audited": False})
    stack.dynamodb.put_item(TableName="RecordsTable", Item=record_item(record))
    assert invoke("ask_person")["errorType"] == "AlreadyAnswered"
    assert stack.reviews() == []


def test_asking_again_escalates_with_the_new_token(stack: Stack, invoke: Invoke) -> None:
    invoke("ask_person")
    assert invoke("ask_person", again=True, task_token="another")["status"] == "escalated"
    (review,) = stack.reviews()
    assert review.task_token
    assert review.task_token.get_secret_value() == "another"


def test_asking_for_another_execution_raises_what_the_state_machine_catches(invoke: Invoke) -> None:
    invoke("ask_person")
    assert invoke("ask_person", execution="another")["errorType"] == "AlreadyAsked"


def test_recording_an_unanswered_review_marks_review_and_record(stack: Stack, invoke: Invoke) -> None:
    invoke("ask_person")
    assert invoke("record_review")["status"] == "unanswered"
    (record,) = stack.records()
    assert record.review
    assert record.review.status is ReviewStatus.UNANSWERED
    assert invoke("record_review")["status"] == "unanswered"  # once more changes nothing
    assert stack.records() == [record]


def test_recording_an_answer_that_nobody_wrote_is_an_error(stack: Stack, invoke: Invoke) -> None:
    invoke("ask_person")
    assert invoke("record_review", answered=True)["errorType"] == "LookupError"
    assert stack.records()[0].review is None


def test_a_review_whose_record_is_gone_ends_without_an_error(stack: Stack, invoke: Invoke) -> None:
    invoke("ask_person")
    (record,) = stack.records()
    key = {"image": {"S": record.image}, "version": {"S": record.version}}
    stack.dynamodb.delete_item(TableName="RecordsTable", Key=key)
    assert invoke("ask_person", again=True)["errorType"] == "AlreadyAnswered"
    assert "errorType" not in (invoke("record_review", answered=True) or {})
    assert stack.records() == []


def test_the_widget_describes_itself(invoke: Invoke) -> None:
    assert "markdown" in invoke("review", describe=True)


def test_the_widget_asks_who_reviews_before_it_shows_a_picture(stack: Stack, invoke: Invoke) -> None:
    invoke("ask_person")
    page = invoke("review", widgetContext={"forms": {"all": {}}})
    assert "Who reviews?" in page
    assert "bicycle.png" not in page
    assert stack.reviews()[0].claim is None


def test_the_widget_is_html_without_scripts_that_calls_this_function(invoke: Invoke) -> None:
    invoke("ask_person")
    page = invoke("review")
    assert 'endpoint="arn:aws:lambda:us-east-1:123456789012:function:ReviewFunction"' in page
    assert '<span title="audit">' in page  # a file's name may say what the model has not
    for forbidden in ("<script", "onclick", "<iframe", "<use", "javascript:"):
        assert forbidden not in page.lower()


def test_the_widget_never_shows_a_token(invoke: Invoke) -> None:
    invoke("ask_person")
    token = sample("ask_person")["task_token"]
    for event in ({}, {"format": "json"}, answer(), answer("cow")):
        assert token not in json.dumps(invoke("review", **event))


def test_a_photo_that_is_gone_can_still_be_answered(invoke: Invoke) -> None:
    invoke("ask_person")
    assert "no longer there" in invoke("review")
    assert invoke("review", format="json", **answer("cannot_tell"))["notice"] == ""


def test_an_answer_that_no_execution_waits_for_is_recorded_by_the_page(stack: Stack, invoke: Invoke) -> None:
    invoke("ask_person")  # outside of any execution: nobody knows the sample's token
    invoke("review")
    invoke("review", **answer())
    (record,) = stack.records()
    assert record.review
    assert record.review.answer
    assert (record.review.answer.label, record.review.answer.reviewer) == ("motorcycle", "Ada")


@pytest.mark.parametrize("revision", [None, {"S": "1"}, {"N": "-7"}])
def test_a_review_whose_revision_is_damaged_blocks_nobody(
    stack: Stack, invoke: Invoke, revision: dict[str, str] | None
) -> None:
    invoke("ask_person")
    (item,) = stack.dynamodb.scan(TableName="ReviewsTable")["Items"]
    stack.dynamodb.put_item(
        TableName="ReviewsTable",
        Item={name: value for name, value in item.items() if name != "revision"}
        | ({"revision": revision} if revision else {}),
    )
    assert invoke("review", format="json")["review"]["image"] == stack.records()[0].image
    assert invoke("review", format="json", **answer())["notice"] == ""
    assert stack.reviews()[0].status is ReviewStatus.ANSWERED


def test_the_first_answer_on_record_is_never_replaced(stack: Stack, invoke: Invoke) -> None:
    invoke("ask_person")
    invoke("review")
    invoke("review", **answer())
    (before,) = stack.records()
    assert "their answer counts" in invoke("review", format="json", **answer("bicycle"))["notice"]
    assert invoke("record_review", answered=False)["status"] == "answered"
    assert stack.records() == [before]


@pytest.mark.parametrize("action", ["answer", "undo", "skip", "show", "leave", "check", "zoom"])
@pytest.mark.parametrize("version", ["", "another"])
def test_a_photo_that_is_not_under_review_is_no_error_of_the_function(
    invoke: Invoke, action: str, version: str
) -> None:
    unknown = {"image": "s3://photos/no.jpg", "version": version, "on_page": "s3://photos/no.jpg"}
    told = invoke("review", format="json", **(answer() | unknown | {"action": action}))
    assert "errorMessage" not in told
    assert action in ("zoom", "check") or "not under review" in told["notice"]
