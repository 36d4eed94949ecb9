"""On a schedule: check new records and answers for drift and wrong predictions, report them, and act on alerts."""

import os
from datetime import UTC, datetime
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.utilities.typing import LambdaContext

from kickstand.classify.store import load_switch
from kickstand.clients import PATIENT
from kickstand.monitor.run import MonitorSettings, measure, read_watch
from kickstand.monitor.store import run_monitor
from kickstand.review.store import find_oldest

logger = Logger()
metrics = Metrics()
dynamodb = boto3.client("dynamodb", config=PATIENT)
events = boto3.client("events", config=PATIENT)
settings = MonitorSettings.model_validate(os.environ)
WATCH = read_watch(settings.model_dir)


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    now = datetime.now(UTC)
    run = run_monitor(dynamodb, events, settings, WATCH, now, lambda: context.get_remaining_time_in_millis() / 1000)
    if run is None:
        logger.info("another run was faster")
        return {"images": 0, "harm": ""}
    oldest = find_oldest(dynamodb, settings.reviews_table)
    switch = load_switch(dynamodb, settings.control_table)
    for name, unit, value in measure(run, oldest, switch, now):
        metrics.add_metric(name=name, unit=unit, value=value)
    metrics.add_metadata(key="drift", value=run.strengths)
    metrics.add_metadata(key="labels", value=run.labels)
    logger.info("monitored", images=run.images, harm=run.harm)
    return {"images": run.images, "harm": run.harm}
