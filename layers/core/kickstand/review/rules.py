"""Rules of review: who sees which photo, and what happens with their answer. The caller passes the time."""

import math
import unicodedata
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import islice, product
from typing import Annotated, Any

from pydantic import AfterValidator, AliasChoices, AliasPath, ConfigDict, Field, SecretStr

from kickstand.errors import AlreadyAnswered, AlreadyAsked
from kickstand.events import (
    NEITHER,
    Answer,
    GoldenAnswer,
    ImageRef,
    Moment,
    OfUpload,
    Payload,
    Probability,
    ReviewOutcome,
    ReviewStatus,
    Route,
    Shown,
)
from kickstand.records import Record

CLAIM = timedelta(minutes=5)
UNDO = timedelta(seconds=90)
"""How long a reviewer can undo an answer. The monitor counts no answer earlier (see its LAG_SECONDS)."""
CANNOT_TELL = "cannot_tell"
AUDIT = "audit"
QUESTION = "What does this photo show?"
"""The only text beside a photo: the prediction is hidden, to avoid biasing the estimate."""
OPEN, SECOND = "open", "second"
"""Queues: of reviews that wait for an answer, and of answered ones that wait for a second answer."""
GROUPS = (0, 1, 2)
"""Open reviews in the order in which they are shown: those that decide about a photo, audits, skipped ones."""


class Refused(Exception):  # noqa: N818 - not an error of the system
    """A reviewer's request is not possible; the message is for them."""


class UnreadableReview(Refused):
    """The review's item is damaged, or was written by a newer version."""


class Claim(Payload):
    """A photo that a reviewer sees. since: when it was first shown; until: reserved for them until then.

    ahead: they see it next, so it is reserved only while other photos wait.
    """

    by: str = Field(repr=False)
    since: Moment
    until: Moment
    ahead: bool = False


