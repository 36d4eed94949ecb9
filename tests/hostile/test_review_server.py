"""The server of `kickstand review --web`: who may call the function through it, and what nonsense costs."""

import http.client
import io
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import redirect_stderr, suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from kickstand_cli.review import review
from kickstand_cli.review.review import serving

EVENT = b'{"action": "answer", "image": "s3://b/k", "version": "v", "label": "bicycle", "reviewer": "Mallory"}'
JSON = {"Content-Type": "application/json"}


class Page(NamedTuple):
    """The page that is served, and what its function was called with."""

    url: str
    port: int
    token: str
    calls: list[dict[str, Any]]

    def post(self, headers: dict[str, str], path: str = "/call", body: bytes = EVENT, method: str = "POST") -> int:
        """The answer's status."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request(method, path, body, {"Host": f"127.0.0.1:{self.port}", **headers})
        return connection.getresponse().status

    def send(self, head: str, body: bytes = b"") -> bytes:
        """All that comes back for these lines."""
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    @property
    def allowed(self) -> dict[str, str]:
        return {**JSON, "Authorization": f"Bearer {self.token}"}


@pytest.fixture
def page() -> Iterator[Page]:
    calls: list[dict[str, Any]] = []

    def invoke(event: dict[str, Any]) -> str:
        calls.append(event)
        return "<div></div>"

    trouble = io.StringIO()
    with redirect_stderr(trouble), serving(invoke, 0, "Ada") as url:
        parts = urlsplit(url)
        yield Page(url, parts.port or 0, parts.query.removeprefix("token="), calls)
    assert trouble.getvalue() == ""  # no traceback in the reviewer's terminal


def test_who_has_the_address_gets_the_page_and_may_answer(page: Page) -> None:
    with urllib.request.urlopen(page.url) as answer:
        assert "Kickstand · review" in answer.read().decode()
        assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert page.post(page.allowed) == 200
    assert page.calls == [json.loads(EVENT)]


@pytest.mark.parametrize(
    "given", ["", "Bearer ", "Bearer None", "Bearer \xe9", "Bearer {0}x", "token {0}", "Basic {0}"]
)
def test_another_account_of_this_machine_cannot_answer(page: Page, given: str) -> None:
    assert page.post({**JSON, "Authorization": given.format(page.token)}) == 403
    assert page.post(JSON) == 403
    assert page.post({**JSON, "Cookie": f"token={page.token}"}) == 403  # cookies are shared by all ports of a machine
    assert page.calls == []


@pytest.mark.parametrize("query", ["", "?token=", "?token=x", "?token=%ff", "?t=1&token"])
def test_without_the_token_there_is_no_page_but_a_reason(page: Page, query: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{page.port}/{query}")
    assert "Open the whole address" in refused.value.read().decode()


def test_every_start_has_another_token() -> None:
    with serving(lambda event: "", 0, "") as first, serving(lambda event: "", 0, "") as second:
        assert urlsplit(first).query != urlsplit(second).query


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "photos.example"},
        {"Host": "localhost.photos.example:{0}"},
        {"Host": "127.0.0.1"},
        {"Host": "0.0.0.0:{0}"},
        {"Origin": "http://photos.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1:{0}"},
        {"Origin": "http://127.0.0.1:1"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "text/plain; application/json"},
        {"Content-Type": "multipart/form-data; boundary=x"},
    ],
)
def test_another_site_cannot_answer_through_the_reviewers_browser(page: Page, headers: dict[str, str]) -> None:
    given = {name: value.format(page.port) for name, value in headers.items()}
    assert page.post(page.allowed | given) == 404
    assert page.calls == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/"), ("POST", "/call?x"), ("POST", "/../call"), ("GET", "/call"), ("PUT", "/call")],
)
def test_only_one_path_calls_the_function(page: Page, method: str, path: str) -> None:
    assert page.post(page.allowed, path, method=method) >= 400
    assert page.calls == []


def test_a_forwarded_port_is_told_how_to_forward_it(page: Page) -> None:
    answer = page.send(f"GET /?token={page.token} HTTP/1.1\nHost: localhost:9999").decode()
    assert f"ssh -L {page.port}:127.0.0.1:{page.port} MACHINE" in answer
    assert page.token not in answer


@pytest.mark.parametrize(
    "length",
    [
        *(
            "Content-Length: -1",
            "Content-Length: abc",
            "Content-Length: 1e3",
            "Content-Length: +5",
            "Content-Length: ٣",
        ),
        *("Content-Length:", "X: y", "Transfer-Encoding: chunked", "Content-Length: 9\nTransfer-Encoding: chunked"),
        *("Content-Length: 100001", f"Content-Length: {10**30}"),
    ],
)
def test_a_request_without_a_length_that_can_be_read_is_refused_unread(page: Page, length: str) -> None:
    smuggled = b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n"
    head = f"POST /call HTTP/1.1\nHost: 127.0.0.1:{page.port}\nContent-Type: application/json\n{length}"
    answer = page.send(f"{head}\nAuthorization: Bearer {page.token}", smuggled)
    assert answer.startswith((b"HTTP/1.0 411", b"HTTP/1.0 413"))
    assert answer.count(b"HTTP/1.") == 1
    assert page.calls == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"1", b"\xff\xfe", b"[" * 50_000, b'{"a": NaN', b'{"a": "\\ud800"}']
)
def test_what_is_no_json_object_is_refused(page: Page, body: bytes) -> None:
    assert page.post(page.allowed, body=body) == 400
    assert page.calls == []


def test_half_an_event_calls_nothing(page: Page) -> None:
    head = f"POST /call HTTP/1.1\nHost: 127.0.0.1:{page.port}\nContent-Type: application/json\nContent-Length: 500"
    assert page.send(f"{head}\nAuthorization: Bearer {page.token}", EVENT).startswith(b"HTTP/1.0 400")
    assert page.calls == []


@pytest.mark.parametrize(
    "begun", ["", "POST /call HTTP/1.1\r\nHost: x\r\n", "POST /call HTTP/1.1\r\nContent-Length: 9\r\n\r\n"]
)
def test_a_request_that_does_not_arrive_ends(monkeypatch: pytest.MonkeyPatch, begun: str) -> None:
    monkeypatch.setattr(review, "PATIENCE", 0.2)
    before = threading.active_count()
    with serving(lambda event: "", 0, "") as url:
        port = urlsplit(url).port or 0
        with suppress(ConnectionError), socket.create_connection(("127.0.0.1", port)) as idle:
            idle.sendall(begun.encode())
            while idle.recv(1024):  # until the server ends it
                pass
        while threading.active_count() > before + 1:
            threading.Event().wait(0.05)


def test_many_idle_connections_keep_no_reviewer_waiting(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review, "MOST_REQUESTS", 8)
    idle = [socket.create_connection(("127.0.0.1", page.port)) for _ in range(40)]
    assert page.post(page.allowed) == 200
    ended = [connection for connection in idle if not is_open(connection)]
    assert len(ended) >= 32
    for connection in idle:
        connection.close()


def is_open(connection: socket.socket) -> bool:
    connection.settimeout(0.2)
    try:
        return connection.recv(1) != b""
    except TimeoutError:
        return True
    except ConnectionError:
        return False
