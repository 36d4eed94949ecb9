"""`kickstand review` and `kickstand demo --review`, the whole commands."""

import base64
import io
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner, Result

from kickstand.classify.inference import EmbeddedModel
from kickstand.events import ReviewStatus, Route
from kickstand_cli.classify.classify import answer
from kickstand_cli.local.stack import Stack, deploy
from kickstand_cli.main import app
from kickstand_cli.project import MODEL, PROJECT, TEMPLATE
from kickstand_cli.review import review as command

UNSURE = {"route": "review", "reason": "unsure", "explanation": "bicycle with confidence 0.612, accepted from 0.900"}


@pytest.fixture
def stack() -> Iterator[Stack]:
    """Three photos wait for a person."""
    with deploy(TEMPLATE, {"AuditRate": "0"}) as stack:
        stack.functions["DecideFunction"].handler = lambda event, context: UNSURE
        for number in (1, 2, 3):
            file = io.BytesIO()
            Image.new("RGB", (80, 60), "grey").save(file, "PNG")
            stack.upload(f"[bold]{number}.png", file.getvalue())
            stack.settle()
        yield stack


def review(stack: Stack, tmp_path: Path, keys: str) -> Result:
    """The command at a terminal where these keys are pressed."""
    outputs = tmp_path / "outputs.json"
    outputs.write_text(json.dumps(stack.outputs))
    arguments = ["review", "--outputs", str(outputs), "--reviewer", "Ada"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "expect_terminal", lambda _: None)
        return CliRunner().invoke(app, arguments, input=keys)


def test_where_no_key_can_be_pressed_one_line_says_what_to_do() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "from kickstand_cli.main import app; app()", "review"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,  # it has no terminal, not even as /dev/tty
    )
    said = "error: there is no terminal here: use --web, or run the command in a terminal\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", said)


def test_a_key_that_steers_terminals_is_escaped_on_any_console_and_256_colours_show_the_picture() -> None:
    out, page = io.StringIO(), io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(page, "PNG")
    picture = f"data:image/png;base64,{base64.b64encode(page.getvalue()).decode()}"
    shown = {"name": "bike\x1b]0;PWNED\x07\n.png", "why": "unsure", "question": "\x1b[2Jgone", "picture": picture}
    command._show(shown, 0, 1, Console(file=out, force_terminal=True, color_system="256", width=80))
    assert r"bike\x1b]0;PWNED\x07\n.png" in out.getvalue()
    assert "\x1b[2J" not in out.getvalue()
    assert "▀" in out.getvalue()


def test_the_terminal_shows_one_photo_after_the_other_and_takes_an_answer_by_key(stack: Stack, tmp_path: Path) -> None:
    result = review(stack, tmp_path, "2xs1?")
    assert result.exit_code == 0, result.output
    stack.settle()
    answers = [review.answer and review.answer.label for review in stack.reviews()]
    assert sorted(str(answer) for answer in answers) == ["bicycle", "cannot_tell", "motorcycle"]
    for words in ("[bold]1.png (0 done, 3 left)", "What does this photo show?", "1 bicycle  2 motorcycle", "2 left"):
        assert words in result.output
    assert "No photo waits." in result.output
    assert "3 answered: 1 motorcycle, 1 bicycle, 1 can't tell." in result.output
    assert "0.612" not in result.output  # a number that leads the reviewer


def test_the_terminal_can_be_left_at_any_time(stack: Stack, tmp_path: Path) -> None:
    assert "0 answered" in review(stack, tmp_path, "q").output
    assert "1 answered" in review(stack, tmp_path, "n").output  # the input ends
    assert {review.status for review in stack.reviews()} == {ReviewStatus.ANSWERED, ReviewStatus.WAITING}


def test_a_stack_without_reviews_is_said_to_be_none_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "expect_terminal", lambda _: None)
    outputs = tmp_path / "outputs.json"
    outputs.write_text("{}")
    result = CliRunner().invoke(app, ["review", "--outputs", str(outputs)])
    assert result.exit_code == 1
    assert "it is not a Kickstand stack, or an older one" in result.stderr


def unsure_sample() -> Path:
    """A shipped sample that goes to review."""
    model = EmbeddedModel(MODEL)
    for path in sorted((PROJECT / "samples/images").rglob("*.jpg")):
        if answer(path.read_bytes(), path.name, model).decision.route is Route.REVIEW:
            return path
    raise AssertionError("no sample goes to review")


def call(url: str, **event: Any) -> str:
    """What a button of the page does."""
    page, _, token = url.partition("?token=")
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{page}call", json.dumps(event).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        html: str = json.load(answer)["html"]
    return html


def test_an_answer_during_the_demo_shows_in_its_records_and_its_ledger(tmp_path: Path) -> None:
    command = [*("demo", "--review", "--port", "0", "--out", str(tmp_path)), "--images", str(unsure_sample())]
    demo = subprocess.Popen(
        [sys.executable, "-c", "from kickstand_cli.main import app; app()", *command],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores Ctrl-C
    )
    assert demo.stdout
    try:
        said: list[str] = []
        while "http://" not in (said[-1:] or [""])[0]:
            said.append(demo.stdout.readline())
            assert said[-1], "".join(said)
        url = next(word for word in said[-1].split() if word.startswith("http://"))
        assert "1 waiting + 0 reviewed" in "".join(said)
        with urllib.request.urlopen(url) as answer:
            assert "Kickstand · review" in answer.read().decode()
        assert '<b data-count="left">1</b> left' in call(url, reviewer="Ada")
        (waiting,) = map(json.loads, (tmp_path / "records.jsonl").read_text("utf-8").splitlines())
        assert waiting["review"] is None
        key = {"image": waiting["image"], "version": waiting["version"]}
        assert "Nothing to do" in call(url, reviewer="Ada", action="answer", label="motorcycle", **key)
    finally:
        demo.send_signal(signal.SIGINT)
        said.append(demo.communicate()[0])
    assert demo.returncode == 0
    assert "0 waiting + 1 reviewed" in said[-1]
    (answered,) = map(json.loads, (tmp_path / "records.jsonl").read_text("utf-8").splitlines())
    assert answered["review"]["answer"]["label"] == "motorcycle"
    assert json.loads((tmp_path / "ledger.json").read_text())["reviewed"] == 1
