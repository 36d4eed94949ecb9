"""Upgrade in motion: work of the last release continues under this version, and back again.

And `make deploy-local`, step by step: the template through the real SAM CLI, the deployed zips from upload to review.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import boto3
import pytest
import yaml

from kickstand.events import Reason, Route
from kickstand_cli.local.rehearsal import SAM, STACK, Rehearsal, RehearsalError, empty, local_aws, missing
from kickstand_cli.local.template import load_yaml
from kickstand_cli.project import PROJECT, TEMPLATE

FIRST = "3b406c4"  # the release, until a commit has a tag
SAMPLES = PROJECT / "samples/images"
ASKING = "ReviewImageStateMachineArn"
MACHINES = ("ClassifyImageStateMachineArn", ASKING)
Key = tuple[str, str]
PROGRAM = Path(__file__).with_name("one_version.py")
# The first release reads no record with a reason that is newer than itself, and shows reviews of one partition only.
UNREADABLE = {FIRST: ["retake", "partitions"]}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def git(*arguments: str) -> str | None:
    """What git prints; None where it fails."""
    ran = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True)
    return ran.stdout.strip() if ran.returncode == 0 else None


def is_here(release: str) -> bool:
    return git("cat-file", "-e", f"{release}^{{commit}}") is not None


@pytest.fixture(scope="module")
def release() -> str:
    """The last release before this version: its newest tag, or the first release."""
    return git("describe", "--tags", "--abbrev=0", "HEAD^") or FIRST


@pytest.fixture(scope="module")
def older(absent: Callable[[str, str], NoReturn], release: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of the last release."""
    if not is_here(release):
        absent("history", f"this clone has no commit {release}: git fetch --unshallow --tags")
    folder = tmp_path_factory.mktemp("release")
    archive = subprocess.run(["git", "archive", release], cwd=PROJECT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "x", "-C", folder], input=archive, check=True)
    return folder


def run(version: Path, *arguments: str | Path) -> None:
    """Run `one_version.py` with the packages of this checkout."""
    paths = {"PYTHONPATH": f"{version / 'layers/core'}{os.pathsep}{version / 'cli'}"}
    ran = subprocess.run(
        [sys.executable, PROGRAM, *arguments], cwd=version, env=os.environ | paths, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-4000:]


