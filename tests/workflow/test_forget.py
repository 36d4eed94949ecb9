"""`kickstand forget`, and what ends by RetentionDays, through the shipped state machines with real handlers."""

import io
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from time import sleep
from typing import Any

import boto3
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from kickstand.backfill.rules import Order, Run, State
from kickstand.backfill.store import CONTROL, begin
from kickstand.events import ReviewStatus
from kickstand.ledger.balance import Ledger
from kickstand_cli.ledger import forget
from kickstand_cli.ledger.forget import STAYS
from kickstand_cli.local.stack import Stack, deploy
from kickstand_cli.main import app
from kickstand_cli.project import PROJECT
from tests.waiting import end_wait
from tests.workflow.conftest import Faults, raised

SURE = {"route": "accept", "reason": "confident", "explanation": "bicycle with confidence 0.990"}
UNSURE = {"route": "review", "reason": "unsure", "explanation": "bicycle with confidence 0.612, accepted from 0.900"}


@pytest.fixture(scope="module")
def deployed(faults: Faults) -> Iterator[Stack]:
    parameters = {"AuditRate": "0", "RetentionDays": "30", "SecondAnswerShare": "1", "GoldenReviewShare": "0"}
    with deploy(PROJECT / "template.yaml", parameters, faults) as stack:
        yield stack


@pytest.fixture
def stack(deployed: Stack) -> Iterator[Stack]:
    decide_as(deployed, UNSURE)
    yield deployed
    for image in {record.image for record in deployed.records()} | {review.image for review in deployed.reviews()}:
        run(deployed, image, "--yes")
    deployed.settle()


def decide_as(stack: Stack, decision: dict[str, str]) -> None:
    stack.functions["DecideFunction"].handler = lambda event, context: decision


