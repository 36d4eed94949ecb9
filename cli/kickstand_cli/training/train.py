"""`kickstand train`: from a folder of photos to a model artefact."""

import json
import platform
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from kickstand_cli.training.photos import Photos
    from kickstand_cli.training.recipe import Material, Recipe


class Leakage(StrEnum):
    """What to do about training images that are also, exactly or nearly, test images."""

    REFUSE = "refuse"
    DROP = "drop"
    ALLOW = "allow"


EVIDENCE = "out_of_fold.json"
notices = Console(stderr=True, highlight=False, soft_wrap=True)  # stdout is for the result alone


def train(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="What `kickstand dataset` writes: train/<class>/*.png; or a folder of class folders.",
        ),
    ],
    auxiliary: Annotated[
        Path | None,
        typer.Option(
            help="Other images, to pretrain on and as examples of neither: an .npz with `image` uint8 (n, H, W, 3) "
            "and `label`, or a folder of class folders."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for model.onnx and model.json.")] = Path(
        "build/model"
    ),
    evidence: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File for the out-of-fold answers; default: beside the artefact's folder."),
    ] = None,
    checkpoints: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Where training is kept from epoch to epoch: the same command goes on from there."
        ),
    ] = Path("build/checkpoints"),
    members: Annotated[int | None, typer.Option(min=1, help="Networks in the committee.")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Parts for cross-validation.")] = 5,
    pretrain_epochs: Annotated[int | None, typer.Option(min=1, help="Epochs on the auxiliary images.")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs on the dataset, per fold and for all of it.")
    ] = None,
    leakage: Annotated[
        Leakage,
        typer.Option(
            help="Training images that are also test images, exactly or nearly: refuse to train, "
            "drop them from training, or allow them."
        ),
    ] = Leakage.REFUSE,
    max_risk: Annotated[float, typer.Option(help="Promise: largest share of accepted answers that is wrong.")] = 0.02,
    confidence: Annotated[float, typer.Option(help="With which confidence the promise holds.")] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal models on the same machine.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Processor cores to use.")] = 2,
    exact: Annotated[bool, typer.Option("--exact", help="Keep 32-bit weights: larger and slower.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few epochs only: tries the way out, no good model.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the model card as JSON instead of a table.")] = False,
) -> None:
    """Pretrain, cross-validate, tune on everything, calibrate, choose the policy, write the artefact."""
    try:
        import onnx  # noqa: F401
        import torch  # noqa: F401

        from kickstand_cli.training import photos, recipe
    except ModuleNotFoundError as error:
        typer.echo(
            f"error: training needs {error.name}: use `make train`, which installs it in an environment of its own",
            err=True,
        )
        raise typer.Exit(1) from error

    if not 0.0 < max_risk < 1.0:
        raise typer.BadParameter("must lie between 0 and 1", param_hint="--max-risk")
    if not 0.0 < confidence < 1.0:
        raise typer.BadParameter("must lie between 0 and 1", param_hint="--confidence")
    plan = plan_recipe(recipe.Recipe(folds=folds, seed=seed), members, pretrain_epochs, epochs, quick=quick)
    places = Places(dataset, auxiliary, out, evidence or out.parent / f"{out.name}-evidence" / EVIDENCE, checkpoints)
    try:
        card = train_model(places, plan, leakage, max_risk, confidence, threads, exact=exact)
    except photos.TrainingError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps(card))
    else:
        _print_card(card, out)


@dataclass(frozen=True)
class Places:
    """Where training reads and writes; see the options of `train`. evidence: a file."""

    dataset: Path
    auxiliary: Path | None
    out: Path
    evidence: Path
    checkpoints: Path


def train_model(
    places: Places,
    plan: "Recipe",
    leakage: Leakage,
    max_risk: float,
    confidence: float,
    threads: int,
    *,
    exact: bool = False,
) -> dict[str, Any]:
    """Train, or go on training, and write the artefact; its card comes back.

    Raises TrainingError where the images cannot be learnt from.
    """
    from kickstand_cli.training import recipe

    known, foreign = _read(places.dataset, places.auxiliary, leakage)
    material = recipe.divide(known, foreign, plan)
    home = recipe.open_checkpoints(places.checkpoints, material, plan)
    _fit(material, plan, home, threads)
    return _write(material, plan, home, places, max_risk, confidence, exact=exact)


