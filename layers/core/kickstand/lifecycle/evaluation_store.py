"""The evaluation of a training run: reads both models and the photos from S3, and writes the verdict there."""

import hashlib
import tempfile
from pathlib import Path

from kickstand.clients import S3Client
from kickstand.events import Payload, split_uri
from kickstand.lifecycle.dataset_store import Dataset, read_manifest
from kickstand.lifecycle.evaluation import Contender, HeldOut, answer, compare, held_out, read_answers, unpack_artefact
from kickstand.lifecycle.gate import Stated
from kickstand.lifecycle.registry import Evaluation, Pin, describe_evaluation
from kickstand.lifecycle.retraining import Algorithm
from kickstand.store import transient


class Evaluating(Payload):
    """The input of the state "Evaluate Model"."""

    dataset: Dataset
    algorithm: Algorithm


def evaluate(s3: S3Client, bucket: str, champion_artefact: Path, evaluating: Evaluating) -> Evaluation:
    """Compare champion and challenger on the held-out photos, and put the gate's verdict beside the dataset.

    Raises FileNotFoundError for an incomplete dataset, StoreUnavailable.
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
    """The challenger's answers: computed here, or read from the batch transform."""
    dataset = evaluating.dataset
    if evaluating.algorithm == "kickstand":
        with tempfile.TemporaryDirectory() as folder:
            return answer(unpack_artefact(packed, Path(folder)), images)
    bucket, prefix = split_uri(f"{dataset.answers_uri}/")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    answers = {key.rpartition("/")[2].removesuffix(".out"): _read(s3, f"s3://{bucket}/{key}") for key in keys}
    return read_answers(answers, images, dataset.labels, champion, dataset.name[-8:])


def _read(s3: S3Client, uri: str) -> bytes:
    return _read_version(s3, uri)[0]


def _read_version(s3: S3Client, uri: str) -> tuple[bytes, str]:
    """The object and its version; "null" in a bucket without versions."""
    bucket, key = split_uri(uri)
    with transient("S3"):
        found = s3.get_object(Bucket=bucket, Key=key)
        return found["Body"].read(), found.get("VersionId", "null")
