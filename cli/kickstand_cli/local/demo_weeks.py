"""Four simulated weeks of records for the demo's monitoring page: three calm ones, and one incident that ends.

Scores and statistics are drawn from the baseline of the shipped model, so that calm days are as calm as they should be.
"""

import bisect
import hashlib
import io
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from kickstand.classify.artefact import ModelCard
from kickstand.classify.policy import decide
from kickstand.events import (
    NEITHER,
    Answer,
    ImageRef,
    ImageStatistics,
    ImageSummary,
    Prediction,
    ReviewOutcome,
    ReviewStatus,
    Route,
    Shown,
)
from kickstand.monitor.drift import CLASS_MIX, FEATURES, Baseline, Budget, Quantiles, images_per_day
from kickstand.monitor.run import read_watch
from kickstand.records import Record
from kickstand.report.pages import data_uri
from kickstand_cli.project import PROJECT

SAMPLES = PROJECT / "samples" / "images"
THUMBNAIL = 120  # pixels
NOT_SIMULATED = "The monitoring page is empty: the model has no baseline to simulate weeks from."
DAYS, A_DAY = 28, 90  # photos: as few as show the guarantee in four weeks
AUDITS = 0.25  # share of accepted photos; with the default of 2 % it takes a year to show the guarantee
SECOND_ANSWERS = 0.2
ERRORS = 0.003  # among accepted predictions
REVIEWERS = "Ada", "Grace"


class Incident(NamedTuple):
    """A lamp is out: most photos are dark, and the model is unsure of them."""

    start: datetime
    end: datetime


class Weeks(NamedTuple):
    """The simulated weeks: their records as lines, the monitoring page of them, and a sentence that says what they are.

    domain: the photos on which the policy's guarantee was shown, in words.
    """

    records: str
    page: str
    about: str
    domain: str


def simulate_weeks(artefact: Path, card: ModelCard, now: datetime) -> Weeks:
    """The four weeks until the last midnight; no records where the model has no baseline to draw them from."""
    # Imported here: matplotlib takes half a second, in which the demo shows what it does.
    from kickstand.report.page import compose, draw_report, read_evidence

    watch, evidence = read_watch(artefact), read_evidence(artefact)
    end = now.replace(hour=0, minute=0, second=0, microsecond=0)
    known = watch.baseline if watch.baseline and watch.baseline.features.keys() >= FEATURES.keys() else None
    records = simulate(card, known, end) if known else []
    about = NOT_SIMULATED
    if records:
        incident = plan(end)
        about = (
            "Simulated: four weeks of photos and reviewers' answers, made by a program. From "
            f"{_day(incident.start)} to {_day(incident.end)} a lamp was out, and most photos were dark. "
            f"People check {100 * AUDITS:.0f} % of the accepted photos here; at the default of 2 % the guarantee takes "
            "about a year to show."
        )
    budget = Budget(images_per_day=images_per_day([record.recorded_at for record in records]))
    report = compose(records, watch, card, budget, evidence=evidence)
    lines = "".join(f"{record.model_dump_json()}\n" for record in records)
    domain = evidence.domain if watch.promise and len(watch.refused) < len(card.labels) else ""
    return Weeks(lines, draw_report(report, records, watch, card, Album(card), about), about, domain)


def _day(at: datetime) -> str:
    return f"{at.day} {at:%B}"


class Album:
    """Photos to show for simulated records: the samples, darkened where the lamp was out."""

    def __init__(self, card: ModelCard) -> None:
        self._files = {label: sorted((SAMPLES / label).glob("*.jpg")) for label in card.labels}

    def __call__(self, record: Record) -> str | None:
        files = self._files.get(record.prediction.label if record.prediction else "")
        if not files:
            return None
        return _shrink(files[int(record.image_ref.key[-8:-4]) % len(files)], dark=is_dark(record))


@lru_cache
def _shrink(file: Path, *, dark: bool) -> str:
    with Image.open(file) as photo:
        small = photo.convert("RGB").resize((THUMBNAIL, THUMBNAIL))
    data = io.BytesIO()
    (small.point(lambda value: value * 0.3) if dark else small).save(data, "JPEG", quality=80)
    return data_uri("image/jpeg", data.getvalue())


def plan(end: datetime) -> Incident:
    """The incident of the weeks that end then: on the eleventh to the thirteenth day."""
    opening = end - timedelta(days=DAYS)
    return Incident(opening + timedelta(days=10, hours=9), opening + timedelta(days=12, hours=20))


