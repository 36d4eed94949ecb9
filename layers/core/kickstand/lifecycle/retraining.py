"""When to train again: a degraded model, enough new labels, a long time, or a person who asks. Rules only."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from pydantic import AliasChoices, AliasPath, Field

from kickstand.events import Payload


class Trigger(StrEnum):
    """What asks for training."""

    DEGRADED = "degraded"
    SCHEDULE = "schedule"
    PERSON = "person"


class Request(Payload):
    """What the function is called with: EventBridge's "Model Degraded" or "Scheduled Event", or {"reason": why}.

    algorithm: "kickstand", or "image-classification" for SageMaker's built-in one.
    """

    kind: str = Field("", validation_alias="detail-type")
    reason: str = Field(
        "a person asked for it", validation_alias=AliasChoices(AliasPath("detail", "reason"), AliasPath("reason"))
    )
    algorithm: str = Field("kickstand", pattern="^(kickstand|image-classification)$")

    @property
    def trigger(self) -> Trigger:
        kinds = {"Model Degraded": Trigger.DEGRADED, "Scheduled Event": Trigger.SCHEDULE}
        return kinds.get(self.kind, Trigger.PERSON)


class LastTraining(Payload):
    """The item "training" of the table of controls: the training that was started last, and what came of the one that
    ended last.

    requested_at: when it was claimed; the claim is written before the execution is started.
    """

    requested_at: datetime
    execution: str
    reason: str
    algorithm: str
    result: str | None = None
    outcome: str | None = None


class Limits(NamedTuple):
    """at_most_every: the least time between two automatic trainings. after_labels: so many new answers start one, 0
    for never. at_least_every: so much time starts one, None for never."""

    at_most_every: timedelta
    after_labels: int
    at_least_every: timedelta | None


class Choice(NamedTuple):
    """Whether to train, and why or why not."""

    train: bool
    reason: str


def choose(
    request: Request, last: LastTraining | None, running: bool, new_labels: int, limits: Limits, now: datetime
) -> Choice:
    """Whether to train now. running: the last training has not ended. new_labels: answers since it was requested."""
    if running:
        return Choice(False, "a training is under way")
    rested = last is None or now - last.requested_at >= limits.at_most_every
    match request.trigger:
        case Trigger.PERSON:
            return Choice(True, request.reason)
        case Trigger.DEGRADED if rested:
            return Choice(True, f"the model is degraded: {request.reason}")
        case Trigger.SCHEDULE if rested and limits.after_labels and new_labels >= limits.after_labels:
            return Choice(True, f"{new_labels} images have been labelled since the last training")
        case Trigger.SCHEDULE if limits.at_least_every and last and now - last.requested_at >= limits.at_least_every:
            return Choice(True, f"the last training is {(now - last.requested_at).days} days old")
        case Trigger.SCHEDULE if rested:
            return Choice(False, f"{new_labels} new labels, fewer than {limits.after_labels or 'any number'}")
    days = limits.at_most_every.total_seconds() / 86400
    return Choice(False, f"the last training was requested less than {days:g} days ago")


def name_execution(now: datetime) -> str:
    """Of the execution that is started then; two within a second are two.

    >>> name_execution(datetime(2027, 1, 2, 3, 4, 5, 6))
    '20270102T030405000006'
    """
    return now.strftime("%Y%m%dT%H%M%S%f")
