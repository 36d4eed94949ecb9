"""Timeouts of boto3's clients, and their types for the type checker: the packages of the types are not deployed."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

import botocore.session
from botocore.config import Config
from botocore.utils import parse_timestamp

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient as DynamoDBClient
    from mypy_boto3_events import EventBridgeClient as EventBridgeClient
    from mypy_boto3_s3 import S3Client as S3Client
    from mypy_boto3_sagemaker_runtime import SageMakerRuntimeClient as SageMakerRuntimeClient
    from mypy_boto3_sns import SNSClient as SNSClient
    from mypy_boto3_sqs import SQSClient as SQSClient
    from mypy_boto3_stepfunctions import SFNClient as SFNClient
else:
    DynamoDBClient = EventBridgeClient = S3Client = SFNClient = SNSClient = SQSClient = SageMakerRuntimeClient = Any

# boto3 waits 60 s for a connection and 60 s for an answer: longer than most functions may run. A call that hangs would
# end the function, and the state machine would take that for a fault. With all attempts and the pauses between them:
BRIEF = Config(connect_timeout=1, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 2})
"""9 s: for functions that may run for 10 s or more; their caller retries."""
PATIENT = Config(connect_timeout=3, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 6})
"""109 s: for jobs of minutes, which nobody restarts at once."""
EXECUTION = Config(connect_timeout=1, read_timeout=295, retries={"mode": "standard", "total_max_attempts": 1})
"""296 s: for the function that waits for an execution of at most 290 s; its queue retries."""


def quick_times() -> botocore.session.Session:
    """A botocore session that parses ISO times three times as fast: in long listings they take most of the time."""
    session = botocore.session.get_session()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_read_time)
    return session


def _read_time(value: Any) -> datetime:
    if isinstance(value, str) and value.endswith("Z") and "T" in value:
        return datetime.fromisoformat(value)
    return parse_timestamp(value)
