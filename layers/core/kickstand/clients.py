"""The types of boto3's clients, for the type checker alone: the packages that hold them are not deployed."""

from typing import TYPE_CHECKING, Any

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
