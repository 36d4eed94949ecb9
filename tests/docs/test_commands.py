"""Every command in the documentation: all are checked, and all are run but those that CANNOT_RUN gives a reason for.

A command stands in a fenced block marked `sh`, after `$ ` in any other block, or in the prose between backticks. Those
of blocks run, page by page, in a folder as a reader has it; those of the prose are checked only.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import typer
from botocore import xform_name
from typer.testing import CliRunner

from kickstand.classify.artefact import read_card
from kickstand_cli import deployment
from kickstand_cli.local.stack import Stack, deploy
from kickstand_cli.main import app, loaded
from kickstand_cli.project import MODEL, PROJECT, TEMPLATE

PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]

ACCOUNT = "it needs an AWS account; local tests call the same service on moto"
PHOTOS = "it needs the photos that the shipped model learnt from"
DOWNLOAD = "it downloads more than 100 MB"
PERSON = "it waits for a person"
CI = "it is a step of .ci/run"
ENGINE = "it needs a container engine: tests/container"
CANNOT_RUN = {  # what a command looks like (a regular expression from its beginning), and why it is not run here
    r"(\w+=\$\(\s*)?aws ": ACCOUNT,
    r"(.*bin/)?sam delete\b": ACCOUNT,
    r"(.*bin/)?sam local ": ENGINE,
    r"make (check|test|demo)\b": CI,
    r"make build\b": "tests/package and tests/container run what it builds",
    r"make deploy-local\b": "tests/deploy takes the same steps",
    r"make deploy\b": ACCOUNT,
    r"make (train|backbone)\b": PHOTOS,
    r".*bin/kickstand serve\b": "it serves until Ctrl-C: tests/functional/test_serve.py",
    r".*bin/kickstand forget ": "it asks before it removes anything: tests/workflow/test_forget.py",
    r"kickstand training ": "it needs a stack with Training=on: tests/workflow/test_train_model.py",
    r".*bin/kickstand dataset fetch( --classes| *$)": DOWNLOAD,
    r".*kickstand demo --review": PERSON,
    r"kickstand baseline --stack-name": "it takes a stack's records of some weeks: tests/functional has some",
    r".*bin/kickstand demo --cifar100": "it needs the archive that was downloaded; .ci/run has it",
    r".*python events/local_aws.py": "it serves until Ctrl-C: tests/container",
    r"echo \$\?": "it shows the exit code of the command before, which has a test of its own",
}

# ---- what the pages say


@dataclass(frozen=True)
class Command:
    """One command. line: where it stands; block: whether in a block, so that it is to be run."""

    page: Path
    line: int
    text: str
    block: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(PROJECT)}:{self.line} {self.text}"

    @property
    def obstacle(self) -> str | None:
        """Why it cannot run here."""
        return next((reason for pattern, reason in CANNOT_RUN.items() if re.match(pattern, self.text)), None)


PROGRAMS = ("kickstand", "make", "sam", "aws", ".venv/bin/", ".venv-sam/bin/")


def read_commands(page: Path) -> Iterator[Command]:
    """The page's commands, in order. Lines that end in a backslash, or within quotes, go on in the next."""
    language: str | None = None
    pending, began = "", 0
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if fence := re.match(r"\s*```(\w*)", line):
            language = None if language is not None else fence[1]
        elif language is None:
            for code in re.findall(r"`([^`]+)`", line):
                if code.startswith(PROGRAMS) and " " in code and "…" not in code:
                    yield Command(page, number, code, block=False)
        elif language == "sh" or line.startswith("$ ") or pending:
            began = began or number
            pending += line.removeprefix("$ ") if language != "sh" else line
            if pending.endswith("\\"):
                pending = pending[:-1] + " "
                continue
            if pending.replace("\\'", "").count("'") % 2:
                continue
            text = re.sub(r"(^|\s)#.*$", "", pending).strip()
            if text:
                yield Command(page, began, re.sub(r"\s+", " ", text), block=True)
            pending, began = "", 0
    assert language is None, f"{page}: a block that does not end"


COMMANDS = [command for page in PAGES for command in read_commands(page)]


def split(text: str) -> Iterator[list[str]]:
    """The words of every simple command in this line: also those within $( ), after a pipe, or after &&."""
    for inner in re.findall(r"\$\(([^()]*)\)", text):
        yield from split(inner)
    text = re.sub(r"\$\([^()]*\)", "substituted", text)
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("|&;"):
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words = words[1:]
            if words:
                yield words
            words = []
        else:
            words.append(word)


# ---- what can be said of a command without running it


def check_kickstand(words: list[str]) -> str | None:
    """What is wrong with it. Only names are looked at: files that it mentions need not exist."""
    command: Any = typer.main.get_command(app)
    parents = None
    while words and words[0] in getattr(command, "commands", {}):
        command, words = loaded(command.commands[words[0]]), words[1:]
    if hasattr(command, "commands") and words and not words[0].startswith("-"):
        return f"no subcommand {words[0]}"
    context = typer.Context(command, parent=parents)
    try:
        command.make_parser(context).parse_args(list(words))
    except Exception as error:
        return str(getattr(error, "message", error))
    return None


