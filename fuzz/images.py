"""Photos made to break a decoder, in families; the same ones every time.

`python -m fuzz.images FAMILY SCALE` tries one family in this process, and prints a tally as JSON.
"""

import base64
import io
import json
import multiprocessing
import random
import resource
import struct
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from PIL import Image

from fuzz.parts import (
    Photos,
    bmp_rle,
    chunk,
    encoded,
    gif_with,
    honest,
    jpeg_with,
    png,
    scans,
    segment,
    tiff_header,
)
from fuzz.structures import STRUCTURES
from fuzz.tally import Tally
from kickstand.classify import decoding
from kickstand.classify.decoder import FORMATS
from kickstand.classify.images import LONGEST, MAX_IMAGE_BYTES, prepare, thumbnail
from kickstand.errors import InvalidImage

SHAPE = (32, 32, 3)
NAME = "s3://bucket/photo"
LONGEST_REASON = 1_000  # characters: it travels in the state of an execution, and people read it
SHARE = 0.6  # of a function's time and memory that no photo may take
ONE_CPU = 1_769  # megabytes of a function that has a whole one: https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html
GIF_OF_A_HUGE_FRAME = base64.b64decode(  # found by `make fuzz`: it took 3 GB before its size was known
    "R0lGODdhMAAknEmzGBAAIfkEKwAAAQChZnR5cEqcSLGieqqcSRgQACH5BAAAAAEALAAAAADM/2O2TOfv/yH5BAEAAAAAAAAAAQAAAQChZnR5"
    "cEqcSLGieqqcSbMYEAAh+fz/AAAAAAAAAAEAAAEALAAAACQ="
)
SIDE = 7_000  # pixels: 49 megapixels are just allowed


def attempt(data: bytes, most_s: float | None = None) -> str:
    """Both ways that uploaded bytes are read: "decided", "refused", or what went wrong.

    The second is left out of a refused photo: it would decode the same bytes to the same size.

    most_s: CPU seconds that each of them may take.
    """
    took, started = [], count_seconds()
    try:
        prepared = prepare(data, NAME, SHAPE)
        seen = Image.open(io.BytesIO(base64.b64decode(prepared.png)))
        if (seen.mode, *seen.size) != ("RGB", *SHAPE[:2]):
            return f"prepared as {seen.mode} {seen.size}"
        took, outcome = [count_seconds() - started], "decided"
    except InvalidImage as refusal:
        reason, outcome = str(refusal), "refused"
        if not reason.startswith(f"{NAME}: ") or len(reason) > LONGEST_REASON:
            return f"unclear refusal: {reason[:200]!r}"
    except Exception as error:
        return f"prepare: {type(error).__name__}: {error}"[:300]
    if outcome == "decided":
        try:
            thumbnail(data, NAME, LONGEST)
        except InvalidImage:
            return "prepared, but has no thumbnail"
        except Exception as error:
            return f"thumbnail: {type(error).__name__}: {error}"[:300]
    took.append(count_seconds() - started - sum(took))
    return f"took {max(took):.1f} CPU seconds" if most_s and max(took) > most_s else outcome


def count_seconds() -> float:
    """CPU seconds of this process, of its decoders, and of those that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = time.process_time() + ended.ru_utime + ended.ru_stime
    for decoder in decoding._pool._idle:
        with suppress(OSError):  # on Linux this is the clock of another process: clock_getcpuclockid(3)
            seconds += time.clock_gettime(~decoder._process.pid << 3 | 2)
    return seconds


@dataclass(frozen=True)
class Limits:
    """What a photo may take of a function. seconds: of a whole CPU."""

    seconds: float
    megabytes: int


def read_limits() -> Limits:
    """Of the smaller of the two functions that read strangers' photos one by one."""
    from kickstand_cli.local.template import load_yaml  # the environment with Atheris has no command
    from kickstand_cli.project import TEMPLATE

    resources = load_yaml(TEMPLATE)["Resources"]
    found = [resources[name]["Properties"] for name in ("PrepareImageFunction", "ReviewFunction")]
    seconds = min(one["Timeout"] * one["MemorySize"] / ONE_CPU for one in found)
    return Limits(SHARE * seconds, int(SHARE * min(one["MemorySize"] for one in found)))


# ---- the families


def tiny(_: int) -> Photos:
    """Empty files, single bytes, and the first bytes of photos."""
    yield "nothing", b""
    for value in range(256):
        yield f"byte {value}", bytes([value])
    for kind in FORMATS:
        photo = honest(kind)
        for length in range(2, 34):
            yield f"{length} bytes of {kind}", photo[:length]


