"""decide() routes at the policy's boundaries."""

import pytest

from kickstand.events import Prediction, Reason, Route
from kickstand.policy import SelectivePolicy, decide

POLICY = SelectivePolicy(policy_version="test", accept_at=0.9, neither_accept_at_most=0.2, neither_reject_at_least=0.8)


def predicted(confidence: float, neither: float = 0.0) -> Prediction:
    return Prediction.of(
        {"bicycle": confidence, "motorcycle": 1 - confidence},
        neither=neither,
        model_version="m",
        backend="embedded",
        latency_ms=1.0,
    )


@pytest.mark.parametrize(
    ("confidence", "neither", "route", "reason"),
    [
        (1.00, 0.0, Route.ACCEPT, Reason.CONFIDENT),
        (0.90, 0.2, Route.ACCEPT, Reason.CONFIDENT),
        (0.89, 0.0, Route.REVIEW, Reason.UNSURE),
        (0.50, 0.0, Route.REVIEW, Reason.UNSURE),
        (0.99, 0.21, Route.REVIEW, Reason.PERHAPS_NEITHER),
        (0.99, 0.79, Route.REVIEW, Reason.PERHAPS_NEITHER),
        (0.99, 0.80, Route.REJECT, Reason.NEITHER),
        (0.50, 1.00, Route.REJECT, Reason.NEITHER),
    ],
)
def test_neither_and_confidence_choose_the_route(
    confidence: float, neither: float, route: Route, reason: Reason
) -> None:
    decision = decide(predicted(confidence, neither), POLICY)
    assert (decision.route, decision.reason) == (route, reason)
    assert decision.policy_version == "test"


def test_the_explanation_names_the_numbers_that_decided() -> None:
    assert decide(predicted(0.75), POLICY).explanation == "bicycle with confidence 0.750, accepted from 0.900"
    assert "0.850 of showing none of the labels" in decide(predicted(0.9, 0.85), POLICY).explanation


def test_a_tie_goes_to_the_first_label() -> None:
    assert predicted(0.5).label == "bicycle"
