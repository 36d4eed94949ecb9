"""`python -m bench.photo_quality PHOTOS`: are unusable photos sent back, and good ones not?

PHOTOS: a folder with manifest.csv, whose columns class, source and file name PHOTOS/<class>/<file>. Each photo is
enlarged twofold, degraded in known steps, saved as a JPEG, prepared and classified. A degraded photo is unusable when
the model's prediction is no longer that of the photo that was only enlarged; one that was only enlarged is good. Limits
were chosen on half of the sources (every other one by name; `--choose` does it again), and reported on the others.

What this leaves unproved: small photos enlarged have none of a large photo's own detail, noise and compression; a
rendered shake, night or glare is cleaner than a real one; the glare is always near the middle; and a shipped model has
learnt from some of these photos, so that it is surer of them than of new ones.
"""

import argparse
import csv
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from rich.console import Console
from rich.table import Table

from kickstand.classify import photo_quality
from kickstand.classify.images import prepare
from kickstand.classify.inference import EmbeddedModel
from kickstand.classify.policy import decide
from kickstand.events import ImageStatistics, Prediction, Reason
from kickstand.quality import clopper_pearson
from kickstand_cli.project import MODEL

Pixels = NDArray[np.float32]
STEPS: dict[str, tuple[float, ...]] = {
    "blur": (0.25, 0.5, 1, 2, 4),  # standard deviation, % of the longer side
    "motion": (1, 2, 4, 8, 16),  # length, % of the longer side
    "dark": (4, 16, 64, 256),  # times less light, with the noise of a sensor
    "bright": (2, 4, 8, 16),  # times more light
    "glare": (10, 20, 30, 45),  # radius of a light shining into the lens, % of the longer side
    "small": (128, 96, 64, 48, 32, 24, 16),  # longer side, pixels
}


class Seen(NamedTuple):
    """One photo after one step. unusable: whether it has changed the model's prediction."""

    source: str
    shows: str
    kind: str
    step: float
    statistics: ImageStatistics
    prediction: Prediction
    unusable: bool


def to_light(photo: Image.Image) -> Pixels:
    """Linear light, 0 to 1: IEC 61966-2-1 (sRGB)."""
    value = np.asarray(photo, np.float32) / 255
    light: Pixels = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return light


def to_photo(light: NDArray[Any]) -> Image.Image:
    light = np.clip(light, 0, 1)
    value = np.where(light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)
    return Image.fromarray((value * 255 + 0.5).astype(np.uint8))


def move(photo: Image.Image, length: float, angle: float) -> Image.Image:
    """The mean of the photo along a line of this length, pixels."""
    margin = int(length / 2) + 2
    wide = np.pad(np.asarray(photo, np.float32), ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    places = np.linspace(-length / 2, length / 2, max(2, min(17, round(length))))
    total = np.zeros((photo.height, photo.width, 3), np.float32)
    for place in places:
        x, y = margin + round(place * np.cos(angle)), margin + round(place * np.sin(angle))
        total += wide[y : y + photo.height, x : x + photo.width]
    return Image.fromarray((total / len(places) + 0.5).astype(np.uint8))


def degrade(photo: Image.Image, chance: np.random.Generator) -> Iterator[tuple[str, float, Image.Image]]:
    """Every step of every kind."""
    longer, light = max(photo.size), to_light(photo)
    angle, x, y = chance.uniform(0, np.pi), chance.uniform(0.3, 0.7), chance.uniform(0.3, 0.7)
    rows, columns = np.mgrid[: photo.height, : photo.width]
    distance = np.hypot(columns - x * photo.width, rows - y * photo.height)[..., np.newaxis] / longer
    for kind, steps in STEPS.items():
        for step in steps:
            match kind:
                case "blur":
                    result = photo.filter(ImageFilter.GaussianBlur(longer * step / 100))
                case "motion":
                    result = move(photo, longer * step / 100, angle)
                case "dark":
                    less = light / step  # a pixel full at 5,000 electrons, read with a noise of 3
                    result = to_photo(less + chance.normal(0, 1, less.shape) * np.sqrt(less / 5000 + 4e-7))
                case "bright":
                    result = to_photo(light * step)
                case "glare":
                    result = to_photo(light + 3 * np.exp(-((distance / (step / 100)) ** 2)))
                case _:
                    shrink = step / longer
                    size = max(1, round(photo.width * shrink)), max(1, round(photo.height * shrink))
                    result = photo.resize(size, Image.Resampling.LANCZOS)
            yield kind, step, result


def look(folder: Path, model: EmbeddedModel, sample: int) -> Iterator[Seen]:
    """At most this many photos of each class of each source, after every step."""
    with (folder / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    chance = np.random.default_rng(1)
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["source"], row["class"]), []).append(row)
    for (source, shows), group in sorted(groups.items()):
        for number in chance.permutation(len(group))[:sample]:
            with Image.open(folder / shows / group[number]["file"]) as photo:
                large = photo.convert("RGB").resize((2 * photo.width, 2 * photo.height), Image.Resampling.BICUBIC)
            usual = None
            for kind, step, degraded in itertools.chain([("good", 0.0, large)], degrade(large, chance)):
                data = io.BytesIO()
                degraded.save(data, "JPEG", quality=90)
                image = prepare(data.getvalue(), group[number]["file"], model.card.input_shape)
                prediction = model.predict(image)
                answer = "neither" if prediction.neither > 0.5 else prediction.label
                usual = usual or answer
                yield Seen(source, shows, kind, step, image.statistics, prediction, answer != usual)


