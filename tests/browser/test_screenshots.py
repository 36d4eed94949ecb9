"""The README's screenshots show the pages as they are now; and what counts as a difference."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from docs.screenshots import DOCS, PHOTOS, SCHEMES, differences, make_pages, shoot
from kickstand.classify.inference import EmbeddedModel
from kickstand_cli.classify.classify import answer
from kickstand_cli.local.demo_weeks import SAMPLES
from kickstand_cli.project import MODEL

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return make_pages()


@pytest.fixture(scope="module")
def drawn(browser: "Browser", pages: dict[str, str]) -> dict[str, bytes]:
    return shoot(browser, pages, "light")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_screenshots_show_the_pages_as_they_are(browser: "Browser", pages: dict[str, str], scheme: str) -> None:
    drawn = shoot(browser, pages, scheme)
    assert len(drawn) == 2
    found = {name: differences((DOCS / name).read_bytes(), data) for name, data in drawn.items()}
    assert found == {name: [] for name in drawn}, "run make screenshots"


def test_the_screenshots_are_small() -> None:
    assert {file.name: file.stat().st_size // 150_000 for file in DOCS.glob("*.png")} == dict.fromkeys(
        ("decision.png", "decision-dark.png", "report.png", "report-dark.png"), 0
    )


def test_the_numbers_on_the_screenshot_are_the_models() -> None:
    model = EmbeddedModel(MODEL)
    for key, (label, confidence, neither) in PHOTOS.items():
        prediction = answer((SAMPLES / key).read_bytes(), key, model).prediction
        assert prediction
        assert prediction.label == label
        assert prediction.confidence == pytest.approx(confidence, abs=0.02)
        assert prediction.neither == pytest.approx(neither, abs=0.02)


def without_chart(text: str, title: str) -> str:
    start = text.index(f'aria-label="{title}')
    begin, end = text.rindex("<svg ", 0, start), text.index("</svg>", start)
    head = text[begin : text.index(">", start) + 1]
    return text[:begin] + head + text[end:]


def with_other_photo(text: str) -> str:
    first, second = (part.partition('"')[0] for part in text.split('class="shown" src="')[1:3])
    return text.replace(first, second)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("decision", lambda text: text.replace(">accepted<", ">rejected<")),
        ("decision", lambda text: text.replace("card accept", "card reject")),
        ("decision", lambda text: text.replace("width:92.7%", "width:32.7%")),
        ("decision", with_other_photo),
        ("report", lambda text: text.replace("76.8", "46.8")),
        ("report", lambda text: text.replace("verdict accept", "verdict reject")),
        ("report", lambda text: without_chart(text, "Routes")),
        ("report", lambda text: without_chart(text, "Confidence over time")),
    ],
)
def test_a_change_of_the_page_is_found(
    browser: "Browser", pages: dict[str, str], drawn: dict[str, bytes], name: str, change: Callable[[str], str]
) -> None:
    changed = {**pages, name: change(pages[name])}
    assert changed != pages
    after = shoot(browser, changed, "light")
    assert differences(drawn[f"{name}.png"], after[f"{name}.png"]) != []


def test_another_font_of_the_machine_is_no_difference(
    browser: "Browser", pages: dict[str, str], drawn: dict[str, bytes]
) -> None:
    style = "*{font-family:serif;font-kerning:auto}body{-webkit-font-smoothing:none}"
    other = {name: text.replace("</style>", f"{style}</style>", 1) for name, text in pages.items()}
    for name, data in shoot(browser, other, "light").items():
        assert differences(drawn[name], data) == []
