"""The prerequisites of a deployment in an AWS account: `kickstand doctor --deploy` reads, and changes nothing."""

import shlex
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, UnknownRegionError
from botocore.parsers import ResponseParserError

from kickstand.text import counted
from kickstand_cli.local.finding import Finding, Status
from kickstand_cli.project import PROJECT
from kickstand_cli.terminal import reason

# Each call takes at most 16 seconds; after one that cannot reach AWS there is no other.
PATIENCE = Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 2})
SERVICES = {  # botocore's names of what the template uses
    "cloudformation": "CloudFormation",
    "codedeploy": "CodeDeploy",
    "cloudwatch": "CloudWatch",
    "dynamodb": "DynamoDB",
    "events": "EventBridge",
    "lambda": "Lambda",
    "logs": "CloudWatch Logs",
    "s3": "S3",
    "sns": "SNS",
    "sqs": "SQS",
    "stepfunctions": "Step Functions",
    "xray": "X-Ray",
}
FEW = 100  # functions at once: the quota of a new account is 10, of others 1,000
QUOTA = "aws service-quotas request-service-quota-increase --service-code lambda --quota-code L-B99A9384"
UNANSWERED = BotoCoreError, ResponseParserError  # the second: a proxy answered, not AWS
REFUSED = {"AccessDenied", "AccessDeniedException", "403", "Forbidden", "UnauthorizedOperation"}
MANAGED = "aws-sam-cli-managed-default"  # SAM CLI's own stack, with the bucket for what it uploads
NEEDED = "make deploy"


@dataclass(frozen=True)
class Target:
    """The settings of a deployment in samconfig.toml. bucket: None where SAM CLI uses its own."""

    stack: str
    bucket: str | None
    boundary: str | None


def read_target(config_env: str, project: Path = PROJECT) -> Target:
    """Raises ValueError where samconfig.toml cannot be read, or has no such environment."""
    try:
        environments = tomllib.loads((project / "samconfig.toml").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"samconfig.toml: {reason(error)}") from error
    if config_env not in environments:
        raise ValueError(f"samconfig.toml has no environment {config_env}; it has {', '.join(environments)}")
    try:
        of = environments[config_env]
        shared, deploy = of.get("global", {}).get("parameters", {}), of["deploy"]["parameters"]
        stack = (shared | deploy)["stack_name"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"samconfig.toml: {config_env} has no deploy.parameters, or no stack_name in it") from error
    overrides = deploy.get("parameter_overrides", "")
    given = dict(part.partition("=")[::2] for part in shlex.split(overrides)) if isinstance(overrides, str) else {}
    return Target(stack, deploy.get("s3_bucket"), given.get("PermissionsBoundary") or None)


def examine_account(region: str, target: Target, make_client: Callable[..., Any] = boto3.client) -> Iterator[Finding]:
    """The checks, in the order in which a deployment needs them, up to the first that makes the rest pointless."""

    def client(service: str) -> Any:
        return make_client(service, region_name=region, config=PATIENCE)

    yield _region(region, boto3.Session())
    identity = _identity(client)
    yield identity
    if identity.status is not Status.OK:
        return
    yield _principal(identity.found)
    yield _boundary(client, identity.found, target.boundary)
    yield _attempt("Lambda's quota", "lambda:GetAccountSettings", lambda: _quota(client))
    yield _attempt(f"stack {target.stack}", "cloudformation:DescribeStacks", lambda: _stack(client, target.stack))
    yield _attempt("bucket for artefacts", "cloudformation:DescribeStacks", lambda: _bucket(client, target.bucket))


def _attempt(name: str, permission: str, ask: Callable[[], Finding]) -> Finding:
    try:
        return ask()
    except ClientError as error:
        code = error.response["Error"]["Code"]
        fix = f"allow {permission}, or continue: only this check needs it" if code in REFUSED else "try again"
        return Finding(name, Status.UNKNOWN, f"could not check: {reason(error)}", NEEDED, fix)
    except UNANSWERED as error:
        return Finding(name, Status.UNKNOWN, f"could not check: {reason(error)}", NEEDED, "try again")


def _region(region: str, session: Any) -> Finding:
    try:
        partition = session.get_partition_for_region(region)
    except UnknownRegionError:
        fix = "set AWS_REGION to a region, such as eu-central-1"
        return Finding("region", Status.WRONG, f"{region} is not a region", NEEDED, fix)
    missing = [
        name
        for service, name in SERVICES.items()
        if region not in session.get_available_regions(service, partition_name=partition)
    ]
    if not missing:
        return Finding("region", Status.OK, f"{region}, in partition {partition}", NEEDED)
    found = f"{region} has no {', '.join(missing)}, according to this version of botocore"
    return Finding("region", Status.LACKING, found, NEEDED, "check the spelling, or choose another region")


