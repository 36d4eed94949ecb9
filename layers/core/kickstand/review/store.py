"""Reviews in DynamoDB: every change is a rule of `rules`, written only if nobody changed the review meanwhile."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from heapq import merge
from itertools import chain, islice
from typing import Any

from pydantic import SecretStr

from kickstand.clients import DynamoDBClient, SFNClient
from kickstand.errors import AlreadyAnswered, StoreUnavailable
from kickstand.events import ReviewStatus
from kickstand.review import rules
from kickstand.review.rules import GROUPS, OPEN, SECOND, RecordKey, Refused, Review, is_same
from kickstand.store import changed, from_item, get_item, plain, put_item_if, to_item, transient

OPEN_REVIEWS = "OpenReviews"  # the index of what waits for an answer: queue, place
SHARDS = 8
"""A queue is spread over so many partitions of the index, of which each takes 1,000 writes a second."""
MOST = 1000
"""So many photos that wait are counted, and so many second questions are searched for another reviewer's."""
SOUGHT = 200
"""So many photos are searched for one that waits for a certain reason; each costs a read."""
ANSWERS = {"id": {"S": "answers"}}
"""The item in the table of controls that counts what people have answered."""
_ATTEMPTS = 8
_PAGE = 25  # reviews: the first are shown, and the rest of the index is not read


def ask_person(
    dynamodb: DynamoDBClient,
    tables: tuple[str, str],
    key: RecordKey,
    execution: str,
    token: SecretStr,
    again: bool,
    now: datetime,
) -> Review:
    """Open the record's review, or ask once more with a new token.

    tables: of reviews and of records. again: the first wait is over.

    Raises AlreadyAsked, AlreadyAnswered (see `rules.ask`), StoreUnavailable; AlreadyAnswered too where the record is
    gone, since nobody is to be asked about a photo that was forgotten meanwhile, where it asks nobody, and where it has
    an answer, since the table of reviews may have lost it.
    """
    table, records_table = tables
    item = get_item(dynamodb, records_table, _key(key.image, key.version))
    if item is None:
        raise AlreadyAnswered(f"{key.image} {key.version}: there is no record of it any more")
    record = from_item(item)
    if not record.asks_a_person:
        raise AlreadyAnswered(f"{key.image} {key.version}: its record asks nobody")
    if record.review and record.review.answer:
        raise AlreadyAnswered(f"{key.image} {key.version}: its record has an answer")
    status = ReviewStatus.ESCALATED if again else ReviewStatus.WAITING
    opened = rules.open_review(record, execution, token, now).model_copy(update={"status": status})
    if _write(dynamodb, table, opened, standing=None):
        return opened
    return change_review(
        dynamodb, table, record.image, record.version, lambda review: rules.ask(review, execution, token, status)
    )


def next_review(
    dynamodb: DynamoDBClient,
    table: str,
    reviewer: str,
    now: datetime,
    reason: str = "",
    on_page: tuple[str, str] | None = None,
    ahead: bool = False,
) -> Review | None:
    """The most valuable open review that nobody else looks at, claimed for the reviewer; None when there is none.

    Second questions come after all that decide. reason: only among those that wait for it, of SOUGHT at most.
    on_page: another one than this. ahead: the reviewer is shown it later, so it is only claimed while others wait.
    """

    def rule(review: Review, take: bool) -> Review:
        if reason and rules.why_shown(review) != reason:
            raise Refused("This photo waits for another reason.")
        return rules.claim(review, reviewer, now, ahead, take)

    for take in (False,) if ahead else (False, True):
        found = chain(_open_keys(dynamodb, table), _second_keys(dynamodb, table, reviewer))
        for key in islice((key for key in found if key != on_page), SOUGHT if reason else None):
            try:
                return change_review(dynamodb, table, *key, partial(rule, take=take))
            except Refused:
                continue
    return None


