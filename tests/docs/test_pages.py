"""The documentation agrees with the code: links, drawings, parameters, outputs, alarms, commands and exit codes."""

import ast
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from docs.markdown import anchors, prose
from docs.screenshots import SHOTS
from kickstand_cli.local.template import load_yaml
from kickstand_cli.main import app
from kickstand_cli.project import PROJECT, TEMPLATE
from kickstand_cli.terminal import ExitCode

DOCS = PROJECT / "docs"
PAGES = [*sorted(PROJECT.glob("*.md")), *sorted(DOCS.glob("*.md"))]
TEMPLATES = [TEMPLATE, *sorted(PROJECT.glob("*/*template*.yaml")), *sorted(PROJECT.glob("[st]*ing.yaml"))]


def load_make() -> ModuleType:
    specification = importlib.util.spec_from_file_location("docs_make", DOCS / "make.py")
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


MAKE = load_make()


@pytest.fixture(scope="module")
def generated() -> dict[Path, str]:
    """Not at import: it takes long, and every process of a parallel run imports this file."""
    files: dict[Path, str] = MAKE.write_all()
    return files


def test_what_is_generated_is_up_to_date(generated: dict[Path, str]) -> None:
    assert len(generated) > 10
    assert [path.name for path, text in generated.items() if path.read_text("utf-8") != text] == [], "make docs"


# ---- links


def links(page: Path) -> Iterator[str]:
    text = re.sub(r"`[^`]*`", "", prose(page))
    yield from re.findall(r"\]\(([^)\s]+)\)", text)
    yield from re.findall(r'(?:src|srcset|href)="([^"]+)"', text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"https?:|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link}"
        assert target.is_relative_to(PROJECT), f"{page.name}: {link} leads out of the repository"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}: there are {sorted(anchors(target))}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [PROJECT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        targets = {(page.parent / link.partition("#")[0]).resolve() for link in links(page) if ".md" in link}
        waiting += [target for target in targets if target not in reached and target.exists()]
    assert [page.name for page in PAGES if page not in reached] == []


def test_every_figure_is_written_by_a_command(generated: dict[Path, str]) -> None:
    sources = "".join(
        path.read_text("utf-8") for folder in ("bench", "cli", "docs") for path in (PROJECT / folder).rglob("*.py")
    )
    shown = {
        (page.parent / link).resolve() for page in PAGES for link in links(page) if link.endswith((".svg", ".png"))
    }
    assert shown
    screenshots = {f"{name}{ending}.png" for name in SHOTS for ending in ("", "-dark")}
    unknown = [
        path.name
        for path in shown
        if path not in generated and path.name not in screenshots and f'{path.name}"' not in sources
    ]
    assert unknown == []
    drawn = {path for path in DOCS.rglob("*") if path.suffix in (".svg", ".png")}
    assert [path.name for path in drawn - shown] == [], "drawn, and shown nowhere"


def test_every_target_of_make_help_is_on_some_page() -> None:
    targets = re.findall(r"^([a-z-]+):.*##", (PROJECT / "Makefile").read_text("utf-8"), re.MULTILINE)
    text = "".join(page.read_text("utf-8") for page in PAGES)
    assert [target for target in targets if not re.search(rf"make {target}(?![a-z-])", text)] in ([], ["help"])


# ---- the template


def rows(column: str) -> dict[str, list[str]]:
    """The rows of every table whose first column has this title: the first cell's code, and the other cells."""
    found: dict[str, list[str]] = {}
    for page in PAGES:
        title = None
        for line in page.read_text("utf-8").splitlines():
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            title = (title or cells[0]) if cells else None
            if title == column and (name := re.match(r"`(\w+)`", cells[0])):
                assert name[1] not in found, f"{page.name}: {name[1]} is in the tables twice"
                found[name[1]] = cells[1:]
    return found


def of_templates(part: str) -> dict[str, Any]:
    """What the shipped template has there; templates within it are given their parameters by it."""
    content: dict[str, Any] = load_yaml(TEMPLATE)[part]
    return content


def test_a_table_of_parameters_has_their_defaults() -> None:
    parameters = of_templates("Parameters")
    assert rows("parameter").keys() <= parameters.keys()
    for name, row in rows("parameter").items():
        default = str(parameters[name].get("Default", ""))
        assert default in row[0], f"{name}: {row[0]} is not its default, {default}"


def test_every_output_is_in_a_table() -> None:
    assert rows("output").keys() == of_templates("Outputs").keys()


def test_every_alarm_has_a_runbook() -> None:
    alarms = {
        name.removesuffix("Alarm")
        for template in TEMPLATES
        for name, item in load_yaml(template).get("Resources", {}).items()
        if item["Type"].startswith("AWS::CloudWatch::") and item["Type"].endswith("Alarm")
    }
    table = rows("alarm")
    assert table.keys() == alarms
    for name, row in table.items():
        assert any("](" in cell for cell in row), f"{name} names no runbook"


# ---- the command

COMMANDS: dict[str, Any] = {" ".join(words[1:]): command for words, command in MAKE.walk(typer.main.get_command(app))}


def test_an_option_of_the_same_name_takes_the_same_everywhere() -> None:
    either = {"--out", "--json", "--images", "--records"}  # a folder or a file, as the command needs
    found: dict[str, set[str]] = {}
    for command in COMMANDS.values():
        for parameter in command.get_params(typer.Context(command)):
            if parameter.opts[0].startswith("-") and parameter.opts[0] not in either:
                found.setdefault(parameter.opts[0], set()).add(MAKE.name_of(parameter))
    assert {option: takes for option, takes in found.items() if len(takes) > 1} == {}


def exit_codes(command: Any) -> set[int]:
    """The exit codes in the command's module or, where several commands share one, in its function."""
    function = inspect.unwrap(command.callback)
    module = sys.modules[function.__module__]
    source = inspect.getsource(function if hasattr(module, "app") else module)
    named = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute))
    codes = {ExitCode[node.attr].value for node in named if ast.unparse(node.value) == "ExitCode"}
    return codes - {ExitCode.USAGE.value}  # Typer's own errors have it too


@pytest.mark.parametrize("name", COMMANDS)
def test_exit_codes_beyond_errors_are_told(name: str) -> None:
    told, special = MAKE.codes_told(COMMANDS[name]), exit_codes(COMMANDS[name]) - {0, 1}
    assert told == special, f"kickstand {name} can leave with {sorted(special)}, its help tells {sorted(told)}"


def test_the_page_on_the_command_line_knows_every_code() -> None:
    page = (DOCS / "cli.md").read_text("utf-8")
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)} == set(ExitCode)
    assert {ExitCode.REFUSED, ExitCode.ATTENTION} == set[int]().union(*map(exit_codes, COMMANDS.values())) - {0, 1}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_short_and_without_types(name: str) -> None:
    command = COMMANDS[name]
    with typer.Context(command, info_name=name) as context:
        parameters = [each for each in command.get_params(context) if not each.hidden]
    options = [each for each in parameters if each.opts[0].startswith("-")]
    for each in parameters:
        assert len(each.help or "") <= 100 or each.opts == ["--cifar100"], f"{each.opts}: {each.help}"
    for each in options:
        assert not (each.is_flag and each.metavar)
        assert each.default is True or not each.secondary_opts, f"{each.opts} is off by default"
    if len(options) > 9:  # one of them is --help
        assert {each.rich_help_panel for each in options} > {"Output"}
    assert "[" not in f"{command.help}{command.epilog}", "rich takes it for markup"
    assert len((command.help or "").partition("\n")[0]) <= 102
