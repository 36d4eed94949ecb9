"""Reads decision records, from files or a deployed stack's table, and the photos that they are about."""

import codecs
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, cast

import typer

from kickstand.classify.images import MAX_IMAGE_BYTES
from kickstand.clients import S3Client
from kickstand.errors import InvalidImage, first_complaint
from kickstand.events import as_utc
from kickstand.ledger.books import Books
from kickstand.records import Record
from kickstand.store import read_changes, read_image, readable, transient
from kickstand_cli.deployment import open_books, read_outputs
from kickstand_cli.files import open_file, read_file
from kickstand_cli.help import note
from kickstand_cli.terminal import CommandError

RecordsFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--records", metavar="FILE", help="Records, one JSON object a line, instead of a stack's; can be repeated."
    ),
]
OldRecords = Annotated[list[Path] | None, typer.Argument(hidden=True)]
"""Records as `report` and `labels agreement` took them before; for one release after 0.2.0."""
ImagesFolder = Annotated[
    Path | None,
    typer.Option("--images", metavar="DIR", help="The folder that was uploaded, instead of the stack's bucket."),
]
ReadUpload = Callable[[Record], bytes]
"""Raises InvalidImage, naming the upload, where it is gone."""
LONGEST_LINE = 100_000_000  # characters; a captured line holds at most a photo of 25 MB
LONGEST = timedelta(days=36_525)
UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def take_old_records(old: list[Path] | None, records: list[Path] | None) -> list[Path] | None:
    """All records that the command line names, those without --records too."""
    if old:
        note("records without an option", f"--records {old[0]}")
    return [*(old or []), *(records or [])] or None


def read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, by number, in UTF-8 or UTF-16, with or without a byte order mark.

    Raises CommandError where it cannot be read, or is neither.
    """
    with _opened(file) as content:
        yield from _decode(file, content)


@contextmanager
def _opened(file: Path) -> Iterator[BufferedReader]:
    try:
        with open_file(file) as content:
            yield content
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}") from error


def _decode(file: Path, content: BufferedReader) -> Iterator[tuple[int, str]]:
    text = TextIOWrapper(content, _find_encoding(content.peek(4)), newline="\n")
    number = 0
    try:
        while line := text.readline(LONGEST_LINE):
            number += 1
            if len(line) == LONGEST_LINE:
                raise CommandError(f"{file}, line {number}: longer than {LONGEST_LINE:,} characters")
            if line := line.strip().removeprefix("\ufeff"):  # a mark inside: files that were joined
                yield number, line
    except UnicodeDecodeError as error:
        raise CommandError(f"{file}: neither UTF-8 nor UTF-16 text ({error.reason} after line {number})") from error
    finally:
        text.detach()


def _find_encoding(start: bytes) -> str:
    """The encoding of a file that begins so. Records begin with a brace, which shows UTF-16 without a mark too."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return {b"\0": "utf-16-be"}.get(start[:1], "utf-16-le" if start[1:2] == b"\0" else "utf-8-sig")


def read_records(*files: Path) -> Iterator[Record]:
    """The records of JSON Lines files, such as the demo's `records.jsonl`, each upload once.

    Exports overlap, so an upload may have several records: the first with the most complete review is used. To find it,
    files are read twice; a pipe is copied first.

    Raises CommandError naming the line, or all files where none holds a record.
    """
    with ExitStack() as copies:
        contents = [(file, _content(file, copies)) for file in files]
        best: dict[int, tuple[tuple[bool, ...], int]] = {}
        for number, record in enumerate(_parse(contents)):
            key, found = hash(record.key), (_knows(record), -number)
            best[key] = max(best.get(key, found), found)
        if not best:
            raise CommandError(f"{', '.join(map(str, files))}: no record in it")
        chosen = {-place for _, place in best.values()}
        yield from (record for number, record in enumerate(_parse(contents)) if number in chosen)


def _content(file: Path, copies: ExitStack) -> BufferedReader:
    """The file, open; a copy of a pipe, which can be read only once."""
    content = copies.enter_context(_opened(file))
    if content.seekable():
        return content
    copy = copies.enter_context(TemporaryFile())  # noqa: SIM115
    shutil.copyfileobj(content, copy)
    return cast("BufferedReader", copy)


def _parse(contents: Iterable[tuple[Path, BufferedReader]]) -> Iterator[Record]:
    for file, content in contents:
        content.seek(0)
        for number, line in _decode(file, content):
            try:
                yield Record.model_validate_json(line)
            except ValueError as error:
                why = first_complaint(error)
                raise CommandError(f"{file}, line {number}: no decision record ({why})") from error


