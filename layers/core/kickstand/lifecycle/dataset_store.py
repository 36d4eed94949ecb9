"""The dataset of one training run, on S3: the base dataset, and people's new answers."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from kickstand.classify.images import MAX_IMAGE_BYTES, encode, hash_pixels, scale
from kickstand.clients import S3Client
from kickstand.errors import InvalidImage
from kickstand.events import NEITHER, Payload, Sha256
from kickstand.review.agreement import choose_answers
from kickstand.review.rules import AUDIT, Review
from kickstand.store import read_image, transient

BASE = "base/"
AUXILIARY = "auxiliary.npz"
MAX_IMAGES = 20_000  # at 25 photos a second, which S3's latency and four workers allow, 800 s of Lambda's 900
WORKERS = 4  # that read and write; only two photos, one for each CPU, are decoded at a time
VALIDATION_SHARE = 10  # every tenth training photo, by which the built-in algorithm chooses its epoch

Split = Literal["train", "test"]


class Dataset(Payload):
    """The dataset as the workflow knows it; `$.dataset` in the execution.

    name: of the run, at most 36 characters: also the folder in S3, and the token that makes registration idempotent.
    uri: s3://bucket/runs/name/dataset/, with train/<label>/, test/<label>/, train.lst, validation.lst, manifest.json.
    artefact_uri: where SageMaker puts the job's model.tar.gz.
    answers_uri: where a batch transform writes its answers.
    n_labels: number of classes, without "neither". n_train: photos in train.lst.
    image_shape: channels, height, width, as SageMaker's image classification reads it.
    data_sha256: over the sorted lines `<split>/<label>/<SHA-256 of the pixels>`.
    reviewed, audited: photos that people have labelled, by their use: for training, and held out.
    left_out: answers without a label, or that do not count (see `agreement.choose_answers`), and photos that were
        deleted, occur twice or under two labels, or are also held out.
    """

    name: str
    job_name: str
    uri: str
    artefact_uri: str
    answers_uri: str
    labels: tuple[str, ...]
    n_labels: int
    n_train: int
    image_shape: str
    counts: dict[str, int]
    data_sha256: Sha256
    reviewed: int
    audited: int
    left_out: dict[str, int]


class Image(Payload):
    """One photo of the dataset. path: relative to its folder. origin: where it comes from."""

    path: str
    split: Split
    label: str
    pixels_sha256: Sha256
    origin: str


class Manifest(Payload):
    """All photos of the dataset. It is written last: without it, the dataset is incomplete."""

    format: Literal["kickstand-training-1"] = "kickstand-training-1"
    dataset: Dataset
    images: tuple[Image, ...]


class NothingToLearnError(ValueError):
    """The base dataset is missing, one-sided, or too large; the message says which, and what to do."""


@dataclass(frozen=True)
class _Source:
    """A photo that can become part of the dataset. read: returns its bytes; raises InvalidImage if it was deleted."""

    split: Split
    label: str
    origin: str
    read: Callable[[], bytes]


def name_run(execution_name: str) -> str:
    """A name for the folder in S3 and for SageMaker's jobs, from the execution's name; equal names give equal ones.

    >>> name_run("20261122T201500")
    '20261122T201500'
    """
    plain = re.sub(r"[^a-zA-Z0-9]+", "-", execution_name).strip("-")
    return plain if len(plain) <= 36 else hashlib.sha256(execution_name.encode()).hexdigest()[:32]


def prepare_dataset(
    s3: S3Client,
    bucket: str,
    reviews: Iterable[Review],
    execution_name: str,
    labels: tuple[str, ...],
    input_shape: tuple[int, int, int],
) -> Dataset:
    """Write runs/<name>/dataset/ from base/ and the answered reviews; a second call finds it there.

    Answers to random audits are held out, never used for training: only they represent all photos. A photo whose pixels
    are also held out is left out of training, so that both models can be compared on photos that neither has seen.
    Pixels with two different labels are left out; but an answer changes no label of the base.

    Raises NothingToLearnError, StoreUnavailable.
    """
    name = name_run(execution_name)
    folder = f"runs/{name}/dataset/"
    if standing := read_manifest(s3, bucket, folder):
        return standing.dataset
    left_out: Counter[str] = Counter()
    base = [*_list_base(s3, bucket, (*labels, NEITHER))]
    sources = [*base, *_list_answers(s3, reviews, (*labels, NEITHER), base, left_out)]
    if len(sources) > MAX_IMAGES:
        raise NothingToLearnError(f"{len(sources):,} photos, more than the {MAX_IMAGES:,} that fit into one run")
    images: dict[tuple[str, str], Image] = {}
    held_out: set[str] = set()
    contradictory: set[tuple[str, str]] = set()
    for split in ("test", "train"):  # in this order, so that held-out photos are known before training photos
        for image in _write_images(s3, bucket, folder, [one for one in sources if one.split == split], input_shape):
            if image is None:
                left_out["gone"] += 1
            elif split == "train" and image.pixels_sha256 in held_out:
                left_out["held_out"] += 1
            elif other := images.get(place := (split, image.pixels_sha256)):
                left_out["twice" if other.label == image.label else "contradictory"] += 1
                if other.label != image.label and (other.origin != BASE or image.origin == BASE):
                    contradictory.add(place)
            else:
                images[split, image.pixels_sha256] = image
        held_out = {pixels for _, pixels in images}
    left_out["contradictory"] += len(contradictory)
    for place in contradictory:
        del images[place]
    found = sorted(images.values(), key=lambda image: image.path)
    counts = Counter(f"{image.split}/{image.label}" for image in found)
    for label in labels:
        if not counts[f"train/{label}"] or not counts[f"test/{label}"]:
            raise NothingToLearnError(
                f"s3://{bucket}/{BASE}: no photos of {label} to train on, or none held out; "
                "`kickstand training upload` puts them there"
            )
    lists = _list_files(found, labels)
    for file, text in lists.items():
        _put(s3, bucket, f"{folder}{file}", text.encode())
    _copy_auxiliary(s3, bucket, folder)
    _sweep(s3, bucket, folder, {f"{folder}{name}" for name in (*(one.path for one in found), *lists, AUXILIARY)})
    height, width, channels = input_shape
    dataset = Dataset(
        name=name,
        job_name=f"kickstand-{name}",
        uri=f"s3://{bucket}/{folder}",
        artefact_uri=f"s3://{bucket}/jobs/kickstand-{name}/output/model.tar.gz",
        answers_uri=f"s3://{bucket}/runs/{name}/answers",
        labels=labels,
        n_labels=len(labels),
        n_train=lists["train.lst"].count("\n"),
        image_shape=f"{channels},{height},{width}",
        counts=dict(sorted(counts.items())),
        data_sha256=hash_dataset(found),
        reviewed=sum(image.origin != BASE and image.split == "train" for image in found),
        audited=sum(image.origin != BASE and image.split == "test" for image in found),
        left_out=dict(+left_out),
    )
    _put(
        s3, bucket, f"{folder}manifest.json", Manifest(dataset=dataset, images=tuple(found)).model_dump_json().encode()
    )
    return dataset


def read_manifest(s3: S3Client, bucket: str, folder: str) -> Manifest | None:
    """The dataset's manifest; None if the dataset is incomplete. Raises StoreUnavailable."""
    try:
        with transient("S3"):
            return Manifest.model_validate_json(
                s3.get_object(Bucket=bucket, Key=f"{folder}manifest.json")["Body"].read()
            )
    except s3.exceptions.NoSuchKey:
        return None