@pytest.fixture(scope="module")
def older_built(older: Path) -> Path:
    """What `sam build` makes of the last release.

    Not by its `make build`, which would make this checkout's .venv-sam anew where it takes it for outdated.
    """
    path = f"{SAM.parent}{os.pathsep}{os.environ['PATH']}"
    making = subprocess.run(
        [SAM, "build", "--no-cached"],
        cwd=older,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert making.returncode == 0, making.stdout + making.stderr
    return older / ".aws-sam/build"


@pytest.mark.parametrize("direction", ["upgrade", "rollback"])
def test_nothing_that_one_version_has_left_is_lost_or_unreadable_under_the_other(
    older: Path, release: str, direction: str, record_property: Callable[[str, object], None]
) -> None:
    folder = empty(PROJECT / f"build/test-{direction}")
    if direction == "upgrade":
        run(older, "write", folder)
        run(PROJECT, "read", folder)
    else:
        run(PROJECT, "write", folder, *UNREADABLE.get(release, []))
        run(older, "read", folder)
    told: dict[str, Any] = json.loads((folder / "read.json").read_text())
    counted, failures = told["counted"], told["failures"]
    record_property(
        f"{direction}, {release} and this version",
        f"{counted['record']} records and {counted['execution']} executions gone on with, and {len(counted) - 2} other "
        f"things done; {len(failures)} failed",
    )
    assert failures == {}
    assert counted["record"] >= 7
    assert counted["execution"] >= 30


@pytest.mark.enable_socket
@pytest.mark.timeout(1200)
def test_a_stack_is_deployed_used_updated_and_rolled_back_while_people_are_asked_and_deleted(
    absent: Callable[[str, str], NoReturn], built: Path, release: str, request: pytest.FixtureRequest
) -> None:
    """By `sam deploy`, on the local AWS: one stack, its tables and buckets, its executions and their task tokens.

    It begins as the last release; in a clone without that, as this version. One test, for one deployment takes most of
    its time.
    """
    if lacking := missing():
        absent("deploy", lacking)
    older, older_built = PROJECT, built
    if is_here(release):
        older, older_built = request.getfixturevalue("older"), request.getfixturevalue("older_built")
    folder = PROJECT / "build/test-upgrade"
    before, after = Rehearsal(empty(folder / "older"), older_built), Rehearsal(empty(folder / "newer"))
    with local_aws(folder / "ministack.log"):
        for stack in (before, after):
            stack.package()
            make_patient(stack)
        after.renew("newer")
        with pytest.raises(RehearsalError, match=r"sam deploy failed.*AuditRate"):
            after.deploy(AuditRate="2")

        deploy(before, AuditRate="1")  # a person is asked about every photo that is accepted
        waiting = {photographed(before, "red-road-bike"), photographed(before, "blue-city-bike")}
        uploads = {*waiting, is_refused(before, "document.pdf")}
        asked(before, waiting)
        assert statuses(before, ASKING) == {"RUNNING"}
        command(older, "switch", "on", "--reason", "new cameras", "--for", "4h", "--by", "Ada")
        monitored(before)
        assert not before.logged("ReviewFunction", "newer")

        deploy(after, AuditRate="1")
        assert "new cameras" in command(PROJECT, "switch", "status")
        monitored(after)
        answered(after, waiting)
        assert all(after.logged(function, "newer") for function in ("ReviewFunction", "RecordReviewFunction"))
        later = photographed(after, "mountain-bike")
        assert after.decided(later).decision.reason is Reason.REVIEW_EVERYTHING
        uploads |= {later, is_refused(after, "newer.pdf")}
        asked(after, waiting | {later})
        balanced(PROJECT, uploads=5, waiting=1)  # an audited photo is accepted meanwhile
        command(PROJECT, "switch", "off")
        audited = photographed(after, "red-road-bike", "a folder/red +%2F é.jpg")
        is_accepted(after, audited)
        asked(after, waiting | {later, audited})
        ledger = after.ledger()
        assert (ledger.uploads, ledger.counts["reviewed"], ledger.counts["rejected"]) == (6, 1, 2)
        assert not ledger.lacks
        command(PROJECT, "switch", "on", "--reason", "newer cameras", "--for", "4h", "--by", "Ada")
        waiting |= {later, audited}
        uploads.add(audited)
        kept = retained(after, TEMPLATE)

        deploy(before, AuditRate="0")
        assert "newer cameras" in command(older, "switch", "status")
        monitored(before)
        if older != PROJECT and release == FIRST:
            show_to_first_release(before)
        while waiting:
            answered(before, waiting)
        balanced(older, uploads=6, waiting=0)
        for image, _ in uploads:
            command(older, "explain", image)
        while "RUNNING" in statuses(before, *MACHINES):
            time.sleep(0.1)
        assert statuses(before, *MACHINES) == {"SUCCEEDED"}
        kept |= retained(before, older / "template.yaml")
        assert set(before.delete()) == kept


def show_to_first_release(stack: Rehearsal) -> None:
    """It shows the reviews of one partition only: docs/deploying.md. Once they are asked again, they are there."""
    dynamodb = boto3.client("dynamodb")
    for item in dynamodb.scan(TableName=stack.outputs["ReviewsTableName"])["Items"]:
        if "queue" in item:
            item["queue"] = {"S": item["queue"]["S"].partition("#")[0]}
            dynamodb.put_item(TableName=stack.outputs["ReviewsTableName"], Item=item)


def make_patient(stack: Rehearsal) -> None:
    """Time-outs fit AWS, not a machine that plays all of it by itself: a busy one takes long to start a function."""
    template = yaml.safe_load(stack.packaged.read_text("utf-8"))
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["Timeout"] = 300
    stack.packaged.write_text(yaml.safe_dump(template, sort_keys=False), "utf-8")


def deploy(stack: Rehearsal, **parameters: str) -> None:
    """Make, update or roll back the stack."""
    stack.deploy(**parameters)
    stepfunctions = boto3.client("stepfunctions")
    for machine in MACHINES:
        arn = stack.outputs[machine]
        definition = json.loads(stepfunctions.describe_state_machine(stateMachineArn=arn)["definition"])
        for part in (definition, *definition["States"].values()):
            part.pop("TimeoutSeconds", None)
        stepfunctions.update_state_machine(stateMachineArn=arn, definition=json.dumps(definition))


def photographed(stack: Rehearsal, name: str, key: str = "") -> Key:
    """Upload a photo of a bicycle."""
    return stack.upload(key or f"{name}.jpg", (SAMPLES / f"bicycle/{name}.jpg").read_bytes())


def is_refused(stack: Rehearsal, key: str) -> Key:
    """Upload a document. An error of a function reaches the Catch that names its class."""
    document = stack.upload(key, (SAMPLES / "broken/document.pdf").read_bytes())
    decision = stack.decided(document).decision
    assert (decision.route, decision.reason) == (Route.REJECT, Reason.UNREADABLE)
    assert "a PDF" in decision.explanation
    return document


def is_accepted(stack: Rehearsal, photo: Key) -> None:
    record = stack.decided(photo)
    assert record.decision.route is Route.ACCEPT
    assert record.prediction is not None
    assert record.prediction.label == "bicycle"
    assert (record.image, record.version) == photo


def asked(stack: Rehearsal, uploads: set[Key]) -> None:
    """Wait until people are asked about each of these."""
    table = stack.outputs["ReviewsTableName"]

    def waiting() -> bool:
        items = boto3.client("dynamodb").scan(TableName=table)["Items"]
        return {(item["image"]["S"], item["version"]["S"]) for item in items if "task_token" in item} >= uploads

    while not waiting():
        time.sleep(0.1)


def answered(stack: Rehearsal, waiting: set[Key]) -> None:
    """Answer what the page shows, and take it off; the record tells of it."""
    shown = stack.asked()
    upload = shown["image"], shown["version"]
    waiting.remove(upload)
    review = stack.answer(upload, "bicycle").review
    assert review is not None
    assert review.answer is not None
    assert (review.answer.label, review.answer.reviewer, review.answer.late) == ("bicycle", "Ada", False)


def monitored(stack: Rehearsal) -> None:
    answer = boto3.client("lambda").invoke(FunctionName=stack.outputs["MonitorFunctionName"])
    assert "FunctionError" not in answer, answer["Payload"].read()


def balanced(version: Path, uploads: int, waiting: int) -> None:
    """The ledger, by the command of this checkout: every upload is somewhere."""
    audit = ["--audit"] if version == PROJECT else []  # the first release knows audits only
    told = json.loads(command(version, "ledger", *audit, "--grace", "0", "--json"))
    assert (told["uploads"], told["waiting"], told["missing"]) == (uploads, waiting, 0), told


def command(version: Path, *arguments: str) -> str:
    """What `kickstand` of this checkout prints about the stack."""
    paths = {"PYTHONPATH": f"{version / 'layers/core'}{os.pathsep}{version / 'cli'}"}
    program = [sys.executable, "-c", "from kickstand_cli.main import app; app()", *arguments, "--stack-name", STACK]
    ran = subprocess.run(program, cwd=version, env=os.environ | paths, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def statuses(stack: Rehearsal, *machines: str) -> set[str]:
    """How the executions of these state machines, named by their outputs, stand."""
    stepfunctions = boto3.client("stepfunctions")
    return {
        execution["status"]
        for machine in machines
        for execution in stepfunctions.list_executions(stateMachineArn=stack.outputs[machine])["executions"]
    }


def retained(stack: Rehearsal, template: Path) -> set[str]:
    """What this template of the stack keeps when the stack is deleted."""
    resources = load_yaml(template)["Resources"].items()
    return {stack.physical(name) for name, item in resources if "Retain" in item.get("DeletionPolicy", "")}
