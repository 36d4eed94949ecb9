"""`kickstand demo`: the shipped template on this machine, with photos, from the upload to a reviewer's answer."""

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
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from rich.box import SIMPLE_HEAD
from rich.progress import Progress
from rich.table import Table

from kickstand.classify.artefact import ModelCard, read_card
from kickstand.events import ReviewStatus
from kickstand.ledger.balance import Ledger
from kickstand.records import StateError
from kickstand.text import as_utf8, counted
from kickstand_cli.classify.classify import ModelOption
from kickstand_cli.classify.evaluation import name_unread
from kickstand_cli.datasets.archive import read_archive
from kickstand_cli.datasets.download import CIFAR100_URL, locate_cache
from kickstand_cli.datasets.folder import encode_png
from kickstand_cli.drawing.state_machine import count_ways, draw_state_machine
from kickstand_cli.files import expect_writable, list_files, make_folder, read_file, write_files
from kickstand_cli.ledger.ledger import as_dict
from kickstand_cli.local.demo_report import ROUTES, Failure, Outcome, Picture, Run, make_picture, render_report
from kickstand_cli.local.demo_weeks import Weeks, simulate_weeks
from kickstand_cli.project import MODEL, PROJECT, TEMPLATE
from kickstand_cli.review.review import DEFAULT_PORT, find_function, serve
from kickstand_cli.terminal import (
    CommandError,
    ExitCode,
    Terminal,
    divert_output,
    exit_on,
    painted,
    reason,
    show_progress,
)

if TYPE_CHECKING:
    from kickstand_cli.local.stack import Stack

T = TypeVar("T")
ARCHIVE_VARIABLE = "KICKSTAND_CIFAR100"
WorkflowType = Literal["EXPRESS", "STANDARD"]
PAGE, WEEKS, WEEKS_PAGE = "report.html", "simulated-weeks.jsonl", "monitoring.html"
FILES = ("records.jsonl", "ledger.json", "state-machine.svg", PAGE)
AT_ONCE = 4  # executions: moto, which plays AWS here, gets no faster with more
SHOWS = dict.fromkeys(("hard/red-trail-motorcycle.jpg", "hard/trail-motorcycle.jpg"), "motorcycle")  # unsure samples
REVIEWER = "Demo"
COLOURS = {"accept": "green", "review": "yellow", "reject": "red"}


@dataclass(frozen=True)
class Source:
    """Something to upload: its key in the bucket, and how to get its bytes."""

    key: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Upload:
    """A file that was uploaded, and how the page shows it."""

    key: str
    version: str
    at: datetime
    picture: Picture | None


class Steps:
    """Says what is under way: a bar on a terminal, else a line for each step and for each tenth of it."""

    def __init__(self, bars: Progress, lines: Terminal) -> None:
        self._bars, self._lines = bars, lines

    def begin(self, words: str) -> None:
        """The next step, of unknown length."""
        self._say(words)
        self._bars.add_task(words, total=None)

    def track(self, words: str, things: Sequence[T]) -> Iterator[T]:
        """The next step, which is done once for each of these."""
        self._say(words)
        for number, thing in enumerate(self._bars.track(things, description=words), start=1):
            yield thing
            if number * 10 // len(things) > (number - 1) * 10 // len(things):
                self._line(f"  {number:,} of {len(things):,}")

    def _say(self, words: str) -> None:
        for task in self._bars.task_ids:
            self._bars.remove_task(task)
        self._line(f"{words} …")

    def _line(self, words: str) -> None:
        if not self._lines.is_terminal:
            self._lines.print(words)


@contextmanager
def _show_steps() -> Iterator[Steps]:
    lines = Terminal(file=sys.stderr)  # as it is now: it is diverted meanwhile
    with show_progress() as bars:
        yield Steps(bars, lines)


def demo(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PATH", help="More files and folders; or, after --cifar100, the archive."),
    ] = None,
    images: Annotated[
        list[Path] | None, typer.Option(metavar="PATH", help="Your own files and folders instead of the samples.")
    ] = None,
    cifar100: Annotated[
        bool,
        typer.Option(
            "--cifar100",
            help="The real CIFAR-100 test photos of the model's classes, from the archive named after it, "
            f"else from {ARCHIVE_VARIABLE}, else as `kickstand dataset fetch` downloaded it.",
        ),
    ] = False,
    artefact: ModelOption = MODEL,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the results go.")] = Path("demo-output"),
    workflow: Annotated[
        WorkflowType, typer.Option(case_sensitive=False, help="The template's WorkflowType.")
    ] = "EXPRESS",
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Upload only the first N.")] = None,
    review: Annotated[
        bool, typer.Option("--review", help="Then answer the open reviews yourself, in your browser.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page for --review; 0 for any.")] = DEFAULT_PORT,
) -> None:
    """Upload photos to the shipped template, run on this machine, and see how each is decided and why.

    It writes report.html: open it. The page links to the other results, and to a monitoring report of four simulated
    weeks.
    """
    console = Terminal(file=sys.stdout)  # even while the functions' output is diverted
    unread: list[str] = []
    with exit_on(OSError, ValueError):
        sources, about = _collect(paths or [], images or [], read_card(artefact).labels, unread, cifar100=cifar100)
        for name in (*FILES, WEEKS, WEEKS_PAGE):
            expect_writable(out / name, new_folder=True, inputs=[*(paths or []), *(images or []), artefact])
        make_folder(out)
        with _running(sources[:limit], about, workflow, artefact, out, unread, review) as (demonstration, run, ledger):
            _print(console, run, demonstration)
            if review:
                console.print(str(ledger))
                run, ledger = _review(demonstration, console, port, out)
    console.print(str(ledger))
    console.print(painted(("Open ", "bold"), (str(out / PAGE), f"bold link {(out / PAGE).absolute().as_uri()}")))
    name_unread(unread, ExitCode.ERROR if run.failures else ExitCode.OK)


