"""Runs one version of Kickstand, on moto: `write FOLDER [retake]` leaves what its stack holds, `read FOLDER` continues.

retake: leave out the photo that is rejected for a retake.

tests/deploy/test_upgrade.py starts it with another version's packages on PYTHONPATH, so it keeps to names that every
version has: the local stack, the commands, and the functions' logical IDs.
"""

import io
import json
import pickle
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import boto3
from moto.s3.models import s3_backends
from PIL import Image, ImageEnhance

import kickstand
from kickstand_cli.local.stack import Stack, deploy
from kickstand_cli.main import app

VERSION = Path(kickstand.__file__).parents[3]  # the checkout of the version that runs
SAMPLES = Path(__file__).parents[2] / "samples/images"  # the same photos for every version
PARAMETERS = {
    "AuditRate": "1",  # a person is asked about every photo that is accepted
    "Training": "on",
    "TrainingImage": "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:cpu",
    "ServingImage": "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference:cpu",
    "TrainingPollSeconds": "1",
}
TABLES = ("RecordsTableName", "ReviewsTableName", "ControlTableName")
ENDS_WITH_THE_ANSWER = {"claim", "place", "queue", "skipped_at", "task_token"}
BUCKETS = ("ImageBucketName", "ReportBucketName", "TrainingBucketName")
MACHINES = {
    "classify": "ClassifyImageStateMachineArn",
    "review": "ReviewImageStateMachineArn",
    "train": "TrainModelStateMachineArn",
}
Item = dict[str, Any]
Key = tuple[str, str]


class OneVersion:
    """A stack of the version that runs, and its commands on it."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack = stack
        # The monitor leaves the latest minutes for its next run; here there are no older ones.
        stack._lambdas.functions["MonitorFunction"].environment["LAG_SECONDS"] = "0"  # type: ignore[index]
        self.outputs = folder / f"outputs-{stack.outputs['ImageBucketName']}.json"
        self.outputs.write_text(json.dumps(stack.outputs))

    def command(self, *arguments: str, exits: int = 0) -> str:
        """What `kickstand` prints. Raises AssertionError where it exits otherwise."""
        printed, said = io.StringIO(), io.StringIO()
        code = 0
        with redirect_stdout(printed), redirect_stderr(said):
            try:
                app([*arguments, "--outputs", str(self.outputs)])
            except SystemExit as end:
                code = int(end.code or 0)
        assert code in (0, exits), (
            f"kickstand {' '.join(arguments)}: exit code {code}: {said.getvalue()}{printed.getvalue()}"
        )
        return printed.getvalue()

    def invoke(self, function: str, **event: Any) -> Any:
        """What the function returns. Raises AssertionError where it fails."""
        _, headers, body = self.stack.invoke(function, json.dumps(event).encode())
        answer = json.loads(body)
        assert "X-Amz-Function-Error" not in headers, f"{function}: {answer['errorType']}: {answer['errorMessage']}"
        return answer

    def ask(self, **event: str) -> dict[str, Any]:
        """The reviewers' page, for Ada."""
        page: dict[str, Any] = self.invoke("ReviewFunction", format="json", reviewer="Ada", **event)
        return page

    def answer_next(self, label: str) -> Key:
        """Answer what the page shows; returns what that was."""
        shown = self.ask()["review"]
        notice = self.ask(action="answer", image=shown["image"], version=shown["version"], label=label)["notice"]
        assert not notice, notice
        return shown["image"], shown["version"]

    def items(self, table: str) -> list[Item]:
        pages = self.stack.dynamodb.get_paginator("scan").paginate(TableName=self.stack.outputs[table])
        return [dict(item) for page in pages for item in page["Items"]]


# ---- write