def wrong_type(scale: int) -> Photos:
    """Other files under the name of a photo."""
    for start in (
        b"%PDF-1.7\n",
        b"PK\3\4",
        b"<html>",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\0\0\0\x18ftypheic",
    ):
        yield repr(start), start
        yield f"{start!r} and zeros", start + bytes(5000)
    others = (
        b"\x7fELF",
        b"MZ",
        b"#!/bin/sh\n",
        b"{}",
        b"\x1f\x8b\x08",
        b"OggS",
        b"ID3",
        b"\0asm",
        b"\xff\xfe<\0",
        b"\xef\xbb\xbf",
    )
    for start in (
        *others,
        b"8BPS",
        b"P6 9 9 255 ",
        b"\0\0\1\0",
        b"qoif",
        b"\xff\x0a",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"II*\0",
        b"MM\0+",
    ):
        yield repr(start), start + bytes(range(256)) * 4
    chance = random.Random(1)
    for number in range(20 * scale):
        yield f"noise {number}", chance.randbytes(chance.randrange(1, 4096))


def truncated(scale: int) -> Photos:
    """Honest photos that end too early."""
    for kind in FORMATS:
        photo = honest(kind)
        for length in range(34, len(photo), max(1, len(photo) // (20 * scale))):
            yield f"{length} of {len(photo)} bytes of {kind}", photo[:length]


def mutated(scale: int) -> Photos:
    """Honest photos with bytes changed, doubled, cut out or exchanged for what decoders stumble over."""
    edges = (b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x80")
    for kind in FORMATS:
        photo, chance = honest(kind), random.Random(kind)
        for number in range(100 * scale):
            hurt = bytearray(photo)
            for _ in range(chance.randint(1, 6)):
                at = min(chance.randrange(len(hurt)), chance.randrange(len(hurt)))  # headers more often
                match chance.randrange(4):
                    case 0:
                        hurt[at] = chance.randrange(256)
                    case 1:
                        edge = chance.choice(edges)
                        hurt[at : at + len(edge)] = edge
                    case 2:
                        hurt[at:at] = hurt[at : at + chance.randrange(1, 64)]
                    case _:
                        del hurt[at : at + chance.randrange(1, 16)]
                hurt = hurt or bytearray(photo)
            yield f"{kind} {number}", bytes(hurt)


def polyglots(_: int) -> Photos:
    """Two kinds of file in one."""
    script, archive = b"<script>alert(1)</script>", b"PK\3\4" + bytes(40) + b"PK\5\6" + bytes(18)
    for kind in FORMATS:
        photo = honest(kind)
        for tail in (
            script,
            archive,
            b"%PDF-1.7\n%%EOF",
            b"<?php ?>",
            photo,
            honest("PNG"),
            bytes(100_000),
            b"\xff\xda" * 5000,
        ):
            yield f"{kind} and {tail[:12]!r}", photo + tail
        for head in (script, archive, b"%PDF-1.7\n", b"\n", b"\0", b"\xff"):
            yield f"{head[:12]!r} and {kind}", head + photo
    yield "a script in a JPEG's comment", jpeg_with(segment(0xFE, script))
    yield "a script in a GIF's comment", gif_with(b"\x21\xfe" + bytes([len(script)]) + script + b"\0")
    yield "GIF89a/*", b"GIF89a/*" + bytes(20) + b"*/=1;alert(1)"


def dimensions(_: int) -> Photos:
    """Headers that promise sizes from none to more than there is."""
    sizes = (0, 1, 2, 255, 32_767, 32_768, 65_535, 2**31 - 1, 2**31, 2**32 - 1)
    gif, bmp, jpeg, tiff, webp = map(honest, ("GIF", "BMP", "JPEG", "TIFF", "WEBP"))
    frame = jpeg.index(b"\xff\xc0") + 5
    for width in sizes:
        for height in sizes:
            name, small = f"{width} × {height}", (width & 0xFFFF, height & 0xFFFF)
            whole = struct.pack(">II", width, height)
            yield f"PNG {name}", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", whole + b"\x08\2\0\0\0") + chunk(b"IDAT", b"")
            yield f"GIF {name}", gif[:6] + struct.pack("<HH", *small) + gif[10:]
            yield f"BMP {name}", bmp[:18] + struct.pack("<II", width, height) + bmp[26:]
            yield f"JPEG {name}", jpeg[:frame] + struct.pack(">HH", *small[::-1]) + jpeg[frame + 4 :]
            yield f"WEBP {name}", webp[:26] + struct.pack("<HH", *small) + webp[30:]
            for tag, value in ((b"\0\1", width), (b"\1\1", height)):
                at = tiff.find(tag)
                yield f"TIFF {name}", tiff[: at + 8] + struct.pack("<I", value) + tiff[at + 12 :]
    for width, height in ((1, 1), (1, 2), (2, 1), (1, 32_767), (32_767, 1), (1, 32_768), (1, 3), (3, 1)):
        yield f"honest {width} × {height}", png(width, height)


def animated(_: int) -> Photos:
    """More than one frame, and frames that lie elsewhere."""
    frames = [Image.new("RGB", (48, 36), (shade, 90, 30)) for shade in range(0, 250, 10)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        film = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        yield f"a film as {kind}", film
        for length in range(60, len(film), max(1, len(film) // 40)):
            yield f"a film as {kind}, {length} bytes", film[:length]
    gif = honest("GIF")
    at = gif.index(b"\x2c", 13 + 3 * 256 if gif[10] & 0x80 else 13)
    yield "a frame of 3 gigapixels in a GIF of 120 bytes", GIF_OF_A_HUGE_FRAME
    for left, top, width, height in ((0, 0, 0, 0), (40, 30, 48, 36), (65_535, 65_535, 1, 1), (0, 0, 65_535, 65_535)):
        yield (
            f"a frame at {left}, {top}",
            gif[: at + 1] + struct.pack("<HHHH", left, top, width, height) + gif[at + 9 :],
        )
    yield "an APNG without frames", png(8, 8, extra=chunk(b"acTL", bytes(8)))
    yield "an APNG of 4 billion frames", png(8, 8, extra=chunk(b"acTL", b"\xff" * 8))


def profiles(scale: int) -> Photos:
    """ICC, EXIF and XMP that are empty, endless, circular or lies."""
    types = ((b"\0\3", 1), (b"\0\2", 4), (b"\0\4", 1), (b"\0\5", 1), (b"\0\7", 8), (b"\0\x0c", 1), (b"\xff\xff", 1))
    for kind, count in types:
        for number in (0, count, 2**16, 2**32 - 1):
            for value in (b"\0\6\0\0", b"\0\0\0\0", b"\0\x09\0\0", b"\xff\xff\xff\xff", b"ab\0\0", b"\0\0\0\x08"):
                exif = tiff_header(kind + struct.pack(">I", number) + value)
                yield f"EXIF {kind!r} {number} {value!r} in a JPEG", jpeg_with(segment(0xE1, b"Exif\0\0" + exif))
                yield f"EXIF {kind!r} {number} {value!r} in a PNG", png(8, 8, extra=chunk(b"eXIf", exif))
    circle = b"MM\0*\0\0\0\x08\0\x01\x87\x69\0\4\0\0\0\1\0\0\0\x08\0\0\0\x08"
    yield "an IFD that holds itself", jpeg_with(segment(0xE1, b"Exif\0\0" + circle))
    yield "a TIFF of itself", circle
    for body in (b"", b"\0" * 128, b"ICC_PROFILE\0\0\0", b"ICC_PROFILE\0\1\0", b"ICC_PROFILE\0\xff\xff" + bytes(200)):
        yield f"ICC {body[:16]!r}", jpeg_with(segment(0xE2, body))
        yield f"ICC {body[:16]!r}, often", jpeg_with(segment(0xE2, body), 300)
    yield (
        "an ICC profile that unpacks to 80 MB",
        png(8, 8, extra=chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(80_000_000)))),
    )
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 900_000))
    yield "texts that unpack to 90 MB", png(8, 8, extra=text * 100)
    yield (
        "XMP with an orientation of nine",
        jpeg_with(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='9'/>")),
    )
    chance = random.Random(3)
    for number in range(40 * scale):
        noise = chance.randbytes(chance.randrange(4, 400))
        yield (
            f"EXIF of noise {number}",
            jpeg_with(segment(0xE1, b"Exif\0\0" + chance.choice((b"MM\0*", b"II*\0")) + noise)),
        )


def bombs(scale: int) -> Photos:
    """Few bytes that ask for much memory or time, and the largest photos that are allowed. scale 1: only some."""
    turned = chunk(b"eXIf", tiff_header(b"\0\3\0\0\0\1\0\6\0\0"))
    yield "60,000 × 60,000 pixels promised", png(60_000, 60_000, rows=False)
    yield "a thousand scans", scans(1000, 500)
    yield "nothing but fill bytes", jpeg_with(b"\xff" * 24_000_000)
    yield "a GIF of comments", gif_with(b"\x21\xfe\x01a\0" * 5_000_000)
    yield "more bytes than allowed", honest("PNG") + bytes(MAX_IMAGE_BYTES)
    yield "49 megapixels with transparency, lying on its side", png(SIDE, SIDE, colours=6, extra=turned)
    if scale == 1:
        return
    yield "six million empty segments", jpeg_with(b"\xff\xe5\0\2" * 6_000_000)
    yield "two million empty chunks", png(8, 8, extra=chunk(b"zzZz", b"") * 2_000_000)
    yield "two million texts", png(8, 8, extra=chunk(b"tEXt", b"a\0b") * 1_700_000)
    yield "three million graphic controls", gif_with(b"\x21\xf9\x04\0\0\0\0\0" * 3_000_000)
    yield "50 million lines", png(1, 50_000_000)
    yield "a BMP of runs of one pixel", bmp_rle(SIDE, b"\1\7" * 12_000_000)
    yield "a BMP of empty lines", bmp_rle(SIDE, b"\1\7\0\0" * SIDE)
    yield "a BMP of jumps", bmp_rle(SIDE, b"\0\2\1\0" * 6_000_000)
    yield "a hundred scans of 49 megapixels", scans(80, SIDE)
    yield "a thousand scans of 49 megapixels", scans(1000, SIDE)
    for depth, colours in ((16, 6), (16, 2), (16, 0), (8, 2), (8, 0), (8, 3), (1, 0)):
        yield f"49 megapixels of {depth} bits, colour type {colours}", png(SIDE, SIDE, depth=depth, colours=colours)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind, mode, options in (
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "CMYK", {}),
        ("WEBP", "RGB", {}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("GIF", "P", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "CMYK", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", "I;16", {"compression": "tiff_adobe_deflate"}),
    ):
        on_its_side: dict[str, Any] = {} if kind == "GIF" else {"exif": exif}
        yield (
            f"49 megapixels, {kind} {mode} {options}",
            encoded(Image.new(mode, (SIDE, SIDE)), kind, **options, **on_its_side),
        )


FAMILIES: dict[str, Callable[[int], Photos]] = {
    "empty files and fragments": tiny,
    "files of another type": wrong_type,
    "truncated": truncated,
    "mutated": mutated,
    "polyglots": polyglots,
    "dimensions": dimensions,
    "animated": animated,
    "ICC, EXIF, XMP": profiles,
    "decompression bombs, and the largest files allowed": bombs,
    **STRUCTURES,
}


def try_family(family: str, scale: int) -> Tally:
    """Every photo of one family, in a process that has imported what the functions import."""
    import boto3
    import jinja2  # noqa: F401
    from aws_lambda_powertools import Logger, Metrics

    _ = boto3.client("s3", region_name="us-east-1"), Logger(), Metrics(namespace="fuzz")
    tally, limits, slowest = Tally(family), read_limits(), 0.0
    for name, data in made(family, scale):
        started = count_seconds()
        forget_peak()
        outcome = attempt(data, limits.seconds)
        tally.count(name, outcome)
        slowest = max(slowest, (count_seconds() - started) / (1 if outcome == "refused" else 2))  # it is read twice
        tally.peak_mb = max(tally.peak_mb or 0, peak_with_decoders() or 0) or None
    tally.slowest_s = round(slowest, 2)
    if (tally.peak_mb or 0) > limits.megabytes:
        tally.unhandled.append(f"took {tally.peak_mb} MB, more than {limits.megabytes}")
    return tally


def made(family: str, scale: int) -> Photos:
    """The photos of a family, made in another process: what making them takes is not counted."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    maker = context.Process(target=_make, args=(family, scale, there))
    maker.start()
    there.close()
    while True:
        try:
            name = here.recv_bytes().decode()
            yield name, here.recv_bytes()
        except EOFError:
            break
    maker.join()
    if maker.exitcode:
        raise RuntimeError(f"making {family} ended with exit code {maker.exitcode}")


def _make(family: str, scale: int, there: Connection) -> None:
    for name, data in FAMILIES[family](scale):
        there.send_bytes(name.encode())
        there.send_bytes(data)
    there.close()


def peak_with_decoders() -> int | None:
    """The largest that this process has been, and the largest of its decoders; None where the system does not say."""
    mine = peak_megabytes()
    if mine is None:
        return None
    decoders = [peak_megabytes(decoder._process.pid) or 0 for decoder in decoding._pool._idle]
    return mine + max([*decoders, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024])


def forget_peak() -> None:
    """What this process has been before this photo does not count beside what a decoder takes for it."""
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5", "ascii")


def peak_megabytes(process: int | str = "self") -> int | None:
    """The largest resident set that a process has had; None where the system does not tell, as Linux does."""
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text("ascii").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


if __name__ == "__main__":
    print(json.dumps(try_family(sys.argv[1], int(sys.argv[2])).as_dict()))  # noqa: T201
