"""Writes what the documentation takes from the sources: drawings, tables, cli.md, reference.md, events.md and schemas.

`make docs` runs it; tests/docs fails where it has been forgotten.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
import yaml

from docs.markdown import code, escape, table
from docs.reference import write_reference
from docs.schemas import write_schemas
from kickstand_cli.drawing.architecture import draw_architecture, read_architecture
from kickstand_cli.drawing.state_machine import draw_state_machine
from kickstand_cli.help import DEFAULT_COMMANDS, OLD_COMMANDS, OLD_OPTIONS
from kickstand_cli.local.cost import SEED, expected_review_share, set_ups, spell, year
from kickstand_cli.main import app, loaded
from kickstand_cli.project import PROJECT, TEMPLATE
from kickstand_cli.terminal import ExitCode
from tests.contracts.changes import describe_changes

DOCS, README = PROJECT / "docs", PROJECT / "README.md"


def write_all() -> dict[Path, str]:
    """Each file's path and content; nothing is written yet."""
    files = {
        DOCS / "architecture.svg": draw_architecture(
            read_architecture(TEMPLATE), "Triggers, the functions they start, and the permissions of each function"
        ),
        DOCS / "architecture.md": with_rooms((DOCS / "architecture.md").read_text("utf-8")),
        DOCS / "cli.md": describe_cli(),
        DOCS / "reference.md": write_reference(),
        **write_schemas(DOCS),
        README: with_costs(README.read_text("utf-8")),
        DOCS / "operating.md": with_changes((DOCS / "operating.md").read_text("utf-8")),
        DOCS / "serving.md": with_bills((DOCS / "serving.md").read_text("utf-8")),
    }
    for definition in sorted((PROJECT / "statemachine").glob("*.asl.yaml")):
        name = definition.name.partition(".")[0]
        files[DOCS / f"{name}.svg"] = draw_state_machine(yaml.safe_load(definition.read_text("utf-8")), None, name)
    return files


def between(page: str, mark: str, text: str) -> str:
    """The page with this text between its two marks."""
    found = re.compile(rf"(<!-- {mark}: make docs -->\n).*(<!-- /{mark} -->)", re.DOTALL)
    return found.sub(lambda marks: f"{marks[1]}\n{text}\n\n{marks[2]}", page)


# ---- the folders of the core, in architecture.md

CORE = PROJECT / "layers/core/kickstand"


def with_rooms(page: str) -> str:
    """The page with a map of the core between its two marks: an arrow goes from a folder to one that it imports."""
    arrows: set[tuple[str, str]] = set()
    rows = []
    for home in sorted(path.parent for path in CORE.glob("*/__init__.py")):
        modules = {file.stem: ast.parse(file.read_text("utf-8")) for file in sorted(home.glob("*.py"))}
        rows.append((home.name, ast.get_docstring(modules.pop("__init__")) or "", code(", ".join(modules))))
        imports = (
            node.module or ""
            for tree in modules.values()
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
        )
        rooms = {words[1] for name in imports if (words := name.split("."))[0] == "kickstand" and len(words) > 2}
        arrows |= {(home.name, room) for room in rooms - {home.name}}
    lines = ["```mermaid", "flowchart TD", *(f"    {above} --> {below}" for above, below in sorted(arrows)), "```", ""]
    lines += ["| folder | what it is for | modules |", "|---|---|---|", *(f"| `{a}` | {b} | {c} |" for a, b, c in rows)]
    return between(page, "rooms", "\n".join(lines))


# ---- what it costs, in the README

COSTS = re.compile(r"(?<=<!-- make docs writes this table -->\n).*?(?=<!-- until here -->)", re.DOTALL)


