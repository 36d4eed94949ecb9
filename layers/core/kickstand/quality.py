"""The quality of the predictions with its uncertainty, and thresholds."""

import math
import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import NormalDist, fmean
from typing import Any, NamedTuple


class Interval(NamedTuple):
    """An estimate with a confidence interval, from n observations."""

    value: float
    low: float
    high: float
    n: int

    def rounded(self, digits: int = 5) -> dict[str, Any]:
        """The estimate as JSON.

        >>> wilson_interval(2, 3).rounded(2)
        {'value': 0.67, 'low': 0.21, 'high': 0.94, 'n': 3}
        """
        return {name: round(value, digits) for name, value in self._asdict().items()}


def wilson_interval(successes: int, n: int) -> Interval:
    """A share with its score interval: Wilson, JASA 22 (1927), 209–212.

    >>> share = wilson_interval(946, 1000)
    >>> f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}]"
    '0.946 [0.930, 0.958]'
    >>> wilson_interval(0, 0)
    Interval(value=0.0, low=0.0, high=1.0, n=0)
    """
    if not n:
        return Interval(0.0, 0.0, 1.0, 0)
    z = NormalDist().inv_cdf(0.975)  # 95 % confidence, two-sided
    share, spread = successes / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(share, low, high, n)


NEGLIGIBLE = 1e-18  # of a term, relative to the largest


def binomial_cdf(k: int, n: int, p: float) -> float:
    """Probability of at most k successes in n trials of probability p.

    >>> round(binomial_cdf(1, 3, 0.5), 6)
    0.5
    """
    if k < 0:
        return 0.0
    if k >= n or p <= 0.0:
        return 1.0
    if p >= 1.0:
        return 0.0
    # From the largest term outwards: beyond a few standard deviations the terms are negligible.
    mode, odds = min(k, int((n + 1) * p)), p / (1.0 - p)
    largest = math.lgamma(n + 1) - math.lgamma(mode + 1) - math.lgamma(n - mode + 1)
    largest += mode * math.log(p) + (n - mode) * math.log1p(-p)
    total = term = 1.0
    for i in range(mode, 0, -1):
        term *= i / ((n - i + 1) * odds)
        total += term
        if term < NEGLIGIBLE:
            break
    term = 1.0
    for i in range(mode + 1, k + 1):
        term *= (n - i + 1) * odds / i
        total += term
        if term < NEGLIGIBLE:
            break
    return min(1.0, math.exp(largest) * total)


def solve(rises: Callable[[float], bool]) -> float:
    """The probability in [0, 1] at which a condition that turns true once does so, to ten digits."""
    low, high = 0.0, 1.0
    for _ in range(36):
        middle = (low + high) / 2
        low, high = (low, middle) if rises(middle) else (middle, high)
    return (low + high) / 2


@lru_cache(maxsize=100_000)
def upper_bound(errors: int, n: int, confidence_level: float = 0.95) -> float:
    """Upper confidence bound of an error rate, from this many errors in n; one-sided and exact (Clopper–Pearson).

    >>> round(upper_bound(0, 149), 4)
    0.0199
    """
    return 1.0 if errors >= n else solve(lambda p: binomial_cdf(errors, n, p) <= 1 - confidence_level)


def lower_bound(successes: int, n: int, confidence_level: float) -> float:
    """Lower confidence bound of a rate, from this many successes in n; one-sided and exact (Clopper–Pearson).

    >>> round(lower_bound(149, 149, 0.95), 4)
    0.9801
    """
    return 1 - upper_bound(n - successes, n, confidence_level) if n else 0.0


def clopper_pearson(successes: int, n: int, confidence_level: float = 0.95) -> Interval:
    """A share with its exact two-sided interval: Clopper and Pearson, Biometrika 26 (1934), 404–413.

    >>> share = clopper_pearson(5, 10)
    >>> f"{share.low:.3f} {share.high:.3f}"
    '0.187 0.813'
    """
    if not n:
        return Interval(0.0, 0.0, 1.0, 0)
    one_sided = (1 + confidence_level) / 2
    low = lower_bound(successes, n, one_sided)
    return Interval(successes / n, low, upper_bound(successes, n, one_sided), n)


