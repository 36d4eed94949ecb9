"""When to train again: a degraded model, enough new labels, a long time, or a person who asks. Rules only."""

import math
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal, NamedTuple

from pydantic import AliasChoices, AliasPath, Field

from kickstand.events import Moment, Payload
from kickstand.settings import Settings

Algorithm = Literal["kickstand", "image-classification"]
"""What trains: Kickstand's own code, or SageMaker's built-in algorithm."""


class Trigger(StrEnum):
    """What asks for training."""

    DEGRADED = "degraded"
    SCHEDULE = "schedule"
    PERSON = "person"


class Request(Payload):
    """What the function is called with: EventBridge's "Model Degraded" or "Scheduled Event", or {"reason": why}."""

    kind: str = Field("", validation_alias="detail-type")
    reason: str = Field(
        "a person asked for it", validation_alias=AliasChoices(AliasPath("detail", "reason"), AliasPath("reason"))
    )
    algorithm: Algorithm = "kickstand"

    @property
    def trigger(self) -> Trigger:
        kinds = {"Model Degraded": Trigger.DEGRADED, "Scheduled Event": Trigger.SCHEDULE}
        return kinds.get(self.kind, Trigger.PERSON)


class LastTraining(Payload):
    """The item "training" of the table of controls: the training that was started last, and what came of the one that
    ended last.

    requested_at: when it was claimed; the claim is written before the execution is started.
    answers: how many answers of people had been counted then.
    """

    requested_at: Moment
    execution: str
    reason: str
    algorithm: str
    answers: int = 0
    result: str | None = None
    outcome: str | None = None


class RequestTrainingSettings(Settings):
    """What the function that requests a training reads from its environment.

    train_model: ARN of the state machine.
    retrain_at_most_every: the least days between two automatic trainings.
    retrain_at_least_every: so many days start one, 0 for never.
    retrain_after_labels: so many new answers start one, 0 for never.
    """

    train_model: str
    control_table: str
    retrain_at_most_every: float = Field(ge=0)
    retrain_at_least_every: float = Field(ge=0)
    retrain_after_labels: int = Field(ge=0)


class Choice(NamedTuple):
    """Whether to train, and why or why not."""

    train: bool
    reason: str


def choose(
    request: Request,
    last: LastTraining | None,
    running: bool,
    new_labels: int,
    settings: RequestTrainingSettings,
    now: datetime,
) -> Choice:
    """Whether to train now. running: the last training has not ended. new_labels: answers since it was requested."""
    if running:
        return Choice(False, "a training is under way")
    days = (now - last.requested_at) / timedelta(days=1) if last else math.inf
    rested = days >= settings.retrain_at_most_every
    enough = settings.retrain_after_labels
    match request.trigger:
        case Trigger.PERSON:
            return Choice(True, request.reason)
        case Trigger.DEGRADED if rested:
            return Choice(True, f"the model is degraded: {request.reason}")
        case Trigger.SCHEDULE if rested and enough and new_labels >= enough:
            return Choice(True, f"{new_labels} images have been labelled since the last training")
        case Trigger.SCHEDULE if last and 0 < settings.retrain_at_least_every <= days:
            return Choice(True, f"the last training is {int(days)} days old")
        case Trigger.SCHEDULE if rested:
            return Choice(False, f"{new_labels} new labels, fewer than {enough or 'any number'}")
    return Choice(False, f"the last training was requested less than {settings.retrain_at_most_every:g} days ago")


def name_execution(now: datetime) -> str:
    """Of the execution that is started then; two within a second are two.

    >>> name_execution(datetime(2027, 1, 2, 3, 4, 5, 6))
    '20270102T030405000006'
    """
    return now.strftime("%Y%m%dT%H%M%S%f")
