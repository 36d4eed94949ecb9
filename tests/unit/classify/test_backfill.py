"""What a run of backfill takes: counted page by page, priced by the assumptions of `kickstand cost`."""

import weakref
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from kickstand.backfill.rules import Order, Run, State
from kickstand_cli.classify.backfill import Survey, describe, price_key, price_photo, take_survey
from kickstand_cli.local import cost

NOW = datetime(2026, 5, 4, tzinfo=UTC)
ORDER = Order(run="r", until=NOW, dollars_per_photo=Decimal("0.01"), dollars_per_key=Decimal("0.001"))


class Page(dict[str, Any]):
    """As the paginator gives it; unlike a plain dict it can be watched."""

    __hash__ = object.__hash__  # type: ignore[assignment]


class Bucket:
    """Lists this many keys by the thousand; every third one has a record. most: pages that were held at once."""

    def __init__(self, keys: int) -> None:
        self.keys, self.most, self.asked = keys, 0, 0
        self.pages: weakref.WeakSet[Page] = weakref.WeakSet()

    def get_paginator(self, name: str) -> Any:
        return self

    def paginate(self, **_: Any) -> Iterator[Page]:
        for start in range(0, self.keys, 1000):
            page = Page(Versions=[version(number) for number in range(start, min(start + 1000, self.keys))])
            self.pages.add(page)
            self.most = max(self.most, len(self.pages))
            yield page

    def batch_get_item(self, RequestItems: Any) -> Any:  # noqa: N803
        keys = RequestItems["records"]["Keys"]
        assert len(keys) <= 100
        self.asked += len(keys)
        return {"Responses": {"records": [key for key in keys if int(key["image"]["S"].rpartition("/")[2]) % 3 == 0]}}


def version(number: int) -> dict[str, Any]:
    at = NOW - timedelta(minutes=number)
    return {"Key": str(number), "VersionId": "v", "IsLatest": True, "ETag": '"e"', "LastModified": at, "Size": 872}


def survey(bucket: Bucket, order: Order = ORDER) -> Survey:
    books: Any = SimpleNamespace(s3=bucket, dynamodb=bucket, image_bucket="photos", records_table="records")
    *_, last = take_survey(books, order, "current")
    return last


@pytest.mark.parametrize("keys", [3_000, 30_000])
def test_a_listing_is_counted_page_by_page_however_long_it_is(keys: int) -> None:
    bucket = Bucket(keys)
    assert survey(bucket) == Survey(keys, keys * 2 // 3)
    assert bucket.asked == keys
    assert bucket.most <= 2  # the one that is counted, and the one that comes


def test_only_photos_of_the_time_asked_for_are_counted() -> None:
    since = ORDER.model_copy(update={"since": NOW - timedelta(minutes=99), "until": NOW - timedelta(minutes=1)})
    assert survey(Bucket(3_000), since) == Survey(3_000, 66)


@pytest.mark.parametrize("backend", cost.BACKENDS)
@pytest.mark.parametrize("workflow", cost.WORKFLOWS)
def test_a_photo_of_the_past_costs_less_than_an_upload(backend: str, workflow: str) -> None:
    share = cost.expected_review_share()
    none, uploads = (cost.bill_of(backend, workflow, cost.Month(n, 0, 0, 0), share).total for n in (0, 1_000_000))
    photo = sum(price_photo(backend, workflow, False, share, 10).values()) + price_key()
    assert (
        0
        < photo
        < (uploads - none) / 1_000_000 + price_key() + 3 * cost.price("step_functions_standard_transition") / 10
    )


def test_a_repeated_decision_costs_no_review_and_no_event() -> None:
    first = price_photo("embedded", "EXPRESS", False, 0.2, 10)
    again = price_photo("embedded", "EXPRESS", True, 0.0, 10)
    assert {"reviews", "EventBridge"} <= first.keys() - again.keys()
    assert again["Lambda"] == pytest.approx(first["Lambda"])


@pytest.mark.parametrize(
    ("state", "counted", "ending"),
    [
        (State.DONE, {}, "It is complete."),
        (State.DONE, {"unfinished": 1}, "It is complete. --resume does the rest."),
        (State.SPENT, {}, "It reached its cost limit. --resume does the rest."),
        (State.STOPPED, {}, "It was stopped. --resume does the rest."),
        (State.RUNNING, {}, "It is running. --stop stops it."),
    ],
)
def test_a_run_says_how_it_ended_and_what_is_left(state: State, counted: dict[str, int], ending: str) -> None:
    run = Run(order=ORDER, state=state, execution="e", started_at=NOW, dollars_left=Decimal(1), **counted)  # type: ignore[arg-type]
    assert list(describe(run))[-1] == ending
