"""Reads decision records, from a file or a deployed stack's table, and the uploaded bytes that they speak of."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from kickstand.classify.images import MAX_IMAGE_BYTES
from kickstand.clients import S3Client
from kickstand.errors import InvalidImage
from kickstand.ledger.store import Books
from kickstand.records import Record
from kickstand.store import from_item, read_changes, read_image, transient
from kickstand_cli.deployment import open_books, read_outputs
from kickstand_cli.files import open_file
from kickstand_cli.terminal import CommandError

RecordsFile = Annotated[
    Path | None,
    typer.Option(
        "--records",
        metavar="FILE",
        help="Records, one JSON object a line, such as the demo's records.jsonl, instead of the stack's table.",
    ),
]
ImagesFolder = Annotated[
    Path | None,
    typer.Option("--images", metavar="DIR", help="The folder that was uploaded, instead of the stack's bucket."),
]
ReadUpload = Callable[[Record], bytes]
"""Raises InvalidImage where the upload is not there any more, saying which."""
UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def read_records(file: Path) -> Iterator[Record]:
    """The records of a JSON Lines file, such as the demo's `records.jsonl`; blank lines are none.

    Raises CommandError naming the line.
    """
    try:
        with open_file(file) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    try:
                        yield Record.model_validate_json(line)
                    except ValueError as error:
                        raise CommandError(f"{file}, line {number}: no decision record ({_first(error)})") from error
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}") from error


def open_records(
    files: Sequence[Path], images: Path | None, stack_name: str, outputs: Path | None, since: datetime | None = None
) -> tuple[list[Record], ReadUpload | None]:
    """What `stream_records` gives, all of it in memory."""
    found, read = stream_records(files, images, stack_name, outputs, since)
    return list(found), read


def stream_records(
    files: Sequence[Path], images: Path | None, stack_name: str, outputs: Path | None, since: datetime | None = None
) -> tuple[Iterator[Record], ReadUpload | None]:
    """The records of these files, else of the stack, one after the other as they are read; and how to read their
    images, None where nothing names a place.

    images: the folder that was uploaded, instead of the stack's bucket. since: only what was decided since then.
    """
    read = read_from_folder(images) if images else None
    if files:
        found = _read_files(files)
    else:
        books = open_books(read_outputs(stack_name, outputs))
        found = _read_table(books, since)
        read = read or read_from_bucket(books.s3)
    return (record for record in found if since is None or record.recorded_at >= since), read


def _read_files(files: Sequence[Path]) -> Iterator[Record]:
    """Raises CommandError where none of them holds a record: then something else was named than what was meant."""
    none = True
    for file in files:
        for record in read_records(file):
            none = False
            yield record
    if none:
        raise CommandError(f"{', '.join(map(str, files))}: no record in it")


def _read_table(books: Books, since: datetime | None) -> Iterator[Record]:
    if since:  # costs what those records cost, however many there are; one that is answered meanwhile may come twice
        changes = read_changes(books.dynamodb, books.records_table, since, datetime.now(UTC))
        yield from {(record.image, record.version): record for record in changes}.values()
        return
    with transient("DynamoDB"):
        for page in books.dynamodb.get_paginator("scan").paginate(TableName=books.records_table):
            yield from map(from_item, page["Items"])


def parse_since(text: str, now: datetime) -> datetime:
    """A moment: "7d", "24h", "30m", "2w" before now, or ISO 8601; UTC where it does not say.

    Raises ValueError for anything else.

    >>> parse_since("2h", datetime(2026, 5, 4, 12, tzinfo=UTC)).hour
    10
    """
    if text[-1:] in UNITS:
        try:
            return now - parse_duration(text)
        except OverflowError as error:
            raise ValueError(f"{text}: longer ago than a calendar goes") from error
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def parse_since_option(text: str, now: datetime, example: str = "7d") -> datetime:
    """What --since says; a BadParameter that names the forms, one of them this example, where it says nothing."""
    try:
        return parse_since(text, now)
    except ValueError as error:
        raise typer.BadParameter(f"{text}: neither 24h, {example} nor ISO 8601", param_hint="--since") from error


def parse_duration(text: str) -> timedelta:
    """ "30m", "4h", "7d" or "2w". Raises ValueError for anything else.

    >>> parse_duration("1.5h")
    datetime.timedelta(seconds=5400)
    """
    if text[-1:] not in UNITS or not text[:-1].replace(".", "", 1).isdigit():
        raise ValueError(f"{text}: not a length of time")
    try:
        return float(text[:-1]) * UNITS[text[-1]]
    except OverflowError as error:
        raise ValueError(f"{text}: too long") from error


def _first(error: ValueError) -> str:
    """pydantic's first complaint, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
    return str(error).replace("\n", " ")[:200]


def read_from_folder(folder: Path) -> ReadUpload:
    """From the folder that was uploaded; a key is a path in it."""

    def read(record: Record) -> bytes:
        file = folder / record.image_ref.key
        if not file.resolve().is_relative_to(folder.resolve()):
            raise InvalidImage(f"{file}: outside of {folder}")
        try:
            return file.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a key that no file can have
            raise InvalidImage(f"{file}: {getattr(error, 'strerror', None) or error}") from error

    return read


def read_from_bucket(s3: S3Client) -> ReadUpload:
    """Exactly the version that was decided on. Raises StoreUnavailable too."""

    def read(record: Record) -> bytes:
        return read_image(s3, record.image_ref, MAX_IMAGE_BYTES)

    return read
