"""`kickstand training`: give the deployed training what it learns from, and start it."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import boto3
import typer

from kickstand.classify.artefact import read_card
from kickstand_cli.deployment import DEFAULT_STACK, OutputsFile, StackName, read_outputs, reporting
from kickstand_cli.files import list_files, read_file
from kickstand_cli.project import MODEL
from kickstand_cli.terminal import CommandError, console, show_progress
from kickstand_cli.training.training_source import pack, pack_source

app = typer.Typer(help="The deployed training: what it learns from, and starting it.", no_args_is_help=True)
ARTEFACT = ("model.onnx", "model.json")
CHAMPION = "champion"  # its own approval is no news to anybody


@app.callback()
def training() -> None:
    """The deployed training: what it learns from, and starting it."""


@app.command()
def upload(
    dataset: Annotated[
        Path, typer.Argument(help="Images in train/<label>/ and, held out, in test/<label>/; `neither` is a label too.")
    ],
    auxiliary: Annotated[
        Path | None,
        typer.Option(help="An .npz of more images that show none of the classes, as `kickstand train` reads it."),
    ] = None,
    artefact: Annotated[
        Path, typer.Option("--model", metavar="DIR", help="The champion: the artefact that is deployed.")
    ] = MODEL,
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
) -> None:
    """Put the dataset, the training code and the champion where the workflow finds them.

    The champion becomes the first package of the registry, approved, unless there is one already: it is what you go
    back to.
    """
    with reporting():
        found = read_outputs(stack_name, outputs)
        bucket = _output(found, "TrainingBucketName")
        files = _list_images(dataset)
        with show_progress() as progress:
            task = progress.add_task("uploading", total=len(files))
            _upload(bucket, files, auxiliary, lambda: progress.advance(task))
        registered = _register_champion(
            _output(found, "ModelPackageGroupName"), _output(found, "InferenceImage"), bucket, artefact
        )
    console.print(f"{len(files)} images and the training code in s3://{bucket}")
    console.print(f"champion registered as {registered}" if registered else "the registry has its champion")


@app.command()
def start(
    reason: Annotated[str, typer.Option(help="Why; it is recorded, and told with the outcome.")],
    algorithm: Annotated[str, typer.Option(help="kickstand, or image-classification: SageMaker's own.")] = "kickstand",
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
) -> None:
    """Start `train_model` now, however short ago the last training was; not while one is under way."""
    with reporting():
        function = _output(read_outputs(stack_name, outputs), "RequestTrainingFunctionName")
        request = json.dumps({"reason": reason, "algorithm": algorithm})
        answer = boto3.client("lambda").invoke(FunctionName=function, Payload=request)
        told: dict[str, Any] = json.loads(answer["Payload"].read())
        if "FunctionError" in answer:
            raise CommandError(f"{function}: {told.get('errorMessage', told)}")
        if not told["started"]:
            raise CommandError(f"not started: {told['reason']}")
    console.print(told["execution"])


def _output(outputs: dict[str, str], name: str) -> str:
    if name not in outputs:
        raise CommandError(f"the stack has no output {name}: deploy it with Training=on (docs/training.md)")
    return outputs[name]


def _list_images(dataset: Path) -> dict[str, Path]:
    """Every image by its key below base/. Raises CommandError where a split is missing."""
    files: dict[str, Path] = {}
    for split in ("train", "test"):
        unread: list[str] = []
        found = [path for path in list_files(dataset / split, unread) if path.parent != dataset / split]
        if unread:
            raise CommandError(unread[0])
        if not found:
            raise CommandError(f"{dataset / split}: no images in folders of labels")
        files |= {f"base/{path.relative_to(dataset).as_posix()}": path for path in found}
    return files


def _upload(bucket: str, files: dict[str, Path], auxiliary: Path | None, progress: Callable[[], None]) -> None:
    s3 = boto3.client("s3")

    def send(item: tuple[str, Path]) -> None:
        s3.put_object(Bucket=bucket, Key=item[0], Body=read_file(item[1]))
        progress()

    with ThreadPoolExecutor(8) as pool:  # as many as boto3's connection pool serves without waiting (10)
        list(pool.map(send, files.items()))
    if auxiliary:
        s3.upload_file(str(auxiliary), bucket, "base/auxiliary.npz")
    s3.put_object(Bucket=bucket, Key="source/sourcedir.tar.gz", Body=pack_source())


def _register_champion(group: str, image: str, bucket: str, artefact: Path) -> str | None:
    """The new package's ARN; None where the registry holds one already. Raises CommandError for no artefact."""
    sagemaker: Any = boto3.client("sagemaker")
    if sagemaker.list_model_packages(ModelPackageGroupName=group)["ModelPackageSummaryList"]:
        return None
    try:
        card = read_card(artefact)
        packed = pack({name: artefact / name for name in ARTEFACT})
    except (OSError, ValueError) as error:
        raise CommandError(f"{artefact}: no model artefact ({error})") from error
    key = f"jobs/champion-{card.model_version}/output/model.tar.gz"
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=packed)
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
