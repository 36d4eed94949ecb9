"""`kickstand import-capture`: every line of every captured file becomes a record."""

import base64
import gc
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from kickstand.events import ImageSummary, Reason, Route
from kickstand.records import Record
from kickstand_cli.monitor.import_capture import import_capture, read_line
from kickstand_cli.records import read_records
from tests.photos import odd_name

REAL = Path(os.environ.get("KICKSTAND_CAPTURED", Path(__file__).parents[4] / "shared" / "data" / "captured"))

app = typer.Typer()
app.command()(import_capture)
app.command("other")(lambda: None)


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["import-capture", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    card = {
        "model_version": "m1",
        "model_sha256": "0" * 64,
        "labels": ["bicycle", "motorcycle"],
        "input_shape": [32, 32, 3],
        "temperature": 1.0,
        "policy": {
            "policy_version": "p1",
            "accept_at": 0.93,
            "neither_accept_at_most": 0.2,
            "neither_reject_at_least": 0.8,
        },
    }
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.json").write_text(json.dumps(card))
    return tmp_path


def photo() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), (10, 120, 90)).save(file, "PNG")
    return file.getvalue()


def captured(event_id: str, answer: str = "[0.95, 0.05]", image: bytes | None = None, **output: Any) -> str:
    """One line as data capture writes it."""
    data = {
        "endpointInput": {
            "observedContentType": "image/png",
            "mode": "INPUT",
            "data": base64.b64encode(photo() if image is None else image).decode(),
            "encoding": "BASE64",
        },
        "endpointOutput": {
            "observedContentType": "application/json",
            "mode": "OUTPUT",
            "data": answer,
            "encoding": "JSON",
            **output,
        },
    }
    metadata = {"eventId": event_id, "inferenceTime": "2024-10-15T14:05:12Z"}
    return json.dumps({"captureData": data, "eventMetadata": metadata, "eventVersion": "0"})


def imported(artefact: Path, *files: Path) -> list[Record]:
    out = artefact / "records.jsonl"
    code, _, err = run(*files, "--out", out, "--model", artefact / "model")
    assert code == 0, err
    return list(read_records(out))


def test_every_line_of_every_file_becomes_a_record(artefact: Path) -> None:
    (artefact / "a.jsonl").write_text(captured("1") + "\n" + captured("2", "[0.2, 0.8]") + "\n")
    (artefact / "b.jsonl").write_text(captured("3"))
    records = imported(artefact, artefact / "a.jsonl", artefact / "b.jsonl")
    assert [record.version for record in records] == ["1", "2", "3"]
    assert [record.decision.route for record in records] == [Route.ACCEPT, Route.REVIEW, Route.ACCEPT]
    assert records[0].prepared_image is not None
    assert records[0].prepared_image.statistics.saturation > 0.9


def test_records_are_written_one_by_one_and_photos_are_not_kept(
    artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = []
    photos: set[object] = set()

    def read(*arguments: Any) -> Record:
        record = read_line(*arguments)
        alive.append(sum(type(one) is Record for one in gc.get_objects()))
        photos.add(type(record.prepared_image))
        return record

    monkeypatch.setattr("kickstand_cli.monitor.import_capture.read_line", read)
    (artefact / "a.jsonl").write_text("\n".join(captured(str(number)) for number in range(20)))
    assert len(imported(artefact, artefact / "a.jsonl")) == 20
    assert max(alive) - alive[0] <= 1
    assert photos == {ImageSummary}


def test_captured_files_are_never_replaced(artefact: Path) -> None:
    file = artefact / "a.jsonl"
    file.write_text(captured("e1"))
    for source, why in ((file, "it is an input"), (artefact, f"the output would be inside the input {artefact}")):
        code, _, errors = run(source, "--out", file, "--model", artefact / "model")
        assert code == 1
        assert f"error: {file}: {why}" in errors
    assert file.read_text() == captured("e1")


def test_a_folder_means_all_files_in_it(artefact: Path) -> None:
    for day in ("14", "15"):
        (artefact / "capture" / day).mkdir(parents=True)
        (artefact / "capture" / day / "x.jsonl").write_text(captured(day))
    assert len(imported(artefact, artefact / "capture")) == 2


def test_an_answer_in_base64_is_read_too(artefact: Path) -> None:
    (artefact / "a.jsonl").write_text(captured("1", base64.b64encode(b"[0.3, 0.7]").decode(), encoding="BASE64"))
    (record,) = imported(artefact, artefact / "a.jsonl")
    assert record.prediction is not None
    assert (record.prediction.label, record.prediction.confidence) == ("motorcycle", 0.7)


def test_an_image_that_cannot_be_read_is_a_rejected_record(artefact: Path) -> None:
    (artefact / "a.jsonl").write_text(captured("1", image=b"no image"))
    (record,) = imported(artefact, artefact / "a.jsonl")
    assert record.decision.reason is Reason.UNREADABLE
    assert record.prepared_image is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "Expecting property name"),
        ('{"captureData": {}}', "'eventMetadata' is missing"),
        ("7", "line 2: not a JSON object\n"),
        ("[]", "line 2: not a JSON object\n"),
        ('{"captureData": 7, "eventMetadata": {}}', "line 2: captureData is not an object\n"),
        ("[" * 100_000, "line 2: too deeply nested JSON\n"),
        (captured("1", "[0.5, 0.3, 0.2]"), "line 2: endpointOutput: a list of 2 probabilities is expected"),
        (captured("1", "[1.0, 1e400]"), "line 2: endpointOutput: motorcycle: 'inf' is no probability"),
        (captured("1", "[" * 100_000), "line 2: endpointOutput: too deeply nested JSON\n"),
        (captured("1", "bicycle"), "line 2: endpointOutput: Expecting value"),
        (captured("1", encoding="BASE64"), "line 2: endpointOutput: damaged base64"),
        (captured("1", data=7, encoding="BASE64"), "line 2: endpointOutput: damaged base64"),
        (captured("1", "\ud83d"), "line 2: endpointOutput: 'utf-8' codec can't encode"),
        (captured("1").replace('"data"', '"date"'), "line 2: endpointInput: 'data' is missing\n"),
        (captured("1").replace("iVBOR", "*VBOR"), "line 2: endpointInput: damaged base64"),
        (captured("1").replace("endpointInput", "input"), "line 2: 'endpointInput' is missing\n"),
        (captured("1").replace("2024-10-15T", "yesterday "), "line 2: inferenceTime: Invalid isoformat string"),
        (captured("1").replace('"2024-10-15T14:05:12Z"', "7"), "line 2: inferenceTime: "),
    ],
)
def test_a_line_that_cannot_be_used_is_named_and_the_others_are_written(artefact: Path, line: str, said: str) -> None:
    (artefact / "a.jsonl").write_text(f"{captured('1')}\n{line}\n{captured('3')}\n")
    out = artefact / "records.jsonl"
    code, _, err = run(artefact / "a.jsonl", "--out", out, "--model", artefact / "model")
    assert code == 1
    assert "line 2" in err
    assert said in err
    assert len(list(read_records(out))) == 2


