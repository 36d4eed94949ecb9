"""The switch "review everything", an item of the table of controls."""

from typing import Any

from kickstand.classify.policy import NO_END, Switch, parse_switch
from kickstand.clients import DynamoDBClient
from kickstand.store import get_item, plain, to_item, transient

SWITCH = {"id": {"S": "review_everything"}}  # the workflow's state "Read Switch" asks for it


def load_switch(dynamodb: DynamoDBClient, table: str) -> Switch | None:
    """The switch as it was last set, perhaps ended by now; None where nobody has, or it was switched off.

    One that cannot be read is taken to be on, as by Decide.
    """
    item = get_item(dynamodb, table, SWITCH)
    return parse_switch(plain(item)) if item else None


def switch_on(dynamodb: DynamoDBClient, table: str, switch: Switch) -> None:
    """Put the switch in place of whatever stands there."""
    with transient("DynamoDB"):
        dynamodb.put_item(TableName=table, Item=as_item(switch))


def switch_off(dynamodb: DynamoDBClient, table: str) -> None:
    """From the next image on the policy decides again."""
    with transient("DynamoDB"):
        dynamodb.delete_item(TableName=table, Key=SWITCH)


def as_item(switch: Switch) -> dict[str, Any]:
    """The switch as it stands in the table, which forgets it once it has ended."""
    ends = {"expires_at": {"N": str(int(switch.until.timestamp()) + 1)}} if switch.until < NO_END else {}
    return SWITCH | to_item(switch) | ends