# ---- what is uploaded


def _collect(
    paths: Sequence[Path], images: Sequence[Path], labels: Sequence[str], unread: list[str], *, cifar100: bool
) -> tuple[list[Source], str]:
    """The files to upload, and a sentence on them. Raises CommandError where there are none.

    unread: gets the reason for each folder that cannot be listed.
    """
    if cifar100:
        if images:
            raise CommandError("--images and --cifar100 exclude each other")
        if len(paths) > 1:
            raise CommandError(f"--cifar100 takes one archive, not {len(paths)}")
        return _read_cifar100(paths[0] if paths else None, labels)
    if own := [*images, *paths]:
        return list(_find_files(own, unread)), "Your own files."
    return list(_find_files([PROJECT / "samples" / "images"], unread)), (
        "The samples are drawings, not photos: they show how Kickstand works, not how good the model is."
    )


def _find_files(paths: Sequence[Path], unread: list[str]) -> Iterator[Source]:
    """Every file of whatever kind: bad ones must be handled too. Keys are relative to the folder that was named."""
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
            yield Source(as_utf8(name.as_posix()), partial(read_file, file))


def _read_cifar100(archive: Path | None, labels: Sequence[str]) -> tuple[list[Source], str]:
    """The archive's test photos of the model's classes."""
    if archive is None:
        archive = Path(os.environ.get(ARCHIVE_VARIABLE) or locate_cache() / CIFAR100_URL.rpartition("/")[2])
        if not archive.exists():
            raise CommandError(
                f"{archive}: no such archive; name one after --cifar100 or in {ARCHIVE_VARIABLE}, "
                "or let `kickstand dataset fetch` download it"
            )
    content = read_archive(archive)
    test = content.splits["test"]
    sources = [
        Source(f"{content.class_names[label]}/{filename}", lambda pixels=pixels: encode_png(pixels))  # type: ignore[misc]
        for pixels, label, filename in zip(test.pixels, test.labels, test.filenames, strict=True)
        if content.class_names[label] in labels
    ]
    if not sources:
        raise CommandError(f"{archive}: no test photos of the model's classes, {', '.join(labels)}")
    return sources, f"Real CIFAR-100 test photos of {' and '.join(labels)}, which the model was not trained on."


# ---- the run


@dataclass(frozen=True)
class Demonstration:
    """All uploads are decided, and the stack is still up. answered: what the demo answered, a sentence; or nothing."""

    stack: "Stack"
    uploads: list[Upload]
    about: str
    workflow: WorkflowType
    card: ModelCard
    answered: str
    weeks: Weeks
    seconds: float

    def gather(self) -> tuple[Run, Ledger, dict[str, str]]:
        """The results so far, and the files that hold them."""
        outcomes, failures = _gather(self.stack, self.uploads)
        summary = (
            f"{counted(len(self.uploads), 'upload')} through the shipped template, state machine ({self.workflow}) and "
            f"functions, on this machine, in {self.seconds:.0f} s."
        )
        shown = [f"The policy's guarantee was shown on {self.weeks.domain}."] if self.weeks.domain else []
        about = [sentence for sentence in (self.about, summary, self.answered, *shown) if sentence]
        drawing = _draw(self.stack)
        run = Run(len(self.uploads), outcomes, failures, about, self.card, drawing, self.weeks.about)
        ledger = self.stack.ledger()
        lines = [
            json.dumps({"key": outcome.key, "ms": round(outcome.ms), **outcome.record.model_dump(mode="json")})
            for outcome in run.outcomes
        ]
        records = "".join(f"{line}\n" for line in lines)
        texts = records, json.dumps(as_dict(ledger), indent=1) + "\n", run.state_machine, render_report(run)
        return run, ledger, dict(zip(FILES, texts, strict=True))


