"""`kickstand explain`: the paragraph names the threshold of the answer's label; older records read as before."""

from datetime import UTC, datetime

from kickstand.classify.policy import decide
from kickstand.events import SelectivePolicy
from kickstand.records import LaterDecision, Record
from kickstand_cli.ledger.explain import describe
from tests.stream import CARD, make_records


def explained(policy: SelectivePolicy, confidence: float) -> str:
    """A motorcycle of this confidence, decided by the policy; read back from JSON, as it is stored."""
    record = next(iter(make_records(1)))
    assert record.prediction
    prediction = record.prediction.of(
        {"motorcycle": confidence, "bicycle": 1 - confidence},
        neither=0.0,
        model_version="m1",
        backend="embedded",
        latency_ms=1,
    )
    decided = record.model_copy(update={"prediction": prediction, "decision": decide(prediction, policy)})
    return describe(Record.model_validate_json(decided.model_dump_json()))


def test_the_threshold_of_the_label_is_named() -> None:
    policy = CARD.policy.model_copy(update={"thresholds": {"bicycle": 0.9, "motorcycle": 0.941}})
    accepted = "motorcycle with confidence 0.950, accepted as motorcycle from 0.941."
    assert f"It was accepted (confident, by policy p1): {accepted}" in explained(policy, 0.95)
    assert "was sent to review (unsure, by policy p1): motorcycle with confidence 0.930" in explained(policy, 0.93)


def test_an_answer_that_is_never_accepted_says_so() -> None:
    policy = CARD.policy.model_copy(update={"thresholds": {"motorcycle": None}})
    assert "every prediction “motorcycle” goes to review" in explained(policy, 1.0)


def test_a_policy_with_one_threshold_reads_as_before() -> None:
    assert "motorcycle with confidence 0.950, accepted from 0.800." in explained(CARD.policy, 0.95)


def test_a_newer_decision_follows_the_first_one_which_stands() -> None:
    record = next(iter(make_records(1)))
    assert record.prediction
    prediction = record.prediction.of(
        {"motorcycle": 0.7, "bicycle": 0.3}, neither=0.0, model_version="m2", backend="embedded", latency_ms=1
    )
    later = LaterDecision(
        prediction=prediction,
        decision=decide(prediction, CARD.policy),
        execution="e",
        decided_at=datetime(2026, 5, 4, tzinfo=UTC),
        by="20260504T100000-53dc4d",
    )
    before, told = describe(record), describe(record.model_copy(update={"later": (later,)}))
    assert told.startswith(before)
    added = told.removeprefix(before)
    assert "for backfill 20260504T100000-53dc4d; the first decision stands. Model m2 " in added
    assert "It would be sent to review (unsure, by policy p1)" in added
    assert added.endswith("It was not sent to review again.")
