"""The guarantee of a policy, that of the accepted predictions of each class at most a stated share is wrong;
thresholds.

The guarantee is about each class, not about all photos together: of the photos that are accepted as "motorcycle", at
most `max_risk["motorcycle"]` show something else. It holds for all classes at once, with the stated confidence.
"""

import hashlib
import json
import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from kickstand.events import NEITHER, Payload, Probability
from kickstand.quality import cheapest_threshold, lower_bound, solve, upper_bound, wilson_interval

ANY_LABEL = ""
"""The key of an older guarantee, which was about the accepted predictions of all classes together."""
RIGHT_PART, FOREIGN_PART = 0.05, 0.10
"""Shares of the allowed error for the bounds on correct predictions and on out-of-distribution photos. Both are
estimated from many photos and cost little; the bounds on wrong predictions get the rest."""
SEQUENCES = ((0.8, 2.0, 0.5), (0.1, 3.0, 0.35), (0.1, 4.0, 0.2))
"""Sequences of tests for each class: the part of the allowed error that each takes, how many times below the guaranteed
risk a model must be at the first test, and the largest share of the class's photos accepted there. The first sequence
tolerates some wrong labels among the most confident predictions; the others start stricter, for a model that is only
good at its most confident predictions."""
STEPS = 100
"""Thresholds are tested at every hundredth of a class's photos."""
MOST_STEPS = 80
"""Steps of a tenth in which more photos are tried, up to 1,860 times as many: beyond that a better model is needed."""
SHARE_LEVEL = 0.99
"""Confidence of the largest shares of predictions that a guaranteed mix allows; see `largest_shares`."""

Risk = Annotated[float, Field(gt=0.0, lt=1.0)]
Mix = dict[str, tuple[Probability, Probability]]
"""Smallest and largest share of each class among the photos that show one of the classes."""


class Answered(NamedTuple):
    """A labelled photo that the model has not learnt from, and the model's prediction.

    truth: a class, or "neither". label: the prediction. confidence: of the prediction; 0.0 if p(neither) is too large.
    """

    truth: str
    label: str
    confidence: float


class Promise(Payload):
    """What a policy guarantees about the accepted predictions.

    max_risk: largest share of wrong predictions among the accepted predictions of a class, by class.
    confidence_level: of the guarantee, for all classes at once.
    mix: the shares of the classes for which it holds; None: the mix of the evidence.
    foreign_share: largest share of photos that show none of the classes. Accepting one is a wrong prediction.
    label_error: largest probability that a person's label is wrong, whatever the photo shows and the model predicts.
    """

    max_risk: dict[str, Risk]
    confidence_level: float = Field(default=0.95, gt=0.0, lt=1.0)
    mix: Mix | None = None
    foreign_share: float = Field(default=0.0, ge=0.0, lt=1.0)
    label_error: float = Field(default=0.0, ge=0.0, lt=0.5)

    @field_validator("mix")
    @classmethod
    def _tighten(cls, mix: Mix | None, info: ValidationInfo) -> Mix | None:
        if mix is None:
            return None
        labels = info.data.get("max_risk", mix)
        if unknown := mix.keys() - labels.keys():
            raise ValueError(f"mix: the model does not know {', '.join(sorted(unknown))}")
        ranges = {label: mix.get(label, (0.0, 1.0)) for label in labels}
        low, high = (math.fsum(part[i] for part in ranges.values()) for i in (0, 1))
        if low > 1 + 1e-9 or high < 1 - 1e-9 or any(least > most for least, most in ranges.values()):
            raise ValueError("mix: no shares within these ranges add up to 1")
        return {
            label: (round(max(least, 1 - (high - most)), 9), round(min(most, 1 - (low - least)), 9))
            for label, (least, most) in ranges.items()
        }

    @model_validator(mode="after")
    def _names_a_label(self) -> Self:
        if not self.max_risk:
            raise ValueError("max_risk: a guarantee needs at least one class")
        return self

    @property
    def about_labels(self) -> bool:
        """Whether it is about each class; an older one is about all accepted predictions together."""
        return ANY_LABEL not in self.max_risk

    def risk_of(self, label: str) -> float | None:
        """The largest risk of this class's accepted predictions; None without a guarantee for it."""
        return self.max_risk.get(label if self.about_labels else ANY_LABEL)

    def holds_for(self) -> str:
        """The conditions under which it holds, in words."""
        words = "for the mix of the evidence"
        if self.mix:
            words = "for every mix of " + ", ".join(f"{label} {_range(*part)}" for label, part in self.mix.items())
        if self.foreign_share:
            words += f"; up to {percent(self.foreign_share)} of all photos show none of the classes"
        else:
            words += "; photos that show none of the classes are left out"
        return words + (f"; up to {percent(self.label_error)} of the labels are wrong" if self.label_error else "")


