"""`kickstand backfill` on the local stack: the shipped state machine and handlers, its Distributed Map unfolded."""

import csv
import gzip
import io
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from kickstand.backfill.rules import Run
from kickstand.backfill.store import CONTROL, load_run
from kickstand.classify.artefact import read_card
from kickstand_cli.local.stack import Stack, deploy
from kickstand_cli.main import app
from kickstand_cli.project import MODEL
from tests.workflow.conftest import Faults, raised, retried

PROJECT = Path(__file__).parents[2]
DEFINITION = yaml.safe_load((PROJECT / "statemachine/backfill.asl.yaml").read_text())["States"]
PHOTOS = int(os.environ.get("BACKFILL_PHOTOS", "60"))  # 2,000 take some ten minutes
CARD = read_card(MODEL)
SURE = {"route": "accept", "reason": "confident", "explanation": "bicycle with confidence 0.990"}
UNSURE = {"route": "review", "reason": "unsure", "explanation": "bicycle with confidence 0.612, accepted from 0.900"}


@pytest.fixture(scope="module")
def deployed(faults: Faults) -> Iterator[Stack]:
    with deploy(PROJECT / "template.yaml", {"AuditRate": "0", "FunctionsAtOnce": "100"}, faults) as stack:
        for function in stack.functions.values():  # their loggers keep the stdout of their first time
            function.load()
        yield stack


@pytest.fixture
def stack(deployed: Stack) -> Iterator[Stack]:
    """The bucket and the tables are empty, and no run is known. Nobody is asked: those that wait take time."""
    decide_as(deployed, SURE)
    yield deployed
    deployed.settle()
    bucket = deployed.outputs["ImageBucketName"]
    for page in deployed.s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        everything: list[Any] = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        for found in everything:
            deployed.s3.delete_object(Bucket=bucket, Key=found["Key"], VersionId=found["VersionId"])
    for record in deployed.records():
        key = {"image": {"S": record.image}, "version": {"S": record.version}}
        deployed.dynamodb.delete_item(TableName=deployed.outputs["RecordsTableName"], Key=key)
    deployed.dynamodb.delete_item(TableName=deployed.outputs["ControlTableName"], Key=CONTROL)


def png(colour: str = "grey") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(buffer, "PNG")
    return buffer.getvalue()


PHOTO = png()


def put_past(stack: Stack, *keys: str, data: bytes | None = None) -> None:
    """Photos that were there before the bucket sent events."""
    bucket = stack.outputs["ImageBucketName"]
    configure = stack.s3.put_bucket_notification_configuration
    configure(Bucket=bucket, NotificationConfiguration={})
    for key in keys:
        stack.upload(key, PHOTO if data is None else data)
    configure(Bucket=bucket, NotificationConfiguration={"EventBridgeConfiguration": {}})


def command(stack: Stack, *options: str) -> Result:
    file = PROJECT / "build/test-backfill/outputs.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(stack.outputs))
    return CliRunner().invoke(app, [*options, "--outputs", str(file)])


def run(stack: Stack, *options: str, code: int = 0) -> str:
    """What `kickstand backfill` prints on stdout, once all that it has begun is done."""
    ran = command(stack, "backfill", *options)
    assert ran.exit_code == code, ran.output + repr(ran.exception)
    stack.settle()
    return ran.stdout


def standing(stack: Stack) -> Run:
    found = load_run(stack.dynamodb, stack.outputs["ControlTableName"])
    assert found
    return found


def recorded(stack: Stack) -> list[str]:
    return sorted(record.image_ref.key for record in stack.records())


KEYS = ["a b.png", "a+b.png", "ä 自転車.png", "a%2Fb.png", "folder/", "past/1.png", "past/2.png"]


def test_each_photo_of_the_past_gets_one_record(stack: Stack) -> None:
    put_past(stack, *KEYS)
    assert "7 photos to decide, of 7 keys" in run(stack, "--yes", "--watch")
    assert recorded(stack) == sorted(KEYS)
    assert stack.ledger().missing == 0
    assert "0 photos to decide, of 7 keys" in run(stack, "--yes")
    assert (standing(stack).state, standing(stack).executed) == ("done", 7)


