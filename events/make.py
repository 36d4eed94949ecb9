"""Draws events/photo.png, and writes the sample events about it: `python events/make.py`."""

import hashlib
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from kickstand.classify.artefact import read_card
from kickstand.classify.images import prepare
from kickstand.records import compose_record

EVENTS = Path(__file__).parent
MODEL = EVENTS.parent / "layers" / "model" / "model"
BUCKET, KEY = "kickstand-photos", "uploads/bicycle.png"
EXECUTION = (
    "arn:aws:states:us-east-1:123456789012:execution:ClassifyImageStateMachine:17793124-05d4-b198-2fde-7ededc63b103"
)
PREDICTION = {
    "label": "bicycle",
    "confidence": 0.987654,
    "probabilities": {"bicycle": 0.987654, "motorcycle": 0.012346},
    "neither": 0.004321,
    "model_version": "sample",
    "backend": "embedded",
    "latency_ms": 1.234,
}
DECISION = {
    "route": "accept",
    "reason": "confident",
    "explanation": "bicycle with confidence 0.988, accepted from 0.900",
    "policy_version": "sample",
}
# https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-create-rule-schedule.html
SCHEDULED = {
    "version": "0",
    "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa",
    "detail-type": "Scheduled Event",
    "source": "aws.events",
    "account": "123456789012",
    "time": "2026-05-04T10:00:00Z",
    "region": "us-east-1",
    "resources": ["arn:aws:events:us-east-1:123456789012:rule/KeepLedgerFunctionLook"],
    "detail": {},
}
ORDER = {  # of `kickstand backfill`
    "run": "20260504T100000-53dc4d",
    "prefix": "uploads/",
    "until": "2026-05-04T10:00:00Z",
    "dollars_per_photo": "0.000025000",
    "dollars_per_key": "0.000000900",
}
# https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/automating-updates-to-serverless-apps.html
BEFORE_TRAFFIC = {
    "DeploymentId": "d-YTOB5Q5PN",
    "LifecycleEventHookExecutionId": "eyJlbmNyeXB0ZWREYXRhIjoidGhlIHRva2VuIG9mIG9uZSBob29rIn0",
}
# As CloudWatch sends it, once the form has been filled in:
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/add_custom_widget_dashboard_about.html
WIDGET = {
    "action": "show",
    "widgetContext": {
        "dashboardName": "Kickstand",
        "widgetId": "widget-1",
        "accountId": "123456789012",
        "locale": "en",
        "timezone": {"label": "UTC", "offsetISO": "+00:00", "offsetInMinutes": 0},
        "period": 300,
        "isAutoPeriod": True,
        "timeRange": {"mode": "relative", "start": 1777884600000, "end": 1777888200000, "relativeStart": 3600000},
        "theme": "light",
        "linkCharts": True,
        "title": "Photos waiting for review",
        "forms": {"all": {"reviewer": "Ada"}},
        "params": {},
        "width": 588,
        "height": 900,
    },
}

DATASET = {
    "name": "20260504T100000",
    "job_name": "kickstand-20260504T100000",
    "uri": "s3://kickstand-trainingbucket/runs/20260504T100000/dataset/",
    "artefact_uri": "s3://kickstand-trainingbucket/jobs/kickstand-20260504T100000/output/model.tar.gz",
    "answers_uri": "s3://kickstand-trainingbucket/runs/20260504T100000/answers",
    "labels": ["bicycle", "motorcycle"],
    "n_labels": 2,
    "n_train": 903,
    "image_shape": "3,32,32",
    "counts": {"test/bicycle": 100, "test/motorcycle": 100, "train/bicycle": 500, "train/motorcycle": 500},
    "data_sha256": "d4f1" * 16,
    "reviewed": 0,
    "audited": 0,
    "left_out": {},
}
# The fields that Kickstand reads: https://docs.aws.amazon.com/sagemaker/latest/dg/automating-sagemaker-with-eventbridge.html
MODEL_PACKAGE_CHANGED = {
    "version": "0",
    "id": "844e2571-85d4-695f-b930-0153b71dcb42",
    "detail-type": "SageMaker Model Package State Change",
    "source": "aws.sagemaker",
    "account": "123456789012",
    "time": "2026-05-04T10:00:00Z",
    "region": "us-east-1",
    "resources": ["arn:aws:sagemaker:us-east-1:123456789012:model-package/kickstand-challengers/1"],
    "detail": {
        "ModelPackageGroupName": "kickstand-challengers",
        "ModelPackageVersion": 1,
        "ModelPackageArn": "arn:aws:sagemaker:us-east-1:123456789012:model-package/kickstand-challengers/1",
        "ModelPackageStatus": "Completed",
        "ModelApprovalStatus": "Approved",
    },
}


