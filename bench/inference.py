"""One image through the embedded model, three ways: ONNX Runtime on int8, on float32, and NumPy alone.

Prints latency, cold start and package size side by side; `make bench` runs it. The float32 network is the shipped one
with its quantisation taken out, so all three compute the same function but for rounding.
"""

import base64
import importlib.metadata
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from PIL import Image
from rich.console import Console
from rich.table import Table

from bench.harness import in_turns, spread
from kickstand.classify.images import prepare
from kickstand.classify.inference import EmbeddedModel
from kickstand_cli.project import MODEL

Array = NDArray[Any]
ROUNDS = 9
COLD = {
    "ONNX Runtime": """
import sys, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(["logits"], {"image": np.load(sys.argv[2])})
""",
    "NumPy alone": """
import sys, numpy as np
sys.path.insert(0, sys.argv[3])
from forward import forward
forward(dict(np.load(sys.argv[1])), np.load(sys.argv[2]))
""",
}
# Written out as a module of its own: what a function without ONNX Runtime would ship.
FORWARD = '''
"""A forward pass in NumPy for the few operators that the network has."""

import json

import numpy as np


def forward(weights, image):
    values = {k: v.astype(np.float32) if v.dtype == np.float16 else v for k, v in weights.items()}
    nodes = json.loads(bytes(values.pop("__nodes__")).decode())
    values["image"] = image
    for node in nodes:
        x = [values[name] for name in node["inputs"] if name]
        result = OPERATORS[node["kind"]](x, node["attributes"])
        outputs = node["outputs"]
        values.update(zip(outputs, result) if len(outputs) > 1 else {outputs[0]: result})
    return values["logits"]


def conv(x, a):
    image, kernel = x[0], x[1]
    top, left, bottom, right = a.get("pads", [0, 0, 0, 0])
    image = np.pad(image, ((0, 0), (0, 0), (top, bottom), (left, right)))
    step_y, step_x = a.get("strides", [1, 1])
    windows = np.lib.stride_tricks.sliding_window_view(image, kernel.shape[2:], axis=(2, 3))[:, :, ::step_y, ::step_x]
    n, _, height, width, _, _ = windows.shape
    columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * height * width, -1)
    out = columns @ kernel.reshape(len(kernel), -1).T
    if len(x) > 2:
        out += x[2]
    return out.reshape(n, height, width, -1).transpose(0, 3, 1, 2)


def max_pool(x, a):
    height, width = a["kernel_shape"]
    n, channels, rows, columns = x[0].shape
    return x[0].reshape(n, channels, rows // height, height, columns // width, width).max(axis=(3, 5))


def cut(x, a):
    windows = [slice(None)] * x[0].ndim
    steps = x[4] if len(x) > 4 else [1] * len(x[1])
    for start, end, axis, step in zip(x[1], x[2], x[3], steps):
        beyond = end < -x[0].shape[axis] if step < 0 else end > x[0].shape[axis]
        windows[axis] = slice(int(start), None if beyond else int(end), int(step))
    return x[0][tuple(windows)]


def mean(x, a):
    axes = tuple(int(axis) for axis in (x[1] if len(x) > 1 else a["axes"]))
    return x[0].mean(axis=axes, keepdims=bool(a.get("keepdims", 1)))


def log_sum_exp(x, a):
    axes = tuple(a["axes"])
    top = x[0].max(axis=axes, keepdims=True)
    out = np.log(np.exp(x[0] - top).sum(axis=axes, keepdims=True)) + top
    return out if a.get("keepdims", 1) else out.squeeze(axes)


OPERATORS = {
    "Cast": lambda x, a: x[0].astype(np.float32),
    "Sub": lambda x, a: x[0] - x[1],
    "Add": lambda x, a: x[0] + x[1],
    "Mul": lambda x, a: x[0] * x[1],
    "Div": lambda x, a: x[0] / x[1],
    "Relu": lambda x, a: np.maximum(x[0], 0),
    "Clip": lambda x, a: np.clip(x[0], x[1], x[2]),
    "Transpose": lambda x, a: x[0].transpose(a["perm"]),
    "Conv": conv,
    "MaxPool": max_pool,
    "GlobalMaxPool": lambda x, a: x[0].max(axis=(2, 3), keepdims=True),
    "GlobalAveragePool": lambda x, a: x[0].mean(axis=(2, 3), keepdims=True),
    "Flatten": lambda x, a: x[0].reshape(len(x[0]), -1),
    "Gemm": lambda x, a: (x[0] @ (x[1].T if a.get("transB") else x[1])) * a.get("alpha", 1.0) + x[2],
    "Split": lambda x, a: np.split(x[0], np.cumsum(x[1])[:-1], axis=a.get("axis", 0)),
    "ReduceLogSumExp": log_sum_exp,
    "Concat": lambda x, a: np.concatenate(x, axis=a["axis"]),
    "Slice": cut,
    "Reshape": lambda x, a: x[0].reshape([n or x[0].shape[i] for i, n in enumerate(x[1])]),
    "ReduceMean": mean,
    "Mean": lambda x, a: sum(x) / len(x),
}
'''


