"""From uploaded bytes to the model's input: one way for serving, training and evaluation, so that none is skewed."""

import base64
import hashlib
import io
import re
import warnings
from collections.abc import Callable

from PIL import ExifTags, Image, ImageFilter, ImageStat, UnidentifiedImageError

from kickstand.errors import InvalidImage
from kickstand.events import ImageStatistics, PreparedImage

MAX_IMAGE_BYTES = 25 * 1024 * 1024
MAX_IMAGE_PIXELS = 50_000_000  # decoded and converted this takes 450 MB of the function's memory
MAX_IMAGE_SIDE = 32_767  # pixels; a picture of 50,000,000 lines takes 1.5 GB, because each line has its price
MAX_READS = 1_000_000  # by a decoder; of a file made of nothing but tiny parts, Python would read for minutes
MAX_SCANS = 100  # of a progressive JPEG, as libtiff has it: each one costs a pass over all pixels, and next to no bytes
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# Pillow refuses twice this, wherever a decoder makes room for pixels: a GIF's frame can be larger than the GIF.
Image.MAX_IMAGE_PIXELS = MAX_IMAGE_PIXELS // 2

_TURNS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SCAN = b"\xff\xda"
_JPEG_SEGMENT = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")  # markers that a length follows, and the end of the image
_LAPLACIAN = ImageFilter.Kernel((3, 3), (-1, -1, -1, -1, 8, -1, -1, -1, -1), scale=8, offset=128)


def prepare(data: bytes, name: str, input_shape: tuple[int, int, int]) -> PreparedImage:
    """Decode, turn upright, flatten to RGB and scale to the model's input.

    data: the whole uploaded object.
    name: how errors call it.
    input_shape: (height, width, 3). The photo is squeezed into it, as the images of CIFAR were, rather than cropped:
        a cropped motorcycle loses its wheels.

    Raises InvalidImage, with the name and the reason, for whatever cannot be used as a photo.
    """
    height, width, _ = input_shape
    rgb, kind, uploaded = _decode(data, name, lambda _: (width, height))
    png = io.BytesIO()
    rgb.save(png, "PNG", compress_level=1)  # at this size as small, in half the time
    return PreparedImage(
        png=base64.b64encode(png.getvalue()).decode("ascii"),
        sha256=hashlib.sha256(data).hexdigest(),
        format=kind,
        width=uploaded[0],
        height=uploaded[1],
        statistics=measure(rgb),
    )


def hash_pixels(image: PreparedImage) -> str:
    """SHA-256 of the RGB pixels that the model sees: equal for one photo in two files, or in two formats."""
    with Image.open(io.BytesIO(base64.b64decode(image.png)), formats=("PNG",)) as photo:
        return hashlib.sha256(photo.tobytes()).hexdigest()


def thumbnail(data: bytes, name: str, longest: int) -> tuple[str, bytes]:
    """The upload as a person is shown it: upright, whole, nothing but pixels. Media type and bytes.

    longest: neither side gets longer than this many pixels; a smaller image keeps its own.

    Raises InvalidImage as `prepare` does.
    """

    def fit(size: tuple[int, int]) -> tuple[int, int]:
        shrink = min(1.0, longest / max(size))
        return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))

    rgb, _, _ = _decode(data, name, fit)
    rgb.info.clear()  # comments and colour profiles would be written along
    small = max(rgb.size) <= 128
    file = io.BytesIO()
    rgb.save(file, "PNG") if small else rgb.save(file, "JPEG", quality=88)
    return ("image/png" if small else "image/jpeg"), file.getvalue()


