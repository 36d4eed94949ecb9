"""How a model and its policy do on labelled photos: numbers, each with its n and an interval."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import typer
from pydantic import Field

from kickstand.classify.inference import EmbeddedModel
from kickstand.classify.stated import Share, StatedCard
from kickstand.events import NEITHER, Payload, Prediction, Route
from kickstand.quality import (
    auroc,
    bootstrap_interval,
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    wilson_interval,
)
from kickstand_cli.classify.classify import Answer, answer_files
from kickstand_cli.files import list_files
from kickstand_cli.terminal import CommandError, ExitCode, stderr

PAGE = "evaluation.html"

TITLES = {  # key in the JSON → what a person reads
    "accuracy": "accuracy",
    "coverage": "coverage (share accepted)",
    "selective_risk": "selective risk (wrong among accepted)",
    "foreign_accepted": "photos of none of the classes accepted",
    "foreign_auroc": "AUROC of p(neither)",
    "auroc_of_correctness": "AUROC of confidence, correct against wrong",
    "ece": "expected calibration error",
    "brier": "Brier score",
    "nll": "negative log-likelihood, nats",
}


def title(key: str) -> str:
    """The name of a number, for people."""
    return TITLES.get(key, key.replace("_", " ").replace("foreign", "photos of none of the classes"))


BY_LABEL = {"coverage": "coverage of photos of", "selective_risk": "selective risk of predictions"}


class Source(Payload):
    """The metrics of the photos of one source; without accuracy it has only photos of none of the classes."""

    accuracy: Share | None = None
    accepted: Share | None = None
    selective_risk: Share | None = None


class TrainingSource(Payload):
    """A source of training photos. n: photos, by what they show."""

    source: str
    learnt: bool
    n: dict[str, int]


class Training(Payload):
    """How the model was trained."""

    date: str | None = None
    sources: tuple[TrainingSource, ...] = ()


class ReportedCard(StatedCard):
    """What people read of `model.json`, too."""

    out_of_fold_sha256: str | None = None
    sources: dict[str, Source] = Field(default_factory=dict)
    training: Training | None = None


@dataclass(frozen=True)
class Example:
    """One labelled photo and the prediction for it. truth: a class, or "neither"."""

    path: Path
    truth: str
    answer: Answer

    @property
    def accepted(self) -> bool:
        return self.answer.decision.route is Route.ACCEPT


@dataclass(frozen=True)
class Readable(Example):
    """An example that the model could read."""

    prediction: Prediction

    @property
    def label(self) -> str:
        """The prediction's."""
        return self.prediction.label

    @property
    def correct(self) -> bool:
        return self.label == self.truth


def find_images(folder: Path, labels: Sequence[str], unread: list[str]) -> list[tuple[Path, str]]:
    """The files of DIR/CLASS/ and DIR/neither/, whatever their names, with their classes, sorted.

    unread: gets the reason for each folder that cannot be listed.

    Raises CommandError for a folder that is missing, is empty, or holds a class that the model does not know.
    """
    if not folder.is_dir():
        raise CommandError(f"{folder}: no such folder")
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise CommandError(f"{folder}: {error.strerror}") from error
    classes = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    known = [*labels, NEITHER]
    if unknown := [name for name in classes if name not in known]:
        raise CommandError(
            f"{folder / unknown[0]}: {unknown[0]!r} is not a class of this model, which knows {', '.join(known)}; "
            "another model: --model"
        )
    found = [(path, name) for name in classes for path in list_files(folder / name, unread)]
    if not found and not unread:
        raise CommandError(f"{folder}: no photos in folders named {', '.join(known)}")
    if not found:
        raise CommandError(unread[0])
    return found


def answer_all(
    images: Sequence[tuple[Path, str]],
    model: EmbeddedModel,
    progress: Callable[[], None],
    unread: list[str],
) -> list[Example]:
    """Every photo by the same code as in the workflow, on all cores.

    unread: gets the reason for each file that cannot be read, which is left out.
    """
    examples: list[Example] = []
    answers = answer_files((path for path, _ in images), model)
    for (path, truth), given in zip(images, answers, strict=True):
        progress()
        if not isinstance(given, str):
            examples.append(
                Readable(path, truth, given, given.prediction) if given.prediction else Example(path, truth, given)
            )
        else:
            unread.append(given)
    return examples


def explain_unreadable(examples: Iterable[Example]) -> list[str]:
    """The reason for each file that is no photo."""
    return [one.answer.decision.explanation for one in examples if not isinstance(one, Readable)]


