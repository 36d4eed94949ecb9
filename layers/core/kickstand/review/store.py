"""Reviews in DynamoDB: every change is a rule of `rules`, written only if nobody changed the review meanwhile."""

import logging
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
from kickstand.events import ReviewStatus, as_utc
from kickstand.review import rules
from kickstand.review.rules import GROUPS, OPEN, SECOND, RecordKey, Refused, Review, UnreadableReview, is_same
from kickstand.store import changed, from_item, get_item, item_key, key_of, put_item_if, readable, to_item, transient

logger = logging.getLogger(__name__)

OPEN_REVIEWS = "OpenReviews"  # the index of reviews that wait for an answer: queue, place
SHARDS = 8
"""Number of partitions of a queue in the index: each takes 1,000 writes a second."""
MOST = 1000
"""At most this many waiting photos are counted, and this many second questions searched for one of another reviewer."""
SOUGHT = 200
"""At most this many photos are searched for one with a certain reason; each costs a read."""
ANSWERS = {"id": {"S": "answers"}}
"""The item in the control table that counts people's answers."""
_ATTEMPTS = 8
_PAGE = 25  # reviews read at a time: only the first are shown


def ask_person(
    dynamodb: DynamoDBClient,
    tables: tuple[str, str],
    key: RecordKey,
    execution: str,
    token: SecretStr,
    again: bool,
    now: datetime,
) -> Review:
    """Open the record's review, or ask again with a new token.

    tables: of reviews and of records. again: the first wait is over.

    Raises AlreadyAsked, AlreadyAnswered (see `rules.ask`), StoreUnavailable. AlreadyAnswered also if the record was
    deleted, because the photo was forgotten meanwhile; if it needs no review; and if it has an answer, which the table
    of reviews may have lost.
    """
    table, records_table = tables
    item = get_item(dynamodb, records_table, item_key(key.image, key.version))
    if item is None:
        raise AlreadyAnswered(f"{key.image} {key.version}: its record was deleted")
    record = from_item(item)
    if not record.asks_a_person:
        raise AlreadyAnswered(f"{key.image} {key.version}: its record needs no review")
    if record.review and record.review.answer:
        raise AlreadyAnswered(f"{key.image} {key.version}: its record has an answer")
    status = ReviewStatus.ESCALATED if again else ReviewStatus.WAITING
    opened = rules.open_review(record, execution, token, now).model_copy(update={"status": status})
    if _write(dynamodb, table, opened, replaces=False):
        return opened
    return change_review(dynamodb, table, *record.key, lambda review: rules.ask(review, execution, token, status))


def next_review(
    dynamodb: DynamoDBClient,
    table: str,
    reviewer: str,
    now: datetime,
    reason: str = "",
    on_page: tuple[str, str] | None = None,
    ahead: bool = False,
) -> Review | None:
    """The most valuable open review that nobody else sees, reserved for the reviewer; None if there is none.

    Second questions come after all others. reason: only photos with this reason, among at most SOUGHT.
    on_page: not this one. ahead: the reviewer sees it next, so it is reserved only while others wait.
    """

    def rule(review: Review, take: bool) -> Review:
        if reason and rules.why_shown(review) != reason:
            raise Refused("This photo has another reason.")
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
    """The photo that was sent ahead is on the reviewer's page now. Raises Refused if somebody else sees it."""
    return change_review(dynamodb, table, image, version, lambda review: rules.claim(review, reviewer, now))


def release_review(dynamodb: DynamoDBClient, table: str, image: str, version: str, reviewer: str) -> None:
    """Release the photo for others."""
    with suppress(Refused):
        change_review(dynamodb, table, image, version, lambda review: rules.release(review, reviewer))


def undo_answer(
    dynamodb: DynamoDBClient,
    tables: tuple[str, str],
    key: tuple[str, str],
    reviewer: str,
    golden: bool,
    now: datetime,
    control_table: str = "",
) -> Review:
    """Undo the reviewer's last answer about this photo (see `rules.undo`), also in the record.

    Raises Refused without a change: nobody can undo another reviewer's answer.
    """
    decided = False

    def rule(review: Review) -> Review:
        nonlocal decided
        before = rules.undo(review, reviewer, golden, now)
        decided = review.answer is not None and before.answer is None
        return before

    review = change_review(dynamodb, tables[0], *key, rule)
    if review.undone_at:
        _forget_answer(dynamodb, tables[1], review, review.undone_at)
    if decided and control_table:
        _count_answer(dynamodb, control_table, -1)
    return review


