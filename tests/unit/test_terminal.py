"""Whatever a command prints: no name steers the terminal, no terminal ends the command, and no error a traceback."""

import ast
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic_core import from_json
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner, Result

from kickstand_cli import main, terminal
from kickstand_cli.main import app
from kickstand_cli.project import PROJECT
from kickstand_cli.terminal import (
    CommandError,
    Name,
    Terminal,
    console,
    painted,
    print_json,
    show_progress,
    spell_command,
)

HOSTILE = "a\x1b]0;PWNED\x07\x9b2J\u202e\n\r\udc80[red]b[/] :bike:"
SHOWN = r"a\x1b]0;PWNED\x07\x9b2J\u202e\n\r\udc80[red]b[/] :bike:"


def printed(*things: Any, width: int = 200) -> str:
    out = io.StringIO()
    Terminal(file=out).print(*things, width=width)
    return out.getvalue()


def table(cell: Any) -> Table:
    of_names = Table("name", title=cell, caption=cell)
    of_names.add_column(cell)
    of_names.add_row("", cell)
    return of_names


@pytest.mark.parametrize(
    "thing",
    [HOSTILE, painted(HOSTILE), painted("the key ", (HOSTILE, "bold red")), table(HOSTILE), table(painted(HOSTILE))],
    ids=["text", "painted", "styled", "table", "painted table"],
)
def test_what_is_printed_is_escaped_wherever_it_stands(thing: Any) -> None:
    assert SHOWN in printed(thing)
    assert all(character.isprintable() or character == "\n" for character in printed(thing))


def test_even_a_text_that_was_made_elsewhere_steers_no_terminal() -> None:
    assert "\x1b" not in printed(Text("\x1b[2J")) + printed(table(Text("\x1b[2J\x9b")))


def test_a_bar_shows_a_name_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    with show_progress() as progress:
        progress.update(progress.add_task("[link=x]a\x1b]0;PWNED"), advance=1)
    assert r"[link=x]a\x1b]0;" in screen.getvalue()
    assert "\x1b]" not in screen.getvalue()


def test_json_is_ascii_and_every_reader_takes_it(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({HOSTILE: "é"})
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    assert from_json(out) == {HOSTILE.replace("\udc80", r"\udc80"): "é"}


ELSEWHERE = ("rich.console", "rich.markup", "rich.text", "rich.progress", "rich.live", "rich.rule", "rich.panel")
DRAWS = {"review/review.py": {"rich.console", "rich.text"}}  # the photo, in half blocks


def own_ways(file: Path) -> Iterator[str]:
    """Where this module prints, or could, by another way than the terminal's."""
    allowed = DRAWS.get(file.relative_to(PROJECT / "cli/kickstand_cli").as_posix(), set())
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        match node:
            case ast.ImportFrom(module=str(module)) if module in ELSEWHERE and module not in allowed:
                names = {name.name for name in node.names}
                if names != {"Progress"}:  # as a type
                    yield f"{node.lineno}: from {module}"
            case ast.Import(names=names) if any(name.name.split(".")[0] == "rich" for name in names):
                yield f"{node.lineno}: import rich"
            case ast.Call(func=ast.Name(id="print")):
                yield f"{node.lineno}: print"
            case ast.Call(func=ast.Attribute(attr="echo" | "secho" | "echo_via_pager")):
                yield f"{node.lineno}: echo"
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="stdout" | "stderr"), attr="write")):
                yield f"{node.lineno}: write"
            case ast.keyword(arg="markup", value=ast.Constant(value=True)):
                yield f"{node.value.lineno}: markup"


def test_no_command_prints_by_a_way_of_its_own() -> None:
    files = sorted((PROJECT / "cli/kickstand_cli").rglob("*.py"))
    found = {file.name: ways for file in files if file.name != "terminal.py" and (ways := list(own_ways(file)))}
    assert found == {}


@pytest.mark.parametrize("line", ["print(1)", "typer.echo(1)", "sys.stdout.write('')", "from rich.text import Text"])
def test_such_a_way_would_be_found(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "PROJECT", tmp_path)
    (file := tmp_path / "cli/kickstand_cli/new.py").parent.mkdir(parents=True)
    file.write_text(line)
    assert list(own_ways(file))


