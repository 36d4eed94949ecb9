"""`kickstand load-test`: many uploads, steady, in bursts or as a ramp; and their outcomes."""

import inspect
import io
import math
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from PIL import Image, ImageDraw

from kickstand.errors import ModelUnavailable
from kickstand.ledger.balance import Key
from kickstand.ledger.books import find_record
from kickstand.ledger.letters import find_letters, record_letters
from kickstand.records import Record
from kickstand.text import counted
from kickstand_cli.classify.evaluation import name_unread
from kickstand_cli.deployment import (
    DEFAULT_STACK,
    OutputsFile,
    StackName,
    open_books,
    open_client,
    read_outputs,
    reporting,
)
from kickstand_cli.files import list_files, make_folder, read_file
from kickstand_cli.ledger.ledger import as_dict
from kickstand_cli.project import TEMPLATE
from kickstand_cli.terminal import (
    AsJson,
    CommandError,
    ExitCode,
    console,
    divert_output,
    print_json,
    reason,
    show_progress,
)

if TYPE_CHECKING:
    from kickstand_cli.local.stack import Stack

BURST = 100  # uploads at a time
REDELIVERED = 0.1  # share of the events that come twice, locally
WAIT_SECONDS = 600
CALLERS = ("PrepareImageFunction", "RecordResultFunction", "AskPersonFunction")  # functions that call AWS
PLACES = {"accept": "accepted", "reject": "rejected", "review": "waiting"}
BAD = (b"", b"no photo", b"%PDF-1.7\n%%EOF", b"\x89PNG\r\n\x1a\n", b"<html></html>", b"\xff\xd8\xff\xe0half a photo")


class Profile(StrEnum):
    """How uploads follow each other: evenly; BURST at a time, then a pause; or faster and faster, to twice the rate."""

    STEADY = "steady"
    BURST = "burst"
    RAMP = "ramp"


@dataclass(frozen=True)
class Sent:
    """One upload. bad: not a photo. duplicate: the bytes of an earlier one under the same key."""

    key: str
    data: bytes = field(repr=False)
    bad: bool
    duplicate: bool


@dataclass(frozen=True)
class Summary:
    """The outcomes of one run's uploads.

    duplicates: the same bytes uploaded again under the same key; each is a version with its own decision.
    redelivered: events delivered twice. faults: injected, by service. ledger: uploads by where they ended.
    doubled: uploads with more than one record. wrong: bad files not rejected as unreadable, and photos that were.
    milliseconds: from upload to record, percentiles.
    """

    uploads: int
    bad: int
    duplicates: int
    redelivered: int
    faults: dict[str, int]
    ledger: dict[str, int]
    doubled: int
    wrong: int
    milliseconds: dict[str, float]
    seconds: float

    @property
    def balanced(self) -> bool:
        """Whether every upload has exactly one outcome, and the right one; a dead letter is a failure."""
        return not (self.failed or self.doubled or self.wrong)

    @property
    def failed(self) -> int:
        """Uploads without a decision."""
        return self.ledger["missing"] + self.ledger["dead_letter"]