def write(folder: Path, *left_out: str) -> None:
    """Photos of every outcome, a dead letter, an answered, a skipped and a waiting review, a switch, a training."""
    failing: list[str] = []

    def faults(function: str) -> None:
        if function == "ClassifyImageFunction" and failing:
            raise RuntimeError(failing.pop())

    with deploy(VERSION / "template.yaml", PARAMETERS, faults) as stack:
        version = OneVersion(stack, folder)
        for name in ("bicycle/red-road-bike", "motorcycle/red-road", "bicycle/ridden", "neither/cat", "hard/scooter"):
            stack.upload(f"{name}.jpg", (SAMPLES / f"{name}.jpg").read_bytes())
        stack.upload("a folder/document +%2F é.pdf", (SAMPLES / "broken/document.pdf").read_bytes())
        if "retake" not in left_out:
            stack.upload("dark.jpg", darkened(SAMPLES / "bicycle/blue-city-bike.jpg"))
        stack.settle()
        failing.append("injected")
        stack.upload("fails.jpg", (SAMPLES / "motorcycle/black-sport.jpg").read_bytes())
        stack.settle()
        version.command("switch", "on", "--reason", "new cameras", "--for", "4h", "--by", "Ada")
        stack.upload("under the switch.jpg", (SAMPLES / "bicycle/mountain-bike.jpg").read_bytes())
        stack.settle()
        version.answer_next("bicycle")
        shown = version.ask()["review"]
        version.ask(action="skip", image=shown["image"], version=shown["version"])
        stack.settle()
        train(version)
        for function in ("MonitorFunction", "KeepLedgerFunction", "ReportFunction"):
            version.invoke(function)
        stack.settle()
        if "partitions" in left_out:
            stack_queues(version)
        left = {
            "tables": {table: version.items(table) for table in TABLES},
            "buckets": {bucket: list(objects(stack, stack.outputs[bucket])) for bucket in BUCKETS},
            "letters": stack.dead_letters(),
            "machines": {name: machine(stack, output) for name, output in MACHINES.items()},
        }
        (folder / "left.pickle").write_bytes(pickle.dumps(left))


def stack_queues(version: OneVersion) -> None:
    """Put all open reviews into the queue's first partition."""
    for item in version.items("ReviewsTableName"):
        if "queue" in item:
            item["queue"] = {"S": item["queue"]["S"].partition("#")[0]}
            version.stack.dynamodb.put_item(TableName=version.stack.outputs["ReviewsTableName"], Item=item)


def darkened(photo: Path) -> bytes:
    file = io.BytesIO()
    with Image.open(photo) as picture:
        ImageEnhance.Brightness(picture.convert("RGB")).enhance(0.04).save(file, "JPEG")
    return file.getvalue()