def expected_calibration_error(confidences: Sequence[float], correct: Sequence[bool], bins: int = 15) -> float:
    """Mean distance between confidence and accuracy over bins of equal size: Naeini et al., AAAI 2015; equal mass as
    in Nguyen and O'Connor, EMNLP 2015, because most confidences fall into the last bin of equal width.

    >>> expected_calibration_error([0.75, 0.75, 0.75, 0.75], [True, True, True, False], bins=1)
    0.0
    """
    ranked = sorted(zip(confidences, correct, strict=True), key=lambda pair: pair[0])
    n, error = len(ranked), 0.0
    for index in range(bins):
        part = ranked[index * n // bins : (index + 1) * n // bins]
        if part:
            error += abs(fmean(c for c, _ in part) - fmean(ok for _, ok in part)) * len(part) / n
    return error


def brier_score(probabilities: Sequence[Sequence[float]], classes: Sequence[int]) -> float:
    """Mean squared distance between the probabilities and the truth, in [0, 2]: Brier, Mon. Weather Rev. 78 (1950).

    >>> round(brier_score([[0.8, 0.2]], [0]), 6)
    0.08
    """
    return fmean(
        math.fsum((p - (index == truth)) ** 2 for index, p in enumerate(row))
        for row, truth in zip(probabilities, classes, strict=True)
    )


def negative_log_likelihood(probabilities: Sequence[Sequence[float]], classes: Sequence[int]) -> float:
    """Mean of -ln p(truth), nats; a probability of 0 counts as 1e-12.

    >>> negative_log_likelihood([[1.0, 0.0]], [0])
    0.0
    """
    return fmean(-math.log(max(row[truth], 1e-12)) + 0.0 for row, truth in zip(probabilities, classes, strict=True))


def auroc(scores: Sequence[float], positives: Sequence[bool]) -> float:
    """Probability that a positive scores above a negative, ties counting half; 0.5 when either kind is missing.

    Hanley and McNeil, Radiology 143 (1982), 29–36.

    >>> auroc([0.9, 0.8, 0.8, 0.1], [True, True, False, False])
    0.875
    """
    negatives = sorted(score for score, positive in zip(scores, positives, strict=True) if not positive)
    ranked = sorted(score for score, positive in zip(scores, positives, strict=True) if positive)
    if not negatives or not ranked:
        return 0.5
    below = equal_or_below = 0
    wins = 0.0
    for score in ranked:
        below = bisect_left(negatives, score, lo=below)
        equal_or_below = max(equal_or_below, below)
        while equal_or_below < len(negatives) and negatives[equal_or_below] <= score:
            equal_or_below += 1
        wins += (below + equal_or_below) / 2
    return wins / (len(negatives) * len(ranked))


class RiskCoverage(NamedTuple):
    """The effect of a threshold: it accepts a share (coverage), of which a share is wrong (selective risk)."""

    accept_at: float
    accepted: int
    errors: int
    coverage: float
    selective_risk: float


def risk_coverage(confidences: Sequence[float], correct: Sequence[bool]) -> list[RiskCoverage]:
    """The curve over all distinct thresholds, strictest first: El-Yaniv and Wiener, JMLR 11 (2010), 1605–1641.

    >>> [(point.accept_at, point.errors) for point in risk_coverage([0.9, 0.6, 0.6], [True, False, True])]
    [(0.9, 0), (0.6, 1)]
    """
    ranked = sorted(zip(confidences, correct, strict=True), key=lambda pair: -pair[0])
    curve: list[RiskCoverage] = []
    errors = 0
    for accepted, (confidence, ok) in enumerate(ranked, start=1):
        errors += not ok
        if accepted == len(ranked) or ranked[accepted][0] != confidence:
            curve.append(RiskCoverage(confidence, accepted, errors, accepted / len(ranked), errors / accepted))
    return curve


def area_under_risk_coverage(confidences: Sequence[float], correct: Sequence[bool]) -> float:
    """Selective risk, averaged over all coverages; smaller is better: Geifman et al., ICLR 2019.

    >>> area_under_risk_coverage([0.9, 0.6], [True, False])
    0.25
    """
    previous, area = 0, 0.0
    for point in risk_coverage(confidences, correct):
        area += point.selective_risk * (point.accepted - previous)
        previous = point.accepted
    return area / previous if previous else 0.0


def bootstrap_interval(
    statistic: Callable[[Sequence[int]], float],
    n: int,
    seed: int = 0,
    resamples: int = 1000,
) -> Interval:
    """A statistic with its percentile interval: Efron, Annals of Statistics 7 (1979), 1–26.

    statistic: takes the indices of a resample, drawn with replacement from range(n).

    >>> bootstrap_interval(lambda rows: fmean(rows), 1).n
    1
    """
    draw = random.Random(seed)  # noqa: S311 - a resample is not a secret
    values = sorted(statistic([draw.randrange(n) for _ in range(n)]) for _ in range(resamples))
    tail = 0.025  # 95 % confidence, two-sided
    low, high = math.floor(tail * (resamples - 1)), math.ceil((1 - tail) * (resamples - 1))
    return Interval(statistic(range(n)), values[low], values[high], n)


def accepted_needed(error_rate: float, max_risk: float, confidence_level: float) -> int:
    """Accepted predictions that show max_risk when this share of them is wrong; error_rate < max_risk.

    >>> accepted_needed(0.0, 0.02, 0.95)
    149
    """

    def shows(n: int) -> bool:
        return binomial_cdf(math.floor(error_rate * n), n, max_risk) <= 1 - confidence_level

    high = 1
    while not shows(high):
        high *= 2
    low = high // 2
    # Errors are rounded down, so `shows` is not monotonic over a few predictions; the first one found is good enough.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return high


def cheapest_threshold(
    confidences: Sequence[float], correct: Sequence[bool], review_cost: float, error_cost: float
) -> tuple[float, float]:
    """(threshold, mean cost per photo) with the least cost, given the price of a review and of an accepted error.

    A threshold above 1 sends everything to review.

    >>> cheapest_threshold([0.9, 0.8, 0.6], [True, True, False], review_cost=1, error_cost=10)
    (0.8, 0.3333333333333333)
    """
    n = len(confidences)
    best = (1.1, review_cost)
    for point in risk_coverage(confidences, correct):
        cost = (point.errors * error_cost + (n - point.accepted) * review_cost) / n
        if point.accept_at > 0.0 and cost < best[1]:
            best = (point.accept_at, cost)
    return best
