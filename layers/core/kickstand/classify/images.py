"""From uploaded bytes to the model's input: one way for serving, training and evaluation, so that none is skewed."""

import base64
import hashlib
import io
import re
import warnings

from PIL import ExifTags, Image, ImageChops, ImageStat, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from kickstand.errors import InvalidImage
from kickstand.events import ImageStatistics, ImageSummary, PreparedImage

MAX_IMAGE_BYTES = 40 * 1024 * 1024  # a phone's JPEG of 108 megapixels
MAX_DRAFT_PIXELS = 110_000_000  # of a JPEG that is decoded at half its size or less, line by line
MAX_IMAGE_PIXELS = 50_000_000  # of any other photo: decoded and converted this takes 450 MB of the function's memory
MAX_COEFFICIENTS = 200_000_000  # of a JPEG of several scans, which waits in memory for the last one: 2 bytes each
MAX_IMAGE_SIDE = 32_767  # pixels; a picture of 50,000,000 lines takes 1.5 GB, because each line has its price
MAX_READS = 1_000_000  # by a decoder; of a file made of nothing but tiny parts, Python would read for minutes
MAX_SCANS = 100  # of a progressive JPEG, as libtiff has it: each one costs a pass over all pixels, and next to no bytes
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
INCOMPLETE = "upload incomplete; send it again"
MEASURED = 256  # pixels of the longer side: no finer than the photos that `photo_quality`'s limits were chosen on
LONGEST = 512  # pixels: what is measured, shown to people, and scaled to the model's input

# Pillow refuses twice this, wherever a decoder makes room for pixels: a GIF's frame can be larger than the GIF.
Image.MAX_IMAGE_PIXELS = MAX_DRAFT_PIXELS // 2

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
_END = b"\xff\xd9"
_JPEG_SEGMENT = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")  # markers that a length follows, and the end of the image
_SIGNATURES = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"%PDF-": "a PDF",
    b"PK": "a ZIP archive",
}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}


def scale(data: bytes, name: str, input_shape: tuple[int, int, int]) -> tuple[Image.Image, ImageSummary]:
    """Decode, turn upright, flatten to RGB and scale to the model's input.

    data: the whole uploaded object.
    name: how errors call it.
    input_shape: (height, width, 3). The whole photo is squeezed into it: docs/decisions.md has what was measured.

    Raises InvalidImage, with the name and the reason, for whatever cannot be used as a photo.
    """
    height, width, _ = input_shape
    rgb, kind, uploaded = _decode(data, name, max(LONGEST, width, height))
    summary = ImageSummary(
        sha256=hashlib.sha256(data).hexdigest(),
        format=kind,
        width=uploaded[0],
        height=uploaded[1],
        statistics=measure(rgb, uploaded),
    )
    return rgb.resize((width, height), Image.Resampling.LANCZOS), summary  # which keeps most of the detail


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
    rgb, _, _ = _decode(data, name, longest)
    small = max(rgb.size) <= 128
    file = io.BytesIO()
    rgb.save(file, "PNG") if small else rgb.save(file, "JPEG", quality=88)
    return ("image/png" if small else "image/jpeg"), file.getvalue()


def _decode(data: bytes, name: str, longest: int) -> tuple[Image.Image, str, tuple[int, int]]:
    """Upright RGB pixels, the longer side at most `longest`; the upload's format, and its (width, height), upright."""
    if not data:
        raise InvalidImage(f"{name}: 0 bytes; send it again")
    if len(data) > MAX_IMAGE_BYTES:
        raise InvalidImage(f"{name}: {len(data):,} bytes, more than {MAX_IMAGE_BYTES:,}; send a smaller photo")
    kind = _guess(data)
    if kind == "HEIF":
        import pillow_heif  # here, because it takes 30 ms, and most photos do without

        pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    try:
        with warnings.catch_warnings(action="ignore"):
            try:
                return _read(data, kind, longest)
            except OSError as error:
                if kind != "JPEG" or "truncated" not in str(error):
                    raise
                return _read_without_end(data, longest)
    except _RefusedError as refusal:
        raise InvalidImage(f"{name}: {refusal}") from refusal
    except Image.DecompressionBombError as error:
        raise InvalidImage(
            f"{name}: more than {MAX_IMAGE_PIXELS:,} pixels, or {MAX_DRAFT_PIXELS:,} of a JPEG; send a smaller photo"
        ) from error
    except Exception as error:  # the bytes are hostile, and a decoder may fail in any way on them
        raise InvalidImage(f"{name}: {_explain(data, kind, error)}") from error


class _RefusedError(ValueError):
    """Why a photo is not read, and what to do: the rest of the sentence that the photo's name begins."""