def load(
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1_000_000, help="The number of uploads.")] = 200,
    profile: Annotated[
        Profile, typer.Option(case_sensitive=False, help="How the uploads follow each other.")
    ] = Profile.BURST,
    rate: Annotated[float, typer.Option(min=0.1, max=1000, help="Uploads a second, on average.")] = 20.0,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Upload the photos below DIR instead of drawn ones.")
    ] = None,
    bad: Annotated[float, typer.Option(min=0, max=1, help="The share of files that are not photos.")] = 0.05,
    duplicates: Annotated[float, typer.Option(min=0, max=1, help="The share that is uploaded twice.")] = 0.05,
    throttle: Annotated[
        float, typer.Option(min=0, max=0.5, help="Locally: the share of AWS calls that is throttled.")
    ] = 0.0,
    waves: Annotated[
        float,
        typer.Option(
            min=0,
            max=3600,
            help="With --throttle: throttle all calls for that share of each N seconds; 0: random calls.",
        ),
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same uploads.")] = 1,
    aws: Annotated[
        bool, typer.Option("--aws", help="Upload to the deployed stack instead of one on this machine.")
    ] = False,
    bucket: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --aws: only upload, to this bucket, without waiting.")
    ] = None,
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
    as_json: AsJson = False,
) -> None:
    """Upload many photos, and check that each is decided exactly once.

    Some files are not photos, and some are uploaded twice. On this machine everything runs in one process, so the times
    are those of the local engine. With --aws the uploads cost money and stay in the bucket, below load/.

    Exit codes: 0 every upload has the right outcome; 1 an error; 4 some do not.

    Examples:
    $ kickstand load-test --count 50
    $ kickstand load-test --aws --count 1000 --stack-name kickstand-dev
    """
    with reporting():
        unread: list[str] = []
        sent = list(compose(count, images, bad, duplicates, random.Random(seed), unread))  # noqa: S311 - the same again
        if bucket:
            upload_only(sent, bucket, profile, rate)
            if as_json:
                print_json({"uploads": len(sent), "bucket": bucket})
            else:
                console.print(f"{counted(len(sent), 'upload')} to {bucket}")
            name_unread(unread)
            return
        if aws:
            summary = run_on_aws(sent, profile, rate, stack_name, outputs)
        else:
            summary = run_locally(sent, profile, rate, throttle, waves, random.Random(seed))  # noqa: S311
    if as_json:
        print_json(asdict(summary) | {"balanced": summary.balanced})
    else:
        show(summary, local=not aws)
    name_unread(unread, ExitCode.OK if summary.balanced else ExitCode.ATTENTION)


# ---- the uploads


def compose(
    count: int, images: Path | None, bad: float, duplicates: float, chance: random.Random, unread: list[str]
) -> Iterator[Sent]:
    """The uploads, in order; exactly these shares, rounded, are bad and duplicates.

    unread: gets the reason for each file that cannot be read.
    """
    photos = _read_photos(images, unread) if images else None
    number_bad, number_twice = round(count * bad), min(round(count * duplicates), count - 1)
    fresh = count - number_twice
    kinds = [True] * min(number_bad, fresh) + [False] * max(0, fresh - number_bad)
    chance.shuffle(kinds)
    first: list[Sent] = []
    for position, is_bad in enumerate(kinds):
        name = f"load/{chance.getrandbits(32):08x}/{position:06d} +é.png"
        data = chance.choice(BAD) if is_bad else chance.choice(photos) if photos else draw(chance)
        first.append(Sent(name, data, is_bad, duplicate=False))
        yield first[-1]
        while number_twice and chance.random() < number_twice / (len(kinds) - position):
            again = chance.choice(first)
            number_twice -= 1
            yield Sent(again.key, again.data, again.bad, duplicate=True)


def _read_photos(folder: Path, unread: list[str]) -> list[bytes]:
    photos = []
    for file in list_files(folder, unread):
        try:
            photos.append(read_file(file))
        except OSError as error:
            unread.append(reason(error))
    if not photos:
        raise CommandError("; ".join(unread) or f"{folder}: no files in this folder")
    return photos


def draw(chance: random.Random) -> bytes:
    """A random drawing, as PNG; no two are the same."""

    def colour() -> tuple[int, int, int]:
        return chance.randrange(256), chance.randrange(256), chance.randrange(256)

    image = Image.new("RGB", (96, 72), colour())
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, size = chance.randrange(96), chance.randrange(72), chance.randrange(8, 40)
        pen.ellipse((x - size, y - size, x + size, y + size), outline=colour(), width=chance.randrange(1, 6))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def starts_at(position: int, count: int, profile: Profile, rate: float) -> float:
    """Seconds from the start to this upload.

    >>> [starts_at(n, 200, Profile.BURST, 50) for n in (0, 99, 100)]
    [0.0, 0.0, 2.0]
    """
    if profile is Profile.BURST:
        return position // BURST * BURST / rate
    if profile is Profile.RAMP:  # the rate grows from 0 to twice the average
        return count / rate * math.sqrt(position / count)
    return position / rate


# ---- the runs


