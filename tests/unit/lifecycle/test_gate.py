"""The gate: which challenger may take the champion's place, and how often a mere equal slips through."""

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from kickstand.events import Route
from kickstand.lifecycle.gate import ALPHA, Outcome, Pledge, Verdict, at_least, judge, mcnemar
from kickstand.review.rules import NEITHER
from kickstand_cli.training.gate import gate
from tests.photos import coloured

CHAMPION = Pledge(model_version="old", labels=("a", "b"), max_risk=0.02, confidence_level=0.95)
CHALLENGER = CHAMPION.model_copy(update={"model_version": "new"})
app = typer.Typer()
app.command()(gate)


def outcomes(pattern: str) -> list[Outcome]:
    """One answer for each letter: r(ight), w(rong), s(ent to a person); f(oreign and accepted), n(either, refused)."""
    truths = {"f": NEITHER, "n": NEITHER}
    return [
        Outcome(
            image=str(index),
            truth=truths.get(letter, "a"),
            label="b" if letter == "w" else "a",
            confidence=0.6 if letter in "s" else 0.99,
            route=Route.ACCEPT if letter in "rwf" else Route.REVIEW,
        )
        for index, letter in enumerate(pattern)
    ]


def compare(before: str, after: str, leaked: Sequence[str] | None = (), **pledge: Any) -> Verdict:
    return judge((CHAMPION, outcomes(before)), (CHALLENGER.model_copy(update=pledge), outcomes(after)), leaked)


def failed(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.checks if check.passed is False]


def test_a_challenger_that_serves_more_without_harm_is_promoted_and_the_reason_says_so() -> None:
    verdict = compare("r" * 190 + "s" * 10, "r" * 200)
    assert verdict.promote
    assert "new may replace champion old" in verdict.reason
    assert "on 200 of 200 images, the champion on 190; ahead on 10, behind on 0" in verdict.reason


def test_an_equal_is_not_promoted() -> None:
    verdict = compare("r" * 190 + "s" * 10, "r" * 190 + "s" * 10)
    assert failed(verdict) == ["better"]
    assert "does not replace champion old: not shown to be better" in verdict.reason


@pytest.mark.parametrize(("ahead", "promoted"), [(4, False), (5, True)])
def test_five_images_with_none_against_are_the_least_that_shows_it(ahead: int, promoted: bool) -> None:
    assert compare("r" * 195 + "s" * 5, "r" * (195 + ahead) + "s" * (5 - ahead)).promote is promoted


def test_more_answers_bought_with_more_harm_are_refused() -> None:
    verdict = compare("r" * 150 + "s" * 50, "r" * 190 + "w" * 10)
    assert not verdict.promote
    assert {"promise", "not worse", "calibration"} == set(failed(verdict))


def test_foreign_images_that_it_accepts_count_as_harm() -> None:
    verdict = compare("r" * 100 + "s" * 30 + "n" * 20, "r" * 130 + "f" * 6 + "n" * 14)
    assert failed(verdict) == ["not worse"]
    assert verdict.challenger.foreign_accepted.value == 0.3


@pytest.mark.parametrize(
    ("pledge", "reason"),
    [
        ({"max_risk": 0.05}, "it promises a risk of 0.05, the champion 0.02"),
        ({"confidence_level": 0.9}, "it promises with confidence 0.9, the champion 0.95"),
        ({"refused": "about 90 more labels are needed"}, "keeps no promise: about 90 more labels"),
        ({"max_risk": None}, "its card states none"),
        ({"labels": ("a", "c")}, "labels a, c, where the champion knows a, b"),
    ],
)
def test_a_weaker_promise_or_other_labels_are_refused(pledge: dict[str, Any], reason: str) -> None:
    verdict = compare("s" * 100 + "r" * 100, "r" * 200, **pledge)
    assert not verdict.promote
    assert reason in verdict.reason


