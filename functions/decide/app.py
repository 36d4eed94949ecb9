"""State "Decide": accept the prediction, send the photo to review, or reject it."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from kickstand.classify.artefact import read_card
from kickstand.classify.photo_quality import find_flaw
from kickstand.classify.policy import Deciding, decide, read_switch
from kickstand.settings import Settings


class DecideSettings(Settings):
    model_dir: Path


logger = Logger()
metrics = Metrics()
settings = DecideSettings.model_validate(os.environ)
POLICY = read_card(settings.model_dir).policy  # for older predictions, which bring no policy


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    deciding = Deciding.model_validate(event)
    review_everything = read_switch(deciding.switch, datetime.now(UTC))
    flaw = find_flaw(deciding.statistics)
    decision = decide(deciding.prediction, deciding.prediction.policy or POLICY, review_everything, flaw)
    metrics.add_metric(name=f"Decided{decision.route.title()}", unit=MetricUnit.Count, value=1)
    logger.info("decided", route=decision.route, reason=decision.reason)
    return decision.model_dump(mode="json")
