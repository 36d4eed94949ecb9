"""`kickstand train`: from folders of photos to a classifier with a policy and its evidence."""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from kickstand.classify.artefact import read_card
from kickstand.classify.images import thumbnail
from kickstand.classify.inference import EmbeddedModel
from kickstand.classify.photo_quality import find_flaw
from kickstand.classify.policy import decide
from kickstand.classify.promise import Promise
from kickstand.errors import InvalidImage, ModelUnavailable
from kickstand.events import NEITHER
from kickstand.lifecycle.golden import GoldenImage, find_mistake
from kickstand_cli.classify.classify import Answer, answer
from kickstand_cli.classify.evaluation import Readable, summarise, title
from kickstand_cli.classify.evaluation_report import write_report
from kickstand_cli.classify.goal import (
    ConfidenceLevel,
    ForeignShare,
    Goal,
    LabelError,
    MaxRisk,
    MixOption,
    read_label_error,
)
from kickstand_cli.files import expect_writable, make_folder, read_file, with_name, write_file, write_files, writing
from kickstand_cli.project import MODEL
from kickstand_cli.terminal import AsJson, CommandError, console, exit_on, print_json, spell_command, stderr

from .head import Recipe
from .pipeline import EVIDENCE, Leakage, Places, Result, train_model

GOLDEN = 4  # golden photos of each class and of neither
SUMS = "kickstand.sha256"  # of the golden photos: the next training recognises them, and replaces them
FEW = 5  # wrong predictions; fewer may be chance
GOLDEN_SIDE = 512  # pixels at most


def train(
    photos: Annotated[
        list[Path],
        typer.Argument(
            metavar="PHOTOS",
            help="Folders with CLASS/ and, if you can, neither/; or .npz files of photos of none of the classes.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder for model.onnx and model.json.")] = Path(
        "build/own/model"
    ),
    evidence: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", show_default="beside --out", help="The folder for out-of-fold predictions and the report."
        ),
    ] = None,
    golden: Annotated[
        bool, typer.Option("--golden/--no-golden", help="Choose golden photos, beside the model, for the rollout.")
    ] = True,
    hold_out: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE", help="Do not learn from this source, but measure on it; can be repeated."),
    ] = None,
    shipped: Annotated[
        bool,
        typer.Option(
            "--shipped/--no-shipped",
            help="Also learn from the shipped features of photos that show none of the classes.",
        ),
    ] = True,
    keep_neither: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Store features of the photos in neither/, for later trainings."),
    ] = None,
    leakage: Annotated[
        Leakage,
        typer.Option(
            help="If a test photo is a training photo, or nearly: refuse to train, drop it from training, or allow it."
        ),
    ] = Leakage.REFUSE,
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation, if there are fewer sources.")] = 5,
    max_risk: MaxRisk = None,
    confidence: ConfidenceLevel = 0.95,
    mix: MixOption = None,
    foreign_share: ForeignShare = None,
    label_error: LabelError = "0",
    domain: Annotated[
        str,
        typer.Option(
            metavar="TEXT", show_default="the folders", help="The photos that the guarantee is about, in words."
        ),
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="The same seed and photos give the same model.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Processor cores to use; at most all that there are.")] = 2,
    features: Annotated[
        Path, typer.Option(metavar="FILE", help="A cache of features, so that each photo is read only once.")
    ] = Path("build/features.sqlite"),
    backbone: Annotated[
        Path,
        typer.Option(
            metavar="DIR", show_default="the shipped model", help="The artefact whose frozen backbone is used."
        ),
    ] = MODEL,
    as_json: AsJson = False,
) -> None:
    """Train a classifier of your own on this machine, from folders of photos.

    It writes the model with its policy, the evidence and a report. The backbone is frozen; a linear head on its
    features is learnt and cross-validated over the sources of the photos, if they are known: the folder between a class
    and its photos, or the column `source` of PHOTOS/manifest.csv.

    Examples:
    $ kickstand train ~/photos --out build/own/model
    """
    goal = Goal(max_risk or ["0.02"], confidence, mix, foreign_share, read_label_error(label_error))
    out = with_name(out)
    places = Places(
        photos,
        out,
        evidence or out.parent / f"{out.name}-evidence",
        features,
        backbone,
        hold_out or (),
        domain,
        keep_neither,
    )
    with exit_on(ModelUnavailable, OSError):
        outputs = [out / "model.json", places.evidence / EVIDENCE, features]
        if golden:
            outputs.append(out.parent / "golden" / "photo")
        if keep_neither:
            outputs.append(keep_neither)
        for file in outputs:
            expect_writable(file, new_folder=True, inputs=photos)
        if golden:
            _expect_own(out.parent / "golden")
        with TemporaryDirectory() as folder:
            aside = replace(places, out=Path(folder) / "model", evidence=Path(folder) / "evidence")
            result = train_model(aside, Recipe(folds=folds, seed=seed), leakage, goal, threads, shipped=shipped)
            _write_report(result, aside)
            if golden:
                _write_golden(result, aside.out, Path(folder) / "golden")
            _publish(Path(folder), places)
    if as_json:
        print_json(result.card)
    else:
        _print(result, places)


