"""Help, and the older names of commands and options."""

from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from kickstand_cli.help import NEEDS, renamed
from kickstand_cli.main import app, loaded
from kickstand_cli.project import PROJECT

PHOTO = PROJECT / "samples/images/bicycle/ridden.jpg"


@pytest.mark.parametrize(
    ("command", "words", "new", "note"),
    [
        ("ledger", "--replay --wait 0", "--redrive --wait 0", "--replay is now --redrive"),
        ("baseline", "--unseen=photos", "--images=photos", "--unseen is now --images"),
        ("policy", "--foreign-share 0.1", "--neither-share 0.1", "--foreign-share is now --neither-share"),
        ("train", "x --foreign-share 0.1", "x --neither-share 0.1", "--foreign-share is now --neither-share"),
        ("monitor", "--images-per-day 5", "--photos-a-day 5", "--images-per-day is now --photos-a-day"),
        ("cost", "--images-per-month 5", "--photos-a-month 5", "--images-per-month is now --photos-a-month"),
        ("dataset", "--out x", "fetch --out x", "kickstand dataset is now kickstand dataset fetch"),
        ("dataset", "", "", ""),
        ("dataset", "checkk x", "checkk x", ""),
        ("evaluate", "x --json -", "x --json", "--json - is now --json"),
        ("evaluate", "--json out.json x", "--out out.json x", "--json out.json is now --out out.json"),
        (
            "evaluate",
            "samples --json numbers.txt",
            "samples --out numbers.txt",
            "--json numbers.txt is now --out numbers.txt",
        ),
        ("evaluate", "--json samples", "--json samples", ""),
        ("evaluate", "--json=out x", "--out out x", "--json out is now --out out"),
        ("evaluate", "--json x", "--json x", ""),
        ("evaluate", "x --json", "x --json", ""),
        ("ledger", "--redrive", "--redrive", ""),
        ("classify", "-- --replay", "-- --replay", ""),
        ("dataset", "check x", "check x", ""),
        ("dataset", "--help", "--help", ""),
    ],
)
def test_an_older_name_works_and_the_new_one_is_named(
    command: str, words: str, new: str, note: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert renamed(loaded(get_command(app).commands[command]), words.split()) == new.split()  # type: ignore[attr-defined]
    said = capsys.readouterr().err
    assert said == (f"note: {note}; the older name works until the next release\n" if note else "")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("cost", "--images-per-month 1000 --photos-a-month 2000"),
        ("policy", "--neither-share=0.3 --foreign-share 0.05"),
        ("ledger", "--replay --redrive"),
        ("evaluate", "x --json a.json --out b.json"),
        ("evaluate", "x --json - --json"),
    ],
)
def test_an_older_name_beside_the_new_one_is_refused(command: str, words: str) -> None:
    result = CliRunner().invoke(app, [command, *words.split()])
    assert result.exit_code == 2
    assert "give one of them" in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        ("ledger --restart", "--audit or --redrive"),
        ("ledger --audit --wait 5", "--redrive"),
        ("doctor --config-env x", "--deploy"),
        ("load-test --bucket x", "--aws"),
        ("load-test --waves 5", "--throttle"),
        ("demo --port 0", "--review"),
        ("review --port 0", "--web"),
        ("backfill --watch", "--yes"),
        ("replay --records x --keep y", "--model"),
        ("monitor --records x --outputs y", "--records names files to read instead of a stack"),
        ("explain x --records x --stack-name y", "--records names files to read instead of a stack"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(words: str, needed: str) -> None:
    result = CliRunner().invoke(app, words.split())
    assert result.exit_code == 2
    assert needed in " ".join(result.stderr.replace("│", " ").split())


def test_each_option_that_needs_another_is_in_a_command_with_it() -> None:
    together = [
        {name for parameter in loaded(command).params for name in parameter.opts}
        for command in get_command(app).commands.values()  # type: ignore[attr-defined]
    ]
    for option, needed in NEEDS.items():
        assert any(option in options and options & set(needed) for options in together), option


def test_an_older_command_works_and_the_new_one_is_named() -> None:
    result = CliRunner().invoke(app, ["load", "--count", "0"])
    assert result.exit_code == 2
    assert result.stderr.startswith("note: kickstand load is now kickstand load-test;")
    assert "│ load  " not in CliRunner().invoke(app, ["--help"]).output


@pytest.mark.parametrize("command", ["report", "labels agreement"])
def test_records_without_an_option_still_work(command: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no record")
    result = CliRunner().invoke(app, [*command.split(), str(tmp_path / "text")])
    assert result.exit_code == 1
    assert "is now --records" in result.stderr
    assert "line 1: no decision record" in result.stderr
    assert "RECORDS" not in CliRunner().invoke(app, [*command.split(), "--help"]).output


def test_help_shows_no_types_whole_paragraphs_and_examples() -> None:
    shown = CliRunner().invoke(app, ["classify", "--help"]).output
    assert "<" not in shown
    assert "Usage: kickstand classify [OPTIONS] FILE..." in shown
    assert "$ kickstand classify photo.jpg" in shown
    (before,) = [line for line in shown.splitlines() if line.startswith(" The results are in the order")]
    assert len(before.rstrip()) > 70, "a paragraph is as wide as the terminal"


def test_many_options_are_in_panels() -> None:
    shown = CliRunner().invoke(app, ["policy", "--help"]).output
    titles = [line.split("─")[1].strip() for line in shown.splitlines() if line.startswith("╭")]
    assert titles == ["What to read", "The guarantee", "What to do", "Output"]


def test_classify_prints_a_table_for_people_and_lines_for_programs() -> None:
    shown = CliRunner().invoke(app, ["classify", str(PHOTO), str(PROJECT / "samples/images/broken/empty.jpg")])
    assert shown.exit_code == 0, shown.output
    assert [line.split()[1:3] for line in shown.stdout.splitlines()[1:3]] == [["accept", "bicycle"], ["reject", "0"]]
    lines = CliRunner().invoke(app, ["classify", "--json", str(PHOTO)]).stdout
    assert lines.startswith('{"image": ')
    assert lines.count("\n") == 1
