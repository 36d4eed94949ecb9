"""The shipped classify_image state machine, real handlers, moto for the rest: every route, Retry and Catch."""

import io
import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from botocore.client import BaseClient
from botocore.exceptions import EndpointConnectionError
from PIL import Image

from kickstand.classify.admission import NOT_KEPT
from kickstand.events import Route
from kickstand.records import Record
from kickstand_cli.local.stack import Stack, deploy
from kickstand_cli.project import PROJECT
from tests.photos import png
from tests.workflow.conftest import Faults, event_of, raised, retried

STATES = yaml.safe_load((PROJECT / "statemachine/classify_image.asl.yaml").read_text())["States"]
TASKS = {  # the state and its function
    "Prepare Image": "PrepareImageFunction",
    "Classify Image": "ClassifyImageFunction",
    "Decide": "DecideFunction",
    "Record Result": "RecordResultFunction",
}


@pytest.fixture(scope="module")
def stack(faults: Faults) -> Iterator[Stack]:
    with deploy(PROJECT / "template.yaml", faults=faults) as stack:
        yield stack


def upload(stack: Stack, data: bytes) -> str:
    """Uploads under a new key and waits for its outcome; returns the image's URI."""
    key = f"a folder/{uuid.uuid4()} +%2F é.png"
    stack.upload(key, data)
    stack.settle()
    return f"s3://{stack.outputs['ImageBucketName']}/{key}"


def record_of(stack: Stack, image: str) -> Record:
    (record,) = (record for record in stack.records() if record.image == image)
    return record


def executions_of(stack: Stack, image: str) -> list[dict[str, Any]]:
    key = image.split("/", 3)[3]
    return [
        dict(stack.stepfunctions.describe_execution(executionArn=execution["executionArn"]))
        for execution in stack.executions()
        if execution["stateMachineArn"] == stack.outputs["ClassifyImageStateMachineArn"]
        and event_of(stack, execution["executionArn"])["detail"]["object"]["key"] == key
    ]


def announcements(stack: Stack) -> Callable[[], list[dict[str, Any]]]:
    """Subscribes a queue to the events that Kickstand publishes; call the result to read what came."""
    name = f"announcements-{uuid.uuid4().hex[:8]}"
    url = stack.sqs.create_queue(QueueName=name)["QueueUrl"]
    arn = stack.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    stack.events.put_rule(Name=name, EventPattern=json.dumps({"source": ["kickstand"]}))
    stack.events.put_targets(Rule=name, Targets=[{"Id": "queue", "Arn": arn}])

    def read() -> list[dict[str, Any]]:
        messages = stack.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
        return [json.loads(message["Body"]) for message in messages]

    return read


@pytest.mark.parametrize("error", sorted({error for state in TASKS for error in retried(STATES[state])}))
def test_an_error_that_passes_is_retried_until_the_image_is_decided(stack: Stack, faults: Faults, error: str) -> None:
    """One photo meets it in every state that is to retry it."""
    for state, function in TASKS.items():
        attempts = retried(STATES[state]).get(error, 0)
        faults.planned[function] = [raised(error) for _ in range(attempts)]
    image = upload(stack, png())
    assert [faults.planned[function] for function in TASKS.values()] == [[]] * len(TASKS)
    assert [execution["status"] for execution in executions_of(stack, image)] == ["SUCCEEDED"]
    assert record_of(stack, image).image == image


@pytest.mark.parametrize("state", TASKS)
def test_an_error_that_stays_fails_the_execution_and_keeps_the_event_in_the_dead_letter_queue(
    stack: Stack, faults: Faults, state: str
) -> None:
    faults.planned[TASKS[state]] = [raised("ValueError")]
    before = len(stack.dead_letters())
    image = upload(stack, png())
    (execution,) = executions_of(stack, image)
    assert (execution["status"], execution["error"]) == ("FAILED", "ValueError")
    assert "injected" in execution["cause"]
    kept = stack.dead_letters()
    assert len(kept) == before + 1
    letter = next(letter for letter in kept if letter["detail"]["object"]["key"] == image.split("/", 3)[3])
    assert letter["error"]["Error"] == "ValueError"
    assert image not in {record.image for record in stack.records()}


