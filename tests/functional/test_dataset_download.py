"""`kickstand dataset`'s download against a real HTTP server on this machine that misbehaves on demand."""

import hashlib
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from kickstand_cli.datasets.download import Progress, download_archive, ignore_progress, locate_cache
from kickstand_cli.main import app
from kickstand_cli.terminal import CommandError

CONTENT = np.random.default_rng(3).bytes(300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves one content under any path.

    break_after: bytes after which the connection is closed, in each of the next responses.
    requests: the Range and If-Range headers of each request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.etag: str | None = '"v1"'
        self.status: int | None = None
        self.ignores_range = False
        self.wrong_range = False
        self.break_after: list[int] = []
        self.requests: list[tuple[str | None, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/cifar-100-python.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked, if_range = self.headers.get("Range"), self.headers.get("If-Range")
        self.server.requests.append((asked, if_range))
        if self.server.status:
            self.send_error(self.server.status)
            return
        content, start = self.server.content, 0
        if asked and not self.server.ignores_range and if_range in (None, self.server.etag):
            start = int(re.findall(r"\d+", asked)[0])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206)
            shown = 0 if self.server.wrong_range else start
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        self.wfile.write(body[: self.server.break_after.pop(0)] if self.server.break_after else body)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def download(server: Server, cache: Path, on_progress: Progress = ignore_progress) -> Path:
    return download_archive(server.url, cache, md5=MD5, on_progress=on_progress, timeout_s=60.0)


def leave_part(cache: Path, content: bytes, validator: str | None = '"v1"') -> None:
    """What an interrupted download leaves."""
    cache.mkdir()
    (cache / "cifar-100-python.tar.gz.part").write_bytes(content)
    if validator:
        (cache / "cifar-100-python.tar.gz.part.validator").write_text(validator)


def test_the_archive_is_fetched_once_and_then_taken_from_the_cache(server: Server, tmp_path: Path) -> None:
    shown: list[tuple[int, int | None]] = []
    path = download(server, tmp_path / "cache", on_progress=lambda done, total: shown.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert shown[0] == (0, len(CONTENT))
    assert shown[-1] == (len(CONTENT), len(CONTENT))
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == ["cifar-100-python.tar.gz"]
    assert download(server, tmp_path / "cache") == path
    assert len(server.requests) == 1


def test_a_connection_that_breaks_is_taken_up_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.break_after = [100_000, 50_000]
    assert download(server, tmp_path / "cache").read_bytes() == CONTENT
    assert server.requests == [(None, None), ("bytes=100000-", '"v1"'), ("bytes=150000-", '"v1"')]


def test_a_later_run_asks_only_for_the_rest(server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path / "cache", CONTENT[:200_000])
    assert download(server, tmp_path / "cache").read_bytes() == CONTENT
    assert server.requests == [("bytes=200000-", '"v1"')]


def test_a_part_that_is_already_whole_needs_nothing_more(server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path / "cache", CONTENT)
    assert download(server, tmp_path / "cache").read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_part_longer_than_the_file_starts_over(server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path / "cache", CONTENT + b"more")
    assert download(server, tmp_path / "cache").read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_sends_everything_again(server: Server, tmp_path: Path) -> None:
    server.ignores_range = True
    leave_part(tmp_path / "cache", CONTENT[:200_000])
    assert download(server, tmp_path / "cache").read_bytes() == CONTENT


def test_a_file_that_changed_on_the_server_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path / "cache", b"old" * 1_000, validator='"v0"')
    assert download(server, tmp_path / "cache").read_bytes() == CONTENT
    assert server.requests == [("bytes=3000-", '"v0"')]


def test_pieces_that_do_not_fit_together_start_over_once(server: Server, tmp_path: Path) -> None:
    server.etag = None
    leave_part(tmp_path / "cache", b"old" * 1_000, validator=None)
    assert download(server, tmp_path / "cache").read_bytes() == CONTENT
    assert [asked for asked, _ in server.requests] == ["bytes=3000-", None]


def test_an_answer_with_another_range_is_refused(server: Server, tmp_path: Path) -> None:
    server.wrong_range = True
    leave_part(tmp_path / "cache", CONTENT[:200_000])
    with pytest.raises(CommandError, match="another range than the requested one"):
        download(server, tmp_path / "cache")


def test_a_wrong_checksum_is_an_error_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(CommandError, match=f"wrong checksum, MD5 [0-9a-f]{{32}} instead of {MD5}"):
        download(server, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_file_in_the_cache_is_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/cifar-100-python.tar.gz").write_bytes(b"damaged")
    assert download(server, tmp_path / "cache").read_bytes() == CONTENT


def test_a_connection_that_breaks_without_a_byte_gives_up_and_keeps_what_came(server: Server, tmp_path: Path) -> None:
    server.break_after = [100_000, 0]
    with pytest.raises(
        CommandError, match=r"cannot be fetched .*closed early.*100000 bytes are kept; run the command again"
    ):
        download(server, tmp_path / "cache")
    assert download(server, tmp_path / "cache").read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 404, 416, 503])
def test_an_http_error_names_url_and_status(server: Server, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(CommandError, match=rf"{re.escape(server.url)}: cannot be fetched \(HTTP {status} "):
        download(server, tmp_path / "cache")


def test_offline_the_error_names_the_url_and_the_way_out(server: Server, tmp_path: Path) -> None:
    url = server.url
    server.server_close()
    with pytest.raises(CommandError, match=rf"{re.escape(url)}: cannot be fetched .*local copy with --archive FILE"):
        download_archive(url, tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_a_clear_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(CommandError, match="cache: cannot be written"):
        download(server, tmp_path / "cache")


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert locate_cache() == tmp_path / "kickstand"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert locate_cache().name == "kickstand"


def test_the_command_refuses_a_download_with_a_wrong_checksum(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("KICKSTAND_CIFAR100_URL", server.url)
    monkeypatch.delenv("KICKSTAND_CIFAR100", raising=False)
    result = CliRunner().invoke(app, ["dataset", "fetch", "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "wrong checksum" in result.stderr
    assert "instead of eb9058c3a382ffc7106e4002c42a8d85" in result.stderr
    assert not (tmp_path / "out").exists()