def hash_dataset(images: Iterable[Image]) -> str:
    """SHA-256 of its content, independent of order and file names."""
    lines = sorted(f"{image.split}/{image.label}/{image.pixels_sha256}\n" for image in images)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _list_base(s3: S3Client, bucket: str, labels: tuple[str, ...]) -> Iterator[_Source]:
    """Every photo of base/train/<class>/ and base/test/<class>/."""

    def reader(key: str) -> Callable[[], bytes]:
        return lambda: s3.get_object(Bucket=bucket, Key=key)["Body"].read()

    for split in ("train", "test"):
        for label in labels:
            prefix = f"{BASE}{split}/{label}/"
            with transient("S3"):
                for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                    for item in page.get("Contents", []):
                        yield _Source("train" if split == "train" else "test", label, BASE, reader(item["Key"]))


def _list_answers(
    s3: S3Client, reviews: Iterable[Review], labels: tuple[str, ...], base: list[_Source], left_out: Counter[str]
) -> Iterator[_Source]:
    """Every answered review with a label, whose answer counts."""

    def reader(review: Review) -> Callable[[], bytes]:
        return lambda: read_image(s3, review.image_ref, MAX_IMAGE_BYTES)

    counts = Counter((one.split == "test", one.label) for one in base)
    for review, why_not in choose_answers(reviews, counts):
        if review.answer is None:
            continue
        if why_not or review.answer.label not in labels:
            left_out[why_not or "other_label"] += 1
            continue
        split: Split = "test" if review.why == AUDIT else "train"
        yield _Source(split, review.answer.label, f"{review.image}@{review.version}", reader(review))