class Throttling:
    """Throttles a share of the AWS calls of the local functions.

    waves: all calls for a share of this many seconds, from the first call on, then none, as when an account is
    throttled; 0: random calls. thrown: throttled calls, by service.
    """

    def __init__(self, stack: "Stack", share: float, waves: float, chance: random.Random) -> None:
        self.thrown: Counter[str] = Counter()
        self._share, self._waves, self._chance = share, waves, chance
        self._began: float | None = None
        for name in CALLERS if share else ():
            scope = inspect.unwrap(stack.functions[name].load()).__globals__
            for client in {id(value): value for value in scope.values() if hasattr(value, "meta")}.values():
                service = client.meta.service_model.service_name

                def refuse(service: str = service, **_: Any) -> Any:
                    if not self._refuses():
                        return None
                    self.thrown[service] += 1
                    error = {"Code": "ThrottlingException", "Message": "injected by kickstand load-test"}
                    answer = {"Error": error, "ResponseMetadata": {"HTTPStatusCode": 400}}
                    return SimpleNamespace(status_code=400), answer

                client.meta.events.register("before-call", refuse)

    def _refuses(self) -> bool:
        if self._waves:
            now = time.monotonic()
            self._began = now if self._began is None else self._began
            return (now - self._began) % self._waves < self._share * self._waves
        return self._chance.random() < self._share

    def refuse_model(self, function: str) -> None:
        """The same for the model, which is not a service here; called before each invocation."""
        if function == "ClassifyImageFunction" and self._refuses():
            self.thrown["model"] += 1
            raise ModelUnavailable("ThrottlingException, injected by kickstand load-test")


def run_locally(
    sent: list[Sent], profile: Profile, rate: float, throttle: float, waves: float, chance: random.Random
) -> Summary:
    """To the shipped template on this machine; a tenth of the events is delivered twice."""
    from kickstand_cli.local.stack import deploy

    started, folder = time.monotonic(), Path("build")
    make_folder(folder)
    throttling: list[Throttling] = []

    def fault(function: str) -> None:
        for one in throttling:
            one.refuse_model(function)

    with ExitStack() as open_, show_progress() as progress, divert_output(folder / "load-functions.log"):
        stack = open_.enter_context(deploy(TEMPLATE, faults=fault))
        throttling.append(Throttling(stack, throttle, waves, chance))
        uploads: dict[Key, tuple[datetime, Sent]] = {}
        redelivered = 0

        def send(item: Sent) -> None:
            at = datetime.now(UTC)
            version = stack.upload(item.key, item.data)
            uploads[f"s3://{stack.outputs['ImageBucketName']}/{item.key}", version] = (at, item)
            progress.advance(task)

        def copies() -> int:
            nonlocal redelivered
            again = chance.random() < REDELIVERED
            redelivered += again
            return 1 + again

        task = progress.add_task("upload and decide", total=len(sent))
        pace(sent, profile, rate, send, lambda: stack.deliver(copies))
        stack.settle(lambda: time.sleep(0.1))
        ledger = as_dict(stack.ledger())
        records = stack.records()
    faults = dict(throttling[0].thrown)
    return summarise(uploads, records, ledger, faults, redelivered, time.monotonic() - started)


def run_on_aws(sent: list[Sent], profile: Profile, rate: float, stack_name: str, outputs: Path | None) -> Summary:
    """To the deployed stack; waits until each upload has a record, at most ten minutes after the last one."""
    started, books = time.monotonic(), open_books(read_outputs(stack_name, outputs))
    uploads: dict[Key, tuple[datetime, Sent]] = {}
    records: list[Record] = []
    with show_progress() as progress:
        uploading = progress.add_task("upload", total=len(sent))

        def send(item: Sent) -> None:
            at = datetime.now(UTC)
            answer = books.s3.put_object(Bucket=books.image_bucket, Key=item.key, Body=item.data)
            version = answer.get("VersionId") or answer["ETag"].strip('"')
            uploads[f"s3://{books.image_bucket}/{item.key}", version] = (at, item)
            progress.advance(uploading)

        pace(sent, profile, rate, send, lambda: None)
        waiting, deadline = set(uploads), time.monotonic() + WAIT_SECONDS
        deciding = progress.add_task("decide", total=len(sent))
        while waiting and time.monotonic() < deadline:
            for key in list(waiting):
                if record := find_record(books, key):
                    records.append(record)
                    waiting.remove(key)
                    progress.advance(deciding)
            time.sleep(1)
    record_letters(books)
    dead = find_letters(books, uploads)
    places = Counter(PLACES[record.decision.route] for record in records if record.key not in dead)
    lost = len(waiting - dead)
    ledger = {"uploads": len(uploads), **places, "dead_letter": len(dead), "missing": lost}
    return summarise(uploads, records, ledger, {}, 0, time.monotonic() - started)


