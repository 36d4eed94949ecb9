"""The shipped review_image state machine with real handlers: who asks, who answers, who comes too late."""

import io
import json
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from time import sleep  # the real one: conftest.py shortens time.sleep
from typing import Any

import boto3
import pytest
import yaml
from botocore.client import BaseClient
from botocore.exceptions import EndpointConnectionError
from PIL import Image

from kickstand.events import ReviewStatus
from kickstand.records import Record
from kickstand.review.rules import Review
from kickstand_cli.local.stack import Stack, deploy
from kickstand_cli.project import PROJECT
from tests.waiting import end_wait
from tests.workflow.conftest import Faults, event_of, raised, retried

STATES = yaml.safe_load((PROJECT / "statemachine/review_image.asl.yaml").read_text())["States"]
UNSURE = {"route": "review", "reason": "unsure", "explanation": "bicycle with confidence 0.612, accepted from 0.900"}


@pytest.fixture(scope="module")
def stack(faults: Faults) -> Iterator[Stack]:
    with deploy(PROJECT / "template.yaml", {"AuditRate": "0"}, faults) as stack:
        yield never_sure(stack)


def never_sure(stack: Stack) -> Stack:
    stack.functions["DecideFunction"].handler = lambda event, context: UNSURE
    return stack


def upload(stack: Stack) -> str:
    """Uploads a photo that nobody is sure about and waits until somebody is asked; returns its URI."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), "grey").save(buffer, "PNG")
    key = f"a folder/{uuid.uuid4()} +%2F é.png"
    stack.upload(key, buffer.getvalue())
    stack.settle()
    return f"s3://{stack.outputs['ImageBucketName']}/{key}"


def until(condition: Callable[[], Any]) -> None:
    """Waits, however slow the machine is; what never comes ends in pytest's time-out."""
    while not condition():
        sleep(0.05)


def review_of(stack: Stack, image: str) -> Review:
    (review,) = (review for review in stack.reviews() if review.image == image)
    return review


def record_of(stack: Stack, image: str) -> Record:
    (record,) = (record for record in stack.records() if record.image == image)
    return record


def executions_of(stack: Stack, image: str) -> list[Any]:
    return [
        stack.stepfunctions.describe_execution(executionArn=execution["executionArn"])
        for execution in stack.executions()
        if execution["stateMachineArn"] == stack.outputs["ReviewImageStateMachineArn"]
        and event_of(stack, execution["executionArn"])["detail"]["image"] == image
    ]


def entered(stack: Stack, image: str) -> list[str]:
    """The states that the image's only execution has entered."""
    (execution,) = executions_of(stack, image)
    history = stack.stepfunctions.get_execution_history(executionArn=execution["executionArn"])["events"]
    return [event["stateEnteredEventDetails"]["name"] for event in history if "stateEnteredEventDetails" in event]


def call(stack: Stack, **event: Any) -> dict[str, Any]:
    """Sends the page's function what a button would send; returns what its JSON says."""
    answer = boto3.client("lambda").invoke(
        FunctionName=stack.outputs["ReviewFunctionName"], Payload=json.dumps({"format": "json", **event})
    )
    shown: dict[str, Any] = json.loads(answer["Payload"].read())
    return shown


def claim(stack: Stack, image: str, reviewer: str) -> None:
    """Has the reviewer shown this picture, whatever else waits."""
    for _ in range(100):
        shown = call(stack, reviewer=reviewer)["review"]
        if shown["image"] == image:
            return
        call(stack, reviewer=reviewer, action="skip", image=shown["image"], version=shown["version"])
    pytest.fail("the picture is not shown")


def give(stack: Stack, image: str, label: str = "bicycle", reviewer: str = "Ada") -> dict[str, Any]:
    version = record_of(stack, image).version
    return call(stack, action="answer", reviewer=reviewer, image=image, version=version, label=label)


