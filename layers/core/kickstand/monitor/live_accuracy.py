"""Live accuracy: how often the predictions are correct, by weighted reviews and random audits, and calibrated
confidences.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, model_validator

from kickstand.classify.promise import ANY_LABEL, Promise
from kickstand.events import NEITHER, Moment, Payload, Probability, Route
from kickstand.monitor.drift import ODDS, Budget, ratios
from kickstand.quality import Interval, accepted_needed, binomial_cdf, upper_bound
from kickstand.records import Record
from kickstand.review.rules import CANNOT_TELL

UP, DOWN = (0.9, 0.3, 0.1, 0.03, 0.01, 0.003), (0.99, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05)
"""Stakes on a higher and on a lower error rate, from bold to cautious, as shares of the largest stake that cannot be
lost in full; their mean win counts. Errors are rare, so the best stake on more of them is small, on fewer large."""
DOUBTFUL = 20.0
"""A kept guarantee about one class ever reaches this evidence with a chance of at most 1 in 20."""
LEAST_CHANCE = 1e-9
"""A smaller probability of review counts as none: its inverse would outweigh everything else."""
MOST_EVIDENCE = 1e15
"""Larger wealth is cut off: it would change no conclusion, and might overflow."""


Wealth = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class Outcome(NamedTuple):
    """One photo, whose prediction is correct or wrong.

    expected: calibrated probability that the prediction is wrong.
    wrong: by a person; None if nobody has answered.
    probability: that a person answers; 0 if it could not be reviewed.
    """

    expected: float
    wrong: bool | None
    probability: float


class LiveAccuracy(Payload):
    """Share of correct predictions in [0, 1] among `images`, the number of photos.

    accuracy, low, high: the estimate with its interval. Without answers of people it rests on confidences alone, and
        the interval is [0, 1].
    predicted: by the calibrated confidences alone.
    answers: photos that a person has labelled.
    """

    accuracy: float
    low: float
    high: float
    predicted: float
    images: int
    answers: int


class PromiseStatus(StrEnum):
    """The state of a guarantee by people's answers, from good to bad."""

    KEPT = "kept"
    OPEN = "open"
    DOUBTFUL = "doubtful"
    BROKEN = "broken"

    @property
    def words(self) -> str:
        """For people."""
        return {"kept": "holds", "open": "not enough evidence", "doubtful": "in doubt"}.get(self, str(self))


class PromiseCheck(Payload):
    """Whether at most max_risk of the accepted predictions of a class are wrong, by random audits.

    label: the class; empty for an older guarantee, which is about all classes together.
    status: kept: the audits alone show it. open: too few audits to say. doubtful: the evidence no longer supports it;
        for a kept guarantee the chance that any class is ever doubtful is at most 1 in 20. broken: an alarm, within the
        budget for false ones.
    evidence: against the guarantee; 1 is none, 20 times the number of classes is doubtful.
    audits, errors: of accepted photos: of the window, or, where the evidence no longer supports it, since the evidence
        began. audits_missing: about how many more would show it, if none were wrong.
    """

    label: str = ANY_LABEL
    status: PromiseStatus
    max_risk: float
    evidence: float
    audits: int
    errors: int
    audits_missing: int

    @property
    def supported(self) -> bool:
        """Whether the evidence still supports the guarantee."""
        return self.status in (PromiseStatus.KEPT, PromiseStatus.OPEN)


def judge(record: Record) -> bool | None:
    """Whether the model's prediction was wrong; None if the person could not tell, or the photo must be taken again.

    The prediction is "neither" for a rejected photo, otherwise the class.
    """
    given = record.review.answer if record.review else None
    prediction = record.used_prediction
    if given is None or given.label == CANNOT_TELL or prediction is None:
        return None
    claimed = NEITHER if record.decision.by_policy is Route.REJECT else prediction.label
    return given.label != claimed


