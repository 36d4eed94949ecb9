"""Every photo is asked about twice, and every answer is followed by a golden photo: what that changes, and what not."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.client import BaseClient
from typer.testing import CliRunner

from kickstand.classify.artefact import read_card
from kickstand.classify.images import thumbnail
from kickstand.events import ReviewStatus
from kickstand.lifecycle.golden import read_golden_images
from kickstand.review.agreement import agreement
from kickstand.review.store import count_open, count_waiting, find_oldest
from kickstand_cli.local.stack import Stack, deploy
from kickstand_cli.main import app
from kickstand_cli.project import MODEL, PROJECT, TEMPLATE
from tests.waiting import end_wait
from tests.workflow.test_review_image import (
    call,
    claim,
    entered,
    failing,
    give,
    never_sure,
    record_of,
    review_of,
    until,
    upload,
)

CONFIDENT = {"route": "accept", "reason": "confident"}
PHOTOS = list(read_golden_images(PROJECT / "layers/model/golden", read_card(MODEL).labels))


@pytest.fixture
def stack() -> Iterator[Stack]:
    with deploy(TEMPLATE, {"AuditRate": "1", "SecondAnswerShare": "1", "GoldenReviewShare": "1"}) as stack:
        yield never_sure(stack)


def answered(stack: Stack, label: str = "bicycle", reviewer: str = "Ada") -> str:
    """A photo that this reviewer has answered, and whose execution is over."""
    image = upload(stack)
    claim(stack, image, reviewer)
    give(stack, image, label, reviewer)
    stack.settle()
    return image


def waiting(stack: Stack, reviewer: str) -> int:
    return count_waiting(stack.dynamodb, "ReviewsTable", reviewer)


def test_another_reviewer_is_asked_too_and_their_answer_changes_no_decision(stack: Stack) -> None:
    image = answered(stack)
    assert entered(stack, image)[-1] == "Answered"
    before = record_of(stack, image)
    shown = call(stack, reviewer="Grace")
    assert (shown["waiting"], shown["review"]["image"], shown["review"]["why"]) == (1, image, "audit")
    assert "confidence" not in json.dumps(shown)
    page = give(stack, image, "motorcycle", "Grace")
    assert (page["notice"], page["waiting"], page["review"]) == ("", 0, None)
    after = record_of(stack, image)
    assert after.review
    assert after.review.second
    assert (after.review.second.label, after.review.second.reviewer) == ("motorcycle", "Grace")
    assert after.model_copy(update={"review": after.review.model_copy(update={"second": None})}) == before
    assert after.changed_at == before.changed_at  # the monitor has counted the answer, and must not do it again
    assert review_of(stack, image).outcome == after.review
    assert (agreement(stack.records()).pairs, agreement(stack.records()).disagreed) == (1, 1)


def test_nothing_waits_for_the_only_reviewer_and_no_alarm_is_told_of_second_questions(stack: Stack) -> None:
    answered(stack)
    for reviewer in ("Ada", "ADA"):
        page = call(stack, reviewer=reviewer)
        assert (page["waiting"], page["review"]) == (0, None)
    assert count_open(stack.dynamodb, "ReviewsTable") == 0
    assert find_oldest(stack.dynamodb, "ReviewsTable") is None
    assert waiting(stack, "Grace") == 1


def test_what_decides_comes_before_second_questions_however_old_they_are(stack: Stack) -> None:
    twice, new = answered(stack), upload(stack)
    for _ in range(2):
        shown = call(stack, reviewer="Grace")
        assert (shown["waiting"], shown["review"]["image"]) == (2, new)
        call(stack, reviewer="Grace", action="skip", image=new, version=shown["review"]["version"])
    assert call(stack, reviewer="Alan")["review"]["image"] == twice  # the other one is in front of Grace


def test_two_reviewers_are_not_shown_the_same_second_question(stack: Stack) -> None:
    first, second = answered(stack), answered(stack)
    assert {call(stack, reviewer=name)["review"]["image"] for name in ("Grace", "Alan")} == {first, second}
    page = call(stack, reviewer="Edsger")
    assert (page["waiting"], page["review"]) == (2, None)


def test_a_second_answer_whose_message_was_lost_is_taken_once(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    image = answered(stack)
    claim(stack, image, "Grace")
    with monkeypatch.context() as outage:
        outage.setattr(BaseClient, "_make_api_call", failing("UpdateItem"))
        assert give(stack, image, "neither", "Grace")["errorType"] == "StoreUnavailable"
    assert give(stack, image, "neither", "Grace")["notice"] == ""
    outcome = record_of(stack, image).review
    assert outcome == review_of(stack, image).outcome
    assert outcome
    assert outcome.second


def test_a_second_answer_before_the_first_one_has_reached_the_execution_is_kept_too(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = upload(stack)
    claim(stack, image, "Ada")
    with monkeypatch.context() as outage:
        outage.setattr(BaseClient, "_make_api_call", failing("SendTaskSuccess"))
        assert give(stack, image)["errorType"] == "StoreUnavailable"
    claim(stack, image, "Grace")
    assert give(stack, image, "neither", "Grace")["notice"] == ""
    assert give(stack, image)["notice"] == ""  # Ada's page sends again, and wakes the execution
    stack.settle()
    assert entered(stack, image)[-1] == "Answered"
    outcome = record_of(stack, image).review
    assert outcome == review_of(stack, image).outcome
    assert outcome
    assert outcome.answer
    assert outcome.second
    assert (outcome.answer.label, outcome.second.label) == ("bicycle", "neither")


def test_a_late_first_answer_is_asked_about_twice_like_any_other(stack: Stack) -> None:
    image = upload(stack)
    end_wait(review_of(stack, image))
    until(lambda: review_of(stack, image).status is ReviewStatus.ESCALATED)
    stack.settle()
    end_wait(review_of(stack, image))
    until(lambda: review_of(stack, image).status is ReviewStatus.UNANSWERED)
    stack.settle()
    claim(stack, image, "Ada")
    give(stack, image)
    claim(stack, image, "Grace")
    give(stack, image, "bicycle", "Grace")
    outcome = record_of(stack, image).review
    assert outcome
    assert outcome.answer
    assert outcome.second
    assert (outcome.answer.late, outcome.second.late) == (True, False)


# ---- golden photos


def page_of(stack: Stack, **event: Any) -> str:
    """The page, as CloudWatch gets it."""
    name = stack.outputs["ReviewFunctionName"]
    html: str = json.loads(
        boto3.client("lambda").invoke(FunctionName=name, Payload=json.dumps(event))["Payload"].read()
    )
    return html


def picture(page: str) -> str:
    (found,) = re.findall(r'src="(data:[^"]+)"', page)
    return str(found)


def outline(page: str) -> str:
    """The page as the eye sees it, without what differs from photo to photo."""
    unseen = r'<cwdb-action.*?</cwdb-action>| data-(?!key)[a-z]+="[^"]*"'
    differs = r'src="data:[^"]+"| class="ks-small"| hidden(?= role)|<b>\d+</b>'
    return re.sub(differs, "", re.sub(unseen, "", page))


def press(stack: Stack, page: str, label: str) -> str:
    """What the page's button for this label does."""
    (sent,) = (
        sent for sent in map(json.loads, re.findall(r">(\{.*?\})</cwdb-action>", page)) if sent.get("label") == label
    )
    return page_of(stack, **sent)


