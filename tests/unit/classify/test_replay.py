"""`kickstand replay`: another policy on stored records."""

import json
import sqlite3
import tracemalloc
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kickstand.classify.images import prepare
from kickstand.classify.photo_quality import find_flaw
from kickstand.classify.policy import decide
from kickstand.errors import InvalidImage
from kickstand.events import (
    Answer,
    Decision,
    ImageRef,
    Prediction,
    Reason,
    ReviewOutcome,
    ReviewStatus,
    Route,
    SelectivePolicy,
    Shown,
)
from kickstand.records import Record
from kickstand_cli.classify.classify import load_model
from kickstand_cli.classify.replay import Kept, compare, read_thresholds
from kickstand_cli.main import app
from kickstand_cli.project import MODEL, PROJECT
from kickstand_cli.records import read_from_folder

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
POLICY = SelectivePolicy(policy_version="p1", accept_at=0.8, neither_accept_at_most=0.2, neither_reject_at_least=0.8)


def recorded(name: str, confidence: float, neither: float = 0.0, said: str | None = None) -> Record:
    """Predicted to be a bicycle, routed by POLICY. said: the reviewer's answer."""
    ref = ImageRef(bucket="photos", key=name, etag="e", version_id="v", uploaded_at=NOON)
    prediction = Prediction.of(
        {"bicycle": confidence, "motorcycle": 1 - confidence},
        neither=neither,
        model_version="m1",
        backend="embedded",
        latency_ms=1,
    )
    decision = decide(prediction, POLICY)
    answer = said and Answer(
        label=said, reviewer="r", answered_at=NOON, seconds_taken=1, shown=Shown(explanation="", choices=())
    )
    reviewed = decision.route is Route.REVIEW
    return Record(
        image=ref.uri,
        version="v",
        image_ref=ref,
        prediction=prediction,
        decision=decision,
        execution="arn",
        recorded_at=NOON,
        audit_probability=1.0 if reviewed else 0.1,
        audited=bool(said) and not reviewed,
        review=ReviewOutcome(status=ReviewStatus.ANSWERED, why="unsure", requested_at=NOON, answer=answer)
        if answer
        else None,
    )


def broken(name: str) -> Record:
    decision = Decision(route=Route.REJECT, reason=Reason.UNREADABLE)
    return recorded(name, 0.9).model_copy(update={"prediction": None, "decision": decision})


RECORDS = [
    recorded("sure.jpg", 0.99),
    recorded("rather.jpg", 0.85, said="bicycle"),
    recorded("unsure.jpg", 0.7, said="motorcycle"),
    recorded("foreign.jpg", 0.9, neither=0.9),
    broken("broken.jpg"),
]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    file = tmp_path / "records.jsonl"
    # As the demo writes them, with more than a record.
    file.write_text("".join(json.dumps({"ms": 5, **json.loads(one.model_dump_json())}) + "\n" for one in RECORDS))
    (tmp_path / "policy.json").write_text(POLICY.model_dump_json())
    return tmp_path


def run(stored: Path, *arguments: object) -> tuple[int, str, str]:
    command = ["replay", "--records", stored / "records.jsonl", "--policy", stored / "policy.json", *arguments]
    result = CliRunner().invoke(app, list(map(str, command)))
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("content", [b"\xff\xd8", b"[" * 100_000, b"{}", b"[1]", b"3"])
def test_a_file_that_is_no_policy_is_named_in_one_line(content: bytes, stored: Path) -> None:
    (stored / "policy.json").write_bytes(content)
    code, out, err = run(stored)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert f"{stored / 'policy.json'}: not a policy: " in err
    assert "pydantic.dev" not in err


