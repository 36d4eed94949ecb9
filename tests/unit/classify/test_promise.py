"""The promise about each label: kept at every promised mix, with wrong labels, with photos of neither; or refused."""

import random
from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError

from bench.promise import FOREIGN_SHARE, LABELS, MAX_RISK, World, try_world
from kickstand.classify.promise import (
    ANY_LABEL,
    Answered,
    Guaranteed,
    Mix,
    Promise,
    bound_risk,
    derive_cheapest,
    derive_promised,
    keep_promise,
    largest_shares,
    worst_mix,
)
from kickstand.events import NEITHER, SelectivePolicy

GATES = {"neither_accept_at_most": 0.2, "neither_reject_at_least": 0.9}
TWO = dict.fromkeys("ab", 0.02)


def answered(truth: str, label: str, n: int, confidence: float = 0.9) -> list[Answered]:
    return [Answered(truth, label, confidence)] * n


def spread(truth: str, label: str, n: int) -> list[Answered]:
    """Confidences from 1 downwards, all different."""
    return [Answered(truth, label, 1 - i / (2 * n)) for i in range(n)]


# ---- simulation: worlds whose true risk is known; `make bench-promise` runs thousands


@pytest.mark.parametrize(("bicycles", "label_error"), [(0.5, 0.0), (0.5, 0.05), (0.7, 0.02), (0.9, 0.0), (0.98, 0.0)])
def test_the_promise_is_broken_in_no_more_worlds_than_stated(bicycles: float, label_error: float) -> None:
    n = 40
    worlds = [try_world(seed, bicycles, label_error, photos=800)["per label"] for seed in range(n)]
    # 5 % is allowed: in 40 worlds more than 6 broken ones come with a chance of 0.3 %.
    assert sum(world["broken"] for world in worlds) <= 6
    assert sum(world["coverage"] for world in worlds) / n > 0.2, "kept by accepting nothing, it would be worth nothing"


def test_one_threshold_for_all_labels_breaks_it_where_nine_of_ten_ride_bicycles() -> None:
    worlds = [try_world(seed, 0.9, 0.0, photos=1000)["one threshold"] for seed in range(20)]
    assert sum(world["broken"] for world in worlds) >= 18


def test_worlds_know_their_true_risk() -> None:
    random_numbers = np.random.default_rng(3)
    world = World.draw(random_numbers)
    photos = world.answers(random_numbers, {"bicycle": 60_000, "motorcycle": 40_000})
    taken = Counter(photo.truth for photo in photos if photo.label == "motorcycle" and photo.confidence >= 0.9)
    wrong = taken["bicycle"] / taken.total()
    assert world.risk("motorcycle", 0.9, 0.6, 0.0) == pytest.approx(wrong, abs=0.01)


def test_a_promise_without_a_mix_holds_for_evidence_that_comes_as_the_stream_does() -> None:
    broken = 0
    for seed in range(40):
        draw = np.random.default_rng([9, seed])
        world = World.draw(draw)
        bicycles = int(draw.binomial(2000, 0.8))
        photos = world.answers(draw, {"bicycle": bicycles, "motorcycle": 2000 - bicycles, NEITHER: 1000})
        promise = Promise(max_risk=dict.fromkeys(LABELS, MAX_RISK), foreign_share=FOREIGN_SHARE)
        told = keep_promise(photos, promise, explain=False)
        broken += any(
            one.threshold is not None and world.risk(label, one.threshold, 0.8, FOREIGN_SHARE) > MAX_RISK
            for label, one in told.items()
        )
    assert broken <= 6


# ---- thresholds


def test_each_label_has_the_threshold_that_its_own_errors_ask_for() -> None:
    photos = spread("a", "a", 1000) + spread("b", "b", 1000) + [Answered("b", "a", 0.6)] * 100
    told = keep_promise(photos, Promise(max_risk=TWO))
    assert told["a"].threshold is not None
    assert told["a"].threshold > 0.6
    assert told["b"].threshold == pytest.approx(0.5, abs=0.01)
    assert (told["a"].wrong, told["b"].wrong) == (0, 0)


def test_a_label_may_be_promised_more_than_another() -> None:
    draw = random.Random(1)
    photos = []
    for truth, other in (("a", "b"), ("b", "a")):
        for _ in range(8000):
            confidence = draw.uniform(0.5, 1.0)
            wrong = draw.random() < 0.4 * (1 - confidence) ** 2
            photos.append(Answered(truth, other if wrong else truth, confidence))
    told = keep_promise(photos, Promise(max_risk={"a": 0.01, "b": 0.03}))
    strict, lax = told["a"].threshold, told["b"].threshold
    assert strict is not None
    assert lax is not None
    assert strict > lax + 0.1


