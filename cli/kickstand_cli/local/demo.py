"""`kickstand demo`: the shipped template on this machine, with photos, from upload to recorded decision."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.table import Table

from kickstand.classify.artefact import ModelCard, read_card
from kickstand.events import ReviewStatus
from kickstand.ledger.balance import Ledger
from kickstand.monitor.drift import Budget
from kickstand.monitor.run import read_watch
from kickstand.records import StateError
from kickstand.report.page import compose, draw_report, read_evidence
from kickstand_cli.classify.classify import ModelOption
from kickstand_cli.classify.evaluation import name_unread
from kickstand_cli.datasets.archive import read_archive
from kickstand_cli.datasets.download import CIFAR100_URL, locate_cache
from kickstand_cli.datasets.folder import encode_png
from kickstand_cli.drawing.state_machine import count_ways, draw_state_machine
from kickstand_cli.files import expect_writable, list_files, make_folder, read_file, write_files
from kickstand_cli.ledger.ledger import as_dict
from kickstand_cli.local.demo_report import ROUTES, Failure, Outcome, Picture, Run, make_picture, render_report
from kickstand_cli.project import MODEL, PROJECT, TEMPLATE
from kickstand_cli.review.review import DEFAULT_PORT, find_function, serve
from kickstand_cli.terminal import CommandError, Terminal, divert_output, exit_on, painted, reason, show_progress

if TYPE_CHECKING:
    from kickstand_cli.local.stack import Stack

ARCHIVE_VARIABLE = "KICKSTAND_CIFAR100"
WorkflowType = Literal["EXPRESS", "STANDARD"]
FILES = ("records.jsonl", "ledger.json", "state-machine.svg", "report.html", "monitoring.html")
AT_ONCE = 4  # executions: moto, which plays AWS here, gets no faster with more
COLOURS = {"accept": "green", "review": "yellow", "reject": "red"}


@dataclass(frozen=True)
class Source:
    """Something to upload: its key in the bucket, and how to get its bytes."""

    key: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Upload:
    """Something uploaded, and what the report shows of it."""

    key: str
    version: str
    at: datetime
    picture: Picture | None


def demo(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PATH", help="More for --images; or, after --cifar100, the archive."),
    ] = None,
    images: Annotated[
        list[Path] | None, typer.Option(metavar="PATH", help="Your own files and folders instead of the samples.")
    ] = None,
    cifar100: Annotated[
        bool,
        typer.Option(
            "--cifar100",
            help="The real CIFAR-100 test images of the model's classes, from the archive named after it, "
            f"else from {ARCHIVE_VARIABLE}, else as `kickstand dataset` downloaded it.",
        ),
    ] = False,
    artefact: ModelOption = MODEL,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the results go.")] = Path("demo-output"),
    workflow: Annotated[
        WorkflowType, typer.Option(case_sensitive=False, help="The template's WorkflowType.")
    ] = "EXPRESS",
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Upload only the first N.")] = None,
    review: Annotated[
        bool, typer.Option("--review", help="Then decide yourself about what waits for a person, in your browser.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page for --review; 0 for any.")] = DEFAULT_PORT,
) -> None:
    """Run the shipped template, state machine and functions on this machine, and watch photos being decided."""
    console = Terminal(file=sys.stdout)  # even while the functions' output is diverted
    unread: list[str] = []
    with exit_on(OSError, ValidationError):
        sources, about = _collect(paths or [], images or [], read_card(artefact).labels, unread, cifar100=cifar100)
        for name in FILES:
            expect_writable(out / name, new_folder=True)
        make_folder(out)
        with _running(sources[:limit], about, workflow, artefact, out, unread) as demonstration:
            run, ledger = demonstration.write(out)
            _print(console, run, demonstration.seconds, out)
            if review:
                console.print(str(ledger))
                run, ledger = _review(demonstration, console, port, out)
    console.print(str(ledger))
    name_unread(unread)
    if run.failures:
        raise typer.Exit(1)


# ---- what is uploaded


def _collect(
    paths: Sequence[Path], images: Sequence[Path], labels: Sequence[str], unread: list[str], *, cifar100: bool
) -> tuple[list[Source], str]:
    """What to upload, and a sentence on what it is. Raises CommandError where there is nothing.

    unread: gets the reason for each folder that cannot be listed.
    """
    if cifar100:
        if images:
            raise CommandError("--images and --cifar100 exclude each other")
        if len(paths) > 1:
            raise CommandError(f"--cifar100 takes one archive, not {len(paths)}")
        return _read_cifar100(paths[0] if paths else None, labels)
    if own := [*images, *paths]:
        return list(_find_files(own, unread)), "Your own images."
    return list(_find_files([PROJECT / "samples" / "images"], unread)), (
        "The samples are drawings made by a program, not photos: they show that all runs, not how good the model is."
    )


def _find_files(paths: Sequence[Path], unread: list[str]) -> Iterator[Source]:
    """Every file, whatever it is: bad ones are part of the point. Keys are relative to the folder that was named."""
    for path in paths:
        if not path.exists():
            raise CommandError(f"{path}: no such file or folder")
        before = len(unread)
        files = list_files(path, unread) if path.is_dir() else [path]
        if not files and len(unread) == before:
            raise CommandError(f"{path}: no files in this folder")
        for file in files:
            name = file.relative_to(path) if path.is_dir() else Path(file.name)
            # S3's keys are UTF-8, file names are not.
            key = os.fsencode(name.as_posix()).decode("utf-8", "backslashreplace")
            yield Source(key, partial(read_file, file))


def _read_cifar100(archive: Path | None, labels: Sequence[str]) -> tuple[list[Source], str]:
    """The archive's test images of the classes that the model knows."""
    if archive is None:
        archive = Path(os.environ.get(ARCHIVE_VARIABLE) or locate_cache() / CIFAR100_URL.rpartition("/")[2])
        if not archive.exists():
            raise CommandError(
                f"{archive}: no such archive; name one after --cifar100 or in {ARCHIVE_VARIABLE}, "
                "or let `kickstand dataset` download it"
            )
    content = read_archive(archive)
    test = content.splits["test"]
    sources = [
        Source(f"{content.class_names[label]}/{filename}", lambda pixels=pixels: encode_png(pixels))  # type: ignore[misc]
        for pixels, label, filename in zip(test.pixels, test.labels, test.filenames, strict=True)
        if content.class_names[label] in labels
    ]
    if not sources:
        raise CommandError(f"{archive}: no test images of {', '.join(labels)}, which the model knows")
    return sources, f"Real CIFAR-100 test images of {' and '.join(labels)}, which the model was not trained on."


