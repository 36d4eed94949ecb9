"""No photo is lost wherever the ledger is cut: at any call, at any hand-over, with any place that was saved.

Hypothesis invents uploads and what is known of each, and where each run is killed or runs out of time.
"""

import itertools
import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.client import BaseClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto import mock_aws

from kickstand.ledger import store
from kickstand.ledger.balance import Key, Lack, Ledger
from kickstand.ledger.books import Books
from kickstand.ledger.letters import REDRIVE_AFTER, find_letters, heal_letters, open_letters, record_letters
from kickstand.ledger.store import close_new, draw_up, go_on_with_audit, load_standing

BUCKET = "photos"
PAST = datetime(2026, 5, 4, tzinfo=UTC)
QUIET = {"max_examples": 40, "derandomize": True, "deadline": None, "database": None}
CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
PLACES = {  # what is known of an upload, and where it belongs
    "accept": "accepted",
    "reject": "rejected",
    "waiting": "waiting",
    "audited": "accepted",
    "answered": "reviewed",
    "unheard": Lack.ANSWER,
    "unasked": Lack.QUESTION,
    "unknown": Lack.DECISION,
    "letter": "dead_letter",
    "gone": Lack.IMAGE,
    "gone letter": Lack.IMAGE,
}


class Killed(BaseException):
    """The function ends here, without a last word."""


class Queues:
    """The queues, with what the ledger asks of them. Whatever a killed run holds comes back with the next one."""

    def __init__(self) -> None:
        self.new: dict[str, str] = {}
        self.dead: dict[str, str] = {}
        self.waiting: dict[str, str] = {}
        self.held: set[str] = set()

    def receive_message(self, QueueUrl: str, **_: Any) -> dict[str, Any]:  # noqa: N803
        free = [item for item in getattr(self, QueueUrl).items() if item[0] not in self.held][:3]
        self.held |= {name for name, _ in free}
        sent = {"SentTimestamp": "1767225600000"}
        return {
            "Messages": [
                {"MessageId": name, "ReceiptHandle": name, "Body": body, "Attributes": sent} for name, body in free
            ]
        }

    def get_queue_attributes(self, QueueUrl: str, **_: Any) -> dict[str, Any]:  # noqa: N803
        return {"Attributes": {"ApproximateNumberOfMessages": str(len(getattr(self, QueueUrl)))}}

    def send_message_batch(self, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        for entry in Entries:
            getattr(self, QueueUrl)[f"{uuid.uuid4()}"] = entry["MessageBody"]
        return {}

    def change_message_visibility(self, ReceiptHandle: str, **_: Any) -> None:  # noqa: N803
        self.held.discard(ReceiptHandle)

    def change_message_visibility_batch(self, Entries: list[dict[str, Any]], **_: Any) -> None:  # noqa: N803
        self.held -= {entry["ReceiptHandle"] for entry in Entries}

    def delete_message_batch(self, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        for entry in Entries:
            getattr(self, QueueUrl).pop(entry["ReceiptHandle"], None)
        return {}


@dataclass
class World:
    """Bucket, tables and queues; what is known of each upload; and the call at which the run is killed."""

    books: Books
    queues: Queues
    known: dict[Key, str] = field(default_factory=dict)
    kill_at: float = float("inf")
    late: bool = False

    def upload(self, known: str) -> Key:
        """An upload of which this much is known."""
        name = f"{uuid.uuid4()}"
        version = self.books.s3.put_object(Bucket=BUCKET, Key=name, Body=b"")["VersionId"]
        key = f"s3://{BUCKET}/{name}", version
        self.queues.new[name] = json.dumps(
            {
                "time": PAST.isoformat(),
                "detail": {"bucket": {"name": BUCKET}, "object": {"key": name, "etag": "e", "version-id": version}},
            }
        )
        self.learn(key, known)
        if known.startswith("gone"):
            self.books.s3.delete_object(Bucket=BUCKET, Key=name, VersionId=version)
        return key

    def learn(self, key: Key, known: str, at: datetime = PAST) -> None:
        """From now on this much is known of the upload."""
        self.known[key] = known
        name: dict[str, Any] = {"image": {"S": key[0]}, "version": {"S": key[1]}}
        if known in ("letter", "gone letter"):
            self.queues.dead[key[0]] = self.queues.new[key[0].rpartition("/")[2]]
        elif known != "unknown":
            route = {"reject": "reject", "accept": "accept", "audited": "accept", "gone": "accept"}.get(known, "review")
            record: dict[str, Any] = {
                "decision": {"M": {"route": {"S": route}}},
                "audited": {"BOOL": known == "audited"},
                "recorded_at": {"S": at.isoformat()},
            }
            if known == "answered":
                record["review"] = {"M": {"status": {"S": "answered"}}}
            self.books.dynamodb.put_item(TableName="records", Item=name | record)
        if known in ("waiting", "audited", "answered", "unheard"):
            answer = (
                {"answer": {"M": {"answered_at": {"S": at.isoformat()}}}} if known in ("answered", "unheard") else {}
            )
            self.books.dynamodb.put_item(TableName="reviews", Item=name | answer)

    def run(self, job: Callable[[], Any], kill_at: float = float("inf"), late: bool = False) -> bool:
        """Whether the job came to its end. It is killed at this call to AWS, before or after AWS has done it."""
        self.kill_at, self.late = kill_at, late
        try:
            job()
        except Killed:
            return False
        finally:
            self.kill_at = float("inf")
            self.queues.held.clear()
        return True

    @property
    def lacks(self) -> dict[Key, Lack]:
        return {key: place for key, known in self.known.items() if isinstance(place := PLACES[known], Lack)}

    def assert_balanced(self, ledger: Ledger) -> None:
        assert {lack.key: lack.lack for lack in ledger.lacks} == self.lacks
        places = Counter(str(PLACES[known]) for key, known in self.known.items() if key not in self.lacks)
        assert {place: number for place, number in ledger.counts.items() if number and place != "missing"} == places
        assert ledger.missing == len(self.lacks)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], World]]:
    """Makes an empty world. Pages hold two items."""
    monkeypatch.setattr(store, "PAGE", 2)
    monkeypatch.setattr(store, "SAVE_AFTER", 2)
    monkeypatch.setattr(store, "NAME_AT_MOST", None)
    here: list[World] = []
    send = BaseClient._make_api_call  # type: ignore[attr-defined]

    def troubled(client: BaseClient, operation: str, parameters: dict[str, Any]) -> Any:
        now = here[-1]
        now.kill_at -= 1
        if now.kill_at == 0 and not now.late:
            raise Killed
        answer = send(client, operation, parameters)
        if now.kill_at == 0:
            raise Killed
        return answer

    with mock_aws():
        s3, dynamodb = boto3.client("s3", region_name="us-east-1"), boto3.client("dynamodb", region_name="us-east-1")
        queues = Queues()
        nothing: Any = None
        fake: Any = queues
        names = (BUCKET, "records", "reviews", "control", "letters", "new", "waiting", "dead", "")
        books = Books(s3, dynamodb, fake, nothing, *names)
        s3.create_bucket(Bucket=BUCKET)
        s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        for table in ("records", "reviews", "letters"):
            make(dynamodb, table, [("image", "HASH"), ("version", "RANGE")])
        make(dynamodb, "control", [("id", "HASH")])
        monkeypatch.setattr(BaseClient, "_make_api_call", troubled)

        def fresh() -> World:
            here.append(World(books, queues))
            for found in s3.list_object_versions(Bucket=BUCKET).get("Versions", []):
                s3.delete_object(Bucket=BUCKET, Key=found["Key"], VersionId=found["VersionId"])
            for table, names in {
                "records": "image version",
                "reviews": "image version",
                "letters": "image version",
                "control": "id",
            }.items():
                for item in dynamodb.scan(TableName=table)["Items"]:
                    dynamodb.delete_item(TableName=table, Key={name: item[name] for name in names.split()})
            for waiting in (queues.new, queues.dead, queues.waiting):
                waiting.clear()
            queues.held.clear()
            return here[-1]

        yield fresh


