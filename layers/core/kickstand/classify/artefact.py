"""The model artefact: a folder with `model.onnx` and `model.json`."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from kickstand.classify.policy import SelectivePolicy
from kickstand.events import Payload, Sha256

Side = Annotated[int, Field(ge=3, le=224)]  # pixels; more than 224 × 224 do not fit into the state of an execution
Channels = Annotated[int, Field(ge=3, le=3)]


class ModelCard(Payload):
    """What `model.json` says of the model; everything about the classes is here, nothing in code.

    input_shape: (height, width, 3), pixels.
    temperature: calibrated probabilities are softmax(logits / temperature); Guo et al., ICML 2017.
    labels: the order of the model's outputs; one more output, the last, stands for "neither".
    """

    model_version: str
    model_sha256: Sha256
    labels: tuple[str, ...] = Field(min_length=2)
    input_shape: tuple[Side, Side, Channels]
    temperature: float = Field(gt=0.0, allow_inf_nan=False)
    policy: SelectivePolicy

    @model_validator(mode="after")
    def _labels_can_be_told_apart(self) -> Self:
        if len(set(self.labels)) < len(self.labels) or set(self.labels) & {"", "neither", "cannot_tell"}:
            raise ValueError(
                f"labels {', '.join(map(repr, self.labels))}: twice the same, empty, or a word of Kickstand's own"
            )
        return self

    @model_validator(mode="after")
    def _each_label_has_its_threshold(self) -> Self:
        """A label that is left out, or misspelt, would be accepted from `accept_at`, whatever was promised about it."""
        named = self.policy.thresholds.keys()
        if named and named != set(self.labels):
            raise ValueError(f"thresholds for {', '.join(sorted(named))}: the labels are {', '.join(self.labels)}")
        return self


def read_card(artefact: Path) -> ModelCard:
    """The card in this artefact folder. Raises FileNotFoundError, or pydantic's ValidationError naming the field."""
    card = artefact / "model.json"
    if not card.is_file():
        raise FileNotFoundError(f"{artefact}: no model artefact, for there is no model.json in it")
    return ModelCard.model_validate_json(card.read_bytes())