def outcomes(records: Iterable[Record], route: Route | None = None) -> list[Outcome]:
    """The outcome of each prediction; unreadable files and photos that must be taken again have none.

    route: only the predictions that the policy sends there. Would-be-accepted predictions of review-everything mode
        count as accepted, with every one checked.

    Not every review is answered. It is assumed that within one route unanswered photos are like the answered ones; so
    the probability is multiplied by the share of answers.
    """
    chosen = [r for r in records if r.used_prediction and route in (None, r.decision.by_policy)]
    asked, answered = Counter[Route](), Counter[Route]()
    seen = [observe(record) for record in chosen]
    for record, one in zip(chosen, seen, strict=True):
        asked[record.decision.by_policy] += record.asks_a_person
        answered[record.decision.by_policy] += one.wrong is not None
    shares = {route: answered[route] / asked[route] if asked[route] else 0.0 for route in Route}
    return [
        one._replace(probability=one.probability * shares[record.decision.by_policy])
        for record, one in zip(chosen, seen, strict=True)
    ]


def observe(record: Record) -> Outcome:
    """The outcome of one prediction, as if every review were answered."""
    return Outcome(_expected_error(record), judge(record) if record.asks_a_person else None, _chance(record))


def _expected_error(record: Record) -> float:
    """The calibrated probability that the prediction is wrong."""
    prediction = record.prediction
    if prediction is None:
        return 1.0
    if record.decision.by_policy is Route.REJECT:
        return 1 - prediction.neither
    return 1 - prediction.confidence * (1 - prediction.neither)


def as_label(record: Record, seen: Outcome) -> Outcome:
    """The outcome `seen` of the class as the prediction, even if the photo was rejected."""
    prediction, given = record.prediction, record.review.answer if record.review else None
    if prediction is None:
        return seen
    wrong = None if seen.wrong is None or given is None else given.label != prediction.label
    return seen._replace(expected=1 - prediction.confidence * (1 - prediction.neither), wrong=wrong)


def _chance(record: Record) -> float:
    """The probability that the photo went to review."""
    if record.audit_probability is None:
        return 1.0 if record.decision.route is Route.REVIEW else 0.0
    return record.audit_probability if record.audit_probability >= LEAST_CHANCE else 0.0


def estimate(
    seen: Iterable[Outcome] | Mapping[Outcome, int], confidence_level: float = 0.95, label_error: float = 0.0
) -> LiveAccuracy:
    """The share of correct predictions, with an interval that needs no assumption about the photos.

    seen: the outcomes, or the number of each.
    label_error: largest probability ε that a person's label is wrong, whatever the photo shows, independently for each
        photo. At a true error rate e people find a rate between e (1 - ε) and e + ε (1 - e). So if the found rate is
        between l and h, the true one is between (l - ε) / (1 - ε) and h / (1 - ε): that is the interval.

    The estimate is the difference estimator (Särndal, Swensson and Wretman, Model Assisted Survey Sampling, 1992,
    chapter 6): the rate expected from the confidences of all photos, plus the mean of (found - expected) over reviewed
    photos, weighted by 1 / probability. It is unbiased even if the confidences are useless, and varies less if they are
    good. Photos that could not be reviewed may all be correct or all wrong: the interval covers both.
    """
    counts: Counter[Outcome] = Counter(seen)
    n = counts.total()
    if not n:
        return LiveAccuracy(accuracy=0.0, low=0.0, high=1.0, predicted=0.0, images=0, answers=0)
    expected = math.fsum(one.expected * k for one, k in counts.items()) / n
    lots = Counter({one: k for one, k in counts.items() if one.probability > 0.0})
    error = _error_rate(lots, 1 - confidence_level)
    drawn, blind = lots.total() / n, 1 - lots.total() / n
    least, most = max(0.0, error.low - label_error) / (1 - label_error), min(1.0, error.high / (1 - label_error))
    value = error.value * drawn + math.fsum(o.expected * k for o, k in counts.items() if o.probability <= 0.0) / n
    return LiveAccuracy(
        accuracy=round(1 - value, 6),
        low=round(max(0.0, 1 - most * drawn - blind), 6),
        high=round(min(1.0, 1 - least * drawn), 6),
        predicted=round(1 - expected, 6),
        images=n,
        answers=error.n,
    )


