"""From uploaded bytes to the model's input: one way for serving, training and evaluation, so that none is skewed."""

import base64
import hashlib
import io

from PIL import Image, ImageChops, ImageStat

from kickstand.classify.decoder import Decoded, Refused
from kickstand.classify.decoding import decode as decode_apart
from kickstand.errors import InvalidImage
from kickstand.events import ImageStatistics, ImageSummary, PreparedImage

MAX_IMAGE_BYTES = 40 * 1024 * 1024  # a phone's JPEG of 108 megapixels
MEASURED = 256  # pixels of the longer side: no finer than the photos that `photo_quality`'s limits were chosen on
LONGEST = 512  # pixels: what is measured, shown to people, and scaled to the model's input


def scale(data: bytes, name: str, input_shape: tuple[int, int, int]) -> tuple[Image.Image, ImageSummary]:
    """Decode, turn upright, flatten to RGB and scale to the model's input.

    data: the whole uploaded object.
    name: how errors call it.
    input_shape: (height, width, 3). The whole photo is squeezed into it: docs/decisions.md has what was measured.

    Raises InvalidImage, with the name and the reason, for whatever cannot be used as a photo.
    """
    height, width, _ = input_shape
    decoded = decode(data, name, max(LONGEST, width, height))
    summary = ImageSummary(
        sha256=hashlib.sha256(data).hexdigest(),
        format=decoded.format,
        width=decoded.uploaded[0],
        height=decoded.uploaded[1],
        statistics=measure(decoded.pixels, decoded.uploaded),
    )
    return decoded.pixels.resize((width, height), Image.Resampling.LANCZOS), summary  # which keeps most of the detail


def prepare(data: bytes, name: str, input_shape: tuple[int, int, int]) -> PreparedImage:
    """What `scale` makes of it, as it travels to the next state. Raises InvalidImage."""
    pixels, summary = scale(data, name, input_shape)
    png = io.BytesIO()
    pixels.save(png, "PNG", compress_level=1)  # at this size the quickest compression is as small as the best
    return PreparedImage(png=base64.b64encode(png.getvalue()).decode("ascii"), **dict(summary))


def hash_pixels(image: PreparedImage) -> str:
    """SHA-256 of the RGB pixels that the model sees: equal for one photo in two files, or in two formats."""
    with Image.open(io.BytesIO(base64.b64decode(image.png)), formats=("PNG",)) as photo:
        return hashlib.sha256(photo.tobytes()).hexdigest()


def thumbnail(data: bytes, name: str, longest: int) -> tuple[str, bytes]:
    """The upload as a person is shown it: upright, whole, nothing but pixels. Media type and bytes.

    longest: neither side gets longer than this many pixels; a smaller image keeps its own.

    Raises InvalidImage as `prepare` does.
    """
    rgb = decode(data, name, longest).pixels
    small = max(rgb.size) <= 128
    file = io.BytesIO()
    rgb.save(file, "PNG") if small else rgb.save(file, "JPEG", quality=88)
    return ("image/png" if small else "image/jpeg"), file.getvalue()


def decode(data: bytes, name: str, longest: int) -> Decoded:
    """Upright RGB pixels, the longer side at most `longest`; decoded apart, within limits of time and memory.

    Raises InvalidImage, with the name and the reason.
    """
    if not data:
        raise InvalidImage(f"{name}: 0 bytes; send it again")
    if len(data) > MAX_IMAGE_BYTES:
        raise InvalidImage(f"{name}: {len(data):,} bytes, more than {MAX_IMAGE_BYTES:,}; send a smaller photo")
    try:
        return decode_apart(data, longest)
    except Refused as refusal:
        raise InvalidImage(f"{name}: {refusal}") from refusal


def measure(rgb: Image.Image, uploaded: tuple[int, int] | None = None) -> ImageStatistics:
    """The statistics of one upright RGB photo. uploaded: its (width, height) as uploaded, where rgb is smaller.

    Sharpness is the 99th percentile of the luma's differences between neighbours, in the one of four directions where
    it is least: motion blurs one direction alone, and a plain background has no say.

    >>> measure(Image.new("RGB", (32, 32), (255, 0, 0))).saturation
    1.0
    """
    shorter_side = min(uploaded or rgb.size)
    rgb = rgb.copy()
    rgb.thumbnail((MEASURED, MEASURED), Image.Resampling.LANCZOS)
    luma, width, height = rgb.convert("L"), rgb.width, rgb.height
    brightness = ImageStat.Stat(luma)
    steps = []
    for across, down in ((1, 0), (0, 1), (1, 1), (-1, 1)):
        here = luma.crop((max(0, -across), 0, width - max(0, across), height - down))
        there = luma.crop((max(0, across), down, width + min(0, across), height))
        steps.append(_percentile(ImageChops.difference(here, there).histogram(), 0.99))
    centre = luma.crop((width // 5, height // 5, width - width // 5, height - height // 5))
    burnt, burnt_centre = sum(luma.histogram()[250:]), sum(centre.histogram()[250:])
    pixels, pixels_centre = width * height, centre.width * centre.height
    border = (burnt - burnt_centre) / (pixels - pixels_centre) if pixels > pixels_centre else 0.0
    return ImageStatistics(
        brightness=round(brightness.mean[0] / 255, 5),
        contrast=round(brightness.stddev[0] / 255, 5),
        sharpness=round(min(steps) / 255, 5),
        saturation=round(ImageStat.Stat(rgb.convert("HSV").getchannel("S")).mean[0] / 255, 5),
        glare=round(max(0.0, burnt_centre / pixels_centre - border), 5),
        shorter_side=shorter_side,
    )


def _percentile(histogram: list[int], share: float) -> float:
    """The value that this share of a histogram's entries lies below, interpolated within its bin; 0.0 of none."""
    wanted, below = share * sum(histogram), 0
    for value, count in enumerate(histogram):
        if count and below + count >= wanted:
            return value - 0.5 + (wanted - below) / count if value else 0.0
        below += count
    return 0.0
