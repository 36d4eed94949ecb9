"""The gate of the model registry: can the challenger replace the champion? One paired test on the same photos.

A photo is *served* if the correct prediction needs no person (for a photo that shows none of the classes: if it is not
accepted), and *harmed* if a wrong prediction is accepted. Both are yes or no for each photo and model, so the exact
McNemar test compares the models on the photos on which they differ: McNemar, Psychometrika 12 (1947), 153–157. The
alternative was a paired bootstrap of risk and coverage. But a good model harms one photo in a hundred, and resamples of
200 photos with one error or none have no tail; the binomial distribution has.

All tests are one-sided and exact: better (served more), not worse (not harmed more), guarantee and confidences not
contradicted by the photos. Only "better" must be shown; the others must not be refuted.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, ValidationError

from kickstand.classify.promise import (
    ANY_LABEL,
    FOREIGN_PART,
    RIGHT_PART,
    Promise,
    keeps_at_every_mix,
    tally,
)
from kickstand.classify.stated import Share, StatedCard
from kickstand.errors import first_complaint
from kickstand.events import NEITHER, Payload, Probability, Route
from kickstand.quality import (
    Interval,
    binomial_cdf,
    clopper_pearson,
    lower_bound,
    solve,
    upper_bound,
    wilson_interval,
)
from kickstand.text import counted

ALPHA = 0.05
"""A challenger that is not better is promoted at most this often."""
CALIBRATION_ALPHA = 0.01
"""Smaller, because a good challenger may fail this additional test by chance, and coverage already shows most of it."""


class Outcome(Payload):
    """One model's prediction for one held-out photo.

    image: its name, the same for both models. truth: a class, or "neither".
    label, confidence: None and 0 for a photo that the model cannot read.
    """

    image: str
    truth: str
    label: str | None
    confidence: Probability
    route: Route

    @property
    def accepted(self) -> bool:
        return self.route is Route.ACCEPT

    @property
    def correct(self) -> bool:
        return self.label == self.truth

    @property
    def served(self) -> bool:
        """No person is needed, and the prediction is correct."""
        return not self.accepted if self.truth == NEITHER else self.accepted and self.correct

    @property
    def harmed(self) -> bool:
        """A wrong prediction is accepted."""
        return self.accepted and not self.correct


class Stated(Payload):
    """The statements of a model card. promise: None without one. refused: why the guarantee cannot be shown, by class;
    all predictions of such a class go to review. metrics: those of the card that have an interval.
    """

    model_version: str
    labels: tuple[str, ...]
    promise: Promise | None = None
    refused: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, Share] = Field(default_factory=dict)

    def refuses(self, label: str) -> bool:
        """Whether all predictions of this class go to review."""
        return label in self.refused or ANY_LABEL in self.refused


def as_stated(card: StatedCard) -> Stated:
    """The card, for the gate."""
    evidence = card.policy.evidence
    refused = dict.fromkeys(card.policy.unaccepted, "its policy has no threshold")
    refused |= {ANY_LABEL: evidence.refused} if evidence.refused else {}
    refused |= {label: told.refused for label, told in evidence.labels.items() if told.refused}
    return Stated(
        model_version=card.model_version,
        labels=card.labels,
        promise=card.policy.promise,
        refused=refused,
        metrics=card.metrics,
    )


def read_stated(card: dict[str, Any]) -> Stated:
    """Read from the content of `model.json`. Raises ValueError if it is invalid."""
    try:
        return as_stated(StatedCard.model_validate(card))
    except ValidationError as error:
        raise ValueError(f"model.json: {first_complaint(error)}") from error


class Check(Payload):
    """One condition. passed: None if it could not be checked. told: in plain words, with the numbers."""

    name: str
    passed: bool | None
    told: str


class Score(Payload):
    """One model on the held-out photos.

    accuracy, coverage: of photos that show a class. selective_risk: of the accepted ones among them; risk_by_label: the
    same, of those accepted as one class. foreign_accepted: of photos that show none. served, harmed: of all.
    """

    model_version: str
    accuracy: Share
    coverage: Share
    selective_risk: Share
    foreign_accepted: Share
    served: Share
    harmed: Share
    risk_by_label: dict[str, Share] = Field(default_factory=dict)


class Verdict(Payload):
    """Whether the challenger can replace the champion, and why."""

    promote: bool
    reason: str
    champion: Score
    challenger: Score
    checks: tuple[Check, ...]


def mcnemar(ahead: int, behind: int, label_error: float = 0.0) -> float:
    """Probability of at least this many in favour, if a fair coin decides each photo on which two models differ.

    label_error: probability that a label is wrong. A wrong label may turn a photo in favour, so the coin's probability
        is at most 1/2 + label_error / 2.

    >>> round(mcnemar(9, 1), 6)
    0.010742
    >>> mcnemar(0, 0)
    1.0
    """
    return 1.0 - binomial_cdf(ahead - 1, ahead + behind, (1.0 + label_error) / 2)


def at_least(errors: int, probabilities: Sequence[float]) -> float:
    """Probability of at least this many errors, if each prediction is wrong with its own probability.

    The Poisson binomial distribution, by convolution up to the number of errors.

    >>> at_least(1, [0.5, 0.5])
    0.75
    """
    fewer = [1.0] + [0.0] * (errors - 1) if errors else []
    for p in probabilities:
        for k in range(len(fewer) - 1, -1, -1):
            fewer[k] = fewer[k] * (1.0 - p) + (fewer[k - 1] * p if k else 0.0)
    return max(0.0, 1.0 - sum(fewer))


def judge(
    champion: tuple[Stated, Sequence[Outcome]],
    challenger: tuple[Stated, Sequence[Outcome]],
    leaked: Sequence[str] | None,
) -> Verdict:
    """Compare both on the same photos.

    leaked: held-out photos that are among the challenger's training photos; None if that was not checked.

    Raises ValueError without photos, or if the two did not classify the same ones.
    """
    (old, before), (new, after) = champion, challenger
    if not before or [(one.image, one.truth) for one in before] != [(one.image, one.truth) for one in after]:
        raise ValueError("champion and challenger must classify the same photos, at least one")
    error = new.promise.label_error if new.promise else 0.0
    checks = [
        _labels(old, new),
        _leakage(leaked),
        _promise(old, new, after),
        _calibration(after, error),
        _not_worse(before, after, error),
        _better(before, after, error),
    ]
    refused = [check.told for check in checks if check.passed is False]
    unchecked = [check.told for check in checks if check.passed is None]
    reason = "; ".join(refused or [checks[-1].told, *unchecked])
    return Verdict(
        promote=not refused,
        reason=f"challenger {new.model_version} {'can replace' if not refused else 'does not replace'} "
        f"champion {old.model_version}: {reason}",
        champion=score(old, before),
        challenger=score(new, after),
        checks=tuple(checks),
    )


def score(stated: Stated, outcomes: Sequence[Outcome]) -> Score:
    """One model's shares, with intervals: exact for the rare ones, Wilson's for the others."""
    known = [one for one in outcomes if one.truth != NEITHER]
    foreign = [one for one in outcomes if one.truth == NEITHER]
    accepted = [one for one in known if one.accepted]
    by_label = {label: [one.harmed for one in accepted if one.label == label] for label in stated.labels}
    return Score(
        model_version=stated.model_version,
        accuracy=_share(wilson_interval(sum(one.correct for one in known), len(known))),
        coverage=_share(wilson_interval(len(accepted), len(known))),
        selective_risk=_share(clopper_pearson(sum(one.harmed for one in accepted), len(accepted))),
        foreign_accepted=_share(clopper_pearson(sum(one.accepted for one in foreign), len(foreign))),
        served=_share(wilson_interval(sum(one.served for one in outcomes), len(outcomes))),
        harmed=_share(clopper_pearson(sum(one.harmed for one in outcomes), len(outcomes))),
        risk_by_label={label: _share(clopper_pearson(sum(row), len(row))) for label, row in by_label.items()},
    )


def _share(interval: Interval) -> Share:
    return Share(**interval.rounded())


def _labels(old: Stated, new: Stated) -> Check:
    same = set(old.labels) == set(new.labels)
    told = f"labels {', '.join(new.labels)}" + ("" if same else f", where the champion knows {', '.join(old.labels)}")
    return Check(name="labels", passed=same, told=told)


def _leakage(leaked: Sequence[str] | None) -> Check:
    if leaked is None:
        return Check(name="leakage", passed=None, told="leakage was not checked: no training photos were named")
    if leaked:
        named = ", ".join(leaked[:3]) + (" …" if len(leaked) > 3 else "")
        told = (
            f"{counted(len(leaked), 'held-out photo')} among the training photos ({named}): this favours the challenger"
        )
        return Check(name="leakage", passed=False, told=told)
    return Check(name="leakage", passed=True, told="no held-out photo is among the training photos")


def _promise(old: Stated, new: Stated, outcomes: Sequence[Outcome]) -> Check:
    """As strict as the champion's, supported by the challenger's own evidence, and not refuted by these photos."""

    def check(passed: bool, told: str) -> Check:
        return Check(name="promise", passed=passed, told=told)

    promise = new.promise
    labels = [label for label in promise.max_risk if not new.refuses(label)] if promise else []
    if promise is None or not labels:
        why = "; ".join(new.refused.values()) if promise else "its card states none"
        return check(False, f"the challenger has no valid guarantee: {why}")
    if weaker := _weaker(old, new, promise):
        return check(False, "; ".join(weaker))
    told = {label: _refute(label, outcomes, promise, ALPHA / len(labels)) for label in labels}
    broken = [words for refuted, words in told.values() if refuted]
    if broken:
        return check(False, f"the guarantee is broken: {'; '.join(broken)}")
    return check(True, "; ".join(words for _, words in told.values()))


def _weaker(old: Stated, new: Stated, now: Promise) -> list[str]:
    """What the challenger guarantees less than the champion.

    A guarantee about each class implies one about all accepted predictions together, if no class has a larger risk: the
    share of wrong predictions among all is a mean of the classes' shares. The reverse does not follow.
    """
    was = old.promise
    if was is None:
        return []
    by_label = was.about_labels or now.about_labels
    found = []
    for label in old.labels if by_label else (ANY_LABEL,):
        before, after = was.risk_of(label), now.risk_of(label) if now.about_labels or not by_label else None
        about = f" for “{label}”" if label else ""
        if before is not None and after is None:
            found.append(f"it guarantees nothing{about}, the champion a risk of {before:g}")
        elif before is not None and after is not None and after > before:
            found.append(f"it guarantees a risk of {after:g}{about}, the champion {before:g}")
        if new.refuses(label) and not old.refuses(label):
            found.append(f"it accepts no prediction “{label}”, the champion does: {new.refused[label]}")
    if now.confidence_level < was.confidence_level:
        found.append(f"it guarantees with confidence {now.confidence_level:g}, the champion {was.confidence_level:g}")
    if was.mix and now.mix is None:
        found.append(f"its guarantee holds {now.holds_for()}, the champion's {was.holds_for()}")
    for label, (least, most) in (was.mix or {}).items():
        low, high = now.mix.get(label, (1.0, 0.0)) if now.mix else (least, most)
        if low > least or high < most:
            found.append(f"its guarantee allows {low:g}..{high:g} of “{label}”, the champion's {least:g}..{most:g}")
    for name, words in (("foreign_share", "share of out-of-distribution photos"), ("label_error", "label error")):
        before, after = getattr(was, name), getattr(now, name)
        if after < before:
            found.append(f"its guarantee allows a {words} of {after:g}, the champion's {before:g}")
    return found


def _refute(label: str, outcomes: Sequence[Outcome], promise: Promise, alpha: float) -> tuple[bool, str]:
    """Whether these photos contradict the guarantee about one class, and the numbers in words."""
    accepted = [one for one in outcomes if one.accepted and label in (ANY_LABEL, one.label)]
    n = Counter(one.truth for one in outcomes)
    if label == ANY_LABEL:
        known = [one for one in accepted if one.truth != NEITHER]
        wrong, right = sum(one.harmed for one in known), sum(one.correct for one in known)
        least = lower_bound(wrong, len(known), 1 - alpha)
    else:
        truths = Counter(one.truth for one in accepted)
        right, wrong, _ = tally(label, truths).values()
        least = least_risk(label, truths, n, promise, alpha)
    told = f"{f'“{label}”: ' if label else ''}{wrong:,} of {right + wrong:,} accepted predictions wrong"
    if promise.foreign_share:
        foreign = sum(one.truth == NEITHER for one in accepted)
        told += f", {foreign:,} of {n[NEITHER]:,} out-of-distribution photos accepted as it"
    told += f": a risk of at least {least:.4f}, guaranteed at most {promise.max_risk[label]:g}"
    return least > promise.max_risk[label], told


def least_risk(label: str, accepted: Mapping[str, int], n: Mapping[str, int], promise: Promise, alpha: float) -> float:
    """Lower bound of the share of wrong predictions among those accepted as this class, one-sided: above the truth with
    a probability of at most alpha. The counterpart of `bound_risk`, with the same parts of alpha.

    accepted: photos that are accepted as this class, by what they show. n: all photos, by what they show.

    With a mix, the bound is for the mix of the range at which it is largest. The guarantee is about every mix of the
    range, so a single mix at which it fails refutes it; the bounds of the rates hold together for all mixes. A kept
    guarantee is kept at every mix, so it is refuted with a probability of at most alpha.

    label_error: with a probability of at most ε a person labels a photo wrongly, and a correct prediction seems wrong.
    Of the found share p of wrong predictions at least (p - ε) / (1 - ε) are wrong: p is at most r + ε (1 - r). With a
    mix: let q be the share of photos with one label, and a the share of all photos accepted as the class. Then people's
    errors add at most ε a / q to the rate at which the former are accepted; and the rate of right ones is at most q /
    (q - ε) of the found one.
    """
    error, foreign_share, total = promise.label_error, promise.foreign_share, sum(n.values())
    others = [truth for truth in promise.max_risk if truth != label]
    foreign_part = FOREIGN_PART if foreign_share else 0.0
    rate_part = RIGHT_PART / 2 if error else RIGHT_PART
    added = error * total * upper_bound(sum(accepted.values()), total, 1 - alpha * rate_part) if error else 0.0

    def least_rate(truth: str, part: float) -> float:
        """Lower bound of the rate at which photos of this truth are accepted as the class."""
        if not accepted.get(truth):
            return 0.0
        return max(0.0, lower_bound(accepted[truth], n[truth], 1 - alpha * part) - added / n[truth])

    def largest_rate(hits: int, photos: int) -> float:
        """Upper bound of a rate of acceptance."""
        share = photos / total if total else 0.0
        bound = upper_bound(hits, photos, 1 - alpha * rate_part)
        return min(1.0, bound * share / (share - error)) if share > error else 1.0

    foreign = least_rate(NEITHER, FOREIGN_PART) if foreign_share else 0.0
    right = accepted.get(label, 0)
    if promise.mix is None:
        wrong = sum(accepted.get(truth, 0) for truth in others)
        right_part = RIGHT_PART if foreign_share else 0.0
        found = lower_bound(wrong, right + wrong, 1 - alpha * (1 - right_part - foreign_part))
        risk = max(0.0, (found - error) / (1 - error))
        if not foreign:
            return risk
        known = (1 - foreign_share) * largest_rate(right + wrong, sum(n.get(truth, 0) for truth in (label, *others)))
        foreign *= foreign_share
        return (known * risk + foreign) / (known + foreign)
    wrong_part = (1 - RIGHT_PART - foreign_part) / max(1, len(others))
    wrongs = {truth: least_rate(truth, wrong_part) for truth in others}
    hits = largest_rate(right, n.get(label, 0))

    if not foreign and not any(wrongs.values()):
        return 0.0
    return solve(keeps_at_every_mix(label, hits, wrongs, foreign, promise))


def _calibration(outcomes: Sequence[Outcome], label_error: float) -> Check:
    """Tests only overconfidence: underconfidence costs reviews, which are counted. A wrong label makes a correct
    prediction seem wrong.
    """
    answers = [one for one in outcomes if one.truth != NEITHER and one.label is not None]
    errors = sum(not one.correct for one in answers)
    doubts = [1.0 - one.confidence * (1.0 - label_error) for one in answers]
    p = at_least(errors, doubts)
    likely = f"probability of this many or more: {p:.3f}"
    told = f"{errors} wrong predictions; its confidences predict {sum(doubts):.1f} ({likely})"
    ok = p >= CALIBRATION_ALPHA
    return Check(name="calibration", passed=ok, told=told if ok else f"overconfident: {told}")


def _not_worse(before: Sequence[Outcome], after: Sequence[Outcome], label_error: float) -> Check:
    worse = sum(new.harmed and not old.harmed for old, new in zip(before, after, strict=True))
    fixed = sum(old.harmed and not new.harmed for old, new in zip(before, after, strict=True))
    p = mcnemar(worse, fixed, label_error)
    told = f"it accepts {counted(worse, 'photo')} wrongly that the champion does not, and fixes {fixed} (p = {p:.3f})"
    return Check(name="not worse", passed=p >= ALPHA, told=told)


def _better(before: Sequence[Outcome], after: Sequence[Outcome], label_error: float) -> Check:
    ahead = sum(new.served and not old.served for old, new in zip(before, after, strict=True))
    behind = sum(old.served and not new.served for old, new in zip(before, after, strict=True))
    p = mcnemar(ahead, behind, label_error)
    told = (
        f"decides {sum(one.served for one in after)} of {len(after)} photos correctly without a person, the champion "
        f"{sum(one.served for one in before)}; ahead on {ahead}, behind on {behind} (exact McNemar, p = {p:.3f})"
    )
    return Check(name="better", passed=p < ALPHA, told=told if p < ALPHA else f"not shown to be better: {told}")
