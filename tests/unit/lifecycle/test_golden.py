"""Golden images: what counts as a mistake."""

import pytest

from kickstand.events import Prediction, SelectivePolicy
from kickstand.lifecycle.golden import GoldenImage, find_mistake

POLICY = SelectivePolicy(
    policy_version="p",
    accept_at=1.0,
    thresholds={"bicycle": 0.9, "motorcycle": None},
    neither_accept_at_most=0.2,
    neither_reject_at_least=0.8,
)


def predicted(label: str, confidence: float, neither: float) -> Prediction:
    other = "motorcycle" if label == "bicycle" else "bicycle"
    return Prediction.of(
        {label: confidence, other: 1 - confidence},
        neither=neither,
        model_version="m",
        backend="embedded",
        latency_ms=1,
    )


@pytest.mark.parametrize(
    ("expected", "label", "confidence", "neither", "right"),
    [
        ("bicycle", "bicycle", 0.95, 0.0, True),
        ("bicycle", "bicycle", 0.85, 0.0, False),
        ("bicycle", "motorcycle", 0.99, 0.0, False),
        ("motorcycle", "motorcycle", 0.99, 0.0, True),
        ("motorcycle", "bicycle", 0.6, 0.0, False),
        ("motorcycle", "bicycle", 0.95, 0.0, False),
        ("motorcycle", "motorcycle", 0.99, 0.9, False),
        ("neither", "bicycle", 0.99, 0.9, True),
        ("neither", "motorcycle", 0.99, 0.1, True),
        ("neither", "bicycle", 0.99, 0.1, False),
    ],
)
def test_a_label_is_accepted_or_where_no_answer_of_it_is_a_person_gets_it_with_the_right_label(
    expected: str, label: str, confidence: float, neither: float, right: bool
) -> None:
    mistake = find_mistake(GoldenImage("golden.jpg", b"", expected), predicted(label, confidence, neither), POLICY)
    assert (mistake is None) is right
    assert right or (mistake or "").startswith("golden.jpg: ")