def _write_images(
    s3: S3Client, bucket: str, folder: str, sources: list[_Source], input_shape: tuple[int, int, int]
) -> Iterator[Image | None]:
    """Each photo as the model sees it, named by its pixels; None for a deleted or unreadable one."""

    def write(source: _Source) -> Image | None:
        try:
            with transient("S3"):
                photo, _ = scale(source.read(), source.origin, input_shape)
        except InvalidImage:
            return None
        pixels = hash_pixels(photo)
        path = f"{source.split}/{source.label}/{pixels[:16]}.png"
        _put(s3, bucket, f"{folder}{path}", encode(photo))
        return Image(path=path, split=source.split, label=source.label, pixels_sha256=pixels, origin=source.origin)

    with ThreadPoolExecutor(WORKERS) as pool:
        yield from pool.map(write, sources)


def _list_files(images: list[Image], labels: tuple[str, ...]) -> Mapping[str, str]:
    """SageMaker's lists: number, class index, path below train/. They split only the training photos."""
    lines: dict[str, list[str]] = {"train.lst": [], "validation.lst": []}
    for number, image in enumerate(images):
        if image.split == "train" and image.label in labels:
            file = "validation.lst" if int(image.pixels_sha256[:8], 16) % VALIDATION_SHARE == 0 else "train.lst"
            lines[file].append(f"{number}\t{labels.index(image.label)}\t{image.path.removeprefix('train/')}\n")
    return {file: "".join(rows) for file, rows in lines.items()}


def _copy_auxiliary(s3: S3Client, bucket: str, folder: str) -> None:
    """Further out-of-distribution photos, if the base has some."""
    with transient("S3"):
        if s3.list_objects_v2(Bucket=bucket, Prefix=f"{BASE}{AUXILIARY}", MaxKeys=1).get("KeyCount"):
            source = {"Bucket": bucket, "Key": f"{BASE}{AUXILIARY}"}
            s3.copy_object(Bucket=bucket, Key=f"{folder}{AUXILIARY}", CopySource=source)  # type: ignore[arg-type]


def _sweep(s3: S3Client, bucket: str, folder: str, keys: set[str]) -> None:
    """Remove photos that are also held out, and files of an interrupted attempt."""
    with transient("S3"):
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder):
            for item in page.get("Contents", []):
                if item["Key"] not in keys:
                    s3.delete_object(Bucket=bucket, Key=item["Key"])


def _put(s3: S3Client, bucket: str, key: str, content: bytes) -> None:
    with transient("S3"):
        s3.put_object(Bucket=bucket, Key=key, Body=content)
