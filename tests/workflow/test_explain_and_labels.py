"""`kickstand explain` and `kickstand labels export`, on the shipped stack after people have answered."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from kickstand.classify.artefact import read_card
from kickstand.ledger.balance import Key
from kickstand.records import Record
from kickstand.review.rules import claim
from kickstand.review.store import answer_review, change_review
from kickstand_cli.classify.classify import load_model
from kickstand_cli.ledger.explain import compare, describe
from kickstand_cli.local.stack import Stack, _as_eventbridge_sends_it, deploy
from kickstand_cli.main import app
from kickstand_cli.project import MODEL, PROJECT
from tests.photos import png

LABELS = read_card(MODEL).labels


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with deploy(PROJECT / "template.yaml", {"AuditRate": "1"}) as stack:
        yield stack


@pytest.fixture
def outputs(stack: Stack, tmp_path: Path) -> list[str]:
    """The options that name the stack."""
    (tmp_path / "outputs.json").write_text(json.dumps(stack.outputs))
    return ["--outputs", str(tmp_path / "outputs.json")]


def upload(stack: Stack, key: str, data: bytes, decision: dict[str, str] | None = None) -> Key:
    """Uploads and waits; decision: instead of the policy's."""
    function = stack.functions["DecideFunction"]
    handler = function.load()
    if decision:
        function.handler = lambda event, context: decision
    try:
        version = stack.upload(key, data)
        stack.settle()
    finally:
        function.handler = handler
    return f"s3://{stack.outputs['ImageBucketName']}/{key}", version


UNSURE = {"route": "review", "reason": "unsure", "explanation": "bicycle with confidence 0.612, accepted from 0.900"}
ACCEPTED = {"route": "accept", "reason": "confident", "explanation": "it is"}


def answer(stack: Stack, key: Key, label: str, reviewer: str = "Ada Lovelace") -> None:
    tables, now = (stack.outputs["ReviewsTableName"], stack.outputs["RecordsTableName"]), datetime.now(UTC)
    change_review(stack.dynamodb, tables[0], *key, lambda review: claim(review, reviewer, now))
    answer_review(stack.dynamodb, stack.stepfunctions, tables, key, label, reviewer, LABELS, now)
    stack.settle()


def record_of(stack: Stack, key: Key) -> Record:
    (record,) = (record for record in stack.records() if record.key == key)
    return record