@contextmanager
def _running(
    sources: Sequence[Source],
    about: str,
    workflow: WorkflowType,
    artefact: Path,
    folder: Path,
    unread: list[str],
    review: bool,
) -> Iterator[tuple[Demonstration, Run, Ledger]]:
    """Deploy, upload, decide, answer, write; then the stack stays up for as long as the context lasts.

    unread: gets the reason for each file that cannot be read. review: a person answers, so the demo does not.
    """
    started = time.monotonic()
    with ExitStack() as open_:
        with _show_steps() as steps:
            open_.enter_context(divert_output(folder / "functions.log"))
            steps.begin("Deploying the template on this machine")
            # Imported here: moto takes a second, which no other command should wait for.
            from kickstand_cli.local.stack import deploy

            card = read_card(artefact)
            stack = open_.enter_context(deploy(TEMPLATE, {"WorkflowType": workflow}, artefact=artefact))
            uploads = []
            for source in steps.track("Uploading and deciding photos", sources):
                try:
                    data = source.read()
                except OSError as error:
                    unread.append(reason(error))
                    continue
                uploads.append(_upload(stack, source.key, data, card.input_shape))
                stack.deliver()
                stack.wait_for_a_gap(AT_ONCE)
            stack.settle(lambda: time.sleep(0.05))
            seconds = time.monotonic() - started
            mine = any(upload.key in SHOWS for upload in uploads) and not review
            answered = _answer(stack, steps) if mine else ""
            steps.begin("Simulating four weeks for the monitoring report")
            weeks = simulate_weeks(artefact, card, datetime.now(UTC))
            steps.begin("Writing the pages")
            demonstration = Demonstration(stack, uploads, about, workflow, card, answered, weeks, seconds)
            run, ledger, texts = demonstration.gather()
            texts |= {WEEKS: weeks.records, WEEKS_PAGE: weeks.page}
            write_files({folder / name: text for name, text in texts.items()})
        yield demonstration, run, ledger


def _answer(stack: "Stack", steps: Steps) -> str:
    """Answer for one of the samples of which the model is unsure; returns what was done, a sentence."""
    call = find_function(stack.outputs)
    desk = {"reviewer": REVIEWER, "format": "json", "draw": False}
    shown = call({**desk, "action": "show", "reason": "unsure"})["review"] or {"image": ""}
    key = shown["image"].removeprefix(f"s3://{stack.outputs['ImageBucketName']}/")
    if key not in SHOWS:
        return ""
    steps.begin(f"Answering for {key}, as a reviewer would")
    call({**desk, "action": "answer", "image": shown["image"], "version": shown["version"], "label": SHOWS[key]})
    stack.settle(lambda: time.sleep(0.05))
    return f"The model was unsure of {key}. The demo answered “{SHOWS[key]}”, as a reviewer would."


def _review(demonstration: Demonstration, console: Terminal, port: int, folder: Path) -> tuple[Run, Ledger]:
    """Serve the reviewers' page until Ctrl-C; the files follow every answer. Returns the last results."""
    stack, answered = demonstration.stack, 0

    def write() -> tuple[Run, Ledger]:
        run, ledger, texts = demonstration.gather()
        write_files({folder / name: text for name, text in texts.items()})
        return run, ledger

    def follow() -> None:
        nonlocal answered
        now = sum(review.status is ReviewStatus.ANSWERED for review in stack.reviews())
        if now > answered:
            stack.settle()
            write()
            answered = now

    serve(find_function(stack.outputs), port, "", console, follow)
    stack.settle()
    return write()


def _upload(stack: "Stack", key: str, data: bytes, input_shape: tuple[int, int, int]) -> Upload:
    picture = make_picture(data, input_shape)
    at = datetime.now(UTC)
    return Upload(key, stack.upload(key, data), at, picture)


def _gather(stack: "Stack", uploads: Sequence[Upload]) -> tuple[list[Outcome], list[Failure]]:
    """The outcome of each upload, by key; and each failure, with its cause."""
    from kickstand_cli.local.stack import FAILED

    bucket = stack.outputs["ImageBucketName"]
    records = {record.key: record for record in stack.records()}
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
    """Key and version of the upload that an event is about: S3's own event, or Kickstand's, which holds the record."""
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
    return draw_state_machine(
        definition, count_ways(definition, histories), f"{name}: {counted(len(executions), 'execution')}"
    )


# ---- the summary


def _print(console: Terminal, run: Run, demonstration: Demonstration) -> None:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("decision")
    table.add_column("reason")
    table.add_column("class")
    table.add_column("confidence", justify="right")
    table.add_column("photo", overflow="fold")
    for outcome in run.outcomes:
        decision, prediction = outcome.record.decision, outcome.record.prediction
        table.add_row(
            painted((decision.route, COLOURS[decision.route])),
            outcome.reason,
            prediction.label if prediction else "",
            f"{prediction.confidence:.3f}" if prediction else "",
            outcome.key,
        )
    console.table(table)
    for failure in run.failures:
        console.print(painted(("failed", "bold red"), f" {failure.key}: {failure.cause}"))
    counts = ", ".join(f"{run.count(route)} {words}" for route, words in ROUTES.items())
    decisions = f"{counted(len(run.outcomes), 'decision')} in {demonstration.seconds:.1f} s"
    console.print(f"{counted(run.uploads, 'upload')}, {decisions}: {counts}")
    for sentence in (run.about[0], demonstration.answered, demonstration.weeks.about):
        if sentence:
            console.print(sentence)