def list_examples(command: Any) -> Iterator[str]:
    """The examples in the help of this command, and of those in it."""
    command = loaded(command)
    yield from (command.epilog or "").splitlines()[1:]
    for inner in getattr(command, "commands", {}).values():
        yield from list_examples(inner)


@pytest.mark.parametrize("example", [*list_examples(typer.main.get_command(app))])
def test_an_example_in_help_exists_with_all_its_options(example: str) -> None:
    prompt, program, *words = shlex.split(example)
    assert (prompt, program) == ("$", "kickstand")
    assert check_kickstand(words) is None


@cache
def make_variables() -> tuple[set[str], set[str]]:
    """The Makefile's targets, and the variables that it reads."""
    text = (PROJECT / "Makefile").read_text("utf-8")
    return set(re.findall(r"^([\w./-]+):", text, re.MULTILINE)), set(re.findall(r"\$[({](?:or \$\()?(\w+)", text))


def check_make(words: list[str]) -> str | None:
    targets, variables = make_variables()
    for word in words:
        name, is_setting, _ = word.partition("=")
        if name not in (variables if is_setting else targets):
            return f"the Makefile knows no {name}"
    return None


AWS_GLOBAL = {"--output", "--query", "--region", "--profile", "--endpoint-url", "--no-cli-pager"}
AWS_CUSTOM = {  # AWS CLI's own commands, which no service model describes
    "s3 cp": {"--recursive", "--quiet", "--exclude", "--include"},
    "s3 ls": {"--recursive", "--human-readable", "--summarize"},
    "s3 rm": {"--recursive", "--quiet"},
    "s3 rb": {"--force"},
    "s3 sync": {"--delete", "--exclude", "--include"},
    "logs tail": {"--since", "--follow", "--format", "--filter-pattern"},
}


def check_aws(words: list[str], *, whole: bool) -> str | None:
    """Against the service's model in botocore, from which AWS CLI makes its commands. whole: nothing may be missing."""
    while words and words[0] in AWS_GLOBAL:
        words = words[2:]
    options = {word.split("=")[0] for word in words if word.startswith("--")} - AWS_GLOBAL
    service, operation = {"s3api": "s3"}.get(words[0], words[0]), words[1]
    if (custom := AWS_CUSTOM.get(f"{words[0]} {operation}")) is not None:
        return f"aws {service} {operation}: no {options - custom}" if options - custom else None
    try:
        model = botocore.session.get_session().get_service_model(service)
    except botocore.exceptions.UnknownServiceError as error:
        return str(error)
    names = {xform_name(name, "-"): name for name in model.operation_names}
    if operation == "wait":
        return None
    if operation not in names:
        return f"aws {service} has no {operation}"
    shape = model.operation_model(names[operation]).input_shape
    members = {f"--{xform_name(name, '-')}" for name in (shape.members if shape else {})}
    required = {f"--{xform_name(name, '-')}" for name in (shape.required_members if shape else ())}
    known = members | {f"--no-{name[2:]}" for name in members} | {"--max-items", "--no-paginate"}
    if unknown := options - known:
        return f"aws {service} {operation}: no {unknown}"
    missing = required - options if whole else set()
    return f"aws {service} {operation}: {missing} missing" if missing else None


SAM_OPTIONS = """
import json, sys
from samcli.cli.main import cli
found = {}
for words in json.loads(sys.argv[1]):
    command, name, context = cli, [], None
    for word in words:
        context = command.make_context("sam", [], parent=context, resilient_parsing=True)
        inner = command.get_command(context, word) if hasattr(command, "get_command") else None
        if inner is None:
            break
        command = inner
        name.append(word)
    found[" ".join(words)] = [" ".join(name), [o for p in command.params for o in (*p.opts, *p.secondary_opts)]]
print(json.dumps(found))
"""


def is_sam(words: list[str]) -> bool:
    return Path(words[0]).name == "sam"


