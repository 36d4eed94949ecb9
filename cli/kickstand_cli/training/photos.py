"""Read the photos to learn from: a folder of classes, and foreign images that show none of them."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NEITHER = "neither"
"""The folder of this name, beside those of the labels, holds foreign images."""
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class TrainingError(Exception):
    """Training cannot start, or cannot go on; the message says what and which."""


@dataclass(frozen=True)
class Photos:
    """Images of one size with their classes.

    pixels: uint8 RGB, shape (n, height, width, 3).
    classes: index into `names`, shape (n,).
    names: the classes, sorted.
    sha256: of each image's pixels, so that a re-encoded file counts as the same image.
    paths: of each image, relative to the dataset; empty where it is no file.
    """

    pixels: NDArray[np.uint8]
    classes: NDArray[np.int64]
    names: tuple[str, ...]
    sha256: tuple[str, ...]
    paths: tuple[str, ...]

    @property
    def data_sha256(self) -> str:
        """Of all images and classes, whatever their order."""
        lines = sorted(f"{sha} {self.names[c]}\n" for sha, c in zip(self.sha256, self.classes, strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def counts(self) -> dict[str, int]:
        return {name: int((self.classes == index).sum()) for index, name in enumerate(self.names)}

    def only(self, names: Collection[str]) -> "Photos":
        """Those of the classes named, renumbered."""
        kept = [name for name in self.names if name in names]
        keep = np.isin(self.classes, [self.names.index(name) for name in kept])
        renumber = np.array([kept.index(name) if name in kept else -1 for name in self.names], dtype=np.int64)
        return self._keep(keep, renumber, tuple(kept))

    def without(self, paths: Collection[str]) -> "Photos":
        """Those of other paths; the classes stay as they are."""
        return self._keep(np.array([path not in paths for path in self.paths]), np.arange(len(self.names)), self.names)

    def _keep(self, keep: NDArray[np.bool_], renumber: NDArray[np.int64], names: tuple[str, ...]) -> "Photos":
        return Photos(
            self.pixels[keep],
            renumber[self.classes[keep]],
            names,
            tuple(sha for sha, here in zip(self.sha256, keep, strict=True) if here),
            tuple(path for path, here in zip(self.paths, keep, strict=True) if here),
        )


def of_arrays(pixels: NDArray[np.uint8], names: list[str], paths: Sequence[str] | None = None) -> Photos:
    """Photos from pixels (n, height, width, 3), each one's class, and its path if it has one."""
    kinds = sorted(set(names))
    index = {name: i for i, name in enumerate(kinds)}
    return Photos(
        pixels,
        np.array([index[name] for name in names], dtype=np.int64),
        tuple(kinds),
        tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in np.ascontiguousarray(pixels)),
        tuple(paths or [""] * len(names)),
    )


def join(parts: Sequence[Photos]) -> Photos:
    """All of them; classes of equal name become one. Raises TrainingError where sizes differ."""
    shapes = {part.pixels.shape[1:] for part in parts}
    if len(shapes) > 1:
        raise TrainingError(f"foreign images differ in shape: {', '.join(str(shape) for shape in sorted(shapes))}")
    names = [part.names[c] for part in parts for c in part.classes]
    return of_arrays(np.concatenate([part.pixels for part in parts]), names)


def read_folder(folder: Path, dataset: Path | None = None) -> Photos:
    """Every image of `<folder>/<class>/`, in the order of their paths, which are told relative to the dataset.

    Raises TrainingError naming what is wrong.
    """
    if not folder.is_dir():
        raise TrainingError(f"{folder}: no such folder; expected {folder}/<class>/<image>.png")
    pixels, names, paths, shape = [], [], [], None
    for home in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files = sorted(path for path in home.iterdir() if path.suffix.lower() in SUFFIXES)
        if not files:
            raise TrainingError(f"{home}: a class without an image")
        for file in files:
            try:
                with Image.open(file) as image:
                    one = np.asarray(image.convert("RGB"))
            except Exception as error:  # a decoder may fail in any way; which file it was is what helps
                raise TrainingError(f"{file}: cannot be read ({type(error).__name__}: {error})") from error
            shape = shape or one.shape
            if one.shape != shape:
                raise TrainingError(
                    f"{file}: {one.shape[1]} × {one.shape[0]} pixels, the images before it {shape[1]} × {shape[0]}; "
                    "training needs one size"
                )
            pixels.append(one)
            names.append(home.name)
            paths.append(file.relative_to(dataset or folder).as_posix())
    if not pixels:
        raise TrainingError(f"{folder}: no class folders in it; expected {folder}/<class>/<image>.png")
    return of_arrays(np.stack(pixels), names, paths)


def read_foreign(path: Path) -> Photos:
    """Foreign images: an .npz with `image` uint8 (n, H, W, 3) and `label` str (n,), or a folder of class folders."""
    if path.is_dir():
        return read_folder(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            pixels, names = arrays["image"], arrays["label"].tolist()
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(f"{path}: no .npz with arrays `image` and `label`, no folder either ({error})") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3 or len(pixels) != len(names):
        raise TrainingError(f"{path}: `image` is {pixels.dtype} {pixels.shape}, not uint8 (n, H, W, 3) for n labels")
    return of_arrays(pixels, [str(name) for name in names])


def split_evenly(classes: NDArray[np.int64], parts: int, seed: int) -> NDArray[np.int64]:
    """A part in 0..parts-1 for each image; every class is spread evenly, at random."""
    rng, part = np.random.default_rng(seed), np.empty(len(classes), dtype=np.int64)
    for index in np.unique(classes):
        members = np.flatnonzero(classes == index)
        part[rng.permutation(members)] = np.arange(len(members)) % parts
    return part


def hold_out(classes: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """True for the images kept apart: this share of every class, rounded, at random."""
    rng, held = np.random.default_rng(seed), np.zeros(len(classes), dtype=np.bool_)
    for index in np.unique(classes):
        members = np.flatnonzero(classes == index)
        held[rng.permutation(members)[: round(len(members) * share)]] = True
    return held
