"""Fit one network: a seeded, resumable loop of small steps with a running weight average."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from .augment import blend, vary
from .network import Network, with_neither
from .optimiser import Muon

MEAN = torch.tensor([0.5, 0.5, 0.5])
STD = torch.tensor([0.25, 0.25, 0.25])

OnEpoch = Callable[[int, int, float], None]
"""Called with (epochs done, epochs in all, mean loss of the last one)."""


@dataclass(frozen=True)
class Pool:
    """Images to learn from: uint8 (n, 3, H, W), class (n,), and how many of them an epoch draws at random."""

    images: Tensor
    classes: Tensor
    per_epoch: int


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn.

    average: the share of the old weights that each step keeps.
    foreign: how many foreign images go with the labelled ones in an epoch; pretraining takes them all.
    """

    epochs: int
    peak_rate: float
    batch: int = 64
    weight_decay: float = 2e-3
    smoothing: float = 0.05
    average: float = 0.995
    warm_up: float = 0.06
    blend_until: float = 0.85
    foreign: int = 800

    def rate(self, progress: float) -> float:
        """Learning rate at a share of the way in [0, 1]: a short climb, then straight down to nothing."""
        climb = min(1.0, progress / self.warm_up) if self.warm_up else 1.0
        return self.peak_rate * max(0.02 * climb, climb * min(1.0, (1.0 - progress) / (1.0 - self.warm_up)))


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _half_precision(where: torch.device) -> bool:
    """bfloat16 halves the time where the processor multiplies it natively, and is slower everywhere else."""
    return where.type == "cuda" or bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())


def normalise(images: Tensor) -> Tensor:
    """[0, 1] → zero mean, unit spread; the deployed graph does the same inside."""
    return (images - MEAN.to(images.device).reshape(1, 3, 1, 1)) / STD.to(images.device).reshape(1, 3, 1, 1)


def _draw(pools: Sequence[Pool], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One epoch's images and classes, shuffled."""
    picks = [torch.randperm(len(pool.images), generator=generator)[: pool.per_epoch] for pool in pools]
    images = torch.cat([pool.images[pick] for pool, pick in zip(pools, picks, strict=True)])
    classes = torch.cat([pool.classes[pick] for pool, pick in zip(pools, picks, strict=True)])
    order = torch.randperm(len(images), generator=generator)
    return images[order], classes[order]


def _save(state: dict[str, object], path: Path) -> None:
    """Whole or not at all: a killed run leaves the last complete epoch behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def fit(
    network: Network,
    pools: Sequence[Pool],
    schedule: Schedule,
    seed: int,
    checkpoint: Path | None = None,
    on_epoch: OnEpoch | None = None,
    n_labels: int | None = None,
) -> Network:
    """The weight average after the last epoch, in evaluation mode, on the CPU.

    n_labels: where given, the foreign classes count as one, "neither": which of them it is earns nothing.

    An epoch's randomness depends on (seed, epoch) only, so a resumed run repeats what an unbroken one would do.
    """
    where = device()
    network = network.to(where, memory_format=torch.channels_last)
    average = copy.deepcopy(network).eval()
    half = _half_precision(where)
    optimiser = Muon(network, schedule.peak_rate, schedule.weight_decay, torch.bfloat16 if half else torch.float32)
    done = 0
    if checkpoint and checkpoint.exists():
        state = torch.load(checkpoint, map_location=where, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        done = state["epoch"]

    n_outputs = network.head.out_features if n_labels is None else n_labels + 1
    for epoch in range(done, schedule.epochs):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        torch.manual_seed(seed * 1_000_003 + epoch)
        network.train()
        images, classes = _draw(pools, generator)
        steps, total = max(1, len(images) // schedule.batch), 0.0
        for step in range(steps):
            progress = (epoch + step / steps) / schedule.epochs
            for group in optimiser.param_groups:
                group["lr"] = schedule.rate(progress)
            part = slice(step * schedule.batch, (step + 1) * schedule.batch)
            x = vary(images[part].to(where).float() / 255.0, generator)
            targets = functional.one_hot(classes[part].to(where).clamp(max=n_outputs - 1), n_outputs).float()
            if progress < schedule.blend_until:
                x, targets = blend(x, targets, generator)
            with torch.autocast(where.type, torch.bfloat16, enabled=half):
                logits = network(normalise(x).to(memory_format=torch.channels_last))
            outputs = logits.float() if n_labels is None else with_neither(logits.float(), n_labels)
            loss = functional.cross_entropy(outputs, targets, label_smoothing=schedule.smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            total += loss.item()
            with torch.no_grad():
                # A young average follows fast, or it would remember the random start for several epochs.
                keep = min(schedule.average, (1 + epoch * steps + step) / (10 + epoch * steps + step))
                for old, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
                    if old.is_floating_point():
                        old.lerp_(new, 1.0 - keep)
                    else:
                        old.copy_(new)
        if checkpoint:
            _save(
                {
                    "network": network.state_dict(),
                    "average": average.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "epoch": epoch + 1,
                },
                checkpoint,
            )
        if on_epoch:
            on_epoch(epoch + 1, schedule.epochs, total / steps)
    return average.cpu().to(memory_format=torch.contiguous_format)


@torch.inference_mode()
def predict(network: Network, images: Tensor, batch: int = 256) -> Tensor:
    """Logits (n, n_classes) of uint8 images (n, 3, H, W), in single precision."""
    network.eval()
    return torch.cat([network(normalise(part.float() / 255.0)) for part in images.split(batch)])
