"""`kickstand replay`: another policy on stored records."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from kickstand.events import (
    Answer,
    Decision,
    ImageRef,
    Prediction,
    Reason,
    ReviewOutcome,
    ReviewStatus,
    Route,
    Shown,
)
from kickstand.policy import SelectivePolicy, decide
from kickstand.records import Record
from kickstand_cli.replay import replay

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
POLICY = SelectivePolicy(policy_version="p1", accept_at=0.8, neither_accept_at_most=0.2, neither_reject_at_least=0.8)

app = typer.Typer()
app.command()(replay)
app.command("other")(lambda: None)


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
    assert "1 of 5 answers change: 1 accept → review" in out
    assert "s3://photos/rather.jpg (bicycle 0.850, p(neither) 0.000, in truth bicycle)" in out


@pytest.mark.parametrize("text", ["{}", "[]", "{"])
def test_a_file_that_is_no_policy_is_an_error(stored: Path, text: str) -> None:
    (stored / "policy.json").write_text(text)
    code, _, err = run(stored)
    assert code == 1
    assert err.startswith("error:")
