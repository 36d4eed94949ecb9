"""The program that decodes photos. It reads bytes from a socket, its standard input, and returns upright RGB pixels.

It imports nothing of Kickstand, so that it is small and starts quickly; `decoding` starts it, with limits of time and
memory. No decoder sees metadata: everything that the pixels do not need is cut out of the file before.
"""

import io
import json
import math
import os
import re
import resource
import socket
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

MAX_DRAFT_PIXELS = 110_000_000  # for a JPEG that is decoded at half its size or less, line by line
MAX_IMAGE_PIXELS = 50_000_000  # for any other photo, which is decoded whole
MAX_IMAGE_SIDE = 32_767  # pixels; a photo of 50,000,000 lines takes 1.5 GB, because each line has its overhead
MAX_PARTS = 100_000  # strips or tiles of a TIFF; for millions, reading their positions takes longer than decoding them
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")  # Pillow's names
ACCEPTED = "JPEG, HEIC, PNG, WebP, AVIF, TIFF, GIF or BMP"
READY = b"\1"  # the program's first answer
INCOMPLETE = "upload incomplete; send it again"

# Pillow refuses twice this wherever a decoder allocates pixels: a GIF's frame can be larger than the GIF.
Image.MAX_IMAGE_PIXELS = MAX_DRAFT_PIXELS // 2

_PLUGINS = {"WEBP": "WebP", "TIFF": "Tiff", "AVIF": "Avif"}  # Pillow loads those of the other formats by itself
_TURNS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIGNATURES = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "BigTIFF",
    b"MM\0+": "BigTIFF",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "Photoshop",
    b"%PDF-": "a PDF",
    b"PK": "a ZIP archive",
}
_NOT_READ = {"BigTIFF", "JPEG XL", "JPEG 2000", "Photoshop"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}


class Refused(ValueError):  # noqa: N818 - its message continues a sentence that begins with the photo's name
    """Why a photo is not read, and what to do."""


@dataclass(frozen=True)
class Decoded:
    """pixels: upright, RGB. format: the upload's. uploaded: its (width, height), upright."""

    pixels: Image.Image
    format: str
    uploaded: tuple[int, int]


