"""Writes reference.md: the parameters and alarms of the templates, and the metrics of the functions."""

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from typing import Any

from docs.markdown import code, escape, table
from kickstand.events import Route
from kickstand_cli.local.template import load_yaml
from kickstand_cli.project import PROJECT, TEMPLATE

TEMPLATES = [TEMPLATE, *(PROJECT / f"{name}.yaml" for name in ("serving", "training"))]

URGENT, SOON = "Wakes somebody", "This week"  # how each alarm's description begins
METRICS = {
    "AcceptedAccuracy": "estimated share of correct predictions among the accepted ones of the last 30 days",
    "AcceptedAccuracyLow": "lower bound of that estimate",
    "CircuitOpen": "how often the circuit to the endpoint opened",
    "DeadLetters": "dead letters that no retry cures: they wait for a person",
    "DecidedAccept": "photos that were accepted",
    "DecidedReject": "photos that were rejected",
    "DecidedReview": "photos that were sent to review",
    "DriftNotices": "notices: statistics that have moved, perhaps without harm",
    "DriftPages": "drift alerts: statistics that have moved in a way that makes the model worse",
    "DriftStrength": "evidence of the statistic that has moved most, in per cent of the threshold",
    "DuplicateUploads": "uploads that already had a record, because their event was delivered twice",
    "FallbackAnswers": "photos that the embedded model classified in place of the endpoint",
    "ImagesDecidedAgain": "photos that a newer model decided again, in a backfill",
    "ImagesReceived": "photos that were prepared",
    "ImagesRecorded": "records that were written",
    "InferenceLatency": "duration of a prediction; for an endpoint with the network",
    "LedgerMissing": "uploads without an outcome, and records without a photo",
    "OldestReviewHours": "age of the oldest open review, in hours",
    "PercentRejected": "share of the photos since the last run that were rejected",
    "PercentReviewed": "share of the photos since the last run that were sent to review",
    "PromiseUnsupported": "classes whose guarantee people's answers no longer support",
    "ReportsDrawn": "monitoring reports that were written",
    "ReviewEverything": "1 while review-everything mode is on",
    "ReviewsAnswered": "reviews that a person answered",
    "ReviewsEscalated": "reviews that nobody answered in the first wait",
    "ReviewsOpened": "reviews that were opened",
    "ReviewsUnanswered": "reviews that nobody answered in both waits",
    "VersionReviewShare": "share of photos that this version sends to review; also with the dimension `version`",
}
OPERATORS = {"GreaterThanThreshold": ">", "GreaterThanOrEqualToThreshold": "≥", "LessThanThreshold": "<"}

PAGE = """# Reference

Written by `make docs` from template.yaml, serving.yaml, training.yaml and the functions.
Also from the code: [commands and exit codes](cli.md), [events and the record](events.md).

## Parameters of the stack

Set them under `parameter_overrides` in `samconfig.toml`, then `make deploy`.
[What a change interrupts](operating.md#change-something).

{parameters}

## Alarms of the stack

**{urgent}**: wrong predictions may be accepted, photos may be missing, or no photo is decided. These alarms go to the
topic `AlarmTopicArn` and to `AlarmEmail`.

**{soon}**: reviews wait, or the system has recovered by itself. These alarms go to `ThisWeekTopicArn` and to
`ThisWeekEmail`, or without it to `AlarmEmail`.

An alarm's description begins with its urgency, names the stack, and ends with the address of its runbook below
`DocsUrl`.

{alarms}

## Metrics of the functions

In CloudWatch's namespace `Kickstand`, with the name of the stack as dimension `service`.

{metrics}
"""


def write_reference() -> str:
    return PAGE.format(
        urgent=URGENT,
        soon=SOON,
        parameters=table(("name", "default", "values", "meaning"), parameters()),
        alarms=table(("name", "urgency", "meaning", "condition", "runbook"), alarms()),
        metrics=table(("name", "unit", "sent by", "meaning", "alarm"), metrics()),
    )


# ---- parameters


def parameters() -> Iterator[tuple[str, ...]]:
    settings = tomllib.loads((PROJECT / "samconfig.toml").read_text("utf-8"))["default"]["deploy"]["parameters"]
    of_dev = dict(word.partition("=")[::2] for word in shlex.split(settings.get("parameter_overrides", "")))
    for name, declared in load_yaml(TEMPLATE)["Parameters"].items():
        default = code(str(declared.get("Default", ""))) or "none"
        if name in of_dev:
            default += f"; {code(of_dev[name])} for kickstand-dev"
        yield code(name), default, values_of(declared), escape(declared["Description"])


def values_of(declared: dict[str, Any]) -> str:
    if "AllowedValues" in declared:
        return ", ".join(code(str(value)) for value in declared["AllowedValues"])
    low, high = declared.get("MinValue"), declared.get("MaxValue")
    if low is not None and high is not None:
        return f"{low} to {high}"
    if low is not None:
        return f"{low} or more"
    return "text" if declared["Type"] == "String" else "a number"