class Review(OfUpload):
    """One question to a person: what does this photo show?

    image, version: the table's key, and the record's.
    why: "audit", or the reason of the decision to ask.
    route: of the photo, until the answer.
    execution: ARN of the execution that asks.
    task_token: resumes that execution. Anybody with the token could answer, so only Step Functions receives it: it is
        not in `model_dump`, not in `repr`, and no function returns it.
    skipped_at: when a reviewer skipped it.
    answer: the first one; it decides.
    second_asked_at: when the question to a second reviewer began, who does not see the first answer.
    second, golden: see `ReviewOutcome`.
    undone_at: time of the last undone answer; the record may still hold that answer.
    keep_until: as in `Record`.
    revision: counts changes, so that concurrent changes are noticed.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    image_ref: ImageRef
    why: str
    route: Route
    explanation: str
    audit_probability: Probability
    status: ReviewStatus = ReviewStatus.WAITING
    requested_at: Moment
    execution: str
    task_token: SecretStr | None = Field(None, exclude=True, repr=False)
    claim: Claim | None = None
    skipped_at: Moment | None = None
    answer: Answer | None = None
    second_asked_at: Moment | None = None
    second: Answer | None = None
    golden: GoldenAnswer | None = None
    undone_at: Moment | None = None
    keep_until: int | None = None
    revision: int = 0

    @property
    def expires_at(self) -> int | None:
        """When the table can delete it, seconds since 1970; None while an execution waits for the answer.

        It does not expire while a reviewer sees the photo.
        """
        if self.keep_until is None or self.status in (ReviewStatus.WAITING, ReviewStatus.ESCALATED):
            return None
        return max(self.keep_until, int(self.claim.until.timestamp()) if self.claim else 0)

    @property
    def outcome(self) -> ReviewOutcome:
        """The outcome for the record."""
        return ReviewOutcome(
            status=self.status,
            why=self.why,
            requested_at=self.requested_at,
            answer=self.answer,
            second=self.second,
            golden=self.golden,
        )

    @property
    def queue(self) -> str | None:
        """The queue in which it waits; None if it does not wait."""
        if self.status is not ReviewStatus.ANSWERED:
            return OPEN
        return SECOND if self.second_asked_at and self.second is None else None

    @property
    def place(self) -> str | None:
        """Its place in the queue, in text order: unsure before audits, old before new, skipped ones last.

        For a second question it ends in the first reviewer, so that their own are skipped without reading them.
        """
        if self.queue is None:
            return None
        if self.answer and self.second_asked_at:
            return (
                f"{(self.skipped_at or self.second_asked_at).isoformat(timespec='microseconds')}#{self.answer.reviewer}"
            )
        first, audits, skipped = GROUPS
        group = skipped if self.skipped_at else audits if self.why == AUDIT else first
        return f"{group}#{(self.skipped_at or self.requested_at).isoformat(timespec='microseconds')}"


def choices(labels: Sequence[str]) -> tuple[str, ...]:
    """The possible answers.

    >>> choices(["bicycle", "motorcycle"])
    ('bicycle', 'motorcycle', 'neither', 'cannot_tell')
    """
    return (*labels, NEITHER, CANNOT_TELL)


def count_done(desk: "Desk", changed: bool, labels: Sequence[str]) -> dict[str, int]:
    """The number of answers on this page, by label; with the one just given, or without the one just undone.

    >>> count_done(Desk(action="answer", label="bicycle", done={"bicycle": 1, "neither": 2}), True, ["bicycle"])
    {'bicycle': 2, 'neither': 2}
    >>> count_done(Desk(action="undo", given="bicycle", done={"bicycle": 1, "neither": 2}), True, ["bicycle"])
    {'neither': 2}
    """
    step = {"answer": 1, "check": 1, "undo": -1}.get(desk.action, 0) if changed else 0
    label = desk.given if desk.action == "undo" else desk.label
    counts = {**desk.done, label: desk.done.get(label, 0) + step} if step else desk.done
    return {label: counts[label] for label in choices(labels) if counts.get(label, 0) > 0}


def keys(n: int) -> tuple[str, ...]:
    """The keys for n classes: one each for up to 28, otherwise codes of equal length, none a prefix of another.

    A code begins with a digit. The letters of the other commands, "cnqrsuz", are not used.

    >>> keys(2)
    ('1', '2')
    >>> keys(12)[8:]
    ('9', 'a', 'b', 'd')
    >>> keys(40)[8:11]
    ('19', '21', '22')
    >>> keys(100)[-1]
    '94'
    """
    digits, letters = "123456789", "abcdefghijklmnopqrstuvwxyz"
    single = digits + "".join(letter for letter in letters if letter not in "cnqrsuz")
    if n <= len(single):
        return tuple(single[:n])
    later = (digits + letters)[: max(9, math.ceil(n / 9))]
    length = 1
    while len(digits) * len(later) ** length < n:
        length += 1
    return tuple("".join(code) for code in islice(product(digits, *[later] * length), n))


def open_review(record: Record, execution: str, task_token: SecretStr | None, now: datetime) -> Review:
    """The review of this record."""
    audited = record.audited
    return Review(
        image=record.image,
        version=record.version,
        image_ref=record.image_ref,
        why=AUDIT if audited else record.decision.reason,
        route=record.decision.route,
        explanation=QUESTION if audited else record.decision.explanation,
        audit_probability=1.0 if record.audit_probability is None else record.audit_probability,
        requested_at=now,
        keep_until=record.keep_until,
        execution=execution,
        task_token=task_token,
    )


def ask(review: Review, execution: str, task_token: SecretStr, status: ReviewStatus) -> Review:
    """The execution asks again, after a retry or because nobody answered; only the new token can resume it.

    Raises AlreadyAsked if another execution asks, AlreadyAnswered if there is an answer for this one.
    """
    if review.execution != execution:
        raise AlreadyAsked(f"{review.image} {review.version}: {review.execution} asks")
    if review.status is ReviewStatus.ANSWERED:
        raise AlreadyAnswered(f"{review.image} {review.version}")
    return review.model_copy(update={"task_token": task_token, "status": status})


def claim(review: Review, reviewer: str, now: datetime, ahead: bool = False, take: bool = False) -> Review:
    """The reviewer sees the photo, or will see it next (ahead).

    take: even if another reviewer will see it next.

    Raises Refused while somebody else sees it, and once it is answered. Nobody gets a second question about their own
    answer.
    """
    held = review.claim if review.claim and review.claim.until > now else None
    if not reviewer:
        raise Refused("To see a photo, a reviewer needs a name.")
    if review.queue is None or (review.answer and is_same(review.answer.reviewer, reviewer)):
        raise Refused("This photo has been answered.")
    if held and held.by != reviewer and not (take and held.ahead):
        raise Refused("Somebody else is looking at this photo.")
    shown_already = held is not None and held.by == reviewer and not held.ahead
    since = held.since if held and shown_already else now
    mine = Claim(by=reviewer, since=since, until=now + CLAIM, ahead=ahead and not shown_already)
    return review.model_copy(update={"claim": mine})


def release(review: Review, reviewer: str) -> Review:
    """The reviewer no longer sees the photo."""
    mine = review.claim and review.claim.by == reviewer
    return review.model_copy(update={"claim": None}) if mine else review


def skip(review: Review, reviewer: str, now: datetime) -> Review:
    """The reviewer skips the photo: it goes to the end of the queue."""
    if review.claim is None or review.claim.by != reviewer or review.queue is None:
        return review
    return review.model_copy(update={"claim": None, "skipped_at": now})


def answer(
    review: Review, label: str, reviewer: str, labels: Sequence[str], now: datetime, twice: bool = False
) -> Review:
    """The reviewer answers. The same answer by the same reviewer again, after a lost connection, changes nothing.

    twice: whether to ask a second reviewer after the first answer.

    Raises Refused unless the reviewer sees the photo, and the answer is one of the choices.
    """
    if label not in choices(labels):
        raise Refused(f"“{label}” is not one of the answers.")
    if not reviewer:
        raise Refused("An answer needs the reviewer’s name.")
    if any(given and (given.reviewer, given.label) == (reviewer, label) for given in (review.answer, review.second)):
        return review
    held = review.claim if review.claim and review.claim.by == reviewer else None
    if review.answer and (review.queue is None or held is None):
        raise Refused("Somebody answered this photo before you; their answer counts.")
    if held is None:
        raise Refused("This photo went to somebody else, because it was open for too long; your answer was not saved.")
    given = Answer(
        label=label,
        reviewer=reviewer,
        answered_at=now,
        seconds_taken=max(0.0, round((now - held.since).total_seconds(), 1)),
        shown=Shown(explanation=QUESTION, choices=choices(labels)),
        late=review.status is ReviewStatus.UNANSWERED and review.undone_at is None,
    )
    if review.answer:
        return review.model_copy(update={"claim": None, "second": given})
    first = {"status": ReviewStatus.ANSWERED, "claim": None, "answer": given}
    return review.model_copy(update=first | ({"second_asked_at": now, "skipped_at": None} if twice else {}))


def why_shown(review: Review) -> str:
    """The reason as the reviewer sees it: a second question is shown as an audit."""
    return review.why if review.answer is None else AUDIT


def check(
    review: Review, label: str, reviewer: str, labels: Sequence[str], photo: str, expected: str, now: datetime
) -> Review:
    """The answer about the golden photo that followed the reviewer's answer. Repeating it changes nothing.

    Raises Refused unless it is one of the choices.
    """
    if label not in choices(labels):
        raise Refused(f"“{label}” is not one of the answers.")
    if review.golden or review.answer is None or review.answer.reviewer != reviewer:
        return review
    golden = GoldenAnswer(photo=photo, expected=expected, label=label, answered_at=now)
    return review.model_copy(update={"golden": golden})


def undo(review: Review, reviewer: str, golden: bool, now: datetime) -> Review:
    """The reviewer undoes their last answer about this photo, or (golden) about the golden photo after it.

    The photo waits for an answer again, and this reviewer sees it first. No execution waits for it any more. Repeating
    it changes nothing. Raises Refused for an answer of somebody else or older than UNDO, and while somebody else sees
    the photo.
    """
    held = review.claim if review.claim and review.claim.until > now else None
    first, second = review.answer, review.second
    if (golden and not review.golden) or (held and held.by == reviewer and review.undone_at and review.queue):
        return review
    mine = Claim(by=reviewer, since=now, until=now + CLAIM)
    given: Answer | GoldenAnswer | None
    before: dict[str, Any]
    if first and first.reviewer == reviewer and review.golden:
        given, before = review.golden, {"golden": None}
    elif second:
        given, before = second if second.reviewer == reviewer else None, {"second": None, "claim": mine}
    else:
        given = first if first and first.reviewer == reviewer else None
        before = {"answer": None, "second_asked_at": None, "claim": mine}
        before |= {"status": ReviewStatus.UNANSWERED, "task_token": None}
    if given is None:
        raise Refused("You have no answer to undo; somebody else’s answer counts.")
    if now - given.answered_at > UNDO:
        raise Refused(f"An answer can be undone for {UNDO.seconds} seconds; your answer counts.")
    if held and "claim" in before:
        raise Refused("Somebody else is looking at this photo; your answer counts.")
    return review.model_copy(update={**before, "undone_at": given.answered_at})


def is_same(reviewer: str, other: str) -> bool:
    """Whether two names belong to one reviewer.

    >>> is_same("Ada", "ada")
    True
    """
    return reviewer.casefold() == other.casefold()


def give_up(review: Review) -> Review:
    """Nobody answered in time. The review stays open, and an answer at the last moment counts."""
    if review.status is ReviewStatus.ANSWERED:
        return review
    return review.model_copy(update={"status": ReviewStatus.UNANSWERED, "task_token": None})


def forget_token(review: Review) -> Review:
    """The execution has the answer, so its token is removed."""
    return review.model_copy(update={"task_token": None}) if review.task_token else review


def restore(record: Record, standing: Review | None = None) -> Review:
    """The review with the answer of its record; unchanged if it has that answer.

    standing: the present review, if any: an execution may wait for its token. Raises ValueError without an answer.
    """
    outcome = record.review
    if outcome is None or outcome.answer is None:
        raise ValueError(f"{record.image} {record.version}: its record has no answer")
    if standing and standing.answer == outcome.answer:
        return standing
    review = standing or open_review(record, record.execution, None, outcome.requested_at)
    told = {"status": outcome.status, "answer": outcome.answer, "second": outcome.second, "golden": outcome.golden}
    return review.model_copy(update=told | {"claim": None, "skipped_at": None, "second_asked_at": None})


def _as_name(text: str) -> str:
    """One line of at most 80 characters; of two spellings that look the same, only one exists.

    >>> _as_name(" Jose\u0301\u200b  Ruiz ") == "Jos\u00e9 Ruiz"
    True
    """
    seen = "".join(sign for sign in unicodedata.normalize("NFC", text) if sign.isprintable() or sign.isspace())
    return " ".join(seen.split())[:80]


class RecordKey(Payload):
    """The record's key in the table."""

    image: str = Field(min_length=1)
    version: str = Field(min_length=1)


