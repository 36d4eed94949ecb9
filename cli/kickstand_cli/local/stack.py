"""Creates the template's resources on moto and carries events from one to the next."""

import json
import pickle
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from pathlib import Path
from threading import RLock
from typing import Any, Final
from unittest.mock import patch
from urllib.parse import quote

import boto3

from kickstand.events import ReviewStatus
from kickstand.ledger.balance import Ledger
from kickstand.ledger.books import Books
from kickstand.ledger.letters import open_letters
from kickstand.ledger.store import draw_up
from kickstand.records import Record
from kickstand.review.rules import Review
from kickstand.review.store import list_reviews
from kickstand.store import from_item
from kickstand_cli.classify.inventory import read_inventory
from kickstand_cli.deployment import open_books
from kickstand_cli.local.functions import Function, LambdaService, cut_off, environment, function_arn
from kickstand_cli.local.template import Template, TemplateError, create_table, load_yaml

with environment(cut_off({})):  # moto reads some of them while it is imported
    from moto import mock_aws
    from moto.dynamodb.models import DynamoDBBackend
    from moto.s3 import notifications
    from moto.s3.responses import S3Response
    from moto.sqs.models import Queue
    from moto.stepfunctions.parser.asl.parse.asl_parser import AmazonStateLanguageParser

NOT_LOCAL = {  # not needed to process a photo, or unknown to moto: permissions, logs, alarms
    "AWS::CloudWatch::Alarm",
    "AWS::CloudWatch::Dashboard",
    "AWS::IAM::Policy",
    "AWS::Logs::LogGroup",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::Subscription",
    "AWS::SNS::TopicPolicy",
    "AWS::SQS::QueuePolicy",
    "AWS::XRay::SamplingRule",
}
RUNNING: Final = "RUNNING"
FAILED = ("FAILED", "TIMED_OUT", "ABORTED")
LOCAL_BATCH = 25  # items of a Distributed Map's batch; their executions run in this process


@dataclass
class Physical:
    """A created resource: the results of `Ref` and `Fn::GetAtt`."""

    ref: str
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass
class Target:
    """The target of a rule: a state machine, function or queue, by its ARN; and the queue for undelivered events."""

    queue_url: str
    receiver: str
    dead_letter_arn: str | None


@dataclass
class Source:
    """A queue, by its URL, whose messages Lambda gives to a function: the size of a batch, and batches at a time."""

    queue_url: str
    function: str
    batch: int
    batches: int


