"""`kickstand cost`: the monthly bill by service, for each way to run it, beside the student project's design."""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from kickstand_cli.local.template import load_yaml
from kickstand_cli.project import MODEL, TEMPLATE

COSTS = Path(__file__).parent / "costs"
SECONDS, HOURS = 730 * 3600, 730  # of AWS's month
MOST = 10**9  # images per month, as far as break-even points are looked for
BACKENDS, WORKFLOWS = ("embedded", "serverless", "instances"), ("EXPRESS", "STANDARD")
SEED = "seed"
CORE = ("Step Functions", "Lambda", "SageMaker")  # orchestration and compute


@dataclass(frozen=True)
class Bill:
    """Dollars a month, by service. Reviews stand for themselves: they come only where a person is asked."""

    by_service: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.by_service.values())

    @property
    def orchestration_and_compute(self) -> float:
        return sum(self.by_service.get(service, 0.0) for service in CORE)


def cost(
    images_per_month: Annotated[int, typer.Option(min=0, max=MOST, help="Uploads in a month.")] = 1_000_000,
    review_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share that a person sees; else what the model's policy expects.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the bills by images per month into this .png or .svg.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The bills as JSON.")] = False,
) -> None:
    """What a month costs, by service, for each backend and workflow type, and for the student project's design.

    Requests are counted on the local stack; durations on AWS are assumed, and the output says which. List prices of
    us-east-1 from the date in it, free tiers left out; the output names those that are not confirmed.
    """
    share = expected_review_share() if review_share is None else review_share
    prices, counts = read("prices"), read("counts")
    found = {name: bill(images_per_month, share) for name, bill in set_ups().items()}
    evens = break_even(share)
    if plot:
        draw(plot, share)
    if as_json:
        told = {
            "images_per_month": images_per_month,
            "review_share": share,
            "region": prices["region"],
            "prices_of": prices["date"],
            "prices": prices["prices"],
            "counted": counts["how"],
            "assumed": read("assumptions"),
            "set_ups": {
                name: {
                    "total": round(bill.total, 4),
                    "orchestration_and_compute": round(bill.orchestration_and_compute, 4),
                    "by_service": {service: round(dollars, 4) for service, dollars in bill.by_service.items()},
                }
                for name, bill in found.items()
            },
            "break_even_images_per_month": evens,
        }
        typer.echo(json.dumps(told, indent=2))
        return
    table = Table(title=f"Dollars for {images_per_month:,} images a month, {share:.0%} of them seen by a person")
    table.add_column("")
    for name in found:
        table.add_column(name.replace("-", "\n"), justify="right")
    for service in dict.fromkeys(service for bill in found.values() for service in bill.by_service):
        table.add_row(service, *(f"{bill.by_service.get(service, 0):,.2f}" for bill in found.values()))
    table.add_section()
    table.add_row("total", *(f"{bill.total:,.2f}" for bill in found.values()))
    table.add_row("orchestration, compute", *(f"{bill.orchestration_and_compute:,.2f}" for bill in found.values()))
    console = Console(width=max(120, Console().width))
    console.print(table)
    for pair, images in evens.items():
        console.print(f"{pair}: {'never' if images is None else f'from {images:,} images a month'}", highlight=False)
    for line in doubts():
        console.print(line, highlight=False)


@cache
def read(name: str) -> dict[str, Any]:
    """prices, counts or assumptions."""
    content: dict[str, Any] = json.loads((COSTS / f"{name}.json").read_bytes())
    return content


def doubts() -> list[str]:
    """What stands behind the bills, and how firmly."""
    prices, counts, assumed = read("prices"), read("counts"), read("assumptions")["milliseconds"]
    confirmed = Counter(item["confirmed"] for item in prices["prices"].values())
    doubtful = ", ".join(name for name, item in prices["prices"].items() if item["confirmed"] == "no")
    here = {name: f" ({took:g} here)" for name, took in counts["milliseconds_here"].items()}
    took = ", ".join(f"{name.removesuffix('Function')} {ms}{here.get(name, '')}" for name, ms in assumed.items())
    return [
        f"{prices['region']}, list prices of {prices['date']}, no free tier: {confirmed['page']} stand on a page of "
        f"AWS's, {confirmed['quoted']} are quoted from AWS by others. Not confirmed: {doubtful or 'none'}.",
        f"{counts['how']}.",
        f"Assumed, not measured on AWS: milliseconds on Lambda, {took}. Ten more, with 1 GB, cost "
        f"${price('lambda_gb_second') * 10_000:.2f} for a million images. --json names all assumptions.",
    ]


def price(name: str) -> float:
    return float(read("prices")["prices"][name]["dollars"])


@cache
def template() -> Any:
    return load_yaml(TEMPLATE)