@pytest.mark.parametrize(
    ("error", "attempts", "letters"),
    [
        ("Lambda.TooManyRequestsException", 12, 0),  # however often
        ("StoreUnavailable", 9, 0),
        ("StoreUnavailable", 11, 1),
    ],
)
def test_what_is_only_late_goes_back_to_the_queue_of_uploads(
    stack: Stack, faults: Faults, error: str, attempts: int, letters: int
) -> None:
    """One execution after the other meets it: throttling without end, an outage ten times and once more."""
    of_one = 1 + retried(STATES["Prepare Image"])[error]
    faults.planned["PrepareImageFunction"] = [raised(error) for _ in range(attempts * of_one)]
    before = len(stack.dead_letters())
    image = upload(stack, png())
    found = executions_of(stack, image)
    assert faults.planned["PrepareImageFunction"] == []
    assert Counter(execution["status"] for execution in found)["FAILED"] == letters
    assert len(stack.dead_letters()) == before + letters
    assert [record.image for record in stack.records() if record.image == image] == [image] * (1 - letters)
    assert len(found) == attempts + 1 - letters
    assert all("prepared_image" not in json.loads(execution["input"]) for execution in found)


def test_uploads_whose_admission_dies_before_its_work_or_after_it_give_one_record_each(
    stack: Stack, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = stack.functions["AdmitUploadsFunction"]
    admit, deaths = function.load(), ["after its work"]

    def dying(event: dict[str, Any], context: Any) -> Any:
        answer = admit(event, context)
        if deaths:
            raise TimeoutError(deaths.pop())
        return answer

    monkeypatch.setattr(function, "handler", dying)
    faults.planned["AdmitUploadsFunction"] = [raised("Sandbox.Timedout")]
    stack.upload("first.png", png("red"))
    image = upload(stack, png("blue"))
    assert (faults.planned["AdmitUploadsFunction"], deaths) == ([], [])
    first = image.rsplit("/", 2)[0] + "/first.png"
    assert [record_of(stack, one).image for one in (first, image)] == [first, image]


def test_an_upload_that_no_queue_takes_back_fails_under_a_name_of_its_own(
    stack: Stack, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = BaseClient._make_api_call  # type: ignore[attr-defined]
    before = len(stack.dead_letters())
    faults.planned["PrepareImageFunction"] = [raised("ValueError")]

    def broken(client: BaseClient, operation: str, parameters: dict[str, Any]) -> Any:
        if operation == "SendMessage" and "injected" in parameters["MessageBody"]:
            raise EndpointConnectionError(endpoint_url="https://sqs")
        return call(client, operation, parameters)

    monkeypatch.setattr(BaseClient, "_make_api_call", broken)
    (execution,) = executions_of(stack, upload(stack, png()))
    assert (execution["status"], execution["error"]) == ("FAILED", NOT_KEPT)
    assert len(stack.dead_letters()) == before


def test_a_corrupt_file_becomes_a_rejected_record_with_a_reason(stack: Stack) -> None:
    image = upload(stack, png()[:60])
    record = record_of(stack, image)
    assert (record.decision.route, record.decision.reason) == ("reject", "unreadable")
    assert "upload incomplete; send it again" in record.decision.explanation
    assert [execution["status"] for execution in executions_of(stack, image)] == ["SUCCEEDED"]


def test_a_photo_too_dark_to_be_judged_is_sent_back_with_what_to_do(stack: Stack) -> None:
    night = io.BytesIO()
    Image.new("RGB", (640, 480), "#0a0a0a").save(night, "PNG")
    record = record_of(stack, upload(stack, night.getvalue()))
    assert (record.decision.route, record.decision.reason) == ("reject", "retake")
    assert record.decision.explanation == "too dark; take the photo again with more light"
    assert record.prediction
    assert record.audit_probability == 0.0


def test_an_image_that_was_deleted_meanwhile_becomes_a_rejected_record(stack: Stack) -> None:
    version = stack.upload("gone.png", png())
    stack.s3.delete_object(Bucket=stack.outputs["ImageBucketName"], Key="gone.png", VersionId=version)
    stack.settle()
    record = record_of(stack, f"s3://{stack.outputs['ImageBucketName']}/gone.png")
    assert record.decision.explanation.endswith("no longer there")


def test_the_same_upload_delivered_twice_gives_one_record(stack: Stack) -> None:
    read = announcements(stack)
    image = upload(stack, png())
    first = record_of(stack, image)
    stack.start(stack._targets[0], json.loads(executions_of(stack, image)[0]["input"]))
    stack.settle()
    assert [execution["status"] for execution in executions_of(stack, image)] == ["SUCCEEDED"] * 2
    assert record_of(stack, image) == first
    announced = Counter((event["detail-type"], event["detail"]["version"]) for event in read())
    assert announced[("Image Classified", first.version)] == 2  # at least once: both name the same record


def test_the_same_key_uploaded_anew_gives_a_second_record(stack: Stack) -> None:
    for colour in ("red", "blue"):
        stack.upload("again.png", png(colour))
    stack.settle()
    versions = [record for record in stack.records() if record.image.endswith("/again.png")]
    assert len({record.version for record in versions}) == 2
    hashes = {record.prepared_image.sha256 for record in versions if record.prepared_image}
    assert len(hashes) == 2


def test_every_decision_is_announced_with_its_record(stack: Stack) -> None:
    read = announcements(stack)
    image = upload(stack, png())
    events = {event["detail-type"]: event["detail"] for event in read()}
    record = record_of(stack, image)
    assert Record.model_validate(events["Image Classified"]).model_dump() == record.model_dump()
    assert ("Review Requested" in events) == record.asks_a_person


def test_a_record_whose_announcement_failed_is_announced_by_the_next_attempt(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function dies between writing the record and saying so: the retry finds the record and says it."""
    call = BaseClient._make_api_call  # type: ignore[attr-defined]
    outages = ["first attempt"]

    def broken(client: BaseClient, operation: str, parameters: dict[str, Any]) -> Any:
        if operation == "PutEvents" and outages:
            outages.pop()
            raise EndpointConnectionError(endpoint_url="https://events")
        return call(client, operation, parameters)

    monkeypatch.setattr(BaseClient, "_make_api_call", broken)
    read = announcements(stack)
    image = upload(stack, png())
    assert outages == []
    assert [event["detail"]["image"] for event in read() if event["detail-type"] == "Image Classified"] == [image]


def test_an_event_of_another_shape_is_our_fault_and_kept(stack: Stack) -> None:
    before = len(stack.dead_letters())
    stack.start(
        stack._targets[0], {"time": "2026-05-01T12:00:00Z", "detail": {"bucket": {}, "object": {"key": "malformed"}}}
    )
    stack.settle()
    letters = stack.dead_letters()
    assert len(letters) == before + 1
    malformed = next(letter for letter in letters if letter["detail"]["object"]["key"] == "malformed")
    assert malformed["error"]["Error"] == "ValidationError"


def test_a_slow_machine_times_no_state_out(stack: Stack) -> None:
    machine = stack.outputs["ClassifyImageStateMachineArn"]
    assert '"TimeoutSeconds"' not in stack.stepfunctions.describe_state_machine(stateMachineArn=machine)["definition"]


@pytest.mark.parametrize("route", Route)
def test_every_route_ends_where_it_says(stack: Stack, monkeypatch: pytest.MonkeyPatch, route: str) -> None:
    ends = {"accept": "Image Accepted", "review": "Review Requested", "reject": "Image Rejected"}
    monkeypatch.setattr(
        stack.functions["DecideFunction"],
        "handler",
        lambda event, context: {"route": route, "reason": "confident", "explanation": "as the test wants it"},
    )
    (execution,) = executions_of(stack, upload(stack, png()))
    history = stack.stepfunctions.get_execution_history(executionArn=execution["executionArn"])["events"]
    entered = [event["stateEnteredEventDetails"]["name"] for event in history if "stateEnteredEventDetails" in event]
    prepared = ["Allow Unreadable", "Prepare Image", "Readable?"]
    decided = ["Classify Image", "Read Switch", "Decide", "Record Result", "Confident Enough?"]
    assert entered == [*prepared, *decided, ends[route]]
