"""The whole recipe: pretrain each member, tune it per fold and on everything, in as many processes as asked for."""

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from .export import build_onnx, quantise, run_onnx
from .fit import Pool, Schedule, fit
from .network import Network
from .photos import Photos, TrainingError, hold_out, split_evenly
from .synthetic import draw_synthetic

Logits = NDArray[np.float32]
PRETRAINED = "pretrained"


@dataclass(frozen=True)
class Recipe:
    """Every choice of the training; two equal recipes on equal data give the same weights on the same machine.

    members: networks pretrained and tuned apart from each other, which answer together.
    held_out: share of each foreign class that no network ever sees; it measures the gate.
    synthetic_per_epoch: how many of the synthetic pictures go with the labelled images when tuning.
    tune: one schedule a cycle; each starts where the one before ended, with a rate that climbs again. Served is the
        mean of their ends.
    mirror: answer for the image and its mirror image, and average.
    scratch: instead of `tune`, where there is nothing to pretrain on.
    """

    members: int = 2
    folds: int = 5
    seed: int = 0
    width: int = 32
    held_out: float = 0.12
    synthetic: int = 3000
    synthetic_per_epoch: int = 60
    pretrain: Schedule = field(default=Schedule(epochs=110, peak_rate=0.08, average=0.998))
    tune: tuple[Schedule, ...] = (
        Schedule(epochs=28, peak_rate=0.03),
        Schedule(epochs=16, peak_rate=0.02),
        Schedule(epochs=12, peak_rate=0.02, foreign=2400),
    )
    mirror: bool = True
    scratch: Schedule = field(default=Schedule(epochs=150, peak_rate=0.08))

    def cycles(self, *, foreign: bool) -> tuple[Schedule, ...]:
        """How the labelled images are learnt; `foreign`: whether there was anything to pretrain on."""
        return self.tune if foreign else (self.scratch,)


@dataclass(frozen=True)
class Material:
    """What there is to learn from, and how it is divided.

    fold: of each labelled image. held: foreign images kept apart from all training.
    """

    known: Photos
    foreign: Photos | None
    synthetic: NDArray[np.uint8]
    fold: NDArray[np.int64]
    held: NDArray[np.bool_]

    @property
    def n_labels(self) -> int:
        return len(self.known.names)

    @property
    def n_classes(self) -> int:
        """The labels, the foreign classes, and one for the synthetic images."""
        return self.n_labels + (len(self.foreign.names) if self.foreign else 0) + 1

    def known_pool(self, keep: NDArray[np.bool_]) -> Pool:
        return _pool(self.known.pixels[keep], torch.from_numpy(self.known.classes[keep]))

    def foreign_pools(self, foreign_per_epoch: int | None, synthetic_per_epoch: int) -> list[Pool]:
        pools = []
        if self.foreign:
            seen = ~self.held
            classes = torch.from_numpy(self.foreign.classes[seen] + self.n_labels)
            pools.append(_pool(self.foreign.pixels[seen], classes, foreign_per_epoch))
        classes = torch.full((len(self.synthetic),), self.n_classes - 1)
        return [*pools, _pool(self.synthetic, classes, synthetic_per_epoch)]


