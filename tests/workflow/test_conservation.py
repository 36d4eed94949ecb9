"""No image is lost: whatever fails, however often and in whatever order, the ledger balances and names what is missing.

The shipped state machines and handlers run on moto. Hypothesis invents photos and what goes wrong with each: the errors
named in every Retry and Catch, before or after a function has done its work, outages of every service, events lost,
doubled and shuffled, answers that wake nobody, images removed. Afterwards all of it is sent again, and must heal.
"""

import inspect
import io
import json
import os
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from botocore.client import BaseClient
from botocore.exceptions import ClientError, EndpointConnectionError
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from PIL import Image

from kickstand.errors import StoreUnavailable
from kickstand.ledger.balance import Key, Lack, Ledger
from kickstand.review.rules import Refused, Review, claim
from kickstand.review.store import answer_review, change_review
from kickstand_cli.ledger.ledger import send_again
from kickstand_cli.local.stack import Stack, deploy
from kickstand_cli.project import PROJECT
from tests.workflow.conftest import raised

EXAMPLES = int(os.environ.get("CONSERVATION_EXAMPLES", "20"))  # more find more: 20 take about half a minute
LABELS = ("bicycle", "motorcycle")

STATES = {
    name: state
    for machine in ("classify_image", "review_image")
    for name, state in yaml.safe_load((PROJECT / f"statemachine/{machine}.asl.yaml").read_text())["States"].items()
}
FUNCTIONS = {  # and the states that call them
    "PrepareImageFunction": ["Prepare Image"],
    "ClassifyImageFunction": ["Classify Image"],
    "DecideFunction": ["Decide"],
    "RecordResultFunction": ["Record Result"],
    "AskPersonFunction": ["Ask a Person", "Ask Again"],
    "RecordReviewFunction": ["Record Review", "Record Unanswered"],
}
CALLS = {  # what a function asks of AWS
    "PrepareImageFunction": ["GetObject"],
    "ClassifyImageFunction": [],
    "DecideFunction": [],
    "RecordResultFunction": ["PutItem", "PutEvents"],
    "AskPersonFunction": ["GetItem", "PutItem"],
    "RecordReviewFunction": ["GetItem", "PutItem", "UpdateItem"],
}
INTEGRATIONS = {"SendMessage": "MessageBody", "Publish": "Message"}  # what the machines ask of AWS, naming the photo


def errors_of(function: str) -> list[str]:
    """Every error of a function that a Retry or Catch of its states names, and one that none does."""
    rules = [rule for state in FUNCTIONS[function] for kind in ("Retry", "Catch") for rule in STATES[state][kind]]
    named = {error for rule in rules for error in rule["ErrorEquals"] if not error.startswith("States.")}
    return [*sorted(named), "ValueError"]


# ---- what goes wrong


@dataclass(frozen=True)
class Fault:
    """One invocation fails.

    error: a class name, or "outage:<operation>" or "throttling:<operation>" of AWS.
    late: the function has done its work before.
    """

    error: str
    late: bool = False

    def __str__(self) -> str:
        return f"{self.error}{' (late)' if self.late else ''}"


@dataclass(frozen=True)
class Photo:
    """What is uploaded and what goes wrong with it.

    faults: of each function's invocations, the first first.
    outages: how often the machines' own calls of AWS fail.
    copies: how often its event comes; 0: it is lost.
    answer: "heard", "unheard" (written down, but it wakes nobody) or "never".
    removed: "never", "at once" or "later".
    """

    route: str
    audited: bool
    readable: bool
    faults: dict[str, list[Fault]]
    outages: dict[str, int]
    copies: int
    answer: str
    removed: str
    key: str = field(default_factory=lambda: f"{uuid.uuid4()} +é.png")

    @property
    def may_be_missing(self) -> bool:
        """Whether there is a hole that no retry, no dead-letter queue and no duplicate can close."""
        lies = {"AlreadyAsked", "AlreadyAnswered"} & {fault.error for fault in self.faults["AskPersonFunction"]}
        lost = self.copies == 0 or self.outages["SendMessage"] > 0
        return bool(lies or lost or self.answer == "unheard" or self.removed != "never")


