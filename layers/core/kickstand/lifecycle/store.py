"""The last training and the last approval, two items of the control table, and what follows from them."""

import json
from datetime import datetime

from botocore.exceptions import ClientError

from kickstand.clients import DynamoDBClient, EventBridgeClient, S3Client, SFNClient, SNSClient
from kickstand.errors import first_complaint
from kickstand.events import split_uri
from kickstand.lifecycle.retraining import (
    Choice,
    LastTraining,
    Request,
    RequestTrainingSettings,
    choose,
    name_execution,
)
from kickstand.lifecycle.rollout import Rollout
from kickstand.review.store import count_answers
from kickstand.store import get_item, plain, publish, to_item, transient, update_item_if

TRAINING = {"id": {"S": "training"}}  # the workflow train_model writes its outcome there
APPROVAL = {"id": {"S": "approval"}}


def request_training(
    dynamodb: DynamoDBClient,
    stepfunctions: SFNClient,
    settings: RequestTrainingSettings,
    request: Request,
    now: datetime,
) -> tuple[Choice, str | None]:
    """Start `train_model` unless it is too soon. Returns the choice, and the ARN of the started execution."""
    last = load_training(dynamodb, settings.control_table)
    answers = count_answers(dynamodb, settings.control_table)
    new_labels = answers - (last.answers if last else 0)
    running = last is not None and _is_running(stepfunctions, settings.train_model, last)
    choice = choose(request, last, running, new_labels, settings, now)
    if not choice.train:
        return choice, None
    execution = f"{settings.train_model.replace(':stateMachine:', ':execution:')}:{name_execution(now)}"
    training = LastTraining(
        requested_at=now, execution=execution, reason=choice.reason, algorithm=request.algorithm, answers=answers
    )
    if not claim_training(dynamodb, settings.control_table, training, last):
        return Choice(False, "another request was faster"), None
    _start(stepfunctions, settings.train_model, training)
    return choice, execution


def _is_running(stepfunctions: SFNClient, train_model: str, last: LastTraining) -> bool:
    """Whether the last training is running; one that was claimed but not started is started now."""
    try:
        return stepfunctions.describe_execution(executionArn=last.execution)["status"] == "RUNNING"
    except stepfunctions.exceptions.ExecutionDoesNotExist:
        _start(stepfunctions, train_model, last)
        return True


def _start(stepfunctions: SFNClient, train_model: str, training: LastTraining) -> None:
    told = json.dumps({"algorithm": training.algorithm, "reason": training.reason})
    name = training.execution.rpartition(":")[2]
    stepfunctions.start_execution(stateMachineArn=train_model, name=name, input=told)


def load_training(dynamodb: DynamoDBClient, table: str) -> LastTraining | None:
    """The training that was requested last; None if there was none.

    Raises ValueError if its item cannot be read. Only a person may delete it: a training may be running.
    """
    item = get_item(dynamodb, table, TRAINING) or {}
    try:
        # A training that somebody started by hand writes only its outcome.
        return LastTraining.model_validate(plain(item)) if "requested_at" in item else None
    except ValueError as error:
        raise ValueError(
            f'the item "training" of the table {table} cannot be read ({first_complaint(error)}). When no execution of '
            f"train_model is running, delete it: aws dynamodb delete-item --table-name {table} "
            f"--key '{json.dumps(TRAINING)}'"
        ) from error


def claim_training(dynamodb: DynamoDBClient, table: str, training: LastTraining, before: LastTraining | None) -> bool:
    """Claim the next training. Returns whether nobody else has claimed it since `before` was read."""
    condition = "attribute_not_exists(requested_at)"
    values = {f":{name}": value for name, value in to_item(training).items()}
    if before:
        condition = "requested_at = :before"
        values[":before"] = to_item(before)["requested_at"]
    return update_item_if(
        dynamodb,
        table,
        TRAINING,
        "SET requested_at = :requested_at, #execution = :execution, reason = :reason, "
        "algorithm = :algorithm, answers = :answers",
        condition,
        values,
        ExpressionAttributeNames={"#execution": "execution"},
    )


def publish_rollout(sns: SNSClient, events: EventBridgeClient, topic: str, rollout: Rollout) -> None:
    """Notify people through the topic and, for an approved challenger, a pipeline with "Model Approved"."""
    with transient("SNS"):
        sns.publish(TopicArn=topic, Subject=rollout.subject, Message=rollout.message)
    if rollout.approved:
        publish(events, ["Model Approved"], rollout.detail.model_dump_json(exclude_none=True))


def find_approval(dynamodb: DynamoDBClient, table: str) -> tuple[str, str] | None:
    """The last decision about a model package."""
    item = get_item(dynamodb, table, APPROVAL)
    return (item["package"]["S"], item["decision"]["S"]) if item else None


def note_approval(dynamodb: DynamoDBClient, table: str, package: str, decision: str, now: datetime) -> None:
    """Record the decision about a model package."""
    item = APPROVAL | {"package": {"S": package}, "decision": {"S": decision}, "decided_at": {"S": now.isoformat()}}
    with transient("DynamoDB"):
        dynamodb.put_item(TableName=table, Item=item)


def find_version(s3: S3Client, uri: str) -> str | None:
    """The present version of the object; None if there is none. Raises StoreUnavailable."""
    bucket, key = split_uri(uri)
    try:
        with transient("S3"):
            return s3.head_object(Bucket=bucket, Key=key).get("VersionId", "null")
    except ClientError as error:
        if error.response["Error"]["Code"] == "404":
            return None
        raise
