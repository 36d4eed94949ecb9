"""Writes classes as a dataset folder: photos, SageMaker's .lst manifests, and Kickstand's manifest."""

import difflib
import hashlib
import random
import re
import secrets
import shutil
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from kickstand.events import NEITHER, Payload
from kickstand_cli.datasets.archive import SPLITS, Archive, Split
from kickstand_cli.datasets.download import Progress, ignore_progress
from kickstand_cli.terminal import CommandError

MANIFEST = "manifest.json"
MARKER = ".kickstand-half-written"
SEED = 0


class ImageEntry(Payload):
    """One photo of the folder.

    path: relative to the folder, with forward slashes.
    label: its folder; `neither` for a photo of another class.
    archive_class, archive_filename: its names in the archive.
    sha256: of the file, hexadecimal.
    """

    path: str
    split: Literal["train", "test"]
    label: str
    archive_class: str
    archive_filename: str
    sha256: str


class Manifest(Payload):
    """The content of the folder and its origin. Equal requests to equal archives give equal bytes.

    classes: in the order of their label index in the .lst manifests.
    neither: photos of other classes in each split; they are in no .lst manifest.
    archive_md5: of the packed archive; None where an unpacked folder was read.
    official: whether the archive is the original, by its checksums.
    data_sha256: SHA-256 over the sorted lines `<sha256>  <path>`, in the shell:
        sha256sum train/*/*.png test/*/*.png | LC_ALL=C sort | sha256sum
    """

    format: Literal["kickstand-dataset-1"] = "kickstand-dataset-1"
    classes: tuple[str, ...]
    neither: int
    seed: int
    counts: dict[str, dict[str, int]]
    source: str
    archive_md5: str | None
    member_md5: dict[str, str]
    official: bool
    data_sha256: str
    images: tuple[ImageEntry, ...]


def write_dataset(
    archive: Archive,
    out: Path,
    classes: Sequence[str],
    *,
    neither: int = 0,
    force: bool = False,
    on_progress: Progress = ignore_progress,
) -> Manifest:
    """Write the folder in one step: afterwards it is complete, or nothing has changed.

    classes: names from the archive; their order gives the label index.
    neither: the number of photos of other classes for each split.
    force: replace a folder that an earlier call has written.
    Raises CommandError for an unknown or empty class, and where out cannot be written or replaced.
    """
    check_classes(archive, classes)
    chosen = {split: _choose_images(archive, split, classes, neither) for split in SPLITS}
    total = sum(len(images) for images in chosen.values())
    with replace_folder(out, force=force) as folder:
        entries: list[ImageEntry] = []
        for split, images in chosen.items():
            for entry, pixels in images:
                path = folder / entry.path
                path.parent.mkdir(parents=True, exist_ok=True)
                content = encode_png(pixels)
                path.write_bytes(content)
                entries.append(entry.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()}))
                on_progress(len(entries), total)
            _write_lst(folder / f"{split}.lst", split, entries, classes)
        manifest = _describe(archive, entries, classes, neither)
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", "utf-8")
    return manifest


def check_classes(archive: Archive, classes: Sequence[str]) -> None:
    """Raise CommandError where a class is unknown, with similar names, or has no photos in this archive."""
    for name in classes:
        if name not in archive.class_names:
            near = difflib.get_close_matches(name.lower(), archive.class_names, n=3, cutoff=0.5)
            hint = f"similar: {', '.join(near)}; " if near else ""
            raise CommandError(f"unknown class {name!r}; {hint}--list-classes shows all {len(archive.class_names)}")
        for split, number in count_images(archive, name).items():
            if not number:
                raise CommandError(
                    f"class {name!r} has no {split} photos in {archive.name}: is the archive incomplete?"
                )


