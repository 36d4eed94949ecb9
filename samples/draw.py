"""Draws the samples of `kickstand demo`: python samples/draw.py

Drawings, not photos: they show that everything runs, bad files included, and may be shipped. Every run draws the same
ones.
"""

import io
import math
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from PIL.PngImagePlugin import PngInfo

IMAGES = Path(__file__).parent / "images"
SIZE = 360  # pixels
FINER = 3  # drawn larger and scaled down, which smooths every edge

Point = tuple[float, float]
Colour = str | tuple[int, int, int]

TYRE, CHROME, DARK = "#1b1c20", "#b9bfc7", "#2a2c31"


class Scene:
    """A drawing with (0, 0) at its upper left and (1, 1) at its lower right corner."""

    def __init__(self, background: Image.Image) -> None:
        self.image = background.resize((SIZE * FINER, SIZE * FINER), Image.Resampling.BICUBIC)
        self._draw = ImageDraw.Draw(self.image)

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        pixels = self._pixels(points)
        thick = max(1, round(width * self.image.width))
        self._draw.line(pixels, fill=colour, width=thick, joint="curve")
        for x, y in pixels:
            self._draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=colour)

    def curve(self, start: Point, bend: Point, end: Point, width: float, colour: Colour) -> None:
        """A quadratic Bézier curve."""
        shares = np.linspace(0, 1, 24)
        points = [
            tuple((1 - t) ** 2 * a + 2 * t * (1 - t) * b + t * t * c for a, b, c in zip(start, bend, end, strict=True))
            for t in shares
        ]
        self.line(points, width, colour)  # type: ignore[arg-type]

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        self._draw.polygon(self._pixels(points), fill=colour)

    def blob(self, points: Sequence[Point], colour: Colour) -> None:
        """A polygon with rounded corners (Chaikin's corner cutting)."""
        rounded = list(points)
        for _ in range(3):
            rounded = [
                (a[0] * (1 - t) + b[0] * t, a[1] * (1 - t) + b[1] * t)
                for a, b in zip(rounded, rounded[1:] + rounded[:1], strict=True)
                for t in (0.25, 0.75)
            ]
        self.polygon(rounded, colour)

    def ellipse(self, centre: Point, rx: float, ry: float, colour: Colour) -> None:
        (x, y), (w, h) = self._pixels([centre])[0], (rx * self.image.width, ry * self.image.width)
        self._draw.ellipse((x - w, y - h, x + w, y + h), fill=colour)

    def disc(self, centre: Point, radius: float, colour: Colour) -> None:
        self.ellipse(centre, radius, radius, colour)

    def ring(self, centre: Point, radius: float, width: float, colour: Colour) -> None:
        (x, y), r = self._pixels([centre])[0], radius * self.image.width
        self._draw.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=round(width * self.image.width))

    def text(self, at: Point, text: str, height: float, colour: Colour) -> None:
        font = ImageFont.load_default(height * self.image.width)
        self._draw.text(self._pixels([at])[0], text, fill=colour, font=font)

    def shadow(self, centre: Point, rx: float, ry: float, strength: int = 110) -> None:
        mask = Image.new("L", self.image.size, 0)
        (x, y), (w, h) = self._pixels([centre])[0], (rx * self.image.width, ry * self.image.width)
        ImageDraw.Draw(mask).ellipse((x - w, y - h, x + w, y + h), fill=strength)
        blurred = mask.reduce(4).filter(ImageFilter.GaussianBlur(h / 6)).resize(self.image.size)
        self.image.paste("#101214", mask=blurred)

    def finish(
        self, *, tilt: float = 0, flip: bool = False, blur: float = 0.5, grain: float = 5, light: float = 1
    ) -> Image.Image:
        """The drawing as a camera might have taken it. tilt: degrees; light: factor."""
        image = self.image
        if tilt:
            image = image.rotate(tilt, Image.Resampling.BICUBIC)
            edge = round(image.width * math.sin(math.radians(abs(tilt))) * 0.5)
            image = image.crop((edge, edge, image.width - edge, image.height - edge))
        image = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(blur))
        if flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        noise = np.random.default_rng(7).normal(0, grain, (SIZE, SIZE, 1))
        pixels = np.asarray(image, dtype=np.float64) * light + noise
        return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self.image.width, y * self.image.height) for x, y in points]


# ---- where the vehicles stand


