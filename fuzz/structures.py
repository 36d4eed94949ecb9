"""Photos whose parts are sound each, and together are not: segments, chunks, tags and boxes that lie about each other.

Some are as large as an upload may be. What an attack found is among them, by name.
"""

import io
import random
import struct
import zlib
from collections.abc import Callable

from PIL import Image

from fuzz.parts import (
    Photos,
    box,
    boxes,
    chunk,
    encoded,
    exif_with,
    honest,
    joined,
    jpeg_with,
    png,
    segment,
    tiff_of_shared_tiles,
    tiff_with,
)

LARGE = 25 * 1024 * 1024  # bytes, nearly
EDGES = (0, 1, 2, 3, 7, 8, 255, 256, 32_767, 32_768, 65_535, 2**31 - 1, 2**31, 2**32 - 1)
SIDES = (*(1, 3, 8, 48, 500, 1_000) * 3, 7_000)
RATIONAL = 5
TYPES = (*range(14), 16, 255)
ORIENTATION, RESOLUTION, MAKER_NOTE, SUB_DIRECTORY = 274, 282, 37_500, 34_665


def exif(scale: int) -> Photos:
    """EXIF of any type and count, in every format that has it; and as much of it as goes into an upload."""
    chance = random.Random(11)
    for number in range(30 * scale):
        tag = chance.choice((ORIENTATION, RESOLUTION, 283, 296, 271, MAKER_NOTE, SUB_DIRECTORY, 34_853, 700, 34_675))
        count = chance.choice((*EDGES[:8], 1000, 100_000))
        body = exif_with(
            tag, chance.choice(TYPES), count, chance.randbytes(min(8 * count, 200_000)), chance.choice("<>")
        )
        yield from in_every_format(f"tag {tag}, {number}", body)
    number = LARGE // 8 - 20_000
    for tag in (ORIENTATION, RESOLUTION):
        body = exif_with(tag, RATIONAL, number, chance.randbytes(8 * number))
        yield from in_every_format(f"three million rationals in tag {tag}", body)


def in_every_format(name: str, body: bytes) -> Photos:
    """An honest photo of each format with this EXIF."""
    yield f"{name}, JPEG", jpeg_with(joined(body))
    yield f"{name}, PNG", png(8, 8, extra=chunk(b"eXIf", body))
    webp = encoded(Image.new("RGB", (48, 36), (9, 90, 30)), "WEBP", exif=b"Exif\0\0II*\0")
    at = webp.rindex(b"EXIF")
    whole = webp[:at] + b"EXIF" + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    yield f"{name}, WEBP", whole[:4] + struct.pack("<I", len(whole) - 8) + whole[8:]
    plain, order = honest("TIFF"), "<" if body[:2] == b"II" else ">"
    tag, kind, count = struct.unpack_from(f"{order}HHI", body, 10)
    image = Image.open(io.BytesIO(plain))
    tags = {256: (3, 1, b"\x30\0"), 257: (3, 1, b"\x24\0"), 258: (3, 3, b"\x08\0" * 3), 259: (3, 1, b"\1\0")}
    tags |= {262: (3, 1, b"\2\0"), 277: (3, 1, b"\3\0"), 278: (3, 1, b"\x24\0"), 279: (4, 1, struct.pack("<I", 5184))}
    tags |= {273: (4, 1, struct.pack("<I", 8)), tag: (kind, count, body[26:])}
    yield f"{name}, TIFF", tiff_with(tags) + image.tobytes()
    for other in ("HEIF", "AVIF"):
        photo = encoded(Image.new("RGB", (48, 36), (9, 90, 30)), other, exif=exif_with(271, 2, 200, b"x" * 200))
        at = photo.index(b"II*\0", 100) if b"II*\0" in photo[100:] else photo.index(b"MM\0*", 100)
        yield f"{name}, {other}", photo[:at] + body[:200].ljust(200, b"\0") + photo[at + 200 :]


