"""Whether a photo is good enough to be judged, or should be taken again."""

from typing import NamedTuple

from kickstand.events import ImageStatistics

# Beyond the first limit a photo is unusable, beyond the second one poor. Chosen by `python -m bench.photo_quality`.
SHARPNESS = 0.1, 0.22
GLARE = 0.08, 0.005
SHORTER_SIDE = 32, 112  # pixels; the model is calibrated on photos of 32
DARK, BRIGHT = 0.2, 0.95  # mean luma, the likely reasons for missing edges; a good photo on white has up to 0.9


class Flaw(NamedTuple):
    """What is wrong with a photo.

    reason: a sentence for the person who took it: what is wrong and what to do.
    unusable: whatever the model answers; a photo that is only poor is fine if the model is confident.
    """

    reason: str
    unusable: bool


def find_flaw(statistics: ImageStatistics | None) -> Flaw | None:
    """The photo's first flaw; None if it is good enough, or recorded before these measures existed.

    >>> find_flaw(ImageStatistics(brightness=0.1, contrast=0.1, sharpness=0.1, saturation=0.5, shorter_side=3000))
    Flaw(reason='too dark; take the photo again with more light', unusable=False)
    """
    if statistics is None or statistics.shorter_side is None:
        return None
    if statistics.brightness < DARK:
        dull = "too dark; take the photo again with more light"
    elif statistics.brightness > BRIGHT:
        dull = "too bright; take the photo again with less light"
    else:
        dull = "blurred; hold the camera still and take the photo again"
    for unusable, side, sharpness, glare in zip((True, False), SHORTER_SIDE, SHARPNESS, GLARE, strict=True):
        if statistics.shorter_side < side:
            return Flaw(f"too small, {statistics.shorter_side} pixels; send the original photo", unusable)
        if statistics.glare > glare:
            return Flaw("glare; take the photo again with the light behind you", unusable)
        if statistics.sharpness < sharpness:
            return Flaw(dull, unusable)
    return None
