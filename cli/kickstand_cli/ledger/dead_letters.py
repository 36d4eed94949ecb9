"""`kickstand dead-letters`: which uploads failed, why, and what happens next."""

import heapq
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from kickstand.ledger.books import Books, Fate, find_images, holds_messages
from kickstand.ledger.letters import UNDELIVERED, UNREADABLE, Letter, open_letters
from kickstand_cli.deployment import DEFAULT_STACK, OutputsFile, StackName, open_books, read_outputs, reporting
from kickstand_cli.terminal import AsJson, Name, console, print_json, stderr

PERSON = "waits for you: kickstand ledger --redrive"
NO_UPLOAD = "waits for you: it cannot be sent again; docs/operating.md, Dead letters, says what to do"
GONE = "stays: its photo was deleted"
EXPIRED = "is closed by the next ledger run: its photo has expired"
IN_WORDS = {
    UNREADABLE: "its item in the table of dead letters cannot be read",
    UNDELIVERED: "the event could not be delivered",
    "Lambda.TooManyRequestsException": "Lambda had no room for the call",
    "ModelUnavailable": "the model could not be loaded or reached",
    "StoreUnavailable": "S3 or DynamoDB did not answer",
    "Sandbox.Timedout": "the function took too long",
    "States.Timeout": "a step took too long",
}
CAUSE_AT_MOST = 300  # characters shown; --json has all that is stored


def dead_letters(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="List only the newest N.")] = 20,
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
    as_json: AsJson = False,
) -> None:
    """List the uploads whose processing failed, and what happens next.

    Newest first: when and why processing failed, how often it was tried again, and whether it is tried again by itself
    or waits for you. A letter is no longer shown once its upload has an outcome.

    Exit codes: 0 listed, also where there are none; 1 an error.

    Examples:
    $ kickstand dead-letters --stack-name kickstand-dev
    $ kickstand dead-letters --stack-name kickstand-dev --limit 100 --json
    """
    now, number = datetime.now(UTC), 0

    def counted() -> Iterator[Letter]:
        nonlocal number
        for page in open_letters(books):
            number += len(page)
            yield from page

    with reporting():
        found = read_outputs(stack_name, outputs)
        found["LettersTableName"]  # an older stack has none, and the error says so
        books = open_books(found)
        letters = heapq.nlargest(limit, counted(), key=lambda letter: (letter.failed_at, letter.image, letter.version))
        rows = [as_dict(letter, after) for letter, after in zip(letters, what_next(books, letters, now), strict=True)]
        more = holds_messages(books, books.dead_letter_queue)
    if as_json:
        print_json({"dead_letters": number, "more_in_queue": more, "letters": rows})
    elif not rows:
        console.print("No dead letters.")
    else:
        table = Table("photo", "failed (UTC)", "tried again", "why, and what happens next", box=None)
        table.columns[2].justify = "right"
        for letter, row in zip(letters, rows, strict=True):
            known = letter.key or letter.error == UNREADABLE
            name = letter.image.removeprefix(f"s3://{books.image_bucket}/") if known else "names no upload"
            why = ": ".join(part for part in (row["error"], row["in_words"]) if part)
            table.add_row(
                Name(name), f"{letter.failed_at:%Y-%m-%d %H:%M}", str(letter.redrives), f"{why}; {row['next']}"
            )
        console.table(table)
        if number > len(rows):
            console.print(f"{len(rows):,} of {number:,} dead letters; --limit shows more")
    if more:
        stderr.print("more are in the queue: the hourly ledger run adds them, or `kickstand ledger --audit` now")


def as_dict(letter: Letter, after: str) -> dict[str, Any]:
    """The letter without its event. next: what happens next, in words."""
    workflow = letter.key and ("review_image" if letter.about_review else "classify_image")
    return letter.model_dump(mode="json", exclude={"event"}) | {
        "workflow": workflow,
        "in_words": describe(letter),
        "next": after,
    }


def describe(letter: Letter) -> str:
    """Why it failed; of an exception in a function, its message without the traceback."""
    if letter.error in IN_WORDS:
        return IN_WORDS[letter.error]
    try:
        cause = json.loads(letter.cause)["errorMessage"]
    except (ValueError, LookupError, TypeError, RecursionError):
        cause = letter.cause
    text = " ".join(str(cause).split())
    return text if len(text) <= CAUSE_AT_MOST else f"{text[:CAUSE_AT_MOST]}…"


def what_next(books: Books, letters: list[Letter], now: datetime) -> Iterator[str]:
    """What happens next to each letter; the photos of those that are tried again are looked for in the bucket."""
    again = {letter.key: letter.uploaded_at for letter in letters if letter.key and letter.due_at}
    fates = find_images(books, again, now)
    for letter in letters:
        fate = fates.get(letter.key) if letter.key and not letter.about_review else None
        if not letter.key:
            yield NO_UPLOAD
        elif fate in (Fate.GONE, Fate.EXPIRED):
            yield GONE if fate is Fate.GONE else EXPIRED
        elif letter.due_at is None:
            yield PERSON
        elif letter.due_at <= now:
            yield "is tried again by the next ledger run, within an hour"
        else:
            yield f"is tried again by the first ledger run after {letter.due_at:%Y-%m-%d %H:%M} UTC"
