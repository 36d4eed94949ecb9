"""Read the photos to learn from: folders of classes, the source of each photo, and its features."""

import csv
import hashlib
import io
import sqlite3
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kickstand.classify.images import scale
from kickstand.classify.inference import EmbeddedModel
from kickstand.classify.photo_quality import SHORTER_SIDE
from kickstand.errors import InvalidImage
from kickstand.events import NEITHER, ImageStatistics
from kickstand.text import as_utf8
from kickstand_cli.classify.classify import cached_model
from kickstand_cli.datasets.doctor import NEAR, SPLITS, list_visible, pair_near
from kickstand_cli.datasets.folder import encode_png
from kickstand_cli.files import list_files, open_database, open_file, read_file, read_table, write_file
from kickstand_cli.parallel import cores, end_now, start_pool
from kickstand_cli.terminal import CommandError, reason

Logits = NDArray[np.float32]
"""Shape (n, n_labels + 1), "neither" last."""

VIEWS = ("plain", "mirrored", "padded")
THUMBNAIL = 32  # pixels a side; near duplicates are found at this size, as in `kickstand dataset check`
AT_ONCE = 16  # photos of a process at a time
MOST_ARRAYS = 2**31  # bytes of an .npz, unpacked: all of it is in memory
MANIFEST = "manifest.csv"
BESIDE_TRAIN = {*SPLITS, "audit", "original"}  # with another folder, train/ is a class


@dataclass(frozen=True)
class File:
    """A photo to read.

    path: relative to the given folder; its name in the evidence.
    label: the folder of its class, or "neither".
    shows: its content; for a photo of neither, it may be more exact than its label.
    source: its origin: one camera, driver, shop or data set. "" if unknown.
    read: returns its bytes.
    place: the file itself; None for a photo in an .npz.
    """

    path: str
    label: str
    shows: str
    source: str
    read: Callable[[], bytes]
    place: Path | None = None