def hold_review(dynamodb: DynamoDBClient, table: str, image: str, version: str, reviewer: str, now: datetime) -> Review:
    """The photo that was sent ahead is on the reviewer's page now. Raises Refused where somebody else has it."""
    return change_review(dynamodb, table, image, version, lambda review: rules.claim(review, reviewer, now))


def release_review(dynamodb: DynamoDBClient, table: str, image: str, version: str, reviewer: str) -> None:
    """Let others have the photo at once."""
    with suppress(Refused):
        change_review(dynamodb, table, image, version, lambda review: rules.release(review, reviewer))


def undo_answer(
    dynamodb: DynamoDBClient,
    tables: tuple[str, str],
    key: tuple[str, str],
    reviewer: str,
    now: datetime,
    control_table: str = "",
) -> Review:
    """Take back what the reviewer answered last about this photo (see `rules.undo`); the record follows.

    Raises Refused, and then nothing is changed: nobody takes back what another reviewer has answered.
    """
    decided = False

    def rule(review: Review) -> Review:
        nonlocal decided
        before = rules.undo(review, reviewer, now)
        decided = review.answer is not None and before.answer is None
        return before

    review = change_review(dynamodb, tables[0], *key, rule)
    if review.undone_at:
        _forget_answer(dynamodb, tables[1], review, review.undone_at)
    if decided and control_table:
        _count_answer(dynamodb, control_table, -1)
    return review


def skip_review(dynamodb: DynamoDBClient, table: str, image: str, version: str, reviewer: str, now: datetime) -> Review:
    """Put the review behind all others."""
    return change_review(dynamodb, table, image, version, lambda review: rules.skip(review, reviewer, now))


def answer_review(
    dynamodb: DynamoDBClient,
    stepfunctions: SFNClient,
    tables: tuple[str, str],
    key: tuple[str, str],
    label: str,
    reviewer: str,
    labels: Sequence[str],
    now: datetime,
    twice: bool = False,
    control_table: str = "",
) -> Review:
    """Write the answer down, then wake the execution that waits for it; where none does any more, tell the record.

    tables: of reviews and of records. key: image and version. twice: whether another reviewer is asked then, whose
    answer wakes nobody. control_table: where first answers are counted, if they are to be.

    Raises Refused, with a message for the reviewer, when the answer is not taken; StoreUnavailable when it may not
    have arrived everywhere: the same answer again completes it.
    """
    reviews_table, records_table = tables
    first = False

    def rule(review: Review) -> Review:
        nonlocal first
        first = review.answer is None
        return rules.answer(review, label, reviewer, labels, now, twice)

    review = change_review(dynamodb, reviews_table, *key, rule)
    if review.answer and review.answer.reviewer != reviewer:
        _update_record(dynamodb, records_table, review, now)
    elif not _wake(stepfunctions, review):
        record_review(dynamodb, reviews_table, records_table, *key, answered=True, now=now)
    if first and control_table:
        _count_answer(dynamodb, control_table, 1)
    return review


def _count_answer(dynamodb: DynamoDBClient, control_table: str, number: int) -> None:
    with transient("DynamoDB"):
        dynamodb.update_item(
            TableName=control_table,
            Key=ANSWERS,
            UpdateExpression="ADD answers :number",
            ExpressionAttributeValues={":number": {"N": str(number)}},
        )


def check_reviewer(
    dynamodb: DynamoDBClient,
    tables: tuple[str, str],
    key: tuple[str, str],
    label: str,
    reviewer: str,
    labels: Sequence[str],
    golden: tuple[str, str],
    now: datetime,
) -> Review:
    """Write down what the reviewer says of a golden photo, beside their answer to this review; it wakes nobody.

    golden: the photo's name, and what it shows. Raises Refused, StoreUnavailable.
    """
    review = change_review(
        dynamodb, tables[0], *key, lambda review: rules.check(review, label, reviewer, labels, *golden, now)
    )
    if review.golden:
        _update_record(dynamodb, tables[1], review, now)
    return review