def scripts(function: str) -> st.SearchStrategy[list[Fault]]:
    """Nothing, or one error a few times, or a mixture."""
    trouble = [f"{kind}:{call}" for kind in ("outage", "throttling") for call in CALLS[function]]
    fault = st.builds(Fault, st.sampled_from(errors_of(function) + trouble), st.booleans())
    again = st.builds(lambda fault, times: [fault] * times, fault, st.integers(1, 5))
    return st.one_of(st.just([]), st.just([]), again, st.lists(fault, max_size=4))


@st.composite
def photos(draw: st.DrawFn) -> Photo:
    removed = draw(st.sampled_from(["never", "never", "never", "at once", "later"]))
    # Of an image that is removed before anything was written down about it, nothing can be known.
    known = removed == "at once"
    return Photo(
        route=draw(st.sampled_from(["accept", "review", "review", "reject"])),
        audited=draw(st.booleans()),
        readable=draw(st.sampled_from([True, True, True, False])),
        faults={function: draw(scripts(function)) for function in FUNCTIONS},
        outages={call: 0 if known else draw(st.sampled_from([0, 0, 1, 4])) for call in INTEGRATIONS},
        copies=1 if known else draw(st.sampled_from([0, 1, 1, 1, 2, 3])),
        answer=draw(st.sampled_from(["heard", "unheard", "never"])),
        removed=removed,
    )


class Trouble:
    """Makes what the photos plan happen; counts what was thrown."""

    def __init__(self) -> None:
        self.thrown: Counter[str] = Counter()
        self.sequences = self.uploads = 0
        self._photos: dict[str, Photo] = {}
        self._current = threading.local()  # the outage that the function in this thread is to meet
        self._lock = threading.Lock()

    def plan(self, planned: list[Photo]) -> None:
        self._photos = {photo.key: photo for photo in planned}
        self.faults = {photo.key: {name: list(faults) for name, faults in photo.faults.items()} for photo in planned}
        self.outages = {photo.key: dict(photo.outages) for photo in planned}

    def end(self) -> None:
        """From now on all goes well."""
        self.faults, self.outages = {}, {}

    def around(self, function: str, handler: Callable[..., Any]) -> Callable[..., Any]:
        """The handler with its photo's faults."""
        scope = inspect.unwrap(handler).__globals__

        def troubled(event: dict[str, Any], context: Any) -> Any:
            key = self._name(json.dumps(event, ensure_ascii=False))
            photo = self._photos[key]
            script = self.faults.get(key, {}).get(function)
            fault = script.pop(0) if script else None
            if fault:
                self.thrown[f"{FUNCTIONS[function][0]}: {fault}"] += 1
            if fault and ":" not in fault.error and not fault.late:
                raise raised(fault.error)
            if function == "RecordResultFunction":
                scope["AUDIT_RATE"] = float(photo.audited)
            self._current.outage = fault.error if fault and ":" in fault.error else ""
            try:
                answer = handler(event, context)
            finally:
                self._current.outage = ""
            if function == "DecideFunction":
                answer |= {"route": photo.route, "reason": "unsure"}
            if fault and ":" not in fault.error:
                raise raised(fault.error)
            return answer | {"photo": key} if function in list(FUNCTIONS)[:3] else answer

        return troubled

    def call(self, send: Callable[..., Any]) -> Callable[..., Any]:
        """boto3's calls, with outages."""

        def troubled(client: BaseClient, operation: str, parameters: dict[str, Any]) -> Any:
            kind, _, call = getattr(self._current, "outage", "").partition(":")
            if call == operation:
                raise unavailable(kind, operation)
            # The main thread plays EventBridge, which tries for a day.
            by_a_machine = threading.current_thread() is not threading.main_thread()
            if operation in INTEGRATIONS and by_a_machine and "NewUploads" not in parameters.get("QueueUrl", ""):
                key = self._name(str(parameters.get(INTEGRATIONS[operation])))
                with self._lock:
                    left = self.outages.get(key, {}).get(operation, 0)
                    if left:
                        self.outages[key][operation] = left - 1
                        self.thrown[f"{operation}: throttling"] += 1
                        raise unavailable("throttling", operation)
            return send(client, operation, parameters)

        return troubled

    def _name(self, text: str) -> str:
        """The photo that the text names."""
        return next((key for key in self._photos if key in text or json.dumps(key)[1:-1] in text), "")


def unavailable(kind: str, operation: str) -> Exception:
    if kind == "outage":
        return EndpointConnectionError(endpoint_url="https://nowhere")
    answer = {
        "Error": {"Code": "ThrottlingException", "Message": "injected"},
        "ResponseMetadata": {"HTTPStatusCode": 400},
    }
    return ClientError(answer, operation)  # type: ignore[arg-type]


