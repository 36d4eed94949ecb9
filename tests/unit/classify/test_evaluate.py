"""`kickstand classify` and `kickstand evaluate`, on a model of three classes that goes by colour."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic_core import from_json

from kickstand.classify.promise import Guaranteed
from kickstand_cli.classify.classify import answer, answer_batch, load_model
from kickstand_cli.classify.evaluation import Readable, answer_all, find_images
from kickstand_cli.classify.evaluation_report import draw_risk
from kickstand_cli.project import MODEL, PROJECT
from tests.commands import run
from tests.photos import coloured, odd_name

LABELS = ("red", "green", "blue")


def write_images(folder: Path, colours: dict[str, Sequence[str]]) -> Path:
    for name, shades in colours.items():
        (folder / name).mkdir(parents=True)
        for index, shade in enumerate(shades):
            coloured(shade).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture
def model(tmp_path: Path, colour_model: Callable[..., Path]) -> Path:
    return colour_model(tmp_path / "model", LABELS)


def test_classify_prints_one_line_of_json_for_each_file_where_that_is_asked_for(model: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", {"any": ["red", "black", "#ff00ee"]})
    text = tmp_path / "text.png"
    text.write_text("no picture")
    code, out, _ = run("classify", *sorted(images.rglob("*.png")), text, "--model", model, "--json")
    red, black, between, unreadable = map(json.loads, out.splitlines())
    assert code == 0
    assert (red["label"], red["route"], red["reason"], red["model_version"]) == (
        "red",
        "accept",
        "confident",
        "colours",
    )
    assert red["confidence"] > 0.999
    assert sum(red["probabilities"].values()) == pytest.approx(1.0, abs=1e-5)
    assert red["latency_ms"] > 0
    assert (black["route"], black["reason"]) == ("reject", "neither")
    assert (between["route"], between["reason"]) == ("review", "unsure")
    assert (unreadable["route"], unreadable["reason"], unreadable["label"]) == ("reject", "unreadable", None)
    assert "not a photo (text)" in unreadable["explanation"]


def test_classify_goes_on_after_a_file_that_is_not_there_and_says_so(model: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", {"any": ["red"]})
    code, out, err = run("classify", tmp_path / "absent.png", images / "any/0.png", "--model", model, "--json")
    assert code == 1
    assert json.loads(out)["label"] == "red"
    assert "absent.png: No such file" in err


def test_many_files_are_answered_in_order_and_one_bad_file_ends_nothing(model: Path, tmp_path: Path) -> None:
    shades = ["red", "lime", "blue", "black", "#ff00ee"] * 10
    files = sorted(
        (write_images(tmp_path / "images", {"any": shades}) / "any").glob("*.png"), key=lambda f: int(f.stem)
    )
    files[7].write_text("no picture")
    files[20].unlink()
    code, out, err = run("classify", *files, "--model", model, "--json")
    lines = list(map(json.loads, out.splitlines()))
    assert code == 1
    assert "20.png: No such file" in err
    assert [line["image"] for line in lines] == [str(file) for file in files if file != files[20]]
    assert lines[7]["reason"] == "unreadable"
    for start in range(5):
        same = {
            (line["label"], line["confidence"], line["neither"], line["route"])
            for line in lines
            if int(Path(line["image"]).stem) % 5 == start and line["reason"] != "unreadable"
        }
        assert len(same) == 1


def test_photos_in_one_call_get_the_answers_that_they_get_alone() -> None:
    shipped = load_model(MODEL)
    files = [file for file in sorted((PROJECT / "samples/images").rglob("*")) if file.is_file()]
    photos = [(str(file), file.read_bytes()) for file in files]
    together, alone = answer_batch(photos, shipped), [answer(data, name, shipped) for name, data in photos]
    for one, other in zip(together, alone, strict=True):
        assert one.decision == other.decision
        if one.prediction and other.prediction:
            same = {"latency_ms": 0.0}
            assert one.prediction.model_copy(update=same) == other.prediction.model_copy(update=same)


@pytest.mark.parametrize("damage", ["missing", "changed", "labels"])
def test_a_damaged_artefact_is_refused_by_name(model: Path, tmp_path: Path, damage: str) -> None:
    match damage:
        case "missing":
            (model / "model.onnx").unlink()
        case "changed":
            (model / "model.onnx").write_bytes(b"something else")
        case "labels":
            card = json.loads((model / "model.json").read_text())
            (model / "model.json").write_text(json.dumps(card | {"labels": ["red", "green"]}))
    images = write_images(tmp_path / "images", {"red": ["red"]})
    code, _, err = run("classify", images / "red/0.png", "--model", model)
    assert code == 1
    assert err.startswith("error: ")
    assert "model" in err
    assert "Traceback" not in err


def test_evaluate_counts_what_the_model_did(model: Path, tmp_path: Path) -> None:
    folder = write_images(
        tmp_path / "test",
        {
            "red": ["red"] * 8 + ["#ff00ee", "lime"],  # one unsure, one wrong
            "green": ["lime"] * 10,
            "blue": ["blue"] * 10,
            "neither": ["black"] * 4 + ["white"],  # the white one goes to review
        },
    )
    (folder / "red" / "broken.png").write_bytes(b"")
    code, out, _ = run("evaluate", folder, "--model", model, "--json")
    result = json.loads(out)
    assert code == 1  # broken.png is named
    assert (result["n"], result["foreign_n"]) == (30, 5)
    assert result["accuracy"]["value"] == pytest.approx(29 / 30, abs=1e-6)
    assert result["accuracy"]["n"] == 30
    assert result["coverage"]["value"] == pytest.approx(29 / 30, abs=1e-6)
    assert result["selective_risk"]["value"] == pytest.approx(1 / 29, abs=1e-6)
    assert result["selective_risk"]["n"] == 29
    assert result["foreign_accepted"] == {"value": 0.0, "low": 0.0, "high": pytest.approx(0.434, abs=1e-3), "n": 5}
    green = result["selective_risk_by_label"]["green"]
    assert (green["value"], green["n"]) == (pytest.approx(1 / 11, abs=1e-6), 11)
    assert green["low"] < green["value"] < green["high"]
    assert result["selective_risk_by_label"]["red"]["value"] == 0.0
    assert result["coverage_by_label"]["red"]["value"] == 0.9
    assert result["foreign_accepted_as"] == {"red": 0, "green": 0, "blue": 0}
    assert result["foreign_auroc"]["n"] == 35
    assert result["foreign_auroc"]["value"] > 0.8
    assert result["confusion"]["red"] == {"red": 9, "green": 1, "blue": 0}
    assert result["routes"]["red"] == {"accept": 9, "review": 1, "reject": 1}
    assert [Path(path).name for path in result["unreadable"]] == ["broken.png"]
    for key in ("accuracy", "coverage", "selective_risk", "foreign_auroc", "ece", "brier", "nll"):
        assert result[key]["low"] <= result[key]["value"] <= result[key]["high"]


def test_evaluate_names_a_file_that_cannot_be_read_and_counts_the_others(model: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "test", {"red": ["red"] * 3})
    (folder / "red/gone.png").symlink_to(tmp_path / "nowhere.png")
    code, out, err = run("evaluate", folder, "--model", model, "--json")
    assert code == 1
    assert json.loads(out)["n"] == 3
    assert "left out: " in err
    assert "gone.png: No such file" in err


def test_evaluate_leaves_out_what_does_not_apply(model: Path, tmp_path: Path) -> None:
    known = write_images(tmp_path / "known", {"red": ["red"]})
    foreign = write_images(tmp_path / "foreign", {"neither": ["black"]})
    without_foreign = json.loads(run("evaluate", known, "--model", model, "--json")[1])
    assert without_foreign["foreign_accepted"] is without_foreign["foreign_auroc"] is None
    only_foreign = json.loads(run("evaluate", foreign, "--model", model, "--json")[1])
    assert only_foreign["accuracy"] is only_foreign["coverage"] is only_foreign["selective_risk"] is None
    assert only_foreign["foreign_accepted"]["n"] == 1


def test_evaluate_prints_tables_and_writes_json(model: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "test", {"red": ["red"], "green": ["lime"]})
    code, out, _ = run("evaluate", folder, "--model", model, "--out", tmp_path / "result.json")
    assert code == 0
    assert "coverage (share accepted)" in out
    assert "of predictions green" in out
    assert json.loads((tmp_path / "result.json").read_text())["n"] == 2


@pytest.mark.parametrize(
    ("colours", "message"),
    [
        (
            {"red": ["red"], "purple": ["purple"]},
            "'purple' is not a class of this model, which knows red, green, blue, neither",
        ),
        ({"red": []}, "no photos"),
        (None, "no such folder"),
    ],
)
def test_a_folder_that_cannot_be_evaluated_is_refused_by_name(
    model: Path, tmp_path: Path, colours: dict[str, Sequence[str]] | None, message: str
) -> None:
    folder = tmp_path / "test"
    if colours is not None:
        write_images(folder, colours)
    code, _, err = run("evaluate", folder, "--model", model)
    assert code == 1
    assert str(folder) in err
    assert message in err


def test_the_report_shows_the_numbers_and_the_mistakes(model: Path, tmp_path: Path) -> None:
    folder = write_images(
        tmp_path / "test", {"red": ["red"] * 30 + ["lime"], "green": ["lime"] * 30, "neither": ["black", "red"]}
    )
    (folder / "red" / "30.png").rename(folder / "red" / "<script>.png")
    code, out, _ = run("evaluate", folder, "--model", model, "--report", tmp_path / "report")
    page = (tmp_path / "report" / "evaluation.html").read_text()
    result = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert code == 0
    assert "evaluation.html" in out.replace("\n", "")
    assert page.count("<svg ") == 4
    assert "red → green" in page
    assert "&lt;script&gt;.png" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert f"{result['accuracy']['value']:.4f}" in page
    assert "1 are accepted as red, 0 accepted as green" in page
    card = (tmp_path / "report" / "model-card.md").read_text()
    assert f"| accuracy | {result['accuracy']['value']:.4f} |" in card
    assert "| red | 0.9000 | not guaranteed |" in card
    assert "accepted: 1 as red, 0 as green, 0 as blue, of 2." in card


@pytest.mark.parametrize("foreign", [0, 1])
def test_prices_give_no_policy_where_no_photo_of_a_class_can_be_read(model: Path, tmp_path: Path, foreign: int) -> None:
    folder = write_images(tmp_path / "test", {"red": [], "neither": ["black"] * foreign})
    (folder / "red/gone.jpg").symlink_to("nowhere")
    before = (model / "model.json").read_bytes()
    command = ["policy", "--images", folder, "--review-cost", 1, "--error-cost", 5, "--model", model, "--write"]
    code, out, err = run(*command)
    assert (code, out) == (3, "")
    assert err.splitlines() == [
        "refused: the evidence has no photo of a class",
        f"error: left out: {folder}/red/gone.jpg: No such file or directory",
    ]
    assert (model / "model.json").read_bytes() == before


def test_model_json_may_begin_with_a_byte_order_mark(model: Path, tmp_path: Path) -> None:
    file = model / "model.json"
    file.write_text(file.read_text("utf-8"), "utf-8-sig")
    folder = write_images(tmp_path / "test", {"red": ["red"] * 100})
    stored = ["policy", "--images", folder, "--review-cost", 1, "--error-cost", 5, "--write"]
    for command in (["evaluate", folder, "--report", tmp_path / "report"], stored, ["baseline", "--images", folder]):
        code, _, err = run(*command, "--model", model)
        assert (code, err) == (0, "")


def test_names_that_are_not_utf_8_leave_json_that_every_reader_takes(model: Path, tmp_path: Path) -> None:
    folder = write_images(odd_name(tmp_path, b"caf\xe9"), {"red": ["red"] * 100})
    odd_name(folder / "red", b"\xff.png").write_text("no picture")
    evaluated = ["evaluate", folder, "--out", tmp_path / "numbers.json", "--report", tmp_path / "report"]
    stored = ["policy", "--images", folder, "--review-cost", 1, "--error-cost", 5, "--write", "--json"]
    for command in (evaluated, stored, ["baseline", "--images", folder]):
        code, out, err = run(*command, "--model", model)
        assert (code, err.count("left out")) == (1, 1), err
        assert "internal error" not in err
        if command is stored:
            assert from_json(out)["evidence"]["domain"] == r"the photos of the folder caf\udce9/"
    for file in (tmp_path / "numbers.json", tmp_path / "report/evaluation.json"):
        assert from_json(file.read_bytes())["unreadable"][0].endswith(r"caf\udce9/red/\udcff.png")
    card = from_json((model / "model.json").read_bytes())
    assert card["policy"]["evidence"]["domain"] == r"the photos of the folder caf\udce9/"
    assert card["baseline"]["source"] == r"the model's predictions for caf\udce9/"


def test_the_folder_of_the_numbers_is_made(model: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "test", {"red": ["red"]})
    code, _, err = run("evaluate", folder, "--model", model, "--out", tmp_path / "new/numbers.json")
    assert (code, err) == (0, "")
    assert json.loads((tmp_path / "new/numbers.json").read_text())["n"] == 1


def test_thresholds_and_the_promise_of_each_label_stand_on_the_page_and_on_the_card(
    model: Path, tmp_path: Path
) -> None:
    folder = write_images(tmp_path / "test", {"red": ["red"] * 30, "green": ["lime"] * 30, "blue": ["blue"] * 20})
    card = json.loads((model / "model.json").read_text())
    labels: dict[str, dict[str, Any]] = {
        "red": {"threshold": 0.9, "right": 400, "wrong": 3, "foreign": 1},
        "green": {"threshold": 0.8, "right": 400, "wrong": 0, "foreign": 0},
        "blue": {
            "threshold": None,
            "right": 0,
            "wrong": 0,
            "foreign": 0,
            "refused": "about 90 more of blue are needed",
        },
    }
    card["policy"] |= {
        "thresholds": {label: told["threshold"] for label, told in labels.items()},
        "promise": {"max_risk": dict.fromkeys(LABELS, 0.02), "mix": {"red": [0.2, 0.6]}, "foreign_share": 0.05},
        "evidence": {"domain": "painted squares", "date": "2026-11-29", "photos": {"red": 500}, "labels": labels},
    }
    (model / "model.json").write_text(json.dumps(card))
    code, _, err = run("evaluate", folder, "--model", model, "--report", tmp_path / "report")
    assert code == 0, err
    page, text = ((tmp_path / "report" / name).read_text() for name in ("evaluation.html", "model-card.md"))
    for words in ("“red” from confidence 0.9000", "no prediction “blue”", "“green” at most 0.02", "red 20 % to 60 %"):
        assert words in " ".join(page.split())
    assert "blue, never accepted" in page
    for shown in (page, text):
        assert "painted squares" in shown
        assert "about 90 more of blue are needed" in shown
    assert "| red | 0.9000 | 0.02 |  | 3 and 1 of 404 |" in text
    assert "| blue | never | 0.02 |" in text


@pytest.mark.parametrize("threshold", [None, 1.0])
def test_where_the_promise_is_refused_the_curve_is_drawn_without_the_gate(
    model: Path, tmp_path: Path, threshold: float | None
) -> None:
    raw = json.loads((model / "model.json").read_text())
    evidence = {"refused": "too few"} if threshold else {"labels": {"red": {"threshold": None, "refused": "too few"}}}
    raw["policy"] |= {"accept_at": 1.0, "neither_accept_at_most": 0.0, "evidence": evidence, "max_risk": 0.02}
    raw["policy"] |= {} if threshold else {"thresholds": dict.fromkeys(LABELS)}
    (model / "model.json").write_text(json.dumps(raw))
    folder = write_images(tmp_path / "test", {"red": ["red"] * 30})
    loaded = load_model(model)
    known = [
        one
        for one in answer_all(find_images(folder, LABELS, []), loaded, lambda: None, [])
        if isinstance(one, Readable)
    ]
    axes = draw_risk(known, loaded.card, Guaranteed.model_validate(raw["policy"]).promise).axes[0]
    assert np.size(axes.lines[0].get_xdata()) > 0
