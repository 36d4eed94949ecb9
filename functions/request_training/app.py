"""On "Model Degraded", on a schedule, or when a person asks: start `train_model`, unless it is too soon."""

import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from kickstand.lifecycle.retraining import Choice, LastTraining, Limits, Request, Trigger, choose, name_execution
from kickstand.lifecycle.store import claim_training, load_training
from kickstand.review.store import count_answered

logger = Logger()
metrics = Metrics()
dynamodb = boto3.client("dynamodb")
stepfunctions = boto3.client("stepfunctions")
TRAIN_MODEL = os.environ["TRAIN_MODEL"]
REVIEWS_TABLE, CONTROL_TABLE = os.environ["REVIEWS_TABLE"], os.environ["CONTROL_TABLE"]
AT_LEAST_EVERY = float(os.environ["RETRAIN_AT_LEAST_EVERY"])
LIMITS = Limits(
    at_most_every=timedelta(days=float(os.environ["RETRAIN_AT_MOST_EVERY"])),
    after_labels=int(os.environ["RETRAIN_AFTER_LABELS"]),
    at_least_every=timedelta(days=AT_LEAST_EVERY) if AT_LEAST_EVERY else None,
)


def is_running(last: LastTraining) -> bool:
    """Whether the last training has not ended; one that was claimed and never started is started now."""
    try:
        return stepfunctions.describe_execution(executionArn=last.execution)["status"] == "RUNNING"
    except stepfunctions.exceptions.ExecutionDoesNotExist:
        start(last)
        return True


def start(training: LastTraining) -> None:
    told = {"algorithm": training.algorithm, "reason": training.reason}
    name = training.execution.rpartition(":")[2]
    stepfunctions.start_execution(stateMachineArn=TRAIN_MODEL, name=name, input=json.dumps(told))


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    request, now = Request.model_validate(event), datetime.now(UTC)
    last = load_training(dynamodb, CONTROL_TABLE)
    new_labels = 0
    if request.trigger is Trigger.SCHEDULE:
        new_labels = count_answered(dynamodb, REVIEWS_TABLE, last.requested_at if last else None)
    choice = choose(request, last, last is not None and is_running(last), new_labels, LIMITS, now)
    execution = f"{TRAIN_MODEL.replace(':stateMachine:', ':execution:')}:{name_execution(now)}"
    training = LastTraining(requested_at=now, execution=execution, reason=choice.reason, algorithm=request.algorithm)
    if choice.train and not claim_training(dynamodb, CONTROL_TABLE, training, last):
        choice = Choice(False, "another request was faster")
    if choice.train:
        start(training)
    metrics.add_metric(name="TrainingStarted", unit=MetricUnit.Count, value=int(choice.train))
    logger.info("requested", train=choice.train, reason=choice.reason)
    return {"started": choice.train, "reason": choice.reason, "execution": execution if choice.train else None}