def upload(stack: Stack, key: str | None = None) -> str:
    """Uploads a photo and waits until all that comes of it has been done; returns its URI."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), "grey").save(buffer, "PNG")
    key = key or f"a folder/{uuid.uuid4()} +%2F é.png"
    stack.upload(key, buffer.getvalue())
    stack.settle()
    return f"s3://{stack.outputs['ImageBucketName']}/{key}"


def run(stack: Stack, image: str, *options: str, says: str = "") -> Result:
    outputs = PROJECT / "build/test-forget/outputs.json"
    outputs.parent.mkdir(parents=True, exist_ok=True)
    outputs.write_text(json.dumps(stack.outputs))
    return CliRunner().invoke(app, ["forget", image, "--outputs", str(outputs), *options], input=says)


def removed(stack: Stack, image: str, *options: str) -> dict[str, int]:
    result = run(stack, image, "--yes", "--json", *options)
    assert result.exit_code == 0, result.output
    counts: dict[str, int] = json.loads(result.stdout)["removed"]
    stack.settle()
    return {name: number for name, number in counts.items() if number}


def call(stack: Stack, **event: Any) -> dict[str, Any]:
    answer = boto3.client("lambda").invoke(
        FunctionName=stack.outputs["ReviewFunctionName"], Payload=json.dumps({"format": "json", **event})
    )
    shown: dict[str, Any] = json.loads(answer["Payload"].read())
    return shown


def answer(stack: Stack, image: str, reviewer: str) -> None:
    shown = call(stack, reviewer=reviewer)["review"]
    assert shown["image"] == image
    call(stack, action="answer", reviewer=reviewer, image=image, version=shown["version"], label="bicycle")
    stack.settle()


def item(stack: Stack, table: str, image: str) -> dict[str, Any]:
    items = stack.dynamodb.scan(TableName=stack.outputs[table])["Items"]
    (found,) = (item for item in items if item["image"]["S"] == image)
    return dict(found)


def is_gone(stack: Stack, image: str) -> bool:
    """Whether nothing in the stack names it any more, and no execution waits for it."""
    texts = [record.model_dump_json() for record in stack.records()]
    texts += [review.model_dump_json() for review in stack.reviews()]
    listed = stack.s3.list_object_versions(Bucket=stack.outputs["ImageBucketName"])
    texts += [found["Key"] for found in (*listed.get("Versions", []), *listed.get("DeleteMarkers", []))]
    texts += [json.dumps(letter, ensure_ascii=False) for letter in stack.dead_letters()]
    for running in stack.executions("RUNNING"):
        text = stack.stepfunctions.describe_execution(executionArn=running["executionArn"])["input"]
        texts.append(json.dumps(json.loads(text), ensure_ascii=False))
    return not any(image.rpartition("/")[2] in text for text in texts)


def test_all_of_an_accepted_photo_is_removed_and_the_ledger_balances(stack: Stack) -> None:
    decide_as(stack, SURE)
    image = upload(stack)
    assert removed(stack, image) == {"versions": 1, "records": 1}
    assert is_gone(stack, image)
    assert stack.ledger() == Ledger()


def test_it_may_be_repeated_and_then_removes_nothing(stack: Stack) -> None:
    image = upload(stack)
    removed(stack, image)
    assert removed(stack, image) == {}
    assert f"nothing is left of {image}" in run(stack, image).output.replace("\n", "")


def test_an_execution_that_asks_a_person_ends_and_writes_nothing_anew(stack: Stack) -> None:
    image = upload(stack)
    execution = item(stack, "ReviewsTableName", image)["execution"]["S"]
    assert removed(stack, image) == {"versions": 1, "records": 1, "reviews": 1, "executions": 1}
    assert stack.stepfunctions.describe_execution(executionArn=execution)["status"] == "SUCCEEDED"
    assert is_gone(stack, image)
    assert stack.ledger() == Ledger()


def test_a_reviewer_who_looks_at_a_photo_that_is_forgotten_meanwhile_is_told_so(stack: Stack) -> None:
    image = upload(stack)
    shown = call(stack, reviewer="Ada")["review"]
    removed(stack, image)
    told = call(stack, action="answer", reviewer="Ada", image=image, version=shown["version"], label="bicycle")
    assert "not under review" in told["notice"]
    assert is_gone(stack, image)


def test_what_is_deleted_by_hand_while_a_person_is_asked_is_not_written_anew_when_the_waits_are_over(
    stack: Stack,
) -> None:
    image = upload(stack)
    (review,) = stack.reviews()
    key = {"image": {"S": image}, "version": {"S": review.version}}
    stack.s3.delete_object(Bucket=stack.outputs["ImageBucketName"], Key=review.image_ref.key, VersionId=review.version)
    for table in ("RecordsTableName", "ReviewsTableName"):
        stack.dynamodb.delete_item(TableName=stack.outputs[table], Key=key)
    end_wait(review)
    stack.settle()
    assert stack.stepfunctions.describe_execution(executionArn=review.execution)["status"] == "SUCCEEDED"
    assert is_gone(stack, image)


def test_an_event_that_comes_after_the_photo_was_forgotten_asks_nobody(stack: Stack) -> None:
    image = upload(stack)
    (review,) = stack.reviews()
    event = stack.stepfunctions.describe_execution(executionArn=review.execution)["input"]
    (target,) = (each for each in stack._targets if each.receiver == stack.outputs["ReviewImageStateMachineArn"])
    removed(stack, image)
    stack.start(target, json.loads(event))
    stack.settle()
    assert is_gone(stack, image)


def test_answers_and_second_answers_are_removed_with_the_review(stack: Stack) -> None:
    image = upload(stack)
    answer(stack, image, "Ada")
    answer(stack, image, "Grace")
    assert item(stack, "ReviewsTableName", image)["second"]
    assert removed(stack, image) == {"versions": 1, "records": 1, "reviews": 1}
    assert is_gone(stack, image)


def test_dead_letters_about_the_photo_are_removed_and_others_stay(stack: Stack, faults: Faults) -> None:
    images = []
    for _ in range(2):
        faults.planned["PrepareImageFunction"] = [raised("Unexpected")]
        images.append(upload(stack))
    assert removed(stack, images[0]) == {"versions": 1, "letters": 1}
    assert is_gone(stack, images[0])
    (letter,) = stack.dead_letters()
    assert images[1].endswith(letter["detail"]["object"]["key"])
    removed(stack, images[1])


def test_one_version_can_be_forgotten_and_the_others_stay(stack: Stack) -> None:
    image = upload(stack, "twice.png")
    (first,) = (record.version for record in stack.records())
    upload(stack, "twice.png")
    upload(stack, "twice.png.other.png")
    assert removed(stack, image, "--version", first) == {"versions": 1, "records": 1, "reviews": 1, "executions": 1}
    assert first not in {record.version for record in stack.records()}
    assert len(stack.records()) == 2
    assert removed(stack, image)["versions"] == 1


def test_the_markers_of_a_deleted_object_are_removed_too(stack: Stack) -> None:
    image = upload(stack, "deleted.png")
    stack.s3.delete_object(Bucket=stack.outputs["ImageBucketName"], Key="deleted.png")
    assert removed(stack, image)["versions"] == 2
    assert is_gone(stack, image)


def test_a_report_page_that_shows_the_photo_is_removed(stack: Stack) -> None:
    image = upload(stack, "Anna's & shown.png")
    bucket = stack.outputs["ReportBucketName"]
    shown = b'<img title="Anna&#39;s &amp; shown.png">'
    for key, body in (("days/2026-05-04.html", shown), ("days/2026-05-05.html", b"another.png")):
        stack.s3.put_object(Bucket=bucket, Key=key, Body=body)
    assert removed(stack, image)["pages"] == 1
    assert [found["Key"] for found in stack.s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["days/2026-05-05.html"]


def test_no_report_page_is_removed_with_a_photo_whose_key_ends_like_a_folder(stack: Stack) -> None:
    image = upload(stack, "camera1/")
    bucket = stack.outputs["ReportBucketName"]
    stack.s3.put_object(Bucket=bucket, Key="days/2026-05-06.html", Body=b"<p>another.png</p>")
    assert "pages" not in removed(stack, image)
    stack.s3.delete_object(Bucket=bucket, Key="days/2026-05-06.html")


def test_it_asks_first_and_removes_nothing_without_a_yes(stack: Stack) -> None:
    image = upload(stack)
    refused = run(stack, image, says="n\n")
    assert refused.exit_code == 1
    assert "reviews, with their answers: 1" in refused.output
    assert len(stack.records()) == 1
    agreed = run(stack, image, says="y\n")
    assert agreed.exit_code == 0, agreed.output
    assert stack.records() == []


def test_it_says_what_it_cannot_remove_and_when_to_repeat_it(stack: Stack) -> None:
    told = " ".join(run(stack, upload(stack), "--yes").output.split())
    assert all(f"stays: {line}" in told for line in STAYS)
    assert "repeat the command in an hour" in told


@pytest.mark.parametrize("reason", ["", "Uploads wait to be classified", "A backfill is running"])
def test_of_an_old_photo_it_says_when_a_record_may_still_come(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    monkeypatch.setattr(forget, "UNDER_WAY", timedelta(0))
    image, now, queue = upload(stack), datetime.now(UTC), stack.outputs["UploadQueueUrl"]
    if reason.startswith("Uploads"):
        stack.sqs.send_message(QueueUrl=queue, MessageBody="{}", DelaySeconds=900)
    if reason.startswith("A backfill"):
        order = Order(run="r", until=now, dollars_per_photo=Decimal(1), dollars_per_key=Decimal(0))
        going = Run(order=order, state=State.RUNNING, execution="e", started_at=now, dollars_left=Decimal(1))
        assert begin(stack.dynamodb, stack.outputs["ControlTableName"], going, None)
    told = " ".join(run(stack, image, "--yes").output.split())
    if reason.startswith("Uploads"):
        stack.sqs.purge_queue(QueueUrl=queue)
    stack.dynamodb.delete_item(TableName=stack.outputs["ControlTableName"], Key=CONTROL)
    assert ("repeat the command in an hour" in told) is bool(reason)
    assert reason in told


def test_a_photo_of_another_bucket_is_refused(stack: Stack) -> None:
    result = run(stack, "s3://another-bucket/a.png", "--yes")
    assert result.exit_code == 1
    assert "not in the stack's bucket" in " ".join(result.output.split())


# ---- RetentionDays


def ends_in(stack: Stack, table: str, image: str) -> float | None:
    """Days until the table deletes the item."""
    end = item(stack, table, image).get("expires_at")
    return end and (int(end["N"]) - datetime.now(UTC).timestamp()) / 86400


def test_the_record_of_an_accepted_photo_expires(stack: Stack) -> None:
    decide_as(stack, SURE)
    assert ends_in(stack, "RecordsTableName", upload(stack)) == pytest.approx(30, abs=0.1)


def test_nothing_expires_while_a_person_is_asked_and_all_does_after_the_answer(stack: Stack) -> None:
    image = upload(stack)
    assert [ends_in(stack, table, image) for table in ("RecordsTableName", "ReviewsTableName")] == [None, None]
    answer(stack, image, "Ada")
    for table in ("RecordsTableName", "ReviewsTableName"):
        assert ends_in(stack, table, image) == pytest.approx(30, abs=0.1)


def test_what_nobody_answers_expires(stack: Stack) -> None:
    image = upload(stack)
    for status in (ReviewStatus.ESCALATED, ReviewStatus.UNANSWERED):
        end_wait(stack.reviews()[0])
        while stack.reviews()[0].status is not status:
            sleep(0.05)
        stack.settle()
    for table in ("RecordsTableName", "ReviewsTableName"):
        assert ends_in(stack, table, image) == pytest.approx(30, abs=0.1)


def test_an_answer_about_an_expired_record_is_no_failure(stack: Stack) -> None:
    image = upload(stack)
    (review,) = stack.reviews()
    key = {"image": {"S": image}, "version": {"S": review.version}}
    stack.dynamodb.delete_item(TableName=stack.outputs["RecordsTableName"], Key=key)
    answer(stack, image, "Ada")
    assert stack.records() == []
    assert stack.stepfunctions.describe_execution(executionArn=review.execution)["status"] == "SUCCEEDED"
