"""`kickstand cost`: a year's bills by service, for each set-up and for the reference design."""

import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from kickstand.classify.artefact import read_part
from kickstand.classify.stated import StatedCard
from kickstand.text import counted
from kickstand_cli.files import expect_writable, write_file
from kickstand_cli.local.template import load_yaml
from kickstand_cli.project import MODEL, TEMPLATE
from kickstand_cli.terminal import AsJson, CommandError, console, print_json, reason

COSTS = Path(__file__).parent / "costs"
SECONDS, HOURS, DAYS = 730 * 3600, 730, 730 / 24  # of AWS's month
MOST = 10**9  # photos a month; the limit of the search for break-even points
SHOWN = (1, 2, 12)  # months of the year
BACKENDS, WORKFLOWS = ("embedded", "serverless", "instances"), ("EXPRESS", "STANDARD")
SEED = "seed"  # the reference design: one fixed endpoint
CORE = ("Step Functions", "Lambda", "SageMaker")  # orchestration and compute


@dataclass(frozen=True)
class Bill:
    """Dollars a month, by service. Reviews are an item of their own."""

    by_service: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.by_service.values())

    @property
    def orchestration_and_compute(self) -> float:
        return sum(self.by_service.get(service, 0.0) for service in CORE)


@dataclass(frozen=True)
class Month:
    """The uploads of a month, and the stored items on its average day.

    images: uploads in it. photos: in the bucket. records: in the table. recent: records that the report reads.
    """

    images: float
    photos: float
    records: float
    recent: float

    def times(self, factor: float) -> "Month":
        """All numbers times the factor."""
        return Month(self.images * factor, self.photos * factor, self.records * factor, self.recent * factor)


def year(images: float, growth: float = 0.0, retention_days: float = 0) -> list[Month]:
    """Twelve months from the first upload.

    images: uploads in the first month, evenly spread. growth: of the uploads, from month to month.
    retention_days: 0 keeps everything.
    """
    uploads = [images * (1 + growth) ** month for month in range(12)]

    def until(time: float) -> float:
        """Uploads before this time, in months."""
        whole = int(max(time, 0))
        return sum(uploads[:whole]) + uploads[whole] * (max(time, 0) - whole)

    def kept(month: int, days: float) -> float:
        """How many of the last `days` days there are on average."""
        times = [month + (step + 0.5) / 60 for step in range(60)]
        return sum(until(time) - until(time - days / DAYS) for time in times) / len(times)

    ends = retention_days or math.inf
    looks_back = min(ends, float(template()["Parameters"]["ReportDays"]["Default"]))
    return [
        Month(uploads[month], kept(month, ends + hidden_days()), kept(month, ends), kept(month, looks_back))
        for month in range(12)
    ]


def add(bills: Iterable[Bill]) -> Bill:
    total: Counter[str] = Counter()
    for bill in bills:
        total.update(bill.by_service)
    return Bill(total)