def make(dynamodb: Any, table: str, keys: list[tuple[str, str]]) -> None:
    described: dict[str, Any] = {
        "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name, _ in keys],
        "KeySchema": [{"AttributeName": name, "KeyType": kind} for name, kind in keys],
    }
    dynamodb.create_table(TableName=table, BillingMode="PAY_PER_REQUEST", **described)


def clock(calls: float) -> Callable[[], float]:
    """A run that has this many moments left."""
    left = itertools.count(0)
    return lambda: 1000.0 if next(left) < calls else 0.0


cuts = st.lists(st.tuples(st.integers(1, 40), st.booleans(), st.integers(1, 12)), max_size=8)
uploads = st.lists(st.sampled_from([*PLACES]), min_size=1, max_size=9)


@settings(**QUIET, suppress_health_check=CHECKS)  # type: ignore[arg-type]
@given(known=uploads, cuts=cuts)
def test_an_audit_finds_the_same_wherever_it_is_cut(
    world: Callable[[], World], known: list[str], cuts: list[tuple[int, bool, int]]
) -> None:
    here = world()
    for each in known:
        here.upload(each)
    now = datetime.now(UTC) + timedelta(hours=1)
    for kill_at, late, moments in cuts:
        here.run(lambda: go_on_with_audit(here.books, now, clock(moments), begin=True), kill_at, late)  # noqa: B023
        if load_standing(here.books)[0].last_closed_at:
            break
    while not load_standing(here.books)[0].last_closed_at:
        assert here.run(lambda: go_on_with_audit(here.books, now, clock(5), begin=True))
    here.assert_balanced(load_standing(here.books)[0].last)
    here.assert_balanced(draw_up(here.books, now))