def count_images(archive: Archive, name: str) -> dict[str, int]:
    """The number of photos of a class in each split of the archive."""
    index = archive.class_names.index(name)
    return {split: archive.splits[split].labels.count(index) for split in SPLITS}


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode RGB pixels, uint8 (height, width, 3), as a PNG whose bytes are the same on every machine.

    The pixels are stored, not compressed: how well zlib compresses differs between its versions, and with it the
    SHA-256 that identifies the image. For 32×32 pixels the file is a quarter larger.
    """
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # filter type 0 before each row
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB, not interlaced
    chunks = ((b"IHDR", header), (b"IDAT", _store(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _store(content: bytes) -> bytes:
    """Wrap bytes as a zlib stream of stored blocks (RFC 1950, 1951)."""
    blocks = [content[start : start + 0xFFFF] for start in range(0, len(content), 0xFFFF)]
    stored = b"".join(
        struct.pack("<BHH", block_number == len(blocks), len(block), len(block) ^ 0xFFFF) + block
        for block_number, block in enumerate(blocks, start=1)
    )
    return b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(content))


def _choose_images(
    archive: Archive, split: str, classes: Sequence[str], neither: int
) -> list[tuple[ImageEntry, NDArray[np.uint8]]]:
    """The photos of one split: those of the classes in the archive's order, then those of neither."""
    part = archive.splits[split]
    chosen = [(name, index) for name in classes for index in _find_images(part, archive.class_names.index(name))]
    if neither:
        chosen += [(NEITHER, index) for index in _draw_others(archive, split, classes, neither)]
    taken: set[str] = set()
    return [
        (
            ImageEntry(
                path=_name_file(f"{split}/{label}", part.filenames[index], taken),
                split="train" if split == "train" else "test",
                label=label,
                archive_class=archive.class_names[part.labels[index]],
                archive_filename=part.filenames[index],
                sha256="",
            ),
            part.pixels[index],
        )
        for label, index in chosen
    ]


def _find_images(part: Split, label: int) -> list[int]:
    return [index for index, found in enumerate(part.labels) if found == label]


def _draw_others(archive: Archive, split: str, classes: Sequence[str], number: int) -> list[int]:
    known = {archive.class_names.index(name) for name in classes}
    others = [index for index, label in enumerate(archive.splits[split].labels) if label not in known]
    if len(others) < number:
        raise CommandError(
            f"--neither {number}: {archive.name} has {len(others) or 'no'} {split} photos of classes other than "
            f"{', '.join(classes)}"
        )
    return sorted(random.Random(f"{SEED} {split}").sample(others, number))  # noqa: S311 - repeatable on purpose


def _name_file(folder: str, original: str, taken: set[str]) -> str:
    """A path that is safe on every file system and not yet taken, also where upper and lower case are the same."""
    stem = re.sub(r"\.png$", "", re.split(r"[/\\]", original)[-1], flags=re.IGNORECASE)
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", stem).lstrip(".-")[:100] or "image"
    candidate, copy = f"{folder}/{stem}.png", 1
    while candidate.lower() in taken:
        copy += 1
        candidate = f"{folder}/{stem}-{copy}.png"
    taken.add(candidate.lower())
    return candidate


def _write_lst(path: Path, split: str, entries: Sequence[ImageEntry], classes: Sequence[str]) -> None:
    """SageMaker's list: number, label index, path relative to the channel. Numbers are unique over both lists."""
    lines = [
        f"{number}\t{classes.index(entry.label)}\t{entry.path.removeprefix(f'{split}/')}\n"
        for number, entry in enumerate(entries)
        if entry.split == split and entry.label in classes
    ]
    path.write_text("".join(lines), "utf-8", newline="\n")


def _describe(archive: Archive, entries: Sequence[ImageEntry], classes: Sequence[str], neither: int) -> Manifest:
    labels = [*classes, NEITHER] if neither else list(classes)
    return Manifest(
        classes=tuple(classes),
        neither=neither,
        seed=SEED,
        counts={
            split: {label: sum((e.split, e.label) == (split, label) for e in entries) for label in labels}
            for split in SPLITS
        },
        source=archive.name,
        archive_md5=archive.archive_md5,
        member_md5=dict(archive.member_md5),
        official=archive.official,
        data_sha256=hash_images({entry.path: entry.sha256 for entry in entries}),
        images=tuple(entries),
    )


