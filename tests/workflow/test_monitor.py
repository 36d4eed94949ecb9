"""The scheduled monitor on the shipped stack: an alert is found, published once, turns the switch on, and ends."""

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest

from kickstand.classify.artefact import read_card
from kickstand.classify.store import load_switch, switch_off, switch_on
from kickstand.events import ModelDegraded
from kickstand.monitor import store
from kickstand.monitor.run import MonitorState, read_watch
from kickstand.monitor.store import MONITOR
from kickstand.records import Record
from kickstand.store import load_state, put_record
from kickstand_cli.local.stack import Stack, deploy
from kickstand_cli.project import PROJECT

MODEL = read_card(PROJECT / "layers/model/model")
PROMISE = read_watch(PROJECT / "layers/model/model").promise
LABEL = "bicycle" if PROMISE and PROMISE.about_labels else None
ABOUT = f" “{LABEL}”" if LABEL else ""
ACCEPTED = (PROJECT / "samples/images/bicycle/red-road-bike.jpg").read_bytes()


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with deploy(PROJECT / "template.yaml", {"AuditRate": "0"}) as stack:
        monitor = stack.functions["MonitorFunction"]
        monitor.environment = {**monitor.environment, "LAG_SECONDS": "0"}
        yield stack


@pytest.fixture
def published(stack: Stack) -> Callable[[], list[dict[str, Any]]]:
    """Call it for the events "Model Degraded" since the last call."""
    url = stack.sqs.create_queue(QueueName="degraded")["QueueUrl"]
    stack.events.put_rule(Name="degraded", EventPattern='{"detail-type": ["Model Degraded"]}')
    arn = stack.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    stack.events.put_targets(Rule="degraded", Targets=[{"Id": "queue", "Arn": arn}])

    def receive() -> list[dict[str, Any]]:
        messages = stack.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
        for message in messages:
            stack.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return [json.loads(message["Body"]) for message in messages]

    return receive


@pytest.fixture
def run_monitor(stack: Stack, capsys: pytest.CaptureFixture[str]) -> Callable[[], dict[str, Any]]:
    """Runs the function as its schedule does; returns its metrics and its answer."""

    def run() -> dict[str, Any]:
        capsys.readouterr()
        event = (PROJECT / "events/monitor.json").read_bytes()
        answer = boto3.client("lambda").invoke(FunctionName=stack.outputs["MonitorFunctionName"], Payload=event)
        content: dict[str, Any] = json.loads(answer["Payload"].read())
        assert "FunctionError" not in answer, content
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{"_aws"')]
        metrics = {name: value[0] for line in lines for name, value in line.items() if isinstance(value, list)}
        return metrics | content

    return run


def decided(stack: Stack) -> Record:
    key = f"{uuid.uuid4()}.jpg"
    stack.upload(key, ACCEPTED)
    stack.settle()
    (record,) = (record for record in stack.records() if record.image_ref.key == key)
    return record


def put_audited(stack: Stack, number: int, answer: str) -> None:
    """Records of accepted bicycles, about which people have said this."""
    now = datetime.now(UTC)
    told = {"label": answer, "reviewer": "Ada", "answered_at": now, "seconds_taken": 2}
    for _ in range(number):
        key = f"{uuid.uuid4()}.jpg"
        record = Record.model_validate(
            {
                "image": f"s3://photos/{key}",
                "version": "v",
                "image_ref": {"bucket": "photos", "key": key, "etag": "e", "uploaded_at": now},
                "prediction": {
                    "label": "bicycle",
                    "confidence": 0.99,
                    "probabilities": {"bicycle": 0.99, "motorcycle": 0.01},
                    "neither": 0.0,
                    "model_version": MODEL.model_version,
                    "backend": "embedded",
                    "latency_ms": 1,
                },
                "decision": {
                    "route": "accept",
                    "reason": "confident",
                    "policy_version": MODEL.policy.policy_version,
                },
                "execution": "arn",
                "recorded_at": now,
                "audit_probability": 0.02,
                "audited": True,
                "review": {
                    "status": "answered",
                    "why": "audit",
                    "requested_at": now,
                    "answer": told | {"shown": {"explanation": "", "choices": []}},
                },
            }
        )
        put_record(stack.dynamodb, "RecordsTable", record)


def test_harm_is_told_once_and_nothing_is_accepted_until_the_switch_ends(
    stack: Stack, run_monitor: Callable[[], dict[str, Any]], published: Callable[[], list[dict[str, Any]]]
) -> None:
    assert decided(stack).decision.route == "accept"
    first = run_monitor()
    assert (first["images"], first["PromiseUnsupported"], first["ReviewEverything"]) == (1, 0, 0)
    assert first["harm"] == ""

    put_audited(stack, 12, "motorcycle")
    harmed = run_monitor()
    assert (harmed["images"], harmed["PromiseUnsupported"], harmed["ReviewEverything"]) == (12, 1, 1)
    assert harmed["harm"].startswith(f"12 of 12 audited predictions{ABOUT} wrong, guaranteed at most 2.0%")
    assert harmed["AcceptedAccuracy"] < 50
    (event,) = published()
    assert (event["source"], event["detail-type"]) == ("kickstand", "Model Degraded")
    told = ModelDegraded.model_validate(event["detail"])
    assert (told.bucket, told.policy_version) == (stack.outputs["ImageBucketName"], MODEL.policy.policy_version)
    assert ("promise", LABEL) in {(symptom.statistic, symptom.label) for symptom in told.findings}

    kept = decided(stack)
    assert (kept.decision.route, kept.decision.reason) == ("review", "review_everything")
    assert harmed["harm"] in kept.decision.explanation
    assert run_monitor()["OldestReviewHours"] > 0
    assert published() == []

    switch = load_switch(stack.dynamodb, "ControlTable")
    assert switch is not None
    assert switch.by == "monitor"
    over = switch.model_copy(update={"until": datetime.now(UTC)})
    switch_on(stack.dynamodb, "ControlTable", over)
    assert decided(stack).decision.route == "accept"

    assert run_monitor()["ReviewEverything"] == 1  # the alert has not ended
    switch_off(stack.dynamodb, "ControlTable")
    assert run_monitor()["ReviewEverything"] == 0  # but whoever switches it off is obeyed
    assert published() == []


def test_if_two_runs_overlap_one_has_no_effect(
    stack: Stack, run_monitor: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_monitor()
    standing = load_state(stack.dynamodb, "ControlTable", MONITOR, MonitorState)
    run_monitor()
    after = load_state(stack.dynamodb, "ControlTable", MONITOR, MonitorState)
    monkeypatch.setattr(store, "load_state", lambda *_: standing)
    assert run_monitor() == {"images": 0, "harm": ""}
    assert load_state(stack.dynamodb, "ControlTable", MONITOR, MonitorState) == after
