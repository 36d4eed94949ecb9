"""`kickstand backfill`: decide older photos: estimate, start, watch and stop a run."""

import json
import math
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

import typer

from kickstand.backfill.rules import Listed, Order, Run, State, is_wanted
from kickstand.backfill.store import PACE_SECONDS, begin, end, load_run, read_models
from kickstand.classify.artefact import read_card
from kickstand.errors import first_complaint
from kickstand.events import as_utc, is_folder, split_uri
from kickstand.ledger.books import Books
from kickstand.store import transient
from kickstand.text import counted
from kickstand_cli.classify.inventory import read_inventory
from kickstand_cli.deployment import DEFAULT_STACK, OutputsFile, StackName, open_books, read_outputs, reporting
from kickstand_cli.local import cost
from kickstand_cli.project import MODEL
from kickstand_cli.records import parse_since_option
from kickstand_cli.terminal import AsJson, CommandError, ExitCode, console, print_json, show_progress, stderr

MARGIN = 1.2  # the limit without --max-dollars, as a multiple of the estimate
ASK_AFTER_SECONDS = 5
STARTING = timedelta(minutes=5)  # a run in the table may have no execution yet
BATCH = 250  # keys, as in statemachine/backfill.asl.yaml
COUNTED = {
    "keys": "keys read",
    "executed": "photos decided",
    "decided_before": "photos that had a decision already",
    "not_asked_for": "keys outside the selection",
    "gone": "keys whose object is gone",
    "archived": "photos in an archive, which must be restored first",
    "expired": "photos older than RetentionDays",
    "failed_batches": "batches of up to 250 keys that failed; each is a dead letter that names no upload",
    "unfinished": "photos that could not be decided; the log of BackfillPhotosFunction names them",
}
ENDS = {
    State.STOPPED: "It was stopped.",
    State.SPENT: "It reached its cost limit.",
    State.BROKEN: "It failed: see the execution in the Step Functions console.",
    State.DONE: "It is complete.",
}


@dataclass(frozen=True)
class Survey:
    """The content of the bucket. unchecked: lines of an inventory without a version."""

    keys: int = 0
    wanted: int = 0
    unchecked: int = 0


@dataclass(frozen=True)
class Plan:
    """The cost of a run. dollars_by_service: of one photo. reviews: photos that are expected to go to review.

    photos_at_once: how many the lane decides at the same time.
    """

    survey: Survey
    photos: int
    dollars: float
    dollars_by_service: Mapping[str, float]
    dollars_per_key: float
    seconds: float
    reviews: int
    photos_at_once: int
    assumptions: Sequence[str] = field(default_factory=tuple)

    @property
    def dollars_per_photo(self) -> float:
        return sum(self.dollars_by_service.values())


@dataclass(frozen=True)
class Lane:
    """The stack's lane: its state machine, the one of each photo, batches at a time, photos of a batch."""

    machine: str
    classify_image: str
    batches: int
    photos: int