def expected_review_share() -> float:
    """What the policy leaves to a person, and the audits of the rest."""
    card = json.loads((MODEL / "model.json").read_bytes())
    by_truth = card["policy"]["evidence"]["coverage"]
    shares = [by_truth[label] for label in card["labels"]]
    coverage: float = sum(share["value"] * share["n"] for share in shares) / sum(share["n"] for share in shares)
    audits = float(template()["Parameters"]["AuditRate"]["Default"])
    return round(1 - coverage + audits * coverage, 4)


def set_ups() -> dict[str, Callable[[int, float], Bill]]:
    """The bill for so many images a month and such a share of reviews, by the set-up's name."""

    def of(backend: str, workflow: str) -> Callable[[int, float], Bill]:
        return lambda images, share: bill_of(backend, workflow, images, share)

    ours = {f"{backend}-{workflow}": of(backend, workflow) for backend in BACKENDS for workflow in WORKFLOWS}
    return {**ours, SEED: lambda images, _: seed(images)}


def gb_seconds(function: str, milliseconds: float, assumed: Any) -> float:
    """Of one invocation, with its part in cold starts, which are billed since August 2025."""
    properties = template()["Resources"][function]["Properties"]
    memory = properties.get("MemorySize", template()["Globals"]["Function"]["MemorySize"]) / 1024
    return float(memory * (milliseconds + assumed["cold_share"] * assumed["cold_milliseconds"][function]) / 1000)


def lambda_dollars(invocations: Mapping[str, float], assumed: Any, waits: float = 0.0) -> float:
    """Of one image or review. waits: milliseconds that Classify Image waits for an endpoint, in the model's place."""
    dollars = 0.0
    for function, times in invocations.items():
        took = assumed["milliseconds"][function]
        if waits and function == "ClassifyImageFunction":
            took = waits
        used = gb_seconds(function, took, assumed) * price("lambda_gb_second")
        dollars += times * (price("lambda_request") + used)
    return dollars


def bill_of(backend: str, workflow: str, images: int, share: float) -> Bill:
    """The shipped template's bill."""
    counts, assumed = read("counts"), read("assumptions")
    upload, review = counts["per_upload"], counts["per_review"]
    reviews = images * share
    if workflow == "EXPRESS":
        # GB-seconds in Step Functions' steps
        blocks = math.ceil(assumed["execution_milliseconds"] / 100) / 10 * 64 / 1024
        execution = price("step_functions_express_request") + blocks * price("step_functions_express_gb_second")
    else:
        execution = upload["transitions"] * price("step_functions_standard_transition")
    record_units, review_units = math.ceil(counts["record_bytes"] / 1024), math.ceil(counts["review_bytes"] / 1024)
    # Each index write: one.
    writes = images * (record_units + 1) + reviews * (2 * (review_units + 1) + record_units + 2)
    reads = images + reviews * 4  # the switch, then the reviews' own
    invoked = images * sum(upload["invocations"].values()) + reviews * sum(review["invocations"].values())
    log_bytes = images * upload["log_bytes"] + reviews * review["log_bytes"] + invoked * assumed["platform_log_bytes"]
    traced = assumed["trace_reservoir_per_second"] * SECONDS
    traces = min(images, traced) + assumed["trace_rate"] * max(0, images - traced)
    waits = assumed["endpoint_milliseconds"] if backend != "embedded" else 0.0
    return Bill(
        {
            "Step Functions": images * execution,
            "Lambda": images * lambda_dollars(upload["invocations"], assumed, waits),
            "SageMaker": endpoint(backend, images, assumed),
            "S3": images * (price("s3_put") + price("s3_get")) + stored(images, assumed),
            "DynamoDB": writes * price("dynamodb_write_unit")
            + reads * price("dynamodb_read_unit")
            + images
            * (counts["record_bytes"] / 1e9)
            * (price("dynamodb_gb_month") + price("dynamodb_backup_gb_month")),
            "EventBridge": images * price("eventbridge_s3_event") + (images + reviews) * price("eventbridge_event"),
            "CloudWatch logs": log_bytes / 1e9 * price("logs_gb"),
            "CloudWatch metrics": watching(counts, assumed),
            "X-Ray": traces * price("xray_trace"),
            "ledger": ledger(images, counts, assumed),
            "monitor": looks("MonitorSchedule") * assumed["monitor_gb_seconds"] * price("lambda_gb_second")
            + images * assumed["monitor_read_units_per_image"] * price("dynamodb_read_unit"),
            "reviews": reviews
            * (
                review["transitions"] * price("step_functions_standard_transition")
                + lambda_dollars(review["invocations"], assumed)
                + 2 * price("s3_get")
            ),
        }
    )


