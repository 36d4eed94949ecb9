"""`make release` on a small repository: what it refuses, what it does, and how that is undone."""

import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from docs.release import ReleaseError, git, notes_of, read_notes, read_version, release
from kickstand import __version__
from kickstand_cli.main import app
from kickstand_cli.project import PROJECT

VERSION = "layers/core/kickstand/__init__.py"
CHANGES = """# Changes

## [Unreleased]

- Later.

## [1.2.0] - 2026-07-01

### Added

- Something.

## [1.1.0] - 2026-06-01

- Before.
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository whose only commit can be released as 1.2.0."""
    for name, text in {VERSION: '__version__ = "1.2.0"\n', "CHANGELOG.md": CHANGES, ".gitignore": "/dist/\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    git(tmp_path, "init", "--quiet")
    for name, value in {"user.name": "Ada", "user.email": "ada@example.com", "tag.gpgSign": "false"}.items():
        git(tmp_path, "config", name, value)
    commit(tmp_path)
    return tmp_path


def commit(root: Path) -> None:
    git(root, "add", "--all")
    git(root, "-c", "commit.gpgSign=false", "commit", "--quiet", "--message", "all")


def write(root: Path, name: str, text: str) -> None:
    (root / name).write_text(text, "utf-8")
    commit(root)


class Runs:
    """Runs git, and keeps what else it was to run."""

    def __init__(self, root: Path, fails: str = "none") -> None:
        self.root, self.fails, self.ran = root, fails, list[str]()

    def __call__(self, step: Sequence[str]) -> None:
        self.ran.append(" ".join(step))
        if step[0] == self.fails:
            raise subprocess.CalledProcessError(2, list(step))
        if step[0] == "git":
            git(self.root, *step[1:])


def test_a_release_checks_builds_and_tags_with_the_notes_of_the_changelog(root: Path) -> None:
    run = Runs(root)
    release(root, run, dry=False)
    make, wheel, _ = run.ran
    assert make.startswith("make check")
    assert " -m pip wheel " in wheel
    assert git(root, "tag", "--list", "--format=%(contents)", "v1.2.0").strip() == "### Added\n\n- Something."


def test_what_a_release_says_undoes_it(root: Path) -> None:
    said = release(root, Runs(root), dry=False)
    undo = re.findall(r"to undo it: +(.+)", said)[0]
    subprocess.run(["bash", "-c", undo], cwd=root, check=True, capture_output=True)
    assert git(root, "tag", "--list") == ""
    assert not (root / "dist").exists()
    assert "1.2.0" in release(root, Runs(root), dry=True)


def test_a_dry_run_names_the_commands_and_the_notes_and_changes_nothing(root: Path) -> None:
    run, done = Runs(root), Runs(root)
    said = release(root, run, dry=True)
    assert run.ran == []
    assert git(root, "tag", "--list") == git(root, "status", "--porcelain") == ""
    assert not (root / "dist").exists()
    assert "- Something." in said
    release(root, done, dry=False)
    assert all(shlex.join(step.split()) in said for step in done.ran)


def test_a_check_that_fails_leaves_no_tag(root: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        release(root, Runs(root, fails="make"), dry=False)
    assert git(root, "tag", "--list") == ""


@pytest.mark.parametrize("dry", [True, False])
def test_a_version_that_is_tagged_is_refused(root: Path, dry: bool) -> None:
    git(root, "tag", "v1.2.0")
    with pytest.raises(ReleaseError, match=r"v1\.2\.0 is a tag already"):
        release(root, Runs(root), dry=dry)


@pytest.mark.parametrize("name", ["CHANGELOG.md", "a file that git does not know.txt"])
def test_a_tree_with_changes_is_refused_by_name(root: Path, name: str) -> None:
    with (root / name).open("a", encoding="utf-8") as file:
        file.write("more\n")
    with pytest.raises(ReleaseError, match=name):
        release(root, Runs(root), dry=False)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ("# Changes\n\n## [Unreleased]\n\n- Something.\n", "has no heading"),
        ("# Changes\n\n## [1.2.0]\n\n- Without a date.\n", "has no heading"),
        ("# Changes\n\n## [1.2.0] - soon\n\n- Something.\n", "has no heading"),
        ("# Changes\n\n## [11.2.0] - 2026-07-01\n\n- Of another version.\n", "has no heading"),
        ("# Changes\n\n## [1.2.0] - 2026-07-01\n\n## [1.1.0] - 2026-06-01\n\n- Before.\n", "says nothing of"),
    ],
)
def test_a_version_that_the_changelog_does_not_describe_is_refused(root: Path, changes: str, reason: str) -> None:
    write(root, "CHANGELOG.md", changes)
    with pytest.raises(ReleaseError, match=reason):
        release(root, Runs(root), dry=False)


def test_a_package_without_a_version_is_refused(root: Path) -> None:
    write(root, VERSION, "")
    with pytest.raises(ReleaseError, match="no __version__"):
        release(root, Runs(root), dry=False)


def test_files_of_an_older_release_are_not_mixed_with_this_one(root: Path) -> None:
    (root / "dist").mkdir()
    (root / "dist/kickstand-1.1.0-py3-none-any.whl").touch()
    with pytest.raises(ReleaseError, match="dist/ holds files of another release"):
        release(root, Runs(root), dry=False)


def test_a_tag_of_another_version_has_no_notes(root: Path) -> None:
    assert notes_of(root, "v1.2.0") == "### Added\n\n- Something.\n"
    with pytest.raises(ReleaseError, match="not the version of this commit"):
        notes_of(root, "v1.1.0")


def test_this_version_has_notes() -> None:
    assert read_notes(PROJECT, __version__)


def test_the_command_prints_the_version_that_would_be_released() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"kickstand {read_version(PROJECT)}\n")


@pytest.mark.parametrize("path", sorted((PROJECT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda p: p.name)
def test_an_issue_form_has_what_github_asks_for(path: Path) -> None:
    form = yaml.safe_load(path.read_text("utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) > 0
    assert all(field["attributes"]["label"] for field in fields)