@settings(**QUIET, suppress_health_check=CHECKS)  # type: ignore[arg-type]
@given(known=uploads, cuts=cuts)
def test_what_comes_while_an_audit_is_under_way_is_never_missing(
    world: Callable[[], World], known: list[str], cuts: list[tuple[int, bool, int]]
) -> None:
    here = world()
    for each in known:
        here.upload(each)
    now, lacks = datetime.now(UTC) + timedelta(seconds=1), here.lacks
    go_on_with_audit(here.books, now + store.GRACE, clock(2), begin=True)
    for _, _, moments in [*cuts, (0, False, 1000)]:
        here.learn(here.upload("unknown"), "accept", at=now + timedelta(seconds=5))
        go_on_with_audit(here.books, now + timedelta(hours=9), clock(moments), begin=False)
    found = load_standing(here.books)[0].last
    assert {lack.key: lack.lack for lack in found.lacks} == lacks


@settings(**QUIET, suppress_health_check=CHECKS)  # type: ignore[arg-type]
@given(known=uploads, cuts=cuts)
def test_a_run_forgets_no_new_upload_wherever_it_is_cut(
    world: Callable[[], World], known: list[str], cuts: list[tuple[int, bool, int]]
) -> None:
    here = world()
    keys = [here.upload(each) for each in known]
    open_at_first = {key for key in keys if here.known[key] in ("unknown", "unasked", "unheard")}
    now = datetime.now(UTC) + timedelta(hours=1)

    def waiting() -> set[Key]:
        bodies = {name: json.loads(body)["detail"]["object"] for name, body in here.queues.new.items()}
        return {(f"s3://{BUCKET}/{name}", body["version-id"]) for name, body in bodies.items()}

    for kill_at, late, moments in cuts:
        here.run(lambda: close_new(here.books, now, clock(moments)), kill_at, late)  # noqa: B023
        assert waiting() >= open_at_first
    found = close_new(here.books, now, clock(1000))
    here.queues.held.clear()
    assert {lack.key for lack in found.lacks} == open_at_first == waiting()
    for key in open_at_first:
        here.learn(key, "answered")
    assert close_new(here.books, now, clock(1000)).reviewed == len(open_at_first)
    assert not here.queues.new


@settings(**QUIET, suppress_health_check=CHECKS)  # type: ignore[arg-type]
@given(number=st.integers(1, 5), cuts=cuts)
def test_no_letter_is_lost_and_none_is_sent_twice_wherever_a_run_is_killed(
    world: Callable[[], World], number: int, cuts: list[tuple[int, bool, int]]
) -> None:
    here = world()
    keys = {here.upload("letter") for _ in range(number)}
    now = datetime.now(UTC)

    def run() -> None:
        record_letters(here.books)
        heal_letters(here.books, now)

    for kill_at, late, _ in cuts:
        here.run(run, kill_at, late)
        in_queue = {key for key in keys if key[0] in here.queues.dead}
        in_table = {letter.key for page in open_letters(here.books) for letter in page}
        assert in_queue | in_table == keys
    assert here.run(run)
    sent = Counter(json.loads(body)["detail"]["object"]["key"] for body in here.queues.waiting.values())
    assert set(sent.values()) <= {1}
    later = heal_letters(here.books, now + REDRIVE_AFTER[1])  # also what was claimed, and never sent
    assert (later.sent, later.refused) == (number, 0)
    for key in keys:
        here.learn(key, "accept")
    assert heal_letters(here.books, now + REDRIVE_AFTER[1]).closed == number
    assert find_letters(here.books, keys) == set()


def test_of_many_images_that_are_gone_some_are_named_and_all_are_counted(
    world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "NAME_AT_MOST", 3)
    here = world()
    for known in ["gone"] * 9 + ["accept"] * 4:
        here.upload(known)
    found = go_on_with_audit(here.books, datetime.now(UTC) + timedelta(hours=1), clock(1000), begin=True).last
    assert (found.missing, len(found.lacks), found.accepted) == (9, 3, 4)


def test_an_upload_that_is_announced_twice_is_counted_once(world: Callable[[], World]) -> None:
    here = world()
    here.upload("accept")
    (name,) = here.queues.new
    here.queues.new["again"] = here.queues.new[name]
    found = close_new(here.books, datetime.now(UTC), clock(1000))
    assert (found.uploads, found.accepted, len(here.queues.new)) == (1, 1, 0)


def test_while_uploads_wait_to_be_classified_young_ones_are_not_missing(world: Callable[[], World]) -> None:
    here = world()
    here.upload("unknown")
    here.queues.waiting["another"] = "{}"
    hours = {hour: close_new(here.books, PAST + timedelta(hours=hour), clock(1000)) for hour in (1, 25)}
    assert (hours[1].missing, hours[1].under_way) == (0, 1)
    assert (hours[25].missing, hours[25].under_way) == (1, 0)
    assert here.queues.new
