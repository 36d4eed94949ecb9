"""`kickstand classify`: files in, one JSON line each out; the same core as the workflow's functions."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from kickstand.classify.images import prepare
from kickstand.classify.inference import EmbeddedModel
from kickstand.classify.photo_quality import find_flaw
from kickstand.classify.policy import decide
from kickstand.errors import InvalidImage, ModelUnavailable
from kickstand.events import Decision, Prediction, Reason, Route
from kickstand_cli.project import MODEL
from kickstand_cli.terminal import exit_on, stderr

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
    try:
        image = prepare(data, name, model.card.input_shape)
    except InvalidImage as error:
        return Answer(None, Decision(route=Route.REJECT, reason=Reason.UNREADABLE, explanation=str(error)))
    prediction = model.predict(image)
    return Answer(prediction, decide(prediction, model.card.policy, flaw=find_flaw(image.statistics)))


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

    An unreadable image is an answer (route "reject", reason "unreadable"); a file that is not there is an error:
    the others are still classified, and the exit code is 1. latency_ms is the network's forward pass alone.
    """
    model = load_model(artefact)
    failed = False
    for file in files:
        try:
            data = file.read_bytes()
        except OSError as error:
            stderr.print(f"error: {file}: {error.strerror}", markup=False)
            failed = True
            continue
        print(json.dumps(as_json(str(file), answer(data, str(file), model), model.card.model_version)), flush=True)  # noqa: T201
    if failed:
        raise typer.Exit(1)
