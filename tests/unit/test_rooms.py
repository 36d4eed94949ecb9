"""The core's rooms import downwards only, and the command's help imports next to nothing."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from kickstand_cli.main import COMMANDS, app, loaded
from kickstand_cli.project import PROJECT

CORE = PROJECT / "layers/core/kickstand"
LEVEL = {"classify": 1, "review": 2, "ledger": 3, "monitor": 3, "lifecycle": 3, "report": 4, "backfill": 4}
"""A room may import those of a lower level; what every room shares lies beside them, at level 0."""


def imports_of(file: Path, text: str) -> Iterator[str]:
    """Whatever the file imports, by its whole name: relatively, in a function or by a name in quotes, too."""
    package = ("kickstand", *file.relative_to(CORE).parent.parts)
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.ImportFrom(module, names, level):
                above = package[: len(package) + 1 - level] if level else ()
                yield from (".".join([*above, *([module] if module else []), name.name]) for name in names)
            case ast.Import(names):
                yield from (name.name for name in names)
            case ast.Constant(str(value)) if re.fullmatch(r"(kickstand|kickstand_cli|boto3|botocore)(\.\w+)*", value):
                yield value


def violations(file: Path, imported: str) -> str | None:
    """What is wrong with this import of a file of the core; None where nothing is."""
    room = file.parent.name if file.parent != CORE else ""
    package, _, rest = imported.partition(".")
    if package == "kickstand_cli":
        return "the core imports the command"
    if package in ("boto3", "botocore") and not (
        file.name.endswith("store.py") or file.name in ("clients.py", "endpoint.py")
    ):
        return "only *store.py, clients.py and endpoint.py talk to AWS"
    other = rest.partition(".")[0]
    if package == "kickstand" and other in LEVEL and other != room and LEVEL[other] >= LEVEL.get(room, 0):
        return f"{room or 'what every room shares'} is not above {other}"
    return None


@pytest.mark.parametrize("file", sorted(CORE.rglob("*.py")), ids=lambda file: str(file.relative_to(CORE)))
def test_a_file_of_the_core_imports_only_from_its_own_room_and_those_below(file: Path) -> None:
    imported = imports_of(file, file.read_text("utf-8"))
    assert {name: wrong for name in imported if (wrong := violations(file, name))} == {}


@pytest.mark.parametrize(
    ("file", "imported"),
    [
        ("classify/policy.py", "kickstand.review.rules"),
        ("records.py", "kickstand.classify.policy"),
        ("ledger/store.py", "kickstand.monitor.run"),
        ("review/rules.py", "kickstand_cli.main"),
        ("monitor/drift.py", "boto3"),
        ("monitor/drift.py", "boto3.dynamodb.types.TypeSerializer"),
        ("classify/policy.py", "kickstand.review"),
    ],
)
def test_an_import_that_is_turned_round_is_found(file: str, imported: str) -> None:
    assert violations(CORE / file, imported)


@pytest.mark.parametrize(
    "text",
    [
        "from kickstand.monitor.run import measure",
        "from kickstand import monitor",
        "import kickstand.monitor.run as run",
        "from ..monitor import run",
        "from .. import monitor",
        "def late():\n    from ..monitor.run import measure",
        "if TYPE_CHECKING:\n    from kickstand.monitor import run",
        "run = import_module('kickstand.monitor.run')",
    ],
)
def test_an_import_is_found_however_it_is_written(text: str) -> None:
    file = CORE / "classify/policy.py"
    assert "classify is not above monitor" in [violations(file, name) for name in imports_of(file, text)]


@pytest.mark.parametrize("file", sorted(PROJECT.glob("functions/*/app.py")), ids=lambda file: file.parent.name)
def test_a_function_never_imports_the_command_which_is_not_deployed(file: Path) -> None:
    imported = imports_of(CORE / "app.py", file.read_text("utf-8"))
    assert [name for name in imported if name.startswith("kickstand_cli")] == []


def test_every_room_of_the_core_has_a_level_and_says_what_it_is_for() -> None:
    rooms = {
        path.parent.name: ast.get_docstring(ast.parse(path.read_text("utf-8"))) for path in CORE.glob("*/__init__.py")
    }
    assert rooms.keys() == LEVEL.keys()
    assert all(rooms.values())


def test_help_loads_no_numpy_no_boto3_no_pillow_and_no_moto() -> None:
    program = (
        "import sys; from kickstand_cli.main import app; app(['--help'], standalone_mode=False); "
        "print(sorted({'numpy', 'boto3', 'PIL', 'moto', 'pydantic'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "classify" in done.stdout


@pytest.mark.parametrize(
    ("name", "summary"), [(name, text) for panel in COMMANDS.values() for name, (_, text) in panel.items()]
)
def test_the_list_of_commands_says_what_the_command_says_of_itself(name: str, summary: str) -> None:
    commands: Any = get_command(app)
    own = loaded(commands.commands[name]).help
    assert summary == " ".join(own.split("\n\n")[0].split())
