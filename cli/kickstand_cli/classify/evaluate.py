"""`kickstand evaluate`: how good are the model and its policy on labelled images?"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from kickstand.events import NEITHER, Route
from kickstand_cli.classify.classify import ModelOption, load_model
from kickstand_cli.classify.evaluation import PAGE, answer_all, estimates, find_images, name_unread, summarise
from kickstand_cli.files import expect_writable, write_file
from kickstand_cli.project import MODEL
from kickstand_cli.terminal import console, exit_on, print_json, show_progress


def evaluate(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Images in DIR/<label>/, and foreign ones in DIR/neither/.")
    ],
    artefact: ModelOption = MODEL,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers as JSON; - for standard output.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write evaluation.html with pictures, model-card.md and evaluation.json."),
    ] = None,
) -> None:
    """Evaluate the model and its policy on labelled images.

    Every number comes with its n and a 95 % interval: Wilson for shares, bootstrap for the rest.

    Exit codes: 0 evaluated; 1 an error, or files that cannot be read: they are named, and left out of the numbers.
    """
    model = load_model(artefact)
    labels = model.card.labels
    unread: list[str] = []
    with exit_on():
        images = find_images(folder, labels, unread)
        if json_file and json_file != Path("-"):
            expect_writable(json_file)
        if report:
            expect_writable(report / PAGE, new_folder=True)
    with show_progress() as progress:
        task = progress.add_task("classifying", total=len(images))
        examples = answer_all(images, model, lambda: progress.advance(task), unread)
        progress.update(task, description="bootstrapping")
        result: dict[str, Any] = {
            "model_version": model.card.model_version,
            "policy_version": model.card.policy.policy_version,
            **summarise(examples, labels),
        }
        if report:
            from kickstand_cli.classify import evaluation_report  # slow: matplotlib

            progress.update(task, description="drawing")
            raw_card = json.loads((artefact / "model.json").read_text("utf-8"))
            with exit_on(ValueError):
                evaluation_report.write_report(report, result, examples, model.card, raw_card)
    if json_file == Path("-"):
        print_json(result, indent=2)
    else:
        if json_file:
            with exit_on():
                write_file(json_file, json.dumps(result, indent=2) + "\n")
        show(result)
        if report:
            console.print(f"pictures in {report / 'evaluation.html'}")
    name_unread(unread)


def show(result: dict[str, Any]) -> None:
    """The numbers as tables."""
    numbers = Table(title=f"model {result['model_version']}, policy {result['policy_version']}", title_justify="left")
    for name, justify in (("", "left"), ("value", "right"), ("95 % interval", "right"), ("n", "right")):
        numbers.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in estimates(result):
        interval = f"{row['low']:.4f} to {row['high']:.4f}"
        numbers.add_row(row["title"], f"{row['value']:.4f}", interval, f"{row['n']:,}")
    console.table(numbers)
    routes = Table(title="images by truth, label and route", title_justify="left")
    routes.add_column("truth")
    for column in [*result["confusion"], *Route]:
        routes.add_column(column, justify="right")
    for truth, by_route in result["routes"].items():
        confusion = result["confusion"].get(truth, {})
        cells = ["" if truth == NEITHER else str(confusion[label]) for label in result["confusion"]]
        routes.add_row(truth, *cells, *(str(by_route[route]) for route in Route))
    console.table(routes)
    for label, count in result["foreign_accepted_as"].items():
        if result["foreign_n"]:
            console.print(f"foreign images accepted as {label}: {count:,} of {result['foreign_n']:,}")
    for path in result["unreadable"]:
        console.print(f"unreadable, not counted: {path}")
