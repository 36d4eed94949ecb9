"""The switch of review-everything mode, an item of the control table."""

from typing import Any

from kickstand.classify.policy import NO_END, Switch, parse_switch
from kickstand.clients import DynamoDBClient
from kickstand.store import get_item, plain, to_item, transient

SWITCH = {"id": {"S": "review_everything"}}  # the workflow's state "Read Switch" reads it


def load_switch(dynamodb: DynamoDBClient, table: str) -> Switch | None:
    """The switch as last set, perhaps ended by now; None if it was never set, or was turned off.

    A switch that cannot be read counts as on, as in Decide.
    """
    item = get_item(dynamodb, table, SWITCH)
    return parse_switch(plain(item)) if item else None


def switch_on(dynamodb: DynamoDBClient, table: str, switch: Switch) -> None:
    """Set the switch, whatever its present state."""
    with transient("DynamoDB"):
        dynamodb.put_item(TableName=table, Item=as_item(switch))


def switch_off(dynamodb: DynamoDBClient, table: str) -> None:
    """From the next photo on, the policy decides again."""
    with transient("DynamoDB"):
        dynamodb.delete_item(TableName=table, Key=SWITCH)


def as_item(switch: Switch) -> dict[str, Any]:
    """The switch as an item of the table, which deletes it some time after its end."""
    ends = {"expires_at": {"N": str(int(switch.until.timestamp()) + 1)}} if switch.until < NO_END else {}
    return SWITCH | to_item(switch) | ends