def is_retake(seen: Seen, model: EmbeddedModel) -> bool:
    flaw = photo_quality.find_flaw(seen.statistics)
    return decide(seen.prediction, model.card.policy, flaw=flaw).reason is Reason.RETAKE


def choose(seen: list[Seen], model: EmbeddedModel) -> None:
    """Set the limits that find most unusable photos among those that send at most 1.9 % of good ones back."""
    good, bad = [s for s in seen if s.kind == "good"], [s for s in seen if s.unusable]

    def value() -> float:
        wrongly = sum(is_retake(s, model) for s in good) / len(good)
        return sum(is_retake(s, model) for s in bad) / len(bad) if wrongly <= 0.019 else -wrongly

    grids = {
        "SHARPNESS": ([0.04, 0.06, 0.08, 0.09, 0.1, 0.11, 0.12], [0.12, 0.14, 0.16, 0.18, 0.2, 0.22, 0.24, 0.26]),
        "GLARE": ([0.06, 0.08, 0.12, 0.16, 0.2, 0.3], [0.005, 0.01, 0.02, 0.03, 0.05]),
    }
    best = value()
    for name, place in [(name, place) for _ in range(2) for name in grids for place in (0, 1)]:
        for limit in grids[name][place]:
            before = getattr(photo_quality, name)
            setattr(photo_quality, name, (limit, before[1]) if place == 0 else (before[0], limit))
            if (now := value()) > best:
                best = now
            else:
                setattr(photo_quality, name, before)


def share(seen: list[Seen], model: EmbeddedModel) -> str:
    found = clopper_pearson(sum(is_retake(s, model) for s in seen), len(seen))
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}], n {found.n:,}" if seen else "none"


def tabulate(seen: list[Seen], model: EmbeddedModel, title: str) -> Table:
    table = Table("step", "prediction changed", "sent back: unusable", "usable", title=title)
    lines: list[tuple[str, list[Seen]]] = [
        (f"{kind} {step:g}", [s for s in seen if (s.kind, s.step) == (kind, step)])
        for kind, steps in STEPS.items()
        for step in steps
    ]
    for name, part in [*lines, ("all degraded", [s for s in seen if s.kind != "good"])]:
        unusable, usable = [s for s in part if s.unusable], [s for s in part if not s.unusable]
        table.add_row(name, f"{len(unusable)} of {len(part)}", share(unusable, model), share(usable, model))
    good = [s for s in seen if s.kind == "good"]
    table.add_section()
    table.add_row("good", "", "", share(good, model))
    table.add_row("good, of a class", "", "", share([s for s in good if s.shows != "neither"], model))
    for source in sorted({s.source for s in seen}):
        part = [s for s in seen if s.source == source]
        unusable, fine = [s for s in part if s.unusable], [s for s in part if s.kind == "good"]
        table.add_row(f"  {source}", "", share(unusable, model), share(fine, model))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--sample", type=int, default=40, help="photos of each class of each source")
    parser.add_argument("--choose", action="store_true", help="choose the limits anew")
    options: Any = parser.parse_args()
    model = EmbeddedModel(options.model)
    seen = list(look(options.photos, model, options.sample))
    chosen_on = set(sorted({s.source for s in seen})[::2])
    halves = [s for s in seen if s.source in chosen_on], [s for s in seen if s.source not in chosen_on]
    if options.choose:
        choose(halves[0], model)
    console = Console(width=110)
    limits = f"sharpness {photo_quality.SHARPNESS}, glare {photo_quality.GLARE}, side {photo_quality.SHORTER_SIDE}"
    for half, title in zip(halves, ("sources that the limits were chosen on", "the other sources"), strict=True):
        console.print(tabulate(half, model, f"{title}; {limits}"))


if __name__ == "__main__":
    main()