def backdrop(
    sky: Sequence[Colour], ground: Sequence[Colour], horizon: float = 0.62, seed: int = 1, *, uneven: float = 5
) -> Image.Image:
    """Sky and ground, each shaded from the first colour down to the second, with the unevenness of a real place."""
    column = Image.new("RGB", (1, 100))
    for y in range(100):
        above = y < horizon * 100
        (top, bottom), share = (sky, y / (horizon * 100)) if above else (ground, (y / 100 - horizon) / (1 - horizon))
        column.paste(Image.blend(Image.new("RGB", (1, 1), top), Image.new("RGB", (1, 1), bottom), share), (0, y))
    image = column.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    random = np.random.default_rng(seed)
    patches = sum(
        np.asarray(
            Image.fromarray(random.normal(0, 1, (n, n)).astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC)
        )
        for n in (5, 14, 40)
    )
    pixels = np.asarray(image, dtype=np.float64) + uneven * np.asarray(patches)[..., np.newaxis]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def studio() -> Image.Image:
    return backdrop(("#ffffff", "#f6f6f6"), ("#f1f1f1", "#fbfbfb"), 0.8, uneven=1)


def street(seed: int = 1) -> Image.Image:
    return backdrop(("#b9c6cf", "#cfd3d2"), ("#7d7e80", "#98999a"), 0.66, seed)


def meadow(seed: int = 2) -> Image.Image:
    return backdrop(("#8fbbe6", "#d6e6ef"), ("#6f9448", "#557a35"), 0.6, seed)


def wall(seed: int = 3) -> Image.Image:
    scene = Scene(backdrop(("#a4583f", "#96503a"), ("#8d8a85", "#a19e99"), 0.74, seed))
    for row in range(19):
        y = row * 0.04
        scene.line([(0, y), (1, y)], 0.003, "#c3a090")
        for x in np.arange(0.1 * (row % 2) / 2, 1, 0.1):
            scene.line([(x, y), (x, min(y + 0.04, 0.74))], 0.003, "#c3a090")
    return scene.image


def garage() -> Image.Image:
    return backdrop(("#4a4d52", "#6c6f73"), ("#55565a", "#3c3d40"), 0.68, 4)


def beach() -> Image.Image:
    return backdrop(("#6fb2e0", "#bfe0ee"), ("#e6d3a4", "#cfb987"), 0.58, 5)


def dusk() -> Image.Image:
    return backdrop(("#2a2f52", "#d98a5f"), ("#38332f", "#1f1d1d"), 0.62, 6)


# ---- bicycles and motorcycles


def bicycle(
    scene: Scene,
    colour: Colour,
    *,
    tyre: float = 0.017,
    drop_bar: bool = False,
    basket: bool = False,
    fenders: bool = False,
    step_through: bool = False,
    wheel: float = 0.205,
    spokes: int = 22,
    shade: int = 90,
) -> None:
    """A bicycle from its right side."""
    ground = 0.885
    rear, front, pedals = (0.255, ground - wheel), (0.755, ground - wheel), (0.465, ground - wheel + 0.015)
    seat, head, fork = (0.395, 0.40), (0.655, 0.385), (0.685, 0.48)
    scene.shadow((0.5, ground + 0.005), 0.46, 0.03, shade)
    for hub in (rear, front):
        for number in range(spokes):
            angle = 2 * math.pi * number / spokes
            rim = (hub[0] + wheel * math.cos(angle), hub[1] + wheel * math.sin(angle))
            scene.line([hub, rim], 0.0022, "#8d949c")
        scene.ring(hub, wheel, tyre, TYRE)
        scene.ring(hub, wheel - tyre, 0.006, CHROME)
        scene.disc(hub, 0.016, "#5a5f66")
        if fenders:
            arc = [
                (hub[0] + (wheel + 0.014) * math.cos(a), hub[1] + (wheel + 0.014) * math.sin(a))
                for a in np.linspace(math.pi * 1.02, math.pi * 1.75, 20)
            ]
            scene.line(arc, 0.011, colour)
    scene.line([pedals, rear], 0.016, colour)
    scene.line([(seat[0] + 0.012, seat[1] + 0.05), rear], 0.013, colour)
    if step_through:
        scene.curve((0.672, 0.44), (0.55, 0.66), (pedals[0] - 0.02, pedals[1] - 0.08), 0.026, colour)
        scene.line([(0.68, 0.475), pedals], 0.026, colour)
    else:
        scene.line([(seat[0] + 0.01, seat[1] + 0.045), (0.662, 0.42)], 0.023, colour)
        scene.line([(0.68, 0.46), pedals], 0.027, colour)
    scene.line([(seat[0] - 0.008, seat[1] - 0.045), pedals], 0.023, colour)
    scene.line([head, fork], 0.03, colour)
    scene.curve(fork, (0.71, 0.6), front, 0.018, colour)
    scene.line([(seat[0] - 0.012, seat[1] - 0.07), (seat[0] + 0.004, seat[1] + 0.02)], 0.014, CHROME)
    scene.blob([(0.315, 0.305), (0.33, 0.345), (0.395, 0.345), (0.475, 0.325), (0.47, 0.312), (0.39, 0.315)], DARK)
    scene.line([head, (0.645, 0.335)], 0.018, CHROME)
    if drop_bar:
        scene.line([(0.645, 0.335), (0.72, 0.33)], 0.018, DARK)
        scene.curve((0.72, 0.33), (0.79, 0.35), (0.74, 0.42), 0.02, DARK)
        scene.line([(0.74, 0.42), (0.69, 0.42)], 0.02, DARK)
    else:
        scene.curve((0.645, 0.335), (0.68, 0.285), (0.595, 0.285), 0.014, CHROME)
        scene.line([(0.605, 0.285), (0.56, 0.292)], 0.024, DARK)
    if basket:
        scene.polygon([(0.7, 0.33), (0.87, 0.33), (0.845, 0.45), (0.715, 0.45)], "#8a6236")
        for x in np.linspace(0.71, 0.86, 8):
            scene.line([(x, 0.335), (x * 0.93 + 0.052, 0.447)], 0.005, "#caa066")
    scene.line([(pedals[0], pedals[1] - 0.05), (rear[0], rear[1] - 0.018)], 0.006, DARK)
    scene.line([(pedals[0], pedals[1] + 0.05), (rear[0], rear[1] + 0.018)], 0.006, DARK)
    scene.ring(pedals, 0.055, 0.013, "#44484e")
    scene.line([(pedals[0] + 0.035, pedals[1] + 0.08), (pedals[0] - 0.035, pedals[1] - 0.08)], 0.013, CHROME)
    scene.line([(pedals[0] + 0.005, pedals[1] + 0.082), (pedals[0] + 0.07, pedals[1] + 0.082)], 0.017, TYRE)
    scene.line([(pedals[0] - 0.07, pedals[1] - 0.082), (pedals[0] - 0.005, pedals[1] - 0.082)], 0.017, TYRE)


