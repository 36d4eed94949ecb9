"""The training job: its entry point as a process, in a folder tree laid out as SageMaker's container has it."""

import hashlib
import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from kickstand_cli.project import PROJECT
from kickstand_cli.training.training_source import pack_source

COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "neither": (128, 128, 128)}
QUICK = ("--folds", "2")


@pytest.fixture
def container(tmp_path: Path) -> Path:
    """What lies under /opt/ml when script mode starts the entry point: code, channels, and places for output."""
    for folder in ("code", "model", "output/data", "checkpoints", "input/config"):
        (tmp_path / folder).mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(pack_source())) as source:
        source.extractall(tmp_path / "code", filter="data")
    draw = np.random.default_rng(1)
    for name, colour in COLOURS.items():
        for split, number in (("train", 60), ("test", 4)):
            home = tmp_path / "input/data/dataset" / split / name
            home.mkdir(parents=True)
            for index in range(number):
                noise = draw.normal(0, 60, (32, 32, 3))  # less of it, and all are near duplicates
                Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(home / f"{index}.png")
    return tmp_path


def start(container: Path, *hyperparameters: str) -> subprocess.Popen[str]:
    """`python train.py --name value …`, with the environment that the training toolkit sets."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SM_", "PYTHON"))} | {
        "SAGEMAKER_BASE_DIR": str(container),  # /opt/ml but for tests
        "SM_CHANNELS": '["dataset"]',
        "SM_CHANNEL_DATASET": str(container / "input/data/dataset"),
        "SM_MODEL_DIR": str(container / "model"),
        "SM_OUTPUT_DATA_DIR": str(container / "output/data"),
        "SM_NUM_CPUS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "train.py", *hyperparameters],
        cwd=container / "code",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_the_source_holds_the_entry_point_its_requirements_and_our_packages_and_is_the_same_each_time() -> None:
    packed = pack_source()
    with tarfile.open(fileobj=io.BytesIO(packed)) as source:
        names = source.getnames()
    assert {
        "train.py",
        "requirements.txt",
        "kickstand/classify/artefact.py",
        "kickstand_cli/training/head.py",
        "model/model.onnx",
    } <= set(names)
    assert packed == pack_source()


def test_what_it_requires_leaves_the_containers_pytorch_alone() -> None:
    required = (PROJECT / "training/requirements.txt").read_text("utf-8")
    assert re.search(r"^onnxruntime==", required, re.MULTILINE)
    assert not re.search(r"^(torch|nvidia)", required, re.MULTILINE)


def count_kept(container: Path, condition: str = "TRUE") -> int:
    """Photos whose features are kept in the folder of checkpoints."""
    file = container / "checkpoints/features.sqlite"
    if not file.is_file():
        return 0
    with closing(sqlite3.connect(file)) as kept, suppress(sqlite3.OperationalError):  # the table is not there yet
        return int(kept.execute(f"SELECT COUNT(*) FROM photos WHERE {condition}").fetchone()[0])
    return 0


STAYS = """
def _get(store, sha256, get=_Store.get):
    while store._database.execute("SELECT COUNT(*) FROM photos").fetchone()[0]:
        time.sleep(1)
    return get(store, sha256)
import time
_Store.get = _get
"""


@pytest.mark.slow
def test_a_job_that_a_spot_interruption_kills_looks_at_no_photo_twice(container: Path) -> None:
    code = container / "code/kickstand_cli/training/photos.py"
    shipped = code.read_text("utf-8")
    code.write_text(shipped + STAYS, "utf-8")  # it waits to be killed once the first photos are kept
    first = start(container, *QUICK)
    while not count_kept(container) and first.poll() is None:
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    told, _ = first.communicate()
    code.write_text(shipped, "utf-8")
    looked_at = count_kept(container)
    assert 0 < looked_at < 180, f"not interrupted while it looked at photos: {told}"
    with closing(sqlite3.connect(container / "checkpoints/features.sqlite")) as kept, kept:
        kept.execute("UPDATE photos SET statistics = json_set(statistics, '$.brightness', 0.123)")
    second = start(container, *QUICK)
    printed, _ = second.communicate()
    assert second.returncode == 0, printed
    assert count_kept(container, "json_extract(statistics, '$.brightness') = 0.123") == looked_at
    assert count_kept(container) == 180

    assert sorted(path.name for path in (container / "model").iterdir()) == ["model.json", "model.onnx"]
    card = json.loads((container / "model/model.json").read_bytes())
    assert card["labels"] == ["blue", "green"]
    assert card["model_sha256"] == hashlib.sha256((container / "model/model.onnx").read_bytes()).hexdigest()
    assert card["baseline"]["model_version"] == card["model_version"]
    assert (container / "output/data/out_of_fold.json").is_file()
    assert not (container / "output/failure").exists()

    definitions = metric_definitions()
    assert {"accuracy", "coverage", "selective_risk", "foreign_accepted"} <= definitions.keys()
    for name, pattern in definitions.items():
        found = re.search(pattern, printed)
        assert found, f"{name}: {pattern} matches nothing in {printed}"
        assert float(found[1]) == pytest.approx(card["metrics"][name]["value"], abs=1e-5)


@pytest.mark.slow
def test_a_failed_job_leaves_the_reason_where_sagemaker_looks(container: Path) -> None:
    for image in (container / "input/data/dataset/train/green").iterdir():
        image.write_bytes(b"no picture")
    job = start(container, *QUICK)
    printed, _ = job.communicate()
    assert job.returncode == 1
    assert "class 'green': none of its photos can be used" in (container / "output/failure").read_text()
    assert len(re.findall(r"left out: train/green/\d+.png: not a photo", printed)) == 60


@pytest.mark.parametrize(
    ("hyperparameters", "reason"),
    [
        (("--epoch-count", "3"), "unrecognized arguments: --epoch-count 3"),
        (("--seed", "many"), "--seed: 'many' is no whole number from 0 up"),
        (("--folds", "1"), "--folds: '1' is no whole number from 2 up"),
        (("--max-risk", "2"), "--max-risk: '2' does not lie between 0 and 1"),
    ],
)
def test_a_hyperparameter_that_is_none_or_out_of_range_is_named(
    container: Path, hyperparameters: tuple[str, ...], reason: str
) -> None:
    job = start(container, *hyperparameters)
    job.communicate()
    assert job.returncode == 1
    assert reason in (container / "output/failure").read_text()


def metric_definitions() -> dict[str, str]:
    """The regular expressions that the state machine gives to the training job, by metric."""
    definition = yaml.safe_load((PROJECT / "statemachine/train_model.asl.yaml").read_text("utf-8"))
    job = definition["States"]["Train Kickstand"]["Parameters"]
    return {metric["Name"]: metric["Regex"] for metric in job["AlgorithmSpecification"]["MetricDefinitions"]}
