"""`kickstand review`: the photos that wait for an answer, in a browser or in the terminal."""

import base64
import io
import json
import os
import re
import secrets
import select
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

import typer
from PIL import Image
from rich.console import Console
from rich.text import Text

from kickstand.text import counted
from kickstand_cli.deployment import DEFAULT_STACK, OutputsFile, StackName, open_client, read_outputs, reporting
from kickstand_cli.terminal import CommandError, ExitCode, console, expect_terminal, fail, login, painted

Invoke = Callable[[dict[str, Any]], Any]
DEFAULT_PORT = 8765
MAX_EVENT_BYTES = 100_000
NO_TERMINAL = "use --web, or run the command in a terminal"
PATIENCE = 15.0  # seconds in which a request has to arrive
MOST_REQUESTS = 64  # that arrive at a time; if there are more, the slowest one is closed
KEYS = {"neither": "n", "cannot_tell": "c"}
WORDS = {"neither": "none of these", "cannot_tell": "can't tell"}
QUIET = 0.35  # seconds without a key before one counts: earlier ones were typed before the photo was seen
TEMPLATES = Path(__file__).parents[1] / "templates"


def review(
    web: Annotated[
        bool, typer.Option("--web", help="Answer on a page in your browser; only this machine can open it.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --web: the port; 0: a free one.")] = DEFAULT_PORT,
    reviewer: Annotated[
        str,
        typer.Option(metavar="NAME", show_default="your login name", help="Your name; it is stored with your answers."),
    ] = "",
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
) -> None:
    """Answer the reviews that wait: which class does a photo show?

    The answers go to the deployed stack, which completes the photos' records with them.

    Examples:
    $ kickstand review --web --stack-name kickstand-dev
    """
    if not web:
        expect_terminal(NO_TERMINAL)
    with reporting():
        invoke = find_function(read_outputs(stack_name, outputs))
        if web:
            serve(invoke, port, reviewer, console)
        else:
            review_here(invoke, reviewer or login("--reviewer"), console)


def find_function(outputs: dict[str, str]) -> Invoke:
    """Calls the stack's review function."""
    function, lambdas = outputs["ReviewFunctionName"], open_client("lambda")

    def invoke(event: dict[str, Any]) -> Any:
        answer = lambdas.invoke(FunctionName=function, Payload=json.dumps(event))
        content = json.loads(answer["Payload"].read())
        if "FunctionError" in answer:
            raise CommandError(f"{content.get('errorType', 'The function failed')}.")
        return content

    return invoke


# ---- in a browser