def _decode(
    data: bytes, name: str, fit: Callable[[tuple[int, int]], tuple[int, int]]
) -> tuple[Image.Image, str, tuple[int, int]]:
    """Upright RGB pixels in the size that `fit` makes of the upload's; its format; its (width, height), upright."""
    if not data:
        raise InvalidImage(f"{name}: 0 bytes")
    if len(data) > MAX_IMAGE_BYTES:
        raise InvalidImage(f"{name}: {len(data):,} bytes, more than {MAX_IMAGE_BYTES:,}")
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(_Metered(data), formats=FORMATS) as photo:
            uploaded = photo.size
            if max(uploaded) > MAX_IMAGE_SIDE:
                raise InvalidImage(
                    f"{name}: {uploaded[0]} × {uploaded[1]} pixels, a side longer than {MAX_IMAGE_SIDE:,}"
                )
            if _has_too_many_scans(data):
                raise InvalidImage(f"{name}: a JPEG of more than {MAX_SCANS} scans")
            kind = photo.format or ""
            finest = 4 * max(fit(uploaded))
            photo.draft(None, (finest, finest))  # lets a JPEG decode at a fraction of its size
            photo.load()
            orientation = photo.getexif().get(ExifTags.Base.Orientation, 1)  # Pillow has turned a TIFF by now
            if orientation in (5, 6, 7, 8):
                uploaded = uploaded[::-1]
            size = fit(uploaded)
            small = _flatten(photo, size[::-1] if orientation in (5, 6, 7, 8) else size)
            turn = _TURNS.get(orientation)
            return (small if turn is None else small.transpose(turn)), kind, uploaded
    except InvalidImage:
        raise
    except Image.DecompressionBombError as error:
        raise InvalidImage(f"{name}: more than {MAX_IMAGE_PIXELS:,} pixels ({error})") from error
    except UnidentifiedImageError as error:
        raise InvalidImage(f"{name}: not an image ({_guess(data)}); we read {', '.join(FORMATS)}") from error
    except Exception as error:  # the bytes are hostile, and a decoder may fail in any way on them
        raise InvalidImage(f"{name}: cannot be decoded ({type(error).__name__}: {error})") from error


class _Metered(io.BytesIO):
    """The upload, as a file that can be read so many times and no more."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise ValueError("made of too many parts")
        return super().read(size)


def _has_too_many_scans(data: bytes) -> bool:
    """Whether this is a JPEG of more than MAX_SCANS; the usual one, with all in one scan, is told at once."""
    if data[:2] != b"\xff\xd8":
        return False
    scans, at, frame, components = 0, 2, b"", 0
    while (marker := _JPEG_SEGMENT.search(data, at)) and marker[1] != b"\xd9":
        body = marker.end()
        if marker[1] in (b"\xc0", b"\xc1", b"\xc2"):
            frame, components = marker[1], data[body + 7] if len(data) > body + 7 else 0
        if marker[0] == _SCAN:
            scans += 1
            whole = frame != b"\xc2" and data[body + 2 : body + 3] == bytes([components])
            if whole or (scans == 1 and data.count(_SCAN) <= MAX_SCANS):
                return False
        at = body + int.from_bytes(data[body : body + 2])
    return scans > MAX_SCANS


def measure(rgb: Image.Image) -> ImageStatistics:
    """The statistics that drift is watched by, of one RGB image.

    >>> measure(Image.new("RGB", (32, 32), (255, 0, 0))).saturation
    1.0
    """
    luma = rgb.convert("L")
    brightness = ImageStat.Stat(luma)
    # The filter copies the outermost pixels unfiltered: only the inside counts.
    edges = ImageStat.Stat(luma.filter(_LAPLACIAN).crop((1, 1, rgb.width - 1, rgb.height - 1)))
    return ImageStatistics(
        brightness=round(brightness.mean[0] / 255, 5),
        contrast=round(brightness.stddev[0] / 255, 5),
        sharpness=round(edges.stddev[0] / 255, 5),
        saturation=round(ImageStat.Stat(rgb.convert("HSV").getchannel("S")).mean[0] / 255, 5),
    )


def _flatten(photo: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The photo as 8-bit RGB of this (width, height), on white where it was transparent.

    Raises ValueError where there is no way to tell what a pixel means, and whatever a decoder raises.
    """
    if photo.mode in ("I", "F"):
        raise ValueError("32-bit pixels without a known range")
    if photo.mode.startswith("I;16"):
        photo = photo.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    transparent = photo.has_transparency_data
    mode = "RGBA" if transparent else "RGB"
    photo = photo if photo.mode == mode else photo.convert(mode)
    if photo.size != size:
        photo = photo.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    if transparent:
        photo = Image.alpha_composite(Image.new("RGBA", size, "white"), photo).convert("RGB")
    return photo


def _guess(data: bytes) -> str:
    """What the bytes look like, for the error message."""
    if data[4:8] == b"ftyp":
        return "HEIC, AVIF or a film"
    if data[:5] == b"%PDF-":
        return "a PDF"
    if data[:2] == b"PK":
        return "a ZIP archive"
    if data.lstrip()[:1] == b"<":
        return "SVG, XML or HTML"
    return "text" if data[:256].isascii() and b"\0" not in data[:256] else "unknown bytes"
