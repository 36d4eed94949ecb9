"""Draws a state machine as an SVG, and how often each of its paths was taken.

The layout is Sugiyama's: rank the states, order each rank so that few lines cross, then place them so that the main
path runs straight down (Sugiyama, Tagawa and Toda, IEEE Trans. SMC 11 (1981), 109–125).
"""

import random
import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from xml.sax.saxutils import escape, quoteattr

Way = tuple[str, str]
Step = str | tuple[str, bool, int]  # a state; or a bend: on the way to which state, by an error or not, at which rank

START = ""  # no state has this name
GAP = 66  # between ranks, px: room for a curve and the number on it
MORE_GAP = 20  # for every number there beyond the third
SPACE = 34  # between neighbours of a rank, px
MARGIN = 22
LEGEND = 30
LINE = 18  # height of a line of text, px
LETTER = 7.7  # width of a letter of a state's name, px, on the safe side
SMALL_LETTER = 6.6


@dataclass(frozen=True)
class Transition:
    """One arrow. caught: whether an error leads along it; labels: what chooses it."""

    source: str
    target: str
    caught: bool
    labels: tuple[str, ...]

    @property
    def way(self) -> Way:
        return self.source, self.target


def read_transitions(definition: Mapping[str, Any]) -> list[Transition]:
    """Every arrow, the start's first, the way on before the way out; several between the same two states are one."""
    found: dict[Way, Transition] = {}

    def add(source: str, target: str, label: str = "", *, caught: bool = False) -> None:
        known = found.get((source, target), Transition(source, target, caught, ()))
        labels = known.labels if not label or label in known.labels else (*known.labels, label)
        found[source, target] = Transition(source, target, known.caught and caught, labels)

    add(START, definition["StartAt"])
    for name, state in definition["States"].items():
        if "Next" in state:
            add(name, state["Next"])
        for rule in state.get("Choices", []):
            add(name, rule["Next"], _condition(rule))
        if "Default" in state:
            add(name, state["Default"], "otherwise")
        for catcher in state.get("Catch", []):
            errors = [error.removeprefix("States.") for error in catcher["ErrorEquals"]]
            add(name, catcher["Next"], "" if errors == ["ALL"] else ", ".join(errors), caught=True)
    return list(found.values())


def _condition(rule: Mapping[str, Any]) -> str:
    """A choice rule in a few letters.

    >>> _condition({"Variable": "$.decision.route", "StringEquals": "accept", "Next": "Accepted"})
    'accept'
    >>> _condition({"Not": {"Variable": "$.n", "NumericLessThan": 3}, "Next": "Enough"})
    'not n < 3'
    """
    for word in ("And", "Or"):
        if word in rule:
            return f" {word.lower()} ".join(map(_condition, rule[word]))
    if "Not" in rule:
        return f"not {_condition(rule['Not'])}"
    if "Condition" in rule:
        return str(rule["Condition"]).strip("{}% ")
    name = str(rule.get("Variable", "")).rpartition(".")[2]
    signs = {"LessThanEquals": "≤", "GreaterThanEquals": "≥", "LessThan": "<", "GreaterThan": ">"}
    for operator, value in rule.items():
        if operator == "IsPresent" or (operator.endswith(("Equals", "EqualsPath")) and "Than" not in operator):
            return name if value is True else f"{value}"
        for ending, sign in signs.items():
            if operator.removesuffix("Path").endswith(ending):
                return f"{name} {sign} {value}"
        if operator.startswith(("Is", "StringMatches")):
            return f"{name} {operator} {value}"
    return ""


def count_ways(definition: Mapping[str, Any], histories: Iterable[Iterable[Mapping[str, Any]]]) -> Counter[Way]:
    """How many executions' histories went along each arrow; an arrow taken twice by one of them counts twice."""
    counts: Counter[Way] = Counter()
    for events in histories:
        entered = [event["stateEnteredEventDetails"]["name"] for event in events if "stateEnteredEventDetails" in event]
        counts.update(pairwise([START, *(name for name in entered if name in definition["States"])]))
    return counts


