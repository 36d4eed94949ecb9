"""`kickstand labels`: reviewers' answers as a dataset to train with; and how often reviewers agree."""

import base64
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from kickstand.classify.artefact import check_label, read_card
from kickstand.classify.images import MAX_IMAGE_BYTES, prepare
from kickstand.clients import S3Client
from kickstand.errors import InvalidImage
from kickstand.events import Payload
from kickstand.review.agreement import agreement as find_agreement
from kickstand.review.agreement import describe
from kickstand.review.rules import AUDIT, CANNOT_TELL, Review
from kickstand.review.store import list_reviews
from kickstand.store import read_image
from kickstand.text import counted
from kickstand_cli.datasets.folder import check_output
from kickstand_cli.deployment import DEFAULT_STACK, OutputsFile, StackName, open_books, read_outputs, reporting
from kickstand_cli.files import open_database
from kickstand_cli.monitor.monitor import Since
from kickstand_cli.parallel import in_processes, in_threads
from kickstand_cli.project import MODEL
from kickstand_cli.records import OldRecords, RecordsFiles, parse_since_option, stream_records, take_old_records
from kickstand_cli.terminal import AsJson, CommandError, console, exit_on, print_json, show_progress

app = typer.Typer(no_args_is_help=True)
MANIFEST = "labels.json"
JOURNAL = ".kickstand-labels.sqlite"
WRITTEN = re.compile(r"(train|audit|original)/[^/]+/[0-9a-f]{16}\.[a-z0-9]+")
"""The files of an export; only these are removed when their label is gone."""


class Label(Payload):
    """One photo and its label, without the reviewer's name.

    path: the photo as the model sees it, relative to the folder. original: the uploaded bytes.
    sha256: of the original.
    audit: from the random sample of accepted photos.
    """

    path: str
    original: str
    label: str
    image: str
    version: str
    sha256: str
    answered_at: datetime
    audit: bool


class Export(Payload):
    """The content of the folder; in the file, its labels follow.

    counts: labels by folder. cannot_tell, gone: answers without a label, and photos that are gone.
    contradictory: different answers about one photo, by two people or about two uploads of it; none is written.
    no_folder: answers whose label cannot be the name of a folder.
    """

    format: Literal["kickstand-labels-1"] = "kickstand-labels-1"
    input_shape: tuple[int, int, int]
    counts: dict[str, int]
    cannot_tell: int
    gone: int
    contradictory: int = 0
    no_folder: int = 0


@app.callback()
def labels() -> None:
    """Export reviewers' answers as a dataset, and measure how often reviewers agree."""


@app.command()
def export(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write; it appears only once it is complete.")],
    with_audits: Annotated[
        bool,
        typer.Option(
            "--with-audits",
            help="Put audited photos into train/ too, instead of audit/, where they can measure accuracy.",
        ),
    ] = False,
    artefact: Annotated[
        Path,
        typer.Option(
            "--model",
            metavar="DIR",
            show_default="the shipped model",
            help="The model artefact whose input size the photos get.",
        ),
    ] = MODEL,
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
    as_json: AsJson = False,
) -> None:
    """Write every labelled photo into train/CLASS/, as `kickstand train` reads it.

    The photos are prepared as in the workflow. The uploaded files are in original/CLASS/, and labels.json names the
    upload and the time of each answer, but not the reviewer. Nothing is replaced. An interrupted export continues when
    the same command runs again.

    Exit codes: 0 written; 1 an error, and the folder does not appear.

    Examples:
    $ kickstand labels export --out answered --stack-name kickstand-dev
    """
    with reporting(), exit_on(OSError, sqlite3.Error):
        books = open_books(read_outputs(stack_name, outputs))
        shape = read_card(artefact).input_shape
        reviews = list_reviews(books.dynamodb, books.reviews_table)
        written = write_labels(books.s3, reviews, out, shape, with_audits=with_audits)
    if as_json:
        print_json(written)
        return
    for folder, number in written.counts.items():
        console.print(f"{folder}: {number}")
    console.print(
        f"{counted(sum(written.counts.values()), 'label')} in {out}; left out: {written.cannot_tell} “can't tell”, "
        f"{written.gone} whose photo is gone, {written.contradictory} that contradict each other, "
        f"{written.no_folder} whose label cannot be the name of a folder",
    )


