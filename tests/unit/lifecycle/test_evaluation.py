"""Answers of the built-in algorithm, which knows no policy: it gets the champion's promise."""

import json
from typing import Any

import pytest

from kickstand.classify.promise import ANY_LABEL, Promise
from kickstand.events import NEITHER, Route
from kickstand.lifecycle.dataset_store import Image
from kickstand.lifecycle.evaluation import Contender, HeldOut, read_answers
from kickstand.lifecycle.gate import Stated

LABELS = ("a", "b")
CHAMPION = Stated(model_version="old", labels=LABELS, promise=Promise(max_risk={"a": 0.02, "b": 0.02}))


def answer(numbers: dict[str, int], wrong: int = 0, promise: Promise | None = CHAMPION.promise) -> Contender:
    """Of this many photos of each truth; the surest predictions "b" about photos of "a" are the wrong ones."""
    held_out: HeldOut = [
        (Image(path=f"test/{truth}/{truth}{i}.png", split="test", label=truth, pixels_sha256="0" * 64, origin=""), b"")
        for truth, number in numbers.items()
        for i in range(number)
    ]

    def rate(image: Image) -> list[float]:
        number = int(image.path.removesuffix(".png").rpartition(image.label)[2])
        if image.label == NEITHER:
            return [0.6, 0.4]
        return [0.95, 0.05] if image.label == "a" and number >= wrong else [0.01, 0.99]

    answers = {image.path.rpartition("/")[2]: json.dumps(rate(image)).encode() for image, _ in held_out}
    champion = CHAMPION.model_copy(update={"promise": promise})
    return read_answers(answers, held_out, LABELS, champion, "new")


def accepted(contender: Contender) -> dict[str | None, int]:
    return {label: sum(one.accepted and one.label == label for one in contender.outcomes) for label in LABELS}


def test_each_label_has_its_own_threshold_and_the_champions_promise() -> None:
    contender = answer({"a": 400, "b": 400, NEITHER: 20})
    assert contender.stated.promise == CHAMPION.promise
    assert contender.stated.refused == {}
    assert accepted(contender) == {"a": 400, "b": 400}


def test_a_label_whose_promise_cannot_be_shown_goes_to_people_and_the_others_are_accepted() -> None:
    contender = answer({"a": 400, "b": 400}, wrong=20)
    assert set(contender.stated.refused) == {"b"}
    assert "“b”" in contender.stated.refused["b"]
    assert accepted(contender) == {"a": 380, "b": 0}
    assert {one.route for one in contender.outcomes if one.label == "b"} == {Route.REVIEW}


@pytest.mark.parametrize(
    ("promise", "expected"),
    [
        (None, {"a": 0.02, "b": 0.02}),
        (Promise(max_risk={ANY_LABEL: 0.05}), {"a": 0.05, "b": 0.05}),
        (Promise(max_risk={"a": 0.01, "c": 0.01}), {"a": 0.01, "b": 0.02}),
    ],
)
def test_what_the_champion_does_not_promise_of_a_label_is_filled_in(promise: Promise | None, expected: Any) -> None:
    stated = answer({"a": 5, "b": 5}, promise=promise).stated
    assert stated.promise
    assert stated.promise.max_risk == expected
    assert set(stated.refused) == set(LABELS)
