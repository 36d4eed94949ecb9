"""`kickstand doctor --deploy` on accounts of moto's, and on fakes of what moto cannot play."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from botocore.parsers import ResponseParserError
from moto import mock_aws
from typer.testing import CliRunner

from kickstand_cli.local import account, doctor
from kickstand_cli.local.account import MANAGED, Target, examine_account, read_target, remedy
from kickstand_cli.local.doctor import Machine
from kickstand_cli.local.finding import Finding, Status
from kickstand_cli.main import app

REGION = "eu-central-1"
DEV = Target("kickstand-dev", None, None)
TEMPLATE = {"Resources": {"Queue": {"Type": "AWS::SQS::Queue"}}}
SAMS = {
    "Resources": {"Bucket": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "sams-bucket"}}},
    "Outputs": {"SourceBucket": {"Value": {"Ref": "Bucket"}}},
}


class Fake:
    """A client whose answers, or the errors it raises, are given by method."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def __getattr__(self, name: str) -> Any:
        def call(**_: Any) -> Any:
            answer = self.answers[name]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


def refused(code: str, operation: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, operation)


def at_once(number: int) -> Fake:
    """Lambda, which lets this many functions run at once."""
    limits = {"ConcurrentExecutions": number, "UnreservedConcurrentExecutions": number}
    return Fake(get_account_settings={"AccountLimit": limits})


def in_status(status: str) -> Fake:
    return Fake(describe_stacks={"Stacks": [{"StackStatus": status}]})


def examined(target: Target = DEV, **fakes: Fake) -> dict[str, Finding]:
    """What is found, by name; services without a fake are moto's. lambda_: Python's word is taken."""

    def client(service: str, **how: Any) -> Any:
        known: dict[str, Fake] = {"lambda": at_once(1000), "iam": Fake(get_role={"Role": {}}, get_user={"User": {}})}
        known |= {name.rstrip("_"): fake for name, fake in fakes.items()}
        return known.get(service) or boto3.client(service, **how)  # type: ignore[call-overload]

    return {finding.name: finding for finding in examine_account(REGION, target, client)}


@pytest.fixture(autouse=True)
def _aws() -> Iterator[None]:
    with mock_aws():
        yield


def test_an_empty_account_lacks_nothing() -> None:
    found = examined()
    assert {finding.status for finding in found.values()} == {Status.OK}
    assert found["account"].found.startswith("123456789012, as ")
    assert "first deployment" in found["stack kickstand-dev"].found
    assert MANAGED in found["bucket for artefacts"].found


@pytest.mark.parametrize(
    ("status", "blocks", "fix"),
    [
        ("CREATE_COMPLETE", False, ""),
        ("UPDATE_COMPLETE", False, ""),
        ("UPDATE_ROLLBACK_COMPLETE", False, ""),
        ("REVIEW_IN_PROGRESS", False, ""),
        ("CREATE_IN_PROGRESS", True, "wait"),
        ("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", True, "wait"),
        ("ROLLBACK_COMPLETE", True, "sam delete --stack-name kickstand-dev"),
        ("ROLLBACK_FAILED", True, "sam delete"),
        ("CREATE_FAILED", True, "sam delete"),
        ("DELETE_FAILED", True, "sam delete"),
        ("UPDATE_FAILED", True, "rollback-stack"),
        ("UPDATE_ROLLBACK_FAILED", True, "continue-update-rollback"),
    ],
)
def test_a_stack_that_cannot_be_deployed_to_blocks_with_what_to_do(status: str, blocks: bool, fix: str) -> None:
    finding = examined(cloudformation=in_status(status))["stack kickstand-dev"]
    assert (finding.status is Status.WRONG) == blocks
    assert fix in finding.fix
    assert bool(finding.fix) == blocks


def test_every_status_of_a_stack_has_a_remedy_or_can_be_deployed_to() -> None:
    shape = boto3.client("cloudformation", region_name=REGION).meta.service_model.shape_for("StackStatus")
    fine = {status for status in shape.enum if not remedy(status, "x")}
    assert {status for status in fine if not status.endswith("_COMPLETE")} <= {"IMPORT_ROLLBACK_FAILED"}


@pytest.mark.parametrize(("number", "status"), [(10, Status.LACKING), (99, Status.LACKING), (100, Status.OK)])
def test_a_new_accounts_quota_is_named_with_the_request_for_more(number: int, status: Status) -> None:
    finding = examined(lambda_=at_once(number))["Lambda's quota"]
    assert finding.status is status
    assert ("L-B99A9384" in finding.fix) == (status is Status.LACKING)


def test_the_bucket_of_sams_own_stack_is_found() -> None:
    cloudformation = boto3.client("cloudformation", region_name=REGION)
    cloudformation.create_stack(StackName=MANAGED, TemplateBody=json.dumps(SAMS))
    assert examined()["bucket for artefacts"].found == "sams-bucket"
    boto3.client("s3", region_name=REGION).delete_bucket(Bucket="sams-bucket")
    finding = examined()["bucket for artefacts"]
    assert (finding.status, finding.found) == (Status.WRONG, "sams-bucket does not exist")
    assert f"delete-stack --stack-name {MANAGED}" in finding.fix


def test_a_bucket_that_samconfig_names_must_exist() -> None:
    finding = examined(Target("kickstand-dev", "mine", None))["bucket for artefacts"]
    assert (finding.status, finding.found) == (Status.WRONG, "mine does not exist")


