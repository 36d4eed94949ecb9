"""`kickstand training`: upload photos for the training on AWS, start it, show its status."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer

from kickstand.classify.artefact import ModelCard, read_card
from kickstand.events import NEITHER
from kickstand.lifecycle.retraining import Algorithm, LastTraining
from kickstand.lifecycle.store import load_training
from kickstand.text import as_utf8, counted
from kickstand_cli.deployment import DEFAULT_STACK, OutputsFile, StackName, open_client, read_outputs, reporting
from kickstand_cli.files import list_files, read_file
from kickstand_cli.project import MODEL
from kickstand_cli.terminal import AsJson, CommandError, ExitCode, check_words, console, print_json, show_progress
from kickstand_cli.training.training_source import pack, pack_source

app = typer.Typer(no_args_is_help=True)
FAILED = ("failed", "timed_out", "aborted")
BASE = "base/"
AUXILIARY = f"{BASE}auxiliary.npz"
ARTEFACT = ("model.onnx", "model.json")
CHAMPION = "champion"  # its own approval is not announced


@app.callback()
def training() -> None:
    """Train on AWS: upload photos, start a training, show its status."""


@app.command()
def upload(
    dataset: Annotated[
        Path,
        typer.Argument(metavar="DATASET", help="Photos in train/CLASS/ and, held out, in test/CLASS/; neither/ too."),
    ],
    auxiliary: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="An .npz of more photos of none of the classes, as `kickstand train` reads it."
        ),
    ] = None,
    artefact: Annotated[
        Path,
        typer.Option(
            "--model",
            metavar="DIR",
            show_default="the shipped model",
            help="The champion: the deployed model artefact.",
        ),
    ] = MODEL,
    replace: Annotated[
        bool, typer.Option("--replace", help="Then remove what earlier uploads have put there and this one has not.")
    ] = False,
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
    as_json: AsJson = False,
) -> None:
    """Upload the dataset, the training code and the champion, for the workflow train_model.

    If the registry is empty, the champion becomes its first package, approved, so that you can roll back to it.

    Exit codes: 0 uploaded; 1 an error; 4 uploaded, but photos of an earlier upload are left, and are learnt from too.

    Examples:
    $ kickstand training upload dataset --stack-name kickstand-dev
    $ kickstand training upload dataset --replace --stack-name kickstand-dev
    """
    with reporting():
        found = read_outputs(stack_name, outputs)
        bucket = _output(found, "TrainingBucketName")
        card = _read_champion(artefact)
        files = _list_images(dataset, card.labels)
        with show_progress() as progress:
            task = progress.add_task("uploading", total=len(files))
            _upload(bucket, files, auxiliary, lambda: progress.advance(task))
        left = _find_left(bucket, {*files, *([AUXILIARY] if auxiliary else [])})
        if replace:
            _remove(bucket, left)
        registered = _register_champion(
            _output(found, "ModelPackageGroupName"), _output(found, "InferenceImage"), bucket, artefact, card
        )
    if as_json:
        content = {"photos": len(files), "bucket": bucket, "champion_registered_as": registered}
        print_json(content | {"removed" if replace else "left": left})
    else:
        console.print(f"{counted(len(files), 'photo')} and the training code in s3://{bucket}")
        if left:
            more = f" and {len(left) - 3:,} more" if len(left) > 3 else ""
            which = f"{counted(len(left), 'file')} of earlier uploads: {', '.join(left[:3])}{more}"
            console.print(f"removed {which}" if replace else f"learnt from too, unless you --replace: {which}")
        console.print(f"champion registered as {registered}" if registered else "the registry already has a champion")
    if left and not replace:
        raise typer.Exit(ExitCode.ATTENTION)


@app.command()
def start(
    reason: Annotated[str, typer.Option(help="The reason; it is recorded, and named in the message on the outcome.")],
    algorithm: Annotated[
        Algorithm, typer.Option(help="image-classification: the built-in algorithm of SageMaker.")
    ] = "kickstand",
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
    as_json: AsJson = False,
) -> None:
    """Start a training now, unless one is running.

    Examples:
    $ kickstand training start --reason "new cameras" --stack-name kickstand-dev
    """
    reason = check_words(reason, "--reason")
    with reporting():
        function = _output(read_outputs(stack_name, outputs), "RequestTrainingFunctionName")
        request = json.dumps({"reason": reason, "algorithm": algorithm})
        answer = open_client("lambda").invoke(FunctionName=function, Payload=request)
        started: dict[str, Any] = json.loads(answer["Payload"].read())
        if "FunctionError" in answer:
            raise CommandError(f"{function}: {started.get('errorMessage', started)}")
        if not started["started"]:
            raise CommandError(f"not started: {started['reason']}")
    if as_json:
        print_json({"execution": started["execution"]})
    else:
        console.print(f"started: {started['execution']}")


@app.command()
def status(stack_name: StackName = DEFAULT_STACK, outputs: OutputsFile = None, as_json: AsJson = False) -> None:
    """Show the last training: when and why it was started, and its outcome.

    Exit codes: 0 shown, also while it is running, and where there was none; 1 an error; 4 it failed.

    Examples:
    $ kickstand training status --stack-name kickstand-dev
    """
    with reporting():
        found = read_outputs(stack_name, outputs)
        _output(found, "TrainModelStateMachineArn")
        last = load_training(open_client("dynamodb"), found["ControlTableName"])
        state = _find_status(last) if last else None
    outcome = last.outcome if last and state in (last.result, "failed") else None  # else it is an earlier training's
    if as_json:
        about = last.model_dump(mode="json", exclude={"result"}) if last else {}
        print_json(about | {"status": state, "outcome": outcome})
    elif last:
        console.print(f"{state}, started {last.requested_at:%Y-%m-%d %H:%M} UTC: {last.reason}")
        if outcome:
            console.print(outcome)
        console.print(f"execution {last.execution}")
    else:
        console.print("This stack has started no training.")
    if state in FAILED:
        raise typer.Exit(ExitCode.ATTENTION)


def _find_status(last: LastTraining) -> str:
    """running, failed, timed_out, aborted; or the result of one that succeeded."""
    stepfunctions = open_client("stepfunctions")
    try:
        status = stepfunctions.describe_execution(executionArn=last.execution)["status"].lower()
    except stepfunctions.exceptions.ExecutionDoesNotExist:  # AWS forgets it after 90 days
        status = "succeeded" if last.result else "not started yet"
    return last.result or status if status == "succeeded" else status


def _output(outputs: dict[str, str], name: str) -> str:
    if name not in outputs:
        raise CommandError(f"the stack has no output {name}: deploy it with Training=on (docs/training.md)")
    return outputs[name]


def _read_champion(artefact: Path) -> ModelCard:
    try:
        return read_card(artefact)
    except (OSError, ValueError) as error:
        raise CommandError(f"{artefact}: no model artefact ({error})") from error


def _list_images(dataset: Path, labels: tuple[str, ...]) -> dict[str, Path]:
    """Every photo by its key. Raises CommandError where a split is missing, or a folder is no class of the model."""
    files: dict[str, Path] = {}
    for split in ("train", "test"):
        unread: list[str] = []
        found = [path for path in list_files(dataset / split, unread) if path.parent != dataset / split]
        if unread:
            raise CommandError(unread[0])
        if not found:
            raise CommandError(f"{dataset / split}: no photos in folders of classes")
        for path in found:
            if (label := path.relative_to(dataset / split).parts[0]) not in (*labels, NEITHER):
                raise CommandError(
                    f"{dataset / split / label}: not a class of the model ({', '.join(labels)}); --model names the "
                    "deployed one"
                )
        files |= {as_utf8(f"{BASE}{path.relative_to(dataset).as_posix()}"): path for path in found}
    return files


def _upload(bucket: str, files: dict[str, Path], auxiliary: Path | None, progress: Callable[[], None]) -> None:
    s3 = open_client("s3")

    def send(item: tuple[str, Path]) -> None:
        s3.put_object(Bucket=bucket, Key=item[0], Body=read_file(item[1]))
        progress()

    with ThreadPoolExecutor(8) as pool:  # as many as boto3's connection pool serves without waiting (10)
        list(pool.map(send, files.items()))
    if auxiliary:
        s3.upload_file(str(auxiliary), bucket, AUXILIARY)
    s3.put_object(Bucket=bucket, Key="source/sourcedir.tar.gz", Body=pack_source())


def _find_left(bucket: str, keys: set[str]) -> list[str]:
    """What is in the base beside these keys, sorted."""
    pages = open_client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=BASE)
    return sorted({found["Key"] for page in pages for found in page.get("Contents", [])} - keys)


def _remove(bucket: str, keys: list[str]) -> None:
    s3 = open_client("s3")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: s3.delete_object(Bucket=bucket, Key=key), keys))


def _register_champion(group: str, image: str, bucket: str, artefact: Path, card: ModelCard) -> str | None:
    """The new package's ARN; None where the registry has one already. Raises CommandError without an artefact."""
    sagemaker: Any = open_client("sagemaker")
    if sagemaker.list_model_packages(ModelPackageGroupName=group)["ModelPackageSummaryList"]:
        return None
    try:
        packed = pack({name: artefact / name for name in ARTEFACT})
    except (OSError, ValueError) as error:
        raise CommandError(f"{artefact}: no model artefact ({error})") from error
    key = f"jobs/champion-{card.model_version}/output/model.tar.gz"
    open_client("s3").put_object(Bucket=bucket, Key=key, Body=packed)
    package = sagemaker.create_model_package(
        ModelPackageGroupName=group,
        ModelPackageDescription="The champion when training was set up.",
        ModelApprovalStatus="Approved",
        InferenceSpecification={
            "Containers": [{"Image": image, "ModelDataUrl": f"s3://{bucket}/{key}"}],
            "SupportedContentTypes": ["image/png", "image/jpeg"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
        CustomerMetadataProperties={"role": CHAMPION, "model_version": card.model_version},
    )
    arn: str = package["ModelPackageArn"]
    return arn
