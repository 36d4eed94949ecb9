"""`train_model`, as the nested template deploys it: real handlers, SageMaker's control plane on moto, and its training
jobs played by a server that keeps to the documented contract."""

import hashlib
import io
import json
import re
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel, Shape
from PIL import Image
from typer.testing import CliRunner

from kickstand.events import Answer, ImageRef, ReviewStatus, Route, Shown
from kickstand.review.rules import AUDIT, Review
from kickstand.store import to_item
from kickstand_cli.local.stack import Stack, deploy
from kickstand_cli.main import app
from kickstand_cli.project import PROJECT, TEMPLATE
from kickstand_cli.training.training_source import pack_source
from tests.photos import odd_name

PARAMETERS = {
    "Training": "on",
    "TrainingImage": "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:cpu",
    "ServingImage": "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference:cpu",
    "ImageClassificationImage": "811284229777.dkr.ecr.us-east-1.amazonaws.com/image-classification:1",
    "TrainingPollSeconds": "0",
}
MODEL = ServiceModel(Loader().load_service_model("sagemaker", "service-2"), "sagemaker")
SHADES = {"bicycle": "#{:02x}0000", "motorcycle": "#00{:02x}00"}

CLASSES = {
    "L": "A-Za-z",
    "M": "",
    "N": "0-9",
    "P": r"!-/:-@\[-_{-}“”’",
    "S": "$+<-~",
    "Z": " ",
}  # Unicode's, near enough


def violations(value: Any, shape: Shape, place: str) -> Iterator[str]:
    """What SageMaker would refuse about a request, as far as its published model tells."""
    limits = shape.metadata
    if shape.type_name == "structure":
        members: dict[str, Shape] = shape.members  # type: ignore[attr-defined]
        yield from (f"{place}: no member {name}" for name in value.keys() - members.keys())
        yield from (f"{place}: lacks {name}" for name in set(limits.get("required", ())) - value.keys())
        for name in value.keys() & members.keys():
            yield from violations(value[name], members[name], f"{place}.{name}")
    elif shape.type_name == "list":
        for index, item in enumerate(value):
            yield from violations(item, shape.member, f"{place}[{index}]")  # type: ignore[attr-defined]
    elif shape.type_name == "map":
        for name, item in value.items():
            yield from violations(name, shape.key, f"{place} key")  # type: ignore[attr-defined]
            yield from violations(item, shape.value, f"{place}.{name}")  # type: ignore[attr-defined]
    elif shape.type_name == "string":
        if not isinstance(value, str):
            yield f"{place}: {value!r} is no text"
            return
        if not limits.get("min", 0) <= len(value) <= limits.get("max", len(value)):
            yield f"{place}: {len(value)} characters"
        allowed = limits.get("enum")
        if allowed and value not in allowed:
            yield f"{place}: {value} is none of {allowed}"
        pattern = re.sub(r"\\p\{(\w)\}", lambda kind: CLASSES[kind[1]], limits.get("pattern", ".*"))
        pattern = re.sub(r"\$\{1,\d+\}$", "$", pattern)  # as AWS writes some lengths
        if not re.fullmatch(pattern, value, re.DOTALL):
            yield f"{place}: {value!r} does not match {pattern}"
    elif shape.type_name == "integer" and not limits.get("min", value) <= value <= limits.get("max", value):
        yield f"{place}: {value!r}"