class Stack:
    """The deployed template. Make one with `deploy`."""

    def __init__(
        self, template: Path, parameters: Mapping[str, str], lambdas: LambdaService, artefact: Path | None = None
    ) -> None:
        self.template = Template(template, parameters, self._reference, self._attribute)
        self.s3, self.sqs, self.sns = boto3.client("s3"), boto3.client("sqs"), boto3.client("sns")
        self.dynamodb, self.events = boto3.client("dynamodb"), boto3.client("events")
        self.stepfunctions = boto3.client("stepfunctions")
        self._lambdas = lambdas
        self._artefact = artefact
        self._physical: dict[str, Physical] = {}
        self._targets: list[Target] = []
        self._sources: list[Source] = []
        self._state_machines: list[str] = []
        for logical_id in self.template.resources:
            if self.template.wanted(logical_id):
                self._create(logical_id)
        self.outputs: dict[str, str] = {
            name: self.template.resolve(output["Value"])
            for name, output in self.template.outputs.items()
            if self.template.holds(output.get("Condition"))
        }

    # ---- for users

    def upload(self, key: str, data: bytes) -> str:
        """Upload an object to the bucket of photos; returns its version id."""
        return self.s3.put_object(Bucket=self.outputs["ImageBucketName"], Key=key, Body=data)["VersionId"]

    @property
    def functions(self) -> dict[str, Function]:
        """The template's functions, by logical ID."""
        return self._lambdas.functions

    def invoke(self, function: str, payload: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of Lambda's Invoke."""
        return self._lambdas.invoke(function, payload)

    def settle(self, progress: Callable[[], None] = lambda: None) -> None:
        """Deliver events until none is left, and no execution runs except those that wait for a person."""
        while True:
            busy = self._busy()
            if not self.deliver() and not busy:  # in this order: an execution publishes before it ends
                return
            progress()
            time.sleep(0.02)  # leaves the processor to the executions

    def wait_for_a_gap(self, at_once: int) -> None:
        """Wait until fewer executions of classify_image run: in a burst, each photo would wait for all earlier ones."""
        arn = self.outputs["ClassifyImageStateMachineArn"]
        ask = self.stepfunctions.list_executions
        while len(ask(stateMachineArn=arn, statusFilter=RUNNING)["executions"]) >= at_once:
            time.sleep(0.02)

    def reviews(self) -> list[Review]:
        """All reviews, open and answered."""
        return list(list_reviews(self.dynamodb, self.outputs["ReviewsTableName"]))

    def records(self) -> list[Record]:
        """All records of the table."""
        pages = self.dynamodb.get_paginator("scan").paginate(TableName=self.outputs["RecordsTableName"])
        return [from_item(item) for page in pages for item in page["Items"]]

    def executions(self, *statuses: str) -> list[Any]:
        """Executions of every state machine, or those with one of the statuses."""
        filters: list[dict[str, Any]] = [{"statusFilter": status} for status in statuses] or [{}]
        return [
            execution
            for machine in self._state_machines
            for one in filters
            for page in self.stepfunctions.get_paginator("list_executions").paginate(stateMachineArn=machine, **one)
            for execution in page["executions"]
        ]

    def books(self) -> Books:
        """The stack's bucket, tables and queues, for the ledger."""
        return open_books(self.outputs, poll_seconds=0)

    def ledger(self) -> Ledger:
        """Where every upload has ended, once all has settled."""
        return draw_up(self.books(), datetime.now(UTC))

    def dead_letters(self) -> list[dict[str, Any]]:
        """The dead letters: those in the queue, which stay there, and those in the table."""
        url = self.outputs["DeadLetterQueueUrl"]
        found: list[Any] = []
        while batch := self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
            found += batch
        for message in found:
            self.sqs.change_message_visibility(
                QueueUrl=url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
            )
        moved = [letter for page in open_letters(self.books()) for letter in page]
        return [json.loads(message["Body"]) for message in found] + [
            json.loads(letter.event) | {"error": {"Error": letter.error, "Cause": letter.cause}} for letter in moved
        ]

    # ---- EventBridge; moto does not deliver events to state machines

    def deliver(self, copies: Callable[[], int] = lambda: 1) -> int:
        """Start the executions and functions of waiting events; returns the number of events.

        copies: how often the next event is to be delivered; AWS guarantees at least once.
        """
        delivered = 0
        for target in self._targets:
            while batch := self.sqs.receive_message(QueueUrl=target.queue_url, MaxNumberOfMessages=10).get("Messages"):
                for message in batch:
                    event = _as_eventbridge_sends_it(json.loads(message["Body"]))
                    for _ in range(copies()):
                        self.start(target, event)
                    self.sqs.delete_message(QueueUrl=target.queue_url, ReceiptHandle=message["ReceiptHandle"])
                    delivered += 1
        return delivered + sum(map(self._admit_all, self._sources))

    def _admit_all(self, source: Source) -> int:
        """As many batches as Lambda takes at a time; returns the number of messages."""
        admitted = 0
        while messages := self.sqs.receive_message(QueueUrl=source.queue_url, MaxNumberOfMessages=source.batch).get(
            "Messages"
        ):
            self.wait_for_a_gap(source.batch * source.batches)
            self._admit(source, messages)
            admitted += len(messages)
        return admitted

    def _admit(self, source: Source, messages: Sequence[Any]) -> None:
        """As Lambda does with a batch: give it to the function, and delete the messages that it has processed."""
        named = {"messageId": "MessageId", "receiptHandle": "ReceiptHandle", "body": "Body"}
        records = [{name: message[theirs] for name, theirs in named.items()} for message in messages]
        _, headers, body = self._lambdas.invoke(source.function, json.dumps({"Records": records}).encode())
        failed = {record["messageId"] for record in records}
        if "X-Amz-Function-Error" not in headers:
            failed = {item["itemIdentifier"] for item in json.loads(body)["batchItemFailures"]}
        for message in messages:
            name = {"QueueUrl": source.queue_url, "ReceiptHandle": message["ReceiptHandle"]}
            if message["MessageId"] in failed:
                self.sqs.change_message_visibility(**name, VisibilityTimeout=0)
            else:
                self.sqs.delete_message(**name)

    def start(self, target: Target, event: dict[str, Any]) -> None:
        """Start an execution or a function on the event; if that fails, the event goes to the dead-letter queue."""
        if ":sqs:" in target.receiver:
            self._send(target.receiver, event)
            return
        if ":function:" in target.receiver:
            _, headers, _ = self._lambdas.invoke(target.receiver.rpartition(":")[2], json.dumps(event).encode())
            if "X-Amz-Function-Error" in headers:
                self._keep(target, event)
            return
        try:
            self.stepfunctions.start_execution(
                stateMachineArn=target.receiver, name=str(uuid.uuid4()), input=json.dumps(event)
            )
        except self.stepfunctions.exceptions.ClientError:
            if target.dead_letter_arn is None:
                raise
            self._keep(target, event)

    def _keep(self, target: Target, event: dict[str, Any]) -> None:
        if target.dead_letter_arn:
            self._send(target.dead_letter_arn, event)

    def _send(self, queue_arn: str, event: dict[str, Any]) -> None:
        self.sqs.send_message(QueueUrl=self._queue_url(queue_arn), MessageBody=json.dumps(event))

    def _busy(self) -> bool:
        """Whether an execution runs that does not wait for a person."""
        running = {execution["executionArn"] for execution in self.executions(RUNNING)}
        if not running:
            return False
        asked = self._asking()
        return any(execution not in asked or not self._waits(execution) for execution in running)

    def _asking(self) -> set[str]:
        """The executions that wait for a person, by the quickest way that moto has."""
        pages = self.dynamodb.get_paginator("scan").paginate(
            TableName=self.outputs["ReviewsTableName"],
            ProjectionExpression="execution",
            FilterExpression="#status IN (:waiting, :escalated)",
            ExpressionAttributeNames={"#status": "status"},
            ExpressionAttributeValues={
                ":waiting": {"S": ReviewStatus.WAITING},
                ":escalated": {"S": ReviewStatus.ESCALATED},
            },
        )
        return {item["execution"]["S"] for page in pages for item in page["Items"]}

    def _waits(self, execution: str) -> bool:
        """Whether it waits for a task token."""
        history = self.stepfunctions.get_execution_history(executionArn=execution)["events"]
        return history[-1]["type"] == "TaskSubmitted"

    # ---- CloudFormation

    def _reference(self, logical_id: str) -> str:
        function, _, part = logical_id.partition(".")
        if part in ("Alias", "Version"):  # SAM's; here there is only one version
            return f"{self._attribute(function, 'Arn')}:{'live' if part == 'Alias' else '1'}"
        return self._create(logical_id).ref

    def _attribute(self, logical_id: str, attribute: str) -> str:
        attributes = self._create(logical_id).attributes
        if attribute not in attributes:
            raise TemplateError(f"{logical_id}.{attribute} is not known locally")
        return attributes[attribute]

    def _create(self, logical_id: str) -> Physical:
        """The resource, created at its first mention."""
        if logical_id not in self._physical:
            if logical_id not in self.template.resources:
                raise TemplateError(f"the template has no resource or parameter {logical_id}")
            resource = self.template.resources[logical_id]
            kind, raw = resource["Type"], resource.get("Properties", {})
            if kind in NOT_LOCAL:
                self._physical[logical_id] = Physical(logical_id)
            elif kind in _CREATORS:
                self._physical[logical_id] = _CREATORS[kind](self, logical_id, raw)
            else:
                raise TemplateError(f"{logical_id}: {kind} is not known locally")
        return self._physical[logical_id]

    def _bucket(self, logical_id: str, raw: dict[str, Any]) -> Physical:
        properties = self.template.resolve(raw)
        name = f"kickstand-local-{logical_id.lower()}"
        self.s3.create_bucket(Bucket=name)
        if "VersioningConfiguration" in properties:
            self.s3.put_bucket_versioning(Bucket=name, VersioningConfiguration=properties["VersioningConfiguration"])
        notifications = properties.get("NotificationConfiguration", {})
        if notifications.get("EventBridgeConfiguration", {}).get("EventBridgeEnabled"):
            self.s3.put_bucket_notification_configuration(
                Bucket=name, NotificationConfiguration={"EventBridgeConfiguration": {}}
            )
        return Physical(name, {"Arn": f"arn:aws:s3:::{name}"})

    def _table(self, logical_id: str, raw: dict[str, Any]) -> Physical:
        return Physical(logical_id, {"Arn": create_table(self.dynamodb, logical_id, self.template.resolve(raw))})

    def _queue(self, logical_id: str, raw: dict[str, Any]) -> Physical:
        properties = self.template.resolve(raw)
        attributes = {name: str(value) for name, value in properties.items() if name == "MessageRetentionPeriod"}
        url = self.sqs.create_queue(QueueName=logical_id, Attributes=attributes)["QueueUrl"]
        return Physical(url, {"Arn": self._queue_arn(url), "QueueName": logical_id})

    def _topic(self, logical_id: str, _raw: dict[str, Any]) -> Physical:
        return Physical(self.sns.create_topic(Name=logical_id)["TopicArn"])

    def _function(self, logical_id: str, raw: dict[str, Any]) -> Physical:
        shared = self.template.function_globals
        variables = {
            **shared.get("Environment", {}).get("Variables", {}),
            **raw.get("Environment", {}).get("Variables", {}),
        }
        environment = {name: self._from_layer(str(value)) for name, value in self.template.resolve(variables).items()}
        self._lambdas.functions[logical_id] = Function(
            name=logical_id,
            folder=self.template.folder / raw["CodeUri"],
            environment=environment,
            memory=raw.get("MemorySize", shared.get("MemorySize", 128)),
            timeout=raw.get("Timeout", shared.get("Timeout", 3)),
        )
        self._rules(logical_id, raw, function_arn(logical_id))
        return Physical(logical_id, {"Arn": function_arn(logical_id)})

    def _layer(self, _logical_id: str, raw: dict[str, Any]) -> Physical:
        return Physical(str(self.template.folder / raw["ContentUri"]))

    def _from_layer(self, value: str) -> str:
        """A path below /opt is in one of the layers; /opt/model is the artefact, if one was given."""
        if value == "/opt/model" and self._artefact:
            return str(self._artefact.resolve())
        if value.startswith("/opt/"):
            for layer in self.template.resolve(self.template.function_globals["Layers"]):
                path = Path(layer) / value.removeprefix("/opt/")
                if path.exists():
                    return str(path)
        return value

    def _state_machine(self, logical_id: str, raw: dict[str, Any]) -> Physical:
        definition = load_yaml(self.template.folder / raw["DefinitionUri"])
        _hurry(definition)
        for name in [name for name, state in definition["States"].items() if "ItemReader" in state]:
            self._unfold(f"{logical_id}Read{name.title().replace(' ', '')}", definition["States"], name)
        text = json.dumps(definition)
        for name, value in self.template.resolve(raw.get("DefinitionSubstitutions", {})).items():
            text = text.replace(f"${{{name}}}", json.dumps(value)[1:-1])
        arn = self.stepfunctions.create_state_machine(
            name=logical_id, definition=text, roleArn="arn:aws:iam::123456789012:role/local"
        )["stateMachineArn"]
        self._state_machines.append(arn)
        self._rules(logical_id, raw, arn)
        return Physical(arn, {"Arn": arn, "Name": logical_id})

    def _unfold(self, reader: str, states: dict[str, Any], name: str) -> None:
        """Replace a Distributed Map with batches, which moto does not support, by a loop: read and map batches.

        reader: the name of the function that reads them, as Step Functions itself does in AWS.
        """
        state = states[name]
        rest = {key: state[key] for key in ("Catch", "MaxConcurrencyPath", "ResultPath")}
        processor = {key: value for key, value in state["ItemProcessor"].items() if key != "ProcessorConfig"}
        batches, more = f"{name}, Batches", f"{name}, More?"
        states[name] = {
            "Type": "Task",
            "Resource": function_arn(reader),
            "Parameters": {
                "reader": state["ItemReader"],
                "batcher": {"input": state["ItemBatcher"]["BatchInput"]},
                "context.$": "$",
            },
            "ResultPath": "$.page",
            "Catch": state["Catch"],
            "Next": batches,
        }
        states[batches] = {
            **rest,
            "Type": "Map",
            "ItemsPath": "$.page.batches",
            "ItemProcessor": processor,
            "Next": more,
        }
        states[more] = {
            "Type": "Choice",
            "Choices": [{"Variable": "$.page.next", "IsPresent": True, "Next": name}],
            "Default": state["Next"],
        }
        self._lambdas.functions[reader] = Function(
            reader, self.template.folder, {}, memory=128, timeout=900, handler=self._read_items, alone=False
        )

    def _read_items(self, event: dict[str, Any], _context: Any) -> dict[str, Any]:
        """The next batches of a Distributed Map's items, once there is room for their executions."""
        self.wait_for_a_gap(LOCAL_BATCH)
        source, begin = event["reader"]["Parameters"], event["context"].get("page", {}).get("next", 0)
        if event["reader"]["Resource"].endswith(":listObjectsV2"):
            after = {"ContinuationToken": begin} if begin else {}
            page = self.s3.list_objects_v2(MaxKeys=LOCAL_BATCH * 2, **source, **after)
            items: list[Any] = [{"Key": found["Key"], "Size": found["Size"]} for found in page.get("Contents", [])]
            following: str | int | None = page.get("NextContinuationToken")
        else:
            lines = (line for _, line in read_inventory(self.s3, source["Bucket"], source["Key"]))
            items = list(islice(lines, begin, begin + LOCAL_BATCH * 2))
            following = begin + len(items) if len(items) == LOCAL_BATCH * 2 else None
        some = [items[place : place + LOCAL_BATCH] for place in range(0, len(items), LOCAL_BATCH)]
        batches = [{"BatchInput": event["batcher"]["input"], "Items": batch} for batch in some]
        return {"batches": batches} | ({"next": following} if following else {})

    def _role(self, logical_id: str, _raw: dict[str, Any]) -> Physical:
        arn = f"arn:aws:iam::123456789012:role/{logical_id}"  # moto checks no permissions
        return Physical(logical_id, {"Arn": arn})

    def _model_package_group(self, _logical_id: str, raw: dict[str, Any]) -> Physical:
        arn = boto3.client("sagemaker").create_model_package_group(**self.template.resolve(raw))["ModelPackageGroupArn"]
        return Physical(arn, {"ModelPackageGroupArn": arn})

    def _nested_stack(self, logical_id: str, raw: dict[str, Any]) -> Physical:
        parameters = {name: str(value) for name, value in self.template.resolve(raw["Parameters"]).items()}
        nested = Stack(self.template.folder / raw["TemplateURL"], parameters, self._lambdas)
        self._targets += nested._targets
        self._sources += nested._sources
        self._state_machines += nested._state_machines
        return Physical(logical_id, {f"Outputs.{name}": value for name, value in nested.outputs.items()})

    def _rules(self, logical_id: str, raw: dict[str, Any], receiver: str) -> None:
        for name, event in raw.get("Events", {}).items():
            if event["Type"] == "EventBridgeRule":
                properties = self.template.resolve(event["Properties"])
                self._target(f"{logical_id}{name}", properties["Pattern"], receiver, properties)

    def _rule(self, logical_id: str, raw: dict[str, Any]) -> Physical:
        properties = self.template.resolve(raw)
        for target in properties["Targets"]:
            self._target(f"{logical_id}{target['Id']}", properties["EventPattern"], target["Arn"], target)
        return Physical(logical_id, {"Arn": f"arn:aws:events:us-east-1:123456789012:rule/{logical_id}"})

    def _target(self, name: str, pattern: dict[str, Any], receiver: str, properties: dict[str, Any]) -> None:
        """moto delivers to queues, so each rule gets one, and `deliver` empties it."""
        url = self.sqs.create_queue(QueueName=f"events-{name}"[:80])["QueueUrl"]
        self.events.put_rule(Name=name[:64], EventPattern=json.dumps(pattern))
        self.events.put_targets(Rule=name[:64], Targets=[{"Id": "queue", "Arn": self._queue_arn(url)}])
        self._targets.append(Target(url, receiver, properties.get("DeadLetterConfig", {}).get("Arn")))

    def _source(self, logical_id: str, raw: dict[str, Any]) -> Physical:
        properties = self.template.resolve(raw)
        url = self._queue_url(properties["EventSourceArn"])
        batches = int(properties["ScalingConfig"]["MaximumConcurrency"])
        self._sources.append(Source(url, properties["FunctionName"], int(properties["BatchSize"]), batches))
        return Physical(logical_id)

    def _queue_url(self, arn: str) -> str:
        return self.sqs.get_queue_url(QueueName=arn.rpartition(":")[2])["QueueUrl"]

    def _queue_arn(self, url: str) -> str:
        return self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]