@dataclass(frozen=True)
class Photos:
    """Photos as the head learns from them, one row each.

    labels, shows, sources: str, shape (n,); see `File`.
    sha256: of each file.
    features: float16, shape (n, len(VIEWS), width), by the frozen backbone.
    thumbnails: uint8, shape (n, 32, 32, 3).
    statistics: of the photo as the model sees it; drift is measured by them.
    """

    paths: tuple[str, ...]
    labels: NDArray[np.str_]
    shows: NDArray[np.str_]
    sources: NDArray[np.str_]
    sha256: tuple[str, ...]
    features: NDArray[np.float16]
    thumbnails: NDArray[np.uint8]
    statistics: tuple[ImageStatistics, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The labels, sorted, without "neither"."""
        return tuple(sorted(set(self.labels.tolist()) - {NEITHER}))

    @cached_property
    def classes(self) -> NDArray[np.int64]:
        """Index into `names`; len(names) for "neither"."""
        index = {name: i for i, name in enumerate((*self.names, NEITHER))}
        return np.array([index[label] for label in self.labels.tolist()], dtype=np.int64)

    @property
    def data_sha256(self) -> str:
        """Of all photos and labels, independent of their order."""
        lines = sorted(f"{sha} {label}\n" for sha, label in zip(self.sha256, self.labels, strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @cached_property
    def bursts(self) -> NDArray[np.int64]:
        """A number for each photo, equal for near duplicates: the series of one press, a copy, a mirrored copy."""
        alike = pair_near(list(self.thumbnails), NEAR)
        root = np.arange(len(self.paths))

        def find(i: int) -> int:
            while root[i] != i:
                root[i] = root[root[i]]
                i = int(root[i])
            return i

        for first, second in zip(alike.first.tolist(), alike.second.tolist(), strict=True):
            root[find(first)] = find(second)
        return np.array([find(i) for i in range(len(root))])

    def counts(self) -> dict[str, int]:
        """Photos of each label and of neither."""
        return dict(sorted(Counter(self.labels.tolist()).items()))


# ---- which files


def list_photos(folder: Path, unread: list[str] | None = None) -> list[File]:
    """The photos of `<folder>/<class>/`, or of `<folder>/train/<class>/`; an .npz has photos of neither.

    The source of a photo is in `<folder>/manifest.csv` (columns `class`, `file`, `source` and, optionally,
    `tag` for its content); else it is the folder between its class and itself, if there is one.

    unread: gets the reason for each folder that cannot be listed, unless it leaves a class without a photo.

    Raises CommandError naming what is wrong, OSError where the folder cannot be listed.
    """
    if folder.suffix == ".npz":
        return list(_list_arrays(folder))
    if not folder.is_dir():
        raise CommandError(f"{folder}: no such folder; expected {folder}/<class>/<photo>")
    folders = {path.name for path in list_visible(folder, folders=True)}
    home = folder / "train" if "train" in folders <= BESIDE_TRAIN else folder
    told = _read_manifest(home / MANIFEST)
    files: list[File] = []
    for name in [path.name for path in list_visible(home, folders=True)]:
        label, reasons = NEITHER if name.casefold() == NEITHER else name, list[str]()
        found = list_files(home / name, reasons)
        if not found and not (label == NEITHER and reasons):
            raise CommandError(reasons[0] if reasons else f"{home / name}: a class without a photo")
        if unread is not None:
            unread += reasons
        for path in found:
            inside = path.relative_to(home / name)
            source, tag = told.pop((name, inside.as_posix()), (inside.parts[0] if len(inside.parts) > 1 else "", ""))
            shows = tag if label == NEITHER and tag else label
            inner = as_utf8(path.relative_to(folder).as_posix())
            files.append(File(inner, label, shows, as_utf8(source), partial(read_file, path), path))
    if told:
        (name, file), number = next(iter(told)), len(told)
        raise CommandError(f"{home / MANIFEST}: {number} of its photos missing, among them {name}/{file}")
    if not files:
        raise CommandError(f"{folder}: no class folders in it; expected {folder}/<class>/<photo>")
    return files


def _read_manifest(file: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """Source and tag by class and file; empty without a manifest."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    try:
        for row in read_table(file):
            key, about = (row["class"], row["file"]), (row["source"] or "", row.get("tag") or "")
            if found.setdefault(key, about) != about:
                raise CommandError(f"{file}: two lines about {'/'.join(key)} contradict each other")
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise CommandError(f"{file}: no manifest with the columns class, file and source ({reason(error)})") from error
    return found


def _list_arrays(file: Path) -> Iterator[File]:
    """Photos of neither from an .npz: `image` uint8 (n, H, W, 3), and `label` str (n,), their content."""
    try:
        with open_file(file) as stream:
            packed = stream if stream.seekable() else io.BytesIO(stream.read(MOST_ARRAYS))
            with zipfile.ZipFile(packed) as members:
                if sum(member.file_size for member in members.infolist()) > MOST_ARRAYS:
                    raise CommandError(f"{file}: larger than {MOST_ARRAYS // 2**30} GiB; divide it into several files")
            packed.seek(0)
            with np.load(packed, allow_pickle=False) as arrays:
                pixels, shown = arrays["image"], arrays["label"]
                names = shown.tolist()
    except CommandError:
        raise
    except Exception as error:  # the exceptions of numpy and zipfile have no common class
        why = getattr(error, "strerror", None) or reason(error)
        raise CommandError(f"{file}: no .npz with arrays `image` and `label` ({why})") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3 or 0 in pixels.shape:
        raise CommandError(f"{file}: `image` is {pixels.dtype} {pixels.shape}, not uint8 (n, H, W, 3)")
    if shown.dtype.kind != "U" or shown.shape != pixels.shape[:1]:
        raise CommandError(f"{file}: `label` is {shown.dtype} {shown.shape}, not text ({len(pixels)},)")
    for number, (image, name) in enumerate(zip(pixels, names, strict=True)):
        yield File(as_utf8(f"{file.name}/{name}/{number}"), NEITHER, name, "", lambda image=image: encode_png(image))  # type: ignore[misc]


# ---- features


@dataclass(frozen=True)
class _Seen:
    """The stored values of a photo; see `Photos`."""

    features: NDArray[np.float16]
    thumbnail: NDArray[np.uint8]
    statistics: ImageStatistics


def make_views(data: bytes, name: str, input_shape: tuple[int, int, int]) -> tuple[NDArray[np.uint8], ImageStatistics]:
    """A photo as the model sees it, mirrored, and padded to a square; uint8, shape (len(VIEWS), height, width, 3).

    Padding keeps the photo's proportions, so that the model learns narrow vehicles too.

    Raises InvalidImage.
    """
    photo, summary = scale(data, name, input_shape)
    longest = max(summary.width, summary.height)
    fitted = photo.resize(
        (max(1, round(photo.width * summary.width / longest)), max(1, round(photo.height * summary.height / longest))),
        Image.Resampling.LANCZOS,
    )
    padded = Image.new("RGB", photo.size, (127, 127, 127))
    padded.paste(fitted, ((photo.width - fitted.width) // 2, (photo.height - fitted.height) // 2))
    plain = np.asarray(photo)
    return np.stack([plain, plain[:, ::-1], np.asarray(padded)]), summary.statistics


def _look(artefact: Path, photos: Sequence[tuple[str, bytes]]) -> list[_Seen | str]:
    """The stored values of each photo, or why it cannot be used."""
    model = cached_model(artefact)
    found: list[_Seen | str] = []
    for name, data in photos:
        try:
            views, statistics = make_views(data, name, model.card.input_shape)
        except InvalidImage as error:
            found.append(str(error).removeprefix(f"{name}: "))
            continue
        if statistics.shorter_side is not None and statistics.shorter_side < SHORTER_SIDE[0]:
            found.append(f"a side of {statistics.shorter_side} pixels, the model needs {SHORTER_SIDE[0]}")
            continue
        thumbnail = np.asarray(Image.fromarray(views[0]).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
        found.append(_Seen(model.features(views).astype(np.float16), thumbnail, statistics))
    return found


class _Store:
    """The stored values of all photos, so that none is read twice.

    kind: the backbone and the statistics; values of other kinds are in the same file.
    """

    def __init__(self, file: Path, kind: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._kind = kind
        self._database = open_database(
            file,
            "CREATE TABLE IF NOT EXISTS photos (kind, sha256, features, thumbnail, statistics, "
            "PRIMARY KEY (kind, sha256))",
        )

    def close(self) -> None:
        self._database.close()

    def get(self, sha256: str) -> _Seen | None:
        row = self._database.execute(
            "SELECT features, thumbnail, statistics FROM photos WHERE kind = ? AND sha256 = ?",
            (self._kind, sha256),
        ).fetchone()
        if row is None:
            return None
        return _Seen(
            np.frombuffer(row[0], np.float16).reshape(len(VIEWS), -1),
            np.frombuffer(row[1], np.uint8).reshape(THUMBNAIL, THUMBNAIL, 3),
            ImageStatistics.model_validate_json(row[2]),
        )

    def put(self, seen: Iterable[tuple[str, _Seen]]) -> None:
        rows = [
            (self._kind, sha, one.features.tobytes(), one.thumbnail.tobytes(), one.statistics.model_dump_json())
            for sha, one in seen
        ]
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO photos VALUES (?, ?, ?, ?, ?)", rows)


def read_photos(
    files: Sequence[File],
    artefact: Path,
    features: Path,
    threads: int,
    on_photo: Callable[[int], None],
    on_unusable: Callable[[str], None],
) -> Photos:
    """Run the artefact's backbone on every photo, in as many processes as there are threads, at most one a core.

    features: an SQLite file for the features of every photo.
    on_photo: called with the number of photos done. on_unusable: called with the reason for each photo left out.

    Raises CommandError where no photo can be used.
    """
    kept: list[tuple[File, str, _Seen]] = []
    kind = f"{EmbeddedModel(artefact).backbone} {' '.join(ImageStatistics.model_fields)}"
    try:
        with closing(_Store(features, kind)) as store:
            for file, sha, found in _look_at_all(files, store, artefact, min(threads, cores())):
                on_photo(1)
                if isinstance(found, str):
                    on_unusable(f"{file.path}: {found}")
                else:
                    kept.append((file, sha, found))
    except sqlite3.Error as error:
        raise CommandError(
            f"{features}: features cannot be kept there ({error}); name another file by --features"
        ) from error
    if not kept:
        raise CommandError("none of the photos can be used")
    return Photos(
        tuple(file.path for file, _, _ in kept),
        np.array([file.label for file, _, _ in kept]),
        np.array([file.shows for file, _, _ in kept]),
        np.array([file.source for file, _, _ in kept]),
        tuple(sha for _, sha, _ in kept),
        np.stack([seen.features for _, _, seen in kept]),
        np.stack([seen.thumbnail for _, _, seen in kept]),
        tuple(seen.statistics for _, _, seen in kept),
    )


def _look_at_all(
    files: Sequence[File], store: _Store, artefact: Path, threads: int
) -> Iterator[tuple[File, str, _Seen | str]]:
    """Every file, in order. As many processes as threads: a small network is not faster with several threads."""
    with start_pool(threads) as pool:
        try:
            for start in range(0, len(files), AT_ONCE * threads):
                part = []
                for file in files[start : start + AT_ONCE * threads]:
                    try:
                        part.append((file, file.read()))
                    except OSError as error:
                        yield file, "", error.strerror or str(error)
                hashes = [hashlib.sha256(data).hexdigest() for _, data in part]
                seen: dict[str, _Seen | str] = {}
                for sha in hashes:
                    if known := store.get(sha):
                        seen[sha] = known
                new = {
                    sha: (file.path, data) for sha, (file, data) in zip(hashes, part, strict=True) if sha not in seen
                }
                shares = [share for i in range(threads) if (share := list(new)[i::threads])]
                answers = pool.map(partial(_look, artefact), [[new[sha] for sha in share] for share in shares])
                for share, found in zip(shares, answers, strict=True):
                    seen |= dict(zip(share, found, strict=True))
                store.put((sha, one) for sha in new if isinstance(one := seen[sha], _Seen))
                for (file, _), sha in zip(part, hashes, strict=True):
                    yield file, sha, seen[sha]
        except BaseException:
            end_now(pool)
            raise


# ---- the shipped features of neither


def write_neither(photos: Photos, backbone: str, file: Path, at_most: int, seed: int) -> None:
    """Store features of photos of neither, for training on photos of other classes.

    at_most: photos of each source, evenly of all kinds; 8 bits a feature, which is between 0 and 6.
    """
    rng, kept = np.random.default_rng(seed), []
    for source in np.unique(photos.sources):
        mine = np.flatnonzero(photos.sources == source)
        turns: Counter[str] = Counter()
        ranked = []
        for row in rng.permutation(mine).tolist():  # one of each kind in turn: a few of many kinds are better evidence
            ranked.append((turns[photos.shows[row]], row))
            turns[photos.shows[row]] += 1
        kept += [row for _, row in sorted(ranked)[:at_most]]
    packed = io.BytesIO()
    np.savez_compressed(
        packed,
        backbone=np.array(backbone),
        features=np.round(photos.features[kept, 0].astype(np.float32) * (255 / 6)).astype(np.uint8),
        shows=photos.shows[kept],
        source=photos.sources[kept],
    )
    write_file(file, packed.getvalue())
