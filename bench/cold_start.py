"""What a cold start costs, and how large it is: each built function, against a bare Powertools function.

A cold start is a fresh process of AWS's own runtime client on the build's own files, with the bytecode that was built
and no other, as on Lambda, whose /var/task is read-only. It gets its sample event twice; what counts is the time from
its start to the first answer, less what the second answer takes: all that happens once, wherever the code has put it.

The bare function is what `sam init` writes for Powertools, with a Pydantic model: Logger, Metrics, Tracer; and a client
of the service that ours talks to first, where ours has any.
"""

import compileall
import json
import logging
import os
import py_compile
import re
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from moto.server import ThreadedMotoServer

from events.local_aws import furnish
from kickstand_cli.local.functions import link_packages
from kickstand_cli.local.sandbox import Answer, Package, invoke, read_packages
from kickstand_cli.local.template import all_resources
from kickstand_cli.project import PROJECT

ROUNDS = 7
UNCHECKED_HASH = py_compile.PycInvalidationMode.UNCHECKED_HASH
BARE_PACKAGES = (
    *("aws_lambda_powertools", "aws_xray_sdk", "wrapt", "jmespath"),
    *("boto3", "botocore", "s3transfer", "dateutil", "six", "urllib3"),
    *("pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"),
)
BARE = """
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


def bare_function(package: Package, source: Path, packages: Path, folder: Path) -> Package:
    """The bare function beside a built one: under the same runtime, with nothing of ours."""
    found = re.search(r'boto3\.client\("([\w-]+)"', (source / "app.py").read_text("utf-8"))
    shutil.copytree(packages, folder, copy_function=os.link)
    client = f'import boto3\nclient = boto3.client("{found[1]}")' if found else ""
    (folder / "app.py").write_text(BARE.format(client=client), "utf-8")
    compileall.compile_file(folder / "app.py", quiet=2, invalidation_mode=UNCHECKED_HASH)
    return replace(package, folder=folder, layers=(), handler="app.handler")


def copy_packages(folder: Path) -> None:
    """This environment's packages, which have the functions' versions, with bytecode as `make build` makes it."""
    links = folder.with_name("links")
    link_packages(BARE_PACKAGES, links)
    shutil.copytree(links, folder, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(folder, quiet=2, invalidation_mode=UNCHECKED_HASH)


def main() -> None:
    """Measure, and keep the numbers in build/bench-cold-start.json."""
    if sys.version_info[:2] != (3, 13):
        sys.exit("error: needs Python 3.13, which the functions run on: make PYTHON=python3.13 clean bench")
    packages = read_packages(PROJECT / ".aws-sam/build", {"Training": "on", "TrainingImage": "container"})
    resources = all_resources(PROJECT / "template.yaml")
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
        copy_packages(common := Path(folder, "packages"))
        anchors = {
            name: bare_function(package, sources[name], common, Path(folder, name))
            for name, package in packages.items()
        }
        for _ in range(ROUNDS + 1):
            for name, package in packages.items():
                event = (PROJECT / f"events/{sources[name].name}.json").read_bytes()
                ours[name].append(invoke(package, event, variables, times=2))
                bare[name].append(invoke(anchors[name], event, variables, times=2))
                if bare[name][-1].failed:
                    sys.exit(bare[name][-1].log)
    server.stop()
    measured = {
        name: {
            # The first round fills the page cache.
            "ms": [
                (milliseconds(mine), milliseconds(anchor)) for mine, anchor in zip(ours[name], bare[name], strict=True)
            ][1:],
            "whole": not ours[name][-1].failed,
            "mb": package.size / 2**20,
            "numpy": (package.folder / "numpy").exists(),
        }
        for name, package in packages.items()
    }
    output = PROJECT / "build/bench-cold-start.json"
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(measured, indent=1), "utf-8")


def milliseconds(answer: Answer) -> float:
    """What happens once. Where the event fails, as what moto does not know, all but the init counts as work."""
    first, second = answer.invoke_seconds if len(answer.invoke_seconds) == 2 else (0.0, 0.0)
    return 1000 * (answer.init_seconds + first - second)


if __name__ == "__main__":
    main()