# ---- the stack


@pytest.fixture(scope="module")
def trouble() -> Trouble:
    return Trouble()


@pytest.fixture(autouse=True)
def _told(trouble: Trouble, record_property: Callable[[str, object], None]) -> Iterator[None]:
    yield
    line = f"{trouble.uploads} uploads with a fault sequence each, in {trouble.sequences} runs: "
    line += f"{sum(trouble.thrown.values())} faults of {len(trouble.thrown)} kinds were thrown"
    record_property("conservation", line)


@pytest.fixture(scope="module")
def stack(trouble: Trouble) -> Iterator[Stack]:
    sleep = time.sleep
    with pytest.MonkeyPatch.context() as patch, deploy(PROJECT / "template.yaml") as stack:
        patch.setenv("MOTO_SQS_ENFORCE_STRICT_QUEUE_PURGE_BEHAVIOUR", "false")  # else once a minute
        patch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.005)))
        patch.setattr(BaseClient, "_make_api_call", trouble.call(BaseClient._make_api_call))  # type: ignore[attr-defined]
        for name in FUNCTIONS:
            function = stack.functions[name]
            function.handler = trouble.around(name, function.load())
        yield stack


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 90, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def run(stack: Stack, planned: list[Photo], shuffled: random.Random) -> dict[str, Key]:
    """Upload everything, lose, double and shuffle the events, and wait; each photo's key in the ledger."""
    bucket, keys = stack.outputs["ImageBucketName"], {}
    for number, photo in enumerate(planned):
        version = stack.upload(photo.key, png(number) if photo.readable else b"no photo")
        keys[photo.key] = (f"s3://{bucket}/{photo.key}", version)
        if photo.removed == "at once":
            stack.s3.delete_object(Bucket=bucket, Key=photo.key, VersionId=version)
    target = next(target for target in stack._targets if target.receiver.endswith(":UploadQueue"))
    events = take(stack, target.queue_url)
    by_key = {photo.key: photo for photo in planned}
    copies = [event for event in events for _ in range(by_key[event["detail"]["object"]["key"]].copies)]
    shuffled.shuffle(copies)
    for event in copies:
        stack.start(target, event)
    stack.settle()
    return keys


def take(stack: Stack, queue: str) -> list[dict[str, Any]]:
    """The S3 events in the queue, as EventBridge sends them."""
    events = []
    while batch := stack.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages"):
        for message in batch:
            event = json.loads(message["Body"])
            event["detail"]["object"]["etag"] = event["detail"]["object"].pop("eTag")
            events.append(event)
            stack.sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    return events


def answer(stack: Stack, planned: list[Photo], keys: dict[str, Key], trouble: Trouble) -> None:
    """People answer what they are asked about, as the photos plan it."""
    tables = stack.outputs["ReviewsTableName"], stack.outputs["RecordsTableName"]
    for photo in planned:
        if photo.answer == "never":
            continue
        key, now = keys[photo.key], datetime.now(UTC)
        trouble._current.outage = "outage:SendTaskSuccess" if photo.answer == "unheard" else ""
        try:
            change_review(stack.dynamodb, tables[0], *key, lambda review: claim(review, "Ada", now))  # noqa: B023
            answer_review(stack.dynamodb, stack.stepfunctions, tables, key, "bicycle", "Ada", LABELS, now)
        except (Refused, StoreUnavailable, LookupError):
            pass  # nobody was asked about it; or the outage
        finally:
            trouble._current.outage = ""
    unheard = {keys[photo.key][0] for photo in planned if photo.answer == "unheard"}
    abort(stack, [review for review in stack.reviews() if review.answer and review.image in unheard])
    stack.settle()


def abort(stack: Stack, reviews: list[Review]) -> None:
    """An operator stops the executions that wait for these reviews' answers, which would take them a day."""
    for review in reviews:
        if review.task_token:
            stack.stepfunctions.stop_execution(executionArn=review.execution)
            # moto looks whether it has been stopped only when something wakes it.
            with suppress(ClientError):
                stack.stepfunctions.send_task_failure(taskToken=review.task_token.get_secret_value())


