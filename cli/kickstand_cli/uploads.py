"""Reads the uploaded bytes that a record speaks of: from a folder, or from the stack's bucket."""

from collections.abc import Callable
from pathlib import Path

from kickstand.classify.images import MAX_IMAGE_BYTES
from kickstand.clients import S3Client
from kickstand.errors import InvalidImage
from kickstand.records import Record
from kickstand.store import read_image

ReadUpload = Callable[["Record"], bytes]
"""Raises InvalidImage where the upload is not there any more, saying which."""


def read_from_folder(folder: Path) -> ReadUpload:
    """From the folder that was uploaded; a key is a path in it."""

    def read(record: Record) -> bytes:
        file = folder / record.image_ref.key
        if not file.resolve().is_relative_to(folder.resolve()):
            raise InvalidImage(f"{file}: outside of {folder}")
        try:
            return file.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a key that no file can have
            raise InvalidImage(f"{file}: {getattr(error, 'strerror', None) or error}") from error

    return read


def read_from_bucket(s3: S3Client) -> ReadUpload:
    """Exactly the version that was decided on. Raises StoreUnavailable too."""

    def read(record: Record) -> bytes:
        return read_image(s3, record.image_ref, MAX_IMAGE_BYTES)

    return read
