"""What people do wrong most often ends in one line that names the input, the reason and, where it helps, the remedy."""

import json
import shutil
from pathlib import Path

import boto3
import pytest
from typer.testing import CliRunner

from kickstand_cli.main import app
from kickstand_cli.project import MODEL

PHOTO = Path(__file__).parents[2] / "samples" / "images" / "bicycle" / "ridden.jpg"
INSIDE = ": the output would be inside the input "


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
        ("dataset check {shown} --report {shown}/page", 1, ["page/index.html" + INSIDE + "{shown}"]),
        ("evaluate {shown} --report {shown}", 1, ["shown/evaluation.html" + INSIDE, "choose another place"]),
        ("evaluate {shown} --out {shown}/bicycle/ridden.jpg", 1, ["ridden.jpg" + INSIDE + "{shown}"]),
        ("evaluate {linked} --out {shown}/bicycle/n.json", 1, ["bicycle/n.json" + INSIDE + "{linked}"]),
        ("evaluate {shown} --model {model} --out {model}/model.json", 1, ["model.json" + INSIDE + "{model}"]),
        ("report --records {text} --images {shown} --out {shown}/page.html", 1, ["page.html" + INSIDE + "{shown}"]),
        ("import-capture {folder} --out {folder}/new.jsonl", 1, ["new.jsonl" + INSIDE + "{folder}"]),
        ("demo --images {shown} --out {shown}/out", 1, ["out/records.jsonl" + INSIDE + "{shown}"]),
        ("train {shown} --out {shown}/model", 1, ["shown/model/model.json" + INSIDE + "{shown}"]),
        (
            "train {shown} --no-golden --out {folder}/m --evidence {shown}/bicycle",
            1,
            ["out_of_fold.json" + INSIDE + "{shown}"],
        ),
        ("train {folder}/golden --out {folder}/m", 1, ["golden/photo" + INSIDE + "{folder}/golden"]),
        ("train {shown} --no-golden --keep-neither {shown}/x.npz", 1, ["x.npz" + INSIDE + "{shown}"]),
        ("train no-such-folder --max-risk 0", 2, ["--max-risk: input should be greater than 0"]),
        ("train no-such-folder --confidence 1", 2, ["--confidence: input should be less than 1"]),
        ("monitor --records {text} --since 2999-01-01", 2, ["2999-01-01: in the future"]),
        ("monitor --records {text} --since 0001-01-01T00:00+14:00", 2, ["--since", "expected a length"]),
        ("monitor --records {text} --since 0001-01-01", 2, ["--since", "0001-01-01: more than a hundred years ago"]),
        ("monitor --records {text} --since=", 2, ["--since", "'': expected a length"]),
        ("backfill --since=", 2, ["--since", "'': expected a length"]),
        ("switch on --reason x --until 9999-12-31T23:59:59-14:00", 2, ["--until", "expected a duration"]),
        ("switch on --reason x --until 0001-01-01T00:00:00+14:00", 2, ["--until", "expected a duration"]),
        ("policy --max-risk 0.02 --outputs no-such.json", 2, ["--outputs", "it needs --stack-name"]),
        ("policy --review-cost 1 --error-cost 2 --confidence 0.9", 2, ["--confidence", "need --max-risk"]),
        ("baseline --images {shown} --stack-name other", 2, ["--images", "need --since"]),
        ("baseline --images {shown} --outputs no-such.json", 2, ["--images", "need --since"]),
        ("replay --records {text} --keep {folder}/kept", 2, ["--keep", "it needs --model"]),
        ("replay --records {text} --outputs no-such.json", 2, ["--outputs", "instead of a stack"]),
        ("replay --records {text} --model {model} --images no-such", 1, ["no-such: no such folder"]),
        ("report --records {text} --images no-such --out {folder}/page.html", 1, ["no-such: no such folder"]),
        ("replay --records {text} --accept-at bicycle=0.5 --accept-at bicycle=0.9", 2, ["bicycle is named twice"]),
        ("replay --records {text} --accept-at 0.5 --accept-at 0.9", 2, ["given twice for all classes"]),
        (
            "replay --records {text} --neither-accept-at-most 0.9 --neither-reject-at-least 0.1",
            2,
            [
                "for '--neither-accept-at-most' / '--neither-reject-at-least': ",
                "is larger than neither_reject_at_least",
            ],
        ),
        ("replay --records {text} --neither-reject-at-least 0", 2, ["for '--neither-reject-at-least': neither_accept"]),
        ("replay --records {text} --neither-accept-at-most 1", 2, ["for '--neither-accept-at-most': neither_accept"]),
        ("ledger --outputs {null}", 1, ["{null}: not the outputs of a stack (ImageBucketName is no text, or empty)"]),
        ("ledger --outputs {days}", 1, ["{days}: its output RetentionDays is 'x', no number of days"]),
        ("ledger --outputs no-such.json", 1, ["no-such.json: not the outputs of a stack (no-such.json: No such file"]),
        ("ledger --outputs {incomplete}", 1, ["{incomplete}", "it has no output ImageBucketName"]),
        ("forget van.jpg", 2, ["van.jpg: expected s3://bucket/key"]),
        ("explain van.jpg", 2, ["van.jpg: expected s3://bucket/key"]),
        ("training start --reason new --algorithm linear", 2, ["'linear' is not one of 'kickstand'"]),
        ("ledger", 1, ["credentials", "aws configure"]),
        ("explain s3://bucket/van.jpg", 1, ["credentials", "AWS_PROFILE"]),
        ("policy --max-risk 0.0001", 3, ["refused", "more photos of bicycle"]),
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
    (tmp_path / "null").write_text('{"ImageBucketName": null}')
    (tmp_path / "days").write_text('{"RetentionDays": "x"}')
    (tmp_path / "incomplete").write_text('{"RecordsTableName": "records"}')
    (tmp_path / "shown" / "bicycle").mkdir(parents=True)
    shutil.copy(PHOTO, tmp_path / "shown" / "bicycle")
    (tmp_path / "golden" / "bicycle").mkdir(parents=True)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "bicycle").symlink_to(tmp_path / "shown" / "bicycle")
    places = {name: tmp_path / name for name in ("wrong", "text", "incomplete", "null", "days", "shown", "linked")}
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


