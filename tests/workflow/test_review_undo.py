"""An answer that its reviewer takes back: the review, the record and the execution are as if it had not been given."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kickstand.errors import StoreUnavailable
from kickstand.events import ReviewStatus
from kickstand.ledger.store import draw_up, replay
from kickstand.review import rules, store
from kickstand.review.rules import UNDO, Refused, Review
from kickstand.review.store import count_answers, record_review, undo_answer
from kickstand_cli.local.stack import Stack, deploy
from kickstand_cli.project import TEMPLATE
from tests.workflow.test_review_image import call, claim, entered, give, never_sure, record_of, review_of, upload
from tests.workflow.test_review_twice import page_of, picture, press

TABLES = "ReviewsTable", "RecordsTable"


@pytest.fixture(autouse=True)
def _slow_machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between an answer and its undo lies less time than is allowed, however slow the machine is."""
    if request.function is not test_an_answer_is_final_after_a_while:
        monkeypatch.setattr(rules, "UNDO", timedelta(hours=1))


@pytest.fixture
def stack() -> Iterator[Stack]:
    with deploy(TEMPLATE, {"AuditRate": "0", "SecondAnswerShare": "0", "GoldenReviewShare": "0"}) as stack:
        yield never_sure(stack)


@pytest.fixture
def twice() -> Iterator[Stack]:
    """Every photo is asked about twice, and a golden photo follows every answer."""
    with deploy(TEMPLATE, {"AuditRate": "0", "SecondAnswerShare": "1", "GoldenReviewShare": "1"}) as stack:
        yield never_sure(stack)


def answer(stack: Stack, label: str = "bicycle", reviewer: str = "Ada") -> str:
    image = upload(stack)
    claim(stack, image, reviewer)
    assert give(stack, image, label, reviewer)["notice"] == ""
    return image


def undo(stack: Stack, image: str, reviewer: str = "Ada") -> dict[str, Any]:
    page: dict[str, Any] = call(
        stack, action="undo", reviewer=reviewer, image=image, version=review_of(stack, image).version
    )
    return page


def told(stack: Stack, image: str) -> str | None:
    """What the record says that people have answered."""
    outcome = record_of(stack, image).review
    return outcome.answer.label if outcome and outcome.answer else None


def test_an_undone_answer_is_asked_again_and_the_record_has_the_new_one(stack: Stack) -> None:
    image = answer(stack)
    stack.settle()
    page = undo(stack, image)
    assert (page["notice"], page["review"]["image"], page["waiting"]) == ("", image, 1)
    assert (told(stack, image), review_of(stack, image).status) == (None, ReviewStatus.UNANSWERED)
    assert count_answers(stack.dynamodb, "ControlTable") == 0
    assert give(stack, image, "motorcycle")["notice"] == ""
    stack.settle()
    outcome = record_of(stack, image).review
    assert outcome == review_of(stack, image).outcome
    assert outcome
    assert outcome.answer
    assert (outcome.answer.label, outcome.answer.late) == ("motorcycle", False)
    assert entered(stack, image)[-1] == "Answered"
    assert count_answers(stack.dynamodb, "ControlTable") == 1


