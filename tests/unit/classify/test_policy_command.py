"""`kickstand policy` derives thresholds from a promise or from prices, or refuses."""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kickstand.records import Record
from kickstand_cli.classify.policy import store_in_card
from kickstand_cli.main import app
from kickstand_cli.terminal import CommandError


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


def test_a_promise_gives_a_threshold_to_each_label_with_its_evidence(artefact: Path, tmp_path: Path) -> None:
    result = derived(artefact, write_answers(tmp_path / "oof.json", 6000, 0.002), "--max-risk", 0.02)
    assert set(result["thresholds"]) == {"a", "b", "c"}
    assert all(0.75 < threshold < 0.85 for threshold in result["thresholds"].values())
    assert all(told["upper_bound"] <= 0.02 for told in result["evidence"]["labels"].values())
    assert sum(result["evidence"]["photos"].values()) == 6000
    assert result["neither_accept_at_most"] == 0.2
    assert result["promise"]["max_risk"] == {"a": 0.02, "b": 0.02, "c": 0.02}


def test_a_stricter_promise_never_accepts_more(artefact: Path, tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "oof.json", 6000, 0.001)
    lax = derived(artefact, answers, "--max-risk", 0.05)
    strict = derived(artefact, answers, "--max-risk", 0.05, "--max-risk", "b=0.015")
    assert strict["thresholds"]["b"] > lax["thresholds"]["b"]
    assert strict["thresholds"]["a"] == lax["thresholds"]["a"]
    assert strict["policy_version"] != lax["policy_version"]


def test_a_mix_is_read_as_shares_or_ranges_and_said_in_words(artefact: Path, tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "oof.json", 6000, 0.0)
    result = derived(artefact, answers, "--max-risk", 0.05, "--mix", "a=0.3..0.5, b=0.2")
    assert result["promise"]["mix"] == {"a": [0.3, 0.5], "b": [0.2, 0.2], "c": [0.3, 0.5]}
    assert set(result["evidence"]["shares_at_most"]) == {"a", "b", "c", "neither"}
    code, out, _ = run(
        "--model", artefact, "--out-of-fold", answers, "--max-risk", 0.05, "--mix", " a = 0.3..0.5 , b=0.2"
    )
    assert code == 0
    assert "for every mix of a 30 % to 50 %, b 20 %, c 30 % to 50 %" in out
    _, out, _ = run("--model", artefact, "--out-of-fold", answers, "--max-risk", 0.05)
    assert "for the mix of the evidence" in out
    assert "photos that show none of the classes are left out" in out


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--max-risk", "d=0.1"], "--max-risk: 'd' is not a class of this model, which knows a, b, c"),
        (["--max-risk", "a=0.1"], "--max-risk: no value for b, c"),
        (["--max-risk", "a=much"], "--max-risk: much is not a number from 0 to 1"),
        (["--max-risk", "0"], "--max-risk: input should be greater than 0"),
        (["--max-risk", "nan"], "--max-risk: nan is not a number from 0 to 1"),
        (["--max-risk", "0.1", "--mix", "a"], "--mix 'a': expected CLASS=SHARE"),
        (["--max-risk", "0.1", "--mix", "a=0.5,a=0.4"], "--mix: a is named twice"),
        (["--max-risk", "a=0.1", "--max-risk", "a=0.2"], "--max-risk: a is named twice"),
        (["--max-risk", "0.1", "--max-risk", "0.2"], "--max-risk: given twice for all classes"),
        (["--max-risk", "0.1", "--mix", ""], "--mix '': expected CLASS=SHARE"),
        (["--max-risk", "0.1", "--mix", "a=0.5,"], "--mix '': expected CLASS=SHARE"),
        (["--max-risk", "0.1", "--since", "30d"], "--since needs --records or --stack-name"),
        (["--review-cost", "1", "--error-cost", "2", "--mix", "a=0.5"], "--partial need --max-risk"),
        (["--review-cost", "1", "--error-cost", "inf"], "inf is not a finite number from 0"),
        (["--max-risk", "0.1", "--mix", "a=0.9,b=0.9"], "no shares within these ranges add up to 1"),
        (["--max-risk", "0.1", "--mix", "x=0.5"], "--mix: 'x' is not a class of this model, which knows a, b, c"),
        (["--max-risk", "0.1", "--mix", "a=0.5.."], "--mix: nothing is not a number from 0 to 1"),
        (["--max-risk", "0.1", "--label-error", "0.5"], "--label-error: 0.5 is not a share below 0.5"),
        (["--max-risk", "0.1", "--label-error", "auto"], "--label-error auto"),
        (["--max-risk", "0.1", "--neither-share", "1"], "--neither-share: input should be less than 1"),
        (["--max-risk", "0.1", "--confidence", "1"], "--confidence: input should be less than 1"),
    ],
)
def test_an_option_that_cannot_be_read_is_named(artefact: Path, tmp_path: Path, options: list[str], named: str) -> None:
    answers = write_answers(tmp_path / "oof.json", 300, 0.0)
    code, _, err = run("--model", artefact, "--out-of-fold", answers, *options)
    assert code == 2
    assert named in " ".join(err.replace("│", "").split())