def _hurry(definition: dict[str, Any]) -> None:
    """Remove what only AWS needs, not one machine: timeouts, delays, and the pauses of a batch."""
    definition.pop("TimeoutSeconds", None)
    in_map = "ProcessorConfig" in definition
    for state in definition["States"].values():
        state.pop("TimeoutSeconds", None)
        state.get("Parameters", {}).pop("DelaySeconds.$", None)
        if in_map and state["Type"] == "Wait":
            del state["SecondsPath"]
            state["Seconds"] = 0
        if "ItemProcessor" in state:
            _hurry(state["ItemProcessor"])


_CREATORS: dict[str, Callable[[Stack, str, dict[str, Any]], Physical]] = {
    "AWS::S3::Bucket": Stack._bucket,
    "AWS::DynamoDB::Table": Stack._table,
    "AWS::SQS::Queue": Stack._queue,
    "AWS::Events::Rule": Stack._rule,
    "AWS::Lambda::EventSourceMapping": Stack._source,
    "AWS::SNS::Topic": Stack._topic,
    "AWS::IAM::Role": Stack._role,
    "AWS::SageMaker::ModelPackageGroup": Stack._model_package_group,
    "AWS::CloudFormation::Stack": Stack._nested_stack,
    "AWS::Serverless::Function": Stack._function,
    "AWS::Serverless::LayerVersion": Stack._layer,
    "AWS::Serverless::StateMachine": Stack._state_machine,
}


