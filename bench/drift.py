"""How soon is a shift noticed, and how often is an alarm false? Kickstand's monitor beside Evidently's tests, on real
images.

`make bench-drift` runs it: a table, and build/bench-drift.json. What is honest about it, and what is not:

- Baseline and stream are disjoint halves of the training images, drawn anew in every run. Streams before the shift and
  the 90 days of the false-alarm runs carry the out-of-fold predictions, as the shipped baseline does.
- Images of none of the classes have out-of-fold predictions too.
- Shifted images (night, blur …) are classified by the shipped model, which has learnt from the originals: it is surer
  of them than of new ones, so harm is found later here than it would be. What image statistics see does not depend on
  it.
- Without the file of out-of-fold predictions the shipped model classifies everything, and the output says so.
- Evidently gets the same images in windows of 100, as a scheduled job would, with its default thresholds.
- The public test images are not used.
"""

import argparse
import importlib
import io
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from rich.console import Console
from rich.table import Table

from kickstand.classify.artefact import ModelCard
from kickstand.classify.images import measure as measure_image
from kickstand.classify.inference import EmbeddedModel, interpret
from kickstand.classify.policy import decide
from kickstand.monitor.drift import (
    RELEASE,
    Budget,
    Drift,
    Event,
    Observation,
    Severity,
    Side,
    list_events,
    make_baseline,
    measure,
    ratios,
)
from kickstand_cli.monitor.baseline import as_prediction
from kickstand_cli.project import MODEL, PROJECT
from kickstand_cli.training.photos import File, list_photos

Pixels = NDArray[np.uint8]
Hits = NDArray[np.bool_]

OUT_OF_FOLD = PROJECT / "model-evidence" / "out_of_fold.json"
CLEAN, SHIFTED = 100, 200
WINDOW = 100
COLUMNS = ("brightness", "contrast", "sharpness", "saturation", "confidence", "neither")


@dataclass(frozen=True)
class Pool:
    """Images as the monitor sees them, one row each: features, and rates by name."""

    features: NDArray[np.float64]
    rates: dict[str, Hits]

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: NDArray[np.int64]) -> "Pool":
        return Pool(self.features[rows], {name: hits[rows] for name, hits in self.rates.items()})

    def items(self) -> Iterator[tuple[dict[str, float], dict[str, bool]]]:
        for i, row in enumerate(self.features.tolist()):
            yield dict(zip(COLUMNS, row, strict=True)), {name: bool(hits[i]) for name, hits in self.rates.items()}

    def hits(self, events: list[Event]) -> Hits:
        """Which events happen in which image, shape (n, n_events)."""
        columns = []
        for event in events:
            if event.side is None:
                columns.append(self.rates[event.source])
            else:
                values = self.features[:, COLUMNS.index(event.source)]
                columns.append(values < event.cut if event.side is Side.BELOW else values > event.cut)
        return np.stack(columns, axis=1)


def join(pools: list[Pool]) -> Pool:
    return Pool(
        np.concatenate([pool.features for pool in pools]),
        {name: np.concatenate([pool.rates[name] for pool in pools]) for name in pools[0].rates},
    )


def score(pixels: Pixels, model: EmbeddedModel, probabilities: list[Any] | None = None) -> Pool:
    """The images, scaled to the model's input, with the shipped model's predictions or with these."""
    card: ModelCard = model.card
    height, width, _ = card.input_shape
    rows = []
    for number, small in enumerate(pixels):
        image = Image.fromarray(small).resize((width, height), Image.Resampling.LANCZOS)
        if probabilities:
            prediction = probabilities[number]
        else:
            prediction = interpret(model.logits(np.asarray(image)[np.newaxis])[0].tolist(), card, "embedded", 0.0)
        rows.append(measure(measure_image(image), prediction, decide(prediction, card.policy)))
    return Pool(
        np.array([[features[name] for name in COLUMNS] for features, _ in rows]),
        {name: np.array([rates[name] for _, rates in rows]) for name in rows[0][1]},
    )


def each(change: Callable[[Image.Image], Image.Image]) -> Callable[[Pixels], Pixels]:
    return lambda pixels: np.stack([np.asarray(change(Image.fromarray(image))) for image in pixels])


def add_noise(pixels: Pixels, factor: float, sigma: float) -> Pixels:
    noise = np.random.default_rng(0).normal(0.0, sigma, pixels.shape)
    return np.clip(pixels * factor + noise, 0, 255).astype(np.uint8)


def as_jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=30)
    return Image.open(file).convert("RGB")


