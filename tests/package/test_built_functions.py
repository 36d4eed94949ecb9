"""Every function as `sam build` makes it: alone, under AWS's own runtime client, on its sample event, against moto."""

import ast
import json
import logging
import marshal
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import Distribution, distributions
from importlib.util import MAGIC_NUMBER, cache_from_source
from pathlib import Path
from typing import Any, NoReturn

import pytest
import requests
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from events.local_aws import furnish
from kickstand_cli.local.functions import Context, Function
from kickstand_cli.local.sandbox import Package, invoke, read_packages
from kickstand_cli.local.template import all_resources
from kickstand_cli.project import PROJECT, TEMPLATE

FOLDERS = {  # of the sources, by logical ID: no function can be forgotten here
    name: PROJECT / resource["Properties"]["CodeUri"]
    for name, resource in all_resources(TEMPLATE).items()
    if resource["Type"] == "AWS::Serverless::Function"
}
UNKNOWN_TO_MOTO = {"CheckGoldenImagesFunction": "PutLifecycleEventHookExecutionStatus"}  # its last call
BEFORE = {  # what has happened when it is invoked
    "AskPersonFunction": ["RecordResultFunction"],
    "EvaluateModelFunction": ["PrepareDatasetFunction"],
    "RecordReviewFunction": ["RecordResultFunction", "AskPersonFunction"],
    "ReviewFunction": ["RecordResultFunction", "AskPersonFunction"],
}
UNCHECKED = (1).to_bytes(4, "little")  # by hash, which nobody compares: https://peps.python.org/pep-0552/
LIMIT = 250 * 1024 * 1024  # https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html, with layers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.parametrize("name", sorted(FOLDERS))]


@pytest.fixture(scope="module")
def packages(absent: Callable[[str, str], NoReturn], request: pytest.FixtureRequest) -> dict[str, Package]:
    if sys.version_info[:2] != (3, 13):
        absent("package", "the functions run on Python 3.13; `make PYTHON=python3.13 clean test-all` tests on it")
    if sys.platform != "linux":
        absent("package", "what is built for Lambda runs on Linux only")
    if shutil.which("python3.13") is None or not succeeds("python3.13", "-c", ""):
        absent("package", "sam build needs python3.13 on PATH")
    if not (PROJECT / ".venv-sam/bin/sam").exists():
        absent("package", "SAM CLI is not installed: make build")
    return read_packages(request.getfixturevalue("built"), {"Training": "on", "TrainingImage": "container"})


def succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def endpoint(packages: dict[str, Package]) -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def begin(endpoint: str, packages: dict[str, Package], name: str) -> Callable[[], dict[str, str]]:
    """Call it for an AWS in which just that has happened which must have; returns what lets a function find it."""

    def begin() -> dict[str, str]:
        requests.post(f"{endpoint}/moto-api/reset", timeout=200).raise_for_status()
        furnish(endpoint)
        parameters: dict[str, str] = json.loads((PROJECT / "events/env.json").read_bytes())["Parameters"]
        variables = {**parameters, "AWS_ENDPOINT_URL": endpoint}
        for earlier in BEFORE.get(name, []):
            answer_of_source(packages[earlier], variables)
        return variables

    return begin


def event_of(name: str) -> bytes:
    return (PROJECT / f"events/{FOLDERS[name].name}.json").read_bytes()


def answer_of_source(package: Package, variables: dict[str, str]) -> Any:
    """What functions/<name>/app.py answers in this process, or how AWS refuses."""
    layer = {"MODEL_DIR": str(PROJECT / "layers/model/model"), "GOLDEN_DIR": str(PROJECT / "layers/model/golden")}
    in_opt = {name: value for name, value in layer.items() if name in package.variables}
    environment = {**package.variables, **variables, **in_opt}
    function = Function(package.name, FOLDERS[package.name], environment, memory=512, timeout=package.timeout)
    try:
        return function.load()(json.loads(event_of(package.name)), Context(package.name, 512))
    except ClientError as error:
        return {"errorType": type(error).__name__, "errorMessage": str(error)}


