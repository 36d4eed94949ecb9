"""On "SageMaker Model Package State Change": record the decision about a challenger, and notify the team."""

import os
from datetime import UTC, datetime
from functools import partial
from typing import Any

import boto3
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from kickstand.clients import BRIEF
from kickstand.lifecycle.rollout import ApprovalChange, describe_rollout
from kickstand.lifecycle.store import find_approval, find_version, note_approval, publish_rollout
from kickstand.settings import Settings


class AnnounceApprovalSettings(Settings):
    control_table: str
    alarm_topic: str


logger = Logger()
dynamodb = boto3.client("dynamodb", config=BRIEF)
sagemaker = boto3.client("sagemaker", config=BRIEF)
sns = boto3.client("sns", config=BRIEF)
events = boto3.client("events", config=BRIEF)
s3 = boto3.client("s3", config=BRIEF)
settings = AnnounceApprovalSettings.model_validate(os.environ)


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    change = ApprovalChange.model_validate(event)
    rollout = describe_rollout(
        change,
        lambda: sagemaker.describe_model_package(ModelPackageName=change.package),
        find_approval(dynamodb, settings.control_table),
        partial(find_version, s3),
    )
    if rollout is None:
        return {"told": False}
    publish_rollout(sns, events, settings.alarm_topic, rollout)
    note_approval(dynamodb, settings.control_table, change.package, change.status, datetime.now(UTC))
    logger.info("told", package=change.package, status=change.status)
    return {"told": True}