def _as_eventbridge_sends_it(event: dict[str, Any]) -> dict[str, Any]:
    """moto writes `eTag` where EventBridge writes `etag`, and one sequencer for all uploads."""
    uploaded = event.get("detail", {}).get("object", {})
    if "eTag" in uploaded:
        uploaded["etag"] = uploaded.pop("eTag")
        uploaded["sequencer"] = _SEQUENCERS.get(uploaded.get("version-id"), "")
    return event


_SEQUENCERS: dict[str | None, str] = {}
"""The order of uploads."""


def _upload_in_sequence(account_id: str, bucket: Any, event_name: str, key: Any) -> None:
    """Record the order of uploads when moto sends their events, which do not contain it."""
    _SEQUENCERS[key.version_id] = f"{len(_SEQUENCERS):016X}"
    _SEND_EVENT(account_id, bucket, event_name, key)


def _one_at_a_time(call: Callable[..., Any]) -> Callable[..., Any]:
    """A call to DynamoDB is one step. moto checks a condition, and writes or reads on, without a lock."""

    def alone(*parts: Any, **named: Any) -> Any:
        with _STEP:
            return call(*parts, **named)

    return alone


def _delete_message(queue: Queue, receipt_handle: str) -> None:
    """moto deletes a message by replacing the queue's list. Without a lock, messages sent meanwhile are lost."""
    with queue._messages_lock:
        _DELETE_MESSAGE(queue, receipt_handle)


