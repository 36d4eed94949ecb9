"""`kickstand classify`: files in, one JSON line each out; the same core as the workflow's functions."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

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
from kickstand_cli.terminal import exit_on, print_json, show_progress, stderr

ModelOption = Annotated[
    Path, typer.Option("--model", metavar="DIR", help="The model artefact: a folder with model.onnx and model.json.")
]


@dataclass(frozen=True)
class Answer:
    """What the workflow would decide about one file. prediction: None for an unreadable image."""

    prediction: Prediction | None
    decision: Decision


def load_model(artefact: Path) -> EmbeddedModel:
    """The model, or a one-line error and exit code 1."""
    with exit_on(ModelUnavailable):
        return EmbeddedModel(artefact)


def answer(data: bytes, name: str, model: EmbeddedModel) -> Answer:
    """Prepare, classify and decide, without AWS."""
    return answer_batch([(name, data)], model)[0]


def answer_batch(photos: Sequence[tuple[str, bytes]], model: EmbeddedModel) -> list[Answer]:
    """The answer to each of these photos, by one call of the network. photos: names and bytes."""
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
    predictions = model.predict_pixels(np.stack(pixels)) if pixels else []
    decided = (
        Answer(prediction, decide(prediction, model.card.policy, flaw=flaw))
        for prediction, flaw in zip(predictions, flaws, strict=True)
    )
    return [given or next(decided) for given in answers]


def answer_files(files: Iterable[Path], model: EmbeddedModel) -> Iterator[Answer | str]:
    """The answer to each file, in order, by all cores; of a file that cannot be read, why."""
    return in_processes(
        partial(_answer_files, model.artefact), files, lambda file: f"{file}: reading it has ended a process"
    )


cached_model = cache(EmbeddedModel)
"""Once in every process."""


def _answer_files(artefact: Path, files: Sequence[Path]) -> list[Answer | str]:
    start_decoder()  # while the model is loaded
    photos, missing = [], {}
    for file in files:
        try:
            photos.append((str(file), read_file(file)))
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            missing[file] = f"{file}: {getattr(error, 'strerror', None) or error}"
    answers = iter(answer_batch(photos, cached_model(artefact)))
    return [missing.get(file) or next(answers) for file in files]


def as_json(image: str, given: Answer, model_version: str) -> dict[str, Any]:
    """One line of `kickstand classify`."""
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
        list[Path], typer.Argument(metavar="FILE…", help="Photos: JPEG, HEIC, AVIF, PNG, WebP, GIF, BMP, TIFF.")
    ],
    artefact: ModelOption = MODEL,
) -> None:
    """Classify files and print one JSON line for each.

    The lines are in the files' order. An unreadable image is an answer (route "reject", reason "unreadable"); a file
    that is not there is an error: the others are still classified, and the exit code is 1. Many files are classified
    by all cores, several in one call of the network; latency_ms is a photo's share of the network's forward pass alone.
    """
    model = load_model(artefact)
    failed = False
    with show_progress(hidden=sys.stdout.isatty()) as progress:
        answers = progress.track(answer_files(files, model), total=len(files), description="classifying")
        for file, given in zip(files, answers, strict=True):
            if isinstance(given, str):
                stderr.print(f"error: {given}")
                failed = True
            else:
                print_json(as_json(str(file), given, model.card.model_version))
    if failed:
        raise typer.Exit(1)
