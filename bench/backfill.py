"""What `kickstand backfill` takes to count the photos, by their number: `python -m bench.backfill --help`.

AWS is simulated below botocore, as for bench/ledger.py. Each number is measured in a process of its own.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import deque
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from bench.ledger import Aws, record, told
from kickstand.backfill.rules import Order
from kickstand_cli.classify.backfill import Survey, take_survey
from kickstand_cli.project import PROJECT


class Past(Aws):
    """Of two photos one has a record."""

    def BatchGetItem(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        keys = [key["image"]["S"] for key in asked["RequestItems"]["records"]["Keys"]]
        items = [record(key) for key in keys if int(key.rpartition("/")[2]) % 2]
        return {"Responses": {"records": items}, "UnprocessedKeys": {}}


def survey(photos: int) -> dict[str, Any]:
    """The dry run's listing, and the records of all that it lists."""
    aws, started = Past(photos, 0), time.process_time()
    order = Order(run="bench", until=datetime.now(UTC), dollars_per_photo=Decimal(1), dollars_per_key=Decimal(0))
    (found,) = deque(take_survey(aws.books(), order, "current"), maxlen=1)
    if found != Survey(photos, photos // 2):
        raise SystemExit(f"wrong: {found}")
    return told("survey", photos, started, aws)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, nargs="+", default=[1_000, 1_000_000], help="in the bucket")
    parser.add_argument("--one", action="store_true", help="measure in this process, and print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(survey(options.photos[0])))  # noqa: T201
        return
    for photos in options.photos:
        command = [sys.executable, "-m", "bench.backfill", "--one", "--photos", str(photos)]
        ran = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
        line = "{ever:>10,} photos: {cpu_s:8.2f} s CPU, {calls:7,} calls, {peak_mb:4} MB at most"
        print(line.format(**json.loads(ran.stdout)))  # noqa: T201


if __name__ == "__main__":
    main()