# ---- the run


@dataclass
class Demonstration:
    """All that was uploaded is decided, and the stack is still up."""

    stack: "Stack"
    uploads: list[Upload]
    about: str
    workflow: WorkflowType
    artefact: Path
    card: ModelCard
    seconds: float

    def write(self, folder: Path) -> tuple[Run, Ledger]:
        """Write what there is to show by now, and return it with where all has ended."""
        outcomes, failures = _gather(self.stack, self.uploads)
        summary = (
            f"{len(self.uploads)} uploads through the shipped template, state machine ({self.workflow}) and functions, "
            f"on this machine, in {self.seconds:.0f} s."
        )
        drawing = _draw(self.stack)
        evidence = read_evidence(self.artefact)
        shown = [f"The policy's promise was shown on {evidence.domain}."] if evidence.domain else []
        run = Run(len(self.uploads), outcomes, failures, [self.about, summary, *shown], self.card, drawing)
        ledger = self.stack.ledger()
        _write(run, folder, ledger, self.artefact)
        return run, ledger


@contextmanager
def _running(
    sources: Sequence[Source], about: str, workflow: WorkflowType, artefact: Path, folder: Path, unread: list[str]
) -> Iterator[Demonstration]:
    """Deploy, upload, wait; then the stack stays up for as long as the context lasts.

    unread: gets the reason for each file that cannot be read.
    """
    started = time.monotonic()
    with ExitStack() as open_:
        with show_progress() as progress:
            open_.enter_context(divert_output(folder / "functions.log"))
            # Imported here: moto takes a second, which no other command should wait for.
            from kickstand_cli.local.stack import deploy

            starting = progress.add_task("deploy", total=None)
            card = read_card(artefact)
            stack = open_.enter_context(deploy(TEMPLATE, {"WorkflowType": workflow}, artefact=artefact))
            progress.remove_task(starting)
            uploads = []
            for source in progress.track(sources, description="upload and decide"):
                try:
                    data = source.read()
                except OSError as error:
                    unread.append(reason(error))
                    continue
                uploads.append(_upload(stack, source.key, data, card.input_shape))
                stack.deliver()
                stack.wait_for_a_gap(AT_ONCE)
            stack.settle(lambda: time.sleep(0.05))
        yield Demonstration(stack, uploads, about, workflow, artefact, card, time.monotonic() - started)


def _review(demonstration: Demonstration, console: Terminal, port: int, folder: Path) -> tuple[Run, Ledger]:
    """Serve the reviewers' page until Ctrl-C; the files follow every answer. Returns the last results."""
    stack, answered = demonstration.stack, 0

    def follow() -> None:
        nonlocal answered
        now = sum(review.status is ReviewStatus.ANSWERED for review in stack.reviews())
        if now > answered:
            stack.settle()
            demonstration.write(folder)
            answered = now

    serve(find_function(stack.outputs), port, "", console, follow)
    stack.settle()
    return demonstration.write(folder)


def _upload(stack: "Stack", key: str, data: bytes, input_shape: tuple[int, int, int]) -> Upload:
    picture = make_picture(data, input_shape)
    at = datetime.now(UTC)
    return Upload(key, stack.upload(key, data), at, picture)


