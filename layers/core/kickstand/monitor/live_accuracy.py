"""How often are the answers right, now? From reviews and random audits, weighted, and from calibrated confidences."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple, Self

from pydantic import Field

from kickstand.events import Payload, Probability, Route
from kickstand.monitor.drift import ODDS, Budget, ratios
from kickstand.quality import Interval, accepted_needed, binomial_cdf, upper_bound
from kickstand.records import Record
from kickstand.review.rules import CANNOT_TELL, NEITHER

UP, DOWN = (0.9, 0.3, 0.1, 0.03, 0.01, 0.003), (0.99, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05)
"""Stakes on a higher and on a lower error rate, as shares of the largest that cannot be lost in full, bold to cautious;
the mean of what they win counts. An error is rare, so the best stake on more of them is small, on fewer large."""
DOUBTFUL = 20.0
"""Evidence that a kept promise gives with a chance of at most 1 in 20, at any one look."""


class Outcome(NamedTuple):
    """One image whose answer is right or wrong.

    expected: calibrated probability that the answer is wrong.
    wrong: what a person found; None where nobody has said.
    probability: how probable it was that a person tells; 0 where nobody was to be asked.
    """

    expected: float
    wrong: bool | None
    probability: float


class LiveAccuracy(Payload):
    """Share of right answers in [0, 1] among `images`.

    accuracy, low, high: the estimate with its interval. Where no person has looked it rests on confidences alone, and
        the interval says so: [0, 1].
    predicted: what the calibrated confidences alone say.
    answers: images about which a person has said what they show.
    """

    accuracy: float
    low: float
    high: float
    predicted: float
    images: int
    answers: int


class PromiseStatus(StrEnum):
    """What live labels say of the promise, from good to bad."""

    KEPT = "kept"
    OPEN = "open"
    DOUBTFUL = "doubtful"
    BROKEN = "broken"


class PromiseCheck(Payload):
    """Whether at most max_risk of the accepted answers are wrong, by random audits.

    status: kept: the audits alone show it. open: too few audits to tell. doubtful: the evidence no longer supports it;
        such evidence arises with a chance of at most 1 in 20 at one look. broken: an alarm, within the budget for
        false ones.
    evidence: against the promise; 1 is none, 20 is doubtful.
    audits, errors: of accepted images. audits_missing: about how many more would show the promise, if none were wrong.
    """

    status: PromiseStatus
    max_risk: float
    evidence: float
    audits: int
    errors: int
    audits_missing: int

    @property
    def supported(self) -> bool:
        """Whether the evidence still supports the promise."""
        return self.status in (PromiseStatus.KEPT, PromiseStatus.OPEN)


def judge(record: Record) -> bool | None:
    """Whether the model's answer was wrong; None where no person could tell, or the photo is to be taken again.

    The answer is "neither" where the image was rejected, else the label.
    """
    given = record.review.answer if record.review else None
    prediction = record.used_prediction
    if given is None or given.label == CANNOT_TELL or prediction is None:
        return None
    claimed = NEITHER if record.decision.by_policy is Route.REJECT else prediction.label
    return given.label != claimed


def outcomes(records: Iterable[Record], route: Route | None = None) -> list[Outcome]:
    """What is known of each answer; images that could not be read, or are to be taken again, have none.

    route: only those that the policy sends there; the answers that the switch "review everything" has kept from being
        accepted count as accepted ones that were all checked.

    Not everyone who is asked answers. Within one route we take it that who does not answer would not have answered
    differently, and put the share that has into the probability.
    """
    chosen = [r for r in records if r.used_prediction and route in (None, r.decision.by_policy)]
    asked, answered = Counter[Route](), Counter[Route]()
    wrongs = [judge(record) if record.asks_a_person else None for record in chosen]
    for record, wrong in zip(chosen, wrongs, strict=True):
        asked[record.decision.by_policy] += record.asks_a_person
        answered[record.decision.by_policy] += wrong is not None
    found = []
    for record, wrong in zip(chosen, wrongs, strict=True):
        kind = record.decision.by_policy
        share = answered[kind] / asked[kind] if asked[kind] else 0.0
        found.append(Outcome(_expected_error(record), wrong, _chance(record) * share))
    return found


def _expected_error(record: Record) -> float:
    """The calibrated probability that the answer is wrong."""
    prediction = record.prediction
    if prediction is None:
        return 1.0
    if record.decision.by_policy is Route.REJECT:
        return 1 - prediction.neither
    return 1 - prediction.confidence * (1 - prediction.neither)


def as_label(record: Record, seen: Outcome) -> Outcome:
    """What is known, as `seen`, of the label as the answer, though the image may have been rejected."""
    prediction, given = record.prediction, record.review.answer if record.review else None
    if prediction is None:
        return seen
    wrong = None if seen.wrong is None or given is None else given.label != prediction.label
    return seen._replace(expected=1 - prediction.confidence * (1 - prediction.neither), wrong=wrong)


def _chance(record: Record) -> float:
    """How probable it was that a person is asked."""
    if record.audit_probability is None:
        return 1.0 if record.decision.route is Route.REVIEW else 0.0
    return record.audit_probability


def estimate(seen: Iterable[Outcome] | Mapping[Outcome, int], confidence_level: float = 0.95) -> LiveAccuracy:
    """The share of right answers, with an interval that needs no assumption about the images.

    seen: the outcomes, or how many there are of each.

    The estimate is the difference estimator (Särndal, Swensson and Wretman, Model Assisted Survey Sampling, 1992,
    chapter 6): what the confidences expect of all images, plus the mean of (found - expected) where a person has
    looked, weighted by 1 / probability. It corrects confidences that are worth nothing, and varies the less the more
    they are worth. Images that nobody was to be asked about may be all right or all wrong: the interval says so.
    """
    counts: Counter[Outcome] = Counter(seen)
    n = counts.total()
    if not n:
        return LiveAccuracy(accuracy=0.0, low=0.0, high=1.0, predicted=0.0, images=0, answers=0)
    expected = math.fsum(one.expected * k for one, k in counts.items()) / n
    lots = Counter({one: k for one, k in counts.items() if one.probability > 0.0})
    error = _error_rate(lots, 1 - confidence_level)
    drawn, blind = lots.total() / n, 1 - lots.total() / n
    value = error.value * drawn + math.fsum(o.expected * k for o, k in counts.items() if o.probability <= 0.0) / n
    return LiveAccuracy(
        accuracy=round(1 - value, 6),
        low=round(max(0.0, 1 - error.high * drawn - blind), 6),
        high=round(min(1.0, 1 - error.low * drawn), 6),
        predicted=round(1 - expected, 6),
        images=n,
        answers=error.n,
    )


def _error_rate(lots: Counter[Outcome], alpha: float) -> Interval:
    """The error rate of images that could all have been drawn; n counts those that were.

    The interval holds the rates θ against which no gambler has grown rich (2 / alpha at each end) who stakes λ on
    the images drawn: wealth Π (1 + λ w (found - expected + mean expected - θ)), w the smallest probability over the
    image's own. Chance lies in the draw alone: whatever the images are, at their true rate the wealth's mean is
    Π (1 + λ' (e - expected + mean expected - θ)) ≤ exp(λ' Σ (e - θ)) = 1. Few answers make the interval wide, not
    wrong. Betting on means: Waudby-Smith and Ramdas, JRSS B 86 (2024), 1–27.
    """
    drawn = [(one.wrong, one.expected, one.probability, k) for one, k in lots.items() if one.wrong is not None]
    mean = math.fsum(one.expected * k for one, k in lots.items()) / lots.total() if lots else 0.0
    if not drawn:
        return Interval(mean, 0.0, 1.0, 0)
    least = min(one.probability for one in lots)
    terms = Counter[tuple[float, float]]()
    for wrong, expected, p, k in drawn:
        terms[least / p, round(wrong - expected + mean, 4)] += k
    weights = math.fsum(k / p for _, _, p, k in drawn)
    value = mean + math.fsum((wrong - expected) / p * k for wrong, expected, p, k in drawn) / weights
    value = min(1.0, max(0.0, value))
    # What a term can be at worst, known before the draw; 1e-4 for rounding.
    lowest = mean - max(one.expected for one in lots) - 1e-4
    highest = 1 + mean - min(one.expected for one in lots) + 1e-4

    def rich(theta: float, sign: float) -> bool:
        """Whether betting on a rate above theta (sign 1) or below it (-1) has paid."""
        bets = UP if sign > 0 else DOWN
        largest = 1 / (theta - lowest if sign > 0 else highest - theta)
        logs = [
            math.fsum(n * math.log1p(bet * largest * w * sign * (term - theta)) for (w, term), n in terms.items())
            for bet in bets
        ]
        top = max(logs)
        wealth = top + math.log(math.fsum(math.exp(log - top) for log in logs) / len(bets))
        return wealth >= math.log(2 / alpha)

    low = _edge(lambda theta: rich(theta, 1.0), 0.0, value)
    high = _edge(lambda theta: rich(theta, -1.0), 1.0, value)
    return Interval(value, low, high, sum(k for *_, k in drawn))


def _edge(excluded: Callable[[float], bool], outside: float, inside: float) -> float:
    """Where exclusion ends between a point outside, if it is excluded at all, and one inside."""
    if not excluded(outside):
        return outside
    for _ in range(30):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if excluded(middle) else (outside, middle)
    return outside


def check_promise(
    records: Iterable[Record], max_risk: float, budget: Budget, confidence_level: float = 0.95
) -> PromiseCheck:
    """Are at most max_risk of the accepted answers wrong? By the audits, in the order in which they were answered.

    While the switch "review everything" is on, every answer that the policy would accept is audited.

    budget: for false alarms of this test alone; audits are as frequent as among these records.
    """
    everything = list(records)
    accepted = outcomes(everything, Route.ACCEPT)
    audits = sorted(
        (answer.answered_at, wrong, _chance(record))
        for record in everything
        if record.decision.by_policy is Route.ACCEPT and record.asks_a_person
        if (wrong := judge(record)) is not None and record.review and (answer := record.review.answer)
    )
    chances = [chance for _, _, chance in audits]
    n, errors = len(audits), sum(wrong for _, wrong, _ in audits)
    limit = _limit(budget, n, len(everything))
    evidence, least = Evidence(), min(chances, default=1.0)
    for _, wrong, chance in audits:
        # An image that was likelier to be audited than others counts for less.
        evidence = evidence.after(wrong, least / chance, max_risk, limit)
    if len(set(chances)) <= 1:
        bound = upper_bound(errors, n, confidence_level) if n else 1.0
    else:
        bound = 1 - estimate(accepted, confidence_level).low
    return _conclude(evidence, n, errors, bound, max_risk, confidence_level)


class Evidence(Payload):
    """Against the promise, by the audits so far.

    wealth: of gamblers on more errors than promised, one for each of drift's ODDS: 20 arises with a chance of at most
        1 in 20, ever. restarted: of those who may begin anew at any image (see `drift.Budget`).
    broken: the restarted ones have reached the limit.
    """

    wealth: tuple[float, ...] = (1.0,) * len(ODDS)
    restarted: tuple[float, ...] = (0.0,) * len(ODDS)
    broken: bool = False

    def after(self, wrong: bool, weight: float, max_risk: float, limit: float) -> Self:
        """With one more audit. weight: how much it counts, 0 to 1."""
        factors = [1 + weight * (pair[0 if wrong else 1] - 1) for pair in ratios(max_risk)]
        restarted = tuple((r + 1) * factor for r, factor in zip(self.restarted, factors, strict=True))
        return self.model_copy(
            update={
                "wealth": tuple(w * factor for w, factor in zip(self.wealth, factors, strict=True)),
                "restarted": restarted,
                "broken": self.broken or sum(restarted) / len(restarted) >= limit,
            }
        )


def _limit(budget: Budget, audits: int, images: int) -> float:
    """The evidence that raises an alarm, where so many of the images are audited."""
    return max(DOUBTFUL, budget.threshold(1) * audits / max(1, images))


def _conclude(
    evidence: Evidence, n: int, errors: int, bound: float, max_risk: float, confidence_level: float
) -> PromiseCheck:
    """bound: upper confidence bound of the error rate of accepted answers."""
    wealth = sum(evidence.wealth) / len(evidence.wealth)
    if evidence.broken:
        status = PromiseStatus.BROKEN
    elif wealth >= DOUBTFUL:
        status = PromiseStatus.DOUBTFUL
    else:
        status = PromiseStatus.KEPT if bound <= max_risk else PromiseStatus.OPEN
    return PromiseCheck(
        status=status,
        max_risk=max_risk,
        evidence=round(max(1.0, wealth), 3),
        audits=n,
        errors=errors,
        audits_missing=_missing(n, errors, max_risk, confidence_level) if bound > max_risk else 0,
    )


def _missing(n: int, errors: int, max_risk: float, confidence_level: float) -> int:
    """Further audits, none of them wrong, that would show the promise."""
    more = max(0, accepted_needed(0.0, max_risk, confidence_level) - n)
    while binomial_cdf(errors, n + more, max_risk) > 1 - confidence_level:
        more += max(1, (n + more) // 50)
    return more


# ---- a stream, look by look


WINDOW = timedelta(days=30)
"""How long an accepted answer counts in the accuracy of a stream."""


class Cell(Payload):
    """Accepted answers of one day that are alike.

    expected: calibrated probability that the answer is wrong, to two digits. chance: that a person is asked.
    images, asked: how many. right, wrong: how many of those a person found to be.
    """

    expected: Probability
    chance: Probability
    images: int = 0
    asked: int = 0
    right: int = 0
    wrong: int = 0


class Accepted(Payload):
    """What is known of the accepted answers of the last WINDOW days: some kilobytes, however many they are.

    Rounding what is expected of an image makes the estimate no less honest: it holds for any expectation.

    policy_version: whose answers; another policy's are not counted. since: nor are earlier ones.
    images: of each day, whatever became of them. days: of each day.
    least: smallest chance to be asked so far.
    """

    policy_version: str
    since: datetime
    images: dict[date, int] = Field(default_factory=dict)
    days: dict[date, tuple[Cell, ...]] = Field(default_factory=dict)
    least: Probability = 1.0
    evidence: Evidence = Evidence()

    def after(
        self, written: Iterable[Record], answered: Iterable[Record], until: datetime, max_risk: float, budget: Budget
    ) -> Self:
        """With these records, new ones and newly answered ones; each may come once as either, and as both."""
        images = Counter(self.images)
        cells = {(day, cell.expected, cell.chance): cell for day, row in self.days.items() for cell in row}
        least, evidence = self.least, self.evidence

        def count(record: Record, **more: int) -> None:
            day, expected, chance = record.recorded_at.date(), round(_expected_error(record), 2), _chance(record)
            cell = cells.get((day, expected, chance)) or Cell(expected=expected, chance=chance)
            changes = {name: getattr(cell, name) + number for name, number in more.items()}
            cells[day, expected, chance] = cell.model_copy(update=changes)

        for record in written:
            images[record.recorded_at.date()] += 1
            if self._counts(record):
                count(record, images=1, asked=int(record.asks_a_person))
        audits = [record for record in answered if self._counts(record) and record.asks_a_person]
        told = sum(cell.right + cell.wrong for cell in cells.values()) + len(audits)
        limit = _limit(budget, told, images.total())
        for record in sorted(audits, key=lambda r: (r.changed_at or r.recorded_at, r.image, r.version)):
            if (wrong := judge(record)) is None:
                continue
            count(record, **{"wrong" if wrong else "right": 1})
            least = min(least, _chance(record))
            evidence = evidence.after(wrong, least / _chance(record), max_risk, limit)
        oldest = (until - WINDOW).date()
        kept = sorted({day for day, *_ in cells if day >= oldest})
        return self.model_copy(
            update={
                "images": {day: number for day, number in images.items() if day >= oldest},
                "days": {day: tuple(cell for place, cell in cells.items() if place[0] == day) for day in kept},
                "least": least,
                "evidence": evidence,
            }
        )

    def _counts(self, record: Record) -> bool:
        same = record.decision.policy_version == self.policy_version and record.prediction is not None
        return same and record.decision.by_policy is Route.ACCEPT and record.recorded_at > self.since

    @property
    def cells(self) -> list[Cell]:
        """Of all days."""
        return [cell for row in self.days.values() for cell in row]

    def estimate(self, confidence_level: float) -> LiveAccuracy:
        """The share of right answers among them, as `estimate` finds it."""
        asked, told = sum(cell.asked for cell in self.cells), sum(cell.right + cell.wrong for cell in self.cells)
        counts = Counter[Outcome]()
        for cell in self.cells:
            probability = cell.chance * min(1.0, told / asked) if asked else 0.0
            for wrong, number in ((True, cell.wrong), (False, cell.right)):
                counts[Outcome(cell.expected, wrong, probability)] += number
            counts[Outcome(cell.expected, None, probability)] += cell.images - cell.wrong - cell.right
        return estimate(+counts, confidence_level)

    def check_promise(self, max_risk: float, confidence_level: float) -> PromiseCheck:
        """What `check_promise` says of them. The evidence goes back to `since`, the numbers as far as the window."""
        n, errors = sum(cell.right + cell.wrong for cell in self.cells), sum(cell.wrong for cell in self.cells)
        if len({cell.chance for cell in self.cells if cell.right + cell.wrong}) <= 1:
            bound = upper_bound(errors, n, confidence_level) if n else 1.0
        else:
            bound = 1 - self.estimate(confidence_level).low
        return _conclude(self.evidence, n, errors, bound, max_risk, confidence_level)
