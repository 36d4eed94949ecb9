"""On uploads in the queue: run classify_image for each. An upload that could not be executed stays in the queue."""

import os
from contextlib import suppress
from typing import Any

import boto3
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.exceptions import BotoCoreError, ClientError

from kickstand.classify.admission import AGAIN_AFTER_SECONDS, Batch, NotAnUpload, Workflow, WorkflowType, admit
from kickstand.clients import BRIEF, EXECUTION
from kickstand.settings import Settings


class AdmitUploadsSettings(Settings):
    classify_image: str
    upload_queue: str
    dead_letter_queue: str
    workflow_type: WorkflowType


logger = Logger()
settings = AdmitUploadsSettings.model_validate(os.environ)
sqs = boto3.client("sqs", config=BRIEF)
WORKFLOW = Workflow(boto3.client("stepfunctions", config=EXECUTION), settings.classify_image, settings.workflow_type)


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    messages = {message.message_id: message for message in Batch.model_validate(event).records}
    # No other upload waits behind a single one, and waiting would cost more than its execution.
    left = admit(WORKFLOW, {name: message.body for name, message in messages.items()}, wait=len(messages) > 1)
    for name in [name for name, error in left.items() if isinstance(error, NotAnUpload)]:
        with suppress(ClientError, BotoCoreError):  # it stays in the queue, and keeps no other message there
            sqs.send_message(QueueUrl=settings.dead_letter_queue, MessageBody=messages[name].body)
            logger.error("not an upload: now a dead letter", message_id=name, error=repr(left.pop(name)))
    for name, error in left.items():
        logger.error("stays in the queue", message_id=name, error=repr(error))
        with suppress(ClientError, BotoCoreError):  # the message stays in the queue, and comes later
            sqs.change_message_visibility(
                QueueUrl=settings.upload_queue,
                ReceiptHandle=messages[name].receipt_handle,
                VisibilityTimeout=AGAIN_AFTER_SECONDS,
            )
    return {"batchItemFailures": [{"itemIdentifier": name} for name in left]}
