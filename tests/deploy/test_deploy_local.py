"""`make deploy-local`, step by step: the template through the real SAM CLI, the deployed zips from upload to review."""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import boto3
import pytest

from kickstand.events import Reason, Route
from kickstand_cli.local.rehearsal import Rehearsal, RehearsalError, empty, local_aws, missing
from kickstand_cli.local.template import load_yaml
from kickstand_cli.project import PROJECT, TEMPLATE

SAMPLES = PROJECT / "samples/images"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.enable_socket]


def test_a_stack_is_deployed_used_updated_while_a_question_waits_and_deleted(
    absent: Callable[[str, str], NoReturn], built: Path
) -> None:
    """One test, for one deployment takes most of its time."""
    if lacking := missing():
        absent("deploy", lacking)
    folder = empty(PROJECT / "build/test-deploy")
    with local_aws(folder / "ministack.log"):
        stack = Rehearsal(folder)
        stack.package()
        with pytest.raises(RehearsalError, match=r"sam deploy failed.*AuditRate"):
            stack.deploy(AuditRate="2")
        stack.deploy(AuditRate="1")  # a person is asked about every photo, whatever the model says
        is_used(stack)
        photo = stack.upload("a folder/red +%2F é.jpg", (SAMPLES / "bicycle/red-road-bike.jpg").read_bytes())
        is_asked_about(stack, photo)
        stack.renew("newer")
        stack.deploy(AuditRate="0")
        is_answered_by_the_newer_code(stack, photo)
        resources = load_yaml(TEMPLATE)["Resources"].items()
        kept = {stack.physical(name) for name, item in resources if "Retain" in item.get("DeletionPolicy", "")}
        assert set(stack.delete()) == kept


def is_used(stack: Rehearsal) -> None:
    """An error of a function reaches the Catch that names its class."""
    document = stack.upload("document.pdf", (SAMPLES / "broken/document.pdf").read_bytes())
    decision = stack.decided(document).decision
    assert (decision.route, decision.reason) == (Route.REJECT, Reason.UNREADABLE)
    assert "a PDF" in decision.explanation


def is_asked_about(stack: Rehearsal, photo: tuple[str, str]) -> None:
    record = stack.decided(photo)
    assert record.decision.route is Route.ACCEPT
    assert record.prediction is not None
    assert record.prediction.label == "bicycle"
    assert (record.image, record.version) == photo
    assert stack.asked()["image"] == record.image
    assert statuses(stack) == {"RUNNING"}


def is_answered_by_the_newer_code(stack: Rehearsal, photo: tuple[str, str]) -> None:
    assert not stack.logged("ReviewFunction", "newer")
    review = stack.answer(photo, "bicycle").review
    assert review is not None
    assert review.answer is not None
    assert (review.answer.label, review.answer.reviewer, review.answer.late) == ("bicycle", "Ada", False)
    assert stack.logged("ReviewFunction", "newer")
    assert stack.logged("RecordReviewFunction", "newer")
    assert statuses(stack) == {"SUCCEEDED"}
    ledger = stack.ledger()
    assert (ledger.uploads, ledger.counts["reviewed"], ledger.counts["rejected"]) == (2, 1, 1)
    assert not ledger.lacks


def statuses(stack: Rehearsal) -> set[str]:
    """Of the executions that ask a person."""
    machine = stack.outputs["ReviewImageStateMachineArn"]
    found = boto3.client("stepfunctions").list_executions(stateMachineArn=machine)["executions"]
    return {execution["status"] for execution in found}
