"""What commands share: the one way to print, and how an error ends a command."""

import errno
import getpass
import io
import os
import shlex
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn, Self, TextIO, cast

import typer
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from kickstand.text import REASON_AT_MOST, dump_json, printable

TRACEBACK = "KICKSTAND_TRACEBACK"
STDOUT = "standard output"
LOG_WIDTH = 120  # characters, of a table in a file or a pipe


class ExitCode(IntEnum):
    """How a command ends; the meanings are the table in docs/cli.md."""

    meaning: str

    def __new__(cls, number: int, meaning: str) -> Self:
        code = int.__new__(cls, number)
        code._value_, code.meaning = number, meaning
        return code

    OK = 0, "done, and all is well"
    ERROR = (
        1,
        "an error: one line on standard error names the input and the reason (no line if the pipe was closed)",
    )
    USAGE = (
        2,
        "the command line is wrong: an unknown option, a value out of range, or an interactive command without a "
        "terminal",
    )
    REFUSED = 3, "refused: the data cannot support the request"
    ATTENTION = 4, "done, and a person must do something: the output says what"
    INTERRUPTED = 130, "stopped by Ctrl-C; partial output is removed"
    TERMINATED = 143, "stopped by SIGTERM; partial output is removed"


class CommandError(Exception):
    """The command cannot do its work; the message says why, and what to do."""


# ---- printing


class Terminal(Console):
    """Prints each text on one line, without markup, and escaped by `printable`; cells of tables too."""

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
        """A table as wide as the terminal; wide in a file or a pipe, whatever COLUMNS says.

        A Name is shortened, a last column of text is wrapped, and the rest stays whole. In a terminal that is too
        narrow for that, each row is a paragraph with a line for each of its cells. The title is a line of its own.
        """
        if table.title:
            self.print(table.title)
            table.title = None
        options = self.options.update(width=self.width if self.is_terminal else LOG_WIDTH)
        last = table.columns[-1]
        last.overflow = "fold"
        for column in table.columns:
            column.no_wrap = not (
                any(isinstance(cell, Name) for cell in column.cells) or (column is last and last.justify == "left")
            )
            column.max_width = None if column.no_wrap else Name.LEAST
        fits = Measurement.get(self, options.update(width=sys.maxsize), table).maximum <= options.max_width
        for column in table.columns:
            column.max_width = None
        shown = table if fits else _as_paragraphs(table, options.max_width)
        self.print(Segments(self.render(shown, options)), end="")


class Name:
    """A file's or a photo's name in a table: where there is too little room, its middle is left out.

    >>> Name("s3://photos/2026/11/29/bike.jpg").shorten(20)
    's3://phot…9/bike.jpg'
    """

    LEAST = 16

    def __init__(self, name: object) -> None:
        self._letters = [printable(letter) for letter in str(name)]

    def shorten(self, width: int) -> str:
        """At most this many characters; an escaped one is kept whole."""
        if cell_len(name := "".join(self._letters)) <= width:
            return name
        half = max(width - 1, 0) // 2
        return f"{_fit(self._letters, width - 1 - half)}…{_fit(self._letters, half, from_end=True)}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Text]:
        yield Text(self.shorten(options.max_width), no_wrap=True)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        width = cell_len("".join(self._letters))
        return Measurement(min(width, self.LEAST), width).with_maximum(options.max_width)


def _fit(letters: Sequence[str], width: int, *, from_end: bool = False) -> str:
    """As many letters as fit; one may be two cells wide, or escaped."""
    kept = list(letters)
    while cell_len("".join(kept)) > width:
        kept.pop(0 if from_end else -1)
    return "".join(kept)


def _as_paragraphs(table: Table, width: int) -> Table:
    """A line for each cell, after the header of its column or below it; an empty line after each row."""
    headers = [str(column.header) for column in table.columns]
    beside = max(map(cell_len, headers)) + 2 + Name.LEAST <= width
    lines = Table.grid(padding=(0, 2 * beside, 0, 0))
    lines.add_column(no_wrap=beside, overflow="fold")
    lines.add_column(overflow="fold")
    for row in zip(*(column.cells for column in table.columns), strict=True):
        for header, cell in zip(headers, row, strict=True):
            for parts in [(header, cell)] if beside else [(header,), (cell,)]:
                if cell and parts[0]:
                    lines.add_row(*parts)
        lines.add_row()
    return lines