def tiffs(scale: int) -> Photos:
    """Tags that contradict each other, strips and tiles that are shared or lie outside, in every compression."""
    for width, height, tile in (
        (1024, 1024, 16),
        (64, 64, 1),
        (3200, 1560, 16),
        (32_000, 1_560, 16),
        (7000, 7000, 256),
    ):
        yield f"{width} × {height} of shared tiles of {tile}", tiff_of_shared_tiles(width, height, tile)
    number = LARGE // 4 - 100
    offsets = random.Random(2).randbytes(4 * number)
    small = {tag: (4, 1, struct.pack("<I", value)) for tag, value in {256: 2, 257: 2, 258: 8, 259: 1, 262: 1}.items()}
    yield "six million strips", tiff_with(small | {273: (4, number, offsets), 278: (4, 1, b"\1\0\0\0")})
    yield "six million bits a sample", tiff_with(small | {258: (4, number, offsets)})
    yield "100,000 strips", tiff_with(small | {273: (4, 100_000, bytes(400_000)), 279: (4, 100_000, bytes(400_000))})
    chance, photo = random.Random(12), Image.linear_gradient("L")
    kept = [
        encoded(photo.convert(mode), "TIFF", compression=way)
        for mode in ("RGB", "L", "RGBA", "CMYK", "P", "I;16")
        for way in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")
    ]
    kept += [encoded(photo.convert(mode), "TIFF", compression="jpeg") for mode in ("RGB", "L", "CMYK", "YCbCr")]
    kept += [encoded(photo.convert("1"), "TIFF", compression=way) for way in ("group3", "group4", "packbits")]
    for number in range(200 * scale):
        yield f"tags {number}", alter_tags(chance.choice(kept), chance) + bytes(LARGE // 2 * (number % 500 == 7))


def alter_tags(data: bytes, chance: random.Random) -> bytes:
    """A TIFF with a few of its tags changed; they move to its end, so that all else stays where it is."""
    (place,) = struct.unpack_from("<I", data, 4)
    (number,) = struct.unpack_from("<H", data, place)
    tags = [list(struct.unpack_from("<HHII", data, place + 2 + 12 * i)) for i in range(number)]
    for _ in range(chance.randint(1, 3)):
        tag = chance.choice(tags)
        match chance.randrange(5):
            case 0:
                tag[3] = chance.choice((*EDGES, 4, 5, 6, 16, 64, 500, 5_000, 32_773, 32_946, 50_000))
            case 1:
                tag[2] = chance.choice((*EDGES, 100, 90_000))
            case 2:
                tag[1] = chance.choice(TYPES)
            case 3:
                tag[0] = chance.choice((258, 259, 262, 266, 277, 278, 284, 317, 322, 323, 324, 325, 338, 339, 347, 530))
            case _:
                tags.append([chance.choice((266, 274, 284, 317, 322, 323, 338)), 3, 1, chance.choice((1, 2, 3, 16))])
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags)) + bytes(4)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + directory


