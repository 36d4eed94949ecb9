"""How `--help` shows a command, and the older names of commands and options."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperArgument

from kickstand_cli.terminal import naming_stdout, stderr

LARGEST = 1e12  # of any number on the command line
MANY = 8  # options; more of them are shown in panels
READ, CHANGE, OUTPUT = "What to read", "What to do", "Output"
PANELS = {
    READ: (
        "--records", "--images", "--stack-name", "--outputs", "--since", "--model", "--out-of-fold", "--archive",
        "--url", "--prefix", "--inventory", "--model-version-before", "--backbone", "--shipped", "--hold-out",
    ),
    OUTPUT: (
        "--out", "--json", "--report", "--plot", "--evidence", "--keep", "--keep-neither", "--write", "--golden",
        "--features", "--force", "--help",
    ),
}  # fmt: skip
PANEL_OF = {option: panel for panel, options in PANELS.items() for option in options}

# Older names, for one release after 0.2.0: they work, and a line on standard error names the new one.
OLD_COMMANDS = {"load": "load-test"}
OLD_OPTIONS = {
    "--replay": "--redrive",
    "--unseen": "--images",
    "--foreign-share": "--neither-share",
    "--images-per-day": "--photos-a-day",
    "--images-per-month": "--photos-a-month",
}
NEEDS = {  # what an option is for; without one of these it would be ignored
    "--bucket": ("--aws",),
    "--config-env": ("--deploy",),
    "--grace": ("--audit", "--redrive"),
    "--keep": ("--model",),
    "--port": ("--review", "--web"),
    "--restart": ("--audit", "--redrive"),
    "--wait": ("--redrive",),
    "--watch": ("--yes",),
    "--waves": ("--throttle",),
}
DEFAULT_COMMANDS = {"dataset": "fetch"}


def dress(command: Any) -> None:
    """Give the command, and those in it, plain help, its older names, and no number that is infinite."""
    for inner in getattr(command, "commands", {}).values():
        dress(inner)
    text, _, examples = (command.help or "").partition("Examples:")
    command.help = reflow(text)
    lines = [line.strip() for line in examples.strip().splitlines()]
    command.epilog = "\n".join(["Examples:", *lines]) if lines else None
    parse, list_parameters, show = command.parse_args, command.get_params, command.format_help
    command.parse_args = lambda ctx, words: _check(command, ctx, parse(ctx, renamed(command, words)))
    command.get_params = lambda ctx: plain(list_parameters(ctx), ctx)
    command.format_help = naming_stdout()(show)


def reflow(text: str) -> str:
    """The docstring's paragraphs, each on one line.

    >>> reflow("One\\n    line.\\n\\n    Another.")
    'One line.\\n\\nAnother.'
    """
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip()))


def plain(parameters: Sequence[Any], ctx: Any) -> Sequence[Any]:
    """The parameters, as help shows them: without types, and in panels where there are many."""
    shown = [each for each in parameters if not isinstance(each, TyperArgument) and not each.hidden]
    for parameter in parameters:
        is_argument = isinstance(parameter, TyperArgument)
        parameter._get_number_range_help_str = lambda: None
        if is_argument:
            many = "..." if parameter.nargs == -1 else ""
            name = f"{parameter.display_name_raw}{many}"
            parameter.usage = [] if parameter.hidden else [name if parameter.required else f"[{name}]"]
            parameter.display_type_rich = lambda **_: None
            parameter.get_usage_pieces = lambda _, one=parameter: one.usage
            continue
        if parameter.is_flag:
            parameter.metavar = ""
        elif parameter.metavar is None:
            kind = parameter.display_type(ctx).strip("<>")
            parameter.metavar = kind if "|" in kind else "N" if re.match("int|float", kind) else "TEXT"
        if len(shown) > MANY + 1 and not parameter.rich_help_panel:  # one of them is --help
            parameter.rich_help_panel = next((PANEL_OF[name] for name in parameter.opts if name in PANEL_OF), CHANGE)
    place = {None: 0, READ: 1, OUTPUT: 3}
    return sorted(parameters, key=lambda each: place.get(each.rich_help_panel, 2))


def renamed(command: Any, words: Sequence[str]) -> list[str]:
    """The words of the command line, with the new names in place of older ones."""
    words = list(words)
    default = DEFAULT_COMMANDS.get(command.name)
    if default and words[:1] not in ([], ["-h"], ["--help"]) and words[0].startswith("-"):
        note(f"kickstand {command.name}", f"kickstand {command.name} {default}")
        return [default, *words]
    known = {name for parameter in command.params for name in parameter.opts}
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if word == "--":
            break
        if command.name == "evaluate" and name == "--json":
            _rename_json_file(words, place)
        elif name not in known and (new := OLD_OPTIONS.get(name, "")) in known:
            _expect_one(name, new, words)
            note(name, new)
            words[place] = f"{new}{equals}{value}"
    return words


def _rename_json_file(words: list[str], place: int) -> None:
    """`evaluate --json FILE` wrote the file, and `--json -` printed it.

    A word after --json is such a file where another word is the folder of photos.
    """
    old = words[place : place + 2] if "=" not in words[place] else words[place].split("=", 1)
    others = (*words[:place], *words[place + 2 :])
    known = "=" in words[place] or old[-1] == "-" or old[-1].endswith(".json")
    is_file = old[-1][:1] != "-" and not Path(old[-1]).is_dir() and any(Path(word).is_dir() for word in others)
    file = old[-1] if old[1:] and (known or is_file) else ""
    if file:
        new = ["--json"] if file == "-" else ["--out", file]
        _expect_one(f"--json {file}", new[0], words[:place] + words[place + 1 :])
        note(f"--json {file}", " ".join(new))
        words[place : place + (1 if "=" in words[place] else 2)] = new


def _expect_one(old: str, new: str, words: Sequence[str]) -> None:
    """Raises BadParameter where the command line gives the new name, too: one of the values would be ignored."""
    if any(word.partition("=")[0] == new for word in words):
        raise typer.BadParameter(f"{old} is an older name of {new}: give one of them")


def note(old: str, new: str) -> None:
    """Say that the name is an older one."""
    stderr.print(f"note: {old} is now {new}; the older name works until the next release")


def _check(command: Any, ctx: Any, rest: Any) -> Any:
    """Raises BadParameter for an option that would be ignored, and for a number beyond all use.

    A range alone lets "nan" pass, and where it has one end only "inf" and 10**400.
    """
    given = {
        name: ctx.params.get(parameter.name)
        for parameter in command.params
        if getattr(ctx.get_parameter_source(parameter.name), "name", "") == "COMMANDLINE"
        for name in parameter.opts
    }
    known = {name for parameter in command.params for name in parameter.opts}
    for name in given:
        needed = [other for other in NEEDS.get(name, ()) if other in known]
        if needed and not any(given.get(other) for other in needed):
            raise typer.BadParameter(f"it needs {' or '.join(needed)}", ctx=ctx, param_hint=name)
        if name in ("--stack-name", "--outputs") and given.get("--records"):
            raise typer.BadParameter("--records names files to read instead of a stack", ctx=ctx, param_hint=name)
    for parameter in command.params:
        value = ctx.params.get(parameter.name)
        if isinstance(value, float) and not math.isfinite(value):
            low, high = getattr(parameter, "min", None), getattr(parameter, "max", None)
            limits = [f"{word} {limit:g}" for word, limit in (("from", low), ("to", high)) if limit is not None]
            wanted = " ".join(["a finite number", *limits])
            raise typer.BadParameter(f"{value} is not {wanted}", ctx=ctx, param=parameter)
        if isinstance(value, int | float) and abs(value) > LARGEST:
            raise typer.BadParameter(f"it is larger than {LARGEST:g}", ctx=ctx, param=parameter)
    return rest