@dataclass
class SageMaker:
    """SageMaker's API on a local port: training jobs run through planned statuses, all else is moto's.

    play: called when a training job completes, to leave what it would leave on S3.
    """

    statuses: list[str] = field(default_factory=lambda: ["InProgress", "Completed"])
    failure: str = ""
    play: Callable[[dict[str, Any]], None] = lambda request: None
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    url: str = ""

    def answer(self, operation: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        shape = MODEL.operation_model(operation).input_shape
        if refused := [*violations(request, shape, operation)] if shape else []:
            return 400, {"__type": "ValidationException", "message": "; ".join(refused)}
        self.requests.append((operation, request))
        name = request.get("TrainingJobName", "")
        match operation:
            case "CreateTrainingJob" if name in self.jobs:
                return 400, {"__type": "ResourceInUse", "message": f"{name} exists"}
            case "CreateTrainingJob":
                self.jobs[name] = {**request, "left": list(self.statuses)}
                return 200, {"TrainingJobArn": f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{name}"}
            case "StopTrainingJob":
                self.jobs[name]["left"] = ["Stopped"]
                return 200, {}
            case "DescribeTrainingJob":
                return 200, self._describe(self.jobs[name])
        moto = boto3.client("sagemaker", endpoint_url="https://api.sagemaker.us-east-1.amazonaws.com")
        method = re.sub(r"(?<!^)([A-Z])", r"_\1", operation).lower()
        told = getattr(moto, method)(**request)
        told.pop("ResponseMetadata")
        return 200, told

    def _describe(self, job: dict[str, Any]) -> dict[str, Any]:
        status = job["left"].pop(0) if len(job["left"]) > 1 else job["left"][0]
        if status == "Completed":
            self.play(job)
        name, out = job["TrainingJobName"], job["OutputDataConfig"]["S3OutputPath"]
        return {
            "TrainingJobName": name,
            "TrainingJobArn": f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{name}",
            "ModelArtifacts": {"S3ModelArtifacts": f"{out}/{name}/output/model.tar.gz"},
            "TrainingJobStatus": status,
            "SecondaryStatus": "MaxWaitTimeExceeded" if status == "Stopped" else status,
            "AlgorithmSpecification": job["AlgorithmSpecification"],
            "ResourceConfig": job["ResourceConfig"],
            "StoppingCondition": job["StoppingCondition"],
            "CreationTime": datetime.now(UTC).timestamp(),
            **({"FailureReason": self.failure} if status == "Failed" else {}),
        }


@pytest.fixture(scope="module")
def sagemaker() -> Iterator[SageMaker]:
    service = SageMaker()

    class Api(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, told = service.answer(self.headers["X-Amz-Target"].split(".")[1], request)
            body = json.dumps(told, default=lambda moment: moment.timestamp()).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    service.url = f"http://127.0.0.1:{server.server_port}"
    yield service
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def stack(sagemaker: SageMaker) -> Iterator[Stack]:
    """The shipped template with its training, and a base dataset of two colours."""
    with deploy(TEMPLATE, PARAMETERS) as deployed, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", sagemaker.url)  # what was set before does not reach the stack
        bucket = deployed.outputs["TrainingBucketName"]
        for label, shade in SHADES.items():
            for split, brightest in (("train", 255), ("test", 200)):
                for step in range(8):
                    picture = paint(shade.format(brightest - step))
                    deployed.s3.put_object(Bucket=bucket, Key=f"base/{split}/{label}/{step}.png", Body=picture)
        deployed.s3.put_object(Bucket=bucket, Key="base/auxiliary.npz", Body=b"more images of neither")
        queue = deployed.sqs.create_queue(QueueName="told")["QueueUrl"]
        arn = deployed.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        deployed.sns.subscribe(TopicArn=deployed.outputs["AlarmTopicArn"], Protocol="sqs", Endpoint=arn)
        yield deployed


@pytest.fixture(autouse=True)
def _fresh(stack: Stack, sagemaker: SageMaker) -> None:
    """No training, and nothing told yet."""
    sagemaker.statuses, sagemaker.failure, sagemaker.play = ["InProgress", "Completed"], "", lambda request: None
    sagemaker.requests.clear()
    for identifier in ("training", "approval"):
        stack.dynamodb.delete_item(TableName=stack.outputs["ControlTableName"], Key={"id": {"S": identifier}})
    messages(stack)


def paint(shade: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), shade).save(file, "PNG")
    return file.getvalue()


def messages(stack: Stack) -> list[dict[str, str]]:
    """What the alarm topic was told since the last call."""
    url, told = stack.sqs.get_queue_url(QueueName="told")["QueueUrl"], []
    while batch := stack.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
        for message in batch:
            told.append(json.loads(message["Body"]))
            stack.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return told


def train(stack: Stack, **request: str) -> tuple[str, dict[str, Any]]:
    """Start a training, as a person does, and wait for its end; its status, and its state where it succeeded."""
    answer = call(stack, {"reason": "a test", **request})
    assert answer["started"], answer
    stack.settle()
    done = stack.stepfunctions.describe_execution(executionArn=answer["execution"])
    return done["status"], json.loads(done.get("output") or "{}")


def call(stack: Stack, event: dict[str, Any]) -> dict[str, Any]:
    invoked = boto3.client("lambda").invoke(
        FunctionName=stack.outputs["RequestTrainingFunctionName"], Payload=json.dumps(event)
    )
    told: dict[str, Any] = json.loads(invoked["Payload"].read())
    return told


def outcome(stack: Stack) -> dict[str, str]:
    """What the table of controls says of the last training."""
    key = {"id": {"S": "training"}}
    item = stack.dynamodb.get_item(TableName=stack.outputs["ControlTableName"], Key=key)["Item"]
    return {name: next(iter(value.values())) for name, value in item.items()}  # type: ignore[misc]


def leaves(stack: Stack, artefact: Path) -> Callable[[dict[str, Any]], None]:
    """A training job that makes this model."""

    def play(request: dict[str, Any]) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for name in ("model.onnx", "model.json"):
                archive.add(artefact / name, name)
        stack.s3.put_object(
            Bucket=stack.outputs["TrainingBucketName"],
            Key=f"jobs/{request['TrainingJobName']}/output/model.tar.gz",
            Body=packed.getvalue(),
        )

    return play


@pytest.fixture(scope="module")
def artefact(colour_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A model that goes by colour; with the labels the other way round it is always wrong."""

    def make(labels: Sequence[str]) -> Path:
        folder = colour_model(tmp_path_factory.mktemp("model"), labels, 32)
        card = json.loads((folder / "model.json").read_text())
        champion = json.loads((PROJECT / "layers/model/model/model.json").read_text("utf-8"))
        card["policy"] |= {"promise": champion["policy"]["promise"]}
        (folder / "model.json").write_text(json.dumps(card))
        return folder

    return make


def packages(group: str) -> list[dict[str, Any]]:
    client = boto3.client("sagemaker")
    summaries = client.list_model_packages(ModelPackageGroupName=group)["ModelPackageSummaryList"]
    return [client.describe_model_package(ModelPackageName=one["ModelPackageArn"]) for one in summaries]


def put_review(stack: Stack, key: str, shade: str, label: str, why: str) -> None:
    """A photo that somebody has answered."""
    bucket = "photos"  # not the uploads': those would be classified too
    stack.s3.create_bucket(Bucket=bucket)
    stack.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    version = stack.s3.put_object(Bucket=bucket, Key=key, Body=paint(shade))["VersionId"]
    now = datetime.now(UTC)
    ref = ImageRef(bucket=bucket, key=key, etag="e", version_id=version, uploaded_at=now)
    review = Review(
        image=ref.uri,
        version=version,
        image_ref=ref,
        why=why,
        route=Route.REVIEW,
        explanation="",
        audit_probability=1.0,
        status=ReviewStatus.ANSWERED,
        requested_at=now,
        execution="arn",
        task_token=None,
        answer=Answer(
            label=label, reviewer="Ada", answered_at=now, seconds_taken=1, shown=Shown(explanation="", choices=())
        ),
    )
    stack.dynamodb.put_item(TableName=stack.outputs["ReviewsTableName"], Item=to_item(review))


def test_a_better_challenger_is_registered_and_waits_for_approval(
    stack: Stack, sagemaker: SageMaker, artefact: Callable[..., Path]
) -> None:
    put_review(stack, "new.png", "#ee0000", "bicycle", "unsure")
    put_review(stack, "audited.png", "#00ee00", "motorcycle", AUDIT)
    put_review(stack, "both.png", "#c80000", "bicycle", "unsure")  # the brightest held-out bicycle
    put_review(stack, "blurred.png", "#777777", "cannot_tell", "unsure")
    sagemaker.play = leaves(stack, artefact(("bicycle", "motorcycle")))
    status, state = train(stack)
    assert status == "SUCCEEDED", outcome(stack)["outcome"]
    dataset = state["dataset"]
    assert dataset["counts"] == {"test/bicycle": 8, "test/motorcycle": 9, "train/bicycle": 9, "train/motorcycle": 8}
    assert (dataset["reviewed"], dataset["audited"]) == (1, 1)
    assert dataset["left_out"] == {"cannot_tell": 1, "held_out": 1}
    training_bucket, folder = stack.outputs["TrainingBucketName"], f"runs/{dataset['name']}/dataset"
    assert stack.s3.list_objects_v2(Bucket=training_bucket, Prefix=f"{folder}/train/")["KeyCount"] == 17
    copied = stack.s3.get_object(Bucket=training_bucket, Key=f"{folder}/auxiliary.npz")["Body"].read()
    assert copied == b"more images of neither"

    (package,) = packages(stack.outputs["ModelPackageGroupName"])
    assert package["ModelApprovalStatus"] == "PendingManualApproval"
    assert "challenger colours can replace champion" in package["ModelPackageDescription"]
    (container,) = package["InferenceSpecification"]["Containers"]
    assert container["Image"] == PARAMETERS["ServingImage"]
    assert container["ModelDataUrl"].endswith(f"/jobs/kickstand-{dataset['name']}/output/model.tar.gz")
    statistics = package["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"]
    bucket, _, key = statistics.removeprefix("s3://").partition("/")
    verdict = json.loads(stack.s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    assert verdict["promote"] is True
    assert verdict["challenger"]["coverage"]["n"] == 17
    (registered,) = (request for operation, request in sagemaker.requests if operation == "CreateModelPackage")
    assert registered["CustomerMetadataProperties"]["data_sha256"] == dataset["data_sha256"]
    key = f"jobs/kickstand-{dataset['name']}/output/model.tar.gz"
    judged = stack.s3.get_object(Bucket=training_bucket, Key=key)
    assert registered["CustomerMetadataProperties"]["artefact_version"] == judged["VersionId"]
    sha256 = hashlib.sha256(judged["Body"].read()).hexdigest()
    assert registered["CustomerMetadataProperties"]["artefact_sha256"] == sha256
    assert registered["ModelCard"]["ModelCardStatus"] == "PendingReview"
    (evaluation,) = json.loads(registered["ModelCard"]["ModelCardContent"])["evaluation_details"]
    assert evaluation["metadata"] == {"data_sha256": dataset["data_sha256"], "report": statistics}
    measured = {metric["name"]: metric["value"] for metric in evaluation["metric_groups"][0]["metric_data"]}
    assert measured["coverage"] == verdict["challenger"]["coverage"]["value"]
    (told,) = messages(stack)
    assert told["Subject"] == "Kickstand training, registered"
    assert "Started because of a test." in told["Message"]
    assert outcome(stack)["result"] == "registered"


def test_a_worse_challenger_is_not_registered_and_the_reason_is_told(
    stack: Stack, sagemaker: SageMaker, artefact: Callable[..., Path]
) -> None:
    before = len(packages(stack.outputs["ModelPackageGroupName"]))
    sagemaker.play = leaves(stack, artefact(("motorcycle", "bicycle")))
    status, state = train(stack)
    assert status == "SUCCEEDED", outcome(stack)["outcome"]
    assert state["evaluation"]["promote"] is False
    assert len(packages(stack.outputs["ModelPackageGroupName"])) == before
    (told,) = messages(stack)
    assert told["Subject"] == "Kickstand training, champion stays"
    assert "the guarantee is broken" in told["Message"]
    assert "the guarantee is broken" in outcome(stack)["outcome"]


@pytest.mark.parametrize(
    ("statuses", "failure", "reason"),
    [
        (
            ["InProgress", "Failed"],
            "AlgorithmError: train/red/0.png: cannot be read",
            "train/red/0.png: cannot be read",
        ),
        (["Stopping", "Stopped"], "", "the training job was stopped (MaxWaitTimeExceeded)"),
    ],
)
def test_a_job_that_fails_or_is_stopped_fails_the_execution_with_its_reason(
    stack: Stack, sagemaker: SageMaker, statuses: list[str], failure: str, reason: str
) -> None:
    sagemaker.statuses, sagemaker.failure = statuses, failure
    status, _ = train(stack)
    assert status == "FAILED"
    (told,) = messages(stack)
    assert told["Subject"] == "Kickstand training, failed"
    assert reason in told["Message"]
    assert reason in outcome(stack)["outcome"]


def test_a_job_that_is_never_done_is_stopped(stack: Stack, sagemaker: SageMaker) -> None:
    sagemaker.statuses = ["InProgress"]
    machine = stack.stepfunctions.describe_state_machine(stateMachineArn=stack.outputs["TrainModelStateMachineArn"])
    hasty = machine["definition"].replace("StringToJson('1500')", "StringToJson('3')")
    assert hasty != machine["definition"]
    stack.stepfunctions.update_state_machine(stateMachineArn=machine["stateMachineArn"], definition=hasty)
    try:
        status, _ = train(stack)
    finally:
        stack.stepfunctions.update_state_machine(
            stateMachineArn=machine["stateMachineArn"], definition=machine["definition"]
        )
    assert status == "FAILED"
    assert [operation for operation, _ in sagemaker.requests].count("DescribeTrainingJob") == 4
    assert sagemaker.requests[-1][0] == "StopTrainingJob"
    assert "not done after 3 checks" in outcome(stack)["outcome"]


def test_an_artefact_that_is_none_fails_the_execution_with_its_reason(stack: Stack, sagemaker: SageMaker) -> None:
    sagemaker.play = lambda request: stack.s3.put_object(  # type: ignore[assignment]
        Bucket=stack.outputs["TrainingBucketName"],
        Key=f"jobs/{request['TrainingJobName']}/output/model.tar.gz",
        Body=b"no archive",
    )
    assert train(stack)[0] == "FAILED"
    assert "model.tar.gz cannot be read" in outcome(stack)["outcome"]


def test_sagemakers_own_image_classification_is_judged_by_what_its_container_answers(
    stack: Stack, sagemaker: SageMaker
) -> None:
    def play(request: dict[str, Any]) -> None:
        """Its artefact stays closed to us; the batch transform's answers are right, but too few for the promise."""
        name = request["TrainingJobName"].removeprefix("kickstand-")
        bucket = stack.outputs["TrainingBucketName"]
        for item in stack.s3.list_objects_v2(Bucket=bucket, Prefix=f"runs/{name}/dataset/test/")["Contents"]:
            row = [0.98, 0.02] if "/bicycle/" in item["Key"] else [0.01, 0.99]
            file = item["Key"].rpartition("/")[2]
            body = json.dumps({"prediction": row}).encode()
            stack.s3.put_object(Bucket=bucket, Key=f"runs/{name}/answers/test/{file}.out", Body=body)
        key = f"jobs/{request['TrainingJobName']}/output/model.tar.gz"
        stack.s3.put_object(Bucket=bucket, Key=key, Body=b"whatever that algorithm keeps")

    sagemaker.play = play
    status, state = train(stack, algorithm="image-classification")
    assert status == "SUCCEEDED", outcome(stack)["outcome"]
    operations = [operation for operation, _ in sagemaker.requests]
    assert [name for name in operations if name.startswith("Create")] == [
        "CreateTrainingJob",
        "CreateModel",
        "CreateTransformJob",
    ]
    job = sagemaker.requests[0][1]
    assert [channel["ChannelName"] for channel in job["InputDataConfig"]] == [
        "train",
        "validation",
        "train_lst",
        "validation_lst",
    ]
    assert job["HyperParameters"]["num_classes"] == "2"
    assert "test/" not in json.dumps(job), "what is held out is not for choosing an epoch"
    assert state["evaluation"]["promote"] is False
    assert "the challenger has no valid guarantee" in state["evaluation"]["reason"]
    assert "these photos cannot show" in state["evaluation"]["reason"]


def test_a_model_that_an_earlier_attempt_has_made_is_used(stack: Stack, sagemaker: SageMaker) -> None:
    def play(request: dict[str, Any]) -> None:
        boto3.client("sagemaker").create_model(
            ModelName=request["TrainingJobName"],
            ExecutionRoleArn=request["RoleArn"],
            PrimaryContainer={"Image": PARAMETERS["ImageClassificationImage"], "ModelDataUrl": "s3://bucket/model"},
        )

    sagemaker.play = play
    train(stack, algorithm="image-classification")
    assert "CreateTransformJob" in [operation for operation, _ in sagemaker.requests]


@pytest.mark.parametrize(
    ("decision", "subject", "said"),
    [
        ("Rejected", "Kickstand: challenger rejected", "too few night photos. The champion stays."),
        ("Approved", "Kickstand: challenger approved", "It is not deployed yet."),
    ],
)
def test_a_decision_about_a_challenger_is_recorded_told_and_passed_on(
    stack: Stack, decision: str, subject: str, said: str
) -> None:
    group = stack.outputs["ModelPackageGroupName"]
    client = boto3.client("sagemaker")
    package = client.create_model_package(
        ModelPackageGroupName=group,
        ModelApprovalStatus="PendingManualApproval",
        InferenceSpecification={
            "Containers": [{"Image": PARAMETERS["ServingImage"], "ModelDataUrl": "s3://bucket/model.tar.gz"}],
            "SupportedContentTypes": ["image/png"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
    )["ModelPackageArn"]
    client.update_model_package(
        ModelPackageArn=package, ModelApprovalStatus=decision, ApprovalDescription="too few night photos"
    )
    queue = stack.sqs.create_queue(QueueName=f"pipeline-{decision}")["QueueUrl"]
    listen(stack, queue, "Model Approved")
    event = json.loads((PROJECT / "events/announce_approval.json").read_text("utf-8"))
    event["detail"] |= {
        "ModelPackageArn": package,
        "ModelPackageGroupName": group,
        "ModelApprovalStatus": decision,
    }
    for _ in range(2):  # SageMaker may send it more than once
        publish(stack, event)
        stack.settle()
    (told,) = messages(stack)
    assert told["Subject"] == subject
    assert said in told["Message"]
    key = {"id": {"S": "approval"}}
    noted = stack.dynamodb.get_item(TableName=stack.outputs["ControlTableName"], Key=key)["Item"]
    assert noted["decision"] == {"S": decision}
    passed_on = stack.sqs.receive_message(QueueUrl=queue).get("Messages", [])
    assert len(passed_on) == (decision == "Approved")
    for message in passed_on:
        assert json.loads(message["Body"])["detail"]["artefact_uri"] == "s3://bucket/model.tar.gz"


@pytest.mark.parametrize(
    ("replaced", "subject"), [(False, "Kickstand: challenger approved"), (True, "Kickstand: challenger was replaced")]
)
def test_what_is_approved_is_the_file_that_was_judged(stack: Stack, replaced: bool, subject: str) -> None:
    group, bucket = stack.outputs["ModelPackageGroupName"], stack.outputs["TrainingBucketName"]
    key = f"jobs/kickstand-{replaced}/output/model.tar.gz"
    judged = stack.s3.put_object(Bucket=bucket, Key=key, Body=b"judged")["VersionId"]
    package = boto3.client("sagemaker").create_model_package(
        ModelPackageGroupName=group,
        ModelApprovalStatus="Approved",
        InferenceSpecification={
            "Containers": [{"Image": PARAMETERS["ServingImage"], "ModelDataUrl": f"s3://{bucket}/{key}"}],
            "SupportedContentTypes": ["image/png"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
        CustomerMetadataProperties={"artefact_version": judged, "artefact_sha256": "0" * 64},
    )["ModelPackageArn"]
    if replaced:
        stack.s3.put_object(Bucket=bucket, Key=key, Body=b"another")
    event = json.loads((PROJECT / "events/announce_approval.json").read_text("utf-8"))
    event["detail"] |= {
        "ModelPackageArn": package,
        "ModelPackageGroupName": group,
        "ModelApprovalStatus": "Approved",
    }
    publish(stack, event)
    stack.settle()
    (told,) = messages(stack)
    assert told["Subject"] == subject
    assert judged in told["Message"]


def listen(stack: Stack, queue: str, detail_type: str) -> None:
    pattern = json.dumps({"source": ["kickstand"], "detail-type": [detail_type]})
    rule = queue.rpartition("/")[2]
    stack.events.put_rule(Name=rule, EventPattern=pattern)
    arn = stack.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    stack.events.put_targets(Rule=rule, Targets=[{"Id": "queue", "Arn": arn}])


def publish(stack: Stack, event: dict[str, Any]) -> None:
    stack.events.put_events(
        Entries=[{"Source": event["source"], "DetailType": event["detail-type"], "Detail": json.dumps(event["detail"])}]
    )


def test_a_degraded_model_starts_one_training_and_no_second_within_the_week(
    stack: Stack, sagemaker: SageMaker, artefact: Callable[..., Path]
) -> None:
    sagemaker.play = leaves(stack, artefact(("motorcycle", "bicycle")))
    degraded = {
        "source": "kickstand",
        "detail-type": "Model Degraded",
        "detail": {"bucket": stack.outputs["ImageBucketName"], "reason": "brightness has moved"},
    }
    created = len(sagemaker.jobs)
    for _ in range(2):
        publish(stack, degraded)
        stack.settle()
    assert len(sagemaker.jobs) == created + 1
    assert outcome(stack)["reason"] == "the model is degraded: brightness has moved"
    refused = call(stack, degraded)
    assert refused == {
        "started": False,
        "reason": "the last training was requested less than 7 days ago",
        "execution": None,
    }


def test_the_daily_look_starts_nothing_while_people_have_answered_little(stack: Stack, sagemaker: SageMaker) -> None:
    looked = call(stack, json.loads((PROJECT / "events/request_training.json").read_text("utf-8")))
    assert (looked["started"], looked["execution"]) == (False, None)
    assert looked["reason"].endswith("new labels, fewer than 200")
    assert not sagemaker.requests


def test_another_stacks_degraded_model_starts_nothing(stack: Stack, sagemaker: SageMaker) -> None:
    created = len(sagemaker.jobs)
    publish(
        stack,
        {"source": "kickstand", "detail-type": "Model Degraded", "detail": {"bucket": "another", "reason": "x"}},
    )
    stack.settle()
    assert len(sagemaker.jobs) == created


@pytest.fixture
def outputs(stack: Stack, tmp_path: Path) -> Path:
    """The stack's outputs, as the commands read them."""
    file = tmp_path / "outputs.json"
    file.write_text(json.dumps(stack.outputs))
    return file


def test_the_first_upload_brings_images_code_and_the_champion_and_the_second_no_other_champion(
    stack: Stack, outputs: Path, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        (tmp_path / "dataset" / split / "bicycle").mkdir(parents=True)
        (tmp_path / "dataset" / split / "bicycle" / "mine.png").write_bytes(paint("#aa0000"))
    odd_name(tmp_path / "dataset/test/bicycle", b"caf\xe9.png").write_bytes(paint("#00aa00"))
    boto3.client("sagemaker").create_model_package_group(ModelPackageGroupName="empty")
    told_of = {**stack.outputs, "ModelPackageGroupName": "empty"}
    outputs.write_text(json.dumps(told_of))
    for said in ("champion registered as", "the registry already has a champion"):
        told = CliRunner().invoke(app, ["training", "upload", str(tmp_path / "dataset"), "--outputs", str(outputs)])
        assert told.exit_code == 4, told.output  # the other tests' photos are left
        assert said in told.output
    bucket = stack.outputs["TrainingBucketName"]
    source = stack.s3.get_object(Bucket=bucket, Key="source/sourcedir.tar.gz")["Body"].read()
    assert source == pack_source()
    assert stack.s3.get_object(Bucket=bucket, Key="base/test/bicycle/mine.png")["Body"].read() == paint("#aa0000")
    odd = stack.s3.get_object(Bucket=bucket, Key=r"base/test/bicycle/caf\udce9.png")["Body"].read()
    assert odd == paint("#00aa00")
    (champion,) = packages("empty")
    assert champion["ModelApprovalStatus"] == "Approved"
    for key in ("train/bicycle/mine.png", "test/bicycle/mine.png", r"test/bicycle/caf\udce9.png"):
        stack.s3.delete_object(Bucket=bucket, Key=f"base/{key}")


def test_the_command_starts_a_training_and_none_beside_it(
    stack: Stack, sagemaker: SageMaker, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sagemaker.statuses = ["Failed"]
    command = ["training", "start", "--reason", "new cameras", "--outputs", str(outputs)]
    ask = ["training", "status", "--outputs", str(outputs)]
    none = CliRunner().invoke(app, ask)
    assert (none.exit_code, none.stdout) == (0, "This stack has started no training.\n")
    asked, describe = threading.Event(), sagemaker._describe
    monkeypatch.setattr(sagemaker, "_describe", lambda *parts: asked.wait() and describe(*parts))
    first = CliRunner().invoke(app, command)
    second = CliRunner().invoke(app, command)
    asked.set()
    stack.settle()
    status = CliRunner().invoke(app, ask)
    assert status.exit_code == 4, status.output
    assert status.stdout.startswith("failed, started ")
    assert status.stdout.splitlines()[0].endswith(" UTC: new cameras")
    told = json.loads(CliRunner().invoke(app, [*ask, "--json"]).stdout)
    assert (told["status"], told["outcome"]) == ("failed", outcome(stack)["outcome"])
    assert (first.exit_code, second.exit_code) == (0, 1), second.output
    assert "a training is in progress" in second.stderr
    assert outcome(stack)["reason"] == "new cameras"


@pytest.mark.parametrize("reason", [" ", "x" * 1001])
def test_a_training_without_a_reason_or_with_one_too_long_is_refused(outputs: Path, reason: str) -> None:
    told = CliRunner().invoke(app, ["training", "start", "--reason", reason, "--outputs", str(outputs)])
    assert told.exit_code == 2
    assert "--reason" in told.stderr


def test_without_training_the_command_says_what_to_deploy(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "outputs.json").write_text(json.dumps({"ImageBucketName": "photos"}))
    told = CliRunner().invoke(app, ["training", "start", "--reason", "x", "--outputs", str(tmp_path / "outputs.json")])
    assert told.exit_code == 1
    assert "deploy it with Training=on" in told.stderr