def _gather(stack: "Stack", uploads: Sequence[Upload]) -> tuple[list[Outcome], list[Failure]]:
    """What became of each upload, by key; and what failed, with its cause."""
    from kickstand_cli.local.stack import FAILED

    bucket = stack.outputs["ImageBucketName"]
    records = {(record.image, record.version): record for record in stack.records()}
    outcomes, missing = [], {}
    for upload in sorted(uploads, key=lambda upload: upload.key):
        record = records.get((f"s3://{bucket}/{upload.key}", upload.version))
        if record:
            ms = (record.recorded_at - upload.at).total_seconds() * 1000
            outcomes.append(Outcome(upload.key, record, ms, upload.picture))
        else:
            missing[upload.key, upload.version] = "no record"
    unplaced = []
    for execution in stack.executions(*FAILED):
        full = stack.stepfunctions.describe_execution(executionArn=execution["executionArn"])
        error = StateError.model_validate({"Error": full.get("error", "unknown"), "Cause": full.get("cause", "")})
        cause = f"{full['status']}: {error.error}: {error.message}"
        key, version = _name_upload(json.loads(full["input"]))
        if (key, version) in missing:
            missing[key, version] = cause
        else:
            unplaced.append(Failure(key, cause))
    for letter in stack.dead_letters():
        key, version = _name_upload(letter)
        if missing.get((key, version)) == "no record":
            missing[key, version] = f"in the dead-letter queue: {letter.get('error', 'not delivered')}"
    return outcomes, [*(Failure(key, cause) for (key, _), cause in missing.items()), *unplaced]


def _name_upload(event: dict[str, Any]) -> tuple[str, str]:
    """Key and version of the upload that an event is about: S3's own event, or one of ours, which holds the record."""
    detail = event.get("detail", {})
    uploaded = detail.get("object") or detail.get("image_ref") or {}
    return str(uploaded.get("key", "?")), str(uploaded.get("version-id") or uploaded.get("version_id", ""))


def _draw(stack: "Stack") -> str:
    """The state machine that ran, with how many executions went each way."""
    arn = stack.outputs["ClassifyImageStateMachineArn"]
    definition = json.loads(stack.stepfunctions.describe_state_machine(stateMachineArn=arn)["definition"])
    pages = stack.stepfunctions.get_paginator("list_executions").paginate(stateMachineArn=arn)
    executions = [execution for page in pages for execution in page["executions"]]
    histories = (
        stack.stepfunctions.get_execution_history(executionArn=execution["executionArn"])["events"]
        for execution in executions
    )
    name = arn.rpartition(":")[2]
    return draw_state_machine(definition, count_ways(definition, histories), f"{name}: {len(executions):,} executions")


# ---- what is shown and written


def _write(run: Run, folder: Path, ledger: Ledger, artefact: Path) -> None:
    lines = [
        json.dumps({"key": outcome.key, "ms": round(outcome.ms), **outcome.record.model_dump(mode="json")})
        for outcome in run.outcomes
    ]
    texts = (
        "".join(f"{line}\n" for line in lines),
        json.dumps(as_dict(ledger), indent=1) + "\n",
        run.state_machine,
        render_report(run),
        _draw_monitoring(run, artefact),
    )
    write_files({folder / name: text for name, text in zip(FILES, texts, strict=True)})


def _draw_monitoring(run: Run, artefact: Path) -> str:
    """The monitoring report of these records; the pictures are those of the demo's own page."""
    records = [outcome.record for outcome in run.outcomes]
    pictures = {(o.record.image, o.record.version): o.picture.uri for o in run.outcomes if o.picture}
    watch = read_watch(artefact)
    report = compose(records, watch, run.card, Budget(), evidence=read_evidence(artefact))
    return draw_report(report, records, watch, run.card, lambda record: pictures.get((record.image, record.version)))


def _print(console: Terminal, run: Run, seconds: float, folder: Path) -> None:
    table = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        caption="ms: from the upload to the recorded decision, here",
    )
    table.add_column("image", overflow="fold")
    table.add_column("label")
    table.add_column("confidence", justify="right")
    table.add_column("route")
    table.add_column("reason")
    table.add_column("ms", justify="right")
    for outcome in run.outcomes:
        decision, prediction = outcome.record.decision, outcome.record.prediction
        table.add_row(
            outcome.key,
            prediction.label if prediction else "",
            f"{prediction.confidence:.3f}" if prediction else "",
            painted((decision.route, COLOURS[decision.route])),
            outcome.reason,
            f"{outcome.ms:,.0f}",
        )
    console.table(table)
    for failure in run.failures:
        console.print(painted(("failed", "bold red"), f" {failure.key}: {failure.cause}"))
    counts = ", ".join(f"{run.count(route)} {words}" for route, words in ROUTES.items())
    console.print(f"{run.uploads} uploads, {len(run.outcomes)} decisions in {seconds:.1f} s: {counts}")
    console.print(run.about[0])
    console.print(f"{folder}/ holds {', '.join(FILES)}, functions.log")
