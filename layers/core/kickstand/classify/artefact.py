"""The model artefact: a folder with `model.onnx` and `model.json`."""

import codecs
import math
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, model_validator

from kickstand.errors import first_complaint
from kickstand.events import Payload, SelectivePolicy, Sha256

Side = Annotated[int, Field(ge=3, le=224)]  # pixels; more than 224 × 224 exceed the state of an execution
LONGEST_LABEL = 100
"""Bytes; also the characters of a model version, which is in every record."""
WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}
ROUNDING = 0.01
"""Another model's probabilities may sum to 1 within this: half precision, or rounded to two digits."""
Part = TypeVar("Part", bound=Payload)
Channels = Annotated[int, Field(ge=3, le=3)]


class ModelCard(Payload):
    """The description of the model in `model.json`. The classes are part of it, not of the code.

    input_shape: (height, width, 3), pixels.
    temperature: calibrated probabilities are softmax(logits / temperature); Guo et al., ICML 2017.
    labels: the classes, in the order of the model's outputs; the last output is "neither", none of the classes.
    """

    model_version: str = Field(min_length=1, max_length=LONGEST_LABEL)
    model_sha256: Sha256
    labels: tuple[str, ...] = Field(min_length=2)
    input_shape: tuple[Side, Side, Channels]
    temperature: float = Field(ge=0.01, le=100.0)
    policy: SelectivePolicy

    @model_validator(mode="after")
    def _labels_are_names(self) -> Self:
        check_labels(self.labels)
        return self

    @model_validator(mode="after")
    def _each_label_has_its_threshold(self) -> Self:
        """A class that is missing or misspelt would be accepted from `accept_at`, without its guarantee."""
        named = self.policy.thresholds.keys()
        if named and named != set(self.labels):
            raise ValueError(f"thresholds for {', '.join(sorted(named))}: the labels are {', '.join(self.labels)}")
        return self


def check_labels(labels: Iterable[str]) -> None:
    """Raises ValueError, which names the first of these classes that no model can have."""
    known: dict[str, str] = {}
    for label in labels:
        check_label(label)
        if label.casefold() in ("neither", "cannot_tell"):
            raise ValueError(f"label {label!r}: a reserved word")
        if (other := known.get(label.casefold())) is not None:
            why = "twice" if other == label else f"it differs from {other!r} in capitals only"
            raise ValueError(f"label {label!r}: {why}")
        known[label.casefold()] = label


def check_label(label: str) -> None:
    """Raises ValueError for a class that cannot be the name of a folder: photos are in a folder per class.

    >>> check_label("cargo bike")
    """
    if any(unicodedata.category(sign) in ("Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp") for sign in label):
        raise ValueError(f"label {label[:40]!r}: with a character that cannot be printed")
    if not label or len(label.encode()) > LONGEST_LABEL:
        raise ValueError(f"label {label[:40]!r}: empty, or longer than {LONGEST_LABEL} bytes")
    if set(label) & set('/\\:*?"<>|') or label != label.strip() or label.endswith(".") or label.startswith("."):
        raise ValueError(f"label {label[:40]!r}: no name for a folder")
    if PureWindowsPath(label).stem.casefold() in WINDOWS_DEVICES:
        raise ValueError(f"label {label[:40]!r}: Windows keeps this name for a device")


def read_probabilities(told: Any, labels: Iterable[str]) -> dict[str, float]:
    """Another model's probabilities, by class.

    told: by class, or in the order of the classes. Raises ValueError unless there is one number from 0 to 1 for each
    class, with a sum of about 1.

    >>> read_probabilities([0.9, 1e-200], ["a", "b"])
    Traceback (most recent call last):
    ...
    ValueError: the probabilities sum to 0.9, not to 1
    """
    names = tuple(labels)
    if isinstance(told, dict):
        if missing := [name for name in names if name not in told]:
            raise ValueError(f"no probability of {', '.join(missing)}")
        row = [told[name] for name in names]
    elif isinstance(told, list) and len(told) == len(names):
        row = told
    else:
        found = f"{len(told)} of them" if isinstance(told, list) else type(told).__name__
        raise ValueError(f"a list of {len(names)} probabilities is expected, one for each label, not {found}")
    values = [read_probability(value, name) for name, value in zip(names, row, strict=True)]
    if abs((total := math.fsum(values)) - 1.0) > ROUNDING:
        raise ValueError(f"the probabilities sum to {total:g}, not to 1")
    return dict(zip(names, values, strict=True))


def read_probability(value: Any, name: str) -> float:
    """Raises ValueError for anything but a number from 0 to 1, such as text or a boolean."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:  # False for NaN
        raise ValueError(f"{name}: {str(value)[:40]!r} is no probability")
    return float(value)


def read_card(artefact: Path) -> ModelCard:
    """The card in this artefact folder. Raises FileNotFoundError, or ValueError that names the file and the field."""
    return read_part(artefact, ModelCard)


def read_part(artefact: Path, part: type[Part]) -> Part:
    """What this model describes of `model.json`. Raises as `read_card`."""
    card = artefact / "model.json"
    if not card.is_file():
        raise FileNotFoundError(f"{artefact}: not a model artefact, because it has no model.json")
    try:
        return part.model_validate_json(card.read_bytes().removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        raise ValueError(f"{card}: {first_complaint(error)}") from error
