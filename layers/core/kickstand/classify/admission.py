"""Executes the uploads received from the queue, and returns those that must stay in it."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from pydantic import Field

from kickstand.clients import SFNClient
from kickstand.events import Payload

AGAIN_AFTER_SECONDS = 60  # until a failed message comes back; without it, the queue's half an hour
NOT_KEPT = "NotKept"  # classify_image's error if no queue accepted the upload
THROTTLED = "Lambda.TooManyRequestsException"
_EVENT = ("source", "detail-type", "time", "detail")


class NotAnUpload(ValueError):  # noqa: N818 - as the log calls it
    """A message in the upload queue that can never be executed."""


class WorkflowType(StrEnum):
    """How classify_image runs. Only EXPRESS executions can be waited for."""

    EXPRESS = "EXPRESS"
    STANDARD = "STANDARD"


class Message(Payload):
    """One message of SQS. body: the S3 event, or the input that an execution put back."""

    message_id: str = Field(validation_alias="messageId", min_length=1)
    receipt_handle: str = Field(validation_alias="receiptHandle", min_length=1)
    body: str


class Batch(Payload):
    """The event that SQS sends to the function."""

    records: tuple[Message, ...] = Field(validation_alias="Records")


@dataclass(frozen=True)
class Workflow:
    """The state machine classify_image, and how to start it."""

    stepfunctions: SFNClient
    state_machine: str
    type: WorkflowType


def admit(workflow: Workflow, messages: Mapping[str, str], wait: bool) -> dict[str, BaseException | None]:
    """Execute all messages at once. Returns those that must stay in the queue, with the reason.

    messages: bodies by message id. A message that comes twice writes the same record again. One that can never be
        executed has the reason NotAnUpload.
    wait: until EXPRESS executions have ended; STANDARD cannot be waited for.
    """
    execute = _execute if wait and workflow.type is WorkflowType.EXPRESS else _start
    with ThreadPoolExecutor(max(1, len(messages))) as pool:
        running = {name: pool.submit(execute, workflow, name, body) for name, body in messages.items()}
    return {name: ended.exception() for name, ended in running.items() if ended.exception() or not ended.result()}


def as_input(body: str) -> str:
    """The execution's input: the event, and for a postponed upload the number of earlier attempts.

    Raises NotAnUpload if the message is not a JSON object, or if its error or attempts are malformed.

    >>> as_input('{"source": "aws.s3", "detail": {}, "prediction": {}, "error": {"Error": "States.Timeout"}}')
    '{"source": "aws.s3", "detail": {}, "attempts": 1}'
    """
    try:
        state = json.loads(body)
        if "error" not in {**state}:
            return body
        event = {name: state[name] for name in _EVENT if name in state}
        counts = state["error"]["Error"] != THROTTLED  # throttling says nothing about the photo
        return json.dumps(event | {"attempts": state.get("attempts", 0) + counts})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise NotAnUpload(f"{type(error).__name__}: {error}") from error


def _execute(workflow: Workflow, name: str, body: str) -> bool:
    """Whether the message is done: if the execution fails, classify_image itself keeps the upload."""
    ended = workflow.stepfunctions.start_sync_execution(
        stateMachineArn=workflow.state_machine, name=name, input=as_input(body)
    )
    return ended["status"] != "TIMED_OUT" and ended.get("error") != NOT_KEPT


def _start(workflow: Workflow, name: str, body: str) -> bool:
    """The same without waiting. The ledger finds an upload that then has no outcome."""
    start = workflow.stepfunctions
    with suppress(start.exceptions.ExecutionAlreadyExists):  # the message came twice
        start.start_execution(stateMachineArn=workflow.state_machine, name=name, input=as_input(body))
    return True