def test_a_file_whose_name_is_not_utf_8_is_imported(artefact: Path) -> None:
    file = odd_name(artefact, b"caf\xe9.jsonl")
    file.write_text(captured("1"))
    (record,) = imported(artefact, file)
    assert record.image_ref.key == r"caf\udce9.jsonl:1"


def test_a_file_that_is_not_there_is_an_error(artefact: Path) -> None:
    code, _, err = run(artefact / "none.jsonl", "--model", artefact / "model", "--out", artefact / "out.jsonl")
    assert code == 1
    assert "none.jsonl" in err


def test_really_captured_inferences_are_imported(artefact: Path, absent: Callable[[str, str], None]) -> None:
    files = sorted(REAL.glob("*.jsonl"))
    if not files:
        absent("captured", f"no captured inferences in {REAL.name}/; KICKSTAND_CAPTURED names the folder")
    lines = sum(bool(line.strip()) for file in files for line in file.read_text().splitlines())
    records = imported(artefact, *files)
    assert len(records) == lines
    assert len({record.version for record in records}) == lines
    assert all(record.prepared_image and record.prepared_image.width == 32 for record in records)


def test_an_inference_that_was_captured_twice_is_one_record(artefact: Path) -> None:
    (artefact / "a.jsonl").write_text(f"{captured('1')}\n{captured('2')}\n{captured('1')}\n")
    assert [record.version for record in imported(artefact, artefact / "a.jsonl")] == ["1", "2"]


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("2024-10-15T14:05:12", "2024-10-15T14:05:12+00:00"),
        ("2024-10-15T01:00:00+09:00", "2024-10-14T16:00:00+00:00"),
    ],
)
def test_captured_times_become_utc(artefact: Path, time: str, expected: str) -> None:
    (artefact / "a.jsonl").write_text(captured("1").replace("2024-10-15T14:05:12Z", time))
    (record,) = imported(artefact, artefact / "a.jsonl")
    assert record.recorded_at.isoformat() == expected
    assert expected[:19] in (artefact / "records.jsonl").read_text()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_captured_files_may_have_another_encoding(artefact: Path, encoding: str) -> None:
    (artefact / "a.jsonl").write_text(f"{captured('1')}\r\n{captured('2')}\r\n", encoding, newline="")
    assert len(imported(artefact, artefact / "a.jsonl")) == 2


@pytest.mark.parametrize("event_id", [None, 7, "", {"a": 1}, "a\ud83d"])
def test_an_inference_without_an_id_is_named(artefact: Path, event_id: Any) -> None:
    line = json.loads(captured("1"))
    line["eventMetadata"]["eventId"] = event_id
    (artefact / "a.jsonl").write_text(f"{json.dumps(line)}\n{captured('2')}")
    code, _, err = run(artefact / "a.jsonl", "--out", artefact / "out.jsonl", "--model", artefact / "model")
    assert (code, "eventId is not a text" in err) == (1, True)
    assert len(list(read_records(artefact / "out.jsonl"))) == 1