@pytest.mark.parametrize("width", [52, 80, 120])
@pytest.mark.parametrize(
    "name", ["s3://photos/2026/11/29/front-door-camera-2/IMG_000123.jpg", "自転車/" * 12 + "é.png"]
)
def test_a_name_in_a_table_is_shortened_in_its_middle_and_never_wrapped(
    name: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "LOG_WIDTH", width)
    out = io.StringIO()
    table = Table("photo", "n", "why")
    table.add_row(Name(name), "123,456", "too dark " * 8)
    Terminal(file=out).table(table)
    (row,) = [line for line in out.getvalue().splitlines() if "123,456" in line]
    assert row.split()[1].startswith(name[:3])
    assert row.split()[1].endswith(name[-4:])
    assert all(cell_len(line) <= width for line in out.getvalue().splitlines())


def test_in_a_terminal_that_is_too_narrow_each_row_is_a_paragraph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "LOG_WIDTH", 30)
    out = io.StringIO()
    table = Table("photo", "n", title="all photos")
    table.add_column("dollars", justify="right")
    table.add_row(Name("front-door-camera-2/IMG_000123.jpg"), "123,456", "1,234.50")
    table.add_row(Name("a.jpg"), "", "0.10")
    Terminal(file=out).table(table)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    shown = Name("front-door-camera-2/IMG_000123.jpg").shorten(21)
    assert lines == ["all photos", f"photo    {shown}", "n        123,456", "dollars  1,234.50", "",
                     "photo    a.jpg", "dollars  0.10", ""]  # fmt: skip


@pytest.mark.parametrize("width", [12, 20])
def test_in_a_very_narrow_terminal_a_cell_is_below_its_header(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "LOG_WIDTH", width)
    out = io.StringIO()
    table = Table("photo", "its confidence")
    table.add_row("", "0.99961")
    Terminal(file=out).table(table)
    assert "".join(line.strip() for line in out.getvalue().splitlines()) == "its confidence0.99961".replace(
        " ", "" if width == 12 else " "
    )


def test_an_escaped_letter_of_a_name_is_never_cut() -> None:
    name = Name("\x1b" * 20)
    assert {name.shorten(width).replace(r"\x1b", "") for width in range(9, 80)} == {"…"}


def test_a_command_to_copy_names_the_program_as_it_was_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [".venv/bin/kickstand", "train"])
    assert spell_command("demo", "--images", Path("my photos")) == ".venv/bin/kickstand demo --images 'my photos'"
    (tmp_path / "kickstand").touch(mode=0o755)
    assert spell_command("demo") == "kickstand demo"


# ---- how a command ends


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ends a command of the real command line in this error."""

    def end(error: BaseException) -> Result:
        command = typer.Typer(add_completion=False)

        @command.command()
        def demo() -> None:
            console.print("half of it")
            raise error

        loaded = typer.main.get_command(command)
        monkeypatch.setattr(main.Deferred, "load", lambda _: loaded)
        return CliRunner().invoke(app, ["demo"])

    return end


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (CommandError(f"{HOSTILE}: wrong"), 1, r"error: a\x1b]0;PWNED\x07\x9b2J\u202e \udc80[red]b[/] :bike:: wrong"),
        (FileNotFoundError(2, "No such file or directory", "x.json"), 1, "error: x.json: No such file or directory"),
        (OSError(28, "No space left on device"), 1, "error: No space left on device"),
        (MemoryError(), 1, "error: this machine has too little memory for this command"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (typer.BadParameter("[red]\x1b[2J"), 2, None),
    ],
)
def test_an_error_ends_a_command_in_one_line(ending: Any, error: BaseException, code: int, line: str | None) -> None:
    result = ending(error)
    assert (result.exit_code, result.stdout) == (code, "half of it\n")
    assert line is None or result.stderr == f"{line}\n"
    assert "\x1b" not in result.stderr


def test_an_error_of_our_own_is_named_as_such_with_its_place(ending: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    result = ending(ZeroDivisionError("by\nnothing"))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: internal error, ZeroDivisionError: by nothing (test_terminal.py, line ")
    monkeypatch.setenv("KICKSTAND_TRACEBACK", "1")
    assert isinstance(ending(ZeroDivisionError("by nothing")).exception, ZeroDivisionError)


def test_a_mistake_in_the_command_line_is_told_without_its_escape_sequences() -> None:
    for words in (["clas\x1b[2Jsify"], ["classify", "--mo\x1b[2J"]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 2
        assert "\x1b" not in result.output
        assert r"\x1b[2J" in result.output


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize(
    "command",
    ["load-test --rate", "load-test --waves", "ledger --grace", "ledger --wait", "policy --review-cost",
     "cost --growth", "monitor --false-alarms", "replay --neither-accept-at-most", "dataset check x --near",
     "policy --confidence"],
)  # fmt: skip
def test_a_number_that_is_none_is_refused(command: str, number: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), number])
    assert result.exit_code == 2, result.output
    assert command.split()[-1] in result.output


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1" + "0" * 13])
@pytest.mark.parametrize(
    "command",
    ["cost --retention-days", "train x --folds", "train x --seed", "demo --limit", "dataset fetch --neither",
     "monitor --photos-a-day", "policy --error-cost"],
)  # fmt: skip
def test_a_number_beyond_all_use_is_refused(command: str, number: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), number])
    assert result.exit_code == 2, result.output
    assert command.split()[-1] in result.output


def test_a_file_that_may_not_be_read_is_no_usage_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Typer would refuse it, and with it all the others."""
    (secret := tmp_path / "secret.jpg").write_bytes(b"x")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != secret)
    result = CliRunner().invoke(app, ["classify", str(secret), str(PROJECT / "samples/images/bicycle/ridden.jpg")])
    assert result.exit_code == 0, result.output
    assert "ridden.jpg  accept  bicycle" in result.stdout