def record_review(
    dynamodb: DynamoDBClient,
    reviews_table: str,
    records_table: str,
    image: str,
    version: str,
    answered: bool,
    now: datetime,
) -> Review | None:
    """Write into the record what came of its review; once more changes nothing. None where one of them is gone.

    answered: False when the last wait is over. An answer that came in the last moment stands.
    now: an answer takes the record to this place in the index by time, so that the monitor sees it, however late.

    Raises LookupError when the answer is not there.
    """
    settle = rules.forget_token if answered else rules.give_up
    try:
        review = change_review(dynamodb, reviews_table, image, version, settle)
    except Refused:  # forgotten, or expired
        return None
    if answered and review.answer is None and review.undone_at is None:
        if get_item(dynamodb, records_table, _key(image, version)) is None:  # so nobody was asked again
            return None
        raise LookupError(f"{image} {version}: no answer has been written down")
    if review.answer or not answered:
        _update_record(dynamodb, records_table, review, now)
    if answered:
        with suppress(Refused):
            review = _follow_undo(dynamodb, (reviews_table, records_table), review, now)
    return review


def _follow_undo(dynamodb: DynamoDBClient, tables: tuple[str, str], review: Review, now: datetime) -> Review:
    """The answer may have been undone while the record was told of it: then the record forgets it again."""
    standing = load_review(dynamodb, tables[0], review.image, review.version)
    told = review.answer.answered_at if review.answer else review.undone_at
    if told and (standing.answer is None or standing.answer.answered_at != told):
        _forget_answer(dynamodb, tables[1], standing, told)
        if standing.answer:
            _update_record(dynamodb, tables[1], standing, now)
    return standing


def restore_review(
    dynamodb: DynamoDBClient, stepfunctions: SFNClient, tables: tuple[str, str], key: tuple[str, str], now: datetime
) -> None:
    """Give the review the answer of its record, where a backup or a fault has removed it.

    tables: of reviews and of records. An answer that was taken since gives way: the record holds the first one.
    Where the reviewer took that one back, the record follows instead.
    """
    reviews_table, records_table = tables
    item = get_item(dynamodb, records_table, _key(*key))
    record = from_item(item) if item else None
    if record is None or record.review is None or record.review.answer is None:
        return
    told = record.review.answer.answered_at
    with suppress(Refused):
        standing = load_review(dynamodb, reviews_table, *key)
        if standing.undone_at == told:
            if standing.answer:
                _update_record(dynamodb, records_table, standing, now)
            else:
                _forget_answer(dynamodb, records_table, standing, told)
            return
    if not _write(dynamodb, reviews_table, rules.restore(record), standing=None):
        review = change_review(dynamodb, reviews_table, *key, lambda standing: rules.restore(record, standing))
        _wake(stepfunctions, review)  # an execution may wait that has asked again


