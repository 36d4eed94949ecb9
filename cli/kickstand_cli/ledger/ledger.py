"""`kickstand ledger`: whether every upload has an outcome; those without one are processed again."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from kickstand.ledger.balance import Audit, Key, Ledger, Missing, has_ended
from kickstand.ledger.books import Books, read_outcomes
from kickstand.ledger.letters import UNDELIVERED, close_settled, open_letters, record_letters
from kickstand.ledger.letters import redrive as send_letters
from kickstand.ledger.store import Standing, draw_up, load_standing, replay
from kickstand.text import counted
from kickstand_cli.datasets.download import locate_cache
from kickstand_cli.deployment import DEFAULT_STACK, OutputsFile, StackName, open_books, read_outputs, reporting
from kickstand_cli.files import write_file
from kickstand_cli.terminal import AsJson, CommandError, ExitCode, console, print_json, reason, stderr

RESUMED_WITHIN = timedelta(days=1)  # an older audit is out of date
WORDS = {
    "decision": "was uploaded, but has no decision",
    "question": "should go to review, but has no review",
    "answer": "was answered by a person, but its record does not have the answer",
    "review": "was answered by a person, as its record says, but the table of reviews has lost the answer",
    "image": "is gone from the bucket",
}


def ledger(
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
    audit: Annotated[bool, typer.Option("--audit", help="Compare the whole bucket with all outcomes now.")] = False,
    grace: Annotated[
        float,
        typer.Option(min=0, max=525_600, help="In an audit, ignore uploads newer than N minutes."),
    ] = 15,
    redrive: Annotated[
        bool,
        typer.Option("--redrive", help="Audit, then process missing uploads and all dead letters again."),
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start the audit from the beginning, instead of where one stopped.")
    ] = False,
    wait: Annotated[
        float, typer.Option(min=0, max=43_000, help="With --redrive: wait at most N seconds for the outcomes.")
    ] = 120,
    as_json: AsJson = False,
) -> None:
    """Account for all uploads; find missing ones and process them again.

    Without an option it shows what the last scheduled run and the last audit found. Each upload, a version of an object
    in the bucket, ends in exactly one place: accepted, rejected, waiting (for a person), reviewed (by a person) or
    dead-letter. Else it is missing. An interrupted audit continues when the same command runs again within a day.

    Exit codes: 0 nothing is missing; 1 an error; 4 uploads are missing.

    Examples:
    $ kickstand ledger --stack-name kickstand-dev
    $ kickstand ledger --audit --stack-name kickstand-dev
    $ kickstand ledger --redrive --stack-name kickstand-dev
    """
    with reporting():
        found_outputs = read_outputs(stack_name, outputs)
        books = open_books(found_outputs)
        if not (audit or redrive):
            standing, _, lost = load_standing(books)
            if lost:
                raise CommandError(lost)
            _show(standing, as_json)
            return
        found_outputs["LettersTableName"]  # an older stack has none, and the error says so
        found = _audit(books, timedelta(minutes=grace), restart)
        if redrive and (found.missing or found.dead_letter):
            if not as_json:
                _print(found)
            sent = send_again(books, found, wait)
            if not as_json:
                console.print(sent)
            found = _audit(books, timedelta(minutes=grace), restart=True)
        failures = Counter(letter.error for page in open_letters(books) for letter in page)
    if as_json:
        print_json(as_dict(found) | _details(found) | {"failures": failures})
    else:
        _print(found)
        for error, number in failures.most_common():
            why = "could not be delivered" if error == UNDELIVERED else f"failed with {error}"
            console.print(f"dead letters: {number} {why}")
        if failures:
            console.print("`kickstand dead-letters` shows each one")
    if found.missing:
        raise typer.Exit(ExitCode.ATTENTION)


def _audit(books: Books, grace: timedelta, restart: bool) -> Ledger:
    """The audit of the whole bucket, from where an interrupted one stopped, or from the beginning."""
    cache = locate_cache()
    minutes = grace / timedelta(minutes=1)  # an audit with another grace counts other uploads
    marker, now, begun = cache / f"audit-{books.image_bucket}-{minutes:g}.json", datetime.now(UTC), None
    if not restart:
        with contextlib.suppress(OSError, ValueError):
            begun = Audit.model_validate_json(marker.read_bytes())
    if begun and now - begun.closes_at > RESUMED_WITHIN:
        begun = None
    if begun:
        stderr.print(
            f"continues an interrupted audit after {counted(begun.found.uploads, 'upload')}; --restart starts again"
        )

    told = False

    def save(audit: Audit) -> None:
        nonlocal told
        try:
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_file(marker, audit.model_dump_json())
        except (OSError, CommandError) as error:
            if not told:
                stderr.print(f"notice: {marker}: {reason(error)}; an interrupted audit would start again")
            told = True

    found = draw_up(books, now, grace, begun, save)
    with contextlib.suppress(OSError):
        marker.unlink()
    return found


def as_dict(ledger: Ledger) -> dict[str, int]:
    """The content of `demo-output/ledger.json`."""
    return {"uploads": ledger.uploads, **ledger.counts}


def describe(missing: Missing) -> str:
    """A missing upload, in words."""
    return f"{missing.image} (version {missing.version}) {WORDS[missing.lack]}"


def send_again(
    books: Books, ledger: "Ledger", wait_seconds: float, pause: Callable[[], object] = lambda: time.sleep(1)
) -> str:
    """Process the missing uploads and the dead letters again; returns the outcome in words.

    pause: between two checks of the outcomes.

    A dead letter stays until its upload has an outcome, so an interruption loses none.
    """
    now = datetime.now(UTC)
    refused = replay(books, ledger.lost, now)
    waiting: set[Key] = {missing.key for missing in ledger.lost}
    unread = 0
    for page in open_letters(books):
        refused |= send_letters(books, page, now)
        waiting |= {letter.key for letter in page if letter.key}
        unread += sum(letter.key is None for letter in page)
    sent, deadline = len(waiting - refused.keys()), time.monotonic() + wait_seconds
    waiting -= refused.keys()
    while True:
        entries, questions = read_outcomes(books, waiting)
        waiting -= {key for key, entry in entries.items() if has_ended(entry, questions.get(key), now)}
        if not waiting or time.monotonic() > deadline:
            break
        pause()
    record_letters(books)
    for page in open_letters(books):
        close_settled(books, page, datetime.now(UTC))
    lines = [f"processed again: {sent}, of which {sent - len(waiting)} have an outcome now"]
    if unread:
        lines.append(f"left, without the name of an upload: {counted(unread, 'dead letter')}")
    if refused:
        lines.append(f"AWS refused {len(refused)}")
        lines += [f"{image} (version {version}): {reason}" for (image, version), reason in list(refused.items())[:20]]
    return "; ".join(lines)


def _details(ledger: Ledger) -> dict[str, object]:
    return {
        "under_way": ledger.under_way,
        "expired": ledger.expired,
        "lacks": [missing.model_dump(mode="json", exclude={"image_ref"}) for missing in ledger.lacks],
    }


def _show(standing: Standing, as_json: bool) -> None:
    """What the scheduled runs found."""
    found = {"new uploads": (standing.run_at, standing.run), "whole bucket": (standing.last_closed_at, standing.last)}
    if as_json:
        content = {
            name.replace(" ", "_"): as_dict(ledger) | _details(ledger) | {"until": at.isoformat() if at else None}
            for name, (at, ledger) in found.items()
        }
        print_json(content)
    for name, (at, ledger) in found.items() if not as_json else ():
        console.print(f"{name}, {f'{at:%Y-%m-%d %H:%M} UTC' if at else 'not read yet'}")
        if at:
            _print(ledger)
    if standing.audit and not as_json:
        console.print(f"an audit is under way: {counted(standing.audit.found.uploads, 'upload')} so far")
    if any(ledger.missing for _, ledger in found.values()):
        raise typer.Exit(ExitCode.ATTENTION)


def _print(ledger: Ledger) -> None:
    console.print(str(ledger))
    for missing in ledger.lacks:
        console.print(f"missing: {describe(missing)}")
