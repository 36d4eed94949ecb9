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
from pydantic import Field

from kickstand.classify.artefact import read_card
from kickstand.classify.decoding import start as start_decoder
from kickstand.classify.images import MAX_IMAGE_BYTES, thumbnail
from kickstand.clients import BRIEF
from kickstand.errors import InvalidImage
from kickstand.events import Probability
from kickstand.lifecycle.golden import GoldenImage, read_golden_images
from kickstand.review.audit import asks_twice, pick_golden
from kickstand.review.rules import Desk, Refused, Review, as_shown, choices
from kickstand.review.store import MOST, answer_review, check_reviewer, count_waiting, next_review, skip_review
from kickstand.settings import Settings
from kickstand.store import read_image


class ReviewSettings(Settings):
    reviews_table: str
    records_table: str
    control_table: str
    model_dir: Path
    golden_dir: Path
    second_answer_share: Probability
    golden_review_share: Probability
    draw_key: bytes = Field(min_length=1)


logger = Logger()
metrics = Metrics()
dynamodb, s3, stepfunctions = (
    boto3.client("dynamodb", config=BRIEF),
    boto3.client("s3", config=BRIEF),
    boto3.client("stepfunctions", config=BRIEF),
)
settings = ReviewSettings.model_validate(os.environ)
start_decoder(wall_s=12)  # while the rest is imported, and well within the function's time-out
TABLES = settings.reviews_table, settings.records_table
LABELS = read_card(settings.model_dir).labels
PAGE = Environment(autoescape=True, loader=FileSystemLoader(Path(__file__).parent)).get_template("page.html.j2")
ABOUT = {
    "markdown": "Photos that wait for a person. Parameter: `reviewer`, your name, so that you are not asked for it."
}
LONGEST = 512  # pixels of the picture's longer side: sharp on a dashboard, and far from Lambda's limit of 6 MB


def read_golden() -> tuple[GoldenImage, ...]:
    """The model's golden photos; none where it has not all of them, which must not keep anybody from answering."""
    try:
        return tuple(read_golden_images(settings.golden_dir, LABELS))
    except ValueError as error:
        logger.warning("reviewers are shown no golden photos", reason=str(error))
        return ()


GOLDEN = read_golden() if settings.golden_review_share else ()


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any] | str:
    """event: the widget's (`describe`, `widgetContext`), with what a button sends; see `rules.Desk`."""
    metrics.add_metric(name="ReviewsAnswered", unit=MetricUnit.Count, value=0)
    desk, now = Desk.model_validate(event), datetime.now(UTC)
    if desk.describe:
        return ABOUT
    notice, answered = act(desk, now)
    waiting = count_waiting(dynamodb, TABLES[0], desk.reviewer)
    page = {
        "notice": notice,
        "reviewer": desk.reviewer,
        "waiting": waiting,
        "choices": choices(LABELS),
        "review": choose(desk, answered if waiting else None, now),
    }
    if desk.format == "json":
        return page
    return PAGE.render(page, most=MOST, endpoint=context.invoked_function_arn, theme=desk.theme)


def act(desk: Desk, now: datetime) -> tuple[str, Review | None]:
    """Do what the reviewer asks for; returns what they are to be told, and the review whose first answer they gave."""
    key = desk.image, desk.version
    try:
        match desk.action:
            case "answer":
                twice = asks_twice(*key, settings.second_answer_share, settings.draw_key)
                review = answer_review(
                    dynamodb,
                    stepfunctions,
                    TABLES,
                    key,
                    desk.label,
                    desk.reviewer,
                    LABELS,
                    now,
                    twice,
                    settings.control_table,
                )
                if review.answer and review.answer.reviewer != desk.reviewer:
                    logger.info("answered too", image=review.image, version=review.version)
                    return "", None
                metrics.add_metric(name="ReviewsAnswered", unit=MetricUnit.Count, value=1)
                logger.info("answered", image=review.image, version=review.version, why=review.why)
                return "", review
            case "check":
                if golden := pick(*key):
                    told = golden.name, golden.expected
                    check_reviewer(dynamodb, TABLES, key, desk.label, desk.reviewer, LABELS, told, now)
            case "skip":
                skip_review(dynamodb, TABLES[0], *key, desk.reviewer, now)
    except Refused as refusal:
        logger.info("refused", image=desk.image, version=desk.version, reason=str(refusal))
        return str(refusal), None
    return "", None


def choose(desk: Desk, answered: Review | None, now: datetime) -> dict[str, Any] | None:
    """What the reviewer sees next: perhaps a golden photo after an answer, else what waits; None where nothing does."""
    # A golden photo on the page only: a terminal that draws no pictures names the file instead.
    if (
        answered
        and desk.format == "html"
        and not answered.golden
        and (golden := pick(answered.image, answered.version))
    ):
        return show(answered, now, golden.data) | {"action": "check"}
    review = next_review(dynamodb, TABLES[0], desk.reviewer, now) if desk.reviewer else None
    return show(review, now) if review else None


def pick(image: str, version: str) -> GoldenImage | None:
    """The golden photo that follows the answer to this image; mostly none does."""
    return pick_golden(GOLDEN, image, version, settings.golden_review_share, settings.draw_key)


def show(review: Review, now: datetime, picture: bytes | None = None) -> dict[str, Any]:
    """What the reviewer sees of a review; never its task token, nor an answer. picture: another one in its place."""
    asked = as_shown(review)
    shown = asked.model_dump(mode="json", include={"image", "version", "why", "status", "explanation"})
    shown |= {"name": review.image.rsplit("/", 1)[-1], "hours": (now - review.requested_at).total_seconds() / 3600}
    shown |= {"action": "answer"}
    try:
        data = picture or read_image(s3, review.image_ref, MAX_IMAGE_BYTES)
        media_type, data = thumbnail(data, shown["name"], LONGEST)
    except InvalidImage as error:
        return {**shown, "missing": str(error)}
    return {**shown, "picture": f"data:{media_type};base64,{base64.b64encode(data).decode()}", "missing": ""}
