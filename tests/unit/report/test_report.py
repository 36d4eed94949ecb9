"""The monitoring report: its numbers are the monitor's, its figures are all there, and file names stay harmless."""

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from kickstand.classify.artefact import read_card
from kickstand.classify.policy import decide
from kickstand.classify.promise import ANY_LABEL, Promise
from kickstand.events import Reason, Route
from kickstand.monitor.drift import Budget
from kickstand.monitor.live_accuracy import PromiseStatus
from kickstand.monitor.run import MonitorReport, Watch, read_watch
from kickstand.records import Record
from kickstand.report.figures import draw_histograms
from kickstand.report.page import choose_latest, compose, draw_report, draw_widget, read_evidence, verdict
from kickstand.report.pages import percent, shows
from kickstand.text import finalize
from tests.commands import run
from tests.stream import CARD, make_records, make_stream_baseline

WATCH = Watch(baseline=make_stream_baseline(), promise=Promise(max_risk={ANY_LABEL: 0.05}))
RECORDS = list(make_records(500, night_from=350))
FIGURES = (
    *("Estimated accuracy", "Confidence over time", "Routes", "Reliability", "Risk and coverage", "Confusion"),
    *("Review load", "Review age"),
)


def page(records: list[Record], watch: Watch = WATCH, picture: str | None = None) -> str:
    return draw_report(compose(records, watch, CARD, Budget()), records, watch, CARD, lambda _: picture)


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("most", "chosen"),
    [
        pytest.param(9, ["answered", "new", "start"], id="all since the start, none from before"),
        pytest.param(3, ["new"], id="the rest was not read, so none from before the earliest change"),
        pytest.param(1, [], id="only an answer about an older one"),
    ],
)
def test_a_report_is_about_the_latest_records_without_those_that_only_their_answers_brought(
    most: int, chosen: list[str]
) -> None:
    start = RECORDS[0].recorded_at
    hours = {"answered": (1, 5), "old": (-9, 4), "new": (3, 3), "start": (0, 0)}  # recorded, and changed
    changes = [
        RECORDS[0].model_copy(
            update={"image": image, "recorded_at": start + at * HOUR, "changed_at": start + then * HOUR}
        )
        for image, (at, then) in hours.items()
    ]
    assert [record.image for record in choose_latest(changes, start, most)] == chosen


@pytest.fixture(scope="module")
def text() -> str:
    """The page of all records, with a picture for each image."""
    return page(RECORDS, picture="data:image/png;base64,AAAA")


