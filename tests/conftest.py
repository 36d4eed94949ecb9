"""No test reaches AWS: there are no credentials, and the network ends at 127.0.0.1 (see pyproject.toml)."""

import hashlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from botocore.client import BaseClient
from filelock import FileLock

PROJECT = Path(__file__).parents[1]
CALLS = PROJECT / "build/calls"
NAMES_A_RESOURCE = {
    "Bucket",
    "CopySource",
    "FunctionName",
    "IndexName",
    "Key",
    "ModelPackageName",
    "QueueUrl",
    "TableName",
    "TopicArn",
    "VersionId",
    "executionArn",
    "stateMachineArn",
}


@pytest.fixture(scope="session")
def absent() -> Callable[[str, str], NoReturn]:
    """Call it with what this machine lacks, and why: the test is skipped, or fails where KICKSTAND_REQUIRE names it.

    KICKSTAND_REQUIRE: comma-separated, such as "container,chromium"; for CI, which must not pass by skipping.
    """

    def skip_or_fail(what: str, reason: str) -> NoReturn:
        if what in os.environ.get("KICKSTAND_REQUIRE", "").split(","):
            pytest.fail(f"{what} is required here: {reason}")
        pytest.skip(reason)

    return skip_or_fail


@pytest.fixture(scope="session", autouse=True)
def _calls_of_functions() -> Iterator[None]:
    """Writes down what functions/*/app.py call in AWS, whoever runs them, for tests/privileges: build/calls/*.json.

    A call is the function's that has made the client: in a thread of its own it has no frame to be known by.
    """
    seen: set[tuple[str, str, str, str]] = set()
    make, call = BaseClient.__init__, BaseClient._make_api_call  # type: ignore[attr-defined]

    def note_maker(client: Any, *parts: Any, **named_parts: Any) -> None:
        make(client, *parts, **named_parts)
        frame = sys._getframe()
        while frame := frame.f_back:  # type: ignore[assignment]
            path = Path(frame.f_code.co_filename)
            if path.name == "app.py" and path.parts[-3:-2] == ("functions",):
                client._made_by = path.parent.name
                break

    def note(client: Any, operation: str, parameters: dict[str, Any]) -> Any:
        if function := getattr(client, "_made_by", None):
            named = {name: parameters[name] for name in NAMES_A_RESOURCE & parameters.keys()}
            service = client.meta.service_model.service_name
            for table in parameters.get("RequestItems", [None]):  # a batch names several tables
                of = named | ({"TableName": table} if table else {})
                seen.add((function, service, operation, json.dumps(of, sort_keys=True)))
        return call(client, operation, parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "__init__", note_maker)
        patch.setattr(BaseClient, "_make_api_call", note)
        yield
    if seen:
        CALLS.mkdir(parents=True, exist_ok=True)
        (CALLS / f"{uuid.uuid4()}.json").write_text(json.dumps(sorted(seen)), "utf-8")


@pytest.fixture(scope="session")
def built() -> Path:
    """What `sam build` makes of the functions and layers: made once for all tests that need it, in whatever process."""
    (PROJECT / ".aws-sam").mkdir(exist_ok=True)
    with FileLock(PROJECT / ".aws-sam/lock"):
        making = subprocess.run(["make", "--silent", "build"], cwd=PROJECT, capture_output=True, text=True, timeout=540)
    assert making.returncode == 0, making.stdout + making.stderr
    return PROJECT / ".aws-sam/build"


@pytest.fixture(scope="session", autouse=True)
def _no_aws_account() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "POWERTOOLS_"))]:
            patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        yield


@pytest.fixture(scope="session")
def colour_model() -> Callable[..., Path]:
    """Writes an artefact of up to three labels for square images: the logits are ten times the mean of each colour
    channel, red first, and "neither" is sure of dark images."""
    import onnx  # it takes a second, which few tests need
    from onnx import TensorProto, helper, numpy_helper

    def write(folder: Path, labels: Sequence[str], side: int = 8) -> Path:
        weights = np.hstack([10 * np.eye(3, len(labels)), np.full((3, 1), -20)]).astype(np.float32)
        graph = helper.make_graph(
            [
                helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
                helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
                helper.make_node("Div", ["mean", "scale"], ["colour"]),
                helper.make_node("MatMul", ["colour", "weights"], ["product"]),
                helper.make_node("Add", ["product", "bias"], ["logits"]),
            ],
            "colours",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", side, side, 3])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", len(labels) + 1])],
            [
                numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
                numpy_helper.from_array(np.array(255, np.float32), "scale"),
                numpy_helper.from_array(weights, "weights"),
                numpy_helper.from_array(np.array([*[0] * len(labels), 10], np.float32), "bias"),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model)
        network = model.SerializeToString()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_bytes(network)
        card = {
            "model_version": "colours",
            "model_sha256": hashlib.sha256(network).hexdigest(),
            "labels": labels,
            "input_shape": [side, side, 3],
            "temperature": 1.0,
            "policy": {
                "policy_version": "p1",
                "accept_at": 0.9,
                "neither_accept_at_most": 0.2,
                "neither_reject_at_least": 0.8,
            },
        }
        (folder / "model.json").write_text(json.dumps(card))
        return folder

    return write


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests have counted (`record_property`), whatever process they ran in."""
    reports = (report for reports in terminalreporter.stats.values() for report in reports)
    told = {line for report in reports for line in getattr(report, "user_properties", [])}
    for name, value in sorted(told):
        terminalreporter.write_line(f"{name}: {value}")
