"""Draws the template as one SVG: what starts what, in which order, and who reads and writes where.

A state machine is a card with a row for each function or service that it calls; everything else that runs is a card of
one row. Each store, queue and topic is a line from top to bottom. A dot where a row crosses a line means that the row's
own permissions reach it. So the drawing is also the table of permissions, and no line crosses another.
"""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import yaml

from kickstand_cli.local.template import load_yaml

READS, WRITES = "reads", "writes"
KINDS = {  # which line it gets, by type; the order of the lines is that of the template, within that of the kinds
    "AWS::S3::Bucket": "bucket",
    "AWS::DynamoDB::Table": "table",
    "AWS::SQS::Queue": "queue",
    "AWS::SNS::Topic": "topic",
}
EVENT_BUS, ENDPOINT = "Event Bus", "SageMaker Endpoint"
READING = re.compile(r"(Get|List|Query|Scan|Receive|Describe|BatchGet|Head)", re.IGNORECASE)


@dataclass
class Row:
    """One thing that is done. name: of its states, or of the function; caption: the service or function that does it.

    access: what it reaches, and whether it reads or writes there.
    """

    name: str
    caption: str = ""
    access: dict[str, set[str]] = field(default_factory=dict)

    def allow(self, target: str, kind: str) -> None:
        self.access.setdefault(target, set()).add(kind)