def _serialized(response: S3Response, answer: Any) -> Any:
    """moto lists versions without the encoding that S3 has for such keys, and botocore asks for: `Icon` of a Mac, whose
    last letter is a carriage return, would come back as another name.
    """
    if response.data.get("Action") == "ListObjectVersions" and response.querystring.get("encoding-type") == ["url"]:
        told = answer.result
        told["EncodingType"] = "url"
        for place in (told, *told["Versions"], *told["DeleteMarkers"], *told.get("CommonPrefixes", [])):
            for name in {"Key", "Prefix", "Delimiter", "KeyMarker", "NextKeyMarker"} & place.keys():
                place[name] = place[name] and quote(place[name])
    return _SERIALIZED(response, answer)


def _parse(definition: str) -> tuple[Any, Any]:
    """moto parses the definition again for each execution, which takes 40 times as long as to load its program."""
    program, tree = _parse_once(definition)
    return pickle.loads(program), tree  # noqa: S301 - pickled here


@cache
def _parse_once(definition: str) -> tuple[bytes, Any]:
    """The state machine's program, pickled since an execution may change it; and its syntax tree."""
    program, tree = _PARSE(definition)
    return pickle.dumps(program), tree


_STEP = RLock()
_SEND_EVENT, _DELETE_MESSAGE = notifications._send_event_bridge_message, Queue.delete_message
_SERIALIZED, _PARSE = S3Response.serialized, AmazonStateLanguageParser.parse


