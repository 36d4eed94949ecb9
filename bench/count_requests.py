"""Counts what one image asks of AWS, on the local stack: states, invocations, calls, bytes. Writes costs/counts.json.

python bench/count_requests.py
"""

import contextlib
import io
import json
import threading
import time
from collections import Counter, defaultdict
from datetime import UTC, datetime
from statistics import median
from typing import Any
from unittest import mock

import boto3
from botocore.client import BaseClient

from kickstand.review.rules import claim
from kickstand.review.store import answer_review, change_review
from kickstand_cli.local.cost import billed_bytes
from kickstand_cli.local.stack import Stack, deploy
from kickstand_cli.project import PROJECT

OUT = PROJECT / "cli/kickstand_cli/local/costs/counts.json"
KINDS, COPIES = ("bicycle", "motorcycle", "neither", "hard"), 2
UPLOAD = (
    *("AdmitUploadsFunction", "PrepareImageFunction"),
    *("ClassifyImageFunction", "DecideFunction", "RecordResultFunction"),
)
REVIEW = ("AskPersonFunction", "ReviewFunction", "RecordReviewFunction")
METADATA = 26  # bytes that CloudWatch Logs adds to each event


class Meter(io.StringIO):
    """Stands for stdout: counts log lines by the function that runs, and tells metrics apart."""

    def __init__(self) -> None:
        super().__init__()
        self.running = ""
        self.bytes: Counter[str] = Counter()
        self.metrics: dict[str, set[str]] = defaultdict(set)

    def write(self, text: str) -> int:
        for line in text.splitlines():
            self.bytes[self.running] += len(line.encode()) + METADATA
            content: Any = {}
            with contextlib.suppress(ValueError):
                content = json.loads(line)
            for directive in content.get("_aws", {}).get("CloudWatchMetrics", []):
                names = [metric["Name"] for metric in directive["Metrics"]]
                self.metrics[self.running] |= {f"{name} {directive['Dimensions']}" for name in names}
        return len(text)


def transitions(stack: Stack, execution: str) -> int:
    events = stack.stepfunctions.get_execution_history(executionArn=execution)["events"]
    return sum(event["type"].endswith("StateEntered") for event in events)


def item_bytes(stack: Stack, table: str) -> list[int]:
    return [billed_bytes(item) for item in stack.dynamodb.scan(TableName=table)["Items"]]


def timed(handler: Any, seconds: list[float]) -> Any:
    def measured(event: dict[str, Any], context: Any) -> Any:
        started = time.perf_counter()
        try:
            return handler(event, context)
        finally:
            seconds.append(time.perf_counter() - started)

    return measured


def count() -> dict[str, Any]:
    """One run: every sample photo that shows something twice, then an answer to every question that comes of them."""
    meter, invocations = Meter(), Counter[str]()
    calls: dict[str, Counter[str]] = defaultdict(Counter)
    seconds: dict[str, list[float]] = defaultdict(list)

    def invoked(function: str) -> None:
        meter.running = function
        invocations[function] += 1

    call = BaseClient._make_api_call  # type: ignore[attr-defined]

    def counted(client: BaseClient, operation: str, arguments: Any) -> Any:
        thread = threading.current_thread()
        # A handler's, or one that it has started; else the local stack's own, or a reviewer's.
        if "process_request_thread" in thread.name or thread.name.startswith("ThreadPoolExecutor"):
            calls[meter.running][f"{client.meta.service_model.service_id} {operation}"] += 1
        elif answering and thread is threading.main_thread():
            calls["ReviewFunction"][f"{client.meta.service_model.service_id} {operation}"] += 1
        return call(client, operation, arguments)

    answering: list[bool] = []
    photos = [path for kind in KINDS for path in sorted((PROJECT / "samples/images" / kind).iterdir())]
    patched = mock.patch.object(BaseClient, "_make_api_call", counted)
    with (
        patched,
        contextlib.redirect_stdout(meter),
        deploy(PROJECT / "template.yaml", {"AuditRate": "0"}, invoked) as stack,
    ):
        for name, function in lambdas(stack).items():
            if name in (*UPLOAD, *REVIEW):
                function.handler = timed(function.load(), seconds[name])
        for copy in range(COPIES):
            for photo in photos:
                stack.upload(f"{copy}/{photo.name}", photo.read_bytes())
                stack.settle()  # each comes alone, as in a quiet stack
        stack.settle()
        key = [review.key for review in stack.reviews()]
        answering.append(True)
        dynamodb, stepfunctions = boto3.client("dynamodb"), boto3.client("stepfunctions")
        tables = stack.outputs["ReviewsTableName"], stack.outputs["RecordsTableName"]
        for image in key:
            change_review(dynamodb, tables[0], *image, lambda review: claim(review, "Ada", datetime.now(UTC)))
            answer_review(dynamodb, stepfunctions, tables, image, "neither", "Ada", ("neither",), datetime.now(UTC))
            invocations["ReviewFunction"] += 2  # the page is shown, and answered
        answering.clear()
        stack.settle()
        return summary(stack, len(photos) * COPIES, len(key), meter, invocations, calls, seconds)


def lambdas(stack: Stack) -> Any:
    return stack._lambdas.functions


def summary(
    stack: Stack,
    uploads: int,
    reviews: int,
    meter: Meter,
    invocations: Counter[str],
    calls: dict[str, Counter[str]],
    seconds: dict[str, list[float]],
) -> dict[str, Any]:
    ran = [(e["executionArn"], e["executionArn"].split(":")[-2]) for e in stack.executions()]

    def per(times: int, functions: tuple[str, ...], machine: str) -> dict[str, Any]:
        states = sum(transitions(stack, execution) for execution, name in ran if name == machine)
        asked = sum((calls[name] for name in functions), Counter[str]())
        return {
            "transitions": round(states / times, 3),
            "invocations": {name: round(invocations[name] / times, 3) for name in functions},
            "calls": {name: round(number / times, 3) for name, number in sorted(asked.items())},
            "log_bytes": round(sum(meter.bytes[name] for name in functions) / times),
        }

    return {
        "how": f"Counted by bench/count_requests.py: {uploads} uploads on the local stack, {reviews} reviews answered",
        "date": datetime.now(UTC).date().isoformat(),
        "uploads": uploads,
        "reviews": reviews,
        "per_upload": per(uploads, UPLOAD, "ClassifyImageStateMachine"),
        "per_review": per(reviews, REVIEW, "ReviewImageStateMachine"),
        "record_bytes": round(median(item_bytes(stack, "RecordsTable"))),
        "review_bytes": round(median(item_bytes(stack, "ReviewsTable"))),
        "metrics": len(set().union(*meter.metrics.values())),
        "milliseconds_here": {name: round(1000 * median(took), 1) for name, took in sorted(seconds.items()) if took},
    }


if __name__ == "__main__":
    counts = count()
    OUT.write_text(json.dumps(counts, indent=2) + "\n", "utf-8")
    print(json.dumps(counts, indent=2))  # noqa: T201