def _range(least: float, most: float) -> str:
    return percent(least) if least == most else f"{percent(least)} to {percent(most)}"


def percent(share: float) -> str:
    """A share in per cent, with three digits.

    >>> percent(0.02), percent(0.69543)
    ('2 %', '69.5 %')
    """
    return f"{100 * share:.3g} %"


class Guaranteed(Payload):
    """The guarantee in the policy of a `model.json`; None without one.

    max_risk, confidence_level: an older one, about all accepted predictions together.
    """

    promise: Promise | None = None
    max_risk: Risk | None = None
    confidence_level: float = Field(default=0.95, gt=0.0, lt=1.0)

    @field_validator("promise", mode="before")
    @classmethod
    def _is_no_null(cls, told: Any) -> Any:
        if told is None:
            raise ValueError("is null; a policy without a guarantee leaves it out")
        return told

    @model_validator(mode="after")
    def _names_the_older_one(self) -> Self:
        if self.promise or self.max_risk is None:
            return self
        older = Promise(max_risk={ANY_LABEL: self.max_risk}, confidence_level=self.confidence_level)
        return self.model_copy(update={"promise": older})


class LabelEvidence(Payload):
    """The evidence about one class's accepted predictions.

    threshold: smallest confidence that is accepted; None: no prediction of this class is accepted.
    right, wrong, foreign: photos accepted as this class that show it, another class, none of the classes.
    upper_bound: of the share of wrong predictions, at the worst mix of the guarantee.
    refused: why the guarantee cannot be shown. missing: about how many more labelled photos would show it, by what they
        show; None if no number helps.
    """

    threshold: Probability | None
    right: int = 0
    wrong: int = 0
    foreign: int = 0
    upper_bound: float | None = None
    refused: str | None = None
    missing: dict[str, int] | None = None


def worst_mix(values: Mapping[str, float], mix: Mix) -> dict[str, float]:
    """The shares within these ranges at which the mean of the values is largest.

    >>> worst_mix({"a": 1.0, "b": 3.0}, {"a": (0.2, 0.9), "b": (0.1, 0.6)})
    {'a': 0.4, 'b': 0.6}
    """
    shares = {label: least for label, (least, _) in mix.items()}
    left = 1 - math.fsum(shares.values())
    for label in sorted(mix, key=lambda name: -values[name]):
        more = min(left, mix[label][1] - mix[label][0])
        shares[label], left = round(shares[label] + more, 12), left - more
    return {label: shares[label] for label in mix}


def bound_risk(label: str, accepted: Mapping[str, int], n: Mapping[str, int], promise: Promise, alpha: float) -> float:
    """Upper bound of the share of wrong predictions among those accepted as this class: the smallest that is shown."""
    return solve(shows_risk(label, accepted, n, promise, alpha))


