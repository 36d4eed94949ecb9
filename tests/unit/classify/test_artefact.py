"""What comes from outside: labels become folders' names, another model's numbers become probabilities."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kickstand.classify.artefact import ModelCard, check_label, read_card, read_probabilities
from kickstand.classify.endpoint import read_answer
from kickstand.classify.inference import interpret

MODEL = Path(__file__).parents[3] / "layers/model/model"
CARD = read_card(MODEL)
TOLD: dict[str, Any] = json.loads((MODEL / "model.json").read_bytes())


@pytest.mark.parametrize("label", ["van", "cargo bike", "自転車", "e-bike_2", "Motorrad (alt)", "x" * 100])
def test_a_label_may_be_any_name_of_a_folder(label: str) -> None:
    check_label(label)


@pytest.mark.parametrize(
    "label",
    [
        *("../../../x", "/etc", "a/b", "a\\b", "..", ".", ".hidden", "C:x", "a.", " a", "a ", " ", ""),
        *(
            "CON",
            "nul.png",
            "Com1",
            "x" * 101,
            "自" * 40,
            "a\nb",
            "\x1b[2J",
            "a\0",
            "\ud800",
            "\u202egnp",
            "\ufffe",
            "a*",
        ),
    ],
)
def test_a_label_that_is_no_name_of_a_folder_is_refused(label: str) -> None:
    with pytest.raises((ValidationError, UnicodeEncodeError)):
        ModelCard.model_validate({**TOLD, "labels": ["bicycle", label], "policy": {**TOLD["policy"], "thresholds": {}}})


@pytest.mark.parametrize(
    ("other", "why"),
    [
        *(("Bicycle", "capitals"), ("BICYCLE", "capitals"), ("bicycle", "twice")),
        *(("Neither", "a reserved word"), ("cannot_tell", "a reserved word"), ("Cannot_Tell", "a reserved word")),
    ],
)
def test_a_label_that_is_taken_in_any_capitals_is_refused(other: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        ModelCard.model_validate({**TOLD, "labels": ["bicycle", other], "policy": {**TOLD["policy"], "thresholds": {}}})


@pytest.mark.parametrize("temperature", [0.0, 5e-324, 0.009, 101.0, 1e308, float("nan"), float("inf"), -1.0])
def test_a_temperature_that_no_calibration_finds_is_refused(temperature: float) -> None:
    with pytest.raises(ValidationError, match="temperature"):
        ModelCard.model_validate({**TOLD, "temperature": temperature})


@pytest.mark.parametrize("temperature", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("logits", [[1e4, -1e4, 1e5], [-3e38, 3e38, 3e38], [0.0, 0.0, 800.0], [0.0, 0.0, 0.0]])
def test_logits_of_any_size_become_finite_probabilities(logits: list[float], temperature: float) -> None:
    prediction = interpret(logits, CARD.model_copy(update={"temperature": temperature}), "embedded", 1.0)
    assert sum(prediction.probabilities.values()) == pytest.approx(1.0)
    assert prediction.label == ("motorcycle" if logits[1] > logits[0] else "bicycle")


@pytest.mark.parametrize(
    "row", [[1, 0], [1.0, 1e-200], [1.0, 5e-324], [0.0, 1.0], [0.333, 0.667], [0.5, 0.4999], [1.0, 1e-400]]
)
def test_finite_numbers_that_sum_to_one_are_taken(row: list[float]) -> None:
    assert list(read_probabilities(row, CARD.labels).values()) == row


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("[NaN, 1]", "'nan' is no probability"),
        ("[Infinity, 0]", "'inf' is no probability"),
        ("[1e400, 0]", "'inf' is no probability"),
        ("[-0.1, 1.1]", "'-0.1' is no probability"),
        ("[1.1, -0.1]", "'1.1' is no probability"),
        ('["0.9", "0.1"]', "'0.9' is no probability"),
        ("[true, false]", "'True' is no probability"),
        ("[null, 1]", "'None' is no probability"),
        ("[[1], 0]", "is no probability"),
        ("[0.9, 0.3]", "sum to 1.2"),
        ("[0, 0]", "sum to 0"),
        ("[1e-200, 1e-200]", "sum to 2e-200"),
        ("[1]", "not 1 of them"),
        ("[]", "not 0 of them"),
        ("{}", "neither a list of probabilities nor"),
        ('"bicycle"', "neither a list of probabilities nor"),
        ("null", "neither a list of probabilities nor"),
        ('{"probabilities": {"bicycle": 1}, "neither": 0, "model_version": "m"}', "no probability of motorcycle"),
        ('{"probabilities": [1, 0], "neither": 2, "model_version": "m"}', "neither: '2' is no probability"),
        ('{"probabilities": [1, 0], "neither": 1e400, "model_version": "m"}', "neither: 'inf' is no probability"),
        ('{"probabilities": [1, 0], "neither": 0, "model_version": ""}', "is no name of a model"),
        ('{"probabilities": [1, 0], "neither": 0, "model_version": 7}', "is no name of a model"),
        ('{"probabilities": "11", "neither": 0, "model_version": "m"}', "not str"),
    ],
)
def test_what_is_no_answer_is_refused_with_the_reason(answer: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        read_answer(json.loads(answer), CARD, "mine", 1.0)
    assert reason in str(raised.value)
