"""The embedded model: ONNX Runtime on one thread."""

import base64
import hashlib
import io
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from kickstand.classify.artefact import ModelCard, read_card
from kickstand.classify.network import check_network
from kickstand.errors import InvalidImage, ModelUnavailable
from kickstand.events import Prediction, PreparedImage

MOST_MEMORY = 2 * 2**30
"""Bytes that networks can allocate besides their weights; the shipped one needs a hundredth for a photo. A tiny model
can request any amount: it is refused, instead of ending the process."""


def _limit_memory() -> None:
    """Once per process, for all sessions."""
    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg(MOST_MEMORY, -1, -1, -1))


_limit_memory()


class EmbeddedModel:
    """The artefact's network in this process.

    Raises ModelUnavailable if the artefact is missing or damaged, or does not match its card.
    """

    def __init__(self, artefact: Path) -> None:
        self.artefact = artefact
        try:
            self.card: ModelCard = read_card(artefact)
            if not (file := artefact / "model.onnx").is_file():  # to open a named pipe would never end
                raise FileNotFoundError(f"{artefact}: not a model artefact, because it has no model.onnx")
            network = file.read_bytes()
        except (FileNotFoundError, ValueError) as error:
            raise ModelUnavailable(str(error)) from error  # its message names the file
        except OSError as error:
            raise ModelUnavailable(f"{artefact}: {error}") from error
        sha256 = hashlib.sha256(network).hexdigest()
        if sha256 != self.card.model_sha256:
            raise ModelUnavailable(f"{artefact}/model.onnx: SHA-256 {sha256}, its card says {self.card.model_sha256}")
        try:
            check_network(network)
        except ValueError as error:
            raise ModelUnavailable(f"{artefact}/model.onnx: {error}") from error
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # a small function has less than one core
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
            probe = self.logits(np.zeros((1, *self.card.input_shape), np.uint8))
        except Exception as error:  # ONNX Runtime's exceptions have no common class
            raise ModelUnavailable(f"{artefact}/model.onnx: {error}") from error
        if probe.shape != (1, len(self.card.labels) + 1):
            raise ModelUnavailable(f"{artefact}: outputs {probe.shape} for {len(self.card.labels)} labels and neither")
        self._expect_numbers(probe)

    def _expect_numbers(self, logits: NDArray[np.float32]) -> None:
        """Raises ModelUnavailable for infinite logits and NaN: a photo cannot cause them in a sound network."""
        if not np.isfinite(logits).all():
            raise ModelUnavailable(f"{self.artefact}/model.onnx: damaged: its outputs are not finite numbers")

    @property
    def backbone(self) -> str:
        """Identifies the network that made the features: a head works only with features of its own network."""
        return str(self._session.get_modelmeta().custom_metadata_map.get("backbone", ""))

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """images: uint8 RGB, shape (n, height, width, 3) → logits, shape (n, n_classes + 1), "neither" last."""
        return self._run("logits", images)

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """images: as for `logits` → the input of the linear head, shape (n, width)."""
        return self._run("features", images)

    def _run(self, output: str, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = self._session.run([output], {"image": images})[0]
        return result

    def predict(self, image: PreparedImage) -> Prediction:
        """The calibrated prediction for one photo. Raises InvalidImage unless `prepare` has made it,
        ModelUnavailable if the outputs are no numbers.

        During a rollout with another input shape, photos come prepared for either model; they are scaled again.
        """
        height, width, _ = self.card.input_shape
        try:
            photo = Image.open(io.BytesIO(base64.b64decode(image.png)), formats=("PNG",))
            if photo.mode != "RGB":
                raise ValueError(f"mode {photo.mode}")
            pixels = np.asarray(photo if photo.size == (width, height) else photo.resize((width, height)))
        except (OSError, ValueError, SyntaxError) as error:
            raise InvalidImage(f"prepared image of {image.sha256}: not an RGB PNG ({error})") from error
        return self.predict_pixels(pixels[np.newaxis])[0]

    def predict_pixels(self, images: NDArray[np.uint8]) -> list[Prediction]:
        """One calibrated prediction for each photo, all in one call of the network.

        images: as for `logits`. The latency of each is its share of the call. Raises ModelUnavailable.
        """
        started = time.perf_counter()
        logits = self.logits(images)
        milliseconds = (time.perf_counter() - started) * 1000 / len(images)
        self._expect_numbers(logits)
        return [interpret(row, self.card, "embedded", milliseconds) for row in logits.tolist()]


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    exponentials = np.exp(logits - logits.max())
    return np.asarray(exponentials / exponentials.sum())


def interpret(logits: Sequence[float], card: ModelCard, backend: str, latency_ms: float) -> Prediction:
    """Temperature-scaled softmax of one row of logits, as a prediction."""
    scaled = np.asarray(logits, dtype=np.float64) / card.temperature
    joint, known = _softmax(scaled), _softmax(scaled[:-1])
    # Six digits exceed the network's precision, and keep records, events and reports readable.
    return Prediction.of(
        dict(zip(card.labels, known.round(6).tolist(), strict=True)),
        neither=round(float(joint[-1]), 6),
        model_version=card.model_version,
        backend=backend,
        latency_ms=round(latency_ms, 3),
        policy=card.policy,
    )
