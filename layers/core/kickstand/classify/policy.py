"""Selective classification: accept the model's answer, ask a person, or reject the image."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from kickstand.classify.photo_quality import Flaw
from kickstand.events import Decision, ImageStatistics, Moment, Payload, Prediction, Reason, Route, SelectivePolicy

__all__ = ["NO_END", "Deciding", "SelectivePolicy", "Switch", "decide", "parse_switch", "read_switch"]


NO_END = datetime(9999, 12, 31, tzinfo=UTC)
"""The end of a switch that does not end by itself; a time, since older versions read one."""


class Switch(Payload):
    """While it is on, no answer is accepted: a person decides, whatever the confidence.

    by: who switched it on; personal, so no decision names them. until: off by itself from then on; NO_END for never.
    """

    reason: str = Field(min_length=1)
    by: str = Field(repr=False)
    since: Moment
    until: Moment

    def is_on(self, now: datetime) -> bool:
        """Whether it holds; what has ended may still stand in the table for a while."""
        return now < self.until

    def __str__(self) -> str:
        end = f"until {self.until:%Y-%m-%d %H:%M %Z}" if self.until < NO_END else "until it is switched off"
        return f"{end} a person decides about everything: {self.reason}"


def parse_switch(item: Mapping[str, Any]) -> Switch:
    """The switch that stands in the table, by its attributes. One that cannot be read is on: nobody can say that it
    is off, or who wanted it.
    """
    try:
        return Switch.model_validate(item)
    except ValueError:
        told = "the switch in the table of controls cannot be read; switch it off, or on anew"
        return Switch(reason=told, by="nobody knows", since=datetime.min.replace(tzinfo=UTC), until=NO_END)


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
        cannot know whether the switch is on takes it to be on, also where the item is no switch.
    """
    if "Error" in found:
        return f"whether a person decides about everything could not be read ({found['Error']})"
    if "Item" not in found:
        return None
    item = found["Item"] if isinstance(found["Item"], dict) else {}
    switch = parse_switch(
        {name: next(iter(value.values()), None) for name, value in item.items() if isinstance(value, dict)}
    )
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
