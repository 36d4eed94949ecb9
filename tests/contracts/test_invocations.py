"""Who starts a function without waiting for it says how often it is tried again, and where it is kept if it fails."""

from typing import Any

import pytest

from tests.contracts.policies import Request, applies, listed
from tests.contracts.stacks import ACCOUNT, Document, stack

DEPLOYED = stack()
TARGETS: list[tuple[str, Document, Document]] = [
    (name, rule, target) for name, rule in DEPLOYED.of("Events::Rule").items() for target in rule["Targets"]
]
FUNCTIONS = {DEPLOYED.physical(name): name for name in DEPLOYED.of("Lambda::Function")}
STARTED = sorted({name for _, _, target in TARGETS if (name := FUNCTIONS.get(target["Arn"].rpartition(":")[2]))})
every_target = pytest.mark.parametrize(
    ("name", "rule", "target"), TARGETS, ids=lambda part: part if isinstance(part, str) else ""
)


def config_of(function: str) -> Document:
    """What the function's asynchronous calls are told; Lambda's own default is two more attempts, and then nothing."""
    found = [
        config
        for config in DEPLOYED.of("Lambda::EventInvokeConfig").values()
        if config["FunctionName"] == DEPLOYED.physical(function) and config["Qualifier"] == "$LATEST"
    ]
    return found[0] if found else {}


def starters(function: str) -> list[Document]:
    """The rules that start it."""
    arn = f":{DEPLOYED.physical(function)}"
    return [rule for _, rule, target in TARGETS if target["Arn"].endswith(arn)]


@pytest.mark.parametrize("function", STARTED)
def test_lambdas_own_attempts_are_said(function: str) -> None:
    assert {"MaximumRetryAttempts", "MaximumEventAgeInSeconds"} <= config_of(function).keys()


@pytest.mark.parametrize(
    "function", [name for name in STARTED if not any("EventPattern" in rule for rule in starters(name))]
)
def test_what_runs_on_a_schedule_is_not_tried_again(function: str) -> None:
    """The next run sees the same and more; and two runs at once would cost twice."""
    assert config_of(function).get("MaximumRetryAttempts") == 0


@pytest.mark.parametrize(
    "function", [name for name in STARTED if any("EventPattern" in rule for rule in starters(name))]
)
def test_an_event_at_which_a_function_fails_is_kept(function: str) -> None:
    destination = config_of(function).get("DestinationConfig", {}).get("OnFailure", {}).get("Destination", "")
    assert destination in queues()


def queues() -> set[str]:
    """Their ARNs."""
    return {
        f"arn:aws:sqs:us-east-1:{ACCOUNT}:{DEPLOYED.physical(name).rpartition('/')[2]}"
        for name in DEPLOYED.of("SQS::Queue")
    }


@every_target
def test_a_rule_says_how_often_it_tries_and_keeps_what_it_cannot_deliver(
    name: str, rule: Document, target: Document
) -> None:
    assert "MaximumRetryAttempts" in target["RetryPolicy"]
    if "EventPattern" in rule:
        assert target["RetryPolicy"]["MaximumRetryAttempts"] > 0
        assert target["DeadLetterConfig"]["Arn"] in queues()
        assert may_send(name, target["DeadLetterConfig"]["Arn"])
    if target["Arn"] in queues():
        assert may_send(name, target["Arn"])


def may_send(rule: str, queue: str) -> bool:
    """Whether the queue's policy lets EventBridge put there what this rule could not deliver."""
    arn = f"arn:aws:events:us-east-1:{ACCOUNT}:rule/{DEPLOYED.physical(rule)}"
    context = {("aws:SourceAccount", ACCOUNT), ("aws:SourceArn", arn), ("aws:SecureTransport", "true")}
    request = Request("sqs:SendMessage", queue, frozenset(context))
    effects = {
        statement["Effect"]
        for policy in DEPLOYED.of("SQS::QueuePolicy").values()
        for statement in policy["PolicyDocument"]["Statement"]
        if is_eventbridge(statement["Principal"]) and applies(statement, request)
    }
    return effects == {"Allow"}


def is_eventbridge(principal: Any) -> bool:
    return bool(principal == "*" or "events.amazonaws.com" in listed(principal.get("Service", [])))


def test_functions_are_started_by_rules() -> None:
    assert len(STARTED) >= 5