# ---- streams

PRINT = """
import sys
from kickstand_cli.terminal import console, print_json, session
with session():
    console.print("déjà → vu \\udc80")
    print_json({"é": 1})
    raise SystemExit(0)
"""


def python(code: str, redirect: str = "", **environment: str) -> tuple[int, bytes, bytes]:
    command = f"{sys.executable} -c '{code}' {redirect}"
    path = os.pathsep.join([str(PROJECT / "layers/core"), str(PROJECT / "cli")])
    settings = {"PATH": os.environ["PATH"], "PYTHONPATH": path, **environment}
    ran = subprocess.run(["bash", "-c", command], env=settings, capture_output=True, check=False)
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.parametrize(
    ("encoding", "line"),
    [
        ("utf-8", "déjà → vu"),
        ("cp1252", "déjà ? vu"),
        ("latin-1", "déjà ? vu"),
        ("ascii", "d?j? ? vu"),
        ("utf-16", "déjà → vu"),
    ],
)
def test_what_a_stream_cannot_hold_is_replaced(encoding: str, line: str) -> None:
    code, out, err = python(PRINT, PYTHONIOENCODING=encoding)
    assert (code, err) == (0, b"")
    assert out.decode(encoding).splitlines() == [rf"{line} \udc80", r'{"\u00e9": 1}']


@pytest.mark.parametrize(
    ("redirect", "code", "said"),
    [
        (">&-", 0, b""),
        (">&- 2>&- <&-", 0, b""),
        (">/dev/full", 1, b"error: standard output: No space left on device\n"),
        ("| true; exit ${PIPESTATUS[0]}", 1, b""),
    ],
)
def test_a_stream_that_cannot_be_written_to_ends_in_no_traceback(redirect: str, code: int, said: bytes) -> None:
    wait = "import select; p = select.poll(); p.register(1, 0); p.poll(); " if redirect[0] == "|" else ""  # for its end
    ended, _, err = python(PRINT.replace("raise", f"{wait}console.print(1); raise"), redirect)
    assert (ended, err) == (code, said)


@pytest.mark.parametrize("words", ["--help", "", "classify --help", "training", "training start --help"])
def test_help_that_cannot_be_written_names_the_stream(words: str) -> None:
    call = f"import sys; sys.argv[1:] = {words.split()}; from kickstand_cli.main import app; app()".replace("'", '"')
    assert python(call, ">/dev/full") == (1, b"", b"error: standard output: No space left on device\n")


def test_a_file_that_is_opened_later_does_not_become_the_closed_stream(tmp_path: Path) -> None:
    code = PRINT.replace('    console.print("d', f'    file = open("{tmp_path}/kept", "w"); console.print("d')
    assert python(code, ">&-")[0] == 0
    assert (tmp_path / "kept").read_bytes() == b""


def test_an_interrupt_during_the_imports_prints_no_traceback() -> None:
    code = """
import sys
class Interrupted:
    def find_spec(self, name, *_):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from kickstand_cli.__main__ import main
main()
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")