def comparable(answer: Any) -> Any:
    """The answer without what is measured, and without where it failed."""
    if isinstance(answer, dict):
        return {name: value for name, value in answer.items() if name not in ("latency_ms", "requestId", "stackTrace")}
    return answer


def test_it_answers_alone_what_its_source_answers(
    packages: dict[str, Package], begin: Callable[[], dict[str, str]], name: str
) -> None:
    answer = invoke(packages[name], event_of(name), begin())
    expected = answer_of_source(packages[name], begin())
    assert comparable(answer.payload) == json.loads(json.dumps(comparable(expected))), answer.log[-3000:]
    assert answer.failed == (name in UNKNOWN_TO_MOTO), answer.log[-3000:]
    if name in UNKNOWN_TO_MOTO:
        assert UNKNOWN_TO_MOTO[name] in answer.payload["errorMessage"]


def test_it_fits_into_lambda_with_its_layers(packages: dict[str, Package], name: str) -> None:
    assert packages[name].size < LIMIT


# ---- it ships what it needs, and nothing else


def test_it_holds_its_source_and_the_locked_packages_and_nothing_else(packages: dict[str, Package], name: str) -> None:
    source = {path.name for path in FOLDERS[name].iterdir() if path.name != "__pycache__"}
    locked = re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==", (FOLDERS[name] / "requirements.txt").read_text("utf-8"), re.M)
    shipped = list(distributions(path=[str(packages[name].folder)]))
    assert {canonical(package.name) for package in shipped} == {canonical(package) for package in locked}
    owned = source | {"__pycache__"} | {top for package in shipped for top in tops(package)}
    assert {path.name for path in packages[name].folder.iterdir()} <= owned | libraries(shipped)


def test_every_package_that_it_asks_for_is_imported(packages: dict[str, Package], name: str) -> None:
    """So nobody pays for NumPy, Pillow or ONNX Runtime at a cold start who does not use it."""
    shipped = {canonical(package.name): package for package in distributions(path=[str(packages[name].folder)])}
    asked = re.findall(r"^([\w.-]+)", (FOLDERS[name] / "requirements.in").read_text("utf-8"), re.M)
    imported = imports(FOLDERS[name] / "app.py")
    assert [package for package in asked if not tops(shipped[canonical(package)]) & imported] == []


def test_it_holds_the_bytecode_of_all_that_it_runs(packages: dict[str, Package], name: str) -> None:
    """So no cold start compiles it; and tracebacks tell the place on Lambda, not the one where it was built."""
    for folder in (packages[name].folder, *packages[name].layers):
        for module in folder.rglob("*.py"):
            if not {"test", "tests"} & set(module.relative_to(folder).parts):
                with Path(cache_from_source(str(module))).open("rb") as bytecode:
                    assert bytecode.read(8) == MAGIC_NUMBER + UNCHECKED, module
    app = Path(cache_from_source(str(packages[name].folder / "app.py"))).read_bytes()
    assert marshal.loads(app[16:]).co_filename == "/var/task/app.py"


def canonical(name: str) -> str:
    """https://packaging.python.org/en/latest/specifications/name-normalization/"""
    return re.sub(r"[-_.]+", "-", name).lower()


def tops(package: Distribution) -> set[str]:
    """The names that the package takes in a folder of packages: its modules and its metadata."""
    return {Path(file).parts[0].removesuffix(".py") for file in package.files or []} | {
        Path(file).parts[0] for file in package.files or []
    }


def libraries(shipped: list[Distribution]) -> set[str]:
    """Folders of shared libraries, and of what a wheel installs beside its modules."""
    return {f"{package.name}.libs" for package in shipped} | {
        f"{package.name}-{package.version}.data" for package in shipped
    }


@cache
def imports(file: Path) -> frozenset[str]:
    """The top-level names of what the file imports, at once or later, itself or through the core, but for types."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(file.read_bytes())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending += node.orelse
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            found.add(name.partition(".")[0])
            module = PROJECT / "layers/core" / (name.replace(".", "/") + ".py")
            if module.exists():
                found |= imports(module)
        pending += ast.iter_child_nodes(node)
    return frozenset(found)
