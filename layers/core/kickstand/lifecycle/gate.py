"""The gate of the model registry: may the challenger take the champion's place? One paired test on the same images.

What counts is what the user gets from an image: it is *served* when the answer needs no person and is right (a photo
that shows none of the labels: when it is not accepted), and *harmed* when a wrong answer is accepted. Both are yes or
no for each image and model, so the exact McNemar test compares the models on the images on which they differ:
McNemar, Psychometrika 12 (1947), 153–157. A paired bootstrap of risk and coverage was the alternative. A good model
harms one image in a hundred, and resamples of 200 images that hold no error or one know no tail; the binomial
distribution does.

Everything is one-sided and exact: better (served more), not worse (harmed no more), the promise and the confidences
not contradicted by the images. Only "better" must be shown; the others must not be refuted.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from kickstand.events import Payload, Probability, Route
from kickstand.quality import Interval, binomial_cdf, clopper_pearson, wilson_interval
from kickstand.review.rules import NEITHER

ALPHA = 0.05
"""A challenger that is no better is promoted no more often than this."""
CALIBRATION_ALPHA = 0.01
"""One more test that a good challenger may fail by chance, and coverage tells most of it already: rarely, then."""


class Outcome(Payload):
    """One model's answer to one held-out image.

    image: its name, the same for both models. truth: a label, or "neither".
    label, confidence: None and 0 for an image that the model cannot read.
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
        """No person is needed, and the answer is right."""
        return not self.accepted if self.truth == NEITHER else self.accepted and self.correct

    @property
    def harmed(self) -> bool:
        """A wrong answer is accepted."""
        return self.accepted and not self.correct


class Share(Payload):
    """A share with its 95 % interval, of n images."""

    value: float
    low: float
    high: float
    n: int


class Pledge(Payload):
    """What a model card promises. max_risk: None where the card names no promise. refused: why the labels cannot
    support it; such a policy sends everything to a person. metrics: the card's, as far as they have an interval.
    """

    model_version: str
    labels: tuple[str, ...]
    max_risk: float | None = None
    confidence_level: float | None = None
    refused: str | None = None
    metrics: dict[str, Share] = Field(default_factory=dict)


def read_pledge(card: dict[str, Any]) -> Pledge:
    """From what `model.json` holds."""
    policy = card["policy"]
    return Pledge(
        model_version=card["model_version"],
        labels=tuple(card["labels"]),
        max_risk=policy.get("max_risk"),
        confidence_level=policy.get("confidence_level"),
        refused=policy.get("evidence", {}).get("refused"),
        metrics={
            name: Share.model_validate(told)
            for name, told in card.get("metrics", {}).items()
            if isinstance(told, dict) and told.keys() >= Share.model_fields.keys()
        },
    )


class Check(Payload):
    """One condition. passed: None where it could not be checked. told: in plain words, with the numbers."""

    name: str
    passed: bool | None
    told: str


class Score(Payload):
    """One model on the held-out images.

    accuracy, coverage: of the images of the labels. selective_risk: of the accepted ones among them.
    foreign_accepted: of the images that show none. served, harmed: of all.
    """

    model_version: str
    accuracy: Share
    coverage: Share
    selective_risk: Share
    foreign_accepted: Share
    served: Share
    harmed: Share


class Verdict(Payload):
    """May the challenger take the champion's place, and why."""

    promote: bool
    reason: str
    champion: Score
    challenger: Score
    checks: tuple[Check, ...]


def mcnemar(ahead: int, behind: int) -> float:
    """Probability of at least so many in favour, if a fair coin decides each image on which two models differ.

    >>> round(mcnemar(9, 1), 6)
    0.010742
    >>> mcnemar(0, 0)
    1.0
    """
    return 1.0 - binomial_cdf(ahead - 1, ahead + behind, 0.5)


