"""`kickstand labels`: what people have answered becomes a dataset to train with; and how often they agree."""

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from kickstand.classify.artefact import read_card
from kickstand.classify.images import MAX_IMAGE_BYTES, prepare
from kickstand.clients import S3Client
from kickstand.errors import InvalidImage
from kickstand.events import Payload
from kickstand.review.agreement import agreement as find_agreement
from kickstand.review.agreement import describe
from kickstand.review.rules import AUDIT, CANNOT_TELL, Review
from kickstand.review.store import list_reviews
from kickstand.store import read_image
from kickstand_cli.datasets.folder import replace_folder
from kickstand_cli.deployment import DEFAULT_STACK, OutputsFile, StackName, open_books, read_outputs, reporting
from kickstand_cli.monitor.monitor import Since
from kickstand_cli.project import MODEL
from kickstand_cli.records import open_records, parse_since_option
from kickstand_cli.terminal import console, exit_on

app = typer.Typer(
    help="What people have answered: as a dataset, and how often two of them agree.", no_args_is_help=True
)
MANIFEST = "labels.json"


class Label(Payload):
    """One image and what a person said it shows; not who.

    path: the image as the model sees it, relative to the folder. original: the uploaded bytes.
    sha256: of the original.
    audit: asked by lot, whatever the model said.
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
    """What the folder holds. cannot_tell, gone: answers that gave no label, and images that are no longer there."""

    format: Literal["kickstand-labels-1"] = "kickstand-labels-1"
    input_shape: tuple[int, int, int]
    counts: dict[str, int]
    cannot_tell: int
    gone: int
    labels: tuple[Label, ...]


@app.callback()
def labels() -> None:
    """What people have answered: as a dataset, and how often two of them agree."""


@app.command()
def export(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write; it appears only once it is complete.")],
    with_audits: Annotated[
        bool,
        typer.Option(
            "--with-audits/--without-audits",
            help="Put answers of the random audit into train/ too; otherwise they lie apart, in audit/, "
            "where they can go on telling the model's accuracy.",
        ),
    ] = False,
    artefact: Annotated[
        Path, typer.Option("--model", metavar="DIR", help="Whose input size the images get: a model artefact.")
    ] = MODEL,
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
) -> None:
    """Write every answered image into train/<label>/, as `kickstand train` reads it.

    The images are prepared as the workflow prepares them; the uploaded bytes lie beside them in original/<label>/, and
    labels.json tells of each one which upload it was, and when it was answered; not by whom. Nothing is replaced.

    Exit codes: 0 written; 1 an error, and nothing is written.
    """
    with reporting(), exit_on(OSError):
        books = open_books(read_outputs(stack_name, outputs))
        shape = read_card(artefact).input_shape
        reviews = list_reviews(books.dynamodb, books.reviews_table)
        written = write_labels(books.s3, reviews, out, shape, with_audits=with_audits)
    for folder, number in written.counts.items():
        console.print(f"{folder}: {number}", markup=False)
    console.print(
        f"{len(written.labels)} labels in {out}; left out: {written.cannot_tell} that nobody could tell, "
        f"{written.gone} whose image is gone",
        markup=False,
    )


@app.command()
def agreement(
    records: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RECORDS…", help="Records, one JSON object a line, instead of a stack's table."),
    ] = None,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.9999, help="How sure the bound on the label error is.")
    ] = 0.95,
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
    since: Since = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say how often two reviewers agree about a photo, and how many of their answers are wrong at most.

    Exit codes: 0 said, whatever it is; 1 an error.
    """
    start = parse_since_option(since, datetime.now(UTC)) if since else None
    with reporting(), exit_on(OSError):
        seen, _ = open_records(records or [], None, stack_name, outputs, start)
    found = find_agreement(seen, confidence_level=confidence)
    if as_json:
        print(found.model_dump_json())  # noqa: T201
    else:
        console.print(describe(found), markup=False)


def write_labels(
    s3: S3Client,
    reviews: Iterable[Review],
    out: Path,
    input_shape: tuple[int, int, int],
    *,
    with_audits: bool = False,
) -> Export:
    """Write the folder in one step: either all of it is there afterwards, or nothing has changed.

    Raises CommandError where out is not empty or cannot be written.
    """
    found: list[Label] = []
    cannot_tell = gone = 0
    with replace_folder(out) as folder:
        for review in reviews:
            if review.answer is None:
                continue
            if review.answer.label == CANNOT_TELL:
                cannot_tell += 1
                continue
            try:
                found.append(_write_one(s3, review, review.answer.label, folder, input_shape, with_audits=with_audits))
            except InvalidImage:
                gone += 1
        found.sort(key=lambda label: (label.path, label.image, label.version))
        folders = Counter(label.path.rpartition("/")[0] for label in found)
        export = Export(
            input_shape=input_shape,
            counts=dict(sorted(folders.items())),
            cannot_tell=cannot_tell,
            gone=gone,
            labels=tuple(found),
        )
        (folder / MANIFEST).write_text(export.model_dump_json(indent=1) + "\n", "utf-8")
    return export


def _write_one(
    s3: S3Client,
    review: Review,
    label: str,
    folder: Path,
    input_shape: tuple[int, int, int],
    *,
    with_audits: bool,
) -> Label:
    """Write the image and its original. The same bytes uploaded twice are one file. Raises InvalidImage."""
    data = read_image(s3, review.image_ref, MAX_IMAGE_BYTES)
    prepared = prepare(data, review.image, input_shape)
    name = hashlib.sha256(data).hexdigest()[:16]
    audit = review.why == AUDIT
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
        answered_at=review.answer.answered_at if review.answer else review.requested_at,
        audit=audit,
    )
