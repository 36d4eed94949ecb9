"""The `kickstand` command: the list of commands that `kickstand --help` shows.

A command's module is imported when the command is called, so that help and typing errors cost no NumPy and no boto3.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from kickstand import __version__
from kickstand.text import printable
from kickstand_cli.help import OLD_COMMANDS, dress, note, plain
from kickstand_cli.terminal import console, interruptible, naming_stdout, session

# Panel, command, module, first sentence. A module has the command's function, or a group named `app`.
COMMANDS = {
    "First steps": {
        "demo": (
            "local.demo",
            "Upload photos to the shipped template, run on this machine, and see how each is decided and why.",
        ),
        "doctor": ("local.doctor", "Check prerequisites, and suggest fixes."),
        "classify": ("classify.classify", "Classify photos, and show what the workflow would decide about each."),
    },
    "Model and policy": {
        "evaluate": ("classify.evaluate", "Measure the model and its policy on labelled photos."),
        "policy": ("classify.policy", "Derive the thresholds from a guarantee or from prices."),
        "replay": ("classify.replay", "Re-evaluate stored decisions under another policy or model."),
        "baseline": ("monitor.baseline", "Store the statistics of a time when all was well, for `kickstand monitor`."),
        "gate": ("training.gate", "Compare two models on the same held-out photos: can the new one replace the old?"),
    },
    "Training": {
        "train": ("training.train", "Train a classifier of your own on this machine, from folders of photos."),
        "training": ("training.training_command", "Train on AWS: upload photos, start a training, show its status."),
        "dataset": ("datasets.dataset", "Fetch a dataset of labelled photos, or check one for faults."),
    },
    "Operating": {
        "monitor": ("monitor.monitor", "Report drift and live accuracy."),
        "report": ("monitor.report", "Write the monitoring report: one HTML page."),
        "ledger": ("ledger.ledger", "Account for all uploads; find missing ones and process them again."),
        "dead-letters": (
            "ledger.dead_letters",
            "List the uploads whose processing failed, and what happens next.",
        ),
        "explain": ("ledger.explain", "Explain one decision."),
        "forget": ("ledger.forget", "Remove a photo and everything that the stack stores about it."),
        "switch": ("classify.switch", "Turn review-everything mode on or off."),
        "backfill": ("classify.backfill", "Decide photos that are in the bucket without a decision of this stack."),
    },
    "Reviews": {
        "review": ("review.review", "Answer the reviews that wait: which class does a photo show?"),
        "labels": ("review.labels", "Export reviewers' answers as a dataset, and measure how often reviewers agree."),
    },
    "Endpoints, tests and costs": {
        "serve": ("classify.serve", "Serve a model on this machine as a SageMaker endpoint does."),
        "import-capture": ("monitor.import_capture", "Turn an endpoint's captured inferences into records."),
        "load-test": ("local.load", "Upload many photos, and check that each is decided exactly once."),
        "cost": ("local.cost", "Estimate what a year costs, by month and by service."),
    },
}


def take_any_file(*functions: Any) -> None:
    """Let a command get files that it cannot read: Typer would refuse all files for one of them."""
    for function in functions:
        for hint in get_type_hints(function, include_extras=True).values():
            for about in getattr(hint, "__metadata__", ()):
                about.readable = False


class Deferred(TyperCommand):
    """A command whose module has not been imported yet."""

    def __init__(self, name: str, module: str, summary: str, panel: str) -> None:
        super().__init__(name, help=summary, rich_help_panel=panel)
        self.module = f"kickstand_cli.{module}"
        self.function = "load" if name == "load-test" else name.replace("-", "_")

    def load(self) -> Any:
        """The command itself."""
        module = import_module(self.module)
        if group := getattr(module, "app", None):
            take_any_file(*(one.callback for one in group.registered_commands))
            command: Any = get_group(group)
        else:
            single = typer.Typer(add_completion=False)
            single.command()(getattr(module, self.function))
            take_any_file(getattr(module, self.function))
            command = get_command(single)
        command.name = self.name
        dress(command)
        return command

    def make_context(self, *parts: Any, **named_parts: Any) -> Any:
        """The command's own context: from here on it parses, completes and runs."""
        return self.load().make_context(*parts, **named_parts)


def loaded(command: Any) -> Any:
    """The command itself, its module imported."""
    return command.load() if isinstance(command, Deferred) else command


@contextmanager
def plain_mistakes() -> Iterator[None]:
    """The message of a usage error repeats the user's words, which may hold escape sequences: print them escaped."""
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

    def get_params(self, ctx: Any) -> Any:
        """Those of the help."""
        return plain(super().get_params(ctx), ctx)

    @naming_stdout()
    def format_help(self, *parts: Any) -> None:
        """Print the list of commands."""
        super().format_help(*parts)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Also by an older name."""
        if new := OLD_COMMANDS.get(cmd_name):
            note(f"kickstand {cmd_name}", f"kickstand {new}")
        return super().get_command(ctx, new or cmd_name)

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
    """Accepts confident predictions, sends uncertain ones to review, alerts on drift, accounts for every upload."""
