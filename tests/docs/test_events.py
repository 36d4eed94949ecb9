"""The schemas of docs/events fit what is published: read from the real calls, with a bus that keeps the entries."""

import ast
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from docs.schemas import EVENTS, MEANINGS
from kickstand.events import Answer, ModelDegraded, Reason, ReviewOutcome, ReviewStatus, Shown, Symptom
from kickstand.lifecycle.rollout import ApprovalChange, describe_rollout
from kickstand.lifecycle.store import publish_rollout
from kickstand.records import Record
from kickstand.store import announce, publish
from kickstand_cli.project import PROJECT

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


class Bus:
    """EventBridge and SNS, as much of them as publishing takes."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def put_events(self, *, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803 - boto3's name
        self.entries += Entries
        return {"FailedEntryCount": 0}

    def publish(self, **_: str) -> None:
        """SNS's mail."""

    def delivered(self) -> list[dict[str, Any]]:
        """As EventBridge hands them to a target."""
        place = {"version": "0", "id": "6a7e8feb", "account": "123456789012", "region": "eu-west-1"}
        return [
            place
            | {"time": "2026-07-01T12:00:00Z", "detail-type": entry["DetailType"], "source": entry["Source"]}
            | {"resources": list(entry["Resources"]), "detail": json.loads(entry["Detail"])}
            for entry in self.entries
        ]


def validator(name: str) -> Any:
    schema = json.loads((PROJECT / "docs/events" / f"{name.lower().replace(' ', '-')}.schema.json").read_bytes())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


def a_record() -> Record:
    """A record that a person must decide about, and has."""
    record = Record.model_validate(json.loads((PROJECT / "events/ask_person.json").read_bytes())["record"])
    shown = Shown(explanation="unsure", choices=("bicycle", "motorcycle"))
    answer = Answer(label="bicycle", reviewer="ada", answered_at=NOW, seconds_taken=2.5, shown=shown)
    review = ReviewOutcome(status=ReviewStatus.ANSWERED, why="unsure", requested_at=NOW, answer=answer)
    return record.model_copy(update={"review": review})


@pytest.fixture(scope="module")
def delivered() -> list[dict[str, Any]]:
    """One event of every type, each published by the code that publishes it."""
    bus: Any = Bus()
    announce(bus, a_record(), "arn:aws:states:eu-west-1:123456789012:express:classify:1")
    harm = Symptom(statistic="confidence", description="lower than in the baseline", since=NOW)
    versions = {"model_version": "a19f813d", "policy_version": "5719d32d"}
    degraded = ModelDegraded(bucket="photos", reason="drift", findings=(harm,), degraded_at=NOW, **versions)
    publish(bus, ["Model Degraded"], degraded.model_dump_json())
    package = {"InferenceSpecification": {"Containers": [{"ModelDataUrl": "s3://models/model.tar.gz"}]}}
    names = {"ModelPackageArn": "arn:aws:sagemaker:::model-package/k/2", "ModelPackageGroupName": "k"}
    change = ApprovalChange.model_validate({"detail": {**names, "ModelApprovalStatus": "Approved"}})
    rollout = describe_rollout(change, lambda: package, None, lambda artefact: None)
    assert rollout
    publish_rollout(bus, bus, "topic", rollout)
    return bus.delivered()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", EVENTS)
def test_what_is_published_fits_its_schema(delivered: list[dict[str, Any]], name: str) -> None:
    (event,) = (event for event in delivered if event["detail-type"] == name)
    validator(name).validate(event)


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_with_fields_of_a_newer_version_fits_the_schema(delivered: list[dict[str, Any]], name: str) -> None:
    (event,) = (event for event in delivered if event["detail-type"] == name)
    newer = event["detail"] | {"of_a_newer_version": 1}
    if "decision" in newer:
        newer["decision"] = newer["decision"] | {"reason": "of_a_newer_version"}
    validator(name).validate(event | {"detail": newer})


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_without_one_of_its_fields_does_not_fit_the_schema(delivered: list[dict[str, Any]], name: str) -> None:
    (event,) = (event for event in delivered if event["detail-type"] == name)
    without = {key: value for key, value in event["detail"].items() if key not in ("image", "model_version", "package")}
    with pytest.raises(ValidationError, match="is a required property"):
        validator(name).validate(event | {"detail": without})


def test_a_record_with_an_answer_fits_the_schema() -> None:
    validator("record").validate(json.loads(a_record().model_dump_json(exclude_none=True)))


def test_a_record_of_an_unreadable_photo_fits_the_schema() -> None:
    bare = a_record().model_copy(update={"prepared_image": None, "prediction": None, "review": None})
    validator("record").validate(json.loads(bare.model_dump_json(exclude_none=True)))


def test_no_event_and_no_schema_of_one_names_a_reviewer(delivered: list[dict[str, Any]]) -> None:
    assert "ada" not in json.dumps(delivered)
    for path in (PROJECT / "docs/events").glob("*.schema.json"):
        assert ("reviewer" in path.read_text("utf-8")) is (path.name == "record.schema.json")


def test_every_event_that_the_code_publishes_has_a_schema() -> None:
    published: set[str] = set()
    sources: list[Path] = [*PROJECT.glob("layers/core/**/*.py"), *PROJECT.glob("functions/*/app.py")]
    for path in sources:
        for function in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(function, ast.FunctionDef) and calls_publish(function):
                lists = (node for node in ast.walk(function) if isinstance(node, ast.List))
                items = (item for each in lists for item in each.elts)
                published |= {str(item.value) for item in items if isinstance(item, ast.Constant)}
    assert published == EVENTS.keys()


def calls_publish(function: ast.FunctionDef) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "publish"
        for node in ast.walk(function)
    )


def test_every_schema_belongs_to_an_event_or_to_the_record() -> None:
    names = {f"{name.lower().replace(' ', '-')}.schema.json" for name in [*EVENTS, "record"]}
    assert {path.name for path in (PROJECT / "docs/events").iterdir()} == names


def test_the_page_says_what_every_reason_means() -> None:
    assert MEANINGS.keys() == set(Reason)
