"""Golden photos: unambiguous photos that a new version must get right before it receives traffic."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kickstand.classify.policy import decide
from kickstand.events import NEITHER, Prediction, Route, SelectivePolicy


@dataclass(frozen=True)
class GoldenImage:
    """One photo and what it shows: expected is a class, or "neither"."""

    name: str
    data: bytes
    expected: str


def read_golden_images(folder: Path, labels: tuple[str, ...]) -> Iterator[GoldenImage]:
    """The photos at `<folder>/<class or "neither">/<file>`.

    Raises ValueError for a folder that is not a class, and for a class without a photo, which could not be checked.
    """
    folders = {path.name: path for path in sorted(folder.glob("*")) if path.is_dir()}
    if unknown := folders.keys() - {*labels, NEITHER}:
        raise ValueError(f"{folder}: {', '.join(sorted(unknown))}: the model knows {', '.join(labels)}")
    for expected in (*labels, NEITHER):
        photos = sorted(folders[expected].iterdir()) if expected in folders else []
        if not photos:
            raise ValueError(f"{folder}: no golden photo of {expected}")
        for photo in photos:
            yield GoldenImage(f"{expected}/{photo.name}", photo.read_bytes(), expected)


def find_mistake(image: GoldenImage, prediction: Prediction, policy: SelectivePolicy) -> str | None:
    """What is wrong with this prediction, in one sentence; None if nothing is.

    A photo of a class must be accepted as that class; one that shows none of the classes must not be accepted. A class
    without a threshold is never accepted, so its photo must go to review with the correct prediction. Every class is
    checked in this way, and a policy that refuses one class can still serve the others.
    """
    decision = decide(prediction, policy)
    if image.expected == NEITHER:
        right = decision.route is not Route.ACCEPT
    else:
        expected = Route.REVIEW if policy.threshold(image.expected) is None else Route.ACCEPT
        right = (decision.route, prediction.label) == (expected, image.expected)
    return None if right else f"{image.name}: {decision.route}, {decision.explanation}"
