"""The ledger: where uploads end, and what is named as missing."""

from datetime import UTC, datetime, timedelta

import pytest

from kickstand.events import ImageRef, ReviewStatus
from kickstand.ledger.balance import GROUPS, Audit, Entry, Key, Lack, Ledger, Missing, Question, balance

CLOSES = datetime(2026, 5, 4, 12, tzinfo=UTC)
BEFORE, AFTER = CLOSES - timedelta(hours=1), CLOSES + timedelta(seconds=1)
OVER = int(CLOSES.timestamp())


def uploaded(name: str = "a", version: str = "1", at: datetime = BEFORE) -> ImageRef:
    return ImageRef(bucket="photos", key=name, etag="e", version_id=version, uploaded_at=at)


def recorded(name: str = "a", version: str = "1", route: str = "accept", **rest: object) -> Entry:
    fields = {"image": f"s3://photos/{name}", "version": version, "route": route, "recorded_at": BEFORE}
    return Entry.model_validate(fields | rest)


def answered(at: datetime, keep_until: int | None = None) -> Entry:
    return recorded(route="review", review=ReviewStatus.ANSWERED, answered_at=at, keep_until=keep_until)


def asked(name: str = "a", answered_at: datetime | None = None) -> Question:
    return Question(image=f"s3://photos/{name}", version="1", answered_at=answered_at)


def drawn_up(
    uploads: list[ImageRef],
    entries: list[Entry],
    questions: tuple[Question, ...] = (),
    letters: tuple[Key, ...] = (),
) -> Ledger:
    by_key = {entry.key: entry for entry in entries}, {question.key: question for question in questions}
    return balance(uploads, *by_key, letters, CLOSES)


def place_of(
    entries: list[Entry], questions: tuple[Question, ...] = (), letters: tuple[Key, ...] = (), at: datetime = BEFORE
) -> str:
    """Where the ledger puts the only upload; of a missing one also what is missing."""
    ledger = drawn_up([uploaded(at=at)], entries, questions, letters)
    ends = {place: number for place, number in ledger.counts.items() if number}
    assert ledger.uploads + ledger.under_way == 1
    (place,) = ends or ["under way"]
    return f"missing: {ledger.lacks[0].lack}" if ledger.missing else place


@pytest.mark.parametrize(
    ("entry", "questions", "place"),
    [
        (recorded(), (), "accepted"),
        (recorded(route="reject"), (), "rejected"),
        (recorded(route="review"), (asked(),), "waiting"),
        (recorded(route="review", review=ReviewStatus.UNANSWERED), (asked(),), "waiting"),
        (recorded(route="review", review=ReviewStatus.ANSWERED), (asked(answered_at=BEFORE),), "reviewed"),
        (recorded(audited=True), (asked(),), "accepted"),
        (recorded(audited=True, review=ReviewStatus.ANSWERED), (asked(answered_at=BEFORE),), "reviewed"),
        (recorded(route="reject", audited=True), (asked(),), "rejected"),
        (recorded(route="review"), (), "missing: question"),
        (recorded(audited=True), (), "missing: question"),
        (recorded(route="review", recorded_at=AFTER), (), "waiting"),
        (recorded(route="review"), (asked(answered_at=BEFORE),), "missing: answer"),
        (recorded(route="review"), (asked(answered_at=AFTER),), "reviewed"),
        (answered(at=BEFORE), (asked(answered_at=BEFORE),), "reviewed"),
        (answered(at=BEFORE), (), "missing: review"),
        (answered(at=BEFORE), (asked(),), "missing: review"),
        (answered(at=BEFORE), (asked(answered_at=AFTER),), "missing: review"),
        (answered(at=AFTER), (asked(),), "reviewed"),
        (answered(at=BEFORE, keep_until=OVER), (), "reviewed"),
        (recorded(route="review", keep_until=OVER), (), "waiting"),
        (recorded(route="review", keep_until=OVER + 1), (), "missing: question"),
    ],
)
def test_a_recorded_upload_is_where_its_record_and_its_review_say(
    entry: Entry, questions: tuple[Question, ...], place: str
) -> None:
    assert place_of([entry], questions) == place


@pytest.mark.parametrize("entries", [[], [recorded()], [recorded(route="review")]])
def test_whatever_else_is_known_a_dead_letter_counts_first(entries: list[Entry]) -> None:
    assert place_of(entries, letters=(("s3://photos/a", "1"),)) == "dead_letter"


def test_an_upload_of_which_nothing_is_known_is_missing() -> None:
    assert place_of([]) == "missing: decision"


def test_a_young_upload_is_under_way_and_not_yet_counted() -> None:
    ledger = drawn_up([uploaded(at=AFTER), uploaded("b")], [recorded("b")])
    assert (ledger.uploads, ledger.under_way, ledger.missing) == (1, 1, 0)
    assert str(ledger).endswith("+ 0 dead-letter, 1 under way")


def test_an_upload_older_than_the_retention_is_not_missing() -> None:
    ledger = balance([uploaded(at=BEFORE - timedelta(days=1)), uploaded("b")], {}, {}, (), CLOSES, BEFORE)
    assert (ledger.expired, ledger.missing, ledger.uploads) == (1, 1, 1)
    assert str(ledger).endswith("1 missing, 1 expired")


def test_a_young_upload_that_is_decided_counts() -> None:
    assert place_of([recorded(recorded_at=AFTER)], at=AFTER) == "accepted"


def test_what_is_missing_can_be_sent_again_unless_the_image_is_gone() -> None:
    ledger = drawn_up([uploaded("a"), uploaded("b")], [recorded("b", route="review")])
    gone = Ledger(missing=1, lacks=(Missing(image="s3://photos/c", version="1", lack=Lack.IMAGE),))
    assert {missing.lack for missing in ledger.plus(gone).lost} == {Lack.DECISION, Lack.QUESTION}
    assert ledger.plus(gone).missing == 3


def test_all_that_is_missing_is_counted_though_only_some_are_named() -> None:
    ledger = drawn_up([uploaded(str(number)) for number in range(50)], [])
    both = ledger.plus(ledger, name_at_most=3)
    assert (both.missing, len(both.lacks)) == (100, 3)


def test_an_audit_doubts_only_groups_where_records_and_bucket_differ() -> None:
    keys = [("s3://photos/a", str(number)) for number in range(10_000)]
    audit = Audit(closes_at=CLOSES)
    walked = audit.model_copy(update={"sums": audit.saw(keys[:-1])})
    assert walked.model_copy(update={"sums": walked.saw(keys[:-1])}).doubts(keys) == []
    doubts = walked.model_copy(update={"sums": walked.saw(keys)}).doubts(keys)
    assert keys[-1] in doubts
    assert len(doubts) < 20


def test_an_audit_of_any_size_fits_into_one_item_of_dynamodb() -> None:
    audit = Audit(closes_at=CLOSES, sums=bytes([255]) * 8 * GROUPS)
    assert len(audit.model_dump_json()) < 60_000
    assert Audit.model_validate_json(audit.model_dump_json()) == audit
