"""Reads CIFAR-100's python archive, packed or unpacked, without trusting its content."""

import codecs
import hashlib
import io
import pickle
import re
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from kickstand.text import as_utf8
from kickstand_cli.terminal import CommandError

FOLDER = "cifar-100-python"
MEMBERS = ("meta", "train", "test")
SPLITS = ("train", "test")
SIDE = 32  # pixels

OFFICIAL_ARCHIVE_MD5 = "eb9058c3a382ffc7106e4002c42a8d85"
OFFICIAL_MEMBER_MD5 = {
    "meta": "7973b15100ade9c7d40fb424638fde48",
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
}

MAX_MEMBER_BYTES = 256 * 2**20  # the original's largest member, train, has 155 MB
MAX_TAR_ENTRIES = 1_000  # the original has 5; others must be skipped

_WRONG_FORMAT = "not CIFAR-100's python format"


@dataclass(frozen=True)
class Split:
    """The photos of one part of the archive.

    pixels: uint8, shape (n_images, 32, 32, 3), RGB.
    labels: index into the archive's class names, length n_images.
    filenames: the original ones, length n_images, not safe to use as paths.
    """

    pixels: NDArray[np.uint8]
    labels: tuple[int, ...]
    filenames: tuple[str, ...]


@dataclass(frozen=True)
class Archive:
    """The whole archive in memory.

    name: file or folder name, without its path.
    class_names: all classes in the archive's meta, with or without photos.
    archive_md5: of the packed file; None for an unpacked folder.
    member_md5: of meta, train and test.
    """

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Split]
    archive_md5: str | None
    member_md5: Mapping[str, str]

    @property
    def official(self) -> bool:
        """Whether these are the original bytes, by the published checksums."""
        return self.archive_md5 == OFFICIAL_ARCHIVE_MD5 or dict(self.member_md5) == OFFICIAL_MEMBER_MD5


def read_archive(path: Path) -> Archive:
    """Read a CIFAR-100 python archive (tar.gz, tar) or the folder it unpacks to.

    Raises CommandError where it is missing, truncated, hostile or not in this format.
    """
    members = _read_folder(path) if path.is_dir() else _read_tar(path)
    meta = _unpickle(members["meta"], f"{path}: meta")
    class_names = _parse_class_names(meta, f"{path}: meta")
    splits = {
        split: _parse_split(_unpickle(members[split], f"{path}: {split}"), len(class_names), f"{path}: {split}")
        for split in SPLITS
    }
    return Archive(
        name=as_utf8(path.resolve().name),
        class_names=class_names,
        splits=splits,
        archive_md5=None if path.is_dir() else hash_md5(path),
        member_md5={name: hashlib.md5(data, usedforsecurity=False).hexdigest() for name, data in members.items()},
    )


def hash_md5(path: Path) -> str:
    """MD5 of a file, hexadecimal: the checksum on CIFAR's page."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def hash_members(folder: Path) -> dict[str, str]:
    """MD5 of meta, train and test in an unpacked folder; raises CommandError where one is missing."""
    return {name: hash_md5(member) for name, member in _locate_members(folder).items()}


def _locate_members(folder: Path) -> dict[str, Path]:
    inner = folder / FOLDER
    home = inner if inner.is_dir() else folder
    missing = [name for name in MEMBERS if not (home / name).is_file()]
    if missing:
        raise CommandError(f"{home}: no {', '.join(missing)}; an unpacked {FOLDER} folder has {', '.join(MEMBERS)}")
    return {name: home / name for name in MEMBERS}


def _read_folder(folder: Path) -> dict[str, bytes]:
    members = _locate_members(folder)
    try:
        for member in members.values():
            _refuse_oversize(member.stat().st_size, str(member))
        return {name: member.read_bytes() for name, member in members.items()}
    except OSError as error:
        raise CommandError(f"{folder}: cannot be read ({error.strerror})") from error


def _read_tar(path: Path) -> dict[str, bytes]:
    """Read the three members and nothing else; nothing is unpacked to disk."""
    if not path.is_file():
        raise CommandError(f"{path}: no such archive or folder")
    wanted = {f"{FOLDER}/{name}": name for name in MEMBERS}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as tar:
            for entry_number, entry in enumerate(tar):
                if entry_number >= MAX_TAR_ENTRIES:
                    raise CommandError(f"{path}: more than {MAX_TAR_ENTRIES} entries, not a CIFAR-100 archive")
                _refuse_oversize(entry.size, f"{path}: {entry.name}")
                name = wanted.get(entry.name.removeprefix("./"))
                if name is not None and name not in found and entry.isfile():
                    found[name] = _read_whole(tar.extractfile(entry), entry.size)
                if len(found) == len(MEMBERS):
                    break
    except (EOFError, zlib.error, tarfile.ReadError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise CommandError(f"{path}: truncated or damaged, or not a tar.gz archive ({reason})") from error
    except (tarfile.TarError, OSError) as error:
        raise CommandError(f"{path}: cannot be read ({error})") from error
    missing = [f"{FOLDER}/{name}" for name in MEMBERS if name not in found]
    if missing:
        raise CommandError(f"{path}: no {', '.join(missing)}; truncated, or not the CIFAR-100 *python* archive")
    return found


def _read_whole(file: IO[bytes] | None, size: int) -> bytes:
    content = file.read() if file else b""
    if len(content) != size:
        raise EOFError(f"{len(content)} of {size} bytes")
    return content


def _refuse_oversize(size: int, what: str) -> None:
    if size > MAX_MEMBER_BYTES:
        raise CommandError(f"{what}: {size} bytes, more than the {MAX_MEMBER_BYTES} that CIFAR-100 can need")


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Stand-in for _codecs.encode, which Python 3 pickles use to carry bytes in protocol 2."""
    if codecs.lookup(encoding).name != "iso8859-1":
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode("latin-1")