def draw_state_machine(definition: Mapping[str, Any], counts: Mapping[Way, int] | None, title: str) -> str:
    """The SVG. counts: see `count_ways`, None for a plan; title: for people who cannot see it, and for the legend."""
    plan, counts = counts is None, counts or {}
    transitions = read_transitions(definition)
    layout = Layout(definition["States"], transitions)
    caught_ways = {transition.way for transition in transitions if transition.caught}
    most = max(counts.values(), default=0)
    stretches = [
        (stretch, sum(counts.get(way, 0) for way in stretch.ways), caught_ways.issuperset(stretch.ways))
        for stretch in layout.stretches()
    ]
    # Where two lines cross, the one that was taken lies on top.
    paths = [
        _draw_stretch(stretch, 1 if plan else count, caught, most or 4)
        for stretch, count, caught in sorted(stretches, key=lambda stretch: stretch[1])
    ]
    occupied = [_extent(box) for box in layout.boxes.values() if not box.is_bend]
    pills = [
        _draw_pill(transition, None if plan else counts.get(transition.way, 0), layout.places(transition.way), occupied)
        for transition in sorted(transitions, key=lambda transition: -counts.get(transition.way, 0))
        if transition.labels or not plan
    ]
    shapes = [_draw_state(box, definition["States"][name]) for name, box in layout.states() if name != START]
    start = layout.boxes[START]
    shapes.append(f'<circle class="start" cx="{start.x:.0f}" cy="{start.y:.0f}" r="7"/>')
    legend = f"{title}. Dashed: an error was caught.{'' if plan else ' Light: never taken.'}"
    width, height = max(layout.width, len(legend) * 6 + 2 * MARGIN), layout.height + LEGEND
    left = layout.left - (width - layout.width) / 2
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="sm" role="img" aria-label={quoteattr(title)} '
            f'viewBox="{left:.0f} {layout.top:.0f} {width:.0f} {height:.0f}" '
            f'width="{width:.0f}" height="{height:.0f}">',
            f"<title>{escape(title)}</title>",
            _STYLE,
            f'<rect class="paper" x="{left:.0f}" y="{layout.top:.0f}" width="100%" height="100%"/>',
            *paths,
            *shapes,
            *pills,
            f'<text class="legend" x="{left + width / 2:.0f}" y="{layout.top + height - 12:.0f}">',
            f"{escape(legend)}</text>",
            "</svg>\n",
        ]
    )


# ---- layout


@dataclass
class Box:
    """A state, or a bend: a place where a long line passes a rank. x, y: its centre, px."""

    rank: int
    lines: tuple[str, ...] = ()
    width: float = 12
    height: float = 0
    diamond: bool = False
    aside: bool = False
    x: float = 0
    y: float = 0

    @property
    def is_bend(self) -> bool:
        return self.height == 0

    def reach(self, offset: float) -> float:
        """How far the outline is above or below the centre, this far from the middle."""
        return self.height / 2 * (1 - abs(offset) / (self.width / 2) if self.diamond else 1)


@dataclass
class Stretch:
    """A piece of drawn line. ways: the arrows that run along it; ends: whether it reaches their target."""

    path: str
    ways: set[Way]
    ends: bool