@app.command()
def agreement(
    old_records: OldRecords = None,
    records: RecordsFiles = None,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.9999, help="Confidence of the bound on the label error.")
    ] = 0.95,
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
    since: Since = None,
    as_json: AsJson = False,
) -> None:
    """Show how often two reviewers agree about a photo, and an upper bound of the share of wrong labels.

    Exit codes: 0 shown; 1 an error.

    Examples:
    $ kickstand labels agreement --records demo-output/simulated-weeks.jsonl
    """
    records = take_old_records(old_records, records)
    start = parse_since_option(since, datetime.now(UTC))
    with reporting(), exit_on(OSError):
        stored, _ = stream_records(records or [], None, stack_name, outputs, start)
        reviewed = [record for record in stored if record.review]  # the others would only take memory
    found = find_agreement(reviewed, confidence_level=confidence)
    if as_json:
        print_json(found)
    else:
        console.print(describe(found))


def write_labels(
    s3: S3Client,
    reviews: Iterable[Review],
    out: Path,
    input_shape: tuple[int, int, int],
    *,
    with_audits: bool = False,
) -> Export:
    """Write the folder. It appears in one step, once it is complete; an interrupted call continues.

    Raises CommandError where out is not empty or cannot be written.
    """
    cannot_tell = gone = contradictory = no_folder = 0

    def look_up(journal: "Journal") -> Iterator[tuple[Review, Label | None]]:
        nonlocal cannot_tell, contradictory, no_folder
        for review in reviews:
            if review.answer is None:
                continue
            said, second = review.answer.label, review.second and review.second.label
            if said == CANNOT_TELL:
                cannot_tell += 1
            elif second and second not in (said, CANNOT_TELL):
                contradictory += 1
            elif not _is_folder(said):
                no_folder += 1
            else:
                yield review, journal.get(*review.key)

    def fetch(folder: Path, asked: tuple[Review, Label | None]) -> Fetched:
        review, known = asked
        if known and _is_there(folder, known):
            return known
        try:
            return review, read_image(s3, review.image_ref, MAX_IMAGE_BYTES)
        except InvalidImage:
            return None

    with _unfinished(out, f"{input_shape} {with_audits}") as (folder, journal), show_progress() as progress:
        fetched = in_threads(partial(fetch, folder), look_up(journal))
        write = partial(_write_all, folder, input_shape, with_audits)
        for label in progress.track(in_processes(write, fetched, lost=lambda _: None), description="labels"):
            if label:
                journal.put(label)
            else:
                gone += 1
        journal.forget_others()
        contradictory += journal.forget_contradictory()
        for file in folder.glob("*/*/*"):
            name = file.relative_to(folder).as_posix()
            if WRITTEN.fullmatch(name) and not journal.names(name):
                file.unlink()
        export = Export(
            input_shape=input_shape,
            counts=journal.counts(),
            cannot_tell=cannot_tell,
            gone=gone,
            contradictory=contradictory,
            no_folder=no_folder,
        )
        with (folder / MANIFEST).open("w", encoding="utf-8") as manifest:
            manifest.write(export.model_dump_json(indent=1).removesuffix("\n}") + ',\n "labels": [')
            for number, line in enumerate(journal.lines()):
                manifest.write(("," if number else "") + f"\n  {line}")
            manifest.write("\n ]\n}\n")
    return export


Fetched = tuple[Review, bytes] | Label | None
"""A review with its photo's bytes; its label, if an earlier run wrote it; None where the photo is gone."""


