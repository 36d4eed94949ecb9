"""Each handler, loaded as Lambda loads it, on its sample event in events/; AWS is moto, in this process."""

import base64
import copy
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from botocore.stub import Stubber
from moto import mock_aws
from PIL import Image
from pydantic import ValidationError

from kickstand.classify.admission import NOT_KEPT
from kickstand.classify.artefact import read_card
from kickstand.classify.endpoint import EndpointModel
from kickstand.classify.images import MAX_IMAGE_BYTES
from kickstand.errors import InvalidImage, ModelUnavailable, StoreUnavailable
from kickstand.events import PreparedImage
from kickstand.store import from_item
from kickstand_cli.local.functions import Context
from kickstand_cli.local.template import Template
from kickstand_cli.project import PROJECT

MODEL = PROJECT / "layers/model/model"
BUCKET, KEY = "kickstand-photos", "uploads/bicycle.png"
PHOTO = (PROJECT / "events/photo.png").read_bytes()


def sample(event: str) -> dict[str, Any]:
    """The event as `sam local invoke -e events/<event>.json` sends it."""
    content: dict[str, Any] = json.loads((PROJECT / f"events/{event}.json").read_bytes())
    return content


def environment(name: str) -> dict[str, str]:
    """The function's variables in the template; a resource is called by its logical ID."""
    template = Template(PROJECT / "template.yaml", {}, str, "{}.{}".format)
    functions = [
        resource["Properties"]
        for resource in template.resources.values()
        if resource.get("Properties", {}).get("CodeUri") == f"functions/{name}"
    ]
    layers = [template.function_globals, *functions]
    variables = {k: v for layer in layers for k, v in layer.get("Environment", {}).get("Variables", {}).items()}
    return {variable: str(value) for variable, value in template.resolve(variables).items()}


