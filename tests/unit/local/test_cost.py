"""The bills of a year: what they must stay under, that they add up, that their counts are the shipped workflow's."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from kickstand_cli.local import cost
from kickstand_cli.local.cost import gb_seconds, read, year
from kickstand_cli.main import app
from kickstand_cli.project import MODEL, PROJECT

MILLION = 1_000_000


def bills(images: int, *options: str) -> dict[str, Any]:
    ran = CliRunner().invoke(app, ["cost", "--photos-a-month", str(images), "--json", *options])
    assert ran.exit_code == 0, ran.output
    told: dict[str, Any] = json.loads(ran.output)
    return told


@pytest.fixture(scope="module")
def at_a_million() -> dict[str, Any]:
    set_ups: dict[str, Any] = bills(MILLION)["set_ups"]
    return set_ups


def test_a_million_uploads_cost_five_dollars_of_orchestration_and_compute(at_a_million: dict[str, Any]) -> None:
    assert at_a_million["embedded-EXPRESS"]["orchestration_and_compute"] <= 5


def test_that_is_a_twentieth_of_the_student_projects(at_a_million: dict[str, Any]) -> None:
    seeds = at_a_million["seed"]["orchestration_and_compute"]
    assert at_a_million["embedded-EXPRESS"]["orchestration_and_compute"] <= seeds / 20


def test_a_total_is_the_sum_of_its_services(at_a_million: dict[str, Any]) -> None:
    for bill in at_a_million.values():
        assert bill["total"] == pytest.approx(sum(bill["by_service"].values()), abs=0.01)
        assert all(dollars >= 0 for dollars in bill["by_service"].values())


def test_an_idle_month_costs_what_watches_and_what_is_always_on() -> None:
    idle = {name: bill["by_service"] for name, bill in bills(0)["set_ups"].items()}
    assert {service for service, dollars in idle["embedded-EXPRESS"].items() if dollars} == {
        "CloudWatch metrics",
        "KMS",
        "ledger",
        "SQS",
        "X-Ray",
        "monitor",
    }
    assert idle["serverless-EXPRESS"]["SageMaker"] == 0
    assert idle["seed"]["SageMaker"] == pytest.approx(170, abs=5)


def test_who_asks_people_more_often_pays_for_it() -> None:
    def reviews(share: str) -> float:
        found = bills(MILLION, "--review-share", share)["set_ups"]["embedded-EXPRESS"]["by_service"]["reviews"]
        return float(found)

    assert reviews("0") == 0
    assert reviews("0.4") > 4 * reviews("0.1")  # each page reads how many wait


def test_the_counts_are_those_of_the_shipped_workflow() -> None:
    states = yaml.safe_load((PROJECT / "statemachine/classify_image.asl.yaml").read_text("utf-8"))["States"]
    name, path = "Allow Unreadable", []
    while name:
        path.append(states[name])
        name = states[name].get("Next") or states[name].get("Default", "")
    upload = read("counts")["per_upload"]
    assert upload["transitions"] == len(path), "make counts"
    called = [match[1] for state in path if (match := re.fullmatch(r"\$\{(\w+)Arn\}", state.get("Resource", "")))]
    assert upload["invocations"] == dict.fromkeys(["AdmitUploadsFunction", *called], 1.0), "make counts"


def test_admission_costs_a_dollar_and_a_half_for_a_million_uploads_that_come_alone(
    at_a_million: dict[str, Any],
) -> None:
    """Three requests of SQS, one invocation and 30 ms of 128 MB; and Lambda's requests while nothing comes."""
    assumed, prices = read("assumptions"), read("prices")["prices"]
    seconds = gb_seconds("AdmitUploadsFunction", assumed["milliseconds"]["AdmitUploadsFunction"], assumed)
    function = prices["lambda_request"]["dollars"] + seconds * prices["lambda_gb_second"]["dollars"]
    queue = at_a_million["embedded-EXPRESS"]["by_service"]["SQS"]
    idle = bills(0)["set_ups"]["embedded-EXPRESS"]["by_service"]["SQS"]
    assert idle == pytest.approx(0.26, abs=0.01)
    assert queue - idle == pytest.approx(1.2)
    assert MILLION * function + queue - idle == pytest.approx(1.48, abs=0.01)


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    bills(MILLION, "--plot", str(tmp_path / "cost.png"))
    with Image.open(tmp_path / "cost.png") as drawn:
        assert len(drawn.convert("P").getcolors() or []) > 4  # a line for each backend