def _identity(client: Callable[[str], Any]) -> Finding:
    """found: the ARN; without it, no other check is possible."""
    try:
        return Finding("identity", Status.OK, str(client("sts").get_caller_identity()["Arn"]), NEEDED)
    except NoCredentialsError:
        fix = "aws configure sso, or export AWS_PROFILE"
        return Finding("identity", Status.WRONG, "no credentials", NEEDED, fix)
    except ClientError as error:
        fix = "newer credentials: aws sso login, or new environment variables"
        return Finding("identity", Status.WRONG, f"AWS refuses the credentials: {reason(error)}", NEEDED, fix)
    except UNANSWERED as error:
        fix = "check the network, a proxy (HTTPS_PROXY), and the region's name"
        return Finding("identity", Status.WRONG, f"AWS could not be reached: {reason(error)}", NEEDED, fix)


def _principal(arn: str) -> Finding:
    account, principal = arn.split(":")[4], arn.split(":", 5)[5]
    if principal == "root":
        fix = "use a role or a user: nothing limits the root user"
        return Finding("account", Status.LACKING, f"{account}, as its root user", NEEDED, fix)
    return Finding("account", Status.OK, f"{account}, as {principal}", NEEDED)


def _boundary(client: Callable[[str], Any], arn: str, given: str | None) -> Finding:
    """An identity with a permissions boundary may often create roles with that boundary only."""
    kind, _, rest = arn.split(":", 5)[5].partition("/")

    def ask() -> Finding:
        iam = client("iam")
        own: dict[str, Any] = {}
        if kind == "assumed-role":
            own = iam.get_role(RoleName=rest.split("/")[0])["Role"]
        elif kind == "user":
            own = iam.get_user(UserName=rest.rpartition("/")[2])["User"]
        boundary = own.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn")
        if given:
            return Finding("permissions boundary", Status.OK, f"roles get {given}", NEEDED)
        if boundary is None:
            return Finding("permissions boundary", Status.OK, "your identity has none", NEEDED)
        fix = f"if roles must have it too: PermissionsBoundary={boundary} in parameter_overrides of samconfig.toml"
        return Finding(
            "permissions boundary", Status.LACKING, f"yours is {boundary}, the stack's roles get none", NEEDED, fix
        )

    return _attempt("permissions boundary", "iam:GetRole", ask)


def _quota(client: Callable[[str], Any]) -> Finding:
    limits = client("lambda").get_account_settings()["AccountLimit"]
    free = limits["UnreservedConcurrentExecutions"]
    found = f"{counted(free, 'function')} at a time"
    if free >= FEW:
        return Finding("Lambda's quota", Status.OK, found, NEEDED)
    queued = "when many photos arrive at once, most wait in the upload queue"
    found += f", of {limits['ConcurrentExecutions']} in this region: {queued}"
    return Finding("Lambda's quota", Status.LACKING, found, "many uploads at a time", f"{QUOTA} --desired-value 1000")


def _stack(client: Callable[[str], Any], name: str) -> Finding:
    status = _status(client, name)
    title = f"stack {name}"
    if status is None:
        return Finding(title, Status.OK, "not there yet: this will be the first deployment", NEEDED)
    if status == "REVIEW_IN_PROGRESS":
        return Finding(title, Status.OK, f"{status}: holds no resource yet; a deployment continues from there", NEEDED)
    if fix := remedy(status, name):
        return Finding(title, Status.WRONG, status, NEEDED, fix)
    return Finding(title, Status.OK, status, NEEDED)


def remedy(status: str, name: str) -> str:
    """What to do about a stack that cannot be deployed to; empty where it can."""
    if status.endswith("_IN_PROGRESS"):
        return f"wait: aws cloudformation describe-stack-events --stack-name {name} shows what it does"
    if status in ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED"):
        return f"it can only be deleted: sam delete --stack-name {name}; docs/deploying.md lists what may remain"
    if status == "UPDATE_ROLLBACK_FAILED":
        return (
            f"fix what the events name, then aws cloudformation continue-update-rollback --stack-name {name}; "
            "do not delete it"
        )
    if status == "UPDATE_FAILED":
        return f"aws cloudformation rollback-stack --stack-name {name}"
    return ""


def _bucket(client: Callable[[str], Any], named: str | None) -> Finding:
    title, bucket = "bucket for artefacts", named
    if bucket is None:
        status = _status(client, MANAGED)
        if status is None:
            found = f"not there yet: sam deploy creates the stack {MANAGED} with it, and needs the permission"
            return Finding(title, Status.OK, found, NEEDED)
        if fix := remedy(status, MANAGED):
            return Finding(title, Status.WRONG, f"{MANAGED} is in {status}", NEEDED, fix)
        (stack,) = client("cloudformation").describe_stacks(StackName=MANAGED)["Stacks"]
        outputs = {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
        bucket = outputs.get("SourceBucket", "")
    try:
        client("s3").head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchBucket", "NotFound"):
            raise
        fix = (
            f"create it, or leave s3_bucket out of samconfig.toml: {bucket}"
            if named
            else f"aws cloudformation delete-stack --stack-name {MANAGED}; sam deploy creates it again"
        )
        return Finding(title, Status.WRONG, f"{bucket} does not exist", NEEDED, fix)
    return Finding(title, Status.OK, bucket, NEEDED)


def _status(client: Callable[[str], Any], stack: str) -> str | None:
    """None where there is no such stack."""
    try:
        (found,) = client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ValidationError":
            return None
        raise
    return str(found["StackStatus"])
