"""`kickstand doctor`: check prerequisites, and suggest fixes."""

import hashlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kickstand.classify.artefact import read_card
from kickstand_cli.deployment import find_region
from kickstand_cli.files import read_file
from kickstand_cli.local.finding import Finding, Status
from kickstand_cli.project import IS_CHECKOUT, MODEL, PROJECT
from kickstand_cli.review.review import DEFAULT_PORT
from kickstand_cli.terminal import AsJson, CommandError, ExitCode, console, painted, print_json, reason

ENGINES = ("docker", "finch", "podman")
NEEDED_GB = 5  # the environments 2, .aws-sam 1, a container engine's base image 1, and room


class Machine:
    """Access to this machine; tests replace it."""

    environment: Mapping[str, str] = os.environ
    python: tuple[int, ...] = sys.version_info[:3]
    project, model = PROJECT, MODEL
    is_checkout = IS_CHECKOUT
    home: Path | None = None  # None for a user without one, as with `docker run --user 12345`

    def __init__(self) -> None:
        with suppress(RuntimeError):
            self.home = Path.home()

    def which(self, program: str) -> str | None:
        """Where on PATH, or beside SAM CLI, this program is."""
        return shutil.which(program) or shutil.which(program, path=str(self.project / ".venv-sam/bin"))

    def run(self, *command: str) -> str | None:
        """The output of the command; None when it fails, or takes more than five seconds."""
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return (ran.stdout or ran.stderr).strip()

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.project if self.project.exists() else Path()).free

    def takes(self, port: int) -> bool:
        """Whether something can listen on this port of 127.0.0.1."""
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            return False
        return True


def doctor(
    as_json: AsJson = False,
    online: Annotated[
        bool,
        typer.Option("--online", help="Also ask AWS for your identity; without this and --deploy, no network is used."),
    ] = False,
    deploy: Annotated[
        bool,
        typer.Option("--deploy", help="Check the prerequisites of a deployment instead, here and in your AWS account."),
    ] = False,
    config_env: Annotated[
        str, typer.Option(metavar="NAME", help="With --deploy: the environment in samconfig.toml.")
    ] = "default",
) -> None:
    """Check prerequisites, and suggest fixes.

    A missing prerequisite (lacking) disables only the commands that need it. A broken one (wrong) disables everything
    or, with --deploy, stops the deployment.

    Exit codes: 0 nothing is wrong; 1 an error; 4 something is wrong.

    Examples:
    $ kickstand doctor
    $ kickstand doctor --deploy
    """
    findings = examine_deployment(Machine(), config_env) if deploy else examine(Machine(), online=online)
    well = all(finding.status is not Status.WRONG for finding in findings)
    if as_json:
        print_json({"well": well, "findings": [asdict(finding) for finding in findings]}, indent=1)
    else:
        _print(findings)
    if not well:
        raise typer.Exit(ExitCode.ATTENTION)


def examine(machine: Machine, *, online: bool = False) -> list[Finding]:
    """All checks, in the order in which a new user needs them."""
    findings = [
        _python(machine),
        _checkout(machine),
        _model(machine),
        _disk(machine),
        _port(machine),
        _sam(machine),
        _python_of_functions(machine),
        _engine(machine),
        _credentials(machine),
        _region(machine),
        _program(machine, "node", "asl-validator in `make check`", "install Node.js"),
        _program(machine, "chromium", "tests/browser", "install Chromium: apt-get install chromium"),
    ]
    return [*findings, _identity(machine)] if online else findings


def examine_deployment(machine: Machine, config_env: str) -> list[Finding]:
    """What would stop `make deploy`, found before minutes of building."""
    from botocore.exceptions import BotoCoreError

    from kickstand_cli.local.account import NEEDED, examine_account, read_target

    here = [_checkout(machine, deploy=True), _model(machine), _disk(machine), _builder(machine)]
    if not machine.is_checkout:
        return here
    try:
        target, region = read_target(config_env, machine.project), find_region()
        return [*here, *examine_account(region, target)]
    except (CommandError, ValueError, BotoCoreError) as error:  # such as an AWS_PROFILE that does not exist
        fix = "set AWS_REGION and AWS_PROFILE; name an environment of samconfig.toml"
        return [*here, Finding("target", Status.WRONG, reason(error), NEEDED, fix)]


