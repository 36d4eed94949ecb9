"""prepare() makes the model's input of any photo, and says why of anything else."""

import base64
import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image, ImageDraw

from kickstand.classify.images import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, measure, prepare
from kickstand.errors import InvalidImage

SHAPE = (32, 32, 3)


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


def test_an_image_of_the_models_size_keeps_every_pixel() -> None:
    noise = Image.effect_noise((32, 32), 80).convert("RGB")
    assert pixels(prepare(encoded(noise), "x", SHAPE).png).tobytes() == noise.tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_promised_format_is_read(kind: str) -> None:
    prepared = prepare(encoded(half_red(), kind), "x", SHAPE)
    assert (prepared.format, prepared.width, prepared.height) == (kind, 64, 64)
    image = pixels(prepared.png)
    assert (image.mode, image.size) == ("RGB", (32, 32))
    red, green, _ = image.getpixel((4, 16))  # type: ignore[misc]
    assert red > 200 > 60 > green


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
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
    prepared = prepare(encoded(stored, "JPEG", exif=exif, quality=95), "x", SHAPE)
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
        (b"x" * (MAX_IMAGE_BYTES + 1), "bytes, more than"),
        (b"just some text", "not an image (text)"),
        (b"%PDF-1.7 \0", "not an image (a PDF)"),
        (b"PK\x03\x04", "not an image (a ZIP archive)"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image (SVG, XML or HTML)"),
        (b"\0\0\0\x18ftypheic", "not an image (HEIC, AVIF or a film)"),
        (bytes(range(200, 256)), "not an image (unknown bytes)"),
        (encoded(Image.effect_noise((200, 200), 50))[:-400], "cannot be decoded"),
        (encoded(Image.effect_noise((200, 200), 50), "JPEG")[:-4000], "cannot be decoded"),
        (encoded(Image.new("F", (64, 64)), "TIFF"), "32-bit"),
        (png_claiming(60_000, 60_000), f"more than {MAX_IMAGE_PIXELS:,} pixels (Image size (3600000000 pixels)"),
        (png_claiming(1000, 1000), "cannot be decoded"),
    ],
)
def test_what_is_not_a_photo_is_refused_with_the_name_and_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidImage) as refusal:
        prepare(data, "s3://bucket/the key.jpg", SHAPE)
    assert str(refusal.value).startswith("s3://bucket/the key.jpg: ")
    assert reason in str(refusal.value)


def test_the_prepared_image_never_outgrows_the_state_of_an_execution() -> None:
    noise = Image.effect_noise((2000, 1500), 120).convert("RGB")
    assert len(prepare(encoded(noise, "JPEG"), "x", (128, 128, 3)).png) < 200_000


def test_statistics_tell_dark_flat_blurred_and_colourless_apart() -> None:
    sharp = Image.effect_noise((32, 32), 100).convert("RGB")
    assert measure(Image.new("RGB", (32, 32), "black")).brightness == 0.0
    assert measure(Image.new("RGB", (32, 32), "white")).brightness == 1.0
    assert measure(Image.new("RGB", (32, 32), "grey")).contrast == 0.0
    assert measure(half_red((32, 32))).contrast > 0.2
    assert measure(sharp).sharpness > 3 * measure(sharp.resize((4, 4)).resize((32, 32))).sharpness
    assert measure(Image.new("RGB", (32, 32), "red")).saturation == 1.0
    assert measure(sharp).saturation == 0.0
