"""On "SageMaker Model Package State Change": record what was decided about a challenger, and tell what follows."""

import json
import os
from datetime import UTC, datetime
from typing import Any

import boto3
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from kickstand.lifecycle.rollout import ApprovalChange, describe_rollout
from kickstand.lifecycle.store import find_approval, note_approval
from kickstand.store import EVENT_SOURCE, transient

logger = Logger()
dynamodb = boto3.client("dynamodb")
sagemaker = boto3.client("sagemaker")
sns = boto3.client("sns")
events = boto3.client("events")
CONTROL_TABLE = os.environ["CONTROL_TABLE"]
ALARM_TOPIC = os.environ["ALARM_TOPIC"]


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    change = ApprovalChange.model_validate(event)
    if find_approval(dynamodb, CONTROL_TABLE) == (change.package, change.status):
        return {"told": False}  # SageMaker may send several events for one change
    package = sagemaker.describe_model_package(ModelPackageName=change.package)
    if package.get("CustomerMetadataProperties", {}).get("role") == "champion":
        return {"told": False}  # `kickstand training upload` has registered what serves already
    rollout = describe_rollout(change, package)
    with transient("SNS"):
        sns.publish(TopicArn=ALARM_TOPIC, Subject=rollout.subject, Message=rollout.message)
    if rollout.approved:
        with transient("EventBridge"):
            events.put_events(
                Entries=[{"Source": EVENT_SOURCE, "DetailType": "Model Approved", "Detail": json.dumps(rollout.detail)}]
            )
    note_approval(dynamodb, CONTROL_TABLE, change.package, change.status, datetime.now(UTC))
    logger.info("told", package=change.package, status=change.status)
    return {"told": True}
