"""What one look of the monitor takes, by the number of records: `python -m bench.monitor N` measures one look."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from fuzz.images import peak_megabytes
from kickstand.events import ImageStatistics
from kickstand.monitor.drift import Budget
from kickstand.monitor.look import look, read_watch
from kickstand.records import Record
from kickstand_cli.project import MODEL, PROJECT

SIZES = (10_000, 100_000, 1_000_000)


def records(number: int) -> Iterator[Record]:
    """Records like the sample's, a second apart, of the shipped model, each with numbers of its own."""
    sample = Record.model_validate(json.loads((PROJECT / "events/ask_person.json").read_bytes())["record"])
    version = json.loads((MODEL / "model.json").read_bytes())["model_version"]
    chance = random.Random(5)  # noqa: S311 - the same records every time
    image, prediction = sample.prepared_image, sample.prediction
    if image is None or prediction is None:
        raise ValueError("events/ask_person.json: no prediction")
    for position in range(number):
        confidence = 1 - chance.random() ** 3 / 2
        yield sample.model_copy(
            update={
                "version": str(position),
                "audited": False,
                "recorded_at": sample.recorded_at + timedelta(seconds=position),
                "prepared_image": image.model_copy(update={"statistics": statistics(chance)}),
                "prediction": prediction.model_copy(update={"confidence": confidence, "model_version": version}),
            }
        )


def statistics(chance: random.Random) -> ImageStatistics:
    return ImageStatistics(
        brightness=chance.uniform(0.2, 0.8),
        contrast=chance.uniform(0.1, 0.3),
        sharpness=chance.uniform(0.02, 0.2),
        saturation=chance.uniform(0.1, 0.6),
    )


def measure_one(number: int) -> dict[str, Any]:
    """CPU seconds of the look, and the process' largest resident set, records included."""
    seen = list(records(number))
    started = time.process_time()
    report, _ = look(seen, read_watch(MODEL), Budget(images_per_day=86_400))
    seconds = time.process_time() - started
    return {"records": report.images, "seconds": seconds, "peak_mb": peak_megabytes()}


def measure(sizes: tuple[int, ...] = SIZES) -> list[dict[str, Any]]:
    """One look for each size, each in a process of its own."""
    looks = []
    for size in sizes:
        ran = subprocess.run(
            [sys.executable, "-m", "bench.monitor", str(size)], cwd=PROJECT, capture_output=True, text=True, check=True
        )
        looks.append(json.loads(ran.stdout))
    return looks


if __name__ == "__main__":
    print(json.dumps(measure_one(int(sys.argv[1]))))  # noqa: T201