@pytest.mark.parametrize("label", ["bicycle", "cannot_tell"])
def test_an_answer_completes_the_execution_and_the_record_shows_it(stack: Stack, label: str) -> None:
    image = upload(stack)
    assert executions_of(stack, image)[0]["status"] == "RUNNING"
    claim(stack, image, "Ada")
    assert give(stack, image, label)["notice"] == ""
    stack.settle()
    assert entered(stack, image) == ["Set Timeouts", "Ask a Person", "Record Review", "Answered"]
    outcome = record_of(stack, image).review
    assert outcome
    assert outcome.answer
    assert (outcome.status, outcome.why, outcome.answer.label) == (ReviewStatus.ANSWERED, "unsure", label)
    assert (outcome.answer.reviewer, outcome.answer.late) == ("Ada", False)
    assert review_of(stack, image).task_token is None


def test_an_answer_needs_a_name(stack: Stack) -> None:
    image = upload(stack)
    standing = review_of(stack, image)
    on_page = {"on_page": image, "on_page_version": standing.version}
    assert call(stack, reviewer="", **on_page)["notice"] == "To see a photo, a reviewer needs a name."
    assert give(stack, image, reviewer="")["notice"] == "An answer needs the reviewer’s name."
    assert review_of(stack, image) == standing


def test_a_second_answer_is_refused_and_changes_nothing(stack: Stack) -> None:
    image = upload(stack)
    claim(stack, image, "Ada")
    give(stack, image, "bicycle", "Ada")
    stack.settle()
    first = review_of(stack, image)
    for reviewer in ("Grace", "Ada"):
        assert "their answer counts" in give(stack, image, "motorcycle", reviewer)["notice"]
    stack.settle()
    assert review_of(stack, image) == first
    outcome = record_of(stack, image).review
    assert outcome
    assert outcome.answer == first.answer


def test_an_answer_about_a_picture_that_nobody_asked_about_is_refused(stack: Stack) -> None:
    forged = {"image": "s3://photos/made-up.jpg", "version": "v1", "label": "bicycle"}
    assert "not under review" in call(stack, action="answer", reviewer="Ada", **forged)["notice"]
    assert "s3://photos/made-up.jpg" not in {review.image for review in stack.reviews()}


def test_an_answer_by_somebody_who_was_not_shown_the_picture_is_refused(stack: Stack) -> None:
    image = upload(stack)
    assert "not saved" in give(stack, image)["notice"]
    assert review_of(stack, image).status is ReviewStatus.WAITING


def test_a_forged_token_wakes_nobody(stack: Stack) -> None:
    image = upload(stack)
    with pytest.raises(stack.stepfunctions.exceptions.InvalidToken):
        stack.stepfunctions.send_task_success(taskToken="forged", output='{"label": "bicycle"}')
    version = record_of(stack, image).version
    call(stack, action="answer", reviewer="Ada", image=image, version=version, label="bicycle", task_token="forged")
    assert executions_of(stack, image)[0]["status"] == "RUNNING"


def test_a_stolen_token_without_an_answer_in_the_table_records_nothing(stack: Stack) -> None:
    image = upload(stack)
    token = review_of(stack, image).task_token
    assert token
    stack.stepfunctions.send_task_success(taskToken=token.get_secret_value(), output='{"label": "bicycle"}')
    until(lambda: executions_of(stack, image)[0]["status"] == "FAILED")
    assert record_of(stack, image).review is None
    assert image in {letter["detail"].get("image") for letter in stack.dead_letters()}


def test_the_same_request_delivered_twice_opens_one_review(stack: Stack) -> None:
    image = upload(stack)
    opened = review_of(stack, image)
    (first,) = executions_of(stack, image)
    (target,) = (target for target in stack._targets if target.receiver == first["stateMachineArn"])
    stack.start(target, json.loads(first["input"]))
    until(lambda: sorted(execution["status"] for execution in executions_of(stack, image)) == ["RUNNING", "SUCCEEDED"])
    assert review_of(stack, image) == opened  # above all its token, which wakes the first execution
    claim(stack, image, "Ada")
    give(stack, image)
    stack.settle()
    assert {execution["status"] for execution in executions_of(stack, image)} == {"SUCCEEDED"}