@dataclass
class Layout:
    """The place of every state and line."""

    definitions: Mapping[str, Mapping[str, Any]]
    transitions: Sequence[Transition]
    boxes: dict[Step, Box] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._back = _find_back_ways(self.transitions)
        ranks = _rank([transition.way for transition in self.transitions if transition.way not in self._back])
        regular = _reach([transition.way for transition in self.transitions if not transition.caught])
        for name in (START, *(name for name in self.definitions if name in ranks)):
            self.boxes[name] = _measure(name, self.definitions.get(name, {}), ranks[name], aside=name not in regular)
        self._chains = {
            transition.way: self._chain(transition)
            for transition in self.transitions
            if transition.way not in self._back and transition.source in ranks
        }
        self._links = _weigh(self._chains, self.transitions)
        self._order()
        self._place()

    @property
    def left(self) -> float:
        return min(box.x - box.width / 2 for box in self.boxes.values()) - MARGIN

    @property
    def width(self) -> float:
        aside = 40 + 16 * len(self._back) if self._back else 0
        return max(box.x + box.width / 2 for box in self.boxes.values()) + MARGIN + aside - self.left

    @property
    def top(self) -> float:
        return self.boxes[START].y - self.boxes[START].height / 2 - MARGIN

    @property
    def height(self) -> float:
        return max(box.y + box.height / 2 for box in self.boxes.values()) + MARGIN - self.top

    def states(self) -> list[tuple[str, Box]]:
        return [(name, box) for name, box in self.boxes.items() if isinstance(name, str)]

    def stretches(self) -> list[Stretch]:
        """All lines, each piece once, however many arrows share it."""
        shared: dict[tuple[Step, Step], set[Way]] = defaultdict(set)
        for way, chain in self._chains.items():
            for link in pairwise(chain):
                shared[link].add(way)
        regular = [Stretch(self._trace(*link), ways, isinstance(link[1], str)) for link, ways in shared.items()]
        return regular + [Stretch(self._trace_back(way)[0], {way}, True) for way in sorted(self._back)]

    def places(self, way: Way) -> list[tuple[float, float]]:
        """Where this arrow's number can stand, best place first."""
        if way in self._back:
            return self._trace_back(way)[1]
        # Only the first stretch is this arrow's own: further on, others may have joined it.
        ends = self._ends(*self._chains[way][:2])
        return [_along(ends, share) for share in (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8, 0.14, 0.86)]

    def _ends(self, above: Step, below: Step) -> tuple[float, float, float, float]:
        """Where a stretch leaves the one and enters the other: x, y, x, y."""
        upper, lower = self.boxes[above], self.boxes[below]
        leaving, entering = _port(upper, lower), _port(lower, upper)
        y = upper.y + (self._depth[upper.rank] / 2 if upper.is_bend else upper.reach(leaving - upper.x))
        to_y = lower.y - (self._depth[lower.rank] / 2 if lower.is_bend else lower.reach(entering - lower.x) + 3)
        return leaving, y, entering, to_y

    def _trace(self, above: Step, below: Step) -> str:
        x, y, to_x, to_y = self._ends(above, below)
        top, middle = (y - self._depth[self.boxes[above].rank] if self.boxes[above].is_bend else y), (y + to_y) / 2
        return f"M{x:.1f} {top:.1f}V{y:.1f}C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}"

    def _trace_back(self, way: Way) -> tuple[str, list[tuple[float, float]]]:
        """An arrow back: down, past everything on the right, and in from above, so that it crosses no state."""
        source, target = (self.boxes[name] for name in way)
        between = range(target.rank, source.rank + 1)
        number = sorted(self._back).index(way)
        lane = max(box.x + box.width / 2 for box in self.boxes.values() if box.rank in between) + 26 + 16 * number
        x, to_x = source.x + min(30, source.width / 4), target.x + min(30, target.width / 4)
        low, high = source.y + self._depth[source.rank] / 2 + 14, target.y - self._depth[target.rank] / 2 - 16
        y, to_y = source.y + source.reach(x - source.x), target.y - target.reach(to_x - target.x) - 3
        path = (
            f"M{x:.1f} {y:.1f}V{low - 8:.1f}q0 8 8 8H{lane - 8:.1f}q8 0 8 -8"
            f"V{high + 8:.1f}q0 -8 -8 -8H{to_x + 8:.1f}q-8 0 -8 8V{to_y:.1f}"
        )
        return path, [(lane, (low + high) / 2 + shift) for shift in (0, -22, 22, -44, 44)]

    def _chain(self, transition: Transition) -> list[Step]:
        """Source, bends, target. Lines to the same target share their bends, so that catches form one line."""
        first, last = (self.boxes[name].rank for name in transition.way)
        bends = [(transition.target, transition.caught, rank) for rank in range(first + 1, last)]
        for bend in bends:
            self.boxes.setdefault(bend, Box(rank=bend[2], aside=transition.caught))
        return [transition.source, *bends, transition.target]

    def _order(self) -> None:
        """Swap neighbours at random while that adds no crossing; 20 states are few enough for that."""
        self._ranks: list[list[Step]] = [[] for _ in range(1 + max(box.rank for box in self.boxes.values()))]
        for step in dict.fromkeys(step for chain in self._chains.values() for step in chain):
            self._ranks[self.boxes[step].rank].append(step)
        for steps in self._ranks:
            steps.sort(key=lambda step: self.boxes[step].aside)
        chance = random.Random(8)  # noqa: S311 - the same drawing every time
        swappable = [rank for rank, steps in enumerate(self._ranks) if len(steps) > 1]
        for _ in range(150 * len(swappable)):
            rank = chance.choice(swappable)
            steps = self._ranks[rank]
            position = chance.randrange(len(steps) - 1)
            before = self._tangle(rank)
            steps[position : position + 2] = steps[position : position + 2][::-1]
            if self._tangle(rank) > before:
                steps[position : position + 2] = steps[position : position + 2][::-1]

    def _tangle(self, rank: int) -> float:
        """Crossings above and below this rank, and a little for every regular state right of the error path."""
        crossings = 0
        for upper in {max(rank - 1, 0), min(rank, len(self._ranks) - 2)}:
            position = {step: i for steps in self._ranks[upper : upper + 2] for i, step in enumerate(steps)}
            links = [(position[a], position[b]) for a, b in self._links if self.boxes[a].rank == upper]
            crossings += sum((a - c) * (b - d) < 0 for i, (a, b) in enumerate(links) for c, d in links[:i])
        sides = [self.boxes[step].aside for step in self._ranks[rank]]
        return crossings + 0.1 * sum(left > right for i, right in enumerate(sides) for left in sides[:i])

    def _place(self) -> None:
        """Ranks below each other; within a rank, everything as near below its neighbours as the order allows."""
        self._depth = [max(self.boxes[step].height for step in steps) for steps in self._ranks]
        y = 0.0
        leaving = Counter(self.boxes[source].rank for source, _ in self._chains)
        for rank, (steps, depth) in enumerate(zip(self._ranks, self._depth, strict=True)):
            for step in steps:
                self.boxes[step].y = y + depth / 2
            y += depth + GAP + MORE_GAP * max(0, leaving[rank] - 3)
        neighbours: dict[Step, list[tuple[Step, float]]] = defaultdict(list)
        for (above, below), weight in self._links.items():
            neighbours[above].append((below, weight))
            neighbours[below].append((above, weight))
        for _ in range(200):
            for steps in self._ranks:
                boxes = [self.boxes[step] for step in steps]
                weights = [sum(weight for _, weight in neighbours[step]) for step in steps]
                wishes = [
                    sum(self.boxes[other].x * weight for other, weight in neighbours[step]) / total
                    for step, total in zip(steps, weights, strict=True)
                ]
                for box, x in zip(boxes, _spread(wishes, weights, [box.width for box in boxes]), strict=True):
                    box.x = x


