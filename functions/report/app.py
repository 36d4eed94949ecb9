"""Writes the monitoring report on a schedule, and shows a summary as a custom widget on the dashboard."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config
from pydantic import Field

from kickstand.classify.artefact import read_card
from kickstand.classify.images import MAX_IMAGE_BYTES
from kickstand.clients import PATIENT
from kickstand.events import Payload
from kickstand.monitor.drift import Budget, images_per_day
from kickstand.monitor.run import read_watch
from kickstand.report.page import (
    choose_latest,
    compose,
    draw_report,
    draw_widget,
    frame_widget,
    read_evidence,
    small_pictures,
)
from kickstand.settings import Settings
from kickstand.store import read_changes, read_image


class ReportSettings(Settings):
    records_table: str
    report_bucket: str
    report_days: float = Field(gt=0)
    model_dir: Path


class WidgetContext(Payload):
    """The part of the dashboard's message that the page needs."""

    theme: str = "light"


class ReportRequest(Payload):
    """A scheduled run, or a message of the dashboard's widget; its button sends the action "draw".

    Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/add_custom_widget_dashboard_about.html
    """

    describe: bool = False
    action: str = ""
    widget_context: WidgetContext | None = Field(default=None, alias="widgetContext")


logger = Logger()
metrics = Metrics()
dynamodb = boto3.client("dynamodb", config=PATIENT)
s3 = boto3.client("s3", config=PATIENT.merge(Config(signature_version="s3v4")))  # newer regions have no older version
settings = ReportSettings.model_validate(os.environ)
CARD, WATCH, EVIDENCE = read_card(settings.model_dir), read_watch(settings.model_dir), read_evidence(settings.model_dir)
MOST = 100_000  # the latest records that are read: with their charts they fit into the function's memory and time
PAGE, WIDGET = "report.html", "widget.html"
LINK_SECONDS = 3600  # how long the widget's link to the page works, for everybody who can see the dashboard
ABOUT = {"markdown": "A summary of the latest monitoring report, with a link to the whole page."}


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any] | str:
    metrics.add_metric(name="ReportsDrawn", unit=MetricUnit.Count, value=0)
    request = ReportRequest.model_validate(event)
    if request.describe:
        return ABOUT
    if request.widget_context is None:
        return draw(datetime.now(UTC))
    if request.action == "draw":
        draw(datetime.now(UTC))
    link = s3.generate_presigned_url(
        "get_object", {"Bucket": settings.report_bucket, "Key": PAGE}, ExpiresIn=LINK_SECONDS
    )
    return frame_widget(fetch_widget(), link, context.invoked_function_arn, dark=request.widget_context.theme == "dark")


def draw(now: datetime) -> dict[str, Any]:
    """Write page and widget about the latest days into the bucket, with a copy of the page for each day."""
    start = now - timedelta(days=settings.report_days)
    changes = read_changes(dynamodb, settings.records_table, start, now, newest_first=True)
    records = choose_latest(changes, start, MOST)
    budget = Budget(images_per_day=images_per_day([record.recorded_at for record in records]))
    report = compose(records, WATCH, CARD, budget, as_of=now, evidence=EVIDENCE)
    pictures = small_pictures(lambda record: read_image(s3, record.image_ref, MAX_IMAGE_BYTES))
    page = draw_report(report, records, WATCH, CARD, pictures)
    for key, text in (
        (PAGE, page),
        (f"days/{now:%Y-%m-%d}.html", page),
        (WIDGET, draw_widget(report, records, WATCH, CARD)),
    ):
        s3.put_object(
            Bucket=settings.report_bucket, Key=key, Body=text.encode(), ContentType="text/html; charset=utf-8"
        )
    metrics.add_metric(name="ReportsDrawn", unit=MetricUnit.Count, value=1)
    logger.info("drawn", records=len(records), harmed=report.monitor.harmed)
    return {"records": len(records), "harmed": report.monitor.harmed}


def fetch_widget() -> str:
    """The latest page; empty before the first one."""
    try:
        return s3.get_object(Bucket=settings.report_bucket, Key=WIDGET)["Body"].read().decode()
    except s3.exceptions.NoSuchKey:
        return ""