def _fat_wheel(scene: Scene, hub: Point, radius: float, spokes: int = 0) -> None:
    scene.disc(hub, radius, TYRE)
    scene.disc(hub, radius * 0.66, "#8e949b" if spokes else "#3d4046")
    scene.disc(hub, radius * 0.6, "#5b6067")
    for number in range(spokes or 6):
        angle = 2 * math.pi * number / (spokes or 6) + 0.3
        rim = (hub[0] + radius * 0.62 * math.cos(angle), hub[1] + radius * 0.62 * math.sin(angle))
        scene.line([hub, rim], 0.006 if spokes else 0.022, CHROME)
    scene.ring(hub, radius * 0.42, 0.012, "#aab0b7")
    scene.disc(hub, radius * 0.17, "#2f3237")


def _engine(scene: Scene, x: float, y: float, size: float = 1) -> None:
    def at(dx: float, dy: float) -> Point:
        return x + dx * size, y + dy * size

    scene.blob([at(-0.13, 0.02), at(-0.1, 0.15), at(0.1, 0.16), at(0.15, 0.04), at(0.05, -0.02)], "#4a4d52")
    scene.polygon([at(-0.02, 0.02), at(0.04, -0.13), at(0.14, -0.1), at(0.09, 0.05)], "#6a6e74")
    for number in range(6):
        shift = number * 0.022
        scene.line([at(0.03 - shift * 0.3, -0.11 + shift), at(0.145 - shift * 0.3, -0.085 + shift)], 0.007, CHROME)
    scene.disc(at(0.0, 0.08), 0.056 * size, "#9aa0a7")
    scene.disc(at(0.0, 0.08), 0.04 * size, "#63676d")
    scene.disc(at(-0.075, 0.085), 0.035 * size, "#7d828a")