def without_quantisation(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network in float32: weights dequantised, activations clipped to the range that int8 could hold."""
    graph = model.graph
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    renamed: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        inputs = [renamed.get(name, name) for name in node.input]
        if node.op_type == "DequantizeLinear" and inputs[0] in constants:
            weight, scale = constants[inputs[0]], constants[inputs[1]]
            zero = constants[inputs[2]] if len(inputs) > 2 else np.zeros_like(scale, weight.dtype)
            shape = [-1 if axis == _attributes(node).get("axis", 1) else 1 for axis in range(weight.ndim)]
            if scale.ndim and scale.size > 1:
                scale, zero = scale.reshape(shape), zero.reshape(shape)
            constants[node.output[0]] = ((weight.astype(np.float32) - zero.astype(np.float32)) * scale).astype(
                np.float32
            )
        elif node.op_type == "DequantizeLinear":
            renamed[node.output[0]] = inputs[0]
        elif node.op_type == "QuantizeLinear":
            scale, zero = constants[inputs[1]], constants[inputs[2]]
            limits = np.iinfo(zero.dtype)
            low, high = f"{node.output[0]}_low", f"{node.output[0]}_high"
            constants[low] = np.array((limits.min - int(zero)) * float(scale), np.float32)
            constants[high] = np.array((limits.max - int(zero)) * float(scale), np.float32)
            nodes.append(helper.make_node("Clip", [inputs[0], low, high], [node.output[0]]))
        else:
            kept = onnx.NodeProto()
            kept.CopyFrom(node)
            kept.input[:] = inputs
            nodes.append(kept)
    nodes += [
        helper.make_node("Identity", [renamed[output.name]], [output.name])
        for output in graph.output
        if output.name in renamed
    ]
    used = {name for node in nodes for name in node.input}
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used]
    plain = helper.make_graph(nodes, "float32", graph.input, graph.output, initializers)
    result = helper.make_model(plain, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(result)
    return result


def write_numpy(model: onnx.ModelProto, file: Path) -> None:
    """Weights in half precision and the list of operators, in one file; the module that runs them beside it."""
    nodes = [
        {
            "kind": node.op_type,
            "inputs": list(node.input),
            "outputs": list(node.output),
            "attributes": _attributes(node),
        }
        for node in model.graph.node
    ]
    arrays: dict[str, Array] = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    halved = {name: array.astype(np.float16) if array.dtype == np.float32 else array for name, array in arrays.items()}
    np.savez(file, allow_pickle=False, __nodes__=np.frombuffer(json.dumps(nodes).encode(), np.uint8), **halved)
    (file.parent / "forward.py").write_text(FORWARD, "utf-8")


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute if item.name != "to"}


def session(network: bytes) -> onnxruntime.InferenceSession:
    """As the function makes it: one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])


def time_cold(commands: dict[str, list[str]]) -> dict[str, list[float]]:
    """Milliseconds from starting a Python to its first answer, page cache warm, taken in turns."""
    rounds: dict[str, list[float]] = {name: [] for name in commands}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    for number in range(ROUNDS + 1):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-I", "-c", *command], check=True, env=environment)
            if number:  # the first one fills the cache
                rounds[name].append((time.perf_counter() - started) * 1000)
    return rounds


def installed_megabytes(*packages: str) -> float:
    """What these packages take unzipped."""
    files = [file for package in packages for file in importlib.metadata.files(package) or []]
    return sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).is_file()) / 1e6