def test_an_answer_that_did_not_reach_the_execution_reaches_it_when_sent_again(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = upload(stack)
    claim(stack, image, "Ada")
    with monkeypatch.context() as outage:
        outage.setattr(BaseClient, "_make_api_call", failing("SendTaskSuccess"))
        assert give(stack, image)["errorType"] == "StoreUnavailable"
    assert review_of(stack, image).status is ReviewStatus.ANSWERED
    assert record_of(stack, image).review is None
    assert give(stack, image)["notice"] == ""
    stack.settle()
    assert entered(stack, image)[-1] == "Answered"
    assert record_of(stack, image).review == review_of(stack, image).outcome


def test_a_retry_after_the_review_was_opened_wakes_by_its_new_token(stack: Stack) -> None:
    function = stack.functions["AskPersonFunction"]
    handler, crashes = function.load(), ["first attempt"]

    def crashing(event: dict[str, Any], context: Any) -> Any:
        answer = handler(event, context)
        if crashes:
            crashes.pop()
            raise raised("Lambda.ServiceException")
        return answer

    function.handler = crashing
    try:
        image = upload(stack)
        until(lambda: review_of(stack, image).revision == 1)
    finally:
        function.handler = handler
    claim(stack, image, "Ada")
    give(stack, image)
    stack.settle()
    assert entered(stack, image)[-1] == "Answered"


FUNCTIONS = {"Ask a Person": "AskPersonFunction", "Record Review": "RecordReviewFunction"}


@pytest.mark.parametrize("error", sorted({error for state in FUNCTIONS for error in retried(STATES[state])}))
def test_an_error_that_passes_is_retried(stack: Stack, faults: Faults, error: str) -> None:
    """One photo meets it in every state that is to retry it."""
    for state, function in FUNCTIONS.items():
        faults.planned[function] = [raised(error) for _ in range(retried(STATES[state]).get(error, 0))]
    image = upload(stack)
    claim(stack, image, "Ada")
    give(stack, image)
    stack.settle()
    assert [faults.planned[function] for function in FUNCTIONS.values()] == [[], []]
    assert entered(stack, image)[-1] == "Answered"


@pytest.mark.parametrize("function", ["AskPersonFunction", "RecordReviewFunction"])
def test_an_error_that_stays_fails_the_execution_and_keeps_the_request(
    stack: Stack, faults: Faults, function: str
) -> None:
    faults.planned[function] = [RuntimeError("injected")]
    image = upload(stack)
    if function == "RecordReviewFunction":
        claim(stack, image, "Ada")
        give(stack, image)
        stack.settle()
    (execution,) = executions_of(stack, image)
    assert (execution["status"], execution["error"]) == ("FAILED", "RuntimeError")
    (letter,) = (letter for letter in stack.dead_letters() if letter["detail"].get("image") == image)
    assert letter["detail-type"] == "Review Requested"


def test_when_nobody_comes_the_reviewers_are_told_and_can_still_answer(stack: Stack) -> None:
    told = mails(stack)
    image = upload(stack)
    end_wait(review_of(stack, image))
    until(lambda: review_of(stack, image).status is ReviewStatus.ESCALATED)
    (mail,) = told()
    assert image in mail["Message"]
    token = review_of(stack, image).task_token
    assert token
    assert token.get_secret_value() not in json.dumps(mail)
    claim(stack, image, "Ada")
    give(stack, image)
    stack.settle()
    assert entered(stack, image) == [
        *("Set Timeouts", "Ask a Person", "Escalate", "Ask Again", "Record Review", "Answered")
    ]


def test_an_unanswered_review_is_recorded_and_takes_a_late_answer(stack: Stack) -> None:
    image = upload(stack)
    end_wait(review_of(stack, image))
    until(lambda: review_of(stack, image).status is ReviewStatus.ESCALATED)
    stack.settle()
    end_wait(review_of(stack, image))
    until(lambda: executions_of(stack, image)[0]["status"] != "RUNNING")
    assert entered(stack, image)[-3:] == ["Ask Again", "Record Unanswered", "Unanswered"]
    outcome = record_of(stack, image).review
    assert outcome
    assert (outcome.status, outcome.answer) == (ReviewStatus.UNANSWERED, None)
    claim(stack, image, "Ada")
    assert give(stack, image)["notice"] == ""
    outcome = record_of(stack, image).review
    assert outcome
    assert outcome.answer
    assert (outcome.status, outcome.answer.late) == (ReviewStatus.ANSWERED, True)


def test_an_answer_that_never_reached_the_execution_is_found_when_its_wait_is_over(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = upload(stack)
    claim(stack, image, "Ada")
    with monkeypatch.context() as outage:
        outage.setattr(BaseClient, "_make_api_call", failing("SendTaskSuccess"))
        assert give(stack, image)["errorType"] == "StoreUnavailable"
    end_wait(review_of(stack, image))
    until(lambda: executions_of(stack, image)[0]["status"] != "RUNNING")
    assert entered(stack, image)[-3:] == ["Ask Again", "Record Review", "Answered"]
    assert record_of(stack, image).review == review_of(stack, image).outcome


def failing(operation: str) -> Callable[..., Any]:
    """boto3's calls, of which one operation finds no network."""
    send = BaseClient._make_api_call  # type: ignore[attr-defined]

    def broken(client: BaseClient, name: str, parameters: dict[str, Any]) -> Any:
        if name == operation:
            raise EndpointConnectionError(endpoint_url="https://nowhere")
        return send(client, name, parameters)

    return broken


def test_the_waits_last_as_long_as_the_parameters_say(stack: Stack) -> None:
    image = upload(stack)
    (execution,) = executions_of(stack, image)
    history = stack.stepfunctions.get_execution_history(executionArn=execution["executionArn"])["events"]
    (scheduled,) = (event["taskScheduledEventDetails"] for event in history if "taskScheduledEventDetails" in event)
    assert scheduled["timeoutInSeconds"] == 86400


def mails(stack: Stack) -> Callable[[], list[dict[str, Any]]]:
    """Subscribes a queue to what the reviewers are told; call the result to read what came."""
    url = stack.sqs.create_queue(QueueName="mails")["QueueUrl"]
    arn = stack.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    stack.sns.subscribe(TopicArn=stack.outputs["ReviewTopicArn"], Protocol="sqs", Endpoint=arn)

    def read() -> list[dict[str, Any]]:
        messages = stack.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
        return [json.loads(message["Body"]) for message in messages]

    return read


def test_no_log_line_holds_a_token_a_picture_or_a_reviewers_name(tmp_path: Path) -> None:
    """Everything that a process running the whole stack writes, with answers, refusals, errors and an outage."""
    script = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        import pytest
        from test_review_image import *

        with deploy(PROJECT / "template.yaml") as stack:
            never_sure(stack)
            image, secrets = upload(stack), ["Ada Lovelace", "Grace Hopper"]
            secrets.append(review_of(stack, image).task_token.get_secret_value())
            shown = call(stack, reviewer="Ada Lovelace")["review"]["picture"].split(",")[1]
            secrets += [shown[:60], shown[-60:]]
            with pytest.MonkeyPatch.context() as outage:
                outage.setattr(BaseClient, "_make_api_call", failing("SendTaskSuccess"))
                give(stack, image, reviewer="Ada Lovelace")
            give(stack, image, reviewer="Grace Hopper")
            give(stack, image, reviewer="Ada Lovelace")
            call(stack, reviewer={{"name": "Ada Lovelace"}})
            lambdas = boto3.client("lambda")
            broken = {{"task_token": secrets[2], "record": {{}}, "execution": "arn", "again": False}}
            lambdas.invoke(FunctionName="AskPersonFunction", Payload=json.dumps(broken))
            stack.settle()
            assert entered(stack, image)[-1] == "Answered"
            Path({str(tmp_path / "secrets.json")!r}).write_text(json.dumps(secrets))
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False, cwd=PROJECT
    )
    assert run.returncode == 0, run.stderr[-3000:]
    logged = run.stdout + run.stderr
    assert logged.count('"message":"asked"') == 1
    assert logged.count('"message":"answered"') == 1
    for secret in json.loads((tmp_path / "secrets.json").read_text()):
        assert len(secret) > 8
        assert secret not in logged
