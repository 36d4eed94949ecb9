"""Where the monitor stands, and the switch that it turns on for harm, in the table of controls."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from kickstand.classify.policy import Switch
from kickstand.classify.store import as_item, load_switch
from kickstand.monitor.look import MonitorState
from kickstand.store import transient

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

MONITOR = "monitor"


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
            "ExpressionAttributeValues": {f":{name}": as_item(standing)[name] for name in ("since", "until")},
        }
    try:
        with transient("DynamoDB"):
            dynamodb.put_item(TableName=table, Item=as_item(switch), **condition)
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
