"""One image through the embedded model; `make bench` runs it. `--against DIR` sets another artefact beside it."""

import argparse
import base64
import io
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from rich.console import Console

from bench.harness import Row, in_turns, spread
from kickstand.classify.images import prepare
from kickstand.classify.inference import EmbeddedModel
from kickstand.events import PreparedImage
from kickstand_cli.project import MODEL

ROUNDS = 9


def measure(artefact: Path = MODEL) -> list[Row]:
    """The way from the state's PNG to a prediction, against the network's own work."""
    model = EmbeddedModel(artefact)
    prepared = _prepare(model)
    tensor = np.asarray(Image.open(io.BytesIO(base64.b64decode(prepared.png))))[np.newaxis]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(artefact / "model.onnx", options, providers=["CPUExecutionProvider"])
    times = in_turns(
        {
            "predict": lambda: model.predict(prepared),
            "bare": lambda: session.run(["logits"], {"image": tensor}),
        },
        ROUNDS,
        per_round=50,
    )
    what, bare = "EmbeddedModel.predict, PNG to prediction", "one ONNX Runtime call on the same tensor"
    return [Row("inference", what, bare, "ms", times["predict"], times["bare"], 1.5)]


def compare(artefact: Path, other: Path) -> Row:
    """Two artefacts, each with an image as it takes it."""
    models = {"this": EmbeddedModel(artefact), "other": EmbeddedModel(other)}
    images = {name: _prepare(model) for name, model in models.items()}
    times = in_turns(
        {name: lambda name=name: models[name].predict(images[name]) for name in models},  # type: ignore[misc]
        ROUNDS,
        per_round=50,
    )
    return Row("inference", f"predict by {artefact}", f"predict by {other}", "ms", times["this"], times["other"])


def _prepare(model: EmbeddedModel) -> PreparedImage:
    photo = io.BytesIO()
    Image.effect_noise((512, 512), 90).convert("RGB").save(photo, "PNG")
    return prepare(photo.getvalue(), "noise", model.card.input_shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--against", type=Path)
    args = parser.parse_args()
    rows = [compare(args.model, args.against)] if args.against else measure(args.model)
    console = Console(width=140, highlight=False)
    for row in rows:
        console.print(f"{row.what}: {spread(row.ours)} ms; {row.against}: {spread(row.anchor)} ms; {row.ratio:.2f} ×")


if __name__ == "__main__":
    main()
