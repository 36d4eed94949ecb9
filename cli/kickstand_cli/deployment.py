"""Finds a deployed stack: its region, and its outputs by its name in CloudFormation or from a file.

`python -m kickstand_cli.deployment` prints the region alone: `make deploy` passes it on.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import boto3
import typer
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from kickstand.errors import StoreUnavailable
from kickstand.ledger.books import Books
from kickstand_cli.files import open_file
from kickstand_cli.terminal import CommandError, console, fail, reason, session, stderr

STACK_VARIABLE = "KICKSTAND_STACK"
StackName = Annotated[
    str, typer.Option("--stack-name", envvar=STACK_VARIABLE, metavar="NAME", help="The deployed stack.")
]
OutputsFile = Annotated[
    Path | None,
    typer.Option(
        "--outputs",
        metavar="FILE",
        help="The stack's outputs (`sam list stack-outputs --output json`); else from CloudFormation.",
    ),
]
REMEDIES: dict[type[Exception], str] = {  # where botocore's message names no remedy
    NoCredentialsError: ": `aws configure` stores some; AWS_PROFILE names a profile",
}
DEFAULT_STACK = "kickstand-dev"  # samconfig.toml's


@contextmanager
def reporting() -> Iterator[None]:
    """An error from AWS, or on the way to it, ends the command: one line on stderr and exit code 1."""
    try:
        yield
    except (CommandError, StoreUnavailable, BotoCoreError, ClientError, ValueError) as error:
        fail(error, REMEDIES.get(type(error), ""))


def find_region() -> str:
    """AWS_REGION, then AWS_DEFAULT_REGION, then the region of the profile. Raises CommandError where there is none.

    botocore alone does not read AWS_REGION, which Lambda and the other SDKs do.
    """
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or boto3.Session().region_name
    if not region:
        raise CommandError("no AWS region: set AWS_REGION, or give your profile one with `aws configure`")
    return str(region)


def use_region() -> str:
    """Make `find_region` the region of every client from here on, and return it."""
    region = find_region()
    boto3.setup_default_session(region_name=region)
    return region


def name_region(region: str) -> None:
    """Print the region on stderr, so that a wrong one is noticed."""
    stderr.print(f"AWS region: {region}")


class Outputs(dict[str, str]):
    """A stack's outputs by name; one that is missing raises CommandError. source: their file, or the stack."""

    source = "the stack"

    def __missing__(self, name: str) -> str:
        raise CommandError(f"{self.source}: it has no output {name}; it is not a Kickstand stack, or an older one")


def read_outputs(stack_name: str, file: Path | None = None) -> Outputs:
    """The stack's outputs by name; from here on, clients use its region.

    Raises CommandError where there is no region, or no such stack or file.
    """
    found = None if file is None else _read_file(file)
    region = use_region()
    outputs = _ask_cloudformation(stack_name) if found is None else found
    name_region(region)
    return outputs


def _read_file(file: Path) -> Outputs:
    try:
        with open_file(file) as outputs:
            content = json.load(outputs)
        if isinstance(content, list):
            content = {output["OutputKey"]: output["OutputValue"] for output in content}
        for name, value in content.items():
            if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
                raise ValueError(f"{name} is no text, or empty")
        found = Outputs((str(name), str(value)) for name, value in content.items())
        found.source = str(file)
        return found
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CommandError(f"{file}: not the outputs of a stack ({reason(error)})") from error


def _ask_cloudformation(stack_name: str) -> Outputs:
    cloudformation = open_client("cloudformation")
    try:
        (stack,) = cloudformation.describe_stacks(StackName=stack_name)["Stacks"]
    except cloudformation.exceptions.ClientError as error:
        if error.response["Error"]["Code"] != "ValidationError":
            raise
        place = f"{stack_name} in {cloudformation.meta.region_name}"
        raise CommandError(f"there is no stack {place}; see --stack-name and AWS_REGION") from error
    return Outputs((output["OutputKey"], output["OutputValue"]) for output in stack.get("Outputs", []))


def open_client(service: str) -> Any:
    """A client of this AWS service. Raises CommandError for a wrong setting, such as AWS_MAX_ATTEMPTS=x."""
    try:
        return boto3.client(service)  # type: ignore[call-overload]
    except ValueError as error:
        raise CommandError(
            f"a setting of AWS, in the environment or ~/.aws/config, is wrong: {reason(error)}"
        ) from error


def open_books(outputs: Mapping[str, str], poll_seconds: int = 1) -> Books:
    """The stack's bucket, tables, queue and state machines. Raises CommandError for a missing or wrong output."""
    days = str(outputs.get("RetentionDays", "0"))  # a number in a local stack
    if not re.fullmatch("[0-9]{1,5}", days):
        raise CommandError(
            f"{getattr(outputs, 'source', Outputs.source)}: its output RetentionDays is {days!r}, no number of days"
        )
    return Books(
        s3=open_client("s3"),
        dynamodb=open_client("dynamodb"),
        sqs=open_client("sqs"),
        stepfunctions=open_client("stepfunctions"),
        image_bucket=outputs["ImageBucketName"],
        records_table=outputs["RecordsTableName"],
        reviews_table=outputs["ReviewsTableName"],
        control_table=outputs.get("ControlTableName", ""),  # an older stack, of which only records are read, has none
        letters_table=outputs.get("LettersTableName", ""),
        new_uploads=outputs.get("NewUploadsQueueUrl", ""),
        waiting_queue=outputs.get("UploadQueueUrl", ""),
        dead_letter_queue=outputs["DeadLetterQueueUrl"],
        retention_days=int(days),
        review_image=outputs["ReviewImageStateMachineArn"],
        poll_seconds=poll_seconds,
    )


def _print_region() -> None:
    with reporting():
        region = find_region()
    console.print(region)


if __name__ == "__main__":
    with session():
        typer.run(_print_region)