def test_one_wrong_label_among_the_surest_answers_does_not_end_the_tests() -> None:
    photos = spread("a", "a", 1000) + spread("b", "b", 1000) + [Answered("b", "a", 0.999)]
    told = keep_promise(photos, Promise(max_risk=TWO))
    assert told["a"].right > 900
    assert told["a"].wrong == 1


def test_a_model_that_is_good_at_its_surest_answers_alone_is_accepted_there() -> None:
    photos = [Answered("a", "a" if i < 1000 or i % 10 else "b", 1 - i / 8000) for i in range(4000)]
    photos += [Answered("b", "b" if i < 1000 or i % 10 else "a", 1 - i / 8000) for i in range(4000)]
    told = keep_promise(photos, Promise(max_risk=TWO))["a"]
    assert 900 < told.right < 1500


def test_a_photo_that_the_gate_on_neither_refuses_is_never_accepted() -> None:
    photos = spread("a", "a", 400) + spread("b", "b", 400) + answered("b", "a", 300, confidence=0.0)
    assert keep_promise(photos, Promise(max_risk=TWO))["a"].wrong == 0


def test_accepted_photos_of_neither_count_as_wrong_at_their_stated_share() -> None:
    photos = spread("a", "a", 1000) + spread("b", "b", 1000) + spread(NEITHER, "a", 1000)
    free = keep_promise(photos, Promise(max_risk=TWO))
    held = keep_promise(photos, Promise(max_risk=TWO, foreign_share=0.05))
    assert free["a"].threshold == pytest.approx(0.5, abs=0.01)
    assert held["a"].threshold is None  # every fifth photo of neither would do: 5 % of them among half of 95 %
    assert held["b"].threshold == pytest.approx(0.5, abs=0.01)


def test_without_photos_of_neither_nothing_is_promised_about_them() -> None:
    told = keep_promise(spread("a", "a", 1000) + spread("b", "b", 1000), Promise(max_risk=TWO, foreign_share=0.05))
    assert told["a"].missing is not None
    assert set(told["a"].missing) == {NEITHER}


@pytest.mark.parametrize("label_error", [0.01, 0.05, 0.2])
def test_labels_that_err_only_ever_raise_a_threshold(label_error: float) -> None:
    draw = np.random.default_rng(5)
    photos = World.draw(draw).answers(draw, {"bicycle": 3000, "motorcycle": 3000, NEITHER: 3000})
    for mix in (None, {"bicycle": (0.4, 0.6)}):
        promise = Promise(max_risk=dict.fromkeys(LABELS, 0.1), mix=mix)
        doubt = promise.model_copy(update={"label_error": label_error})
        sure, doubtful = (keep_promise(photos, one, explain=False) for one in (promise, doubt))
        for label in LABELS:
            assert (doubtful[label].threshold or 2.0) >= (sure[label].threshold or 2.0)


# ---- refusals


def test_half_and_half_needs_about_the_photos_that_arithmetic_asks_for() -> None:
    """0 of n at 98 % shows 2 %: n = ln(0.02) / ln(0.98) = 194."""
    assert keep_promise(spread("a", "a", 194) + spread("b", "b", 194), Promise(max_risk=TWO))["a"].threshold
    told = keep_promise(spread("a", "a", 193) + spread("b", "b", 193), Promise(max_risk=TWO))
    assert told["a"].threshold is None
    assert (told["a"].refused or "").endswith(" would")


def test_at_nine_to_one_the_rare_label_needs_photos_of_the_common_one() -> None:
    photos = spread("a", "a", 600) + spread("b", "b", 600)
    promise = Promise(max_risk=TWO, mix={"a": (0.9, 0.9)})
    told = keep_promise(photos, promise)
    assert told["a"].threshold is not None
    assert told["b"].threshold is None
    assert told["b"].missing is not None
    assert set(told["b"].missing) == {"a"}
    enough = keep_promise(spread("a", "a", 600 + told["b"].missing["a"]) + spread("b", "b", 600), promise)
    assert enough["b"].threshold is not None


def test_a_model_that_is_too_bad_is_told_so_instead_of_asking_for_photos() -> None:
    photos = [Answered("ab"[i % 2], "ab"[(i % 5 == 0) ^ (i % 2)], 0.9) for i in range(4000)]
    told = keep_promise(photos, Promise(max_risk=TWO))["a"]
    assert (told.threshold, told.missing) == (None, None)
    assert "a better model" in (told.refused or "")


