"""A person's part: who is shown which picture, and what becomes of their answer. Rules only; the time is passed in."""

import math
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
"""So long after an answer its reviewer may take it back. The monitor counts no answer before (see its LAG_SECONDS)."""
CANNOT_TELL = "cannot_tell"
AUDIT = "audit"
QUESTION = "What does this photo show?"
"""All that is said beside a photo: a reviewer who knows what the model said tends to agree with it."""
OPEN, SECOND = "open", "second"
"""Queues: of the reviews that wait for an answer, and of the answered ones that another reviewer is asked about."""
GROUPS = (0, 1, 2)
"""Open reviews in the order in which they are shown: those that decide about an image, audits, skipped ones."""


class Refused(Exception):  # noqa: N818 - as the reviewer reads it
    """What a reviewer asked for is not possible; the message is for them."""


class Claim(Payload):
    """A photo in front of somebody. since: when they were first shown it; until: others leave it alone until then.

    ahead: it is the one that they are shown next, so others leave it alone only while other photos wait.
    """

    by: str = Field(repr=False)
    since: Moment
    until: Moment
    ahead: bool = False


class Review(Payload):
    """One question to a person: what does this image show?

    image, version: the table's key, and the record's.
    why: "audit", or the reason of the decision to ask.
    route: what the workflow did with the image meanwhile.
    execution: ARN of the execution that asks.
    task_token: what wakes that execution. Whoever has it can answer, so it leaves the table only towards Step
        Functions: it is not in `model_dump`, not in `repr`, and no function returns it.
    skipped_at: somebody preferred another photo then.
    answer: the first one; it decides.
    second_asked_at: since when another reviewer is asked too, who is told nothing of the first answer.
    second, golden: see `ReviewOutcome`.
    undone_at: when the answer was given that was taken back last; a record may still tell of it.
    keep_until: as in `Record`.
    revision: counts changes, so that two who change one review at a time notice it.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    image: str
    version: str
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
        """When the table may delete it, seconds since 1970; None while an execution waits for the answer.

        Nothing expires under the reviewer who is shown the photo.
        """
        if self.keep_until is None or self.status in (ReviewStatus.WAITING, ReviewStatus.ESCALATED):
            return None
        return max(self.keep_until, int(self.claim.until.timestamp()) if self.claim else 0)

    @property
    def outcome(self) -> ReviewOutcome:
        """What the record is to tell of it."""
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
        """Where it waits; None once nobody is asked any more."""
        if self.status is not ReviewStatus.ANSWERED:
            return OPEN
        return SECOND if self.second_asked_at and self.second is None else None

    @property
    def place(self) -> str | None:
        """Its place in its queue, in text order: unsure before audits, old before new, skipped ones last.

        Among second questions it ends in who gave the first answer, so that theirs are passed over unread.
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
    """What a person may answer.

    >>> choices(["bicycle", "motorcycle"])
    ('bicycle', 'motorcycle', 'neither', 'cannot_tell')
    """
    return (*labels, NEITHER, CANNOT_TELL)


