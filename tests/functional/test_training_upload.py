"""`kickstand training upload` again: nothing is lost, and what was corrected is taken back."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws
from PIL import Image
from typer.testing import CliRunner, Result

from kickstand.lifecycle.dataset_store import prepare_dataset
from kickstand_cli.main import app
from kickstand_cli.training import training_command

BUCKET = "training"
LABELS = ("bicycle", "motorcycle")
WRONG = "base/train/bicycle/0.png"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(training_command, "pack_source", lambda: b"code")  # packing takes seconds
    monkeypatch.setattr(training_command, "pack", lambda _: b"artefact")
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        boto3.client("sagemaker").create_model_package_group(ModelPackageGroupName="group")
        yield client


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three photos of each class to train on, and two held out, each of another colour."""
    colours = iter(range(0, 250, 10))
    for split, number in (("train", 3), ("test", 2)):
        for label in LABELS:
            for i in range(number):
                file = tmp_path / "dataset" / split / label / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                buffer = io.BytesIO()
                Image.new("RGB", (32, 32), (next(colours), 0, 0)).save(buffer, "PNG")
                file.write_bytes(buffer.getvalue())
    return tmp_path / "dataset"


def upload(dataset: Path, *options: str) -> Result:
    outputs = dataset.parent / "outputs.json"
    names = {"TrainingBucketName": BUCKET, "ModelPackageGroupName": "group", "InferenceImage": "image"}
    outputs.write_text(json.dumps(names))
    return CliRunner().invoke(app, ["training", "upload", str(dataset), "--outputs", str(outputs), *options])


def base(s3: Any) -> list[str]:
    return [found["Key"] for found in s3.list_objects_v2(Bucket=BUCKET, Prefix="base/").get("Contents", [])]


def correct(dataset: Path) -> None:
    """A label was wrong: the photo moves to the folder of the other class."""
    (dataset / "train/bicycle/0.png").rename(dataset / "train/motorcycle/corrected.png")


def test_photos_of_an_earlier_upload_are_named_and_one_with_two_labels_is_not_learnt_from(
    s3: Any, dataset: Path
) -> None:
    assert upload(dataset).exit_code == 0
    assert len(base(s3)) == 10
    correct(dataset)
    told = upload(dataset)
    assert (told.exit_code, WRONG in told.stdout) == (4, True)
    assert json.loads(upload(dataset, "--json").stdout)["left"] == [WRONG]
    prepared = prepare_dataset(s3, BUCKET, [], "run", LABELS, (32, 32, 3))
    assert (prepared.counts["train/bicycle"], prepared.counts["train/motorcycle"]) == (2, 3)
    assert prepared.left_out == {"contradictory": 2}


def test_replace_removes_what_is_no_longer_in_the_folder_and_the_bucket_keeps_it(s3: Any, dataset: Path) -> None:
    auxiliary = dataset.parent / "more.npz"
    auxiliary.write_bytes(b"more photos")
    assert upload(dataset, "--auxiliary", str(auxiliary)).exit_code == 0
    correct(dataset)
    told = upload(dataset, "--replace")
    assert told.exit_code == 0, told.output
    assert f"removed 2 files of earlier uploads: base/auxiliary.npz, {WRONG}" in " ".join(told.stdout.split())
    assert (len(base(s3)), WRONG in base(s3)) == (10, False)
    versions = s3.list_object_versions(Bucket=BUCKET, Prefix=WRONG)
    assert (len(versions["Versions"]), len(versions["DeleteMarkers"])) == (1, 1)
    assert "source/sourcedir.tar.gz" in {found["Key"] for found in s3.list_objects_v2(Bucket=BUCKET)["Contents"]}
    prepared = prepare_dataset(s3, BUCKET, [], "run", LABELS, (32, 32, 3))
    assert (prepared.counts["train/bicycle"], prepared.counts["train/motorcycle"]) == (2, 4)
    assert prepared.left_out == {}


def test_an_upload_that_fails_removes_nothing(s3: Any, dataset: Path) -> None:
    assert upload(dataset).exit_code == 0
    correct(dataset)
    (dataset / "train/motorcycle/gone.png").symlink_to(dataset / "nowhere.png")
    assert upload(dataset, "--replace").exit_code == 1
    assert WRONG in base(s3)


def test_a_folder_that_is_no_class_of_the_model_is_refused_before_anything_is_uploaded(s3: Any, dataset: Path) -> None:
    (dataset / "train/scooter").mkdir()
    (dataset / "train/bicycle/0.png").rename(dataset / "train/scooter/0.png")
    told = upload(dataset)
    assert told.exit_code == 1
    assert "scooter: not a class of the model (bicycle, motorcycle)" in " ".join(told.stderr.split())
    assert base(s3) == []