def motorcycle(scene: Scene, colour: Colour, *, style: str = "road", shade: int = 130) -> None:
    """A motorcycle from its right side. style: road, cruiser, sport, trail or scooter."""
    ground, radius = 0.88, {"trail": 0.185, "scooter": 0.125}.get(style, 0.172)
    rear = (0.225, ground - radius)
    front = (0.80 if style == "cruiser" else 0.775, ground - radius)
    scene.shadow((0.5, ground + 0.005), 0.45, 0.045, shade)
    for hub in (rear, front):
        _fat_wheel(scene, hub, radius, spokes=18 if style in ("cruiser", "trail") else 0)
    if style == "scooter":
        _scooter(scene, colour, rear, front)
        return
    steering = (0.645, 0.36) if style == "cruiser" else (0.66, 0.375)
    scene.line([(0.45, ground - 0.2), rear], 0.03, "#55595f")
    scene.line([(0.36, 0.52), (0.28, ground - radius - 0.02)], 0.022, "#c3a23c" if style == "sport" else CHROME)
    scene.line([steering, (front[0] - 0.012, front[1])], 0.03, CHROME)
    scene.line([(steering[0] + 0.02, steering[1] + 0.03), (front[0] + 0.012, front[1])], 0.017, "#7b8087")
    _engine(scene, 0.49, 0.62, 1.06)
    scene.curve((0.57, 0.56), (0.64, 0.74), (0.5, 0.79), 0.026, CHROME)
    scene.line([(0.5, 0.79), (0.16, 0.80 if style != "sport" else 0.7)], 0.038, "#cfd4da")
    scene.line(
        [(0.3, 0.797 if style != "sport" else 0.742), (0.13, 0.805 if style != "sport" else 0.69)], 0.052, "#a9afb6"
    )
    if style == "cruiser":
        scene.blob(
            [(0.05, 0.66), (0.1, 0.5), (0.25, 0.47), (0.38, 0.53), (0.36, 0.58), (0.22, 0.53), (0.1, 0.6)], colour
        )
        scene.blob([(0.19, 0.42), (0.24, 0.5), (0.42, 0.55), (0.5, 0.5), (0.43, 0.47), (0.33, 0.48), (0.27, 0.4)], DARK)
        scene.blob([(0.42, 0.5), (0.47, 0.38), (0.6, 0.36), (0.67, 0.43), (0.58, 0.52), (0.46, 0.54)], colour)
        scene.curve((0.66, 0.37), (0.63, 0.2), (0.55, 0.23), 0.017, CHROME)
        scene.line([(0.565, 0.23), (0.52, 0.245)], 0.028, DARK)
        scene.blob([(0.67, 0.6), (0.74, 0.5), (0.9, 0.52), (0.97, 0.66), (0.9, 0.58), (0.76, 0.57)], colour)
        scene.disc((0.71, 0.38), 0.052, "#e9ecef")
        scene.disc((0.715, 0.38), 0.038, "#fbf6df")
        return
    if style == "trail":
        scene.blob([(0.1, 0.45), (0.13, 0.49), (0.36, 0.53), (0.42, 0.49), (0.3, 0.46)], colour)
        scene.blob([(0.2, 0.43), (0.24, 0.475), (0.5, 0.48), (0.56, 0.4), (0.47, 0.42), (0.35, 0.43)], DARK)
        scene.blob([(0.47, 0.5), (0.52, 0.36), (0.62, 0.37), (0.68, 0.44), (0.6, 0.58)], colour)
        scene.blob([(0.64, 0.44), (0.8, 0.49), (0.93, 0.575), (0.8, 0.53), (0.68, 0.49)], colour)
        scene.polygon([(0.66, 0.32), (0.73, 0.34), (0.72, 0.43), (0.67, 0.43)], "#f1f3f5")
        scene.curve((0.655, 0.36), (0.66, 0.27), (0.6, 0.275), 0.016, DARK)
        scene.line([(0.61, 0.275), (0.56, 0.285)], 0.026, TYRE)
        return
    scene.blob([(0.08, 0.4), (0.13, 0.47), (0.34, 0.56), (0.44, 0.52), (0.3, 0.44)], colour)
    scene.blob([(0.17, 0.39), (0.22, 0.44), (0.4, 0.51), (0.49, 0.46), (0.42, 0.43), (0.3, 0.42), (0.22, 0.37)], DARK)
    scene.blob([(0.42, 0.49), (0.47, 0.36), (0.6, 0.34), (0.67, 0.42), (0.6, 0.51), (0.46, 0.53)], colour)
    scene.blob([(0.66, 0.62), (0.7, 0.53), (0.83, 0.52), (0.93, 0.6), (0.84, 0.555), (0.74, 0.57)], colour)
    if style == "sport":
        scene.blob(
            [(0.5, 0.62), (0.56, 0.42), (0.68, 0.33), (0.83, 0.44), (0.74, 0.52), (0.68, 0.72), (0.52, 0.78)], colour
        )
        scene.blob([(0.64, 0.36), (0.66, 0.27), (0.73, 0.31), (0.79, 0.4)], "#9fb4c4")
        scene.polygon([(0.73, 0.42), (0.82, 0.44), (0.76, 0.47)], "#f8f3d8")
        scene.line([(0.55, 0.56), (0.68, 0.5)], 0.018, "#f2f2f2")
        scene.line([(0.6, 0.335), (0.665, 0.35)], 0.022, DARK)
    else:
        scene.curve((0.655, 0.37), (0.665, 0.28), (0.59, 0.29), 0.015, CHROME)
        scene.line([(0.6, 0.29), (0.55, 0.3)], 0.026, DARK)
        scene.disc((0.715, 0.4), 0.05, DARK)
        scene.disc((0.723, 0.4), 0.04, "#fbf6df")


