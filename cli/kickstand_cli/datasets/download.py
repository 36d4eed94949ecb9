"""Downloads the original archive over HTTP, and resumes an interrupted download."""

import http.client
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from kickstand_cli.datasets.archive import OFFICIAL_ARCHIVE_MD5, hash_md5
from kickstand_cli.terminal import CommandError

CIFAR100_URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
CHUNK_BYTES = 64 * 1024
MAX_BYTES = 1 * 2**30  # the archive has 169 MB; a larger file is another one

Progress = Callable[[int, int | None], None]  # done, total (None: not known)


def ignore_progress(done: int, total: int | None) -> None:
    """Show nothing."""


def locate_cache() -> Path:
    """The folder for downloads: $XDG_CACHE_HOME/kickstand, or the platform's folder for caches."""
    windows = os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else None
    if told := os.environ.get("XDG_CACHE_HOME") or windows:
        return Path(told) / "kickstand"
    try:
        home = Path.home()
    except RuntimeError as error:
        raise CommandError("there is no home folder for the download: set XDG_CACHE_HOME") from error
    usual = {"win32": "AppData/Local", "darwin": "Library/Caches"}
    return home / usual.get(sys.platform, ".cache") / "kickstand"


def download_archive(
    url: str,
    cache: Path,
    *,
    md5: str = OFFICIAL_ARCHIVE_MD5,
    on_progress: Progress = ignore_progress,
    timeout_s: float = 30.0,
) -> Path:
    """Fetch url into the cache folder, unless it is there already; return the file.

    An interrupted download leaves its `.part`, and the next call requests only the rest.
    timeout_s: for connecting and for each read, seconds.
    Raises CommandError where url cannot be reached, or the content has another MD5.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise CommandError(f"{url}: not an http or https URL")
    target = cache / (urlsplit(url).path.rpartition("/")[2] or "archive")
    if target.is_file() and hash_md5(target) == md5:
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        part = _Part(target.with_name(target.name + ".part"))
        _fill_checked(part, url, md5, on_progress, timeout_s)
        part.path.replace(target)
        part.validator_path.unlink(missing_ok=True)
    except OSError as error:
        raise CommandError(f"{error.filename or cache}: cannot be written ({error.strerror})") from error
    return target


class _Part:
    """The bytes received so far, and beside them the server's name for this version of the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.validator_path = path.with_name(path.name + ".validator")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def read_validator(self) -> str | None:
        return self.validator_path.read_text("utf-8") if self.validator_path.exists() else None

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.validator_path.unlink(missing_ok=True)


def _fill_checked(part: _Part, url: str, md5: str, on_progress: Progress, timeout_s: float) -> None:
    """Download until the MD5 is right. Parts of two versions may not fit together: then it starts over, once."""
    while True:
        resumed = part.size > 0
        _fill(part, url, on_progress, timeout_s)
        actual = hash_md5(part.path)
        if actual == md5:
            return
        part.discard()
        if not resumed:
            raise CommandError(f"{url}: wrong checksum, MD5 {actual} instead of {md5}; the download was discarded")


def _fill(part: _Part, url: str, on_progress: Progress, timeout_s: float) -> None:
    """Receive until the file is complete; a broken connection is resumed as long as bytes arrive."""
    while True:
        before = part.size
        try:
            if _receive(part, url, on_progress, timeout_s):
                return
            problem: object = "the connection was closed early"
        except HTTPError as error:
            with error:
                if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not before:
                    raise CommandError(_describe_failure(url, f"HTTP {error.code} {error.reason}", part)) from error
                if error.headers.get("Content-Range") == f"bytes */{before}":
                    return  # nothing is missing
            part.discard()
            continue
        except URLError as error:
            problem = error.reason
        except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
            problem = error
        if part.size <= before:
            raise CommandError(_describe_failure(url, problem, part))


def _describe_failure(url: str, problem: object, part: _Part) -> str:
    kept = f" {part.size} bytes are kept; run the command again to continue." if part.size else ""
    return f"{url}: cannot be fetched ({problem}).{kept} Without a network, name a local copy with --archive FILE."


def _receive(part: _Part, url: str, on_progress: Progress, timeout_s: float) -> bool:
    """One request for the missing bytes; True once the file is complete, by the length that the server names."""
    start = part.size
    headers = {"User-Agent": "kickstand", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator := part.read_validator():
            headers["If-Range"] = validator
    with urlopen(Request(url, headers=headers), timeout=timeout_s) as response:  # noqa: S310 - scheme checked by the caller
        if response.status == http.client.PARTIAL_CONTENT:
            content_range = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if not start or not content_range or int(content_range[1]) != start:
                raise CommandError(f"{url}: the server sent another range than the requested one")
        else:
            start = 0  # the server ignores ranges, or the file has changed
            _remember_validator(part, response.headers)
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with part.path.open("ab" if start else "wb") as file:
            done = start
            on_progress(done, total)
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                if done > MAX_BYTES:
                    raise CommandError(f"{url}: larger than {MAX_BYTES} bytes, not the CIFAR-100 archive")
                on_progress(done, total)
    return total is None or done == total


def _remember_validator(part: _Part, headers: http.client.HTTPMessage) -> None:
    """Store the value for If-Range: a strong ETag, or the date of the last change."""
    etag = headers.get("ETag", "")
    validator = etag if etag.startswith('"') else headers.get("Last-Modified")
    if validator:
        part.validator_path.write_text(validator, "utf-8")
    else:
        part.validator_path.unlink(missing_ok=True)
