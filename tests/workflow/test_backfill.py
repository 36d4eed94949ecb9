"""`kickstand backfill` on the local stack: the shipped state machine and handlers, its Distributed Map unfolded."""

import io
import json
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from kickstand.backfill.store import CONTROL, load_run
from kickstand_cli.local.stack import Stack, deploy
from kickstand_cli.main import app
from tests.workflow.conftest import Faults, raised

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def deployed(faults: Faults) -> Iterator[Stack]:
    with deploy(PROJECT / "template.yaml", {"AuditRate": "0", "FunctionsAtOnce": "100"}, faults) as stack:
        yield stack


@pytest.fixture
def stack(deployed: Stack) -> Iterator[Stack]:
    """The bucket and the tables are empty, and no run is known."""
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


def put_past(stack: Stack, *keys: str, data: bytes = PHOTO) -> None:
    """Upload photos whose events nobody delivers: as if they had been there before the stack."""
    for key in keys:
        stack.upload(key, data)
    forget_events(stack)


def forget_events(stack: Stack) -> None:
    for target in stack._targets:
        stack.sqs.purge_queue(QueueUrl=target.queue_url)


def run(stack: Stack, *options: str, code: int = 0) -> str:
    """What the command prints on stdout."""
    file = PROJECT / "build/test-backfill/outputs.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(stack.outputs))
    ran = CliRunner().invoke(app, ["backfill", "--outputs", str(file), *options])
    assert ran.exit_code == code, ran.output + repr(ran.exception)
    stack.settle()
    return ran.stdout


KEYS = ["a b.png", "a+b.png", "ä 自転車.png", "a%2Fb.png", "folder/", *(f"past/{number}.png" for number in range(60))]


def test_each_photo_of_the_past_gets_one_record(stack: Stack) -> None:
    put_past(stack, *KEYS)
    told = run(stack, "--yes", "--wait")
    assert "65 photos to decide, of 65 keys" in told
    print(told, [l for l in stack.dead_letters()], [ (e["status"]) for e in stack.executions()])
    assert sorted(record.image_ref.key for record in stack.records()) == sorted(KEYS)
    assert stack.ledger().missing == 0
