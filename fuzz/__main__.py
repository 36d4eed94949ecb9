"""`python -m fuzz`: everything hostile, in full; writes docs/hostile-input.md.

--seconds: of coverage-guided fuzzing, by the Python of .venv-fuzz.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from fuzz.artefacts import try_artefacts
from fuzz.commands import try_commands
from fuzz.events import sample_events, try_events
from fuzz.files import try_captures, try_items, try_record_files
from fuzz.images import FAMILIES
from fuzz.keys import try_keys
from fuzz.tally import Tally, total
from kickstand.events import PreparedImage
from kickstand_cli.local.stack import deploy
from kickstand_cli.project import PROJECT, TEMPLATE

BUILD, PAGE = PROJECT / "build/fuzz", PROJECT / "docs/hostile-input.md"
UNSURE = {"route": "review", "reason": "unsure", "explanation": "made unsure", "policy_version": "fuzz"}
ABOUT = """\
# Hostile input

Anybody who can upload chooses bytes and names. `make fuzz` tries bad ones and writes this page. `make test-all` tries
a part of each family.

| column | meaning |
|---|---|
| decided | went through like any other input |
| refused | ended in a rejected record, or in an error that names what is wrong |
| unhandled | anything else; there must be none |
| slowest, s | CPU seconds of the slowest attempt |
| peak, MB | largest resident set of the process; for photos, with the function's imports and the decoder |

A photo also counts as unhandled if it takes more than 614 MB or 6.9 CPU seconds. Functions that read photos have
1,024 MB, and 20 seconds at 58 % of a CPU: 60 % of that is the limit. [The FAQ](faq.md#what-are-its-limits) has the
limits of a photo. A separate process decodes it, with 5 CPU seconds and 420 MB at most.

Earlier findings are tried again each time. A GIF of 116 bytes took 3 GB. EXIF with three million fractions took 21
seconds. Other findings: a photo 1 pixel wide and 50 million high, a JPEG with a thousand scans, a TIFF whose tiles
share their data.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--python", default=str(PROJECT / ".venv-fuzz/bin/python"))
    options = parser.parse_args()
    console = Console(stderr=True)
    BUILD.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    tallies = []
    for family in FAMILIES:
        console.print(family)
        command = [sys.executable, "-m", "fuzz.images", family, "10"]
        tallies.append(
            Tally(**json.loads(subprocess.run(command, cwd=PROJECT, capture_output=True, check=True).stdout))
        )
    console.print("coverage-guided")
    tallies.append(guided(options.python, options.seconds))
    with (
        tempfile.TemporaryDirectory() as name,
        (BUILD / "functions.log").open("w", errors="backslashreplace") as log,
        redirect_stdout(log),
    ):
        console.print("events")
        with deploy(TEMPLATE) as stack:
            tallies += [try_events(stack, name, event, 1, 100) for name, event in sample_events(stack).items()]
        console.print("keys")
        with deploy(TEMPLATE) as stack:
            stack.functions["DecideFunction"].handler = lambda *_: UNSURE
            tallies.append(try_keys(stack, Path(name), every=1))
        console.print("files and tables")
        tallies += [try_record_files(Path(name), every=1), try_captures(every=1), try_items(every=1)]
        console.print("command lines")
        (Path(name) / "commands").mkdir()
        tallies.append(try_commands(Path(name) / "commands", 2000))
        console.print("artefacts")
        sample = PreparedImage.model_validate(json.loads((PROJECT / "events/classify_image.json").read_bytes()))
        tallies.append(try_artefacts(Path(name) / "model", sample, every=1))
    write(tallies)
    for problem in total(tallies).unhandled:
        console.print(f"unhandled: {problem}", markup=False)
    sys.exit(bool(total(tallies).unhandled))


def guided(python: str, seconds: int) -> Tally:
    """A run of fuzz.guided, and what it found."""
    command = [python, "-m", "fuzz.guided", str(BUILD), str(seconds)]
    path = {"PYTHONPATH": str(PROJECT / "layers/core")}
    ran = subprocess.run(command, cwd=PROJECT, env=os.environ | path, capture_output=True, text=True, check=False)
    return read_guided(ran.stderr)


def read_guided(log: str) -> Tally:
    """libFuzzer's last words: how many were tried, and the findings."""
    told = {name: int(value) for name, value in re.findall(r"^stat::(\w+):\s+(\d+)", log, re.MULTILINE)}
    tally = Tally(
        "coverage-guided (Atheris)", slowest_s=told.get("slowest_unit_time_sec"), peak_mb=told.get("peak_rss_mb")
    )
    tally.tried = told.get("number_of_executed_units", 0)
    tally.unhandled = re.findall(r"^SUMMARY: (.*)$", log, re.MULTILINE) or ([] if tally.tried else [log[-500:]])
    return tally


def write(tallies: list[Tally]) -> None:
    """The page, and build/fuzz/tallies.json."""
    (BUILD / "tallies.json").write_text(json.dumps([tally.as_dict() for tally in tallies], indent=1), "utf-8")
    everything = total(tallies)
    lines = [
        ABOUT,
        f"On {datetime.now(UTC):%Y-%m-%d}: {everything.tried:,} tried, {len(everything.unhandled):,} unhandled.",
        "",
        "| family | tried | decided | refused | unhandled | slowest, s | peak, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for tally in [*tallies, everything]:
        known = tally.decided + tally.refused > 0
        lines.append(
            f"| {tally.family} | {tally.tried:,} | {f'{tally.decided:,}' if known else ''} "
            f"| {f'{tally.refused:,}' if known else ''} | {len(tally.unhandled):,} "
            f"| {'' if tally.slowest_s is None else tally.slowest_s} | {tally.peak_mb or ''} |"
        )
    PAGE.write_text("\n".join([*lines, ""]), "utf-8")


if __name__ == "__main__":
    main()
