"""Command lines that nobody means well by, or not at all, in environments that nobody thinks of."""

import os
import random
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any
from unittest.mock import patch

import boto3
import typer
import typer.rich_utils  # it keeps for good what FORCE_COLOR says when it is imported
from typer.testing import CliRunner, Result

from fuzz.tally import Tally
from kickstand_cli.main import app, loaded
from kickstand_cli.project import MODEL

LEFT_OUT = {"demo", "load-test", "serve", "train", "review"}  # they take long, wait for a key, or serve until Ctrl-C
TEXTS = (
    *(
        "",
        " ",
        "-",
        "--",
        "=",
        ",",
        "..",
        "0.5..",
        "a=b=c",
        "bicycle=0.5,motorcycle",
        "%s%n",
        "[bold]x[/]",
        "{0}",
        "é→🚲",
    ),
    *(
        "nan",
        "inf",
        "-inf",
        "1e400",
        "-1",
        "0",
        "1",
        "0.5",
        "1e-320",
        "9" * 400,
        "0x10",
        "１",
        "7d",
        "99999999999d",
        "-1h",
    ),
    *(
        "\x1b[2J\x07",
        "a\nb\r",
        "\udcff",
        "\u202e",
        "\ufffe",
        "x" * 5000,
        "s3://",
        "s3:///x",
        "2026-13-01",
        "0001-01-01",
    ),
    *("http://", "file:///etc/passwd", "ftp://127.0.0.1", "auto", "null", "{}"),
)
FILES = {  # in the folder where the commands are called
    "empty": b"",
    "bytes": bytes(range(256)),
    "list.json": b"[]",
    "null.json": b"null",
    "numbers.json": b'{"policy": 1e999, "labels": NaN}',
    "deep.json": b"[" * 100_000,
    "utf16.jsonl": "{}\n".encode("utf-16"),
    "lines.jsonl": b"{}\nnull\n[]\n\xff\n",
}
PLACES = (
    *FILES,
    "pipe",
    "gone",
    "round",
    "here",
    "photos",
    "nowhere/x",
    "here/x.json",
    "x" * 300,
    "/dev/null",
    "/dev/full",
)
ENVIRONMENTS: tuple[dict[str, str | None], ...] = (
    {},
    {"HOME": None, "USER": None, "LOGNAME": None},
    {"AWS_PROFILE": "nobody"},
    {"AWS_REGION": "\x1b[2J", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
    {"AWS_REGION": "eu-central-1", "HTTPS_PROXY": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"},
    {"COLUMNS": "1", "FORCE_COLOR": "1"},
    {"COLUMNS": "-1", "NO_COLOR": "1", "TERM": ""},
    {"KICKSTAND_STACK": "\x1b[2J", "KICKSTAND_CIFAR100": "/dev/null"},
    {"XDG_CACHE_HOME": "/dev/null"},
)


def try_commands(folder: Path, number: int, seed: int = 1) -> Tally:
    """This many command lines; they are called in this folder, which is filled for them."""
    tally, chance = Tally("command lines"), random.Random(seed)
    commands = list(_walk(typer.main.get_command(app)))
    with chdir(folder):
        _fill()
        for _ in range(number):
            words, command = chance.choice(commands)
            line = [*words, *_arguments(command, chance)]
            with patch.dict(os.environ), patch.object(boto3, "DEFAULT_SESSION", None):
                _enter(chance.choice(ENVIRONMENTS))
                ended = CliRunner().invoke(app, line)
            tally.count(repr(line)[:300], _judge(ended))
    return tally


def _judge(ended: Result) -> str:
    said = ended.output
    if ended.exit_code not in (0, 1, 2, 3, 4) or (ended.exception and not isinstance(ended.exception, SystemExit)):
        return f"exit code {ended.exit_code}, {ended.exception!r}"
    if "Traceback" in said or "internal error" in said:
        return said[-300:]
    # In colour, Typer's own help and its boxes are; what it quotes is not.
    plain = said.replace("\x1b[0m", "")
    if any(mark in plain for mark in ("\x1b[2J", "\x07", "\u202e", "\x9b")):
        return f"steers the terminal: {said[:300]!r}"
    if ended.exit_code == 1 and "error: " not in said and "wrong" not in said:  # `doctor --deploy` says it so
        return f"exit code 1 without a reason: {said[-300:]!r}"
    return "refused" if ended.exit_code in (1, 2) else "decided"


def _walk(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, inner in command.commands.items():
        if name not in LEFT_OUT:
            inner = loaded(inner)
            yield (*words, name), inner
            if hasattr(inner, "commands"):
                yield from _walk(inner, (*words, name))


def _arguments(command: Any, chance: random.Random) -> Iterator[str]:
    """Some of its options and arguments, each with a value that is right by chance at most."""
    for parameter in command.params:
        is_option = parameter.opts[0].startswith("-")
        if parameter.name == "artefact" and is_option:
            yield from ("--model", "model")  # the checkout's own is not written to
        elif parameter.name in ("help", "yes") or chance.random() > (0.3 if is_option else 0.9):
            continue
        else:
            if is_option:
                yield chance.choice(parameter.opts)
            if not getattr(parameter, "is_flag", False):
                yield chance.choice(PLACES if "Path" in str(parameter.bare_type()) and chance.random() < 0.9 else TEXTS)
    if chance.random() < 0.1:
        yield chance.choice(TEXTS)


def _fill() -> None:
    for name, content in FILES.items():
        Path(name).write_bytes(content)
    os.mkfifo("pipe")
    Path("gone").symlink_to("nowhere-at-all")
    Path("round").symlink_to("round")
    Path("here").mkdir()
    for label in ("bicycle", "motorcycle", "neither"):
        Path("photos", label, "x.png").mkdir(parents=True)
        os.mkfifo(f"photos/{label}/pipe.png")
    Path("model").mkdir()
    Path("model/model.onnx").symlink_to(MODEL / "model.onnx")
    Path("model/model.json").write_bytes((MODEL / "model.json").read_bytes())


def _enter(environment: dict[str, str | None]) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "KICKSTAND_"))]:
        del os.environ[name]
    usual = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_CONFIG_FILE": os.devnull,
        "KICKSTAND_CIFAR100_URL": "http://127.0.0.1:9/archive.tar.gz",
    }
    for name, value in {**usual, **environment}.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
