"""Reads decision records: from a file, one JSON object a line, or from a deployed stack's table."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import typer
from pydantic import ValidationError

from kickstand.records import Record
from kickstand.store import from_item, read_changes, transient

UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


class RecordsError(Exception):
    """The records cannot be read; the message says which and why."""


def read_records(file: Path) -> Iterator[Record]:
    """The records of a JSON Lines file, such as the demo's `records.jsonl`; blank lines are none.

    Raises RecordsError naming the line.
    """

    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    try:
                        yield Record.model_validate_json(line)
                    except ValueError as error:
                        raise RecordsError(f"{file}, line {number}: no decision record ({_first(error)})") from error
    except OSError as error:
        raise RecordsError(f"{file}: {error.strerror}") from error


def scan_records(table: str) -> Iterator[Record]:
    """Every record of the table, a page at a time."""

    dynamodb = boto3.client("dynamodb")
    with transient("DynamoDB"):
        for page in dynamodb.get_paginator("scan").paginate(TableName=table):
            yield from map(from_item, page["Items"])


def read_since(table: str, since: datetime, now: datetime) -> Iterator[Record]:
    """The table's records that were decided since then; costs what those cost, however many there are."""

    # One that is answered during the reading may come twice.
    changes = {(one.image, one.version): one for one in read_changes(boto3.client("dynamodb"), table, since, now)}
    return (record for record in changes.values() if record.recorded_at >= since)


def parse_since(text: str, now: datetime) -> datetime:
    """A moment: "7d", "24h", "30m", "2w" before now, or ISO 8601; UTC where it does not say.

    Raises ValueError for anything else.

    >>> parse_since("2h", datetime(2026, 5, 4, 12, tzinfo=UTC)).hour
    10
    """
    if text[-1:] in UNITS:
        return now - parse_duration(text)
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
    return float(text[:-1]) * UNITS[text[-1]]


def _first(error: ValueError) -> str:
    """pydantic's first complaint, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
    return str(error).replace("\n", " ")[:200]
