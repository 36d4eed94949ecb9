"""Checks a folder of labelled photos: duplicates, leaks between splits, doubtful labels, unreadable files."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, ValidationError

from kickstand.classify.images import LONGEST, decode
from kickstand.errors import InvalidImage
from kickstand.events import Payload
from kickstand.text import as_utf8
from kickstand_cli.datasets.download import Progress, ignore_progress
from kickstand_cli.files import open_file, read_file
from kickstand_cli.terminal import CommandError

SPLITS = ("train", "validation", "val", "test")
NEAR = 0.90  # checked by eye on CIFAR-100's bicycles and motorcycles: each pair is one photo
LISTED = 200  # pairs that are listed one by one; all are counted
SIDE = 32  # pixels; photos are compared at this size
BLOCK = 1024  # photos; a block of correlations then needs 4 MB


class Unreadable(Payload):
    """A file in a class folder that is not a readable photo, or a folder that cannot be listed, and why."""

    path: str
    reason: str


class Pair(Payload):
    """Two photos that show the same.

    kind: exact when every pixel is the same; larger photos are compared at 512 pixels a side.
    correlation: of the pixels at 32×32, from the near-duplicate threshold to 1.
    mirrored: whether it is the mirror image that correlates.
    leaks: whether they are in different splits, so that the test photos are not unseen.
    conflicts: whether their labels differ.
    """

    first: str
    second: str
    kind: Literal["exact", "near"]
    correlation: float
    mirrored: bool
    leaks: bool
    conflicts: bool


class DoubtfulLabel(Payload):
    """A photo whose out-of-fold prediction is sure of another class."""

    path: str
    label: str
    suggested: str
    probability_of_label: float
    probability_of_suggested: float


class PairCounts(Payload):
    """The number of all pairs, including those that are not listed."""

    exact: int
    near: int
    leaks: int
    conflicts: int


class Findings(Payload):
    """The findings about one folder.

    counts: readable photos by split and class; a folder without splits has the one split `all`.
    imbalance: by split, photos of the largest class per photo of the smallest; None where a class has none.
    sizes: photos by `width×height`.
    pairs: leaks first, then the most similar; at most 200 of them.
    doubtful_labels: the most doubtful first; None where no out-of-fold predictions were given.
    """

    folder: str
    near: float
    counts: dict[str, dict[str, int]]
    imbalance: dict[str, float | None]
    sizes: dict[str, int]
    unreadable: tuple[Unreadable, ...]
    pair_counts: PairCounts
    pairs: tuple[Pair, ...]
    doubtful_labels: tuple[DoubtfulLabel, ...] | None

    @property
    def leaks(self) -> bool:
        """Whether a photo of one split is, exactly or nearly, in another."""
        return self.pair_counts.leaks > 0


class OutOfFold(Payload):
    """Predictions for photos by models that were not trained on them.

    labels: the classes, in the order of the probabilities.
    probabilities: for each photo, by its path relative to the folder or by the SHA-256 of its RGB pixels.
    """

    labels: tuple[str, ...] = Field(min_length=2)
    probabilities: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Photo:
    """One readable photo.

    size: width and height of the file, upright.
    sha256: of the RGB pixels row by row, hexadecimal; of a larger photo, at 512 pixels a side.
    pixels: uint8, shape (32, 32, 3), as the model would see it.
    """

    path: str
    split: str
    label: str
    size: tuple[int, int]
    sha256: str
    pixels: NDArray[np.uint8]


def examine_dataset(
    folder: Path,
    *,
    near: float = NEAR,
    out_of_fold: OutOfFold | None = None,
    on_progress: Progress = ignore_progress,
) -> Findings:
    """Examine `<folder>/<class>/*` or `<folder>/{train,validation,val,test}/<class>/*`, any number of classes.

    near: pixel correlation, in (0, 1], from which two photos are near duplicates.
    Raises CommandError where there are no class folders, none can be read, or the predictions do not fit them.
    """
    photos: list[Photo] = []
    unreadable: list[Unreadable] = []
    files = list(list_images(folder, unreadable))
    if not files and unreadable:
        raise CommandError(f"{folder / unreadable[0].path}: {unreadable[0].reason}")
    if not files:
        raise CommandError(f"{folder}: no photos; expected {folder}/<class>/… or {folder}/train/<class>/…")
    for done, (split, label, path) in enumerate(files, start=1):
        name = as_utf8(path.relative_to(folder).as_posix())
        try:
            photos.append(_read_photo(path, name, split, label))
        except (InvalidImage, OSError) as error:
            unreadable.append(Unreadable(path=name, reason=_explain(error).removeprefix(f"{name}: ")))
        on_progress(done, len(files))
    counts = _count(photos, files)
    pair_counts, pairs = _pair(photos, near)
    return Findings(
        folder=folder.resolve().name,
        near=near,
        counts=counts,
        imbalance={split: _measure_imbalance(numbers) for split, numbers in counts.items()},
        sizes={f"{w}×{h}": number for (w, h), number in Counter(photo.size for photo in photos).most_common()},
        unreadable=tuple(unreadable),
        pair_counts=pair_counts,
        pairs=pairs,
        doubtful_labels=None if out_of_fold is None else _doubt_labels(photos, out_of_fold),
    )


def read_out_of_fold(path: Path) -> OutOfFold:
    """Read predictions from JSON: `{"labels": [...], "probabilities": {"train/cat/1.png": [...], ...}}`."""
    try:
        with open_file(path) as file:
            predictions = OutOfFold.model_validate_json(file.read())
    except OSError as error:
        raise CommandError(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise CommandError(f"{path}: no out-of-fold predictions ({error.errors()[0]['msg']})") from error
    for image, probabilities in predictions.probabilities.items():
        if len(probabilities) != len(predictions.labels):
            raise CommandError(f"{path}: {image} has {len(probabilities)} probabilities, not {len(predictions.labels)}")
        if not all(0 <= probability <= 1 for probability in probabilities):
            raise CommandError(f"{path}: {image} has a probability outside 0 to 1")
    return predictions


def list_images(folder: Path, unreadable: list[Unreadable]) -> Iterator[tuple[str, str, Path]]:
    """Split, label and path of every file in a class folder, sorted; hidden files are skipped.

    unreadable: gets each folder that cannot be listed.
    """
    if not folder.is_dir():
        raise CommandError(f"{folder}: no such folder")

    def visible(home: Path, *, folders: bool = False) -> list[Path]:
        try:
            return list_visible(home, folders=folders)
        except OSError as error:
            name = as_utf8(home.relative_to(folder).as_posix())
            unreadable.append(Unreadable(path=name, reason=_explain(error)))
            return []

    found = visible(folder, folders=True)
    splits = [folder / split for split in SPLITS if folder / split in found]
    for home in splits or [folder]:
        for class_folder in visible(home, folders=True):
            for path in visible(class_folder):
                yield home.name if splits else "all", class_folder.name, path


def list_visible(folder: Path, *, folders: bool = False) -> list[Path]:
    """The entries without the hidden ones, sorted. folders: only the folders. Raises OSError."""
    with os.scandir(folder) as entries:  # unlike Path.is_dir, it knows folders that cannot be entered
        return sorted(
            folder / one.name for one in entries if not one.name.startswith(".") and (not folders or one.is_dir())
        )


def _explain(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _read_photo(path: Path, name: str, split: str, label: str) -> Photo:
    if path.is_dir():
        list_visible(path)  # where that is not allowed, this is the reason
        raise InvalidImage(f"{name}: a folder inside a class, which is not read")
    decoded = decode(read_file(path), name, LONGEST)
    return Photo(
        path=name,
        split=split,
        label=label,
        size=decoded.uploaded,
        sha256=hashlib.sha256(decoded.pixels.tobytes()).hexdigest(),
        pixels=np.asarray(decoded.pixels.resize((SIDE, SIDE), Image.Resampling.LANCZOS)),
    )


def _count(photos: Sequence[Photo], files: Sequence[tuple[str, str, Path]]) -> dict[str, dict[str, int]]:
    """Readable photos by split and class; every class is in every split, so that a missing one is visible."""
    found = Counter((photo.split, photo.label) for photo in photos)
    labels = sorted({label for _, label, _ in files})
    splits = dict.fromkeys(split for split, _, _ in files)
    return {split: {label: found[split, label] for label in labels} for split in splits}


def _measure_imbalance(numbers: Mapping[str, int]) -> float | None:
    smallest = min(numbers.values())
    return round(max(numbers.values()) / smallest, 3) if smallest else None


def _pair(photos: Sequence[Photo], near: float) -> tuple[PairCounts, tuple[Pair, ...]]:
    """Count all pairs, and list the most important."""
    exact = _pair_exact(photos)
    alike = pair_near([photo.pixels for photo in photos], near)
    content = np.array([f"{photo.size} {photo.sha256}" for photo in photos])
    alike = alike.only(content[alike.first] != content[alike.second])
    split, label = (np.array([getattr(photo, name) for photo in photos]) for name in ("split", "label"))
    leaks = split[alike.first] != split[alike.second]
    conflicts = label[alike.first] != label[alike.second]
    foremost = np.lexsort((-alike.correlation, ~conflicts, ~leaks))[:LISTED]
    listed = exact + [
        Pair(
            first=photos[alike.first[row]].path,
            second=photos[alike.second[row]].path,
            kind="near",
            correlation=round(min(float(alike.correlation[row]), 1.0), 4),
            mirrored=bool(alike.mirrored[row]),
            leaks=bool(leaks[row]),
            conflicts=bool(conflicts[row]),
        )
        for row in foremost
    ]
    listed.sort(key=lambda pair: (not pair.leaks, not pair.conflicts, -pair.correlation))
    counts = PairCounts(
        exact=len(exact),
        near=len(alike.first),
        leaks=sum(pair.leaks for pair in exact) + int(leaks.sum()),
        conflicts=sum(pair.conflicts for pair in exact) + int(conflicts.sum()),
    )
    return counts, tuple(listed[:LISTED])


def _pair_exact(photos: Sequence[Photo]) -> list[Pair]:
    """Each further copy with the first one, so that a group in two splits, or with two labels, has such a pair."""
    groups: dict[tuple[tuple[int, int], str], list[Photo]] = defaultdict(list)
    for photo in photos:
        groups[photo.size, photo.sha256].append(photo)
    return [
        Pair(
            first=group[0].path,
            second=copy.path,
            kind="exact",
            correlation=1.0,
            mirrored=False,
            leaks=group[0].split != copy.split,
            conflicts=group[0].label != copy.label,
        )
        for group in groups.values()
        for copy in group[1:]
    ]


@dataclass(frozen=True)
class Alike:
    """Pairs of photos as columns, one row a pair: there may be millions of them.

    first, second: indices, first < second.
    correlation: of the pixels, the larger of the plain and the mirrored one.
    mirrored: whether that was the mirrored one.
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    correlation: NDArray[np.float32]
    mirrored: NDArray[np.bool_]

    def only(self, rows: NDArray[np.bool_]) -> "Alike":
        """Some of the rows."""
        return Alike(self.first[rows], self.second[rows], self.correlation[rows], self.mirrored[rows])


