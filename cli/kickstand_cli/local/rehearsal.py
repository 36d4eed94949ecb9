"""`make deploy-local`: the life of a stack, by the real SAM CLI, on an AWS that runs on this machine (ministack)."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import boto3
import typer
import yaml

from kickstand.ledger.balance import Ledger
from kickstand.ledger.books import find_record
from kickstand.ledger.store import draw_up
from kickstand.records import Record
from kickstand_cli.deployment import open_books, read_outputs, reporting
from kickstand_cli.local.functions import cut_off, environment
from kickstand_cli.project import PROJECT
from kickstand_cli.review.review import find_function
from kickstand_cli.terminal import console, painted, session

BUILT = PROJECT / ".aws-sam/build"
SAM = PROJECT / ".venv-sam/bin/sam"
PYTHON = PROJECT / ".venv-ministack/bin/python"
WORK = PROJECT / "build/deploy-local"
STACK = "kickstand-local"
# Parameters that leave out what ministack cannot do: CodeDeploy, and a host of its own for StartSyncExecution
LEFT_OUT = {"Rollout": "Unchecked", "WorkflowType": "STANDARD"}
T = TypeVar("T")
SECONDS = 300.0  # to wait for the effect of an upload or an answer


class RehearsalError(Exception):
    """A step failed; the message says how, and where the logs are."""


def missing() -> str:
    """What this machine lacks for a rehearsal, and the fix; empty when it lacks nothing."""
    if not (BUILT / "template.yaml").is_file():
        return "nothing is built: make build"
    if not (PYTHON.exists() and SAM.exists()):
        return "ministack or SAM CLI is not installed: make .venv-ministack/.installed .venv-sam/.installed"
    version = subprocess.run([PYTHON, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True)
    if version.stdout.split() != ["3", "13"]:
        return "the functions need Python 3.13: make PYTHON=/path/to/python3.13 .venv-ministack/.installed"
    return ""


# ---- an AWS on this machine


@contextmanager
def local_aws(log: Path) -> Iterator[str]:
    """Its address, while the context lasts; this process and its children then know no other AWS.

    Raises RehearsalError when it does not start.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="kickstand-aws-") as folder, _only(url), log.open("wb") as file:
        process = subprocess.Popen(
            [PYTHON, Path(__file__).with_name("run_ministack.py")],
            env={
                **os.environ,
                "BIND_HOST": "127.0.0.1",
                "GATEWAY_PORT": str(port),
                "MINISTACK_ACCOUNT_ID": "123456789012",
                "PYTHONPATH": str(PROJECT / "cli"),
                "TMPDIR": folder,
                "S3_DATA_DIR": f"{folder}/s3",
                "STATE_DIR": f"{folder}/state",
            },
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it is ended with all its children
        )
        try:
            _wait(lambda: _answers(port) or process.poll() is not None, "ministack")
            if process.poll() is not None:
                raise RehearsalError(f"ministack did not start; {log} says why")
            yield url
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                os.killpg(process.pid, signal.SIGKILL)  # functions that are still running


def _only(url: str) -> AbstractContextManager[None]:
    """No credentials, profile or region but these: a mistake must not reach a real account."""
    more = {
        "AWS_ENDPOINT_URL": url,
        "SAM_CLI_TELEMETRY": "0",
        "SAM_CLI_POLL_DELAY": "0.5",  # seconds between two checks of the stack; 5 on AWS, to spare its API
    }
    return environment(cut_off(more))


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _wait(check: Callable[[], T | None], what: str) -> T:
    """The first true result of `check`. Raises RehearsalError naming `what` it waited for."""
    deadline = time.monotonic() + SECONDS
    while not (seen := check()):
        if time.monotonic() > deadline:
            raise RehearsalError(f"waited {SECONDS:.0f} s for {what} without success; the logs are in {WORK}")
        time.sleep(0.1)
    return seen


# ---- the stack