def clear(stack: Stack) -> None:
    """An empty stack, where nobody waits."""
    abort(stack, stack.reviews())
    stack.settle()
    bucket = stack.outputs["ImageBucketName"]
    for found in stack.s3.list_object_versions(Bucket=bucket).get("Versions", []):
        stack.s3.delete_object(Bucket=bucket, Key=found["Key"], VersionId=found["VersionId"])
    for name in ("RecordsTableName", "ReviewsTableName", "LettersTableName"):
        table = stack.outputs[name]
        for item in stack.dynamodb.scan(TableName=table)["Items"]:
            stack.dynamodb.delete_item(TableName=table, Key={name: item[name] for name in ("image", "version")})
    for queue in ("DeadLetterQueueUrl", "NewUploadsQueueUrl"):
        stack.sqs.purge_queue(QueueUrl=stack.outputs[queue])  # those too that somebody holds


# ---- what must hold


def place_of(stack: Stack, key: Key) -> str:
    """Where the upload is, looked up one by one instead of all at once."""
    image, version = key
    _, _, bucket, name = image.split("/", 3)
    at = {"image": {"S": image}, "version": {"S": version}}
    versions = stack.s3.list_object_versions(Bucket=bucket, Prefix=name).get("Versions", [])
    record = stack.dynamodb.get_item(TableName=stack.outputs["RecordsTableName"], Key=at).get("Item")
    review = stack.dynamodb.get_item(TableName=stack.outputs["ReviewsTableName"], Key=at).get("Item")
    if not versions:
        return Lack.IMAGE
    if any(name in json.dumps(letter, ensure_ascii=False) for letter in stack.dead_letters()):
        return "dead_letter"
    if record is None:
        return Lack.DECISION
    if review and "answer" in review:
        told = record.get("review", {}).get("M", {}).get("status", {}).get("S") == "answered"
        return "reviewed" if told else Lack.ANSWER
    route = record["decision"]["M"]["route"]["S"]
    if review is None and (route == "review" or ("audited" in record)):
        return Lack.QUESTION
    return {"accept": "accepted", "reject": "rejected", "review": "waiting"}[route]


def assert_balanced(stack: Stack, keys: dict[str, Key]) -> Ledger:
    """Every upload is counted at exactly one place, the right one, and exactly what is missing is named."""
    ledger = stack.ledger()
    places = {key: place_of(stack, key) for key in keys.values()}
    lacking = {key: place for key, place in places.items() if place in list(Lack)}
    assert ledger.uploads == len(keys)
    assert ledger.under_way == 0
    assert {missing.key: missing.lack for missing in ledger.lacks} == lacking
    expected = Counter(place for key, place in places.items() if key not in lacking)
    assert {place: number for place, number in ledger.counts.items() if number and place != "missing"} == expected
    return ledger


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(planned=st.lists(photos(), min_size=1, max_size=6), order=st.integers(0, 99))
def test_the_ledger_balances_whatever_goes_wrong_and_sending_again_heals_it(
    stack: Stack, trouble: Trouble, planned: list[Photo], order: int
) -> None:
    note(f"{len(planned)} photos")
    trouble.plan(planned)
    trouble.sequences += 1
    trouble.uploads += len(planned)
    try:
        keys = run(stack, planned, random.Random(order))
        answer(stack, planned, keys, trouble)
        ledger = assert_balanced(stack, keys)
        named = {missing.image.rsplit("/", 1)[-1] for missing in ledger.lacks}
        assert named <= {photo.key for photo in planned if photo.may_be_missing}

        removed = {photo.key for photo in planned if photo.removed == "at once"}
        for photo in planned:
            settled = photo.key not in named  # else nothing is known of it but the image itself
            if photo.removed == "later" and settled:
                image, version = keys[photo.key]
                stack.s3.delete_object(Bucket=image.split("/")[2], Key=photo.key, VersionId=version)
                removed.add(photo.key)
        ledger = assert_balanced(stack, keys)
        gone = {missing.image.rsplit("/", 1)[-1] for missing in ledger.lacks if missing.lack is Lack.IMAGE}
        assert gone == removed

        trouble.end()
        send_again(stack.books(), ledger, wait_seconds=600, pause=stack.settle)
        ledger = assert_balanced(stack, keys)
        assert ledger.dead_letter == 0
        assert {missing.image.rsplit("/", 1)[-1] for missing in ledger.lacks} == removed
    finally:
        trouble.end()
        clear(stack)