def test_nothing_can_be_promised_about_a_label_that_the_mix_may_not_hold() -> None:
    told = keep_promise(spread("a", "a", 500) + spread("b", "b", 500), Promise(max_risk=TWO, mix={"a": (0.5, 1.0)}))
    assert "may hold none of this class" in (told["b"].refused or "")


@pytest.mark.parametrize(
    "photos", [[], [Answered("a", "a", 0.9)], [Answered("a", "b", 0.9)], [Answered(NEITHER, "a", 0.9)]]
)
@pytest.mark.parametrize("mix", [None, {"a": (0.5, 0.9)}])
@pytest.mark.parametrize("label_error", [0.0, 0.1])
def test_evidence_without_photos_is_refused_without_an_error(
    photos: list[Answered], mix: Mix | None, label_error: float
) -> None:
    promise = Promise(max_risk=TWO, mix=mix, label_error=label_error, foreign_share=0.05)
    policy = derive_promised(photos, promise, GATES, {})
    assert policy["thresholds"] == {"a": None, "b": None}
    assert SelectivePolicy.model_validate(policy).accepts("a", 1.0, 0.0) is False


def test_ten_labels_are_promised_all_at_once() -> None:
    labels = [f"label {i}" for i in range(10)]
    photos = [photo for label in labels for photo in spread(label, label, 400)]
    told = keep_promise(photos, Promise(max_risk=dict.fromkeys(labels, 0.02)))
    assert all(one.threshold is not None for one in told.values())
    told = keep_promise(photos[: 10 * 400 - 390], Promise(max_risk=dict.fromkeys(labels, 0.02)))
    assert [label for label, one in told.items() if one.threshold is None] == ["label 9"]


# ---- bounds and mixes


def test_the_bound_grows_with_errors_and_shrinks_with_photos() -> None:
    promise = Promise(max_risk=TWO, mix={"a": (0.2, 0.8)}, foreign_share=0.1)
    n = {"a": 1000, "b": 1000, NEITHER: 1000}
    bounds = [bound_risk("a", {"a": 900, "b": wrong, NEITHER: 2}, n, promise, 0.05) for wrong in (0, 1, 10)]
    assert bounds == sorted(bounds)
    more = {truth: 10 * number for truth, number in n.items()}
    assert bound_risk("a", {"a": 9000, "b": 100, NEITHER: 20}, more, promise, 0.05) < bounds[2]


@pytest.mark.parametrize(("mix", "share"), [({"a": (0.1, 0.9)}, 0.1), ({"a": (0.3, 0.3)}, 0.3)])
def test_the_bound_is_that_of_the_worst_mix(mix: Mix, share: float) -> None:
    n, accepted = {"a": 10**7, "b": 10**7}, {"a": 9 * 10**6, "b": 10**5}
    promise = Promise(max_risk=TWO, mix=mix)
    plain = (1 - share) * 0.01 / ((1 - share) * 0.01 + share * 0.9)
    assert bound_risk("a", accepted, n, promise, 0.05) == pytest.approx(plain, rel=0.01)