class Loaded:
    """A function's app.py after a cold start in its environment; call it with an event."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
        local = {
            "MODEL_DIR": str(MODEL),
            "POWERTOOLS_SERVICE_NAME": uuid.uuid4().hex,  # loggers are cached by service, with the stdout of their time
            "AUDIT_RATE": "0",  # nothing by lot
            "RETENTION_DAYS": "0",
        }
        for variable, value in (environment(name) | local | changes).items():
            monkeypatch.setenv(variable, value)
        spec = importlib.util.spec_from_file_location(f"{name}.app", PROJECT / f"functions/{name}/app.py")
        assert spec is not None
        assert spec.loader is not None
        self.module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)

    def __call__(self, event: dict[str, Any]) -> dict[str, Any]:
        answer = self.module.handler(copy.deepcopy(event), Context("Function", 512))
        return dict(json.loads(json.dumps(answer)))  # Lambda sends it as JSON


@pytest.fixture
def aws() -> Iterator[None]:
    with mock_aws():
        yield


# ---- uploads that wait


MACHINE = "arn:aws:states:us-east-1:123456789012:stateMachine:ClassifyImageStateMachine"
Asked = list[dict[str, Any]]


@pytest.fixture
def queue(aws: None) -> str:
    return str(boto3.client("sqs").create_queue(QueueName="UploadQueue")["QueueUrl"])


def received(queue: str, *bodies: dict[str, Any]) -> dict[str, Any]:
    """The messages as Lambda gives them to the function."""
    sqs = boto3.client("sqs")
    for body in bodies:
        sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(body))
    found = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, VisibilityTimeout=1800)["Messages"]
    names = {"messageId": "MessageId", "receiptHandle": "ReceiptHandle", "body": "Body"}
    return {"Records": [{name: dict(message)[theirs] for name, theirs in names.items()} for message in found]}


def load_admit(monkeypatch: pytest.MonkeyPatch, queue: str, **settings: str) -> Loaded:
    dead_letters = boto3.client("sqs").create_queue(QueueName="DeadLetterQueue")["QueueUrl"]
    return Loaded("admit_uploads", monkeypatch, UPLOAD_QUEUE=queue, DEAD_LETTER_QUEUE=dead_letters, **settings)


def admitting(monkeypatch: pytest.MonkeyPatch, queue: str, **end: str) -> tuple[Loaded, Asked]:
    """The function, whose executions end so, and what they were started with: moto runs none of EXPRESS."""
    admit = load_admit(monkeypatch, queue, CLASSIFY_IMAGE=MACHINE)
    asked: Asked = []

    def execute(params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]]:
        asked.append(json.loads(json.loads(params["body"])["input"]))
        if not end:
            raise ReadTimeoutError(endpoint_url="https://sync-states")
        return SimpleNamespace(status_code=200), end

    admit.module.WORKFLOW.stepfunctions.meta.events.register("before-call.sfn.StartSyncExecution", execute)
    return admit, asked


def test_an_upload_that_comes_alone_is_started_and_not_waited_for(queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    admit, waited_for = admitting(monkeypatch, queue, status="SUCCEEDED")
    started: Asked = []

    def start(params: Any, **_: Any) -> Any:
        started.append(json.loads(json.loads(params["body"])["input"]))
        return SimpleNamespace(status_code=200), {"executionArn": "any"}

    admit.module.WORKFLOW.stepfunctions.meta.events.register("before-call.sfn.StartExecution", start)
    assert admit(received(queue, sample("s3_object_created"))) == {"batchItemFailures": []}
    assert (started, waited_for) == ([sample("s3_object_created")], [])


@pytest.mark.parametrize("end", [{"status": "SUCCEEDED"}, {"status": "FAILED", "error": "ValueError"}])
def test_uploads_that_were_executed_leave_the_queue(
    queue: str, monkeypatch: pytest.MonkeyPatch, end: dict[str, str]
) -> None:
    admit, asked = admitting(monkeypatch, queue, **end)
    assert admit(received(queue, *[sample("s3_object_created")] * 2)) == {"batchItemFailures": []}
    assert asked == [sample("s3_object_created")] * 2


@pytest.mark.parametrize("end", [{"status": "TIMED_OUT"}, {"status": "FAILED", "error": NOT_KEPT}, {}])
def test_an_upload_that_was_neither_decided_nor_kept_comes_back_after_a_minute(
    queue: str, monkeypatch: pytest.MonkeyPatch, end: dict[str, str]
) -> None:
    """The last case: nobody knows how the execution ended."""
    admit, _ = admitting(monkeypatch, queue, **end)
    changed: Asked = []
    admit.module.sqs.meta.events.register(
        "provide-client-params.sqs.ChangeMessageVisibility", lambda params, **_: changed.append(params)
    )
    event = received(queue, sample("s3_object_created"), sample("s3_object_created"))
    assert [one["itemIdentifier"] for one in admit(event)["batchItemFailures"]] == [
        record["messageId"] for record in event["Records"]
    ]
    assert [(one["ReceiptHandle"], one["VisibilityTimeout"]) for one in changed] == [
        (record["receiptHandle"], 60) for record in event["Records"]
    ]


def test_a_postponed_upload_is_executed_from_the_start_and_its_attempts_are_counted_but_for_throttling(
    queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    admit, asked = admitting(monkeypatch, queue, status="SUCCEEDED")
    first = sample("s3_object_created")
    late = {**first, "prediction": {}, "error": {"Error": "States.Timeout", "Cause": ""}}
    throttled = {**late, "error": {"Error": "Lambda.TooManyRequestsException", "Cause": ""}}
    admit(received(queue, late, {**late, "attempts": 8}, {**throttled, "attempts": 3}))
    assert sorted(one["attempts"] for one in asked) == [1, 3, 9]
    kept = {"source", "detail-type", "time", "detail"}
    assert all(one == {name: first[name] for name in kept} | {"attempts": one["attempts"]} for one in asked)


@pytest.mark.parametrize(
    "body",
    [
        "photo.jpg",
        "5",
        "null",
        "[]",
        "NaN",
        "[" * 100_000,
        '{"error": 5}',
        '{"error": {"Error": "A"}, "attempts": "x"}',
    ],
)
def test_a_message_that_is_not_an_upload_becomes_a_dead_letter_and_the_photo_beside_it_is_decided(
    queue: str, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    admit, asked = admitting(monkeypatch, queue, status="SUCCEEDED")
    event = received(queue, sample("s3_object_created"), sample("s3_object_created"))
    event["Records"][0]["body"] = body
    dead: list[str] = []

    def send(params: Any, **_: Any) -> Any:
        dead.append(json.loads(params["body"])["MessageBody"])
        return SimpleNamespace(status_code=200), {}

    admit.module.sqs.meta.events.register("before-call.sqs.SendMessage", send)
    assert admit(event) == {"batchItemFailures": []}
    assert (dead, asked) == ([body], [sample("s3_object_created")])


def test_a_message_that_the_dead_letter_queue_does_not_take_comes_back_alone(
    queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    admit, asked = admitting(monkeypatch, queue, status="SUCCEEDED")
    event = received(queue, sample("s3_object_created"), sample("s3_object_created"))
    event["Records"][0]["body"] = "[]"

    def fail(**_: Any) -> Any:
        raise ReadTimeoutError(endpoint_url="https://sqs")

    admit.module.sqs.meta.events.register("before-call.sqs.SendMessage", fail)
    name = event["Records"][0]["messageId"]
    assert admit(event) == {"batchItemFailures": [{"itemIdentifier": name}]}
    assert asked == [sample("s3_object_created")]


def test_a_message_that_comes_twice_starts_one_standard_execution(queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stepfunctions = boto3.client("stepfunctions")
    arn = stepfunctions.create_state_machine(
        name="ClassifyImageStateMachine",
        definition=json.dumps({"StartAt": "Image Accepted", "States": {"Image Accepted": {"Type": "Succeed"}}}),
        roleArn="arn:aws:iam::123456789012:role/any",
    )["stateMachineArn"]
    admit = load_admit(monkeypatch, queue, CLASSIFY_IMAGE=arn, WORKFLOW_TYPE="STANDARD")
    event = received(queue, sample("s3_object_created"))
    assert [admit(event), admit(event)] == [{"batchItemFailures": []}] * 2
    assert len(stepfunctions.list_executions(stateMachineArn=arn)["executions"]) == 1


# ---- Prepare Image


@pytest.fixture
def s3(aws: None) -> Any:
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture
def prepare_image(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    return Loaded("prepare_image", monkeypatch)


def pixels(prepared: dict[str, Any]) -> bytes:
    return Image.open(io.BytesIO(base64.b64decode(prepared["png"]))).tobytes()


def test_the_upload_becomes_the_input_of_classify_image(prepare_image: Loaded, s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key=KEY, Body=PHOTO)
    prepared, expected = prepare_image(sample("prepare_image")), sample("classify_image")
    assert pixels(prepared) == pixels(expected)  # the same pixels may be compressed differently elsewhere
    assert {**prepared, "png": ""} == {**expected, "png": ""}


def test_the_version_of_the_event_is_read_though_a_newer_one_lies_over_it(prepare_image: Loaded, s3: Any) -> None:
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    event = sample("s3_object_created")
    event["detail"]["object"]["version-id"] = s3.put_object(Bucket=BUCKET, Key=KEY, Body=PHOTO)["VersionId"]
    s3.put_object(Bucket=BUCKET, Key=KEY, Body=b"something else")
    assert prepare_image(event)["sha256"] == sample("classify_image")["sha256"]


def test_an_upload_that_is_gone_is_an_invalid_image(prepare_image: Loaded) -> None:
    with pytest.raises(InvalidImage, match=rf"^s3://{BUCKET}/{KEY}: no longer there$"):
        prepare_image(sample("prepare_image"))


def test_a_version_that_is_gone_is_an_invalid_image(prepare_image: Loaded, s3: Any) -> None:
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    event = sample("s3_object_created")
    version = s3.put_object(Bucket=BUCKET, Key=KEY, Body=PHOTO)["VersionId"]
    s3.delete_object(Bucket=BUCKET, Key=KEY, VersionId=version)
    event["detail"]["object"]["version-id"] = version
    with pytest.raises(InvalidImage, match="no longer there"):
        prepare_image(event)


def test_an_upload_that_was_replaced_is_an_invalid_image(prepare_image: Loaded, s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key=KEY, Body=b"something else")
    with pytest.raises(InvalidImage, match="replaced before it was read"):
        prepare_image(sample("prepare_image"))


def test_a_file_that_is_too_large_is_refused(prepare_image: Loaded, s3: Any) -> None:
    event = sample("prepare_image")
    etag = s3.put_object(Bucket=BUCKET, Key=KEY, Body=bytes(MAX_IMAGE_BYTES + 1))["ETag"]
    event["detail"]["object"]["etag"] = etag.strip('"')
    with pytest.raises(InvalidImage, match=f"{MAX_IMAGE_BYTES + 1:,} bytes, more than {MAX_IMAGE_BYTES:,}"):
        prepare_image(event)


@pytest.mark.parametrize("content", [b"", PHOTO[:200]])
def test_what_is_no_photo_is_an_invalid_image_with_its_name(prepare_image: Loaded, s3: Any, content: bytes) -> None:
    event = sample("prepare_image")
    event["detail"]["object"]["etag"] = s3.put_object(Bucket=BUCKET, Key=KEY, Body=content)["ETag"].strip('"')
    with pytest.raises(InvalidImage, match=KEY):
        prepare_image(event)


def test_what_is_no_photo_is_an_answer_where_the_state_machine_asks_for_one(prepare_image: Loaded) -> None:
    event = sample("prepare_image") | {"unreadable": "answer"}
    assert prepare_image(event) == {"unreadable": f"s3://{BUCKET}/{KEY}: no longer there"}


@pytest.mark.parametrize(("code", "status"), [("SlowDown", 503), ("InternalError", 500), ("ThrottlingException", 400)])
def test_trouble_in_s3_that_passes_is_worth_a_retry(prepare_image: Loaded, code: str, status: int) -> None:
    with Stubber(prepare_image.module.s3) as stub:
        stub.add_client_error("get_object", code, http_status_code=status)
        with pytest.raises(StoreUnavailable, match=code):
            prepare_image(sample("prepare_image"))


def test_a_missing_permission_is_neither_the_photos_fault_nor_worth_a_retry(prepare_image: Loaded) -> None:
    with Stubber(prepare_image.module.s3) as stub:
        stub.add_client_error("get_object", "AccessDenied", http_status_code=403)
        with pytest.raises(ClientError, match="AccessDenied"):
            prepare_image(sample("prepare_image"))


def test_no_pixel_is_logged(s3: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    s3.put_object(Bucket=BUCKET, Key=KEY, Body=PHOTO)
    png = Loaded("prepare_image", monkeypatch)(sample("prepare_image"))["png"]
    logged = capsys.readouterr().out
    assert '"message":"prepared"' in logged
    assert png[:100] not in logged


# ---- Classify Image


def assert_is_prediction(answer: dict[str, Any], backend: str) -> None:
    assert tuple(answer["probabilities"]) == read_card(MODEL).labels
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert answer["confidence"] == max(answer["probabilities"].values()) == answer["probabilities"][answer["label"]]
    assert answer["backend"] == backend


def test_the_embedded_model_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Loaded("classify_image", monkeypatch, INFERENCE_BACKEND="embedded")(sample("classify_image"))
    assert_is_prediction(answer, "embedded")
    assert answer["model_version"] == read_card(MODEL).model_version


def test_the_embedded_model_answers_the_same_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    classify_image = Loaded("classify_image", monkeypatch, INFERENCE_BACKEND="embedded")
    first, second = classify_image(sample("classify_image")), classify_image(sample("classify_image"))
    assert {**first, "latency_ms": 0} == {**second, "latency_ms": 0}


def test_an_unknown_backend_stops_the_function_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"INFERENCE_BACKEND\n.*'embedded' or 'sagemaker'"):
        Loaded("classify_image", monkeypatch, INFERENCE_BACKEND="tea leaves")


def test_an_empty_variable_stops_the_function_at_once_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"RecordResultSettings\nRECORDS_TABLE\n"):
        Loaded("record_result", monkeypatch, RECORDS_TABLE="")


def test_a_damaged_model_stops_the_function_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(MODEL, tmp_path, dirs_exist_ok=True)
    network = tmp_path / "model.onnx"
    network.write_bytes(network.read_bytes()[:-1] + b"?")
    with pytest.raises(ModelUnavailable, match=r"model\.onnx: SHA-256 .* its card says"):
        Loaded("classify_image", monkeypatch, INFERENCE_BACKEND="embedded", MODEL_DIR=str(tmp_path))


def test_a_missing_model_stops_the_function_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=re.escape(str(tmp_path))):
        Loaded("classify_image", monkeypatch, INFERENCE_BACKEND="embedded", MODEL_DIR=str(tmp_path))


class Endpoint:
    """Speaks InvokeEndpoint: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html.

    answer: status, error type for other than 200, and body of what it says next.
    requests: path, content type and body of what it was asked.
    """

    def __init__(self) -> None:
        self.answer: tuple[int, str, bytes] = (200, "", b"")
        self.requests: list[tuple[str, str | None, bytes]] = []
        endpoint = self

        class Api(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.requests.append((self.path, self.headers["Content-Type"], body))
                status, error, answer = endpoint.answer
                self.send_response(status)
                if error:
                    self.send_header("x-amzn-ErrorType", error)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Api)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    endpoint = Endpoint()
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", endpoint.url)
    serving = threading.Thread(target=endpoint.server.serve_forever, args=(0.05,))
    serving.start()
    yield endpoint
    endpoint.server.shutdown()
    serving.join()
    endpoint.server.server_close()


@pytest.fixture
def circuits(aws: None) -> Any:
    """The circuit's item in the control table, or None."""
    dynamodb = boto3.client("dynamodb")
    key: Any = [{"AttributeName": "id", "KeyType": "HASH"}]
    attributes: Any = [{"AttributeName": "id", "AttributeType": "S"}]
    dynamodb.create_table(
        TableName="ControlTable", KeySchema=key, AttributeDefinitions=attributes, BillingMode="PAY_PER_REQUEST"
    )
    return lambda: dynamodb.get_item(TableName="ControlTable", Key={"id": {"S": "endpoint:photos"}}).get("Item")


