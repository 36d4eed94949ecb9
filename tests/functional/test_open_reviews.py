"""Open reviews are in several partitions of the index; a page reads no more of them than it shows."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.client import BaseClient
from moto import mock_aws
from pydantic import SecretStr

from kickstand.clients import DynamoDBClient
from kickstand.events import Decision, Reason, Route
from kickstand.review import store
from kickstand.review.rules import RecordKey, Refused, UnreadableReview
from kickstand.review.store import (
    ask_person,
    count_open,
    count_waiting,
    find_oldest,
    hold_review,
    list_reviews,
    next_review,
    record_review,
)
from kickstand.store import put_record
from tests.stream import make_records
from tests.tables import create_tables

UNSURE = Decision(route=Route.REVIEW, reason=Reason.UNSURE)
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


@pytest.fixture
def dynamodb(monkeypatch: pytest.MonkeyPatch) -> Iterator[DynamoDBClient]:
    with mock_aws():
        client = boto3.client("dynamodb", region_name="us-east-1")
        create_tables(client, "RecordsTable", "ReviewsTable")
        yield client


def ask(dynamodb: DynamoDBClient, number: int) -> list[str]:
    """So many photos that wait, a minute apart; returns their images, the oldest first."""
    images = []
    for minute, record in enumerate(make_records(number)):
        asked = record.model_copy(
            update={"image": f"s3://photos/{minute}", "audited": False, "decision": UNSURE, "review": None}
        )
        put_record(dynamodb, "RecordsTable", asked)
        key = RecordKey(image=asked.image, version=asked.version)
        now = NOON + timedelta(minutes=minute)
        images.append(
            ask_person(dynamodb, ("ReviewsTable", "RecordsTable"), key, "e", SecretStr("t"), again=False, now=now).image
        )
    return images


def shards(dynamodb: DynamoDBClient) -> set[str]:
    return {item["queue"]["S"] for item in dynamodb.scan(TableName="ReviewsTable")["Items"]}


def test_the_oldest_of_all_partitions_comes_first(dynamodb: DynamoDBClient) -> None:
    images = ask(dynamodb, 20)
    assert len(shards(dynamodb)) > 3
    reviewers = [str(number) for number in range(20)]
    shown = [next_review(dynamodb, "ReviewsTable", reviewer, NOON) for reviewer in reviewers]
    assert [review and review.image for review in shown] == images
    assert find_oldest(dynamodb, "ReviewsTable") == NOON


def test_a_review_from_before_there_were_partitions_is_shown_in_its_turn(dynamodb: DynamoDBClient) -> None:
    images = ask(dynamodb, 3)
    dynamodb.update_item(
        TableName="ReviewsTable",
        Key={"image": {"S": images[0]}, "version": dynamodb.scan(TableName="ReviewsTable")["Items"][0]["version"]},
        UpdateExpression="SET queue = :open",
        ExpressionAttributeValues={":open": {"S": "open"}},
    )
    review = next_review(dynamodb, "ReviewsTable", "Ada", NOON)
    assert review
    assert (review.image, count_open(dynamodb, "ReviewsTable")) == (images[0], 3)
    assert shards(dynamodb).isdisjoint({"open"})  # it has moved


def test_no_more_is_counted_than_is_shown(dynamodb: DynamoDBClient, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(dynamodb, 30)
    monkeypatch.setattr(store, "MOST", 10)
    read = 0
    send = BaseClient._make_api_call  # type: ignore[attr-defined]

    def counted(client: BaseClient, operation: str, parameters: dict[str, Any]) -> Any:
        nonlocal read
        answer = send(client, operation, parameters)
        read += answer.get("ScannedCount", 0)
        return answer

    monkeypatch.setattr(BaseClient, "_make_api_call", counted)
    assert count_open(dynamodb, "ReviewsTable") == count_waiting(dynamodb, "ReviewsTable", "Ada") == 10
    assert read < 2 * 20


def test_a_review_that_cannot_be_read_keeps_no_other_one_from_being_shown_and_listed(
    dynamodb: DynamoDBClient, caplog: pytest.LogCaptureFixture
) -> None:
    images = ask(dynamodb, 3)
    hurt = {item["image"]["S"]: item for item in dynamodb.scan(TableName="ReviewsTable")["Items"]}[images[0]]
    dynamodb.put_item(TableName="ReviewsTable", Item=hurt | {"status": {"S": "paused"}})
    shown = [next_review(dynamodb, "ReviewsTable", reviewer, NOON) for reviewer in ("Ada", "Grace", "Edsger")]
    assert [review and review.image for review in shown] == [*images[1:], None]
    assert {review.image for review in list_reviews(dynamodb, "ReviewsTable")} == set(images[1:])
    assert images[0] in caplog.text
    assert "status: Input should be" in caplog.text
    key = images[0], hurt["version"]["S"]
    with pytest.raises(Refused, match="cannot be read"):
        hold_review(dynamodb, "ReviewsTable", *key, "Ada", NOON)
    with pytest.raises(UnreadableReview):  # so the execution fails, and its photo is a dead letter
        record_review(dynamodb, ("ReviewsTable", "RecordsTable"), key, answered=True, now=NOON)


def test_a_review_without_a_time_does_not_hide_the_age_of_the_others(
    dynamodb: DynamoDBClient, caplog: pytest.LogCaptureFixture
) -> None:
    images = ask(dynamodb, 20)
    first = dynamodb.scan(TableName="ReviewsTable")["Items"][0]
    dynamodb.put_item(TableName="ReviewsTable", Item=first | {"place": {"S": "0#"}})
    oldest = find_oldest(dynamodb, "ReviewsTable")
    assert oldest
    assert oldest - NOON < timedelta(minutes=len(images))
    assert first["image"]["S"] in caplog.text
