"""From photos to a model artefact: learn, calibrate, choose the policy, write."""

import csv
import hashlib
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kickstand.classify.artefact import ModelCard, check_labels
from kickstand.classify.inference import EmbeddedModel
from kickstand.classify.policy import decide
from kickstand.events import NEITHER, Prediction
from kickstand.monitor.drift import measure as measure_drift
from kickstand.text import as_utf8, counted, dump_json
from kickstand_cli.classify.goal import Goal
from kickstand_cli.classify.policy import card_text, store_in_card
from kickstand_cli.datasets.doctor import examine_dataset
from kickstand_cli.files import read_table, write_files
from kickstand_cli.monitor.baseline import as_prediction, make
from kickstand_cli.project import MODEL
from kickstand_cli.terminal import CommandError, reason, show_progress, stderr

from . import card as cards
from .head import SHIPPED, Recipe, add_shipped, fit, merge, score_out_of_fold, split
from .photos import File, Photos, list_photos, read_photos, write_neither

EVIDENCE = "out_of_fold.json"
NEITHER_AT_MOST = 250  # photos of a source whose features are stored
LEARNING_CURVE_AT_MOST = 3000  # photos; with more, a model of half of them is of little use


class Leakage(StrEnum):
    """What to do about training photos that are also, exactly or nearly, test photos."""

    REFUSE = "refuse"
    DROP = "drop"
    ALLOW = "allow"


@dataclass(frozen=True)
class Places:
    """Where training reads and writes; see the options of `train`.

    domain: the photos that the guarantee is about, in words. neither: a file for features of neither, for trainings on
    other classes.
    """

    photos: Sequence[Path]
    out: Path
    evidence: Path
    features: Path
    backbone: Path = MODEL
    held_out: Sequence[str] = ()
    domain: str = ""
    neither: Path | None = None


@dataclass(frozen=True)
class Result:
    """The result of a training.

    card: model.json, except the baseline. files: by path. predictions: of each photo, out of fold.
    half: wrong predictions out of fold of models of half the photos; None where that was not tried.
    """

    card: dict[str, Any]
    files: dict[str, File]
    photos: Photos
    predictions: Sequence[Prediction]
    half: int | None


def train_model(
    places: Places,
    recipe: Recipe,
    leakage: Leakage,
    goal: Goal,
    threads: int,
    *,
    shipped: bool = True,
) -> Result:
    """Learn from the photos, and write the artefact with its baseline and its evidence.

    Raises CommandError where the photos cannot be learnt from, ModelUnavailable for a damaged backbone.
    """
    names, files = _list_files(places, leakage)
    with _progress("photos", len(files)) as advance:
        photos = read_photos(files, places.backbone, places.features, threads, advance, _leave_out)
    backbone = EmbeddedModel(places.backbone)
    if places.neither:
        write_neither(photos, backbone.backbone, places.neither, NEITHER_AT_MOST, recipe.seed)
    if shipped:
        photos = add_shipped(photos, backbone.backbone, recipe)
    _name_contradictions(photos)
    if lost := sorted(set(names) - set(photos.names)):
        raise CommandError(f"class {lost[0]!r}: none of its photos can be used")
    if unknown := set(places.held_out) - set(photos.sources.tolist()):
        raise CommandError(f"--hold-out {', '.join(sorted(unknown))}: no photo has this source")
    promise = goal.promise(photos.names, Counter(photos.labels.tolist()))
    held_out = np.isin(photos.sources, list(places.held_out))
    fold = split(photos, held_out, recipe)
    with _progress("cross-validation", int(fold.max()) + 3) as advance:
        logits, head = score_out_of_fold(photos, fold, recipe, lambda: advance(1))
    known, classes = photos.labels != NEITHER, photos.classes
    # The shipped photos of neither that resemble a class are left out: the user's own are better evidence.
    own = ~known & ~np.char.startswith(photos.sources, SHIPPED)
    foreign = own if own.any() else ~known
    temperature = cards.find_temperature(logits[known], classes[known])
    p = cards.soften(logits, temperature)
    about = {"domain": _name_domain(photos, places), "date": datetime.now(UTC).date().isoformat()}
    policy = cards.choose_policy(p[known], photos.labels[known].tolist(), p[foreign], photos.names, promise, about)
    network = merge((places.backbone / "model.onnx").read_bytes(), head).SerializeToString()
    sha256 = hashlib.sha256(network).hexdigest()
    evidence = dump_json(cards.list_evidence(photos, fold, p, foreign), separators=(",", ":")) + "\n"
    card = {
        "model_version": sha256[:8],
        "model_sha256": sha256,
        "labels": list(photos.names),
        "input_shape": list(backbone.card.input_shape),
        "temperature": temperature,
        "policy": policy,
        "training": _describe(photos, fold, recipe, places.photos, backbone.backbone),
        "metrics": cards.measure(p[known], classes[known], p[foreign], photos.names, policy),
        "sources": cards.measure_sources(photos, p, policy),
        "out_of_fold_sha256": hashlib.sha256(evidence.encode()).hexdigest(),
    }
    checked = ModelCard.model_validate(card)
    write_files(
        {
            places.evidence / EVIDENCE: evidence,
            places.out / "model.onnx": network,
            places.out / "model.json": card_text(card),
        }
    )
    predictions = [as_prediction(row, checked) for row in p.tolist()]
    _store_baseline(photos, predictions, places.out, checked)
    return Result(
        card, {file.path: file for file in files}, photos, predictions, _learn_from_half(photos, fold, recipe)
    )