def test_every_price_has_its_source_and_says_how_it_was_confirmed() -> None:
    for name, price in read("prices")["prices"].items():
        assert price["source"].startswith("https://aws.amazon.com/"), name
        assert price["dollars"] > 0
        assert price["confirmed"] in {"page", "quoted", "no"}, name
        assert price["seen"], name


def test_the_table_names_prices_that_are_not_confirmed_and_durations_that_are_assumed() -> None:
    told = " ".join(CliRunner().invoke(app, ["cost"]).output.split())
    doubtful = [name for name, price in read("prices")["prices"].items() if price["confirmed"] == "no"]
    assert f"Not confirmed: {', '.join(doubtful)}." in told
    for function, milliseconds in read("assumptions")["milliseconds"].items():
        assert f"{function.removesuffix('Function')} {milliseconds}" in told


def test_every_upload_pays_for_s3s_event_and_for_kickstands() -> None:
    prices = read("prices")["prices"]
    both = prices["eventbridge_s3_event"]["dollars"] + prices["eventbridge_event"]["dollars"]
    bill = bills(MILLION, "--review-share", "0")["set_ups"]["embedded-EXPRESS"]["by_service"]
    assert bill["EventBridge"] == pytest.approx(both * MILLION)


def test_with_a_retention_a_month_costs_the_same_from_the_third_on() -> None:
    months = [
        month["total"] for month in bills(MILLION, "--retention-days", "30")["set_ups"]["embedded-EXPRESS"]["months"]
    ]
    assert months[11] <= 1.5 * months[1]
    assert months[11] == pytest.approx(months[2])
    assert months[0] < months[1]


def test_what_is_kept_for_ever_adds_up() -> None:
    months = bills(MILLION, "--retention-days", "0")["set_ups"]["embedded-EXPRESS"]["months"]
    storage = [month["by_service"]["S3"] for month in months]
    steps = [after - before for before, after in pairwise(storage)]
    assert steps == pytest.approx([MILLION * 2e6 / 1e9 * 0.023] * 11)


def test_the_year_is_the_sum_of_its_months() -> None:
    for bill in bills(MILLION, "--growth", "0.1")["set_ups"].values():
        assert bill["year"]["total"] == pytest.approx(sum(month["total"] for month in bill["months"]), abs=0.01)


def test_growth_adds_its_share_each_month() -> None:
    assert [month.images for month in year(100, 0.5)[:3]] == [100, 150, 225]


def test_of_uploads_spread_evenly_half_are_there_on_a_first_months_average_day() -> None:
    first = year(100)[0]
    assert (first.photos, first.records) == pytest.approx((50, 50))


def test_records_end_with_their_retention_and_photos_a_week_later() -> None:
    last = year(730 / 24, retention_days=30)[11]  # one upload a day
    assert (last.records, last.photos) == pytest.approx((30, 37))


def test_x_ray_is_billed_by_the_sampling_rule() -> None:
    found = bills(MILLION, "--review-share", "0")["set_ups"]["embedded-EXPRESS"]["by_service"]["X-Ray"]
    assert 0.05 <= found <= 0.08  # and a few runs of the jobs


def test_the_counted_record_is_billed_as_one_write() -> None:
    assert read("counts")["record_bytes"] <= 1024


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda card: card["policy"]["evidence"]["coverage"].pop("motorcycle"), ""),
        (lambda card: card["policy"]["evidence"].pop("coverage"), "the evidence of its policy has no photo of a class"),
        (lambda card: card["policy"].pop("evidence"), "the evidence of its policy has no photo of a class"),
        (lambda card: card.pop("policy"), "policy: Field required"),
    ],
)
def test_reviews_are_expected_from_the_classes_that_the_policys_evidence_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], object], said: str
) -> None:
    card = json.loads((MODEL / "model.json").read_bytes())
    coverage = card["policy"]["evidence"]["coverage"]["bicycle"]["value"]
    change(card)
    (tmp_path / "model.json").write_text(json.dumps(card))
    monkeypatch.setattr(cost, "MODEL", tmp_path)
    ran = CliRunner().invoke(app, ["cost", "--json"])
    assert ran.exit_code == bool(said)
    assert ran.stderr == (f"error: {tmp_path}/model.json: {said}\n" if said else "")
    if not said:
        audits = float(cost.template()["Parameters"]["AuditRate"]["Default"])
        assert json.loads(ran.stdout)["review_share"] == pytest.approx(1 - coverage + audits * coverage, abs=1e-4)
