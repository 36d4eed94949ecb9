"""What goes wrong in the tests of state machines, and how they wait no longer than they must."""

import json
import time
from functools import cache
from typing import Any

import pytest
from moto.sqs.models import SQSBackend

from kickstand_cli.local.stack import Stack


class Faults:
    """Fails a function's next invocations with the errors that are planned for it."""

    def __init__(self) -> None:
        self.planned: dict[str, list[Exception]] = {}

    def __call__(self, function: str) -> None:
        if self.planned.get(function):
            raise self.planned[function].pop()


def raised(error: str) -> Exception:
    """An exception whose class has this name: what Step Functions goes by."""
    kind: type[Exception] = type(error, (Exception,), {})
    return kind("injected")


def retried(state: dict[str, Any]) -> dict[str, int]:
    """The errors that the state retries, and how often."""
    return {error: retrier["MaxAttempts"] for retrier in state["Retry"] for error in retrier["ErrorEquals"]}


@cache
def event_of(stack: Stack, execution: str) -> Any:
    """The event that started the execution. It never changes, and asking for it is slow."""
    return json.loads(stack.stepfunctions.describe_execution(executionArn=execution)["input"])


@pytest.fixture(scope="module")
def faults() -> Faults:
    return Faults()


@pytest.fixture(autouse=True)
def _no_waiting_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.02)))


@pytest.fixture(autouse=True)
def _no_waiting_for_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQS waits for what other servers of it may hold; moto is but one."""
    receive = SQSBackend.receive_message

    def at_once(queues: SQSBackend, name: str, count: int, _wait_seconds: int, *more: Any) -> Any:
        return receive(queues, name, count, 0, *more)

    monkeypatch.setattr(SQSBackend, "receive_message", at_once)