# ---- the photos


def _list_files(places: Places, leakage: Leakage) -> tuple[list[str], list[File]]:
    """The classes, and every photo, except those that are also test photos. Raises CommandError."""
    files: dict[str, File] = {}
    unread: list[str] = []
    for folder in places.photos:
        for file in list_photos(folder, unread):
            if file.path in files:
                raise CommandError(f"{folder}: {file.path} is in two of the folders; give one of them another name")
            files[file.path] = file
    names = sorted({file.label for file in files.values()} - {NEITHER})
    _check_classes(names)
    for why in unread:
        _leave_out(why)
    for folder in places.photos:
        if leakage is not Leakage.ALLOW and (folder / "test").is_dir():
            for path in _find_leaks(folder, drop=leakage is Leakage.DROP):
                files.pop(path, None)
    return names, list(files.values())


def _check_classes(names: Sequence[str]) -> None:
    """Raises CommandError for classes that no model's card can have, before any photo is read."""
    if len(names) < 2:
        raise CommandError(f"only the class {', '.join(names) or NEITHER!r}: a classifier needs two or more")
    try:
        check_labels(names)
    except ValueError as error:
        raise CommandError(f"class {str(error).removeprefix('label ')}; give the folder another name") from error


def _find_leaks(dataset: Path, *, drop: bool) -> set[str]:
    """Paths of the training photos to drop. Raises CommandError naming the pairs, unless they are to be dropped."""
    findings = examine_dataset(dataset)
    for file in findings.unreadable:
        if not file.path.startswith("train/"):
            stderr.print(f"not compared with the training photos: {dataset / file.path}: {file.reason}")
    pairs = [(pair.first, pair.second) for pair in findings.pairs if pair.leaks]
    if findings.pair_counts.leaks and not (drop and len(pairs) == findings.pair_counts.leaks):
        named = "; ".join(f"{first} and {second}" for first, second in pairs[:3])
        raise CommandError(
            f"{dataset}: {counted(findings.pair_counts.leaks, 'pair')} of photos in different splits ({named} …). "
            "`kickstand dataset check --report` shows them; --leakage=drop leaves up to 200 out of training, "
            "--leakage=allow trains on them"
        )
    leaked = {path for pair in pairs for path in pair if path.startswith("train/")}
    for path in sorted(leaked):
        _leave_out(f"{path}: it is a test photo, too")
    return leaked


