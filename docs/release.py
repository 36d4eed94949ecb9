"""`make release`: checks, builds the wheel, and tags this commit as the version that the package has.

Nothing is pushed. `make release DRY=1` checks the tree and says what it would run. `--notes TAG` prints the notes of a
release, for the workflow that its tag starts.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

Run = Callable[[Sequence[str]], None]

VERSION = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)
NEXT = """
to publish it: git push origin v{version}   (.github/workflows/release.yml then makes the release and the site)
to undo it:    git tag --delete v{version} && rm -r dist
"""


class ReleaseError(Exception):
    """The release cannot be made; the message says why, and what to do."""


def release(root: Path, run: Run, *, dry: bool) -> str:
    """Make the release, and return what to do next. Raises ReleaseError before anything has run."""
    version = read_version(root)
    tag = f"v{version}"
    notes = read_notes(root, version)
    if changed := git(root, "status", "--porcelain").splitlines():
        raise ReleaseError(
            f"the tree has changes that are not committed: {', '.join(line[3:] for line in changed[:5])}"
        )
    if git(root, "tag", "--list", tag):
        raise ReleaseError(f"{tag} is a tag already: raise __version__ in layers/core/kickstand/__init__.py")
    dist = root / "dist"
    if dist.exists() and any(dist.iterdir()):
        raise ReleaseError("dist/ holds files of another release: remove it")
    steps = [
        ["make", "check", "security", "test-all", "site"],
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."],
        ["git", "tag", "--annotate", "--cleanup=verbatim", "--file", "dist/notes.md", tag],
    ]
    if dry:
        commands = "\n".join(shlex.join(step) for step in steps)
        return f"would run:\n{commands}\nwith these notes:\n{notes}and then say:{NEXT.format(version=version)}"
    for step in steps[:-1]:
        run(step)
    dist.mkdir(exist_ok=True)
    (dist / "notes.md").write_text(notes, "utf-8")
    run(steps[-1])
    return f"{tag} is tagged here, and not pushed.{NEXT.format(version=version)}"


def read_version(root: Path) -> str:
    found = VERSION.search((root / "layers/core/kickstand/__init__.py").read_text("utf-8"))
    if not found:
        raise ReleaseError("layers/core/kickstand/__init__.py has no __version__")
    return found[1]


def read_notes(root: Path, version: str) -> str:
    """The changelog's section on this version, without its heading."""
    text = (root / "CHANGELOG.md").read_text("utf-8")
    heading = re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$\n", text, re.MULTILINE)
    if not heading:
        raise ReleaseError(f"CHANGELOG.md has no heading '## [{version}] - YYYY-MM-DD'")
    notes = re.split(r"^## ", text[heading.end() :], maxsplit=1, flags=re.MULTILINE)[0].strip()
    if not notes:
        raise ReleaseError(f"CHANGELOG.md says nothing of {version}")
    return f"{notes}\n"


def notes_of(root: Path, tag: str) -> str:
    """Raises ReleaseError for a tag that is not this version's."""
    if tag != f"v{read_version(root)}":
        raise ReleaseError(f"{tag} is not the version of this commit, {read_version(root)}")
    return read_notes(root, read_version(root))


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout


def main() -> None:
    root = Path(__file__).resolve().parents[1]

    def run(step: Sequence[str]) -> None:
        subprocess.run(step, cwd=root, check=True)

    try:
        match sys.argv[1:]:
            case ["--notes", tag]:
                said = notes_of(root, tag)
            case options:
                said = release(root, run, dry=options == ["--dry"])
    except (ReleaseError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"{said}\n")


if __name__ == "__main__":
    main()
