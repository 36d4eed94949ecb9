"""The evaluation's charts and the model card, from the same numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from kickstand.classify.artefact import ModelCard
from kickstand.classify.images import prepare
from kickstand.classify.promise import ANY_LABEL, Promise
from kickstand.events import NEITHER
from kickstand.lifecycle.gate import as_stated
from kickstand.quality import Interval, risk_coverage, upper_bound, wilson_interval
from kickstand.report.figures import (
    FILL,
    RED,
    SOFT,
    Curve,
    as_svg,
    draw_confusion,
    draw_histograms,
    draw_reliability,
    draw_risk_coverage,
)
from kickstand.report.pages import make_environment
from kickstand.text import dump_json
from kickstand_cli.classify.evaluation import PAGE, Example, Readable, ReportedCard, estimates
from kickstand_cli.files import read_file, write_files

BINS = 10
MISTAKES = 24


def write_report(
    folder: Path, result: dict[str, Any], examples: Sequence[Example], card: ModelCard, raw_card: dict[str, Any]
) -> None:
    """Write evaluation.html (one self-contained page), model-card.md and evaluation.json.

    result: as `evaluation.summarise` gives it. raw_card: the whole model.json, with the parts that only people read.
    """
    told = ReportedCard.model_validate(raw_card)
    readable = [example for example in examples if isinstance(example, Readable)]
    known = [example for example in readable if example.truth != NEITHER]
    figures = {}
    if known:
        figures = {
            "Risk and coverage": (draw_risk(known, card, told.policy.promise), RISK_COVERAGE),
            "Reliability": (draw_calibration(known), RELIABILITY),
            "Confusion": (draw_counts(result["confusion"]), CONFUSION),
        }
    figures["Confidence by outcome"] = (draw_confidences(readable, card), CONFIDENCES)
    environment = make_environment("kickstand_cli")
    context = {
        "result": result,
        "card": card,
        "raw_card": raw_card,
        "policy": told.policy.model_dump(exclude_none=True),
        "rows": estimates(result),
        "stated": as_stated(told),
        "sources": list_sources(told),
        "figures": {name: (as_svg(figure, name), caption) for name, (figure, caption) in figures.items()},
        "mistakes": contact_sheet(readable, card),
    }
    plain = environment.overlay(autoescape=False)
    texts = {
        PAGE: environment.get_template("evaluation.html").render(context),
        "evaluation.json": dump_json(result, indent=2) + "\n",
        "model-card.md": plain.get_template("model-card.md").render(context),
    }
    write_files({folder / name: text for name, text in texts.items()})


def list_sources(card: ReportedCard) -> list[dict[str, Any]]:
    """The card's metrics of each source that has photos of the classes; none where there is only one such source."""
    found = [
        {"name": name, **told.model_dump()} for name, told in card.sources.items() if told.accuracy and told.accepted
    ]
    return found if len(found) > 1 else []


RISK_COVERAGE = (
    "One curve for each class that has a threshold of its own. Each point is a threshold on the confidence: further "
    "right, it accepts more photos and more wrong predictions. The band is the 95 % interval of the risk. The dot is "
    "the policy; the bar above it is the largest risk that these photos do not rule out (one-sided, 95 %). Photos of "
    "none of the classes are left out; they are counted below the numbers. Where no prediction of a class is accepted, "
    "its curve ignores the limit on p(neither)."
)
RELIABILITY = (
    "Where confidence is calibrated, the dots lie on the diagonal. Bars are 95 % intervals; all bins hold the same "
    "number of photos."
)
CONFUSION = "Rows are the truth, columns the most probable class, on every route."
CONFIDENCES = (
    "How confidence is distributed among correct predictions, wrong predictions and photos of none of the classes. The "
    "lines are the policy's thresholds. The limit on p(neither) stops photos of none of the classes beyond them."
)


def draw_risk(known: Sequence[Readable], card: ModelCard, promise: Promise | None) -> Figure:
    """Selective risk over coverage for every threshold on the photos within the limit on p(neither), and the policy's
    point; class by class, where the policy has a threshold for each. Where no prediction of a class is accepted, or no
    photo is within the limit, the curve ignores the limit.
    """
    curves = []
    for label in card.policy.thresholds or (ANY_LABEL,):
        threshold = card.policy.threshold(label)
        gate = 1.0 if threshold is None else card.policy.neither_accept_at_most or 1.0
        answers = [e for e in known if label in (ANY_LABEL, e.label) and e.prediction.neither <= gate]
        # The left end of the curve is a few photos: an error among them says nothing.
        least = min(max(10, len(answers) // 50), len(answers))
        points = [
            (point.accepted / len(known), wilson_interval(point.errors, point.accepted))
            for point in risk_coverage([e.prediction.confidence for e in answers], [e.correct for e in answers])
            if point.accepted >= least
        ]
        accepted = [example for example in answers if example.accepted]
        policy = None
        if accepted:
            errors, n = sum(not example.correct for example in accepted), len(accepted)
            policy = n / len(known), Interval(errors / n, 0.0, upper_bound(errors, n), n)
        from_ = "never accepted" if threshold is None else f"accepted from {threshold:.3f}"
        promised = promise.max_risk.get(label) if promise else None
        curves.append(Curve(f"{label or 'all classes'}, {from_}", points, policy, promised))
    return draw_risk_coverage(curves, "at most, 95 %")


def draw_calibration(known: Sequence[Readable]) -> Figure:
    """Accuracy over mean confidence, in bins of equal size."""
    ranked = sorted(known, key=lambda example: example.prediction.confidence)
    points = []
    for index in range(BINS):
        part = ranked[index * len(ranked) // BINS : (index + 1) * len(ranked) // BINS]
        if part:
            mean = sum(example.prediction.confidence for example in part) / len(part)
            points.append((mean, wilson_interval(sum(example.correct for example in part), len(part))))
    return draw_reliability(points, "confidence")


def draw_counts(confusion: dict[str, dict[str, int]]) -> Figure:
    """Counts of truth by prediction, shaded by their share of the row."""

    def cell(truth: str, label: str) -> tuple[float, str]:
        count = confusion[truth][label]
        return count / max(1, sum(confusion[truth].values())), f"{count:,}"

    return draw_confusion(list(confusion), list(confusion), cell, "prediction", "truth")


def draw_confidences(readable: Sequence[Readable], card: ModelCard) -> Figure:
    """Histograms of confidence: correct, wrong, none of the classes."""
    groups = {
        "correct": ([e for e in readable if e.truth != NEITHER and e.correct], FILL),
        "wrong": ([e for e in readable if e.truth != NEITHER and not e.correct], RED),
        "none of the classes": ([e for e in readable if e.truth == NEITHER], SOFT),
    }
    shown = {
        name: ([e.prediction.confidence for e in examples], colour)
        for name, (examples, colour) in groups.items()
        if examples
    }
    thresholds = {label: card.policy.threshold(label) for label in card.labels}
    return draw_histograms(shown, 1 / len(card.labels), thresholds)


def contact_sheet(readable: Sequence[Readable], card: ModelCard) -> list[dict[str, Any]]:
    """The worst mistakes as the model saw them: wrong predictions, accepted ones first, then by confidence."""
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
            "png": prepare(read_file(example.path), example.path.name, card.input_shape).png,
        }
        for example in wrong[:MISTAKES]
    ]
