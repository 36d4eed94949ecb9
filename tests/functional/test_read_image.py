"""An upload that this account cannot decrypt is unreadable, for good; what it may not read at all is our fault."""

from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from kickstand.clients import S3Client
from kickstand.errors import InvalidImage, StoreUnavailable
from kickstand.events import ImageRef
from kickstand.store import read_image
from tests.contracts.policies import Request, allows
from tests.contracts.stacks import stack
from tests.stream import NOON

REF = ImageRef(bucket="photos", key="k.png", etag="e", version_id="v", uploaded_at=NOON)
WHERE = {"Bucket": "photos", "Key": "k.png", "VersionId": "v"}


def answering(code: str, status: int, head: int | None = None) -> S3Client:
    """S3 that answers so to GET, and, where it is asked, with this status to HEAD."""
    s3 = boto3.client("s3", region_name="us-east-1")
    stub = Stubber(s3)
    stub.add_client_error("get_object", code, "Access Denied", status, expected_params=WHERE)
    if head == 200:
        stub.add_response("head_object", {}, WHERE)
    elif head:
        stub.add_client_error("head_object", str(head), "", head, expected_params=WHERE)
    stub.activate()
    return s3


@pytest.mark.parametrize(
    ("code", "status", "head", "reason"),
    [
        ("InvalidRequest", 400, None, "encrypted with the uploader's own key"),
        ("AccessDenied", 403, 200, "encrypted with a KMS key that Kickstand has no permission to use"),
        ("KMS.DisabledException", 400, None, "KMS.DisabledException"),
        ("KMS.NotFoundException", 400, None, "KMS.NotFoundException"),
        ("KMS.KMSInvalidStateException", 400, None, "KMS.KMSInvalidStateException"),
        ("NoSuchKey", 404, None, "no longer there"),
    ],
)
def test_an_upload_that_cannot_be_decrypted_is_no_image(code: str, status: int, head: int | None, reason: str) -> None:
    with pytest.raises(InvalidImage, match=reason):
        read_image(answering(code, status, head), REF, 100)


@pytest.mark.parametrize(
    ("code", "head"), [("AccessDenied", 403), ("AccessDenied", 400), ("AccessDenied", 503), ("NoSuchBucket", None)]
)
def test_what_we_may_not_read_at_all_is_our_own_fault(code: str, head: int | None) -> None:
    with pytest.raises(ClientError, match=code):
        read_image(answering(code, 403, head), REF, 100)


@pytest.mark.parametrize(("code", "status"), [("SlowDown", 503), ("KMS.ThrottlingException", 400)])
def test_trouble_that_passes_is_tried_again(code: str, status: int) -> None:
    with pytest.raises(StoreUnavailable):
        read_image(answering(code, status), REF, 100)


DEPLOYED = stack()


def may_put(**headers: str) -> bool:
    """Whether the bucket's policy leaves an upload with these headers to those who may upload."""
    bucket = DEPLOYED.physical("ImageBucket")
    (policy,) = (one for one in DEPLOYED.of("S3::BucketPolicy").values() if one["Bucket"] == bucket)
    statements: list[Any] = [
        {"Effect": "Allow", "Action": "*", "Resource": "*"},
        *policy["PolicyDocument"]["Statement"],
    ]
    prefix = "s3:x-amz-server-side-encryption"
    told = {(f"{prefix}-{name}".replace("_", "-").rstrip("-"), value) for name, value in headers.items()}
    context = frozenset({("aws:SecureTransport", "true"), *told})
    return allows(statements, Request("s3:PutObject", f"arn:aws:s3:::{bucket}/k.png", context))


@pytest.mark.parametrize(
    ("headers", "may"),
    [
        ({}, True),
        ({"_": "AES256"}, True),
        ({"_": "aws:kms"}, False),
        ({"_": "aws:kms:dsse"}, False),
        ({"_": "aws:kms", "aws_kms_key_id": "arn:aws:kms:us-east-1:210987654321:key/k"}, False),
        ({"customer_algorithm": "AES256"}, False),
    ],
)
def test_the_bucket_takes_what_its_own_key_encrypts(headers: dict[str, str], may: bool) -> None:
    assert may_put(**headers) is may