def pair_near(images: Sequence[NDArray[np.uint8]], near: float) -> Alike:
    """All pairs whose pixels, or those of one and the other's mirror image, correlate at least this much.

    images: of one shape, (height, width, 3). A photo of one colour correlates with nothing.
    """
    rows = np.array(images or np.zeros((0, 1, 1, 3)), dtype=np.float32)
    rows -= rows.mean(axis=(1, 2, 3), keepdims=True)
    norm = np.sqrt((rows**2).sum(axis=(1, 2, 3), keepdims=True))
    rows /= np.where(norm > 0, norm, 1)
    starts = range(0, len(rows), BLOCK)
    blocks = [_pair_blocks(rows, a, b, near) for a in starts for b in starts if b >= a]
    return Alike(
        np.concatenate([np.zeros(0, np.intp), *(block.first for block in blocks)]),
        np.concatenate([np.zeros(0, np.intp), *(block.second for block in blocks)]),
        np.concatenate([np.zeros(0, np.float32), *(block.correlation for block in blocks)]),
        np.concatenate([np.zeros(0, np.bool_), *(block.mirrored for block in blocks)]),
    )


def _pair_blocks(rows: NDArray[np.float32], a: int, b: int, near: float) -> Alike:
    left, right = rows[a : a + BLOCK], rows[b : b + BLOCK]
    flat = left.reshape(len(left), -1)
    plain = flat @ right.reshape(len(right), -1).T
    mirror = flat @ right[:, :, ::-1].reshape(len(right), -1).T
    best = np.maximum(plain, mirror)
    i, j = np.nonzero(best >= near)
    upper = i + a < j + b
    i, j = i[upper], j[upper]
    return Alike(i + a, j + b, best[i, j], mirror[i, j] > plain[i, j])