@dataclass
class Card:
    """Something that is started by itself. triggers: (kind, text), what starts it; ends: (good, outcome)."""

    title: str
    caption: str
    triggers: list[tuple[str, str]]
    rows: list[Row]
    ends: list[tuple[bool, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Line:
    """A store, queue, topic or endpoint. label: in words; kind: its colour."""

    name: str
    label: str
    kind: str


@dataclass
class Architecture:
    """What the template says, in its order."""

    cards: list[Card]
    lines: list[Line]


# ---- reading


def read_architecture(path: Path) -> Architecture:
    """Raises TemplateError where the file is no template."""
    return _Reader(path).read()


class _Reader:
    """One template. given: the resources of the template around it that its parameters stand for."""

    def __init__(self, path: Path, given: Mapping[str, Sequence[str]] | None = None) -> None:
        document = load_yaml(path)
        self.path, self.given = path, given or {}
        self.resources: dict[str, dict[str, Any]] = document["Resources"]
        self.parameters: dict[str, Any] = document.get("Parameters", {})

    def of_type(self, kind: str) -> dict[str, dict[str, Any]]:
        return {name: item.get("Properties", {}) for name, item in self.resources.items() if item["Type"] == kind}

    def read(self) -> Architecture:
        cards = self.cards()
        return Architecture(cards, self._lines(cards))

    def cards(self) -> list[Card]:
        """In the template's order; the alarms last, and then those of the templates within."""
        found: dict[str, Card] = {}
        called: set[str] = set()
        for name, properties in self.of_type("AWS::Serverless::StateMachine").items():
            found[name], uses = self._read_machine(name, properties)
            called |= uses
        for name, properties in self.of_type("AWS::Serverless::Function").items():
            triggers = self._triggers(name, properties)
            if name not in called and triggers:
                row = Row(_words(name.removesuffix("Function")), Path(properties["CodeUri"]).name)
                self._add_permissions(row, properties)
                found[name] = Card("", "", triggers, [row])
        cards = [found[name] for name in self.resources if name in found]
        if alarms := self.of_type("AWS::CloudWatch::Alarm"):
            cards.append(self._read_alarms(alarms))
        for kind, where in (("Serverless::Application", "Location"), ("CloudFormation::Stack", "TemplateURL")):
            for properties in self.of_type(f"AWS::{kind}").values():
                values = properties.get("Parameters", {})
                given = {name: list(self._references(value)) for name, value in values.items()}
                cards += _Reader(self.path.parent / properties[where], given).cards()
        return cards

    def _references(self, part: Any) -> Iterator[str]:
        """Every logical ID that this part refers to, in order, once."""
        for name in dict.fromkeys(_find_references(part)):
            if name in self.given:
                yield from self.given[name]
            elif name in self.resources:
                yield name

    def _read_machine(self, name: str, properties: Mapping[str, Any]) -> tuple[Card, set[str]]:
        source = self.path.parent / properties["DefinitionUri"]
        definition = yaml.safe_load(source.read_text("utf-8"))
        values = properties.get("DefinitionSubstitutions", {})
        rows: dict[str, Row] = {}
        called = set()
        ends = []
        for state, does in definition["States"].items():
            if does["Type"] in ("Succeed", "Fail"):
                ends.append((does["Type"] == "Succeed", state))
            if does["Type"] != "Task":
                continue
            function = next((ref for ref in self._mentioned(does, values) if self._is(ref, "Function")), None)
            service = str(does["Resource"]).removeprefix("arn:${Partition}:states:::").removesuffix(".waitForTaskToken")
            key = function or state
            if key in rows:
                rows[key].name = _join(rows[key].name, state)
            elif function:
                called.add(function)
                own = self.resources[function]["Properties"]
                rows[key] = Row(state, Path(own["CodeUri"]).name)
                self._add_permissions(rows[key], own)
            else:
                rows[key] = Row(state, service)
                for target in self._mentioned(does, values):
                    rows[key].allow(target, _kind(service))
        kind = properties.get("Type", "STANDARD")
        if isinstance(kind, dict):
            kind = " or ".join(self.parameters[kind["Ref"]]["AllowedValues"])
        card = Card(source.name.partition(".")[0], kind, self._triggers(name, properties), list(rows.values()), ends)
        return card, called

    def _is(self, name: str, kind: str) -> bool:
        return self.resources.get(name, {}).get("Type") == f"AWS::Serverless::{kind}"

    def _mentioned(self, part: Any, values: Mapping[str, Any]) -> list[str]:
        """The resources that this part of a definition names by a substitution."""
        names = re.findall(r"\$\{(\w+)\}", yaml.safe_dump({k: v for k, v in part.items() if k in _CALL}))
        return [reference for name in names for reference in self._references(values.get(name))]

    def _triggers(self, name: str, properties: Mapping[str, Any]) -> list[tuple[str, str]]:
        found = [self._trigger(event["Properties"]) for event in properties.get("Events", {}).values()]
        found += [
            self._trigger({**rule, "Pattern": rule.get("EventPattern", {})})
            for rule in self.of_type("AWS::Events::Rule").values()
            if name in self._references(rule.get("Targets"))
        ]
        boards = yaml.safe_dump(list(self.of_type("AWS::CloudWatch::Dashboard").values()), width=10**6)
        if re.search(rf"endpoint\W+{name}\.Arn\b", boards):  # of a custom widget
            found.append(("person", "A person, at the dashboard"))
        for function in self.of_type("AWS::Serverless::Function").values():
            if name in self._references(function.get("DeploymentPreference", {}).get("Hooks")):
                found.append(("person", "A new version, before its traffic"))
        for source in self.of_type("AWS::Lambda::EventSourceMapping").values():
            (reader,), (queue,) = (list(self._references(source[key])) for key in ("FunctionName", "EventSourceArn"))
            if name == reader:
                found += self._triggers(queue, {})  # the rules that fill it
            elif name in self._references(self.resources[reader]["Properties"].get("Policies")):
                found.append(("queue", _words(reader.removesuffix("Function"))))
        return list(dict.fromkeys(found))

    def _trigger(self, event: Mapping[str, Any]) -> tuple[str, str]:
        value = event.get("Schedule", event.get("ScheduleExpression", event.get("ScheduleExpression")))
        if value:
            text = value if isinstance(value, str) else str(self.parameters[value["Ref"]].get("Default"))
            return "schedule", re.sub(r"^rate\((.*)\)$", r"Every \1", text).replace("Every 1 ", "Every ")
        pattern = event["Pattern"]
        kinds = " or ".join(pattern.get("detail-type", ["an event"]))
        if pattern.get("source") == ["aws.s3"]:
            places = " or ".join(map(_words, self._references(pattern)))
            return "bucket", f"{kinds} in {places}"
        return "event", kinds

    def _add_permissions(self, row: Row, properties: Mapping[str, Any]) -> None:
        for policy in _flatten(properties.get("Policies", [])):
            for name, content in policy.items():
                if name == "Statement":
                    for statement in content:
                        self._add_statement(row, statement)
                else:  # one of SAM's policy templates
                    for target in self._references(content):
                        row.allow(target, READS if "Read" in name else WRITES)

    def _add_statement(self, row: Row, statement: Mapping[str, Any]) -> None:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        kinds = set(map(_kind, actions))
        targets = list(self._references(statement["Resource"]))
        services = {action.partition(":")[0] for action in actions}
        if services == {"events"}:
            targets = [EVENT_BUS]
        elif "sagemaker:InvokeEndpoint" in actions:
            targets = [ENDPOINT]
        for target in targets:
            for kind in kinds:
                row.allow(target, kind)

    def _read_alarms(self, alarms: Mapping[str, Mapping[str, Any]]) -> Card:
        row = Row(f"{len(alarms)} alarms", self.path.name if self.given else "CloudWatch")
        for properties in alarms.values():
            for target in self._references(properties.get("AlarmActions")):
                row.allow(target, WRITES)
        names = [_words(name.removesuffix("Alarm")) for name in alarms]
        return Card("", "", [("alarm", "A metric out of bounds")], [row], [(False, name) for name in names])

    def _lines(self, cards: Sequence[Card]) -> list[Line]:
        used = {target for card in cards for row in card.rows for target in row.access}
        lines = [
            Line(name, _words(name), KINDS[item["Type"]])
            for kind in KINDS
            for name, item in self.resources.items()
            if item["Type"] == kind and name in used
        ]
        lines += [
            Line(name, name, kind) for name, kind in ((EVENT_BUS, "event"), (ENDPOINT, "endpoint")) if name in used
        ]
        for name in self.resources:
            if name in used and self._is(name, "StateMachine"):
                lines.append(Line(name, f"{_words(name.removesuffix('StateMachine'))} Runs", "machine"))
        return lines


_CALL = ("Resource", "Parameters", "Arguments")


def _find_references(part: Any) -> Iterator[str]:
    """Every name that this part of a template refers to, in order."""
    if isinstance(part, Mapping):
        for key, value in part.items():
            if key == "Ref" and isinstance(value, str):
                yield value.removesuffix(".Alias")
            elif key == "Fn::GetAtt":
                yield value.partition(".")[0] if isinstance(value, str) else value[0]
            elif key == "Fn::Sub":
                text = value if isinstance(value, str) else value[0]
                yield from re.findall(r"\$\{(\w+)[.}]", text)
            else:
                yield from _find_references(value)
    elif isinstance(part, list):
        for value in part:
            yield from _find_references(value)


def _flatten(policies: Any) -> Iterator[Mapping[str, Any]]:
    """The policies, also those under a condition."""
    for policy in policies if isinstance(policies, list) else [policies]:
        if isinstance(policy, Mapping) and "Fn::If" in policy:
            yield from _flatten(policy["Fn::If"][1:])
        elif isinstance(policy, Mapping) and "Ref" not in policy:
            yield policy


def _kind(action: str) -> str:
    """Whether it reads or writes.

    >>> _kind("dynamodb:getItem"), _kind("s3:PutObject")
    ('reads', 'writes')
    """
    return READS if READING.match(action.rpartition(":")[2]) else WRITES


def _join(name: str, other: str) -> str:
    """Two names of states in one, without what they begin with alike.

    >>> _join("Record Review", "Record Unanswered")
    'Record Review, Unanswered'
    """
    begin, _, rest = other.partition(" ")
    return f"{name}, {rest if rest and name.startswith(f'{begin} ') else other}"


def _words(name: str) -> str:
    """
    >>> _words("DeadLetterQueue")
    'Dead Letter Queue'
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)


# ---- drawing

LEFT, TRIGGER, CARD, FIRST, STEP = 24, 158, 390, 54, 76  # widths from left to right, px
TOP, ROW, HEAD, FOOT, GAP = 98, 34, 34, 20, 22  # heights, px


def draw_architecture(architecture: Architecture, title: str) -> str:
    """The SVG, readable in light and in dark."""
    card_x = LEFT + TRIGGER + 34
    first = card_x + CARD + FIRST
    xs = {line.name: first + STEP * number for number, line in enumerate(architecture.lines)}
    lines = {line.name: line for line in architecture.lines}
    width = first + STEP * (len(xs) - 1) + 60
    y: float = TOP
    shapes: list[str] = []
    dots: list[str] = []
    last: dict[str, float] = dict.fromkeys(xs, y)
    for card in architecture.cards:
        drawn, rows, bottom = _draw_card(card, card_x, y)
        shapes.append(drawn)
        for row, row_y in rows:
            reached = [name for name in row.access if name in xs]
            if reached:
                far = max(xs[name] for name in reached)
                dots.append(f'<path class="reach" d="M{card_x + CARD} {row_y}H{far}"/>')
            for name in reached:
                last[name] = row_y
                hint = f"{row.name} {' and '.join(sorted(row.access[name]))} {lines[name].label}"
                dots.append(_draw_dot(xs[name], row_y, lines[name].kind, row.access[name], hint))
        y = bottom + GAP
    height = y + 26
    rails = [_draw_line(line, xs[line.name], last[line.name]) for line in architecture.lines]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="arch" role="img" aria-label={quoteattr(title)} '
            f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
            f"<title>{escape(title)}</title>",
            _STYLE,
            f'<rect class="paper" width="{width}" height="{height}" rx="14"/>',
            *rails,
            *dots,
            *shapes,
            _draw_legend(card_x, height - 20),
            "</svg>\n",
        ]
    )


def _draw_card(card: Card, x: float, y: float) -> tuple[str, list[tuple[Row, float]], float]:
    """The SVG; where each row is; and where the card ends."""
    head = HEAD if card.title else 8
    ends = _wrap_ends(card.ends)
    foot = FOOT * len(ends) + 6 if ends else 8
    height = max(head + ROW * len(card.rows) + foot, 50 * len(card.triggers))
    parts = [f'<rect class="card" x="{x}" y="{y}" width="{CARD}" height="{height}" rx="10"/>']
    if card.title:
        parts.append(
            f'<text class="title" x="{x + 14}" y="{y + 22}">{escape(card.title)}</text>'
            f'<text class="soft end" x="{x + CARD - 14}" y="{y + 22}">{escape(card.caption)}</text>'
        )
    places = []
    for number, row in enumerate(card.rows):
        top = y + head + ROW * number
        middle = top + ROW / 2
        places.append((row, middle))
        if card.title and number:
            parts.append(f'<path class="then" d="M{x + 25} {middle - ROW + 10}V{middle - 10}"/>')
        parts.append(
            f'<circle class="step" cx="{x + 25}" cy="{middle}" r="5"/>'
            f'<text x="{x + 40}" y="{middle + 4.5}">{escape(row.name)}</text>'
            f'<text class="code end" x="{x + CARD - 14}" y="{middle + 4}">{escape(_fit(row))}</text>'
        )
    for number, line in enumerate(ends):
        spans = '<tspan class="dot"> · </tspan>'.join(
            f'<tspan class="{"good" if good else "bad"}">{escape(name)}</tspan>' for good, name in line
        )
        parts.append(
            f'<text class="ends" x="{x + 40}" y="{y + head + ROW * len(card.rows) + FOOT * number + 12}">{spans}</text>'
        )
    for number, (kind, text) in enumerate(card.triggers):
        parts.append(_draw_trigger(kind, text, x, y + (HEAD if card.title else head + ROW) / 2 + 4 + 50 * number))
    return "\n".join(parts), places, y + height


def _fit(row: Row) -> str:
    """The caption beside the name: without its service where both are too long, and cut where that is not enough."""
    room = int((CARD - 70 - 7.8 * len(row.name)) / 6.7)  # the widths of letters
    short = row.caption if len(row.caption) <= room else row.caption.rpartition(":")[2]
    return short if len(short) <= room else f"{short[: max(0, room - 1)]}…"


def _wrap_ends(ends: Sequence[tuple[bool, str]]) -> list[list[tuple[bool, str]]]:
    lines: list[list[tuple[bool, str]]] = []
    room = 0
    for good, name in ends:
        if not lines or len(name) + 3 > room:
            lines.append([])
            room = 52
        lines[-1].append((good, name))
        room -= len(name) + 3
    return lines


def _draw_trigger(kind: str, text: str, x: float, y: float) -> str:
    lines = textwrap.wrap(text, 22)
    height = 12 + 16 * len(lines)
    words = "".join(
        f'<text class="mid" x="{LEFT + TRIGGER / 2}" y="{y - height / 2 + 18 + 16 * i}">{escape(line)}</text>'
        for i, line in enumerate(lines)
    )
    return (
        f'<g class="trigger {kind}"><rect x="{LEFT}" y="{y - height / 2}" width="{TRIGGER}" height="{height}" '
        f'rx="{min(height / 2, 14)}"/>{words}</g>'
        f'<path class="starts" d="M{LEFT + TRIGGER} {y}H{x - 3}" marker-end="url(#arch-starts)"/>'
    )


def _draw_line(line: Line, x: float, bottom: float) -> str:
    lines = textwrap.wrap(line.label, 9)
    top = TOP - 22
    words = "".join(
        f'<text class="mid store" x="{x}" y="{top - 8 - 15 * (len(lines) - 1 - i)}">{escape(text)}</text>'
        for i, text in enumerate(lines)
    )
    return f'<g class="line {line.kind}"><path d="M{x} {top}V{bottom}"/>{words}</g>'


def _draw_dot(x: float, y: float, kind: str, kinds: set[str], hint: str) -> str:
    inner = ""
    if kinds == {READS, WRITES}:
        inner = f'<circle class="hole" cx="{x}" cy="{y}" r="2.6"/>'
    how = "read" if kinds == {READS} else "write"
    circle = f'<circle class="{how}" cx="{x}" cy="{y}" r="7"/>'
    return f'<g class="access {kind}"><title>{escape(hint)}</title>{circle}{inner}</g>'


def _draw_legend(x: float, y: float) -> str:
    parts = []
    for kinds, text, offset in (({READS}, "reads", 0), ({WRITES}, "writes", 78), ({READS, WRITES}, "both", 164)):
        parts.append(_draw_dot(x + 25 + offset, y, "plain", kinds, text))
        parts.append(f'<text class="soft" x="{x + 38 + offset}" y="{y + 4}">{text}</text>')
    parts.append(f'<text class="soft" x="{x + 250}" y="{y + 4}">as its permissions in template.yaml allow</text>')
    return "".join(parts)


_LIGHT = """--paper:#fff;--ink:#1c2733;--soft:#5b6875;--fill:#f6f8fa;--edge:#d0d7de;--reach:#c3ccd5;
--bucket:#3f8624;--table:#2e5fd0;--queue:#c2347a;--topic:#c2347a;--event:#7a3fc2;--machine:#b3590f;--endpoint:#01786f;
--schedule:#5b6875;--person:#5b6875;--alarm:#b3372f;--plain:#5b6875;--good:#1a7f4b;--bad:#b3372f"""
_DARK = """--paper:#151b23;--ink:#e8edf2;--soft:#9aa7b4;--fill:#1d2530;--edge:#3a4552;--reach:#43505d;
--bucket:#7cc35f;--table:#83a8ff;--queue:#f083b6;--topic:#f083b6;--event:#bd94f2;--machine:#f0a35e;--endpoint:#4fc4b8;
--schedule:#9aa7b4;--person:#9aa7b4;--alarm:#f0857c;--plain:#9aa7b4;--good:#5cc98d;--bad:#f0857c"""
_COLOURS = "".join(f".arch .{kind}{{--own:var(--{kind})}}" for kind in re.findall(r"--(\w+):", _LIGHT))
_STYLE = f"""<style>
.arch{{{_LIGHT};font:13.5px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;max-width:100%;
height:auto}}
@media (prefers-color-scheme:dark){{.arch{{{_DARK}}}}}
@media print{{.arch{{{_LIGHT}}}}}
{_COLOURS}
.arch .paper{{fill:var(--paper);stroke:var(--edge)}}.arch text{{fill:var(--ink)}}
.arch .card{{fill:var(--fill);stroke:var(--edge);stroke-width:1.2}}
.arch .title{{font-weight:700;font-size:15px}}.arch .mid{{text-anchor:middle}}.arch .end{{text-anchor:end}}
.arch .soft,.arch .code{{fill:var(--soft);font-size:11.5px}}
.arch .code{{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:11px}}
.arch .ends{{font-size:11.5px}}.arch .good{{fill:var(--good)}}.arch .bad{{fill:var(--bad)}}
.arch .dot{{fill:var(--soft)}}
.arch .step{{fill:var(--paper);stroke:var(--soft);stroke-width:1.6}}.arch .then{{stroke:var(--soft);stroke-width:1.6}}
.arch .trigger rect{{fill:var(--paper);stroke:var(--own);stroke-width:1.6}}.arch .trigger text{{font-size:12.5px}}
.arch .starts{{stroke:var(--soft);stroke-width:1.6;fill:none}}
.arch .line path{{stroke:var(--own);stroke-width:3;opacity:.45;stroke-linecap:round}}
.arch .line text{{fill:var(--own);font-weight:650;font-size:12.5px}}
.arch .reach{{stroke:var(--reach);stroke-width:1.2}}
.arch .write{{fill:var(--own);stroke:var(--own);stroke-width:2}}
.arch .read{{fill:var(--paper);stroke:var(--own);stroke-width:2.4}}.arch .hole{{fill:var(--paper)}}
</style>
<defs><marker id="arch-starts" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto"
markerUnits="userSpaceOnUse"><path d="M0 0.5L8 4L0 7.5Z" fill="context-stroke"/></marker></defs>"""