def _error_rate(lots: Counter[Outcome], alpha: float) -> Interval:
    """The error rate of photos that could all have been drawn; n counts those that were.

    The interval holds the rates θ against which a gambler who stakes λ on the drawn photos has not reached the wealth
    2 / alpha at either end: wealth Π (1 + λ w (found - expected + mean expected - θ)), w the smallest probability over
    the photo's own. Only the draw is random: whatever the photos are, at their true rate the wealth's mean is
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
    # The worst value of a term, known before the draw; 1e-4 for rounding.
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
    """The boundary of exclusion, between a point outside, if it is excluded at all, and one inside."""
    if not excluded(outside):
        return outside
    for _ in range(30):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if excluded(middle) else (outside, middle)
    return outside


class Claim(NamedTuple):
    """The guarantee about the accepted predictions of one class; about all of them if the label is ANY_LABEL.

    labels: number of checked classes. They share the budget for false alarms and the confidence.
    confidence_level: for this class, so that the guarantee's own holds for all classes at once.

    label_error ε: see `estimate`. While the guarantee is kept, people find at most max_risk + ε (1 - max_risk) of the
    predictions wrong; evidence against it is evidence of more than that. To show that it is kept, the bound on the
    found errors must be at most max_risk (1 - ε).
    """

    label: str
    max_risk: float
    label_error: float
    confidence_level: float
    labels: int

    @property
    def most_found(self) -> float:
        """The largest share of predictions that people find wrong while the guarantee is kept."""
        return self.max_risk + self.label_error * (1 - self.max_risk)

    def limit(self, budget: Budget, audits: int, images: int) -> float:
        """The evidence that raises an alarm, if this many of the photos are audits of this class."""
        return max(DOUBTFUL * self.labels, budget.threshold(self.labels) * audits / max(1, images))

    def bound(self, errors: int, audits: int) -> float:
        """Upper bound of the true error rate, from audits of equal probability."""
        if not audits:
            return 1.0
        return min(1.0, upper_bound(errors, audits, self.confidence_level) / (1 - self.label_error))


def list_claims(promise: Promise | None, refused: Collection[str] = ()) -> list[Claim]:
    """The checkable parts of a guarantee. refused: classes without accepted predictions, which cannot be checked."""
    if promise is None:
        return []
    about = [label for label in promise.max_risk if label not in refused]
    level = 1 - (1 - promise.confidence_level) / max(1, len(about))
    return [Claim(label, promise.max_risk[label], promise.label_error, level, len(about)) for label in about]


def accepted_by_label(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records that the policy accepts, by the class of the prediction."""
    found = defaultdict(list)
    for record in records:
        if record.used_prediction and record.decision.by_policy is Route.ACCEPT:
            found[record.used_prediction.label].append(record)
    return dict(sorted(found.items()))


def check_promise(
    records: Iterable[Record], promise: Promise | None, budget: Budget, refused: Collection[str] = ()
) -> tuple[PromiseCheck, ...]:
    """Check whether at most max_risk of the accepted predictions of each class are wrong, by the audits in the order of
    people's answers. Accepting a photo that shows none of the classes is a wrong prediction.

    In review-everything mode every would-be-accepted prediction is audited.

    budget: for false alarms of these tests alone; audits are as frequent as among these records.
    refused: classes without accepted predictions.
    """
    everything = list(records)
    accepted = accepted_by_label(everything)
    accepted[ANY_LABEL] = [record for part in accepted.values() for record in part]
    return tuple(
        _check(claim, accepted.get(claim.label, []), len(everything), budget) for claim in list_claims(promise, refused)
    )


def _check(claim: Claim, accepted: Sequence[Record], images: int, budget: Budget) -> PromiseCheck:
    audits = sorted(
        (answer.answered_at, wrong, _chance(record))
        for record in accepted
        if record.asks_a_person
        if (wrong := judge(record)) is not None and record.review and (answer := record.review.answer)
    )
    n, errors = len(audits), sum(wrong for _, wrong, _ in audits)
    evidence, limit = Evidence(), claim.limit(budget, n, images)
    for _, wrong, chance in audits:
        evidence = evidence.after(wrong, chance, claim, limit)
    if len({chance for *_, chance in audits}) <= 1:
        bound = claim.bound(errors, n)
    else:
        bound = 1 - estimate(outcomes(accepted), claim.confidence_level, claim.label_error).low
    return _conclude(claim, evidence, n, errors, bound)


