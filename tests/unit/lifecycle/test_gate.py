"""The gate: which challenger may take the champion's place, and how often a mere equal slips through."""

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from scipy.stats import binom

from kickstand.classify.promise import ANY_LABEL, Promise
from kickstand.events import NEITHER, Route
from kickstand.lifecycle.gate import ALPHA, Outcome, Stated, Verdict, at_least, judge, least_risk, mcnemar, read_stated
from kickstand_cli.training.gate import gate
from tests.commands import run
from tests.photos import coloured

PROMISE = Promise(max_risk={"a": 0.02, "b": 0.02})
CHAMPION = Stated(model_version="old", labels=("a", "b"), promise=PROMISE)
CHALLENGER = CHAMPION.model_copy(update={"model_version": "new"})
app = typer.Typer()
app.command()(gate)


def outcomes(pattern: str) -> list[Outcome]:
    """One letter for each prediction: r(ight), w(rong), s(ent to review); f(oreign), n(either, refused)."""
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


def compare(before: str, after: str, leaked: Sequence[str] | None = (), **stated: Any) -> Verdict:
    return judge((CHAMPION, outcomes(before)), (CHALLENGER.model_copy(update=stated), outcomes(after)), leaked)


def promised(**changes: Any) -> Promise:
    return Promise.model_validate(PROMISE.model_dump() | changes)


def failed(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.checks if check.passed is False]


def test_a_challenger_that_serves_more_without_harm_is_promoted_and_the_reason_says_so() -> None:
    verdict = compare("r" * 190 + "s" * 10, "r" * 200)
    assert verdict.promote
    assert "new can replace champion old" in verdict.reason
    assert "200 of 200 photos correctly without a person, the champion 190; ahead on 10, behind on 0" in verdict.reason


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
    ("stated", "reason"),
    [
        ({"promise": promised(max_risk={"a": 0.05, "b": 0.01})}, "a risk of 0.05 for “a”, the champion 0.02"),
        ({"promise": promised(confidence_level=0.9)}, "it guarantees with confidence 0.9, the champion 0.95"),
        ({"promise": Promise(max_risk={ANY_LABEL: 0.001})}, "nothing for “a”, the champion a risk of 0.02"),
        ({"refused": {"a": "few", "b": "90 more of b are needed"}}, "has no valid guarantee: few; 90 more of b"),
        (
            {"refused": {"b": "90 more of b are needed"}},
            "no prediction “b”, the champion does: 90 more of b are needed",
        ),
        ({"promise": None}, "its card states none"),
        ({"labels": ("a", "c")}, "labels a, c, where the champion knows a, b"),
    ],
)
def test_a_weaker_promise_or_other_labels_are_refused_and_the_label_is_named(
    stated: dict[str, Any], reason: str
) -> None:
    verdict = compare("s" * 100 + "r" * 100, "r" * 200, **stated)
    assert not verdict.promote
    assert reason in verdict.reason


WIDE = promised(mix={"a": (0.3, 0.7), "b": (0.3, 0.7)}, foreign_share=0.05, label_error=0.02)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"mix": {"a": (0.2, 0.8), "b": (0.2, 0.8)}, "foreign_share": 0.1, "label_error": 0.03}, ""),
        ({"mix": None}, "up to 2 % of the labels are wrong, the champion's for every mix of a 30 % to 70 %, b"),
        (
            {"mix": {"a": (0.3, 0.6), "b": (0.4, 0.7)}},
            "its guarantee allows 0.3..0.6 of “a”, the champion's 0.3..0.7",
        ),
        (
            {"foreign_share": 0.01},
            "its guarantee allows a share of out-of-distribution photos of 0.01, the champion's 0.05",
        ),
        ({"label_error": 0.0}, "its guarantee allows a label error of 0, the champion's 0.02"),
    ],
)
def test_a_promise_must_hold_for_as_much_as_the_champions(changes: dict[str, Any], reason: str) -> None:
    champion = CHAMPION.model_copy(update={"promise": WIDE})
    challenger = CHALLENGER.model_copy(update={"promise": promised(**WIDE.model_dump() | changes)})
    verdict = judge((champion, outcomes("s" * 50)), (challenger, outcomes("r" * 50)), ())
    assert verdict.promote is not bool(reason)
    assert reason in verdict.reason


@pytest.mark.parametrize(("risk", "promoted"), [(0.02, True), (0.03, False)])
def test_an_older_promise_about_all_answers_is_kept_by_one_about_each_label(risk: float, promoted: bool) -> None:
    """Of a mean of shares none of which is larger than this, neither is the mean."""
    old = read_stated(
        {"model_version": "old", "labels": ["a", "b"], "policy": {"max_risk": 0.02, "confidence_level": 0.95}}
    )
    new = CHALLENGER.model_copy(update={"promise": promised(max_risk={"a": 0.02, "b": risk})})
    verdict = judge((old, outcomes("s" * 50)), (new, outcomes("r" * 50)), ())
    assert verdict.promote is promoted
    assert ("a risk of 0.03 for “b”, the champion 0.02" in verdict.reason) is not promoted