def _update_record(dynamodb: DynamoDBClient, table: str, review: Review, now: datetime) -> None:
    """Write the outcome into the record, once there is an answer for good; only what is asked after it is added then.

    A record that is gone was forgotten, or has expired; else the ledger finds that the photo has none.

    What is added leaves the record's place in the index by time alone: the monitor counts an answer whenever it moves.
    """
    outcome, key = to_item(review.outcome), _key(review.image, review.version)
    place = changed(review.image, now) if review.answer else {}
    if review.keep_until:
        place["expires_at"] = {"N": str(review.keep_until)}
    try:
        with transient("DynamoDB"):
            dynamodb.update_item(
                TableName=table,
                Key=key,
                UpdateExpression="SET review = :outcome" + "".join(f", {name} = :{name}" for name in place),
                ConditionExpression="attribute_exists(image) AND (attribute_not_exists(review) OR "
                "review.#status <> :answered OR review.#answer.answered_at = :undone)",
                ExpressionAttributeNames={"#status": "status", "#answer": "answer"},
                ExpressionAttributeValues={
                    ":outcome": {"M": outcome},
                    ":answered": {"S": ReviewStatus.ANSWERED},
                    ":undone": to_item(review).get("undone_at", {"NULL": True}),
                    **{f":{name}": value for name, value in place.items()},
                },
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
    except dynamodb.exceptions.ConditionalCheckFailedException as error:
        if "Item" not in error.response:
            return
        if added := {name: outcome[name] for name in ("second", "golden") if name in outcome}:
            with transient("DynamoDB"):
                dynamodb.update_item(
                    TableName=table,
                    Key=key,
                    UpdateExpression="SET " + ", ".join(f"review.#{name} = :{name}" for name in added),
                    ExpressionAttributeNames={f"#{name}": name for name in added},
                    ExpressionAttributeValues={f":{name}": value for name, value in added.items()},
                )


def _forget_answer(dynamodb: DynamoDBClient, table: str, review: Review, given_at: datetime) -> None:
    """Remove the answer of that moment from the record, if the record has it; nothing else changes."""
    given = to_item(review.model_copy(update={"undone_at": given_at}))["undone_at"]
    for part in ("answer", "second", "golden"):
        outcome = {":outcome": {"M": to_item(review.outcome)}} if part == "answer" else {}
        with suppress(dynamodb.exceptions.ConditionalCheckFailedException), transient("DynamoDB"):
            dynamodb.update_item(
                TableName=table,
                Key=_key(review.image, review.version),
                UpdateExpression="SET review = :outcome" if outcome else "REMOVE review.#part",
                ConditionExpression="review.#part.answered_at = :given",
                ExpressionAttributeNames={"#part": part},
                ExpressionAttributeValues={":given": given, **outcome},
            )
            return


def count_open(dynamodb: DynamoDBClient, table: str) -> int:
    """How many reviews wait for an answer that decides, at most MOST; may lag behind by a second."""
    found = 0
    for shard in _shards(OPEN):
        if found < MOST:
            found += sum(1 for _ in islice(_items(dynamodb, table, shard, MOST), MOST - found))
    return found


def count_waiting(dynamodb: DynamoDBClient, table: str, reviewer: str) -> int:
    """How many photos wait for this reviewer, at most MOST: open reviews, and second questions to them."""
    found = count_open(dynamodb, table)
    return found + sum(1 for _ in islice(_second_keys(dynamodb, table, reviewer), MOST - found))


def count_answers(dynamodb: DynamoDBClient, control_table: str) -> int:
    """How many reviews have been answered since they are counted."""
    item = get_item(dynamodb, control_table, ANSWERS)
    return int(item["answers"]["N"]) if item else 0


def find_oldest(dynamodb: DynamoDBClient, table: str) -> datetime | None:
    """Since when the oldest open review waits: since it was asked, or since somebody last put it behind all others."""
    places = []
    for shard in _shards(OPEN):
        for group in GROUPS:
            with transient("DynamoDB"):
                found = dynamodb.query(
                    TableName=table,
                    IndexName=OPEN_REVIEWS,
                    KeyConditionExpression="queue = :open AND begins_with(place, :group)",
                    ExpressionAttributeValues={":open": {"S": shard}, ":group": {"S": f"{group}#"}},
                    Limit=1,
                )
            places += [item["place"]["S"] for item in found["Items"]]
    return min((datetime.fromisoformat(place.partition("#")[2]) for place in places), default=None)


def load_review(dynamodb: DynamoDBClient, table: str, image: str, version: str) -> Review:
    """Raises Refused when there is no such review."""
    item = get_item(dynamodb, table, _key(image, version))
    if item is None:
        raise Refused("Nobody was asked about this photo.")
    return Review.model_validate(plain(item))


def list_reviews(dynamodb: DynamoDBClient, table: str) -> Iterator[Review]:
    """Every review, open or answered."""
    for page in dynamodb.get_paginator("scan").paginate(TableName=table):
        yield from (Review.model_validate(plain(item)) for item in page["Items"])


def change_review(
    dynamodb: DynamoDBClient, table: str, image: str, version: str, rule: Callable[[Review], Review]
) -> Review:
    """Apply the rule to the review as it stands, and again if somebody else was faster. Returns what stands then.

    Raises what the rule raises, and then nothing is changed; Refused when there is no such review.
    """
    for _ in range(_ATTEMPTS):
        standing = load_review(dynamodb, table, image, version)
        review = rule(standing)
        if review is standing:
            return standing
        review = review.model_copy(update={"revision": standing.revision + 1})
        if _write(dynamodb, table, review, standing):
            return review
    raise StoreUnavailable(f"{image} {version}: changed by others {_ATTEMPTS} times in a row")


def _write(dynamodb: DynamoDBClient, table: str, review: Review, standing: Review | None) -> bool:
    """Whether the review could take the place of the standing one, or of none."""
    item = to_item(review)
    if review.task_token:
        item["task_token"] = {"S": review.task_token.get_secret_value()}
    if review.expires_at:
        item["expires_at"] = {"N": str(review.expires_at)}
    if review.queue and review.place:
        shard = zlib.crc32(review.image.encode()) % SHARDS
        item |= {"queue": {"S": f"{review.queue}#{shard}"}, "place": {"S": review.place}}
    if standing is None:
        return put_item_if(dynamodb, table, item, "attribute_not_exists(image)")
    values = {":standing": {"N": str(standing.revision)}}
    return put_item_if(dynamodb, table, item, "revision = :standing", ExpressionAttributeValues=values)


def _wake(stepfunctions: SFNClient, review: Review) -> bool:
    """Whether an execution took notice of the answer. Its output stays empty: the answer stands in the table."""
    if review.task_token is None:
        return False
    gone = stepfunctions.exceptions
    try:
        with transient("Step Functions"):
            stepfunctions.send_task_success(taskToken=review.task_token.get_secret_value(), output="{}")
    except (gone.TaskTimedOut, gone.TaskDoesNotExist, gone.InvalidToken):
        return False
    return True


def _shards(queue: str) -> tuple[str, ...]:
    """The queue's partitions of the index; in the first one are reviews from before there were several."""
    return (queue, *(f"{queue}#{shard}" for shard in range(SHARDS)))


def _open_keys(dynamodb: DynamoDBClient, table: str) -> Iterator[tuple[str, str]]:
    return ((item["image"]["S"], item["version"]["S"]) for item in _in_order(dynamodb, table, OPEN))


def _second_keys(dynamodb: DynamoDBClient, table: str, reviewer: str) -> Iterator[tuple[str, str]]:
    """Of the second questions about what somebody else has answered."""
    for item in islice(_in_order(dynamodb, table, SECOND), MOST):
        if not is_same(item["place"]["S"].partition("#")[2], reviewer):
            yield item["image"]["S"], item["version"]["S"]


def _in_order(dynamodb: DynamoDBClient, table: str, queue: str) -> Iterator[Any]:
    """What waits in all of the queue's partitions, by its place; no more is read than is taken."""
    shards = (_items(dynamodb, table, shard, _PAGE) for shard in _shards(queue))
    return merge(*shards, key=lambda item: item["place"]["S"])


def _items(dynamodb: DynamoDBClient, table: str, queue: str, page_size: int) -> Iterator[Any]:
    with transient("DynamoDB"):
        for page in dynamodb.get_paginator("query").paginate(
            TableName=table,
            IndexName=OPEN_REVIEWS,
            KeyConditionExpression="queue = :queue",
            ExpressionAttributeValues={":queue": {"S": queue}},
            PaginationConfig={"PageSize": page_size},
        ):
            yield from page["Items"]


def _key(image: str, version: str) -> dict[str, Any]:
    return {"image": {"S": image}, "version": {"S": version}}
