"""`kickstand classify` and `kickstand evaluate`, on a model of three classes that goes by colour."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from kickstand_cli.classify.classify import classify
from kickstand_cli.classify.evaluate import evaluate
from tests.photos import coloured

LABELS = ("red", "green", "blue")
app = typer.Typer()
app.command()(classify)
app.command()(evaluate)


def write_images(folder: Path, colours: dict[str, Sequence[str]]) -> Path:
    for name, shades in colours.items():
        (folder / name).mkdir(parents=True)
        for index, shade in enumerate(shades):
            coloured(shade).save(folder / name / f"{index}.png")
    return folder


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def model(tmp_path: Path, colour_model: Callable[..., Path]) -> Path:
    return colour_model(tmp_path / "model", LABELS)


def test_classify_prints_one_line_of_json_for_each_file(model: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", {"any": ["red", "black", "#ff00ee"]})
    text = tmp_path / "text.png"
    text.write_text("no picture")
    code, out, _ = run("classify", *sorted(images.rglob("*.png")), text, "--model", model)
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
    assert "not an image (text)" in unreadable["explanation"]


def test_classify_goes_on_after_a_file_that_is_not_there_and_says_so(model: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", {"any": ["red"]})
    code, out, err = run("classify", tmp_path / "absent.png", images / "any/0.png", "--model", model)
    assert code == 1
    assert json.loads(out)["label"] == "red"
    assert "absent.png: No such file" in err


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
            "neither": ["black"] * 4 + ["white"],  # the white one goes to a person
        },
    )
    (folder / "red" / "broken.png").write_bytes(b"")
    code, out, _ = run("evaluate", folder, "--model", model, "--json", "-")
    result = json.loads(out)
    assert code == 0
    assert (result["n"], result["foreign_n"]) == (30, 5)
    assert result["accuracy"]["value"] == pytest.approx(29 / 30, abs=1e-6)
    assert result["accuracy"]["n"] == 30
    assert result["coverage"]["value"] == pytest.approx(29 / 30, abs=1e-6)
    assert result["selective_risk"]["value"] == pytest.approx(1 / 29, abs=1e-6)
    assert result["selective_risk"]["n"] == 29
    assert result["foreign_accepted"] == {"value": 0.0, "low": 0.0, "high": pytest.approx(0.434, abs=1e-3), "n": 5}
    assert result["foreign_auroc"]["n"] == 35
    assert result["foreign_auroc"]["value"] > 0.8
    assert result["confusion"]["red"] == {"red": 9, "green": 1, "blue": 0}
    assert result["routes"]["red"] == {"accept": 9, "review": 1, "reject": 1}
    assert [Path(path).name for path in result["unreadable"]] == ["broken.png"]
    for key in ("accuracy", "coverage", "selective_risk", "foreign_auroc", "ece", "brier", "nll"):
        assert result[key]["low"] <= result[key]["value"] <= result[key]["high"]


def test_evaluate_leaves_out_what_does_not_apply(model: Path, tmp_path: Path) -> None:
    known = write_images(tmp_path / "known", {"red": ["red"]})
    foreign = write_images(tmp_path / "foreign", {"neither": ["black"]})
    without_foreign = json.loads(run("evaluate", known, "--model", model, "--json", "-")[1])
    assert without_foreign["foreign_accepted"] is without_foreign["foreign_auroc"] is None
    only_foreign = json.loads(run("evaluate", foreign, "--model", model, "--json", "-")[1])
    assert only_foreign["accuracy"] is only_foreign["coverage"] is only_foreign["selective_risk"] is None
    assert only_foreign["foreign_accepted"]["n"] == 1


def test_evaluate_prints_tables_and_writes_json(model: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "test", {"red": ["red"], "green": ["lime"]})
    code, out, _ = run("evaluate", folder, "--model", model, "--json", tmp_path / "result.json")
    assert code == 0
    assert "accuracy of the label" in out
    assert json.loads((tmp_path / "result.json").read_text())["n"] == 2


@pytest.mark.parametrize(
    ("colours", "message"),
    [
        ({"red": ["red"], "purple": ["purple"]}, "the model knows red, green, blue, neither, not purple"),
        ({"red": []}, "no images"),
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
    card = (tmp_path / "report" / "model-card.md").read_text()
    assert f"| accuracy of the label | {result['accuracy']['value']:.4f} |" in card
