"""The hook before traffic: the real Classify Image answers about the golden images, and CodeDeploy is told."""

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.stub import Stubber

from kickstand.classify.artefact import read_card
from kickstand.lifecycle.golden import read_golden_images
from kickstand_cli.local.functions import Context, Function, LambdaService
from kickstand_cli.project import PROJECT

MODEL, GOLDEN = PROJECT / "layers/model/model", PROJECT / "layers/model/golden"
EVENT: dict[str, Any] = json.loads((PROJECT / "events/check_golden_images.json").read_bytes())
LABELS = read_card(MODEL).labels


@pytest.fixture
def lambdas(monkeypatch: pytest.MonkeyPatch) -> Iterator[LambdaService]:
    with LambdaService() as service:
        monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", service.url)
        monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Kickstand")
        service.functions["ClassifyImageFunction"] = Function(
            name="ClassifyImageFunction",
            folder=PROJECT / "functions/classify_image",
            environment={"MODEL_DIR": str(MODEL), "INFERENCE_BACKEND": "embedded"},
            memory=1024,
            timeout=15,
        )
        yield service


def check(monkeypatch: pytest.MonkeyPatch, expected: str, golden: Path = GOLDEN) -> list[str]:
    """The mistakes that it finds, having told CodeDeploy so, once."""
    monkeypatch.setenv("MODEL_DIR", str(MODEL))
    monkeypatch.setenv("GOLDEN_DIR", str(golden))
    monkeypatch.setenv("NEW_VERSION", "arn:aws:lambda:us-east-1:123456789012:function:ClassifyImageFunction:7")
    folder = PROJECT / "functions/check_golden_images"
    spec = importlib.util.spec_from_file_location("check_golden_images.app", folder / "app.py")
    assert spec is not None
    assert spec.loader is not None
    app: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    said = {
        "deploymentId": EVENT["DeploymentId"],
        "lifecycleEventHookExecutionId": EVENT["LifecycleEventHookExecutionId"],
        "status": expected,
    }
    with Stubber(app.codedeploy) as codedeploy:
        codedeploy.add_response("put_lifecycle_event_hook_execution_status", {}, said)
        mistakes: list[str] = app.handler(EVENT, Context("CheckGoldenImagesFunction", 512))["mistakes"]
        codedeploy.assert_no_pending_responses()
    return mistakes


def test_the_shipped_model_gets_every_golden_image_right(
    lambdas: LambdaService, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check(monkeypatch, "Succeeded") == []


def test_a_version_that_gets_one_wrong_gets_no_traffic(
    lambdas: LambdaService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(GOLDEN, tmp_path, dirs_exist_ok=True)
    shutil.move(next((tmp_path / LABELS[0]).iterdir()), tmp_path / LABELS[1] / "mislaid.jpg")
    (mistake,) = check(monkeypatch, "Failed", tmp_path)
    assert mistake.startswith(f"{LABELS[1]}/mislaid.jpg: accept, {LABELS[0]} with confidence")


def test_a_version_that_fails_gets_no_traffic(lambdas: LambdaService, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> None:
        raise RuntimeError("no such layer")

    lambdas.faults = broken
    (mistake,) = check(monkeypatch, "Failed")
    assert "no such layer" in mistake


@pytest.mark.parametrize(
    ("folders", "complaint"),
    [
        ([], f"no golden photo of {LABELS[0]}"),
        ([*LABELS], "no golden photo of neither"),
        ([*LABELS, "neither", "cow"], "cow: the model knows"),
    ],
)
def test_a_model_without_its_golden_images_gets_no_traffic(
    lambdas: LambdaService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folders: list[str], complaint: str
) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "photo.jpg").write_bytes(b"a photo")
    (mistake,) = check(monkeypatch, "Failed", tmp_path)
    assert complaint in mistake


def test_there_are_golden_images_of_every_label_and_of_neither() -> None:
    expected = [image.expected for image in read_golden_images(GOLDEN, LABELS)]
    assert set(expected) == {*LABELS, "neither"}
    assert len(expected) >= 12
