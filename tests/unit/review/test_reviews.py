"""The rules between being asked and having answered."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from kickstand.errors import AlreadyAnswered, AlreadyAsked
from kickstand.events import Decision, ImageRef, Reason, ReviewStatus, Route
from kickstand.records import Record
from kickstand.review import rules
from kickstand.review.rules import CLAIM, Desk, Refused, Review

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LABELS = ("bicycle", "motorcycle")
TOKEN = SecretStr("token-of-the-first-task")


def asked(name: str = "a.jpg", at: datetime = NOON, audited: bool = False) -> Review:
    ref = ImageRef(bucket="photos", key=name, etag="e", version_id="v", uploaded_at=NOON)
    decision = (
        Decision(route=Route.ACCEPT, reason=Reason.CONFIDENT, explanation="bicycle with confidence 0.99")
        if audited
        else Decision(route=Route.REVIEW, reason=Reason.UNSURE, explanation="bicycle with confidence 0.61")
    )
    record = Record(
        image=ref.uri,
        version="v",
        image_ref=ref,
        decision=decision,
        execution="classify",
        recorded_at=NOON,
        audit_probability=0.02 if audited else 1.0,
        audited=audited,
    )
    return rules.open_review(record, "arn:first", TOKEN, at)


def answered(by: str = "Ada", label: str = "bicycle") -> Review:
    return rules.answer(rules.claim(asked(), by, NOON), label, by, LABELS, NOON + 4 * SECOND)


def test_an_answer_tells_who_when_what_how_long_and_what_was_shown() -> None:
    review = answered()
    assert review.status is ReviewStatus.ANSWERED
    assert review.answer is not None
    assert review.answer.model_dump() == {
        "label": "bicycle",
        "reviewer": "Ada",
        "answered_at": NOON + 4 * SECOND,
        "seconds_taken": 4.0,
        "shown": {"explanation": "What does this photo show?", "choices": (*LABELS, "neither", "cannot_tell")},
        "late": False,
    }
    assert review.outcome.answer == review.answer


@pytest.mark.parametrize("label", ["bicycle", "motorcycle", "neither", "cannot_tell"])
def test_every_label_neither_and_cannot_tell_are_answers(label: str) -> None:
    assert answered(label=label).answer


@pytest.mark.parametrize("label", ["", "cow", "Bicycle", "<b>"])
def test_anything_else_is_not(label: str) -> None:
    with pytest.raises(Refused, match="not one of the answers"):
        answered(label=label)


def test_a_second_answer_is_refused() -> None:
    with pytest.raises(Refused, match="before you"):
        rules.answer(answered(), "bicycle", "Grace", LABELS, NOON)
    with pytest.raises(Refused, match="counts"):
        rules.answer(answered(), "motorcycle", "Ada", LABELS, NOON)


def test_the_same_answer_sent_again_changes_nothing() -> None:
    review = answered()
    assert rules.answer(review, "bicycle", "Ada", LABELS, NOON + CLAIM) is review


def test_whoever_was_not_shown_the_picture_cannot_answer() -> None:
    for review in (asked(), rules.claim(asked(), "Grace", NOON)):
        with pytest.raises(Refused, match="not saved"):
            rules.answer(review, "bicycle", "Ada", LABELS, NOON)


def test_two_reviewers_do_not_get_the_same_picture_until_the_claim_expires() -> None:
    review = rules.claim(asked(), "Ada", NOON)
    with pytest.raises(Refused, match="Somebody else"):
        rules.claim(review, "Grace", NOON + CLAIM - SECOND)
    taken = rules.claim(review, "Grace", NOON + CLAIM)
    assert taken.claim
    assert taken.claim.by == "Grace"
    with pytest.raises(Refused, match="somebody else"):
        rules.answer(taken, "bicycle", "Ada", LABELS, NOON + CLAIM)


def test_an_answer_after_the_own_claim_expired_counts_while_nobody_else_took_the_picture() -> None:
    review = rules.claim(asked(), "Ada", NOON)
    assert rules.answer(review, "bicycle", "Ada", LABELS, NOON + 3 * CLAIM).answer


def test_loading_the_page_again_keeps_the_picture_and_its_clock() -> None:
    review = rules.claim(rules.claim(asked(), "Ada", NOON), "Ada", NOON + 10 * SECOND)
    assert review.claim
    assert (review.claim.since, review.claim.until) == (NOON, NOON + 10 * SECOND + CLAIM)


def test_unsure_comes_before_audit_old_before_new_and_skipped_last() -> None:
    skipped = rules.skip(rules.claim(asked("skipped", NOON - CLAIM), "Ada", NOON), "Ada", NOON)
    new, old = asked("new", NOON), asked("old", NOON - SECOND)
    audit = asked("audit", NOON - timedelta(days=3), audited=True)
    order = sorted([skipped, audit, new, old], key=lambda review: review.place or "")
    assert [review.image_ref.key for review in order] == ["old", "new", "audit", "skipped"]


def test_an_answered_review_has_no_place_among_the_open_ones() -> None:
    assert answered().place is None


def test_skipping_what_somebody_else_looks_at_changes_nothing() -> None:
    review = rules.claim(asked(), "Ada", NOON)
    assert rules.skip(review, "Grace", NOON) is review


def test_who_audits_is_not_told_what_the_model_said() -> None:
    assert "bicycle" not in asked(audited=True).model_dump_json(exclude={"image", "image_ref"})
    assert "bicycle" in asked().explanation


def test_a_retry_of_the_same_execution_gets_its_new_token_in() -> None:
    retried = rules.ask(asked(), "arn:first", SecretStr("second"), ReviewStatus.WAITING)
    assert retried.task_token == SecretStr("second")


def test_another_execution_for_the_same_image_is_told_that_it_is_asked_already() -> None:
    for review in (asked(), answered(), rules.give_up(asked())):
        with pytest.raises(AlreadyAsked):
            rules.ask(review, "arn:second", SecretStr("second"), ReviewStatus.WAITING)


def test_an_execution_that_missed_the_answer_is_told_that_there_is_one() -> None:
    with pytest.raises(AlreadyAnswered):
        rules.ask(answered(), "arn:first", SecretStr("second"), ReviewStatus.ESCALATED)


def test_after_the_last_wait_a_review_stays_open_for_a_late_answer() -> None:
    review = rules.give_up(asked())
    assert (review.status, review.place is None) == (ReviewStatus.UNANSWERED, False)
    late = rules.answer(rules.claim(review, "Ada", NOON), "neither", "Ada", LABELS, NOON)
    assert late.answer
    assert late.answer.late


def test_an_answer_of_the_last_moment_is_not_given_up() -> None:
    review = answered()
    assert rules.give_up(review) is review


def test_a_review_shows_its_token_to_nobody() -> None:
    review = asked()
    shown = f"{review!r} {review} {review.model_dump()} {review.model_dump_json()} {review.outcome!r}"
    assert TOKEN.get_secret_value() not in shown


def test_a_validation_error_shows_neither_token_nor_name() -> None:
    with pytest.raises(ValidationError) as error:
        Review.model_validate({"task_token": ["secret"], "image": 3})
    assert "secret" not in str(error.value)
    with pytest.raises(ValidationError) as error:
        Desk.model_validate({"reviewer": {"name": "Ada"}})
    assert "Ada" not in str(error.value)


@pytest.mark.parametrize(
    ("event", "reviewer"),
    [
        ({}, ""),
        ({"reviewer": " Ada\n Lovelace "}, "Ada Lovelace"),
        ({"reviewer": "Grace", "widgetContext": {"forms": {"all": {"reviewer": "Ada"}}}}, "Ada"),
        ({"reviewer": "Grace", "widgetContext": {"forms": {"all": {}}}}, "Grace"),
        ({"reviewer": "x" * 1000}, "x" * 80),
    ],
)
def test_a_reviewer_is_who_they_say_they_are(event: dict[str, object], reviewer: str) -> None:
    assert Desk.model_validate(event).reviewer == reviewer


# ---- asked a second time


def asked_twice(audited: bool = False) -> Review:
    """Ada has said bicycle, and another reviewer is asked too."""
    review = rules.claim(asked(audited=audited), "Ada", NOON)
    return rules.answer(review, "bicycle", "Ada", LABELS, NOON, twice=True)


def test_the_second_answer_stands_beside_the_first_and_changes_nothing_else() -> None:
    first = asked_twice()
    second = rules.answer(rules.claim(first, "Grace", NOON), "motorcycle", "Grace", LABELS, NOON + 2 * SECOND)
    assert second.second
    assert (second.second.reviewer, second.second.label, second.second.seconds_taken) == ("Grace", "motorcycle", 2.0)
    assert (first.queue, second.queue, second.claim) == ("second", None, None)
    assert second.model_copy(update={"second": None}) == first
    assert second.outcome.answer == first.answer
    assert second.outcome.second == second.second


@pytest.mark.parametrize("reviewer", ["Ada", "ada", "ADA"])
def test_nobody_is_shown_a_second_time_what_they_have_answered(reviewer: str) -> None:
    with pytest.raises(Refused, match="has been answered"):
        rules.claim(asked_twice(), reviewer, NOON)


def test_the_second_reviewer_sees_an_audit_whatever_the_first_one_saw() -> None:
    assert [rules.why_shown(asked_twice(audited)) for audited in (True, False)] == ["audit", "audit"]
    second = rules.answer(rules.claim(asked_twice(), "Grace", NOON), "neither", "Grace", LABELS, NOON).second
    assert second
    assert second.shown.explanation == rules.QUESTION


def test_the_same_second_answer_sent_again_changes_nothing_and_a_third_one_is_refused() -> None:
    review = rules.answer(rules.claim(asked_twice(), "Grace", NOON), "neither", "Grace", LABELS, NOON)
    for reviewer, label in (("Grace", "neither"), ("Ada", "bicycle")):
        assert rules.answer(review, label, reviewer, LABELS, NOON + SECOND) is review
    for reviewer, label in (("Grace", "bicycle"), ("Ada", "neither"), ("Alan", "neither")):
        with pytest.raises(Refused, match="counts"):
            rules.answer(review, label, reviewer, LABELS, NOON)


def test_a_reviewer_who_still_has_the_first_question_in_front_of_them_gives_no_second_answer() -> None:
    """They saw what the model said, and have not been asked again."""
    review = rules.claim(rules.claim(asked(), "Grace", NOON - CLAIM), "Ada", NOON)
    review = rules.answer(review, "bicycle", "Ada", LABELS, NOON, twice=True)
    with pytest.raises(Refused, match="counts"):
        rules.answer(review, "motorcycle", "Grace", LABELS, NOON)


def test_a_second_question_can_be_skipped_and_goes_behind_the_other_second_ones() -> None:
    review = asked_twice()
    skipped = rules.skip(rules.claim(review, "Grace", NOON), "Grace", NOON + SECOND)
    assert skipped.claim is None
    assert (skipped.place or "") > (review.place or "")
    assert skipped.queue == "second"


def test_a_photo_that_was_skipped_before_its_first_answer_is_not_behind_the_other_second_ones() -> None:
    review = rules.skip(rules.claim(asked(), "Grace", NOON), "Grace", NOON + CLAIM)
    review = rules.answer(rules.claim(review, "Ada", NOON), "bicycle", "Ada", LABELS, NOON, twice=True)
    assert review.place == asked_twice().place


def test_an_answered_review_of_before_second_questions_is_read_as_one_that_nobody_is_asked_about() -> None:
    new = {"second_asked_at", "second", "golden", "task_token"}
    old = Review.model_validate(answered().model_dump(exclude=new))
    assert old == answered().model_copy(update={"task_token": None})
    assert old.queue is None


def test_who_has_answered_is_checked_once_by_a_golden_photo() -> None:
    review = rules.check(answered(), "motorcycle", "Ada", LABELS, "bicycle/a.jpg", "bicycle", NOON)
    assert review.golden
    assert (review.golden.label, review.golden.expected) == ("motorcycle", "bicycle")
    assert review.outcome.golden == review.golden
    assert rules.check(review, "bicycle", "Ada", LABELS, "bicycle/a.jpg", "bicycle", NOON) is review


def test_nobody_else_is_checked_by_it() -> None:
    for review, reviewer in ((answered(), "Grace"), (asked(), "Ada")):
        assert rules.check(review, "bicycle", reviewer, LABELS, "bicycle/a.jpg", "bicycle", NOON) is review
    with pytest.raises(Refused, match="not one of the answers"):
        rules.check(answered(), "cow", "Ada", LABELS, "bicycle/a.jpg", "bicycle", NOON)


DEEDS = st.tuples(
    st.sampled_from(["claim", "claim", "answer", "answer", "skip", "check", "give up", "forget token"]),
    st.sampled_from(["Ada", "Grace", "Alan"]),
    st.sampled_from(["bicycle", "motorcycle", "cannot_tell"]),
    st.sampled_from([SECOND, CLAIM / 2, 2 * CLAIM]),
)


@given(deeds=st.lists(DEEDS, max_size=40), twice=st.booleans())
def test_whatever_comes_in_whatever_order_no_answer_is_lost_and_nobody_answers_twice(
    deeds: list[tuple[str, str, str, timedelta]], twice: bool
) -> None:
    review, now = asked(), NOON
    for deed, reviewer, label, pause in deeds:
        before, now = review, now + pause
        try:
            match deed:
                case "claim":
                    review = rules.claim(review, reviewer, now)
                case "answer":
                    review = rules.answer(review, label, reviewer, LABELS, now, twice)
                    assert rules.answer(review, label, reviewer, LABELS, now + SECOND, twice) is review  # sent again
                    assert reviewer in {given.reviewer for given in (review.answer, review.second) if given}
                case "skip":
                    review = rules.skip(review, reviewer, now)
                case "check":
                    review = rules.check(review, label, reviewer, LABELS, "bicycle/a.jpg", "bicycle", now)
                case "give up":
                    review = rules.give_up(review)
                case _:
                    review = rules.forget_token(review)
        except Refused:
            continue
        for kept in ("answer", "second", "golden"):
            assert getattr(before, kept) in (None, getattr(review, kept))
        assert (review.status is ReviewStatus.ANSWERED) == (review.answer is not None)
        if review.second:
            assert twice
            assert review.answer
            assert review.answer.reviewer != review.second.reviewer
        waits = "open" if review.answer is None else "second" if twice and review.second is None else None
        assert review.queue == waits
        assert (review.place is None) == (waits is None)
        assert Review.model_validate(review.model_dump(mode="json")).outcome == review.outcome


END = int((NOON + timedelta(days=30)).timestamp())


@pytest.mark.parametrize(
    ("status", "ends"),
    [
        (ReviewStatus.WAITING, None),
        (ReviewStatus.ESCALATED, None),
        (ReviewStatus.UNANSWERED, END),
        (ReviewStatus.ANSWERED, END),
    ],
)
def test_a_review_expires_only_when_no_execution_waits_for_it(status: ReviewStatus, ends: int | None) -> None:
    assert asked().model_copy(update={"keep_until": END, "status": status}).expires_at == ends
    assert asked().model_copy(update={"status": status}).expires_at is None


def test_a_review_does_not_expire_under_the_reviewer_who_is_shown_it() -> None:
    late = asked().model_copy(update={"keep_until": END, "status": ReviewStatus.UNANSWERED})
    shown = rules.claim(late, "Ada", NOON + timedelta(days=30) - SECOND)
    assert shown.expires_at == END - 1 + CLAIM.total_seconds()


@pytest.mark.parametrize("number", [1, 2, 9, 10, 28, 29, 40, 81, 82, 100, 315, 316, 1000])
def test_every_label_has_keys_that_can_be_pressed_and_none_begins_with_another(number: int) -> None:
    keys = rules.keys(number)
    assert len(set(keys)) == number
    assert len({len(key) for key in keys}) == 1
    assert {key[0] for key in keys} <= set("123456789abdefghijklmoptvwxy")
    assert {letter for key in keys for letter in key} <= set("123456789abcdefghijklmnopqrstuvwxyz")
    assert len(keys[0]) <= (1 if number <= 28 else 2 if number <= 315 else 3)


def test_the_photo_that_is_shown_next_is_left_to_others_only_when_nothing_else_waits() -> None:
    ahead = rules.claim(asked(), "Ada", NOON, ahead=True)
    with pytest.raises(Refused, match="Somebody else"):
        rules.claim(ahead, "Grace", NOON)
    taken = rules.claim(ahead, "Grace", NOON, take=True)
    assert taken.claim
    assert taken.claim.by == "Grace"
    with pytest.raises(Refused, match="Somebody else"):
        rules.claim(taken, "Ada", NOON, take=True)


def test_the_time_that_an_answer_took_begins_when_the_photo_is_on_the_page() -> None:
    ahead = rules.claim(asked(), "Ada", NOON, ahead=True)
    shown = rules.claim(ahead, "Ada", NOON + 10 * SECOND)
    given = rules.answer(shown, "bicycle", "Ada", LABELS, NOON + 13 * SECOND).answer
    assert given
    assert given.seconds_taken == 3.0


def test_who_leaves_a_photo_lets_others_have_it_and_nobody_elses() -> None:
    review = rules.claim(asked(), "Ada", NOON)
    assert rules.release(review, "Ada").claim is None
    assert rules.release(review, "Grace") is review
