"""What a cold start costs, and how large it is: each built function, against a bare Powertools function.

Prints medians side by side; `make bench` runs it after `sam build`. A cold start is a fresh process of AWS's own
runtime client on the build's own files, with the bytecode that was built and no other, as on Lambda, whose /var/task
is read-only: from its start until it has answered its sample event. The bare function has the same packages, Logger,
Metrics, Tracer, one Pydantic model and a client of the service that ours talks to first; it calls no service, while
ours does all that its sample event asks for, of a local AWS.
"""

import json
import logging
import re
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from moto.server import ThreadedMotoServer
from rich.console import Console
from rich.table import Table

from events.local_aws import furnish
from kickstand_cli.local.sandbox import Answer, Package, invoke, read_packages
from kickstand_cli.local.template import load_yaml

PROJECT = Path(__file__).parents[1]
ROUNDS = 7
BARE = """
import os
from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.metrics import MetricUnit
from pydantic import BaseModel
{client}
logger, metrics, tracer = Logger(), Metrics(), Tracer()

class Event(BaseModel):
    name: str = ""

@logger.inject_lambda_context
@tracer.capture_lambda_handler
@metrics.log_metrics
def handler(event, context):
    asked = Event.model_validate(event)
    metrics.add_metric(name="Asked", unit=MetricUnit.Count, value=1)
    logger.info("asked", name_=asked.name)
    return asked.model_dump()
"""


def strip(package: Package, source: Path, folder: Path) -> Package:
    """The bare function beside it, in this folder, with all that it ships but its app.py."""
    found = re.search(r'boto3\.client\("([\w-]+)"\)', (source / "app.py").read_text("utf-8"))
    folder.mkdir()
    for path in package.folder.iterdir():
        if path.name not in ("app.py", "__pycache__"):
            (folder / path.name).symlink_to(path)
    client = f'import boto3\nclient = boto3.client("{found[1]}")' if found else ""
    (folder / "app.py").write_text(BARE.format(client=client), "utf-8")
    return replace(package, folder=folder, handler="app.handler")


def main() -> None:
    """Measure, print, and keep the numbers in build/bench-cold-start.json."""
    if sys.version_info[:2] != (3, 13):
        sys.exit("error: needs Python 3.13, which the functions run on: make PYTHON=python3.13 clean bench")
    packages = read_packages(PROJECT / ".aws-sam/build")
    resources = load_yaml(PROJECT / "template.yaml")["Resources"]
    sources = {name: PROJECT / resources[name]["Properties"]["CodeUri"] for name in packages}
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    furnish(endpoint)
    parameters = json.loads((PROJECT / "events/env.json").read_bytes())["Parameters"]
    variables = {**parameters, "AWS_ENDPOINT_URL": endpoint}
    ours: dict[str, list[Answer]] = {name: [] for name in packages}
    bare: dict[str, list[Answer]] = {name: [] for name in packages}
    with tempfile.TemporaryDirectory() as folder:
        stripped = {name: strip(package, sources[name], Path(folder, name)) for name, package in packages.items()}
        for _ in range(ROUNDS + 1):
            for name, package in packages.items():
                event = (PROJECT / f"events/{sources[name].name}.json").read_bytes()
                ours[name].append(invoke(package, event, variables))
                bare[name].append(invoke(stripped[name], event, variables))
                if bare[name][-1].failed:
                    sys.exit(bare[name][-1].log)
    server.stop()
    report(packages, ours, bare)


def report(packages: dict[str, Package], ours: dict[str, list[Answer]], bare: dict[str, list[Answer]]) -> None:
    table = Table(
        title=f"cold start, ms: medians of {ROUNDS} alternating runs [least, most]; size with layers, unzipped"
    )
    for column in ("function", "until it answers", "of which init", "bare Powertools", "ratio", "MB of 250", "NumPy"):
        table.add_column(column, justify="left" if column == "function" else "right")
    measured = {}
    for name, package in packages.items():
        rounds = list(zip(ours[name][1:], bare[name][1:], strict=True))  # the first one fills the page cache
        # What moto does not know fails after long retries: of that, the init alone is compared.
        whole = not any(mine.failed for mine, _ in rounds)
        times = [(milliseconds(mine, whole), milliseconds(anchor, whole)) for mine, anchor in rounds]
        init = [mine.init_seconds * 1000 for mine, _ in rounds]
        ratio = statistics.median(mine / anchor for mine, anchor in times)
        size, numpy = package.size / 2**20, (package.folder / "numpy").exists()
        measured[name] = {"ms": times, "whole": whole, "init_ms": init, "ratio": ratio, "mb": size, "numpy": numpy}
        table.add_row(
            name.removesuffix("Function"),
            spread([mine for mine, _ in times]) if whole else "-",
            f"{statistics.median(init):.0f}",
            spread([anchor for _, anchor in times]) + ("" if whole else " (init)"),
            f"{ratio:.2f}",
            f"{size:.0f}",
            "ships" if numpy else "no",
        )
    Console(width=120).print(table)
    output = PROJECT / "build/bench-cold-start.json"
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(measured, indent=1), "utf-8")


def milliseconds(answer: Answer, whole: bool) -> float:
    return 1000 * (answer.init_seconds + (answer.invoke_seconds if whole else 0))


def spread(rounds: list[float]) -> str:
    return f"{statistics.median(rounds):.0f} [{min(rounds):.0f}, {max(rounds):.0f}]"


if __name__ == "__main__":
    main()
