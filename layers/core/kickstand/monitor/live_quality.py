"""How good the answers are, seen closer: by how sure they were, by threshold, by what they said; and people's load.

All from live labels, reviews and random audits, weighted by how probable it was that a person was asked, through
`live_accuracy.estimate`: so every interval holds whatever the images are, and though people err on them with a
probability of at most `label_error`.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from statistics import median

from kickstand.classify.policy import SelectivePolicy
from kickstand.classify.promise import ANY_LABEL
from kickstand.events import NEITHER, Payload, ReviewStatus, Route
from kickstand.monitor.live_accuracy import LiveAccuracy, Outcome, as_label, estimate, outcomes
from kickstand.records import Record
from kickstand.review.agreement import Agreement, agreement
from kickstand.review.rules import CANNOT_TELL

ANSWERS_PER_BIN = 12
MOST_BINS = 8
THRESHOLDS = 16


class ReliabilityBin(Payload):
    """Answers of about the same probability of being right, by the model; and how often they are.

    low, high: the smallest and the largest of these probabilities.
    """

    low: float
    high: float
    live: LiveAccuracy


class LiveRiskCoverage(Payload):
    """What a threshold on the confidence, behind the gate on neither, accepts: a share (coverage), right so often.

    label: of the answers; empty where one threshold is for all labels. coverage: of all images, whatever the answer.
    """

    label: str = ANY_LABEL
    accept_at: float
    coverage: float
    live: LiveAccuracy


class Share(Payload):
    """A share with its interval."""

    share: float
    low: float
    high: float


class ConfusionRow(Payload):
    """What images really show that were all given this answer.

    answer: a label; or "neither", which is given by rejecting. images: that were given it. answers: of people about
    them. truth: by what people say; estimated for all the images.
    """

    answer: str
    images: int
    answers: int
    truth: dict[str, Share]


class ReviewLoad(Payload):
    """What people are asked, and how long it waits; hours.

    asked: reviews and audits among the records. answered: by a person, "can't tell" too. unanswered: nobody came in
    time, and the question stays open. waiting: not answered, unanswered ones too. oldest_hours: of those that wait, as
    of `as_of`; None where none does. median_hours: from the question to its answer; None without answers.
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
    """Answers in bins that hold equal numbers of people's answers, from unsure to sure.

    The probability of being right is what `live_accuracy.outcomes` expects: of the label and of showing one at all, or
    of neither where the image was rejected. Without an answer there is no bin.
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
    """What thresholds at equal steps of coverage would accept, strictest first, and the policy's own; label by label,
    where the policy has a threshold for each.

    Coverage is a share of all images, unreadable ones too. Where no answer of a label is accepted, or the gate on
    neither lets no image through, the curve is drawn without the gate. label_error: see `estimate`.
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
    """For each answer the shares of what images show that were given it; every cell has an interval of its own."""
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


def _share(row: Sequence[tuple[Record, Outcome]], truth: str, confidence_level: float, label_error: float) -> Share:
    """How many of these images show this: the "error" of an answer that denies it."""
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
    return Share(share=round(1 - live.accuracy, 6), low=round(1 - live.high, 6), high=round(1 - live.low, 6))


def review_load(records: Sequence[Record], as_of: datetime | None, confidence_level: float = 0.95) -> ReviewLoad:
    """as_of: when the records were read; None where there are none."""
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
    """When a person was asked about this image."""
    return record.review.requested_at if record.review else record.recorded_at


def hours_to_answer(record: Record) -> float | None:
    """From the question to its answer; None while there is none."""
    if record.review is None or record.review.answer is None:
        return None
    return hours_between(record.review.requested_at, record.review.answer.answered_at)


def hours_between(start: datetime, end: datetime) -> float:
    """At least 0: clocks differ."""
    return max(0.0, (end - start) / timedelta(hours=1))
