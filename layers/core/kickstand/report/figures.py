"""The figures of our pages: drawn by matplotlib as SVG that takes its colours from the page around it.

matplotlib is imported here and nowhere else in the core, so only who draws needs it.
"""

import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from xml.etree import ElementTree

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator, PercentFormatter

from kickstand.events import Route
from kickstand.quality import Interval

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
WORDS = {Route.ACCEPT: "accepted", Route.REVIEW: "to a person", Route.REJECT: "rejected"}

DASHES = ((4, 2), (1, 1.5), (7, 2, 1, 2))

WIDTH = 4.4  # inches: a phone shows it at three quarters of that, where the letters are still 10 pixels high

mpl.rcParams.update(
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "kickstand",
        "savefig.transparent": True,
        "font.size": 9.5,
        "axes.labelsize": 9.5,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "legend.fontsize": 8.5,
        "legend.frameon": False,
        "legend.handlelength": 1.2,
        "legend.columnspacing": 1.2,
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
        "timezone": "UTC",
    }
)


class Dot(NamedTuple):
    """One image on the timeline. wrong: a person found the answer wrong."""

    at: datetime
    confidence: float
    route: Route
    wrong: bool


class Curve(NamedTuple):
    """The selective risk of one label's answers over their coverage: (coverage, risk) for each threshold.

    title: names the label. policy: the policy's own point; None where it accepts no answer of the label.
    promised: largest risk that is.
    """

    title: str
    points: Sequence[tuple[float, Interval]]
    policy: tuple[float, Interval] | None = None
    promised: float | None = None


