"""What people do wrong most often ends in one line that names the input, the reason and, where it helps, the remedy."""

import shutil
from pathlib import Path

import boto3
import pytest
from typer.testing import CliRunner

from kickstand_cli.main import app
from kickstand_cli.project import MODEL

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
        ("dataset check {shown} --report {shown}/page", 1, ["page/index.html: it would be in {shown}, which is read"]),
        ("evaluate {shown} --report {shown}", 1, ["shown/evaluation.html: it would be in", "choose another folder"]),
        ("evaluate {shown} --out {shown}/bicycle/ridden.jpg", 1, ["ridden.jpg: it would be in {shown}"]),
        ("evaluate {linked} --out {shown}/bicycle/n.json", 1, ["bicycle/n.json: it would be in {linked}"]),
        ("evaluate {shown} --model {model} --out {model}/model.json", 1, ["model.json: it would be in {model}"]),
        ("report --records {text} --images {shown} --out {shown}/page.html", 1, ["page.html: it would be in {shown}"]),
        ("import-capture {folder} --out {folder}/new.jsonl", 1, ["new.jsonl: it would be in {folder}"]),
        ("demo --images {shown} --out {shown}/out", 1, ["out/records.jsonl: it would be in {shown}"]),
        ("train {shown} --out {shown}/model", 1, ["shown/model/model.json: it would be in {shown}"]),
        (
            "train {shown} --no-golden --out {folder}/m --evidence {shown}/bicycle",
            1,
            ["out_of_fold.json: it would be in {shown}"],
        ),
        ("train {folder}/golden --out {folder}/m", 1, ["golden/photo: it would be in {folder}/golden, which is read"]),
        ("train {shown} --no-golden --keep-neither {shown}/x.npz", 1, ["x.npz: it would be in {shown}"]),
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
    (tmp_path / "captured.jsonl").write_text("no inference")
    (tmp_path / "incomplete").write_text('{"RecordsTableName": "records"}')
    (tmp_path / "shown" / "bicycle").mkdir(parents=True)
    shutil.copy(PHOTO, tmp_path / "shown" / "bicycle")
    (tmp_path / "golden" / "bicycle").mkdir(parents=True)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "bicycle").symlink_to(tmp_path / "shown" / "bicycle")
    places = {name: tmp_path / name for name in ("wrong", "text", "incomplete", "shown", "linked")}
    places["folder"] = tmp_path
    places["model"] = Path(shutil.copytree(MODEL, tmp_path / "model"))
    words = command.format(photo=PHOTO, **places).split()
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, result.output
    for name in names:
        assert name.format(**places) in " ".join(result.output.replace("│", " ").split())
    if code == 1:
        error = result.output.removeprefix("AWS region: us-east-1\n")
        assert error.startswith("error: ")
        assert error.count("\n") == 1
    assert "Traceback" not in result.output
