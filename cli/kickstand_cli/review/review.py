"""`kickstand review`: look at the photos that wait for a person, in a browser or right here."""

import base64
import io
import json
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

import boto3
import typer
from PIL import Image
from rich.console import Console
from rich.text import Text

from kickstand_cli.deployment import DEFAULT_STACK, OutputsFile, StackName, read_outputs, reporting
from kickstand_cli.terminal import CommandError, console, expect_terminal, fail, login, painted

Invoke = Callable[[dict[str, Any]], Any]
DEFAULT_PORT = 8765
MAX_EVENT_BYTES = 100_000
NO_TERMINAL = "use --web, or run it in a terminal"
KEYS = {"neither": "n", "cannot_tell": "?"}
TEMPLATES = Path(__file__).parents[1] / "templates"


def review(
    web: Annotated[bool, typer.Option("--web", help="As a page in your browser, on this machine only.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0 for any.")] = DEFAULT_PORT,
    reviewer: Annotated[str, typer.Option(metavar="NAME", help="Who you are: kept with your answers.")] = "",
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
) -> None:
    """Decide about the photos that the model is unsure of. Calls the deployed stack's review function."""
    if not web:
        expect_terminal(NO_TERMINAL)
    with reporting():
        invoke = find_function(read_outputs(stack_name, outputs))
        if web:
            serve(invoke, port, reviewer or login("--reviewer"), console)
        else:
            review_here(invoke, reviewer or login("--reviewer"), console)


def find_function(outputs: dict[str, str]) -> Invoke:
    """Calls the stack's review function."""
    function, lambdas = outputs["ReviewFunctionName"], boto3.client("lambda")

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
    """Serve the page until Ctrl-C. meanwhile: called twice a second."""
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
    """The page's address, for as long as the context lasts. Only this machine can reach it."""
    try:
        server = _Server(("127.0.0.1", port), _handler(invoke, reviewer))
    except OSError as error:
        raise CommandError(f"port {port}: {error.strerror}; choose another with --port") from error
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Quiet when a browser goes away in the middle."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(invoke: Invoke, reviewer: str) -> type[BaseHTTPRequestHandler]:
    from jinja2 import Environment, FileSystemLoader

    frame = Environment(autoescape=True, loader=FileSystemLoader(TEMPLATES)).get_template("review.html")

    class Page(BaseHTTPRequestHandler):
        """GET / is the frame around the widget, POST /call what CloudWatch does when a button is pressed."""

        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if not self._is_ours() or self.path != "/":
                return self._send(404, "text/plain", "There is nothing here.")
            nonce = secrets.token_urlsafe(16)
            policy = (
                f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data:; "
                "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            )
            page = frame.render(nonce=nonce, reviewer=reviewer)
            return self._send(200, "text/html", page, **{"Content-Security-Policy": policy})

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if not self._is_ours() or self.path != "/call" or length > MAX_EVENT_BYTES:
                self.close_connection = True
                return self._send(404, "text/plain", "There is nothing here.")
            try:
                return self._send(
                    200, "application/json", json.dumps({"html": invoke(json.loads(self.rfile.read(length)))})
                )
            except Exception as error:  # whatever it is, the reviewer has to know that the answer may be lost
                return self._send(502, "application/json", json.dumps({"error": str(error)}))

        def _is_ours(self) -> bool:
            """Not a page of another site that makes this browser ask: neither by its own name, nor by ours."""
            here = {f"{name}:{self.server.server_port}" for name in ("127.0.0.1", "localhost")}  # type: ignore[attr-defined]
            origin = self.headers.get("Origin", "http://127.0.0.1").removeprefix("http://")
            json_only = self.command == "GET" or self.headers.get_content_type() == "application/json"
            return self.headers.get("Host") in here and origin in {*here, "127.0.0.1"} and json_only

        def _send(self, status: int, media_type: str, text: str, **headers: str) -> None:
            body = text.encode()
            self.send_response(status)
            for name, value in {
                "Content-Type": f"{media_type}; charset=utf-8",
                "Content-Length": str(len(body)),
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quiet: the function logs for itself."""

    return Page


# ---- in the terminal


def review_here(invoke: Invoke, reviewer: str, console: Console) -> None:
    """Show one photo after the other and ask, until none waits or the reviewer has had enough."""
    event: dict[str, Any] = {"action": "show"}
    given = 0
    while True:
        page = invoke({**event, "reviewer": reviewer, "format": "json"})
        if page["notice"]:
            console.print(painted((page["notice"], "yellow")))
        elif event["action"] == "answer":
            given += 1
        if page["review"] is None:
            console.print("Nothing waits." if not page["waiting"] else f"{page['waiting']} are in front of others.")
            break
        _show(page["review"], page["waiting"], console)
        keys = {KEYS.get(label, str(number)): label for number, label in enumerate(page["choices"], start=1)}
        answer = _ask({**keys, "s": "skip", "q": "quit"}, console)
        if answer == "quit":
            break
        key = {"image": page["review"]["image"], "version": page["review"]["version"]}
        event = {"action": "skip", **key} if answer == "skip" else {"action": "answer", "label": answer, **key}
    console.print(f"{given} answered.")


def _show(shown: dict[str, Any], waiting: int, console: Console) -> None:
    console.rule(painted(f"{shown['name']} ({waiting} waiting)"))
    if shown.get("picture") and console.color_system in ("256", "truecolor"):
        console.print(_draw(base64.b64decode(shown["picture"].partition(",")[2])))
    else:
        console.print(painted(shown["missing"] or shown["image"]))
    console.print(painted((shown["explanation"], "dim")))


def _draw(picture: bytes, columns: int = 64) -> Text:
    """The picture in half blocks: a character is two pixels, one above the other."""
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


def _ask(keys: dict[str, str], console: Console) -> str:
    """What the next key stands for."""
    shown = [part for key, words in keys.items() for part in ((key, "bold"), f" {words.replace('_', ' ')}  ")]
    console.print(painted(*shown))
    while True:
        try:
            key = typer.getchar().lower()
        except (EOFError, KeyboardInterrupt):
            key = ""
        except OSError:
            fail(CommandError(f"there is no terminal here: {NO_TERMINAL}"), code=2)
        if not key:
            return "quit"
        if key in keys:
            console.print(f"→ {keys[key].replace('_', ' ')}")
            return keys[key]
