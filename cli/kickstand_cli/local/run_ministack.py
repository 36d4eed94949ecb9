"""Runs ministack, an AWS on this machine, with Lambda's own runtime client; for the Python in .venv-ministack.

ministack 1.5.33 differs from AWS in seven things. This module alone corrects them:

- Functions run under awslambdaric on Python without ministack's own packages, so that an error keeps its class's name
  and a function finds what its zip and its layers hold, no more.
- /opt is a folder of each function's, so variables that name a path below it are rewritten.
- A state machine's definition may be YAML; it becomes JSON before DefinitionSubstitutions are put in.
- SAM expands a template knowing the values of its parameters.
- S3's events name the version that was uploaded.
- An alarm on several metrics is made, on the first of them.
- A sampling rule of X-Ray is accepted, without effect.

Each replaces a private name, so the version is pinned; a name that is gone fails at once.
"""

import io
import json
import shlex
import sys
import tempfile
import zipfile
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import yaml
from ministack.app import main
from ministack.services import eventbridge, lambda_svc, s3
from ministack.services.cloudformation import changesets, engine, provisioners
from samtranslator.translator import transform as sam

from kickstand_cli.local.functions import RUNTIME as LAMBDA_RUNTIME
from kickstand_cli.local.functions import link_packages

FOLDER = Path(tempfile.mkdtemp(prefix="kickstand-functions-"))
RUNTIME = FOLDER / "runtime"
bootstraps: dict[str, bytes] = {}

_execute, _define = lambda_svc._execute_function_warm, provisioners._sfn_definition
_record_alarm, _fire, _dispatch = provisioners._cw_metric_alarm_record, s3._fire_s3_event, eventbridge._dispatch_event
_apply, _expand = changesets._apply_transforms, sam.transform
parameters: ContextVar[dict[str, str]] = ContextVar("the values of the template's parameters")
uploaded: ContextVar[str | None] = ContextVar("the version that the event is about", default=None)


def execute(function: dict[str, Any], event: Any, request_id: str) -> Any:
    """Invoke a Python function as a runtime of its own, which ministack gives Lambda's Runtime API."""
    config = function.get("config") or function
    if not function.get("code_zip") or not config["Runtime"].startswith("python"):
        return _execute(function, event, request_id)
    custom = {"config": {**config, "Runtime": "provided.al2023"}, "code_zip": bootstrap(config, function["code_zip"])}
    return lambda_svc._execute_function_provided_warm({**function, **custom}, event, request_id)


def bootstrap(config: dict[str, Any], code: bytes) -> bytes:
    """A zip with the program `bootstrap`, which starts the function in a folder that holds its code and layers."""
    layers, variables = config.get("Layers", []), config.get("Environment", {}).get("Variables", {})
    key = json.dumps([config["FunctionArn"], config["CodeSha256"], config["Handler"], layers, variables], default=str)
    if key not in bootstraps:
        root = Path(tempfile.mkdtemp(dir=FOLDER))
        unzip(code, root / "task")
        for layer in layers:
            unzip(lambda_svc._resolve_layer_zip(layer), root / "opt")
        rewritten = {name: f"{root}{value}" for name, value in variables.items() if value.startswith("/opt/")}
        rewritten["LAMBDA_TASK_ROOT"] = f"{root}/task"
        rewritten["PYTHONPATH"] = f"{root}/task:{root}/opt/python:{RUNTIME}"
        program = ["#!/bin/sh", f"cd {shlex.quote(str(root / 'task'))}"]
        program += [f"export {name}={shlex.quote(value)}" for name, value in rewritten.items()]
        program += [f"exec {shlex.quote(sys.executable)} -S -m awslambdaric {shlex.quote(config['Handler'])}"]
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("bootstrap", "\n".join(program) + "\n")
        bootstraps[key] = archive.getvalue()
    return bootstraps[key]


def unzip(archive: bytes, folder: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        file.extractall(folder)


def define(properties: dict[str, Any]) -> str:
    """A state machine's definition as JSON."""
    definition = json.dumps(yaml.safe_load(_define({**properties, "DefinitionSubstitutions": {}})))
    for name, value in properties.get("DefinitionSubstitutions", {}).items():
        definition = definition.replace(f"${{{name}}}", json.dumps(str(value))[1:-1])
    return definition


def apply(template: dict[str, Any], provided: Any = None, previous: Any = None) -> Any:
    """Apply the template's transforms."""
    parameters.set(engine._transform_parameters(template, provided, previous))
    return _apply(template, provided, previous)


def expand(template: dict[str, Any], _none: dict[str, str], policies: Any) -> Any:
    """SAM's transform."""
    return _expand(template, parameters.get(), policies)


def fire(*about: Any, version_id: str | None = None, **more: Any) -> None:
    """Announce an event of an object, each in a context of its own."""
    uploaded.set(version_id)
    _fire(*about, version_id=version_id, **more)


def dispatch(event: dict[str, Any], *view: Any) -> Any:
    """Match an event against the rules."""
    if event.get("Source") == "aws.s3" and (version := uploaded.get()):
        detail = json.loads(event["Detail"])
        detail["object"]["version-id"] = version
        event = {**event, "Detail": json.dumps(detail)}
    return _dispatch(event, *view)


def record_alarm(name: str, properties: dict[str, Any]) -> Any:
    """An alarm on the first of its metrics."""
    first: dict[str, Any] = next(
        (part["MetricStat"] for part in properties.get("Metrics", []) if "MetricStat" in part), {}
    )
    single = {**first.get("Metric", {}), "Period": first.get("Period"), "Statistic": first.get("Stat")} if first else {}
    return _record_alarm(name, {**properties, "Metrics": None, **single})


def accept(name: str, *_: Any) -> tuple[str, dict[str, str]]:
    """Create, update or delete a resource that has no effect here."""
    return name, {}


if __name__ == "__main__":
    link_packages(LAMBDA_RUNTIME, RUNTIME)
    lambda_svc._execute_function_warm = execute
    provisioners._sfn_definition = define
    provisioners._cw_metric_alarm_record = record_alarm
    provisioners._RESOURCE_HANDLERS["AWS::XRay::SamplingRule"] = dict.fromkeys(("create", "update", "delete"), accept)
    changesets._apply_transforms, sam.transform = apply, expand
    s3._fire_s3_event, eventbridge._dispatch_event = fire, dispatch
    main()
