"""`kickstand forget`: remove one photo, and everything that the stack stores about it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from pydantic import SecretStr

from kickstand.backfill.rules import State
from kickstand.backfill.store import load_run
from kickstand.ledger.balance import Key
from kickstand.ledger.books import Books, holds_messages
from kickstand.ledger.letters import record_letters
from kickstand.report.pages import shows
from kickstand.review.store import wake
from kickstand.store import item_key, key_of
from kickstand.text import printable
from kickstand_cli.deployment import DEFAULT_STACK, OutputsFile, StackName, open_books, read_outputs, reporting
from kickstand_cli.terminal import AsJson, CommandError, console, print_json, stderr

UNDER_WAY = timedelta(hours=1)  # a younger upload may still be on its way to its record
WORDS = {
    "versions": "versions of the object, deletion markers among them",
    "letters": "dead letters",
    "records": "records",
    "reviews": "reviews, with their answers",
    "executions": "executions that waited for an answer, ended",
    "pages": "report pages that show it",
}
STAYS = (
    "logs contain its name until LogRetentionDays have passed",
    "backups of the tables contain its record and review for 35 days",
    "histories of STANDARD executions contain its name and the prepared photo for 90 days; EXPRESS keeps none",
    "copies outside the stack are not known here: events, mails, exported labels, datasets, models trained on it",
)


@dataclass(frozen=True)
class Traces:
    """Everything about a photo. versions, pages: key and version id. uploaded_at: of the latest version."""

    versions: tuple[Key, ...]
    letters: tuple[Key, ...]
    records: tuple[Key, ...]
    reviews: tuple[Key, ...]
    pages: tuple[Key, ...]
    uploaded_at: datetime | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        return {field.name: len(getattr(self, field.name)) for field in fields(self) if field.name != "uploaded_at"}


def forget(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="s3://bucket/key, in the stack's bucket.")],
    version: Annotated[str | None, typer.Option(metavar="ID", help="Only this upload to that key; else all.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
    as_json: AsJson = False,
) -> None:
    """Remove a photo and everything that the stack stores about it.

    That is its record, review, answers, dead letters and report pages; an execution that waits for an answer ends. The
    command asks for confirmation, then says what it removed and what it cannot remove. If a record may still be
    written, it says so: repeat the command then.

    Exit codes: 0 everything that can be removed is removed; 1 an error, or you said no.

    Examples:
    $ kickstand forget s3://bucket/bike.jpg --stack-name kickstand-dev
    """
    if not re.fullmatch("s3://[^/]+/.+", image, re.DOTALL):
        raise typer.BadParameter(f"{image}: expected s3://bucket/key", param_hint="IMAGE")
    with reporting():
        found_outputs = read_outputs(stack_name, outputs)
        books, report_bucket = open_books(found_outputs), found_outputs["ReportBucketName"]
        key = image.removeprefix(f"s3://{books.image_bucket}/")
        if key in (image, ""):
            raise CommandError(f"{image}: not in the stack's bucket, s3://{books.image_bucket}")
        traces = find_traces(books, report_bucket, image, version)
        if not yes and any(traces.counts.values()):
            for name, number in traces.counts.items():
                stderr.print(f"{WORDS[name]}: {number:,}")
            typer.confirm(f"Remove all this of {printable(image)}?", abort=True, err=True)
        removed = remove(books, report_bucket, image, version, traces)
        reason = find_reason(books, traces)
    if as_json:
        content = {"image": image, "version": version, "removed": removed, "stays": STAYS}
        print_json(content | {"repeat_in_an_hour": bool(reason)})
        return
    for line in describe(image, removed, reason):
        console.print(line)


def find_reason(books: Books, traces: Traces) -> str:
    """Why an execution may still write a record of the photo; empty where none can."""
    if traces.uploaded_at is None:
        return ""
    if datetime.now(UTC) - traces.uploaded_at < UNDER_WAY:
        return "It was uploaded within the last hour"
    if holds_messages(books, books.waiting_queue):
        return "Uploads wait to be classified"
    backfill = load_run(books.dynamodb, books.control_table)
    return "A backfill is running" if backfill and backfill.state is State.RUNNING else ""


def describe(image: str, removed: Mapping[str, int], reason: str) -> Iterator[str]:
    """What was removed and what was not, for people. reason: why a record may still come."""
    if not any(removed.values()):
        yield printable(f"nothing is left of {image}")
    for name, number in removed.items():
        if number:
            yield f"removed {WORDS[name]}: {number:,}"
    if reason:
        yield f"{reason}, so its record may still be written: repeat the command in an hour."
    yield from (f"stays: {line}" for line in STAYS)


def find_traces(books: Books, report_bucket: str, image: str, version: str | None) -> Traces:
    """Everything about the photo. Dead letters are moved from their queue into their table first."""
    objects = list(_versions(books, image, version))
    record_letters(books)
    letters = _items(books, books.letters_table, image, version)
    records = _items(books, books.records_table, image, version)
    reviews = _items(books, books.reviews_table, image, version)
    known = [item["image_ref"]["M"]["uploaded_at"]["S"] for item in (*records, *reviews)]
    times = [found["LastModified"] for found in objects] + [datetime.fromisoformat(time) for time in known]
    return Traces(
        versions=tuple((found["Key"], found["VersionId"]) for found in objects),
        letters=tuple(map(key_of, letters)),
        records=tuple(map(key_of, records)),
        reviews=tuple(map(key_of, reviews)),
        pages=tuple(_pages(books, report_bucket, image, min(times))) if times else (),
        uploaded_at=max(times, default=None),
    )


def remove(books: Books, report_bucket: str, image: str, version: str | None, traces: Traces) -> dict[str, int]:
    """Remove what was found; returns how much of each.

    The object goes first: while it exists, the ledger processes an upload without a record again. The review goes after
    the record: without a record, no review is opened. After an interruption, a second call removes the rest.
    """
    for key, version_id in traces.versions:
        books.s3.delete_object(Bucket=books.image_bucket, Key=key, VersionId=version_id)
    record_letters(books)
    letters = _items(books, books.letters_table, image, version)
    for letter in letters:
        _delete(books, books.letters_table, key_of(letter))
    for record in traces.records:
        _delete(books, books.records_table, record)
    ended = 0
    for review in traces.reviews:
        token = _delete(books, books.reviews_table, review).get("task_token", {}).get("S")
        # The execution that waits for the answer continues; it finds no review, and ends.
        ended += wake(books.stepfunctions, SecretStr(token) if token else None)
    for key, version_id in traces.pages:
        books.s3.delete_object(Bucket=report_bucket, Key=key, VersionId=version_id)
    return traces.counts | {"letters": len(letters), "executions": ended}


# ---- where its traces are


def _versions(books: Books, image: str, version: str | None) -> Iterator[Any]:
    key = image.removeprefix(f"s3://{books.image_bucket}/")
    for page in books.s3.get_paginator("list_object_versions").paginate(Bucket=books.image_bucket, Prefix=key):
        everything: list[Any] = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        for found in everything:
            names = (found["VersionId"], found.get("ETag", "").strip('"'))  # the ETag, where the bucket has no versions
            if found["Key"] == key and (version is None or version in names):
                yield found


def _items(books: Books, table: str, image: str, version: str | None) -> list[Any]:
    pages = books.dynamodb.get_paginator("query").paginate(
        TableName=table,
        KeyConditionExpression="image = :image",
        ExpressionAttributeValues={":image": {"S": image}},
        ConsistentRead=True,
    )
    items = [item for page in pages for item in page["Items"]]
    return [item for item in items if version in (None, item["version"]["S"])]


def _pages(books: Books, bucket: str, image: str, since: datetime) -> Iterator[Key]:
    """The report's pages, drawn since, that name the photo: a page names each photo that it shows."""
    for listed in books.s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        for found in listed.get("Versions", []):
            if found["LastModified"] < since:
                continue
            page = books.s3.get_object(Bucket=bucket, Key=found["Key"], VersionId=found["VersionId"])["Body"].read()
            if shows(page, image):
                yield found["Key"], found["VersionId"]


# ---- removing


def _delete(books: Books, table: str, key: Key) -> Any:
    """Returns the deleted item."""
    return books.dynamodb.delete_item(TableName=table, Key=item_key(*key), ReturnValues="ALL_OLD").get("Attributes", {})
