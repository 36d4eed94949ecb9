"""The review page: a custom widget on a CloudWatch dashboard, or JSON for the terminal."""

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
from kickstand.review.rules import AUDIT, QUESTION, Desk, Refused, Review, choices, count_done, keys, why_shown
from kickstand.review.store import (
    MOST,
    answer_review,
    check_reviewer,
    count_waiting,
    hold_review,
    load_review,
    next_review,
    release_review,
    skip_review,
    undo_answer,
)
from kickstand.settings import Settings
from kickstand.store import read_image
from kickstand.text import finalize


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
TEMPLATES = Environment(autoescape=True, finalize=finalize, loader=FileSystemLoader(Path(__file__).parent))
PAGE = TEMPLATES.get_template("page.html.j2")
ABOUT = {"markdown": "Photos waiting for review. Parameter: `reviewer`, your name; without it the page asks for it."}
LONGEST = 512  # pixels of the longer side: sharp on a dashboard, and far below Lambda's limit of 6 MB
ZOOMED = 2048  # the same, larger: noise of this size is a JPEG of 3 MB, and 4 MB in base64
REASONS = {
    "": "all",
    "unsure": "unsure",
    "perhaps_neither": "perhaps none of these",
    "review_everything": "review everything",
    AUDIT: "audits",
}


def read_golden() -> tuple[GoldenImage, ...]:
    """The model's golden photos; none if some are missing, since people must still be able to answer."""
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
    if desk.action == "zoom":
        return PAGE.render(zoomed=zoom(desk))
    notice, changed = act(desk, now)
    page: dict[str, Any] = {
        "reviewer": desk.reviewer,
        "waiting": count_waiting(dynamodb, TABLES[0], desk.reviewer),
        "choices": choices(LABELS),
        "keys": keys(len(LABELS)),
        "done": count_done(desk, changed is not None, LABELS),
        "reason": desk.reason,
        "undo": {"image": desk.image, "version": desk.version, "given": desk.label, "golden": desk.action == "check"}
        if changed and desk.action in ("answer", "check")
        else None,
    }
    page |= choose(desk, changed, now)
    page["notice"] = " ".join(filter(None, (notice, page["notice"])))
    if desk.format == "json":
        return page
    return PAGE.render(page, most=MOST, reasons=REASONS, endpoint=context.invoked_function_arn, theme=desk.theme)


def act(desk: Desk, now: datetime) -> tuple[str, Review | None]:
    """Do what the reviewer asks for. Returns the message for them, and the review that their answer changed."""
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
                second = review.answer is not None and review.answer.reviewer != desk.reviewer
                if not second:
                    metrics.add_metric(name="ReviewsAnswered", unit=MetricUnit.Count, value=1)
                message = "answered too" if second else "answered"
                logger.info(message, image=review.image, version=review.version, why=review.why)
                return "", review
            case "check":
                if golden := pick(*key):
                    told = golden.name, golden.expected
                    return "", check_reviewer(dynamodb, TABLES, key, desk.label, desk.reviewer, LABELS, told, now)
            case "undo":
                review = undo_answer(dynamodb, TABLES, key, desk.reviewer, desk.golden, now, settings.control_table)
                logger.info("undone", image=review.image, version=review.version)
                return "", review
            case "skip":
                skip_review(dynamodb, TABLES[0], *key, desk.reviewer, now)
            case "show" | "leave" if desk.image:  # another photo, or none, takes the place of this one
                release_review(dynamodb, TABLES[0], *key, desk.former or desk.reviewer)
    except Refused as refusal:
        logger.info("refused", image=desk.image, version=desk.version, reason=str(refusal))
        return str(refusal), None
    return "", None


def choose(desk: Desk, changed: Review | None, now: datetime) -> dict[str, Any]:
    """The next photo for the reviewer: an undone one, a golden photo after an answer, or one from the queue.

    ahead: whether the photo on the page stays there.
    """
    table, ahead, notice = TABLES[0], desk.ahead, ""
    undone = changed if desk.action == "undo" else None
    first = changed is not None and changed.answer is not None and changed.answer.reviewer == desk.reviewer
    if undone and not first:
        return {"notice": notice, "ahead": False, "review": show(undone, now, desk.draw)}
    on_page = desk.on_page, desk.on_page_version
    if desk.on_page:
        try:
            hold_review(dynamodb, table, *on_page, desk.reviewer, now)
        except Refused as refusal:
            notice, ahead = str(refusal), False
    # Golden photos only on the page: a terminal without graphics would show the file name instead.
    golden = None
    if changed and first and desk.action in ("answer", "undo") and desk.format == "html" and not changed.golden:
        golden = pick(*changed.key)
    if changed and golden and (undone or count_waiting(dynamodb, table, desk.reviewer)):
        shown = show(changed, now, desk.draw, golden.data) | {"action": "check"}
        return {"notice": notice, "ahead": ahead and not undone, "review": shown}
    review = next_review(dynamodb, table, desk.reviewer, now, desk.reason, on_page, ahead) if desk.reviewer else None
    return {"notice": notice, "ahead": ahead, "review": show(review, now, desk.draw) if review else None}


def pick(image: str, version: str) -> GoldenImage | None:
    """The golden photo that follows the answer about this photo; usually none."""
    return pick_golden(GOLDEN, image, version, settings.golden_review_share, settings.draw_key)


def show(review: Review, now: datetime, drawn: bool = True, photo: bytes | None = None) -> dict[str, Any]:
    """A review as the reviewer sees it, without its task token and answers. photo: another one in its place.

    drawn: whether to decode the photo.
    """
    why = AUDIT if photo else why_shown(review)
    shown = review.model_dump(mode="json", include={"image", "version"})
    shown |= {"name": review.image.rsplit("/", 1)[-1], "hours": (now - review.requested_at).total_seconds() / 3600}
    shown |= {"action": "answer", "why": why, "question": QUESTION, "picture": "", "missing": ""}
    if not drawn:
        return shown | {"missing": "photo cannot be shown"}
    try:
        return shown | {"picture": draw(review, LONGEST, photo)}
    except InvalidImage as error:
        reason = str(error).removeprefix(f"{review.image_ref.uri}: ").removeprefix(f"{shown['name']}: ")
        return shown | {"missing": reason}


def draw(review: Review, longest: int, photo: bytes | None = None) -> str:
    """The photo as a data: URL. Raises InvalidImage."""
    name = review.image.rsplit("/", 1)[-1]
    media_type, data = thumbnail(photo or read_image(s3, review.image_ref, MAX_IMAGE_BYTES), name, longest)
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def zoom(desk: Desk) -> str:
    """A larger version of the photo that this reviewer sees; nothing if they see another, or it cannot be decoded."""
    try:
        review = load_review(dynamodb, TABLES[0], desk.image, desk.version)
        if desk.golden:
            golden = pick(desk.image, desk.version)
            return draw(review, ZOOMED, golden.data) if golden else ""
        if review.claim is None or review.claim.by != desk.reviewer:
            return ""
        return draw(review, ZOOMED)
    except (InvalidImage, Refused):
        return ""
