"""`kickstand monitor`: drift and live accuracy, from any records."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from kickstand.events import NEITHER, Route
from kickstand.monitor.drift import CLASS_MIX, Budget, Finding, Severity, describe
from kickstand.monitor.drift import images_per_day as observed_pace
from kickstand.monitor.live_accuracy import LiveAccuracy, PromiseCheck, PromiseStatus
from kickstand.monitor.run import AnswerShare, MonitorReport, examine, read_watch
from kickstand.text import counted, printable
from kickstand_cli.classify.classify import ModelOption
from kickstand_cli.deployment import DEFAULT_STACK, OutputsFile, StackName, reporting
from kickstand_cli.project import MODEL
from kickstand_cli.records import RecordsFiles, open_records, parse_since_option
from kickstand_cli.terminal import AsJson, ExitCode, console, exit_on, print_json

Since = Annotated[str | None, typer.Option(metavar="WHEN", help="Only records since then: 24h, 7d, or ISO 8601.")]
ImagesPerDay = Annotated[
    float | None,
    typer.Option("--photos-a-day", min=1, show_default="as in the records, but 100 or more", help="Photos a day."),
]
FalseAlarms = Annotated[float, typer.Option(min=0.001, help="Accept at most N false alarms in 90 days, on average.")]


def monitor(
    records: RecordsFiles = None,
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
    since: Since = None,
    images_per_day: ImagesPerDay = None,
    false_alarms: FalseAlarms = 1.0,
    artefact: ModelOption = MODEL,
    as_json: AsJson = False,
) -> None:
    """Report drift and live accuracy.

    Drift compares the records with the model's baseline. A notice says that the photos have changed. An alert says that
    the model is worse, or that the mix of classes has left the guaranteed range. Together they raise at most one false
    alarm in 90 days, on average. Accuracy comes from reviews and audits, weighted by the probability of a review, for
    the accepted predictions of each class.

    Exit codes: 0 all is well, or a notice; 1 an error; 4 an alert, or a guarantee that the evidence no longer supports.

    Examples:
    $ kickstand monitor --stack-name kickstand-dev --since 7d
    $ kickstand monitor --records demo-output/simulated-weeks.jsonl --json
    """
    start = parse_since_option(since, datetime.now(UTC))
    with reporting(), exit_on(OSError, ValueError):
        watch = read_watch(artefact)
        seen, _ = open_records(records or [], None, stack_name, outputs, start)
    pace = images_per_day or observed_pace([record.recorded_at for record in seen])
    report, _ = examine(seen, watch, Budget(images_per_day=pace, false_alarms=false_alarms))
    if as_json:
        print_json(report.model_dump(mode="json") | {"harmed": report.harmed, "images_per_day": pace})
    else:
        _print(report, pace, false_alarms)
    if report.harmed:
        raise typer.Exit(ExitCode.ATTENTION)


def _print(report: MonitorReport, pace: float, false_alarms: float) -> None:
    if not report.images:
        console.print("no records")
        return
    routes = report.routes
    console.print(
        f"{counted(report.images, 'photo')} from {report.first:%Y-%m-%d %H:%M} to {report.last:%Y-%m-%d %H:%M} UTC: "
        f"{routes[Route.ACCEPT]:,} accepted, {routes[Route.REVIEW]:,} to review, {routes[Route.REJECT]:,} rejected"
    )
    if all(finding.statistic == CLASS_MIX for finding in report.drift or ()):
        console.print("drift     no baseline in model.json: make one with `kickstand baseline`")
    if report.drift is not None:
        console.print(
            f"drift     false alarms: at most {false_alarms:g} in 90 days on average, at {pace:,.0f} photos a day"
        )
        for finding in report.drift:
            _print_finding(finding)
    for share in report.mix:
        _print_share(share)
    _print_accuracy("accepted", report.accepted)
    for label, live in report.accepted_by_label.items():
        _print_accuracy(f"accepted as {label}", live)
    _print_accuracy("overall", report.overall)
    for check in report.promises:
        _print_promise(check)
    for label in report.refused:
        console.print(f"guarantee {label}: no such prediction is accepted, so there is nothing to check")


def _print_promise(check: PromiseCheck) -> None:
    missing = (
        f"; about {check.audits_missing:,} more audits would decide it" if check.status is PromiseStatus.OPEN else ""
    )
    accepted = f"predictions accepted as {check.label}" if check.label else "accepted predictions"
    console.print(
        f"guarantee at most {check.max_risk:.1%} of {accepted} wrong: {check.status.words}; "
        f"{check.errors:,} of {counted(check.audits, 'audit')} wrong{missing}",
    )


def _print_share(share: AnswerShare) -> None:
    if not share.images:
        console.print(f"mix       {share.label}: no photo of this model and policy")
        return
    low, high = (f"{100 * part:.3g}%" for part in share.promised)
    what = "perhaps none of the classes" if share.label == NEITHER else share.label
    promised = low if low == high else f"up to {high}" if low == "0%" else f"{low} to {high}"
    console.print(
        f"mix       {what}: {share.share:.1%} of {share.images:,} predictions; the guarantee holds for {promised} of "
        f"the photos, which is at most {share.at_most:.1%} of the predictions",
    )


def _print_finding(finding: Finding) -> None:
    if not finding.seen:
        console.print(f"  unknown {finding.statistic} (no photo of the baseline's model and policy)")
        return
    if not finding.alarm:
        console.print(f"  steady  {finding.statistic} ({finding.strength:.0%} of the threshold)")
        return
    severity = "alert" if finding.severity is Severity.PAGE else finding.severity
    console.print(f"  {severity:<7} {describe(finding)}")
    console.print(f"          since {finding.since:%Y-%m-%d %H:%M}, noticed {finding.raised_at:%Y-%m-%d %H:%M} UTC")
    console.print(f"          {printable(', '.join(example.image for example in finding.examples[:4]))}")


def _print_accuracy(name: str, live: LiveAccuracy) -> None:
    if not live.images:
        console.print(f"accuracy  {name}: no photos")
        return
    console.print(
        f"accuracy  {name}: {live.accuracy:.3f} [{live.low:.3f}, {live.high:.3f}], {live.answers:,} of "
        f"{live.images:,} reviewed; confidences alone predict {live.predicted:.3f}",
    )
