"""`kickstand switch`: temporarily send all would-be-accepted photos to review."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from kickstand.classify.policy import Switch
from kickstand.classify.store import load_switch, switch_off, switch_on
from kickstand.clients import DynamoDBClient
from kickstand.events import as_utc
from kickstand_cli.deployment import DEFAULT_STACK, OutputsFile, StackName, open_client, read_outputs, reporting
from kickstand_cli.records import parse_duration
from kickstand_cli.terminal import AsJson, check_words, console, login, print_json

app = typer.Typer(help="Turn review-everything mode on or off.", no_args_is_help=True)


@app.command()
def on(
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="The reason; it is stored in every record that the switch changes.")
    ],
    length: Annotated[str | None, typer.Option("--for", metavar="LENGTH", help="The duration: 30m, 4h, 7d.")] = None,
    until: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Or the end: ISO 8601, in UTC unless it has an offset.")
    ] = None,
    by: Annotated[str, typer.Option(metavar="NAME", show_default="your login name", help="Your name.")] = "",
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
    as_json: AsJson = False,
) -> None:
    """Send all would-be-accepted photos to review, from the next photo on, until the given time.

    Rejected photos stay rejected. The same command again replaces the reason and the end.

    Examples:
    $ kickstand switch on --reason "new camera" --for 4h --stack-name kickstand-dev
    """
    now = datetime.now(UTC)
    end = _end(length, until, now)
    reason = check_words(reason, "--reason")
    by = by and check_words(by, "--by")
    with reporting():
        dynamodb, table = _open(stack_name, outputs)
        switch_on(dynamodb, table, Switch(reason=reason, by=by or login("--by"), since=now, until=end))
        _print(dynamodb, table, now, as_json)


@app.command()
def off(stack_name: StackName = DEFAULT_STACK, outputs: OutputsFile = None, as_json: AsJson = False) -> None:
    """Let the policy decide again, from the next photo on. Open reviews stay open."""
    with reporting():
        dynamodb, table = _open(stack_name, outputs)
        switch_off(dynamodb, table)
        _print(dynamodb, table, datetime.now(UTC), as_json)


@app.command()
def status(stack_name: StackName = DEFAULT_STACK, outputs: OutputsFile = None, as_json: AsJson = False) -> None:
    """Show whether review-everything mode is on: who turned it on, why, since when and until when."""
    with reporting():
        _print(*_open(stack_name, outputs), datetime.now(UTC), as_json)


def _open(stack_name: str, outputs: Path | None) -> tuple[DynamoDBClient, str]:
    table = read_outputs(stack_name, outputs)["ControlTableName"]  # first: it chooses the region
    return open_client("dynamodb"), table


def _end(length: str | None, until: str | None, now: datetime) -> datetime:
    if (length is None) == (until is None):
        raise typer.BadParameter("give either --for or --until: the switch needs an end")
    try:
        end = now + parse_duration(length) if length else as_utc(datetime.fromisoformat(until or ""))
    except ValueError as error:
        option, given = ("--for", length) if length else ("--until", until)
        raise typer.BadParameter(
            f"{given}: expected a duration such as 30m, 4h or 7d, or a date in ISO 8601", param_hint=option
        ) from error
    if end <= now:
        raise typer.BadParameter(f"{end:%Y-%m-%d %H:%M} UTC is in the past")
    return end


def _print(dynamodb: DynamoDBClient, table: str, now: datetime, as_json: bool) -> None:
    switch = load_switch(dynamodb, table)
    holds = switch is not None and switch.is_on(now)
    if as_json:
        print_json({"on": holds} | (switch.model_dump(mode="json") if switch and holds else {}))
    elif switch and holds:
        console.print(f"on: {switch}")
        if switch.since.year > 1:  # else it could not be read
            console.print(f"turned on by {switch.by} at {switch.since:%Y-%m-%d %H:%M} UTC")
    else:
        console.print("off: the policy decides")
