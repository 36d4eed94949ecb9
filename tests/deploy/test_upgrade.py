"""Upgrade in motion: what the last release has left goes on under this version, and back again."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from kickstand_cli.local.rehearsal import empty
from kickstand_cli.project import PROJECT

FIRST = "3b406c4"  # the release, until a commit has a tag
PROGRAM = Path(__file__).with_name("one_version.py")
# The first release refuses to read a record with a reason that is newer than itself; this version does not.
UNREADABLE = {FIRST: ["retake"]}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def git(*arguments: str) -> str | None:
    """What git prints; None where it fails."""
    ran = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True)
    return ran.stdout.strip() if ran.returncode == 0 else None


@pytest.fixture(scope="module")
def release() -> str:
    """The last release before this version: its newest tag, or the first release."""
    return git("describe", "--tags", "--abbrev=0", "HEAD^") or FIRST


@pytest.fixture(scope="module")
def older(absent: Callable[[str, str], NoReturn], release: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of the last release."""
    if git("cat-file", "-e", f"{release}^{{commit}}") is None:
        absent("history", f"this clone has no commit {release}: git fetch --unshallow --tags")
    folder = tmp_path_factory.mktemp("release")
    archive = subprocess.run(["git", "archive", release], cwd=PROJECT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "x", "-C", folder], input=archive, check=True)
    return folder


def run(version: Path, *arguments: str | Path) -> None:
    """Run `one_version.py` with the packages of this checkout."""
    paths = {"PYTHONPATH": f"{version / 'layers/core'}{os.pathsep}{version / 'cli'}"}
    ran = subprocess.run(
        [sys.executable, PROGRAM, *arguments], cwd=version, env=os.environ | paths, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-4000:]


@pytest.mark.parametrize("direction", ["upgrade", "rollback"])
def test_nothing_that_one_version_has_left_is_lost_or_unreadable_under_the_other(
    older: Path, release: str, direction: str, record_property: Callable[[str, object], None]
) -> None:
    folder = empty(PROJECT / f"build/test-{direction}")
    if direction == "upgrade":
        run(older, "write", folder)
        run(PROJECT, "read", folder)
    else:
        run(PROJECT, "write", folder, *UNREADABLE.get(release, []))
        run(older, "read", folder)
    told: dict[str, Any] = json.loads((folder / "read.json").read_text())
    counted, failures = told["counted"], told["failures"]
    record_property(
        f"{direction}, {release} and this version",
        f"{counted['record']} records and {counted['execution']} executions gone on with, and {len(counted) - 2} other "
        f"things done; {len(failures)} failed",
    )
    assert failures == {}
    assert counted["record"] >= 7
    assert counted["execution"] >= 30