def backfill(
    prefix: Annotated[str, typer.Option(metavar="PREFIX", help="Only keys with this prefix.")] = "",
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Only photos uploaded since then: 90d, or ISO 8601.")
    ] = None,
    model_version_before: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION", help="Decide the photos of this model version again; else those without a record."
        ),
    ] = None,
    inventory: Annotated[
        str | None,
        typer.Option(metavar="S3URI", help="The manifest.json of an S3 inventory, instead of a listing of the bucket."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Start the run; without it, only the estimate is shown.")] = False,
    max_dollars: Annotated[
        float | None,
        typer.Option(min=0.000001, show_default="a fifth above the estimate", help="Stop before the run costs more."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="With --yes: wait until the run ends.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Use the selection of the last run.")] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Show the progress of the run, or how the last one ended.")
    ] = False,
    stop: Annotated[
        bool, typer.Option("--stop", help="Stop the run; photos in progress still get their decision.")
    ] = False,
    backend: Annotated[
        str, typer.Option(metavar="BACKEND", help="For the estimate: embedded, serverless or instances.")
    ] = "embedded",
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
    as_json: AsJson = False,
) -> None:
    """Decide photos that are in the bucket without a decision of this stack.

    Without --yes it only shows the number of photos, the time and the price. With --yes it starts a run, which pauses
    while live uploads wait. Photos with a decision are skipped, so the same command continues a stopped run. With
    --model-version-before, a newer model decides again: the first decision stays, the newer one is stored beside it,
    and no new review is opened.

    Exit codes: 0 done; 1 an error; 4 with --watch or --status: the run ended early, or left photos undecided.

    Examples:
    $ kickstand backfill --stack-name kickstand-dev --prefix 2025/
    $ kickstand backfill --status --stack-name kickstand-dev
    """
    now = datetime.now(UTC)
    moment = parse_since_option(since, now, "90d")
    if backend not in cost.BACKENDS:
        raise typer.BadParameter(f"{backend}: expected one of {', '.join(cost.BACKENDS)}", param_hint="--backend")
    if sum((yes, status, stop)) > 1:
        raise typer.BadParameter("use one of --yes, --status and --stop")
    if resume and (prefix or since or model_version_before or inventory):
        raise typer.BadParameter("--resume uses the selection of the last run, and takes no other")
    with reporting():
        if inventory:
            place_of(inventory)  # before any call of AWS
        found = read_outputs(stack_name, outputs)
        books = open_books(found)
        standing = load_run(books.dynamodb, books.control_table)
        if stop or status:
            if standing is None:
                raise CommandError("there was no backfill yet")
            if stop and not end(books.dynamodb, books.control_table, standing.order.run, State.STOPPED, now):
                raise CommandError(f"no backfill is running: the last one is {standing.state}")
            _show(books, as_json, strict=status)
            return
        if resume:
            if standing is None:
                raise CommandError("there is no backfill to resume")
            prefix, moment = standing.order.prefix, standing.order.since
            model_version_before, inventory = standing.order.model_version_before, standing.order.inventory
        if yes:
            refuse_second(books, standing, now)
        batches, photos = map(int, found["BackfillLane"].split())
        lane = Lane(found["BackfillStateMachineArn"], found["ClassifyImageStateMachineArn"], batches, photos)
        order = Order(
            run=f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}",
            prefix=prefix,
            since=moment,
            until=now,
            model_version_before=model_version_before,
            dollars_per_photo=Decimal(1),  # not known yet
            dollars_per_key=Decimal(0),
            inventory=inventory,
        )
        plan = make_plan(books, order, lane, backend)
        limit = max_dollars or math.ceil(plan.dollars * MARGIN * 100) / 100
        _print_plan(plan, limit, yes, as_json)
        if not yes or not plan.photos:
            return
        prices = {
            "dollars_per_photo": _decimal(plan.dollars_per_photo),
            "dollars_per_key": _decimal(plan.dollars_per_key),
        }
        start(books, lane, order.model_copy(update=prices), _decimal(limit), standing, now)
        if watch:
            _watch(books, plan.survey.keys)
        _show(books, as_json, strict=watch)


# ---- the estimate


