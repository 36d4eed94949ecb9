"""Random samples: some of the model's decisions go to review, and some of the reviewers' answers are checked."""

import hashlib
import hmac
from collections.abc import Sequence
from typing import TypeVar

from kickstand.events import Reason, Route
from kickstand.records import Record

Photo = TypeVar("Photo")


def sample(record: Record, rate: float, key: bytes) -> Record:
    """The record with its audit probability, and whether it was drawn for an audit.

    rate: share of the accepted and rejected photos that are audited, 0 to 1. Unreadable files are not, nor photos that
        must be taken again: the model's prediction was not used.
    key: makes the draw unpredictable for uploaders.

    The draw is a keyed hash of image and version, so that a retry draws the same.
    """
    decision = record.decision
    if decision.route is Route.REVIEW:
        return record.model_copy(update={"audit_probability": 1.0, "audited": False})
    probability = 0.0 if decision.reason in (Reason.UNREADABLE, Reason.RETAKE) else rate
    chosen = draw(*record.key, key) < probability
    return record.model_copy(update={"audit_probability": probability, "audited": chosen})


def asks_twice(image: str, version: str, share: float, key: bytes) -> bool:
    """Whether a second reviewer is asked about this photo, once somebody has answered."""
    return draw(image, version, key, "second answer") < share


def pick_golden(photos: Sequence[Photo], image: str, version: str, share: float, key: bytes) -> Photo | None:
    """The golden photo that is shown to the reviewer after their answer about this photo; usually None."""
    if not photos or draw(image, version, key, "golden photo") >= share:
        return None
    return photos[int(draw(image, version, key, "which golden photo") * len(photos))]


def draw(image: str, version: str, key: bytes, purpose: str = "") -> float:
    """A number in [0, 1), uniform over photos, always the same for one photo.

    purpose: each has its own draw; otherwise only audited photos would get a second reviewer.

    >>> draw("s3://photos/a.jpg", "v1", b"key") == draw("s3://photos/a.jpg", "v1", b"key")
    True
    """
    digest = hmac.digest(key, "\n".join(filter(None, (purpose, image, version))).encode(), hashlib.sha256)
    return int.from_bytes(digest[:6]) / 2**48  # 48 bits, exact in a float, so that 1 is never reached
