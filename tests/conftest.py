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
from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider
from botocore.client import BaseClient
from filelock import FileLock
from hypothesis import HealthCheck, settings

# The same examples every time, however slow the machine is.
settings.register_profile(
    "tests", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")

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
def _what_functions_do() -> Iterator[None]:
    """Writes down what functions/*/app.py call in AWS and which metrics they emit: build/calls/*.json.

    tests/contracts holds it against the template. A call is the function's that has made the client: in a thread of its
    own it has no frame to be known by.
    """
    calls: set[tuple[str, str, str, str, float]] = set()
    emitted: set[tuple[str, str, tuple[str, ...], str]] = set()
    make, call = BaseClient.__init__, BaseClient._make_api_call  # type: ignore[attr-defined]
    add, serialize = AmazonCloudWatchEMFProvider.add_metric, AmazonCloudWatchEMFProvider.serialize_metric_set

    def note_maker(client: Any, *parts: Any, **named_parts: Any) -> None:
        make(client, *parts, **named_parts)
        client._made_by = _function_above()

    def note_call(client: Any, operation: str, parameters: dict[str, Any]) -> Any:
        if client._made_by:
            named = {name: parameters[name] for name in NAMES_A_RESOURCE & parameters.keys()}
            if "id" in parameters.get("Item", {}):
                named["Key"] = {"id": parameters["Item"]["id"]}
            service, config = client.meta.service_model.service_name, client.meta.config
            for table in parameters.get("RequestItems", [None]):  # a batch names several tables
                of = json.dumps(named | ({"TableName": table} if table else {}), sort_keys=True)
                attempts = (config.retries or {}).get("total_max_attempts") or 5  # botocore's own, of old
                patience = attempts * (config.connect_timeout + config.read_timeout) + 2 ** (attempts - 1) - 1
                calls.add((client._made_by, service, operation, of, patience))
        return call(client, operation, parameters)

    def note_metric(provider: Any, name: str, *parts: Any, **named_parts: Any) -> None:
        add(provider, name, *parts, **named_parts)
        provider.__dict__.setdefault("_added_by", {})[name] = _function_above()

    def note_emitted(provider: Any, *parts: Any, **named_parts: Any) -> Any:
        found = serialize(provider, *parts, **named_parts)
        for group in found["_aws"]["CloudWatchMetrics"]:
            for metric in group["Metrics"]:
                if function := provider.__dict__.get("_added_by", {}).get(metric["Name"]):
                    for dimensions in group["Dimensions"]:
                        named = tuple(sorted({*dimensions, "service"}))  # the template names it, a test may not
                        emitted.add((function, metric["Name"], named, group["Namespace"]))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "__init__", note_maker)
        patch.setattr(BaseClient, "_make_api_call", note_call)
        patch.setattr(AmazonCloudWatchEMFProvider, "add_metric", note_metric)
        patch.setattr(AmazonCloudWatchEMFProvider, "serialize_metric_set", note_emitted)
        yield
    if calls or emitted:
        CALLS.mkdir(parents=True, exist_ok=True)
        noted = {"calls": sorted(calls), "metrics": sorted(emitted)}
        (CALLS / f"{uuid.uuid4()}.json").write_text(json.dumps(noted), "utf-8")


def _function_above() -> str | None:
    """The folder of the function whose app.py is running."""
    frame = sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        path = Path(frame.f_code.co_filename)
        if path.name == "app.py" and path.parts[-3:-2] == ("functions",):
            return path.parent.name
    return None


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