@pytest.fixture
def classify_image(endpoint: Endpoint, circuits: Any, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    from aws_lambda_powertools.utilities.circuit_breaker import base

    base._LOCAL_FAILURES.clear()  # of earlier sandboxes
    patient = {"ENDPOINT_TIMEOUT_SECONDS": "60", "ENDPOINT_RECOVERY_SECONDS": "3600"}  # however slow the machine is
    return Loaded("classify_image", monkeypatch, INFERENCE_BACKEND="sagemaker", ENDPOINT_NAME="photos", **patient)


def shares() -> list[float]:
    """Probabilities for the model's labels, the first the largest."""
    others = len(read_card(MODEL).labels) - 1
    return [0.9, *[0.1 / others] * others]


def test_the_endpoint_gets_the_prepared_image_and_its_answer_is_the_prediction(
    classify_image: Loaded, endpoint: Endpoint
) -> None:
    labels = read_card(MODEL).labels
    said = {"probabilities": dict(zip(labels, shares(), strict=True)), "neither": 0.02, "model_version": "7"}
    endpoint.answer = (200, "", json.dumps(said).encode())
    answer = classify_image(sample("classify_image"))
    assert_is_prediction(answer, "sagemaker")
    assert (answer["label"], answer["neither"], answer["model_version"]) == (labels[0], 0.02, "7")
    png = base64.b64decode(sample("classify_image")["png"])
    assert endpoint.requests == [("/endpoints/photos/invocations", "image/png", png)]


def test_the_bare_list_of_the_built_in_algorithm_is_understood(classify_image: Loaded, endpoint: Endpoint) -> None:
    endpoint.answer = (200, "", json.dumps(shares()).encode())
    answer = classify_image(sample("classify_image"))
    assert_is_prediction(answer, "sagemaker")
    assert (answer["label"], answer["neither"]) == (read_card(MODEL).labels[0], 0.0)


@pytest.mark.parametrize(
    ("status", "error"),
    [(424, "ModelError"), (400, "Throttling")],
)
def test_when_the_endpoint_fails_the_embedded_model_answers_and_says_why(
    classify_image: Loaded, endpoint: Endpoint, status: int, error: str
) -> None:
    endpoint.answer = (status, error, b'{"Message": "out of order"}')
    answer = classify_image(sample("classify_image"))
    assert_is_prediction(answer, "embedded")
    assert answer["fallback"].startswith("endpoint photos: ")
    assert "out of order" in answer["fallback"]
    assert len(endpoint.requests) == 1


def test_three_failures_in_a_row_open_the_circuit_for_every_sandbox(
    classify_image: Loaded, endpoint: Endpoint, circuits: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.answer = (500, "InternalFailure", b"{}")
    answers = [classify_image(sample("classify_image")) for _ in range(5)]
    assert {answer["backend"] for answer in answers} == {"embedded"}
    assert [answer["fallback"].startswith("the circuit is open") for answer in answers] == [False] * 3 + [True] * 2
    assert len(endpoint.requests) == 3
    assert circuits()["state"] == {"S": "OPEN"}
    assert "expires_at" in circuits()
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum("CircuitOpen" in line for line in told) == 1
    assert sum("FallbackAnswers" in line for line in told) == 5


def test_what_the_endpoint_answers_is_no_fallback(classify_image: Loaded, endpoint: Endpoint, circuits: Any) -> None:
    endpoint.answer = (200, "", json.dumps(shares()).encode())
    assert classify_image(sample("classify_image"))["fallback"] is None
    assert circuits() is None


def test_the_circuits_table_out_of_reach_stops_nobody(
    classify_image: Loaded, endpoint: Endpoint, recwarn: pytest.WarningsRecorder
) -> None:
    boto3.client("dynamodb").delete_table(TableName="ControlTable")
    endpoint.answer = (200, "", json.dumps(shares()).encode())
    assert classify_image(sample("classify_image"))["backend"] == "sagemaker"
    endpoint.answer = (500, "InternalFailure", b"{}")
    assert [classify_image(sample("classify_image"))["backend"] for _ in range(4)] == ["embedded"] * 4


def test_the_embedded_models_sandbox_imports_nothing_of_the_endpoints() -> None:
    program = "import sys, app; print(sorted({'boto3', 'kickstand.classify.endpoint'} & sys.modules.keys()))"
    variables = environment("classify_image") | {"MODEL_DIR": str(MODEL)}
    folder = PROJECT / "functions/classify_image"
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=variables, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"<html>", b"null", b"[]", b"{}"),
        *(b"[0.5]", b"[0.2, 0.3, 0.5]", b'["a", "b"]', b"[NaN, NaN]", b"[7, -6]"),
        b'{"probabilities": [1]}',
        b'{"probabilities": {"cow": 1.0}, "neither": 0, "model_version": "1"}',
    ],
)
def test_an_answer_that_is_none_names_the_endpoint(body: bytes) -> None:
    runtime: Any = SimpleNamespace(invoke_endpoint=lambda **_: {"Body": io.BytesIO(body)})
    model = EndpointModel(runtime, "photos", read_card(MODEL))
    with pytest.raises(ModelUnavailable, match="endpoint photos: unreadable answer"):
        model.predict(PreparedImage.model_validate(sample("classify_image")))