def simulate(card: ModelCard, baseline: Baseline, end: datetime) -> list[Record]:
    """The records of the weeks before `end`, oldest first. The same arguments give the same records."""
    draw, incident = random.Random(7), plan(end)  # noqa: S311 - the same again
    opening = end - timedelta(days=DAYS) + timedelta(hours=6)
    times = sorted(
        opening + timedelta(days=day, seconds=draw.randrange(15 * 3600)) for day in range(DAYS) for _ in range(A_DAY)
    )
    return [_record(number, at, card, baseline, incident, end, draw) for number, at in enumerate(times)]


def is_dark(record: Record) -> bool:
    """Whether the photo was taken while the lamp was out."""
    return "dark" in record.image_ref.key


def _record(
    number: int,
    at: datetime,
    card: ModelCard,
    baseline: Baseline,
    incident: Incident,
    end: datetime,
    draw: random.Random,
) -> Record:
    dark = incident.start <= at < incident.end and draw.random() < 0.7
    values = {name: _quantile(baseline.features[name], draw.random()) for name in FEATURES}
    if dark:  # unsure more often, and seldom wrong where it is sure
        values["brightness"] = 0.4 * values["brightness"]
        values["contrast"] = 0.6 * values["contrast"]
        values["confidence"] = _quantile(baseline.features["confidence"], 0.2 * draw.random())
    weights = [_share(baseline, label) for label in card.labels]
    (answered,) = draw.choices(card.labels, weights)
    rest = (1 - values["confidence"]) / (len(card.labels) - 1)
    prediction = Prediction.of(
        {label: values["confidence"] if label == answered else rest for label in card.labels},
        neither=values["neither"],
        model_version=card.model_version,
        backend="embedded",
        latency_ms=40.0,
    )
    decision = decide(prediction, card.policy)
    reviewed, accepted = decision.route is Route.REVIEW, decision.route is Route.ACCEPT
    audited = accepted and draw.random() < AUDITS
    truth = prediction.label
    if draw.random() < (ERRORS if accepted else 1 - values["confidence"]):
        truth = draw.choice([label for label in card.labels if label != truth])
    if decision.route is Route.REJECT or values["neither"] > 0.5:
        truth = NEITHER
    key = f"{at:%Y-%m-%d}/{'dark-' if dark else ''}{number:04}.jpg"
    names = {name: value for name, value in values.items() if name in ImageStatistics.model_fields}
    record = Record(
        image=f"s3://simulated/{key}",
        version="1",
        image_ref=ImageRef(bucket="simulated", key=key, etag="e", version_id="1", uploaded_at=at),
        prepared_image=ImageSummary(
            sha256=hashlib.sha256(key.encode()).hexdigest(),
            format="JPEG",
            width=1600,
            height=1200,
            statistics=ImageStatistics(**names, shorter_side=1200),
        ),
        prediction=prediction,
        decision=decision,
        execution="simulated",
        recorded_at=at,
        audit_probability=1.0 if reviewed else AUDITS if accepted else 0.0,
        audited=audited,
    )
    if not record.asks_a_person:
        return record
    why = "audit" if audited else str(decision.reason)
    first = _answer(truth, at, draw)
    if first.answered_at >= end:
        return record
    second = _answer(truth, first.answered_at, draw) if draw.random() < SECOND_ANSWERS else None
    if second and second.answered_at >= end:
        second = None
    status = ReviewStatus.ANSWERED
    review = ReviewOutcome(status=status, why=why, requested_at=at, answer=first, second=second)
    return record.model_copy(update={"review": review})


def _answer(truth: str, after: datetime, draw: random.Random) -> Answer:
    return Answer(
        label=truth,
        reviewer=draw.choice(REVIEWERS),
        answered_at=after + timedelta(minutes=5 + draw.expovariate(1 / 150)),
        seconds_taken=round(draw.uniform(2, 9), 1),
        shown=Shown(explanation="", choices=()),
    )


def _share(baseline: Baseline, label: str) -> float:
    rate = baseline.rates.get(f"{CLASS_MIX}:{label}")
    return rate.hits / rate.n if rate else 1.0


def _quantile(known: Quantiles, level: float) -> float:
    """The value below which this share of the baseline lies, between the ranks that are known."""
    levels: Sequence[float] = [n / 100 for n in range(51)] + [1 - n / 100 for n in range(49, -1, -1)]
    lowest, highest = 2 * known.low[0] - known.low[1], 2 * known.high[0] - known.high[1]
    values = [max(0.0, lowest), *known.low, *reversed(known.high[:-1]), min(1.0, highest)]
    right = max(1, bisect.bisect_left(levels, level))
    part = (level - levels[right - 1]) / (levels[right] - levels[right - 1])
    return round(values[right - 1] + part * (values[right] - values[right - 1]), 5)