# ---- the report and the golden photos


def _write_report(result: Result, places: Places) -> None:
    """The page of `kickstand evaluate`, with the out-of-fold predictions."""
    card, photos = read_card(places.out), result.photos
    examples = []
    for path, label, prediction in zip(photos.paths, photos.labels.tolist(), result.predictions, strict=True):
        place = result.files[path].place if path in result.files else None
        if place:
            examples.append(Readable(place, label, Answer(prediction, decide(prediction, card.policy)), prediction))
    raw_card = json.loads((places.out / "model.json").read_bytes())
    write_report(places.evidence, summarise(examples, card.labels), examples, card, raw_card)


def _expect_own(golden: Path) -> None:
    """Raises CommandError unless every file in the folder is as a training wrote it; the folder may be missing."""
    written = {golden / SUMS: ""}
    with suppress(OSError, ValueError):
        for line in read_file(golden / SUMS).decode().splitlines():
            sha256, name = line.split("  ", 1)
            written[golden / name] = sha256
    for path in sorted(golden.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        if path not in written or (path.name != SUMS and hashlib.sha256(read_file(path)).hexdigest() != written[path]):
            raise CommandError(
                f"{path}: not written by a training, but the golden photos would replace it; "
                "choose another --out, or --no-golden"
            )


def _write_golden(result: Result, artefact: Path, golden: Path) -> None:
    """The most certain photos that the model gets right; shipped photos of neither, where there are none."""
    model, photos = EmbeddedModel(artefact), result.photos
    for label in (*photos.names, NEITHER):
        rows = [i for i in np.flatnonzero(photos.labels == label).tolist() if photos.paths[i] in result.files]
        p = [result.predictions[i] for i in rows]
        sure = [one.neither if label == NEITHER else one.probabilities[label] for one in p]
        kept = 0
        for _, i in sorted(zip(sure, rows, strict=True), reverse=True)[: 5 * GOLDEN]:
            path = photos.paths[i]
            try:
                _, data = thumbnail(result.files[path].read(), path, GOLDEN_SIDE)
            except (OSError, InvalidImage):  # it was deleted or changed in the meantime
                continue
            image = GoldenImage(f"{label}/{kept + 1}.jpg", data, label)
            given = answer(data, image.name, model).prediction
            if kept < GOLDEN and given and find_mistake(image, given, model.card.policy) is None:
                write_file(golden / image.name, data)
                kept += 1
        if label == NEITHER and not kept:
            shutil.copytree(MODEL.parent / "golden" / NEITHER, golden / NEITHER)
        elif not kept:
            stderr.print(f"no golden photo of {label}: the model accepts none of its photos")
    sums = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.parent.name}/{file.name}\n"
        for file in golden.glob("*/*")
    ]
    write_file(golden / SUMS, "".join(sorted(sums)))


# ---- the end


def _publish(aside: Path, places: Places) -> None:
    """Replace the older results by those in the folder aside, all or none. Raises CommandError, OSError."""
    homes = {"model": places.out, "evidence": places.evidence}
    contents = {
        homes[file.parent.name] / file.name: file.read_bytes() for name in homes for file in (aside / name).iterdir()
    }
    make_folder(places.out.parent)
    with _alone(places.out.parent), _replacing_golden(aside / "golden", places.out.parent / "golden"):
        write_files(contents)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One training at a time, so that the results of the last one remain as a whole."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network drives know no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _replacing_golden(new: Path, golden: Path) -> Iterator[None]:
    """Replace the folder, if there is a new one; when the block fails, the older one is back."""
    if not new.is_dir():
        yield
        return
    _expect_own(golden)  # a training takes long
    golden = golden.resolve()
    part, old = (golden.with_name(f".kickstand-{secrets.token_hex(8)}.{word}") for word in ("part", "old"))
    try:
        write_files({part / file.relative_to(new): file.read_bytes() for file in new.rglob("*") if file.is_file()})
        try:
            with writing(golden):
                if golden.exists():
                    golden.rename(old)
                part.rename(golden)
            yield
        except BaseException:  # after an interrupt too
            if not part.exists():
                golden.rename(part)
            if old.exists():
                old.rename(golden)
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