def test_a_folder_of_the_console_is_no_photo_of_the_past(stack: Stack) -> None:
    put_past(stack, "past/1.png", "album/")
    put_past(stack, "past/", data=b"")
    assert "2 photos to decide, of 3 keys" in run(stack, "--yes", "--watch")
    assert recorded(stack) == ["album/", "past/1.png"]
    assert standing(stack).not_asked_for == 1
    columns = ["Bucket", "Key", "Size", "VersionId", "IsLatest"]
    bucket = stack.outputs["ImageBucketName"]
    put_past(stack, "new.png")
    lines = [[bucket, key, size, version_of(stack, key), "true"] for key, size in (("past/", "0"), ("new.png", "9"))]
    uri = write_inventory(stack, columns, lines)
    assert "1 photo to decide, of 2 keys" in run(stack, "--yes", "--watch", "--inventory", uri)
    assert recorded(stack) == ["album/", "new.png", "past/1.png"]


def test_without_yes_it_says_what_it_takes_and_starts_nothing(stack: Stack) -> None:
    put_past(stack, *KEYS)
    told = run(stack, "--prefix", "past/")
    assert "2 photos to decide, of 2 keys" in told
    assert "about $0.0" in told
    assert "Nothing was started" in told
    assert load_run(stack.dynamodb, stack.outputs["ControlTableName"]) is None
    assert recorded(stack) == []
    plan = json.loads(run(stack, "--json"))
    assert plan["dollars"] == pytest.approx(7 * plan["dollars_per_photo"] + 7 * plan["dollars_per_key"])


