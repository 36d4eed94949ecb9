"""Copies a dataset folder to S3, where a training job reads it."""

import base64
import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import ValidationError

from kickstand.clients import S3Client
from kickstand_cli.datasets.download import Progress, ignore_progress
from kickstand_cli.datasets.folder import MANIFEST, Manifest, open_dataset
from kickstand_cli.deployment import name_region, open_client, use_region
from kickstand_cli.terminal import CommandError

CONTENT_TYPES = {".png": "image/png", ".lst": "text/tab-separated-values", ".json": "application/json"}
WORKERS = 8  # as many as boto3's connection pool serves without waiting (10)


@dataclass(frozen=True)
class Destination:
    """A bucket and a prefix without slashes at its ends; the empty prefix is the bucket's root."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def name_key(self, path: str) -> str:
        """The object key of a path in the folder."""
        return f"{self.prefix}/{path}" if self.prefix else path


@dataclass(frozen=True)
class Upload:
    """The number of files sent, and of those already there with the same SHA-256."""

    destination: Destination
    sent: int
    skipped: int

    @property
    def channels(self) -> dict[str, str]:
        """S3Uri of each channel of SageMaker's built-in image classification.

        The slash matters: the prefix `train` would also match `train.lst`.
        """
        return {
            "train": f"{self.destination}/train/",
            "validation": f"{self.destination}/test/",
            "train_lst": f"{self.destination}/train.lst",
            "validation_lst": f"{self.destination}/test.lst",
        }


def parse_s3_uri(uri: str) -> Destination:
    """Split s3://bucket/prefix; raises CommandError for any other text."""
    match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(/.*)?", uri)
    if not match:
        raise CommandError(f"{uri}: expected an S3 URI such as s3://bucket/prefix")
    return Destination(match[1], (match[2] or "").strip("/"))


def upload_dataset(folder: Path, destination: Destination, *, on_progress: Progress = ignore_progress) -> Upload:
    """Send a complete dataset folder; the manifest goes last, so an upload without it is incomplete.

    Objects that have the same SHA-256 are not sent again.
    Raises CommandError where the folder is incomplete or S3 refuses.
    """
    manifest = open_dataset(folder)
    paths = [*(entry.path for entry in manifest.images), "train.lst", "test.lst"]
    total = len(paths) + 1
    name_region(use_region())
    with _explain_s3_errors(destination):
        s3 = open_client("s3")
        sizes = _list_sizes(s3, destination)
        if MANIFEST in sizes and not _is_staged(s3, destination, folder, MANIFEST, sizes):
            _withdraw_manifest(s3, destination)
            del sizes[MANIFEST]
        sent = 0
        pool = ThreadPoolExecutor(WORKERS)
        try:
            futures = [pool.submit(_stage, s3, destination, folder, path, sizes) for path in paths]
            for done, future in enumerate(as_completed(futures), start=1):
                sent += future.result()
                on_progress(done, total)
        finally:
            pool.shutdown(cancel_futures=True)  # after an error or an interrupt, start nothing more
        sent += _stage(s3, destination, folder, MANIFEST, sizes)
        on_progress(total, total)
    return Upload(destination, sent=sent, skipped=total - sent)


def _list_sizes(s3: S3Client, destination: Destination) -> dict[str, int]:
    """Size in bytes of every object under the prefix, by its path in the folder."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=destination.bucket, Prefix=destination.name_key(""))
    start = len(destination.name_key(""))
    return {item["Key"][start:]: item["Size"] for page in pages for item in page.get("Contents", [])}


def _stage(s3: S3Client, destination: Destination, folder: Path, path: str, sizes: dict[str, int]) -> bool:
    """Send one file unless it is there; whether it was sent. S3 checks the SHA-256."""
    if _is_staged(s3, destination, folder, path, sizes):
        return False
    content = (folder / path).read_bytes()
    s3.put_object(
        Bucket=destination.bucket,
        Key=destination.name_key(path),
        Body=content,
        ContentType=CONTENT_TYPES[Path(path).suffix],
        ChecksumAlgorithm="SHA256",
        ChecksumSHA256=_checksum(content),
    )
    return True


def _is_staged(s3: S3Client, destination: Destination, folder: Path, path: str, sizes: dict[str, int]) -> bool:
    content = (folder / path).read_bytes()
    if sizes.get(path) != len(content):  # the listing alone decides most
        return False
    head = s3.head_object(Bucket=destination.bucket, Key=destination.name_key(path), ChecksumMode="ENABLED")
    return head.get("ChecksumSHA256") == _checksum(content)


def _checksum(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


def _withdraw_manifest(s3: S3Client, destination: Destination) -> None:
    """Remove another dataset's manifest before its files are overwritten. Raises CommandError for other files."""
    key = destination.name_key(MANIFEST)
    content = s3.get_object(Bucket=destination.bucket, Key=key)["Body"].read()
    try:
        Manifest.model_validate_json(content)
    except ValidationError as error:
        raise CommandError(
            f"s3://{destination.bucket}/{key}: not written by Kickstand; choose another prefix"
        ) from error
    s3.delete_object(Bucket=destination.bucket, Key=key)


@contextmanager
def _explain_s3_errors(destination: Destination) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code == "NoSuchBucket":
            raise CommandError(f"{destination}: there is no bucket {destination.bucket}") from error
        if code in ("AccessDenied", "403"):
            raise CommandError(
                f"{destination}: access denied; needed: s3:ListBucket, GetObject and PutObject"
            ) from error
        raise CommandError(f"{destination}: {error}") from error
    except BotoCoreError as error:
        raise CommandError(
            f"{destination}: {error}; check AWS_PROFILE and AWS_REGION, or `aws sts get-caller-identity`"
        ) from error
