"""From uploaded bytes to the model's input: the same code for serving, training and evaluation."""

import base64
import hashlib
import io

from PIL import Image, ImageChops, ImageStat

from kickstand.classify.decoder import Decoded, Refused
from kickstand.classify.decoding import decode as decode_apart
from kickstand.errors import InvalidImage
from kickstand.events import ImageStatistics, ImageSummary, PreparedImage

MAX_IMAGE_BYTES = 40 * 1024 * 1024  # a phone's JPEG of 108 megapixels
MEASURED = 256  # pixels of the longer side: as in the photos on which the limits of `photo_quality` were chosen
LONGEST = 512  # pixels: for statistics, for reviewers, and to scale to the model's input


def scale(data: bytes, name: str, input_shape: tuple[int, int, int]) -> tuple[Image.Image, ImageSummary]:
    """Decode, turn upright, flatten to RGB and scale to the model's input.

    data: the whole uploaded object.
    name: for error messages.
    input_shape: (height, width, 3). The whole photo is squeezed into it: see docs/decisions.md for measurements.

    Raises InvalidImage, with the name and the reason, for anything but a usable photo.
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
    return decoded.pixels.resize((width, height), Image.Resampling.LANCZOS), summary  # keeps the most detail


def prepare(data: bytes, name: str, input_shape: tuple[int, int, int]) -> PreparedImage:
    """The result of `scale`, for the next state. Raises InvalidImage."""
    pixels, summary = scale(data, name, input_shape)
    return PreparedImage(png=base64.b64encode(encode(pixels)).decode("ascii"), **dict(summary))


def encode(pixels: Image.Image) -> bytes:
    """The pixels as a PNG file."""
    png = io.BytesIO()
    pixels.save(png, "PNG", compress_level=1)  # at this size the quickest compression is as small as the best
    return png.getvalue()


def hash_pixels(pixels: Image.Image) -> str:
    """SHA-256 of the RGB pixels that the model sees: equal for one photo in two files, or in two formats."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def thumbnail(data: bytes, name: str, longest: int) -> tuple[str, bytes]:
    """The photo as a person sees it: upright, whole, only pixels. Returns media type and bytes.

    longest: maximum of the longer side, in pixels; a smaller photo keeps its size.

    Raises InvalidImage as `prepare` does.
    """
    rgb = decode(data, name, longest).pixels
    small = max(rgb.size) <= 128
    file = io.BytesIO()
    rgb.save(file, "PNG") if small else rgb.save(file, "JPEG", quality=88)
    return ("image/png" if small else "image/jpeg"), file.getvalue()


def decode(data: bytes, name: str, longest: int) -> Decoded:
    """Upright RGB pixels, the longer side at most `longest`; decoded in a separate process with limits.

    Raises InvalidImage, with the name and the reason.
    """
    if not data:
        raise InvalidImage(f"{name}: 0 bytes; send it again")
    if len(data) > MAX_IMAGE_BYTES:
        raise InvalidImage(f"{name}: more than {MAX_IMAGE_BYTES:,} bytes; send a smaller photo")
    try:
        return decode_apart(data, longest)
    except Refused as refusal:
        raise InvalidImage(f"{name}: {refusal}") from refusal


def measure(rgb: Image.Image, uploaded: tuple[int, int] | None = None) -> ImageStatistics:
    """The statistics of one upright RGB photo. uploaded: its (width, height) as uploaded, where rgb is smaller.

    Sharpness is the 99th percentile of the luma's differences between neighbours, in the direction (of four) where it
    is lowest: motion blurs only one direction, and a plain background must not count.

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
    """The percentile of a histogram, interpolated within its bin; 0.0 if it is empty."""
    wanted, below = share * sum(histogram), 0
    for value, count in enumerate(histogram):
        if count and below + count >= wanted:
            return value - 0.5 + (wanted - below) / count if value else 0.0
        below += count
    return 0.0
