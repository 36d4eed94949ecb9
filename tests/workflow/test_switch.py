"""Review-everything mode on the shipped stack: who turns the switch, the decision on the next image, its end."""

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from kickstand.classify.policy import Switch
from kickstand.classify.store import switch_on
from kickstand.records import Record
from kickstand_cli.local.stack import Stack, deploy
from kickstand_cli.main import app
from kickstand_cli.project import PROJECT

ACCEPTED = (PROJECT / "samples/images/bicycle/red-road-bike.jpg").read_bytes()
FOREIGN = (PROJECT / "samples/images/neither/cat.jpg").read_bytes()


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with deploy(PROJECT / "template.yaml", {"AuditRate": "0"}) as stack:
        yield stack


@pytest.fixture(autouse=True)
def _off(stack: Stack) -> Iterator[None]:
    yield
    stack.dynamodb.delete_item(TableName="ControlTable", Key={"id": {"S": "review_everything"}})


@pytest.fixture
def outputs(stack: Stack, tmp_path: Path) -> list[str]:
    """The options that name this stack."""
    file = tmp_path / "outputs.json"
    file.write_text(json.dumps(stack.outputs))
    return ["--outputs", str(file)]


def kickstand(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def decided(stack: Stack, data: bytes) -> Record:
    key = f"{uuid.uuid4()}.jpg"
    stack.upload(key, data)
    stack.settle()
    (record,) = (record for record in stack.records() if record.image_ref.key == key)
    return record


def routed(record: Record) -> tuple[str, str]:
    return record.decision.route, record.decision.reason


def switched_until(stack: Stack, until: datetime) -> None:
    switch = Switch(reason="night", by="Ada", since=until - timedelta(hours=4), until=until)
    switch_on(stack.dynamodb, "ControlTable", switch)


def test_while_it_is_on_what_would_be_accepted_goes_to_a_person_who_is_not_told_the_models_answer(
    stack: Stack, outputs: list[str]
) -> None:
    turned = kickstand("switch", "on", "--reason", "new cameras", "--for", "4h", "--by", "Ada", *outputs)
    assert turned.exit_code == 0, turned.output
    record = decided(stack, ACCEPTED)
    assert routed(record) == ("review", "review_everything")
    assert record.decision.explanation.startswith("review-everything mode until")
    assert record.audit_probability == 1
    (review,) = (review for review in stack.reviews() if review.image == record.image)
    assert review.explanation == record.decision.explanation
    assert routed(decided(stack, FOREIGN)) == ("reject", "neither")
    assert kickstand("switch", "off", *outputs).stdout == "off: the policy decides\n"
    assert routed(decided(stack, ACCEPTED)) == ("accept", "confident")


def test_whoever_asks_is_told_who_why_since_when_and_until_when(outputs: list[str]) -> None:
    assert json.loads(kickstand("switch", "status", "--json", *outputs).stdout) == {"on": False}
    kickstand("switch", "on", "--reason", "fog", "--until", "2999-01-01T08:00", "--by", "Ada", *outputs)
    told = json.loads(kickstand("switch", "status", "--json", *outputs).stdout)
    assert told.pop("since") < datetime.now(UTC).isoformat()
    assert told == {"on": True, "reason": "fog", "by": "Ada", "until": "2999-01-01T08:00:00Z"}
    said = kickstand("switch", "status", *outputs).stdout
    assert said.startswith("on: review-everything mode until 2999-01-01 08:00 UTC (fog)\nturned on by Ada")


def test_it_ends_by_itself_though_the_table_still_holds_it(stack: Stack, outputs: list[str]) -> None:
    switched_until(stack, datetime.now(UTC) - timedelta(seconds=1))
    assert routed(decided(stack, ACCEPTED)) == ("accept", "confident")
    assert kickstand("switch", "status", *outputs).stdout == "off: the policy decides\n"


def test_an_image_under_the_switch_is_explained_and_comes_out_the_same_again(stack: Stack, outputs: list[str]) -> None:
    switched_until(stack, datetime.now(UTC) + timedelta(hours=1))
    record = decided(stack, ACCEPTED)
    explained = kickstand("explain", record.image, "--verify", *outputs)
    assert explained.exit_code == 0, explained.output
    assert "review-everything mode until" in explained.output


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--for", "4h", "--until", "2999-01-01"],
        ["--for", "soon"],
        ["--until", "tomorrow"],
        ["--until", "2020-01-01"],
        ["--for", "4h", "--reason", " "],
        ["--for", "4h", "--reason", "x" * 1001],
        ["--for", "4h", "--by", "x" * 1001],
    ],
)
def test_a_switch_without_an_end_or_a_reason_is_refused(outputs: list[str], options: list[str]) -> None:
    assert kickstand("switch", "on", "--reason", "x", *options, *outputs).exit_code == 2
    assert json.loads(kickstand("switch", "status", "--json", *outputs).stdout) == {"on": False}


def test_who_cannot_read_the_switch_asks_a_person(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    table: Any = stack.dynamodb.describe_table(TableName="ControlTable")["Table"]
    stack.dynamodb.delete_table(TableName="ControlTable")
    try:
        record = decided(stack, ACCEPTED)
    finally:
        stack.dynamodb.create_table(
            TableName="ControlTable",
            BillingMode="PAY_PER_REQUEST",
            **{name: table[name] for name in ("KeySchema", "AttributeDefinitions")},
        )
    assert routed(record) == ("review", "review_everything")
    assert "could not be read" in record.decision.explanation
    assert stack.dead_letters() == []
