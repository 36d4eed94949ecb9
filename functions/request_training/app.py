"""On "Model Degraded", on a schedule, or on request: start `train_model`, unless it is too soon."""

import os
from datetime import UTC, datetime
from typing import Any

import boto3
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from kickstand.clients import BRIEF
from kickstand.lifecycle.retraining import Request, RequestTrainingSettings
from kickstand.lifecycle.store import request_training

logger = Logger()
dynamodb = boto3.client("dynamodb", config=BRIEF)
stepfunctions = boto3.client("stepfunctions", config=BRIEF)
settings = RequestTrainingSettings.model_validate(os.environ)


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    request = Request.model_validate(event)
    choice, execution = request_training(dynamodb, stepfunctions, settings, request, datetime.now(UTC))
    logger.info("requested", train=choice.train, reason=choice.reason)
    return {"started": choice.train, "reason": choice.reason, "execution": execution}