def _scooter(scene: Scene, colour: Colour, rear: Point, front: Point) -> None:
    scene.line([(0.67, 0.3), front], 0.03, "#7b8087")
    scene.blob(
        [(0.1, 0.68), (0.13, 0.52), (0.3, 0.46), (0.46, 0.52), (0.47, 0.72), (0.38, 0.76), (0.3, 0.63), (0.2, 0.64)],
        colour,
    )
    scene.polygon([(0.42, 0.75), (0.66, 0.75), (0.68, 0.8), (0.42, 0.8)], DARK)
    scene.blob([(0.63, 0.34), (0.71, 0.33), (0.76, 0.6), (0.7, 0.79), (0.63, 0.79), (0.68, 0.6)], colour)
    scene.blob([(0.68, 0.7), (0.74, 0.6), (0.86, 0.62), (0.91, 0.72), (0.8, 0.68)], colour)
    scene.blob([(0.1, 0.46), (0.14, 0.53), (0.42, 0.55), (0.51, 0.5), (0.4, 0.45), (0.25, 0.46)], DARK)
    scene.line([(0.66, 0.29), (0.58, 0.27)], 0.022, DARK)
    scene.disc((0.7, 0.31), 0.045, colour)
    scene.disc((0.722, 0.31), 0.03, "#fbf6df")
    scene.disc(rear, 0.03, "#aab0b7")


def rider(scene: Scene, shirt: Colour, trousers: Colour, *, helmet: Colour) -> None:
    """Somebody in the saddle."""
    scene.line([(0.4, 0.32), (0.53, 0.47), (0.5, 0.68)], 0.055, trousers)
    scene.blob([(0.34, 0.33), (0.45, 0.36), (0.585, 0.16), (0.53, 0.1), (0.44, 0.15)], shirt)
    scene.line([(0.54, 0.16), (0.57, 0.27), (0.63, 0.29)], 0.04, shirt)
    scene.disc((0.585, 0.065), 0.05, "#d8a987")
    scene.blob([(0.525, 0.075), (0.53, 0.0), (0.62, -0.005), (0.65, 0.055)], helmet)


# ---- none of the classes


def cat() -> Image.Image:
    scene = Scene(backdrop(("#d9c7a8", "#cbb795"), ("#8a6a4a", "#775a3e"), 0.75, 8))
    fur, dark = "#9a7d62", "#5d4736"
    scene.ellipse((0.5, 0.86), 0.3, 0.32, fur)
    scene.polygon([(0.27, 0.38), (0.26, 0.08), (0.47, 0.25)], fur)
    scene.polygon([(0.73, 0.38), (0.74, 0.08), (0.53, 0.25)], fur)
    scene.polygon([(0.31, 0.32), (0.3, 0.15), (0.42, 0.25)], "#d9a79a")
    scene.polygon([(0.69, 0.32), (0.7, 0.15), (0.58, 0.25)], "#d9a79a")
    scene.ellipse((0.5, 0.42), 0.27, 0.23, fur)
    scene.ellipse((0.5, 0.52), 0.14, 0.1, "#d8c4ae")
    for side in (-1, 1):
        scene.ellipse((0.5 + side * 0.11, 0.39), 0.05, 0.045, "#b9c75a")
        scene.ellipse((0.5 + side * 0.11, 0.39), 0.016, 0.042, "#111111")
        for rise in (-0.02, 0.02, 0.06):
            scene.line([(0.5 + side * 0.07, 0.52), (0.5 + side * 0.36, 0.49 + rise)], 0.003, "#f4efe6")
        scene.line([(0.5 + side * 0.05, 0.23), (0.5 + side * 0.04, 0.31)], 0.018, dark)
    scene.polygon([(0.465, 0.475), (0.535, 0.475), (0.5, 0.51)], "#b5675f")
    scene.curve((0.5, 0.51), (0.48, 0.56), (0.43, 0.55), 0.007, dark)
    scene.curve((0.5, 0.51), (0.52, 0.56), (0.57, 0.55), 0.007, dark)
    return scene.finish(blur=0.8)