def _builder(machine: Machine) -> Finding:
    """`sam build` needs the functions' Python or a container engine."""
    python = _python_of_functions(machine)
    if python.status is Status.OK:
        return python
    engine = _engine(machine)
    if engine.status is Status.OK:
        return Finding("sam build", Status.OK, f"in a container of {engine.found}", "make deploy")
    return Finding("sam build", Status.WRONG, f"{python.name}: {python.found}; no engine", "make deploy", python.fix)


# ---- for everything


def _python(machine: Machine) -> Finding:
    version = ".".join(map(str, machine.python))
    if machine.python >= (3, 11):
        return Finding("Python", Status.OK, version, "everything")
    fix = "install Python 3.11 or newer: make PYTHON=/path/to/python .venv/.installed"
    return Finding("Python", Status.WRONG, f"{version}, older than 3.11", "everything", fix)


def _checkout(machine: Machine, *, deploy: bool = False) -> Finding:
    if not machine.is_checkout:
        status = Status.WRONG if deploy else Status.LACKING
        fix = "clone the repository of Kickstand, and run make there"
        return Finding("checkout", status, "none: this is the installed package", "build, deploy, tests", fix)
    if (machine.project / "template.yaml").is_file():
        return Finding("checkout", Status.OK, str(machine.project), "demo, build, deploy")
    fix = "run it from a checkout of Kickstand: make .venv/.installed"
    return Finding("checkout", Status.WRONG, f"no template.yaml in {machine.project}", "demo, build, deploy", fix)


def _model(machine: Machine) -> Finding:
    """Whether model.onnx is the one that model.json describes; it is not loaded."""
    fix = "git checkout layers/model, or make train"
    try:
        card = read_card(machine.model)
        sha256 = hashlib.sha256((machine.model / "model.onnx").read_bytes()).hexdigest()
    except (OSError, ValueError) as error:
        return Finding("model artefact", Status.WRONG, str(error).splitlines()[0], "every prediction", fix)
    if sha256 != card.model_sha256:
        found = f"model.onnx has SHA-256 {sha256[:12]}…, its card says {card.model_sha256[:12]}…"
        return Finding("model artefact", Status.WRONG, found, "every prediction", fix)
    return Finding("model artefact", Status.OK, f"{card.model_version}: {', '.join(card.labels)}", "every prediction")


def _disk(machine: Machine) -> Finding:
    free = machine.free_bytes() / 1e9
    if free >= NEEDED_GB:
        return Finding("disk", Status.OK, f"{free:.0f} GB free", "environments, builds")
    fix = f"free {NEEDED_GB - free:.1f} GB; `make clean` removes what was built here"
    return Finding("disk", Status.WRONG, f"{free:.1f} GB free of {NEEDED_GB} needed", "environments, builds", fix)


def _port(machine: Machine) -> Finding:
    if machine.takes(DEFAULT_PORT):
        return Finding(f"port {DEFAULT_PORT}", Status.OK, "free", "the reviewers' page")
    fix = "choose another: kickstand review --web --port 0"
    return Finding(f"port {DEFAULT_PORT}", Status.LACKING, "taken by another program", "the reviewers' page", fix)


# ---- for building and deploying


def _sam(machine: Machine) -> Finding:
    needed = "make build, make deploy"
    sam = machine.which("sam")
    if sam and (version := machine.run(sam, "--version")):
        return Finding("SAM CLI", Status.OK, version.rpartition(" ")[2], needed)
    return Finding(
        "SAM CLI", Status.LACKING, "does not run" if sam else "not here", needed, "make .venv-sam/.installed"
    )


def _python_of_functions(machine: Machine) -> Finding:
    """The program is run: a name on PATH may be a shim of a missing version."""
    needed = "make build without a container engine, make deploy-local"
    name = f"python{_wanted(machine)}"
    path = machine.which(name)
    if path and (version := machine.run(path, "--version")):
        return Finding(name, Status.OK, version.removeprefix("Python "), needed)
    found = f"{path} does not run" if path else "not on PATH"
    fix = f"install Python {_wanted(machine)}, which the functions run on, or start a container engine"
    return Finding(name, Status.LACKING, found, needed, fix)


