"""The model artefact: a folder with `model.onnx` and `model.json`."""

from pathlib import Path

from pydantic import Field

from kickstand.events import Payload, Sha256
from kickstand.policy import SelectivePolicy


class ModelCard(Payload):
    """What `model.json` says of the model; everything about the classes is here, nothing in code.

    input_shape: (height, width, 3), pixels.
    temperature: calibrated probabilities are softmax(logits / temperature); Guo et al., ICML 2017.
    labels: the order of the model's outputs; one more output, the last, stands for "neither".
    """

    model_version: str
    model_sha256: Sha256
    labels: tuple[str, ...] = Field(min_length=2)
    input_shape: tuple[int, int, int]
    temperature: float = Field(gt=0.0)
    policy: SelectivePolicy


def read_card(artefact: Path) -> ModelCard:
    """The card in this artefact folder. Raises FileNotFoundError, or pydantic's ValidationError naming the field."""
    return ModelCard.model_validate_json((artefact / "model.json").read_bytes())
