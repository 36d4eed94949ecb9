"""Invokes a function built by `sam build` as Lambda does: alone, in a process of AWS's runtime client."""

import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from kickstand_cli.local.functions import RUNTIME, function_arn, link_packages
from kickstand_cli.local.template import Template

TRACE = "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=1"


@dataclass(frozen=True)
class Package:
    """A built function.

    folder: becomes /var/task.
    layers: become /opt, the later over the earlier.
    variables: of its environment; a resource of the template goes by its logical ID.
    timeout: seconds.
    """

    name: str
    folder: Path
    layers: tuple[Path, ...]
    handler: str
    variables: dict[str, str]
    timeout: float

    @property
    def size(self) -> int:
        """Bytes of code and layers, unzipped; Lambda's limit is 250 MB."""
        files = (path for folder in (self.folder, *self.layers) for path in folder.rglob("*"))
        return sum(path.stat().st_size for path in files if path.is_file())


@dataclass(frozen=True)
class Answer:
    """The results of one process's invocations.

    payload: what the handler returned last; where it failed, `errorType` and `errorMessage`.
    log: all that the process wrote.
    init_seconds: from the process's start until it asks for an event.
    invoke_seconds: from there until it answers, for each event.
    """

    payload: Any
    failed: bool
    log: str
    init_seconds: float
    invoke_seconds: list[float]


def read_packages(build: Path, parameters: Mapping[str, str] | None = None) -> dict[str, Package]:
    """The functions of a build, and of the nested stacks that the parameters ask for, by their logical IDs.

    Raises TemplateError where there is no build.
    """

    def reference(logical_id: str) -> str:
        """A layer is its folder, so that a nested stack finds it."""
        content = template.resources.get(logical_id, {}).get("Properties", {}).get("ContentUri")
        return str(build / content) if content else logical_id

    template = Template(build / "template.yaml", parameters or {}, reference, "{}.{}".format)
    shared = template.function_globals
    packages: dict[str, Package] = {}
    for name, resource in template.resources.items():
        own = resource.get("Properties", {})
        if resource["Type"] == "AWS::CloudFormation::Stack" and template.wanted(name):
            given = {key: str(value) for key, value in template.resolve(own["Parameters"]).items()}
            packages |= read_packages((build / own["TemplateURL"]).parent, given)
        if resource["Type"] != "AWS::Serverless::Function":
            continue
        layers = template.resolve([*shared.get("Layers", []), *own.get("Layers", [])])
        variables = [each.get("Environment", {}).get("Variables", {}) for each in (shared, own)]
        packages[name] = Package(
            name=name,
            folder=build / own["CodeUri"],
            layers=tuple(map(Path, layers)),
            handler=own.get("Handler", shared.get("Handler")),
            variables={key: str(value) for each in variables for key, value in template.resolve(each).items()},
            timeout=own.get("Timeout", shared.get("Timeout", 3)),
        )
    return packages


def invoke(package: Package, event: bytes, variables: Mapping[str, str], times: int = 1) -> Answer:
    """A cold start, and the event this many times. It needs awslambdaric, and runs on this Python.

    variables: they replace the package's.

    The function sees its folder, its layers and the runtime client, in the order of Lambda's sys.path, and nothing of
    this process's environment. Its only limit is ten times its timeout.
    """
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        opt, runtime = root / "opt", root / "runtime"
        for layer in package.layers:
            shutil.copytree(layer, opt, dirs_exist_ok=True)
        link_packages(RUNTIME, runtime)
        api = stack.enter_context(_RuntimeApi(package, event, times))
        stack.callback(api.shutdown)
        threading.Thread(target=api.serve_forever, daemon=True).start()
        asked = {**package.variables, **variables}
        environment = {
            **{name: f"{root}{value}" if value.startswith("/opt/") else value for name, value in asked.items()},
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{api.server_port}",
            "AWS_LAMBDA_FUNCTION_NAME": package.name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{package.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": "local",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_XRAY_DAEMON_ADDRESS": "127.0.0.1:9",  # nothing listens there
            "LAMBDA_TASK_ROOT": str(package.folder),
            "PYTHONDONTWRITEBYTECODE": "1",  # /var/task is read-only on Lambda
            "PYTHONPATH": os.pathsep.join(
                map(str, (package.folder, opt / "python/lib/python3.13/site-packages", opt / "python", runtime))
            ),
            "PATH": os.environ["PATH"],
        }
        log = stack.enter_context((root / "log").open("w+b"))
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-S", "-m", "awslambdaric", package.handler],  # without this environment's packages
            cwd=package.folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        threading.Thread(target=lambda: api.ended(process.wait()), daemon=True).start()
        answers = [api.answers.get(timeout=10 * package.timeout)]
        while len(answers) < times and not answers[-1][0]:
            answers.append(api.answers.get(timeout=10 * package.timeout))
        log.seek(0)
        failed, body, ended = answers[-1]
        asked_at = api.asked or [ended]
        seconds = [answered - asked for asked, (_, _, answered) in zip(asked_at, answers, strict=False)]
        return Answer(json.loads(body), failed, log.read().decode(errors="replace"), asked_at[0] - started, seconds)


class _RuntimeApi(ThreadingHTTPServer):
    """https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html, for this many invocations."""

    daemon_threads = True
    block_on_close = False  # a client that asks for another event would wait forever

    def __init__(self, package: Package, event: bytes, times: int) -> None:
        self.answers: queue.Queue[tuple[bool, bytes, float]] = queue.Queue()  # failed, what, when
        self.asked: list[float] = []
        api = self

        class Exchange(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if len(api.asked) == times:
                    threading.Event().wait()
                api.asked.append(time.perf_counter())
                deadline = int((time.time() + package.timeout) * 1000)
                self._send(
                    200,
                    event,
                    {
                        "Lambda-Runtime-Aws-Request-Id": "8476a536-e9f4-11e8-9739-2dfe598c3fcd",
                        "Lambda-Runtime-Deadline-Ms": str(deadline),
                        "Lambda-Runtime-Invoked-Function-Arn": function_arn(package.name),
                        "Lambda-Runtime-Trace-Id": TRACE,
                        "Content-Type": "application/json",
                    },
                )

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self._send(202, b'{"status": "OK"}', {})
                api.answers.put((not self.path.endswith("/response"), body, time.perf_counter()))

            def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Quiet: the function logs for itself."""

        super().__init__(("127.0.0.1", 0), Exchange)

    def handle_error(self, *_: Any) -> None:
        """The process has been ended while it waited for another event."""

    def ended(self, status: int) -> None:
        """The process is gone; if it has not answered, this is the answer."""
        failure = {"errorType": "Runtime.ExitError", "errorMessage": f"exit status {status}"}
        self.answers.put((True, json.dumps(failure).encode(), time.perf_counter()))
