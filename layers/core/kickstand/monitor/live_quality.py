"""Details of live accuracy: by confidence, by threshold and by prediction; and people's workload.

Everything comes from reviews and random audits, weighted by the probability of review, through
`live_accuracy.estimate`. So every interval holds for any photos, even if people are wrong with a probability of at most
`label_error`.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from statistics import median

from kickstand.classify.promise import ANY_LABEL
from kickstand.events import NEITHER, Payload, ReviewStatus, Route, SelectivePolicy
from kickstand.monitor.live_accuracy import LiveAccuracy, Outcome, as_label, estimate, outcomes
from kickstand.records import Record
from kickstand.review.agreement import Agreement, agreement
from kickstand.review.rules import CANNOT_TELL

ANSWERS_PER_BIN = 12
MOST_BINS = 8
THRESHOLDS = 16


class ReliabilityBin(Payload):
    """Predictions with about the same probability of being correct, by the model; and how often they are.

    low, high: the smallest and the largest of these probabilities.
    """

    low: float
    high: float
    live: LiveAccuracy


class LiveRiskCoverage(Payload):
    """The effect of a threshold on the confidence, with the limit on p(neither): coverage, and how often it is correct.

    label: class of the predictions; empty for one threshold for all. coverage: of all photos, whatever the prediction.
    """

    label: str = ANY_LABEL
    accept_at: float
    coverage: float
    live: LiveAccuracy


class TrueShare(Payload):
    """A share with its interval."""

    share: float
    low: float
    high: float


class ConfusionRow(Payload):
    """What the photos with this prediction really show.

    answer: a class; or "neither", for rejected photos. images: number of photos with this answer. answers: of people
    about them. truth: by people's answers, estimated for all of these photos.
    """

    answer: str
    images: int
    answers: int
    truth: dict[str, TrueShare]


class ReviewLoad(Payload):
    """People's workload: reviews, and how long they wait, in hours.

    asked: reviews and audits among the records. answered: by a person, also "can't tell". unanswered: nobody answered
    in time; the review stays open. waiting: not answered, also the unanswered ones. oldest_hours: age of the oldest
    waiting one at `as_of`; None if none waits. median_hours: from the question to its answer; None without answers.
    agreement: of people with each other.
    """

    as_of: datetime | None
    asked: int
    audits: int
    answered: int
    unanswered: int
    waiting: int
    oldest_hours: float | None
    median_hours: float | None
    agreement: Agreement


def reliability(
    records: Sequence[Record], confidence_level: float = 0.95, label_error: float = 0.0
) -> tuple[ReliabilityBin, ...]:
    """Predictions in bins with equal numbers of people's answers, from unsure to confident.

    The probability of being correct is that of `live_accuracy.outcomes`: of the class, and that the photo shows a class
    at all; for a rejected photo, that it shows none. Without answers of people there is no bin.
    """
    seen = sorted(outcomes(records), key=lambda one: -one.expected)
    checked = [i for i, one in enumerate(seen) if one.wrong is not None]
    bins = min(MOST_BINS, max(1, len(checked) // ANSWERS_PER_BIN))
    ends = [checked[len(checked) * (k + 1) // bins - 1] + 1 for k in range(bins - 1)] + [len(seen)] if checked else []
    found, start = [], 0
    for end in ends:
        part, start = seen[start:end], end
        if part:
            low, high = round(1 - part[0].expected, 6), round(1 - part[-1].expected, 6)
            found.append(ReliabilityBin(low=low, high=high, live=estimate(part, confidence_level, label_error)))
    return tuple(found)


def risk_coverage(
    records: Sequence[Record], policy: SelectivePolicy, confidence_level: float = 0.95, label_error: float = 0.0
) -> tuple[LiveRiskCoverage, ...]:
    """The effect of thresholds at equal steps of coverage, strictest first, and of the policy's own; by class, if each
    class has its own threshold.

    Coverage is a share of all photos, also unreadable files. If no prediction of a class is accepted, or the limit on
    p(neither) excludes every photo, the curve is drawn without this limit. label_error: see `estimate`.
    """
    scored = [record for record in records if record.used_prediction]
    answers = [
        (record.prediction, as_label(record, seen))
        for record, seen in zip(scored, outcomes(scored), strict=True)
        if record.prediction
    ]
    curve = []
    for label in policy.thresholds or (ANY_LABEL,):
        own = policy.threshold(label)
        gate = 1.0 if own is None else policy.neither_accept_at_most or 1.0
        ranked = sorted(
            (
                (prediction.confidence, seen)
                for prediction, seen in answers
                if prediction.neither <= gate and label in (ANY_LABEL, prediction.label)
            ),
            key=lambda pair: -pair[0],
        )
        steps = {ranked[len(ranked) * (k + 1) // THRESHOLDS - 1][0] for k in range(THRESHOLDS)} if ranked else set()
        for threshold in sorted({*steps, *([] if own is None else [own])}, reverse=True):
            accepted = [seen for confidence, seen in ranked if confidence >= threshold]
            if accepted:
                live = estimate(accepted, confidence_level, label_error)
                coverage = round(len(accepted) / len(records), 6)
                curve.append(LiveRiskCoverage(label=label, accept_at=threshold, coverage=coverage, live=live))
    return tuple(curve)


def confusion(
    records: Sequence[Record], confidence_level: float = 0.95, label_error: float = 0.0
) -> tuple[ConfusionRow, ...]:
    """For each prediction, what the photos really show, as shares; every cell has its own interval."""
    scored = [record for record in records if record.used_prediction]
    rows: dict[str, list[tuple[Record, Outcome]]] = {}
    for record, seen in zip(scored, outcomes(scored), strict=True):
        rows.setdefault(_answer(record), []).append((record, seen))
    labels = sorted({label for record in scored if record.prediction for label in record.prediction.probabilities})
    return tuple(
        ConfusionRow(
            answer=answer,
            images=len(rows[answer]),
            answers=sum(seen.wrong is not None for _, seen in rows[answer]),
            truth={truth: _share(rows[answer], truth, confidence_level, label_error) for truth in (*labels, NEITHER)},
        )
        for answer in (*labels, NEITHER)
        if answer in rows
    )


def _answer(record: Record) -> str:
    if record.decision.route is Route.REJECT or record.prediction is None:
        return NEITHER
    return record.prediction.label


def _share(row: Sequence[tuple[Record, Outcome]], truth: str, confidence_level: float, label_error: float) -> TrueShare:
    """How many of these photos show this class: the "error" of a prediction that denies it."""
    shows = []
    for record, seen in row:
        prediction, given = record.prediction, record.review.answer if record.review else None
        if prediction is None:
            continue
        known = 1 - prediction.neither
        expected = prediction.neither if truth == NEITHER else prediction.probabilities.get(truth, 0.0) * known
        said = given.label == truth if given and given.label != CANNOT_TELL and seen.wrong is not None else None
        shows.append(Outcome(expected, said, seen.probability))
    live = estimate(shows, confidence_level, label_error)
    return TrueShare(share=round(1 - live.accuracy, 6), low=round(1 - live.high, 6), high=round(1 - live.low, 6))


def review_load(records: Sequence[Record], as_of: datetime | None, confidence_level: float = 0.95) -> ReviewLoad:
    """as_of: when the records were read; None without records."""
    asked = [record for record in records if record.asks_a_person]
    waited = [hours_to_answer(record) for record in asked]
    answered = [hours for hours in waited if hours is not None]
    waiting = [record for record, hours in zip(asked, waited, strict=True) if hours is None]
    ages = [hours_between(asked_at(record), as_of) for record in waiting] if as_of else []
    return ReviewLoad(
        as_of=as_of,
        asked=len(asked),
        audits=sum(record.audited for record in asked),
        answered=len(answered),
        unanswered=sum(
            record.review is not None and record.review.status is ReviewStatus.UNANSWERED for record in waiting
        ),
        waiting=len(waiting),
        oldest_hours=round(max(ages), 3) if ages else None,
        median_hours=round(median(answered), 3) if answered else None,
        agreement=agreement(records, confidence_level=confidence_level),
    )


def asked_at(record: Record) -> datetime:
    """When this photo was sent to review."""
    return record.review.requested_at if record.review else record.recorded_at


def hours_to_answer(record: Record) -> float | None:
    """Time from the question to its answer; None without an answer."""
    if record.review is None or record.review.answer is None:
        return None
    return hours_between(record.review.requested_at, record.review.answer.answered_at)


def hours_between(start: datetime, end: datetime) -> float:
    """At least 0: clocks differ."""
    return max(0.0, (end - start) / timedelta(hours=1))
