"""The drawn state machine: complete, counted, and nothing on top of anything else."""

import re
import xml.etree.ElementTree as ET
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from kickstand_cli.drawing.state_machine import START, count_ways, draw_state_machine, read_transitions

SVG = "{http://www.w3.org/2000/svg}"
SHIPPED = {
    path.name: yaml.safe_load(path.read_text("utf-8"))
    for path in sorted((Path(__file__).parents[3] / "statemachine").glob("*.asl.yaml"))
}
LOOP: dict[str, Any] = {
    "StartAt": "Ask",
    "States": {
        "Ask": {
            "Type": "Task",
            "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
            "Next": "Answered",
            "Catch": [
                {"ErrorEquals": ["States.Timeout"], "Next": "Again?"},
                {"ErrorEquals": ["States.ALL"], "Next": "Broken"},
            ],
        },
        "Again?": {
            "Type": "Choice",
            "Choices": [{"Variable": "$.rounds", "NumericLessThan": 3, "Next": "Wait"}],
            "Default": "Given Up",
        },
        "Wait": {"Type": "Wait", "Seconds": 3, "Next": "Ask"},
        "Each of a Number of Pictures": {"Type": "Map", "Iterator": {}, "Next": "Given Up"},
        "Answered": {"Type": "Pass", "Next": "Each of a Number of Pictures"},
        "Given Up": {"Type": "Succeed"},
        "Broken": {"Type": "Fail"},
    },
}
MACHINES = pytest.mark.parametrize("definition", [*SHIPPED.values(), LOOP], ids=[*SHIPPED, "loop"])


def entered(*states: str) -> list[dict[str, Any]]:
    """A history, as GetExecutionHistory gives it."""
    return [
        {"type": "ExecutionStarted"},
        *({"type": "TaskStateEntered", "stateEnteredEventDetails": {"name": state}} for state in states),
    ]


def draw(definition: dict[str, Any], counts: dict[tuple[str, str], int] | None = None) -> ET.Element:
    return ET.fromstring(draw_state_machine(definition, counts or {}, "a machine"))


def texts(parent: ET.Element, kind: str) -> list[str]:
    return ["".join(group.itertext()) for group in parent.iter(f"{SVG}g") if kind in group.get("class", "").split()]


def boxes(parent: ET.Element, kind: str) -> list[tuple[float, float, float, float]]:
    """Left, top, right, bottom of every shape of this kind."""
    found = []
    for group in parent.iter(f"{SVG}g"):
        if kind in group.get("class", "").split():
            shape = group.findall(f"{SVG}rect")[-1:] or group.findall(f"{SVG}path")
            if shape[0].tag == f"{SVG}rect":
                x, y, width, height = (float(shape[0].attrib[name]) for name in ("x", "y", "width", "height"))
                found.append((x, y, x + width, y + height))
            else:
                numbers = [float(number) for number in re.findall(r"-?[\d.]+", shape[0].attrib["d"])]
                found.append((min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])))
    return found


@MACHINES
def test_every_state_is_drawn_once(definition: dict[str, Any]) -> None:
    drawn = [text.replace(" ", "") for text in texts(draw(definition), "state")]
    for name in definition["States"]:
        assert any(text.startswith(name.replace(" ", "")) for text in drawn)
    assert len(drawn) == len(definition["States"])


@MACHINES
def test_every_transition_has_its_count(definition: dict[str, Any]) -> None:
    transitions = read_transitions(definition)
    counts = {transition.way: number for number, transition in enumerate(transitions, start=101)}
    drawn = texts(draw(definition, counts), "count")
    assert len(drawn) == len(transitions)
    for transition in transitions:
        expected = f"{transition.source or 'start'} → {transition.target}"
        assert any(text.startswith(expected) and text.endswith(str(counts[transition.way])) for text in drawn)


@MACHINES
def test_nothing_stands_on_anything_else(definition: dict[str, Any]) -> None:
    drawing = draw(definition, {transition.way: 1_234 for transition in read_transitions(definition)})
    for one, other in combinations(boxes(drawing, "state") + boxes(drawing, "count"), 2):
        assert one[0] >= other[2] or other[0] >= one[2] or one[1] >= other[3] or other[1] >= one[3], (one, other)


@MACHINES
def test_everything_lies_within_the_picture(definition: dict[str, Any]) -> None:
    drawing = draw(definition)
    left, top, width, height = map(float, drawing.attrib["viewBox"].split())
    for box in boxes(drawing, "state") + boxes(drawing, "count"):
        assert box[0] >= left
        assert box[1] >= top
        assert box[2] <= left + width
        assert box[3] <= top + height


@MACHINES
def test_the_same_machine_is_drawn_the_same_way(definition: dict[str, Any]) -> None:
    assert draw_state_machine(definition, {}, "one") == draw_state_machine(definition, {}, "one")


def test_the_main_path_runs_straight_down_and_failure_stands_aside() -> None:
    definition = SHIPPED["classify_image.asl.yaml"]
    drawing = draw(definition)
    middles = {}
    for text, box in zip(texts(drawing, "state"), boxes(drawing, "state"), strict=True):
        middles[text] = (box[0] + box[2]) / 2

    def middle(name: str) -> float:
        return next(x for text, x in middles.items() if text.startswith(name))

    for name in ("Classify Image", "Decide", "Record Result"):
        assert middle(name) == pytest.approx(middle("Prepare Image"), abs=10)
    assert middle("Keep Failed Upload") > middle("Record Result") + 100


def test_ways_are_counted_from_histories() -> None:
    counts = count_ways(LOOP, [entered("Ask", "Answered"), entered("Ask", "Again?", "Wait", "Ask", "Answered")])
    assert counts[START, "Ask"] == 2
    assert counts["Ask", "Answered"] == 2
    assert counts["Wait", "Ask"] == 1
    assert counts["Ask", "Broken"] == 0


def test_states_inside_a_map_are_not_counted_as_ways() -> None:
    counts = count_ways(LOOP, [entered("Ask", "Answered", "Each of a Number of Pictures", "Inside", "Given Up")])
    assert counts["Each of a Number of Pictures", "Given Up"] == 1


def test_an_error_is_dashed_and_an_untaken_way_is_light() -> None:
    drawing = draw(LOOP, {(START, "Ask"): 3, ("Ask", "Again?"): 3})
    classes = [path.attrib["class"] for path in drawing.findall(f"{SVG}path")]
    assert classes.count("way taken") == 1
    assert classes.count("way caught taken") == 1
    assert "way caught" in classes
    assert "way" in classes


def test_several_reasons_for_one_way_are_one_arrow() -> None:
    rules = [{"Variable": "$.a", "StringEquals": word, "Next": "End"} for word in ("x", "y")]
    definition = {
        "StartAt": "A?",
        "States": {"A?": {"Type": "Choice", "Choices": rules, "Default": "End"}, "End": {"Type": "Succeed"}},
    }
    assert [transition.labels for transition in read_transitions(definition)] == [(), ("x", "y", "otherwise")]


def test_names_cannot_break_the_drawing() -> None:
    definition = {"StartAt": "<b>&\"'", "States": {"<b>&\"'": {"Type": "Succeed"}}}
    drawing = ET.fromstring(draw_state_machine(definition, {}, '<script>&"'))
    assert texts(drawing, "state") == ["<b>&\"'"]
    assert drawing.attrib["aria-label"] == '<script>&"'