@contextmanager
def deploy(
    template: Path,
    parameters: Mapping[str, str] | None = None,
    faults: Callable[[str], None] | None = None,
    artefact: Path | None = None,
) -> Iterator[Stack]:
    """The template's resources, while the context lasts; nothing outside this process is changed.

    parameters: of the template; classify_image runs as STANDARD anyway, since moto shows no executions of EXPRESS.
    artefact: the model's folder; None for that of the template's layer.
    faults: see LambdaService.

    Raises TemplateError when the template holds what cannot be created locally.
    """
    with ExitStack() as stack:
        lambdas = stack.enter_context(LambdaService(faults))
        stack.enter_context(environment(cut_off({"AWS_ENDPOINT_URL_LAMBDA": lambdas.url})))
        for name in ("put_item", "update_item", "delete_item", "transact_write_items", "query", "scan"):
            step = _one_at_a_time(getattr(DynamoDBBackend, name))
            stack.enter_context(patch.object(DynamoDBBackend, name, step))
        stack.enter_context(patch.object(Queue, "delete_message", _delete_message))
        stack.enter_context(patch.object(notifications, "_send_event_bridge_message", _upload_in_sequence))
        stack.callback(_SEQUENCERS.clear)
        stack.enter_context(patch.object(S3Response, "serialized", _serialized))
        stack.enter_context(patch.object(AmazonStateLanguageParser, "parse", _parse))
        stack.enter_context(mock_aws(config={"stepfunctions": {"execute_state_machine": True}}))
        deployed = Stack(template, {**(parameters or {}), "WorkflowType": "STANDARD"}, lambdas, artefact)
        yield deployed
        deployed.settle()  # else an execution could still run in the next stack of this process