def make_plan(books: Books, order: Order, lane: Lane, backend: str) -> Plan:
    """Count the photos, and estimate. Nothing is changed.

    Raises CommandError where the newer model is the same as the older one.
    """
    workflow = str(books.stepfunctions.describe_state_machine(stateMachineArn=lane.classify_image)["type"])
    current = read_card(MODEL).model_version
    if order.model_version_before == current:
        raise CommandError(
            f"{current} is the model of this checkout; name an older one, or check out the deployed commit"
        )
    with show_progress() as progress:
        task = progress.add_task("list", total=None)
        survey = Survey()
        for survey in take_survey(books, order, current):
            progress.update(task, completed=survey.keys)
    again = order.model_version_before is not None
    share = 0.0 if again else cost.expected_review_share()
    by_service = price_photo(backend, workflow, again, share, lane.photos)
    per_key, at_once = price_key(), lane.batches * lane.photos
    seconds_of_one = cost.read("assumptions")["execution_milliseconds"] / 1000
    if workflow == "STANDARD":
        seconds_of_one = max(seconds_of_one, PACE_SECONDS)
    assumed = [
        f"classify_image runs as {workflow} with the backend {backend}, and takes {seconds_of_one:g} s a photo",
        f"the run decides {at_once} photos at a time, and pauses while live uploads wait",
        *([f"{share:.1%} of the photos go to review"] if share else []),
        *([f"the stack's model is {current}, as in this checkout"] if again else []),
        *(
            [f"{counted(survey.unchecked, 'line')} of the inventory without a version: perhaps decided already"]
            * bool(survey.unchecked)
        ),
        "photos that are archived, or older than RetentionDays, are counted but skipped by the run",
        *cost.doubts(),
    ]
    return Plan(
        survey=survey,
        photos=survey.wanted,
        dollars=survey.wanted * sum(by_service.values()) + survey.keys * per_key,
        dollars_by_service=by_service,
        dollars_per_key=per_key,
        seconds=survey.wanted / at_once * seconds_of_one + survey.keys / lane.batches / BATCH,
        reviews=round(survey.wanted * share),
        photos_at_once=at_once,
        assumptions=assumed,
    )


def take_survey(books: Books, order: Order, current: str) -> Iterator[Survey]:
    """The number of photos so far, and of those selected, after each thousand: memory stays flat."""
    survey = Survey()
    for keys, photos, unchecked in _pages(books, order):
        models = read_models(books.dynamodb, books.records_table, photos)
        wanted = sum(is_wanted(models.get(photo), order, current) for photo in photos)
        survey = Survey(survey.keys + keys, survey.wanted + wanted + unchecked, survey.unchecked + unchecked)
        yield survey


Photos = list[tuple[str, str]]


def _pages(books: Books, order: Order) -> Iterator[tuple[int, Photos, int]]:
    """The keys, a thousand at a time: their number, the uploads among them, and those without a known version."""
    if order.inventory is None:
        for page in books.s3.get_paginator("list_object_versions").paginate(
            Bucket=books.image_bucket, Prefix=order.prefix
        ):
            latest = [found for found in page.get("Versions", []) if found["IsLatest"]]
            photos = [
                (_uri(books, found["Key"]), _version(found["VersionId"], found["ETag"]))
                for found in latest
                if _in_time(found["LastModified"], order) and not is_folder(found["Key"], found["Size"])
            ]
            yield len(latest), photos, 0
        return
    bucket, key = place_of(order.inventory)
    keys, unchecked, photos = 0, 0, Photos()
    for place, line in read_inventory(books.s3, bucket, key):
        if line.get("Bucket", books.image_bucket) != books.image_bucket:
            raise CommandError(
                f"{order.inventory}: lists {line['Bucket']}, not the stack's bucket {books.image_bucket}"
            )
        try:
            entry, size = Listed.model_validate(line), int(line.get("Size") or -1)
            at = as_utc(datetime.fromisoformat(line["LastModifiedDate"])) if line.get("LastModifiedDate") else None
        except ValueError as error:
            raise CommandError(f"{place}: {first_complaint(error)}") from error
        name = entry.decoded(encoded=True)
        keys += 1
        current = name.startswith(order.prefix) and entry.is_latest and not entry.is_delete_marker
        if current and (at is None or _in_time(at, order)) and not is_folder(name, size):
            version = _version(line.get("VersionId"), line.get("ETag"))
            photos += [(_uri(books, name), version)] if version else []
            unchecked += not version
        if keys == 1000:
            yield keys, photos, unchecked
            keys, unchecked, photos = 0, 0, Photos()
    yield keys, photos, unchecked


def place_of(manifest: str) -> tuple[str, str]:
    """Bucket and key. Raises CommandError for anything else than s3://bucket/key."""
    bucket, key = split_uri(manifest)
    if not manifest.startswith("s3://") or not bucket or not key:
        raise CommandError(f"{manifest}: expected s3://bucket/folder/manifest.json")
    return bucket, key