def serve(
    invoke: Invoke, port: int, reviewer: str, console: Console, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Serve the page until Ctrl-C. reviewer: see `serving`. meanwhile: called twice a second."""
    with serving(invoke, port, reviewer) as url:
        console.print(painted("Review the photos that wait: ", (url, f"link {url}"), " (Ctrl-C ends it)"))
        try:
            while True:
                meanwhile()
                time.sleep(0.5)
        except KeyboardInterrupt:
            console.print()


@contextmanager
def serving(invoke: Invoke, port: int, reviewer: str) -> Iterator[str]:
    """The page's address, while the context lasts. Only this machine can reach it.

    Other users of this machine can too, so the address contains a random token that each request needs.

    reviewer: the name stored with answers; empty: the name that the browser remembers, or the login name.
    """
    token = secrets.token_urlsafe(32)
    try:
        server = _Server(("127.0.0.1", port), _handler(invoke, reviewer, token))
    except OSError as error:
        raise CommandError(f"port {port}: {error.strerror}; choose another with --port") from error
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/?token={token}"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    """Each connection is one request, and is closed when the request does not arrive in time."""

    daemon_threads = True

    def __init__(self, *arguments: Any) -> None:
        self.arriving: dict[socket.socket, float] = {}
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        while len(self.arriving) >= MOST_REQUESTS:
            self._end(min(self.arriving, key=self.arriving.__getitem__))
        self.arriving[request] = time.monotonic() + PATIENCE
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        now = time.monotonic()
        for request in [request for request, end in list(self.arriving.items()) if end < now]:
            self._end(request)

    def shutdown_request(self, request: Any) -> None:
        self.arriving.pop(request, None)
        super().shutdown_request(request)

    def _end(self, request: socket.socket) -> None:
        self.arriving.pop(request, None)
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Quiet: a browser may close a connection early, and a bad request gets its reason as the answer."""


def _handler(invoke: Invoke, reviewer: str, token: str) -> type[BaseHTTPRequestHandler]:
    from jinja2 import Environment, FileSystemLoader

    frame = Environment(autoescape=True, loader=FileSystemLoader(TEMPLATES)).get_template("review.html")
    run, fallback = secrets.token_urlsafe(8), ""
    with suppress(CommandError):
        fallback = login("--reviewer")

    class Page(BaseHTTPRequestHandler):
        """GET / is the frame around the widget; POST /call does what CloudWatch does when a button is pressed."""

        timeout = 30  # seconds: for a client that does not read what it is sent

        def do_GET(self) -> None:
            self.arrived()
            path, _, query = self.path.partition("?")
            if refusal := self.find_refusal(path == "/", parse_qs(query).get("token", [""])[0]):
                return self.refuse(*refusal)
            nonce = secrets.token_urlsafe(16)
            policy = (
                f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data:; "
                "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            )
            page = frame.render(nonce=nonce, reviewer=reviewer, fallback=fallback, token=token, run=run)
            return self.answer(200, "text/html", page, {"Content-Security-Policy": policy})

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if self.headers.get("Transfer-Encoding") or not re.fullmatch(r"[0-9]{1,9}", length):
                return self.refuse(411, "A request needs its length in bytes as Content-Length.")
            if int(length) > MAX_EVENT_BYTES:
                return self.refuse(413, f"More than {MAX_EVENT_BYTES:,} bytes.")
            body = self.rfile.read(int(length))
            self.arrived()
            known = self.path == "/call" and self.headers.get_content_type() == "application/json"
            if refusal := self.find_refusal(known, self.headers.get("Authorization", "").removeprefix("Bearer ")):
                return self.refuse(*refusal)
            try:
                event = json.loads(body)
                json.dumps(event, ensure_ascii=False).encode()  # raises for half of a letter, which no call can carry
                if len(body) < int(length) or not isinstance(event, dict):
                    raise ValueError("no whole JSON object")
            except (ValueError, RecursionError):
                return self.refuse(400, "The request is not a JSON object.")
            try:
                return self.answer(200, "application/json", json.dumps({"html": invoke(event)}))
            except Exception as error:  # of any kind: the reviewer must know that the answer may be lost
                return self.refuse(502, str(error))

        def arrived(self) -> None:
            self.server.arriving.pop(self.connection, None)  # type: ignore[attr-defined]

        def find_refusal(self, known: bool, given: str) -> tuple[int, str] | None:
            """Why the request is refused: it comes from a page of another site, or without the token.

            Such a page sends its own name as origin or, if its name resolves to this machine, as host.
            """
            port = self.server.server_port  # type: ignore[attr-defined]
            here = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
            origin = self.headers.get("Origin", "http://127.0.0.1").removeprefix("http://")
            if not known or origin not in {*here, "127.0.0.1"}:
                return 404, "There is nothing here."
            if self.headers.get("Host") not in here:
                return 404, (
                    f"This page answers only as 127.0.0.1:{port} or localhost:{port}. Where the command runs on "
                    f"another machine, forward the port under the same number "
                    f"(ssh -L {port}:127.0.0.1:{port} MACHINE), and open the address that `kickstand review --web` "
                    "printed."
                )
            if not secrets.compare_digest(given.encode("utf-8", "replace"), token.encode()):
                return 403, (
                    "Open the whole address that `kickstand review --web` printed: it ends in a token, which is new at "
                    "each start."
                )
            return None

        def refuse(self, status: int, reason: str) -> None:
            if self.command == "POST":
                return self.answer(status, "application/json", json.dumps({"error": reason}))
            return self.answer(status, "text/plain", f"{reason}\n")

        def answer(self, status: int, media_type: str, text: str, headers: dict[str, str] | None = None) -> None:
            body = text.encode()
            self.send_response(status)
            for name, value in {
                "Content-Type": f"{media_type}; charset=utf-8",
                "Content-Length": str(len(body)),
                "Cache-Control": "no-store",
                "Referrer-Policy": "no-referrer",
                "X-Content-Type-Options": "nosniff",
                **(headers or {}),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quiet: the function logs for itself."""

    return Page


# ---- in the terminal


def review_here(invoke: Invoke, reviewer: str, console: Console) -> None:
    """Show one photo after the other and ask, until none waits or the reviewer quits."""
    event: dict[str, Any] = {"action": "show"}
    last: dict[str, Any] | None = None
    done: Counter[str] = Counter()
    with _keyboard() as read_key:
        while True:
            page = _call(invoke, {**event, "reviewer": reviewer, "format": "json"}, console)
            if page["notice"]:
                console.print(painted((page["notice"], "yellow")))
            elif event["action"] == "answer":
                done[event["label"]] += 1
                last = event
            elif event["action"] == "undo" and last:
                done[last["label"]] -= 1
                last = None
            review = page["review"]
            if review is None:
                waits = page["waiting"]
                console.print(f"Open at other reviewers: {counted(waits, 'photo')}." if waits else "No photo waits.")
            else:
                _show(review, done.total(), page["waiting"], console)
            keys = {key: (label, _words(label)) for key, label in zip(page["keys"], page["choices"], strict=False)}
            keys |= {KEYS[label]: (label, _words(label)) for label in KEYS}
            if review is None:
                keys = {}
            else:
                keys["s"] = ("skip", "skip")
            if last:
                keys["u"] = ("undo", "undo")
            if not keys:
                break
            answer = _ask({**keys, "q": ("quit", "quit")}, console, read_key)
            if answer == "quit":
                break
            key = {"image": review["image"], "version": review["version"]} if review else {}
            if answer == "undo" and last:
                event = {"action": "undo", "image": last["image"], "version": last["version"]}
            elif answer == "skip":
                event = {"action": "skip", **key}
            else:
                event = {"action": "answer", "label": answer, **key}
    given = ", ".join(f"{number} {_words(label)}" for label, number in done.items() if number)
    console.print(f"{done.total()} answered{': ' if given else ''}{given}.")


def _call(invoke: Invoke, event: dict[str, Any], console: Console) -> Any:
    """What the function returns; a second try leaves the drawing out, which may be the cause."""
    try:
        return invoke(event)
    except CommandError as error:
        console.print(painted((f"{error} Trying again without the photo.", "yellow")))
        return invoke({**event, "draw": False})


def _words(label: str) -> str:
    return WORDS.get(label, label)


def _show(shown: dict[str, Any], done: int, waiting: int, console: Console) -> None:
    name = "audit" if shown["why"] == "audit" else shown["name"]
    console.rule(painted(f"{name} ({done} done, {waiting} left)"))
    if shown["picture"] and console.color_system in ("truecolor", "256"):
        console.print(_draw(base64.b64decode(shown["picture"].partition(",")[2])))
    else:
        missing = f"This photo cannot be shown: {shown['missing']}. " if shown["missing"] else ""
        console.print(painted(f"{missing}{shown['image']}"))
    console.print(painted((shown["question"], "bold")))


def _draw(picture: bytes, columns: int = 64) -> Text:
    """The photo in half blocks: a character is two pixels, one above the other."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    rows = max(1, round(columns * image.height / image.width / 2))
    image = image.resize((columns, 2 * rows), Image.Resampling.NEAREST if image.width <= columns else None)
    pixels = image.load()
    assert pixels  # noqa: S101
    text = Text()
    for y in range(0, 2 * rows, 2):
        for x in range(columns):
            (r, g, b), (r2, g2, b2) = pixels[x, y], pixels[x, y + 1]  # type: ignore[misc]
            text.append("▀", f"rgb({r},{g},{b}) on rgb({r2},{g2},{b2})")
        text.append("\n")
    return text


@contextmanager
def _keyboard() -> Iterator[Callable[[bool], str]]:
    """Reads one key; an empty text at the end of the input. Its argument: whether it is the first key about a photo.

    In a terminal, keys typed before the photo was seen are dropped, and so is a key that is held down.
    """
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield _read_input
        return
    import termios
    import tty

    terminal, latest = sys.stdin.fileno(), ""
    before = termios.tcgetattr(terminal)

    def waits(seconds: float) -> bool:
        return bool(select.select([terminal], [], [], seconds)[0])

    def read(first: bool) -> str:
        nonlocal latest
        while True:
            while first and waits(QUIET) and os.read(terminal, 1024):
                pass
            try:
                key = os.read(terminal, 32).decode(errors="replace")
            except (KeyboardInterrupt, OSError):  # OSError: the terminal is closed
                return ""
            if key != latest or not waits(0.1):  # else it is held down
                latest = key
                return "" if key == "\x04" else key

    tty.setcbreak(terminal)
    try:
        yield read
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _read_input(_first: bool) -> str:
    try:
        return typer.getchar()
    except (EOFError, KeyboardInterrupt):
        return ""
    except OSError:
        fail(CommandError(f"there is no terminal here: {NO_TERMINAL}"), code=ExitCode.USAGE)


def _ask(keys: dict[str, tuple[str, str]], console: Console, read_key: Callable[[bool], str]) -> str:
    """The choice that the next key, or the next keys together, stand for."""
    console.print(painted(*(part for key, (_, words) in keys.items() for part in ((key, "bold"), f" {words}  "))))
    typed = ""
    while True:
        key = read_key(not typed).lower()
        if not key:
            return "quit"
        typed += "c" if key == "?" else key
        if typed in keys:
            console.print(f"→ {keys[typed][1]}")
            return keys[typed][0]
        if not any(known.startswith(typed) for known in keys):
            typed = ""
