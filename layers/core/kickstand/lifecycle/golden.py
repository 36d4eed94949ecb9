"""Golden images: photos beyond doubt, which a new version must get right before it sees any other."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kickstand.classify.policy import decide
from kickstand.events import NEITHER, Prediction, Route, SelectivePolicy


@dataclass(frozen=True)
class GoldenImage:
    """One photo, and what everybody can see on it: expected is a label, or "neither"."""

    name: str
    data: bytes
    expected: str


def read_golden_images(folder: Path, labels: tuple[str, ...]) -> Iterator[GoldenImage]:
    """The photos at `<folder>/<label or "neither">/<file>`.

    Raises ValueError for a folder that is no label, and where a label has no photo: a rollout that checks nothing is
    not checked.
    """
    folders = {path.name: path for path in sorted(folder.glob("*")) if path.is_dir()}
    if unknown := folders.keys() - {*labels, NEITHER}:
        raise ValueError(f"{folder}: {', '.join(sorted(unknown))}: the model knows {', '.join(labels)}")
    for expected in (*labels, NEITHER):
        photos = sorted(folders[expected].iterdir()) if expected in folders else []
        if not photos:
            raise ValueError(f"{folder}: no golden image of {expected}")
        for photo in photos:
            yield GoldenImage(f"{expected}/{photo.name}", photo.read_bytes(), expected)


def find_mistake(image: GoldenImage, prediction: Prediction, policy: SelectivePolicy) -> str | None:
    """What is wrong with this answer, in one sentence; None where nothing is.

    A photo of a label must be accepted as that label; one of neither must not be accepted. A label without a threshold
    is never accepted, however sure the model is: its photo must go to a person, with the right label, as its photos do
    by this policy. The model is so checked on every label, and a policy that refuses one is not kept from serving the
    others.
    """
    decision = decide(prediction, policy)
    if image.expected == NEITHER:
        right = decision.route is not Route.ACCEPT
    else:
        expected = Route.REVIEW if policy.threshold(image.expected) is None else Route.ACCEPT
        right = (decision.route, prediction.label) == (expected, image.expected)
    return None if right else f"{image.name}: {decision.route}, {decision.explanation}"
