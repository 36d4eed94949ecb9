"""The evaluation of a training run: what it compares is read from S3, and its verdict is written there."""

import hashlib
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from kickstand.clients import S3Client
from kickstand.events import Payload
from kickstand.lifecycle.dataset_store import Dataset, read_manifest
from kickstand.lifecycle.evaluation import Contender, HeldOut, answer, compare, held_out, read_answers, unpack_artefact
from kickstand.lifecycle.gate import Stated
from kickstand.lifecycle.registry import Evaluation, Pin, describe_evaluation
from kickstand.lifecycle.retraining import Algorithm
from kickstand.store import transient


class Evaluating(Payload):
    """What train_model tells "Evaluate Model"."""

    dataset: Dataset
    algorithm: Algorithm


def evaluate(s3: S3Client, bucket: str, champion_artefact: Path, evaluating: Evaluating) -> Evaluation:
    """Let champion and challenger answer the held-out images, and put the gate's verdict beside the dataset.

    Raises FileNotFoundError for a dataset that is not whole, StoreUnavailable.
    """
    dataset = evaluating.dataset
    manifest = read_manifest(s3, bucket, f"runs/{dataset.name}/dataset/")
    if manifest is None:
        raise FileNotFoundError(f"{dataset.uri}manifest.json")
    images = held_out(manifest, lambda image: _read(s3, f"{dataset.uri}{image.path}"))
    champion = answer(champion_artefact, images)
    packed, version = _read_version(s3, dataset.artefact_uri)
    challenger = _challenge(s3, evaluating, images, champion.stated, packed)
    verdict = compare(champion, challenger, manifest)
    report = f"runs/{dataset.name}/evaluation.json"
    with transient("S3"):
        s3.put_object(Bucket=bucket, Key=report, Body=verdict.model_dump_json(indent=1).encode())
    pin = Pin(version=version, sha256=hashlib.sha256(packed).hexdigest())
    return describe_evaluation(
        verdict, challenger.stated, champion.stated, evaluating.algorithm, dataset, f"s3://{bucket}/{report}", pin
    )


def _challenge(s3: S3Client, evaluating: Evaluating, images: HeldOut, champion: Stated, packed: bytes) -> Contender:
    """The challenger's answers: by its artefact here, or by the container that has already answered."""
    dataset = evaluating.dataset
    if evaluating.algorithm == "kickstand":
        with tempfile.TemporaryDirectory() as folder:
            return answer(unpack_artefact(packed, Path(folder)), images)
    place = urlsplit(f"{dataset.answers_uri}/")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=place.netloc, Prefix=place.path.lstrip("/"))
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    answers = {key.rpartition("/")[2].removesuffix(".out"): _read(s3, f"s3://{place.netloc}/{key}") for key in keys}
    return read_answers(answers, images, dataset.labels, champion, dataset.name[-8:])


def _read(s3: S3Client, uri: str) -> bytes:
    return _read_version(s3, uri)[0]


def _read_version(s3: S3Client, uri: str) -> tuple[bytes, str]:
    """The object, and which version of it this is; "null" in a bucket that keeps none."""
    place = urlsplit(uri)
    with transient("S3"):
        found = s3.get_object(Bucket=place.netloc, Key=place.path.lstrip("/"))
        return found["Body"].read(), found.get("VersionId", "null")