# ---- the summary


def _print(result: Result, places: Places) -> None:
    card = result.card
    table = Table(
        "metric, out of fold", "value", "95 % interval", "n", title=f"model {card['model_version']} in {places.out}"
    )
    for name, told in card["metrics"].items():
        table.add_row(title(name), f"{told['value']:.4f}", f"{told['low']:.4f} to {told['high']:.4f}", str(told["n"]))
    console.table(table)
    for line in describe(result, places.out):
        console.print(line)
    console.print(f"report: {places.evidence / 'evaluation.html'}")
    console.print(f"next: {spell_command('demo', '--model', places.out, '--images', places.photos[0])}")


def describe(result: Result, artefact: Path) -> list[str]:
    """How good the model is, what it cannot guarantee, and which photos would help, in sentences."""
    metrics, policy = result.card["metrics"], result.card["policy"]
    accuracy, evidence = metrics["accuracy"], policy["evidence"]
    lines = [
        f"The model names {accuracy['value']:.1%} of {accuracy['n']} unseen photos correctly "
        f"(95 % interval {accuracy['low']:.1%} to {accuracy['high']:.1%})."
    ]
    promise = Promise.model_validate(policy["promise"])
    for label, told in evidence["labels"].items():
        if "refused" in told:
            lines.append(f"No guarantee: {told['refused']}. Until then, every prediction “{label}” goes to review.")
            continue
        wrong = told["wrong"] + told["foreign"]
        lines.append(
            f"It accepts “{label}” from confidence {told['threshold']:.4f}: {evidence['coverage'][label]['value']:.1%} "
            f"of the photos of {label}. {wrong} of {told['right'] + wrong} accepted predictions “{label}” were wrong. "
            f"With confidence {promise.confidence_level:g}, at most {told['upper_bound']:.2%} are wrong; the guarantee "
            f"allows {promise.max_risk[label]:.2%}."
        )
    refused = ["refused" in told for told in evidence["labels"].values()]
    if not all(refused):
        lines.append(f"The guarantee holds {promise.holds_for()}.")
    if any(refused):
        weaker = spell_command("policy", "--model", artefact, "--max-risk", "0.05", "--write")
        lines.append(f"A weaker guarantee takes fewer photos. This asks for one of 5 %: {weaker}")
    if "foreign_accepted" not in metrics:
        lines.append(
            "It has learnt from no photos outside your classes, so it assigns every photo to one of them. Put photos "
            "that show none of the classes into a folder neither/."
        )
    else:
        foreign, own = metrics["foreign_accepted"], NEITHER in result.card["training"]["n_photos"]
        lines.append(
            f"Of {foreign['n']:,} {'photos' if own else 'shipped photos'} of none of the classes, "
            f"it accepts {foreign['value']:.2%}."
            + ("" if own else f" To measure your own, put them into a folder {NEITHER}/ beside the classes.")
        )
    photos, rates = result.photos, {}
    for name in photos.names:
        given = [result.predictions[i].label for i in np.flatnonzero(photos.labels == name).tolist()]
        rates[name] = (sum(label != name for label in given), len(given))
    worst = max(rates, key=lambda name: rates[name][0] / rates[name][1])
    wrong, n = rates[worst]
    if wrong:
        lines.append(
            f"It is wrong most often about {worst}: {wrong} of {n}."
            + (f" More photos of {worst} help first." if wrong >= FEW else "")
        )
    n, errors, halved = accuracy["n"], round(accuracy["n"] * (1 - accuracy["value"])), result.half
    if halved:
        half = f"A model trained on half of your photos gets {halved} of {n} wrong instead of {errors}"
        # Twice the standard deviation of the difference of two counts; a smaller one may be chance.
        if halved - errors > 2 * (halved + errors) ** 0.5:
            lines.append(f"{half}, so more photos help.")
        else:
            lines.append(
                f"{half}. That is too small a difference to say that more photos of the same kind help. Photos of new "
                "places and cameras may."
            )
    poor = Counter(flaw.reason for flaw in map(find_flaw, photos.statistics) if flaw and flaw.unusable)
    if poor:
        lines.append(
            f"{poor.total():,} of your {len(photos.statistics):,} photos would be rejected as unusable, "
            f"most of them because: {poor.most_common(1)[0][0]}. The numbers above count them like the others."
        )
    if not any(photos.sources[photos.labels != NEITHER]):
        lines.append(
            "The sources of the photos are not known. If photos of one place or camera are in training and test, these "
            "numbers are too good. Put a folder for each source between class and photos."
        )
    return lines