def test_prices_give_each_label_its_cheapest_threshold(artefact: Path, tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "oof.json", 2000, 0.0)
    careful = derived(artefact, answers, "--review-cost", 0.08, "--error-cost", 4)
    careless = derived(artefact, answers, "--review-cost", 5, "--error-cost", 0.01)
    assert all(threshold == pytest.approx(0.8, abs=0.02) for threshold in careful["thresholds"].values())
    assert all(threshold < 0.65 for threshold in careless["thresholds"].values())
    assert careful["evidence"]["mean_cost"] < 0.08


def test_a_promise_that_the_photos_cannot_show_is_refused_with_what_is_missing(artefact: Path, tmp_path: Path) -> None:
    few = write_answers(tmp_path / "oof.json", 100, 0.0)
    before = (artefact / "model.json").read_bytes()
    code, out, err = run("--model", artefact, "--out-of-fold", few, "--max-risk", 0.01, "--write")
    assert code == 3
    assert err.count("refused: these photos cannot show that at most 1 % of the accepted predictions") == 3
    assert "more photos of a" in err
    assert "never" in out
    assert (artefact / "model.json").read_bytes() == before


def test_a_label_that_is_refused_may_be_left_to_people(artefact: Path, tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "oof.json", 6000, 0.002)
    promise = ["--max-risk", 0.02, "--max-risk", "c=0.0001"]
    assert run("--model", artefact, "--out-of-fold", answers, *promise, "--write")[0] == 3
    code, out, err = run("--model", artefact, "--out-of-fold", answers, *promise, "--write", "--partial")
    assert code == 0, err
    assert "“c”" in err
    assert json.loads((artefact / "model.json").read_text())["policy"]["thresholds"]["c"] is None
    assert "written to model.json" in out


# ---- from what people said of a stack's photos


def judged(number: int, *, label: str, truth: str, confidence: float, accepted: bool, chance: float) -> Record:
    """A photo that a person has judged, in a review or by a random audit."""
    return Record.model_validate(
        {
            "image": f"s3://photos/{number}.jpg",
            "version": "v1",
            "image_ref": {"bucket": "photos", "key": f"{number}.jpg", "etag": "e", "uploaded_at": NOON},
            "prediction": {
                "label": label,
                "confidence": confidence,
                "probabilities": {name: confidence if name == label else (1 - confidence) / 2 for name in "abc"},
                "neither": 0.1,
                "model_version": "m1",
                "backend": "embedded",
                "latency_ms": 1.0,
            },
            "decision": {"route": "accept" if accepted else "review", "reason": "confident" if accepted else "unsure"},
            "execution": "e",
            "recorded_at": NOON,
            "audit_probability": chance,
            "audited": accepted,
            "review": {
                "status": "answered",
                "why": "audit" if accepted else "unsure",
                "requested_at": NOON,
                "answer": {
                    "label": truth,
                    "reviewer": "Ada",
                    "answered_at": NOON,
                    "seconds_taken": 1.0,
                    "shown": {"explanation": "", "choices": ["a", "b", "c"]},
                },
            },
        }
    )


NOON = "2026-05-04T12:00:00Z"


def write_records(file: Path, records: Iterable[Record]) -> Path:
    file.write_text("".join(record.model_dump_json() + "\n" for record in records))
    return file


