"""Pictures of nothing, drawn by code: what a gate must refuse although no photographer would take it."""

import string

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Picture = NDArray[np.uint8]


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    if rng.random() < 0.3:
        level = int(rng.choice([0, 255, rng.integers(256)]))
        return level, level, level
    red, green, blue = rng.integers(256, size=3)
    return int(red), int(green), int(blue)


def _flat(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", size, _colour(rng))


def _gradient(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    corners = Image.new("RGB", (2, 2))
    corners.putdata([_colour(rng) for _ in range(4)])
    return corners.resize(size, Image.Resampling.BILINEAR)


def _noise(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    grain = int(rng.choice([1, 1, 2, 4, 8]))
    shape = (max(1, size[1] // grain), max(1, size[0] // grain), int(rng.choice([1, 3])))
    if rng.random() < 0.5:
        grains = rng.normal(rng.uniform(40, 215), rng.uniform(5, 90), shape)
    else:
        grains = rng.integers(256, size=shape).astype(np.float64)
    pixels = np.broadcast_to(np.clip(grains, 0, 255), (*shape[:2], 3)).astype(np.uint8)
    method = Image.Resampling.BILINEAR if rng.random() < 0.5 else Image.Resampling.NEAREST
    return Image.fromarray(pixels).resize(size, method)


def _stripes(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    y, x = np.mgrid[: size[1], : size[0]]
    angle, period, phase = rng.uniform(0, np.pi), rng.uniform(2.5, 20), rng.uniform(0, 2 * np.pi)
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period + phase)
    if rng.random() < 0.4:
        wave = wave * np.sin((y * np.cos(angle) - x * np.sin(angle)) * 2 * np.pi / period)
    if rng.random() < 0.5:
        wave = np.sign(wave)
    share = ((wave + 1) / 2)[..., None]
    pixels = share * np.array(_colour(rng)) + (1 - share) * np.array(_colour(rng))
    return Image.fromarray(pixels.astype(np.uint8))


def _text(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    picture = _flat(rng, size) if rng.random() < 0.8 else _gradient(rng, size)
    draw, colour = ImageDraw.Draw(picture), _colour(rng)
    height = int(rng.integers(8, max(9, size[1])))
    font, letters = ImageFont.load_default(height), string.ascii_letters + string.digits
    for top in range(int(rng.integers(-2, 4)), size[1], height + 2):
        line = "".join(rng.choice(list(letters + "   "), size=12))
        draw.text((int(rng.integers(-6, 4)), top), line, fill=colour, font=font)
    return picture


def _drawing(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Boxes, single discs, polygons and lines; never two circles side by side, which is a drawn two-wheeler."""
    picture = _flat(rng, size) if rng.random() < 0.6 else _gradient(rng, size)
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(1, 7))):
        across, down = rng.integers(-4, size[0] + 4, 5).tolist(), rng.integers(-4, size[1] + 4, 5).tolist()
        points = list(zip(across, down, strict=True))
        kind, width = rng.integers(4), int(rng.integers(1, 4))
        if kind == 0:
            draw.line(points[: int(rng.integers(2, 6))], fill=_colour(rng), width=width)
        elif kind == 1:
            draw.polygon(points[:3], fill=_colour(rng))
        else:
            (x0, x1), (y0, y1) = sorted((points[0][0], points[1][0])), sorted((points[0][1], points[1][1]))
            draw.rectangle((x0, y0, x1, y1), fill=_colour(rng) if kind == 2 else None, outline=_colour(rng))
    if rng.random() < 0.25:
        x, y, r = (int(v) for v in rng.integers(4, min(size), 3))
        draw.ellipse(
            (x - r, y - r, x + r, y + r), fill=_colour(rng) if rng.random() < 0.5 else None, outline=_colour(rng)
        )
    return picture


KINDS = (_flat, _gradient, _noise, _stripes, _text, _drawing)


def draw_synthetic(n: int, height: int, width: int, seed: int) -> Picture:
    """n pictures, shape (n, height, width, 3): flat colours, gradients, noise, stripes, text, drawings in turn."""
    rng = np.random.default_rng(seed)
    pictures = []
    for i in range(n):
        picture = KINDS[i % len(KINDS)](rng, (width, height))
        if rng.random() < 0.3:
            picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.5))))
        pixels = np.asarray(picture, dtype=np.float64)
        if rng.random() < 0.4:
            pixels = pixels + rng.normal(0, rng.uniform(1, 15), pixels.shape)
        pictures.append(np.clip(pixels, 0, 255).astype(np.uint8))
    return np.stack(pictures) if pictures else np.zeros((0, height, width, 3), np.uint8)
