"""The random audit: some answers go to a person whatever the model said, so that its accuracy can be estimated."""

import hashlib
import hmac

from kickstand.events import Reason, Route
from kickstand.records import Record


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


def draw(image: str, version: str, key: bytes) -> float:
    """A number in [0, 1), uniform over images, the same every time for one image.

    >>> draw("s3://photos/a.jpg", "v1", b"key") == draw("s3://photos/a.jpg", "v1", b"key")
    True
    """
    digest = hmac.digest(key, f"{image}\n{version}".encode(), hashlib.sha256)
    return int.from_bytes(digest[:6]) / 2**48  # 48 bits, exact in a float, so that 1 is never reached