def with_costs(text: str) -> str:
    """The README with the bills that `kickstand cost` computes."""
    counts, share = (10_000, 100_000, 1_000_000), expected_review_share()

    def row(words: str, name: str, month: int, retention_days: int = 0) -> str:
        bills = [set_ups()[name](year(count, 0, retention_days)[month - 1], share).total for count in counts]
        return f"| {words} | {' | '.join(f'{bill:,.0f}' for bill in bills)} |"

    lines = [
        f"| dollars a month, by photos a month | {' | '.join(f'{count:,}' for count in counts)} |",
        f"|---|{'--:|' * len(counts)}",
        row("as shipped: month 1", "embedded-EXPRESS", 1),
        row("month 12, all kept for ever", "embedded-EXPRESS", 12),
        row("month 12, `RetentionDays=30`", "embedded-EXPRESS", 12, 30),
        row("for comparison: one fixed endpoint, three functions, no records, reviews or alarms: month 1", SEED, 1),
    ]
    return COSTS.sub("\n".join(lines) + "\n", text)


# ---- serving.md


def with_bills(page: str) -> str:
    """The page with the bills of a million photos between its two marks."""
    first = year(1_000_000)[0]
    bills = {name: bill(first, expected_review_share()) for name, bill in set_ups().items()}
    services = dict.fromkeys(service for bill in bills.values() for service in bill.by_service)
    names = [spell(name).replace("-", " ") for name in bills]
    rows = [("dollars for the first month, of a million photos", names)]
    rows.append(("---", ["---:"] * len(bills)))
    rows += [(name, [dollars(bill.by_service.get(name, 0)) for bill in bills.values()]) for name in services]
    rows.append(("**total**", [dollars(bill.total) for bill in bills.values()]))
    core = [dollars(bill.orchestration_and_compute) for bill in bills.values()]
    rows.append(("**orchestration and compute**", core))
    return between(page, "cost", "\n".join(f"| {' | '.join([name, *cells])} |" for name, cells in rows))


def dollars(amount: float) -> str:
    """At least two digits: 4.5, 127."""
    return f"{amount:.0f}" if amount >= 10 or amount == 0 else f"{amount:.1f}"


# ---- what a parameter changes, in operating.md


def with_changes(page: str) -> str:
    """The page with what a change of each parameter changes between its two marks."""
    return between(page, "parameters", describe_changes())


# ---- cli.md

INTRODUCTION = """# The command line

`kickstand COMMAND --help` shows the same as this page, which `make docs` writes from the commands.
Other generated pages: [parameters, alarms and metrics](reference.md), [events](events.md).

## Output

- Every command that shows facts prints a table or sentences for people. With `--json` it prints one JSON object for
  programs. `classify --json` prints one object a line, each as soon as its photo is classified.
- With `--json`, standard output holds nothing else, in ASCII; progress and remarks go to standard error. Fields are
  only added, never renamed or removed.
- `--json` is always a flag. To write a file, use `--out FILE` where a command has it, or `kickstand … --json > FILE`.
- A table is as wide as the terminal; in a pipe or a file it has 120 columns. Long names are shortened in the middle;
  JSON has them whole.
- Names are printed escaped (`\\x1b` for an escape character), and characters that the terminal cannot show as `?`.

## Exit codes

{codes}

- *Nothing found is an error.* A folder without photos, a file without records or a pattern without a match ends with
  1, and an older output stays as it was; `import-capture --allow-empty` allows it. A stack without records is not an
  error, nor is a time without records (`--since`).
- *One bad file does not stop a run.* A file that cannot be read or is no photo, a dangling link, a named pipe or a
  folder without permission is named on standard error (`error: left out: <path>: <reason>`). The others are used, and
  the exit code is 1 instead of 0. `train` names the files that it leaves out, and ends with 0.
  Photos are recognised by their content, not their name; hidden files are skipped, links are followed.
- *An output is replaced completely or not at all.* After a full disk or an interrupt, the older file is still there.
  A command checks that it can write its output before it starts the work.
- A closed standard output is like `/dev/null`.
- `demo`, `load-test` and commands that only read files ignore the AWS settings and proxies of your shell.
- An internal error is one line, too; `KICKSTAND_TRACEBACK=1` shows the traceback.

## Older names

These names work until the next release; a line on standard error names the new one.

{old}
"""