# Taken from an array's own pickle: the function's public home moved between NumPy 1 and 2.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("_codecs", "encode"): _encode_latin1,
}


class _ForbiddenGlobalError(Exception):
    """The pickle asks for something that no CIFAR archive needs."""


class _ArrayUnpickler(pickle.Unpickler):
    """Admits arrays of numbers, lists, dictionaries and strings; anything callable beyond that is refused."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return _ADMITTED[module_name, global_name]
        except KeyError:
            raise _ForbiddenGlobalError(f"{module_name}.{global_name}") from None


def _unpickle(content: bytes, what: str) -> dict[str, Any]:
    """Unpickle one member; keys become str. Raises CommandError, naming the global where one is refused."""
    try:
        loaded = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except _ForbiddenGlobalError as error:
        raise CommandError(f"{what}: refused, its pickle asks for {error}, which no CIFAR archive needs") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise CommandError(f"{what}: truncated or damaged pickle ({type(error).__name__}: {error})") from error
    if not isinstance(loaded, dict):
        raise CommandError(f"{what}: holds a {type(loaded).__name__}, {_WRONG_FORMAT}")
    return {_to_text(key): value for key, value in loaded.items()}


def _to_text(value: object) -> str:
    """The original's Python 2 strings arrive as bytes; an archive pickled again by Python 3 may hold str."""
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def _parse_class_names(meta: Mapping[str, Any], what: str) -> tuple[str, ...]:
    names = meta.get("fine_label_names")
    if not isinstance(names, list) or not names:
        raise CommandError(f"{what}: no fine_label_names, {_WRONG_FORMAT}")
    class_names = tuple(_to_text(name) for name in names)
    for name in class_names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", name):  # it becomes a folder
            raise CommandError(f"{what}: class name {name!r} cannot be a folder's name")
    return class_names


def _parse_split(content: Mapping[str, Any], n_classes: int, what: str) -> Split:
    pixels, labels, filenames = content.get("data"), content.get("fine_labels"), content.get("filenames")
    flat = SIDE * SIDE * 3
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (flat,):
        raise CommandError(f"{what}: data is no uint8 array of shape (n, {flat}), {_WRONG_FORMAT}")
    if not isinstance(labels, list) or not isinstance(filenames, list):
        raise CommandError(f"{what}: no fine_labels or no filenames, {_WRONG_FORMAT}")
    if not len(pixels) == len(labels) == len(filenames):
        raise CommandError(f"{what}: {len(pixels)} images, {len(labels)} labels, {len(filenames)} filenames")
    if not all(isinstance(label, int) and 0 <= label < n_classes for label in labels):
        raise CommandError(f"{what}: a label is not one of the {n_classes} classes of meta")
    return Split(
        pixels=pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1),
        labels=tuple(labels),
        filenames=tuple(_to_text(name) for name in filenames),
    )