def _find_back_ways(transitions: Sequence[Transition]) -> set[Way]:
    """The arrows that close a loop, seen from the start."""
    onward = defaultdict(list)
    for transition in transitions:
        onward[transition.source].append(transition.target)
    back, done, path = set(), set(), []

    def visit(name: str) -> None:
        path.append(name)
        for target in onward[name]:
            if target in path:
                back.add((name, target))
            elif target not in done:
                visit(target)
        done.add(path.pop())

    visit(START)
    return back


def _rank(ways: Sequence[Way]) -> dict[str, int]:
    """Longest way from the start, in arrows, of every state that can be reached."""
    ranks = {START: 0}
    changed = True
    while changed:
        changed = False
        for source, target in ways:
            if source in ranks and ranks.get(target, 0) <= ranks[source]:
                ranks[target] = ranks[source] + 1
                changed = True
    return ranks


def _reach(ways: Sequence[Way]) -> set[str]:
    """The states that these ways lead to."""
    return set(_rank([way for way in ways if way not in _find_back_ways([Transition(*w, False, ()) for w in ways])]))


def _weigh(chains: Mapping[Way, Sequence[Step]], transitions: Sequence[Transition]) -> dict[tuple[Step, Step], float]:
    """How straight each stretch of line should be: the main path most, then long lines, then exits."""
    fan_out = Counter(transition.source for transition in transitions if not transition.caught)
    links: dict[tuple[Step, Step], float] = {}
    for transition in transitions:
        for link in pairwise(chains.get(transition.way, [])):
            bends = sum(isinstance(step, tuple) for step in link)
            if bends == 2 or (transition.caught and isinstance(link[0], tuple)):
                weight = 40.0
            elif transition.caught:
                weight = 0.1
            else:
                onward = fan_out[transition.source] == 1 or "otherwise" in transition.labels
                weight = 400.0 if onward and bends == 0 else 1.0
            links[link] = max(weight, links.get(link, 0.0))
    return links


