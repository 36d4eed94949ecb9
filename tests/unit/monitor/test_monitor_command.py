"""`kickstand baseline` and `kickstand monitor`: from labelled images to a comparison with any records."""

import hashlib
import json
import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer

from kickstand.classify.artefact import read_card
from kickstand.classify.policy import decide
from kickstand.classify.promise import ANY_LABEL, Promise
from kickstand.events import ImageRef, ImageStatistics, ImageSummary, Prediction
from kickstand.monitor.drift import Budget
from kickstand.monitor.run import Watch, examine, read_watch
from kickstand.records import Record
from kickstand_cli.monitor.baseline import baseline
from kickstand_cli.monitor.monitor import monitor
from kickstand_cli.records import parse_since
from tests.commands import run

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)

app = typer.Typer()
app.command()(baseline)
app.command()(monitor)


def write_artefact(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    card = {
        "model_version": "m1",
        "model_sha256": "0" * 64,
        "labels": ["bicycle", "motorcycle"],
        "input_shape": [16, 16, 3],
        "temperature": 1.0,
        "metrics": {"kept": True},
        "policy": {
            "policy_version": "p1",
            "accept_at": 0.8,
            "neither_accept_at_most": 0.2,
            "neither_reject_at_least": 0.8,
            "max_risk": 0.02,
            "confidence_level": 0.95,
        },
    }
    (folder / "model.json").write_text(json.dumps(card))
    return folder


def recorded(i: int, draw: random.Random, artefact: Path, foreign: bool = False) -> Record:
    confidence = 0.6 + 0.4 * draw.betavariate(5, 1)
    labels = ("bicycle", "motorcycle") if draw.random() < 0.5 else ("motorcycle", "bicycle")
    prediction = Prediction.of(
        dict(zip(labels, (confidence, 1 - confidence), strict=True)),
        neither=0.95 if foreign else draw.betavariate(1, 40),
        model_version="m1",
        backend="embedded",
        latency_ms=1,
    )
    ref = ImageRef(bucket="photos", key=f"{i}.jpg", etag="e", version_id="v", uploaded_at=NOON)
    brightness = (60 + 120 * draw.random()) / 255
    statistics = ImageStatistics(brightness=brightness, contrast=0.09, sharpness=0.1, saturation=0.3)
    return Record(
        image=ref.uri,
        version="v",
        image_ref=ref,
        prepared_image=ImageSummary(
            sha256=hashlib.sha256(bytes(i)).hexdigest(), format="PNG", width=16, height=16, statistics=statistics
        ),
        prediction=prediction,
        decision=decide(prediction, read_card(artefact).policy),
        execution="arn",
        recorded_at=NOON + timedelta(minutes=i),
    )


def write_records(file: Path, records: Iterable[Record]) -> Path:
    file.write_text("".join(record.model_dump_json() + "\n" for record in records))
    return file


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a baseline made of records."""
    home = tmp_path_factory.mktemp("monitor")
    folder = write_artefact(home / "model")
    code, out, err = run("baseline", "--records", good_records(home, folder), "--model", folder)
    assert code == 0, err
    assert "200 photos" in out
    return folder


def good_records(home: Path, artefact: Path, n: int = 200) -> Path:
    draw = random.Random(1)
    return write_records(home / "good.jsonl", (recorded(i, draw, artefact) for i in range(n)))


def test_the_baseline_joins_model_json_and_leaves_the_rest_as_it_was(artefact: Path) -> None:
    card = json.loads((artefact / "model.json").read_text())
    assert card["metrics"] == {"kept": True}
    assert card["baseline"]["rates"]["class_mix:bicycle"]["n"] == 200
    assert len(json.dumps(card["baseline"])) < 8_000
    assert read_watch(artefact).promise == Promise(max_risk={ANY_LABEL: 0.02})


@pytest.mark.parametrize(
    "card", [[], {"policy": None}, {"policy": {"thresholds": [0.9]}}, {"policy": {"evidence": None}}]
)
def test_a_model_card_of_another_shape_is_named(tmp_path: Path, card: object) -> None:
    (tmp_path / "model.json").write_text(json.dumps(card))
    code, _, err = run("monitor", "--records", write_records(tmp_path / "none.jsonl", []), "--model", tmp_path)
    assert code == 1
    assert err.count("\n") == 1
    assert f"error: {tmp_path}/model.json: " in err


def test_making_the_baseline_again_changes_nothing(artefact: Path, tmp_path: Path) -> None:
    before = (artefact / "model.json").read_text()
    assert run("baseline", "--records", good_records(tmp_path, artefact), "--model", artefact)[0] == 0
    assert (artefact / "model.json").read_text() == before


def test_a_baseline_can_be_made_of_records(tmp_path: Path) -> None:
    folder = write_artefact(tmp_path / "model")
    draw = random.Random(1)
    records = write_records(tmp_path / "r.jsonl", (recorded(i, draw, folder) for i in range(150)))
    code, out, err = run("baseline", "--records", records, "--model", folder, "--json")
    assert code == 0, err
    assert json.loads(out)["features"]["brightness"]["n"] == 150


@pytest.mark.parametrize("arguments", [[], ["--images", "data", "--records", "r.jsonl"]])
def test_a_baseline_has_exactly_one_source(arguments: list[str]) -> None:
    assert run("baseline", *arguments)[0] == 2


def test_too_few_images_make_no_baseline(tmp_path: Path) -> None:
    folder = write_artefact(tmp_path / "model")
    code, _, err = run("baseline", "--records", good_records(tmp_path, folder, n=20), "--model", folder)
    assert code == 1
    assert "at least 100" in err


def report_on(records: Iterable[Record], artefact: Path, tmp_path: Path, *options: object) -> tuple[int, Any]:
    file = write_records(tmp_path / "records.jsonl", records)
    code, out, err = run("monitor", "--records", file, "--model", artefact, "--json", *options)
    assert code in (0, 4), err
    return code, json.loads(out)


def test_foreign_images_page_and_the_images_are_named(artefact: Path, tmp_path: Path) -> None:
    draw = random.Random(2)
    code, report = report_on((recorded(i, draw, artefact, foreign=i % 2 == 0) for i in range(100)), artefact, tmp_path)
    moved = {finding["statistic"]: finding for finding in report["drift"] if finding["alarm"]}
    assert code == 4
    assert report["harmed"]
    assert moved["flagged"]["severity"] == "page"
    assert moved["flagged"]["examples"][0]["image"].startswith("s3://photos/")
    assert report["routes"]["reject"] == 50


def test_people_read_the_same_report(artefact: Path, tmp_path: Path) -> None:
    draw = random.Random(2)
    file = write_records(tmp_path / "r.jsonl", (recorded(i, draw, artefact, foreign=i % 2 == 0) for i in range(100)))
    code, out, _ = run("monitor", "--records", file, "--model", artefact)
    assert code == 4
    assert "alert   share flagged:" in out
    assert "accuracy  accepted:" in out
    assert "guarantee at most 2.0% of accepted predictions wrong: not enough evidence" in out


def test_an_empty_window_is_fine_but_an_empty_file_is_not(artefact: Path, tmp_path: Path) -> None:
    draw = random.Random(3)
    code, report = report_on([recorded(1, draw, artefact)], artefact, tmp_path, "--since", "1m")
    assert code == 0
    assert report["images"] == 0
    (tmp_path / "empty.jsonl").touch()
    code, _, err = run("monitor", "--records", tmp_path / "empty.jsonl", "--model", artefact)
    assert (code, err) == (1, f"error: {tmp_path / 'empty.jsonl'}: no record in it\n")


def test_since_leaves_older_records_out(artefact: Path, tmp_path: Path) -> None:
    draw = random.Random(3)
    since = (NOON + timedelta(minutes=70)).isoformat()
    _, report = report_on((recorded(i, draw, artefact) for i in range(100)), artefact, tmp_path, "--since", since)
    assert report["images"] == 30


def test_without_a_baseline_accuracy_is_told_and_drift_is_not(tmp_path: Path) -> None:
    folder = write_artefact(tmp_path / "model")
    draw = random.Random(4)
    code, report = report_on((recorded(i, draw, folder) for i in range(20)), folder, tmp_path)
    assert code == 0
    assert report["drift"] is None
    assert report["overall"]["images"] == 20


def test_a_line_that_is_no_record_is_named(artefact: Path, tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text(recorded(0, random.Random(1), artefact).model_dump_json() + '\n{"image": 1}\n')
    code, _, err = run("monitor", "--records", file, "--model", artefact)
    assert code == 1
    assert "line 2" in err


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("24h", NOON - timedelta(days=1)),
        ("1.5d", NOON - timedelta(hours=36)),
        ("2026-05-01", NOON.replace(day=1, hour=0)),
        ("2026-05-01T10:00:00+02:00", NOON.replace(day=1, hour=8)),
    ],
)
def test_since_is_a_time_span_or_a_moment(text: str, moment: datetime) -> None:
    assert parse_since(text, NOON) == moment


def test_two_parts_with_a_checkpoint_give_the_same_report_as_the_whole(artefact: Path) -> None:
    draw = random.Random(5)
    records = [recorded(i, draw, artefact, foreign=i > 60 and i % 3 == 0) for i in range(150)]
    watch, budget = read_watch(artefact), Budget()
    whole, _ = examine(records, watch, budget)
    _, checkpoint = examine(records[:80], watch, budget)
    parts, _ = examine(records[80:], watch, budget, checkpoint)
    assert parts.drift == whole.drift
    assert parts.compared == whole.compared == 150


def test_a_card_without_promise_and_baseline_can_be_watched() -> None:
    report, checkpoint = examine([], Watch(), Budget())
    assert (report.drift, report.promises, report.mix, checkpoint) == (None, (), (), None)


POLICY = {
    "policy_version": "p2",
    "accept_at": 0.9,
    "thresholds": {"bicycle": 0.7, "motorcycle": 0.8},
    "neither_accept_at_most": 0.2,
    "neither_reject_at_least": 0.8,
    "promise": {
        "max_risk": {"bicycle": 0.02, "motorcycle": 0.03},
        "mix": {"bicycle": [0.3, 0.7]},
        "foreign_share": 0.05,
        "label_error": 0.01,
    },
    "evidence": {"shares_at_most": {"bicycle": 0.7, "motorcycle": 0.7, "neither": 0.1}},
}


def promising(folder: Path, **policy: Any) -> Path:
    """An artefact that promises something about each label."""
    write_artefact(folder)
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"policy": POLICY | policy}))
    return folder


def test_people_read_accuracy_promise_and_mix_of_each_label(tmp_path: Path) -> None:
    folder = promising(tmp_path / "model")
    draw = random.Random(2)
    file = write_records(tmp_path / "r.jsonl", (recorded(i, draw, folder) for i in range(100)))
    code, out, err = run("monitor", "--records", file, "--model", folder)
    assert code == 0, err
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    told = [" ".join(line) for line in lines if line and line[0] in ("accuracy", "promise", "mix")]
    assert [line.split(":")[0] for line in told if line.startswith("accuracy")] == [
        "accuracy accepted",
        "accuracy accepted as bicycle",
        "accuracy accepted as motorcycle",
        "accuracy overall",
    ]
    assert (
        "guarantee at most 3.0% of predictions accepted as motorcycle wrong: not enough evidence; 0 of 0 audits wrong"
        in out.replace("promise   ", "promise ")
    )
    assert "the guarantee holds for 30% to 70% of the photos, which is at most 70.0% of the predictions" in out
    assert "mix       perhaps none of the classes:" in out
    assert "no baseline in model.json" in out


def test_a_label_of_which_no_answer_is_accepted_says_so(tmp_path: Path) -> None:
    folder = promising(tmp_path / "model", thresholds={"bicycle": 0.7, "motorcycle": None})
    draw = random.Random(2)
    file = write_records(tmp_path / "r.jsonl", (recorded(i, draw, folder) for i in range(40)))
    _, out, _ = run("monitor", "--records", file, "--model", folder)
    assert "guarantee motorcycle: no such prediction is accepted, so there is nothing to check" in out
    assert "predictions accepted as motorcycle" not in out


def test_the_report_holds_the_numbers_of_each_label(tmp_path: Path) -> None:
    folder = promising(tmp_path / "model")
    draw = random.Random(3)
    _, report = report_on((recorded(i, draw, folder) for i in range(100)), folder, tmp_path)
    assert {check["label"]: check["max_risk"] for check in report["promises"]} == {"bicycle": 0.02, "motorcycle": 0.03}
    assert set(report["accepted_by_label"]) == {"bicycle", "motorcycle"}
    assert sum(live["images"] for live in report["accepted_by_label"].values()) == report["accepted"]["images"]
    assert [share["label"] for share in report["mix"]] == ["bicycle", "motorcycle", "neither"]