# ---- alarms


def alarms() -> Iterator[tuple[str, ...]]:
    for name, properties in all_alarms():
        urgency, meaning, runbook = described(properties)
        link = f"[{runbook.partition('#')[2].replace('-', ' ')}]({runbook})"
        yield code(name), urgency, escape(meaning), escape(condition_of(properties)), link


def described(properties: dict[str, Any]) -> tuple[str, str, str]:
    """The alarm's urgency, what has happened, and its runbook, relative to docs/; read from its description."""
    text = properties["AlarmDescription"]["Fn::Sub"]
    form = rf"({URGENT}|{SOON}): in \$\{{AWS::StackName\}}, (.+\.) Runbook: \$\{{DocsUrl\}}/(\S+#\S+)"
    if not (found := re.fullmatch(form, text)):
        raise ValueError(f"not “urgency: in stack, what. Runbook: address”: {text}")
    urgency, meaning, runbook = found.groups()
    return urgency, re.sub(r"\$\{(\w+)\}", r"`\1`", meaning[0].upper() + meaning[1:]), runbook


def all_alarms() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in TEMPLATES:
        for name, resource in load_yaml(path)["Resources"].items():
            if resource["Type"] == "AWS::CloudWatch::Alarm":
                yield name.removesuffix("Alarm"), resource["Properties"]


def read_by(properties: dict[str, Any]) -> list[dict[str, Any]]:
    """The metrics that the alarm reads; each has Namespace, MetricName, Stat and Period."""
    if "MetricName" in properties:
        statistic = properties.get("Statistic") or properties["ExtendedStatistic"]
        return [{**properties, "Stat": statistic}]
    parts = [each["MetricStat"] for each in properties["Metrics"] if "MetricStat" in each]
    return [{**part["Metric"], "Stat": part["Stat"], "Period": part["Period"]} for part in parts]


def condition_of(properties: dict[str, Any]) -> str:
    read = read_by(properties)
    names = list(dict.fromkeys(f"`{each['Namespace']} {each['MetricName']}`" for each in read))
    total = next((each["Expression"] for each in properties.get("Metrics", []) if "Expression" in each), "")
    of = "sum" if total == "SUM(METRICS())" else "an expression" if total else str(read[0]["Stat"]).lower()
    bound = f"{OPERATORS[properties['ComparisonOperator']]} {word(properties['Threshold'])}"
    needed, periods = properties.get("DatapointsToAlarm"), properties["EvaluationPeriods"]
    times = f", in {needed} of {periods} periods" if needed else "" if periods == 1 else f", in {word(periods)} periods"
    silence = "; no data counts as a breach" if properties["TreatMissingData"] == "breaching" else ""
    return f"{of} over {read[0]['Period']} s of {', '.join(names)} {bound}{times}{silence}"


def word(value: Any) -> str:
    """A number, or the name of a parameter."""
    return f"`{value['Ref']}`" if isinstance(value, dict) else str(value)


# ---- metrics


def metrics() -> Iterator[tuple[str, ...]]:
    read = {
        metric["MetricName"]: name
        for name, properties in all_alarms()
        for metric in read_by(properties)
        if metric["Namespace"] == "Kickstand"
    }
    sent = dict(sorted(sent_metrics()))
    if unsent := METRICS.keys() - sent.keys():
        raise ValueError(f"no function sends {', '.join(sorted(unsent))}")
    for name, (unit, function) in sent.items():
        yield code(name), unit, code(function), METRICS[name], code(read.get(name, ""))


def sent_metrics() -> Iterator[tuple[str, tuple[str, str]]]:
    """Name, unit and function of every metric: read from the calls of add_metric, and of Measure for the monitor."""
    for path in sorted((PROJECT / "functions").glob("*/app.py")):
        for call in calls(path.read_text("utf-8"), "add_metric"):
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            unit = ast.unparse(given["unit"]).removeprefix("MetricUnit.").replace("NoUnit", "None")
            yield from ((name, (unit, path.parent.name)) for name in names_in(given["name"]))
    source = (PROJECT / "layers/core/kickstand/monitor/run.py").read_text("utf-8")
    for call in calls(source, "Measure"):
        name, unit = (ast.literal_eval(argument) for argument in call.args[:2])
        yield name, (unit, "monitor")


def calls(source: str, function: str) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == function:
            yield node


def names_in(expression: ast.expr) -> list[str]:
    match expression:
        case ast.Constant(value=str(name)):
            return [name]
        case ast.IfExp(body=body, orelse=other):
            return names_in(body) + names_in(other)
        case ast.JoinedStr(values=[ast.Constant(value=str(stem)), _]):
            return [f"{stem}{route.title()}" for route in Route]
    return []  # a variable: the monitor's, from Measure