def name_unread(unread: Sequence[str], code: ExitCode = ExitCode.OK) -> None:
    """Name the files that were left out, and end with this exit code; with 1 instead of 0 where there are any."""
    for why in unread:
        stderr.print(f"error: left out: {why}")
    if code or unread:
        raise typer.Exit(code or ExitCode.ERROR)


def summarise(examples: Sequence[Example], labels: Sequence[str]) -> dict[str, Any]:
    """The evaluation as JSON-ready values; `{value, low, high, n}` is an estimate with its 95 % interval, or null.

    Unreadable files say nothing about the model, and are counted apart.
    accuracy: on every route. coverage: share accepted; by_label: of the photos of the class.
    selective_risk: share wrong of the accepted; by_label: of those accepted as the class. Accepted photos of neither/
    are in none of these: their share here is not their share in use. foreign_accepted_as counts them by class.
    foreign_*: of the photos in neither/. foreign_auroc: how well p(neither) separates them from the others.
    Shares have Wilson intervals; ece, brier, nll and the AUROCs are bootstrapped (1,000 resamples).
    """
    readable = [example for example in examples if isinstance(example, Readable)]
    known = [example for example in readable if example.truth != NEITHER]
    foreign = [example for example in readable if example.truth == NEITHER]
    accepted = [example for example in known if example.accepted]

    def pick(values: Sequence[Any], rows: Sequence[int]) -> list[Any]:
        return [values[row] for row in rows]

    correct = [example.correct for example in known]
    confidences = [example.prediction.confidence for example in known]
    distributions = [[example.prediction.probabilities[label] for label in labels] for example in known]
    classes = [labels.index(example.truth) for example in known]
    neither = [example.prediction.neither for example in readable]
    is_foreign = [example.truth == NEITHER for example in readable]

    def calibration(statistic: Callable[..., float], *columns: Sequence[Any]) -> dict[str, Any] | None:
        if not known:
            return None
        interval = bootstrap_interval(lambda rows: statistic(*(pick(column, rows) for column in columns)), len(known))
        return interval.rounded(6)

    return {
        "n": len(known),
        "foreign_n": len(foreign),
        "unreadable": [str(example.path) for example in examples if not isinstance(example, Readable)],
        "accuracy": _share(sum(correct), len(known)),
        "coverage": _share(len(accepted), len(known)),
        "selective_risk": _share(sum(not example.correct for example in accepted), len(accepted)),
        "coverage_by_label": {
            label: _share(sum(e.truth == label for e in accepted), sum(e.truth == label for e in known))
            for label in labels
        },
        "selective_risk_by_label": {
            label: _share(
                sum(e.label == label and not e.correct for e in accepted), sum(e.label == label for e in accepted)
            )
            for label in labels
        },
        "foreign_accepted": _share(sum(example.accepted for example in foreign), len(foreign)),
        "foreign_accepted_as": {label: sum(e.accepted and e.label == label for e in foreign) for label in labels},
        "foreign_auroc": bootstrap_interval(
            lambda rows: auroc(pick(neither, rows), pick(is_foreign, rows)), len(readable)
        ).rounded(6)
        if known and foreign
        else None,
        "auroc_of_correctness": calibration(auroc, confidences, correct) if 0 < sum(correct) < len(known) else None,
        "ece": calibration(expected_calibration_error, confidences, correct),
        "brier": calibration(brier_score, distributions, classes),
        "nll": calibration(negative_log_likelihood, distributions, classes),
        "mean_confidence": fmean(confidences) if known else None,
        "routes": {
            truth: {
                route: sum(example.truth == truth and example.answer.decision.route is route for example in examples)
                for route in Route
            }
            for truth in [*labels, NEITHER]
        },
        "confusion": {
            truth: {
                label: sum(example.truth == truth and example.prediction.label == label for example in known)
                for label in labels
            }
            for truth in labels
        },
    }


def estimates(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The result's estimates that apply, with their titles, in the order of TITLES; below a total its classes'."""
    rows = []
    for key, title in TITLES.items():
        by_label = result.get(f"{key}_by_label", {})
        told = {title: result[key], **{f"{BY_LABEL.get(key, '')} {label}": share for label, share in by_label.items()}}
        rows += [{"title": title, **share} for title, share in told.items() if share]
    return rows


def _share(successes: int, n: int) -> dict[str, Any] | None:
    return wilson_interval(successes, n).rounded(6) if n else None