class Tags(HTMLParser):
    """The tags of a page, and the attributes of each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records in two files, and the artefact to watch them by."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "model").mkdir()
    card = json.loads(CARD.model_dump_json()) | {"baseline": WATCH.model_dump(mode="json")["baseline"]}
    card["policy"] |= {"max_risk": 0.05, "confidence_level": 0.95}
    (folder / "model" / "model.json").write_text(json.dumps(card))
    write(folder / "all.jsonl", RECORDS)
    write(folder / "first.jsonl", RECORDS[:200])
    write(folder / "rest.jsonl", RECORDS[200:])
    return folder


def write(file: Path, records: Iterable[Record]) -> None:
    file.write_text("".join(f"{record.model_dump_json()}\n" for record in records))


def test_its_numbers_are_those_of_the_monitor(home: Path, tmp_path: Path) -> None:
    model = "--model", home / "model"
    _, told, _ = run("monitor", "--records", home / "all.jsonl", *model, "--json")
    out = tmp_path / "page.html"
    code, printed, err = run(
        "report", "--records", home / "first.jsonl", "--records", home / "rest.jsonl", *model, "--out", out, "--json"
    )
    assert code == 0, err
    monitor, report = json.loads(told), json.loads(printed)
    assert {name: report[name] for name in monitor} == monitor
    (embedded,) = re.findall(r'id="numbers">(.*?)</script>', out.read_text(), re.S)
    assert json.loads(embedded) == report


def test_photos_that_cannot_be_shown_are_counted_and_the_first_is_named(home: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    command = "report", "--records", home / "all.jsonl", "--images", tmp_path / "photos", "--model", home / "model"
    code, _, err = run(*command, "--out", tmp_path / "page.html")
    assert (code, (tmp_path / "page.html").is_file(), err.count("\n")) == (1, True, 1)
    assert re.match(r"error: left out: .*/photos/\d+\.png: No such file or directory, and \d+ more\n", err)


def test_every_figure_is_drawn_and_described(text: str) -> None:
    drawn = [attributes["aria-label"] or "" for tag, attributes in Tags(text).tags if tag == "svg"]
    assert len(drawn) == len(FIGURES) + len(WATCH.baseline.features) + 4 if WATCH.baseline else 0
    for title in FIGURES:
        assert any(label.startswith(title) for label in drawn), title
        assert f"<h3>{title}</h3>" in text


def test_the_page_needs_no_network_and_no_script_runs_in_it(text: str) -> None:
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "http" not in text
    scripts = [attributes for tag, attributes in Tags(text).tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "numbers"}]


def test_night_pages_and_is_shown_beside_the_days_before(text: str) -> None:
    assert "The model is worse" in text or "The photos have changed" in text
    assert "Before: a random sample" in text
    moved = text.split("What moved it most")[1].split("Before: a random")[0]
    after = set(re.findall(r'title="[^"]*/(\d+)\.png"', moved))
    assert after
    assert all(int(name) >= 350 for name in after)


NASTY = "<script>alert({0})</script><img src=x onerror=alert(1)>\"'&{0}.png"


def test_a_file_name_cannot_become_markup(text: str) -> None:
    nasty = page(list(make_records(500, night_from=350, names=NASTY)), picture="data:image/png;base64,AAAA")
    assert [tag for tag, _ in Tags(text).tags] == [tag for tag, _ in Tags(nasty).tags]
    assert "onerror=alert" in nasty  # it is told, escaped
    hidden = page(list(make_records(500, night_from=350, names="{0}\u202egnp\x07.jpg")))
    assert r"\u202egnp\x07.jpg" in hidden
    assert all(letter.isprintable() or letter in "\n\t\u00a0" for letter in hidden)


ODD = (
    "o'neil & <co>{}",
    'q"uote{}',
    "an\xadna{}",
    "a\x1bb{}",
    "\U000e0041x{}",
    "Zoë{}",
    "new\nline{}",
    "b\\s{}",
    "camera{}/",
)


def test_a_page_shows_the_photos_that_it_names_whatever_their_names_and_no_others() -> None:
    records = [
        record.model_copy(update={"image": f"s3://photos/{ODD[i % len(ODD)].format(i)}"})
        for i, record in enumerate(make_records(500, night_from=350))
    ]
    text = page(records)
    titles = {title for _, attributes in Tags(text).tags if (title := attributes.get("title") or "").startswith("s3:")}
    in_numbers = {json.loads(image) for image in re.findall(r'"image": ("(?:[^"\\]|\\.)*")', text)}
    assert titles
    assert in_numbers
    shown = {record.image for record in records if shows(text.encode(), record.image)}
    assert {finalize(image) for image in shown} == titles | {finalize(image) for image in in_numbers}
    assert not any(shows(text.encode(), record.image.replace("s3://", "s3://other/")) for record in records)


@pytest.mark.parametrize(
    ("page", "image", "expected"),
    [
        ('<img alt="a.png" title="a.png">', "s3://photos/b/a.png", True),
        ('<img alt="a.png" title="a.png">', "s3://photos/b/a", False),
        ('<img title="a\u3000b.png">', "s3://photos/a\u3000b.png", True),  # of 0.1.0
        ("<p>1 photo</p>", "s3://photos/b/1", False),
        ("<p>1 photo</p>", "s3://photos/camera1/", False),
        ('<img alt="a.png" title="s3://photos/b/a.png">', "s3://photos/c/a.png", False),
        ('"examples": [{"image": "s3://photos/b/\\u003c.png"}]', "s3://photos/b/<.png", True),
    ],
)
def test_a_page_shows_a_photo_only_where_the_whole_name_is_there(page: str, image: str, expected: bool) -> None:
    assert shows(page.encode(), image) is expected


THRESHOLDS: dict[str, float | None] = {"bicycle": 0.75, "motorcycle": 0.9}
MIX = {"bicycle": (0.3, 0.7), "motorcycle": (0.3, 0.7)}


def draw_by_label(
    home: Path, thresholds: dict[str, float | None], n: int = 300, promise: bool = True
) -> tuple[str, MonitorReport]:
    """The page of records that a policy with a threshold for each label has decided, by its model.json."""
    raw = json.loads(CARD.model_dump_json()) | {"baseline": WATCH.model_dump(mode="json")["baseline"]}
    raw["policy"]["thresholds"] = thresholds
    if promise:
        raw["policy"]["promise"] = {"max_risk": dict.fromkeys(CARD.labels, 0.05), "mix": MIX, "foreign_share": 0.05}
        raw["policy"]["evidence"] = {
            "domain": "made-up photos",
            "date": "2026-11-29",
            "photos": {"bicycle": 2826, "motorcycle": 2928, "neither": 11399},
            "shares_at_most": {"bicycle": 0.698, "motorcycle": 0.695, "neither": 0.105},
        }
    (home / "model.json").write_text(json.dumps(raw))
    card, watch = read_card(home), read_watch(home)
    records = []
    for record in make_records(n):
        decision = decide(record.prediction, card.policy) if record.prediction else record.decision
        audited = record.audited and decision.route is not Route.REVIEW
        records.append(record.model_copy(update={"decision": decision, "audited": audited}))
    report = compose(records, watch, card, Budget(), evidence=read_evidence(home))
    return draw_report(report, records, watch, card, lambda _: None), report.monitor


def words(text: str) -> str:
    """What a person reads, on one line."""
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def test_each_labels_threshold_risk_and_promise_are_told_and_for_which_photos_it_was_shown(tmp_path: Path) -> None:
    text, monitor = draw_by_label(tmp_path, THRESHOLDS)
    told, watch = words(text), read_watch(tmp_path)
    assert watch.promise
    assert "accepts “bicycle” from confidence 0.750, “motorcycle” from confidence 0.900" in told
    for check in monitor.promises:
        assert (
            f"of the accepted predictions “{check.label}” are wrong. {check.audits} audits found {check.errors}" in told
        )
    for label, live in monitor.accepted_by_label.items():
        share = percent(live.images / monitor.accepted.images)
        assert f"{share} 30.0 % to 70.0 %" in told, label
        assert f"accepted as {label} {percent(live.accuracy)}" in told
    assert f"The guarantee holds {watch.promise.holds_for()}." in told
    assert "shown on made-up photos, 2026-11-29: 2,826 of bicycle, 2,928 of motorcycle, 11,399 of neither." in told
    assert "the guarantee allows up to 69.8 %" in told
    for title in ("bicycle, accepted from 0.750", "motorcycle, accepted from 0.900"):
        assert title in text


def test_a_label_of_which_no_answer_is_accepted_is_told_and_its_curve_drawn(tmp_path: Path) -> None:
    text, _ = draw_by_label(tmp_path, THRESHOLDS | {"motorcycle": None})
    told = words(text)
    assert "accepts “bicycle” from confidence 0.750, no prediction “motorcycle”." in told
    assert "motorcycle never 0.0 % 0.0 % 30.0 % to 70.0 % –" in told
    assert (
        "There is no guarantee about “motorcycle”: it could not be shown, so every such prediction goes to review."
        in told
    )
    assert "motorcycle, never accepted" in text


def test_a_policy_by_prices_promises_nothing(tmp_path: Path) -> None:
    told = words(draw_by_label(tmp_path, THRESHOLDS, promise=False)[0])
    assert "The guarantee" not in told
    assert "motorcycle 0.900" in told


def test_a_broken_promise_about_one_label_is_the_verdict(tmp_path: Path) -> None:
    _, monitor = draw_by_label(tmp_path, THRESHOLDS)
    bicycle, motorcycle = monitor.promises
    broken = motorcycle.model_copy(update={"status": PromiseStatus.BROKEN, "audits": 40, "errors": 9})
    seen = verdict(monitor.model_copy(update={"promises": (bicycle, broken)}))
    assert seen.words == "The guarantee is broken"
    assert seen.sentence.startswith(
        "9 of 40 audited predictions “motorcycle” were wrong; the policy guarantees at most 5.0 %"
    )


def test_it_says_how_often_reviewers_agree_and_in_grey_what_is_missing_for_that(text: str) -> None:
    assert '<p class="lead">No photo has answers of two people yet' in text
    twice = []
    for record in RECORDS:
        if record.review and record.review.answer:
            second = record.review.answer.model_copy(update={"reviewer": "Grace"})
            record = record.model_copy(update={"review": record.review.model_copy(update={"second": second})})
        twice.append(record)
    n = sum(record.review is not None for record in RECORDS)
    assert f"<p>Reviewers agreed on {n} of {n} photos that two people saw" in page(twice)


SHOWN = Watch(baseline=WATCH.baseline, promise=Promise(max_risk={ANY_LABEL: 0.2}))  # a few audits show this one


def test_all_is_well_where_nothing_has_moved_and_audits_show_the_guarantee() -> None:
    assert verdict(compose(list(make_records(300)), SHOWN, CARD, Budget()).monitor)[:2] == ("accept", "All is well")


@pytest.mark.parametrize(
    ("n", "watch", "missing"),
    [
        (300, WATCH, "the guarantee needs about"),
        (40, SHOWN, "fewer than 100 photos for 10 of 10 statistics"),
        (40, Watch(baseline=WATCH.baseline), "fewer than 100 photos for 10 of 10 statistics"),
    ],
)
def test_without_evidence_nothing_is_green_or_red_and_what_is_missing_is_said(
    n: int, watch: Watch, missing: str
) -> None:
    records = list(make_records(n))
    monitor = compose(records, watch, CARD, Budget()).monitor
    seen = verdict(monitor)
    assert seen[:2] == ("unknown", "Not enough evidence")
    assert missing in seen.sentence
    text = page(records, watch)
    assert '<div class="verdict unknown">' in text
    tiles = [
        tile
        for tile in text.split('class="tiles"')[1].split("</ul>")[0].split("<li")
        if "are correct" in tile or "the guarantee" in tile
    ]
    assert tiles
    assert all(tile.startswith(' class="unknown') for tile in tiles)
    badges = set(re.findall(r'class="badge">(.*?)<', text))
    assert ("not enough evidence" in badges) == (n < 100)
    assert ("steady" in badges) == (n >= 100)


def test_an_alarm_that_is_over_is_told_and_marked_and_its_photos_are_shown() -> None:
    records = list(make_records(2000))
    night = records[300:450]
    dark = list(make_records(450, night_from=0))[300:]
    records[300:450] = [
        record.model_copy(update={"recorded_at": old.recorded_at}) for record, old in zip(dark, night, strict=True)
    ]
    report = compose(records, WATCH, CARD, Budget(images_per_day=144))
    assert "brightness" in {end.finding.statistic for end in report.monitor.ended}
    assert "brightness" not in {finding.statistic for finding in report.monitor.moved}
    text = draw_report(report, records, WATCH, CARD, lambda _: None)
    assert re.search(r"<b>brightness</b> moved about 2026-05-06 \d\d:\d\d, was noticed 2026-05-06", text)
    assert "alert, over now" in text
    assert "Over since 2026-05-" in text


def test_the_time_axis_has_dates_or_hours_and_no_seconds() -> None:
    def ticks(n: int, watch: Watch = WATCH) -> set[str]:
        figures = page(list(make_records(n)), watch).split("<svg ")
        (routes,) = (figure for figure in figures if 'aria-label="Routes' in figure)
        return set(re.findall(r">(\d[\d:]* ?[A-Z]?[a-z]*)</text>", routes))

    assert {"12:00", "14:00", "16:00"} <= ticks(60)
    assert {"5 May", "6 May"} <= ticks(500)


def test_what_a_reader_must_know_of_the_records_stands_at_the_top() -> None:
    report = compose(RECORDS, WATCH, CARD, Budget())
    text = words(draw_report(report, RECORDS, WATCH, CARD, lambda _: None, "Simulated: by a program & so."))
    assert "Simulated: by a program &amp; so. The model is worse" in text


def test_without_a_baseline_it_says_so_and_shows_the_rest() -> None:
    text = page(RECORDS, Watch())
    assert "No baseline" in text
    assert "Risk and coverage" in text


def test_no_records_are_a_page_too() -> None:
    assert "There are no photos to report on." in page([])


def test_charts_that_would_be_empty_are_replaced_by_the_reason() -> None:
    (one,) = make_records(1)
    at = one.recorded_at.replace(second=7, microsecond=123457)
    accepted = one.decision.model_copy(update={"route": Route.ACCEPT})
    alone = one.model_copy(update={"review": None, "audited": False, "recorded_at": at, "decision": accepted})
    told = page([alone], Watch())
    assert re.findall(r"<svg .*?aria-label=\"([\w ]+)", told) == ["Confidence over time"]
    assert "<b>Reliability</b> is not drawn: no person has answered yet." in told
    assert "<b>Routes</b> is not drawn: there are fewer than 30 photos." in told
    assert "<b>Review load</b> is not drawn: no photo was sent to review." in told


def renamed(payload: Any, name: str) -> Any:
    """With another name of the class "bicycle"."""
    return type(payload).model_validate_json(payload.model_dump_json().replace("bicycle", json.dumps(name)[1:-1]))


@pytest.mark.parametrize("name", ["$5_$10", "x^{2$$", "cargo bike", "自行车", "a\nb", "a\x01b", "a\ufffeb"])
def test_a_class_may_have_any_name(text: str, name: str) -> None:
    records = [renamed(record, name) for record in RECORDS]
    watch, card = renamed(WATCH, name), renamed(CARD, name) if name.isprintable() else CARD
    drawn = draw_report(compose(records, watch, card, Budget()), records, watch, card, lambda _: None)
    charts = re.findall(r"<svg .*?</svg>", drawn, re.DOTALL)
    assert len(charts) == text.count("<svg ")
    assert any(f">{line}<" in chart for chart in charts for line in finalize(f"as {name}").split("\n"))


FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "times",
    [
        [LAST],
        [FIRST],
        [LAST - timedelta(days=index) for index in range(40)],
        [LAST - timedelta(microseconds=index) for index in range(40)],
        [*[FIRST] * 40, *[LAST] * 40],
    ],
)
def test_a_record_may_be_of_any_time(times: list[datetime]) -> None:
    records = [
        record.model_copy(update={"recorded_at": at, "review": None})
        for record, at in zip(RECORDS, times, strict=False)
    ]
    assert 'aria-label="Confidence over time' in page(records)


def test_the_threshold_of_each_class_is_in_the_legend() -> None:
    figure = draw_histograms({"right": ([0.9], "#000000")}, 0.5, {"_x": 0.8, "b": 0.9})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["“_x” from 0.800", "“b” from 0.900"]


def test_one_unreadable_record_has_a_page() -> None:
    (one,) = make_records(1)
    rejected = one.decision.model_copy(update={"route": Route.REJECT, "reason": Reason.UNREADABLE})
    unreadable = {"prediction": None, "prepared_image": None, "decision": rejected, "review": None, "audited": False}
    told = page([one.model_copy(update=unreadable)])
    assert "<svg " not in told
    assert "<b>Confidence over time</b> is not drawn: the model has seen no photo." in told


def test_the_dashboard_gets_the_essentials_without_what_it_forbids() -> None:
    widget = draw_widget(compose(RECORDS, WATCH, CARD, Budget()), RECORDS, WATCH, CARD)
    assert widget.count("<svg ") == 3
    for forbidden in ("<script", "<use", "<iframe", "onclick", "javascript:", "xlink"):
        assert forbidden not in widget.lower()


def test_an_unreadable_file_of_records_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{}\n")
    code, _, err = run("report", "--records", tmp_path / "bad.jsonl", "--out", tmp_path / "page.html")
    assert code == 1
    assert "line 1" in err
    assert not (tmp_path / "page.html").exists()


def test_drawing_twice_gives_the_same_page() -> None:
    assert page(RECORDS[:40], Watch()) == page(RECORDS[:40], Watch())


def test_the_figures_take_every_colour_from_the_page(text: str) -> None:
    assert not re.findall(r"(?:stroke|fill): #[0-9a-f]{6}", text)
