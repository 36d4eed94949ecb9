"""decide() routes at the policy's boundaries."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from kickstand.classify.artefact import ModelCard
from kickstand.classify.photo_quality import Flaw
from kickstand.classify.policy import decide, read_switch
from kickstand.classify.promise import ANY_LABEL, Guaranteed, Promise
from kickstand.events import Prediction, Reason, Route, SelectivePolicy
from kickstand.lifecycle.gate import read_stated

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
    assert "0.850 of showing none of the classes" in decide(predicted(0.9, 0.85), POLICY).explanation


@pytest.mark.parametrize(
    ("confidence", "neither", "route", "reason"),
    [
        (1.00, 0.0, Route.REVIEW, Reason.REVIEW_EVERYTHING),
        (0.89, 0.0, Route.REVIEW, Reason.UNSURE),
        (0.99, 0.79, Route.REVIEW, Reason.PERHAPS_NEITHER),
        (0.99, 0.80, Route.REJECT, Reason.NEITHER),
    ],
)
def test_the_switch_takes_what_would_be_accepted_and_nothing_else(
    confidence: float, neither: float, route: Route, reason: Reason
) -> None:
    decision = decide(predicted(confidence, neither), POLICY, "it is night")
    assert (decision.route, decision.reason) == (route, reason)
    assert decision.by_policy is decide(predicted(confidence, neither), POLICY).route


@pytest.mark.parametrize(
    ("confidence", "neither", "unusable", "reason"),
    [
        (1.00, 0.0, False, Reason.CONFIDENT),
        (0.89, 0.0, False, Reason.RETAKE),
        (0.99, 0.5, False, Reason.RETAKE),
        (0.99, 0.8, False, Reason.NEITHER),
        (1.00, 0.0, True, Reason.RETAKE),
        (0.89, 0.0, True, Reason.RETAKE),
        (0.99, 0.8, True, Reason.RETAKE),
    ],
)
def test_a_poor_photo_is_taken_again_where_the_model_is_unsure_and_an_unusable_one_always(
    confidence: float, neither: float, unusable: bool, reason: Reason
) -> None:
    decision = decide(predicted(confidence, neither), POLICY, flaw=Flaw("too dark; use more light", unusable))
    assert decision.reason is reason
    if reason is Reason.RETAKE:
        assert (decision.route, decision.explanation) == (Route.REJECT, "too dark; use more light")


def test_the_switch_leaves_a_photo_that_must_be_taken_again_to_the_driver() -> None:
    assert decide(predicted(1.0), POLICY, "it is night", Flaw("blurred", True)).reason is Reason.RETAKE


NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
ITEM = {
    "id": {"S": "review_everything"},
    "reason": {"S": "night"},
    "by": {"S": "Ada"},
    "since": {"S": "2026-05-04T08:00:00Z"},
    "until": {"S": "2026-05-04T12:00:00Z"},
    "expires_at": {"N": "1777896001"},
}


def test_the_switch_holds_until_its_end_whether_or_not_the_item_is_still_there() -> None:
    said = "review-everything mode until 2026-05-04 12:00 UTC (night)"
    assert read_switch({"Item": ITEM}, NOON - timedelta(microseconds=1)) == said
    assert read_switch({"Item": ITEM}, NOON) is None
    assert read_switch({"SdkHttpMetadata": {"HttpStatusCode": 200}}, NOON) is None


def test_a_switch_that_cannot_be_read_is_taken_to_be_on() -> None:
    assert "States.Timeout" in (read_switch({"Error": "States.Timeout", "Cause": ""}, NOON) or "")


def test_a_tie_goes_to_the_first_label() -> None:
    assert predicted(0.5).label == "bicycle"


# ---- a threshold for each label


BY_LABEL = SelectivePolicy(
    policy_version="test",
    accept_at=1.0,
    thresholds={"bicycle": 0.7, "motorcycle": 0.95, "scooter": None},
    neither_accept_at_most=0.2,
    neither_reject_at_least=0.8,
)


@pytest.mark.parametrize(
    ("label", "confidence", "route", "explanation"),
    [
        ("bicycle", 0.7, Route.ACCEPT, "bicycle with confidence 0.700, accepted as bicycle from 0.700"),
        ("bicycle", 0.69, Route.REVIEW, "bicycle with confidence 0.690, accepted as bicycle from 0.700"),
        ("motorcycle", 0.95, Route.ACCEPT, "motorcycle with confidence 0.950, accepted as motorcycle from 0.950"),
        ("motorcycle", 0.94, Route.REVIEW, "motorcycle with confidence 0.940, accepted as motorcycle from 0.950"),
        (
            "scooter",
            1.0,
            Route.REVIEW,
            "scooter with confidence 1.000, but every prediction “scooter” goes to review",
        ),
    ],
)
def test_each_label_is_accepted_from_its_own_threshold_and_one_without_never(
    label: str, confidence: float, route: Route, explanation: str
) -> None:
    others = [other for other in BY_LABEL.thresholds if other != label]
    prediction = Prediction.of(
        {label: confidence, **dict.fromkeys(others, (1 - confidence) / 2)},
        neither=0.0,
        model_version="m",
        backend="embedded",
        latency_ms=1.0,
    )
    decision = decide(prediction, BY_LABEL)
    assert (decision.route, decision.explanation) == (route, explanation)


OLD_MODEL = Path(__file__).with_name("old-model.json").read_text("utf-8")


def test_an_older_model_card_loads_decides_and_explains_as_before() -> None:
    policy = ModelCard.model_validate_json(OLD_MODEL).policy
    assert policy.thresholds == {}
    for label in ("bicycle", "motorcycle"):
        assert policy.threshold(label) == 0.76547
    at, below = decide(predicted(0.76547), policy), decide(predicted(0.76546), policy)
    assert (at.route, below.route) == (Route.ACCEPT, Route.REVIEW)
    assert at.explanation == "bicycle with confidence 0.765, accepted from 0.765"
    assert decide(predicted(1 - 0.76547), policy).route is Route.ACCEPT


@pytest.mark.parametrize("thresholds", [{"bicycle": 0.9}, {"bicycle": 0.9, "motorcicle": None}])
def test_a_model_card_whose_thresholds_leave_out_a_label_is_refused(thresholds: dict[str, float | None]) -> None:
    card = json.loads(OLD_MODEL)
    card["policy"]["thresholds"] = thresholds
    with pytest.raises(ValidationError, match="the labels are bicycle, motorcycle"):
        ModelCard.model_validate(card)


def test_an_older_model_card_promises_something_about_all_answers_together() -> None:
    promise = Guaranteed.model_validate(json.loads(OLD_MODEL)["policy"]).promise
    assert promise == Promise(max_risk={ANY_LABEL: 0.02}, confidence_level=0.95)
    assert not promise.about_labels
    assert promise.risk_of("motorcycle") == 0.02
    assert read_stated(json.loads(OLD_MODEL)).promise == promise
