"""The parts that hostile photos are made of."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pillow_heif
from PIL import Image

pillow_heif.register_heif_opener()  # to write HEIC, too

Photos = Iterator[tuple[str, bytes]]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The image as a file of this format."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def honest(kind: str) -> bytes:
    """A small photo without fault: a gradient, so that every part of a decoder has work."""
    gradient = Image.linear_gradient("L").resize((48, 36))
    return encoded(
        Image.merge("RGB", (gradient, gradient.rotate(90), gradient.transpose(Image.Transpose.FLIP_TOP_BOTTOM))), kind
    )


def chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *, depth: int = 8, colours: int = 2, extra: bytes = b"", rows: bool = True) -> bytes:
    """A black PNG, compressed to almost nothing. rows: whether it has the pixels that its header promises."""
    row = bytes(1 + (width * depth * {0: 1, 2: 3, 3: 1, 6: 4}[colours] + 7) // 8)
    packer, pixels = zlib.compressobj(9), b""
    for _ in range(height if rows else 1):
        pixels += packer.compress(row)
    palette = chunk(b"PLTE", bytes(768)) if colours == 3 else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))
    body = chunk(b"IDAT", pixels + packer.flush())
    return b"\x89PNG\r\n\x1a\n" + header + extra + palette + body + chunk(b"IEND", b"")


def tiff_header(orientation: bytes) -> bytes:
    """EXIF with one tag, orientation, of which these are type, count and value."""
    return b"MM\0*\0\0\0\x08\0\x01\x01\x12" + orientation + b"\0\0\0\0"


def jpeg_with(segment: bytes, times: int = 1, **options: Any) -> bytes:
    """A JPEG with this segment before all others."""
    plain = encoded(Image.new("RGB", (48, 36), (200, 30, 60)), "JPEG", **options)
    return plain[:2] + segment * times + plain[2:]


def segment(marker: int, body: bytes) -> bytes:
    """One segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def gif_with(blocks: bytes) -> bytes:
    """A GIF with these blocks before its frame."""
    plain = honest("GIF")
    at = 13 + (3 << (plain[10] & 7) + 1 if plain[10] & 0x80 else 0)
    return plain[:at] + blocks + plain[at:]


def bmp_rle(side: int, body: bytes) -> bytes:
    """A run-length encoded BMP of 256 colours."""
    offset = 14 + 40 + 1024
    about = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(body), 0, 0, offset) + about + bytes(1024) + body


def scans(number: int, side: int) -> bytes:
    """A progressive JPEG whose last scan is repeated: a few bytes each, and a pass over all pixels."""
    plain = encoded(Image.new("L", (side, side), 120), "JPEG", progressive=True)
    return plain[:-2] + plain[plain.rindex(b"\xff\xda") : -2] * number + b"\xff\xd9"


def exif_with(tag: int, kind: int, count: int, values: bytes, order: str = "<") -> bytes:
    """EXIF of one tag, whose values lie outside of it."""
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}IHHHIII", 8, 1, tag, kind, count, 26, 0) + values


def joined(exif: bytes) -> bytes:
    """EXIF as a JPEG's segments, which take 64 kB each."""
    return b"".join(segment(0xE1, b"Exif\0\0" + exif[at : at + 65_000]) for at in range(0, len(exif), 65_000))


def tiff_with(tags: dict[int, tuple[int, int, bytes]]) -> bytes:
    """A TIFF of these tags: type, count, and the bytes of the values."""
    directory, values = b"", b""
    place = 8 + 2 + 12 * len(tags) + 4
    for tag, (kind, count, content) in sorted(tags.items()):
        short = len(content) <= 4
        where = content.ljust(4, b"\0") if short else struct.pack("<I", place + len(values))
        directory += struct.pack("<HHI", tag, kind, count) + where
        values += b"" if short else content
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + bytes(4) + values


def tiff_of_shared_tiles(width: int, height: int, tile: int = 16) -> bytes:
    """Every tile is the same megabyte, whose bits are to be turned round."""
    number, size = -(-width // tile) * -(-height // tile), 1 << 20
    tags = {256: width, 257: height, 258: 8, 259: 32773, 262: 1, 266: 2, 277: 1, 322: tile, 323: tile}
    whole = {tag: (4, 1, struct.pack("<I", value)) for tag, value in tags.items()}
    data = b"\x81\0\x81\0" + bytes(size - 4)
    place = 8 + 2 + 12 * (len(tags) + 2) + 4 + 8 * number
    lists = {324: struct.pack("<I", place) * number, 325: struct.pack("<I", size) * number}
    return tiff_with(whole | {tag: (4, number, content) for tag, content in lists.items()}) + data


def boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """The boxes of an ISO file, or of a box: types and contents."""
    found, at = [], 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        found.append((kind, data[at + 8 : at + size] if size >= 8 else data[at + 8 :]))
        at += size if size >= 8 else len(data)
    return found


def box(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    """size: what it says of itself; None: the truth."""
    return struct.pack(">I4s", (len(content) + 8 if size is None else size) & 0xFFFFFFFF, kind) + content