def decode(data: bytes, longest: int) -> Decoded:
    """The first photo in a file, on white where it is transparent; its longer side becomes at most `longest`.

    Raises Refused; MemoryError if the limits of this process are too low.
    """
    kind = _guess(data)
    if kind in _NOT_READ:
        raise Refused(f"{kind}, which is not supported; send it as {ACCEPTED}")
    if kind not in FORMATS:
        raise Refused(f"not a photo ({kind}); send a photo as {ACCEPTED}")
    try:
        with warnings.catch_warnings(action="ignore"):
            stripped = _STRIP[kind](data) if kind in _STRIP else _Stripped(data)
            del data  # `stripped` holds everything that is needed
            try:
                return _read(stripped, kind, longest)
            except OSError as error:
                if kind != "JPEG" or "truncated" not in str(error):
                    raise
                return _read_without_end(stripped, longest)
    except (Refused, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise Refused(
            f"more than {MAX_IMAGE_PIXELS:,} pixels, or {MAX_DRAFT_PIXELS:,} of a JPEG; send a smaller photo"
        ) from error
    except Exception as error:  # on hostile bytes a decoder may fail in any way
        raise Refused(_explain(kind, error)) from error


# ---- what the file is, without its metadata


@dataclass(frozen=True)
class _Stripped:
    """The parts of a file that a decoder needs.

    orientation: EXIF's number. format: if not the signature's. planes: a TIFF's colours are stored one after the other.
    """

    data: bytes
    orientation: int = 1
    format: str = ""
    planes: bool = False


def _strip_jpeg(data: bytes) -> _Stripped:
    """Without comments and application segments, except for the two that define the colours."""
    kept, at, orientation, kind = [data[:2]], 2, 1, ""
    while marker := _JPEG_MARKER.search(data, at):
        code, body = marker[1][0], marker.end()
        length = int.from_bytes(data[body : body + 2])
        if code in (0xD9, 0xDA) or length < 2:
            at = marker.start()
            break
        if code in _JPEG_ARITHMETIC:
            raise Refused("a JPEG with arithmetic coding, which browsers do not show; save it as a plain JPEG")
        at = body + length
        if code == 0xE0 and data.startswith(b"JFIF", body + 2):
            kept.append(_JFIF)
        elif code == 0xE1 and data.startswith(b"Exif\0\0", body + 2):
            orientation = _read_orientation(data[body + 8 : at]) if orientation == 1 else orientation
        elif code == 0xE2 and data.startswith(b"MPF\0", body + 2):
            kind = "MPO"
        elif (code == 0xEE and length >= 14) or not (0xE0 <= code <= 0xEF or code == 0xFE):
            kept.append(data[body - 2 : at])
    return _Stripped(b"".join([*kept, memoryview(data)[at:]]), orientation, kind)


_JPEG_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")  # those that a length follows, and the end of the file
_JPEG_ARITHMETIC = (0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"


def _strip_png(data: bytes) -> _Stripped:
    """The chunks that define the pixels, and an end."""
    view, at, orientation, transparency = memoryview(data), 8, 1, range(0)
    kept: list[bytes | memoryview] = [view[:8]]
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        body, whole = view[at + 8 : at + 8 + length], view[at : at + 12 + length]
        at += 12 + length
        if name == b"IDAT" and at > len(data):  # cut off, perhaps only in the checksum
            kept += [struct.pack(">I4s", len(body), name), body, bytes(4)]
        elif name in (b"IHDR", b"PLTE", b"IDAT"):
            if not _is_sound(whole):
                raise Refused(_say_damaged("PNG"))
            kept.append(whole)
            if name == b"IHDR":
                transparency = {0: range(2, 3), 2: range(6, 7)}.get(data[25], range(0))
            elif name == b"PLTE" and data[25] == 3:
                transparency = range(1, length // 3 + 1)
        elif name == b"tRNS" and length in transparency and _is_sound(whole):  # browsers ignore one of a wrong length
            kept.append(whole)
        elif name == b"eXIf":
            orientation = _read_orientation(bytes(body))
        elif name == b"IEND":
            break
    return _Stripped(b"".join([*kept, b"\0\0\0\0IEND\xaeB`\x82"]), orientation)


def _is_sound(chunk: memoryview) -> bool:
    """Whether a PNG's chunk is whole and its checksum right."""
    return zlib.crc32(chunk[4:-4]).to_bytes(4) == chunk[-4:]


def _strip_webp(data: bytes) -> _Stripped:
    """The chunks that define the pixels."""
    view, at, orientation = memoryview(data), 12, 1
    kept: list[bytes | memoryview] = []
    end = 8 + int.from_bytes(data[4:8], "little")
    while at + 8 <= min(end, len(data)):
        name, length = struct.unpack_from("<4sI", data, at)
        body = view[at + 8 : at + 8 + length]
        if name in (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"):
            if len(body) < length:
                raise Refused(INCOMPLETE)
            kept += [view[at : at + 8], body, bytes(length % 2)]
        elif name == b"VP8X" and len(body) == length > 0:
            kept += [view[at : at + 8], bytes([body[0] & _WEBP_PIXELS]), body[1:], bytes(length % 2)]
        elif name == b"EXIF":
            orientation = _read_orientation(bytes(body))
        at += 8 + length + length % 2
    if not kept and end > len(data):
        raise Refused(INCOMPLETE)
    chunks = b"".join(kept)
    return _Stripped(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks, orientation)


_WEBP_PIXELS = 0b0001_0010  # of the flags: there is alpha, it moves. Not: there is an ICC profile, EXIF, XMP


def _strip_tiff(data: bytes) -> _Stripped:
    """With only those tags of its first photo that define the pixels."""
    order = "<" if data.startswith(b"II") else ">"
    try:
        (place,) = struct.unpack_from(f"{order}I", data, 4)
        (number,) = struct.unpack_from(f"{order}H", data, place)
        tags = [struct.unpack_from(f"{order}HHI4s", data, place + 2 + 12 * i) for i in range(number)]
    except struct.error as error:
        raise Refused(INCOMPLETE) from error
    kept = []
    for tag in tags:
        if tag[0] in _TIFF_PIXELS:
            if tag[2] > MAX_PARTS:
                raise Refused(f"a TIFF of more than {MAX_PARTS:,} parts; save it as a plain JPEG")
            content = struct.pack(f"{order}HHI4s", *tag)
            # Premultiplied alpha is read as plain alpha: where it is zero by mistake, Pillow drops the colour.
            kept.append(_SEPARATE[order] if content == _MULTIPLIED[order] else content)
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
    changed = bytearray(data)
    changed[place : place + len(directory)] = directory
    planes = any(tag[:3] == (284, 3, 1) and tag[3][:2] == struct.pack(f"{order}H", 2) for tag in tags)
    return _Stripped(bytes(changed), _read_orientation(data[: place + 2 + 12 * number]), planes=planes)


_MULTIPLIED, _SEPARATE = (
    {order: struct.pack(f"{order}HHIHH", 338, 3, 1, extra, 0) for order in "<>"} for extra in (1, 2)
)
# Size, bits, compression, strips, tiles, palette, extra samples, JPEG tables, YCbCr:
# https://www.loc.gov/preservation/digital/formats/content/tiff_tags.shtml
_TIFF_PIXELS = {
    *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320),
    *(322, 323, 324, 325, 332, 338, 339, 347, 529, 530, 531, 532),
}


def _strip_heif(data: bytes) -> _Stripped:
    """With EXIF and XMP renamed to an unknown type: the boxes of a HEIC or AVIF state its orientation themselves."""
    return _Stripped(_HEIF_METADATA.sub(rb"\1skip", data))


_HEIF_METADATA = re.compile(rb"(infe(?:\x02.{3}.{2}|\x03.{3}.{4}).{2})(?:Exif|mime)", re.DOTALL)
_STRIP: dict[str, Callable[[bytes], _Stripped]] = {
    "JPEG": _strip_jpeg,
    "PNG": _strip_png,
    "WEBP": _strip_webp,
    "TIFF": _strip_tiff,
    "AVIF": _strip_heif,
    "HEIF": _strip_heif,
}


def _read_orientation(exif: bytes) -> int:
    """1 to 8; 1 if EXIF has none, or anything but one integer."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4], "")
    with suppress(struct.error):
        if order:
            (place,) = struct.unpack_from(f"{order}I", exif, 4)
            (number,) = struct.unpack_from(f"{order}H", exif, place)
            for entry in range(place + 2, place + 2 + 12 * number, 12):
                tag, kind, count = struct.unpack_from(f"{order}HHI", exif, entry)
                if tag == 0x0112 and count == 1 and kind in (3, 4):
                    (value,) = struct.unpack_from(f"{order}{' HI'[kind - 2]}", exif, entry + 8)
                    return value if 1 <= value <= 8 else 1
    return 1


# ---- pixels


def _read(file: _Stripped, kind: str, longest: int) -> Decoded:
    """As `decode`; raises Refused, and any error of a decoder."""
    if kind == "HEIF":
        import pillow_heif  # here, because it takes 30 ms, and most photos do not need it

        pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    elif kind in _PLUGINS:
        plugin: Any = import_module(f"PIL.{_PLUGINS[kind]}ImagePlugin")
        plugin.DEFAULT_MAX_THREADS = 1  # for AVIF: each thread takes memory, and the limit is on CPU time
        plugin.READ_LIBTIFF = file.planes  # Pillow itself reads each plane as one of 8 bits
    with Image.open(io.BytesIO(file.data), formats=(kind,)) as photo:
        uploaded = photo.size
        most = MAX_DRAFT_PIXELS if kind == "JPEG" else MAX_IMAGE_PIXELS
        if max(uploaded) > MAX_IMAGE_SIDE or math.prod(uploaded) > most:
            limit = f"at most {most:,} pixels, and no side longer than {MAX_IMAGE_SIDE:,}"
            raise Refused(f"{photo.width} × {photo.height} pixels is too large, {limit}; send a smaller photo")
        # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size, at a fraction of the cost. Decoding twice the wanted
        # size leaves the last step to the better filter.
        photo.draft(None, (2 * longest, 2 * longest))
        photo.load()
        # Pillow does not rotate an AVIF; it generates EXIF that states the rotation of its boxes.
        orientation = photo.getexif().get(0x0112, 1) if kind == "AVIF" else file.orientation
        shrink = min(1.0, longest / max(uploaded))
        small = _flatten(photo, (max(1, round(uploaded[0] * shrink)), max(1, round(uploaded[1] * shrink))))
        turn = _TURNS.get(orientation)
        upright = small if turn is None else small.transpose(turn)
        return Decoded(upright, file.format or kind, uploaded[::-1] if orientation in (5, 6, 7, 8) else uploaded)


def _read_without_end(file: _Stripped, longest: int) -> Decoded:
    """A JPEG without its end marker, as some cameras and editors write it; Refused if more is missing.

    libjpeg invents missing data before an end marker, and Pillow does not pass on its warning. But data after the last
    pixel cannot change a pixel: if two different ends give two results, pixels are missing. They are compared at four
    times the size, because a missing last scan of a progressive JPEG shows only in its finest detail.
    """

    pixels = file.data.removesuffix(b"\xff")  # which may be half of the end marker

    def read_with(end: bytes, longest: int) -> Decoded:
        return _read(_Stripped(pixels + end + b"\xff\xd9", file.orientation, file.format), "JPEG", longest)

    try:
        one, other = (read_with(end, 4 * longest).pixels for end in (b"", b"\x5a\xc3\x17\x6b" * 64))
        if one.tobytes() == other.tobytes():
            return read_with(b"", longest)
    except OSError:
        pass  # the end came in the middle of a table
    raise Refused(INCOMPLETE)


def _flatten(photo: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The photo as 8-bit RGB of this (width, height), on white where it was transparent.

    Raises Refused if the meaning of a pixel is unknown, and any error of a decoder.
    """
    if photo.mode in ("I", "F"):
        raise Refused("32-bit pixels without a known range; send it as a plain JPEG")
    if photo.mode.startswith("I;16"):
        inverted = photo.format == "TIFF" and getattr(photo, "tag_v2", {}).get(262) == 0  # zero is white
        small = photo.convert("I").resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        photo = small.point(lambda value: value * (1 / 256)).convert("L")
        photo = photo.point(lambda value: 255 - value) if inverted else photo
    transparent = photo.has_transparency_data
    if transparent:
        kind, photo = photo.format, photo if photo.mode == "RGBA" else photo.convert("RGBA")
        # Some programs write zeros as alpha, but do not mean a fully transparent photo.
        if photo.getchannel("A").getextrema() == (0, 0):
            opaque = photo.convert("RGB")
            if kind in ("BMP", "TIFF") or any(len(set(band.getextrema())) > 1 for band in opaque.split()):
                photo, transparent = opaque, False
    mode = "RGBA" if transparent else "RGB"
    photo = photo if photo.mode == mode else photo.convert(mode)
    if photo.size != size:
        photo = photo.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    if transparent:
        photo = Image.alpha_composite(Image.new("RGBA", size, "white"), photo).convert("RGB")
    return photo


def _guess(data: bytes) -> str:
    """The format by the first bytes: one of FORMATS, or words for an error message."""
    if data[4:8] == b"ftyp":
        brands = {data[at : at + 4] for at in range(8, min(len(data), int.from_bytes(data[:4]), 256), 4)}
        return "AVIF" if brands & {b"avif", b"avis"} else "HEIF" if brands & _HEIF_BRANDS else "a video"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    is_text = data[:256].isascii() and b"\0" not in data[:256]
    for signature, kind in _SIGNATURES.items():
        if data.startswith(signature) and not (is_text and len(signature) == 2):  # "BM" may begin a sentence
            return kind
    if data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<":
        return "SVG, XML or HTML"
    return "text" if is_text else "unknown bytes"


def _explain(kind: str, error: Exception) -> str:
    """Why the bytes cannot be decoded, and what to do."""
    text = str(error).lower()
    if "truncated" in text or "end of file" in text:
        return INCOMPLETE
    if isinstance(error, UnidentifiedImageError) or text == "cannot load this image":  # only its header is there
        return _say_damaged(kind)
    return f"cannot be decoded ({type(error).__name__}: {str(error)[:200]}); send it again, or as a plain JPEG"


def _say_damaged(kind: str) -> str:
    if kind == "TIFF":
        return "a TIFF that is incomplete, damaged or of an unusual kind; send it again, or as a plain JPEG"
    name = {"HEIF": "HEIC", "WEBP": "WebP"}.get(kind, kind)
    return f"{'an' if kind == 'AVIF' else 'a'} {name} that is incomplete or damaged; send it again"


# ---- the program


def main() -> None:
    """Decode photos until the other side closes. Arguments: CPU seconds for each, and megabytes."""
    seconds, megabytes = int(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    started_with = _count_mapped()
    with suppress(ValueError, OSError):  # macOS has no such limit
        _limit(resource.RLIMIT_AS, started_with + megabytes * 1024 * 1024)
    # The other side may close while it waits for an answer: after Ctrl-C, or if it was killed.
    with suppress(BrokenPipeError, ConnectionResetError), socket.socket(fileno=0) as other_side:
        other_side.sendall(READY)
        while len(header := other_side.recv(8, socket.MSG_WAITALL)) == 8:
            size, longest = struct.unpack("!II", header)
            used = resource.getrusage(resource.RUSAGE_SELF)
            _limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime + seconds))
            answer, pixels = _answer(other_side, size, longest)
            # After a photo that leaves much memory in use, a new process starts fresh.
            last = "memory" in answer or _count_mapped() > started_with + megabytes * 1024 * 1024 // 4
            text = json.dumps(answer | {"last": last}).encode()
            other_side.sendall(struct.pack("!II", len(text), len(pixels)) + text)
            other_side.sendall(pixels)
            if last:
                break


def _answer(other_side: socket.socket, size: int, longest: int) -> tuple[dict[str, Any], bytes]:
    """The answer about one photo: format and sizes of its pixels, or why it was refused."""
    try:
        decoded = decode(other_side.recv(size, socket.MSG_WAITALL), longest)
        pixels = decoded.pixels
        return {"format": decoded.format, "size": pixels.size, "uploaded": decoded.uploaded}, pixels.tobytes()
    except Refused as refusal:
        return {"refused": str(refusal)}, b""
    except MemoryError:
        return {"memory": True}, b""


def _limit(which: int, soft: int) -> None:
    """Lower or raise a limit of this process, within what the system permits."""
    hard = resource.getrlimit(which)[1]
    resource.setrlimit(which, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _count_mapped() -> int:
    """Bytes of address space; 0 if the system does not report them."""
    file = Path("/proc/self/statm")
    return int(file.read_text("ascii").split()[0]) * os.sysconf("SC_PAGESIZE") if file.exists() else 0
