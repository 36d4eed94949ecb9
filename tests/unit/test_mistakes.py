"""What people do wrong most often ends in one line that names the input, the reason and, where it helps, the remedy."""

from pathlib import Path

import boto3
import pytest
from typer.testing import CliRunner

from kickstand_cli.main import app

PHOTO = Path(__file__).parents[2] / "samples" / "images" / "bicycle" / "ridden.jpg"


@pytest.mark.parametrize(
    ("command", "code", "names"),
    [
        ("classify no-such.jpg", 1, ["no-such.jpg", "No such file"]),
        ("classify {folder}", 1, ["Is a directory"]),
        ("classify {photo} --model {folder}", 1, ["not a model artefact", "model.json"]),
        ("evaluate no-such-folder", 1, ["no-such-folder: no such folder"]),
        ("evaluate {wrong}", 1, ["bicycle, motorcycle, neither", "lorry"]),
        ("demo --images no-such-folder", 1, ["no-such-folder: no such file or folder"]),
        ("monitor --records {text}", 1, ["line 1: no decision record", "Invalid JSON"]),
        ("replay --records no-such.jsonl", 1, ["no-such.jsonl: No such file"]),
        ("dataset fetch --archive {text} --out {folder}/new", 1, ["not a tar.gz archive"]),
        ("dataset check no-such-folder", 1, ["no-such-folder: no such folder"]),
        (
            "dataset check {folder}/wrong --report {folder}/wrong/page",
            1,
            ["wrong/page: it is inside", "another folder"],
        ),
        ("evaluate {shown} --report {shown}", 1, ["shown: it is inside", "choose another folder"]),
        ("train {shown} --out {shown}/model", 1, ["shown/model: it is inside", "choose another folder"]),
        ("train {shown} --out {folder}/model --evidence {shown}/bicycle", 1, ["shown/bicycle: it is inside"]),
        ("train no-such-folder --max-risk 0", 2, ["--max-risk: input should be greater than 0"]),
        ("train no-such-folder --confidence 1", 2, ["--confidence: input should be less than 1"]),
        ("monitor --records {text} --since 2999-01-01", 2, ["2999-01-01: in the future"]),
        ("ledger --outputs no-such.json", 1, ["no-such.json: not the outputs of a stack (no-such.json: No such file"]),
        ("ledger --outputs {incomplete}", 1, ["{incomplete}", "it has no output ImageBucketName"]),
        ("forget van.jpg", 2, ["van.jpg: expected s3://bucket/key"]),
        ("explain van.jpg", 2, ["van.jpg: expected s3://bucket/key"]),
        ("training start --reason new --algorithm linear", 2, ["'linear' is not one of 'kickstand'"]),
        ("ledger", 1, ["credentials", "aws configure"]),
        ("explain s3://bucket/van.jpg", 1, ["credentials", "AWS_PROFILE"]),
        ("policy --max-risk 0.0001", 3, ["refused", "more of bicycle"]),
        ("policy", 2, ["--max-risk", "--error-cost"]),
        ("policy --max-risk 2", 2, ["--max-risk", "2 is not a number from 0 to 1"]),
        ("evalute dataset", 2, ["Did you mean 'evaluate'?"]),
    ],
)
def test_a_mistake_is_answered_in_one_line(
    command: str, code: int, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it remembers the credentials of tests before
    (tmp_path / "wrong" / "lorry").mkdir(parents=True)
    (tmp_path / "text").write_text("no record, no archive, no photo\n")
    (tmp_path / "incomplete").write_text('{"RecordsTableName": "records"}')
    (tmp_path / "shown" / "bicycle").mkdir(parents=True)
    (tmp_path / "shown" / "bicycle" / PHOTO.name).symlink_to(PHOTO)
    places = {name: tmp_path / name for name in ("wrong", "text", "incomplete", "shown")}
    words = command.format(photo=PHOTO, folder=tmp_path, **places).split()
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, result.output
    for name in names:
        assert name.format(**places) in " ".join(result.output.replace("│", " ").split())
    if code == 1:
        error = result.output.removeprefix("AWS region: us-east-1\n")
        assert error.startswith("error: ")
        assert error.count("\n") == 1
    assert "Traceback" not in result.output