def plan_recipe(
    plan: "Recipe", members: int | None, pretrain_epochs: int | None, epochs: int | None, *, quick: bool
) -> "Recipe":
    if quick:
        members, pretrain_epochs, epochs = members or 1, pretrain_epochs or 2, epochs or 3
    plan = replace(plan, members=members or plan.members)
    if pretrain_epochs:
        plan = replace(plan, pretrain=replace(plan.pretrain, epochs=pretrain_epochs))
    if epochs:
        plan = replace(
            plan,
            tune=(
                replace(plan.tune[0], epochs=epochs),
                *(replace(of, epochs=max(1, epochs // 2)) for of in plan.tune[1:]),
            ),
            scratch=replace(plan.scratch, epochs=epochs),
        )
    return plan


def _read(dataset: Path, auxiliary: Path | None, leakage: Leakage) -> "tuple[Photos, Photos | None]":
    """The labelled images, and the foreign ones of --auxiliary and of the dataset's own `neither` folder.

    Raises TrainingError where the images cannot be read, or leak and may not.
    """
    from kickstand_cli.training.photos import NEITHER, join, read_folder, read_foreign

    everything = read_folder(dataset / "train" if (dataset / "train").is_dir() else dataset, dataset)
    if leakage is not Leakage.ALLOW and (dataset / "test").is_dir():
        everything = everything.without(_find_leaks(dataset, drop=leakage is Leakage.DROP))
    known = everything.only(set(everything.names) - {NEITHER})
    foreign = [everything.only({NEITHER})] if NEITHER in everything.names else []
    if auxiliary:
        foreign.append(read_foreign(auxiliary))
    return known, join(foreign) if foreign else None


def _find_leaks(dataset: Path, *, drop: bool) -> set[str]:
    """Paths of the training images to drop. Raises TrainingError naming the pairs, unless they are to be dropped."""
    from kickstand_cli.datasets.doctor import examine_dataset
    from kickstand_cli.training.photos import TrainingError

    findings = examine_dataset(dataset)
    pairs = [(pair.first, pair.second) for pair in findings.pairs if pair.leaks]
    if findings.pair_counts.leaks and not (drop and len(pairs) == findings.pair_counts.leaks):
        named = "; ".join(f"{first} and {second}" for first, second in pairs[:3])
        raise TrainingError(
            f"{dataset}: {findings.pair_counts.leaks} pairs of images lie in different splits ({named} …). "
            "`kickstand dataset check --report` shows them; --leakage=drop leaves up to 200 out of training, "
            "--leakage=allow trains on them"
        )
    leaked = {path for pair in pairs for path in pair if path.startswith("train/")}
    for path in sorted(leaked):
        notices.print(f"left out, it is among the test images: {path}", markup=False)
    return leaked


def _fit(material: "Material", plan: "Recipe", home: Path, threads: int) -> None:
    from kickstand_cli.training.recipe import run_all, stages

    jobs = [job for group in stages(material, plan) for job in group]
    notices.print(
        f"{len(material.known.pixels)} labelled images of {len(material.known.names)} classes, "
        f"{0 if material.foreign is None else len(material.foreign.pixels)} foreign ones; "
        f"{len(jobs)} networks to fit; checkpoints in {home}",
        markup=False,
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=notices, disable=not notices.is_terminal) as progress:
        bars: dict[str, Any] = {}
        for name, done, total, loss in run_all(material, plan, home, threads):
            if name not in bars:
                bars[name] = progress.add_task(name, total=total, loss="")
            progress.update(bars[name], completed=done, loss=f"loss {loss:.3f}")
            if done == total and not notices.is_terminal:
                notices.print(f"{name}: {total} epochs, loss {loss:.3f}", markup=False)


def _write(
    material: "Material",
    plan: "Recipe",
    home: Path,
    places: Places,
    max_risk: float,
    confidence: float,
    *,
    exact: bool,
) -> dict[str, Any]:
    """Score out of fold, calibrate, export; the model card comes back."""
    from kickstand_cli.training import card as cards
    from kickstand_cli.training.export import write_onnx
    from kickstand_cli.training.recipe import deploy, score_out_of_fold

    started = time.perf_counter()
    scores = score_out_of_fold(material, plan, home, exact=exact)
    temperature = cards.find_temperature(scores.known, material.known.classes)
    known, foreign, synthetic = (
        cards.soften(logits, temperature) for logits in (scores.known, scores.foreign, scores.synthetic)
    )
    policy = cards.choose_policy(known, material.known.classes, foreign, max_risk, confidence)
    metrics = cards.measure(known, material.known.classes, foreign, synthetic, policy)

    sha256 = write_onnx(deploy("final", material, plan, home, exact=exact), places.out / "model.onnx")
    card = {
        "model_version": sha256[:8],
        "model_sha256": sha256,
        "labels": list(material.known.names),
        "input_shape": list(material.known.pixels.shape[1:]),
        "normalisation": "inside the graph: (pixel / 255 - 0.5) / 0.25; the input is uint8 RGB",
        "weights": "float32" if exact else "int8, static, per channel",
        "temperature": temperature,
        "policy": policy,
        "training": _describe(material, plan),
        "metrics": metrics,
        "out_of_fold_sha256": cards.write_json(
            places.evidence, cards.list_evidence(material, scores, temperature), compact=True
        ),
    }
    cards.write_json(places.out / "model.json", card)
    notices.print(f"scored, exported and written in {time.perf_counter() - started:.0f} s", markup=False)
    return card


def _describe(material: "Material", plan: "Recipe") -> dict[str, Any]:
    from dataclasses import asdict
    from importlib.metadata import version

    foreign = material.foreign
    return {
        "data_sha256": material.known.data_sha256,
        "auxiliary_sha256": foreign.data_sha256 if foreign else None,
        "n_images": material.known.counts(),
        "n_foreign": {"seen": int((~material.held).sum()), "held_out": int(material.held.sum())},
        "seed": plan.seed,
        "recipe": asdict(plan),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "onnx", "onnxruntime", "numpy", "pillow")},
        },
        "date": datetime.now(UTC).date().isoformat(),
    }


def _print_card(card: dict[str, Any], out: Path) -> None:
    console = Console(soft_wrap=True, highlight=False)
    table = Table("metric, out of fold", "value", "95 % interval", "n", title=f"model {card['model_version']} in {out}")
    for name, told in card["metrics"].items():
        table.add_row(
            name.replace("_", " "), f"{told['value']:.4f}", f"{told['low']:.4f} to {told['high']:.4f}", str(told["n"])
        )
    console.print(table)
    policy = card["policy"]
    evidence = policy["evidence"]
    if "refused" in evidence:
        console.print(f"promise {evidence['refused']}", markup=False)
        console.print("until then the policy sends every image to a person", markup=False)
    else:
        console.print(
            f"accept from {policy['accept_at']:.4f}: {evidence['errors']} of {evidence['accepted']} wrong, at most "
            f"{evidence['upper_bound']:.4f} with confidence {policy['confidence_level']:g}; "
            f"promised {policy['max_risk']:g}",
            markup=False,
        )
