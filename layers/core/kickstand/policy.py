"""Selective classification: accept the model's answer, ask a person, or reject the image."""

from kickstand.events import Decision, Payload, Prediction, Probability, Reason, Route


class SelectivePolicy(Payload):
    """Two gates: is it one of the labels at all, and if so, is the answer sure enough?

    accept_at: smallest confidence that is accepted.
    neither_accept_at_most: largest probability of "neither" that is accepted.
    neither_reject_at_least: smallest probability of "neither" that is rejected; between the two a person decides.

    Selective classification with a reject option: El-Yaniv and Wiener, JMLR 11 (2010), 1605–1641.
    """

    policy_version: str
    accept_at: Probability
    neither_accept_at_most: Probability
    neither_reject_at_least: Probability


def decide(prediction: Prediction, policy: SelectivePolicy) -> Decision:
    """Route one prediction. The boundaries themselves accept (confidence) and reject (neither)."""
    neither, confidence = prediction.neither, prediction.confidence
    foreign = f"probability {neither:.3f} of showing none of the labels"
    answer = f"{prediction.label} with confidence {confidence:.3f}, accepted from {policy.accept_at:.3f}"

    def decision(route: Route, reason: Reason, explanation: str) -> Decision:
        return Decision(route=route, reason=reason, explanation=explanation, policy_version=policy.policy_version)

    if neither >= policy.neither_reject_at_least:
        return decision(Route.REJECT, Reason.NEITHER, f"{foreign}, rejected from {policy.neither_reject_at_least:.3f}")
    if neither > policy.neither_accept_at_most:
        limit = f"accepted up to {policy.neither_accept_at_most:.3f}"
        return decision(Route.REVIEW, Reason.PERHAPS_NEITHER, f"{foreign}, {limit}")
    if confidence < policy.accept_at:
        return decision(Route.REVIEW, Reason.UNSURE, answer)
    return decision(Route.ACCEPT, Reason.CONFIDENT, answer)