@pytest.mark.parametrize(
    ("command", "variable", "value"),
    [
        ("ledger", "AWS_MAX_ATTEMPTS", "x"),
        ("ledger", "AWS_ENDPOINT_URL", "junk"),
        ("ledger", "AWS_ENDPOINT_URL_SQS", "junk"),
        ("review --web", "AWS_MAX_ATTEMPTS", "x"),
        ("training start --reason new", "AWS_MAX_ATTEMPTS", "x"),
        ("training status", "AWS_MAX_ATTEMPTS", "x"),
    ],
)
def test_a_wrong_setting_of_aws_ends_in_one_line(
    command: str, variable: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setenv(variable, value)
    outputs = (
        "ImageBucketName",
        "ReviewFunctionName",
        "ControlTableName",
        "TrainModelStateMachineArn",
        "RequestTrainingFunctionName",
    )
    (tmp_path / "outputs.json").write_text(json.dumps(dict.fromkeys(outputs, "x")))
    result = CliRunner().invoke(app, [*command.split(), "--outputs", str(tmp_path / "outputs.json")])
    assert result.exit_code == 1
    error = result.stderr.removeprefix("AWS region: us-east-1\n")
    assert error.startswith("error: a setting of AWS, in the environment or ~/.aws/config, is wrong: ")
    assert value in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("policy", "evidence"), None, "policy.evidence: "),
        (("policy", "evidence", "source"), 5, "policy.evidence.source: "),
        (("policy", "evidence", "labels", "bicycle"), 3, "policy.evidence.labels.bicycle: "),
        (("policy", "promise"), None, "policy.promise: is null"),
        (("policy", "promise"), 5, "policy.promise: "),
        (("policy", "promise", "confidence_level"), 2, "policy.promise.confidence_level: "),
        (("policy", "neither_accept_at_most"), 0.95, "policy: neither_accept_at_most is larger than"),
        (("metrics",), [], "metrics: "),
        (("sources",), {"a": 1}, "sources.a: "),
        (("training", "sources"), 5, "training.sources: "),
        (("training", "sources"), [{"source": "shop"}], "training.sources.0.learnt: "),
        (("baseline", "rates", "flagged"), {"hits": 9, "n": 1}, "baseline.rates.flagged: 9 hits of 1"),
        (("baseline", "features", "neither", "low", 0), 2.0, "baseline.features.neither: the order statistics"),
    ],
)
def test_a_wrong_field_of_model_json_is_named_with_its_file(
    path: tuple[str | int, ...], value: object, said: str, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(MODEL, tmp_path / "model"))
    card = part = json.loads((model / "model.json").read_text())
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    (model / "model.json").write_text(json.dumps(card))
    (tmp_path / "photos" / "bicycle").mkdir(parents=True)
    shutil.copy(PHOTO, tmp_path / "photos" / "bicycle")
    (tmp_path / "records.jsonl").touch()
    commands = ["policy --max-risk 0.5", "evaluate {0}/photos --report {0}/report"]
    if path[0] == "baseline":
        commands = ["monitor --records {0}/records.jsonl", "report --records {0}/records.jsonl --out {0}/page.html"]
    for command in commands:
        result = CliRunner().invoke(app, [*command.format(tmp_path).split(), "--model", str(model)])
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"error: {model}/model.json: {said}")
        assert result.stderr.count("\n") == 1