def test_a_card_states_why_a_label_is_refused() -> None:
    evidence = {"labels": {"a": {"threshold": 0.9}, "b": {"threshold": None, "refused": "few of b"}}}
    policy = {"promise": PROMISE.model_dump(mode="json"), "evidence": evidence}
    stated = read_stated({"model_version": "m", "labels": ["a", "b"], "policy": policy})
    assert stated.promise == PROMISE
    assert (stated.refuses("a"), stated.refuses("b")) == (False, True)
    without = read_stated({"model_version": "m", "labels": ["a", "b"], "policy": {"thresholds": {"a": 0.9, "b": None}}})
    assert without.refused == {"b": "its policy has no threshold"}


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"policy": None},
        {"policy": {"evidence": None}},
        {"policy": {"evidence": {"labels": {"a": None}}}},
        {"policy": {"thresholds": [0.9]}},
        {"policy": {}, "metrics": []},
    ],
)
def test_a_card_of_another_shape_is_a_value_error(told: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"model\.json: (policy|metrics)"):
        read_stated({"model_version": "m", "labels": ["a", "b"], **told})


def test_a_refused_label_may_stay_refused() -> None:
    refused = {"refused": {"b": "few"}}
    champion = CHAMPION.model_copy(update=refused)
    assert judge(
        (champion, outcomes("s" * 50)), (CHALLENGER.model_copy(update=refused), outcomes("r" * 50)), ()
    ).promote


def test_errors_of_one_label_are_not_hidden_by_the_answers_of_another() -> None:
    """8 of 1,000 accepted predictions are wrong, and 8 of 100 of the predictions "b"."""
    rest = [Outcome(image=f"b{i}", truth="b", label="b", confidence=0.99, route=Route.ACCEPT) for i in range(92)]
    before = outcomes("r" * 850 + "s" * 58) + [one.model_copy(update={"route": Route.REVIEW}) for one in rest]
    after = outcomes("r" * 900 + "w" * 8) + rest
    verdict = judge((CHAMPION, before), (CHALLENGER, after), ())
    assert "the guarantee is broken: “b”: 8 of 100 accepted predictions wrong" in verdict.reason
    total = CHALLENGER.model_copy(update={"promise": Promise(max_risk={ANY_LABEL: 0.02})})
    old = CHAMPION.model_copy(update={"promise": total.promise})
    assert "promise" not in failed(judge((old, before), (total, after), ()))
    assert verdict.challenger.risk_by_label["b"].value == 0.08


def test_an_accepted_foreign_photo_is_wrong_at_its_stated_share_not_at_that_of_the_held_out_photos() -> None:
    accepted, n = {"a": 90, NEITHER: 30}, {"a": 100, "b": 100, NEITHER: 1000}
    few, many = (
        least_risk("a", accepted, n, promised(mix={"a": (0.5, 0.5)}, foreign_share=share), 0.05)
        for share in (0.01, 0.5)
    )
    assert 0.0 < few < 0.001 < 0.02 < many
    assert least_risk("a", accepted, n, PROMISE, 0.05) == 0.0


@pytest.mark.parametrize("mix", [None, {"a": (0.3, 0.9), "b": (0.1, 0.7)}])
@pytest.mark.parametrize("foreign_share", [0.0, 0.05])
@pytest.mark.parametrize("label_error", [0.0, 0.05])
def test_a_challenger_that_just_keeps_its_promise_is_refused_no_more_often_than_stated(
    mix: dict[str, tuple[float, float]] | None, foreign_share: float, label_error: float
) -> None:
    """Worlds in which both labels' risks are as large as promised, at the worst mix; and errors of people, which make
    correct predictions seem wrong as often as they can.
    """
    draw, hits, foreign, share = np.random.default_rng(7), 0.9, 0.002, 0.5
    promise = promised(max_risk={"a": 0.05, "b": 0.05}, mix=mix, foreign_share=foreign_share, label_error=label_error)
    n = {"a": 400, "b": 400, NEITHER: 1000}

    def wrong_rate(label: str) -> float:
        """At which photos of the other label are accepted as this one, so that its risk is as promised."""
        least = mix[label][0] if mix else share
        other = (0.05 / 0.95 * (1 - foreign_share) * least * hits - foreign_share * foreign) / (1 - foreign_share)
        return other / (1 - least)

    rates = {label: {truth: hits if truth == label else wrong_rate(label) for truth in "ab"} for label in "ab"}
    refused, worlds = 0, 400
    for _ in range(worlds):
        counts = {label: dict.fromkeys(n, 0) for label in (*"ab", "")}
        for truth in n:
            parts = [foreign if truth == NEITHER else rates[label][truth] for label in "ab"]
            taken = draw.multinomial(n[truth], [*parts, 1 - sum(parts)])
            for label, number in zip((*"ab", ""), taken, strict=True):
                seems = "ba"["ab".index(truth)] if truth in "ab" else "a"
                flipped = int(draw.binomial(number, label_error))
                counts[label][truth] += int(number) - flipped
                counts[label][seems] += flipped
        found = {truth: sum(counts[label][truth] for label in counts) for truth in n}
        refused += any(least_risk(label, counts[label], found, promise, ALPHA / 2) > 0.05 for label in "ab")
    assert refused <= ALPHA * worlds + 2 * math.sqrt(ALPHA * worlds)


