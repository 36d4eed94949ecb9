"""Where people answer: a CloudWatch dashboard's custom widget; as JSON, the same for a terminal."""

import base64
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext
from jinja2 import Environment, FileSystemLoader

from kickstand.classify.artefact import read_card
from kickstand.classify.images import MAX_IMAGE_BYTES, thumbnail
from kickstand.clients import BRIEF
from kickstand.errors import InvalidImage
from kickstand.review.rules import Desk, Refused, Review, choices
from kickstand.review.store import answer_review, count_open, next_review, skip_review
from kickstand.settings import Settings
from kickstand.store import read_image


class ReviewSettings(Settings):
    reviews_table: str
    records_table: str
    model_dir: Path


logger = Logger()
metrics = Metrics()
dynamodb, s3, stepfunctions = (
    boto3.client("dynamodb", config=BRIEF),
    boto3.client("s3", config=BRIEF),
    boto3.client("stepfunctions", config=BRIEF),
)
settings = ReviewSettings.model_validate(os.environ)
TABLES = settings.reviews_table, settings.records_table
LABELS = read_card(settings.model_dir).labels
PAGE = Environment(autoescape=True, loader=FileSystemLoader(Path(__file__).parent)).get_template("page.html.j2")
ABOUT = {
    "markdown": "Photos that wait for a person. Parameter: `reviewer`, your name, so that you are not asked for it."
}
LONGEST = 512  # pixels of the picture's longer side: sharp on a dashboard, and far from Lambda's limit of 6 MB


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any] | str:
    """event: the widget's (`describe`, `widgetContext`), with what a button sends; see `rules.Desk`."""
    metrics.add_metric(name="ReviewPages", unit=MetricUnit.Count, value=1)
    desk, now = Desk.model_validate(event), datetime.now(UTC)
    if desk.describe:
        return ABOUT
    notice = act(desk, now)
    review = next_review(dynamodb, TABLES[0], desk.reviewer, now) if desk.reviewer else None
    page = {
        "notice": notice,
        "reviewer": desk.reviewer,
        "waiting": count_open(dynamodb, TABLES[0]),
        "choices": choices(LABELS),
        "review": review and show(review, now),
    }
    if desk.format == "json":
        return page
    return PAGE.render(page, endpoint=context.invoked_function_arn, theme=desk.theme)


def act(desk: Desk, now: datetime) -> str:
    """Do what the reviewer asks for; returns what they are to be told."""
    try:
        match desk.action:
            case "answer":
                review = answer_review(
                    dynamodb, stepfunctions, TABLES, (desk.image, desk.version), desk.label, desk.reviewer, LABELS, now
                )
                metrics.add_metric(name="ReviewsAnswered", unit=MetricUnit.Count, value=1)
                logger.info("answered", image=review.image, version=review.version, why=review.why)
            case "skip":
                skip_review(dynamodb, TABLES[0], desk.image, desk.version, desk.reviewer, now)
    except Refused as refusal:
        metrics.add_metric(name="AnswersRefused", unit=MetricUnit.Count, value=1)
        return str(refusal)
    return ""


def show(review: Review, now: datetime) -> dict[str, Any]:
    """What the reviewer sees of a review; never its task token."""
    shown = review.model_dump(mode="json", include={"image", "version", "why", "status", "explanation"})
    shown |= {"name": review.image.rsplit("/", 1)[-1], "hours": (now - review.requested_at).total_seconds() / 3600}
    try:
        media_type, data = thumbnail(read_image(s3, review.image_ref, MAX_IMAGE_BYTES), shown["name"], LONGEST)
    except InvalidImage as error:
        return {**shown, "missing": str(error)}
    return {**shown, "picture": f"data:{media_type};base64,{base64.b64encode(data).decode()}", "missing": ""}
