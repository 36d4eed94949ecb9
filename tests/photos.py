"""Made-up photos, for tests of what is done with them."""

import io
import os
from pathlib import Path

import pytest
from PIL import Image, ImageDraw


def coloured(shade: str) -> Image.Image:
    """A square of one colour, with a thin grid on it: without edges it would be sent back as blurred."""
    photo = Image.new("RGB", (128, 128), shade)
    pen = ImageDraw.Draw(photo)
    for at in range(16, 128, 32):
        for line in ((at, 0, at, 127), (0, at, 127, at)):
            pen.line(line, "black" if shade == "white" else "white")
    return photo


def png(colour: str = "grey") -> bytes:
    """A small photo of one colour, as uploaded."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(file, "PNG")
    return file.getvalue()


def odd_name(folder: Path, name: bytes) -> Path:
    """A path in the folder that is not UTF-8, where the file system has such names."""
    path = folder / os.fsdecode(name)
    try:
        path.touch()
    except OSError as error:
        pytest.skip(f"this file system has no such name ({error})")
    path.unlink()
    return path
