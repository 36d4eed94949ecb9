"""The charts of the pages: SVG by matplotlib that takes its colours from the page around it.

matplotlib is imported here and nowhere else in the core, so only code that draws needs it.
"""

import io
import itertools
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from xml.etree import ElementTree

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator, PercentFormatter

from kickstand.events import Route
from kickstand.quality import Interval
from kickstand.text import finalize

# Stand-ins, replaced by the page's own colours, so that one drawing serves light, dark and print.
INK, SOFT, LINE, FILL, PAPER = "#000101", "#000102", "#000103", "#000104", "#000105"
GREEN, AMBER, RED = "#000106", "#000107", "#000108"
COLOURS = {
    INK: "--ink",
    SOFT: "--soft",
    LINE: "--line",
    FILL: "--fill",
    PAPER: "--paper",
    GREEN: "--green",
    AMBER: "--amber",
    RED: "--red",
}
ROUTES = {Route.ACCEPT: GREEN, Route.REVIEW: AMBER, Route.REJECT: RED}
WORDS = {Route.ACCEPT: "accepted", Route.REVIEW: "to review", Route.REJECT: "rejected"}

DASHES = ((4, 2), (1, 1.5), (7, 2, 1, 2))

WIDTH, NARROW = 3.6, 2.6  # inches. A phone of 390 pixels shows both so large that letters of TEXT are 12 pixels high
TEXT = 9.5

mpl.rcParams.update(
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "kickstand",
        "text.parse_math": False,  # a class may have dollar signs in its name
        "savefig.transparent": True,
        "font.size": TEXT,
        "axes.labelsize": TEXT,
        "xtick.labelsize": TEXT,
        "ytick.labelsize": TEXT,
        "legend.fontsize": TEXT,
        "legend.frameon": False,
        "legend.handlelength": 1.2,
        "legend.columnspacing": 1.2,
        "legend.handletextpad": 0.5,
        "legend.labelspacing": 0.25,
        "text.color": INK,
        "axes.labelcolor": SOFT,
        "xtick.labelcolor": SOFT,
        "ytick.labelcolor": SOFT,
        "axes.edgecolor": LINE,
        "xtick.color": LINE,
        "ytick.color": LINE,
        "grid.color": LINE,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "lines.solid_capstyle": "round",
    }
)


class Dot(NamedTuple):
    """One photo on the timeline. wrong: it was accepted, and a person found the prediction wrong."""

    at: datetime
    confidence: float
    route: Route
    wrong: bool


class Curve(NamedTuple):
    """The selective risk of one class's predictions over their coverage: (coverage, risk) for each threshold.

    title: names the class. policy: the policy's own point; None where it accepts no prediction of the class.
    promised: the largest risk that the policy guarantees.
    """

    title: str
    points: Sequence[tuple[float, Interval]]
    policy: tuple[float, Interval] | None = None
    promised: float | None = None


class Period(NamedTuple):
    """From when until when."""

    start: datetime
    end: datetime


class Band(NamedTuple):
    """A span of time: the middle value with a lower and an upper one, of n photos."""

    start: datetime
    end: datetime
    low: float
    middle: float
    high: float
    n: int


