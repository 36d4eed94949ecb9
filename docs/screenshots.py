"""`make screenshots`: the README's screenshots of the demo's pages, from fixed photos and a fixed time.

tests/browser/test_screenshots.py draws them again and compares.
"""

import io
import shutil
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageChops, ImageFilter
from PIL.PngImagePlugin import PngInfo

from kickstand.classify.artefact import ModelCard, read_card
from kickstand.classify.policy import decide
from kickstand.events import Answer, ImageRef, Prediction, ReviewOutcome, ReviewStatus, Shown
from kickstand.records import Record
from kickstand.report.pages import data_uri
from kickstand_cli.local.demo_report import Outcome, Run, make_picture, render_report
from kickstand_cli.local.demo_weeks import SAMPLES, simulate_weeks
from kickstand_cli.project import MODEL, PROJECT

if TYPE_CHECKING:
    from playwright.sync_api import Browser

DOCS = PROJECT / "docs"
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
# The model's predictions for these samples, as numbers: the last digits differ from one processor to another.
PHOTOS = {
    "bicycle/blue-city-bike.jpg": ("bicycle", 0.999, 0.002),
    "hard/red-trail-motorcycle.jpg": ("bicycle", 0.927, 0.163),
    "neither/cat.jpg": ("bicycle", 0.924, 0.992),
}
ANSWERED, SHOWS = "hard/red-trail-motorcycle.jpg", "motorcycle"
FONTS = [
    ("Shot", 400, "DejaVuSans.ttf"),
    ("Shot", 700, "DejaVuSans-Bold.ttf"),
    ("Shot Mono", 400, "DejaVuSansMono.ttf"),
]
WORDS = "words"  # the page's, kept in the screenshot
HIDDEN = ".foot{display:none!important}"  # milliseconds, which differ each time
FLAGS = ["--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
SCHEMES = "light", "dark"


class Shot(NamedTuple):
    """One screenshot. part: of the page, a CSS selector. width, height: of what is seen of it, at most; CSS pixels.
    scale: pixels of the file for each of them.
    """

    part: str
    width: int
    height: int
    scale: float


SHOTS = {"decision": Shot(".cards", 860, 480, 1.25), "report": Shot("main", 1180, 1010, 1.0)}


def make_pages() -> dict[str, str]:
    """The HTML of each screenshot."""
    card = read_card(MODEL)
    outcomes = [_decide(key, card) for key in PHOTOS]
    return {
        "decision": render_report(Run(len(outcomes), outcomes, (), (), card, "")),
        "report": simulate_weeks(MODEL, card, NOW).page,
    }


def _decide(key: str, card: ModelCard) -> Outcome:
    """The workflow's decision about a sample; one of them has been answered."""
    label, confidence, neither = PHOTOS[key]
    (other,) = set(card.labels) - {label}
    scores = {label: confidence, other: 1 - confidence}
    version = card.model_version
    prediction = Prediction.of(scores, neither=neither, model_version=version, backend="embedded", latency_ms=0)
    decision = decide(prediction, card.policy)
    review = None
    if key == ANSWERED:
        shown = Shown(explanation="", choices=())
        said = Answer(label=SHOWS, reviewer="Ada", answered_at=NOW, seconds_taken=4, shown=shown)
        review = ReviewOutcome(status=ReviewStatus.ANSWERED, why=decision.reason, requested_at=NOW, answer=said)
    record = Record(
        image=f"s3://photos/{key}",
        version="1",
        image_ref=ImageRef(bucket="photos", key=key, etag="e", uploaded_at=NOW),
        prediction=prediction,
        decision=decision,
        execution="fixed",
        recorded_at=NOW,
        review=review,
    )
    return Outcome(key, record, 0, make_picture((SAMPLES / key).read_bytes(), card.input_shape))


def shoot(browser: "Browser", pages: dict[str, str], scheme: str) -> dict[str, bytes]:
    """The screenshots as PNG files, by name."""
    files = {}
    for name, shot in SHOTS.items():
        context = browser.new_context(
            color_scheme="dark" if scheme == "dark" else "light",
            viewport={"width": shot.width, "height": 1200},
            device_scale_factor=shot.scale,
        )
        page = context.new_page()
        page.set_content(pages[name])
        page.add_style_tag(content=_fonts())
        page.evaluate("document.fonts.ready")
        box = page.locator(shot.part).bounding_box()
        if box is None:
            raise ValueError(f"{name}: the page shows no {shot.part}")
        clip = {"x": 0, "y": max(0, box["y"] - 12), "width": shot.width, "height": min(shot.height, box["height"] + 24)}
        taken = Image.open(io.BytesIO(page.screenshot(clip=clip, full_page=True)))  # type: ignore[arg-type]
        words = PngInfo()
        words.add_itxt(WORDS, " ".join(page.locator(shot.part).inner_text().split()))
        context.close()
        small = io.BytesIO()
        few = taken.convert("RGB").quantize(160, dither=Image.Dither.NONE)
        few.save(small, "PNG", optimize=True, pnginfo=words)
        files[f"{name}{'-dark' if scheme == 'dark' else ''}.png"] = small.getvalue()
    return files


def differences(before: bytes, after: bytes) -> list[str]:
    """How two screenshots differ, in words; empty where only the browser's way of drawing does.

    The words must be the same. Of cells of about 12 pixels, one in a thousand may differ clearly in colour.
    """
    found = []
    one, other = (Image.open(io.BytesIO(data)) for data in (before, after))
    if one.info.get(WORDS) != other.info.get(WORDS):
        found.append("the words")
    if one.size != other.size:
        return [*found, f"the size: {one.size}, {other.size}"]
    size = one.width // 12, one.height // 12
    blurred = [
        image.convert("RGB").filter(ImageFilter.GaussianBlur(4)).resize(size, Image.Resampling.BOX)
        for image in (one, other)
    ]
    bands = ImageChops.difference(*blurred).split()
    apart = np.max([np.asarray(band) for band in bands], axis=0) > 20
    return found + ([f"{apart.mean():.1%} of the screenshot"] if apart.mean() > 0.001 else [])


@cache
def _fonts() -> str:
    """A style that sets all text in matplotlib's own fonts, unhinted: so lines break at the same places everywhere."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    faces = "".join(
        f'@font-face{{font-family:"{family}";font-weight:{weight};'
        f'src:url("{data_uri("font/ttf", (folder / file).read_bytes())}")}}'
        for family, weight, file in FONTS
    )
    every = '*{font-family:"Shot"!important;text-rendering:geometricPrecision}'
    return f'{faces}{every}code,.key{{font-family:"Shot Mono"!important}}{HIDDEN}'


def main() -> None:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("error: no Chromium on PATH")
    pages = make_pages()
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=chromium, args=FLAGS) as browser:
        for scheme in SCHEMES:
            for name, data in shoot(browser, pages, scheme).items():
                (DOCS / name).write_bytes(data)


if __name__ == "__main__":
    main()
