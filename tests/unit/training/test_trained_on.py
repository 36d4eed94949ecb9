"""`kickstand gate --trained-on`: whether a held-out photo is among the training photos."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from kickstand_cli.files import read_file
from kickstand_cli.main import app
from kickstand_cli.project import MODEL


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    dice = np.random.default_rng(1)
    for label in ("bicycle", "motorcycle", "neither"):
        (tmp_path / "held-out" / label).mkdir(parents=True)
        for number in range(2):
            pixels = dice.integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "held-out" / label / f"{number}.png")
    return tmp_path / "held-out"


def compare(held_out: Path, trained_on: Path) -> Any:
    return CliRunner().invoke(app, ["gate", *map(str, (MODEL, MODEL, held_out, "--trained-on", trained_on))])


def test_a_training_photo_that_cannot_be_read_is_named(
    held_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not so a file that is no photo: nothing was learnt from it."""
    (tmp_path / "train").mkdir()
    for name in ("secret.png", "open.png", "manifest.csv"):
        (tmp_path / "train" / name).write_bytes(b"no picture")

    def read(path: Path) -> bytes:
        if path.name == "secret.png":
            raise PermissionError(13, "Permission denied", str(path))
        return read_file(path)

    monkeypatch.setattr("kickstand_cli.training.gate.read_file", read)
    result = compare(held_out, tmp_path / "train")
    assert result.exit_code == 4
    assert result.stderr.splitlines() == [f"error: left out: {tmp_path / 'train/secret.png'}: Permission denied"]


def test_training_photos_that_are_not_there_are_named(held_out: Path, tmp_path: Path) -> None:
    result = compare(held_out, tmp_path / "nope")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [f"error: {tmp_path / 'nope'}: no such folder"]