def keys(n: int) -> tuple[str, ...]:
    """The keys for n labels: one each for 28, else codes of equal length, so that none is the beginning of another.

    A code begins with a digit. The letters of all that is not a label, "cnqrsuz", are no label's.

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
    """The question that this record asks."""
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
    """The execution asks again, after a retry or because nobody came, and can be woken by the new token only.

    Raises AlreadyAsked when another execution asks, AlreadyAnswered when there is an answer for this one.
    """
    if review.execution != execution:
        raise AlreadyAsked(f"{review.image} {review.version}: {review.execution} asks")
    if review.status is ReviewStatus.ANSWERED:
        raise AlreadyAnswered(f"{review.image} {review.version}")
    return review.model_copy(update={"task_token": task_token, "status": status})


def claim(review: Review, reviewer: str, now: datetime, ahead: bool = False, take: bool = False) -> Review:
    """The reviewer is shown the photo, or will be next (ahead).

    take: even if it is the one that another reviewer is shown next.

    Raises Refused while somebody else is shown it, and once it is answered. Nobody is shown a second question about
    what they have answered.
    """
    held = review.claim if review.claim and review.claim.until > now else None
    if review.queue is None or (review.answer and is_same(review.answer.reviewer, reviewer)):
        raise Refused("This photo has been answered.")
    if held and held.by != reviewer and not (take and held.ahead):
        raise Refused("Somebody else is looking at this photo.")
    shown_already = held is not None and held.by == reviewer and not held.ahead
    since = held.since if held and shown_already else now
    mine = Claim(by=reviewer, since=since, until=now + CLAIM, ahead=ahead and not shown_already)
    return review.model_copy(update={"claim": mine})


def release(review: Review, reviewer: str) -> Review:
    """The reviewer no longer holds it."""
    mine = review.claim and review.claim.by == reviewer
    return review.model_copy(update={"claim": None}) if mine else review


def skip(review: Review, reviewer: str, now: datetime) -> Review:
    """The reviewer prefers another photo: this one goes to the end of the queue."""
    if review.claim is None or review.claim.by != reviewer or review.queue is None:
        return review
    return review.model_copy(update={"claim": None, "skipped_at": now})


def answer(
    review: Review, label: str, reviewer: str, labels: Sequence[str], now: datetime, twice: bool = False
) -> Review:
    """The reviewer's answer. The same answer by the same reviewer again, after a lost connection, changes nothing.

    twice: whether another reviewer is to be asked after the first answer.

    Raises Refused for any answer but that of the reviewer who is shown the photo, with one of the choices.
    """
    if label not in choices(labels):
        raise Refused(f"“{label}” is not one of the answers.")
    if any(given and (given.reviewer, given.label) == (reviewer, label) for given in (review.answer, review.second)):
        return review
    held = review.claim if review.claim and review.claim.by == reviewer else None
    if review.answer and (review.queue is None or held is None):
        raise Refused("Somebody has answered this photo before you; that answer stands.")
    if held is None:
        raise Refused("This photo went to somebody else, because you held it for long; your answer was not taken.")
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
    """The reason as a reviewer sees it: whatever is asked after the first answer looks like an audit."""
    return review.why if review.answer is None else AUDIT


def check(
    review: Review, label: str, reviewer: str, labels: Sequence[str], photo: str, expected: str, now: datetime
) -> Review:
    """The answer about the golden photo that followed the reviewer's answer to this review. Again changes nothing.

    Raises Refused for what is not one of the choices.
    """
    if label not in choices(labels):
        raise Refused(f"“{label}” is not one of the answers.")
    if review.golden or review.answer is None or review.answer.reviewer != reviewer:
        return review
    golden = GoldenAnswer(photo=photo, expected=expected, label=label, answered_at=now)
    return review.model_copy(update={"golden": golden})


def undo(review: Review, reviewer: str, now: datetime) -> Review:
    """The reviewer takes back what they answered last about this photo, or about the golden photo after it.

    The photo is asked again, of this reviewer first. No execution waits for it any more. Again changes nothing.

    Raises Refused for an answer that is not the reviewer's or older than UNDO, and while somebody else has the photo.
    """
    held = review.claim if review.claim and review.claim.until > now else None
    first, second = review.answer, review.second
    if held and held.by == reviewer and review.undone_at and review.queue:
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
        raise Refused("There is no answer of yours to undo; somebody else’s stands.")
    if now - given.answered_at > UNDO:
        raise Refused(f"An answer can be undone for {UNDO.seconds} seconds; yours stands.")
    if held and "claim" in before:
        raise Refused("Somebody else is looking at this photo; your answer stands.")
    return review.model_copy(update={**before, "undone_at": given.answered_at})


def is_same(reviewer: str, other: str) -> bool:
    """Whether two names are one reviewer's.

    >>> is_same("Ada", "ada")
    True
    """
    return reviewer.casefold() == other.casefold()


def give_up(review: Review) -> Review:
    """Nobody answered in time. The review stays open, and an answer that came in the last moment stands."""
    if review.status is ReviewStatus.ANSWERED:
        return review
    return review.model_copy(update={"status": ReviewStatus.UNANSWERED, "task_token": None})


def forget_token(review: Review) -> Review:
    """The execution has the answer: its token is of no more use."""
    return review.model_copy(update={"task_token": None}) if review.task_token else review


def restore(record: Record, standing: Review | None = None) -> Review:
    """The review with the answer of its record; unchanged where it has that answer.

    standing: what there is of it: an execution may still wait for its token. Raises ValueError where no answer is told.
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
    """One line of at most 80 characters."""
    return " ".join(text.split())[:80]


class RecordKey(Payload):
    """Which record: its key in the table."""

    image: str = Field(min_length=1)
    version: str = Field(min_length=1)


class Asking(Payload):
    """What review_image tells "Ask a Person". again: whether the first wait is over.

    record: of what the event "Review Requested" says the key alone is taken. Who may publish events could say anything
        else of it: another picture, another decision.
    """

    model_config = ConfigDict(hide_input_in_errors=True)  # of a token, not even in an error

    record: RecordKey
    execution: str
    task_token: SecretStr = Field(min_length=1)
    again: bool


class Closing(Payload):
    """What review_image tells "Record Review". answered: False when the last wait is over."""

    image: str
    version: str
    answered: bool


class Desk(Payload):
    """What a reviewer sends: an event of CloudWatch's custom widgets, with what our buttons add to it.

    reviewer: how they call themselves: typed into the page's form, else sent along by a button, else the widget's
        parameter.
    describe: CloudWatch asks what the widget is.
    action: "show", "answer" (with image, version and label), "check" (the same, about the golden photo that was shown
        after the answer to this image), "undo" (with image and version of what was answered last, and given, its
        label), "skip" or "leave" (with image and version), or "zoom" (the same): the photo, larger.
    golden: zoom into the golden photo.
    reason: show photos for this reason only.
    ahead: send the photo that the page shows next. on_page, on_page_version: the one that it shows already.
    former: who leaves.
    draw: False after a failure, so that a photo that cannot be drawn keeps nobody from the others.
    done: how many answers the page has given so far, by label; for the eye only.
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