def main() -> None:
    """Measure and print; the numbers go to build/bench-inference.json."""
    embedded = EmbeddedModel(MODEL)
    int8 = onnx.load(MODEL / "model.onnx")
    float32 = without_quantisation(int8)
    photo = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(photo, "PNG")
    prepared = prepare(photo.getvalue(), "noise", embedded.card.input_shape)
    tensor = np.asarray(Image.open(io.BytesIO(base64.b64decode(prepared.png))))[np.newaxis]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "image.npy", tensor)
        (folder / "float32.onnx").write_bytes(float32.SerializeToString())
        write_numpy(float32, folder / "weights.npz")
        sys.path.insert(0, name)
        from forward import forward  # type: ignore[import-not-found]

        weights = dict(np.load(folder / "weights.npz"))
        weights = {
            key: value.astype(np.float32) if value.dtype == np.float16 else value for key, value in weights.items()
        }
        sessions = {"int8": session(int8.SerializeToString()), "float32": session(float32.SerializeToString())}
        answers = {kind: each.run(["logits"], {"image": tensor})[0] for kind, each in sessions.items()}
        answers["NumPy"] = forward(weights, tensor)
        apart = {kind: float(np.abs(answer - answers["float32"]).max()) for kind, answer in answers.items()}
        warm = in_turns(
            {
                "int8": lambda: sessions["int8"].run(["logits"], {"image": tensor}),
                "float32": lambda: sessions["float32"].run(["logits"], {"image": tensor}),
                "NumPy": lambda: forward(weights, tensor),
                "predict": lambda: embedded.predict(prepared),
            },
            ROUNDS,
            per_round=50,
        )
        runtime, alone = COLD["ONNX Runtime"], COLD["NumPy alone"]
        image = str(folder / "image.npy")
        cold = time_cold(
            {
                "int8": [runtime, str(MODEL / "model.onnx"), image],
                "float32": [runtime, str(folder / "float32.onnx"), image],
                "NumPy": [alone, str(folder / "weights.npz"), image, name],
            }
        )
        sizes = {
            "int8": (MODEL / "model.onnx").stat().st_size / 1e6,
            "float32": (folder / "float32.onnx").stat().st_size / 1e6,
            "NumPy": (folder / "weights.npz").stat().st_size / 1e6,
        }
    with_runtime = installed_megabytes("numpy", "onnxruntime", "flatbuffers", "protobuf", "packaging")
    packages = {"int8": with_runtime, "float32": with_runtime, "NumPy": installed_megabytes("numpy")}
    table = Table(title=f"one image of {tensor.shape[1:]}, one thread; medians of {ROUNDS} rounds [least, most]")
    for column in (
        "",
        "warm, ms",
        "against int8",
        "cold, ms",
        "against int8",
        "network, MB",
        "packages, MB",
        "logits apart",
    ):
        table.add_column(column, justify="left" if not column else "right")
    for kind, title in (
        ("int8", "ONNX Runtime, int8"),
        ("float32", "ONNX Runtime, float32"),
        ("NumPy", "NumPy alone, fp16 weights"),
    ):
        table.add_row(
            title,
            spread(warm[kind]),
            _ratio(warm[kind], warm["int8"]),
            spread(cold[kind]),
            _ratio(cold[kind], cold["int8"]),
            f"{sizes[kind]:.2f}",
            f"{packages[kind]:.0f}",
            f"{apart[kind]:.3f}",
        )
    console = Console(width=140)
    console.print(table)
    console.print(
        f"EmbeddedModel.predict (PNG → Prediction): {spread(warm['predict'])} ms, "
        f"{_ratio(warm['predict'], warm['int8'])} × a bare ONNX Runtime call on the same tensor",
        highlight=False,
        markup=False,
    )
    output = Path("build/bench-inference.json")
    output.parent.mkdir(exist_ok=True)
    output.write_text(
        json.dumps(
            {"warm_ms": warm, "cold_ms": cold, "network_mb": sizes, "packages_mb": packages, "apart": apart}, indent=1
        )
    )


def _ratio(rounds: list[float], anchor: list[float]) -> str:
    return f"{statistics.median(a / b for a, b in zip(rounds, anchor, strict=True)):.2f}"


if __name__ == "__main__":
    main()
