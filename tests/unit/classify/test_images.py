"""prepare() makes the model's input of any photo, and says why of anything else."""

import base64
import io
import json
import random
import struct
import zlib
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageDraw

from fuzz.parts import exif_with, tiff_of_shared_tiles, tiff_with
from kickstand.classify.decoder import FORMATS, MAX_IMAGE_PIXELS
from kickstand.classify.images import MAX_IMAGE_BYTES, measure, prepare
from kickstand.errors import InvalidImage
from kickstand.records import compose_record
from kickstand_cli.project import PROJECT

SHAPE = (32, 32, 3)
REAL = PROJECT / "../shared/cases/formats"  # photos as phones and press tools make them

pillow_heif.register_heif_opener()  # it writes them, too


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(png: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(png)))


def half_red(size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Red on the left, white on the right."""
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).rectangle((0, 0, size[0] // 2 - 1, size[1]), fill="red")
    return image


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header promises this size, and whose pixels are zeros compressed to almost nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def noisy(size: tuple[int, int], spread: int) -> Image.Image:
    """Grey noise, the same every time; Pillow's own is another with each run."""
    grey = np.random.default_rng(1).normal(128, spread, size[::-1]).clip(0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def test_an_image_of_the_models_size_keeps_every_pixel() -> None:
    noise = noisy((32, 32), 80)
    assert pixels(prepare(encoded(noise), "x", SHAPE).png).tobytes() == noise.tobytes()


@pytest.mark.parametrize("kind", FORMATS)
def test_every_promised_format_is_read(kind: str) -> None:
    prepared = prepare(encoded(half_red(), kind), "x", SHAPE)
    assert (prepared.format, prepared.width, prepared.height) == (kind, 64, 64)
    image = pixels(prepared.png)
    assert (image.mode, image.size) == ("RGB", (32, 32))
    red, green, _ = image.getpixel((4, 16))  # type: ignore[misc]
    assert red > 200 > 60 > green


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone_exactly_once(kind: str, orientation: int) -> None:
    """The stored pixels are turned so that, shown as the tag says, red is on the left."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    shown = half_red((80, 60))
    stored = shown.transpose(undo[orientation]) if orientation in undo else shown
    exif = Image.Exif()
    exif[0x0112] = orientation
    prepared = prepare(encoded(stored, kind, exif=exif.tobytes(), quality=95), "x", SHAPE)
    assert (prepared.width, prepared.height) == (80, 60)
    image = pixels(prepared.png)
    assert image.getpixel((4, 16))[1] < 60 < 200 < image.getpixel((27, 16))[1]  # type: ignore[index]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (64, 64), (0, 0, 0, 0)), (255, 255, 255)),
        (Image.new("LA", (64, 64), (0, 255)), (0, 0, 0)),
        (Image.new("L", (64, 64), 100), (100, 100, 100)),
        (Image.new("1", (64, 64), 1), (255, 255, 255)),
        (Image.new("I;16", (64, 64), 65535), (255, 255, 255)),
        (Image.new("I;16", (64, 64), 256 * 100), (100, 100, 100)),
        (Image.new("P", (64, 64), 0), (0, 0, 0)),
    ],
    ids=["transparent", "grey with alpha", "grey", "bilevel", "16 bit white", "16 bit grey", "palette"],
)
def test_every_colour_mode_becomes_rgb(image: Image.Image, expected: tuple[int, int, int]) -> None:
    assert pixels(prepare(encoded(image), "x", SHAPE).png).getpixel((16, 16)) == expected


def test_a_cmyk_jpeg_becomes_rgb() -> None:
    prepared = prepare(encoded(Image.new("CMYK", (64, 64), (0, 0, 0, 0)), "JPEG"), "x", SHAPE)
    assert pixels(prepared.png).getpixel((16, 16)) == (255, 255, 255)


def test_only_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("blue", "red")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels(prepare(data, "x", SHAPE).png).getpixel((16, 16)) == (0, 0, 255)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b"x" * (MAX_IMAGE_BYTES + 1), "more than 41,943,040 bytes"),
        (b"just some text", "not a photo (text)"),
        (b"%PDF-1.7 \0", "not a photo (a PDF)"),
        (b"PK\x03\x04\x14\0", "not a photo (a ZIP archive)"),
        (b"BMW and other makes", "not a photo (text)"),
        (b"PKW und Rad", "not a photo (text)"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>", "not a photo (SVG, XML or HTML)"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a photo (SVG, XML or HTML)"),
        (b"\0\0\0\x18ftypmp42", "not a photo (a video)"),
        (b"II+\0\x08\0\0\0", "key.jpg: BigTIFF, which is not supported; send it as JPEG, HEIC"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "key.jpg: JPEG XL, which is not supported"),
        (b"\xff\x0a\0\0", "key.jpg: JPEG XL, which is not supported"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "key.jpg: JPEG 2000, which is not supported"),
        (b"8BPS\0\1", "key.jpg: Photoshop, which is not supported"),
        (b"\0\0\0\x18ftypheic", "a HEIC that is incomplete or damaged; send it again"),
        (bytes(range(200, 256)), "not a photo (unknown bytes)"),
        (encoded(noisy((200, 200), 50).convert("L"))[:-400], "upload incomplete; send it again"),
        (encoded(Image.new("F", (64, 64)), "TIFF"), "32-bit"),
        (png_claiming(60_000, 60_000), f"more than {MAX_IMAGE_PIXELS:,} pixels"),
        (png_claiming(1000, 1000), "upload incomplete; send it again"),
    ],
)
def test_what_is_not_a_photo_is_refused_with_the_name_and_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidImage) as refusal:
        prepare(data, "s3://bucket/the key.jpg", SHAPE)
    assert str(refusal.value).startswith("s3://bucket/the key.jpg: ")
    assert reason in str(refusal.value)


def test_the_state_of_an_execution_holds_a_prepared_image_of_pure_noise_once() -> None:
    """Step Functions allows 262,144 bytes; no photo compresses worse than noise."""
    side = 224
    noise = Image.frombytes("RGB", (side, side), random.Random(0).randbytes(3 * side * side))
    prepared = prepare(encoded(noise), "x", (side, side, 3)).model_dump(mode="json")
    state = json.loads((PROJECT / "events/record_result.json").read_text())["state"] | {"prepared_image": prepared}
    state["record"] = compose_record(state, "arn", datetime(2026, 5, 4, tzinfo=UTC)).model_dump(mode="json")
    assert len(json.dumps(state)) < 210_000
    assert json.dumps(state).count(prepared["png"]) == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_nothing_but_pixels_travels_on(kind: str) -> None:
    photo = noisy((64, 64), 80)
    exif = Image.Exif()
    exif[0x010E] = "a description " * 2000
    secrets = {"icc_profile": random.Random(0).randbytes(300_000), "exif": exif, "xmp": b"x" * 30_000}
    png = base64.b64decode(prepare(encoded(photo, kind, **secrets), "x", SHAPE).png)
    assert len(png) < 5_000
    assert Image.open(io.BytesIO(png)).info == {}


@pytest.mark.parametrize("bits", [10, 12])
def test_a_heic_of_more_than_eight_bits_is_read(bits: int) -> None:
    grey = pillow_heif.from_bytes("I;16", (64, 64), struct.pack("<H", 100 << 8) * 64 * 64)
    file = io.BytesIO()
    grey.save(file, quality=-1, save_to_12bit=bits == 12)
    assert pixels(prepare(file.getvalue(), "x", SHAPE).png).getpixel((16, 16)) == pytest.approx((100,) * 3, abs=2)


def test_of_a_photo_in_two_sizes_in_one_file_the_first_counts() -> None:
    data = encoded(half_red((80, 60)), "MPO", save_all=True, append_images=[Image.new("RGB", (40, 30))])
    prepared = prepare(data, "x", SHAPE)
    assert (prepared.format, prepared.width) == ("MPO", 80)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_of_more_than_fifty_megapixels_is_read(options: dict[str, Any]) -> None:
    prepared = prepare(encoded(Image.new("L", (8192, 6144), 90), "JPEG", **options), "x", SHAPE)
    assert (prepared.width, prepared.height) == (8192, 6144)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_without_its_end_marker_is_read(options: dict[str, Any]) -> None:
    whole = encoded(noisy((300, 200), 50), "JPEG", **options)
    assert prepare(whole[:-2], "x", SHAPE).png == prepare(whole, "x", SHAPE).png


@pytest.mark.parametrize("missing", [0.02, 0.1, 0.5])
@pytest.mark.parametrize(
    ("kind", "options"),
    [*((kind, {}) for kind in FORMATS if kind != "AVIF"), ("JPEG", {"progressive": True})],
)
def test_where_more_is_missing_the_upload_is_incomplete(kind: str, options: dict[str, Any], missing: float) -> None:
    whole = encoded(noisy((400, 300), 50), kind, **options)
    with pytest.raises(InvalidImage, match="x: upload incomplete; send it again"):
        prepare(whole[: round(len(whole) * (1 - missing))], "x", SHAPE)


@pytest.mark.parametrize("name", ["bike.avif", "bike.heic", "missing-eoi.jpg", "icc-200KB.png", "cmyk-icc-557KB.jpg"])
def test_the_photos_of_phones_look_like_their_plain_twin(name: str) -> None:
    if not REAL.exists():
        pytest.skip("needs photos that are not in this repository: ../shared/cases/formats")
    twin, photo = (pixels(prepare((REAL / file).read_bytes(), file, SHAPE).png) for file in ("icc-200KB.jpg", name))
    difference = sum(abs(one - other) for one, other in zip(twin.tobytes(), photo.tobytes(), strict=True))
    assert difference / len(twin.tobytes()) < 4


DAMAGED_EXIF = {
    "noise": b"Exif\0\0II*\0" + random.Random(1).randbytes(60_000),
    "no TIFF in it": random.Random(2).randbytes(300),
    "an orientation that is no integer": b"Exif\0\0" + exif_with(0x0112, 11, 1, b"")[:26],
    "three million orientations": b"Exif\0\0" + exif_with(0x0112, 5, 3_000_000, bytes(40_000)),
    "cut off": b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12",
    "empty": b"",
}


@pytest.mark.parametrize("damaged", DAMAGED_EXIF.values(), ids=list(DAMAGED_EXIF))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_changes_no_pixel(kind: str, damaged: bytes) -> None:
    photo = noisy((64, 48), 60)
    plain, hurt = (prepare(encoded(photo, kind, exif=exif), "x", SHAPE) for exif in (b"", damaged))
    assert (hurt.png, hurt.width) == (plain.png, plain.width)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_exif_that_is_damaged_in_the_file_changes_no_pixel(kind: str) -> None:
    photo, exif = noisy((64, 48), 60), Image.Exif()
    exif[0x010E] = "a description"
    whole = encoded(photo, kind, exif=exif)
    at = whole.index(b"a description") - 26
    hurt = whole[:at] + bytes(255 - byte for byte in whole[at : at + 20]) + whole[at + 20 :]
    if kind == "TIFF":  # there EXIF stands among the tags that make the pixels
        hurt = whole.replace(b"\x0e\x01\2\0", b"\x12\x01\5\0")
    assert hurt != whole
    assert prepare(hurt, "x", SHAPE).png == prepare(whole, "x", SHAPE).png


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("name", ["icc_profile", "xmp"])
def test_a_large_profile_changes_no_pixel(kind: str, name: str) -> None:
    photo = noisy((64, 48), 60)
    size = 60_000 if (kind, name) == ("JPEG", "xmp") else 3_000_000
    large = {name: random.Random(0).randbytes(size)}
    assert prepare(encoded(photo, kind, **large), "x", SHAPE).png == prepare(encoded(photo, kind), "x", SHAPE).png


NOISE = encoded(noisy((64, 48), 60))


def png_with(extra: bytes) -> bytes:
    """A PNG of noise with this before its pixels."""
    return NOISE[:33] + extra + NOISE[33:]


@pytest.mark.parametrize(
    "name", [b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tRNS"]
)
@pytest.mark.parametrize("body", [b"", b"\0" * 9, b"a\0\0" + zlib.compress(bytes(50_000_000))])
def test_a_damaged_side_chunk_changes_no_pixel(name: bytes, body: bytes) -> None:
    """Neither is a bomb in it unpacked: two of them would take more memory than there is."""
    wrong = struct.pack(">I", len(body)) + name + body + b"oops"
    plain, hurt = png_with(b""), png_with(wrong * 20)
    assert prepare(hurt, "x", SHAPE).png == prepare(plain, "x", SHAPE).png


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "LA"])
@pytest.mark.parametrize("length", [0, 5, 300])
def test_transparency_of_a_wrong_length_changes_no_pixel(mode: str, length: int) -> None:
    plain = encoded(half_red().quantize(4) if mode == "P" else half_red().convert(mode))
    body, at = b"tRNS" + bytes(length), plain.index(b"IDAT") - 4
    wrong = plain[:at] + struct.pack(">I", length) + body + struct.pack(">I", zlib.crc32(body)) + plain[at:]
    assert prepare(wrong, "x", SHAPE).png == prepare(plain, "x", SHAPE).png


@pytest.mark.parametrize("end", [1, 4, 8, 12, 15])
def test_a_png_whose_pixels_are_all_there_needs_no_end(end: int) -> None:
    whole = png_with(b"")
    assert prepare(whole[:-end], "x", SHAPE).png == prepare(whole, "x", SHAPE).png


@pytest.mark.parametrize("length", [8, 12, 20, 33, 40])
def test_a_png_that_ends_in_its_header_is_said_to_be_one(length: int) -> None:
    with pytest.raises(InvalidImage, match="x: a PNG that is incomplete or damaged; send it again"):
        prepare(png_with(b"")[:length], "x", SHAPE)


@pytest.mark.parametrize("name", [b"IHDR", b"IDAT"])
def test_a_png_whose_pixels_are_damaged_is_said_to_be_one(name: bytes) -> None:
    whole = png_with(b"")
    at = whole.index(name) + 4 + int.from_bytes(whole[whole.index(name) - 4 : whole.index(name)])
    with pytest.raises(InvalidImage, match="x: a PNG that is incomplete or damaged; send it again"):
        prepare(whole[:at] + b"oops" + whole[at + 4 :], "x", SHAPE)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("PNG", {}), ("AVIF", {"quality": 100}),
     ("WEBP", {"lossless": True, "exact": True})],
)  # fmt: skip
def test_a_picture_whose_alpha_is_all_zero_is_read_as_if_it_had_none(kind: str, options: dict[str, Any]) -> None:
    opaque = half_red()
    hidden = opaque.copy()
    hidden.putalpha(0)
    seen, expected = (pixels(prepare(encoded(one, kind, **options), "x", SHAPE).png) for one in (hidden, opaque))
    assert seen.getpixel((4, 16)) == pytest.approx(expected.getpixel((4, 16)), abs=3)
    assert seen.getpixel((4, 16))[1] < 60 < 200 < seen.getpixel((27, 16))[1]  # type: ignore[index]


def test_a_bmp_of_one_colour_whose_alpha_is_all_zero_keeps_its_colour() -> None:
    hidden = Image.new("RGBA", (64, 64), (200, 10, 10, 0))
    assert pixels(prepare(encoded(hidden, "BMP"), "x", SHAPE).png).getpixel((16, 16)) == (200, 10, 10)


def test_a_tiff_whose_alpha_is_multiplied_in_already_keeps_its_colours() -> None:
    tags = {256: 32, 257: 32, 259: 1, 262: 2, 277: 4, 278: 32, 279: 4096}
    whole = {tag: (4, 1, struct.pack("<I", value)) for tag, value in tags.items()} | {258: (3, 4, b"\x08\0" * 4)}
    whole[338] = (3, 1, b"\1\0")
    start = len(tiff_with(whole | {273: (4, 1, bytes(4))}))
    opaque = tiff_with(whole | {273: (4, 1, struct.pack("<I", start))}) + bytes((200, 10, 10, 255)) * 1024
    nothing = opaque.replace(bytes((200, 10, 10, 255)), bytes((200, 10, 10, 0)))
    for data in (opaque, nothing):
        assert pixels(prepare(data, "x", SHAPE).png).getpixel((16, 16)) == (200, 10, 10)


def plain_tiff(tags: dict[int, int], bits: int, planes: list[bytes], strips: int = 1) -> bytes:
    """A TIFF of 64 × 64 pixels; the planes of its colours are stored one after the other, each in this many strips."""
    size, count = len(planes[0]) // strips, len(planes) * strips
    short = {256: 64, 257: 64, 259: 1, 277: len(planes), 278: 64 // strips} | tags
    whole = {tag: (3, 1, struct.pack("<H", value)) for tag, value in short.items()}
    whole[258] = (3, len(planes), struct.pack("<H", bits) * len(planes))
    whole[279] = (4, count, struct.pack("<I", size) * count)
    start = len(tiff_with(whole | {273: (4, count, bytes(4 * count))}))
    places = struct.pack(f"<{count}I", *(start + size * strip for strip in range(count)))
    return tiff_with(whole | {273: (4, count, places)}) + b"".join(planes)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("strips", [1, 4])
def test_a_tiff_that_stores_its_colours_one_after_the_other_keeps_them(bits: int, strips: int) -> None:
    planes = [bytes([value]) * (bits // 8) * 64 * 64 for value in (200, 10, 90)]
    data = plain_tiff({262: 2, 284: 2}, bits, planes, strips)
    assert pixels(prepare(data, "x", SHAPE).png).getpixel((16, 16)) == (200, 10, 90)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_whose_zero_is_white_is_no_negative(bits: int) -> None:
    data = plain_tiff({262: 0}, bits, [bytes([55]) * (bits // 8) * 64 * 64])
    assert pixels(prepare(data, "x", SHAPE).png).getpixel((16, 16)) == (200, 200, 200)


@pytest.mark.parametrize("data", [
    pytest.param(tiff_of_shared_tiles(32_000, 1_560), id="tiles"),
    pytest.param(tiff_with({273: (4, 200_000, bytes(800_000))}), id="strips"),
])  # fmt: skip
def test_a_tiff_of_too_many_parts_is_refused_before_they_are_read(data: bytes) -> None:
    with pytest.raises(InvalidImage, match="x: a TIFF of more than 100,000 parts; save it as a plain JPEG"):
        prepare(data, "x", SHAPE)


@pytest.mark.parametrize("frame", [0xC9, 0xCA, 0xCB])
def test_a_jpeg_with_arithmetic_coding_is_refused(frame: int) -> None:
    whole = encoded(half_red(), "JPEG")
    with pytest.raises(InvalidImage, match="x: a JPEG with arithmetic coding"):
        prepare(whole.replace(b"\xff\xc0", bytes([0xFF, frame])), "x", SHAPE)


def test_a_jpeg_keeps_its_colours_without_its_other_segments() -> None:
    """Which colours three components mean, only two of the segments say: JFIF and Adobe."""
    photo = Image.new("RGB", (64, 64), (200, 10, 10))
    for options in ({}, {"keep_rgb": True}, {"icc_profile": bytes(100_000), "comment": b"x" * 60_000}):
        seen = pixels(prepare(encoded(photo, "JPEG", **options), "x", SHAPE).png).getpixel((16, 16))
        assert seen == pytest.approx((200, 10, 10), abs=4)


def test_statistics_tell_dark_flat_blurred_and_colourless_apart() -> None:
    sharp = noisy((32, 32), 100)
    assert measure(Image.new("RGB", (32, 32), "black")).brightness == 0.0
    assert measure(Image.new("RGB", (32, 32), "white")).brightness == 1.0
    assert measure(Image.new("RGB", (32, 32), "grey")).contrast == 0.0
    assert measure(half_red((32, 32))).contrast > 0.2
    assert measure(sharp).sharpness > 3 * measure(sharp.resize((4, 4)).resize((32, 32))).sharpness
    assert measure(Image.new("RGB", (32, 32), "red")).saturation == 1.0
    assert measure(sharp).saturation == 0.0


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1600, 1200), (4032, 3024)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_statistics_do_not_depend_on_the_size_of_the_photo(kind: str, width: int, height: int) -> None:
    drawn = (PROJECT / "samples/images/bicycle/blue-city-bike.jpg").read_bytes()
    large = Image.open(io.BytesIO(drawn)).resize((width, height))
    small, seen = (prepare(data, "x", SHAPE).statistics for data in (drawn, encoded(large, kind)))
    assert seen.sharpness == pytest.approx(small.sharpness, rel=0.15)
    assert seen.brightness == pytest.approx(small.brightness, abs=0.01)
    assert (seen.glare, seen.shorter_side) == (small.glare, height)