class Band(NamedTuple):
    """A span of time: the middle value with a lower and an upper one, of n images."""

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
    """The figure as an element of a page. says: what it shows, for whoever cannot see it.

    CloudWatch's widgets remove `<use>`, so that each is replaced by what it stands for:
    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/add_custom_widget_dashboard_security.html
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = "{http://www.w3.org/2000/svg}"
    root = ElementTree.fromstring(buffer.getvalue())  # noqa: S314 - we have drawn it
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
    root.attrib.update({"role": "img", "aria-label": says})
    ElementTree.register_namespace("", svg[1:-1])
    text = ElementTree.tostring(root, encoding="unicode").replace(f' xmlns="{svg[1:-1]}"', "")  # HTML knows it
    text = re.sub(r"font-family: [^;\"]*|font: ([\d.]+px)[^;\"]*", lambda m: f"font-size: {m[1]}" if m[1] else "", text)
    for stand_in, name in COLOURS.items():
        text = text.replace(stand_in, f"var({name})")
    return Markup(text)  # noqa: S704 - written and escaped by ElementTree


# ---- along time


def draw_timeline(
    dots: Sequence[Dot],
    bands: Sequence[Band],
    thresholds: Mapping[str, float | None],
    since: Sequence[datetime] = (),
) -> Figure:
    """Confidence over time: a dot for each image, by where it went; the median and each label's threshold.

    bands: median and quartiles. since: when statistics began to move.
    """
    figure, axes = new_figure(3.0)
    if bands:
        _along_time(axes, bands[0].start, bands[-1].end)
    _mark_changes(axes, since)
    for route, colour in ROUTES.items():
        _scatter(axes, [(dot.at, dot.confidence) for dot in dots if dot.route is route], colour, WORDS[route])
    wrong = [dot for dot in dots if dot.wrong]
    if wrong:
        axes.plot(
            [_days(dot.at) for dot in wrong],
            [dot.confidence for dot in wrong],
            marker="x",
            color=INK,
            linestyle="none",
            markersize=6,
            markeredgewidth=1.6,
            label="found wrong",
        )
    if bands:
        middles = [_days(band.start + (band.end - band.start) / 2) for band in bands]
        axes.plot(middles, [band.middle for band in bands], color=FILL, linewidth=2, label="median")
    _mark_thresholds(axes.axhline, thresholds)
    lowest = min((dot.confidence for dot in dots), default=0.5)
    axes.set(ylabel="confidence", ylim=(min(0.5, lowest) - 0.02, 1.02))
    _legend(figure, 3)
    return figure


def draw_routes(bins: Sequence[tuple[datetime, datetime, Mapping[Route, int]]]) -> Figure:
    """Shares of the routes in each span of time, stacked."""
    figure, axes = new_figure(2.6)
    _along_time(axes, bins[0][0], bins[-1][1])
    base = [0.0] * len(bins)
    for route, colour in ROUTES.items():
        shares = [counts[route] / max(1, sum(counts.values())) for _, _, counts in bins]
        axes.bar(
            [_days(start) for start, _, _ in bins],
            shares,
            [0.94 * (_days(end) - _days(start)) for start, end, _ in bins],
            base,
            align="edge",
            color=colour,
            label=WORDS[route],
        )
        base = [low + share for low, share in zip(base, shares, strict=True)]
    axes.set(ylim=(0, 1), ylabel="share of images")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    _legend(figure, 3)
    return figure


def draw_statistic(
    bands: Sequence[Band], usual: tuple[float, float, float], since: datetime | None, *, share: bool
) -> Figure:
    """One statistic over time, beside what is usual: (low, middle, high) of the baseline.

    share: it is one, in per cent.
    """
    figure, axes = new_figure(1.75, 3.4)
    if bands:
        _along_time(axes, bands[0].start, bands[-1].end, ticks=4)
    axes.axhspan(usual[0], usual[2], color=SOFT, alpha=0.16, linewidth=0)
    axes.axhline(usual[1], color=SOFT, linewidth=1, linestyle=(0, (4, 2)))
    middles = [_days(band.start + (band.end - band.start) / 2) for band in bands]
    axes.fill_between(
        middles, [b.low for b in bands], [b.high for b in bands], color=FILL, alpha=0.25, linewidth=0, step=None
    )
    axes.plot(middles, [b.middle for b in bands], color=FILL, linewidth=1.8, marker="." if len(bands) < 3 else "")
    if since:
        axes.axvline(_days(since), color=RED, linewidth=1.4)
    values = [*usual, *(value for band in bands for value in (band.low, band.high))]
    room = 0.08 * (max(values) - min(values)) or 0.05
    axes.set_ylim(max(0.0, min(values) - room) if share else min(values) - room, max(values) + room)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if share:
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    return figure


def draw_load(bins: Sequence[tuple[datetime, datetime, int, int]]) -> Figure:
    """What people were asked in each span of time, answered and still waiting."""
    figure, axes = new_figure(2.4)
    _along_time(axes, bins[0][0], bins[-1][1])
    starts = [_days(start) for start, _, _, _ in bins]
    widths = [0.94 * (_days(end) - _days(start)) for start, end, _, _ in bins]
    answered = [count for _, _, count, _ in bins]
    waiting = [count for _, _, _, count in bins]
    axes.bar(starts, answered, widths, align="edge", color=FILL, label="answered")
    axes.bar(starts, waiting, widths, answered, align="edge", color=AMBER, label="waiting")
    axes.set(ylabel="questions", ylim=(0, 1.05 * max(1, *map(sum, zip(answered, waiting, strict=True)))))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    _legend(figure, 2)
    return figure


def draw_ages(answered: Sequence[float], waiting: Sequence[float]) -> Figure:
    """How long answers took, and how long what waits has waited; hours, on a scale of powers."""
    figure, axes = new_figure(2.4)
    edges = [0, 1 / 60, 1 / 6, 1, 4, 12, 24, 48, 168, float("inf")]
    names = ["< 1 min", "< 10 min", "< 1 h", "< 4 h", "< 12 h", "< 1 day", "< 2 days", "< 1 week", "longer"]

    def count(hours: Sequence[float]) -> list[int]:
        spans = itertools.pairwise(edges)
        return [sum(low <= value < high for value in hours) for low, high in spans]

    told, open_ = count(answered), count(waiting)
    rows = range(len(names))
    axes.barh(rows, told, 0.8, color=FILL, label="time to the answer")
    axes.barh(rows, open_, 0.8, told, color=AMBER, label="waiting for so long")
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.set(xlabel="questions", xlim=(0, 1.05 * max(1, *map(sum, zip(told, open_, strict=True)))))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    _legend(figure, 2)
    return figure


def _days(at: datetime) -> float:
    """Matplotlib's unit of time: days since 1970, UTC."""
    return at.timestamp() / 86400


def _along_time(axes: Axes, start: datetime, end: datetime, ticks: int = 6) -> None:
    """To be called first: a single moment gives matplotlib nothing to scale by."""
    locator = AutoDateLocator(minticks=2, maxticks=ticks)  # type: ignore[no-untyped-call]
    low, high = _days(start), _days(end)
    axes.set_xlim(low - 0.02 * (high - low), high + 0.02 * (high - low))
    axes.xaxis_date()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


def _mark_changes(axes: Axes, since: Sequence[datetime]) -> None:
    for index, at in enumerate(sorted(since)):
        axes.axvline(_days(at), color=RED, linewidth=1.2, label="" if index else "a statistic moved")


def _mark_thresholds(mark: Callable[..., object], thresholds: Mapping[str, float | None]) -> None:
    """A line for each label's threshold, one line where all have the same; none where a person decides about all."""
    same = len(set(thresholds.values())) == 1
    for index, (label, at) in enumerate(list(thresholds.items())[: 1 if same else None]):
        if at is not None:
            told = f"{'threshold' if same else f'{label} from'} {at:.3f}"
            mark(at, color=INK, linewidth=1.2, linestyle=(0, DASHES[index % len(DASHES)]), label=told)


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
    """One for all panels; what several of them show stands in it once."""
    found = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(found.values(), found.keys(), loc="outside upper left", ncols=columns, borderpad=0, labelcolor=INK)


# ---- how good