def _read(data: bytes, kind: str, longest: int) -> tuple[Image.Image, str, tuple[int, int]]:
    """As `_decode`; raises _RefusedError, and whatever a decoder raises."""
    formats = ("HEIF",) if kind == "HEIF" else tuple(name for name in FORMATS if name != "HEIF")
    with Image.open(_Metered(data), formats=formats) as photo:
        uploaded = photo.size
        if excess := _find_excess(photo, data):
            raise _RefusedError(excess)
        # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size, at a fraction of the cost; twice the pixels that are
        # wanted leave the choice of those that stay to the better filter.
        photo.draft(None, (2 * longest, 2 * longest))
        photo.load()
        # Pillow has turned a TIFF by now, and libheif a HEIC; both say so by an orientation of 1, or none.
        orientation = photo.getexif().get(ExifTags.Base.Orientation, 1)
        shrink = min(1.0, longest / max(uploaded))
        small = _flatten(photo, (max(1, round(uploaded[0] * shrink)), max(1, round(uploaded[1] * shrink))))
        turn = _TURNS.get(orientation)
        upright = small if turn is None else small.transpose(turn)
        upright.info.clear()  # profiles and comments would be written along, and outgrow an execution's state
        return upright, photo.format or "", uploaded[::-1] if orientation in (5, 6, 7, 8) else uploaded


def _read_without_end(data: bytes, longest: int) -> tuple[Image.Image, str, tuple[int, int]]:
    """A JPEG whose end marker is missing, as some cameras and editors leave it; _RefusedError if more is missing.

    libjpeg makes up what it misses before an end marker, and warns where Pillow does not listen. But what follows the
    last pixel's bits cannot change a pixel: where two ends give two pictures, one was read as pixels. They are
    compared at four times the size, because a missing last scan of a progressive JPEG shows in its finest detail alone.
    """
    try:
        one, other = (_read(data + end + _END, "JPEG", 4 * longest)[0] for end in (b"", b"\x5a\xc3\x17\x6b" * 64))
        if one.tobytes() == other.tobytes():
            return _read(data + _END, "JPEG", longest)
    except OSError:
        pass  # the end came in the middle of a table
    raise _RefusedError(INCOMPLETE)


def _find_excess(photo: Image.Image, data: bytes) -> str:
    """What of the photo is more than the function's memory and time allow; empty if nothing is."""
    pixels, size = photo.width * photo.height, f"{photo.width} × {photo.height} pixels"
    most = MAX_IMAGE_PIXELS
    if isinstance(photo, JpegImageFile):
        most, scans = MAX_DRAFT_PIXELS, _count_scans(data)
        if scans > MAX_SCANS:
            return f"a JPEG of more than {MAX_SCANS} scans; save it as a plain JPEG"
        if scans > 1:
            areas = [across * down for _, across, down, _ in photo.layer]  # of each component, by its subsampling
            by_memory = MAX_COEFFICIENTS * max(areas) // sum(areas)
            by_time = MAX_IMAGE_PIXELS * MAX_SCANS // scans
            most = min(most, by_memory, by_time)
    if max(photo.size) > MAX_IMAGE_SIDE:
        return f"{size}, a side longer than {MAX_IMAGE_SIDE:,}; send a smaller photo"
    return f"{size}, more than {most:,}; send a smaller photo" if pixels > most else ""


class _Metered(io.BytesIO):
    """The upload, as a file that can be read so many times and no more."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise ValueError("made of too many parts")
        return super().read(size)


def _count_scans(data: bytes) -> int:
    """How often a JPEG passes over its pixels; 1 as soon as its first scan holds all of them, as is usual.

    Of more than MAX_SCANS, one more than that.
    """
    scans, at, frame, components = 0, 2, b"", 0
    while (marker := _JPEG_SEGMENT.search(data, at)) and marker[1] != b"\xd9" and scans <= MAX_SCANS:
        body = marker.end()
        if marker[1] in (b"\xc0", b"\xc1", b"\xc2"):
            frame, components = marker[1], data[body + 7] if len(data) > body + 7 else 0
        if marker[0] == _SCAN:
            scans += 1
            if frame in (b"\xc0", b"\xc1") and data[body + 2 : body + 3] == bytes([components]):
                return 1
        at = body + int.from_bytes(data[body : body + 2])
    return scans


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
    """What the bytes begin like: one of FORMATS, or words for an error message."""
    if data[4:8] == b"ftyp":
        brands = {data[at : at + 4] for at in range(8, min(len(data), int.from_bytes(data[:4]), 256), 4)}
        return "AVIF" if brands & {b"avif", b"avis"} else "HEIF" if brands & _HEIF_BRANDS else "a film"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    for signature, kind in _SIGNATURES.items():
        if data.startswith(signature):
            return kind
    if data.lstrip()[:1] == b"<":
        return "SVG, XML or HTML"
    return "text" if data[:256].isascii() and b"\0" not in data[:256] else "unknown bytes"


def _explain(data: bytes, kind: str, error: Exception) -> str:
    """Why the bytes cannot be decoded, and what to do."""
    if kind not in FORMATS:
        return f"not an image ({kind}); send a photo as {', '.join(FORMATS)}"
    text = str(error).lower()
    cut = kind == "WEBP" and len(data) < 8 + int.from_bytes(data[4:8], "little")
    if cut or "truncated" in text or "end of file" in text:
        return INCOMPLETE
    if isinstance(error, UnidentifiedImageError):
        return f"a {kind} that is incomplete or damaged; send it again"
    return f"cannot be decoded ({type(error).__name__}: {error}); send it again, or as a plain JPEG"
