"""Selective classification: accept the model's answer, ask a person, or reject the image."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import Field

from kickstand.classify.photo_quality import Flaw
from kickstand.events import Decision, ImageStatistics, Payload, Prediction, Reason, Route, SelectivePolicy

__all__ = ["Deciding", "SelectivePolicy", "Switch", "decide", "read_switch"]


class Switch(Payload):
    """While it is on, no answer is accepted: a person decides, whatever the confidence.

    by: who switched it on; personal, so no decision names them. until: off by itself from then on.
    """

    reason: str = Field(min_length=1)
    by: str = Field(repr=False)
    since: datetime
    until: datetime

    def is_on(self, now: datetime) -> bool:
        """Whether it holds; what has ended may still stand in the table for a while."""
        return now < self.until

    def __str__(self) -> str:
        return f"until {self.until:%Y-%m-%d %H:%M %Z} a person decides about everything: {self.reason}"


class Deciding(Payload):
    """What classify_image tells "Decide".

    switch: what its state "Read Switch" left; see `read_switch`.
    statistics: of the photo; None from an execution older than this field.
    """

    prediction: Prediction
    switch: dict[str, Any]
    statistics: ImageStatistics | None = None


def read_switch(found: Mapping[str, Any], now: datetime) -> str | None:
    """Why a person decides about everything now; None where the policy does.

    found: what the workflow's state "Read Switch" left: DynamoDB's answer to GetItem, or Step Functions' error. Who
        cannot know whether the switch is on takes it to be on.

    Raises ValidationError for an item that is no switch.
    """
    if "Error" in found:
        return f"whether a person decides about everything could not be read ({found['Error']})"
    if "Item" not in found:
        return None
    switch = Switch.model_validate({name: next(iter(value.values())) for name, value in found["Item"].items()})
    return str(switch) if switch.is_on(now) else None


def decide(
    prediction: Prediction, policy: SelectivePolicy, review_everything: str | None = None, flaw: Flaw | None = None
) -> Decision:
    """Route one prediction. The boundaries themselves accept (confidence) and reject (neither).

    review_everything: why no answer is accepted at present. What is rejected stays so: nobody acts on it, and a flood
        of foreign images, which may have caused all this, would bury the reviewers.
    flaw: of the photo. An unusable one is rejected, to be taken again, whatever the answer; a poor one where a person
        would be asked: another photo is quicker, and better.
    """
    neither, label = prediction.neither, prediction.label
    foreign = f"probability {neither:.3f} of showing none of the labels"
    threshold = policy.threshold(label)
    accepted = policy.accepts(label, prediction.confidence, neither)
    answer = f"{label} with confidence {prediction.confidence:.3f}, "
    if threshold is None:
        answer += f"and a person decides about every answer “{label}”"
    else:
        answer += f"accepted {f'as {label} ' if policy.thresholds else ''}from {threshold:.3f}"

    def decision(route: Route, reason: Reason, explanation: str) -> Decision:
        return Decision(route=route, reason=reason, explanation=explanation, policy_version=policy.policy_version)

    if flaw and flaw.unusable:
        return decision(Route.REJECT, Reason.RETAKE, flaw.reason)
    if neither >= policy.neither_reject_at_least:
        return decision(Route.REJECT, Reason.NEITHER, f"{foreign}, rejected from {policy.neither_reject_at_least:.3f}")
    if flaw and not accepted:
        return decision(Route.REJECT, Reason.RETAKE, flaw.reason)
    if neither > policy.neither_accept_at_most:
        limit = f"accepted up to {policy.neither_accept_at_most:.3f}"
        return decision(Route.REVIEW, Reason.PERHAPS_NEITHER, f"{foreign}, {limit}")
    if not accepted:
        return decision(Route.REVIEW, Reason.UNSURE, answer)
    if review_everything:  # without the model's answer: whoever is asked must not be led by it
        return decision(Route.REVIEW, Reason.REVIEW_EVERYTHING, review_everything)
    return decision(Route.ACCEPT, Reason.CONFIDENT, answer)
