"""A model.onnx that reads other files, or may compute for ever, is refused before anything loads it."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kickstand.classify.inference import EmbeddedModel
from kickstand.classify.network import check_network
from kickstand.errors import ModelUnavailable

MODEL = Path(__file__).parents[3] / "layers/model/model"
NETWORK = (MODEL / "model.onnx").read_bytes()


def model_of(*nodes: Any, weights: tuple[Any, ...] = (), **more: Any) -> bytes:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [None, 8, 8, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, 3])
    graph = helper.make_graph(list(nodes), "g", [image], [logits], initializer=list(weights))
    made: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], **more).SerializeToString()
    return made


def external(name: str = "w", location: str = "../../etc/passwd", said: bool = True) -> Any:
    tensor = TensorProto(name=name, data_type=TensorProto.UINT8, dims=[3])
    if said:
        tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def body() -> Any:
    numbers = [helper.make_tensor_value_info("i", TensorProto.INT64, []), boolean("go")]
    return helper.make_graph([helper.make_node("Identity", ["go"], ["on"])], "b", numbers, [boolean("on")])


def boolean(name: str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.BOOL, [])


def sparse() -> Any:
    indices = numpy_helper.from_array(np.array([0], np.int64), "indices")
    return helper.make_sparse_tensor(external("values"), indices, [3])


def constant(**value: Any) -> Any:
    return helper.make_node("Constant", [], ["w"], **value)


LOOP = helper.make_node("Loop", ["n", "c"], [], body=body())
HOSTILE: dict[str, tuple[bytes, str]] = {
    "weights elsewhere": (model_of(weights=(external(),)), "weights in another file"),
    "an absolute place": (model_of(weights=(external(location="/etc/passwd"),)), "weights in another file"),
    "a place, but not said to be": (model_of(weights=(external(said=False),)), "weights in another file"),
    "a constant elsewhere": (model_of(constant(value=external())), "weights in another file"),
    "a sparse constant elsewhere": (model_of(constant(sparse_value=sparse())), "weights in another file"),
    "an endless loop": (model_of(LOOP), "an operator"),
    "a scan": (model_of(helper.make_node("Scan", ["x"], ["y"], num_scan_inputs=1, body=body())), "an operator"),
    "a branch": (
        model_of(helper.make_node("If", ["c"], ["y"], then_branch=body(), else_branch=body())),
        "an operator",
    ),
    "a loop without a body": (model_of(helper.make_node("Loop", ["n", "c"], [])), "an operator Loop"),
    "graphs in an operator nobody knows": (
        model_of(helper.make_node("Plain", ["x"], ["y"], branches=[body()])),
        "a graph of its own",
    ),
    "a loop in a function": (
        model_of(
            functions=[helper.make_function("own", "f", [], [], [LOOP], opset_imports=[helper.make_opsetid("", 17)])]
        ),
        "an operator",
    ),
    "ONNX Runtime's own format": (NETWORK[:4] + b"ORTM" + NETWORK[8:], "own format"),
    "a loop in a second graph": (NETWORK + model_of(LOOP), "an operator"),
    "cut off": (NETWORK[:-1], "damaged"),
    "a field without an end": (b"\x3a" + b"\xff" * 11, "damaged"),
    "a group": (b"\x3b\x3c", "damaged"),
}


@pytest.mark.parametrize(("network", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_network_is_refused_though_its_hash_is_right(network: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        check_network(network)
    card = json.loads((MODEL / "model.json").read_bytes()) | {"model_sha256": hashlib.sha256(network).hexdigest()}
    (tmp_path / "model.json").write_text(json.dumps(card))
    (tmp_path / "model.onnx").write_bytes(network)
    with pytest.raises(ModelUnavailable, match=reason):
        EmbeddedModel(tmp_path)


@pytest.mark.parametrize("size", [3 * 2**30, 10**10, 2**40])
def test_a_network_that_wants_all_memory_is_refused(size: int, tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([size], np.int64), "s")
    network = model_of(
        helper.make_node("ConstantOfShape", ["s"], ["big"]),
        helper.make_node("ReduceMax", ["big"], ["one"], axes=[0], keepdims=0),
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f"], ["m"], axes=[1, 2], keepdims=0),
        helper.make_node("Add", ["m", "one"], ["logits"]),
        weights=(shape,),
        ir_version=8,
    )
    card = json.loads((MODEL / "model.json").read_bytes()) | {"model_sha256": hashlib.sha256(network).hexdigest()}
    (tmp_path / "model.json").write_text(json.dumps(card | {"input_shape": [8, 8, 3]}))
    (tmp_path / "model.onnx").write_bytes(network)
    with pytest.raises(ModelUnavailable, match=r"model\.onnx"):
        EmbeddedModel(tmp_path)


@pytest.mark.parametrize("limit", [-1.0, 9.0])  # always, or only for a brighter photo than it is loaded with
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_network_whose_outputs_are_no_numbers_is_unavailable(wrong: float, limit: float, tmp_path: Path) -> None:
    network = model_of(
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f"], ["m"], axes=[1, 2], keepdims=0),
        helper.make_node("Greater", ["m", "limit"], ["bright"]),
        helper.make_node("Where", ["bright", "w", "m"], ["logits"]),
        weights=(
            numpy_helper.from_array(np.array(wrong, np.float32), "w"),
            numpy_helper.from_array(np.array(limit, np.float32), "limit"),
        ),
        ir_version=8,
    )
    card = json.loads((MODEL / "model.json").read_bytes()) | {"model_sha256": hashlib.sha256(network).hexdigest()}
    (tmp_path / "model.json").write_text(json.dumps(card | {"input_shape": [8, 8, 3]}))
    (tmp_path / "model.onnx").write_bytes(network)
    with pytest.raises(ModelUnavailable, match="its outputs are not finite numbers"):
        EmbeddedModel(tmp_path).predict_pixels(np.full((1, 8, 8, 3), 200, np.uint8))


def test_a_named_pipe_in_place_of_the_network_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_bytes((MODEL / "model.json").read_bytes())
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(ModelUnavailable, match=r"it has no model\.onnx"):
        EmbeddedModel(tmp_path)


@pytest.mark.parametrize("version", ["", "v" * 101])
def test_a_model_has_a_version_that_fits_into_every_record(version: str, tmp_path: Path) -> None:
    card = json.loads((MODEL / "model.json").read_bytes()) | {"model_version": version}
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(ModelUnavailable, match="model_version"):
        EmbeddedModel(tmp_path)


def test_the_shipped_network_passes() -> None:
    check_network(NETWORK)


@pytest.mark.parametrize(
    ("message", "names"),
    [
        (onnx.ModelProto, {"graph": 7, "training_info": 20, "functions": 25}),
        (onnx.GraphProto, {"node": 1, "initializer": 5, "sparse_initializer": 15}),
        (onnx.NodeProto, {"op_type": 4, "attribute": 5}),
        (onnx.FunctionProto, {"node": 7, "attribute_proto": 11}),
        (onnx.AttributeProto, {"t": 5, "g": 6, "tensors": 10, "graphs": 11, "sparse_tensor": 22, "sparse_tensors": 23}),
        (onnx.TensorProto, {"external_data": 13, "data_location": 14}),
        (onnx.SparseTensorProto, {"values": 1, "indices": 2}),
    ],
)
def test_the_fields_have_the_numbers_that_onnx_gives_them(message: Any, names: dict[str, int]) -> None:
    assert {name: message.DESCRIPTOR.fields_by_name[name].number for name in names} == names
