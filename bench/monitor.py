"""What the monitor takes, by the number of records.

`python -m bench.monitor N` measures a whole run of the shipped monitor that finds N new records, slice by slice. AWS is
simulated below botocore, as in `bench.ledger`.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from bench.ledger import Aws
from fuzz.images import peak_megabytes
from kickstand.events import ImageStatistics
from kickstand.monitor.run import MonitorSettings, read_watch
from kickstand.monitor.store import run_monitor
from kickstand.records import Record
from kickstand.store import changed, record_item
from kickstand_cli.project import MODEL, PROJECT

SIZES = (10_000, 100_000, 1_000_000)
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
BACKLOG = timedelta(hours=47)  # the monitor looks back two days at most


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


def measure(sizes: tuple[int, ...] = SIZES) -> list[dict[str, Any]]:
    """One run for each size, each in a process of its own."""
    runs = []
    for size in sizes:
        ran = subprocess.run(
            [sys.executable, "-m", "bench.monitor", str(size)], cwd=PROJECT, capture_output=True, text=True, check=True
        )
        runs.append(json.loads(ran.stdout))
    return runs


class Table(Aws):
    """The table of records and its index by time, with this many new records, and the control table."""

    def __init__(self, number: int) -> None:
        super().__init__(0, 0)
        self.number = number
        (sample,) = records(1)
        self.sample = json.dumps(record_item(sample.model_copy(update={"image": "IMAGE", "version": "v"})))

    @cache  # noqa: B019 - one for each process
    def partition(self, name: str) -> list[int]:
        """Which records lie in this partition of the index."""
        return self.day(name.partition("#")[0])[name]

    @cache  # noqa: B019
    def day(self, day: str) -> dict[str, list[int]]:
        step = BACKLOG / self.number
        first = max(0, (datetime.fromisoformat(f"{day}T00:00:00+00:00") - NOW + BACKLOG) // step)
        found: dict[str, list[int]] = defaultdict(list)
        for position in range(first, min(self.number, first + timedelta(days=1) // step + 2)):
            found[changed(f"s3://photos/{position:09}", self.at(position))["changed_on"]["S"]].append(position)
        return found

    def at(self, position: int) -> datetime:
        return NOW - BACKLOG + position * (BACKLOG / self.number)

    def Query(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        values = asked["ExpressionAttributeValues"]
        start = int(asked.get("ExclusiveStartKey", {}).get("image", {}).get("S", "s3://photos/-1").rpartition("/")[2])
        items = []
        for position in self.partition(values[":on"]["S"]):
            image = f"s3://photos/{position:09}"
            place = changed(image, self.at(position))
            if position > start and values[":first"]["S"] <= place["changed_at"]["S"] <= values[":last"]["S"]:
                items.append({"image": {"S": image}, "version": {"S": "v"}, **place})
            if len(items) == asked["Limit"]:
                return {"Items": items, "LastEvaluatedKey": items[-1]}
        return {"Items": items}

    def BatchGetItem(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"Responses": {"records": [self.item(key) for key in asked["RequestItems"]["records"]["Keys"]]}}

    def PutEvents(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"FailedEntryCount": 0, "Entries": [{} for _ in asked["Entries"]]}

    def item(self, key: dict[str, Any]) -> Any:
        image = key["image"]["S"]
        position = int(image.rpartition("/")[2])
        chance = random.Random(position)  # noqa: S311
        item = json.loads(self.sample.replace("IMAGE", image))
        item |= changed(image, self.at(position)) | {"recorded_at": {"S": self.at(position).isoformat()}}
        item["image_ref"]["M"]["bucket"]["S"] = "photos"
        shown = {name: {"N": str(value)} for name, value in statistics(chance).model_dump().items() if value}
        item["prepared_image"]["M"]["statistics"]["M"] |= shown
        item["prediction"]["M"]["confidence"]["N"] = str(1 - chance.random() ** 3 / 2)
        return item


def measure_run(number: int) -> dict[str, Any]:
    """CPU seconds of a run that finds this many new records, and the process' largest resident set."""
    table = Table(number)
    dynamodb, events = table.books().dynamodb, table.client("events")
    settings = MonitorSettings.model_validate(
        {
            "RECORDS_TABLE": "records",
            "REVIEWS_TABLE": "reviews",
            "CONTROL_TABLE": "control",
            "IMAGE_BUCKET": "photos",
            "REVIEW_EVERYTHING_WHEN": "never",
            "LAG_SECONDS": "120",
            "MODEL_DIR": str(MODEL),
        }
    )
    started = time.process_time()
    found = run_monitor(dynamodb, events, settings, read_watch(MODEL), NOW, lambda: 900.0)
    seconds = time.process_time() - started
    images = found.images if found else 0
    return {"records": images, "seconds": seconds, "calls": table.calls.total(), "peak_mb": peak_megabytes()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=int, metavar="N")
    print(json.dumps(measure_run(parser.parse_args().records)))  # noqa: T201


if __name__ == "__main__":
    main()
