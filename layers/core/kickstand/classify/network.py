"""Checks a model.onnx: it can hold one network, without other files and without loops."""

from collections.abc import Iterator

# onnx.proto's numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
GRAPH, TRAINING, FUNCTIONS = 7, 20, 25  # of ModelProto
NODE, INITIALIZER, SPARSE_INITIALIZER = 1, 5, 15  # of GraphProto
FUNCTION_NODE, FUNCTION_ATTRIBUTE = 7, 11  # of FunctionProto
OP_TYPE, ATTRIBUTE = 4, 5  # of NodeProto
TENSOR, SUBGRAPH, TENSORS, SUBGRAPHS, SPARSE_TENSOR, SPARSE_TENSORS = 5, 6, 10, 11, 22, 23  # of AttributeProto
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # of TensorProto
SPARSE_PARTS = (1, 2)  # of SparseTensorProto: its values and its indices are tensors
CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_LENGTHS = {_FIXED_64: 8, _FIXED_32: 4}


def check_network(network: bytes) -> None:
    """Raises ValueError for a model that reads weights from other files, or that may compute without end.

    It reads the file as Protocol Buffers, before ONNX Runtime does: that opens external files and evaluates constants,
    with loops, while it loads. Repeated fields are all checked, since they are merged.
    """
    if network[4:8] == b"ORTM":
        raise ValueError("a model in ONNX Runtime's own format, which cannot be checked")
    for number, part in _fields(network):
        if number == GRAPH:
            _check_graph(_as_bytes(part))
        elif number == FUNCTIONS:
            for inner, own in _fields(_as_bytes(part)):
                if inner == FUNCTION_NODE:
                    _check_node(_as_bytes(own))
                elif inner == FUNCTION_ATTRIBUTE:
                    _check_attribute(_as_bytes(own))
        elif number == TRAINING:
            raise ValueError("graphs for training, which a prediction does not need")


def _check_graph(graph: memoryview) -> None:
    for number, part in _fields(graph):
        if number == NODE:
            _check_node(_as_bytes(part))
        elif number == INITIALIZER:
            _check_tensor(_as_bytes(part))
        elif number == SPARSE_INITIALIZER:
            _check_sparse(_as_bytes(part))


def _check_node(node: memoryview) -> None:
    for number, part in _fields(node):
        if number == OP_TYPE and (name := bytes(_as_bytes(part)).decode("utf-8", "replace")) in CONTROL_FLOW:
            raise ValueError(f"an operator {name}: it might never end")
        if number == ATTRIBUTE:
            _check_attribute(_as_bytes(part))


def _check_attribute(attribute: memoryview) -> None:
    for number, part in _fields(attribute):
        if number in (SUBGRAPH, SUBGRAPHS):
            raise ValueError("an operator with a graph of its own: it might never end")
        if number in (TENSOR, TENSORS):
            _check_tensor(_as_bytes(part))
        elif number in (SPARSE_TENSOR, SPARSE_TENSORS):
            _check_sparse(_as_bytes(part))


def _check_sparse(tensor: memoryview) -> None:
    for number, part in _fields(tensor):
        if number in SPARSE_PARTS:
            _check_tensor(_as_bytes(part))


def _check_tensor(tensor: memoryview) -> None:
    for number, part in _fields(tensor):
        if number == EXTERNAL_DATA or (number == DATA_LOCATION and part != 0):
            raise ValueError("weights in another file")


def _as_bytes(part: int | memoryview) -> memoryview:
    if isinstance(part, int):
        raise ValueError("damaged: a number where a message belongs")
    return part


def _fields(message: bytes | memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a Protocol Buffers message: their number, and a number or bytes; nothing is copied.

    https://protobuf.dev/programming-guides/encoding/
    """
    view, at = memoryview(message), 0
    while at < len(view):
        tag, at = _varint(view, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(view, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _varint(view, at)
        elif kind in _LENGTHS:
            length = _LENGTHS[kind]
        else:
            raise ValueError(f"damaged: no field begins with {tag}")
        if at + length > len(view):
            raise ValueError("damaged: it ends too early")
        yield number, view[at : at + length]
        at += length


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """The number that begins here, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(view):
            raise ValueError("damaged: it ends too early")
        byte, at = view[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("damaged: a number of more than ten bytes")