def test_for_an_answer_that_is_none_the_embedded_model_answers(classify_image: Loaded, endpoint: Endpoint) -> None:
    endpoint.answer = (200, "", b"<html>")
    assert "endpoint photos: unreadable answer" in classify_image(sample("classify_image"))["fallback"]


# ---- Decide


def to_decide(**changes: Any) -> dict[str, Any]:
    """The sample event, with another prediction."""
    event = sample("decide")
    return {**event, "prediction": event["prediction"] | changes}


def test_a_prediction_becomes_a_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Loaded("decide", monkeypatch)(to_decide(confidence=1.0, neither=0.0))
    assert (answer["route"], answer["reason"]) == ("accept", "confident")
    assert answer["policy_version"] == read_card(MODEL).policy.policy_version


def test_a_prediction_that_is_none_is_our_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="confidence"):
        Loaded("decide", monkeypatch)(to_decide(confidence=1.5))


def test_a_switch_that_is_none_accepts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Loaded("decide", monkeypatch)(
        {**to_decide(confidence=1.0), "switch": {"Item": {"reason": {"S": "night"}}}}
    )
    assert (answer["route"], answer["reason"]) == ("review", "review_everything")
    assert "cannot be read" in answer["explanation"]


# ---- Record Result


@pytest.fixture
def table(aws: None) -> Any:
    return boto3.resource("dynamodb").create_table(
        TableName="RecordsTable",
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("image", "version")],
        KeySchema=[{"AttributeName": "image", "KeyType": "HASH"}, {"AttributeName": "version", "KeyType": "RANGE"}],
    )


