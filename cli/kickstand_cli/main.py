"""The `kickstand` command: what there is, and what `kickstand --help` says of it.

A command's module is imported when the command is called, so that help and typing errors cost no NumPy and no boto3.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from kickstand import __version__
from kickstand_cli.terminal import console, interruptible, printable, session

# Panel, command, module, first sentence. A module has the command's function, or a group named `app`.
COMMANDS = {
    "First steps": {
        "demo": (
            "local.demo",
            "Run the shipped template, state machine and functions on this machine, and watch photos being decided.",
        ),
        "doctor": (
            "local.doctor",
            "Check this machine for what Kickstand needs, and say how to fix what is missing.",
        ),
        "classify": ("classify.classify", "Classify files and print one JSON line for each."),
    },
    "Classify": {
        "evaluate": ("classify.evaluate", "Evaluate the model and its policy on labelled images."),
        "policy": (
            "classify.policy",
            "Derive each label's threshold from a promise, --max-risk, or from prices, --review-cost and --error-cost.",
        ),
        "replay": (
            "classify.replay",
            "Decide stored records again by another policy or model: which answers change, errors, review load.",
        ),
        "backfill": (
            "classify.backfill",
            "Decide photos that have no record yet, or again those that an older model version decided.",
        ),
        "switch": (
            "classify.switch",
            "Review everything: no answer is accepted, a person decides, until the switch ends or is put off.",
        ),
        "serve": (
            "classify.serve",
            "Serve a model as a SageMaker endpoint would: /ping, /invocations, and InvokeEndpoint for AWS SDKs.",
        ),
    },
    "Review": {
        "review": (
            "review.review",
            "Decide about the photos that the model is unsure of. Calls the deployed stack's review function.",
        ),
        "labels": ("review.labels", "What people have answered: as a dataset, and how often two of them agree."),
    },
    "Ledger": {
        "ledger": (
            "ledger.ledger",
            "Show what the last run and the last audit found; with --audit, audit now; with --replay, send again.",
        ),
        "explain": ("ledger.explain", "Explain in one paragraph what happened to an image, and why."),
        "forget": (
            "ledger.forget",
            "Remove a photo and all that says something about it: record, review, answers, dead letters, report pages.",
        ),
    },
    "Monitor": {
        "monitor": (
            "monitor.monitor",
            "Compare records with the model's baseline, and estimate how often the answers are right.",
        ),
        "baseline": (
            "monitor.baseline",
            "Store in model.json how images and answers look when all is well; `kickstand monitor` compares with it.",
        ),
        "report": (
            "monitor.report",
            "Write the monitoring report: one HTML page that needs no other file and no network.",
        ),
        "import-capture": (
            "monitor.import_capture",
            "Turn an endpoint's captured inferences into records, every line of every file.",
        ),
    },
    "Training": {
        "train": (
            "training.train",
            "Learn a classifier of your own from photos, with its threshold, its evidence and a report.",
        ),
        "training": ("training.training_command", "The deployed training: what it learns from, and starting it."),
        "gate": ("training.gate", "Compare two models on the same held-out images, by an exact paired test."),
    },
    "Datasets": {
        "dataset": ("datasets.dataset", "Fetch a dataset of labelled images, stage it on S3, check it."),
    },
    "Local": {
        "load": (
            "local.load",
            "Upload many photos, some of them bad or twice, and see that each is decided exactly once.",
        ),
        "cost": (
            "local.cost",
            "What a year costs, month by month and by service, for each set-up and for the student project's design.",
        ),
    },
}


class Deferred(TyperCommand):
    """A command whose module has not been imported yet."""

    def __init__(self, name: str, module: str, summary: str, panel: str) -> None:
        super().__init__(name, help=summary, rich_help_panel=panel)
        self.module = f"kickstand_cli.{module}"

    def load(self) -> Any:
        """The command itself."""
        module = import_module(self.module)
        if group := getattr(module, "app", None):
            command: Any = get_group(group)
        else:
            single = typer.Typer(add_completion=False)
            single.command()(getattr(module, str(self.name).replace("-", "_")))
            command = get_command(single)
        command.name = self.name
        refuse_infinite(command)
        return command

    def make_context(self, *parts: Any, **named_parts: Any) -> Any:
        """The command's own context: from here on it parses, completes and runs."""
        return self.load().make_context(*parts, **named_parts)


def loaded(command: Any) -> Any:
    """The command itself, its module imported."""
    return command.load() if isinstance(command, Deferred) else command


def refuse_infinite(command: Any) -> None:
    """A range alone lets "nan" pass, and "inf" where it has one end only."""
    for inner in getattr(command, "commands", {}).values():
        refuse_infinite(inner)
    parse = command.parse_args

    def parse_args(ctx: Any, arguments: list[str]) -> Any:
        rest = parse(ctx, arguments)
        for parameter in command.params:
            value = ctx.params.get(parameter.name)
            if isinstance(value, float) and not math.isfinite(value):
                low, high = getattr(parameter, "min", None), getattr(parameter, "max", None)
                limits = [f"{word} {limit:g}" for word, limit in (("from", low), ("to", high)) if limit is not None]
                wanted = " ".join(["a finite number", *limits])
                raise typer.BadParameter(f"{value} is not {wanted}", ctx=ctx, param=parameter)
        return rest

    command.parse_args = parse_args


@contextmanager
def plain_mistakes() -> Iterator[None]:
    """A mistake in the command line is told in its own words, which may be a file's name with escape sequences."""
    try:
        yield
    except Exception as error:
        if isinstance(message := getattr(error, "message", None), str):
            error.message = printable(message)  # type: ignore[attr-defined]
        raise


class Commands(TyperGroup):
    """All commands, in the order of their panels."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for panel, commands in COMMANDS.items():
            for name, (module, summary) in commands.items():
                self.add_command(Deferred(name, module, summary, panel))

    def main(self, *parts: Any, **named_parts: Any) -> Any:
        """From reading the command line to the exit code."""
        with session():
            return super().main(*parts, **named_parts)

    def make_context(self, *parts: Any, **named_parts: Any) -> Any:
        """Read the words before the command."""
        with plain_mistakes():
            return super().make_context(*parts, **named_parts)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with interruptible(), plain_mistakes():
            return super().invoke(ctx)


app = typer.Typer(
    name="kickstand",
    cls=Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"kickstand {__version__}")
        raise typer.Exit


@app.callback()
def kickstand(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Classifies photos as they are uploaded to S3, and guards every answer."""
