"""CodeDeploy's hook before traffic: a new version of Classify Image must get the golden photos right."""

import json
import os
from pathlib import Path
from typing import Any

import boto3
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config
from pydantic import Field

from kickstand.classify.artefact import read_card
from kickstand.classify.images import prepare
from kickstand.clients import BRIEF
from kickstand.events import Payload, Prediction
from kickstand.lifecycle.golden import find_mistake, read_golden_images
from kickstand.settings import Settings


class CheckGoldenImagesSettings(Settings):
    new_version: str
    model_dir: Path
    golden_dir: Path


class Hook(Payload):
    """CodeDeploy's message before it shifts traffic.

    Source: https://docs.aws.amazon.com/codedeploy/latest/userguide/reference-appspec-file-structure-hooks.html
    """

    deployment: str = Field(alias="DeploymentId")
    execution: str = Field(alias="LifecycleEventHookExecutionId")


logger = Logger()
codedeploy: Any = boto3.client("codedeploy", config=BRIEF)
lambda_: Any = boto3.client("lambda", config=BRIEF.merge(Config(read_timeout=20)))  # its 15 s, and the start
settings = CheckGoldenImagesSettings.model_validate(os.environ)
CARD = read_card(settings.model_dir)


def classify(data: bytes, name: str) -> Prediction:
    """The new version's prediction. Raises RuntimeError where it fails."""
    prepared = prepare(data, name, CARD.input_shape)
    answer = lambda_.invoke(FunctionName=settings.new_version, Payload=prepared.model_dump_json())
    body = answer["Payload"].read()
    if "FunctionError" in answer:
        raise RuntimeError(f"{name}: {body.decode()}")
    return Prediction.model_validate(json.loads(body))


def find_mistakes() -> list[str]:
    """The golden photos that the new version gets wrong, or why they could not be checked."""
    try:
        images = list(read_golden_images(settings.golden_dir, CARD.labels))
        answers = [(image, classify(image.data, image.name)) for image in images]
    except Exception as error:  # CodeDeploy waits an hour for a hook that never reports
        logger.exception("golden photos could not be checked")
        return [f"{type(error).__name__}: {error}"]
    found = [find_mistake(image, answer, answer.policy or CARD.policy) for image, answer in answers]
    return [mistake for mistake in found if mistake]


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    hook = Hook.model_validate(event)
    mistakes = find_mistakes()
    codedeploy.put_lifecycle_event_hook_execution_status(
        deploymentId=hook.deployment,
        lifecycleEventHookExecutionId=hook.execution,
        status="Failed" if mistakes else "Succeeded",
    )
    logger.info("golden photos checked", version=settings.new_version, mistakes=mistakes)
    return {"mistakes": mistakes}