SHIFTS: dict[str, Callable[[Pixels], Pixels]] = {
    "night (× 0.25, noise σ 6)": lambda pixels: add_noise(pixels, 0.25, 6.0),
    "dim (× 0.6)": lambda pixels: add_noise(pixels, 0.6, 0.0),
    "blur (σ 1.5)": each(lambda image: image.filter(ImageFilter.GaussianBlur(1.5))),
    "noise (σ 25)": lambda pixels: add_noise(pixels, 1.0, 25.0),
    "rotation 20°": each(lambda image: image.rotate(20, Image.Resampling.BILINEAR, fillcolor=(128, 128, 128))),
    "rotation 90°": each(lambda image: image.rotate(90)),
    "JPEG quality 30": each(as_jpeg),
}


@dataclass(frozen=True)
class World:
    """clean: the labelled images. shifted: the same images, in the same order, by shift. foreign: never trained on."""

    clean: Pool
    classes: NDArray[np.int64]
    shifted: dict[str, Pool]
    foreign: Pool | None
    out_of_fold: bool


def build_world(dataset: Path, foreign_file: Path | None, out_of_fold: Path) -> World:
    model = EmbeddedModel(MODEL)
    known = [file for file in list_photos(dataset) if file.label in model.card.labels]
    foreign = list_photos(foreign_file) if foreign_file else []
    answers = foreign_answers = None
    if out_of_fold.exists():
        told = json.loads(out_of_fold.read_bytes())
        rows = dict(zip(told["probabilities"], told["known"]["probabilities"], strict=True))
        answers = [as_prediction(rows[file.path], model.card) for file in known]
        rows = dict(zip(told["foreign"]["path"], told["foreign"]["probabilities"], strict=True))
        foreign = [file for file in foreign if file.path in rows]
        foreign_answers = [as_prediction(rows[file.path], model.card) for file in foreign]
    pixels = _read_pixels(known)
    return World(
        clean=score(pixels, model, answers),
        classes=np.array([model.card.labels.index(file.label) for file in known]),
        shifted={name: score(shift(pixels), model) for name, shift in SHIFTS.items()},
        foreign=score(_read_pixels(foreign), model, foreign_answers) if foreign else None,
        out_of_fold=answers is not None,
    )


