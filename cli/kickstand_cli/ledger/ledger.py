"""`kickstand ledger`: does every upload have an outcome? And if not, send it again."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from kickstand.ledger.balance import Ledger, Missing
from kickstand.ledger.store import (
    Books,
    Standing,
    draw_up,
    is_settled,
    load_standing,
    read_letters,
    redrive,
    release,
    throw_away,
)
from kickstand.ledger.store import replay as send
from kickstand_cli.deployment import DEFAULT_STACK, OutputsFile, StackName, open_books, read_outputs, reporting
from kickstand_cli.terminal import console, print_json, printable

UNBALANCED = 4
WORDS = {
    "decision": "was uploaded, but nothing was decided about it",
    "question": "should be shown to a person, but nobody was asked",
    "answer": "was answered by a person, but its record does not say so",
    "image": "is gone from the bucket, though something was decided about it",
}


def ledger(
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="Compare the whole bucket with all outcomes now, instead.")
    ] = False,
    grace: Annotated[
        float,
        typer.Option(min=0, max=525_600, metavar="MINUTES", help="In an audit, ignore uploads newer than this."),
    ] = 15,
    replay: Annotated[
        bool,
        typer.Option("--replay", help="Audit, then send again what is missing and what lies in the dead-letter queue."),
    ] = False,
    wait: Annotated[
        float,
        typer.Option(
            min=0, max=43_000, metavar="SECONDS", help="With --replay: how long to wait for what comes of it."
        ),
    ] = 120,
    as_json: Annotated[bool, typer.Option("--json", help="Print the ledger as one JSON object.")] = False,
) -> None:
    """Show what the last run and the last audit found; with --audit, audit now; with --replay, send again.

    An upload is a version of an object in the bucket. It ends in exactly one of accepted, rejected, waiting (for a
    person), reviewed (by a person) and dead-letter; else it is missing.

    Exit codes: 0 nothing is missing; 1 an error; 4 something is missing.
    """
    with reporting():
        books = open_books(read_outputs(stack_name, outputs))
        if not (audit or replay):
            _show(load_standing(books)[0], as_json)
            return
        found = draw_up(books, datetime.now(UTC) - timedelta(minutes=grace))
        if replay and (found.missing or found.dead_letter):
            if not as_json:
                _print(found)
            sent = send_again(books, found, wait)
            if not as_json:
                console.print(sent)
            found = draw_up(books, datetime.now(UTC) - timedelta(minutes=grace))
    print_json(as_dict(found) | _details(found)) if as_json else _print(found)
    if found.missing:
        raise typer.Exit(UNBALANCED)


def as_dict(ledger: Ledger) -> dict[str, int]:
    """What `demo-output/ledger.json` holds."""
    return {"uploads": ledger.uploads, **ledger.counts}


def describe(missing: Missing) -> str:
    """What is missing, in words."""
    return printable(f"{missing.image} (version {missing.version}) {WORDS[missing.lack]}")


def send_again(
    books: Books, ledger: "Ledger", wait_seconds: float, pause: Callable[[], object] = lambda: time.sleep(1)
) -> str:
    """Replay what is missing and redrive the dead letters; returns what came of it, in words.

    pause: between two looks at what has come of it.

    A dead letter is thrown away only once its upload is settled, or a newer letter tells the same.
    """
    letters = read_letters(books, hold_seconds=int(wait_seconds) + 60)
    for missing in ledger.lost:
        send(books, missing, datetime.now(UTC))
    for letter in letters:
        redrive(books, letter, datetime.now(UTC))
    open_keys = {(missing.image, missing.version) for missing in ledger.lost} | {
        letter.key for letter in letters if letter.key
    }
    sent, deadline = len(open_keys), time.monotonic() + wait_seconds
    while True:
        open_keys = {key for key in open_keys if not is_settled(books, key)}
        if not open_keys or time.monotonic() > deadline:
            break
        pause()
    newer = read_letters(books)
    release(books, newer)
    failed_again = {letter.key for letter in newer}
    for letter in letters:
        if letter.key and (letter.key not in open_keys or letter.key in failed_again):
            throw_away(books, letter)
        else:
            release(books, [letter])
    unread = sum(letter.key is None for letter in letters)
    return f"replayed: {sent} sent again, {sent - len(open_keys)} of them settled" + (
        f"; {unread} messages in the dead-letter queue name no upload, and stay" if unread else ""
    )


def _details(ledger: Ledger) -> dict[str, object]:
    return {
        "under_way": ledger.under_way,
        "lacks": [missing.model_dump(mode="json", exclude={"image_ref"}) for missing in ledger.lacks],
    }


def _show(standing: Standing, as_json: bool) -> None:
    """What the scheduled runs have found."""
    found = {"new uploads": (standing.run_at, standing.run), "whole bucket": (standing.last_closed_at, standing.last)}
    if as_json:
        told = {
            name.replace(" ", "_"): as_dict(ledger) | _details(ledger) | {"until": at.isoformat() if at else None}
            for name, (at, ledger) in found.items()
        }
        print_json(told)
    for name, (at, ledger) in found.items() if not as_json else ():
        console.print(f"{name}, {f'{at:%Y-%m-%d %H:%M} UTC' if at else 'never yet'}")
        if at:
            _print(ledger)
    if standing.audit and not as_json:
        console.print(f"an audit is under way: {standing.audit.found.uploads:,} uploads so far")
    if any(ledger.missing for _, ledger in found.values()):
        raise typer.Exit(UNBALANCED)


def _print(ledger: Ledger) -> None:
    console.print(str(ledger))
    for missing in ledger.lacks:
        console.print(f"missing: {describe(missing)}")