Count = Annotated[int, Field(ge=0)]


class Evidence(Payload):
    """Evidence against a claim, from the audits so far.

    wealth: of gamblers on more errors than guaranteed, one for each of drift's ODDS: it ever reaches 20 with a chance
        of at most 1 in 20. restarted: of gamblers who can restart at any photo (see `drift.Budget`).
    broken: whether the restarted ones have reached the limit.
    least: smallest probability of review so far. audits, errors: numbers so far.
    """

    wealth: tuple[Wealth, ...] = Field(default=(1.0,) * len(ODDS), min_length=len(ODDS), max_length=len(ODDS))
    restarted: tuple[Wealth, ...] = Field(default=(0.0,) * len(ODDS), min_length=len(ODDS), max_length=len(ODDS))
    broken: bool = False
    least: Probability = 1.0
    audits: Count = 0
    errors: Count = 0

    def after(self, wrong: bool, chance: float, claim: Claim, limit: float) -> Self:
        """The evidence with one more audit. chance: its probability; a more probable audit counts for less."""
        least = min(self.least, chance)
        weight = least / chance if chance else 1.0
        factors = [1 + weight * (pair[0 if wrong else 1] - 1) for pair in ratios(claim.most_found)]
        restarted = tuple(min(MOST_EVIDENCE, (r + 1) * f) for r, f in zip(self.restarted, factors, strict=True))
        return self.model_copy(
            update={
                "wealth": tuple(min(MOST_EVIDENCE, w * f) for w, f in zip(self.wealth, factors, strict=True)),
                "restarted": restarted,
                "broken": self.broken or sum(restarted) / len(restarted) >= limit,
                "least": least,
                "audits": self.audits + 1,
                "errors": self.errors + wrong,
            }
        )


def _conclude(claim: Claim, evidence: Evidence, n: int, errors: int, bound: float) -> PromiseCheck:
    """The state of the claim. bound: upper confidence bound of the true error rate of these accepted predictions."""
    wealth = sum(evidence.wealth) / len(evidence.wealth)
    if evidence.broken:
        status = PromiseStatus.BROKEN
    elif wealth >= DOUBTFUL * claim.labels:
        status = PromiseStatus.DOUBTFUL
    else:
        status = PromiseStatus.KEPT if bound <= claim.max_risk else PromiseStatus.OPEN
    if status in (PromiseStatus.BROKEN, PromiseStatus.DOUBTFUL):  # later, the window may hold none of them
        n, errors = max(n, evidence.audits), max(errors, evidence.errors)
    shown_at = claim.max_risk * (1 - claim.label_error)
    return PromiseCheck(
        label=claim.label,
        status=status,
        max_risk=claim.max_risk,
        evidence=round(max(1.0, wealth), 3),
        audits=n,
        errors=errors,
        audits_missing=_missing(n, errors, shown_at, claim.confidence_level) if bound > claim.max_risk else 0,
    )


