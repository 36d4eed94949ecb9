"""A made-up stream of records, for tests of what reads the past: a calm start, nights, and people who answer."""

import hashlib
import io
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from kickstand.classify.artefact import ModelCard
from kickstand.classify.images import measure
from kickstand.classify.policy import decide
from kickstand.events import (
    Answer,
    ImageRef,
    ImageSummary,
    Prediction,
    ReviewOutcome,
    ReviewStatus,
    Route,
    SelectivePolicy,
    Shown,
)
from kickstand.monitor.drift import Baseline, Drift, make_baseline, observe
from kickstand.records import Record

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
CARD = ModelCard(
    model_version="m1",
    model_sha256="0" * 64,
    labels=("bicycle", "motorcycle"),
    input_shape=(32, 32, 3),
    temperature=1.0,
    policy=SelectivePolicy(policy_version="p1", accept_at=0.8, neither_accept_at_most=0.2, neither_reject_at_least=0.8),
)


def make_records(
    n: int, night_from: int | None = None, audits: float = 0.1, names: str = "{}.png", images: Path | None = None
) -> Iterator[Record]:
    """One image every ten minutes, the label right as often as the confidence says.

    night_from: the first of the dark images, of which the model is less sure. audits: their share.
    names: of the images. images: a folder that the images are written to, as far as they may be looked at.
    """
    draw = random.Random(7)
    for i in range(n):
        dark = night_from is not None and i >= night_from
        level = draw.uniform(0.03, 0.12) if dark else draw.uniform(0.3, 0.7)
        contrast = level * draw.uniform(0.3, 0.5)
        key, at = names.format(i), NOON + timedelta(minutes=10 * i)
        photo = _photo(draw, level, contrast)
        summary = ImageSummary(
            sha256=hashlib.sha256(str(i).encode()).hexdigest(),
            format="PNG",
            width=32,
            height=32,
            statistics=measure(photo),
        )
        if images:
            data = io.BytesIO()
            photo.save(data, "PNG")
            (images / key).write_bytes(data.getvalue())
        confidence = round(0.5 + 0.5 * draw.betavariate(3 if dark else 9, 1), 5)
        neither = round(0.9 if draw.random() < 0.03 else draw.betavariate(1, 60), 5)
        truth = draw.choice(CARD.labels)
        right = draw.random() < confidence
        label = truth if right else next(other for other in CARD.labels if other != truth)
        others = {other: 1 - confidence for other in CARD.labels if other != label}
        prediction = Prediction.of(
            {label: confidence, **others}, neither=neither, model_version="m1", backend="embedded", latency_ms=1
        )
        decision = decide(prediction, CARD.policy)
        review = decision.route is Route.REVIEW
        audited = not review and draw.random() < audits
        record = Record(
            image=f"s3://photos/{key}",
            version="v",
            image_ref=ImageRef(bucket="photos", key=key, etag="e", version_id="v", uploaded_at=at),
            prepared_image=summary,
            prediction=prediction,
            decision=decision,
            execution="arn",
            recorded_at=at,
            audit_probability=1.0 if review else audits,
            audited=audited,
        )
        if (review or audited) and draw.random() < 0.9:
            says = "neither" if neither > 0.5 else truth
            record = record.model_copy(update={"review": _answered(record, says, at, draw)})
        yield record


def make_stream_baseline() -> Baseline:
    """Of a stream in which all is well."""
    observations = [observe(record, "m1", "p1") for record in make_records(600)]
    return make_baseline(((one.features, one.rates) for one in observations), "made up", "m1", "p1")


def list_alarms(drift: Drift) -> list[str]:
    """The statistic of each alarm that this has raised, ended ones first."""
    found = [one.finding for one in drift.ended] + [finding for finding in drift.findings() if finding.alarm]
    return [finding.statistic for finding in found]


def _photo(draw: random.Random, level: float, contrast: float) -> Image.Image:
    """A blot on a grainy ground."""
    x, y, size = (draw.uniform(*span) for span in ((8, 24), (8, 24), (4, 10)))
    shade = Image.new("L", (32, 32), round(255 * max(0.0, level - contrast * 0.7)))
    ImageDraw.Draw(shade).ellipse((x - size, y - size, x + size, y + size), fill=round(255 * (level + contrast * 0.7)))
    grain = np.rint(np.frombuffer(draw.randbytes(32 * 32), np.uint8).reshape(32, 32) * contrast / 4)
    grey = np.minimum(np.asarray(shade) + grain, 255)
    tints = [draw.uniform(0.7, 1.0) for _ in range(3)]
    return Image.fromarray(np.rint(grey[:, :, np.newaxis] * tints).astype(np.uint8))


def _answered(record: Record, label: str, at: datetime, draw: random.Random) -> ReviewOutcome:
    answer = Answer(
        label=label,
        reviewer="Ada",
        answered_at=at + timedelta(hours=draw.expovariate(1 / 5)),
        seconds_taken=4,
        shown=Shown(explanation="", choices=()),
    )
    why = "audit" if record.audited else record.decision.reason
    return ReviewOutcome(status=ReviewStatus.ANSWERED, why=why, requested_at=at, answer=answer)