class Journal:
    """The labels in the folder, by upload: how an interrupted export continues, and the list at its end."""

    AT_ONCE = 100  # labels written together; at most this many photos are fetched again after a crash

    def __init__(self, file: Path, kind: str) -> None:
        self._run, self._new = secrets.token_hex(8), 0
        self._database = open_database(
            file,
            "CREATE TABLE IF NOT EXISTS labels "
            "(image, version, folder, path, original, json, run, PRIMARY KEY (image, version))",
            *(f"CREATE INDEX IF NOT EXISTS by_{column} ON labels ({column})" for column in ("path", "original")),
            "CREATE TABLE IF NOT EXISTS about (kind)",
        )
        row = self._database.execute("SELECT kind FROM about").fetchone()
        self.alike = row in (None, (kind,))
        if row is None:
            self._database.execute("INSERT INTO about VALUES (?)", (kind,))

    def close(self) -> None:
        self._database.commit()
        self._database.close()

    def get(self, image: str, version: str) -> Label | None:
        found = "SELECT json FROM labels WHERE image = ? AND version = ?"
        row = self._database.execute(found, (image, version)).fetchone()
        return Label.model_validate_json(row[0]) if row else None

    def put(self, label: Label) -> None:
        folder, as_json = label.path.rpartition("/")[0], label.model_dump_json()
        row = (label.image, label.version, folder, label.path, label.original, as_json, self._run)
        self._database.execute("INSERT OR REPLACE INTO labels VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        self._new += 1
        if self._new % self.AT_ONCE == 0:
            self._database.commit()

    def forget_others(self) -> None:
        """Forget labels that this run has not put: their reviews are gone."""
        self._database.execute("DELETE FROM labels WHERE run <> ?", (self._run,))

    def forget_contradictory(self) -> int:
        """Forget labels that contradict each other about the same bytes; returns how many they were."""
        by_bytes = "SELECT json_extract(json, '$.sha256') FROM labels GROUP BY 1"
        differing = f"{by_bytes} HAVING count(DISTINCT json_extract(json, '$.label')) > 1"
        return self._database.execute(
            f"DELETE FROM labels WHERE json_extract(json, '$.sha256') IN ({differing})"  # noqa: S608 - of our own words
        ).rowcount

    def names(self, file: str) -> bool:
        """Whether a label names this file."""
        found = "SELECT 1 FROM labels WHERE path = ?1 UNION ALL SELECT 1 FROM labels WHERE original = ?1"
        return self._database.execute(found, (file,)).fetchone() is not None

    def counts(self) -> dict[str, int]:
        """Labels by folder, sorted."""
        return dict(self._database.execute("SELECT folder, count(*) FROM labels GROUP BY 1 ORDER BY 1"))

    def lines(self) -> Iterator[str]:
        """Each label as JSON, sorted."""
        for row in self._database.execute("SELECT json FROM labels ORDER BY path, image, version"):
            yield row[0]


@contextmanager
def _unfinished(out: Path, kind: str) -> Iterator[tuple[Path, Journal]]:
    """A folder that replaces `out` when the block ends; when the block fails, the next call continues in it.

    kind: the settings of the export; an unfinished folder with other settings is removed.
    """
    out = out.resolve()
    check_output(out, force=False)
    folder = out.parent / f".{out.name}.unfinished"
    try:
        with _claimed(folder):
            journal = Journal(folder / JOURNAL, kind)
            if not journal.alike:
                journal.close()
                for entry in folder.iterdir():
                    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
                journal = Journal(folder / JOURNAL, kind)
            try:
                yield folder, journal
            finally:
                journal.close()
            (folder / JOURNAL).unlink()
            if out.exists():
                out.rmdir()  # it is empty
            folder.rename(out)
    except OSError as error:
        raise CommandError(f"{error.filename or out}: cannot be written ({error.strerror})") from error


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """The folder, new or left by an interrupted export, for this export alone; elsewhere nothing is ever removed.

    Raises CommandError if it may be somebody else's, or another export is writing it.
    """
    foreign = CommandError(f"{folder}: not left by an export of yours; remove it, or choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink():
        raise foreign
    descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        journal = folder / JOURNAL
        begun = journal.is_file() and not journal.is_symlink()
        if os.fstat(descriptor).st_uid != os.getuid() or not (begun or not any(folder.iterdir())):
            raise foreign
        yield
    except BlockingIOError as error:
        raise CommandError(f"{folder}: another export is writing it; wait for it, or choose another --out") from error
    finally:
        os.close(descriptor)


def _is_folder(label: str) -> bool:
    try:
        check_label(label)
    except ValueError:
        return False
    return True


def _is_there(folder: Path, label: Label) -> bool:
    """Whether the label's files are there, and the uploaded bytes are the right ones."""
    try:
        with (folder / label.original).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == label.sha256 and (folder / label.path).is_file()
    except OSError:
        return False


def _write_all(
    folder: Path, input_shape: tuple[int, int, int], with_audits: bool, fetched: Sequence[Fetched]
) -> list[Label | None]:
    """Write each photo as the model sees it, and its original; None for one that cannot be used."""
    return [_write_one(folder, input_shape, with_audits, *one) if isinstance(one, tuple) else one for one in fetched]


def _write_one(
    folder: Path, input_shape: tuple[int, int, int], with_audits: bool, review: Review, data: bytes
) -> Label | None:
    """The same bytes uploaded twice are one file."""
    if review.answer is None:
        return None
    try:
        prepared = prepare(data, review.image, input_shape)
    except InvalidImage:
        return None
    label, name, audit = review.answer.label, prepared.sha256[:16], review.why == AUDIT
    path = f"{'audit' if audit and not with_audits else 'train'}/{label}/{name}.png"
    original = f"original/{label}/{name}.{prepared.format.lower()}"
    for relative, content in {path: base64.b64decode(prepared.png), original: data}.items():
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        (folder / relative).write_bytes(content)
    return Label(
        path=path,
        original=original,
        label=label,
        image=review.image,
        version=review.version,
        sha256=prepared.sha256,
        answered_at=review.answer.answered_at,
        audit=audit,
    )