def compared(stored: Path, *arguments: object) -> Any:
    code, out, err = run(stored, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_the_same_policy_changes_nothing(stored: Path) -> None:
    result = compared(stored)
    assert result["changed"] == 0
    assert result["routes"]["before"] == result["routes"]["after"] == {"accept": 2, "review": 1, "reject": 2}


def test_a_stricter_threshold_sends_more_to_people_and_names_them(stored: Path) -> None:
    result = compared(stored, "--accept-at", 0.9)
    assert result["moves"] == {"accept → review": 1}
    assert result["routes"]["after"] == {"accept": 1, "review": 2, "reject": 2}
    assert [change["image"] for change in result["changes"]] == ["s3://photos/rather.jpg"]


def test_a_laxer_threshold_shows_the_errors_that_people_have_found(stored: Path) -> None:
    result = compared(stored, "--accept-at", 0.6)
    assert result["changes"][0]["truth"] == "motorcycle"
    assert result["accepted"]["after"]["answers"] == result["accepted"]["before"]["answers"] + 1
    assert result["accepted"]["after"]["accuracy"] < result["accepted"]["before"]["accuracy"]


def test_one_labels_threshold_can_be_moved_and_its_errors_are_told(stored: Path) -> None:
    stricter = compared(stored, "--accept-at", "bicycle=0.9")
    assert stricter["moves"] == {"accept → review": 1}
    assert stricter["policy"]["thresholds"] == {"bicycle": 0.9, "motorcycle": 0.8}
    _, told, _ = run(stored, "--accept-at", "bicycle=0.9")
    assert "accept bicycle from confidence 0.90000, motorcycle from confidence 0.80000" in told
    assert compared(stored, "--accept-at", "motorcycle=0.9")["changed"] == 0
    both = compared(stored, "--accept-at", "bicycle=0.6", "--accept-at", 0.99)
    assert (both["policy"]["accept_at"], both["policy"]["thresholds"]) == (0.99, {"bicycle": 0.6, "motorcycle": 0.99})
    bicycle = both["by_label"]["bicycle"]
    assert (bicycle["before"]["images"], bicycle["before"]["answers"], bicycle["before"]["wrong"]) == (2, 1, 0)
    assert (bicycle["after"]["images"], bicycle["after"]["answers"], bicycle["after"]["wrong"]) == (3, 2, 1)


@pytest.mark.parametrize("option", ["much", "1.5", "bicycle=", "bicycle=nan", "tricycle=0.9"])
def test_a_threshold_that_is_none_is_a_usage_error(stored: Path, option: str) -> None:
    assert run(stored, "--accept-at", option)[0] == 2


def test_a_policy_with_a_threshold_for_each_label_is_replayed(stored: Path) -> None:
    policy = POLICY.model_copy(update={"thresholds": {"bicycle": None, "motorcycle": 0.5}})
    (stored / "policy.json").write_text(policy.model_dump_json())
    assert compared(stored)["moves"] == {"accept → review": 2}
    lifted = compared(stored, "--accept-at", 0.8)
    assert lifted["changed"] == 0
    assert lifted["policy"]["thresholds"] == {"bicycle": 0.8, "motorcycle": 0.8}
    assert "accept bicycle never, motorcycle from confidence 0.50000" in run(stored)[1]


def test_the_gates_on_neither_can_be_moved(stored: Path) -> None:
    assert compared(stored, "--neither-reject-at-least", 0.95)["moves"] == {"reject → review": 1}


def test_an_unreadable_image_stays_rejected(stored: Path) -> None:
    result = compared(stored, "--accept-at", 0, "--neither-accept-at-most", 1, "--neither-reject-at-least", 1)
    assert result["routes"]["after"] == {"accept": 4, "review": 0, "reject": 1}


def test_a_model_card_serves_as_policy(stored: Path) -> None:
    (stored / "policy.json").write_text(
        json.dumps({"policy": POLICY.model_copy(update={"accept_at": 0.9}).model_dump()})
    )
    assert compared(stored)["changed"] == 1


def test_people_read_the_same(stored: Path) -> None:
    code, out, _ = run(stored, "--accept-at", 0.9)
    assert code == 0
    assert "accept every class from confidence 0.90000, with p(neither) up to 0.2" in out
    assert "1 of 5 decisions change: 1 accept → review" in out
    assert "bicycle: 0 of 1 checked wrong → 0 of 0; of 2 accepted → 1" in out
    assert "s3://photos/rather.jpg (bicycle 0.850, p(neither) 0.000, in truth bicycle)" in out


@pytest.mark.parametrize("text", ["{}", "[]", "{"])
def test_a_file_that_is_no_policy_is_an_error(stored: Path, text: str) -> None:
    (stored / "policy.json").write_text(text)
    code, _, err = run(stored)
    assert code == 1
    assert err.startswith("error:")


# ---- another model


@pytest.fixture
def looked_at(tmp_path: Path) -> Path:
    """Three drawn samples, their records as the shipped model decided them, and answers by people to two of them."""
    model = load_model(MODEL)
    samples = PROJECT / "samples" / "images"
    lines = []
    for key, said in (
        ("bicycle/red-road-bike.jpg", "bicycle"),
        ("motorcycle/red-road.jpg", "bicycle"),
        ("neither/cat.jpg", None),
    ):
        data = (samples / key).read_bytes()
        (tmp_path / key).parent.mkdir()
        (tmp_path / key).write_bytes(data)
        prepared = prepare(data, key, model.card.input_shape)
        prediction = model.predict(prepared)
        one = recorded(key, 0.99, said=said)
        lines.append(
            one.model_copy(
                update={
                    "prepared_image": prepared,
                    "prediction": prediction,
                    "decision": decide(prediction, model.card.policy, flaw=find_flaw(prepared.statistics)),
                }
            ).model_dump_json(exclude={"prepared_image": {"png"}})
        )
    (tmp_path / "records.jsonl").write_text("\n".join(lines))
    return tmp_path


def look_again(looked_at: Path, model: Path, *arguments: object) -> tuple[int, str, str]:
    command = ["replay", "--records", looked_at / "records.jsonl", "--model", model, "--images", looked_at, *arguments]
    result = CliRunner().invoke(app, list(map(str, command)))
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def swapped(tmp_path: Path) -> Path:
    """The shipped network under a card that calls each label by the other's name."""
    folder = tmp_path / "swapped"
    folder.mkdir()
    card = json.loads((MODEL / "model.json").read_text())
    card |= {"labels": card["labels"][::-1], "model_version": "swapped"}
    (folder / "model.json").write_text(json.dumps(card))
    (folder / "model.onnx").symlink_to(MODEL / "model.onnx")
    return folder


def test_the_same_model_on_the_same_images_changes_nothing(looked_at: Path) -> None:
    code, out, err = look_again(looked_at, MODEL, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert (result["images"], result["changed"], result["left_out"]) == (3, 0, [])
    assert result["judged"]["wrong_before"] == result["judged"]["wrong_after"]


def test_another_model_looks_at_the_images_and_its_errors_are_counted_by_what_people_said(
    looked_at: Path, swapped: Path
) -> None:
    code, out, err = look_again(looked_at, swapped, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["model"] == "swapped"
    assert result["changed"] == 3
    assert result["changes"][0]["label_before"] != result["changes"][0]["label"]
    judged = result["judged"]
    assert judged["n"] == 2
    assert judged["wrong_before"] + judged["wrong_after"] == 2  # where one is wrong, the other is right


def test_an_image_that_is_gone_is_named_and_left_out(looked_at: Path) -> None:
    (looked_at / "neither/cat.jpg").unlink()
    (looked_at / "motorcycle/red-road.jpg").write_bytes((looked_at / "bicycle/red-road-bike.jpg").read_bytes())
    code, out, err = look_again(looked_at, MODEL, "--json")
    assert code == 1
    assert json.loads(out)["images"] == 1
    assert "cat.jpg: No such file or directory" in err
    assert "red-road.jpg: SHA-256" in err


def test_an_interrupted_replay_goes_on_and_reads_no_photo_twice(looked_at: Path, tmp_path: Path) -> None:
    keep, cat = tmp_path / "answers.sqlite", looked_at / "neither/cat.jpg"
    cat.rename(tmp_path / "elsewhere.jpg")
    code, _, err = look_again(looked_at, MODEL, "--keep", keep)
    assert (code, err.count("left out")) == (1, 1)
    for photo in looked_at.rglob("*.jpg"):
        if photo.parent != tmp_path:
            photo.unlink()
    (tmp_path / "elsewhere.jpg").rename(cat)
    code, out, err = look_again(looked_at, MODEL, "--keep", keep, "--json")
    assert code == 0, err
    assert (json.loads(out)["images"], json.loads(out)["changed"]) == (3, 0)


def test_another_models_answers_are_not_taken_for_this_ones(looked_at: Path, swapped: Path, tmp_path: Path) -> None:
    keep = tmp_path / "answers.sqlite"
    assert look_again(looked_at, MODEL, "--keep", keep)[0] == 0
    out = look_again(looked_at, swapped, "--keep", keep, "--json")[1]
    assert (json.loads(out)["model"], json.loads(out)["changed"]) == ("swapped", 3)


def test_a_file_that_keeps_no_answers_is_an_error(looked_at: Path) -> None:
    code, _, err = look_again(looked_at, MODEL, "--keep", looked_at / "records.jsonl")
    assert code == 1
    assert "predictions cannot be kept there" in err


def change(keep: Path, statement: str) -> None:
    with closing(sqlite3.connect(keep)) as database, database:
        database.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE answers SET prediction = NULL",
        "UPDATE answers SET prediction = '{'",
        "ALTER TABLE answers RENAME COLUMN prediction TO other",
    ],
)
def test_kept_answers_that_cannot_be_read_are_named_with_their_file(
    looked_at: Path, tmp_path: Path, statement: str
) -> None:
    keep = tmp_path / "answers.sqlite"
    assert look_again(looked_at, MODEL, "--keep", keep)[0] == 0
    change(keep, statement)
    code, out, err = look_again(looked_at, MODEL, "--keep", keep)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"error: {keep}: predictions cannot be kept there (")