def _uri(books: Books, key: str) -> str:
    return f"s3://{books.image_bucket}/{key}"


def _version(version: str | None, etag: str | None) -> str:
    return version if version and version != "null" else (etag or "").strip('"')


def _in_time(at: datetime, order: Order) -> bool:
    return at <= order.until and (order.since is None or at >= order.since)


def price_photo(backend: str, workflow: str, again: bool, share: float, at_once: int) -> dict[str, float]:
    """Dollars for one photo by service, as in `kickstand cost`, without the costs of an upload.

    again: a second decision: no review, no event. at_once: photos that share a batch function while it waits. The
    storage afterwards costs as in `kickstand cost`, month by month.
    """
    many = 1_000_000
    none, all_of_them = (
        cost.bill_of(backend, workflow, cost.Month(images, 0, 0, 0), share).by_service for images in (0, many)
    )
    found = {name: (dollars - none[name]) / many for name, dollars in all_of_them.items()}
    assumed, price = cost.read("assumptions"), cost.price
    found["S3"] = price("s3_get")
    found["EventBridge"] = 0.0 if again else (1 + share) * price("eventbridge_event")
    found["ledger"] = 0.0
    if again:
        item = cost.read("counts")["record_bytes"] * 2
        found |= {"DynamoDB": math.ceil(item / 1024) * price("dynamodb_write_unit") + price("dynamodb_read_unit")}
        found |= {"monitor": 0.0, "reviews": 0.0}
    waits = 0.25 * assumed["execution_milliseconds"] / 1000 * price("lambda_gb_second")
    found["Lambda"] += waits / at_once
    # Of a group: the budget, the check for waiting uploads; and three steps where nothing waits for it.
    group = price("dynamodb_write_unit") + price("sqs_request")
    if workflow == "STANDARD":
        group += 3 * price("step_functions_standard_transition")
    found["backfill"] = group / at_once
    return {name: dollars for name, dollars in found.items() if dollars > 0}


def price_key() -> float:
    """Dollars for one key: its place in a listing, HeadObject, its record, its share of a batch."""
    price = cost.price
    seconds = 0.25 * 1.0  # GB × seconds for the keys of a batch
    batch = 4 * price("step_functions_standard_transition") + 2 * price("dynamodb_write_unit")
    batch += price("lambda_request") + seconds * price("lambda_gb_second")
    return price("s3_put") / 1000 + price("s3_get") + price("dynamodb_read_unit") / 2 + batch / BATCH


def _decimal(dollars: float) -> Decimal:
    """With nine decimals: a photo costs millionths of a dollar."""
    return Decimal(f"{dollars:.9f}")


# ---- the run


def refuse_second(books: Books, standing: Run | None, now: datetime) -> None:
    """Raises CommandError where a run is in progress: two would share one lane and its budget."""
    if standing is None or standing.state is not State.RUNNING:
        return
    status = _status(books, standing)
    if status == "RUNNING" or (status is None and now - standing.started_at < STARTING):
        since = f"{standing.started_at:%Y-%m-%d %H:%M} UTC"
        raise CommandError(f"a backfill has been running since {since}: --status shows it, --stop stops it")


def _status(books: Books, run: Run) -> str | None:
    """The status of the run's execution; None where there is none."""
    try:
        return str(books.stepfunctions.describe_execution(executionArn=run.execution)["status"])
    except books.stepfunctions.exceptions.ExecutionDoesNotExist:
        return None


def start(books: Books, lane: Lane, order: Order, limit: Decimal, standing: Run | None, now: datetime) -> None:
    """Start the run. Raises CommandError where another one was started first."""
    execution = f"{lane.machine.replace(':stateMachine:', ':execution:')}:{order.run}"
    run = Run(order=order, state=State.RUNNING, execution=execution, started_at=now, dollars_left=limit)
    if not begin(books.dynamodb, books.control_table, run, standing.order.run if standing else None):
        raise CommandError("another backfill was started at the same time: --status shows it")
    asked: dict[str, Any] = {
        "order": order.model_dump(mode="json", exclude_none=True),
        "batches_at_once": lane.batches,
    }
    if order.inventory:
        asked["inventory"] = dict(zip(("bucket", "key"), place_of(order.inventory), strict=True))
    try:
        with transient("Step Functions"):
            books.stepfunctions.start_execution(stateMachineArn=lane.machine, name=order.run, input=json.dumps(asked))
    except Exception:
        end(books.dynamodb, books.control_table, order.run, State.BROKEN, now)
        raise