def _knows(record: Record) -> tuple[bool, ...]:
    review = record.review
    parts = (review.answer, review.second, review.golden) if review else (None, None, None)
    return (*(part is not None for part in parts), review is not None)


def open_records(
    files: Sequence[Path], images: Path | None, stack_name: str, outputs: Path | None, since: datetime | None
) -> tuple[list[Record], ReadUpload | None]:
    """As `stream_records`, all in memory."""
    found, read = stream_records(files, images, stack_name, outputs, since)
    return list(found), read


def stream_records(
    files: Sequence[Path], images: Path | None, stack_name: str, outputs: Path | None, since: datetime | None = None
) -> tuple[Iterator[Record], ReadUpload | None]:
    """The records of these files, else of the stack, one after the other; and how to read their photos: None where
    neither a stack nor a folder is given.

    images: the folder that was uploaded, instead of the stack's bucket. since: only photos decided since then.
    """
    read = read_from_folder(images) if images else None
    if files:
        found = read_records(*files)
    else:
        books = open_books(read_outputs(stack_name, outputs))
        found = _read_table(books, since)
        read = read or read_from_bucket(books.s3)
    return (record for record in found if since is None or record.recorded_at >= since), read


def _read_table(books: Books, since: datetime | None) -> Iterator[Record]:
    if since:  # reads only those; one that is answered meanwhile may come twice
        changes = read_changes(books.dynamodb, books.records_table, since, datetime.now(UTC))
        yield from {record.key: record for record in changes}.values()
        return
    with transient("DynamoDB"):
        for page in books.dynamodb.get_paginator("scan").paginate(TableName=books.records_table):
            yield from readable(page["Items"], Record)


def parse_since(text: str, now: datetime) -> datetime:
    """A moment: "7d", "24h", "30m", "2w" before now, or ISO 8601; UTC where it does not say.

    Raises ValueError for anything else.

    >>> parse_since("2h", datetime(2026, 5, 4, 12, tzinfo=UTC)).hour
    10
    """
    if text[-1:] in UNITS:
        return now - parse_duration(text)
    return as_utc(datetime.fromisoformat(text))


def parse_since_option(text: str | None, now: datetime, example: str = "7d") -> datetime | None:
    """The moment that --since names, if it is given. Raises BadParameter, which shows the forms, with this example."""
    if text is None:
        return None
    try:
        moment = parse_since(text, now)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r}: expected a length such as 24h or {example}, or a date in ISO 8601", param_hint="--since"
        ) from error
    if moment > now:
        raise typer.BadParameter(f"{text}: in the future", param_hint="--since")
    if now - moment > LONGEST:  # a table is read day by day
        raise typer.BadParameter(f"{text}: more than a hundred years ago", param_hint="--since")
    return moment


def parse_duration(text: str) -> timedelta:
    """ "30m", "4h", "7d" or "2w". Raises ValueError for anything else.

    >>> parse_duration("1.5h")
    datetime.timedelta(seconds=5400)
    """
    if text[-1:] not in UNITS or not text[:-1].replace(".", "", 1).isdecimal():
        raise ValueError(f"{text}: not a length of time")
    if float(text[:-1]) * UNITS[text[-1]].total_seconds() > LONGEST.total_seconds():
        raise ValueError(f"{text}: longer than a hundred years")
    return float(text[:-1]) * UNITS[text[-1]]


def read_from_folder(folder: Path) -> ReadUpload:
    """From the folder that was uploaded; a key is a path in it. Raises CommandError where there is no such folder."""
    if not folder.is_dir():
        raise CommandError(f"{folder}: no such folder")

    def read(record: Record) -> bytes:
        file = folder / record.image_ref.key
        if not file.resolve().is_relative_to(folder.resolve()):
            raise InvalidImage(f"{file}: outside of {folder}")
        try:
            return read_file(file)
        except (OSError, ValueError) as error:  # ValueError: an impossible file name
            raise InvalidImage(f"{file}: {getattr(error, 'strerror', None) or error}") from error

    return read


def read_from_bucket(s3: S3Client) -> ReadUpload:
    """Exactly the version that was decided on. Raises StoreUnavailable too."""

    def read(record: Record) -> bytes:
        return read_image(s3, record.image_ref, MAX_IMAGE_BYTES)

    return read
