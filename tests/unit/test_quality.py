"""Intervals and scores, on numbers whose truth is known."""

import random
from collections.abc import Callable

import pytest
from scipy import stats

from kickstand import quality
from kickstand.quality import Interval


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662), (1, 20, 0.0089, 0.2361)],
)
def test_wilson_interval_agrees_with_published_values(successes: int, n: int, low: float, high: float) -> None:
    interval = quality.wilson_interval(successes, n)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-4)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"), [(0, 10, 0.0, 0.3085), (3, 10, 0.0667, 0.6525), (10, 10, 0.6915, 1.0)]
)
def test_clopper_pearson_agrees_with_published_values(successes: int, n: int, low: float, high: float) -> None:
    interval = quality.clopper_pearson(successes, n)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-4)


@pytest.mark.parametrize("interval", [quality.wilson_interval, quality.clopper_pearson])
def test_nothing_observed_tells_nothing(interval: Callable[[int, int], Interval]) -> None:
    assert interval(0, 0) == Interval(0.0, 0.0, 1.0, 0)


def test_the_exact_interval_covers_the_truth_at_least_as_often_as_it_says() -> None:
    draw = random.Random(3)
    n, truth, rounds, hits = 60, 0.05, 600, 0
    table = [quality.clopper_pearson(k, n) for k in range(n + 1)]
    for _ in range(rounds):
        interval = table[sum(draw.random() < truth for _ in range(n))]
        hits += interval.low <= truth <= interval.high
    assert hits / rounds >= 0.95


def test_binomial_tail_survives_large_counts() -> None:
    assert quality.binomial_cdf(50_000, 100_000, 0.5) == pytest.approx(0.5, abs=0.003)
    assert quality.binomial_cdf(0, 100_000, 0.5) == 0.0


def test_calibration_error_of_honest_confidences_is_small_and_of_boasting_ones_is_not() -> None:
    draw = random.Random(5)
    confidences = [draw.uniform(0.5, 1.0) for _ in range(5000)]
    honest = [draw.random() < confidence for confidence in confidences]
    boasting = [draw.random() < 0.5 for _ in confidences]
    assert quality.expected_calibration_error(confidences, honest) < 0.03
    assert quality.expected_calibration_error(confidences, boasting) > 0.2


def test_auroc_counts_ties_half_like_the_pairwise_definition() -> None:
    draw = random.Random(7)
    scores = [round(draw.random(), 1) for _ in range(120)]
    positives = [draw.random() < 0.4 for _ in scores]
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, is_positive in zip(scores, positives, strict=True)
        if is_positive
        for b, other in zip(scores, positives, strict=True)
        if not other
    ]
    assert quality.auroc(scores, positives) == pytest.approx(sum(pairs) / len(pairs))


@pytest.mark.parametrize("positives", [[True, True], [False, False]])
def test_auroc_without_both_kinds_is_a_coin_toss(positives: list[bool]) -> None:
    assert quality.auroc([0.1, 0.9], positives) == 0.5


def test_the_curve_ends_with_everything_accepted() -> None:
    last = quality.risk_coverage([0.9, 0.7, 0.7, 0.2], [True, True, False, False])[-1]
    assert (last.coverage, last.selective_risk) == (1.0, 0.5)


def test_a_bootstrap_is_repeatable_and_holds_the_estimate() -> None:
    values = [random.Random(i).random() for i in range(200)]

    def mean(rows: object) -> float:
        return sum(values[i] for i in rows) / len(values)  # type: ignore[attr-defined]

    first = quality.bootstrap_interval(mean, len(values), seed=1, resamples=200)
    assert first == quality.bootstrap_interval(mean, len(values), seed=1, resamples=200)
    assert first.low < first.value < first.high


def answers(draw: random.Random, n: int) -> tuple[list[float], list[bool]]:
    """Answers whose chance of being wrong at confidence c is 0.3 (1 - c)."""
    confidences = [draw.random() for _ in range(n)]
    return confidences, [draw.random() >= 0.3 * (1 - confidence) for confidence in confidences]


@pytest.mark.parametrize("n", [1, 2, 17, 150, 3000])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99999])
def test_exact_bounds_and_tails_are_those_of_scipy(n: int, share: float, level: float) -> None:
    k = round(share * n)
    upper = 1.0 if k == n else stats.beta.ppf(level, k + 1, n - k)
    lower = 0.0 if k == 0 else stats.beta.ppf(1 - level, k, n - k + 1)
    assert quality.upper_bound(k, n, level) == pytest.approx(upper, abs=1e-9)
    assert quality.lower_bound(k, n, level) == pytest.approx(lower, abs=1e-9)
    assert quality.binomial_cdf(k, n, 0.013) == pytest.approx(stats.binom.cdf(k, n, 0.013), rel=1e-9, abs=1e-12)


def test_dear_errors_raise_the_threshold() -> None:
    confidences, correct = answers(random.Random(4), 2000)
    cheap, _ = quality.cheapest_threshold(confidences, correct, review_cost=1, error_cost=5)
    dear, _ = quality.cheapest_threshold(confidences, correct, review_cost=1, error_cost=50)
    assert dear > cheap


def test_when_a_review_costs_nothing_everything_is_reviewed() -> None:
    assert quality.cheapest_threshold([0.9], [True], review_cost=0.0, error_cost=1.0) == (1.1, 0.0)