def _name_contradictions(photos: Photos) -> None:
    """Name the photos that are, exactly or nearly, in two classes."""
    first: dict[int, dict[str, str]] = {}
    for path, label, burst in zip(photos.paths, photos.labels.tolist(), photos.bursts.tolist(), strict=True):
        first.setdefault(burst, {}).setdefault(label, path)
    pairs = [" and ".join(list(paths.values())[:2]) for paths in first.values() if len(paths) > 1]
    if pairs:
        stderr.print(
            f"{counted(len(pairs), 'photo')} of one class with copies in another; is one wrong? {'; '.join(pairs[:3])}"
        )


def _leave_out(reason: str) -> None:
    stderr.print(f"left out: {reason}")


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar, and a line at the end."""
    with show_progress() as progress:
        task = progress.add_task(name, total=total)
        yield lambda done: progress.advance(task, done)
    stderr.print(f"{name}: {total}")


def _learn_from_half(photos: Photos, fold: NDArray[np.int64], recipe: Recipe) -> int | None:
    """Wrong predictions out of fold when every fold learns from half as many photos."""
    known = photos.labels != NEITHER
    if known.sum() > LEARNING_CURVE_AT_MOST or (fold < 0).any():
        return None
    kept = ~known | (np.random.default_rng(recipe.seed).random(len(known)) < 0.5)
    if any((kept & (fold >= 0) & (photos.labels == name)).sum() < 2 * recipe.folds for name in photos.names):
        return None
    wrong = 0
    for number in range(fold.max() + 1):
        out = (fold == number) & known
        if out.any():
            logits = fit(photos, kept & (fold >= 0) & (fold != number), recipe)(photos.features[out, 0])
            wrong += int((logits[:, :-1].argmax(axis=1) != photos.classes[out]).sum())
    return wrong


# ---- the evidence and the baseline


def _name_domain(photos: Photos, places: Places) -> str:
    """The photos that the guarantee is about, in words."""
    if places.domain:
        return as_utf8(places.domain)
    sources = {source for source in photos.sources[photos.labels != NEITHER].tolist() if source}
    folders = ", ".join(as_utf8(folder.resolve().name) for folder in places.photos if folder.is_dir())
    return f"the photos of {folders}, predicted out of fold" + (f" (known sources: {len(sources)})" if sources else "")


def _describe(
    photos: Photos, fold: NDArray[np.int64], recipe: Recipe, folders: Sequence[Path], backbone: str
) -> dict[str, Any]:
    own = ~np.char.startswith(photos.sources, SHIPPED)
    told = {row["source"]: row for folder in folders for row in _read_sources(folder / "sources.csv")}
    sources = []
    for source in sorted(set(photos.sources.tolist())):
        mine = photos.sources == source
        counts = dict(sorted(Counter(photos.labels[mine].tolist()).items()))
        sources.append(
            {
                "source": source or "not stated",
                **told.get(source, {}),
                "learnt": bool((fold[mine] >= 0).all()),
                "n": counts,
            }
        )
    return {
        "data_sha256": photos.data_sha256,
        "n_photos": dict(sorted(Counter(photos.labels[own].tolist()).items())),
        "sources": sources,
        "backbone": backbone,
        "seed": recipe.seed,
        "recipe": asdict(recipe),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("scikit-learn", "onnx", "onnxruntime", "numpy", "pillow")},
        },
        "date": datetime.now(UTC).date().isoformat(),
    }


def _read_sources(file: Path) -> list[dict[str, str]]:
    """Repository, commit and licence of each source; empty where there is no such file."""
    try:
        return [row for row in read_table(file) if "source" in row]
    except (OSError, ValueError, csv.Error) as error:
        raise CommandError(f"{file}: no table of sources in UTF-8 ({reason(error)})") from error


def _store_baseline(photos: Photos, predictions: Sequence[Prediction], out: Path, card: ModelCard) -> None:
    """Write the baseline into model.json; a model of few photos has none."""
    measured = [
        measure_drift(photos.statistics[i], predictions[i], decide(predictions[i], card.policy))
        for i in np.flatnonzero(photos.labels != NEITHER).tolist()
    ]
    try:
        source = "training photos, out-of-fold predictions"
        made = make(measured, source, card.model_version, card.policy.policy_version)
        store_in_card(out, baseline=made.model_dump(mode="json"))
    except CommandError as error:
        stderr.print(f"no baseline for drift: {error}")
