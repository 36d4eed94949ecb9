"""`kickstand report`: the monitoring report, one HTML page, from any records."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from kickstand.classify.artefact import read_card
from kickstand.monitor.drift import Budget
from kickstand.monitor.drift import images_per_day as observed_pace
from kickstand.monitor.run import read_watch
from kickstand.report.page import compose, draw_report, read_evidence, small_pictures
from kickstand.text import counted
from kickstand_cli.classify.classify import ModelOption
from kickstand_cli.deployment import DEFAULT_STACK, OutputsFile, StackName, reporting
from kickstand_cli.files import expect_writable, write_file
from kickstand_cli.monitor.monitor import FalseAlarms, ImagesPerDay, Since
from kickstand_cli.project import MODEL
from kickstand_cli.records import (
    ImagesFolder,
    OldRecords,
    RecordsFiles,
    open_records,
    parse_since_option,
    take_old_records,
)
from kickstand_cli.terminal import AsJson, CommandError, console, exit_on, fail, print_json


def report(
    old_records: OldRecords = None,
    records: RecordsFiles = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page to write.")] = Path("monitoring.html"),
    images: ImagesFolder = None,
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
    since: Since = None,
    images_per_day: ImagesPerDay = None,
    false_alarms: FalseAlarms = 1.0,
    artefact: ModelOption = MODEL,
    as_json: AsJson = False,
) -> None:
    """Write the monitoring report: one HTML page.

    The page needs no other file and no network. It shows drift and the photos that caused it, confidence over time,
    live accuracy, reliability, risk and coverage, confusion, and the review load: the numbers of `kickstand monitor`.

    Exit codes: 0 written, whether or not all is well; 1 an error, or photos that cannot be read: the page is written
    without them.

    Examples:
    $ kickstand report --records demo-output/simulated-weeks.jsonl
    $ kickstand report --stack-name kickstand-dev --since 7d
    """
    records = take_old_records(old_records, records)
    now = datetime.now(UTC)
    start = parse_since_option(since, now)
    with reporting(), exit_on(OSError, ValueError):
        expect_writable(out, new_folder=True, inputs=[*(records or []), *([images] if images else []), artefact])
        watch, card = read_watch(artefact), read_card(artefact)
        seen, read = open_records(records or [], images, stack_name, outputs, start)
        pace = images_per_day or observed_pace([record.recorded_at for record in seen])
        budget = Budget(images_per_day=pace, false_alarms=false_alarms)
        composed = compose(seen, watch, card, budget, as_of=None if records else now, evidence=read_evidence(artefact))
        lost: dict[str, str] = {}
        page = draw_report(composed, seen, watch, card, small_pictures(read, lost))
        write_file(out, page)
    if as_json:
        print_json(composed.numbers())
    else:
        console.print(f"{out}: {counted(len(seen), 'record')}, {out.stat().st_size / 1e6:.1f} MB")
    if lost:
        more = f", and {len(lost) - 1:,} more" if len(lost) > 1 else ""
        fail(CommandError(f"left out: {next(iter(lost.values()))}{more}"))