def test_three_labels_take_their_worst_shares_within_their_ranges() -> None:
    mix = {"a": (0.1, 0.5), "b": (0.2, 0.6), "c": (0.0, 0.7)}
    assert worst_mix({"a": 0.0, "b": 1.0, "c": 2.0}, mix) == pytest.approx({"a": 0.1, "b": 0.2, "c": 0.7})
    assert sum(worst_mix({"a": 5.0, "b": 1.0, "c": 2.0}, mix).values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("mix", "tightened"),
    [
        ({"a": (0.9, 0.9)}, {"a": (0.9, 0.9), "b": (0.1, 0.1)}),
        ({"a": (0.5, 0.95)}, {"a": (0.5, 0.95), "b": (0.05, 0.5)}),
        ({"a": (0.2, 1.0), "b": (0.3, 1.0)}, {"a": (0.2, 0.7), "b": (0.3, 0.8)}),
    ],
)
def test_the_share_of_a_label_that_is_not_named_follows_from_the_others(mix: Mix, tightened: Mix) -> None:
    promise = Promise(max_risk=TWO, mix=mix)
    assert promise.mix is not None
    for label, part in tightened.items():
        assert promise.mix[label] == pytest.approx(part)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"mix": {"a": (0.9, 0.9), "b": (0.2, 0.2)}}, "add up to 1"),
        ({"mix": {"a": (0.9, 0.5)}}, "add up to 1"),
        ({"mix": {"c": (0.5, 0.5)}}, "does not know c"),
        ({"max_risk": {}}, "at least one class"),
        ({"max_risk": {"a": 0.0}}, "greater than 0"),
        ({"confidence_level": 1.0}, "less than 1"),
        ({"foreign_share": 1.0}, "less than 1"),
        ({"label_error": 0.5}, "less than 0.5"),
    ],
)
def test_a_promise_without_meaning_is_an_error(fields: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Promise.model_validate({"max_risk": TWO} | fields)


def test_a_mix_in_the_promised_range_never_exceeds_the_shares_that_the_monitor_allows() -> None:
    draw = np.random.default_rng(8)
    world = World.draw(draw)
    photos = world.answers(draw, {"bicycle": 3000, "motorcycle": 3000, NEITHER: 3000})
    promise = Promise(max_risk=dict.fromkeys(LABELS, 0.1), mix={"bicycle": (0.3, 0.8)}, foreign_share=0.1)
    limits = largest_shares(photos, promise)
    for bicycles in (0.3, 0.5, 0.8):
        n = {"bicycle": round(18_000 * bicycles), "motorcycle": round(18_000 * (1 - bicycles)), NEITHER: 2000}
        stream = world.answers(draw, n)
        seen = Counter(photo.label for photo in stream)
        for label in LABELS:
            assert seen[label] / len(stream) <= limits[label] + 0.01
        gated = sum(photo.confidence <= 0.0 for photo in stream)
        assert gated / len(stream) <= limits[NEITHER] + 0.01
    assert limits["bicycle"] < 0.95


# ---- policies


def test_the_same_promise_and_photos_give_the_same_policy_and_another_promise_another_version() -> None:
    photos = spread("a", "a", 500) + spread("b", "b", 500)
    policy = derive_promised(photos, Promise(max_risk=TWO), GATES, {"domain": "photos of a test"})
    again = derive_promised(photos, Promise(max_risk=TWO), GATES, {"domain": "the same, said otherwise"})
    other = derive_promised(photos, Promise(max_risk=TWO, confidence_level=0.9), GATES, {})
    assert policy["policy_version"] == again["policy_version"] != other["policy_version"]
    assert policy["evidence"]["domain"] == "photos of a test"
    assert policy["evidence"]["photos"] == {"a": 500, "b": 500, NEITHER: 0}
    assert Guaranteed.model_validate(policy).promise == Promise(max_risk=TWO)


def test_a_reader_of_one_threshold_alone_accepts_no_more() -> None:
    photos = spread("a", "a", 500) + spread("b", "b", 500) + answered("b", "a", 50, 0.7)
    policy = derive_promised(photos, Promise(max_risk=TWO), GATES, {})
    assert policy["accept_at"] == max(policy["thresholds"].values())
    refused = derive_promised(photos[:600], Promise(max_risk=TWO), GATES, {})
    assert refused["accept_at"] == 1.0


def test_an_older_promise_is_about_the_answers_of_all_labels_together() -> None:
    promise = Guaranteed.model_validate({"accept_at": 0.9, "max_risk": 0.02, "confidence_level": 0.9}).promise
    assert promise is not None
    assert (promise.max_risk, promise.about_labels) == ({ANY_LABEL: 0.02}, False)
    assert (promise.risk_of("a"), promise.risk_of("b")) == (0.02, 0.02)
    assert Guaranteed.model_validate({"accept_at": 0.9, "review_cost": 1.0}).promise is None


def test_what_a_rounded_threshold_lets_in_is_counted() -> None:
    """Answers so sure that five digits do not tell them apart: the wrong ones lie just below the right ones."""
    sure = answered("a", "a", 400, 0.999998) + answered("b", "b", 400, 0.9) + answered("b", "a", 100, 0.999991)
    assert keep_promise(sure, Promise(max_risk=TWO))["a"].threshold is None
    dear = derive_cheapest(sure, ["a", "b"], (1.0, 50.0), GATES, {})
    assert dear["evidence"]["labels"]["a"]["wrong"] == 100


def test_prices_give_each_label_its_cheapest_threshold() -> None:
    photos = spread("a", "a", 100) + spread("b", "b", 100) + answered("b", "a", 50, 0.6)
    dear = derive_cheapest(photos, ["a", "b"], (1.0, 100.0), GATES, {})
    assert dear["thresholds"]["a"] > 0.6
    assert dear["thresholds"]["b"] == pytest.approx(0.505, abs=0.01)
    free = derive_cheapest(photos, ["a", "b"], (0.0, 1.0), GATES, {})
    assert free["thresholds"] == {"a": None, "b": None}