class Rehearsal:
    """One stack on the local AWS, from `package` to `delete`. Every step raises RehearsalError when it fails.

    work: for logs and the packaged template. built: what `sam build` has made.
    """

    def __init__(self, work: Path = WORK, built: Path = BUILT) -> None:
        self.work, self.built = work, built
        self.packaged = work / "packaged.yaml"
        self.outputs: dict[str, str] = {}

    def sam(self, *arguments: str | Path) -> None:
        """Run SAM CLI; its output goes to a log."""
        log = self.work / f"sam-{arguments[0]}.log"
        with log.open("ab") as file:
            code = subprocess.run([SAM, *arguments], cwd=PROJECT, stdout=file, stderr=subprocess.STDOUT).returncode
        if code:
            last = log.read_text("utf-8", "replace").strip().splitlines()[-1:]
            raise RehearsalError(f"sam {arguments[0]} failed: {' '.join(last)}\n{log} has the rest; {self._reasons()}")

    def package(self) -> None:
        """Zip the output of `sam build`, and upload it."""
        template = self.built / "template.yaml"
        self.sam("package", "--template-file", template, "--resolve-s3", "--output-template-file", self.packaged)
        packaged = yaml.safe_load(self.packaged.read_text("utf-8"))
        for resource in packaged["Resources"].values():
            # Left out by its condition; SAM wants an address of S3's.
            if resource["Type"] == "AWS::CloudFormation::Stack":
                resource["Properties"]["TemplateURL"] = "https://s3.us-east-1.amazonaws.com/left/out"
        self.packaged.write_text(yaml.safe_dump(packaged, sort_keys=False), "utf-8")

    def deploy(self, **parameters: str) -> None:
        """Make or update the stack from the packaged template."""
        given = [f"{name}={value}" for name, value in {**LEFT_OUT, **parameters}.items()]
        self.sam(
            *("deploy", "--template-file", self.packaged, "--stack-name", STACK, "--resolve-s3"),
            *("--capabilities", "CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"),
            *("--parameter-overrides", *given),
        )
        self.outputs = read_outputs(STACK)

    def renew(self, word: str) -> None:
        """Put a newer core layer into the packaged template: imported, it prints the word and the function's name.

        Every function gets it with the next `deploy`, and nothing else has to be packaged again.
        """
        newer = self.work / f"core-{word}"
        # Python does not check bytecode against its source here: the older one would still run.
        shutil.copytree(
            self.built / "CoreLayer", newer, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
        )
        with (newer / "python/kickstand/__init__.py").open("a", encoding="utf-8") as file:
            # The program that decodes photos imports it too, without the function's variables.
            file.write(f"\nimport os\nprint({word!r}, os.environ.get('AWS_LAMBDA_FUNCTION_NAME'))\n")
        template = yaml.safe_load(self.packaged.read_text("utf-8"))
        template["Resources"]["CoreLayer"]["Properties"]["ContentUri"] = str(newer)
        template["Resources"]["CoreLayer"].pop("Metadata", None)
        self.packaged.write_text(yaml.safe_dump(template, sort_keys=False), "utf-8")

    def logged(self, function: str, word: str) -> bool:
        """Whether this function, by its logical ID, has printed the word."""
        pages = (
            boto3.client("logs").get_paginator("filter_log_events").paginate(logGroupName=self.physical("FunctionLogs"))
        )
        printed = f"{word} {self.physical(function)}"
        return any(printed in event["message"] for page in pages for event in page["events"])

    def physical(self, logical_id: str) -> str:
        """What the stack has called this resource."""
        cloudformation: Any = boto3.client("cloudformation")
        found = cloudformation.describe_stack_resource(StackName=STACK, LogicalResourceId=logical_id)
        return str(found["StackResourceDetail"]["PhysicalResourceId"])

    def upload(self, key: str, data: bytes) -> tuple[str, str]:
        """Put an object into the bucket; returns its record's key."""
        bucket = self.outputs["ImageBucketName"]
        return f"s3://{bucket}/{key}", boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=data)["VersionId"]

    def decided(self, upload: tuple[str, str]) -> Record:
        """The upload's record, once there is one."""
        return _wait(lambda: find_record(open_books(self.outputs), upload), f"the record of {upload[0]}")

    def ask(self, **event: str) -> dict[str, Any]:
        """Ask the review function for an open review, or send it an answer."""
        page: dict[str, Any] = find_function(self.outputs)({"format": "json", "reviewer": "Ada", **event})
        return page

    def asked(self) -> dict[str, Any]:
        """The review that the reviewer is shown, once there is one."""
        return _wait(lambda: self.ask()["review"], "an open review")

    def answer(self, upload: tuple[str, str], label: str) -> Record:
        """Answer the review of the upload; returns its record once it has the answer."""
        image, version = upload
        if notice := self.ask(action="answer", image=image, version=version, label=label)["notice"]:
            raise RehearsalError(f"the answer was refused: {notice}")

        def told() -> Record | None:
            record = self.decided(upload)
            return record if record.review and record.review.answer else None

        return _wait(told, f"the answer in the record of {image}")

    def ledger(self) -> Ledger:
        """Where every upload has ended."""
        return draw_up(open_books(self.outputs, poll_seconds=0), datetime.now(UTC))

    def delete(self) -> list[str]:
        """`sam delete`; returns the names of the buckets and tables that remain because they hold data."""
        self.sam("delete", "--stack-name", STACK, "--no-prompts")
        tables = boto3.client("dynamodb").list_tables()["TableNames"]
        buckets = [bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]]
        functions = [function["FunctionName"] for function in boto3.client("lambda").list_functions()["Functions"]]
        machines = [machine["name"] for machine in boto3.client("stepfunctions").list_state_machines()["stateMachines"]]
        queues = [url.rpartition("/")[2] for url in boto3.client("sqs").list_queues().get("QueueUrls", [])]
        rules = [rule["Name"] for rule in boto3.client("events").list_rules()["Rules"]]
        there = [*buckets, *tables, *functions, *machines, *queues, *rules]
        return sorted(name for name in there if name.startswith(STACK))

    def _reasons(self) -> str:
        """CloudFormation's reasons for failed resources."""
        try:
            events = boto3.client("cloudformation").describe_stack_events(StackName=STACK)["StackEvents"]
        except Exception:
            return "CloudFormation knows no reason"
        failed = [event for event in events if "FAILED" in event["ResourceStatus"]]
        return "; ".join(f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason')}" for event in failed)


def empty(folder: Path) -> Path:
    """The folder, with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# ---- the command


def rehearse(
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the stack until Ctrl-C, so that you can explore it.")
    ] = False,
) -> None:
    """Deploy the built template to a local AWS, send it a photo, update it while a review is open, delete it.

    Needs no AWS account and uses none. Exit codes: 0 every step succeeded; 1 one failed; 2 something is not installed.
    """
    if lacking := missing():
        console.print(f"error: {lacking}")
        raise typer.Exit(2)
    step, started = _steps(), time.monotonic()
    try:
        with reporting(), local_aws(empty(WORK) / "ministack.log") as url:
            rehearsal = Rehearsal()
            step(f"ministack answers on {url}")
            rehearsal.package()
            step("sam package: the built functions and layers are zipped and uploaded")
            rehearsal.deploy(AuditRate="1")
            step("sam deploy: the shipped template is a stack; every photo will be audited")
            photo = rehearsal.upload("bike.jpg", (PROJECT / "samples/images/bicycle/red-road-bike.jpg").read_bytes())
            bad = rehearsal.upload("document.pdf", (PROJECT / "samples/images/broken/document.pdf").read_bytes())
            for upload in (photo, bad):
                decision = rehearsal.decided(upload).decision
                step(f"{upload[0].rpartition('/')[2]}: {decision.route}, {decision.reason} ({decision.explanation})")
            rehearsal.asked()
            step("a review is open")
            rehearsal.renew("newer")
            rehearsal.deploy(AuditRate="0")
            step("sam deploy: newer code and another parameter, while the review waits")
            review = rehearsal.answer(photo, "bicycle").review
            if not (review and review.answer and rehearsal.logged("RecordReviewFunction", "newer")):
                raise RehearsalError(f"the newer code did not record the answer; the logs are in {WORK}")
            step(f"the answer is recorded by the newer code: {review.answer.label}, by {review.answer.reviewer}")
            step(str(rehearsal.ledger()))
            if keep:
                _wait_for_interrupt()
            left = rehearsal.delete()
            step(f"sam delete: kept, because they hold data: {', '.join(left)}")
    except RehearsalError as error:
        console.print(painted(("failed", "bold red"), f" after {time.monotonic() - started:.0f} s: {error}"))
        raise typer.Exit(1) from error
    console.print(f"deployed, used, updated and deleted in {time.monotonic() - started:.0f} s; nothing is left running")


def _steps() -> Callable[[str], None]:
    """Prints each step that is done, with the seconds that it took."""
    last = time.monotonic()

    def done(what: str) -> None:
        nonlocal last
        now = time.monotonic()
        console.print(f"{now - last:6.1f} s  {what}")
        last = now

    return done


def _wait_for_interrupt() -> None:
    console.print("The stack is up until Ctrl-C. In another terminal:")
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        console.print(f"  export {name}={os.environ[name]}")
    console.print(f"  .venv/bin/kickstand ledger --stack-name {STACK}")
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print()


if __name__ == "__main__":
    with session():
        typer.run(rehearse)
