"""On uploads that wait in the queue: start classify_image for each, and leave there what could not be executed."""

import os
from typing import Any

import boto3
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from kickstand.classify.admission import Workflow, WorkflowType, admit
from kickstand.clients import EXECUTION
from kickstand.settings import Settings


class AdmitUploadsSettings(Settings):
    classify_image: str
    workflow_type: WorkflowType


logger = Logger()
settings = AdmitUploadsSettings.model_validate(os.environ)
WORKFLOW = Workflow(boto3.client("stepfunctions", config=EXECUTION), settings.classify_image, settings.workflow_type)


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    left = admit(WORKFLOW, {record["messageId"]: record["body"] for record in event["Records"]})
    for message, error in left.items():
        logger.error("stays in the queue", message_id=message, error=repr(error))
    return {"batchItemFailures": [{"itemIdentifier": message} for message in left]}