def draw() -> bytes:
    """A bicycle of lines and circles, as PNG."""
    image = Image.new("RGB", (128, 96), "#dfe8ee")
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 72, 128, 96), fill="#9aa58a")
    for hub in (32, 96):
        pen.ellipse((hub - 20, 44, hub + 20, 84), outline="#222222", width=3)
    pedals, saddle, bars = (60, 64), (52, 36), (86, 34)
    frame = [((32, 64), pedals), (pedals, bars), (bars, saddle), (saddle, pedals), (saddle, (32, 64)), (bars, (96, 64))]
    for start, end in frame:
        pen.line((start, end), fill="#b3261e", width=3)
    pen.line(((46, 34), (58, 34)), fill="#222222", width=4)
    pen.line(((80, 28), (92, 32)), fill="#222222", width=4)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def compose(photo: bytes) -> dict[str, dict[str, Any]]:
    """Every sample event, by file name: all about the upload of this photo."""
    uploaded = object_created(photo, version_id="IYV3p45BT0ac8hjHg1houSdS1a.Mro8e")
    prepared = prepare(photo, KEY, read_card(MODEL).input_shape).model_dump(mode="json")
    state: dict[str, Any] = {**uploaded, "prepared_image": prepared, "prediction": PREDICTION, "decision": DECISION}
    record = compose_record(state, EXECUTION, datetime(2026, 5, 4, 9, 30, 1, tzinfo=UTC))
    audited = record.model_copy(update={"audit_probability": 0.02, "audited": True})
    asking = EXECUTION.replace("ClassifyImage", "ReviewImage")
    return {
        "s3_object_created": uploaded,
        "admit_uploads": {"Records": [received(uploaded)]},
        # Without a version, it works with any bucket that holds this photo, on AWS or on a laptop.
        "prepare_image": object_created(photo),
        "classify_image": prepared,
        "decide": {"prediction": PREDICTION, "switch": {}, "statistics": prepared["statistics"]},
        "record_result": {"state": state, "execution": EXECUTION},
        "ask_person": {
            "record": audited.model_dump(mode="json", exclude_none=True),
            "execution": asking,
            "task_token": "a token of Step Functions",
            "again": False,
        },
        "record_review": {"image": record.image, "version": record.version, "answered": False},
        "review": WIDGET,
        "keep_ledger": SCHEDULED,
        "monitor": SCHEDULED,
        "report": {**SCHEDULED, "resources": ["arn:aws:events:us-east-1:123456789012:rule/ReportFunctionDraw"]},
        "backfill_photos": {
            "Items": [{"Etag": f'"{uploaded["detail"]["object"]["etag"]}"', "Key": KEY, "Size": len(photo)}],
            "BatchInput": {"order": ORDER},
        },
        "prepare_dataset": {"execution_name": "20260504T100000"},
        "evaluate_model": {"algorithm": "kickstand", "dataset": DATASET},
        "request_training": SCHEDULED,
        "announce_approval": MODEL_PACKAGE_CHANGED,
        "check_golden_images": BEFORE_TRAFFIC,
    }


def received(event: dict[str, Any]) -> dict[str, Any]:
    """As Lambda passes it to a function: https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html."""
    return {
        "messageId": "059f36b4-87a3-44ab-83d2-661975830a7d",
        "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a",
        "body": json.dumps(event),
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": "1777887001000",
            "SenderId": "AIDAIENQZJOLO23YVJ4VO",
            "ApproximateFirstReceiveTimestamp": "1777887001010",
        },
        "messageAttributes": {},
        "md5OfBody": hashlib.md5(json.dumps(event).encode(), usedforsecurity=False).hexdigest(),
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:UploadQueue",
        "awsRegion": "us-east-1",
    }


def object_created(photo: bytes, **version: str) -> dict[str, Any]:
    """As EventBridge delivers it: https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html."""
    etag = hashlib.md5(photo, usedforsecurity=False).hexdigest()
    uploaded = {"key": KEY, "size": len(photo), "etag": etag}
    uploaded |= {name.replace("_", "-"): value for name, value in version.items()} | {"sequencer": "617F08299329D189"}
    return {
        "version": "0",
        "id": "17793124-05d4-b198-2fde-7ededc63b103",
        "detail-type": "Object Created",
        "source": "aws.s3",
        "account": "123456789012",
        "time": "2026-05-04T09:30:00Z",
        "region": "us-east-1",
        "resources": [f"arn:aws:s3:::{BUCKET}"],
        "detail": {
            "version": "0",
            "bucket": {"name": BUCKET},
            "object": uploaded,
            "request-id": "N4N7GDK58NMKJ12R",
            "requester": "123456789012",
            "source-ip-address": "192.0.2.10",
            "reason": "PutObject",
        },
    }


if __name__ == "__main__":
    (EVENTS / "photo.png").write_bytes(draw())
    for name, event in compose(draw()).items():
        (EVENTS / f"{name}.json").write_text(json.dumps(event, indent=2) + "\n", "utf-8")
