"""`kickstand classify`: what the workflow would decide about files, by the same code."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from kickstand.classify.decoding import start as start_decoder
from kickstand.classify.images import scale
from kickstand.classify.inference import EmbeddedModel
from kickstand.classify.photo_quality import find_flaw
from kickstand.classify.policy import decide
from kickstand.errors import InvalidImage, ModelUnavailable
from kickstand.events import Decision, Prediction, Reason, Route
from kickstand_cli.files import read_file
from kickstand_cli.parallel import in_processes
from kickstand_cli.project import MODEL
from kickstand_cli.terminal import CommandError, ExitCode, Name, console, exit_on, print_json, show_progress, stderr

ModelOption = Annotated[
    Path,
    typer.Option(
        "--model",
        metavar="DIR",
        show_default="the shipped model",
        help="The model artefact: a folder with model.onnx and model.json.",
    ),
]


@dataclass(frozen=True)
class Answer:
    """What the workflow would decide about one file. prediction: None for an unreadable file."""

    prediction: Prediction | None
    decision: Decision


def load_model(artefact: Path) -> EmbeddedModel:
    """The model. Ends the command with one line where it cannot be loaded."""
    with exit_on(ModelUnavailable):
        return EmbeddedModel(artefact)


def answer(data: bytes, name: str, model: EmbeddedModel) -> Answer:
    """Prepare, classify and decide, without AWS."""
    return answer_batch([(name, data)], model)[0]


def answer_batch(photos: Sequence[tuple[str, bytes]], model: EmbeddedModel) -> list[Answer]:
    """The prediction for each of these photos, by one call of the network. photos: names and bytes.

    Raises CommandError if the network's outputs are no numbers.
    """
    answers: list[Answer | None] = []
    pixels, flaws = [], []
    for name, data in photos:
        try:
            image, summary = scale(data, name, model.card.input_shape)
        except InvalidImage as error:
            unreadable = Decision(route=Route.REJECT, reason=Reason.UNREADABLE, explanation=str(error))
            answers.append(Answer(None, unreadable))
        else:
            pixels.append(np.asarray(image))
            flaws.append(find_flaw(summary.statistics))
            answers.append(None)
    try:
        predictions = model.predict_pixels(np.stack(pixels)) if pixels else []
    except ModelUnavailable as error:
        raise CommandError(str(error)) from error
    decided = (
        Answer(prediction, decide(prediction, model.card.policy, flaw=flaw))
        for prediction, flaw in zip(predictions, flaws, strict=True)
    )
    return [given or next(decided) for given in answers]


def answer_files(files: Iterable[Path], model: EmbeddedModel) -> Iterator[Answer | str]:
    """The prediction for each file, in order, on all cores; for a file that cannot be read, the reason."""
    return in_processes(
        partial(_answer_files, model.artefact), files, lambda file: f"{file}: the process that read it has crashed"
    )


cached_model = cache(EmbeddedModel)
"""Once in every process."""


def _answer_files(artefact: Path, files: Sequence[Path]) -> list[Answer | str]:
    start_decoder()  # while the model is loaded
    photos, missing = [], {}
    for file in files:
        try:
            photos.append((str(file), read_file(file)))
        except (OSError, ValueError) as error:  # ValueError: an impossible file name
            missing[file] = f"{file}: {getattr(error, 'strerror', None) or error}"
    answers = iter(answer_batch(photos, cached_model(artefact)))
    return [missing.get(file) or next(answers) for file in files]


def as_dict(image: str, given: Answer, model_version: str) -> dict[str, Any]:
    """One line of `kickstand classify --json`."""
    prediction, decision = given.prediction, given.decision
    return {
        "image": image,
        **{name: getattr(prediction, name, None) for name in ("label", "confidence", "probabilities", "neither")},
        "route": decision.route,
        "reason": decision.reason,
        "explanation": decision.explanation,
        "model_version": model_version,
        "latency_ms": prediction.latency_ms if prediction else None,
    }


def classify(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Photos: JPEG, HEIC, AVIF, PNG, WebP, GIF, BMP, TIFF.")
    ],
    artefact: ModelOption = MODEL,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line, each as soon as its photo is classified.")
    ] = False,
) -> None:
    """Classify photos, and show what the workflow would decide about each.

    The results are in the order of the files. An unreadable file is a result: route "reject", reason "unreadable". A
    missing file is an error: the others are still classified, and the exit code is 1. `latency_ms` is the photo's share
    of the network's forward pass.

    Examples:
    $ kickstand classify photo.jpg
    $ kickstand classify samples/images/*/*.jpg --json
    """
    model = load_model(artefact)
    failed = False
    table = Table("photo", "route", "class", "confidence", "why", box=None)
    table.columns[3].justify = "right"
    with show_progress(hidden=as_json and sys.stdout.isatty()) as progress:
        answers = progress.track(answer_files(files, model), total=len(files), description="classifying")
        for file, given in zip(files, answers, strict=True):
            if isinstance(given, str):
                stderr.print(f"error: {given}")
                failed = True
            elif as_json:
                print_json(as_dict(str(file), given, model.card.model_version))
            else:
                prediction, decision = given.prediction, given.decision
                scores = (prediction.label, f"{prediction.confidence:.3f}") if prediction else ("", "")
                why = "" if decision.route is Route.ACCEPT else decision.explanation.removeprefix(f"{file}: ")
                table.add_row(Name(file), decision.route, *scores, why)
    if table.rows:
        console.table(table)
    if failed:
        raise typer.Exit(ExitCode.ERROR)