def _read_pixels(files: list[File]) -> Pixels:
    return np.stack([np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB")) for file in files])


def race(
    events: list[list[Event]], draw: Callable[[int], Hits], steps: int, threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`Drift` for many streams at once, shape (n_runs, n_statistics): first alarm (-1 for none), number of alarms.

    events: of each run's own baseline, the same in number and order. draw: step → hits, shape (n_runs, n_events).
    """
    names = list(dict.fromkeys(event.statistic for event in events[0]))
    starts = [next(i for i, event in enumerate(events[0]) if event.statistic == name) for name in names]
    sizes = np.diff([*starts, len(events[0])])
    pairs = np.array([[ratios(event.limit) for event in run] for run in events], dtype=np.float32)
    up, down = pairs[..., 0], pairs[..., 1]
    n_odds = up.shape[2]
    evidence = np.zeros_like(up)
    cap = np.repeat(threshold * sizes * n_odds, sizes).astype(np.float32)[:, None]
    first = np.full((len(events), len(names)), -1, dtype=np.int64)
    count, raised = np.zeros_like(first), np.zeros(first.shape, dtype=bool)
    for step in range(steps):
        hits = draw(step)
        evidence += 1
        evidence *= np.where(hits[..., None], up, down)
        level = np.add.reduceat(evidence.sum(axis=2), starts, axis=1) / (sizes * n_odds)
        new = (level >= threshold) & ~raised
        if new.any():
            first[new & (first < 0)] = step
            count[new] += 1
            raised |= new
        if raised.any():
            np.minimum(evidence, cap, out=evidence)
            ended = raised & (level < threshold / RELEASE)
            evidence[np.repeat(ended, sizes, axis=1)] = 0.0
            raised &= ~ended
    return first, count


def split(world: World, rng: np.random.Generator) -> tuple[list[Event], NDArray[np.int64]]:
    """The events of a baseline made of one half, and the rows of the other half."""
    order = rng.permutation(len(world.clean))
    half = len(order) // 2
    baseline = make_baseline(world.clean.take(order[:half]).items(), "half", "m", "p")
    return list_events(baseline), order[half:]


def streams(world: World, shift: str, rest: NDArray[np.int64], rng: np.random.Generator) -> Pool:
    """100 clean images, then 200 shifted ones; none occurs twice, but where the shift itself needs more."""
    rows = rng.permutation(rest)
    before, after = world.clean.take(rows[:CLEAN]), rows[CLEAN : CLEAN + SHIFTED]
    if shift in world.shifted:
        return join([before, world.shifted[shift].take(after)])
    if shift == "none":
        return join([before, world.clean.take(after)])
    if shift.startswith("classes"):
        of_last = world.classes[rest] == world.classes.max()
        counts = round(SHIFTED * 0.8), SHIFTED - round(SHIFTED * 0.8)
        mixed = [rng.choice(rest[which], n) for which, n in zip((of_last, ~of_last), counts, strict=True)]
        return join([before, world.clean.take(rng.permutation(np.concatenate(mixed)))])
    assert world.foreign is not None  # noqa: S101 - main asks for these shifts only where there are foreign images
    share = float(shift.split()[0]) / 100
    both = join([world.clean.take(after), world.foreign])
    pick = np.where(
        rng.random(SHIFTED) < share, SHIFTED + rng.integers(len(world.foreign), size=SHIFTED), np.arange(SHIFTED)
    )
    return join([before, both.take(pick)])


def summarise(delays: NDArray[np.float64], shift: str, statistic: str) -> dict[str, Any]:
    """delays: images after the shift until the alarm, inf for none within 200."""
    median = float(np.median(delays))
    return {
        "shift": shift,
        "statistic": statistic,
        "detected_within_200": round(float(np.isfinite(delays).mean()), 4),
        "median_delay": median if math.isfinite(median) else None,
        "runs": len(delays),
    }


def load_evidently() -> dict[str, Callable[[Any, Any], bool]] | None:
    """Evidently's tests on one column: (reference, window) → drifted. None where it is not installed."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tests = importlib.import_module("evidently.legacy.calculations.stattests")
            column = importlib.import_module("evidently.legacy.core").ColumnType.Numerical
            series = importlib.import_module("pandas").Series
    except ImportError:
        return None

    def drifted(test: Any) -> Callable[[Any, Any], bool]:
        return lambda reference, window: bool(
            test.func(series(reference), series(window), column, test.default_threshold)[1]
        )

    return {"PSI": drifted(tests.psi_stat_test), "KS": drifted(tests.ks_stat_test)}


def run_evidently(tests: dict[str, Callable[[Any, Any], bool]], reference: Pool, stream: Pool) -> dict[str, float]:
    """Delay of each rule, in windows of 100 after the shift."""
    delays = {
        "Evidently: PSI on confidence": math.inf,
        "Evidently: KS on confidence": math.inf,
        "Evidently: KS, half of the columns": math.inf,
    }
    for end in range(CLEAN + SHIFTED, CLEAN, -WINDOW):
        window = stream.features[end - WINDOW : end]
        ks = [tests["KS"](reference.features[:, i], window[:, i]) for i in range(len(COLUMNS))]
        i = COLUMNS.index("confidence")
        psi = tests["PSI"](reference.features[:, i], window[:, i])
        for name, drifted in zip(delays, (psi, ks[i], sum(ks) >= len(ks) / 2), strict=True):
            if drifted:
                delays[name] = float(end - CLEAN)
    return delays


def detect(
    world: World, shift: str, runs: int, budget: Budget, tests: dict[str, Callable[[Any, Any], bool]] | None
) -> list[dict[str, Any]]:
    """One row for each rule."""
    rng = np.random.default_rng(1)
    events, hits, others = [], [], []
    for _ in range(runs):
        found, rest = split(world, rng)
        stream = streams(world, shift, rest, rng)
        events.append(found)
        hits.append(stream.hits(found))
        if tests:
            reference = world.clean.take(np.setdiff1d(np.arange(len(world.clean)), rest))
            with warnings.catch_warnings(action="ignore"):
                others.append(run_evidently(tests, reference, stream))
    names = list(dict.fromkeys(event.statistic for event in events[0]))
    pages = [any(e.statistic == name and e.severity is Severity.PAGE for e in events[0]) for name in names]
    stacked = np.stack(hits)
    first, _ = race(events, lambda step: stacked[:, step], CLEAN + SHIFTED, budget.threshold(len(names)))
    # An alarm before the shift has found nothing.
    delay = np.where(first >= CLEAN, first - CLEAN + 1.0, np.inf)
    rules = {"Kickstand: any": [True] * len(names), "Kickstand: page": pages}
    rows = [summarise(delay[:, chosen].min(axis=1), shift, name) for name, chosen in rules.items()]
    by_name = summarise_each(delay, names, shift)
    return (
        rows
        + by_name
        + [
            summarise(np.array([other[name] for other in others]), shift, name)
            for name in (others[0] if others else ())
        ]
    )


def summarise_each(delay: NDArray[np.float64], names: list[str], shift: str) -> list[dict[str, Any]]:
    return [summarise(delay[:, i], shift, name) for i, name in enumerate(names)]


def count_false_alarms(world: World, runs: int, budget: Budget) -> NDArray[np.int64]:
    """Alarms in each of this many runs of 90 days; drawn with replacement, for there are only 500 images a half."""
    rng, counts = np.random.default_rng(2), []
    steps, block = round(budget.days * budget.images_per_day), 100
    for start in range(0, runs, block):
        events, pools = [], []
        for _ in range(min(block, runs - start)):
            found, rest = split(world, rng)
            events.append(found)
            pools.append(world.clean.take(rest).hits(found))
        stacked, row = np.stack(pools), np.arange(len(pools))
        names = {event.statistic for event in events[0]}

        def draw(_: int, stacked: Hits = stacked, row: NDArray[np.int64] = row) -> Hits:
            return stacked[row, rng.integers(stacked.shape[1], size=len(row))]

        _, count = race(events, draw, steps, budget.threshold(len(names)))
        counts.append(count.sum(axis=1))
    return np.concatenate(counts)


def agrees_with_core(world: World, budget: Budget) -> bool:
    """Whether the many-streams-at-once computation finds what the shipped one finds."""
    from datetime import UTC, datetime, timedelta

    rng = np.random.default_rng(3)
    order = rng.permutation(len(world.clean))
    baseline = make_baseline(world.clean.take(order[:500]).items(), "half", "m", "p")
    stream = streams(world, next(iter(world.shifted)), order[500:], rng)
    drift, seen = Drift(baseline, budget), []
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for i, (features, rates) in enumerate(stream.items()):
        drift.see(Observation(str(i), "v", start + timedelta(minutes=i), features, rates))
        seen.append({finding.statistic for finding in drift.findings() if finding.alarm})
    events = list_events(baseline)
    names = list(dict.fromkeys(event.statistic for event in events))
    hits = stream.hits(events)
    first, _ = race([events], lambda step: hits[None, step], len(stream), drift.threshold)
    core = [next((i for i, alarms in enumerate(seen) if name in alarms), -1) for name in names]
    return core == [int(step) for step in first[0]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="what `kickstand dataset` wrote")
    parser.add_argument("--foreign", type=Path, default=os.environ.get("KICKSTAND_AUXILIARY"), help=".npz or folder")
    parser.add_argument("--out-of-fold", type=Path, default=OUT_OF_FOLD)
    parser.add_argument("--runs", type=int, default=200, help="for each shift")
    parser.add_argument("--false-alarm-runs", type=int, default=1000)
    parser.add_argument("--images-per-day", type=float, default=1000.0)
    parser.add_argument("--out", type=Path, default=PROJECT / "build" / "bench-drift.json")
    args = parser.parse_args()
    console = Console(soft_wrap=True, highlight=False)
    budget = Budget(images_per_day=args.images_per_day)
    world = build_world(args.dataset, args.foreign and Path(args.foreign), args.out_of_fold)
    tests = load_evidently()
    if not world.out_of_fold:
        console.print("no out-of-fold predictions: the shipped model classifies the images it has learnt from")
    if not tests:
        console.print("Evidently is not installed here: left out")
    if not agrees_with_core(world, budget):
        raise SystemExit("error: the bench computes something else than the shipped monitor")
    shifts = ["none", *world.shifted, "classes 50/50 → 80/20"]
    if world.foreign:
        shifts += [f"{share} % foreign" for share in (10, 20, 50)]
    rows = [row for shift in shifts for row in detect(world, shift, args.runs, budget, tests)]
    shown = [name for name in dict.fromkeys(row["statistic"] for row in rows) if ":" in name]
    table = Table("shift", *shown, title=f"found within 200 images (median delay); {args.runs} runs a shift")
    for shift in shifts:
        cells = {row["statistic"]: row for row in rows if row["shift"] == shift}
        table.add_row(
            shift,
            *(
                f"{cells[name]['detected_within_200']:.2f}"
                + (f" ({cells[name]['median_delay']:.0f})" if cells[name]["median_delay"] is not None else "")
                for name in shown
            ),
        )
    console.print(table)
    alarms = count_false_alarms(world, args.false_alarm_runs, budget)
    false_runs = int((alarms > 0).sum())
    console.print(
        f"false alarms in 90 days at {budget.images_per_day:,.0f} images a day: {alarms.mean():.3f} on average (budget "
        f"{budget.false_alarms:g}); in {false_runs} of {len(alarms):,} runs any"
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    told = {
        "detection": rows,
        "false_alarm_runs": false_runs,
        "runs": len(alarms),
        "false_alarms_mean": round(float(alarms.mean()), 4),
        "false_alarms_budget": budget.false_alarms,
        "days": budget.days,
        "images_per_day": budget.images_per_day,
        "out_of_fold": world.out_of_fold,
    }
    args.out.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    console.print(f"written to {args.out}", markup=False)


if __name__ == "__main__":
    main()