def kickstand(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


# ---- explain


def test_the_paragraph_tells_the_whole_story(stack: Stack, outputs: list[str]) -> None:
    key = upload(stack, "a story <b>+1 é.png", png("grey"), UNSURE)
    answer(stack, key, LABELS[1])
    record = record_of(stack, key)
    result = kickstand("explain", key[0], *outputs)
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    assert record.prediction
    for words in [
        *(key[0], f"version {key[1]}", "PNG, 64 × 48 pixels", f"Model {record.prediction.model_version} (embedded"),
        *(
            f"{record.prediction.label} with confidence",
            "was sent to review (unsure): bicycle with confidence 0.612",
        ),
        *(
            "because the decision's reason was “unsure”",
            f"Ada Lovelace answered {LABELS[1]} at",
            f"{record.recorded_at:%H:%M:%S}",
        ),
    ]:
        assert words in result.output


def test_of_several_uploads_the_latest_is_explained_or_the_one_that_is_named(stack: Stack, outputs: list[str]) -> None:
    first, second = (upload(stack, "twice.png", png(colour)) for colour in ("red", "blue"))
    assert f"version {second[1]}" in (said := kickstand("explain", second[0], *outputs).output)
    assert "the latest of 2 uploads" in said
    said = kickstand("explain", first[0], "--version", first[1], *outputs).output
    assert f"version {first[1]}" in said
    assert "latest" not in said


def test_the_latest_upload_is_s3s_whichever_event_comes_first(stack: Stack, outputs: list[str]) -> None:
    key = "swapped.png"
    for colour in ("red", "blue"):
        latest = stack.upload(key, png(colour))
    events = []
    for target in stack._targets:
        while batch := stack.sqs.receive_message(QueueUrl=target.queue_url, MaxNumberOfMessages=10).get("Messages"):
            for message in batch:
                events.append((target, _as_eventbridge_sends_it(json.loads(message["Body"]))))
                stack.sqs.delete_message(QueueUrl=target.queue_url, ReceiptHandle=message["ReceiptHandle"])
    for target, event in reversed(events):
        stack.start(target, event)
        stack.settle()
    said = kickstand("explain", f"s3://{stack.outputs['ImageBucketName']}/{key}", *outputs).output
    assert f"version {latest}" in said
    assert "the latest of 2 uploads" in said


@pytest.mark.parametrize("sequencer", ["", "00AB"])
def test_where_nothing_says_which_upload_is_the_latest_explain_does_not_say_so(
    stack: Stack, tmp_path: Path, sequencer: str
) -> None:
    record = record_of(stack, upload(stack, "tie.png", png("red")))
    ref = record.image_ref.model_copy(update={"sequencer": sequencer})
    ties = [record.model_copy(update={"version": version, "image_ref": ref}) for version in ("a", "b")]
    (tmp_path / "records.jsonl").write_text("".join(f"{tie.model_dump_json()}\n" for tie in ties))
    said = kickstand("explain", record.image, "--records", str(tmp_path / "records.jsonl")).output
    assert "It is one of the latest, from the same second, of 2 uploads" in said


@pytest.mark.parametrize(
    ("decision", "answers", "words"),
    [
        (ACCEPTED, None, "of such predictions are audited; this one is among them. It waits for a person"),
        (ACCEPTED, "neither", "for the audit. Ada Lovelace answered neither"),
        (UNSURE, "cannot_tell", "Ada Lovelace could not say what it shows"),
        (UNSURE, None, "It waits for a person's answer."),
    ],
)
def test_the_part_of_people_is_told(stack: Stack, decision: dict[str, str], answers: str | None, words: str) -> None:
    key = upload(stack, "people.png", png("grey"), decision)
    if answers:
        answer(stack, key, answers)
    assert words in describe(record_of(stack, key))


def test_an_unreadable_image_is_explained_and_verified_without_a_model(stack: Stack, outputs: list[str]) -> None:
    key = upload(stack, "no photo.jpg", b"hello")
    result = kickstand("explain", key[0], "--verify", *outputs)
    assert result.exit_code == 0, result.output
    assert "No model classified it. It was rejected (unreadable)" in result.output
    assert "verified: " in result.output


def test_a_decision_is_verified_from_the_version_that_was_decided_on(stack: Stack, outputs: list[str]) -> None:
    key = upload(stack, "verified.png", png("green"))
    upload(stack, "verified.png", b"something else")
    result = kickstand("explain", key[0], "--version", key[1], "--verify", *outputs)
    assert result.exit_code == 0, result.output
    assert result.output.endswith("verified: computed again from the stored photo, the result is the same\n")


def test_a_record_that_was_tampered_with_does_not_match(stack: Stack, outputs: list[str]) -> None:
    key = upload(stack, "tampered.png", png("green"), {**UNSURE, "policy_version": "made up"})
    result = kickstand("explain", key[0], "--verify", *outputs)
    assert result.exit_code == 4
    assert "differs: policy_version was made up, is " in result.output


def test_other_bytes_are_told_by_their_hash(stack: Stack) -> None:
    record = record_of(stack, upload(stack, "bytes.png", png("green")))
    (difference,) = compare(record, png("yellow"), load_model(MODEL))
    assert difference.startswith("sha256 was ")


def test_another_model_cannot_verify(stack: Stack, outputs: list[str]) -> None:
    function = stack.functions["ClassifyImageFunction"]
    handler = function.load()
    function.handler = lambda event, context: handler(event, context) | {"model_version": "older"}
    key = upload(stack, "older.png", png("green"))
    function.handler = handler
    result = kickstand("explain", key[0], "--verify", *outputs)
    assert result.exit_code == 1
    assert "error: model older decided, but this artefact is" in result.output


def test_an_image_that_is_gone_cannot_be_verified(stack: Stack, outputs: list[str]) -> None:
    key = upload(stack, "gone.png", png("green"))
    stack.s3.delete_object(Bucket=stack.outputs["ImageBucketName"], Key="gone.png", VersionId=key[1])
    result = kickstand("explain", key[0], "--verify", *outputs)
    assert result.exit_code == 1
    assert "error: cannot be verified: " in result.output


def test_an_image_without_a_record_is_a_one_line_error(stack: Stack, outputs: list[str]) -> None:
    result = kickstand("explain", "s3://photos/nothing.png", *outputs)
    assert result.exit_code == 1
    assert result.stderr.endswith("\nerror: s3://photos/nothing.png: it has no record\n")


def test_the_records_of_a_demo_are_explained_and_verified_too(stack: Stack, tmp_path: Path) -> None:
    key = upload(stack, "demo.png", png("green"))
    (tmp_path / "records.jsonl").write_text(record_of(stack, key).model_dump_json() + "\n")
    (tmp_path / "demo.png").write_bytes(png("green"))
    found = kickstand(
        *("explain", "demo.png", "--records", str(tmp_path / "records.jsonl"), "--images", str(tmp_path), "--verify")
    )
    assert found.exit_code == 0, found.output
    assert "verified" in found.output


# ---- labels


@pytest.fixture
def exported(stack: Stack, outputs: list[str], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def export(*options: str) -> dict[str, Any]:
        result = kickstand("labels", "export", "--out", str(tmp_path / "labels"), *options, *outputs)
        assert result.exit_code == 0, result.output
        content: dict[str, Any] = json.loads((tmp_path / "labels/labels.json").read_bytes())
        return content

    return export


@pytest.fixture(scope="module")
def answered(stack: Stack) -> dict[str, Key]:
    """What has been answered, by what it is."""
    colours = {"unsure": "#101010", "audit": "#202020", "foreign": "#303030", "riddle": "#404040", "gone": "#505050"}
    keys = {
        name: upload(stack, f"{name}.png", png(colour), ACCEPTED if name == "audit" else UNSURE)
        for name, colour in colours.items()
    }
    upload(stack, "open.png", png("#606060"), UNSURE)
    labels = {"unsure": LABELS[0], "audit": LABELS[1], "foreign": "neither", "riddle": "cannot_tell", "gone": LABELS[0]}
    for name, label in labels.items():
        answer(stack, keys[name], label, reviewer="Grace Hopper")
    stack.s3.delete_object(Bucket=stack.outputs["ImageBucketName"], Key="gone.png", VersionId=keys["gone"][1])
    return keys


def entries(content: dict[str, Any], keys: dict[str, Key]) -> dict[str, dict[str, Any]]:
    by_key = {key: name for name, key in keys.items()}
    found = ((by_key.get((label["image"], label["version"])), label) for label in content["labels"])
    return {name: label for name, label in found if name}


def test_answers_become_folders_of_labels_as_the_model_sees_the_images(
    stack: Stack, answered: dict[str, Key], exported: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    height, width, _ = read_card(MODEL).input_shape
    content = exported()
    written = entries(content, answered)
    assert {name: label["path"].rpartition("/")[0] for name, label in written.items()} == {
        "unsure": f"train/{LABELS[0]}",
        "audit": f"audit/{LABELS[1]}",
        "foreign": "train/neither",
    }
    assert content["cannot_tell"] >= 1
    assert content["gone"] >= 1
    for label in written.values():
        with Image.open(tmp_path / "labels" / label["path"]) as image:
            assert image.size == (width, height)
    assert (tmp_path / "labels" / written["unsure"]["original"]).read_bytes() == png("#101010")
    assert (stack.dynamodb.scan(TableName=stack.outputs["ReviewsTableName"])["Count"]) > len(content["labels"])


def test_nothing_tells_who_answered(
    answered: dict[str, Key], exported: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    exported()
    files = [path for path in (tmp_path / "labels").rglob("*") if path.is_file()]
    assert not any(b"Hopper" in path.read_bytes() or "Hopper" in str(path) for path in files)


def test_audits_can_be_used_for_training_too(answered: dict[str, Key], exported: Callable[..., dict[str, Any]]) -> None:
    audit = entries(exported("--with-audits"), answered)["audit"]
    assert audit["path"].startswith(f"train/{LABELS[1]}/")
    assert audit["audit"] is True


def test_train_reads_what_was_exported(
    answered: dict[str, Key], exported: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    from kickstand_cli.training.photos import list_photos

    exported("--with-audits")
    assert {file.label for file in list_photos(tmp_path / "labels")} == {*LABELS, "neither"}


def test_a_folder_that_holds_something_is_left_alone(stack: Stack, outputs: list[str], tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    result = kickstand("labels", "export", "--out", str(tmp_path / "full"), *outputs)
    assert result.exit_code == 1
    assert "\nerror: " in result.output
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