def _spread(wishes: Sequence[float], weights: Sequence[float], widths: Sequence[float]) -> list[float]:
    """Places nearest to the wanted ones (weighted least squares), in the same order and without overlap.

    Isotonic regression by pooling adjacent violators, after taking off what the widths need.

    >>> _spread([0, 0, 300], [1, 1, 1], [66, 66, 66])
    [-50.0, 50.0, 300.0]
    """
    needed = [0.0]
    for left, right in pairwise(widths):
        needed.append(needed[-1] + (left + right) / 2 + SPACE)
    blocks: list[list[float]] = []  # sum of weighted wishes, sum of weights, members
    for wish, weight, offset in zip(wishes, weights, needed, strict=True):
        blocks.append([(wish - offset) * weight, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    places = [total / weight for total, weight, members in blocks for _ in range(int(members))]
    return [place + offset for place, offset in zip(places, needed, strict=True)]


def _measure(name: str, state: Mapping[str, Any], rank: int, *, aside: bool) -> Box:
    if name == START:
        return Box(rank, width=16, height=16)
    lines = tuple(textwrap.wrap(name, 22))
    text = max(max(map(len, lines)) * LETTER, len(_caption(state)) * SMALL_LETTER)
    if state["Type"] == "Choice":
        height = 46 + LINE * len(lines)
        width = 2 * (text / 2 + 10) / (1 - LINE * len(lines) / height)
        return Box(rank, lines, width, height, diamond=True, aside=aside)
    return Box(rank, lines, max(120, text + 34), 18 + LINE * len(lines) + 16 * bool(_caption(state)), aside=aside)


def _port(box: Box, other: Box) -> float:
    """Where along its edge a line leaves a box for another: a little towards it."""
    room = 0 if box.is_bend else max(0.0, box.width / 2 - 18)
    return box.x + min(room, max(-room, (other.x - box.x) * 0.25))


def _along(stretch: tuple[float, float, float, float], share: float) -> tuple[float, float]:
    """The point at this share of a stretch's Bézier curve."""
    x, y, to_x, to_y = stretch
    middle, rest = (y + to_y) / 2, 1 - share
    inner = 3 * rest * rest * share, 3 * rest * share * share
    return (
        rest**3 * x + inner[0] * x + inner[1] * to_x + share**3 * to_x,
        rest**3 * y + inner[0] * middle + inner[1] * middle + share**3 * to_y,
    )


# ---- drawing

Extent = tuple[float, float, float, float]  # left, top, right, bottom


def _extent(box: Box) -> Extent:
    return box.x - box.width / 2, box.y - box.height / 2, box.x + box.width / 2, box.y + box.height / 2


def _overlap(one: Extent, other: Extent) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _draw_stretch(stretch: Stretch, count: int, caught: bool, most: int) -> str:
    classes = " ".join(["way", *(["caught"] if caught else []), *(["taken"] if count else [])])
    width = 1.4 + 2.4 * (count / most) ** 0.5 if count else 1.2
    arrow = f' marker-end="url(#sm-{"taken" if count else "idle"})"' if stretch.ends else ""
    return f'<path class="{classes}" d="{stretch.path}" stroke-width="{width:.1f}"{arrow}/>'


def _draw_pill(
    transition: Transition, count: int | None, places: Sequence[tuple[float, float]], occupied: list[Extent]
) -> str:
    """The number of an arrow, if any, and what chooses it, where nothing else stands; notes the place as taken."""
    label = textwrap.shorten(" or ".join(transition.labels), 26, placeholder="…") if transition.labels else ""
    number = "" if count is None else f"{count:,}"
    text = f"{label} {number}".strip()
    width = len(text) * SMALL_LETTER + 14

    def extent(place: tuple[float, float]) -> Extent:
        return place[0] - width / 2, place[1] - 9.5, place[0] + width / 2, place[1] + 9.5

    free = (place for place in places if not any(_overlap(extent(place), other) for other in occupied))
    x, y = next(free, places[0])
    occupied.append(extent((x, y)))
    names = f"{transition.source or 'start'} → {transition.target}"
    hint = f"{names}{': ' if transition.labels else ''}{' or '.join(transition.labels)}"
    return (
        f'<g class="count{" taken" if count or count is None else ""}"><title>{escape(hint)}</title>'
        f'<rect x="{x - width / 2:.1f}" y="{y - 9.5:.1f}" width="{width:.1f}" height="19" rx="9.5"/>'
        f'<text x="{x:.1f}" y="{y + 4:.1f}">{escape(f"{label} ") if label else ""}<tspan>{number}</tspan></text></g>'
    )


def _draw_state(box: Box, state: Mapping[str, Any]) -> str:
    kind, caption = state["Type"], _caption(state)
    x, y, width, height = box.x - box.width / 2, box.y - box.height / 2, box.width, box.height
    if box.diamond:
        right, bottom = x + width, y + height
        shape = (
            f'<path d="M{box.x:.1f} {y:.1f}L{right:.1f} {box.y:.1f}L{box.x:.1f} {bottom:.1f}L{x:.1f} {box.y:.1f}Z"/>'
        )
    else:
        radius = {"Pass": 2, "Succeed": height / 2, "Fail": height / 2}.get(kind, 9)
        shape = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius:.1f}"/>'
        if kind in ("Map", "Parallel"):  # a pile of boxes: what is inside happens several times
            shape = shape.replace("<rect", '<rect transform="translate(5 -5)"') + shape
    first = box.y - (len(box.lines) * LINE + 16 * bool(caption and not box.diamond)) / 2 + 13.5
    text = "".join(
        f'<text x="{box.x:.1f}" y="{first + LINE * i:.1f}">{escape(line)}</text>' for i, line in enumerate(box.lines)
    )
    if caption and not box.diamond:
        text += (
            f'<text class="kind" x="{box.x:.1f}" y="{first + LINE * len(box.lines) - 1:.1f}">{escape(caption)}</text>'
        )
    return f'<g class="state {kind.lower()}">{shape}{text}</g>'


def _caption(state: Mapping[str, Any]) -> str:
    """What a state does, below its name.

    >>> _caption({"Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken"})
    'sqs:sendMessage, waits'
    """
    if state["Type"] in ("Choice", "Succeed", "Fail"):
        return ""
    if state["Type"] != "Task":
        return str(state["Type"]).lower()
    resource, _, how = str(state["Resource"]).rpartition(":states:::")[2].partition(".")
    if resource == "lambda:invoke":
        resource = str(state["Parameters"]["FunctionName"])
    name = re.sub(r"^\$\{(.*?)(Arn)?\}$|^arn:.*:function:", r"\1", resource)
    return name + {"": "", "waitForTaskToken": ", waits"}.get(how, ", to its end")


_STYLE = """<style>
.sm{--paper:#fff;--ink:#1c2733;--soft:#5b6875;--idle:#b9c2cc;--line:#44525f;--fill:#f3f6f9;--edge:#8a97a5;
--good:#1a7f4b;--good-fill:#e7f5ed;--bad:#b3372f;--bad-fill:#fcebea;--ask:#3b5bb5;--ask-fill:#ebf0fd;
font:14px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;max-width:100%;height:auto}
@media (prefers-color-scheme:dark){.sm{--paper:#171d24;--ink:#e8edf2;--soft:#a0adba;--idle:#4a5663;--line:#b4c0cc;
--fill:#222b35;--edge:#6d7a88;--good:#5cc98d;--good-fill:#16301f;--bad:#f0857c;--bad-fill:#3a1c1a;--ask:#9db4f5;
--ask-fill:#1e2947}}
@media print{.sm{--paper:#fff;--ink:#1c2733;--soft:#5b6875;--idle:#b9c2cc;--line:#44525f;--fill:#f3f6f9;--edge:#8a97a5;
--good:#1a7f4b;--good-fill:#e7f5ed;--bad:#b3372f;--bad-fill:#fcebea;--ask:#3b5bb5;--ask-fill:#ebf0fd}}
.sm .paper{fill:var(--paper)}.sm text{text-anchor:middle;fill:var(--ink)}
.sm .state rect,.sm .state path{fill:var(--fill);stroke:var(--edge);stroke-width:1.4}
.sm .state text{font-weight:600}.sm .state .kind{font-size:12px;font-weight:400;fill:var(--soft)}
.sm .pass rect{stroke-dasharray:2 3}.sm .choice path{fill:var(--ask-fill);stroke:var(--ask)}
.sm .succeed rect{fill:var(--good-fill);stroke:var(--good)}.sm .fail rect{fill:var(--bad-fill);stroke:var(--bad)}
.sm .start{fill:var(--ink)}
.sm .way{fill:none;stroke:var(--idle)}.sm .way.taken{stroke:var(--line)}.sm .way.caught{stroke-dasharray:5 4}
.sm .way.caught.taken{stroke:var(--bad)}
.sm .count rect{fill:var(--paper);stroke:var(--idle)}.sm .count text{font-size:12px;fill:var(--soft)}
.sm .count.taken rect{stroke:var(--line)}.sm .count.taken text{fill:var(--ink)}.sm .count tspan{font-weight:700}
.sm .legend{font-size:12px;fill:var(--soft)}
</style>
<defs>
<marker id="sm-taken" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto"
markerUnits="userSpaceOnUse"><path d="M0 0.5L8 4L0 7.5Z" fill="context-stroke"/></marker>
<marker id="sm-idle" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"
markerUnits="userSpaceOnUse"><path d="M0 0.5L8 4L0 7.5Z" fill="var(--idle)"/></marker>
</defs>"""