def test_a_stacks_own_records_renew_the_promise(artefact: Path, tmp_path: Path) -> None:
    records = [
        judged(i, label="abc"[i % 3], truth="abc"[i % 3], confidence=0.95, accepted=True, chance=0.1)
        for i in range(1500)
    ]
    # All of the reviewed ones are known, a tenth of the accepted ones: each tenth reviewed one stands for them.
    records += [
        judged(10_000 + i, label="a", truth="b", confidence=0.6, accepted=False, chance=1.0) for i in range(1000)
    ]
    file = write_records(tmp_path / "records.jsonl", records)
    code, out, err = run("--model", artefact, "--records", file, "--max-risk", 0.05, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["evidence"]["photos"]["b"] == pytest.approx(500 + 100, abs=35)
    assert result["thresholds"]["a"] == 0.95
    assert "photos of records.jsonl from 2026-05-04 to 2026-05-04" in result["evidence"]["domain"]
    assert result["promise"]["foreign_share"] < 0.01


def test_records_of_another_model_say_nothing_about_this_one(artefact: Path, tmp_path: Path) -> None:
    record = judged(1, label="a", truth="a", confidence=0.95, accepted=True, chance=0.1)
    assert record.prediction
    other = record.model_copy(update={"prediction": record.prediction.model_copy(update={"model_version": "m0"})})
    file = write_records(tmp_path / "records.jsonl", [other])
    code, _, err = run("--model", artefact, "--records", file, "--max-risk", 0.05)
    assert code == 1
    assert "no photo that model m1 decided has a label" in err


def test_an_answer_that_the_model_does_not_know_is_a_photo_of_none_of_its_labels(
    artefact: Path, tmp_path: Path
) -> None:
    records = [
        judged(i, label="abc"[i % 3], truth="abc"[i % 3], confidence=0.95, accepted=True, chance=0.1)
        for i in range(900)
    ]
    records += [judged(1000 + i, label="a", truth="car", confidence=0.95, accepted=True, chance=0.1) for i in range(90)]
    file = write_records(tmp_path / "records.jsonl", records)
    code, out, err = run("--model", artefact, "--records", file, "--max-risk", 0.05, "--json")
    assert code == 3
    assert "cannot show that at most 5 % of the accepted predictions “a” are wrong" in err
    assert json.loads(out)["evidence"]["photos"]["neither"] == 90


def test_a_promise_by_out_of_fold_answers_does_not_name_the_photos_of_an_earlier_one(
    artefact: Path, tmp_path: Path
) -> None:
    records = [
        judged(i, label="abc"[i % 3], truth="abc"[i % 3], confidence=0.95, accepted=True, chance=0.1)
        for i in range(900)
    ]
    file = write_records(tmp_path / "records.jsonl", records)
    assert run("--model", artefact, "--records", file, "--max-risk", 0.05, "--write")[0] == 0
    again = derived(artefact, write_answers(tmp_path / "oof.json", 6000, 0.002), "--max-risk", 0.05, "--write")
    assert "records.jsonl" not in again["evidence"]["domain"]
    assert (
        derived(artefact, tmp_path / "oof.json", "--max-risk", 0.04)["evidence"]["domain"]
        == again["evidence"]["domain"]
    )


def test_another_model_never_gets_the_shipped_models_evidence(artefact: Path, tmp_path: Path) -> None:
    code, _, err = run("--model", artefact, "--max-risk", 0.1)
    assert code == 1
    assert f"{artefact}: {tmp_path / 'model-evidence' / 'out_of_fold.json'} is missing" in err
    assert "--out-of-fold" in err

    card = json.loads((artefact / "model.json").read_text())
    (artefact / "model.json").write_text(json.dumps(card | {"out_of_fold_sha256": "0" * 64}))
    code, _, err = run("--model", artefact, "--max-risk", 0.1)
    assert code == 1
    assert "predictions of another model" in err

    (artefact / "model.json").write_text(json.dumps(card))
    (tmp_path / "model-evidence").mkdir()
    write_answers(tmp_path / "model-evidence" / "out_of_fold.json", 6000, 0.002)
    assert run("--model", artefact, "--max-risk", 0.1)[0] == 0, "a training writes its answers there"


def test_only_one_kind_of_evidence_is_used(artefact: Path, tmp_path: Path) -> None:
    records, images = write_records(tmp_path / "records.jsonl", []), tmp_path
    assert run("--model", artefact, "--records", records, "--images", images, "--max-risk", 0.05)[0] == 2


def test_write_stores_the_policy_and_keeps_the_rest(artefact: Path, tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "oof.json", 6000, 0.002)
    code, out, _ = run("--model", artefact, "--out-of-fold", answers, "--max-risk", 0.02, "--write")
    card = json.loads((artefact / "model.json").read_text())
    assert code == 0
    assert "written to model.json" in out
    assert card["metrics"] == {"kept": True}
    assert card["policy"]["policy_version"] != "old"
    assert card["policy"]["evidence"]["source"].startswith("out-of-fold predictions")


def test_a_card_that_no_command_could_read_does_not_replace_model_json(artefact: Path) -> None:
    before = (artefact / "model.json").read_bytes()
    with pytest.raises(CommandError, match=r"model\.json is not written: policy\.accept_at: "):
        store_in_card(artefact, policy={"policy_version": "new", "accept_at": 2.0})
    assert (artefact / "model.json").read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [[], ["--max-risk", 0.02, "--review-cost", 1, "--error-cost", 2], ["--review-cost", 1]],
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