@pytest.mark.parametrize(("given", "status"), [(None, Status.LACKING), ("arn:aws:iam::1:policy/b", Status.OK)])
def test_a_boundary_of_ones_own_is_named_unless_the_stacks_roles_get_one(given: str | None, status: Status) -> None:
    bounded = {"PermissionsBoundary": {"PermissionsBoundaryArn": "arn:aws:iam::1:policy/b"}}
    sts = Fake(get_caller_identity={"Arn": "arn:aws:sts::123456789012:assumed-role/deployer/ci"})
    found = examined(Target("kickstand-dev", None, given), sts=sts, iam=Fake(get_role={"Role": bounded}))
    assert found["permissions boundary"].status is status
    assert found["account"].found == "123456789012, as assumed-role/deployer/ci"


def test_what_is_refused_is_unknown_with_the_permission_that_it_takes() -> None:
    found = examined(
        lambda_=Fake(get_account_settings=refused("AccessDeniedException", "GetAccountSettings")),
        cloudformation=Fake(describe_stacks=refused("AccessDenied", "DescribeStacks")),
        iam=Fake(get_user=refused("AccessDenied", "GetUser"), get_role=refused("AccessDenied", "GetRole")),
    )
    unknown = {name: finding for name, finding in found.items() if finding.status is Status.UNKNOWN}
    assert unknown.keys() >= {"Lambda's quota", "stack kickstand-dev", "bucket for artefacts"}
    assert all(finding.found.startswith("could not check") for finding in unknown.values())
    assert "lambda:GetAccountSettings" in unknown["Lambda's quota"].fix
    assert not any(finding.status is Status.WRONG for finding in found.values())


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (NoCredentialsError(), "no credentials"),
        (refused("ExpiredToken", "GetCallerIdentity"), "AWS refuses the credentials"),
        (EndpointConnectionError(endpoint_url="https://sts"), "AWS could not be reached"),
        (ResponseParserError("no XML:\nb''"), "AWS could not be reached: no XML: b''"),
    ],
)
def test_without_credentials_or_network_nothing_more_is_asked(error: Exception, found: str) -> None:
    findings = examined(sts=Fake(get_caller_identity=error))
    assert list(findings) == ["region", "identity"]
    assert findings["identity"].status is Status.WRONG
    assert findings["identity"].found.startswith(found)


def test_the_root_user_is_advised_against() -> None:
    sts = Fake(get_caller_identity={"Arn": "arn:aws:iam::123456789012:root"})
    assert examined(sts=sts)["account"].status is Status.LACKING


@pytest.mark.parametrize(
    ("region", "status"),
    [(REGION, Status.OK), ("cn-north-1", Status.OK), ("us-gov-west-1", Status.OK), ("eu-central-9", Status.LACKING)],
)
def test_a_region_without_the_services_is_named(region: str, status: Status) -> None:
    assert next(examine_account(region, DEV)).status is status


def test_no_region_at_all_blocks() -> None:
    assert next(examine_account("nowhere", DEV)).status is Status.WRONG


def test_calls_end_soon_when_nobody_answers() -> None:
    attempts = account.PATIENCE.retries["total_max_attempts"]  # type: ignore[attr-defined]
    seconds = account.PATIENCE.connect_timeout + account.PATIENCE.read_timeout  # type: ignore[attr-defined]
    assert attempts * seconds <= 20


@pytest.mark.parametrize(("config_env", "stack"), [("default", "kickstand-dev"), ("prod", "kickstand-prod")])
def test_samconfig_names_the_stack(config_env: str, stack: str) -> None:
    assert read_target(config_env) == Target(stack, None, None)


def test_the_boundary_and_the_bucket_of_samconfig_are_read(tmp_path: Path) -> None:
    (tmp_path / "samconfig.toml").write_text(
        '[qa.deploy.parameters]\nstack_name = "qa"\ns3_bucket = "mine"\n'
        'parameter_overrides = "Rollout=AllAtOnce PermissionsBoundary=arn:aws:iam::1:policy/b"\n'
    )
    assert read_target("qa", tmp_path) == Target("qa", "mine", "arn:aws:iam::1:policy/b")


@pytest.mark.parametrize(
    ("options", "region", "code", "says"),
    [
        ([], REGION, 0, "first deployment"),
        ([], "", 4, "no AWS region"),
        (["--config-env", "qa"], REGION, 4, "samconfig.toml has no environment qa"),
    ],
)
def test_the_exit_code_is_4_when_something_blocks(
    monkeypatch: pytest.MonkeyPatch, options: list[str], region: str, code: int, says: str
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_REGION", region)
    monkeypatch.setattr(account, "_quota", lambda _: Finding("Lambda's quota", Status.OK, "1000", "make deploy"))
    monkeypatch.setattr(doctor, "_builder", lambda _: Finding("sam build", Status.OK, "", "make deploy"))
    result = CliRunner().invoke(app, ["doctor", "--deploy", "--json", *options])
    assert (result.exit_code, says in result.stdout) == (code, True), result.output


@pytest.mark.parametrize(
    ("has", "status"),
    [({"python3.13 --version"}, Status.OK), ({"docker info"}, Status.OK), (set[str](), Status.WRONG)],
)
def test_building_takes_the_functions_python_or_a_container(has: set[str], status: Status) -> None:
    class Fitted(Machine):
        def which(self, program: str) -> str | None:
            return program if any(command.startswith(program) for command in has) else None

        def run(self, *command: str) -> str | None:
            return "Python 3.13.0" if " ".join(command) in has else None

    assert doctor._builder(Fitted()).status is status