def test_every_command_of_sam_knows_its_options(absent: Any) -> None:
    used = [words[1:] for command in COMMANDS for words in split(command.text) if is_sam(words)]
    assert used
    python = PROJECT / ".venv-sam/bin/python"
    if not python.exists():
        absent("sam", "SAM CLI is not installed here: make .venv-sam/.installed")
    ran = subprocess.run([python, "-c", SAM_OPTIONS, json.dumps(used)], capture_output=True, text=True, check=True)
    known: dict[str, tuple[str, list[str]]] = json.loads(ran.stdout)
    for words in used:
        name, options = known[" ".join(words)]
        assert name, f"sam {' '.join(words)}: no such command"
        unknown = {word.split("=")[0] for word in words if word.startswith("--")} - {*options, "--help"}
        assert not unknown, f"sam {' '.join(words)}: no {unknown}"


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_exists_with_all_its_options(command: Command) -> None:
    found = list(split(command.text))
    assert found or re.fullmatch(r"\w+=.*", command.text)
    for words in found:
        program = words[0]
        if re.search(r"\b[A-Z]{2,}\b", " ".join(words[1:2])):  # `kickstand COMMAND --help`
            continue
        match Path(program).name:
            case "kickstand":
                problem = check_kickstand(words[1:])
                if not command.block and problem and "requires an argument" in problem:  # as in `monitor --records`
                    problem = None
            case "make":
                problem = check_make(words[1:])
            case "aws":
                problem = check_aws(words[1:], whole=command.block)
            case "sam":
                problem = None  # all at once, below: SAM CLI takes seconds to start
            case _ if "/" in program and program.startswith((".venv", ".ci", "/")):
                made = program.split("/")[0] in (".venv", ".venv-sam", ".venv-bench")
                problem = None if made or (PROJECT / program).exists() else f"{program} is not there"
                files = [word for word in words[1:] if word.endswith(".py")]
                problem = problem or next((f"{f} is not there" for f in files if not (PROJECT / f).exists()), None)
            case name:
                problem = None if name in ("cd", "echo", "export", "git", "jq", "cat", "open") else f"what is {name}?"
        assert problem is None, f"{command}: {problem}"


def test_what_cannot_run_is_still_written_somewhere() -> None:
    texts = [command.text for command in COMMANDS if command.block]
    assert [pattern for pattern in CANNOT_RUN if not any(re.match(pattern, text) for text in texts)] == []


def test_what_is_left_to_ci_is_a_step_of_it() -> None:
    steps = (PROJECT / ".ci/run").read_text("utf-8")
    left = {command.text for command in COMMANDS if command.block and command.obstacle == CI}
    assert left
    for text in left:
        assert text in steps


# ---- running them

BICYCLE, MOTORCYCLE = "samples/images/bicycle/red-road-bike.jpg", "samples/images/motorcycle/red-sport.jpg"
BOTH = "samples/images/hard/motorcycle-before-bicycle.jpg"  # the model is unsure of it


@pytest.fixture(scope="module")
def readers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout as a reader has it who has followed the pages: with photos, a dataset and a model."""
    folder = tmp_path_factory.mktemp("checkout")
    for path in PROJECT.iterdir():
        if path.name not in (".git", "build", "demo-output", "dataset"):
            (folder / path.name).symlink_to(path)
    for name, sample in {
        "photo.jpg": BICYCLE,
        "dataset/test/bicycle/1.jpg": BICYCLE,
        "dataset/test/motorcycle/2.jpg": MOTORCYCLE,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / sample, folder / name)
    for name in read_card(MODEL).labels:
        shutil.copytree(PROJECT / "samples/images" / name, folder / "home/photos" / name)
    return folder


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """What the pages call kickstand-dev."""
    with deploy(TEMPLATE, {"AuditRate": "0"}) as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(deployment, "_ask_cloudformation", lambda name: stack.outputs)
        for key, sample in {"bike.jpg": BICYCLE, "van.jpg": BOTH}.items():
            stack.upload(key, (PROJECT / sample).read_bytes())
        stack.settle()
        yield stack


def run_in_shell(text: str, folder: Path) -> tuple[int, str]:
    home = folder / "home"
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    ran = subprocess.run(
        ["bash", "-c", text], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    return ran.returncode, ran.stdout + ran.stderr


def run(text: str, folder: Path) -> tuple[int, str]:
    """Exit code and output. The command itself in this process, which saves the seconds of importing it each time."""
    words = shlex.split(text)
    if Path(words[0]).name == "kickstand" and words[1] != "demo" and not set(text) & set("|><$&;~"):
        result = CliRunner().invoke(app, words[1:])
        return result.exit_code, result.output + (repr(result.exception) if result.exception else "")
    return run_in_shell(text, folder)


@pytest.mark.timeout(400)  # some twenty commands; two demos among them, on a machine that may be busy
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(c.block and not c.obstacle for c in read_commands(page))],
    ids=lambda p: p.name,
)
def test_the_commands_of_a_page_work_in_their_order(
    page: Path, readers_folder: Path, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(readers_folder)
    before = checksums()
    for command in read_commands(page):
        if command.block and not command.obstacle:
            text = fill_in(command.text, stack.outputs)
            if "demo-output/" in text and not (readers_folder / "demo-output").exists():
                run(".venv/bin/kickstand demo --limit 3", readers_folder)
            code, output = run(text, readers_folder)
            assert code == 0, f"{command}: exit code {code}\n{output}"
    assert checksums() == before, f"{page}: a command changes the checkout's own model"


def fill_in(text: str, outputs: Mapping[str, str]) -> str:
    """With the names that the reader's stack has, where the page can only show an ellipsis or an example."""
    return text.replace("s3://my-bucket", f"s3://{outputs['ImageBucketName']}").replace(
        "$BUCKET", outputs["ImageBucketName"]
    )


def checksums() -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in MODEL.iterdir()}
