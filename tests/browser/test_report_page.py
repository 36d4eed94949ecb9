"""The monitoring report in a real browser: by day, by night, on a phone and on paper; and whatever files are called."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from kickstand_cli.main import app
from tests.stream import CARD, make_records, make_stream_baseline

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Request

pytestmark = pytest.mark.slow

OWNED = "document.title='owned'"
NASTY = f'{{}} <img src=x onerror="{OWNED}"> \'"><script>{OWNED}<|script>.png'  # a file's name has no slash
FIGURES = [
    *("Estimated accuracy", "Confidence over time", "Routes", "Reliability", "Risk and coverage", "Confusion"),
    *("Review load", "Review age"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page that the command writes, of a stream into which a night has fallen."""
    home = tmp_path_factory.mktemp("report")
    (home / "images").mkdir()
    (home / "model").mkdir()
    card = json.loads(CARD.model_dump_json()) | {"baseline": make_stream_baseline().model_dump(mode="json")}
    card["policy"] |= {
        "thresholds": {"bicycle": 0.8, "motorcycle": 0.8},
        "promise": {
            "max_risk": {"bicycle": 0.05, "motorcycle": 0.05},
            "mix": {"bicycle": [0.3, 0.7], "motorcycle": [0.3, 0.7]},
            "foreign_share": 0.05,
        },
        "evidence": {
            "domain": "CIFAR-100, out of fold",
            "date": "2026-11-29",
            "photos": {"bicycle": 2826, "motorcycle": 2928, "neither": 11399},
            "shares_at_most": {"bicycle": 0.698, "motorcycle": 0.695, "neither": 0.105},
        },
    }
    (home / "model" / "model.json").write_text(json.dumps(card))
    records = make_records(700, night_from=500, names=NASTY, images=home / "images")
    (home / "records.jsonl").write_text("".join(f"{record.model_dump_json()}\n" for record in records))
    command = ["report", "--records", home / "records.jsonl", "--model", home / "model", "--images", home / "images"]
    result = CliRunner().invoke(app, [*map(str, command), "--out", str(home / "monitoring.html")])
    assert result.exit_code == 0, result.output
    return home / "monitoring.html"


Open = Callable[..., "Page"]


@pytest.fixture
def open_report(browser: "Browser", report: Path) -> Iterator[Open]:
    """Opens it, offline; fails if the page asks for anything, or anything in it goes wrong."""
    contexts: list[BrowserContext] = []
    troubles: list[str] = []

    def note(request: "Request") -> None:
        if not request.url.startswith(("file:", "data:")):
            troubles.append(request.url)

    def opened(**settings: object) -> "Page":
        context = browser.new_context(offline=True, **settings)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", note)
        page.goto(report.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []


def test_every_figure_and_every_picture_is_there_and_visible(open_report: Open) -> None:
    page = open_report()
    for title in FIGURES:
        figure = page.locator("figure").filter(has=page.get_by_role("heading", name=title, exact=True))
        box = figure.locator("svg").bounding_box()
        assert box, title
        assert min(box["width"], box["height"]) > 100, title
        assert figure.locator("svg path").count() > 3, title
    assert page.locator(".board svg:visible").count() == 10
    pictures = page.locator(".contact img")
    assert pictures.count() >= 16
    assert pictures.evaluate_all("images => images.every(image => image.complete && image.naturalWidth > 0)")


def test_a_file_name_is_shown_and_not_run(open_report: Open) -> None:
    page = open_report()
    assert page.title() == "Kickstand: the model is worse"
    assert page.locator("script").count() == 1
    assert "onerror" in page.locator(".contact .name").first.inner_text()


@pytest.mark.parametrize("width", [320, 768])  # test_pages.py: 390, and the size of the letters
def test_on_a_phone_and_on_a_tablet_nothing_sticks_out(open_report: Open, width: int) -> None:
    page = open_report(viewport={"width": width, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def contrasts(page: "Page", selector: str, paint: str) -> list[float]:
    """WCAG's contrast of each element's paint with the paper behind it: https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""
    found: list[float] = page.locator(selector).evaluate_all(
        """(elements, paint) => {
          const light = colour => {
            const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
              .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const behind = element => {
            const colour = getComputedStyle(element).backgroundColor;
            return colour === "rgba(0, 0, 0, 0)" && element.parentElement ? behind(element.parentElement) : colour;
          };
          return elements.map(element => {
            const [a, b] = [light(getComputedStyle(element)[paint]), light(behind(element))].sort((x, y) => y - x);
            return (a + 0.05) / (b + 0.05);
          });
        }""",
        paint,
    )
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_figures_stand_out_by_day_and_by_night(open_report: Open, scheme: str) -> None:
    page = open_report(color_scheme=scheme)
    assert min(contrasts(page, "figure svg text, .board svg text", "fill")) >= 4.5
    assert min(contrasts(page, "p, h1, h2, h3, h4, li, td, dd, dt, figcaption, .badge, .soft", "color")) >= 4.5


def test_on_paper_it_is_dark_on_white_and_fits(open_report: Open) -> None:
    page = open_report(color_scheme="dark", viewport={"width": 718, "height": 1000})  # A4 between its margins
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert min(contrasts(page, "figure svg text", "fill")) >= 4.5
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    assert page.pdf(format="A4").startswith(b"%PDF")
