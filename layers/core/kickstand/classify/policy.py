"""Selective classification: accept the model's prediction, send the photo to review, or reject it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from kickstand.classify.photo_quality import Flaw
from kickstand.events import (
    Decision,
    ImageStatistics,
    Moment,
    Payload,
    Prediction,
    Reason,
    Route,
    SelectivePolicy,
    ShortText,
)

NO_END = datetime(9999, 12, 31, tzinfo=UTC)
"""The end of a switch without an end; a time, since older versions read one."""


class Switch(Payload):
    """While it is on, all would-be-accepted photos go to review.

    by: who turned it on; personal data, so no decision names them. until: when it ends by itself; NO_END for never.
    """

    reason: ShortText = Field(min_length=1)
    by: ShortText = Field(repr=False)
    since: Moment
    until: Moment

    def is_on(self, now: datetime) -> bool:
        """Whether it is on; an ended switch may stay in the table for a while."""
        return now < self.until

    def __str__(self) -> str:
        end = f"{self.until:%Y-%m-%d %H:%M %Z}" if self.until < NO_END else "somebody turns the switch off"
        return f"review-everything mode until {end} ({self.reason})"


def parse_switch(item: Mapping[str, Any]) -> Switch:
    """The switch in the table, from its attributes. A switch that cannot be read counts as on, to be safe."""
    try:
        return Switch.model_validate(item)
    except ValueError:
        reason = "the switch in the control table cannot be read; turn it off, or on again"
        return Switch(reason=reason, by="unknown", since=datetime.min.replace(tzinfo=UTC), until=NO_END)


class Deciding(Payload):
    """The input of the state "Decide".

    switch: the result of the state "Read Switch"; see `read_switch`.
    statistics: of the photo; None in an execution older than this field.
    """

    prediction: Prediction
    switch: dict[str, Any]
    statistics: ImageStatistics | None = None


def read_switch(found: Mapping[str, Any], now: datetime) -> str | None:
    """Why review-everything mode is on; None if it is off.

    found: the result of the state "Read Switch": DynamoDB's answer to GetItem, or Step Functions' error. If the switch
        cannot be read, it counts as on.
    """
    if "Error" in found:
        return f"review-everything mode counts as on, because the switch could not be read ({found['Error']})"
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

    review_everything: why no prediction is accepted at present. Rejections stay: nobody acts on them, and a flood of
        photos that show none of the classes, which may be the cause, would bury the reviewers.
    flaw: of the photo. An unusable photo is rejected, whatever the prediction; a poor one if it would go to review:
        taking another photo is quicker and better.
    """
    neither, label = prediction.neither, prediction.label
    foreign = f"probability {neither:.3f} of showing none of the classes"
    threshold = policy.threshold(label)
    accepted = policy.accepts(label, prediction.confidence, neither)
    answer = f"{label} with confidence {prediction.confidence:.3f}, "
    if threshold is None:
        answer += f"but every prediction “{label}” goes to review"
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
    if review_everything:  # without the prediction, which would influence the reviewer
        return decision(Route.REVIEW, Reason.REVIEW_EVERYTHING, review_everything)
    return decision(Route.ACCEPT, Reason.CONFIDENT, answer)