def test_kept_answers_in_a_table_that_takes_no_more_are_named_with_their_file(looked_at: Path, tmp_path: Path) -> None:
    keep = tmp_path / "answers.sqlite"
    change(keep, "CREATE TABLE answers (model, sha256, prediction, one_more)")
    code, _, err = look_again(looked_at, MODEL, "--keep", keep)
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(f"error: {keep}: predictions cannot be kept there (table answers has 4 columns")


def test_a_damaged_page_of_kept_answers_is_named_with_its_file(looked_at: Path, tmp_path: Path) -> None:
    keep = tmp_path / "answers.sqlite"
    assert look_again(looked_at, MODEL, "--keep", keep)[0] == 0
    content = keep.read_bytes()
    keep.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    code, _, err = look_again(looked_at, MODEL, "--keep", keep)
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(f"error: {keep}: predictions cannot be kept there (database disk image is malformed")


def test_a_file_of_answers_that_stays_locked_is_named(
    looked_at: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = tmp_path / "answers.sqlite"
    with closing(sqlite3.connect(keep, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, timeout=0.0))
        code, _, err = look_again(looked_at, MODEL, "--keep", keep)
    assert (code, err) == (
        1,
        f"error: {keep}: predictions cannot be kept there (database is locked); name another file by --keep\n",
    )


def test_two_replays_may_keep_their_answers_in_one_file(tmp_path: Path) -> None:
    first, second = (Kept(tmp_path / "answers.sqlite", MODEL) for _ in range(2))
    prediction = recorded("a", 0.99).prediction
    assert prediction is not None
    for number in range(Kept.AT_ONCE + 1):
        first.put(f"{number}", prediction)
    second.put("x", prediction)
    second.close()
    assert second._new == []
    first.close()
    third = Kept(tmp_path / "answers.sqlite", MODEL)
    assert [third.get(name) for name in ("0", f"{Kept.AT_ONCE}", "x", "y")] == [prediction] * 3 + [None]
    third.close()


def test_a_threshold_of_minus_zero_is_zero() -> None:
    assert str(read_thresholds(["-0"], POLICY)["accept_at"]) == "0.0"


def test_comparing_keeps_no_record() -> None:
    pairs = ((record.model_copy(), record.prediction) for _ in range(2_000) for record in RECORDS)
    tracemalloc.start()
    result = compare(pairs, POLICY.model_copy(update={"accept_at": 0.9}), listed=20)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (result["images"], result["changed"], len(result["changes"])) == (10_000, 2_000, 20)
    assert most < 1_000_000  # a record takes 500 bytes or more


def test_a_key_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    with pytest.raises(InvalidImage, match="outside"):
        read_from_folder(tmp_path / "images")(recorded("../secret.png", 0.9))


def test_without_any_image_there_is_no_comparison(looked_at: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, out, err = look_again(looked_at, MODEL, "--images", tmp_path / "empty")
    assert (code, out) == (1, "")
    assert "no photo could be classified again" in err


def test_another_model_needs_to_know_where_the_images_are(stored: Path) -> None:
    assert run(stored, "--model", MODEL)[0] == 2