def spell_command(*words: object) -> str:
    """A command to copy into a shell, with the program as the user can call it."""
    program = sys.argv[0] if Path(sys.argv[0]).name == "kickstand" and not shutil.which("kickstand") else "kickstand"
    return shlex.join([program, *map(str, words)])


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

console = Terminal()
stderr = Terminal(to_stderr=True)  # stdout is for the result alone


def painted(*parts: str | tuple[str, str]) -> Text:
    """One line of several styles; a part is its text, or text and style."""
    texts = [(part, "") if isinstance(part, str) else part for part in parts]
    return Text.assemble(*((printable(text), style) for text, style in texts))


def print_json(content: Any, indent: int | None = None) -> None:
    """One JSON object on standard output, in ASCII: no name in it can send control characters to a terminal."""
    if hasattr(content, "model_dump"):
        content = content.model_dump(mode="json")
    try:
        sys.stdout.write(dump_json(content, indent) + "\n")
        sys.stdout.flush()  # a reader of a pipe sees each line at once
    except OSError as error:
        raise _of_a_stream(error) from error


@contextmanager
def naming_stdout() -> Iterator[None]:
    """An OSError in the block is one of standard output: Typer prints help by itself."""
    try:
        yield
    except OSError as error:
        raise _of_a_stream(error) from error


def _of_a_stream(error: OSError, is_stderr: bool = False) -> OSError:
    if error.errno != errno.EPIPE and error.filename is None:
        error.filename = "standard error" if is_stderr else STDOUT
    return error


@contextmanager
def show_progress(*, in_bytes: bool = False, hidden: bool = False) -> Iterator[Progress]:
    """Progress bars on stderr, removed at the end; none where stderr is not a terminal."""
    bars = Terminal(file=sys.stderr)  # the present one: it may be diverted later
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
    """Replaces stdout while the functions run.

    Powertools' loggers keep the stdout that they find at import, so this object outlives each log file. Text without a
    log file is dropped: after Ctrl-C a function may still run for a while.
    """

    target: TextIO | None = None
    failure: OSError | None = None

    def write(self, text: str) -> int:
        if self.target and not self.failure:
            try:
                return self.target.write(text)
            except OSError as error:  # a full disk is not an error of the function that logs
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
    """Write the logs and metrics of the functions to a file instead of the terminal."""

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
    """The error in one line: what, and why."""
    if isinstance(error, OSError) and error.strerror:
        named = error.filename
        name = os.fsdecode(named) if isinstance(named, (str, bytes)) else named
        return error.strerror if name is None else f"{name}: {error.strerror}"
    if type(error).__name__ == "ValidationError":  # pydantic's is several lines, with addresses; --help imports none
        from kickstand.errors import first_complaint

        return first_complaint(cast("ValueError", error))
    return " ".join(str(error).split()) or type(error).__name__


def fail(error: BaseException, remedy: str = "", code: int = 1) -> NoReturn:
    """End the command: one line on stderr, and this exit code."""
    stderr.print(f"error: {reason(error)}{remedy}")
    raise typer.Exit(code) from error


def expect_terminal(instead: str) -> None:
    """End the command with exit code 2 where there is no terminal. instead: what to do then."""
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
    """Around a whole command: unprintable characters are replaced, and no error ends in a traceback."""
    _open_streams()
    os.environ.pop("MPLBACKEND", None)  # charts go to files, and a wrong name would end matplotlib's import
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
        stderr.print("error: this machine has too little memory for this command")
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
        raise typer.Exit(ExitCode.INTERRUPTED) from None


@contextmanager
def _termination_unwinds() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: partial output is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise SystemExit(ExitCode.TERMINATED)

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
    """Else Python would try to write the rest once more at its end."""
    sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


def check_words(text: str, option: str) -> str:
    """The option's text, without spaces around it. Raises BadParameter if it is empty or too long."""
    text = text.strip()
    if not 0 < len(text) <= REASON_AT_MOST:
        length = f"{len(text):,} characters, more than {REASON_AT_MOST:,}" if text else "it must not be empty"
        raise typer.BadParameter(length, param_hint=option)
    return text


def login(option: str) -> str:
    """The user's login name. Raises CommandError, which names the option to give instead, where there is none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError) as error:
        raise CommandError(f"this machine does not know your login name: give it with {option}") from error
