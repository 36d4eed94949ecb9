"""What steers the running system, in DynamoDB: a few small items, each under its own id."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from kickstand.monitor import MonitorState
from kickstand.policy import Switch
from kickstand.retraining import LastTraining
from kickstand.store import to_item, transient

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

SWITCH = {"id": {"S": "review_everything"}}  # the workflow's state "Read Switch" asks for it
MONITOR = "monitor"
TRAINING = {"id": {"S": "training"}}  # the workflow train_model writes its outcome there
APPROVAL = {"id": {"S": "approval"}}


def load_switch(dynamodb: "DynamoDBClient", table: str) -> Switch | None:
    """The switch as it was last set, perhaps ended by now; None where nobody has, or it was switched off."""
    with transient("DynamoDB"):
        found = dynamodb.get_item(TableName=table, Key=SWITCH, ConsistentRead=True)
    if "Item" not in found:
        return None
    return Switch.model_validate({name: next(iter(value.values())) for name, value in found["Item"].items()})


def switch_on(dynamodb: "DynamoDBClient", table: str, switch: Switch) -> None:
    """Put the switch in place of whatever stands there."""
    with transient("DynamoDB"):
        dynamodb.put_item(TableName=table, Item=_item(switch))


def switch_off(dynamodb: "DynamoDBClient", table: str) -> None:
    """From the next image on the policy decides again."""
    with transient("DynamoDB"):
        dynamodb.delete_item(TableName=table, Key=SWITCH)


def switch_on_for_harm(
    dynamodb: "DynamoDBClient", table: str, reason: str, now: datetime, hold: timedelta, again: bool
) -> None:
    """Let the monitor's own switch be on until `hold` from now; a person's is left as it is.

    again: it has been on for this harm. Then it is only prolonged: once somebody has switched it off, nothing stands in
        the table, and it stays off.
    """
    switch = Switch(reason=reason, by=MONITOR, since=now, until=now + hold)
    standing = load_switch(dynamodb, table)
    if standing is None and again:
        return
    if standing and standing.is_on(now):
        if standing.by != MONITOR:
            return
        switch = switch.model_copy(update={"since": standing.since})
    condition: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(id)"}
    if standing:
        condition = {
            "ConditionExpression": "since = :since AND #until = :until",
            "ExpressionAttributeNames": {"#until": "until"},
            "ExpressionAttributeValues": {f":{name}": _item(standing)[name] for name in ("since", "until")},
        }
    try:
        with transient("DynamoDB"):
            dynamodb.put_item(TableName=table, Item=_item(switch), **condition)
    except dynamodb.exceptions.ConditionalCheckFailedException:
        return  # a person was faster


def load_monitor(dynamodb: "DynamoDBClient", table: str) -> tuple[MonitorState | None, int]:
    """Where the monitor stands, and how often that has been written; None and 0 before its first look."""
    with transient("DynamoDB"):
        found = dynamodb.get_item(TableName=table, Key={"id": {"S": MONITOR}}, ConsistentRead=True)
    if "Item" not in found:
        return None, 0
    return MonitorState.model_validate_json(found["Item"]["state"]["S"]), int(found["Item"]["revision"]["N"])


def save_monitor(dynamodb: "DynamoDBClient", table: str, state: MonitorState, standing: int) -> bool:
    """Whether the state could take the place of the standing revision: of two looks at once one is in vain."""
    item = {
        "id": {"S": MONITOR},
        "revision": {"N": str(standing + 1)},
        "state": {"S": state.model_dump_json(exclude_defaults=True)},
    }
    try:
        with transient("DynamoDB"):
            dynamodb.put_item(
                TableName=table,
                Item=item,
                ConditionExpression="revision = :standing" if standing else "attribute_not_exists(id)",
                **({"ExpressionAttributeValues": {":standing": {"N": str(standing)}}} if standing else {}),  # type: ignore[arg-type]
            )
    except dynamodb.exceptions.ConditionalCheckFailedException:
        return False
    return True


def _item(switch: Switch) -> dict[str, Any]:
    return SWITCH | to_item(switch) | {"expires_at": {"N": str(int(switch.until.timestamp()) + 1)}}


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
