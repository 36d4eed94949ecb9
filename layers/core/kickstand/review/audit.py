"""Random draws: some answers of the model go to a person, and some answers of people are checked, unforeseeably."""

import hashlib
import hmac
from collections.abc import Sequence
from typing import TypeVar

from kickstand.events import Reason, Route
from kickstand.records import Record

Photo = TypeVar("Photo")


def sample(record: Record, rate: float, key: bytes) -> Record:
    """The record with its audit probability, and whether the lot fell on it.

    rate: share of the accepted and rejected images that are audited, 0 to 1. Unreadable ones are not, nor
        those to be taken again: the model's answer was not used.
    key: makes the lot unpredictable to whoever uploads.

    The lot is a keyed hash of image and version, so that a retry draws the same one.
    """
    decision = record.decision
    if decision.route is Route.REVIEW:
        return record.model_copy(update={"audit_probability": 1.0, "audited": False})
    probability = 0.0 if decision.reason in (Reason.UNREADABLE, Reason.RETAKE) else rate
    chosen = draw(record.image, record.version, key) < probability
    return record.model_copy(update={"audit_probability": probability, "audited": chosen})


def asks_twice(image: str, version: str, share: float, key: bytes) -> bool:
    """Whether a second reviewer is asked about this image, once somebody has answered."""
    return draw(image, version, key, "second answer") < share


def pick_golden(photos: Sequence[Photo], image: str, version: str, share: float, key: bytes) -> Photo | None:
    """The golden photo that is shown to the reviewer who has answered this image; mostly None."""
    if not photos or draw(image, version, key, "golden photo") >= share:
        return None
    return photos[int(draw(image, version, key, "which golden photo") * len(photos))]


def draw(image: str, version: str, key: bytes, purpose: str = "") -> float:
    """A number in [0, 1), uniform over images, the same every time for one image.

    purpose: each draws for itself; by the audit's draw, only audited images would be asked about twice.

    >>> draw("s3://photos/a.jpg", "v1", b"key") == draw("s3://photos/a.jpg", "v1", b"key")
    True
    """
    digest = hmac.digest(key, "\n".join(filter(None, (purpose, image, version))).encode(), hashlib.sha256)
    return int.from_bytes(digest[:6]) / 2**48  # 48 bits, exact in a float, so that 1 is never reached