def segments(scale: int) -> Photos:
    """A JPEG's segments doubled, exchanged and altered; more scans, components and pixels than there is data."""
    chance, photo = random.Random(13), Image.linear_gradient("L")
    ways: tuple[dict[str, int], ...] = {}, {"progressive": 1}, {"subsampling": 0}, {"restart_marker_blocks": 1}
    kept = [
        split_segments(encoded(photo.convert(mode), "JPEG", **way)) for way in ways for mode in ("RGB", "L", "CMYK")
    ]
    for marker in (0xC1, 0xC3, 0xC5, 0xC9, 0xCA, 0xCB):
        yield f"frame {marker:X}", b"".join(rename(one, marker) for one in kept[0])
    for size in ((32_000, 1_560), (7_000, 7_000), (10_400, 10_400)):
        yield f"scans of {size} that hold nothing", many_scans(kept[3], size, 5_000)
    for number in range(300 * scale):
        parts = list(chance.choice(kept))
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(1, len(parts))
            one = bytearray(parts[at])
            match chance.randrange(6):
                case 0:
                    parts.insert(chance.randrange(1, len(parts)), bytes(one))
                case 1:
                    parts[at:at] = [chance.choice(chance.choice(kept))]
                case 2:
                    del parts[at]
                case 3 if len(one) > 6:
                    one[chance.randrange(4, min(len(one), 20))] = chance.choice((0, 1, 0x11, 0x44, 0x7F, 0x80, 0xFF))
                    parts[at] = bytes(one)
                case 4:
                    parts[at:at] = [
                        segment(chance.randrange(0xC0, 0x100), chance.randbytes(chance.choice((0, 2, 14, 300))))
                    ]
                case _:
                    parts = [resize(part, chance.choice(SIDES), chance.choice(SIDES)) for part in parts]
            if len(parts) < 2:
                break
        yield f"segments {number}", b"".join(parts) + (b"\xff\xda" * (LARGE // 4) if number % 1000 == 7 else b"")


def split_segments(data: bytes) -> list[bytes]:
    """The segments of a JPEG; a scan's with its data."""
    starts = [0]
    at = 2
    while at < len(data) - 1:
        starts.append(at)
        if data[at + 1] == 0xDA:
            at += 2
            while at < len(data) - 1 and not (data[at] == 0xFF and data[at + 1] not in (0, *range(0xD0, 0xD8))):
                at += 1
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def rename(part: bytes, frame: int) -> bytes:
    """A frame's segment as another kind of frame; any other as it is."""
    return b"\xff" + bytes([frame]) + part[2:] if part[1:2] in (b"\xc0", b"\xc2") else part


def resize(part: bytes, width: int, height: int) -> bytes:
    """A frame's segment with another size; any other as it is."""
    return part[:5] + struct.pack(">HH", height, width) + part[9:] if part[1:2] in (b"\xc0", b"\xc2") else part


def many_scans(parts: list[bytes], size: tuple[int, int], number: int) -> bytes:
    """A progressive JPEG of this size whose last scan comes often, and without data."""
    last = next(part for part in reversed(parts) if part.startswith(b"\xff\xda"))
    empty = last[: 2 + int.from_bytes(last[2:4])]
    return b"".join(resize(part, *size) for part in parts[:-1]) + empty * number + b"\xff\xd9"


def chunks(scale: int) -> Photos:
    """A PNG's chunks doubled, exchanged, cut and of wrong checksum; any kind, interlaced, too much and too little."""
    chance = random.Random(14)
    names = (b"tRNS", b"PLTE", b"IDAT", b"IEND", b"IHDR", b"acTL", b"fcTL", b"fdAT", b"iCCP", b"zTXt", b"iTXt", b"eXIf")
    for number in range(300 * scale):
        width, height = (chance.choice(SIDES) for _ in range(2))
        depth, colours = chance.choice(
            ((1, 0), (8, 0), (16, 0), (8, 2), (16, 2), (1, 3), (8, 3), (8, 4), (16, 6), (8, 6))
        )
        header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, chance.choice((0, 0, 1)))
        rows = chance.choice((0, 1, height, 2 * height)) * (1 + width * depth * 4 // 8)
        pixels = zlib.compress(bytes(min(rows, 60_000_000)), 9)
        cuts = sorted(chance.randrange(len(pixels) + 1) for _ in range(chance.choice((0, 1, 5))))
        pieces = [pixels[a:b] for a, b in zip([0, *cuts], [*cuts, len(pixels)], strict=True)]
        parts = [
            chunk(b"IHDR", header),
            *([chunk(b"PLTE", chance.randbytes(3 * chance.choice((1, 16, 256))))] * (colours == 3)),
        ]
        parts += [chunk(b"IDAT", piece) for piece in pieces]
        for _ in range(chance.randrange(4)):
            body = chance.choice(
                (b"", chance.randbytes(6), chance.randbytes(256), b"a\0\0" + zlib.compress(bytes(1_000_000)))
            )
            extra = chunk(chance.choice(names), body)
            parts.insert(chance.randrange(len(parts) + 1), extra if chance.random() < 0.7 else extra[:-1] + b"!")
        yield f"chunks {number}", b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")
    yield "chunks of nothing", png(8, 8, extra=chunk(b"IDAT", b"") * (LARGE // 12 - 20))
    yield "a profile of 25 MB", png(8, 8, extra=chunk(b"iCCP", b"a\0\0" + chance.randbytes(LARGE - 300)))


def riffs(scale: int) -> Photos:
    """A WebP's chunks doubled, exchanged and altered."""
    chance = random.Random(15)
    frames = [Image.new("RGBA", (48, 36), (shade, 90, 30, shade)) for shade in (10, 200)]
    films = [
        encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=lossless) for lossless in (0, 1)
    ]
    kept = [split_riff(photo) for photo in (*films, honest("WEBP"), encoded(frames[0], "WEBP"))]
    for number in range(200 * scale):
        parts = [bytearray(part) for part in chance.choice(kept)]
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(parts))
            match chance.randrange(4):
                case 0:
                    parts.insert(at, bytearray(chance.choice(chance.choice(kept))))
                case 1 if len(parts) > 1:
                    del parts[at]
                case 2:
                    parts[at][4:8] = struct.pack("<I", chance.choice(EDGES))
                case _:
                    place = chance.randrange(8, max(9, min(len(parts[at]), 40)))
                    parts[at][place : place + 1] = bytes([chance.randrange(256)])
        body = b"".join(parts) + (bytes(LARGE) if number % 500 == 7 else b"")
        yield f"chunks {number}", b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def split_riff(data: bytes) -> list[bytes]:
    """The chunks of a WebP."""
    found, at = [], 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        found.append(data[at : at + 8 + size + size % 2])
        at += 8 + size + size % 2
    return found


def iso_boxes(scale: int) -> Photos:
    """The boxes of a HEIC or AVIF doubled, nested, exchanged, and of other sizes than they have."""
    chance = random.Random(16)
    photo = Image.linear_gradient("L").convert("RGB")
    kept = [encoded(photo, kind, exif=exif_with(271, 2, 20, b"x" * 20)) for kind in ("HEIF", "AVIF")]
    kept.append(encoded(photo.convert("RGBA"), "AVIF"))
    for side in (512, 16_000, 65_535):
        for data in kept:
            at = data.index(b"ispe") + 8
            yield f"a side of {side}", data[:at] + struct.pack(">II", side, side) + data[at + 8 :]
    for number in range(200 * scale):
        data = chance.choice(kept)
        hurt = alter_boxes(data, chance, 0)
        yield f"boxes {number}", hurt + (bytes(LARGE - len(hurt)) if number % 500 == 7 else b"")
    meta = b"\0\0\0\0" + box(b"iinf", b"\0\0\0\0\xff\xff") + box(b"iloc", bytes(LARGE - 1000))
    for brand in (b"heic", b"avif"):
        yield f"a directory of 25 MB, {brand!r}", box(b"ftyp", brand + bytes(4) + brand) + box(b"meta", meta)
        nested = b""
        for _ in range(20_000):
            nested = box(b"dinf", nested)
        yield (
            f"20,000 boxes in each other, {brand!r}",
            box(b"ftyp", brand + bytes(4) + brand) + box(b"meta", bytes(4) + nested),
        )


def alter_boxes(data: bytes, chance: random.Random, depth: int) -> bytes:
    """A few of its boxes changed, at any depth."""
    parts = boxes(data)
    within = {b"meta": 4, b"iprp": 0, b"ipco": 0, b"iinf": 6, b"iref": 4}
    at = chance.randrange(len(parts)) if parts else 0
    out = []
    for index, (kind, content) in enumerate(parts):
        size = None
        if kind in within and depth < 4 and chance.random() < 0.7:
            content = content[: within[kind]] + alter_boxes(content[within[kind] :], chance, depth + 1)
        elif index == at:
            match chance.randrange(6):
                case 0:
                    out.append(box(kind, content))
                case 1:
                    size = chance.choice(EDGES)
                case 2 if content:
                    place = chance.randrange(min(len(content), 64))
                    content = content[:place] + bytes([chance.choice((0, 1, 2, 0x7F, 0xFF))]) + content[place + 1 :]
                case 3 if len(content) > 4:
                    place = chance.randrange(len(content) - 3)
                    content = content[:place] + struct.pack(">I", chance.choice(EDGES)) + content[place + 4 :]
                case 4:
                    kind = chance.choice((b"free", b"grid", b"irot", b"clap", b"colr", b"ispe", b"iloc"))
                case _:
                    continue
        out.append(box(kind, content, size))
    return b"".join(out)


STRUCTURES: dict[str, Callable[[int], Photos]] = {
    "EXIF of any type, up to 25 MB": exif,
    "TIFF: tags, strips, tiles": tiffs,
    "JPEG: segments, scans": segments,
    "PNG: chunks": chunks,
    "WebP: chunks": riffs,
    "HEIC, AVIF: boxes": iso_boxes,
}