@pytest.fixture
def further(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """No run reads its second page of keys before this is set: what a test does to a run finds it in the middle."""
    reader = stack.functions["BackfillStateMachineReadDecideBucket"]
    read, may = reader.load(), threading.Event()

    def wait_and_read(event: dict[str, Any], context: Any) -> Any:
        if "page" in event["context"]:
            may.wait()
        return read(event, context)

    monkeypatch.setattr(reader, "handler", wait_and_read)
    yield may
    may.set()


@pytest.mark.timeout(1800)
def test_a_run_that_is_killed_in_the_middle_is_resumed_and_no_photo_has_two_records(
    stack: Stack, further: threading.Event
) -> None:
    put_past(stack, *(f"past/{number}.png" for number in range(PHOTOS)))
    ran = command(stack, "backfill", "--yes")
    assert ran.exit_code == 0, ran.output
    while standing(stack).executed < PHOTOS // 3:
        time.sleep(0.01)
    stack.stepfunctions.stop_execution(executionArn=standing(stack).execution)
    further.set()
    stack.settle()
    before = len(stack.records())
    assert before < PHOTOS
    assert "Its execution ended" in run(stack, "--status", code=4)
    assert f"{PHOTOS - before:,} photos to decide, of {PHOTOS:,} keys" in run(stack, "--resume", "--yes", "--watch")
    assert (standing(stack).executed, standing(stack).decided_before) == (PHOTOS - before, before)
    assert len(recorded(stack)) == len(set(recorded(stack))) == PHOTOS
    assert stack.ledger().missing == 0


def test_a_run_that_is_stopped_goes_on_from_there(
    stack: Stack, further: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kickstand_cli.local.stack.LOCAL_BATCH", 5)
    keys = sorted(f"past/{number}.png" for number in range(30))  # more than one page
    put_past(stack, *keys, "other.png")
    assert command(stack, "backfill", "--yes", "--prefix", "past/").exit_code == 0
    second = command(stack, "backfill", "--yes")
    assert second.exit_code == 1
    assert "a backfill has been running since" in second.output
    stopped = command(stack, "backfill", "--stop")
    assert (stopped.exit_code, "It was stopped" in stopped.output) == (0, True), stopped.output
    further.set()
    stack.settle()
    assert len(stack.records()) < len(keys)
    assert command(stack, "backfill", "--stop").exit_code == 1
    run(stack, "--resume", "--yes", "--watch")
    assert recorded(stack) == keys


def test_no_photo_is_executed_that_the_money_is_not_enough_for(stack: Stack) -> None:
    put_past(stack, *(f"past/{number}.png" for number in range(30)))
    plan = json.loads(run(stack, "--json"))
    limit = 30 * plan["dollars_per_key"] + 16.5 * plan["dollars_per_photo"]
    told = run(stack, "--yes", "--watch", "--max-dollars", f"{limit:.9f}", code=4)
    assert f"--max-dollars {limit:g} is enough for about 16 of them" in told
    assert "It reached its cost limit" in told
    assert standing(stack).executed == len(recorded(stack)) == 16
    assert standing(stack).dollars_left >= 0
    assert f"{30 - 16} photos to decide" in run(stack, "--resume", "--yes", "--watch")
    assert len(recorded(stack)) == 30


def test_a_newer_model_decides_beside_the_first_decision_and_asks_nobody(stack: Stack) -> None:
    as_old_model(stack, "old-1")
    decide_as(stack, UNSURE)
    images = [upload(stack, f"past/{number}.png") for number in range(3)]
    shipped_model(stack)
    images.append(upload(stack, "new.png"))
    before = {record.image: record for record in stack.records()}
    reviews = {review.image: review for review in stack.reviews()}
    assert reviews.keys() == set(images)
    run(stack, "--yes", "--watch", "--model-version-before", "old-1")
    for record in stack.records():
        assert record.model_copy(update={"later": ()}) == before[record.image]
        models = [later.prediction.model_version for later in record.later]
        assert models == ([] if record.image.endswith("new.png") else [CARD.model_version])
    assert {review.image: review for review in stack.reviews()} == reviews
    explained = command(stack, "explain", images[0]).output
    assert "Model old-1" in explained
    assert "Another model decided again" in explained
    assert f"Model {CARD.model_version}" in explained.partition("the first decision stands")[2]
    assert "It was not sent to review again." in explained
    assert "0 photos to decide" in run(stack, "--yes", "--model-version-before", "old-1")


def test_a_model_does_not_decide_its_own_photos_again(stack: Stack) -> None:
    ran = command(stack, "backfill", "--model-version-before", CARD.model_version)
    assert ran.exit_code == 1
    assert f"{CARD.model_version} is the model of this checkout" in ran.output


def test_an_inventory_is_decided_by_its_current_versions(stack: Stack) -> None:
    put_past(stack, *KEYS)
    columns = ["Bucket", "Key", "VersionId", "IsLatest", "IsDeleteMarker"]
    bucket = stack.outputs["ImageBucketName"]
    lines = [
        *([bucket, quote_plus(key, safe="/"), version_of(stack, key), "true", "false"] for key in KEYS),
        [bucket, "past/1.png", "older", "false", "false"],
        [bucket, "deleted.png", "marker", "true", "true"],
        [bucket, "deleted+since.png", "v", "true", "false"],
    ]
    uri = write_inventory(stack, columns, lines)
    run(stack, "--yes", "--watch", "--inventory", uri)
    assert recorded(stack) == sorted(KEYS)
    found = standing(stack)
    assert (found.keys, found.executed, found.not_asked_for, found.gone) == (10, 7, 2, 1)


def test_an_inventory_that_cannot_be_read_is_named(stack: Stack) -> None:
    stack.s3.put_object(Bucket=stack.outputs["ReportBucketName"], Key="manifest.json", Body=b'{"fileFormat": "ORC"}')
    other = write_inventory(stack, ["Bucket", "Key"], [["other-photos", "a.png"]])
    for uri, reason in [
        (other, "lists other-photos, not the stack's bucket"),
        (f"s3://{stack.outputs['ReportBucketName']}/manifest.json", "not the manifest.json of an S3 inventory"),
        (f"s3://{stack.outputs['ReportBucketName']}/none/manifest.json", "NoSuchKey"),
        ("manifest.json", "expected s3://bucket/folder/manifest.json"),
    ]:
        ran = command(stack, "backfill", "--inventory", uri)
        assert ran.exit_code == 1
        assert uri in ran.output
        assert reason in ran.output


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (["a.png", "1", "soon"], "Invalid isoformat string: 'soon'"),
        (["a.png", "x", "2026-01-01T00:00:00.000Z"], "invalid literal for int() with base 10: 'x'"),
        (["", "1", ""], "Key: String should have at least 1 character"),
    ],
)
def test_a_line_of_an_inventory_that_cannot_be_read_is_named(stack: Stack, line: list[str], reason: str) -> None:
    columns, right = ["Key", "Size", "LastModifiedDate"], ["a.png", "1", "2026-01-01T00:00:00"]  # a time without a zone
    ran = command(stack, "backfill", "--inventory", write_inventory(stack, columns, [right] * 5))
    assert ran.exit_code == 0, ran.output
    ran = command(stack, "backfill", "--inventory", write_inventory(stack, columns, [right] * 5 + [line]))
    assert ran.exit_code == 1
    bucket = stack.outputs["ReportBucketName"]
    assert f"s3://{bucket}/inventory/data/1.csv.gz, line 2: {reason}" in ran.output


