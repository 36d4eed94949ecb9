"""The template's tables on moto, each under its logical ID."""

from kickstand.clients import DynamoDBClient
from kickstand_cli.local.template import Template, create_table
from kickstand_cli.project import TEMPLATE


def create_tables(dynamodb: DynamoDBClient, *names: str) -> None:
    """Empty ones, as template.yaml describes them."""
    template = Template(TEMPLATE, {}, str, "{}.{}".format)
    for name in names:
        create_table(dynamodb, name, template.resolve(template.resources[name]["Properties"]))