def golden_label(page: str) -> str:
    """What the golden photo on the page shows."""
    for photo in PHOTOS:
        media_type, data = thumbnail(photo.data, photo.name, 512)
        if picture(page) == f"data:{media_type};base64,{base64.b64encode(data).decode()}":
            return photo.expected
    return pytest.fail("the page shows no golden photo")


def audit(stack: Stack) -> str:
    """A photo that is asked about as a random audit."""
    stack.functions["DecideFunction"].handler = lambda event, context: {
        "route": "accept",
        "reason": "confident",
    }
    image = upload(stack)
    never_sure(stack)
    return image


@pytest.mark.parametrize("right", [True, False])
def test_a_golden_photo_follows_an_answer_and_is_counted_beside_it(stack: Stack, right: bool) -> None:
    image, after = upload(stack), upload(stack)
    page = press(stack, page_of(stack, reviewer="Ada"), "bicycle")
    stack.settle()
    expected = golden_label(page)
    said = expected if right else next(label for label in ("bicycle", "motorcycle") if label != expected)
    page = press(stack, page, said)
    assert record_of(stack, after).version in page
    outcome = record_of(stack, image).review
    assert outcome
    assert outcome.golden
    assert (outcome.golden.expected, outcome.golden.label) == (expected, said)
    assert outcome == review_of(stack, image).outcome
    assert record_of(stack, after).review is None
    found = agreement(stack.records())
    assert (found.golden, found.golden_wrong) == (1, 0 if right else 1)


def test_a_golden_photo_looks_like_an_audit_and_like_a_second_question(stack: Stack) -> None:
    upload(stack)
    stack.functions["DecideFunction"].handler = lambda event, context: CONFIDENT
    upload(stack)
    golden = press(stack, page_of(stack, reviewer="Ada"), "bicycle")
    golden_label(golden)
    asked = page_of(stack, reviewer="Ada")
    assert '"action": "check"' in golden
    assert outline(golden) == outline(asked)
    assert "audit" in asked
    assert "Nothing to do" in press(stack, asked, "bicycle")  # no golden photo follows where nothing waits
    second = page_of(stack, reviewer="Grace")
    assert outline(second).replace("Grace", "Ada") == outline(asked)


def test_the_button_below_a_golden_photo_pressed_twice_answers_no_other_photo(stack: Stack) -> None:
    image, after = upload(stack), upload(stack)
    golden = press(stack, page_of(stack, reviewer="Ada"), "bicycle")
    for label in ("neither", "neither", "bicycle"):
        assert record_of(stack, after).version in press(stack, golden, label)
    stack.settle()
    outcome = record_of(stack, image).review
    assert outcome
    assert outcome.golden
    assert outcome.golden.label == "neither"
    assert review_of(stack, after).answer is None


def test_without_golden_photos_of_every_label_reviewers_go_on_as_ever(stack: Stack, tmp_path: Path) -> None:
    function = stack.functions["ReviewFunction"]
    function.environment = {**function.environment, "GOLDEN_DIR": str(tmp_path)}
    upload(stack)
    after = upload(stack)
    assert record_of(stack, after).version in press(stack, page_of(stack, reviewer="Ada"), "bicycle")


# ---- the command


def test_the_command_says_how_often_the_reviewers_of_a_stack_agree(stack: Stack, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs.json"
    outputs.write_text(json.dumps(stack.outputs))
    command = ["labels", "agreement", "--outputs", str(outputs)]
    assert "it is unknown" in CliRunner().invoke(app, command).output
    claim(stack, answered(stack), "Grace")
    give(stack, stack.records()[0].image, "bicycle", "Grace")
    result = CliRunner().invoke(app, [*command, "--json", "--confidence", "0.9"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["pairs"], told["disagreed"], told["label_error_at_most"]) == (1, 0, pytest.approx(0.9, abs=2e-6))
    assert "agreed on 1 of 1" in " ".join(CliRunner().invoke(app, command).output.split())