def skip_review(dynamodb: DynamoDBClient, table: str, image: str, version: str, reviewer: str, now: datetime) -> Review:
    """Move the review to the end of the queue."""
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
    """Store the answer, then resume the execution that waits for it; if none waits any more, update the record.

    tables: of reviews and of records. key: image and version. twice: whether to ask a second reviewer then, whose
    answer resumes no execution. control_table: where first answers are counted, if given.

    Raises Refused, with a message for the reviewer, if the answer is not accepted; StoreUnavailable if it may not have
    arrived everywhere: the same answer again completes it.
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
    elif not wake(stepfunctions, review.task_token):
        record_review(dynamodb, tables, key, answered=True, now=now)
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
    """Store the reviewer's answer about a golden photo, beside their answer to this review; it resumes no execution.

    golden: the photo's name, and what it shows. Raises Refused, StoreUnavailable.
    """
    review = change_review(
        dynamodb, tables[0], *key, lambda review: rules.check(review, label, reviewer, labels, *golden, now)
    )
    if review.golden:
        _update_record(dynamodb, tables[1], review, now)
    return review


def record_review(
    dynamodb: DynamoDBClient, tables: tuple[str, str], key: tuple[str, str], answered: bool, now: datetime
) -> Review | None:
    """Write the outcome of the review into the record; repeating it changes nothing. None if one of them was deleted.

    tables: of reviews and of records. answered: False if the last wait is over. An answer at the last moment counts.
    now: an answer moves the record to this place in the index by time, so that the monitor sees it, however late.

    Raises LookupError if there is no answer.
    """
    reviews_table, records_table = tables
    settle = rules.forget_token if answered else rules.give_up
    try:
        review = change_review(dynamodb, reviews_table, *key, settle)
    except UnreadableReview:
        raise
    except Refused:  # forgotten, or expired
        return None
    if answered and review.answer is None and review.undone_at is None:
        if get_item(dynamodb, records_table, item_key(*key)) is None:  # so there was no second wait
            return None
        raise LookupError(f"{' '.join(key)}: there is no answer")
    if review.answer or not answered:
        _update_record(dynamodb, records_table, review, now)
    if answered:
        with suppress(Refused):
            review = _follow_undo(dynamodb, tables, review, now)
    return review


def _follow_undo(dynamodb: DynamoDBClient, tables: tuple[str, str], review: Review, now: datetime) -> Review:
    """The answer may have been undone while the record was updated: then remove it from the record again."""
    standing = load_review(dynamodb, tables[0], *review.key)
    told = review.answer.answered_at if review.answer else review.undone_at
    if told and (standing.answer is None or standing.answer.answered_at != told):
        _forget_answer(dynamodb, tables[1], standing, told)
        if standing.answer:
            _update_record(dynamodb, tables[1], standing, now)
    return standing


def restore_review(
    dynamodb: DynamoDBClient, stepfunctions: SFNClient, tables: tuple[str, str], key: tuple[str, str], now: datetime
) -> None:
    """Restore the review's answer from its record, if a backup or a fault has removed it.

    tables: of reviews and of records. It replaces an answer that was given since: the record holds the first one. If
    the reviewer undid that one, the record is updated instead.
    """
    reviews_table, records_table = tables
    item = get_item(dynamodb, records_table, item_key(*key))
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
    if not _write(dynamodb, reviews_table, rules.restore(record), replaces=False):
        review = change_review(dynamodb, reviews_table, *key, lambda standing: rules.restore(record, standing))
        wake(stepfunctions, review.task_token)  # an execution that has asked again may wait


def _update_record(dynamodb: DynamoDBClient, table: str, review: Review, now: datetime) -> None:
    """Write the outcome into the record. A first answer is final; only second and golden answers are added to it.

    A deleted record was forgotten, or has expired; otherwise the ledger finds that the photo has none.

    An addition does not move the record in the index by time: the monitor would count the answer again.
    """
    outcome, key = to_item(review.outcome), item_key(*review.key)
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
    """Remove the answer given at that time from the record, if it has that answer; change nothing else."""
    given = to_item(review.model_copy(update={"undone_at": given_at}))["undone_at"]
    for part in ("answer", "second", "golden"):
        outcome = {":outcome": {"M": to_item(review.outcome)}} if part == "answer" else {}
        with suppress(dynamodb.exceptions.ConditionalCheckFailedException), transient("DynamoDB"):
            dynamodb.update_item(
                TableName=table,
                Key=item_key(*review.key),
                UpdateExpression="SET review = :outcome" if outcome else "REMOVE review.#part",
                ConditionExpression="review.#part.answered_at = :given",
                ExpressionAttributeNames={"#part": part},
                ExpressionAttributeValues={":given": given, **outcome},
            )
            return


def count_open(dynamodb: DynamoDBClient, table: str) -> int:
    """The number of reviews that wait for a first answer, up to MOST; may lag behind by a second."""
    found = 0
    for shard in _shards(OPEN):
        if found < MOST:
            found += sum(1 for _ in islice(_items(dynamodb, table, shard, MOST), MOST - found))
    return found


def count_waiting(dynamodb: DynamoDBClient, table: str, reviewer: str) -> int:
    """The number of photos that wait for this reviewer, up to MOST: open reviews, and second questions."""
    found = count_open(dynamodb, table)
    return found + sum(1 for _ in islice(_second_keys(dynamodb, table, reviewer), MOST - found))


def count_answers(dynamodb: DynamoDBClient, control_table: str) -> int:
    """The number of reviews that have been answered since counting began."""
    item = get_item(dynamodb, control_table, ANSWERS)
    return int(item["answers"]["N"]) if item else 0


def find_oldest(dynamodb: DynamoDBClient, table: str) -> datetime | None:
    """When the oldest open review began to wait: when it was opened, or last skipped."""
    times = []
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
            for item in found["Items"]:
                try:
                    times.append(as_utc(datetime.fromisoformat(item["place"]["S"].partition("#")[2])))
                except ValueError as error:
                    logger.error("this review has no time: %s: %s", item["image"]["S"], error)
    return min(times, default=None)


def load_review(dynamodb: DynamoDBClient, table: str, image: str, version: str) -> Review:
    """Raises Refused if there is no such review, or it cannot be read."""
    return _load(dynamodb, table, image, version)[0]


def _load(dynamodb: DynamoDBClient, table: str, image: str, version: str) -> tuple[Review, Any]:
    """As `load_review`, with the revision as the table has it; None if it has none."""
    item = get_item(dynamodb, table, item_key(image, version)) if image and version else None
    if item is None:
        raise Refused("This photo is not under review.")
    for review in readable([item], Review):
        return review, item.get("revision")
    raise UnreadableReview("The review of this photo cannot be read.")


def list_reviews(dynamodb: DynamoDBClient, table: str) -> Iterator[Review]:
    """Every review, open or answered."""
    for page in dynamodb.get_paginator("scan").paginate(TableName=table):
        yield from readable(page["Items"], Review)


def change_review(
    dynamodb: DynamoDBClient, table: str, image: str, version: str, rule: Callable[[Review], Review]
) -> Review:
    """Apply the rule to the present review, and again if somebody else was faster. Returns the stored review.

    Raises the rule's errors, without a change; Refused if there is no such review.
    """
    for _ in range(_ATTEMPTS):
        standing, revision = _load(dynamodb, table, image, version)
        review = rule(standing)
        if review is standing:
            return standing
        review = review.model_copy(update={"revision": standing.revision + 1})
        if _write(dynamodb, table, review, replaces=True, revision=revision):
            return review
    raise StoreUnavailable(f"{image} {version}: changed by others {_ATTEMPTS} times in a row")


def _write(dynamodb: DynamoDBClient, table: str, review: Review, replaces: bool, revision: Any = None) -> bool:
    """Store the review in place of the present one, or of none. Returns whether that was possible.

    revision: of the present one, as the table has it: a damaged one must not block this photo, and with it everybody.
    """
    item = to_item(review)
    if review.task_token:
        item["task_token"] = {"S": review.task_token.get_secret_value()}
    if review.expires_at:
        item["expires_at"] = {"N": str(review.expires_at)}
    if review.queue and review.place:
        shard = zlib.crc32(review.image.encode()) % SHARDS
        item |= {"queue": {"S": f"{review.queue}#{shard}"}, "place": {"S": review.place}}
    if not replaces:
        return put_item_if(dynamodb, table, item, "attribute_not_exists(image)")
    if revision is None:
        return put_item_if(dynamodb, table, item, "attribute_exists(image) AND attribute_not_exists(revision)")
    values = {":standing": revision}
    return put_item_if(dynamodb, table, item, "revision = :standing", ExpressionAttributeValues=values)


def wake(stepfunctions: SFNClient, token: SecretStr | None) -> bool:
    """Resume the execution. Returns whether one waited. The output is empty: the answer is in the table."""
    if token is None:
        return False
    gone = stepfunctions.exceptions
    try:
        with transient("Step Functions"):
            stepfunctions.send_task_success(taskToken=token.get_secret_value(), output="{}")
    except (gone.TaskTimedOut, gone.TaskDoesNotExist, gone.InvalidToken):
        return False
    return True


def _shards(queue: str) -> tuple[str, ...]:
    """The queue's partitions of the index; the first one also holds reviews from older versions, which had only one."""
    return (queue, *(f"{queue}#{shard}" for shard in range(SHARDS)))


def _open_keys(dynamodb: DynamoDBClient, table: str) -> Iterator[tuple[str, str]]:
    return map(key_of, _in_order(dynamodb, table, OPEN))


def _second_keys(dynamodb: DynamoDBClient, table: str, reviewer: str) -> Iterator[tuple[str, str]]:
    """The place of a second question about somebody else's answer."""
    for item in islice(_in_order(dynamodb, table, SECOND), MOST):
        if not is_same(item["place"]["S"].partition("#")[2], reviewer):
            yield key_of(item)


def _in_order(dynamodb: DynamoDBClient, table: str, queue: str) -> Iterator[Any]:
    """The reviews in all of the queue's partitions, by their place; reads no more than the caller takes."""
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
