"""`kickstand policy` derives a threshold from a promise or from prices, or refuses."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from kickstand_cli.classify.policy import policy

app = typer.Typer()
app.command()(policy)
app.command("other")(lambda: None)


def write_artefact(folder: Path, labels: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    card = {
        "model_version": "m1",
        "model_sha256": "0" * 64,
        "labels": labels,
        "input_shape": [8, 8, 3],
        "temperature": 1.0,
        "metrics": {"kept": True},
        "policy": {
            "policy_version": "old",
            "accept_at": 0.5,
            "neither_accept_at_most": 0.2,
            "neither_reject_at_least": 0.8,
        },
    }
    (folder / "model.json").write_text(json.dumps(card))
    return folder


def write_answers(file: Path, n: int, error_rate: float, labels: tuple[str, ...] = ("a", "b", "c")) -> Path:
    """Out-of-fold answers: below confidence 0.8 half of them are wrong, above it as many as the error rate says."""
    draw = random.Random(1)
    rows, truths = [], []
    for _ in range(n):
        confidence = draw.uniform(0.6, 1.0)
        wrong = draw.random() < (0.5 if confidence < 0.8 else error_rate)
        truth = draw.randrange(len(labels))
        predicted = (truth + 1) % len(labels) if wrong else truth
        rest = (1 - confidence) / (len(labels) - 1)
        neither = 0.1
        rows.append([(1 - neither) * (confidence if i == predicted else rest) for i in range(len(labels))] + [neither])
        truths.append(truth)
    file.write_text(
        json.dumps(
            {"labels": labels, "known": {"label": truths, "probabilities": rows}, "foreign": {"probabilities": []}}
        )
    )
    return file


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["policy", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    return write_artefact(tmp_path / "model", ["a", "b", "c"])


def derived(artefact: Path, answers: Path, *arguments: object) -> dict[str, Any]:
    code, out, err = run("--model", artefact, "--out-of-fold", answers, "--json", *arguments)
    assert code == 0, err
    result: dict[str, Any] = json.loads(out)
    return result


def test_a_promise_gives_the_threshold_with_its_evidence(artefact: Path, tmp_path: Path) -> None:
    result = derived(artefact, write_answers(tmp_path / "oof.json", 2000, 0.002), "--max-risk", 0.02)
    assert 0.75 < result["accept_at"] < 0.82
    assert result["evidence"]["upper_bound"] <= 0.02
    assert result["evidence"]["n"] == 2000
    assert result["evidence"]["accepted"] / 2000 == result["evidence"]["coverage"]["value"]
    assert result["neither_accept_at_most"] == 0.2


def test_a_stricter_promise_never_accepts_more(artefact: Path, tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "oof.json", 3000, 0.001)
    lax = derived(artefact, answers, "--max-risk", 0.05)
    strict = derived(artefact, answers, "--max-risk", 0.015)
    assert strict["accept_at"] >= lax["accept_at"]
    assert strict["policy_version"] != lax["policy_version"]


def test_prices_give_the_cheapest_threshold(artefact: Path, tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "oof.json", 2000, 0.0)
    careful = derived(artefact, answers, "--review-cost", 0.08, "--error-cost", 4)
    careless = derived(artefact, answers, "--review-cost", 5, "--error-cost", 0.01)
    assert careful["accept_at"] == pytest.approx(0.8, abs=0.01)
    assert careless["accept_at"] < 0.61
    assert careful["evidence"]["mean_cost"] < 0.08


def test_a_promise_that_the_labels_cannot_support_is_refused_with_what_is_missing(
    artefact: Path, tmp_path: Path
) -> None:
    few = write_answers(tmp_path / "oof.json", 100, 0.0)
    before = (artefact / "model.json").read_bytes()
    code, _, err = run("--model", artefact, "--out-of-fold", few, "--max-risk", 0.01, "--write")
    assert code == 3
    assert "more labels are needed" in err
    assert (artefact / "model.json").read_bytes() == before


def test_write_stores_the_policy_and_keeps_the_rest(artefact: Path, tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "oof.json", 2000, 0.002)
    code, out, _ = run("--model", artefact, "--out-of-fold", answers, "--max-risk", 0.02, "--write")
    card = json.loads((artefact / "model.json").read_text())
    assert code == 0
    assert "go to a person" in out
    assert card["metrics"] == {"kept": True}
    assert card["policy"]["policy_version"] != "old"
    assert card["policy"]["evidence"]["source"].startswith("out-of-fold answers")


@pytest.mark.parametrize(
    "arguments",
    [[], ["--max-risk", 0.02, "--review-cost", 1, "--error-cost", 2], ["--review-cost", 1], ["--max-risk", 2]],
)
def test_half_a_wish_or_two_wishes_are_usage_errors(arguments: list[object]) -> None:
    assert run(*arguments)[0] == 2


@pytest.mark.parametrize(
    "content", [None, "no json", '{"labels": ["x", "y"], "known": {"label": [], "probabilities": []}}']
)
def test_answers_that_cannot_be_used_are_named(artefact: Path, tmp_path: Path, content: str | None) -> None:
    answers = tmp_path / "oof.json"
    if content is not None:
        answers.write_text(content)
    code, _, err = run("--model", artefact, "--out-of-fold", answers, "--max-risk", 0.02)
    assert code == 1
    assert "oof.json" in err