def draw_reliability(points: Sequence[tuple[float, Interval]], xlabel: str) -> Figure:
    """How often answers are right over how sure they were: (how sure, accuracy) for each bin."""
    figure, axes = new_figure(3.3)
    axes.plot([0, 1], [0, 1], color=SOFT, linestyle=(0, (4, 2)), linewidth=1)
    for sure, accuracy in points:
        axes.vlines(sure, accuracy.low, accuracy.high, color=FILL, linewidth=2.5, alpha=0.55)
        axes.plot(sure, accuracy.value, "o", color=FILL, markersize=6)
    axes.set(xlabel=xlabel, ylabel="share that is right")
    axes.set_xlim(max(0.0, min([0.5, *(sure for sure, _ in points)]) - 0.04), 1.02)
    axes.set_ylim(max(0.0, min([0.5, *(accuracy.low for _, accuracy in points)]) - 0.04), 1.02)
    return figure


def draw_risk_coverage(curves: Sequence[Curve], bound: str) -> Figure:
    """Selective risk over coverage, one panel below the other for each label.

    bound: what the bar above the policy's point is called.
    """
    figure = Figure(figsize=(WIDTH, 2.1 * max(1, len(curves)) + 0.8), layout="constrained")
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
            axes.axhline(curve.promised, color=RED, linestyle=(0, (4, 2)), linewidth=1.2, label="promise")
        if curve.policy:
            coverage, risk = curve.policy
            tops.append(1.15 * risk.high if risk.high < 0.5 else 0.0)
            axes.vlines(coverage, risk.value, risk.high, color=GREEN, linewidth=2.5)
            axes.plot(coverage, risk.value, "o", color=GREEN, markersize=7, label=f"policy; bar: {bound}")
        axes.set_title(curve.title, loc="left", fontsize=9.5)
        axes.set(ylabel="selective risk", ylim=(0, min(1.0, 1.25 * max(tops))))
    panels[-1].set(xlabel="coverage: share of images accepted")
    panels[-1].set_xlim(0, 1.02 * max([0.01, *(coverage for curve in curves for coverage, _ in curve.points)]))
    _legend(figure, 3 if len(bound) < 12 else 2)
    return figure


def draw_confusion(
    rows: Sequence[str],
    columns: Sequence[str],
    cell: Callable[[str, str], tuple[float, str]],
    xlabel: str,
    ylabel: str,
) -> Figure:
    """A table of shares. cell: of a row and a column the share that shades it, and its text."""
    figure, axes = new_figure(0.9 + 0.72 * len(rows), max(3.0, min(6.4, 1.5 + 1.05 * len(columns))))
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            share, text = cell(row, column)
            box = Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=FILL, edgecolor=PAPER, linewidth=2)
            box.set_alpha(0.04 + 0.5 * share)
            axes.add_patch(box)
            axes.text(x, y, text, ha="center", va="center", fontsize=9)
    axes.set_xticks(range(len(columns)), columns, rotation=30 if len(columns) > 4 else 0)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(
        xlabel=xlabel, ylabel=ylabel, xlim=(-0.5, max(1, len(columns)) - 0.5), ylim=(max(1, len(rows)) - 0.5, -0.5)
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def draw_accuracy(rows: Sequence[tuple[str, Interval, float | None]]) -> Figure:
    """Accuracies with their intervals, one below the other; and the least that was promised of each."""
    figure, axes = new_figure(0.75 + 0.5 * len(rows))
    for y, (_, accuracy, promised) in enumerate(rows):
        axes.hlines(y, accuracy.low, accuracy.high, color=FILL, linewidth=3, alpha=0.55)
        axes.plot(accuracy.value, y, "o", color=FILL, markersize=7)
        if promised is not None:
            axes.vlines(promised, y - 0.4, y + 0.4, color=RED, linewidth=1.6, label="promise: right at least")
    _legend(figure, 1)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    lows = [0.9, *(accuracy.low for _, accuracy, _ in rows), *(least for _, _, least in rows if least is not None)]
    axes.set(
        xlim=(max(0.0, min(lows) - 0.02), 1.005), ylim=(len(rows) - 0.4, -0.6), xlabel="share of answers that is right"
    )
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    return figure


def draw_histograms(
    groups: Mapping[str, tuple[Sequence[float], str]], lowest: float, thresholds: Mapping[str, float | None]
) -> Figure:
    """Confidences of each group, one panel below the other; (values, colour) by name; and each label's threshold."""
    figure = Figure(figsize=(WIDTH, 1.0 * max(1, len(groups)) + 0.6), layout="constrained")
    panels = figure.subplots(max(1, len(groups)), sharex=True, squeeze=False)
    for panel, (name, (values, colour)) in zip(panels[:, 0], groups.items(), strict=False):
        panel.hist(values, bins=40, range=(lowest, 1.0), color=colour)
        _mark_thresholds(panel.axvline, thresholds)
        panel.set_ylabel(f"{name}\nn = {len(values):,}")
        panel.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    panels[-1, 0].set_xlabel("confidence")
    _legend(figure, 3)
    return figure
