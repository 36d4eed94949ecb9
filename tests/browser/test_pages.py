"""All pages that Kickstand writes, in a real browser: WCAG 2.2 AA, a phone, paper, and text that nothing overprints."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from docs.screenshots import make_pages
from kickstand_cli.drawing.architecture import draw_architecture, read_architecture
from kickstand_cli.drawing.state_machine import draw_state_machine
from kickstand_cli.local.demo_weeks import SAMPLES
from kickstand_cli.local.template import load_yaml
from kickstand_cli.main import app
from kickstand_cli.project import PROJECT, TEMPLATE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow

MACHINES = sorted((PROJECT / "statemachine").glob("*.asl.yaml"))
DRAWINGS = ["architecture", *(machine.name.partition(".")[0] for machine in MACHINES)]
PAGES = ["demo", "monitoring", "evaluation", "dataset"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every page, and every drawing of the documentation, as a page."""
    home = tmp_path_factory.mktemp("pages")
    photos = home / "photos"
    for label in ("bicycle", "motorcycle", "neither"):
        shutil.copytree(SAMPLES / label, photos / label)
    for command in (
        ["evaluate", photos, "--report", home / "evaluated"],
        ["dataset", "check", photos, "--report", home / "checked"],
    ):
        result = CliRunner().invoke(app, [*map(str, command)])
        assert result.exit_code == 0, result.output
    (home / "evaluated" / "evaluation.html").rename(home / "evaluation.html")
    (home / "checked" / "index.html").rename(home / "dataset.html")
    drawn = make_pages()
    (home / "monitoring.html").write_text(drawn["report"], "utf-8")
    machine = draw_state_machine(load_yaml(MACHINES[0]), None, "what it does")
    place = 'aria-label="The state machine, with counts">'
    text = drawn["decision"].replace(place, place + machine)
    (home / "demo.html").write_text(text, "utf-8")
    (home / "architecture.html").write_text(draw_architecture(read_architecture(TEMPLATE), "What starts what"), "utf-8")
    for machine_file in MACHINES:
        name = machine_file.name.partition(".")[0]
        (home / f"{name}.html").write_text(draw_state_machine(load_yaml(machine_file), None, name), "utf-8")
    return home


Open = Callable[..., "Page"]


@pytest.fixture
def open_page(browser: "Browser", folder: Path) -> Iterator[Open]:
    contexts = []

    def opened(name: str, **settings: object) -> "Page":
        context = browser.new_context(offline=True, **settings)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.goto((folder / f"{name}.html").as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 320)])  # nothing depends on both
@pytest.mark.parametrize("name", PAGES)
def test_a_page_meets_wcag_2_2_aa(
    open_page: Open, meets_wcag: Callable[["Page", str], None], name: str, scheme: str, width: int
) -> None:
    meets_wcag(open_page(name, color_scheme=scheme, viewport={"width": width, "height": 800}), name)


@pytest.mark.parametrize("name", PAGES)
def test_on_a_phone_nothing_sticks_out_and_charts_have_letters_of_12_pixels(open_page: Open, name: str) -> None:
    page = open_page(name, viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    sizes = page.locator("svg text").evaluate_all(
        """texts => texts.map(text => {
          const scale = text.ownerSVGElement.getBoundingClientRect().width / text.ownerSVGElement.viewBox.baseVal.width;
          return scale * parseFloat(getComputedStyle(text).fontSize);
        })"""
    )
    assert bool(sizes) == (name != "dataset")
    assert all(size >= 11.95 for size in sizes), min(sizes)


@pytest.mark.parametrize("name", PAGES)
def test_on_paper_a_page_is_dark_on_white_and_fits(open_page: Open, name: str) -> None:
    page = open_page(name, color_scheme="dark", viewport={"width": 718, "height": 1000})  # A4 between its margins
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth") <= 718


@pytest.mark.parametrize("name", [*DRAWINGS, "demo", "monitoring", "evaluation"])
def test_no_text_of_a_drawing_overprints_another(open_page: Open, name: str) -> None:
    found = (
        open_page(name, viewport={"width": 1280, "height": 900})
        .locator("svg")
        .evaluate_all(
            """drawings => drawings.flatMap(drawing => {
          const texts = [...drawing.querySelectorAll("text")].filter(text => text.textContent.trim())
            .map(text => [text.textContent.trim(), text.getBoundingClientRect()]);
          return texts.flatMap(([words, a], i) => texts.slice(i + 1)
            .filter(([_, b]) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
              && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 5)
            .map(([others]) => `${words} / ${others}`));
        })"""
        )
    )
    assert found == []


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_has_light_letters_in_the_dark(open_page: Open, name: str) -> None:
    page = open_page(name, color_scheme="dark")
    colours = page.locator("svg text").evaluate_all(
        "texts => texts.map(text => getComputedStyle(text).fill.match(/\\d+/g).map(Number))"
    )
    assert len(colours) > 10
    assert min(max(colour) for colour in colours) >= 120