def ledger(images: int, counts: Any, assumed: Any) -> float:
    """Every look reads all records and lists all objects; the table is taken to hold one month's images."""
    read_units = counts["record_bytes"] / 4096 / 2  # a scan, eventually consistent
    one: float = read_units * price("dynamodb_read_unit") + price("s3_put") / 1000
    one += assumed["ledger_milliseconds_per_image"] / 1000 * price("lambda_gb_second")  # with 1 GB
    return float(looks("LedgerSchedule") * images * one)


def looks(schedule: str) -> float:
    """How often in a month, by the parameter's default, such as rate(15 minutes)."""
    number, unit = template()["Parameters"][schedule]["Default"].removeprefix("rate(").removesuffix(")").split()
    every = int(number) * {"minute": 60, "hour": 3600, "day": 86400}[unit.removesuffix("s")]
    return float(SECONDS / every)


def endpoint(backend: str, images: int, assumed: Any) -> float:
    if backend == "serverless":
        one: float = assumed["serverless_billed_milliseconds"] / 1000 * price("sagemaker_serverless_second")
        return float(images * (one + assumed["endpoint_bytes"] / 1e9 * price("sagemaker_serverless_gb")))
    if backend == "instances":
        peak = images / SECONDS * assumed["peak_over_mean"]
        fleet = max(2, math.ceil(peak / assumed["instance_images_per_second"]))  # two: see serving.yaml
        return float(fleet * HOURS) * price("sagemaker_ml_m5_large_hour")
    return 0.0


def stored(images: int, assumed: Any) -> float:
    dollars: float = images * assumed["photo_bytes"] / 1e9 * assumed["photo_months"] * price("s3_gb_month")
    return dollars


def watching(counts: Any, assumed: Any) -> float:
    """Metrics of our own, alarms by the metrics that they watch, dashboards: the same for any number of images."""
    resources = [item for item in template()["Resources"].values() if "Condition" not in item]
    alarms = [item["Properties"] for item in resources if item["Type"] == "AWS::CloudWatch::Alarm"]
    watched = sum(max(1, sum("MetricStat" in part for part in alarm.get("Metrics", []))) for alarm in alarms)
    dashboards = sum(item["Type"] == "AWS::CloudWatch::Dashboard" for item in resources)
    metrics: int = counts["metrics"] + assumed["metrics_not_met_while_counting"]
    return float(metrics * price("custom_metric") + watched * price("alarm_metric") + dashboards * price("dashboard"))


def seed(images: int) -> Bill:
    """The student project: an ml.m5.xlarge endpoint, three Lambdas in a STANDARD workflow; it stores no result."""
    assumed = read("assumptions")
    design = assumed["seed"]
    used = sum(design["milliseconds"]) / 1000 * design["memory_gb"] * price("lambda_gb_second")
    log_bytes = design["invocations"] * (design["log_bytes"] + assumed["platform_log_bytes"])
    return Bill(
        {
            "Step Functions": images * design["transitions"] * price("step_functions_standard_transition"),
            "Lambda": images * (design["invocations"] * price("lambda_request") + used),
            "SageMaker": HOURS * price("sagemaker_ml_m5_xlarge_hour"),
            "S3": images * (price("s3_put") + price("s3_get")) + stored(images, assumed),
            "CloudWatch logs": images * log_bytes / 1e9 * price("logs_gb"),
        }
    )


def break_even(share: float) -> dict[str, int | None]:
    """From how many images a month on the second of a pair costs less than the first; None where it never does."""
    bills = set_ups()
    pairs = [
        ("embedded-EXPRESS", "serverless-EXPRESS"),
        ("embedded-EXPRESS", "instances-EXPRESS"),
        ("serverless-EXPRESS", "instances-EXPRESS"),
        ("embedded-EXPRESS", SEED),
        ("embedded-STANDARD", SEED),
    ]

    def cheaper(first: str, second: str, images: int) -> bool:
        return bills[second](images, share).total < bills[first](images, share).total

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
    """Total by images per month, both logarithmic."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "kickstand"
    import matplotlib.pyplot as plt

    scale = [round(10 ** (step / 10)) for step in range(20, 81)]
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    wide = {BACKENDS[0]: 4.0}  # the next lies on it
    styles = {"EXPRESS": "-", "STANDARD": "--"}
    colours = dict(zip((*BACKENDS, SEED), ("#1b7f5c", "#2a6fbb", "#b3541e", "#444444"), strict=True))
    for name, bill in set_ups().items():
        backend, _, workflow = name.partition("-")
        totals = [bill(images, share).total for images in scale]
        axes.loglog(
            scale,
            totals,
            styles.get(workflow, ":"),
            color=colours[backend],
            label=name,
            linewidth=wide.get(backend, 1.5),
        )
    axes.set(xlabel="images a month", ylabel="dollars a month", title=f"The whole bill; a person sees {share:.0%}")
    axes.grid(which="major", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})
    plt.close(figure)
