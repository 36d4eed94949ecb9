"""The evaluation's pictures and the model card: drawn and written from the same numbers."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from kickstand.artefact import ModelCard
from kickstand.events import Route
from kickstand.images import prepare
from kickstand.quality import risk_coverage, upper_bound, wilson_interval
from kickstand_cli.evaluation import NEITHER, Example, Readable, estimates

mpl.rcParams.update(
    {"svg.hashsalt": "kickstand", "font.size": 11, "axes.spines.top": False, "axes.spines.right": False}
)

COLOURS = {Route.ACCEPT: "#2a9d62", Route.REVIEW: "#c98a1b", Route.REJECT: "#c4453c"}
INK, RIGHT, WRONG = "#3b5bb5", "#4a76c9", "#c4453c"
BINS = 10
MISTAKES = 24


def write_report(
    folder: Path, result: dict[str, Any], examples: Sequence[Example], card: ModelCard, raw_card: dict[str, Any]
) -> None:
    """Write evaluation.html (one self-contained page), model-card.md and evaluation.json.

    result: as `evaluation.summarise` gives it. raw_card: model.json as it is, for what only people read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    readable = [example for example in examples if isinstance(example, Readable)]
    known = [example for example in readable if example.truth != NEITHER]
    figures = {}
    if known:
        figures = {
            "Risk and coverage": (_svg(draw_risk_coverage(known, card, raw_card)), RISK_COVERAGE),
            "Reliability": (_svg(draw_reliability(known)), RELIABILITY),
            "Confusion": (_svg(draw_confusion(result["confusion"])), CONFUSION),
        }
    figures["Confidence by outcome"] = (_svg(draw_confidences(readable, card)), CONFIDENCES)
    environment = Environment(
        loader=PackageLoader("kickstand_cli"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    context = {
        "result": result,
        "card": card,
        "raw_card": raw_card,
        "policy": raw_card.get("policy", {}),
        "rows": estimates(result),
        "figures": figures,
        "mistakes": contact_sheet(readable, card),
    }
    (folder / "evaluation.html").write_text(environment.get_template("evaluation.html").render(context), "utf-8")
    (folder / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    plain = environment.overlay(autoescape=False)
    (folder / "model-card.md").write_text(plain.get_template("model-card.md").render(context), "utf-8")


RISK_COVERAGE = (
    "Each point of the curve is a threshold on the confidence: to the right it accepts more, and more of it is wrong. "
    "The band is the 95 % interval of the risk; the dot is the policy, the bar above it the largest risk that these "
    "images do not rule out (one-sided, 95 %)."
)
RELIABILITY = (
    "Where confidence is calibrated the dots lie on the diagonal. Bars are 95 % intervals; bins hold equal numbers of "
    "images, so a dot never stands for a handful."
)
CONFUSION = "Rows are the truth, columns the label of the largest probability, whatever the route."
CONFIDENCES = (
    "How confidence spreads among right answers, wrong ones and foreign images; the line is the policy's threshold. "
    "Foreign images beyond it are stopped by the first gate, the probability of showing none of the labels."
)


def draw_risk_coverage(known: Sequence[Readable], card: ModelCard, raw_card: dict[str, Any]) -> Figure:
    """Selective risk over coverage for every threshold behind the first gate, and the policy's point."""
    gate = card.policy.neither_accept_at_most
    confidences = [e.prediction.confidence if e.prediction.neither <= gate else 0.0 for e in known]
    # The left end of the curve is a handful of images: an error among them says nothing.
    least = max(10, len(known) // 50)
    curve = [
        point
        for point in risk_coverage(confidences, [e.correct for e in known])
        if point.accept_at > 0 and point.accepted >= min(least, len(known))
    ]
    bands = [wilson_interval(point.errors, point.accepted) for point in curve]
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    coverages = [point.coverage for point in curve]
    axes.fill_between(coverages, [b.low for b in bands], [b.high for b in bands], color=INK, alpha=0.18, linewidth=0)
    axes.plot(coverages, [point.selective_risk for point in curve], color=INK, linewidth=2)
    accepted = [example for example in known if example.accepted]
    if accepted:
        errors = sum(not example.correct for example in accepted)
        coverage, risk = len(accepted) / len(known), errors / len(accepted)
        bound = upper_bound(errors, len(accepted))
        axes.vlines(coverage, risk, bound, color=COLOURS[Route.ACCEPT], linewidth=2)
        axes.plot(coverage, risk, "o", color=COLOURS[Route.ACCEPT], markersize=8, zorder=3)
        axes.plot(coverage, bound, "_", color=COLOURS[Route.ACCEPT], markersize=12, zorder=3)
        axes.annotate(
            f"policy: {coverage:.3f} accepted,\n{errors} wrong, at most {bound:.3f}",
            (coverage, bound),
            xytext=(0, 40),
            textcoords="offset points",
            ha="right",
            arrowprops={"arrowstyle": "-", "color": "#888888"},
        )
    promised = raw_card.get("policy", {}).get("max_risk")
    if promised:
        axes.axhline(promised, color=WRONG, linestyle="--", linewidth=1)
        axes.annotate(f"promised: at most {promised:g}", (0.01, promised), xytext=(0, 4), textcoords="offset points")
    worst = max((point.selective_risk for point in curve), default=0.0)
    axes.set(
        xlabel="coverage",
        ylabel="selective risk",
        xlim=(0, 1.01),
        ylim=(0, max(1.5 * worst, 2 * (promised or 0), 0.02)),
    )
    return figure


def draw_reliability(known: Sequence[Readable]) -> Figure:
    """Accuracy over mean confidence, in bins of equal size."""
    ranked = sorted(known, key=lambda example: example.prediction.confidence)
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#888888", linestyle="--", linewidth=1)
    for index in range(BINS):
        part = ranked[index * len(ranked) // BINS : (index + 1) * len(ranked) // BINS]
        if part:
            share = wilson_interval(sum(example.correct for example in part), len(part))
            mean = sum(example.prediction.confidence for example in part) / len(part)
            axes.vlines(mean, share.low, share.high, color=INK, linewidth=2, alpha=0.6)
            axes.plot(mean, share.value, "o", color=INK)
    lowest = 1 / len(known[0].prediction.probabilities)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(lowest, 1.01), ylim=(min(lowest, 0.3), 1.02))
    return figure


def draw_confusion(confusion: dict[str, dict[str, int]]) -> Figure:
    """Counts of truth by label, shaded by their share of the row."""
    labels = list(confusion)
    counts = [[confusion[truth][label] for label in labels] for truth in labels]
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    figure = Figure(figsize=(1.8 + 0.9 * len(labels), 1.6 + 0.8 * len(labels)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, values in enumerate(counts):
        for column, count in enumerate(values):
            ink = "white" if shares[row][column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=ink)
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="label", ylabel="truth")
    return figure


def draw_confidences(readable: Sequence[Readable], card: ModelCard) -> Figure:
    """Histograms of confidence: right, wrong, foreign."""
    groups = {
        "right": ([e for e in readable if e.truth != NEITHER and e.correct], RIGHT),
        "wrong": ([e for e in readable if e.truth != NEITHER and not e.correct], WRONG),
        "foreign": ([e for e in readable if e.truth == NEITHER], "#888888"),
    }
    shown = {name: group for name, group in groups.items() if group[0]}
    figure = Figure(figsize=(6.4, 1.5 * max(1, len(shown)) + 0.6), layout="constrained")
    panels = figure.subplots(max(1, len(shown)), sharex=True, squeeze=False)
    lowest = 1 / len(card.labels)
    for panel, (name, (examples, colour)) in zip(panels[:, 0], shown.items(), strict=False):
        panel.hist([e.prediction.confidence for e in examples], bins=40, range=(lowest, 1.0), color=colour)
        panel.axvline(card.policy.accept_at, color="#444444", linewidth=1)
        panel.set_ylabel(f"{name}\nn = {len(examples)}")
    panels[-1, 0].set_xlabel("confidence")
    return figure


def contact_sheet(readable: Sequence[Readable], card: ModelCard) -> list[dict[str, Any]]:
    """The worst mistakes as the model saw them: wrong answers, accepted ones first, then by confidence."""
    wrong = [example for example in readable if not example.correct and (example.truth != NEITHER or example.accepted)]
    wrong.sort(key=lambda example: (not example.accepted, -example.prediction.confidence))
    return [
        {
            "name": example.path.name,
            "truth": example.truth,
            "label": example.prediction.label,
            "confidence": example.prediction.confidence,
            "neither": example.prediction.neither,
            "route": example.answer.decision.route.value,
            "png": prepare(example.path.read_bytes(), example.path.name, card.input_shape).png,
        }
        for example in wrong[:MISTAKES]
    ]


def _svg(figure: Figure) -> str:
    """The figure as a data URI, so that the page needs no other file and its ids cannot clash."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
