"""`kickstand evaluate`: how good the model and its policy are on labelled photos."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from kickstand.classify.artefact import read_part
from kickstand.events import NEITHER, Route
from kickstand.text import dump_json
from kickstand_cli.classify.classify import ModelOption, load_model
from kickstand_cli.classify.evaluation import (
    PAGE,
    ReportedCard,
    answer_all,
    estimates,
    explain_unreadable,
    find_images,
    name_unread,
    summarise,
)
from kickstand_cli.files import expect_writable, write_file
from kickstand_cli.project import MODEL
from kickstand_cli.terminal import AsJson, console, exit_on, print_json, show_progress


def evaluate(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Photos in DIR/CLASS/, and those of none of the classes in DIR/neither/."),
    ],
    artefact: ModelOption = MODEL,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the numbers as JSON.")] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write evaluation.html with charts, model-card.md, evaluation.json."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the model and its policy on labelled photos.

    Each number has its n and a 95 % interval: Wilson for shares, bootstrap for the rest.

    Exit codes: 0 measured; 1 an error, or files that cannot be read or are no photos: they are named, counted
    as rejected among the routes, and left out of all other numbers.

    Examples:
    $ kickstand evaluate dataset/test
    $ kickstand evaluate dataset/test --report evaluation --json
    """
    model = load_model(artefact)
    labels = model.card.labels
    unread: list[str] = []
    with exit_on(OSError, ValueError):
        if report:
            read_part(artefact, ReportedCard)  # before long work
        images = find_images(folder, labels, unread)
        if out:
            expect_writable(out, new_folder=True, inputs=[folder, artefact])
        if report:
            expect_writable(report / PAGE, new_folder=True, inputs=[folder, artefact])
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
            raw_card = json.loads((artefact / "model.json").read_bytes())
            with exit_on(ValueError):
                evaluation_report.write_report(report, result, examples, model.card, raw_card)
    if out:
        with exit_on():
            write_file(out, dump_json(result, indent=2) + "\n")
    if as_json:
        print_json(result, indent=2)
    else:
        show(result)
        if report:
            console.print(f"report: {report / 'evaluation.html'}")
    name_unread([*unread, *explain_unreadable(examples)])


def show(result: dict[str, Any]) -> None:
    """The numbers as tables."""
    numbers = Table(title=f"model {result['model_version']}, policy {result['policy_version']}", title_justify="left")
    for name, justify in (("", "left"), ("value", "right"), ("95 % interval", "right"), ("n", "right")):
        numbers.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in estimates(result):
        interval = f"{row['low']:.4f} to {row['high']:.4f}"
        numbers.add_row(row["title"], f"{row['value']:.4f}", interval, f"{row['n']:,}")
    console.table(numbers)
    routes = Table(title="photos by truth, prediction and route", title_justify="left")
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
            console.print(f"photos of none of the classes accepted as {label}: {count:,} of {result['foreign_n']:,}")
