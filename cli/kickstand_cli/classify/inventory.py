"""Reads an S3 inventory line by line, as Step Functions does: its manifest, and the files that it names."""

import csv
import gzip
import io
import json
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ClientError

from kickstand.clients import S3Client
from kickstand_cli.terminal import CommandError


def read_inventory(s3: S3Client, bucket: str, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's place, and the line by the columns of the manifest's schema; keys are URL-encoded. Memory stays flat.

    Raises CommandError where it is not an inventory in CSV, or one of its files is missing.
    """
    place = f"s3://{bucket}/{key}"
    try:
        manifest = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
        kind, files = manifest["fileFormat"], [check_key(file["key"]) for file in manifest["files"]]
        columns = [column.strip() for column in manifest["fileSchema"].split(",")]
    except ClientError as error:
        raise CommandError(f"{place}: {error.response['Error']['Code']}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CommandError(f"{place}: not the manifest.json of an S3 inventory ({error!r})") from error
    if kind != "CSV" or "Key" not in columns:
        raise CommandError(f"{place}: an inventory as CSV with the column Key is needed, not {kind} with {columns}")
    for file in files:
        try:
            body: Any = s3.get_object(Bucket=bucket, Key=file)["Body"]
            with gzip.GzipFile(fileobj=body) as unpacked:
                for number, line in enumerate(csv.reader(io.TextIOWrapper(unpacked, "utf-8", newline="")), 1):
                    yield f"s3://{bucket}/{file}, line {number}", dict(zip(columns, line, strict=True))
        except ClientError as error:
            raise CommandError(f"s3://{bucket}/{file}: {error.response['Error']['Code']}") from error
        except (OSError, EOFError, ValueError, csv.Error) as error:
            raise CommandError(f"s3://{bucket}/{file}: cannot be read ({error})") from error


def check_key(key: object) -> str:
    """The key of one of the inventory's files. Raises TypeError for anything else than a text."""
    if not isinstance(key, str) or not key:
        raise TypeError(f"the key {key!r} of a file is no text")
    return key
