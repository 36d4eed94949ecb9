"""Write a committee as ONNX: BatchNorm folded, normalisation and "neither" inside the graph, 8-bit weights."""

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import nn

from .fit import MEAN, STD
from .network import Network, Residual

OPSET = 17


class _Graph:
    """Nodes and weights, gathered while walking through the network."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, value: NDArray[np.generic]) -> str:
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output


def _convolution(graph: _Graph, block: nn.Module, x: str, name: str) -> str:
    """Convolution, BatchNorm and ReLU as one convolution and a ReLU."""
    convolution, norm = block[0], block[1]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight = (convolution.weight * scale.reshape(-1, 1, 1, 1)).detach().numpy().astype(np.float32)
    bias = (norm.bias - norm.running_mean * scale).detach().numpy().astype(np.float32)
    inputs = [x, graph.weight(f"{name}.weight", np.ascontiguousarray(weight)), graph.weight(f"{name}.bias", bias)]
    x = graph.add("Conv", inputs, f"{name}.conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    return graph.add("Relu", [x], f"{name}.relu")


def _member(graph: _Graph, network: Network, n_labels: int, x: str, name: str) -> str:
    for position, layer in enumerate(network.body):
        step = f"{name}.{position}"
        if isinstance(layer, nn.Sequential):
            x = _convolution(graph, layer, x, step)
        elif isinstance(layer, Residual):
            inner = _convolution(graph, layer.body[0], x, f"{step}.a")
            x = graph.add("Add", [x, _convolution(graph, layer.body[1], inner, f"{step}.b")], f"{step}.sum")
        elif isinstance(layer, nn.MaxPool2d):
            x = graph.add("MaxPool", [x], f"{step}.pool", kernel_shape=[2, 2], strides=[2, 2])
        elif isinstance(layer, nn.AdaptiveMaxPool2d):
            x = graph.add("GlobalMaxPool", [x], f"{step}.pool")
        elif isinstance(layer, nn.Flatten):
            x = graph.add("Flatten", [x], f"{step}.flat")
    head = [
        graph.weight(f"{name}.head.weight", np.ascontiguousarray(network.head.weight.detach().numpy())),
        graph.weight(f"{name}.head.bias", network.head.bias.detach().numpy()),
    ]
    classes = graph.add("Gemm", [x, *head], f"{name}.classes", transB=1)
    split = graph.weight(f"{name}.split", np.array([n_labels, network.head.out_features - n_labels]))
    graph.nodes.append(
        helper.make_node("Split", [classes, split], [f"{name}.labels", f"{name}.foreign"], name=f"{name}.parts", axis=1)
    )
    neither = graph.add("ReduceLogSumExp", [f"{name}.foreign"], f"{name}.neither", axes=[1], keepdims=1)
    return graph.add("Concat", [f"{name}.labels", neither], f"{name}.logits", axis=1)


def build_onnx(
    members: list[Network], n_labels: int, height: int, width: int, *, mirror: bool = False
) -> onnx.ModelProto:
    """`image` uint8 (n, height, width, 3) RGB → `logits` float32 (n, n_labels + 1), the mean of the members'.

    mirror: every member sees the image and its mirror image, as one batch of 2n, and the mean is over both.
    """
    graph = _Graph()
    x = graph.add("Cast", ["image"], "pixels", to=TensorProto.FLOAT)
    x = graph.add("Sub", [x, graph.weight("mean", MEAN.numpy() * np.float32(255))], "centred")
    x = graph.add("Mul", [x, graph.weight("scale", 1 / (STD.numpy() * np.float32(255)))], "normalised")
    x = graph.add("Transpose", [x], "planes", perm=[0, 3, 1, 2])
    if mirror:
        edges = {"start": -1, "end": -width - 1, "axis": 3, "step": -1}
        backwards = [graph.weight(f"mirror.{name}", np.array([value])) for name, value in edges.items()]
        x = graph.add("Concat", [x, graph.add("Slice", [x, *backwards], "mirrored")], "views", axis=0)
    names = [_member(graph, network.eval(), n_labels, x, f"member{i + 1}") for i, network in enumerate(members)]
    if mirror:
        pairs = graph.weight("views.shape", np.array([2, -1, n_labels + 1]))
        views = graph.add("Reshape", [graph.add("Mean", names, "views.logits"), pairs], "views.pairs")
        graph.add("ReduceMean", [views], "logits", axes=[0], keepdims=0)
    else:
        graph.add("Mean", names, "logits")
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "kickstand",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", height, width, 3])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", n_labels + 1])],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
        producer_name="kickstand",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


class _Reader(CalibrationDataReader):
    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._batches: Iterator[NDArray[np.uint8]] = iter(np.array_split(images, max(1, len(images) // 50)))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


def quantise(model: onnx.ModelProto, images: NDArray[np.uint8]) -> onnx.ModelProto:
    """8-bit weights per channel and 8-bit activations, their ranges measured on these images (n, H, W, 3).

    Weights use 7 of the 8 bits: older processors without VNNI overflow with all of them, and Lambda has both kinds.
    """
    with tempfile.TemporaryDirectory() as folder:
        exact, small = Path(folder) / "exact.onnx", Path(folder) / "small.onnx"
        onnx.save(model, exact)
        quantize_static(
            exact,
            small,
            _Reader(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MaxPool", "Add", "Relu"],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(small)


def write_onnx(model: onnx.ModelProto, path: Path) -> str:
    """Write it; the SHA-256 of the file comes back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content: bytes = model.SerializeToString()
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def run_onnx(model: onnx.ModelProto, images: NDArray[np.uint8], batch: int = 256) -> NDArray[np.float32]:
    """Logits (n, n_labels + 1) as the deployed runtime computes them."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    parts = [images[i : i + batch] for i in range(0, len(images), batch)]
    return np.concatenate([session.run(["logits"], {"image": part})[0] for part in parts])