def _wanted(machine: Machine) -> str:
    try:
        return (machine.project / ".python-version").read_text("utf-8").split()[0]
    except (OSError, IndexError):
        return "3.13"


def _engine(machine: Machine) -> Finding:
    needed = "sam local invoke, tests/container"
    there = [engine for engine in ENGINES if machine.which(engine)]
    for engine in there:
        if machine.run(engine, "info") is not None:
            return Finding("container engine", Status.OK, engine, needed)
    if there:
        found = f"{' and '.join(there)} installed, but no answer to `{there[0]} info`"
        fix = "start it, and check that you can use it (on Linux: the group docker)"
        return Finding("container engine", Status.LACKING, found, needed, fix)
    return Finding("container engine", Status.LACKING, "none", needed, f"install one of {', '.join(ENGINES)}")


def _credentials(machine: Machine) -> Finding:
    """Only whether there are any; only AWS knows whether they are valid."""
    needed, environment = "make deploy, every command on a deployed stack", machine.environment
    for name in (
        *("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"),
        *("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
    ):
        if environment.get(name):
            return Finding("AWS credentials", Status.OK, name, needed)
    for variable, usual in (("AWS_SHARED_CREDENTIALS_FILE", "credentials"), ("AWS_CONFIG_FILE", "config")):
        file = _aws_file(machine, variable, usual)
        if any(word in _text(file) for word in ("aws_access_key_id", "sso_", "role_", "credential_")):
            return Finding("AWS credentials", Status.OK, str(file), needed)
    fix = "aws configure, or aws configure sso; the demo and the tests need none"
    return Finding("AWS credentials", Status.LACKING, "none", needed, fix)


def _region(machine: Machine) -> Finding:
    needed = "make deploy, every command on a deployed stack"
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        if region := machine.environment.get(name):
            return Finding("AWS region", Status.OK, f"{region} ({name})", needed)
    file = _aws_file(machine, "AWS_CONFIG_FILE", "config")
    if "region" in _text(file):
        return Finding("AWS region", Status.OK, str(file), needed)
    return Finding("AWS region", Status.LACKING, "none", needed, "export AWS_REGION=us-east-1, or another of yours")


def _aws_file(machine: Machine, variable: str, usual: str) -> Path | None:
    """A file of AWS settings: the one that the variable names, else the one in the home folder."""
    if named := machine.environment.get(variable):
        return Path(named)
    return machine.home / ".aws" / usual if machine.home else None


def _text(file: Path | None) -> str:
    try:
        return read_file(file).decode("utf-8", "replace") if file else ""
    except OSError:
        return ""


def _identity(machine: Machine) -> Finding:
    """Asks AWS, at most twice for five seconds."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    needed = "make deploy, every command on a deployed stack"
    once = Config(connect_timeout=5, read_timeout=5, retries={"total_max_attempts": 2})
    region = machine.environment.get("AWS_REGION") or machine.environment.get("AWS_DEFAULT_REGION") or "us-east-1"
    try:
        arn = boto3.client("sts", config=once, region_name=region).get_caller_identity()["Arn"]
    except (BotoCoreError, ClientError) as error:
        fix = "aws sso login, or newer credentials; or the network"
        return Finding("AWS identity", Status.LACKING, str(error), needed, fix)
    return Finding("AWS identity", Status.OK, arn, needed)


def _program(machine: Machine, name: str, needed: str, fix: str) -> Finding:
    path = machine.which(name)
    if path and (version := machine.run(path, "--version")):
        return Finding(name, Status.OK, version.splitlines()[0], needed)
    return Finding(name, Status.LACKING, "does not run" if path else "not here", needed, fix)


# ---- the output

COLOURS = {Status.OK: "green", Status.LACKING: "yellow", Status.UNKNOWN: "cyan", Status.WRONG: "bold red"}


def _print(findings: Sequence[Finding]) -> None:
    for finding in findings:
        console.print(painted((f"{finding.status:8}", COLOURS[finding.status]), f"{finding.name}: {finding.found}"))
        if finding.fix:
            console.print(f"{'':8}needed for {finding.needed_for}; to fix it: {finding.fix}")