def new_figure(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """One pair of axes, inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def as_svg(figure: Figure, says: str) -> Markup:
    """The figure as an element of a page. says: what it shows, for people who cannot see it. A wide one scrolls.

    CloudWatch's widgets remove `<use>`, so that each is replaced by what it stands for:
    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/add_custom_widget_dashboard_security.html
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the browser has other fonts
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawn = "\n".join(map(finalize, buffer.getvalue().decode().split("\n")))  # XML has no control characters
    svg = "{http://www.w3.org/2000/svg}"
    root = ElementTree.fromstring(drawn)  # noqa: S314 - drawn here
    marks = {mark.get("id", ""): mark for mark in root.iter(f"{svg}path") if mark.get("id")}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{svg}metadata" or (child.tag == f"{svg}defs" and child.find(f"{svg}clipPath") is None):
                parent.remove(child)
            elif child.tag == f"{svg}use":
                mark = marks[child.get("{http://www.w3.org/1999/xlink}href", "")[1:]]
                child.tag = f"{svg}path"
                place = f"translate({child.get('x', '0')} {child.get('y', '0')})"
                style = f"{child.get('style', '')}; {mark.get('style', '')}".strip("; ")
                child.attrib.clear()
                child.attrib.update(d=mark.get("d", ""), transform=place, style=style)
    for element in root.iter():
        if element.tag != f"{svg}clipPath":
            element.attrib.pop("id", None)
        if path := element.get("d"):
            element.set("d", re.sub(r"(\.\d\d)\d+", r"\1", " ".join(path.split())))
    for name in ("width", "height"):
        del root.attrib[name]
    root.attrib.update({"role": "img", "aria-label": finalize(says)})
    ElementTree.register_namespace("", svg[1:-1])
    text = ElementTree.tostring(root, encoding="unicode").replace(f' xmlns="{svg[1:-1]}"', "")  # HTML knows it
    if figure.get_figwidth() > WIDTH:
        says = escape(says)
        text = f'<div class="wide" tabindex="0" role="region" aria-label="{says}">{text}</div>'
    text = re.sub(r"font-family: [^;\"]*|font: ([\d.]+px)[^;\"]*", lambda m: f"font-size: {m[1]}" if m[1] else "", text)
    for stand_in, name in COLOURS.items():
        text = text.replace(stand_in, f"var({name})")
    return Markup(text)  # noqa: S704 - written and escaped by ElementTree


# ---- along time: every chart of a page has the same axis


def draw_timeline(
    period: Period,
    dots: Sequence[Dot],
    bands: Sequence[Band],
    thresholds: Mapping[str, float | None],
    since: Sequence[datetime],
    ended: Sequence[Period],
) -> Figure:
    """Confidence over time: a dot for each photo, by where it went; the median and each class's threshold.

    since: when statistics began to move. ended: alerts that are over, from the change to their end.
    """
    figure, axes = new_figure(3.5)
    _along_time(axes, period)
    _mark_changes(axes, since, ended)
    for route, colour in ROUTES.items():
        _scatter(axes, [(dot.at, dot.confidence) for dot in dots if dot.route is route], colour, WORDS[route])
    if wrong := [dot for dot in dots if dot.wrong]:
        axes.plot(
            [_days(dot.at) for dot in wrong],
            [dot.confidence for dot in wrong],
            marker="x",
            color=INK,
            linestyle="none",
            markersize=6,
            markeredgewidth=1.6,
            label="accepted, but wrong",
        )
    if bands:
        axes.plot(*_middles(bands), color=FILL, linewidth=2, label="median")
    _mark_thresholds(axes.axhline, thresholds)
    lowest = min((dot.confidence for dot in dots), default=0.5)
    axes.set(ylabel="confidence", ylim=(min(0.5, lowest) - 0.02, 1.02))
    _legend(figure, 2)
    return figure


def draw_routes(period: Period, bins: Sequence[tuple[Period, Mapping[Route, int]]]) -> Figure:
    """Shares of the routes in each span of time, stacked."""
    figure, axes = new_figure(2.6)
    _along_time(axes, period)
    totals = [max(1, sum(counts.values())) for _, counts in bins]
    shares = [
        ([counts[route] / n for (_, counts), n in zip(bins, totals, strict=True)], colour, WORDS[route])
        for route, colour in ROUTES.items()
    ]
    _stack(axes, [span for span, _ in bins], shares)
    axes.set(ylim=(0, 1), ylabel="share of photos")
    _in_percent(axes.yaxis)
    _legend(figure, 3)
    return figure


def draw_statistic(
    period: Period,
    bands: Sequence[Band],
    usual: tuple[float, float, float],
    since: datetime | None,
    ended: Sequence[Period],
    *,
    share: bool,
) -> Figure:
    """One statistic over time, beside what is usual: (low, middle, high) of the baseline.

    share: it is one, in per cent.
    """
    figure, axes = new_figure(1.6, NARROW)
    _along_time(axes, period, ticks=3)
    axes.axhspan(usual[0], usual[2], color=SOFT, alpha=0.16, linewidth=0)
    axes.axhline(usual[1], color=SOFT, linewidth=1, linestyle=(0, (4, 2)))
    middles, values = _middles(bands)
    axes.fill_between(middles, [b.low for b in bands], [b.high for b in bands], color=FILL, alpha=0.25, linewidth=0)
    axes.plot(middles, values, color=FILL, linewidth=1.8, marker="." if len(bands) < 3 else "")
    _mark_changes(axes, [since] if since else [], ended)
    values = [*usual, *(value for band in bands for value in (band.low, band.high))]
    room = 0.08 * (max(values) - min(values)) or 0.05
    axes.set_ylim(max(0.0, min(values) - room) if share else min(values) - room, max(values) + room)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if share:
        _in_percent(axes.yaxis)
    return figure


def draw_load(period: Period, bins: Sequence[tuple[Period, int, int]]) -> Figure:
    """Reviews in each span of time: answered, and still waiting."""
    figure, axes = new_figure(2.4)
    _along_time(axes, period)
    counts = [
        ([answered for _, answered, _ in bins], FILL, "answered"),
        ([waiting for *_, waiting in bins], AMBER, "waiting"),
    ]
    _stack(axes, [span for span, *_ in bins], counts)
    axes.set(ylabel="reviews", ylim=(0, 1.05 * max(1, *(answered + waiting for _, answered, waiting in bins))))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    _legend(figure, 2)
    return figure


def draw_ages(answered: Sequence[float], waiting: Sequence[float]) -> Figure:
    """How long answers took, and how long open questions have waited; in hours."""
    figure, axes = new_figure(2.4)
    edges = [0, 1 / 60, 1 / 6, 1, 4, 12, 24, 48, 168, float("inf")]
    names = ["< 1 min", "< 10 min", "< 1 h", "< 4 h", "< 12 h", "< 1 day", "< 2 days", "< 1 week", "longer"]

    def count(hours: Sequence[float]) -> list[int]:
        spans = itertools.pairwise(edges)
        return [sum(low <= value < high for value in hours) for low, high in spans]

    done, open_ = count(answered), count(waiting)
    rows = range(len(names))
    axes.barh(rows, done, 0.8, color=FILL, label="time to the answer")
    axes.barh(rows, open_, 0.8, done, color=AMBER, label="waiting so far")
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.set(xlabel="reviews", xlim=(0, 1.05 * max(1, *map(sum, zip(done, open_, strict=True)))))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    _legend(figure, 2)
    return figure


def _days(at: datetime) -> float:
    """Matplotlib's unit of time: days since 1970, UTC."""
    return at.timestamp() / 86400


STEPS = [
    *(timedelta(minutes=n) for n in (1, 2, 5, 10, 15, 30)),
    *(timedelta(hours=n) for n in (1, 2, 3, 6, 12)),
    *(timedelta(days=n) for n in (1, 2, 4, 7, 14, 28, 91, 182, 365, 730, 1826, 3652)),
]


def _along_time(axes: Axes, period: Period, ticks: int = 5) -> None:
    """Hours where the period is shorter than two days, else dates; of more than ten months, months."""
    start, end = period
    length, day = end - start, timedelta(days=1)
    allowed = [step for step in STEPS if step >= day or length < 2 * day]
    step = next((step for step in allowed if length <= ticks * step), STEPS[-1])
    midnight = start.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    first = midnight - (midnight - start) // min(step, day) * min(step, day)  # round times, such as 14:30
    places = [first + i * step for i in range(ticks + 2) if start - first <= i * step <= end - first] or [start]
    words = [
        f"{at:%H:%M}" if step < day else f"{at:%b %Y}" if length > 300 * day else f"{at.day} {at:%b}" for at in places
    ]
    axes.set_xlim(_days(start) - 0.02 * length / day, _days(end) + 0.02 * length / day)
    axes.set_xticks([_days(at) for at in places], words)


def _middles(bands: Sequence[Band]) -> tuple[list[float], list[float]]:
    return [(_days(band.start) + _days(band.end)) / 2 for band in bands], [band.middle for band in bands]


def _stack(axes: Axes, spans: Sequence[Period], layers: Sequence[tuple[Sequence[float], str, str]]) -> None:
    """Bars on top of each other: of each layer its values, colour and name."""
    starts, widths = [_days(span.start) for span in spans], [0.94 * (_days(s.end) - _days(s.start)) for s in spans]
    base = [0.0] * len(spans)
    for values, colour, name in layers:
        axes.bar(starts, values, widths, base, align="edge", color=colour, label=name)
        base = [low + value for low, value in zip(base, values, strict=True)]


def _mark_changes(axes: Axes, since: Sequence[datetime], ended: Sequence[Period]) -> None:
    for index, at in enumerate(sorted(since)):
        axes.axvline(_days(at), color=RED, linewidth=1.4, label="" if index else "a statistic moved")
    for index, (start, end) in enumerate(_merge(ended)):
        name = "" if index else "alert, over now"
        axes.axvspan(_days(start), _days(end), color=RED, alpha=0.14, linewidth=0, label=name)


def _merge(periods: Sequence[Period]) -> list[Period]:
    """Periods that overlap as one, so that their shades do not add up."""
    merged: list[Period] = []
    for period in sorted(periods):
        if merged and period.start <= merged[-1].end:
            merged[-1] = Period(merged[-1].start, max(merged[-1].end, period.end))
        else:
            merged.append(period)
    return merged


def _in_percent(axis: Axis) -> None:
    axis.set_major_formatter(PercentFormatter(1, symbol=" %"))


def _mark_thresholds(mark: Callable[..., object], thresholds: Mapping[str, float | None]) -> None:
    """A line for each class's threshold, one line where all have the same; none where a person decides about all."""
    same = len(set(thresholds.values())) == 1
    for index, (label, at) in enumerate(list(thresholds.items())[: 1 if same else None]):
        if at is not None:
            name = f"{'threshold' if same else f'“{label}” from'} {at:.3f}"  # matplotlib hides one that begins with _
            mark(at, color=INK, linewidth=1.2, linestyle=(0, DASHES[index % len(DASHES)]), label=name)


def _scatter(axes: Axes, points: Sequence[tuple[datetime, float]], colour: str, label: str) -> None:
    """Round dots as one path of lines without a length: a tenth of what a mark for each would take."""
    if not points:
        return
    vertices = [(_days(at), value) for at, value in points for _ in range(2)]
    path = Path(vertices, [Path.MOVETO, Path.LINETO] * len(points))
    path.should_simplify = False
    patch = PathPatch(path, edgecolor=colour, facecolor="none", linewidth=3.2, capstyle="round", alpha=0.75)
    axes.add_patch(patch)
    axes.plot([], [], "o", color=colour, markersize=4, label=label)


def _legend(figure: Figure, columns: int) -> None:
    """One for all panels, each entry once."""
    found = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(found.values(), found.keys(), loc="outside upper left", ncols=columns, borderpad=0, labelcolor=INK)


# ---- how good


def draw_reliability(points: Sequence[tuple[float, Interval]], xlabel: str) -> Figure:
    """How often predictions are correct over how sure they were: (how sure, accuracy) for each bin."""
    figure, axes = new_figure(3.3)
    axes.plot([0, 1], [0, 1], color=SOFT, linestyle=(0, (4, 2)), linewidth=1)
    for sure, accuracy in points:
        axes.vlines(sure, accuracy.low, accuracy.high, color=FILL, linewidth=2.5, alpha=0.55)
        axes.plot(sure, accuracy.value, "o", color=FILL, markersize=6)
    axes.set(xlabel=xlabel, ylabel="correct")
    _in_percent(axes.yaxis)
    axes.set_xlim(max(0.0, min([0.5, *(sure for sure, _ in points)]) - 0.04), 1.02)
    axes.set_ylim(max(0.0, min([0.5, *(accuracy.low for _, accuracy in points)]) - 0.04), 1.02)
    return figure


def draw_risk_coverage(curves: Sequence[Curve], bound: str) -> Figure:
    """Selective risk over coverage, one panel below the other for each class.

    bound: what the bar above the policy's point is called.
    """
    figure = Figure(figsize=(WIDTH, 2.1 * max(1, len(curves)) + 1.0), layout="constrained")
    panels = figure.subplots(max(1, len(curves)), sharex=True, squeeze=False)[:, 0]
    for axes, curve in zip(panels, curves, strict=False):
        coverages = [coverage for coverage, _ in curve.points]
        risks = [risk for _, risk in curve.points]
        axes.fill_between(
            coverages, [r.low for r in risks], [r.high for r in risks], color=FILL, alpha=0.2, linewidth=0
        )
        axes.plot(coverages, [r.value for r in risks], color=FILL, linewidth=2, label="risk of the accepted")
        tops = [risk.value for risk in risks] + [2 * (curve.promised or 0.0), 0.02]
        if curve.promised is not None:
            axes.axhline(curve.promised, color=RED, linestyle=(0, (4, 2)), linewidth=1.2, label="guarantee")
        if curve.policy:
            coverage, risk = curve.policy
            tops.append(1.15 * risk.high if risk.high < 0.5 else 0.0)
            axes.vlines(coverage, risk.value, risk.high, color=GREEN, linewidth=2.5)
            axes.plot(coverage, risk.value, "o", color=GREEN, markersize=7, label=f"policy; bar: {bound}")
        axes.set_title(curve.title, loc="left", fontsize=TEXT)
        axes.set(ylabel="wrong", ylim=(0, min(1.0, 1.25 * max(tops))))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        _in_percent(axes.yaxis)
    panels[-1].set(xlabel="coverage: share of photos accepted")
    panels[-1].xaxis.set_major_locator(MaxNLocator(5))
    _in_percent(panels[-1].xaxis)
    panels[-1].set_xlim(0, 1.02 * max([0.01, *(coverage for curve in curves for coverage, _ in curve.points)]))
    _legend(figure, 1)
    return figure


def draw_confusion(
    rows: Sequence[str],
    columns: Sequence[str],
    cell: Callable[[str, str], tuple[float, str]],
    xlabel: str,
    ylabel: str,
) -> Figure:
    """A table of shares. cell: of a row and a column the share that shades it, and its text."""
    figure, axes = new_figure(1.1 + 0.72 * len(rows), max(3.0, min(9.0, WIDTH + 0.95 * (len(columns) - 3))))
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            share, text = cell(row, column)
            box = Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=FILL, edgecolor=PAPER, linewidth=2)
            box.set_alpha(0.04 + 0.5 * share)
            axes.add_patch(box)
            axes.text(x, y, text, ha="center", va="center")
    axes.set_xticks(range(len(columns)), columns, rotation=30 if len(columns) > 4 else 0)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(
        xlabel=xlabel, ylabel=ylabel, xlim=(-0.5, max(1, len(columns)) - 0.5), ylim=(max(1, len(rows)) - 0.5, -0.5)
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def draw_accuracy(rows: Sequence[tuple[str, Interval, float | None]]) -> Figure:
    """Accuracies with their intervals, one below the other; and the least that is guaranteed of each."""
    figure, axes = new_figure(0.75 + 0.5 * len(rows))
    for y, (_, accuracy, promised) in enumerate(rows):
        axes.hlines(y, accuracy.low, accuracy.high, color=FILL, linewidth=3, alpha=0.55)
        axes.plot(accuracy.value, y, "o", color=FILL, markersize=7)
        if promised is not None:
            axes.vlines(promised, y - 0.4, y + 0.4, color=RED, linewidth=1.6, label="guaranteed: correct at least")
    _legend(figure, 1)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    lows = [0.9, *(accuracy.low for _, accuracy, _ in rows), *(least for _, _, least in rows if least is not None)]
    left = max(0.0, min(lows) - 0.02)
    axes.set(xlim=(left, 1.005), ylim=(len(rows) - 0.4, -0.6), xlabel="share of correct predictions")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    _in_percent(axes.xaxis)
    return figure


def draw_histograms(
    groups: Mapping[str, tuple[Sequence[float], str]], lowest: float, thresholds: Mapping[str, float | None]
) -> Figure:
    """Confidences of each group, one panel below the other; (values, colour) by name; and each class's threshold."""
    figure = Figure(figsize=(WIDTH, 1.0 * max(1, len(groups)) + 0.6), layout="constrained")
    panels = figure.subplots(max(1, len(groups)), sharex=True, squeeze=False)
    for panel, (name, (values, colour)) in zip(panels[:, 0], groups.items(), strict=False):
        panel.hist(values, bins=40, range=(lowest, 1.0), color=colour)
        _mark_thresholds(panel.axvline, thresholds)
        panel.set_ylabel(f"{name}\n{len(values):,}")
        panel.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    panels[-1, 0].set_xlabel("confidence")
    _legend(figure, 2)
    return figure
