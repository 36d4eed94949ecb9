"""What commands share: the one way to print, and how an error ends a command."""

import errno
import getpass
import io
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

TRACEBACK = "KICKSTAND_TRACEBACK"
STDOUT = "standard output"
INTERRUPTED, TERMINATED = 130, 143  # as shells have it: 128 and the number of the signal
LOG_WIDTH = 120  # of a table in a file or a pipe, where nobody wants names broken


class CommandError(Exception):
    """The command cannot do what it is asked to; the message says why, and what to do."""


# ---- printing


def printable(text: str) -> str:
    r"""The text without what steers a terminal or hides letters: anybody can choose an object's key.

    >>> print(printable("s3://bucket/\x1b[31mred\u202e.png"))
    s3://bucket/\x1b[31mred\u202e.png
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Terminal(Console):
    """Prints text as it is, in one line: nothing in it is markup, and `printable` escapes the rest.

    Whatever is printed, cells of tables among it, comes by here. A line of its own is a call of its own.
    """

    def __init__(self, *, to_stderr: bool = False, file: TextIO | None = None) -> None:
        super().__init__(stderr=to_stderr, file=file, soft_wrap=True, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Every string, before its width is measured."""
        return super().render_str(printable(text), **options | {"markup": False, "emoji": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """All the rest, such as a Text that was not made by `painted`."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                lines = "\n".join(map(printable, segment.text.split("\n")))
                yield Segment(lines, segment.style)

    def print(self, *things: Any, **options: Any) -> None:
        try:
            super().print(*things, **options)
        except OSError as error:
            raise _of_a_stream(error, self.stderr) from error

    def table(self, table: Table) -> None:
        """A table as wide as the terminal; wide in a file or a pipe, whatever COLUMNS says."""
        self.print(table, soft_wrap=False, width=None if self.is_terminal else LOG_WIDTH)


console = Terminal()
stderr = Terminal(to_stderr=True)  # stdout is for the result alone


def painted(*parts: str | tuple[str, str]) -> Text:
    """One line of several styles; a part is its text, or text and style."""
    texts = [(part, "") if isinstance(part, str) else part for part in parts]
    return Text.assemble(*((printable(text), style) for text, style in texts))


def print_json(content: Any, indent: int | None = None) -> None:
    """One JSON object on standard output, in ASCII: so no name in it can steer a terminal."""
    if hasattr(content, "model_dump"):
        content = content.model_dump(mode="json")
    try:
        sys.stdout.write(json.dumps(content, indent=indent) + "\n")
        sys.stdout.flush()  # who reads a pipe sees each line when it is there
    except OSError as error:
        raise _of_a_stream(error) from error


def _of_a_stream(error: OSError, is_stderr: bool = False) -> OSError:
    if error.errno != errno.EPIPE and error.filename is None:
        error.filename = "standard error" if is_stderr else STDOUT
    return error


@contextmanager
def show_progress(*, in_bytes: bool = False, hidden: bool = False) -> Iterator[Progress]:
    """Bars on stderr, gone when they are done; nothing where stderr is no terminal."""
    bars = Terminal(file=sys.stderr)  # as it is now: it may be diverted meanwhile
    amount = DownloadColumn() if in_bytes else MofNCompleteColumn()
    with Progress(
        *(TextColumn("{task.description}", markup=False), BarColumn(), amount, TimeRemainingColumn()),
        console=bars,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        disable=hidden or not bars.is_terminal,
    ) as progress:
        yield progress


class _Diverted(io.TextIOBase):
    """Stands in for stdout while the functions run.

    Powertools' loggers keep for good the stdout that they find at import, so this outlives every single log file.
    What they write when there is none is dropped: after Ctrl-C a function may run on for a while.
    """

    target: TextIO | None = None
    failure: OSError | None = None

    def write(self, text: str) -> int:
        if self.target and not self.failure:
            try:
                return self.target.write(text)
            except OSError as error:  # a full disk is no fault of the function that writes its log
                self.failure = error
        return len(text)

    def flush(self) -> None:
        if self.target and not self.failure:
            try:
                self.target.flush()
            except OSError as error:
                self.failure = error


_diverted = _Diverted()


@contextmanager
def divert_output(log: Path) -> Iterator[None]:
    """Send what the functions print, their logs and metrics, to a file, and keep the terminal clean."""

    def incomplete(error: OSError) -> CommandError:
        return CommandError(f"{log}: cannot be written ({error.strerror})")

    try:
        file = log.open("w", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise incomplete(error) from error
    try:
        with redirect_stdout(_diverted), redirect_stderr(_diverted):
            _diverted.target, _diverted.failure = file, None
            try:
                yield
            finally:
                _diverted.target = None
    except BaseException:
        with suppress(OSError):
            file.close()
        raise
    try:
        file.close()
    except OSError as error:
        raise incomplete(error) from error
    if _diverted.failure:
        raise incomplete(_diverted.failure)


# ---- how a command ends


def reason(error: BaseException) -> str:
    """In one line: what, and why."""
    if isinstance(error, OSError) and error.strerror:
        named = error.filename
        name = os.fsdecode(named) if isinstance(named, (str, bytes)) else named
        return error.strerror if name is None else f"{name}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def fail(error: BaseException, remedy: str = "", code: int = 1) -> NoReturn:
    """End the command: one line on stderr, and this exit code."""
    stderr.print(f"error: {reason(error)}{remedy}")
    raise typer.Exit(code) from error


def expect_terminal(instead: str) -> None:
    """End the command with exit code 2 where no key can be pressed. instead: what to do then."""
    if sys.stdin.isatty():
        return
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
    except OSError:
        fail(CommandError(f"there is no terminal here: {instead}"), code=2)


@contextmanager
def exit_on(*errors: type[Exception]) -> Iterator[None]:
    """A CommandError, and these errors, end the command: one line on stderr and exit code 1."""
    kinds: tuple[type[Exception], ...] = (CommandError, *errors)
    try:
        yield
    except BrokenPipeError:
        raise
    except kinds as error:
        fail(error)


@contextmanager
def session() -> Iterator[None]:
    """Around all that a command does: whatever it prints can be printed, and no error ends it in a traceback."""
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        with _termination_unwinds():
            yield
    except (CommandError, OSError) as error:
        if getattr(error, "filename", None) == STDOUT:
            _drop_output()
        stderr.print(f"error: {reason(error)}")
        raise SystemExit(1) from error
    except MemoryError as error:
        stderr.print("error: this machine has too little memory for it")
        raise SystemExit(1) from error
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        stderr.print(
            f"error: internal error, {type(error).__name__}: {reason(error)} ({where}); {TRACEBACK}=1 shows all"
        )
        raise SystemExit(1) from error
    finally:
        _flush()


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C ends a command with one line."""
    try:
        yield
    except KeyboardInterrupt:
        stderr.print("interrupted")
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _termination_unwinds() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: what is half written is cleared away."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _open_streams() -> None:
    """A closed stream (`>&-`) is like /dev/null; else the next file that is opened would take its number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError as error:
        _drop_output()
        if error.errno != errno.EPIPE:
            stderr.print(f"error: {reason(_of_a_stream(error))}")
        raise SystemExit(1) from error


def _drop_output() -> None:
    """What could not be written, Python would try once more at its end."""
    sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


def login(option: str) -> str:
    """The user's name on this machine. Raises CommandError naming the option to say it by, where there is none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError) as error:
        raise CommandError(f"this machine has no name for you: say it by {option}") from error