def _missing(n: int, errors: int, max_risk: float, confidence_level: float) -> int:
    """Number of further audits without an error that would show the guarantee."""
    more = max(0, accepted_needed(0.0, max_risk, confidence_level) - n)
    while binomial_cdf(errors, n + more, max_risk) > 1 - confidence_level:
        more += max(1, (n + more) // 50)
    return more


# ---- a stream, run by run


WINDOW = timedelta(days=30)
"""How long an accepted prediction counts in the live accuracy."""


MOST_CELLS = 3_000
"""This many cells of about 60 bytes, with the rest of the state, fit into a DynamoDB item of 400 KB."""


class Cell(NamedTuple):
    """Accepted predictions of one class and day with the same probability of an audit.

    day: the first, if a cell holds several. chance: the probability of review.
    images, asked: numbers of photos and of reviews. right, wrong: numbers by people's answers.
    expected: sum of the calibrated probabilities that the prediction is wrong.
    """

    day: date
    chance: Probability
    images: Count = 0
    asked: Count = 0
    right: Count = 0
    wrong: Count = 0
    expected: Wealth = 0.0

    def plus(self, other: "Cell") -> "Cell":
        """The sum of both cells."""
        return self._replace(
            images=self.images + other.images,
            asked=self.asked + other.asked,
            right=self.right + other.right,
            wrong=self.wrong + other.wrong,
            expected=self.expected + other.expected,
        )


class Accepted(Payload):
    """The accepted predictions of the last WINDOW days, in at most MOST_CELLS cells.

    Each photo in a cell gets the cell's mean as its expectation. The estimate stays valid: it holds for any expectation
    that does not depend on which photos were reviewed.

    policy_version: only this policy's predictions count. since: earlier predictions do not count.
    images: number of photos on each day, whatever their outcome.
    cells: by class; those without a class come from an older state, which did not separate classes.
    days_per_cell: more than 1 if there would be too many cells; then predictions count up to this many days longer.
    against: evidence against each claim, by class.
    """

    policy_version: str
    since: Moment
    images: dict[date, Count] = Field(default_factory=dict)
    cells: dict[str, tuple[Cell, ...]] = Field(default_factory=dict)
    days_per_cell: int = Field(default=1, ge=1, le=2 * WINDOW.days)
    against: dict[str, Evidence] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _read_older(cls, told: Any) -> Any:
        """An older state, which did not separate classes: its cells by day, one evidence about all predictions."""
        if not isinstance(told, dict) or not {"days", "evidence"} & told.keys():
            return told
        names = ("images", "asked", "right", "wrong")
        cells = [
            (day, cell["chance"], *(cell.get(name, 0) for name in names), cell["expected"] * cell.get("images", 0))
            for day, row in told.get("days", {}).items()
            for cell in row
        ]
        evidence = told.get("evidence", {}) | {"least": told.get("least", 1.0)}
        return told | {"cells": {ANY_LABEL: cells}, "against": {ANY_LABEL: evidence}}

    def after(
        self,
        written: Iterable[Record],
        answered: Iterable[Record],
        until: datetime,
        claims: Iterable[Claim],
        budget: Budget,
    ) -> Self:
        """The state with these new and newly answered records. A record may come once as either, and as both."""
        images = Counter(self.images)
        about = {claim.label: claim for claim in claims}
        cells: dict[tuple[str, date, float], Cell] = {}
        against = dict(self.against)

        def add(label: str, cell: Cell) -> None:
            key = label, cell.day, cell.chance
            cells[key] = cells[key].plus(cell) if key in cells else cell

        def count(record: Record, images: int = 0, asked: int = 0, right: int = 0, wrong: int = 0) -> None:
            label, day, chance = _label(record), _first(record.recorded_at.date(), self.days_per_cell), _chance(record)
            standing = cells.get((label, day, chance))
            if not images and (standing is None or standing.images <= standing.right + standing.wrong):
                # An older version may have counted its photo, without a class.
                label = ANY_LABEL if (ANY_LABEL, day, chance) in cells else label
            add(label, Cell(day, chance, images, asked, right, wrong, images * _expected_error(record)))

        for label, row in self.cells.items():
            for cell in row:
                add(label, cell)
        for record in written:
            images[record.recorded_at.date()] += 1
            if self._counts(record):
                count(record, images=1, asked=int(record.asks_a_person))
        audits = [record for record in answered if self._counts(record) and record.asks_a_person]
        audits = [record for record in audits if judge(record) is not None]
        told: Counter[str] = Counter(_label(record) for record in audits)
        for (label, *_), cell in cells.items():
            told[label] += cell.right + cell.wrong
        told[ANY_LABEL] = told.total()
        for record in sorted(audits, key=lambda r: (r.changed_at or r.recorded_at, *r.key)):
            wrong = bool(judge(record))
            count(record, right=int(not wrong), wrong=int(wrong))
            if claim := about.get(ANY_LABEL) or about.get(_label(record)):
                limit = claim.limit(budget, told[claim.label], images.total())
                standing = against.get(claim.label, Evidence())
                against[claim.label] = standing.after(wrong, _chance(record), claim, limit)
        oldest = (until - WINDOW).date()
        return self.model_copy(
            update={
                "images": {day: number for day, number in images.items() if day >= oldest},
                "against": against,
                **self._bound(cells, oldest),
            }
        )

    def _bound(self, cells: Mapping[tuple[str, date, float], Cell], oldest: date) -> dict[str, Any]:
        """The cells by class, without those before `oldest`; of several days each if there would be too many."""
        days = self.days_per_cell
        while True:
            merged: dict[tuple[str, date, float], Cell] = {}
            for (label, day, chance), cell in cells.items():
                first = _first(day, days)
                if first + timedelta(days=days) > oldest:
                    key, moved = (label, first, chance), cell._replace(day=first)
                    merged[key] = merged[key].plus(moved) if key in merged else moved
            if len(merged) <= MOST_CELLS or days > WINDOW.days:
                break
            days *= 2
        by_label: dict[str, list[Cell]] = {}
        for (label, *_), cell in sorted(merged.items()):
            by_label.setdefault(label, []).append(cell._replace(expected=round(cell.expected, 6)))
        return {"cells": {label: tuple(row) for label, row in by_label.items()}, "days_per_cell": days}

    def _counts(self, record: Record) -> bool:
        same = record.decision.policy_version == self.policy_version and record.prediction is not None
        return same and record.decision.by_policy is Route.ACCEPT and record.recorded_at > self.since

    def estimate(self, confidence_level: float, label_error: float = 0.0) -> LiveAccuracy:
        """The share of correct predictions among them, by `estimate`."""
        return _estimate_cells(self._cells_of(ANY_LABEL), confidence_level, label_error)

    def estimate_labels(self, confidence_level: float, label_error: float) -> dict[str, LiveAccuracy]:
        """The same for the predictions of each class."""
        return {
            label: _estimate_cells(row, confidence_level, label_error)
            for label, row in self.cells.items()
            if label != ANY_LABEL
        }

    def check_promise(self, claims: Iterable[Claim]) -> tuple[PromiseCheck, ...]:
        """The result of `check_promise` about them. The evidence begins at `since`, the numbers with the window."""
        return tuple(self._check(claim) for claim in claims)

    def _check(self, claim: Claim) -> PromiseCheck:
        cells = self._cells_of(claim.label)
        n, errors = sum(cell.right + cell.wrong for cell in cells), sum(cell.wrong for cell in cells)
        if len({cell.chance for cell in cells if cell.right + cell.wrong}) <= 1:
            bound = claim.bound(errors, n)
        else:
            bound = 1 - _estimate_cells(cells, claim.confidence_level, claim.label_error).low
        return _conclude(claim, self.against.get(claim.label, Evidence()), n, errors, bound)

    def _cells_of(self, label: str) -> list[Cell]:
        """The cells of the class; of all classes for ANY_LABEL."""
        return [cell for name, row in self.cells.items() if label in (ANY_LABEL, name) for cell in row]


def _label(record: Record) -> str:
    return record.prediction.label if record.prediction else ANY_LABEL


def _first(day: date, days: int) -> date:
    """The first day of the cell that holds this one."""
    return date.fromordinal(day.toordinal() // days * days)


def _estimate_cells(cells: Sequence[Cell], confidence_level: float, label_error: float) -> LiveAccuracy:
    asked, told = sum(cell.asked for cell in cells), sum(cell.right + cell.wrong for cell in cells)
    counts = Counter[Outcome]()
    for cell in cells:
        expected = min(1.0, cell.expected / cell.images) if cell.images else 0.0
        probability = cell.chance * min(1.0, told / asked) if asked else 0.0
        for wrong, number in ((True, cell.wrong), (False, cell.right)):
            counts[Outcome(expected, wrong, probability)] += number
        counts[Outcome(expected, None, probability)] += cell.images - cell.wrong - cell.right
    return estimate(+counts, confidence_level, label_error)