def train(version: OneVersion) -> None:
    """A training whose job leaves the model that serves; and a person's decision about a challenger."""
    stack, bucket = version.stack, version.stack.outputs["TrainingBucketName"]
    sagemaker: Any = boto3.client("sagemaker")
    for split, brightest in (("train", 255), ("test", 200)):
        for label, place in (("bicycle", 0), ("motorcycle", 1)):
            for step in range(8):
                file = io.BytesIO()
                colour = tuple(brightest - step if channel == place else 0 for channel in range(3))
                Image.new("RGB", (32, 32), colour).save(file, "PNG")
                stack.s3.put_object(Bucket=bucket, Key=f"base/{split}/{label}/{step}.png", Body=file.getvalue())
    with job_that_leaves_a_model(stack, bucket):
        started = version.invoke("RequestTrainingFunction", reason="a test")
        stack.settle()
    done = stack.stepfunctions.describe_execution(executionArn=started["execution"])
    assert done["status"] == "SUCCEEDED", done
    package = sagemaker.create_model_package(
        ModelPackageGroupName=stack.outputs["ModelPackageGroupName"],
        ModelApprovalStatus="PendingManualApproval",
        InferenceSpecification={
            "Containers": [{"Image": PARAMETERS["ServingImage"], "ModelDataUrl": f"s3://{bucket}/model.tar.gz"}],
            "SupportedContentTypes": ["image/jpeg"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
    )["ModelPackageArn"]
    decide(version, package, "Rejected")


def decide(version: OneVersion, package: str, decision: str) -> Any:
    detail = {
        "ModelPackageArn": package,
        "ModelPackageGroupName": version.stack.outputs["ModelPackageGroupName"],
        "ModelApprovalStatus": decision,
    }
    return version.invoke("AnnounceApprovalFunction", detail=detail)


@contextmanager
def job_that_leaves_a_model(stack: Stack, bucket: str) -> Iterator[None]:
    """moto's training jobs are done at once and leave nothing."""
    import tarfile

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in ("model.onnx", "model.json"):
            archive.add(VERSION / "layers/model/model" / name, name)
    ended = threading.Event()
    sagemaker: Any = boto3.client("sagemaker")

    def watch() -> None:
        while not ended.wait(0.05):
            for job in sagemaker.list_training_jobs()["TrainingJobSummaries"]:
                key = f"jobs/{job['TrainingJobName']}/output/model.tar.gz"
                if not stack.s3.list_objects_v2(Bucket=bucket, Prefix=key)["KeyCount"]:
                    stack.s3.put_object(Bucket=bucket, Key=key, Body=packed.getvalue())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def objects(stack: Stack, bucket: str) -> Iterator[tuple[str, str, bytes]]:
    """Key, version and bytes of everything in the bucket."""
    for page in stack.s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        for found in page.get("Versions", []):
            named: Any = {} if found["VersionId"] == "null" else {"VersionId": found["VersionId"]}
            body = stack.s3.get_object(Bucket=bucket, Key=found["Key"], **named)["Body"].read()
            yield found["Key"], found["VersionId"], body


def machine(stack: Stack, output: str) -> dict[str, Any]:
    """A state machine's definition, and every input with which one of its tasks was entered."""
    arn = stack.outputs[output]
    entered: list[tuple[str, Any]] = []
    for execution in stack.stepfunctions.list_executions(stateMachineArn=arn)["executions"]:
        history = stack.stepfunctions.get_execution_history(executionArn=execution["executionArn"], maxResults=1000)
        for event in history["events"]:
            if event["type"] == "TaskStateEntered":
                details = event["stateEnteredEventDetails"]
                entered.append((details["name"], json.loads(details["input"])))
    definition = stack.stepfunctions.describe_state_machine(stateMachineArn=arn)["definition"]
    return {"definition": json.loads(definition), "entered": entered}


# ---- read


def read(folder: Path) -> None:
    """Go on from what another version has left; writes what was counted, and what could not be done, to read.json."""
    left = pickle.loads((folder / "left.pickle").read_bytes())
    counted: dict[str, int] = {}
    failures: dict[str, str] = {}

    def attempt(name: str, do: Callable[[], Any]) -> Any:
        counted[name.partition(": ")[0]] = counted.get(name.partition(": ")[0], 0) + 1
        try:
            return do()
        except Exception as error:
            failures[name] = f"{error!r}\n{traceback.format_exc(limit=-3)}"

    with deploy(VERSION / "template.yaml", PARAMETERS) as stack:
        version = OneVersion(stack, folder)
        restore(stack, left)
        go_on(version, left, attempt)
    with deploy(VERSION / "template.yaml", PARAMETERS) as stack:
        version = OneVersion(stack, folder)
        restore(stack, left)
        resume(version, left, attempt)
    (folder / "read.json").write_text(json.dumps({"counted": counted, "failures": failures}, indent=1))


def restore(stack: Stack, left: dict[str, Any]) -> None:
    """Put everything where it lay, with the versions that it had."""
    images = stack.outputs["ImageBucketName"]
    stack.s3.put_bucket_notification_configuration(Bucket=images, NotificationConfiguration={})  # nothing is new
    for output, kept in left["buckets"].items():
        bucket = stack.outputs[output]
        for key, version, body in kept:
            stack.s3.put_object(Bucket=bucket, Key=key, Body=body)
            if version != "null":
                backend: Any = s3_backends["123456789012"]["aws"]
                backend.buckets[bucket].keys[key]._version_id = version
    stack.s3.put_bucket_notification_configuration(
        Bucket=images, NotificationConfiguration={"EventBridgeConfiguration": {}}
    )
    for output, items in left["tables"].items():
        for item in items:
            stack.dynamodb.put_item(TableName=stack.outputs[output], Item=item)
    for letter in left["letters"]:
        stack.sqs.send_message(QueueUrl=stack.outputs["DeadLetterQueueUrl"], MessageBody=json.dumps(letter))


def go_on(version: OneVersion, left: dict[str, Any], attempt: Callable[[str, Callable[[], Any]], Any]) -> None:
    """Everything that a person or a schedule does with what lies there."""
    from kickstand.store import from_item

    stack, tables = version.stack, left["tables"]
    for item in tables["RecordsTableName"]:
        image = item["image"]["S"]
        attempt(f"record: {image}", partial(from_item, item))
        attempt(f"explain: {image}", partial(version.command, "explain", image))

    def switched() -> None:
        told = json.loads(version.command("switch", "status", "--json"))
        assert (told["on"], told["reason"], told["by"]) == (True, "new cameras", "Ada"), told

    def under_the_switch() -> None:
        stack.upload("later.jpg", (SAMPLES / "bicycle/step-through.jpg").read_bytes())
        stack.settle()
        (item,) = (item for item in version.items("RecordsTableName") if item["image"]["S"].endswith("/later.jpg"))
        assert item["decision"]["M"]["reason"]["S"] == "review_everything", item

    def monitored() -> None:
        before = state_of_monitor(tables["ControlTableName"])
        version.invoke("MonitorFunction")
        after = state_of_monitor(version.items("ControlTableName"))
        assert int(after["revision"]["N"]) > int(before["revision"]["N"]), after

    def balanced() -> None:
        ledger = stack.ledger()
        assert ledger.uploads == len(left["buckets"]["ImageBucketName"]), ledger
        assert not ledger.lacks, ledger
        assert ledger.counts["dead_letter"] == len(left["letters"]), ledger

    def replayed() -> None:
        with delivering(stack):
            said = version.command("ledger", "--grace", "0", "--replay", "--wait", "900")
        older, newer = "1 sent again, 1 of them settled", "processed again: 1, of which 1 have an outcome"
        assert older in said or newer in said, said

    def answered() -> None:
        waiting = {key_of(item) for item in version.items("ReviewsTableName") if "answer" not in item}
        assert len(waiting) > 2, waiting
        assert {version.answer_next("motorcycle") for _ in waiting} == waiting
        records = {key_of(item): item for item in version.items("RecordsTableName")}
        for key in waiting:
            assert records[key]["review"]["M"]["answer"]["M"]["label"]["S"] == "motorcycle", records[key]
        assert version.ask()["waiting"] == 0

    def kept() -> None:
        """Nothing that the other version wrote into an item is gone."""
        for table in ("RecordsTableName", "ReviewsTableName"):
            now = {key_of(item): item for item in version.items(table)}
            for item in tables[table]:
                lost = item.keys() - now[key_of(item)].keys()
                assert lost <= ENDS_WITH_THE_ANSWER, (table, item["image"], lost)

    def approved() -> None:
        (item,) = (item for item in tables["ControlTableName"] if item["id"]["S"] == "approval")
        again = decide(version, item["package"]["S"], item["decision"]["S"])
        assert again == {"told": False}, again

    def trained() -> None:
        answer = version.invoke("RequestTrainingFunction", **{"detail-type": "Scheduled Event"})
        assert not answer["started"], answer

    attempt("switch", switched)
    attempt("monitor", monitored)
    attempt("ledger", balanced)
    attempt("dead letters", replayed)
    attempt("upload under the switch", under_the_switch)
    attempt("reviews", stack.reviews)
    attempt("answers", answered)
    attempt("attributes", kept)
    attempt("approval", approved)
    attempt("last training", trained)
    attempt("report", lambda: version.invoke("ReportFunction"))
    attempt("command monitor", lambda: version.command("monitor", exits=4))  # 4: an alert
    attempt("ledger afterwards", lambda: version.invoke("KeepLedgerFunction"))


def key_of(item: Item) -> Key:
    return item["image"]["S"], item["version"]["S"]


@contextmanager
def delivering(stack: Stack) -> Iterator[None]:
    """Events are carried on while a command waits for what comes of them."""
    ended = threading.Event()

    def carry() -> None:
        while not ended.wait(0.05):
            stack.deliver()

    carrier = threading.Thread(target=carry)
    carrier.start()
    try:
        yield
    finally:
        ended.set()
        carrier.join()


def state_of_monitor(items: list[Item]) -> Item:
    (item,) = (item for item in items if item["id"]["S"] == "monitor")
    return item


def resume(version: OneVersion, left: dict[str, Any], attempt: Callable[[str, Callable[[], Any]], Any]) -> None:
    """Executions that stood before a task: they continue by their own definition, with this version's functions."""
    for name, machine in left["machines"].items():
        functions = {
            state for state, task in machine["definition"]["States"].items() if ":function:" in json.dumps(task)
        }
        for number, (state, entered) in enumerate(machine["entered"]):
            if state in functions:
                go_on = partial(go_on_from, version, name, machine["definition"], state, entered)
                attempt(f"execution: {name}, {state}, {number}", go_on)


def go_on_from(version: OneVersion, name: str, definition: dict[str, Any], state: str, entered: Any) -> None:
    """Start at this state, and see the end; of a question, that it is asked, answered and recorded."""
    stack = version.stack
    for task in definition["States"].values():
        task.pop("TimeoutSeconds", None)
    arn = stack.stepfunctions.create_state_machine(
        name=f"{name}-{state.replace(' ', '-')}-{len(stack._state_machines)}",
        definition=json.dumps({**definition, "StartAt": state}),
        roleArn="arn:aws:iam::123456789012:role/local",
    )["stateMachineArn"]
    stack._state_machines.append(arn)
    asks = state.startswith("Ask")
    forget(stack, name, entered, asks)
    execution = stack.stepfunctions.start_execution(
        stateMachineArn=arn, name=str(uuid.uuid4()), input=json.dumps(entered)
    )["executionArn"]
    training = job_that_leaves_a_model(stack, stack.outputs["TrainingBucketName"])
    with training if name == "train" else nullcontext():
        stack.settle()
    if asks:
        while version.answer_next("bicycle") != (entered["detail"]["image"], entered["detail"]["version"]):
            pass
        stack.settle()
    done = stack.stepfunctions.describe_execution(executionArn=execution)
    assert done["status"] == "SUCCEEDED", done
    if name == "classify":
        reached = json.loads(done["output"])["record"]
        assert not reached["duplicate"], reached


def forget(stack: Stack, name: str, entered: Any, asks: bool) -> None:
    """What the execution has not done yet where it stands."""
    if name == "classify":
        detail = entered["detail"]
        key = {
            "image": {"S": f"s3://{detail['bucket']['name']}/{detail['object']['key']}"},
            "version": {"S": detail["object"]["version-id"]},
        }
        stack.dynamodb.delete_item(TableName=stack.outputs["RecordsTableName"], Key=key)
    if asks:
        key = {part: {"S": entered["detail"][part]} for part in ("image", "version")}
        stack.dynamodb.delete_item(TableName=stack.outputs["ReviewsTableName"], Key=key)
        records = stack.outputs["RecordsTableName"]
        stack.dynamodb.update_item(TableName=records, Key=key, UpdateExpression="REMOVE review")


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
