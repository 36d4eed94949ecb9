"""A real browser, where there is one; and what every page must fulfil."""

import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from kickstand_cli.project import PROJECT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

AXE = PROJECT / "node_modules/axe-core/axe.min.js"
STANDARD = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]

PATIENCE_MS = 200_000  # less than pytest's, so that it says what was waited for

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="module")
def browser(absent: Callable[[str, str], None]) -> Iterator["Browser"]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        absent("chromium", "no Chromium on PATH")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        absent("chromium", "Playwright is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS, timeout=PATIENCE_MS)
        new_context = browser.new_context

        def patient(**settings: Any) -> "BrowserContext":
            context = new_context(**settings)
            context.set_default_timeout(PATIENCE_MS)
            return context

        browser.new_context = patient  # type: ignore[method-assign]
        yield browser
        browser.close()


@pytest.fixture
def meets_wcag(absent: Callable[[str, str], None]) -> Callable[["Page", str], None]:
    """Fails where axe finds a violation of WCAG 2.2 AA on the page. The second argument says what the page shows."""
    if not AXE.exists():
        absent("axe-core", "npm ci has not installed axe-core")

    def check(page: "Page", what: str) -> None:
        page.evaluate(AXE.read_text("utf-8"))
        found = page.evaluate("only => axe.run({ runOnly: only })", STANDARD)["violations"]
        assert [(what, rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == []

    return check
