"""`kickstand classify` on many files against bare batches: `python -m bench.many_files`.

Bare: as many processes as cores, Pillow decodes and scales each photo to the same pixels, ONNX Runtime classifies eight
at a time; no statistics, hash, checks, decision or JSON. Both run alone, in turns, on few and on many photos: the
difference is what each further photo costs, so that starting up does not count.
"""

import argparse
import io
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from bench.harness import Row, spread
from kickstand.batches import in_batches
from kickstand.classify.artefact import read_card
from kickstand.classify.images import LONGEST, scale
from kickstand_cli.parallel import BATCH, cores
from kickstand_cli.project import MODEL, PROJECT

ROUNDS = 5
FEW = 48
KINDS = {
    "360 × 360 pixels": ((360, 360), 640),
    "2 megapixels": ((1600, 1200), 320),
    "12 megapixels": ((4000, 3000), 96),
}
"""Size of the photos, and how many of them after the few."""


def scale_bare(data: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """The pixels that `kickstand.classify.images.scale` makes of an RGB JPEG without orientation."""
    photo: Image.Image = Image.open(io.BytesIO(data))
    shrink = min(1.0, LONGEST / max(photo.size))
    small = (round(photo.width * shrink), round(photo.height * shrink))
    photo.draft(None, (2 * LONGEST, 2 * LONGEST))
    if photo.size != small:
        photo = photo.resize(small, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.asarray(photo.resize((width, height), Image.Resampling.LANCZOS))


@cache
def session(artefact: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(artefact / "model.onnx", options, providers=["CPUExecutionProvider"])


def answer_bare(artefact: Path, size: tuple[int, int], files: list[Path]) -> NDArray[Any]:
    images = np.stack([scale_bare(file.read_bytes(), *size) for file in files])
    logits: NDArray[Any] = session(artefact).run(["logits"], {"image": images})[0]
    return logits


def run_bare(artefact: Path, files: list[Path]) -> None:
    height, width, _ = read_card(artefact).input_shape
    with ProcessPoolExecutor(cores(), multiprocessing.get_context("spawn")) as pool:
        for _ in pool.map(partial(answer_bare, artefact, (height, width)), in_batches(files, BATCH)):
            pass


def make_photos(folder: Path, size: tuple[int, int], number: int) -> list[Path]:
    """Enlarged samples with noise, so that a JPEG is about as large as a camera's."""
    samples = sorted((PROJECT / "samples/images/bicycle").glob("*.jpg"))
    encoded = []
    for sample in samples:
        with Image.open(sample) as small:
            photo = small.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        noise = Image.effect_noise(size, 40).convert("RGB")
        jpeg = io.BytesIO()
        Image.blend(photo, noise, 0.1).save(jpeg, "JPEG", quality=88)
        encoded.append(jpeg.getvalue())
    files = [folder / f"{index:05}.jpg" for index in range(number)]
    for index, file in enumerate(files):
        file.write_bytes(encoded[index % len(encoded)])
    return files


def run_alone(side: str, artefact: Path, folder: Path, number: int) -> tuple[float, float]:
    """Wall and CPU seconds of a fresh process and all of its own."""
    started = time.perf_counter()
    options = {"--side": side, "--model": str(artefact), "--photos": str(folder), "--number": str(number)}
    program = [sys.executable, "-m", "bench.many_files", *(word for option in options.items() for word in option)]
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{side} failed")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime


def measure(artefact: Path = MODEL, rounds: int = ROUNDS) -> Iterator[Row]:
    """The cost of a further photo, in milliseconds of all processes together."""
    for kind, (size, many) in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            files = make_photos(Path(folder), size, FEW + many)
            data, card = files[0].read_bytes(), read_card(artefact)
            same = np.asarray(scale(data, "photo", card.input_shape)[0])
            if not np.array_equal(same, scale_bare(data, *card.input_shape[:2])):
                raise RuntimeError("the anchor sees other pixels")
            costs: dict[str, list[tuple[float, float]]] = {"ours": [], "bare": []}
            for _ in range(rounds):
                for side, found in costs.items():
                    few, all_of_them = (run_alone(side, artefact, Path(folder), n) for n in (FEW, FEW + many))
                    found.append((all_of_them[0] - few[0], all_of_them[1] - few[1]))
        for index, clock in enumerate(("wall", "CPU")):
            ours, bare = ([1000 * cost[index] / many for cost in costs[side]] for side in ("ours", "bare"))
            yield Row("many files", f"classify, {kind}, {clock}", "bare batches", "ms", ours, bare, 1.25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--side", choices=["ours", "bare"], help=argparse.SUPPRESS)
    parser.add_argument("--photos", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        files = sorted(args.photos.iterdir())[: args.number]
        if args.side == "bare":
            run_bare(args.model, files)
        else:
            from kickstand_cli.classify.classify import classify

            classify(files, args.model, as_json=True)
        return
    console = Console(width=140, highlight=False)
    rows = []
    for row in measure(args.model, args.rounds):
        rows.append(row)
        speed = statistics.median(bare / mine for mine, bare in zip(row.ours, row.anchor, strict=True))
        console.print(
            f"{row.what}: {spread(row.ours)} ms; {row.against}: {spread(row.anchor)} ms; {speed:.2f} of its speed"
        )
    build = PROJECT / "build"
    build.mkdir(exist_ok=True)
    (build / "bench-many-files.json").write_text(json.dumps([row.as_dict() for row in rows], indent=1), "utf-8")


if __name__ == "__main__":
    main()