def cost(
    photos_a_month: Annotated[int, typer.Option(min=0, max=MOST, help="Uploads in the first month.")] = 1_000_000,
    growth: Annotated[
        float, typer.Option(min=-1, max=1, help="Growth of the uploads from month to month: 0.1 for a tenth.")
    ] = 0.0,
    retention_days: Annotated[
        int | None,
        typer.Option(
            min=0, max=3650, show_default="the template's", help="Days to keep photos, records and reviews; 0: forever."
        ),
    ] = None,
    review_share: Annotated[
        float | None,
        typer.Option(min=0, max=1, show_default="as the policy expects", help="The share of photos that go to review."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the bills by photos a month, as .png or .svg.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Estimate what a year costs, by month and by service.

    It shows months 1, 2 and 12 and the year, for each set-up and for a reference design with one fixed endpoint.
    Storage grows from month to month, unless --retention-days limits it. Requests are counted on the local stack;
    durations on AWS are assumed. Prices are list prices of us-east-1 without free tiers. The output names all
    assumptions.

    Examples:
    $ kickstand cost --photos-a-month 100000
    """
    if plot:
        if plot.suffix not in (".png", ".svg"):
            raise typer.BadParameter(f"{plot}: expected a name that ends in .png or .svg", param_hint="--plot")
        expect_writable(plot)
    share = expected_review_share() if review_share is None else review_share
    days = int(template()["Parameters"]["RetentionDays"]["Default"]) if retention_days is None else retention_days
    months = year(photos_a_month, growth, days)
    found = {name: [bill(month, share) for month in months] for name, bill in set_ups().items()}
    evens = break_even(share)
    if plot:
        draw(plot, share)
    if as_json:
        prices, counts = read("prices"), read("counts")
        told = {
            "images_per_month": photos_a_month,
            "growth": growth,
            "retention_days": days,
            "review_share": share,
            "region": prices["region"],
            "prices_of": prices["date"],
            "prices": prices["prices"],
            "counted": counts["how"],
            "assumed": read("assumptions"),
            "set_ups": {
                name: as_dict(bills[0])
                | {
                    "months": [
                        as_dict(bill) | {"images": round(month.images)}
                        for bill, month in zip(bills, months, strict=True)
                    ],
                    "year": as_dict(add(bills)),
                }
                for name, bills in found.items()
            },
            "break_even_images_per_month": evens,
        }
        print_json(told, indent=2)
        return
    kept = f"all kept for {counted(days, 'day')}" if days else "all kept forever"
    more = f", {growth:+.0%} a month" if growth else ""
    title = f"Dollars for {photos_a_month:,} photos a month{more}, {share:.0%} of them reviewed, {kept}"
    console.table(tabulate(f"{title}: embedded-EXPRESS, the default", columns(found["embedded-EXPRESS"])))
    console.table(compare(found))
    for pair, images in evens.items():
        console.print(f"{spell(pair)}: {'never' if images is None else f'from {images:,} photos a month'}")
    for line in doubts():
        console.print(line)


def spell(name: str) -> str:
    """The name of a set-up, for people."""
    return name.replace(SEED, "one fixed endpoint")


def as_dict(bill: Bill) -> dict[str, Any]:
    return {
        "total": round(bill.total, 4),
        "orchestration_and_compute": round(bill.orchestration_and_compute, 4),
        "by_service": {service: round(dollars, 4) for service, dollars in bill.by_service.items()},
    }


def columns(bills: Sequence[Bill]) -> dict[str, Bill]:
    """The months that are shown, and the year."""
    return {f"month {month}": bills[month - 1] for month in SHOWN} | {"year": add(bills)}


def tabulate(title: str, bills: Mapping[str, Bill]) -> Table:
    """By service; a column for each bill."""
    table = Table(title=title)
    table.add_column("")
    for name in bills:
        table.add_column(name, justify="right")
    for service in dict.fromkeys(service for bill in bills.values() for service in bill.by_service):
        table.add_row(service, *(f"{bill.by_service.get(service, 0):,.2f}" for bill in bills.values()))
    table.add_section()
    table.add_row("total", *(f"{bill.total:,.2f}" for bill in bills.values()))
    table.add_row("orchestration, compute", *(f"{bill.orchestration_and_compute:,.2f}" for bill in bills.values()))
    return table


def compare(found: Mapping[str, Sequence[Bill]]) -> Table:
    """The totals of all set-ups, and the part of month 1 for orchestration and compute."""
    table = Table(title="Totals of each set-up")
    table.add_column("")
    for name in (*columns(next(iter(found.values()))), "orchestration, compute in month 1"):
        table.add_column(name, justify="right")
    for name, bills in found.items():
        totals = [bill.total for bill in columns(bills).values()]
        table.add_row(spell(name), *(f"{dollars:,.2f}" for dollars in (*totals, bills[0].orchestration_and_compute)))
    return table


@cache
def read(name: str) -> dict[str, Any]:
    """prices, counts or assumptions."""
    content: dict[str, Any] = json.loads((COSTS / f"{name}.json").read_bytes())
    return content


def doubts() -> list[str]:
    """The sources of the bills, and how reliable they are."""
    prices, counts, assumed = read("prices"), read("counts"), read("assumptions")["milliseconds"]
    confirmed = Counter(item["confirmed"] for item in prices["prices"].values())
    doubtful = ", ".join(name for name, item in prices["prices"].items() if item["confirmed"] == "no")
    here = {name: f" ({took:g} here)" for name, took in counts["milliseconds_here"].items()}
    took = ", ".join(f"{name.removesuffix('Function')} {ms}{here.get(name, '')}" for name, ms in assumed.items())
    return [
        f"{prices['region']}, list prices of {prices['date']}, no free tier. Source: AWS's own pages for "
        f"{confirmed['page']} prices, other sites that quote AWS for {confirmed['quoted']}. Not confirmed: "
        f"{doubtful or 'none'}.",
        f"{counts['how']}.",
        f"Assumed, not measured on AWS: milliseconds on Lambda, {took}. Each further 10 ms of a function with 1 GB "
        f"costs ${price('lambda_gb_second') * 10_000:.2f} for a million photos. --json lists all assumptions.",
    ]


def price(name: str) -> float:
    return float(read("prices")["prices"][name]["dollars"])


@cache
def template() -> Any:
    return load_yaml(TEMPLATE)


def expected_review_share() -> float:
    """The share that the policy sends to review, and the audits of the rest; of the classes that its evidence shows.

    Raises CommandError where it shows none, or model.json cannot be read.
    """
    try:
        card = read_part(MODEL, StatedCard)
    except (OSError, ValueError) as error:
        raise CommandError(reason(error)) from error
    shares = [share for label, share in card.policy.evidence.coverage.items() if label in card.labels and share.n]
    if not shares:
        raise CommandError(f"{MODEL / 'model.json'}: the evidence of its policy has no photo of a class")
    coverage: float = sum(share.value * share.n for share in shares) / sum(share.n for share in shares)
    audits = float(template()["Parameters"]["AuditRate"]["Default"])
    return round(1 - coverage + audits * coverage, 4)


def hidden_days() -> int:
    """How long the bucket keeps a version that has expired."""
    rules = template()["Resources"]["ImageBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    (days,) = re.findall(r'"NoncurrentDays": (\d+)', json.dumps(rules))
    return int(days)


def set_ups() -> dict[str, Callable[[Month, float], Bill]]:
    """The bill for a month and such a share of reviews, by the set-up's name."""

    def of(backend: str, workflow: str) -> Callable[[Month, float], Bill]:
        return lambda month, share: bill_of(backend, workflow, month, share)

    ours = {f"{backend}-{workflow}": of(backend, workflow) for backend in BACKENDS for workflow in WORKFLOWS}
    return {**ours, SEED: lambda month, _: seed(month)}


def gb_seconds(function: str, milliseconds: float, assumed: Any) -> float:
    """Of one invocation, with its part in cold starts, which are billed since August 2025."""
    properties = template()["Resources"][function]["Properties"]
    memory = properties.get("MemorySize", template()["Globals"]["Function"]["MemorySize"]) / 1024
    return float(memory * (milliseconds + assumed["cold_share"] * assumed["cold_milliseconds"][function]) / 1000)


def lambda_dollars(invocations: Mapping[str, float], assumed: Any, waits: float = 0.0) -> float:
    """Of one photo or review. waits: milliseconds that Classify Image waits for an endpoint instead of the model."""
    dollars = 0.0
    for function, times in invocations.items():
        took = assumed["milliseconds"][function]
        if waits and function == "ClassifyImageFunction":
            took = waits
        used = gb_seconds(function, took, assumed) * price("lambda_gb_second")
        dollars += times * (price("lambda_request") + used)
    return dollars


def bill_of(backend: str, workflow: str, month: Month, share: float) -> Bill:
    """The shipped template's bill."""
    counts, assumed = read("counts"), read("assumptions")
    upload, review = counts["per_upload"], counts["per_review"]
    images = month.images
    reviews = images * share
    if workflow == "EXPRESS":
        # GB-seconds in Step Functions' steps
        blocks = math.ceil(assumed["execution_milliseconds"] / 100) / 10 * 64 / 1024
        execution = price("step_functions_express_request") + blocks * price("step_functions_express_gb_second")
    else:
        execution = upload["transitions"] * price("step_functions_standard_transition")
    invoked = images * sum(upload["invocations"].values()) + reviews * sum(review["invocations"].values())
    log_bytes = images * upload["log_bytes"] + reviews * review["log_bytes"] + invoked * assumed["platform_log_bytes"]
    waits = assumed["endpoint_milliseconds"] if backend != "embedded" else 0.0
    record_units = math.ceil(counts["record_bytes"] / 1024)
    return Bill(
        {
            "Step Functions": images * execution,
            "Lambda": images * lambda_dollars(upload["invocations"], assumed, waits),
            "SageMaker": endpoint(backend, images, assumed),
            "S3": images * (price("s3_put") + price("s3_get")) + stored(month.photos, assumed),
            # A record, its entry in the index, and the switch.
            "DynamoDB": images * ((record_units + 1) * price("dynamodb_write_unit") + price("dynamodb_read_unit"))
            + tables(month.records, share, counts, assumed),
            "SQS": queued(images, assumed),
            "KMS": keys(images, reviews, assumed),
            "EventBridge": images * price("eventbridge_s3_event") + (images + reviews) * price("eventbridge_event"),
            "CloudWatch logs": log_bytes / 1e9 * price("logs_gb"),
            "CloudWatch metrics": watching(counts, assumed),
            "X-Ray": traces(images, reviews) * price("xray_trace"),
            "ledger": ledger(month, counts, assumed),
            "monitor": runs("MonitorSchedule") * assumed["monitor_gb_seconds"] * price("lambda_gb_second")
            + images * assumed["monitor_read_units_per_image"] * price("dynamodb_read_unit"),
            "report": report(month, assumed),
            "reviews": people(reviews, counts, assumed),
        }
    )


def queued(images: float, assumed: Any) -> float:
    """Of the upload queue, in which each upload comes alone; and Lambda's requests while it is empty."""
    idle = assumed["queue_pollers"] * SECONDS / assumed["queue_poll_seconds"]
    return float((images * assumed["queue_requests_per_upload"] + idle) * price("sqs_request"))


def tables(records: float, share: float, counts: Any, assumed: Any) -> float:
    """The storage of the tables of records and reviews, with backups."""
    overhead = assumed["storage_overhead_bytes"]
    entry = assumed["index_entry_bytes"] + overhead
    stored_bytes = records * (counts["record_bytes"] + overhead + entry + share * (counts["review_bytes"] + overhead))
    return float(stored_bytes / 1e9 * (price("dynamodb_gb_month") + price("dynamodb_backup_gb_month")))


def keys(images: float, reviews: float, assumed: Any) -> float:
    """The tables' key is AWS's own for DynamoDB, in this account: the key is free, its requests are not.

    DynamoDB asks for it once every five minutes for each connection with traffic. Each sandbox of a function that
    reads or writes a table has one, and so has Step Functions for the switch.
    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/encryption.howitworks.html
    """
    encrypted = [
        item["Properties"]
        for item in template()["Resources"].values()
        if item["Type"] == "AWS::DynamoDB::Table" and item["Properties"].get("SSESpecification", {}).get("SSEEnabled")
    ]
    if not encrypted:  # a key of DynamoDB's, which costs nothing
        return 0.0
    most = SECONDS / assumed["key_refreshed_after_seconds"]
    at_once = 1 + images / SECONDS * assumed["execution_milliseconds"] / 1000 * assumed["peak_over_mean"]
    jobs = [("LedgerSchedule", 2), ("MonitorSchedule", 3), ("ReportSchedule", 1)]
    asked = sum(tables * min(runs(schedule), most) for schedule, tables in jobs)
    asked += 2 * min(images, most * at_once)  # the record, the switch
    asked += 5 * min(reviews, most)  # one table to ask, two to answer, two to record it
    return float(asked * price("kms_request"))


def traces(images: float, reviews: float) -> float:
    """Executions by the sampling rules; jobs by Lambda, which takes one a second."""
    jobs = sum(runs(schedule) for schedule in ("LedgerSchedule", "MonitorSchedule", "ReportSchedule"))
    return float(template()["Parameters"]["TraceShare"]["Default"]) * (images + reviews) + jobs


def ledger(month: Month, counts: Any, assumed: Any) -> float:
    """The reads of the runs: `ledger_reads` says whether each reads everything, or only an audit does."""
    read_units = counts["record_bytes"] / 4096 / 2  # a scan, eventually consistent
    compute = assumed["ledger_milliseconds_per_image"] / 1000 * price("lambda_gb_second")  # with 1 GB
    if assumed["ledger_reads"] == "everything":
        scanned = month.records * (read_units * price("dynamodb_read_unit") + compute)
        return float(runs("LedgerSchedule") * (scanned + month.photos * price("s3_put") / 1000))
    fetched = price("dynamodb_read_unit") / 2 + compute
    new = month.images * (fetched + 1.2 * price("sqs_request"))  # sent alone, received and deleted by ten
    # An audit also asks for each photo's dead letter, in half a unit, and scans the records.
    audited = fetched + (0.5 + read_units) * price("dynamodb_read_unit")
    audits = assumed["audits_a_month"] * month.photos * audited
    idle = runs("LedgerSchedule") * price("lambda_gb_second")
    return float(new + audits + idle)


def report(month: Month, assumed: Any) -> float:
    """Each record of the latest days is fetched by its key, in half a unit."""
    records = min(month.recent, assumed["report_records_at_most"] or math.inf)
    compute = 2 * assumed["report_milliseconds_per_record"] / 1000 * price("lambda_gb_second")  # with 2 GB
    return float(runs("ReportSchedule") * records * (price("dynamodb_read_unit") / 2 + compute))


def people(reviews: float, counts: Any, assumed: Any) -> float:
    """The AWS calls of reviews. Each page reads the index of open reviews, to show their number."""
    review = counts["per_review"]
    calls, pages = review["calls"], review["invocations"]["ReviewFunction"]
    record_units = math.ceil((counts["record_bytes"] + assumed["outcome_bytes"]) / 1024)
    # The open review's entry in the index comes and goes; the record's moves.
    writes = calls["DynamoDB PutItem"] * math.ceil(counts["review_bytes"] / 1024) + 2 + record_units + 2
    waiting = reviews * assumed["hours_until_answered"] / HOURS
    reads = calls["DynamoDB GetItem"] + pages * max(1, waiting * assumed["index_entry_bytes"] / 4096) / 2
    one = writes * price("dynamodb_write_unit") + reads * price("dynamodb_read_unit") + pages * price("s3_get")
    one += review["transitions"] * price("step_functions_standard_transition")
    return float(reviews * (one + lambda_dollars(review["invocations"], assumed)))


def runs(schedule: str) -> float:
    """How often in a month, by the parameter's default, such as rate(15 minutes)."""
    number, unit = template()["Parameters"][schedule]["Default"].removeprefix("rate(").removesuffix(")").split()
    every = int(number) * {"minute": 60, "hour": 3600, "day": 86400}[unit.removesuffix("s")]
    return float(SECONDS / every)


def endpoint(backend: str, images: float, assumed: Any) -> float:
    if backend == "serverless":
        one: float = assumed["serverless_billed_milliseconds"] / 1000 * price("sagemaker_serverless_second")
        return float(images * (one + assumed["endpoint_bytes"] / 1e9 * price("sagemaker_serverless_gb")))
    if backend == "instances":
        peak = images / SECONDS * assumed["peak_over_mean"]
        fleet = max(2, math.ceil(peak / assumed["instance_images_per_second"]))  # two: see serving.yaml
        return float(fleet * HOURS) * price("sagemaker_ml_m5_large_hour")
    return 0.0


def stored(photos: float, assumed: Any) -> float:
    dollars: float = photos * assumed["photo_bytes"] / 1e9 * price("s3_gb_month")
    return dollars


def watching(counts: Any, assumed: Any) -> float:
    """Custom metrics, alarms by the metrics that they watch, dashboards: the same for any number of photos."""
    resources = [item for item in template()["Resources"].values() if "Condition" not in item]
    alarms = [item["Properties"] for item in resources if item["Type"] == "AWS::CloudWatch::Alarm"]
    watched = sum(max(1, sum("MetricStat" in part for part in alarm.get("Metrics", []))) for alarm in alarms)
    dashboards = sum(item["Type"] == "AWS::CloudWatch::Dashboard" for item in resources)
    metrics: int = counts["metrics"] + assumed["metrics_not_met_while_counting"]
    return float(metrics * price("custom_metric") + watched * price("alarm_metric") + dashboards * price("dashboard"))


def seed(month: Month) -> Bill:
    """The student project: an ml.m5.xlarge endpoint, three Lambdas in a STANDARD workflow; it stores no result."""
    assumed, images = read("assumptions"), month.images
    design = assumed["seed"]
    used = sum(design["milliseconds"]) / 1000 * design["memory_gb"] * price("lambda_gb_second")
    log_bytes = design["invocations"] * (design["log_bytes"] + assumed["platform_log_bytes"])
    return Bill(
        {
            "Step Functions": images * design["transitions"] * price("step_functions_standard_transition"),
            "Lambda": images * (design["invocations"] * price("lambda_request") + used),
            "SageMaker": HOURS * price("sagemaker_ml_m5_xlarge_hour"),
            "S3": images * (price("s3_put") + price("s3_get")) + stored(month.photos, assumed),
            "CloudWatch logs": images * log_bytes / 1e9 * price("logs_gb"),
        }
    )


def break_even(share: float) -> dict[str, int | None]:
    """The number of photos from which the second of a pair costs less in the first month; None: never."""
    bills, month = set_ups(), year(1)[0]
    pairs = [
        ("embedded-EXPRESS", "serverless-EXPRESS"),
        ("embedded-EXPRESS", "instances-EXPRESS"),
        ("serverless-EXPRESS", "instances-EXPRESS"),
        ("embedded-EXPRESS", SEED),
        ("embedded-STANDARD", SEED),
    ]

    def cheaper(first: str, second: str, images: int) -> bool:
        return bills[second](month.times(images), share).total < bills[first](month.times(images), share).total

    def first_cheaper(first: str, second: str) -> int | None:
        steps = [round(10 ** (step / 10)) for step in range(91)]
        above = next((images for images in steps if cheaper(first, second, images)), None)
        if above is None or above == steps[0]:
            return above
        below = steps[steps.index(above) - 1]
        while above - below > 1:
            middle = (above + below) // 2
            below, above = (below, middle) if cheaper(first, second, middle) else (middle, above)
        return above

    return {f"{second} cheaper than {first}": first_cheaper(first, second) for first, second in pairs}


def billed_bytes(item: Mapping[str, Any]) -> int:
    """The size of an item as DynamoDB documents it: names, values, and a few bytes for each number, list and map.

    Source: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html

    >>> billed_bytes({"id": {"S": "é"}, "n": {"N": "0.125"}, "all": {"L": [{"BOOL": True}]}})
    16
    """
    return sum(len(name.encode()) + _value_bytes(value) for name, value in item.items())


def _value_bytes(value: Mapping[str, Any]) -> int:
    ((kind, content),) = value.items()
    match kind:
        case "S":
            return len(content.encode())
        case "N":  # a byte for two digits, and one more
            number = Decimal(content).normalize().as_tuple()
            return math.ceil(len(number.digits) / 2) + 1 + number.sign
        case "M":
            return 3 + len(content) + billed_bytes(content)
        case "L":
            return 3 + len(content) + sum(map(_value_bytes, content))
        case _:  # true, false and null
            return 1


def draw(path: Path, share: float) -> None:
    """Total by photos a month, both logarithmic."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "kickstand"
    import matplotlib.pyplot as plt

    scale, month = [round(10 ** (step / 10)) for step in range(20, 81)], year(1)[0]
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    wide = {BACKENDS[0]: 4.0}  # the next is on it
    styles = {"EXPRESS": "-", "STANDARD": "--"}
    colours = dict(zip((*BACKENDS, SEED), ("#1b7f5c", "#2a6fbb", "#b3541e", "#444444"), strict=True))
    for name, bill in set_ups().items():
        backend, _, workflow = name.partition("-")
        totals = [bill(month.times(images), share).total for images in scale]
        axes.loglog(
            scale,
            totals,
            styles.get(workflow, ":"),
            color=colours[backend],
            label=spell(name),
            linewidth=wide.get(backend, 1.5),
        )
    axes.set(xlabel="photos a month", ylabel="dollars", title=f"The first month; {share:.0%} reviewed")
    axes.grid(which="major", alpha=0.3)
    axes.legend()
    drawn, metadata = io.BytesIO(), {"Date": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(drawn, format=path.suffix.removeprefix("."), dpi=120, metadata=metadata)
    plt.close(figure)
    write_file(path, drawn.getvalue())
