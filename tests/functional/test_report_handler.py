"""The function that draws the monitoring report: on its schedule, and as a dashboard's widget."""

import inspect
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.client import BaseClient

from kickstand.store import put_record
from kickstand_cli.local.stack import Stack, deploy
from kickstand_cli.project import PROJECT
from tests.stream import make_records

Invoke = Callable[..., Any]
N = 40


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The deployment with some records of today and one of last year, which was answered today."""
    images, now = tmp_path_factory.mktemp("images"), datetime.now(UTC)
    with deploy(PROJECT / "template.yaml") as stack:
        stack.s3.create_bucket(Bucket="photos")
        stack.s3.put_bucket_versioning(Bucket="photos", VersioningConfiguration={"Status": "Enabled"})
        for i, record in enumerate(make_records(N, images=images)):
            key = record.image_ref.key
            version = stack.s3.put_object(Bucket="photos", Key=key, Body=(images / key).read_bytes())["VersionId"]
            at = now - timedelta(days=400) if i == 0 else now - timedelta(minutes=10 * (N - i))
            ref = record.image_ref.model_copy(update={"version_id": version})
            moved = {"image_ref": ref, "version": version, "recorded_at": at, "review": None}
            put_record(stack.dynamodb, "RecordsTable", record.model_copy(update=moved))
        yield stack


@pytest.fixture
def invoke(stack: Stack) -> Invoke:
    def call(name: str = "review", **changes: Any) -> Any:
        event = {**json.loads((PROJECT / f"events/{name}.json").read_bytes()), **changes}
        function = stack.outputs["ReportFunctionName"]
        answer = boto3.client("lambda").invoke(FunctionName=function, Payload=json.dumps(event))
        return json.loads(answer["Payload"].read())

    return call


def stored(stack: Stack, key: str) -> str:
    return stack.s3.get_object(Bucket=stack.outputs["ReportBucketName"], Key=key)["Body"].read().decode()


def test_before_the_first_drawing_the_widget_offers_to_draw(invoke: Invoke) -> None:
    told = invoke()
    assert "No report has been drawn yet" in told
    assert "cwdb-action" in told


def test_it_describes_itself(invoke: Invoke) -> None:
    assert "markdown" in invoke(describe=True)


def test_on_its_schedule_it_draws_the_latest_days_into_the_bucket(stack: Stack, invoke: Invoke) -> None:
    assert invoke("report") == {"records": N - 1, "harmed": False}
    page = stored(stack, "report.html")
    assert f"<b>{N - 1}</b><span>photos</span>" in page
    (kept,) = stack.s3.list_objects_v2(Bucket=stack.outputs["ReportBucketName"], Prefix="days/")["Contents"]
    assert re.fullmatch(r"days/\d{4}-\d\d-\d\d\.html", kept["Key"])
    assert stored(stack, kept["Key"]) == page


def test_the_widget_shows_the_essentials_and_links_to_the_page(stack: Stack, invoke: Invoke) -> None:
    told = invoke(action="draw")
    assert told.count("<svg ") == 2
    assert "Estimated accuracy is not drawn: no person has answered yet." in told
    assert "ks-dark" not in re.sub(r"<style>.*?</style>", "", told, flags=re.S)
    (link,) = re.findall(r'href="([^"]+)"', told)
    assert "/report.html?" in link
    assert "X-Amz-Expires=3600" in link
    for forbidden in ("<script", "onclick", "<iframe", "<use", "javascript:"):
        assert forbidden not in told.lower()


def test_the_widget_follows_the_dashboard_into_the_dark(invoke: Invoke) -> None:
    context = json.loads((PROJECT / "events/review.json").read_bytes())["widgetContext"]
    assert 'class="ks-report cwdb-no-default-styles ks-dark"' in invoke(widgetContext={**context, "theme": "dark"})


def test_of_many_records_only_the_latest_are_read(
    stack: Stack, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = inspect.unwrap(stack.functions["ReportFunction"].load()).__globals__
    monkeypatch.setitem(module, "MOST", 20)
    read = 0
    send = BaseClient._make_api_call  # type: ignore[attr-defined]

    def counted(client: BaseClient, operation: str, parameters: dict[str, Any]) -> Any:
        nonlocal read
        answer = send(client, operation, parameters)
        read += len(answer["Responses"]["RecordsTable"]) if operation == "BatchGetItem" else 0
        return answer

    monkeypatch.setattr(BaseClient, "_make_api_call", counted)
    assert invoke("report")["records"] == 20
    assert read <= 100