class Asking(Payload):
    """The input of the state "Ask a Person". again: whether the first wait is over.

    record: only the key is used from the event "Review Requested". Anybody who can publish events could forge the rest:
        another photo, another decision.
    """

    model_config = ConfigDict(hide_input_in_errors=True)  # never show the token, not even in an error

    record: RecordKey
    execution: str
    task_token: SecretStr = Field(min_length=1)
    again: bool


class Closing(OfUpload):
    """The input of the state "Record Review". answered: False if the last wait is over."""

    answered: bool


class Desk(Payload):
    """A reviewer's request: an event of CloudWatch's custom widgets, with the parameters of the page's buttons.

    reviewer: their name: from the page's form, or from a button, or the widget's parameter.
    describe: CloudWatch requests the widget's description.
    action: "show", "answer" (with image, version and label), "check" (the same, about the golden photo that was shown
        after the answer to this photo), "undo" (with image and version of the last answer, its label as given, and
        golden, whether it was about a golden photo), "skip" or "leave" (with image and version), or "zoom" (the
        same): a larger version of the photo.
    golden: zoom into the golden photo, or undo the answer about it.
    reason: show only photos with this reason.
    ahead: send the photo that the page shows next. on_page, on_page_version: the one that it shows now.
    former: the reviewer who leaves.
    draw: False after a failure, so that a photo that cannot be decoded does not block the others.
    done: numbers of answers on this page so far, by label; only for display.
    format: "html" or "json".

    Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/add_custom_widget_dashboard_about.html
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    describe: bool = False
    action: str = "show"
    reviewer: Annotated[str, AfterValidator(_as_name)] = Field(
        "",
        repr=False,
        validation_alias=AliasChoices(AliasPath("widgetContext", "forms", "all", "reviewer"), AliasPath("reviewer")),
    )
    image: str = ""
    version: str = ""
    label: str = ""
    given: str = ""
    golden: bool = False
    reason: str = ""
    ahead: bool = False
    former: str = Field("", repr=False)
    on_page: str = ""
    on_page_version: str = ""
    draw: bool = True
    done: dict[str, Annotated[int, Field(ge=0, le=1_000_000)]] = Field({}, max_length=1_000)
    format: str = "html"
    theme: str = Field("light", validation_alias=AliasPath("widgetContext", "theme"))
