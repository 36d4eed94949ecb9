"""What a cold start costs: import and first invocation of each built function, against a bare Powertools function.

Prints medians side by side; `make bench` runs it after `sam build`. Every run is a fresh process of Python 3.13 on the
build's own files, without bytecode, as on Lambda, whose /var/task is read-only. The bare function has the same
packages, Logger, Metrics, Tracer, one Pydantic model and a client of the service that ours talks to first; it calls no
service, while ours does all that its sample event asks for, of a local stub.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kickstand_cli.local.template import Template

PROJECT = Path(__file__).parents[1]
BUILD = PROJECT / ".aws-sam/build"
ROUNDS = 15
CLIENTS = {"prepare_image": "s3", "record_result": "dynamodb", "decide": None, "classify_image": None}
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
RUN = """
import json, sys, time
folders, event = json.loads(sys.argv[1]), json.load(open(sys.argv[2]))
sys.path[:0] = folders
class Context:
    function_name, function_version, memory_limit_in_mb, aws_request_id = "f", "1", 512, "r"
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:f"
    log_group_name = log_stream_name = "local"
    get_remaining_time_in_millis = lambda self: 10_000
started = time.perf_counter()
import app
imported = time.perf_counter()
app.handler(event, Context())
done = time.perf_counter()
sys.stderr.write(json.dumps([(imported - started) * 1000, (done - imported) * 1000, "numpy" in sys.modules]))
"""


class Aws(BaseHTTPRequestHandler):
    """Answers GetObject, PutItem and PutEvents."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer((PROJECT / "events/photo.png").read_bytes())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(b'{"FailedEntryCount": 0, "Entries": []}')

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def environment(properties: dict[str, Any], template: Template, endpoint: str) -> dict[str, str]:
    """What the function's environment is on Lambda, with the stub for AWS."""
    shared = template.function_globals["Environment"]["Variables"]
    own = template.resolve(properties.get("Environment", {}).get("Variables", {}))
    return {
        **{name: str(value) for name, value in (template.resolve(shared) | own).items()},
        "MODEL_DIR": str(PROJECT / "layers/model/model"),
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "LAMBDA_TASK_ROOT": "/var/task",  # traces, as on Lambda; they go to where nobody listens
        "AWS_XRAY_DAEMON_ADDRESS": "127.0.0.1:9",
        "_X_AMZN_TRACE_ID": "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": os.environ["PATH"],
    }


def cold_start(python: str, folders: list[Path], event: Path, variables: dict[str, str]) -> tuple[float, float, bool]:
    """Milliseconds of import and of the first invocation, and whether NumPy was imported."""
    ran = subprocess.run(
        [python, "-c", RUN, json.dumps([str(folder) for folder in folders]), str(event)],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        sys.exit(ran.stderr)
    imported, invoked, numpy = json.loads(ran.stderr.splitlines()[-1])
    return imported, invoked, numpy


def main() -> None:
    """Measure, print, and keep the numbers in build/bench-cold-start.json."""
    python = shutil.which("python3.13") or sys.exit("error: needs python3.13 on PATH, as sam build does")
    template = Template(PROJECT / "template.yaml", {}, str, "{}.{}".format)
    functions = {
        resource["Properties"]["CodeUri"].split("/")[1]: (name, resource["Properties"])
        for name, resource in template.resources.items()
        if resource["Type"] == "AWS::Serverless::Function"
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Aws)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    ours: dict[str, list[float]] = {name: [] for name in CLIENTS}
    bare: dict[str, list[float]] = {name: [] for name in CLIENTS}
    imports: dict[str, list[float]] = {name: [] for name in CLIENTS}
    ships_numpy = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, service in CLIENTS.items():
            client = f'import boto3\nclient = boto3.client("{service}")' if service else ""
            Path(folder, name).mkdir()
            Path(folder, name, "app.py").write_text(BARE.format(client=client), "utf-8")
        for _ in range(ROUNDS + 1):
            for name in CLIENTS:
                logical_id, properties = functions[name]
                built, variables = BUILD / logical_id, environment(properties, template, endpoint)
                event = PROJECT / f"events/{name}.json"
                first, then, _numpy = cold_start(python, [built, BUILD / "CoreLayer/python"], event, variables)
                ours[name].append(first + then)
                imports[name].append(first)
                bare[name].append(sum(cold_start(python, [Path(folder, name), built], event, variables)[:2]))
                ships_numpy[name] = (built / "numpy").exists()
    server.shutdown()
    report(ours, bare, imports, ships_numpy)


def report(
    ours: dict[str, list[float]],
    bare: dict[str, list[float]],
    imports: dict[str, list[float]],
    ships_numpy: dict[str, bool],
) -> None:
    table = Table(title=f"cold start, ms: medians of {ROUNDS} alternating runs [least, most]")
    for column in ("function", "import + first invocation", "of which import", "bare Powertools", "ratio", "NumPy"):
        table.add_column(column, justify="left" if column == "function" else "right")
    for name in ours:
        rounds = list(zip(ours[name][1:], bare[name][1:], strict=True))  # the first one fills the page cache
        table.add_row(
            name,
            spread([mine for mine, _ in rounds]),
            f"{statistics.median(imports[name][1:]):.0f}",
            spread([anchor for _, anchor in rounds]),
            f"{statistics.median(mine / anchor for mine, anchor in rounds):.2f}",
            "ships" if ships_numpy[name] else "no",
        )
    Console(width=120).print(table)
    output = PROJECT / "build/bench-cold-start.json"
    output.parent.mkdir(exist_ok=True)
    measured = {"ours_ms": ours, "import_ms": imports, "bare_ms": bare, "ships_numpy": ships_numpy}
    output.write_text(json.dumps(measured, indent=1), "utf-8")


def spread(rounds: list[float]) -> str:
    return f"{statistics.median(rounds):.0f} [{min(rounds):.0f}, {max(rounds):.0f}]"


if __name__ == "__main__":
    main()