def hash_images(hashes: Mapping[str, str]) -> str:
    """SHA-256 over the sorted lines `<sha256>  <path>`.

    hashes: SHA-256 of each file, by its path relative to the folder.
    """
    lines = sorted(f"{sha256}  {path}\n" for path, sha256 in hashes.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def open_dataset(out: Path) -> Manifest:
    """The manifest of a complete folder. Raises CommandError if there is none, or a photo is missing or changed."""
    manifest = read_manifest(out)
    if manifest is None:
        raise CommandError(f"{out}: not a dataset folder: Kickstand wrote no {MANIFEST} there")
    for entry in manifest.images:
        path = out / entry.path
        if not path.is_file():
            raise CommandError(f"{out}: incomplete, {entry.path} is missing; --force writes it again")
        if hashlib.sha256(path.read_bytes()).hexdigest() != entry.sha256:
            raise CommandError(f"{out}: {entry.path} has changed since it was written; --force writes it again")
    for split in SPLITS:
        if not (out / f"{split}.lst").is_file():
            raise CommandError(f"{out}: incomplete, {split}.lst is missing; --force writes it again")
    return manifest


def read_manifest(folder: Path) -> Manifest | None:
    """The folder's manifest; None without one that Kickstand wrote."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return None


def check_output(out: Path, *, force: bool) -> None:
    """Raise CommandError unless out is absent, empty, or, with force, a dataset folder and nothing else."""
    for half_written in _find_leftovers(out):
        if not force:
            raise CommandError(
                f"{half_written}: unfinished: a run was interrupted, or is still writing; "
                "--force removes it and starts again"
            )
    if not out.exists():
        return
    if not out.is_dir():
        raise CommandError(f"{out}: a file is in the way")
    if not any(out.iterdir()):
        return
    manifest = read_manifest(out)
    if manifest is None and not (out / MARKER).is_file():
        why = "unfinished" if (out / "train").exists() or (out / "test").exists() else "not empty"
        raise CommandError(f"{out}: {why}: Kickstand wrote no {MANIFEST} there; remove it or choose another --out")
    if not force:
        raise CommandError(
            f"{out}: there is {'a' if manifest else 'an unfinished'} dataset already; --force replaces it"
        )
    if foreign := _find_foreign(out, manifest):
        raise CommandError(
            f"{out}: not replaced, {foreign} was not written by Kickstand; remove it or choose another --out"
        )


def _find_leftovers(out: Path) -> list[Path]:
    """Folders beside out that an interrupted run has left."""
    return sorted(path.parent for path in out.parent.glob(f".{escape(out.name)}.partial-*/{MARKER}"))


def _find_foreign(out: Path, manifest: Manifest | None) -> str | None:
    """The first file in out that Kickstand cannot have written."""
    ours = {MANIFEST, MARKER, *(f"{split}.lst" for split in SPLITS)}
    if manifest:
        ours |= {entry.path for entry in manifest.images}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        half_written = manifest is None and re.fullmatch(r"(train|test)/[^/]+/[^/]+\.png", name)
        if not (path.is_dir() and not path.is_symlink()) and name not in ours and not half_written:
            return name
    return None


@contextmanager
def replace_folder(out: Path, *, force: bool) -> Iterator[Path]:
    """An empty folder beside out; it replaces out when the block ends, and is removed when the block fails."""
    out = out.resolve()
    check_output(out, force=force)
    try:
        for half_written in _find_leftovers(out):
            shutil.rmtree(half_written)
        partial = out.parent / f".{out.name}.partial-{secrets.token_hex(4)}"
        partial.mkdir(parents=True)
        try:
            (partial / MARKER).write_text(
                "Being written by kickstand; incomplete as long as this file is here.\n", "utf-8"
            )
            yield partial
            (partial / MARKER).unlink()
            _swap(partial, out)
        except BaseException:  # after an interrupt too
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        raise CommandError(f"{error.filename or out}: cannot be written ({error.strerror})") from error


def _swap(partial: Path, out: Path) -> None:
    if not out.exists():
        partial.rename(out)
        return
    old = out.with_name(f".{out.name}.replaced-{secrets.token_hex(4)}")
    out.rename(old)
    try:
        partial.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
