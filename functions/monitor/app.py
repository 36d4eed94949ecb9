"""On a schedule: look at what was recorded and answered since the last look; tell what harms, and act on it."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from kickstand.classify.store import load_switch
from kickstand.events import Route
from kickstand.monitor.drift import Severity
from kickstand.monitor.look import Look, MonitorState, advance, read_watch, resume
from kickstand.monitor.store import load_monitor, save_monitor, switch_on_for_harm
from kickstand.review.store import find_oldest
from kickstand.store import announce_degraded, read_changes

logger = Logger()
metrics = Metrics()
dynamodb = boto3.client("dynamodb")
events = boto3.client("events")
RECORDS_TABLE, REVIEWS_TABLE = os.environ["RECORDS_TABLE"], os.environ["REVIEWS_TABLE"]
CONTROL_TABLE, IMAGE_BUCKET = os.environ["CONTROL_TABLE"], os.environ["IMAGE_BUCKET"]
REVIEW_EVERYTHING_WHEN = os.environ["REVIEW_EVERYTHING_WHEN"]
LAG = timedelta(seconds=float(os.environ["LAG_SECONDS"]))
HOLD = timedelta(hours=4)  # of the automatic switch, after the last look that found harm
WATCH = read_watch(Path(os.environ["MODEL_DIR"]))


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    now = datetime.now(UTC)
    standing, revision = load_monitor(dynamodb, CONTROL_TABLE)
    before = resume(standing, WATCH, now - LAG)
    changes = read_changes(dynamodb, RECORDS_TABLE, before.until, now + timedelta(hours=1))  # clocks differ
    look, state = advance(before, changes, WATCH, now - LAG, IMAGE_BUCKET)
    if not save_monitor(dynamodb, CONTROL_TABLE, state, revision):
        logger.info("another look was faster")
        return {"images": 0, "harm": ""}
    act(look, state, revision + 1, now)
    oldest, switch = find_oldest(dynamodb, REVIEWS_TABLE), load_switch(dynamodb, CONTROL_TABLE)
    add("OldestReviewHours", (now - oldest).total_seconds() / 3600 if oldest else 0.0)
    add("ReviewEverything", float(switch is not None and switch.is_on(now)))
    tell(look)
    logger.info("looked", images=look.images, harm=look.harm)
    return {"images": look.images, "harm": look.harm}


def act(look: Look, state: MonitorState, revision: int, now: datetime) -> None:
    """What harm is found is published once; the switch holds as long as it lasts, unless a person turns it."""
    if state.degraded is None:
        return
    switched = REVIEW_EVERYTHING_WHEN == "harm" or (REVIEW_EVERYTHING_WHEN == "promise" and look.broken_promise)
    if switched:
        switch_on_for_harm(dynamodb, CONTROL_TABLE, look.harm, now, HOLD, again=state.switched)
    if not state.announced:
        announce_degraded(events, state.degraded)
    done = state.model_copy(update={"announced": True, "switched": state.switched or switched})
    if done != state:
        save_monitor(dynamodb, CONTROL_TABLE, done, revision)


def tell(look: Look) -> None:
    """What CloudWatch shows, and its alarms watch. Each statistic's drift stands in the log: a metric costs $0.30."""
    add("MonitorImages", look.images, MetricUnit.Count)
    if look.images:
        add("PercentReviewed", 100 * look.routes[Route.REVIEW] / look.images, MetricUnit.Percent)
        add("PercentRejected", 100 * look.routes[Route.REJECT] / look.images, MetricUnit.Percent)
    if look.accepted.images:
        add("AcceptedAccuracy", 100 * look.accepted.accuracy, MetricUnit.Percent)
        add("AcceptedAccuracyLow", 100 * look.accepted.low, MetricUnit.Percent)
    add("PromiseUnsupported", float(look.broken_promise))
    add("DriftPages", len(look.moved(Severity.PAGE)), MetricUnit.Count)
    add("DriftNotices", len(look.moved(Severity.NOTICE)), MetricUnit.Count)
    add("DriftStrength", 100 * max((finding.strength for finding in look.drift), default=0.0), MetricUnit.Percent)
    metrics.add_metadata(key="drift", value={finding.statistic: finding.strength for finding in look.drift})


def add(name: str, value: float, unit: MetricUnit = MetricUnit.NoUnit) -> None:
    metrics.add_metric(name=name, unit=unit, value=value)
