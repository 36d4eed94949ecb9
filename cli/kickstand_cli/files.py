"""Reads files without blocking forever, and writes results completely or not at all."""

import csv
import errno
import io
import mimetypes
import os
import secrets
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import IO

from kickstand.classify.images import MAX_IMAGE_BYTES
from kickstand_cli.terminal import CommandError

KINDS = {
    stat.S_IFIFO: "a named pipe, not a file",
    stat.S_IFSOCK: "a socket, not a file",
    stat.S_IFCHR: "a device, not a file",
    stat.S_IFBLK: "a device, not a file",
}


# ---- reading


def read_file(path: Path, most: int = MAX_IMAGE_BYTES) -> bytes:
    """The file's bytes; of a larger one, `most` and one more. Raises OSError, also if it is not a regular file."""
    _expect_regular(path, os.stat(path).st_mode)  # noqa: PTH116 - opening a device may have an effect
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:  # noqa: PTH123
        _expect_regular(path, os.fstat(file.fileno()).st_mode)
        return file.read(most + 1)


def with_name(folder: Path) -> Path:
    """The folder with a name, and with a folder that holds it: "." and ".." are resolved.

    >>> with_name(Path("own/model")), with_name(Path(".")).name == Path.cwd().name
    (PosixPath('own/model'), True)
    """
    return folder if folder.name not in ("", "..") else folder.resolve()


def read_table(path: Path, most: int = MAX_IMAGE_BYTES) -> list[dict[str, str]]:
    """The rows of a CSV file in UTF-8, by its first line; none if there is no such file.

    Raises OSError, also if it is not a regular file; ValueError or csv.Error for other content.
    """
    if not os.path.lexists(path):
        return []
    content = read_file(path, most)
    if len(content) > most:
        raise ValueError(f"larger than {most:,} bytes")
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def open_file(path: Path) -> BufferedReader:
    """A file that the user has named. It may be a pipe: it is read to its end, but a missing writer is not waited for.

    Raises OSError, also for a device, such as /dev/zero, which has no end.
    """
    if not stat.S_ISFIFO(mode := os.stat(path).st_mode):  # noqa: PTH116
        _expect_regular(path, mode)
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    os.set_blocking(descriptor, True)
    return open(descriptor, "rb")  # noqa: PTH123


def _expect_regular(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if kind := KINDS.get(stat.S_IFMT(mode)):
        raise OSError(errno.EINVAL, kind, str(path))


def list_files(folder: Path, unread: list[str]) -> list[Path]:
    """All files below the folder, sorted, of any kind; hidden files and folders are skipped.

    Links are followed, but each folder is read once. A folder with the name of a photo, such as x.png, is listed as a
    file. unread: gets the reason for each folder that cannot be listed.
    """
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:  # a loop: folders may be nested deeper than functions
        place = waiting.pop()
        if place != folder and not (_is_folder(place) and not _is_named_as_photo(place)):
            found.append(place)
            continue
        try:
            about = place.stat()
            if (about.st_dev, about.st_ino) in seen:
                continue
            seen.add((about.st_dev, about.st_ino))
            entries = sorted(place.iterdir(), reverse=True)
        except OSError as error:
            unread.append(f"{place}: {error.strerror}")
            continue
        waiting += [entry for entry in entries if not entry.name.startswith(".")]
    return found


def _is_named_as_photo(path: Path) -> bool:
    return (mimetypes.guess_type(path.name)[0] or "").startswith("image/")


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


# ---- writing


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """An OSError becomes a CommandError that names what could not be written."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"{path}: cannot be written ({error.strerror})") from error


def make_folder(path: Path) -> None:
    """The folder, and those above it. Raises CommandError."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def expect_writable(path: Path, *, new_folder: bool = False, inputs: Iterable[Path] = ()) -> None:
    """Raise CommandError before long work if the file cannot be written, is one of the inputs, or would be in one.

    new_folder: whether its folder may be missing. inputs: files and folders that the command reads. The check leaves no
    file.
    """
    with writing(path):
        if not _is_regular(path):
            return
        places = {path.resolve(), path.parent.resolve() / path.name}
        for given in inputs:
            if given.is_dir() and any(place.is_relative_to(folder) for folder in _folders(given) for place in places):
                raise CommandError(f"{path}: the output would be inside the input {given}; choose another place")
            if path.exists() and given.exists() and given.samefile(path):
                raise CommandError(f"{path}: it is an input, so it cannot be the output; choose another file")
        home = path.parent
        while new_folder and not home.exists():
            home = home.parent
        if new_folder and not home.is_dir():
            raise CommandError(f"{home}: cannot be written ({os.strerror(errno.EEXIST)})")
        draft = _draft(home / path.name)
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        draft.unlink()


def _folders(given: Path) -> Iterator[Path]:
    """The folder and those in it, such as one for each class, where their links lead."""
    yield given.resolve()
    with suppress(OSError):
        yield from (entry.resolve() for entry in given.iterdir() if _is_folder(entry))


def write_file(path: Path, content: str | bytes) -> None:
    """Write the file, all or nothing. Raises CommandError; an older file is then unchanged."""
    write_files({path: content})


def write_files(contents: Mapping[Path, str | bytes]) -> None:
    """Write all of these files, or none. Raises CommandError; older files are then unchanged."""
    with ExitStack() as drafts:
        for path, content in contents.items():
            file = drafts.enter_context(replacing(path))
            with writing(path):
                file.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
                file.flush()


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that replaces `path` when the block ends; when the block fails, the older one is unchanged.

    Anything but a regular file, such as /dev/null or a pipe, is written directly. Raises CommandError.
    """
    with writing(path):
        if not _is_regular(path):
            descriptor = os.open(
                path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0)
            )  # a missing reader of a pipe is not waited for
            os.set_blocking(descriptor, True)
            with open(descriptor, "wb") as file:  # noqa: PTH123
                yield file
            return
        path = Path(os.path.realpath(path))  # a link is replaced at its target
        make_folder(path.parent)
        draft = _draft(path)
        try:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:  # noqa: PTH123
                yield file
                file.flush()
                os.fsync(file.fileno())
            with suppress(OSError):
                draft.chmod(stat.S_IMODE(path.stat().st_mode))
            draft.replace(path)
        except BaseException:  # after an interrupt too
            draft.unlink(missing_ok=True)
            raise


def open_database(file: Path, *statements: str) -> sqlite3.Connection:
    """The SQLite file, after these statements. Raises sqlite3.Error if it is no such file, or cannot be one."""
    database = sqlite3.connect(file)
    try:
        for statement in statements:
            database.execute(statement)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _is_regular(path: Path) -> bool:
    """Whether it is a regular file, or missing. Raises OSError for a folder, and for a write-protected file."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.is_file() and not path.stat().st_mode & 0o222:  # a folder's owner, and root, could still replace it
        raise PermissionError(errno.EACCES, "write-protected", str(path))
    return path.is_file() or not path.exists()


def _draft(path: Path) -> Path:
    return path.with_name(f".kickstand-{secrets.token_hex(8)}.part")