def shows_risk(
    label: str, accepted: Mapping[str, int], n: Mapping[str, int], promise: Promise, alpha: float
) -> Callable[[float], bool]:
    """Whether these photos show that at most this share of those accepted as the class is wrong. It says so wrongly
    with a probability of at most alpha.

    accepted: photos that are accepted as this class, by what they show. n: all photos, by what they show.

    Exact Clopper–Pearson bounds, combined by Bonferroni. Without a mix, the wrong ones are a share of the accepted
    ones. With a mix, the photos of each class are a sample of their own: the rate of acceptance is bounded from above
    for each other class, and from below for the class itself; the worst mix of the range counts.

    label_error: a person labels a photo wrongly, in either direction, with a probability of at most ε. Hence a share
    of wrong predictions is at most 1 / (1 - ε) of what the labels say; and a rate of acceptance, q being the share
    of these photos in the evidence, at most q / (q - ε) of it.
    """
    error, foreign_share = promise.label_error, promise.foreign_share
    total = sum(n.values())
    others = [truth for truth in promise.max_risk if truth != label]

    def rate(truth: str, part: float) -> float:
        """Upper bound of the rate at which photos of this truth are accepted as the class."""
        share = n.get(truth, 0) / total if total else 0.0
        if share <= error:
            return 1.0
        bound = upper_bound(accepted.get(truth, 0), n.get(truth, 0), 1 - alpha * part)
        return min(1.0, bound * share / (share - error))

    foreign = rate(NEITHER, FOREIGN_PART) if foreign_share else 0.0
    foreign_part = FOREIGN_PART if foreign_share else 0.0
    right = accepted.get(label, 0)
    if promise.mix is None:
        wrong = sum(accepted.get(truth, 0) for truth in others)
        known = sum(n.get(truth, 0) for truth in (label, *others))
        right_part = RIGHT_PART if foreign_share else 0.0
        risk = min(1.0, upper_bound(wrong, right + wrong, 1 - alpha * (1 - right_part - foreign_part)) / (1 - error))
        taken = (1 - foreign_share) * lower_bound(right + wrong, known, 1 - alpha * right_part)
        foreign *= foreign_share
        wrong_share = (taken * risk + foreign) / (taken + foreign) if foreign else risk
        return lambda limit: wrong_share <= limit
    wrong_part = (1 - RIGHT_PART - foreign_part) / max(1, len(others))
    wrongs = {truth: rate(truth, wrong_part) for truth in others}
    hits = lower_bound(right, n.get(label, 0), 1 - alpha * RIGHT_PART)
    if error and n.get(label):
        misled = math.fsum(n.get(truth, 0) * wrongs[truth] for truth in others) + n.get(NEITHER, 0) * foreign
        hits = max(0.0, (1 - error) * hits - error * misled / n[label])

    return keeps_at_every_mix(label, hits, wrongs, foreign, promise)


def keeps_at_every_mix(
    label: str, right: float, wrongs: Mapping[str, float], foreign: float, promise: Promise
) -> Callable[[float], bool]:
    """Whether at most this share of those accepted as the class is wrong, at every guaranteed mix.

    right, wrongs, foreign: rates at which photos of the class, of each other class and of none are accepted as it.
    """

    def is_kept(risk: float) -> bool:
        values = {label: -risk * right} | {truth: (1 - risk) * rate for truth, rate in wrongs.items()}
        mix = worst_mix(values, promise.mix or {})
        known = math.fsum(mix[truth] * value for truth, value in values.items())
        return (1 - promise.foreign_share) * known + promise.foreign_share * (1 - risk) * foreign <= 0.0

    return is_kept


