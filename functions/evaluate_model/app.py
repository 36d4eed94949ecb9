"""State "Evaluate Model": champion and challenger on the same held-out images, and the gate's verdict."""

import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from kickstand.lifecycle.dataset_store import Dataset, read_manifest
from kickstand.lifecycle.evaluation import Contender, HeldOut, answer, compare, held_out, read_answers, unpack_artefact
from kickstand.lifecycle.gate import Pledge
from kickstand.lifecycle.registry import as_model_card, as_properties
from kickstand.store import transient

logger = Logger()
metrics = Metrics()
s3 = boto3.client("s3")
TRAINING_BUCKET = os.environ["TRAINING_BUCKET"]
CHAMPION = Path(os.environ["MODEL_DIR"])
IMAGES = {"kickstand": os.environ["INFERENCE_IMAGE"], "image-classification": os.environ["IMAGE_CLASSIFICATION_IMAGE"]}
REASON_LIMIT = 1024  # of a model package's description


def read(uri: str) -> bytes:
    place = urlsplit(uri)
    with transient("S3"):
        return s3.get_object(Bucket=place.netloc, Key=place.path.lstrip("/"))["Body"].read()


def challenge(algorithm: str, dataset: Dataset, images: HeldOut, champion: Pledge) -> Contender:
    """The challenger's answers: by its artefact here, or by the container that has already answered."""
    if algorithm == "kickstand":
        with tempfile.TemporaryDirectory() as folder:
            return answer(unpack_artefact(read(dataset.artefact_uri), Path(folder)), images)
    prefix = dataset.answers_uri.removeprefix(f"s3://{TRAINING_BUCKET}/") + "/"
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=TRAINING_BUCKET, Prefix=prefix)
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    answers = {key.rpartition("/")[2].removesuffix(".out"): read(f"s3://{TRAINING_BUCKET}/{key}") for key in keys}
    return read_answers(answers, images, dataset.labels, champion, dataset.name[-8:])


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    dataset = Dataset.model_validate(event["dataset"])
    manifest = read_manifest(s3, TRAINING_BUCKET, f"runs/{dataset.name}/dataset/")
    if manifest is None:
        raise FileNotFoundError(f"{dataset.uri}manifest.json")
    images = held_out(manifest, lambda image: read(f"{dataset.uri}{image.path}"))
    champion = answer(CHAMPION, images)
    challenger = challenge(event["algorithm"], dataset, images, champion.pledge)
    verdict = compare(champion, challenger, manifest)
    report = f"runs/{dataset.name}/evaluation.json"
    report_uri = f"s3://{TRAINING_BUCKET}/{report}"
    with transient("S3"):
        s3.put_object(Bucket=TRAINING_BUCKET, Key=report, Body=verdict.model_dump_json(indent=1).encode())
    metrics.add_metric(name="ChallengerPromoted", unit=MetricUnit.Count, value=int(verdict.promote))
    logger.info("judged", promote=verdict.promote, reason=verdict.reason)
    told = {
        "model_version": challenger.pledge.model_version,
        "algorithm": event["algorithm"],
        "champion": champion.pledge.model_version,
        "data_sha256": dataset.data_sha256,
        "dataset": dataset.uri,
        "promise": f"risk {challenger.pledge.max_risk} with confidence {challenger.pledge.confidence_level}",
        "accuracy": f"{verdict.challenger.accuracy.value} of {verdict.challenger.accuracy.n}",
        "coverage": verdict.challenger.coverage.value,
        "selective_risk": verdict.challenger.selective_risk.value,
    }
    return {
        "promote": verdict.promote,
        "reason": verdict.reason[:REASON_LIMIT],
        "report_uri": report_uri,
        "inference_image": IMAGES[event["algorithm"]],
        "properties": as_properties(told),
        "model_card": as_model_card(verdict, challenger.pledge, dataset, report_uri, told),
    }