def at_least(errors: int, probabilities: Sequence[float]) -> float:
    """Probability of at least so many errors, when each answer is wrong with its own probability.

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
    champion: tuple[Pledge, Sequence[Outcome]],
    challenger: tuple[Pledge, Sequence[Outcome]],
    leaked: Sequence[str] | None,
) -> Verdict:
    """Compare both on the same images.

    leaked: held-out images that are among the challenger's training images; None where nobody has looked.

    Raises ValueError where there is no image, or the two did not answer the same ones.
    """
    (old, before), (new, after) = champion, challenger
    if not before or [(one.image, one.truth) for one in before] != [(one.image, one.truth) for one in after]:
        raise ValueError("champion and challenger must answer the same images, at least one")
    checks = [
        _labels(old, new),
        _leakage(leaked),
        _promise(old, new, after),
        _calibration(after),
        _not_worse(before, after),
        _better(before, after),
    ]
    refused = [check.told for check in checks if check.passed is False]
    unchecked = [check.told for check in checks if check.passed is None]
    reason = "; ".join(refused or [checks[-1].told, *unchecked])
    return Verdict(
        promote=not refused,
        reason=f"challenger {new.model_version} {'may replace' if not refused else 'does not replace'} "
        f"champion {old.model_version}: {reason}",
        champion=score(old.model_version, before),
        challenger=score(new.model_version, after),
        checks=tuple(checks),
    )


def score(model_version: str, outcomes: Sequence[Outcome]) -> Score:
    """One model's shares, with intervals: exact for the rare ones, Wilson's for the others."""
    known = [one for one in outcomes if one.truth != NEITHER]
    foreign = [one for one in outcomes if one.truth == NEITHER]
    accepted = [one for one in known if one.accepted]
    return Score(
        model_version=model_version,
        accuracy=_share(wilson_interval(sum(one.correct for one in known), len(known))),
        coverage=_share(wilson_interval(len(accepted), len(known))),
        selective_risk=_share(clopper_pearson(sum(one.harmed for one in accepted), len(accepted))),
        foreign_accepted=_share(clopper_pearson(sum(one.accepted for one in foreign), len(foreign))),
        served=_share(wilson_interval(sum(one.served for one in outcomes), len(outcomes))),
        harmed=_share(clopper_pearson(sum(one.harmed for one in outcomes), len(outcomes))),
    )


def _share(interval: Interval) -> Share:
    return Share(**{name: round(value, 5) for name, value in interval._asdict().items()})


def _labels(old: Pledge, new: Pledge) -> Check:
    same = set(old.labels) == set(new.labels)
    told = f"labels {', '.join(new.labels)}" + ("" if same else f", where the champion knows {', '.join(old.labels)}")
    return Check(name="labels", passed=same, told=told)


def _leakage(leaked: Sequence[str] | None) -> Check:
    if leaked is None:
        return Check(name="leakage", passed=None, told="leakage was not checked: no training images were named")
    if leaked:
        named = ", ".join(leaked[:3]) + (" …" if len(leaked) > 3 else "")
        told = f"{len(leaked)} held-out images are among the training images ({named}): the comparison would flatter"
        return Check(name="leakage", passed=False, told=told)
    return Check(name="leakage", passed=True, told="no held-out image is among the training images")


def _promise(old: Pledge, new: Pledge, outcomes: Sequence[Outcome]) -> Check:
    """As strict as the champion's, supported by the challenger's own labels, and not refuted by these images."""

    def check(passed: bool, told: str) -> Check:
        return Check(name="promise", passed=passed, told=told)

    if new.refused or new.max_risk is None:
        return check(False, f"the challenger keeps no promise: {new.refused or 'its card states none'}")
    if old.max_risk is not None and not old.refused:
        if new.max_risk > old.max_risk:
            return check(False, f"it promises a risk of {new.max_risk:g}, the champion {old.max_risk:g}")
        if (new.confidence_level or 0.0) < (old.confidence_level or 0.0):
            return check(
                False, f"it promises with confidence {new.confidence_level:g}, the champion {old.confidence_level:g}"
            )
    accepted = [one for one in outcomes if one.accepted and one.truth != NEITHER]
    errors = sum(one.harmed for one in accepted)
    p = 1.0 - binomial_cdf(errors - 1, len(accepted), new.max_risk)
    told = (
        f"{errors} of {len(accepted)} accepted answers wrong, promised at most {new.max_risk:g} "
        f"(so many or more by chance: p = {p:.3f})"
    )
    return check(p >= ALPHA, told if p >= ALPHA else f"the promise is broken: {told}")


def _calibration(outcomes: Sequence[Outcome]) -> Check:
    """Overconfidence alone: too little confidence costs reviews, and those are counted."""
    answers = [one for one in outcomes if one.truth != NEITHER and one.label is not None]
    errors = sum(not one.correct for one in answers)
    doubts = [1.0 - one.confidence for one in answers]
    p = at_least(errors, doubts)
    told = f"{errors} wrong answers, its confidences expect {sum(doubts):.1f} (so many or more: p = {p:.3f})"
    ok = p >= CALIBRATION_ALPHA
    return Check(name="calibration", passed=ok, told=told if ok else f"overconfident: {told}")


def _not_worse(before: Sequence[Outcome], after: Sequence[Outcome]) -> Check:
    worse = sum(new.harmed and not old.harmed for old, new in zip(before, after, strict=True))
    mended = sum(old.harmed and not new.harmed for old, new in zip(before, after, strict=True))
    p = mcnemar(worse, mended)
    told = f"it accepts a wrong answer on {worse} images where the champion does not, and mends {mended} (p = {p:.3f})"
    return Check(name="not worse", passed=p >= ALPHA, told=told)


def _better(before: Sequence[Outcome], after: Sequence[Outcome]) -> Check:
    ahead = sum(new.served and not old.served for old, new in zip(before, after, strict=True))
    behind = sum(old.served and not new.served for old, new in zip(before, after, strict=True))
    p = mcnemar(ahead, behind)
    told = (
        f"right without a person on {sum(one.served for one in after)} of {len(after)} images, the champion on "
        f"{sum(one.served for one in before)}; ahead on {ahead}, behind on {behind} (exact McNemar, p = {p:.3f})"
    )
    return Check(name="better", passed=p < ALPHA, told=told if p < ALPHA else f"not shown to be better: {told}")