def _doubt_labels(photos: Sequence[Photo], out_of_fold: OutOfFold) -> tuple[DoubtfulLabel, ...]:
    """A label is doubtful where another class is as probable as it usually is for its own photos.

    This is the rule of confident learning: Northcutt, Jiang, Chuang, 2021, https://arxiv.org/abs/1911.00068
    """
    known = out_of_fold.probabilities
    scored = [(photo, known.get(photo.path, known.get(photo.sha256))) for photo in photos]
    predicted = [(photo, np.array(p)) for photo, p in scored if p is not None]
    if not predicted:
        raise CommandError("out-of-fold predictions: none is about a photo in this folder; wrong file or folder?")
    labels = out_of_fold.labels
    if unknown := sorted({photo.label for photo, _ in predicted} - set(labels)):
        raise CommandError(f"out-of-fold predictions: none of {', '.join(unknown)}, only of {', '.join(labels)}")
    usual = np.full(len(labels), 0.5)  # for a class without photos
    for index, label in enumerate(labels):
        own = [p[index] for photo, p in predicted if photo.label == label]
        usual[index] = np.mean(own) if own else usual[index]
    doubtful = []
    for photo, p in predicted:
        given = labels.index(photo.label)
        suggested = int(np.argmax(np.where(p >= usual, p, -1)))
        if p[suggested] >= usual[suggested] and p[suggested] > p[given]:
            doubtful.append(
                DoubtfulLabel(
                    path=photo.path,
                    label=photo.label,
                    suggested=labels[suggested],
                    probability_of_label=round(float(p[given]), 4),
                    probability_of_suggested=round(float(p[suggested]), 4),
                )
            )
    return tuple(sorted(doubtful, key=lambda doubt: doubt.probability_of_label - doubt.probability_of_suggested))
