"""What commands share: where they print and how, and how an error ends them."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(soft_wrap=True, highlight=False)
stderr = Console(stderr=True, soft_wrap=True, highlight=False)  # stdout is for the result alone


class CommandError(Exception):
    """The command cannot do what it is asked to; the message says why, and what to do."""


@contextmanager
def exit_on(*errors: type[Exception]) -> Iterator[None]:
    """A CommandError, and these errors, end the command: one line on stderr and exit code 1."""
    kinds: tuple[type[Exception], ...] = (CommandError, *errors)
    try:
        yield
    except kinds as error:
        stderr.print(f"error: {error}", markup=False)
        raise typer.Exit(1) from error


@contextmanager
def show_progress(*, in_bytes: bool = False, hidden: bool = False) -> Iterator[Progress]:
    """Bars on stderr, gone when they are done; nothing where stderr is no terminal."""
    bars = Console(file=sys.stderr)  # as it is now: it may be diverted meanwhile
    amount = DownloadColumn() if in_bytes else MofNCompleteColumn()
    with Progress(
        *(TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn()),
        console=bars,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        disable=hidden or not bars.is_terminal,
    ) as progress:
        yield progress


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """An OSError becomes a CommandError that names what could not be written."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"{path}: cannot be written ({error.strerror})") from error


class _Diverted(io.TextIOBase):
    """Stands in for stdout while the functions run.

    Powertools' loggers keep for good the stdout that they find at import, so this outlives every single log file.
    """

    target: TextIO | None = None

    def write(self, text: str) -> int:
        return (self.target or sys.__stdout__ or io.StringIO()).write(text)

    def flush(self) -> None:
        if self.target:
            self.target.flush()


_diverted = _Diverted()


@contextmanager
def divert_output(log: Path) -> Iterator[None]:
    """Send what the functions print, their logs and metrics, to a file, and keep the terminal clean."""
    with writing(log):
        file = log.open("w", encoding="utf-8")
    with file, redirect_stdout(_diverted), redirect_stderr(file):
        _diverted.target = file
        try:
            yield
        finally:
            _diverted.target = None


def printable(text: str) -> str:
    r"""The text without what steers a terminal or hides letters: anybody can choose an object's key.

    >>> print(printable("s3://bucket/\x1b[31mred\u202e.png"))
    s3://bucket/\x1b[31mred\u202e.png
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