def test_a_promise_that_is_broken_at_one_promised_mix_is_refuted() -> None:
    """At 50/50 one answer in 28 is wrong, where at most one in 20 may be; at 90 % of the others one in 4."""
    accepted, n = {"a": 900, "b": 33}, {"a": 1000, "b": 1000}
    assert least_risk("a", accepted, n, promised(mix={"a": (0.5, 0.5)}), 0.05) < 0.05
    assert least_risk("a", accepted, n, promised(mix={"a": (0.1, 0.5)}), 0.05) > 0.05
    assert least_risk("a", {"a": 1000, "b": 1000}, n, promised(mix={"a": (0.5, 0.5)}), 0.05) > 0.45


@pytest.mark.parametrize("mix", [None, {"a": (0.4, 0.6)}])
def test_labels_that_err_explain_some_errors_and_not_any_number_of_them(
    mix: dict[str, tuple[float, float]] | None,
) -> None:
    """At a label error of 5 % about 20 of 400 correct predictions seem wrong."""
    n, erring = {"a": 400, "b": 400, NEITHER: 1000}, promised(mix=mix, foreign_share=0.05, label_error=0.05)
    assert least_risk("a", {"a": 360, "b": 24}, n, erring, 0.05) < 0.02
    assert least_risk("a", {"a": 360, "b": 80}, n, erring, 0.05) > 0.02


@pytest.mark.parametrize("wrong", range(0, 30, 3))
def test_without_mix_and_foreign_photos_the_test_is_the_exact_binomial_one(wrong: int) -> None:
    least = least_risk("a", {"a": 200 - wrong, "b": wrong}, {"a": 300, "b": 300}, PROMISE, 0.05)
    assert (least > 0.02) is bool(binom.sf(wrong - 1, 200, 0.02) < 0.05)
    with_errors = least_risk(
        "a", {"a": 200 - wrong, "b": wrong}, {"a": 300, "b": 300}, promised(label_error=0.05), 0.05
    )
    assert (with_errors > 0.02) is bool(binom.sf(wrong - 1, 200, 0.02 + 0.05 * 0.98) < 0.05)


def test_labels_that_err_ask_for_more_images_before_one_model_is_shown_to_be_better() -> None:
    erring: dict[str, Any] = {"promise": promised(label_error=0.1)}
    assert compare("r" * 100 + "s" * 5, "r" * 105).promote
    assert failed(compare("r" * 100 + "s" * 5, "r" * 105, **erring)) == ["better"]
    assert compare("r" * 100 + "s" * 6, "r" * 106, **erring).promote


def test_leaked_images_refuse_it_however_good_it_looks() -> None:
    verdict = compare("s" * 100 + "r" * 100, "r" * 200, leaked=["x.png", "y.png"])
    assert failed(verdict) == ["leakage"]
    assert "2 held-out photos among the training photos (x.png, y.png)" in verdict.reason


def test_leakage_that_nobody_looked_for_is_told() -> None:
    verdict = compare("s" * 100 + "r" * 100, "r" * 200, leaked=None)
    assert verdict.promote
    assert "leakage was not checked" in verdict.reason


def test_only_answers_to_the_same_images_are_compared() -> None:
    with pytest.raises(ValueError, match="the same photos"):
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


@pytest.fixture
def contenders(tmp_path: Path, colour_model: Callable[..., Path]) -> tuple[Path, Path, Path]:
    """A champion that sends everything to review, a challenger that decides, and twelve images."""
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
    code, out, _ = run("gate", champion, challenger, images, "--json")
    assert code == 0
    verdict = json.loads(out)
    assert verdict["promote"] is True
    assert verdict["challenger"]["coverage"]["value"] == 1.0
    code, out, _ = run("gate", challenger, champion, images)
    assert code == 4
    assert "champion does not replace champion challenger" in out


def test_the_command_finds_leaks_in_whatever_format(contenders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    champion, challenger, images = contenders
    (tmp_path / "train").mkdir()
    with Image.open(images / "red" / "0.png") as image:
        image.save(tmp_path / "train" / "copy.bmp")
    code, out, _ = run("gate", champion, challenger, images, "--trained-on", tmp_path / "train")
    assert code == 4
    assert "red/0.png" in out


def test_photos_of_which_none_can_be_read_are_named(contenders: tuple[Path, Path, Path]) -> None:
    champion, challenger, images = contenders
    for photo in images.glob("*/*.png"):
        photo.unlink()
    (images / "red/gone.png").symlink_to("nowhere")
    code, out, err = run("gate", champion, challenger, images)
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        f"error: {images}: champion and challenger must classify the same photos, at least one",
        f"error: left out: {images}/red/gone.png: No such file or directory",
    ]


def test_an_empty_folder_of_training_images_is_an_error(contenders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    code, _, err = run("gate", *contenders, "--trained-on", tmp_path / "nothing")
    assert code == 1
    assert "nothing: no photos to compare with" in err