class _Label:
    """The photos with one class as their prediction, ready for counting them above a threshold."""

    def __init__(self, label: str, photos: Iterable[Answered], n: Mapping[str, int], promise: Promise) -> None:
        self.label, self.n, self.promise = label, n, promise
        self.alpha = (1 - promise.confidence_level) / len(promise.max_risk)
        self.max_risk = promise.max_risk[label]
        scores: dict[str, list[float]] = {truth: [] for truth in n}
        for photo in photos:
            if photo.label == label and photo.confidence > 0.0:
                scores[photo.truth].append(-photo.confidence)
        self._scores = {truth: sorted(values) for truth, values in scores.items()}
        self.thresholds = [_round_down(-score) for score in self._scores.get(label, [])]

    def count(self, threshold: float) -> dict[str, int]:
        """How many are accepted from this confidence, by what they show."""
        return {truth: bisect_right(scores, -threshold) for truth, scores in self._scores.items()}

    def passes(self, accepted: Mapping[str, int], part: float, n: Mapping[str, int] | None = None) -> bool:
        """Whether these accepted photos show the guarantee. part: of the allowed error."""
        return shows_risk(self.label, accepted, n or self.n, self.promise, self.alpha * part)(self.max_risk)

    def first(self, part: float, times: float, most: float) -> int | None:
        """How many correct predictions the strictest threshold accepts; None if even all of these photos, accepted
        without a wrong one, would not show the guarantee. It depends only on the numbers of photos.
        """
        n = self.n.get(self.label, 0)

        def passes(right: int, risk: float) -> bool:
            return self.passes({self.label: right} | self._expect(right, risk), part)

        if not n or not passes(n, 0.0):
            return None

        def least(risk: float) -> int:
            return 1 + bisect_left(range(1, n), True, key=lambda right: passes(right, risk))

        return max(least(0.0), min(least(self.max_risk / times), round(most * n)))

    def _expect(self, right: int, risk: float) -> dict[str, int]:
        """The number of wrong predictions at this risk, for this number of right ones."""
        others = [truth for truth in self.promise.max_risk if truth != self.label and self.n.get(truth)]
        odds = risk / (1 - risk)
        if self.promise.mix is None:
            return {others[0]: math.floor(right * odds)} if others else {}
        least = self.promise.mix[self.label][0]
        rate = odds * least / max(1e-12, 1 - least) * right / self.n[self.label]
        return {truth: min(self.n[truth], math.floor(self.n[truth] * rate)) for truth in others}

    def find(self, *, explain: bool) -> LabelEvidence:
        """The lowest threshold that keeps the guarantee, or why there is none.

        Tests run from strict to lax and stop at the first that fails (fixed sequence testing), so the confidence holds
        for the threshold chosen; of the SEQUENCES the one that accepts more counts. A threshold is the confidence of
        the k-th most confident correct prediction, and k depends only on the numbers of photos: then the bounds are
        exact, because the k-th of n correct predictions is at a quantile that has the Beta distribution of Clopper and
        Pearson's lower bound.
        """
        chosen: tuple[float, dict[str, int], float] | None = None
        for part, times, most in SEQUENCES:
            start = self.first(part, times, most)
            step = max(1, self.n.get(self.label, 0) // STEPS)
            # At whole steps, so that two guarantees about the same photos are tested at the same thresholds.
            for rank in range(math.ceil(start / step) * step, len(self.thresholds) + 1, step) if start else ():
                threshold = self.thresholds[rank - 1]
                accepted = self.count(threshold)
                if not self.passes(accepted, part):
                    break
                if chosen is None or threshold < chosen[0]:
                    chosen = threshold, accepted, part
        if chosen is None:
            return self.refuse() if explain else LabelEvidence(threshold=None, refused="cannot be shown")
        threshold, accepted, part = chosen
        bound = bound_risk(self.label, accepted, self.n, self.promise, self.alpha * part)
        told = LabelEvidence(threshold=threshold, upper_bound=round(min(bound, self.max_risk), 6))
        return told.model_copy(update=tally(self.label, accepted))

    def refuse(self) -> LabelEvidence:
        missing = self._missing()
        wish = f"at most {percent(self.max_risk)} of the accepted predictions “{self.label}” are wrong"
        reason = f"these photos cannot show that {wish}"
        if missing:
            names = {NEITHER: "none of the classes"}
            photos = " and ".join(f"{number:,} more photos of {names.get(of, of)}" for of, number in missing.items())
            reason += f"; about {photos} would"
        elif self.promise.mix and self.promise.mix[self.label][0] == 0.0:
            reason += ", for a mix that may hold none of this class"
        elif len(self.thresholds) < 10:
            reason += ": there are too few to say how many more would"
        else:
            reason += ": even the most confident are wrong more often, so a better model is needed"
        return LabelEvidence(threshold=None, refused=reason, missing=missing)

    def _missing(self) -> dict[str, int] | None:
        """How many more photos would show the guarantee, if the model stays as good as it is."""
        # A few predictions without an error say little about the error rate: use whole tenths.
        ranks = [len(self.thresholds) * tenth // 10 for tenth in range(1, 11) if len(self.thresholds) >= 10]
        points = [self.count(self.thresholds[rank - 1]) for rank in ranks]
        truths = [*self.promise.max_risk, *([NEITHER] if self.promise.foreign_share else [])]

        def passes(accepted: Mapping[str, int], growing: Sequence[str], times: float) -> bool:
            """Whether this many times the photos would suffice; a class without photos counts as one correct photo."""
            scales = {truth: times if truth in growing else 1.0 for truth in truths}
            grown = {truth: math.ceil(max(1, self.n.get(truth, 0)) * scale) for truth, scale in scales.items()}
            more = {truth: math.floor(accepted.get(truth, 0) * scale) for truth, scale in scales.items()}
            return self.passes(more, SEQUENCES[0][0], grown)

        def count_steps(accepted: Mapping[str, int], growing: Sequence[str]) -> int:
            return bisect_left(range(MOST_STEPS), True, key=lambda step: passes(accepted, growing, 1.1**step))

        accepted = min(
            points or [{self.label: max(1, self.n.get(self.label, 0))}], key=lambda point: count_steps(point, truths)
        )
        growing, steps = truths, count_steps(accepted, truths)
        if steps == MOST_STEPS:
            return None
        # Prefer more photos of some classes to more of all. Without a mix the photos are one sample: all grow together.
        others = [truth for truth in self.promise.max_risk if truth != self.label]
        apart = [[truth] for truth in (*others, self.label)] if self.promise.mix else [[*others, self.label]]
        for group in (*([[NEITHER]] if NEITHER in truths else []), *apart):
            fewer = [truth for truth in growing if truth not in group]
            if fewer and (fewer_steps := count_steps(accepted, fewer)) <= steps + 4:
                growing, steps = fewer, fewer_steps
        # If a threshold would pass by itself, unlucky errors above it have ended the tests: ask for a tenth more.
        times = 1.1 ** max(1, steps)
        return {truth: math.ceil(max(1, self.n.get(truth, 0)) * times) - self.n.get(truth, 0) for truth in growing}


def _round_down(confidence: float) -> float:
    """A threshold, rounded down to five digits: rounding up would refuse the photo that the threshold comes from.
    It is rounded before photos are counted, so that every accepted photo counts.
    """
    return math.floor(confidence * 1e5) / 1e5


def tally(label: str, accepted: Mapping[str, int]) -> dict[str, int]:
    """Right, wrong and out-of-distribution photos among those accepted as this class."""
    right, foreign = accepted.get(label, 0), accepted.get(NEITHER, 0)
    return {"right": right, "wrong": sum(accepted.values()) - right - foreign, "foreign": foreign}


def keep_promise(photos: Sequence[Answered], promise: Promise, *, explain: bool = True) -> dict[str, LabelEvidence]:
    """For each class the lowest threshold that keeps the guarantee, or why there is none.

    explain: find out which photos are missing, which takes longer than the rest.

    Learn-then-Test: Angelopoulos et al., 2021 (arXiv:2110.01052), one fixed sequence of tests for each class, each at
    (1 - confidence_level) / classes, so that the confidence holds for all classes at once.

    >>> kept = keep_promise(
    ...     [Answered("a", "a", 0.9)] * 400 + [Answered("b", "b", 0.8)] * 400, Promise(max_risk={"a": 0.02, "b": 0.02})
    ... )
    >>> kept["a"].threshold, kept["b"].threshold
    (0.9, 0.8)
    """
    n = Counter(photo.truth for photo in photos)
    return {label: _Label(label, photos, n, promise).find(explain=explain) for label in promise.max_risk}


def largest_shares(photos: Sequence[Answered], promise: Promise) -> dict[str, float]:
    """For each class the largest share of photos that get it as their prediction, whatever the confidence, at any
    guaranteed mix; for "neither", the largest share with too large a p(neither). If the monitor finds more, the mix is
    not the guaranteed one. Empty without a mix.

    Upper bounds, at SHARE_LEVEL for all of them at once.
    """
    if promise.mix is None:
        return {}
    n = Counter(photo.truth for photo in photos)
    truths = (*promise.mix, NEITHER)
    level = 1 - (1 - SHARE_LEVEL) / len(truths) ** 2
    hits = {
        answer: Counter(
            photo.truth for photo in photos if (photo.confidence <= 0.0 if answer == NEITHER else photo.label == answer)
        )
        for answer in truths
    }
    found = {}
    for answer, counts in hits.items():
        rates = {truth: upper_bound(counts[truth], n[truth], level) for truth in truths}
        mix = worst_mix(rates, promise.mix)
        known = math.fsum(share * rates[label] for label, share in mix.items())
        more = promise.foreign_share * max(0.0, rates[NEITHER] - known)
        found[answer] = round(min(1.0, known + more), 6)
    return found


def derive_promised(
    photos: Sequence[Answered], promise: Promise, gates: Mapping[str, float], about: Mapping[str, Any]
) -> dict[str, Any]:
    """The policy, as in `model.json`, that keeps this guarantee. A class whose guarantee cannot be shown has no
    threshold: its predictions go to review.

    gates: neither_accept_at_most and neither_reject_at_least. about: of the evidence: domain, date.
    """
    shown = keep_promise(photos, promise)
    evidence = {
        "labels": {label: told.model_dump(mode="json", exclude_none=True) for label, told in shown.items()},
        "shares_at_most": largest_shares(photos, promise),
    }
    goal = {"promise": promise.model_dump(mode="json")}
    return _compose(photos, {label: told.threshold for label, told in shown.items()}, gates, goal, about, evidence)


def derive_cheapest(
    photos: Sequence[Answered],
    labels: Sequence[str],
    prices: tuple[float, float],
    gates: Mapping[str, float],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """The cheapest policy for the mix of the evidence. prices: of a review, and of accepting a wrong prediction."""
    known = [photo for photo in photos if photo.truth != NEITHER]
    thresholds: dict[str, float | None] = {}
    costs = []
    for label in labels:
        answers = [photo for photo in known if photo.label == label]
        right = [photo.truth == label for photo in answers]
        at, cost = cheapest_threshold([photo.confidence for photo in answers], right, *prices) if answers else (2.0, 0)
        thresholds[label] = _round_down(at) if at <= 1.0 else None
        costs.append(cost * len(answers))
    accepted = _count_accepted(photos, thresholds)
    told = {label: {"threshold": threshold, **tally(label, accepted[label])} for label, threshold in thresholds.items()}
    goal = dict(zip(("review_cost", "error_cost"), prices, strict=True))
    evidence = {"labels": told, "mean_cost": round(math.fsum(costs) / len(known), 6) if known else None}
    return _compose(photos, thresholds, gates, goal, about, evidence)


def _count_accepted(photos: Iterable[Answered], thresholds: Mapping[str, float | None]) -> dict[str, Counter[str]]:
    """For each class how many photos are accepted as it, by what they show."""
    found = {label: Counter[str]() for label in thresholds}
    for photo in photos:
        least = thresholds.get(photo.label)
        if least is not None and 0.0 < photo.confidence >= least:
            found[photo.label][photo.truth] += 1
    return found


def _compose(
    photos: Sequence[Answered],
    thresholds: Mapping[str, float | None],
    gates: Mapping[str, float],
    goal: Mapping[str, Any],
    about: Mapping[str, Any],
    evidence: Mapping[str, Any],
) -> dict[str, Any]:
    policy = {
        # An older reader applies this to every class, so it is the strictest.
        "accept_at": max(1.0 if threshold is None else threshold for threshold in thresholds.values()),
        "thresholds": dict(thresholds),
        **gates,
        **goal,
    }
    version = hashlib.sha256(json.dumps(policy, sort_keys=True).encode()).hexdigest()[:8]
    n = Counter(photo.truth for photo in photos)
    taken = sum(_count_accepted(photos, thresholds).values(), Counter[str]())
    shares = {truth: wilson_interval(taken[truth], n[truth]) for truth in (*thresholds, NEITHER) if n[truth]}
    told = {
        **about,
        "photos": {truth: n[truth] for truth in (*thresholds, NEITHER)},
        "coverage": {truth: share.rounded() for truth, share in shares.items()},
        **evidence,
    }
    return {"policy_version": version, **policy, "evidence": told}