def house() -> Image.Image:
    scene = Scene(meadow(9))
    scene.polygon([(0.2, 0.42), (0.8, 0.42), (0.8, 0.85), (0.2, 0.85)], "#e8dcc4")
    scene.polygon([(0.12, 0.44), (0.5, 0.12), (0.88, 0.44)], "#9c4434")
    scene.polygon([(0.68, 0.14), (0.75, 0.14), (0.75, 0.34), (0.68, 0.28)], "#7d4a3d")
    scene.polygon([(0.44, 0.6), (0.57, 0.6), (0.57, 0.85), (0.44, 0.85)], "#6a4a2d")
    for x in (0.26, 0.63):
        scene.polygon([(x, 0.52), (x + 0.12, 0.52), (x + 0.12, 0.66), (x, 0.66)], "#5d83a3")
        scene.line([(x + 0.06, 0.52), (x + 0.06, 0.66)], 0.01, "#f4f1ea")
        scene.line([(x, 0.59), (x + 0.12, 0.59)], 0.01, "#f4f1ea")
    return scene.finish()


def tree() -> Image.Image:
    scene = Scene(meadow(10))
    scene.shadow((0.5, 0.88), 0.3, 0.04)
    scene.polygon([(0.455, 0.9), (0.475, 0.5), (0.525, 0.5), (0.55, 0.9)], "#5c4227")
    random = np.random.default_rng(3)
    for _ in range(140):
        angle, distance = random.uniform(0, 2 * math.pi), random.uniform(0, 1) ** 0.5
        x, y = 0.5 + 0.27 * distance * math.cos(angle), 0.34 + 0.25 * distance * math.sin(angle)
        green = int(70 + 80 * (0.6 - y) + random.integers(0, 35))
        scene.disc((x, y), random.uniform(0.03, 0.065), (green // 2, green + 20, green // 3))
    return scene.finish(blur=0.8)


def car() -> Image.Image:
    scene = Scene(street(11))
    scene.shadow((0.5, 0.83), 0.44, 0.04, 150)
    scene.blob([(0.05, 0.78), (0.06, 0.6), (0.25, 0.56), (0.75, 0.55), (0.94, 0.62), (0.95, 0.78)], "#2f62a8")
    scene.blob([(0.2, 0.6), (0.3, 0.4), (0.62, 0.39), (0.78, 0.6)], "#2f62a8")
    scene.blob([(0.27, 0.57), (0.33, 0.44), (0.46, 0.44), (0.46, 0.57)], "#c3d6e4")
    scene.blob([(0.5, 0.57), (0.5, 0.44), (0.6, 0.44), (0.7, 0.57)], "#c3d6e4")
    for x in (0.25, 0.75):
        scene.disc((x, 0.78), 0.085, TYRE)
        scene.disc((x, 0.78), 0.05, CHROME)
    scene.ellipse((0.92, 0.66), 0.025, 0.02, "#fbf6df")
    return scene.finish()


def text_page() -> Image.Image:
    scene = Scene(Image.new("RGB", (SIZE, SIZE), "#fbfaf6"))
    scene.text((0.1, 0.07), "Delivery note", 0.075, "#222222")
    lines = ["one parcel, two kilograms", "left with the neighbour", "please ring twice", "no signature needed"]
    for number in range(11):
        scene.text((0.1, 0.22 + number * 0.064), lines[number % 4], 0.042, "#3a3a3a")
    return scene.finish(blur=0.3)


def fruit() -> Image.Image:
    scene = Scene(backdrop(("#efe6d6", "#e6dac4"), ("#b98b5d", "#a87a4e"), 0.62, 12))
    for x, y, colour, light in ((0.35, 0.66, "#b5281f", "#e0665a"), (0.63, 0.68, "#7aa02d", "#b4cf6c")):
        scene.shadow((x, y + 0.17), 0.2, 0.03)
        scene.disc((x, y), 0.175, colour)
        scene.ellipse((x - 0.06, y - 0.07), 0.055, 0.045, light)
        scene.curve((x, y - 0.15), (x + 0.02, y - 0.22), (x + 0.05, y - 0.25), 0.015, "#4f371f")
    return scene.finish(blur=0.9)


def face() -> Image.Image:
    scene = Scene(backdrop(("#a9b8a0", "#95a58c"), ("#95a58c", "#8a9a81"), 0.9, 13))
    scene.blob([(0.12, 1.0), (0.2, 0.8), (0.5, 0.72), (0.8, 0.8), (0.88, 1.0)], "#35506f")
    scene.ellipse((0.5, 0.3), 0.25, 0.24, "#3b2a1d")
    scene.ellipse((0.5, 0.45), 0.2, 0.27, "#d8a987")
    scene.blob([(0.28, 0.35), (0.35, 0.18), (0.65, 0.18), (0.72, 0.35), (0.5, 0.25)], "#3b2a1d")
    for x in (0.42, 0.58):
        scene.ellipse((x, 0.43), 0.028, 0.016, "#f6f2ee")
        scene.disc((x, 0.43), 0.014, "#35506f")
        scene.line([(x - 0.04, 0.385), (x + 0.04, 0.38)], 0.012, "#3b2a1d")
    scene.curve((0.5, 0.44), (0.53, 0.54), (0.49, 0.54), 0.01, "#b07f61")
    scene.curve((0.42, 0.6), (0.5, 0.66), (0.58, 0.6), 0.016, "#a4483f")
    return scene.finish(blur=0.9)


def fish() -> Image.Image:
    scene = Scene(backdrop(("#1f5f8f", "#2f82a8"), ("#2f82a8", "#16425f"), 0.7, 14))
    scene.polygon([(0.7, 0.5), (0.92, 0.33), (0.88, 0.5), (0.92, 0.67)], "#e07f22")
    scene.ellipse((0.45, 0.5), 0.3, 0.17, "#f08c28")
    scene.blob([(0.38, 0.35), (0.5, 0.2), (0.62, 0.37)], "#e07f22")
    for x in (0.36, 0.58):
        scene.ellipse((x, 0.5), 0.03, 0.155 if x < 0.5 else 0.14, "#fbfbfb")
    scene.disc((0.25, 0.46), 0.03, "#ffffff")
    scene.disc((0.245, 0.46), 0.016, "#111111")
    return scene.finish(blur=0.8)


def noise() -> Image.Image:
    pixels = np.random.default_rng(15).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


# ---- what else people upload


def vehicle(
    draw: Callable[..., None], place: Image.Image, colour: Colour, light: float = 1, **style: object
) -> Image.Image:
    """One bicycle or motorcycle somewhere."""
    camera = {name: style.pop(name) for name in ("tilt", "flip", "blur", "grain") if name in style}
    scene = Scene(place)
    draw(scene, colour, **style)
    return scene.finish(light=light, **camera)  # type: ignore[arg-type]


def bicycles() -> dict[str, Image.Image]:
    ridden = Scene(street(21))
    bicycle(ridden, "#2b2d33", drop_bar=True)
    rider(ridden, "#d83a2f", "#26282d", helmet="#f1f1f1")
    return {
        "red-road-bike": vehicle(bicycle, studio(), "#c8281e", drop_bar=True, shade=40),
        "blue-city-bike": vehicle(bicycle, street(), "#2456a6", fenders=True, basket=True, flip=True),
        "green-at-the-wall": vehicle(bicycle, wall(), "#2f7a45", tyre=0.022),
        "black-on-white": vehicle(bicycle, studio(), "#1c1c1f", shade=30, flip=True),
        "yellow-in-the-meadow": vehicle(bicycle, meadow(), "#e2b113", tyre=0.03, tilt=3),
        "white-at-the-beach": vehicle(bicycle, beach(), "#f3f3f1", step_through=True, fenders=True),
        "mountain-bike": vehicle(bicycle, meadow(22), "#d2571c", tyre=0.036, spokes=18, tilt=-5, flip=True),
        "step-through": vehicle(bicycle, street(23), "#6aa9a0", step_through=True, basket=True, fenders=True),
        "ridden": ridden.finish(),
    }


def motorcycles() -> dict[str, Image.Image]:
    return {
        "red-sport": vehicle(motorcycle, studio(), "#c41f1f", style="sport", shade=70),
        "black-sport": vehicle(motorcycle, street(31), "#3a3d44", style="sport"),
        "blue-road": vehicle(motorcycle, wall(36), "#1f5fb0", style="road", flip=True),
        "green-sport": vehicle(motorcycle, street(32), "#3f9a35", style="sport", flip=True, tilt=2),
        "red-road": vehicle(motorcycle, wall(34), "#c2392b", style="road"),
        "yellow-sport": vehicle(motorcycle, street(37), "#e0ad12", style="sport"),
    }


def hard_ones() -> dict[str, Image.Image]:
    """Photos that are hard to decide: most go to a person."""
    both = Scene(street(41))
    bicycle(both, "#2b2d33")
    half = Scene(both.finish(grain=0))
    motorcycle(half, "#a32020", style="road")
    close = Scene(wall(42))
    bicycle(close, "#3c4f8a", tyre=0.03, wheel=0.21)
    near = vehicle(bicycle, meadow(45), "#c8281e", tyre=0.024)
    return {
        "black-cruiser": vehicle(motorcycle, street(31), "#1d1d21", style="cruiser"),
        "motorcycle-before-bicycle": half.finish(),
        "double-exposure": Image.blend(near, vehicle(motorcycle, garage(), "#1f5fb0", style="sport", flip=True), 0.5),
        "bicycle-blurred": vehicle(bicycle, street(43), "#6d4a8a", blur=7),
        "motorcycle-at-night": vehicle(motorcycle, dusk(), "#2a2430", style="cruiser", light=0.45, grain=14),
        "orange-trail": vehicle(motorcycle, meadow(33), "#e5701a", style="trail", tilt=4),
        "trail-motorcycle": vehicle(motorcycle, street(31), "#e5701a", style="trail"),
        "red-trail-motorcycle": vehicle(motorcycle, street(35), "#a32020", style="trail"),
        "scooter": vehicle(motorcycle, street(35), "#2456a6", style="scooter"),
        "wheel-close-up": close.finish().crop((170, 130, 350, 310)).resize((SIZE, SIZE), Image.Resampling.BICUBIC),
        "scooter-at-the-beach": vehicle(motorcycle, beach(), "#b03a2e", style="scooter", grain=14),
        "electric-moped": vehicle(bicycle, street(44), "#3a3d44", tyre=0.045, fenders=True, spokes=8, wheel=0.18),
    }


def neither() -> dict[str, Image.Image]:
    return {
        "car": car(),
        "cat": cat(),
        "delivery-note": text_page(),
        "face": face(),
        "fish": fish(),
        "flat-grey": Image.new("RGB", (SIZE, SIZE), "#808080"),
        "fruit": fruit(),
        "house": house(),
        "lens-cap": Image.fromarray(np.random.default_rng(51).integers(0, 6, (SIZE, SIZE, 3), dtype=np.uint8)),
        "noise": noise(),
        "tree": tree(),
    }


def formats() -> dict[str, bytes]:
    """Every format and colour mode that a phone, a scanner or an old web page produces."""
    bike = vehicle(bicycle, street(61), "#b3261e", fenders=True)
    motor = vehicle(motorcycle, street(62), "#1f4fa0", style="sport")
    grey = np.asarray(motor.convert("L"), dtype=np.uint16) * 257
    turned = motor.transpose(Image.Transpose.ROTATE_90)
    orientation = Image.Exif()
    orientation[0x0112] = 6  # "turn me a quarter clockwise"
    cut_out = bike.quantize(15)
    cut_out.info["transparency"] = cut_out.getpixel((5, 5))
    frames = [bike.resize((180, 180)), motor.resize((180, 180)), bike.resize((180, 180)).convert("L").convert("RGB")]
    return {
        "16-bit.png": encode(Image.fromarray(grey).resize((200, 200)), "PNG"),
        "animated.gif": encode(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=300, loop=0),
        "cmyk.jpg": encode(bike.convert("CMYK"), "JPEG", quality=80),
        "grey.jpg": encode(bike.convert("L"), "JPEG", quality=80),
        "holiday photo +1 自転車.jpg": encode(bike, "JPEG", quality=82),
        "palette-transparent.png": encode(cut_out, "PNG", optimize=True),
        "really-a-png.jpg": encode(motor.resize((200, 200)).quantize(64), "PNG", optimize=True),
        "turned-by-exif.jpg": encode(turned, "JPEG", quality=82, exif=orientation),
        "twice-1.webp": encode(motor, "WEBP", quality=80),
        "twice-2.webp": encode(motor, "WEBP", quality=80),
    }


def broken() -> dict[str, bytes]:
    """Files that are no photos, or that harm a program that opens them without care."""
    photo = encode(vehicle(bicycle, street(71), "#2456a6"), "JPEG", quality=82)
    text = PngInfo()
    text.add_text("Comment", "\0" * 40_000_000, zip=True)
    return {
        "a-text.jpg": b"I am not a photo, whatever my name says.\n",
        "bomb-in-a-comment.png": encode(Image.new("RGB", (64, 64), "#447744"), "PNG", pnginfo=text),
        "bomb-of-pixels.png": _claim_size(encode(Image.new("1", (64, 64)), "PNG"), 60_000, 60_000),
        "document.pdf": b"%PDF-1.7\n1 0 obj << /Type /Catalog >> endobj\n",
        "empty.jpg": b"",
        "huge.png": encode(Image.new("1", (12_000, 9_000)), "PNG", optimize=True),
        "phone.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400),
        "truncated.jpg": photo[: len(photo) // 8],
    }


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _claim_size(png: bytes, width: int, height: int) -> bytes:
    """The PNG with other dimensions in its header, whose checksum is right."""
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def main() -> None:
    drawn = {"bicycle": bicycles(), "motorcycle": motorcycles(), "hard": hard_ones(), "neither": neither()}
    files = {
        f"{folder}/{name}.jpg": encode(image, "JPEG", quality=82)
        for folder, images in drawn.items()
        for name, image in images.items()
    }
    files |= {f"formats/{name}": data for name, data in formats().items()}
    files |= {f"broken/{name}": data for name, data in broken().items()}
    shutil.rmtree(IMAGES, ignore_errors=True)
    for name, data in files.items():
        path = IMAGES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    main()