def test_an_answer_that_is_undone_before_its_execution_wakes_is_never_on_record(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = upload(stack)
    claim(stack, image, "Ada")
    with monkeypatch.context() as asleep:
        asleep.setattr(store, "wake", lambda *_: True)
        give(stack, image)
    answered = review_of(stack, image)
    undo(stack, image)
    assert store.wake(stack.stepfunctions, answered.task_token)
    stack.settle()
    assert entered(stack, image)[-1] == "Answered"  # it does not fail
    assert (review_of(stack, image).status, told(stack, image)) == (ReviewStatus.UNANSWERED, None)


@pytest.mark.parametrize("again", [None, "motorcycle"])
def test_an_answer_that_is_undone_while_the_record_is_told_of_it_does_not_stay_there(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, again: str | None
) -> None:
    image = upload(stack)
    claim(stack, image, "Ada")
    with monkeypatch.context() as asleep:
        asleep.setattr(store, "wake", lambda *_: True)
        give(stack, image)
    before, tell = review_of(stack, image), store._update_record

    def undone_first(dynamodb: Any, table: str, review: Review, now: Any) -> None:
        monkeypatch.setattr(store, "_update_record", tell)
        undo(stack, image)
        if again:
            give(stack, image, again)
        tell(dynamodb, table, review, now)

    monkeypatch.setattr(store, "_update_record", undone_first)
    record_review(stack.dynamodb, TABLES, before.key, answered=True, now=before.requested_at)
    assert told(stack, image) == again
    assert record_of(stack, image).review == review_of(stack, image).outcome
    store.wake(stack.stepfunctions, before.task_token)
    stack.settle()
    assert told(stack, image) == again


@pytest.mark.parametrize("again", [None, "motorcycle"])
def test_the_ledger_never_restores_an_answer_that_its_reviewer_took_back(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, again: str | None
) -> None:
    def broken(*_: Any) -> None:
        raise StoreUnavailable("DynamoDB")

    image = answer(stack)
    stack.settle()
    version = review_of(stack, image).version
    with monkeypatch.context() as down:
        down.setattr(store, "_forget_answer", broken)
        down.setattr(store, "_update_record", broken)
        with pytest.raises(StoreUnavailable):
            undo_answer(stack.dynamodb, TABLES, (image, version), "Ada", False, datetime.now(UTC))
        if again:
            give(stack, image, again)
    assert told(stack, image) == "bicycle"
    now = datetime.now(UTC)
    replay(stack.books(), draw_up(stack.books(), now + timedelta(seconds=1)).lacks, now)
    assert told(stack, image) == again
    assert record_of(stack, image).review == review_of(stack, image).outcome
    assert draw_up(stack.books(), now + timedelta(hours=1)).missing == 0


def test_what_another_reviewer_answered_is_never_undone(twice: Stack) -> None:
    image = answer(twice)
    twice.settle()
    claim(twice, image, "Grace")
    assert "Somebody else is looking" in undo(twice, image)["notice"]
    assert give(twice, image, "neither", "Grace")["notice"] == ""
    assert "somebody else’s answer counts" in undo(twice, image)["notice"]
    assert "somebody else’s answer counts" in undo(twice, image, "Alan")["notice"]
    outcome = record_of(twice, image).review
    assert outcome
    assert outcome.answer
    assert outcome.second
    assert (outcome.answer.label, outcome.second.label) == ("bicycle", "neither")
    assert outcome == review_of(twice, image).outcome


def test_a_second_answer_can_be_undone_by_who_gave_it(twice: Stack) -> None:
    image = answer(twice)
    twice.settle()
    claim(twice, image, "Grace")
    give(twice, image, "neither", "Grace")
    assert undo(twice, image, "Grace")["review"]["why"] == "audit"
    outcome = record_of(twice, image).review
    assert outcome
    assert outcome.answer
    assert (outcome.answer.label, outcome.second) == ("bicycle", None)
    give(twice, image, "bicycle", "Grace")
    outcome = record_of(twice, image).review
    assert outcome == review_of(twice, image).outcome
    assert outcome
    assert outcome.second
    assert outcome.second.label == "bicycle"


def test_the_answer_about_a_golden_photo_is_undone_before_the_one_that_it_followed(twice: Stack) -> None:
    image = upload(twice)
    upload(twice)
    golden = press(twice, page_of(twice, reviewer="Ada"), "bicycle")
    twice.settle()
    after = press(twice, golden, "neither")
    (sent,) = [event for event in sent_by(after) if event["action"] == "undo"]
    back = page_of(twice, **sent)
    assert picture(back) == picture(golden)
    outcome = record_of(twice, image).review
    assert outcome
    assert outcome.answer
    assert outcome.golden is None
    page_of(twice, **sent)  # sent again, after a lost connection
    assert told(twice, image) == "bicycle"
    undo(twice, image)
    assert told(twice, image) is None


def sent_by(page: str) -> list[dict[str, Any]]:
    """What the page's buttons send."""
    return [json.loads(text) for text in re.findall(r">(\{.*?\})</cwdb-action>", page)]


def test_an_answer_is_final_after_a_while(stack: Stack) -> None:
    image = answer(stack)
    given = review_of(stack, image).answer
    assert given
    key, late = (image, review_of(stack, image).version), given.answered_at + UNDO + timedelta(seconds=1)
    with pytest.raises(Refused, match="90 seconds"):
        undo_answer(stack.dynamodb, TABLES, key, "Ada", False, late)
    undo_answer(stack.dynamodb, TABLES, key, "Ada", False, given.answered_at + UNDO)
    assert review_of(stack, image).answer is None


def test_undo_that_is_sent_again_changes_nothing(stack: Stack) -> None:
    image = answer(stack)
    stack.settle()
    undo(stack, image)
    before = review_of(stack, image)
    assert undo(stack, image)["notice"] == ""
    assert review_of(stack, image) == before
    assert count_answers(stack.dynamodb, "ControlTable") == 0


@pytest.mark.parametrize("event", [{"reviewer": "Grace"}, {"version": "another"}, {"image": "s3://photos/none"}])
def test_a_forged_undo_changes_nothing(stack: Stack, event: dict[str, str]) -> None:
    image = answer(stack)
    stack.settle()
    review = review_of(stack, image)
    page = call(stack, **({"action": "undo", "reviewer": "Ada", "image": image, "version": review.version} | event))
    assert page["notice"]
    assert review_of(stack, image) == review
    assert told(stack, image) == "bicycle"