def test_leaked_images_refuse_it_however_good_it_looks() -> None:
    verdict = compare("s" * 100 + "r" * 100, "r" * 200, leaked=["x.png", "y.png"])
    assert failed(verdict) == ["leakage"]
    assert "2 held-out images are among the training images (x.png, y.png)" in verdict.reason


def test_leakage_that_nobody_looked_for_is_told() -> None:
    verdict = compare("s" * 100 + "r" * 100, "r" * 200, leaked=None)
    assert verdict.promote
    assert "leakage was not checked" in verdict.reason


def test_only_answers_to_the_same_images_are_compared() -> None:
    with pytest.raises(ValueError, match="the same images"):
        compare("rr", "r")
    with pytest.raises(ValueError, match="at least one"):
        compare("", "")


def test_the_number_of_errors_is_convolved_exactly() -> None:
    draw = random.Random(3)
    doubts = [draw.uniform(0.0, 0.4) for _ in range(12)]
    every = (wrong for wrong in range(1 << len(doubts)) if wrong.bit_count() >= 3)
    assert at_least(3, doubts) == pytest.approx(sum(_product(doubts, wrong) for wrong in every), abs=1e-12)
    assert at_least(0, doubts) == 1.0


def _product(doubts: Sequence[float], wrong: int) -> float:
    result = 1.0
    for index, doubt in enumerate(doubts):
        result *= doubt if wrong >> index & 1 else 1.0 - doubt
    return result


@pytest.mark.parametrize("differing", range(1, 60))
def test_a_challenger_that_is_no_better_is_promoted_no_more_often_than_stated(differing: int) -> None:
    promoted = sum(
        math.comb(differing, ahead) for ahead in range(differing + 1) if mcnemar(ahead, differing - ahead) < ALPHA
    )
    assert promoted / 2**differing <= ALPHA


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def contenders(tmp_path: Path, colour_model: Callable[..., Path]) -> tuple[Path, Path, Path]:
    """A champion that sends everything to a person, a challenger that answers, and twelve images."""
    paths = []
    for name, accept_at in (("champion", 1.0), ("challenger", 0.9)):
        folder = colour_model(tmp_path / name, ("red", "green", "blue"))
        card = json.loads((folder / "model.json").read_text())
        card["model_version"] = name
        card["policy"] |= {"accept_at": accept_at, "max_risk": 0.02, "confidence_level": 0.95}
        (folder / "model.json").write_text(json.dumps(card))
        paths.append(folder)
    for label, shade in {"red": "#{:02x}0000", "green": "#00{:02x}00", "blue": "#0000{:02x}"}.items():
        (tmp_path / "images" / label).mkdir(parents=True)
        for step in range(4):
            coloured(shade.format(255 - step)).save(tmp_path / "images" / label / f"{step}.png")
    return paths[0], paths[1], tmp_path / "images"


def test_the_command_says_who_serves_and_exits_by_it(contenders: tuple[Path, Path, Path]) -> None:
    champion, challenger, images = contenders
    code, out, _ = run(champion, challenger, images, "--json")
    assert code == 0
    verdict = json.loads(out)
    assert verdict["promote"] is True
    assert verdict["challenger"]["coverage"]["value"] == 1.0
    code, out, _ = run(challenger, champion, images)
    assert code == 4
    assert "champion does not replace champion challenger" in out


def test_the_command_finds_leaks_in_whatever_format(contenders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    champion, challenger, images = contenders
    (tmp_path / "train").mkdir()
    with Image.open(images / "red" / "0.png") as image:
        image.save(tmp_path / "train" / "copy.bmp")
    code, out, _ = run(champion, challenger, images, "--trained-on", tmp_path / "train")
    assert code == 4
    assert "red/0.png" in out


def test_an_empty_folder_of_training_images_is_an_error(contenders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    code, _, err = run(*contenders, "--trained-on", tmp_path / "nothing")
    assert code == 1
    assert "nothing: no images to compare with" in err
