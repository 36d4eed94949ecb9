"""`kickstand report`: one page that says whether all is well and shows why, from any records."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from kickstand.classify.artefact import read_card
from kickstand.monitor.drift import Budget
from kickstand.monitor.drift import images_per_day as observed_pace
from kickstand.monitor.run import read_watch
from kickstand.report.page import compose, draw_report, read_evidence, small_pictures
from kickstand_cli.classify.classify import ModelOption
from kickstand_cli.deployment import DEFAULT_STACK, OutputsFile, StackName, reporting
from kickstand_cli.files import expect_writable, write_file
from kickstand_cli.monitor.monitor import FalseAlarms, ImagesPerDay, Since
from kickstand_cli.project import MODEL
from kickstand_cli.records import ImagesFolder, open_records, parse_since_option
from kickstand_cli.terminal import console, exit_on, print_json


def report(
    records: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RECORDS…", help="Records, one JSON object a line, instead of a stack's table."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page to write.")] = Path("monitoring.html"),
    images: ImagesFolder = None,
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
    since: Since = None,
    images_per_day: ImagesPerDay = None,
    false_alarms: FalseAlarms = 1.0,
    artefact: ModelOption = MODEL,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the page's numbers too, those of `kickstand monitor --json` among them."),
    ] = False,
) -> None:
    """Write the monitoring report: one HTML page that needs no other file and no network.

    Confidence over time, what has moved and the pictures that moved it, live accuracy, reliability, risk and coverage,
    confusion, and people's load. Its numbers are those of `kickstand monitor`, by the same code.

    Exit codes: 0 written, whatever it says; 1 an error.
    """
    now = datetime.now(UTC)
    start = parse_since_option(since, now) if since else None
    with reporting(), exit_on(OSError, ValueError):
        expect_writable(out, new_folder=True, inputs=records or [])
        watch, card = read_watch(artefact), read_card(artefact)
        seen, read = open_records(records or [], images, stack_name, outputs, start)
        pace = images_per_day or observed_pace([record.recorded_at for record in seen])
        budget = Budget(images_per_day=pace, false_alarms=false_alarms)
        composed = compose(seen, watch, card, budget, as_of=None if records else now, evidence=read_evidence(artefact))
        page = draw_report(composed, seen, watch, card, small_pictures(read))
        write_file(out, page)
    if as_json:
        print_json(composed.numbers())
    else:
        console.print(f"{out}: {len(seen):,} records, {out.stat().st_size / 1e6:.1f} MB")