def walk(command: Any, words: tuple[str, ...] = ("kickstand",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that runs, with the words that call it, in the order of `kickstand --help`."""
    for name, inner in command.commands.items():
        inner = loaded(inner)
        if inner.hidden:
            continue
        if hasattr(inner, "commands"):
            yield from walk(inner, (*words, name))
        else:
            yield (*words, name), inner


def codes_told(command: Any) -> set[int]:
    """The exit codes that the command's help names, except 0 and 1."""
    named = re.search(r"Exit codes: [^.]*", command.help or "")
    return {int(code) for code in re.findall(r"\b(\d)\b", named[0] if named else "")} - {0, 1}


def describe_codes(commands: Sequence[tuple[tuple[str, ...], Any]]) -> str:
    """Every exit code, and the commands that use it."""
    rows = []
    for number in ExitCode:
        users = [code(" ".join(words[1:])) for words, command in commands if number in codes_told(command)]
        rows.append((str(number.value), number.meaning, ", ".join(users) or "all"))
    return table(("code", "meaning", "commands"), rows)


def describe_cli() -> str:
    """cli.md."""
    commands = list(walk(typer.main.get_command(app)))
    old = OLD_COMMANDS | {name: f"{name} {new}" for name, new in DEFAULT_COMMANDS.items()} | OLD_OPTIONS
    old |= {"evaluate --json FILE": "evaluate --out FILE", "report FILE": "report --records FILE"}
    rows = [(code(before), code(now)) for before, now in old.items()]
    introduction = INTRODUCTION.format(codes=describe_codes(commands), old=table(("older name", "name"), rows))
    return "\n".join([introduction, *(describe(*command) for command in commands)])


def describe(words: tuple[str, ...], command: Any) -> str:
    """A section of cli.md."""
    context = typer.Context(command)
    shown = [parameter for parameter in command.get_params(context) if not parameter.hidden]
    usage = " ".join([*words, *command.collect_usage_pieces(context)])
    lines = [f"## {' '.join(words)}", "", f"    {usage}", "", escape(command.help or ""), ""]
    if command.epilog:
        lines += [*(f"    {line}" for line in command.epilog.splitlines()[1:]), ""]
    rows = [describe_parameter(parameter) for parameter in shown if parameter.name != "help"]
    return "\n".join([*lines, "| | | default |", "|---|---|---|", *rows, ""] if rows else lines)


def describe_parameter(parameter: Any) -> str:
    """A row: its name as it is typed, its purpose, its default."""
    help_text = parameter.help or ""
    if variable := getattr(parameter, "envvar", None):
        help_text += f" Or the variable `{variable}`."
    return f"| {code(name_of(parameter))} | {escape(help_text)} | {escape(default_of(parameter))} |"


def name_of(parameter: Any) -> str:
    """As one writes it: `--limit N`, `FILE...`."""
    if not parameter.opts[0].startswith("-"):
        return " ".join(parameter.usage)
    name = ", ".join(parameter.opts) + "".join(f" / {name}" for name in parameter.secondary_opts)
    return f"{name} {parameter.metavar or ''}".strip()


def default_of(parameter: Any) -> str:
    """In words, or as one writes it."""
    default = parameter.default
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    if default is None or isinstance(default, bool) or callable(default):
        return ""
    if isinstance(default, (list, tuple)):
        default = ",".join(map(str, default))
    default = getattr(default, "value", default)
    # A file of the checkout by its place there: this page is the same on every machine.
    return code(re.sub(rf"^{re.escape(str(PROJECT))}/", "", str(default))) if str(default) else ""


if __name__ == "__main__":
    for path, content in write_all().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, "utf-8")
