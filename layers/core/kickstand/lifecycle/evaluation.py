"""Champion and challenger classify the held-out photos; the gate compares them."""

import io
import json
import math
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kickstand.classify.artefact import read_probabilities
from kickstand.classify.images import prepare
from kickstand.classify.inference import EmbeddedModel
from kickstand.classify.policy import decide
from kickstand.classify.promise import Answered, Promise, keep_promise
from kickstand.errors import InvalidImage
from kickstand.events import Prediction, Route, SelectivePolicy
from kickstand.lifecycle.dataset_store import Image, Manifest
from kickstand.lifecycle.gate import Outcome, Stated, Verdict, judge, read_stated

MAX_ARTEFACT_BYTES = 100 * 2**20  # of one file; Kickstand's own model needs a hundredth
ARTEFACT = ("model.onnx", "model.json")

DEFAULT_RISK = 0.02
"""The guarantee of the built-in algorithm for a class without a guarantee of the champion."""

HeldOut = Sequence[tuple[Image, bytes]]
"""Held-out photos with their PNG."""


class Contender(NamedTuple):
    """The statements of a model's card, and its predictions."""

    stated: Stated
    outcomes: Sequence[Outcome]


def unpack_artefact(packed: bytes, folder: Path) -> Path:
    """Extract model.onnx and model.json of a model.tar.gz into the folder, and nothing else.

    Raises ValueError if it is not such an archive, lacks one of them, or holds one that is too large.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
            members = {member.name.removeprefix("./"): member for member in archive if member.isfile()}
            for name in ARTEFACT:
                if name not in members:
                    raise ValueError(f"model.tar.gz holds {', '.join(sorted(members)) or 'nothing'}, no {name}")
                if members[name].size > MAX_ARTEFACT_BYTES:
                    raise ValueError(f"{name} in model.tar.gz: more than {MAX_ARTEFACT_BYTES:,} bytes")
                file = archive.extractfile(members[name])
                (folder / name).write_bytes(file.read() if file else b"")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"model.tar.gz cannot be read: {error}") from error
    return folder


def answer(artefact: Path, held_out: HeldOut) -> Contender:
    """The artefact's predictions under its own policy, computed as in the workflow. Raises ModelUnavailable."""
    model = EmbeddedModel(artefact)
    policy = model.card.policy
    stated = read_stated(json.loads((artefact / "model.json").read_bytes()))

    def predict(image: Image, png: bytes) -> Prediction | None:
        try:
            return model.predict(prepare(png, image.path, model.card.input_shape))
        except InvalidImage:
            return None

    return Contender(stated, [_outcome(image, predict(image, png), policy) for image, png in held_out])


def read_answers(
    answers: Mapping[str, bytes], held_out: HeldOut, labels: tuple[str, ...], champion: Stated, model_version: str
) -> Contender:
    """The built-in algorithm's predictions, as a batch transform has written them.

    answers: content by file name: a list of probabilities, one per class, plain or under "prediction".

    That model has neither a policy nor "neither". Its threshold for each class is the lowest that keeps the champion's
    guarantee on the held-out photos themselves. The guarantee holds, because the model has learnt from none of them;
    its coverage is a little overestimated. If they cannot show the guarantee for a class, its predictions go to review.

    Raises ValueError naming a photo without a prediction, or with an invalid one.
    """
    predictions = [_read_prediction(image, answers, labels, model_version) for image, _ in held_out]
    photos = [
        Answered(image.label, one.label, one.confidence) for (image, _), one in zip(held_out, predictions, strict=True)
    ]
    promise = _promise_alike(champion, labels)
    shown = keep_promise(photos, promise)
    policy = SelectivePolicy(
        policy_version=model_version,
        accept_at=1.0,
        thresholds={label: evidence.threshold for label, evidence in shown.items()},
        neither_accept_at_most=0.0,
        neither_reject_at_least=1.0,
    )
    stated = Stated(
        model_version=model_version,
        labels=labels,
        promise=promise,
        refused={label: evidence.refused for label, evidence in shown.items() if evidence.refused},
    )
    return Contender(
        stated, [_outcome(image, one, policy) for (image, _), one in zip(held_out, predictions, strict=True)]
    )


def _promise_alike(champion: Stated, labels: tuple[str, ...]) -> Promise:
    """The champion's guarantee, for these classes; one about all predictions together applies to each class."""
    was = champion.promise
    if was and was.max_risk.keys() == set(labels):
        return was
    risks = {label: (was.risk_of(label) if was else None) or DEFAULT_RISK for label in labels}
    return Promise(max_risk=risks, confidence_level=was.confidence_level if was else 0.95)


def compare(champion: Contender, challenger: Contender, manifest: Manifest) -> Verdict:
    """The gate's verdict; leakage is checked in the manifest itself, whatever its origin."""
    learnt = {image.pixels_sha256 for image in manifest.images if image.split == "train"}
    leaked = [image.path for image in manifest.images if image.split == "test" and image.pixels_sha256 in learnt]
    return judge(champion, challenger, leaked)


def held_out(manifest: Manifest, read: Callable[[Image], bytes]) -> HeldOut:
    """The photos that neither model has learnt from."""
    return [(image, read(image)) for image in manifest.images if image.split == "test"]


def _read_prediction(
    image: Image, answers: Mapping[str, bytes], labels: tuple[str, ...], model_version: str
) -> Prediction:
    name = image.path.rpartition("/")[2]
    if name not in answers:
        raise ValueError(f"{image.path}: the batch transform has left no prediction")
    try:
        told = json.loads(answers[name])
        probabilities = read_probabilities(told.get("prediction") if isinstance(told, dict) else told, labels)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{image.path}: the prediction is no list of probabilities ({error})") from error
    total = math.fsum(probabilities.values())
    return Prediction.of(
        {label: min(1.0, p / total) for label, p in probabilities.items()},
        neither=0.0,
        model_version=model_version,
        backend="sagemaker",
        latency_ms=0.0,
    )


def _outcome(image: Image, prediction: Prediction | None, policy: SelectivePolicy) -> Outcome:
    return Outcome(
        image=image.path,
        truth=image.label,
        label=prediction.label if prediction else None,
        confidence=prediction.confidence if prediction else 0.0,
        route=decide(prediction, policy).route if prediction else Route.REJECT,
    )
