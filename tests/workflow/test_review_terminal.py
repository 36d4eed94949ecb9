"""`kickstand review` at a real terminal: which keys count."""

import io
import os
import pty
import select
from typing import Any

import pytest
import typer
from rich.console import Console

from kickstand.review.rules import keys
from kickstand_cli.review import review
from kickstand_cli.review.review import review_here
from kickstand_cli.terminal import CommandError


class Terminal:
    """A terminal with a person, and a function that shows one photo after the other."""

    def __init__(self, labels: list[str]) -> None:
        self.labels, self.events = labels, []  # type: ignore[var-annotated]
        self.person, self.stdin = pty.openpty()

    def invoke(self, event: dict[str, Any]) -> dict[str, Any]:
        """Answers as the function does; the person presses what the photo's name says once it has been shown."""
        self.events.append(event)
        number = sum(event["action"] == "answer" for event in self.events)
        return {
            "notice": "",
            "waiting": 9 - number,
            "choices": [*self.labels, "neither", "cannot_tell"],
            "keys": keys(len(self.labels)),
            "review": {
                "image": f"s3://b/{number}",
                "version": "v",
                "name": str(number),
                "why": "unsure",
                "picture": "",
                "missing": "gone",
                "question": "What?",
                "action": "answer",
            },
        }

    def answers(self) -> list[str]:
        return [event["label"] for event in self.events if event["action"] == "answer"]


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is pressed before each time that a photo has been there for a moment, and after it."""
    presses: list[Any] = []
    wait = select.select

    def look(read: list[int], write: list[int], error: list[int], seconds: float) -> Any:
        found = wait(read, write, error, 0.05)
        if seconds == review.QUIET and not found[0] and presses:
            presses.pop(0)()
        return found

    monkeypatch.setattr(select, "select", look)
    return presses


def at(terminal: Terminal, presses: list[Any], *keys: str) -> str:
    """What the command prints to a person who presses these keys, each when the photo has been seen."""
    presses += [lambda key=key: os.write(terminal.person, key.encode()) for key in keys]
    console = Console(record=True, width=200, file=io.StringIO())
    with os.fdopen(terminal.stdin, "r", closefd=False) as stdin, pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.stdin", stdin)
        review_here(terminal.invoke, "Ada", console)
    return console.export_text()


def test_labels_of_two_keys_can_all_be_pressed(quiet: list[Any]) -> None:
    terminal = Terminal([f"label {number}" for number in range(40)])
    said = at(terminal, quiet, "21", "19", "q")
    assert terminal.answers() == ["label 9", "label 8"]
    assert "2 answered: 1 label 9, 1 label 8." in said


def test_a_key_that_is_held_down_answers_one_photo(quiet: list[Any]) -> None:
    terminal = Terminal(["bicycle", "motorcycle"])
    at(terminal, quiet, "1", "1111111", "2", "q")
    assert terminal.answers() == ["bicycle", "motorcycle"]


def test_the_last_answer_is_undone_by_a_key(quiet: list[Any]) -> None:
    terminal = Terminal(["bicycle", "motorcycle"])
    said = at(terminal, quiet, "1", "u", "2", "q")
    assert [event["action"] for event in terminal.events] == ["show", "answer", "undo", "answer"]
    assert terminal.events[2]["image"] == "s3://b/0"
    assert "1 answered: 1 motorcycle." in said


def test_without_a_terminal_the_command_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(["bicycle"])
    monkeypatch.setattr(typer, "getchar", lambda: os.open("/no/terminal", os.O_RDONLY))
    with pytest.raises(typer.Exit) as ended:
        review_here(terminal.invoke, "Ada", Console(file=io.StringIO()))
    assert ended.value.exit_code == 2
    assert isinstance(ended.value.__cause__, CommandError)
    assert "use --web" in str(ended.value.__cause__)
