"""find_flaw() tells photos that are good enough from those that should be taken again, and says what to do."""

import io
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from kickstand.classify.images import prepare
from kickstand.classify.photo_quality import Flaw, find_flaw
from kickstand.events import ImageStatistics

SAMPLES = Path(__file__).parents[3] / "samples/images/bicycle"


def drawing(name: str = "blue-city-bike.jpg") -> Image.Image:
    return Image.open(SAMPLES / name).resize((1200, 1200))


def flaw_of(photo: Image.Image) -> Flaw | None:
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=90)
    return find_flaw(prepare(file.getvalue(), "x", (32, 32, 3)).statistics)


def shaken(photo: Image.Image) -> Image.Image:
    """Moved sideways by a tenth while the shutter was open."""
    copies = photo.copy()
    for step in range(1, 60):
        copies = Image.blend(
            copies, photo.transform(photo.size, Image.Transform.AFFINE, (1, 0, 2 * step, 0, 1, 0)), 1 / (step + 1)
        )
    return copies


def with_a_lamp(photo: Image.Image) -> Image.Image:
    glow = Image.new("L", photo.size)
    ImageDraw.Draw(glow).ellipse((300, 300, 900, 900), fill=255)
    grey = photo.point(lambda value: value // 2)
    return Image.composite(Image.new("RGB", photo.size, "white"), grey, glow.filter(ImageFilter.GaussianBlur(60)))


def test_a_sharp_photo_before_white_is_good_enough() -> None:
    assert flaw_of(drawing("black-on-white.jpg")) is None


@pytest.mark.parametrize(
    ("photo", "reason"),
    [
        (drawing("black-on-white.jpg").filter(ImageFilter.GaussianBlur(24)), "blurred"),
        (shaken(drawing()), "blurred"),
        (ImageEnhance.Brightness(drawing()).enhance(0.05), "too dark"),
        (with_a_lamp(drawing()), "glare"),
        (Image.new("RGB", (1200, 1200), "white"), "too bright"),
        (drawing().resize((24, 24)), "too small, 24 pixels"),
    ],
    ids=["out of focus", "shaken", "night", "lamp", "white", "tiny"],
)
def test_an_unusable_photo_is_told_by_what_is_wrong_with_it(photo: Image.Image, reason: str) -> None:
    flaw = flaw_of(photo)
    assert flaw
    assert flaw.unusable
    assert flaw.reason.startswith(reason)


@pytest.mark.parametrize(("side", "expected"), [(112, None), (111, False), (32, False), (31, True)])
def test_a_small_photo_is_poor_and_a_tiny_one_unusable(side: int, expected: bool | None) -> None:
    statistics = ImageStatistics(brightness=0.5, contrast=0.2, sharpness=0.5, saturation=0.5, shorter_side=side)
    flaw = find_flaw(statistics)
    assert (flaw and flaw.unusable) == expected


def test_a_record_older_than_the_measures_has_no_flaw() -> None:
    older = {"brightness": 0.1, "contrast": 0.0, "sharpness": 0.0, "saturation": 0.0}
    assert find_flaw(ImageStatistics.model_validate(older)) is None