def upload_only(sent: list[Sent], bucket: str, profile: Profile, rate: float) -> None:
    """To any bucket, without waiting."""
    s3 = open_client("s3")
    pace(sent, profile, rate, lambda item: s3.put_object(Bucket=bucket, Key=item.key, Body=item.data), lambda: None)


def pace(
    sent: list[Sent], profile: Profile, rate: float, send: Callable[[Sent], Any], after: Callable[[], Any]
) -> None:
    """Send each upload at its time, or as soon as possible after it. after: called after each burst, or upload."""
    started = time.monotonic()
    for position, item in enumerate(sent):
        wait = starts_at(position, len(sent), profile, rate) - (time.monotonic() - started)
        if wait > 0:
            time.sleep(wait)
        send(item)
        if profile is not Profile.BURST or (position + 1) % BURST == 0 or position + 1 == len(sent):
            after()


# ---- the outcomes


def summarise(
    uploads: dict[Key, tuple[datetime, Sent]],
    records: list[Record],
    ledger: dict[str, int],
    faults: dict[str, int],
    redelivered: int,
    seconds: float,
) -> Summary:
    """Compare the uploads with their records."""
    found = Counter(record.key for record in records)
    waits, wrong = [], 0
    for record in records:
        at, item = uploads[record.key]
        waits.append((record.recorded_at - at).total_seconds() * 1000)
        wrong += item.bad != (record.decision.reason == "unreadable")
    sent = [item for _, item in uploads.values()]
    return Summary(
        uploads=len(sent),
        bad=sum(item.bad for item in sent),
        duplicates=sum(item.duplicate for item in sent),
        redelivered=redelivered,
        faults=faults,
        ledger=ledger,
        doubled=sum(number > 1 for number in found.values()),
        wrong=wrong,
        milliseconds=percentiles(waits),
        seconds=round(seconds, 1),
    )


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p90, p99 and the maximum.

    >>> percentiles([float(n) for n in range(1, 102)])
    {'p50': 51.0, 'p90': 91.0, 'p99': 100.0, 'max': 101.0}
    """
    if len(values) < 2:
        return {}
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {name: round(cuts[at - 1], 1) for name, at in (("p50", 50), ("p90", 90), ("p99", 99))} | {
        "max": round(max(values), 1)
    }


def show(summary: Summary, *, local: bool) -> None:
    """The summary for people."""
    console.print(
        f"{counted(summary.uploads, 'upload')} in {summary.seconds:,.0f} s: {counted(summary.bad, 'bad file')}, "
        f"{summary.duplicates:,} uploaded again, {counted(summary.redelivered, 'event')} delivered twice"
    )
    if summary.faults:
        refused = ", ".join(f"{service} {number:,}" for service, number in sorted(summary.faults.items()))
        console.print(f"throttled: {refused}")
    ends = ", ".join(f"{place.replace('_', '-')} {number:,}" for place, number in summary.ledger.items())
    console.print(f"ledger: {ends}")
    engine = " (of the local engine, all in one process)" if local else ""
    times = ", ".join(f"{name} {value:,.0f}" for name, value in summary.milliseconds.items()) or "no record"
    console.print(f"from upload to record, ms: {times}{engine}")
    verdict = "balanced: each upload was decided once"
    if summary.failed == summary.uploads:
        verdict = "ALL FAILED"
    elif summary.failed:
        verdict = f"{summary.failed:,} FAILED"
    elif not summary.balanced:
        verdict = "NOT BALANCED"
    console.print(f"{verdict}; {summary.doubled:,} recorded twice, {summary.wrong:,} with the wrong outcome")
