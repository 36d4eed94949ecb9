"""What the ledger takes, by the number of uploads ever and of new ones: `python -m bench.ledger --help`.

AWS is simulated below botocore: its clients make real requests and parse real answers. Each answer is computed from its
request, so no bucket of a million objects is kept in memory. Each number is measured in a separate process.
"""

import argparse
import itertools
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import boto3
from botocore.awsrequest import AWSPreparedRequest, AWSResponse

from fuzz.images import peak_megabytes
from kickstand.clients import quick_times
from kickstand.ledger.books import Books
from kickstand.ledger.letters import heal_letters
from kickstand.ledger.store import go_on_with_audit, keep_ledger, load_standing
from kickstand_cli.project import PROJECT

BUCKET, PAGE = "photos", 1000
KINDS = ("run", "audit", "letters")
SIZES, NEW, LETTERS = (10_000, 1_000_000), 2_000, 50_000
BEFORE = "2026-05-04T12:00:00.000Z"
NOW = datetime(2026, 6, 1, tzinfo=UTC)


class Body:
    """What botocore reads of an answer."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self.content


class Aws:
    """Bucket, tables and queues with `ever` uploads, all accepted, of which the last `new` are in the queue.

    letters: this many have failed for a reason, and are in the dead-letter queue.
    """

    def __init__(self, ever: int, new: int, letters: int = 0) -> None:
        self.ever, self.waiting = ever, iter(range(ever - new, ever))
        self.dead, self.letters = iter(range(letters)), letters
        self.calls: Counter[str] = Counter()
        self.control: dict[str, Any] | None = None

    def client(self, service: str) -> Any:
        session: Any = boto3.Session(
            aws_access_key_id="none",
            aws_secret_access_key="none",  # noqa: S106
            region_name="us-east-1",
            botocore_session=quick_times(),
        )
        client = session.client(service)
        client.meta.events.register("before-send.*.*", self.answer)
        return client

    def books(self) -> Books:
        s3, dynamodb, sqs, stepfunctions = map(self.client, ("s3", "dynamodb", "sqs", "stepfunctions"))
        tables = ("records", "reviews", "control", "letters")
        return Books(
            s3,
            dynamodb,
            sqs,
            stepfunctions,
            BUCKET,
            *tables,
            "https://sqs/new",
            "https://sqs/waiting",
            "https://sqs/dead",
            "",
            poll_seconds=0,
        )

    def answer(self, request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        told: Any = request.body
        if target := headers.get("x-amz-target"):
            name = (target if isinstance(target, str) else target.decode()).rpartition(".")[2]
            content = json.dumps(getattr(self, name)(json.loads(told))).encode()
        else:
            name, content = "ListObjectVersions", self.versions(str(request.url))
        self.calls[name] += 1
        kind: Any = {"content-type": "application/x-amz-json-1.0"}
        return AWSResponse(str(request.url), 200, kind, Body(content))

    def versions(self, url: str) -> bytes:
        found = re.search(r"key-marker=(\d+)", url)
        start = int(found[1]) + 1 if found else 0
        end = min(start + PAGE, self.ever)
        items = "".join(
            f"<Version><Key>{number:09}</Key><VersionId>v</VersionId><IsLatest>true</IsLatest><LastModified>{BEFORE}"
            f'</LastModified><ETag>"e"</ETag><Size>2000000</Size><StorageClass>STANDARD</StorageClass></Version>'
            for number in range(start, end)
        )
        more = f"<NextKeyMarker>{end - 1:09}</NextKeyMarker><NextVersionIdMarker>v</NextVersionIdMarker>"
        cut = str(end < self.ever).lower()
        return f"<ListVersionsResult><IsTruncated>{cut}</IsTruncated>{more}{items}</ListVersionsResult>".encode()

    def GetQueueAttributes(self, _: Any) -> dict[str, Any]:  # noqa: N802
        return {"Attributes": {"ApproximateNumberOfMessages": "0"}}

    def BatchGetItem(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        keys = asked["RequestItems"].get("records", {}).get("Keys", [])
        return {"Responses": {"records": [record(key["image"]["S"]) for key in keys]}, "UnprocessedKeys": {}}

    def Scan(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        number, make = (self.letters, letter) if asked["TableName"] == "letters" else (self.ever, record)
        marker = asked.get("ExclusiveStartKey")
        start = int(marker["image"]["S"].rpartition("/")[2]) + 1 if marker else 0
        items = [make(f"s3://{BUCKET}/{place:09}") for place in range(start, min(start + PAGE, number))]
        if start + PAGE >= number:
            return {"Items": items}
        return {"Items": items, "LastEvaluatedKey": {name: items[-1][name] for name in ("image", "version")}}

    def UpdateItem(self, _: Any) -> dict[str, Any]:  # noqa: N802
        return {}

    def ReceiveMessage(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        queue, make = (self.waiting, event) if "new" in asked["QueueUrl"] else (self.dead, failed)
        return {
            "Messages": [
                {"MessageId": f"{n}", "ReceiptHandle": f"{n}", "Body": make(n), "Attributes": {"SentTimestamp": "1"}}
                for n in itertools.islice(queue, 10)
            ]
        }

    def DeleteMessageBatch(self, _: Any) -> dict[str, Any]:  # noqa: N802
        return {"Successful": [], "Failed": []}

    def GetItem(self, _: Any) -> dict[str, Any]:  # noqa: N802
        return {"Item": self.control} if self.control else {}

    def PutItem(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.control = asked["Item"]
        return {}


def record(image: str) -> dict[str, Any]:
    return {
        "image": {"S": image},
        "version": {"S": "v"},
        "decision": {"M": {"route": {"S": "accept"}}},
        "audited": {"BOOL": False},
        "recorded_at": {"S": BEFORE},
    }


def event(number: int) -> str:
    uploaded = {"key": f"{number:09}", "etag": "e", "size": 2_000_000, "version-id": "v"}
    return json.dumps({"time": BEFORE, "detail": {"bucket": {"name": BUCKET}, "object": uploaded}})


def failed(number: int) -> str:
    return json.dumps(json.loads(event(number)) | {"error": {"Error": "ValueError", "Cause": "c" * 500}})


def letter(image: str) -> dict[str, Any]:
    body = failed(int(image.rpartition("/")[2]))
    texts = {"image": image, "version": "v", "event": body, "error": "ValueError", "failed_at": BEFORE}
    return {name: {"S": text} for name, text in texts.items()}


def letters(number: int) -> dict[str, Any]:
    """A run that finds this many new letters, each of which waits for a person."""
    aws = Aws(0, 0, number)
    books = aws.books()
    started = time.process_time()
    keep_ledger(books, NOW, lambda: 900.0)
    found = heal_letters(books, NOW)
    if found.for_a_person != number:
        raise SystemExit(f"wrong: {found}")
    return told("run, all of them letters", number, started, aws)


def run(ever: int, new: int) -> dict[str, Any]:
    """A run of the ledger."""
    aws = Aws(ever, new)
    books = aws.books()
    started = time.process_time()
    found, _ = keep_ledger(books, NOW, lambda: 900.0)
    if (found.uploads, found.missing) != (new, 0):
        raise SystemExit(f"wrong: {found}")
    return told(f"run, {new:,} new", ever, started, aws)


def audit(ever: int, cuts: int = 3) -> dict[str, Any]:
    """An audit that is interrupted and continues, each time from its saved state alone."""
    aws = Aws(ever, 0)
    started, slices = time.process_time(), 0
    standing = None
    while standing is None or standing.audit:
        moments = iter([900.0] * (2 * ever // PAGE // cuts))
        standing = go_on_with_audit(
            aws.books(), NOW + timedelta(hours=slices), partial(next, moments, 0.0), begin=not slices
        )
        slices += 1
    last = load_standing(aws.books())[0].last
    if (last.uploads, last.missing) != (ever, 0):
        raise SystemExit(f"wrong: {last}")
    return told(f"audit in {slices} slices", ever, started, aws)


def told(what: str, ever: int, started: float, aws: Aws) -> dict[str, Any]:
    seconds = time.process_time() - started
    return {
        "what": what,
        "ever": ever,
        "cpu_s": round(seconds, 2),
        "calls": aws.calls.total(),
        "peak_mb": peak_megabytes(),
    }


def measure(sizes: Sequence[int] = SIZES, new: int = NEW, failed: int = LETTERS) -> list[dict[str, Any]]:
    """A run and an audit for each size, and a run of this many letters, each in a process of its own."""
    asked = [(kind, size) for kind in ("run", "audit") for size in sizes] + [("letters", failed)]
    return [
        json.loads(
            subprocess.run(
                [sys.executable, "-m", "bench.ledger", "--one", kind, "--ever", str(size), "--new", str(new)],
                cwd=PROJECT,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for kind, size in asked
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ever", type=int, nargs="+", default=SIZES, help="uploads in the bucket")
    parser.add_argument("--new", type=int, default=NEW, help="uploads since the last run")
    parser.add_argument("--letters", type=int, default=LETTERS, help="dead letters since the last run")
    parser.add_argument("--one", choices=KINDS, help="measure this, in this process, and print JSON")
    options = parser.parse_args()
    if options.one:
        size = options.ever[0]
        found = {"run": lambda: run(size, options.new), "audit": lambda: audit(size), "letters": lambda: letters(size)}[
            options.one
        ]()
        print(json.dumps(found))  # noqa: T201
        return
    line = "{what:24} of {ever:>10,} ever: {cpu_s:8.2f} s CPU, {calls:7,} calls, {peak_mb:4} MB at most"
    for row in measure(options.ever, options.new, options.letters):
        print(line.format(**row))  # noqa: T201


if __name__ == "__main__":
    main()
