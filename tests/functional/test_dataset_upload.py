"""`kickstand dataset --upload` against S3 on moto."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from moto import mock_aws
from typer.testing import CliRunner

from kickstand_cli.datasets import dataset as commands
from kickstand_cli.datasets import upload
from kickstand_cli.datasets.archive import SPLITS, Archive, Split
from kickstand_cli.datasets.folder import write_dataset
from kickstand_cli.datasets.upload import Destination, parse_s3_uri, upload_dataset
from kickstand_cli.main import app
from kickstand_cli.terminal import CommandError

BUCKET = "photos"
DESTINATION = Destination(BUCKET, "some/where")


def archived(seed: int = 0) -> Archive:
    """Noise images of two classes, three in each split."""
    random = np.random.default_rng(seed)
    split = Split(
        pixels=random.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8),
        labels=(0, 1, 1),
        filenames=("a.png", "b.png", "c.png"),
    )
    return Archive("noise", ("cat", "dog"), dict.fromkeys(SPLITS, split), archive_md5=None, member_md5={})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(archived(), tmp_path / "out", ["cat", "dog"])
    return tmp_path / "out"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        yield client


def list_objects(s3: Any) -> dict[str, Any]:
    return {item["Key"]: item for item in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])}


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://photos", Destination("photos", "")),
        ("s3://photos/", Destination("photos", "")),
        ("s3://photos/some/where/", Destination("photos", "some/where")),
    ],
)
def test_an_s3_uri_names_bucket_and_prefix(uri: str, expected: Destination) -> None:
    assert parse_s3_uri(uri) == expected


@pytest.mark.parametrize("uri", ["photos/x", "s3:/photos", "s3://", "s3://UPPER/x", "https://photos/x", "s3://ab"])
def test_what_is_no_s3_uri_is_a_clear_error(uri: str) -> None:
    with pytest.raises(CommandError, match="not an S3 URI like s3://bucket/prefix"):
        parse_s3_uri(uri)


@pytest.mark.parametrize("prefix", ["", "some/where"])
def test_every_file_is_staged_under_its_own_path_with_its_type(s3: Any, folder: Path, prefix: str) -> None:
    result = upload_dataset(folder, Destination(BUCKET, prefix))
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert (result.sent, result.skipped) == (len(files), 0)
    for name, content in files.items():
        staged = s3.get_object(Bucket=BUCKET, Key=f"{prefix}/{name}".lstrip("/"))
        assert staged["Body"].read() == content
        expected = {"png": "image/png", "lst": "text/tab-separated-values", "json": "application/json"}
        assert staged["ContentType"] == expected[name.rpartition(".")[2]]


def test_the_train_channel_does_not_take_in_its_own_list(s3: Any, folder: Path) -> None:
    channels = upload_dataset(folder, DESTINATION).channels
    assert channels["train"] == "s3://photos/some/where/train/"
    in_channel = [key for key in list_objects(s3) if f"s3://{BUCKET}/{key}".startswith(channels["train"])]
    listed = [line.split("\t")[2] for line in (folder / "train.lst").read_text().splitlines()]
    assert sorted(in_channel) == sorted(f"some/where/train/{path}" for path in listed)


def test_what_is_there_with_the_same_hash_is_not_sent_again(s3: Any, folder: Path) -> None:
    first = upload_dataset(folder, DESTINATION)
    before = list_objects(s3)
    again = upload_dataset(folder, DESTINATION)
    assert (again.sent, again.skipped) == (0, first.sent)
    assert list_objects(s3) == before


def test_an_object_of_the_same_size_but_other_content_is_sent_again(s3: Any, folder: Path) -> None:
    upload_dataset(folder, DESTINATION)
    content = bytearray((folder / "train/cat/a.png").read_bytes())
    content[-20] ^= 1
    s3.put_object(Bucket=BUCKET, Key="some/where/train/cat/a.png", Body=bytes(content), ChecksumAlgorithm="SHA256")
    assert upload_dataset(folder, DESTINATION).sent == 1
    staged = s3.get_object(Bucket=BUCKET, Key="some/where/train/cat/a.png")["Body"].read()
    assert staged == (folder / "train/cat/a.png").read_bytes()


class Stop(Exception):  # noqa: N818 - it stands for an interrupt
    """Raised in the middle of an upload."""


def test_an_upload_cut_off_in_the_middle_has_no_manifest(
    s3: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_dataset(folder, DESTINATION)
    write_dataset(archived(seed=1), tmp_path / "new", ["cat", "dog"])

    def stop(done: int, total: int | None) -> None:
        if done == 3:
            raise Stop

    with pytest.raises(Stop):
        upload_dataset(tmp_path / "new", DESTINATION, on_progress=stop)
    assert "some/where/manifest.json" not in list_objects(s3)
    upload_dataset(tmp_path / "new", DESTINATION)
    staged = s3.get_object(Bucket=BUCKET, Key="some/where/manifest.json")["Body"].read()
    assert staged == (tmp_path / "new/manifest.json").read_bytes()


def test_a_foreign_manifest_at_the_prefix_is_not_overwritten(s3: Any, folder: Path) -> None:
    s3.put_object(Bucket=BUCKET, Key="some/where/manifest.json", Body=b'{"theirs": true}')
    with pytest.raises(CommandError, match=r"some/where/manifest.json: not of our writing"):
        upload_dataset(folder, DESTINATION)
    assert list(list_objects(s3)) == ["some/where/manifest.json"]


def test_a_bucket_that_does_not_exist_is_named(s3: Any, folder: Path) -> None:
    with pytest.raises(CommandError, match="s3://elsewhere/x: there is no bucket elsewhere"):
        upload_dataset(folder, Destination("elsewhere", "x"))


def test_missing_credentials_are_a_clear_error(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(CommandError, match=r"s3://photos/some/where: .*[Cc]redentials"):
        upload_dataset(folder, DESTINATION)


def test_an_incomplete_folder_is_not_staged(s3: Any, folder: Path) -> None:
    (folder / "test/dog/b.png").unlink()
    with pytest.raises(CommandError, match=r"half written, test/dog/b.png is missing"):
        upload_dataset(folder, DESTINATION)
    assert list_objects(s3) == {}


def test_the_command_says_where_the_channels_are(
    s3: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(commands, "read_archive", lambda path: archived())
    monkeypatch.setattr(upload, "WORKERS", 1)
    arguments = ["--archive", str(tmp_path), "--out", str(tmp_path / "new"), "--classes", "cat,dog"]
    result = CliRunner().invoke(app, ["dataset", "fetch", *arguments, "--upload", "s3://photos/x", "--json"])
    assert result.exit_code == 0, result.output
    uploaded = json.loads(result.stdout)["uploaded"]
    assert uploaded["sent"] == 9
    assert uploaded["channels"]["validation_lst"] == "s3://photos/x/test.lst"
