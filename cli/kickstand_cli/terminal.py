"""What commands share: where they print and how, and how an error ends them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

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
def show_progress(*, in_bytes: bool = False) -> Iterator[Progress]:
    """Bars on stderr, gone when they are done; nothing where stderr is no terminal."""
    bars = Console(file=sys.stderr)  # as it is now: it may be diverted meanwhile
    amount = DownloadColumn() if in_bytes else MofNCompleteColumn()
    with Progress(
        *(TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn()),
        console=bars,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        disable=not bars.is_terminal,
    ) as progress:
        yield progress


def printable(text: str) -> str:
    r"""The text without what steers a terminal or hides letters: anybody can choose an object's key.

    >>> print(printable("s3://bucket/\x1b[31mred\u202e.png"))
    s3://bucket/\x1b[31mred\u202e.png
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