@pytest.fixture
def announced(aws: None) -> Any:
    """Call it for the events that were published since the last call."""
    sqs, events = boto3.client("sqs"), boto3.client("events")
    url = sqs.create_queue(QueueName="announced")["QueueUrl"]
    events.put_rule(Name="all", EventPattern='{"source": ["kickstand"]}')
    events.put_targets(Rule="all", Targets=[{"Id": "queue", "Arn": "arn:aws:sqs:us-east-1:123456789012:announced"}])

    def receive() -> list[dict[str, Any]]:
        messages = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
        return [json.loads(message["Body"]) for message in messages]

    return receive


@pytest.fixture
def record_result(table: Any, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    return Loaded("record_result", monkeypatch)


def stored() -> list[Any]:
    return [from_item(item) for item in boto3.client("dynamodb").scan(TableName="RecordsTable")["Items"]]


def test_the_decision_is_recorded_and_announced(record_result: Loaded, announced: Any) -> None:
    event = sample("record_result")
    version = event["state"]["detail"]["object"]["version-id"]
    assert record_result(event) == {"image": f"s3://{BUCKET}/{KEY}", "version": version, "duplicate": False}
    (record,) = stored()
    assert record.prepared_image.sha256 == sample("classify_image")["sha256"]
    assert record.prediction.model_dump(mode="json", exclude_none=True) == sample("decide")["prediction"]
    assert record.execution == event["execution"].rpartition(":")[2]
    (news,) = announced()
    assert (news["source"], news["detail-type"]) == ("kickstand", "Image Classified")
    assert (news["detail"]["image"], news["resources"]) == (record.image, [event["execution"]])


def test_a_second_execution_for_the_same_upload_changes_nothing_and_announces_the_first(
    record_result: Loaded, announced: Any
) -> None:
    first = sample("record_result")
    record_result(first)
    before = stored()
    announced()
    changed = {**first["state"], "decision": {"route": "reject", "reason": "neither"}}
    second = {"execution": f"{first['execution']}-again", "state": changed}
    assert record_result(second)["duplicate"] is True
    assert stored() == before
    (news,) = announced()
    assert news["detail"]["execution"] == first["execution"].rpartition(":")[2]
    assert news["resources"] == [second["execution"]]


def test_a_retry_of_the_same_execution_is_no_duplicate(record_result: Loaded) -> None:
    assert [record_result(sample("record_result"))["duplicate"] for _ in range(2)] == [False, False]
    assert len(stored()) == 1


def test_an_unsure_decision_asks_for_a_review(record_result: Loaded, announced: Any) -> None:
    event = sample("record_result")
    event["state"]["decision"] |= {"route": "review", "reason": "unsure"}
    record_result(event)
    assert {news["detail-type"] for news in announced()} == {"Image Classified", "Review Requested"}


def test_an_unreadable_upload_is_recorded_with_what_was_wrong(record_result: Loaded) -> None:
    whole = sample("record_result")["state"]
    state = {name: value for name, value in whole.items() if name not in ("prepared_image", "prediction")}
    state["decision"] = {"route": "reject", "reason": "unreadable"}
    state["error"] = {"Error": "InvalidImage", "Cause": json.dumps({"errorMessage": "photo.png: 0 bytes"})}
    record_result({"state": state, "execution": "arn:execution"})
    (record,) = stored()
    assert (record.decision.explanation, record.prediction) == ("photo.png: 0 bytes", None)


@pytest.mark.parametrize(
    ("code", "status"), [("ProvisionedThroughputExceededException", 400), ("InternalServerError", 500)]
)
def test_trouble_in_the_table_that_passes_is_worth_a_retry(record_result: Loaded, code: str, status: int) -> None:
    with Stubber(record_result.module.dynamodb) as stub:
        stub.add_client_error("put_item", code, http_status_code=status)
        with pytest.raises(StoreUnavailable, match=code):
            record_result(sample("record_result"))


def test_an_event_that_the_bus_refuses_is_worth_a_retry(record_result: Loaded) -> None:
    refusal = {"FailedEntryCount": 1, "Entries": [{"ErrorCode": "ThrottlingException", "ErrorMessage": "slowly"}]}
    with Stubber(record_result.module.events) as stub:
        stub.add_response("put_events", refusal)
        with pytest.raises(StoreUnavailable, match="ThrottlingException: slowly"):
            record_result(sample("record_result"))


def test_a_missing_table_is_our_fault(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        Loaded("record_result", monkeypatch)(sample("record_result"))


# ---- the sample events themselves


def test_the_sample_events_are_what_their_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("make_events", PROJECT / "events/make.py")
    assert spec is not None
    assert spec.loader is not None
    make: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)

    def without_compressed_pixels(event: Any) -> Any:
        return json.loads(re.sub(r'"png": "[^"]*"', '"png": ""', json.dumps(event)))

    for name, event in make.compose(PHOTO).items():
        assert without_compressed_pixels(sample(name)) == without_compressed_pixels(event), name


def test_every_function_has_a_sample_event() -> None:
    functions = {path.parent.name for path in PROJECT.glob("functions/*/app.py")}
    assert functions <= {path.stem for path in PROJECT.glob("events/*.json")}
