"""When to train again: for a degraded model, enough new labels, after a long time, or on request. Rules only."""

import math
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal, NamedTuple

from pydantic import AliasChoices, AliasPath, Field

from kickstand.events import Moment, Payload, ShortText
from kickstand.settings import Settings
from kickstand.text import counted

Algorithm = Literal["kickstand", "image-classification"]
"""The training code: Kickstand's own, or SageMaker's built-in algorithm."""


class Trigger(StrEnum):
    """The cause of a training."""

    DEGRADED = "degraded"
    SCHEDULE = "schedule"
    PERSON = "person"


class Request(Payload):
    """The function's event: EventBridge's "Model Degraded" or "Scheduled Event", or {"reason": why}."""

    kind: str = Field("", validation_alias="detail-type")
    reason: ShortText = Field(
        "a person's request", validation_alias=AliasChoices(AliasPath("detail", "reason"), AliasPath("reason"))
    )
    algorithm: Algorithm = "kickstand"

    @property
    def trigger(self) -> Trigger:
        kinds = {"Model Degraded": Trigger.DEGRADED, "Scheduled Event": Trigger.SCHEDULE}
        return kinds.get(self.kind, Trigger.PERSON)


class LastTraining(Payload):
    """The item "training" of the control table: the training that was started last, and the outcome of the one that
    ended last.

    requested_at: when it was claimed; the claim is written before the execution is started.
    answers: the number of people's answers counted then.
    """

    requested_at: Moment
    execution: str
    reason: ShortText
    algorithm: str
    answers: int = 0
    result: str | None = None
    outcome: str | None = None


class RequestTrainingSettings(Settings):
    """Settings of the function that requests a training.

    train_model: ARN of the state machine.
    retrain_at_most_every: shortest time between two automatic trainings, in days.
    retrain_at_least_every: longest time without a training, in days; 0 for no limit.
    retrain_after_labels: number of new answers that start a training; 0 for never.
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
        return Choice(False, "a training is in progress")
    days = (now - last.requested_at) / timedelta(days=1) if last else math.inf
    rested = days >= settings.retrain_at_most_every
    enough = settings.retrain_after_labels
    match request.trigger:
        case Trigger.PERSON:
            return Choice(True, request.reason)
        case Trigger.DEGRADED if rested:
            return Choice(True, f"the model is degraded: {request.reason}")
        case Trigger.SCHEDULE if rested and enough and new_labels >= enough:
            return Choice(True, f"{counted(new_labels, 'new label')} since the last training")
        case Trigger.SCHEDULE if last and 0 < settings.retrain_at_least_every <= days:
            return Choice(True, f"the last training is {counted(int(days), 'day')} old")
        case Trigger.SCHEDULE if rested:
            few = f"{counted(new_labels, 'new label')}, fewer than {enough}"
            return Choice(False, few if enough else "new labels start no training (RetrainAfterLabels=0)")
    return Choice(False, f"the last training was requested less than {settings.retrain_at_most_every:g} days ago")


def name_execution(now: datetime) -> str:
    """The name of an execution started at this time, to the microsecond.

    >>> name_execution(datetime(2027, 1, 2, 3, 4, 5, 6))
    '20270102T030405000006'
    """
    return now.strftime("%Y%m%dT%H%M%S%f")