@pytest.mark.parametrize(
    "manifest", ["[" * 100_000, '{"fileFormat": "CSV", "fileSchema": "Key", "files": [{"key": 5}]}']
)
def test_a_manifest_that_is_none_is_named(stack: Stack, manifest: str) -> None:
    bucket = stack.outputs["ReportBucketName"]
    stack.s3.put_object(Bucket=bucket, Key="manifest.json", Body=manifest.encode())
    ran = command(stack, "backfill", "--inventory", f"s3://{bucket}/manifest.json")
    assert ran.exit_code == 1
    assert f"s3://{bucket}/manifest.json: not the manifest.json of an S3 inventory" in ran.output


def test_with_nothing_to_decide_the_estimate_is_the_one_json_object(stack: Stack) -> None:
    ran = command(stack, "backfill", "--prefix", "no such folder/", "--yes", "--json")
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["photos"] == 0


def test_a_batch_whose_function_fails_is_kept_and_counted_and_its_photos_are_done_by_the_next_run(
    stack: Stack, faults: Faults
) -> None:
    put_past(stack, *KEYS)
    before = len(stack.dead_letters())
    faults.planned["BackfillPhotosFunction"] = [raised("ValueError")]
    told = run(stack, "--yes", "--watch", code=4)
    assert "1 batches of up to 250 keys that failed" in told
    letters = stack.dead_letters()
    assert len(letters) == before + 1
    kept = next(letter for letter in letters if "Items" in letter)
    assert sorted(item["Key"] for item in kept["Items"]) == sorted(KEYS)
    run(stack, "--resume", "--yes", "--watch")
    assert recorded(stack) == sorted(KEYS)


def test_trouble_that_passes_ends_no_batch(stack: Stack, faults: Faults) -> None:
    put_past(stack, *KEYS)
    attempts = retried(DEFINITION["Decide Bucket"]["ItemProcessor"]["States"]["Backfill Photos"])
    faults.planned["BackfillPhotosFunction"] = [raised(error) for error in attempts if not error.startswith("States.")]
    run(stack, "--yes", "--watch")
    assert faults.planned["BackfillPhotosFunction"] == []
    assert recorded(stack) == sorted(KEYS)


def test_a_photo_that_comes_live_meanwhile_has_one_record(stack: Stack) -> None:
    put_past(stack, *KEYS)
    assert command(stack, "backfill", "--yes").exit_code == 0
    stack.upload("live.png", PHOTO)
    stack.settle()
    assert recorded(stack) == sorted([*KEYS, "live.png"])


# ---- what the tests above are made of


def upload(stack: Stack, key: str) -> str:
    """A live upload; returns its URI."""
    stack.upload(key, PHOTO)
    stack.settle()
    return f"s3://{stack.outputs['ImageBucketName']}/{key}"


def version_of(stack: Stack, key: str) -> str:
    return str(stack.s3.head_object(Bucket=stack.outputs["ImageBucketName"], Key=key)["VersionId"])


def as_old_model(stack: Stack, version: str) -> None:
    shipped_model(stack)
    decide = stack.functions["ClassifyImageFunction"].load()

    def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
        return {**decide(event, context), "model_version": version}

    stack.functions["ClassifyImageFunction"].handler = handler


def decide_as(stack: Stack, decision: dict[str, str]) -> None:
    stack.functions["DecideFunction"].handler = lambda event, context: decision


def shipped_model(stack: Stack) -> None:
    stack.functions["ClassifyImageFunction"].handler = None


def write_inventory(stack: Stack, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """As S3 writes it, in two files; returns the manifest's URI."""
    bucket, files = stack.outputs["ReportBucketName"], []
    for number, some in enumerate((lines[:4], lines[4:])):
        text = io.StringIO()
        csv.writer(text, quoting=csv.QUOTE_ALL).writerows(some)
        files.append({"key": f"inventory/data/{number}.csv.gz"})
        stack.s3.put_object(Bucket=bucket, Key=files[-1]["key"], Body=gzip.compress(text.getvalue().encode()))
    manifest = {"fileFormat": "CSV", "fileSchema": ", ".join(columns), "files": files}
    key = "inventory/2026-05-04T00-00Z/manifest.json"
    stack.s3.put_object(Bucket=bucket, Key=key, Body=json.dumps(manifest).encode())
    return f"s3://{bucket}/{key}"


def test_resume_takes_no_other_selection(stack: Stack) -> None:
    result = command(stack, "backfill", "--resume", "--prefix", "2025/")
    assert result.exit_code == 2
    assert "uses the selection of the last run, and takes no other" in " ".join(result.output.replace("│", " ").split())
