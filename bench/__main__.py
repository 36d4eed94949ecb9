"""`python -m bench`: runs every bench, and writes docs/benchmarks.md and docs/benchmarks.svg."""

import io
import json
import os
import platform
import statistics
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from rich.console import Console

from bench import cold_start, handlers, inference, ledger, many_files, monitor
from bench.harness import Row, spread
from bench.promise import HEADING
from kickstand_cli.project import PROJECT

BUILD, DOCS = PROJECT / "build", PROJECT / "docs"
INK = "#000101"  # stands for the text's colour, which follows the reader's theme
THEME = """<style>:root{--ink:#1c2733}@media(prefers-color-scheme:dark){:root{--ink:#e8edf2}}</style>
"""
ABOUT = """\
`make bench` writes this page, and the numbers of each round into `build/bench.json`. Each row compares two things
that were measured in turns. It shows medians of the rounds, quartiles in brackets, and the median of the rounds'
ratios. Compare ratios, not times: machines differ. Warm rows count CPU time, which other work disturbs little; cold
starts count wall time."""
ABOUT_HANDLERS = """\
This is the handlers' own work, as AWS answers at once here. Four functions decode, hash, measure, check and log, and
pass JSON to each other. With a thumbnail of 32 × 32 pixels this takes three to four milliseconds more than the bare
work. A larger photo is also measured, and decoded in a separate process.

The reference design (serialize → classify → filter) carries the photo in the state, which may have 262,144 bytes:"""
ABOUT_MANY_FILES = """\
The price of one more photo on all cores, without starting up. Bare batches decode and scale to the same pixels, and
classify eight photos at a time. They compute no statistics, which take 2.5 ms of each photo."""
ABOUT_COLD_START = """\
Each built function starts in a fresh process of AWS's runtime client and gets its sample event twice. A row counts the
work that is done only once: the time from the start to the first result, less the time of the second result.

The bare function is what `sam init` writes for Powertools (Logger, Metrics, Tracer). It also has a Pydantic model and
one client of AWS, as the compared function does. Sizes are unzipped, with layers; Lambda takes 250 MB. Functions that
ship NumPy hold the model or draw charts; they have no target."""

ABOUT_MONITOR = """\
One run of the shipped monitor that finds this many new records, slice by slice. Its function has 512 MB. Each size has
its own process. AWS is simulated below botocore: these are real requests and answers, without the network."""
ABOUT_LEDGER = """\
A run reads the new uploads alone. An audit compares the whole bucket with all records; here it is interrupted, and
continues from its saved state. AWS is simulated as above."""


def main() -> None:
    console = Console(stderr=True)
    BUILD.mkdir(exist_ok=True)
    console.print("handlers")
    rows, notes = handlers.measure()
    console.print("inference")
    rows += inference.measure()
    console.print("many files")
    rows += many_files.measure()
    console.print("cold start")
    cold_start.main()
    rows += cold_rows(json.loads((BUILD / "bench-cold-start.json").read_bytes()))
    console.print("monitor")
    runs = monitor.measure()
    console.print("ledger")
    kept = ledger.measure()
    about = machine()
    measured = {
        "rows": [row.as_dict() for row in rows],
        "states": notes,
        "monitor": runs,
        "ledger": kept,
        "machine": about,
    }
    (BUILD / "bench.json").write_text(json.dumps(measured, indent=1), "utf-8")
    draw(rows, runs, DOCS / "benchmarks.svg")
    file = DOCS / "benchmarks.md"
    _, heading, promise = file.read_text("utf-8").partition(HEADING)  # which bench-promise writes
    file.write_text("\n".join([page(rows, notes, runs, kept, about), heading + promise]), "utf-8")


def cold_rows(measured: dict[str, Any]) -> list[Row]:
    return [
        Row(
            "cold start",
            f"{name.removesuffix('Function')}, {found['mb']:.0f} MB{'' if found['whole'] else ', init alone'}",
            "a bare Powertools function",
            "ms",
            [mine for mine, _ in found["ms"]],
            [anchor for _, anchor in found["ms"]],
            None if found["numpy"] else 1.3,
        )
        for name, found in measured.items()
    ]


def machine() -> dict[str, Any]:
    """What it ran on; no names."""
    info = Path("/proc/cpuinfo")
    models = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
    return {"cpu": models[0] if models else platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}