def _to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """(n, H, W, 3) → (n, 3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


def _pool(pixels: NDArray[np.uint8], classes: Tensor, per_epoch: int | None = None) -> Pool:
    return Pool(_to_tensor(pixels), classes, len(pixels) if per_epoch is None else min(per_epoch, len(pixels)))


def divide(known: Photos, foreign: Photos | None, recipe: Recipe) -> Material:
    """Assign folds and hold foreign images out. Raises TrainingError where there is too little to divide."""
    if len(known.names) < 2:
        raise TrainingError(f"only the class {known.names[0]!r}: a classifier needs two or more")
    for name, count in known.counts().items():
        if count < recipe.folds:
            raise TrainingError(f"class {name!r} has {count} images, fewer than the {recipe.folds} folds")
    if foreign:
        # A label that also occurs among the foreign classes would be taught as its own opposite.
        foreign = foreign.only(set(foreign.names) - set(known.names))
        foreign = foreign if len(foreign.pixels) else None
    if foreign and foreign.pixels.shape[1:] != known.pixels.shape[1:]:
        raise TrainingError(
            f"foreign images are {foreign.pixels.shape[1:]}, the labelled ones {known.pixels.shape[1:]}"
        )
    height, width = known.pixels.shape[1:3]
    if min(height, width) < 16:
        raise TrainingError(f"images of {width} × {height} pixels: the network needs at least 16 × 16")
    return Material(
        known,
        foreign,
        draw_synthetic(recipe.synthetic, height, width, recipe.seed + 1),
        split_evenly(known.classes, recipe.folds, recipe.seed),
        hold_out(foreign.classes, recipe.held_out, recipe.seed) if foreign else np.zeros(0, np.bool_),
    )


@dataclass(frozen=True)
class Job:
    """One network to fit: pretrained (`stage` "pretrained"), tuned without a fold ("fold-0" …) or on all ("final")."""

    member: int
    stage: str
    cycle: int = 1

    @property
    def name(self) -> str:
        return f"member-{self.member}-{self.stage}" + (f"-cycle-{self.cycle}" if self.cycle > 1 else "")

    @property
    def before(self) -> "Job | None":
        """The job whose weights this one starts from, where there are foreign images."""
        if self.cycle > 1:
            return replace(self, cycle=self.cycle - 1)
        return None if self.stage == PRETRAINED else Job(self.member, PRETRAINED)


def left_out(stage: str, material: Material) -> NDArray[np.bool_]:
    """Which labelled images a stage does not learn from."""
    if stage.startswith("fold-"):
        return material.fold == int(stage.removeprefix("fold-"))
    return np.zeros(len(material.fold), dtype=np.bool_)


def _load(job: Job, home: Path) -> dict[str, Tensor]:
    """The weights of a complete job."""
    state: dict[str, Tensor] = torch.load(home / f"{job.name}.pt", weights_only=True, map_location="cpu")["average"]
    return state


def _start(job: Job, material: Material, recipe: Recipe, home: Path) -> Network:
    """The network that a job starts from."""
    torch.manual_seed(recipe.seed + job.member)
    network = Network(material.n_classes, recipe.width)
    before = job.before if material.foreign else None
    if before:
        network.load_state_dict(_load(before, home))
        if before.stage != job.stage:
            network.forget_labels(material.n_labels)
    return network


def run(
    job: Job, material: Material, recipe: Recipe, home: Path, on_epoch: Callable[..., None] | None = None
) -> Network:
    """Fit one network, or go on from its last complete epoch, or only load it where it is complete."""
    if job.stage == PRETRAINED:
        pools, schedule, n_labels = material.foreign_pools(None, 200), recipe.pretrain, None
    else:
        schedule, n_labels = recipe.cycles(foreign=material.foreign is not None)[job.cycle - 1], material.n_labels
        pools = [
            material.known_pool(~left_out(job.stage, material)),
            *material.foreign_pools(schedule.foreign, recipe.synthetic_per_epoch),
        ]
    offset = {PRETRAINED: 0, "final": 99}.get(job.stage)
    seed = (recipe.seed + job.member) + 100 * (1 + int(job.stage.removeprefix("fold-")) if offset is None else offset)
    seed += 10_000 * (job.cycle - 1)
    network = _start(job, material, recipe, home)
    return fit(network, pools, schedule, seed, home / f"{job.name}.pt", on_epoch, n_labels)


def stages(material: Material, recipe: Recipe) -> list[list[Job]]:
    """Jobs in the order of their needs: those within one list may run side by side."""
    foreign, members = material.foreign is not None, range(1, recipe.members + 1)
    parts = [*(f"fold-{fold}" for fold in range(recipe.folds)), "final"]
    pretrained = [[Job(member, PRETRAINED) for member in members]] if foreign else []
    return pretrained + [
        [Job(member, part, cycle) for part in parts for member in members]
        for cycle in range(1, len(recipe.cycles(foreign=foreign)) + 1)
    ]


def settle(member: int, stage: str, material: Material, recipe: Recipe, home: Path) -> Network:
    """A network as it is served: the mean of the weights with which each cycle of its tuning ended; all are complete.

    The cycles end in one basin, so the mean answers like all of them together, at the price of one:
    Izmailov et al., UAI 2018, https://arxiv.org/abs/1803.05407.
    """
    cycles = range(1, len(recipe.cycles(foreign=material.foreign is not None)) + 1)
    states = [_load(Job(member, stage, cycle), home) for cycle in cycles]
    mean = {name: torch.stack([state[name] for state in states]).double().mean(dim=0) for name in states[0]}
    network = Network(material.n_classes, recipe.width)
    network.load_state_dict(mean)
    return network


_queue: "multiprocessing.Queue[tuple[str, int, int, float]] | None" = None


def _enter(queue: "multiprocessing.Queue[tuple[str, int, int, float]]", threads: int) -> None:
    """Set a worker process up."""
    global _queue
    _queue = queue
    torch.set_num_threads(threads)


def _work(job: Job, material: Material, recipe: Recipe, home: Path) -> None:
    report = _queue.put if _queue else print
    run(job, material, recipe, home, lambda done, total, loss: report((job.name, done, total, loss)))


def run_all(material: Material, recipe: Recipe, home: Path, threads: int) -> Iterator[tuple[str, int, int, float]]:
    """Run every job; yields (job, epochs done, of, loss) as they come.

    A process per core beats one process on all cores by a third: much of a small network's step is not parallel.
    """
    context = multiprocessing.get_context("spawn")
    workers = 1 if torch.cuda.is_available() else threads
    queue: multiprocessing.Queue[tuple[str, int, int, float]] = context.Queue()
    with ProcessPoolExecutor(workers, context, _enter, (queue, max(1, threads // workers))) as pool:
        try:
            for jobs in stages(material, recipe):
                pending = {pool.submit(_work, job, material, recipe, home) for job in jobs}
                while pending:
                    finished, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
                    for future in finished:
                        future.result()
                    yield from _drain(queue)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    yield from _drain(queue)


def _drain(queue: "multiprocessing.Queue[tuple[str, int, int, float]]") -> Iterator[tuple[str, int, int, float]]:
    while True:
        try:
            yield queue.get_nowait()
        except Empty:
            return


def open_checkpoints(checkpoints: Path, material: Material, recipe: Recipe) -> Path:
    """The folder for exactly this recipe and data; another recipe never resumes from it."""
    told: dict[str, Any] = {
        "recipe": asdict(recipe),
        "known": material.known.data_sha256,
        "foreign": material.foreign.data_sha256 if material.foreign else None,
    }
    text = json.dumps(told, sort_keys=True)
    home = checkpoints / hashlib.sha256(text.encode()).hexdigest()[:12]
    home.mkdir(parents=True, exist_ok=True)
    (home / "recipe.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", "utf-8")
    return home


@dataclass(frozen=True)
class OutOfFold:
    """Logits (·, n_labels + 1) by committees that never saw the image.

    known: each labelled image by the committee of its own fold.
    foreign, synthetic: held-out images, shared out among the folds' committees in turn.
    """

    known: Logits
    foreign: Logits
    synthetic: Logits


def deploy(stage: str, material: Material, recipe: Recipe, home: Path, *, exact: bool) -> onnx.ModelProto:
    """The committee of a stage ("fold-0" …, "final") as it is served; its jobs must be complete."""
    members = [settle(member, stage, material, recipe, home) for member in range(1, recipe.members + 1)]
    height, width = material.known.pixels.shape[1:3]
    network = build_onnx(members, material.n_labels, height, width, mirror=recipe.mirror)
    if exact:
        return network
    seen = material.known.pixels[~left_out(stage, material)]
    if material.foreign:
        seen = np.concatenate([seen, material.foreign.pixels[~material.held]])
    return quantise(network, seen[np.random.default_rng(recipe.seed).permutation(len(seen))[:600]])


def score_out_of_fold(material: Material, recipe: Recipe, home: Path, *, exact: bool) -> OutOfFold:
    """By the committees as they would be served, 8-bit weights and all: what is calibrated is what answers."""
    height, width = material.known.pixels.shape[1:3]
    held = material.foreign.pixels[material.held] if material.foreign else material.synthetic[:0]
    unseen = draw_synthetic(600, height, width, recipe.seed + 2)
    known, foreign, synthetic = (
        np.zeros((len(images), material.n_labels + 1), np.float32) for images in (material.known.pixels, held, unseen)
    )
    turn, turn_synthetic = (np.random.default_rng(0).permutation(n) % recipe.folds for n in (len(held), len(unseen)))
    for fold in range(recipe.folds):
        network = deploy(f"fold-{fold}", material, recipe, home, exact=exact)
        for into, images, mine in (
            (known, material.known.pixels, material.fold == fold),
            (foreign, held, turn == fold),
            (synthetic, unseen, turn_synthetic == fold),
        ):
            if mine.any():
                into[mine] = run_onnx(network, images[mine])
    return OutOfFold(known, foreign, synthetic)