def _watch(books: Books, keys: int) -> None:
    """Wait until the run or its execution ends."""
    with show_progress() as progress:
        task = progress.add_task("decide", total=keys)
        while (run := load_run(books.dynamodb, books.control_table)) and run.state is State.RUNNING:
            progress.update(task, completed=run.keys)
            if _status(books, run) not in ("RUNNING", None):
                break
            time.sleep(ASK_AFTER_SECONDS)


def _print_plan(plan: Plan, limit: float, yes: bool, as_json: bool) -> None:
    if as_json and not (yes and plan.photos):  # else the run's progress is the one object
        content = asdict(plan) | {"dollars_per_photo": plan.dollars_per_photo, "max_dollars": limit}
        print_json(content)
        return
    shown = stderr if as_json else console
    shown.print(f"{counted(plan.photos, 'photo')} to decide, of {counted(plan.survey.keys, 'key')}")
    shown.print(f"about ${plan.dollars:,.2f}, ${plan.dollars_per_photo * 1e6:,.2f} for a million photos")
    shown.print(f"about {_length(plan.seconds)}, {plan.photos_at_once} photos at a time")
    if plan.reviews:
        shown.print(f"about {plan.reviews:,} of them go to review")
    for line in plan.assumptions:
        shown.print(f"assumed: {line}")
    if plan.dollars > limit:
        part = max(0.0, limit - plan.survey.keys * plan.dollars_per_key) / plan.dollars_per_photo
        shown.print(f"--max-dollars {limit:g} is enough for about {int(part):,} of them")
    if plan.photos and not yes:
        shown.print(f"Nothing was started. --yes starts the run; it stops before it costs more than ${limit:g}.")


def _length(seconds: float) -> str:
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _show(books: Books, as_json: bool, strict: bool = True) -> None:
    """Show the progress of the run. Raises Exit where it ended early."""
    run = load_run(books.dynamodb, books.control_table)
    if run is None:
        raise CommandError("there was no backfill yet")
    status = _status(books, run) if run.state is State.RUNNING else None
    dead = status not in ("RUNNING", None)
    if as_json:
        print_json(run.model_dump(mode="json") | {"execution_status": status})
    else:
        for line in describe(run, status if dead else None):
            console.print(line)
    early = run.state in (State.SPENT, State.BROKEN, State.STOPPED) or dead
    if strict and (early or run.unfinished or run.failed_batches):
        raise typer.Exit(ExitCode.ATTENTION)


def describe(run: Run, dead: str | None = None) -> Iterator[str]:
    """The progress of the run, for people. dead: how its execution ended, where the run did not notice."""
    asked = [f"below {run.order.prefix}"] * bool(run.order.prefix)
    asked += [f"decided by {run.order.model_version_before}, again"] * bool(run.order.model_version_before)
    yield ", ".join([f"backfill {run.order.run}", f"started {run.started_at:%Y-%m-%d %H:%M} UTC", *asked])
    for name, words in COUNTED.items():
        if number := getattr(run, name):
            yield f"{number:,} {words}"
    yield f"${run.dollars_spent:.4f} spent of ${run.dollars_left + run.dollars_spent:.4f}, by the assumed prices"
    if dead:
        yield f"Its execution ended: {dead}. The same command again, or --resume, does the rest."
    elif run.state is State.RUNNING:
        yield "It is running. --stop stops it."
    else:
        left = run.state is not State.DONE or run.unfinished or run.failed_batches
        yield ENDS[run.state] + " --resume does the rest." * bool(left)
