"""The last training and the last approval, two items of the table of controls."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from kickstand.lifecycle.retraining import LastTraining
from kickstand.store import to_item, transient

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

TRAINING = {"id": {"S": "training"}}  # the workflow train_model writes its outcome there
APPROVAL = {"id": {"S": "approval"}}


def load_training(dynamodb: "DynamoDBClient", table: str) -> LastTraining | None:
    """The training that was requested last; None where there was none."""
    with transient("DynamoDB"):
        found = dynamodb.get_item(TableName=table, Key=TRAINING, ConsistentRead=True)
    item = found.get("Item", {})
    if "requested_at" not in item:  # a training that somebody started by hand has left its outcome
        return None
    return LastTraining.model_validate({name: next(iter(value.values())) for name, value in item.items()})


def claim_training(dynamodb: "DynamoDBClient", table: str, training: LastTraining, before: LastTraining | None) -> bool:
    """Whether this request may start: nobody else has claimed the next training since `before` was read."""
    condition: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(requested_at)"}
    values = {f":{name}": value for name, value in to_item(training).items()}
    if before:
        condition = {"ConditionExpression": "requested_at = :before"}
        values[":before"] = to_item(before)["requested_at"]
    try:
        with transient("DynamoDB"):
            dynamodb.update_item(
                TableName=table,
                Key=TRAINING,
                UpdateExpression="SET requested_at = :requested_at, #execution = :execution, reason = :reason, "
                "algorithm = :algorithm",
                ExpressionAttributeNames={"#execution": "execution"},
                ExpressionAttributeValues=values,
                **condition,
            )
    except dynamodb.exceptions.ConditionalCheckFailedException:
        return False
    return True


def find_approval(dynamodb: "DynamoDBClient", table: str) -> tuple[str, str] | None:
    """The model package that somebody has decided about last, and the decision."""
    with transient("DynamoDB"):
        found = dynamodb.get_item(TableName=table, Key=APPROVAL, ConsistentRead=True)
    return (found["Item"]["package"]["S"], found["Item"]["decision"]["S"]) if "Item" in found else None


def note_approval(dynamodb: "DynamoDBClient", table: str, package: str, decision: str, now: datetime) -> None:
    """Record what has been decided about a model package."""
    item = APPROVAL | {"package": {"S": package}, "decision": {"S": decision}, "decided_at": {"S": now.isoformat()}}
    with transient("DynamoDB"):
        dynamodb.put_item(TableName=table, Item=item)