def page(
    rows: list[Row],
    notes: list[str],
    runs: list[dict[str, Any]],
    kept: list[dict[str, Any]],
    about: dict[str, Any],
) -> str:
    """docs/benchmarks.md. runs: of the monitor. kept: runs and audits of the ledger. about: the machine."""
    lines = [
        "# Benchmarks",
        "",
        ABOUT,
        f"On {datetime.now(UTC):%Y-%m-%d}: {about['cpu']}, {about['cores']} cores, Python {platform.python_version()},",
        f"load average {about['load']:.1f}, mostly from other work.",
        "",
        "![Ratios to their anchors](benchmarks.svg)",
    ]
    for bench in dict.fromkeys(row.bench for row in rows):
        lines += [
            "",
            f"## {bench.capitalize()}",
            "",
            "| | ms | against | ms | rounds | ratio | target |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in (row for row in rows if row.bench == bench):
            target = f"≤ {row.target}{', missed' if row.ratio > row.target else ''}" if row.target else ""
            ratio = f"**{row.ratio:.2f}**" if row.target else f"{row.ratio:.2f}"
            lines.append(
                f"| {row.what} | {spread(row.ours)} | {row.against} | {spread(row.anchor)} | {len(row.ours)} "
                f"| {ratio} | {target} |"
            )
        if bench == "cold start":
            lines += ["", ABOUT_COLD_START]
        if bench == "many files":
            lines += ["", ABOUT_MANY_FILES]
        if bench == "handlers":
            lines += ["", ABOUT_HANDLERS, "", *(f"- {note}" for note in notes)]
    lines += ["", "## Monitor", "", ABOUT_MONITOR, ""]
    lines += ["| records | CPU s | µs per record | peak MB | kB per record |", "|---|---|---|---|---|"]
    for run in runs:
        number, least = run["records"], runs[0]["peak_mb"]
        growth = f"{(run['peak_mb'] - least) * 1000 / (number - runs[0]['records']):.1f}" if run is not runs[0] else ""
        lines.append(
            f"| {number:,} | {run['seconds']:.1f} | {run['seconds'] / number * 1e6:.0f} "
            f"| {run['peak_mb']:,} | {growth} |"
        )
    lines += ["", "## Ledger", "", ABOUT_LEDGER, ""]
    lines += ["| what | uploads ever | CPU s | calls of AWS | peak MB |", "|---|---|---|---|---|"]
    lines += [f"| {a['what']} | {a['ever']:,} | {a['cpu_s']} | {a['calls']:,} | {a['peak_mb']} |" for a in kept]
    return "\n".join([*lines, ""])


def draw(rows: list[Row], runs: list[dict[str, Any]], file: Path) -> None:
    """Each row's ratio with its quartiles and target; and the monitor's time and memory by records."""
    mpl.rcParams.update({"svg.hashsalt": "kickstand", "font.size": 9, "font.family": "sans-serif"})
    mpl.rcParams.update({"text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK})
    mpl.rcParams.update({"xtick.color": INK, "ytick.color": INK})
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 0.34 * len(rows) + 1.2), width_ratios=(3, 1), layout="constrained"
    )
    for place, row in enumerate(reversed(rows)):
        low, _, high = statistics.quantiles(row.ratios, n=4)
        colour = "#5b6875" if row.target is None else "#1a7f4b" if row.ratio <= row.target else "#b3372f"
        left.barh(place, row.ratio, color=colour, alpha=0.75, height=0.6)
        left.plot([low, high], [place, place], color=INK, linewidth=1)
        if row.target:
            left.plot([row.target] * 2, [place - 0.4, place + 0.4], color=INK, linewidth=2)
        right_of = max(high, row.ratio, row.target or 0)
        left.annotate(f"{row.ratio:.2f}", (right_of, place), xytext=(5, -3), textcoords="offset points")
    left.set_yticks(range(len(rows)), [f"{row.what}\nagainst {row.against}" for row in reversed(rows)], fontsize=6.5)
    left.axvline(1, color=INK, linestyle=":", linewidth=1)
    left.set_xscale("log")
    left.set_title("times the anchor (dotted: the same; thick: the target)", fontsize=9)
    sizes = [run["records"] for run in runs]
    right.loglog(sizes, [run["seconds"] for run in runs], "o-", color="#3b5bb5", label="CPU seconds")
    right.loglog(sizes, [run["peak_mb"] / 1000 for run in runs], "s--", color="#b3372f", label="memory, GB")
    right.set_title("one run of the monitor", fontsize=9)
    right.set_xlabel("records")
    right.legend(fontsize=7, framealpha=0)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    head, svg, rest = drawn.getvalue().replace(INK, "var(--ink)").partition("<defs>")
    file.write_text(f"{head}{THEME}{svg}{rest}", "utf-8")


if __name__ == "__main__":
    main()
