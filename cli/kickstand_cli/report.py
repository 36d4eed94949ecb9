"""The page that shows a run: every picture with what was decided about it and why, in one file without a network."""

import base64
import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image, ImageOps

from kickstand.artefact import ModelCard
from kickstand.errors import InvalidImage
from kickstand.events import Route
from kickstand.images import FORMATS, MAX_IMAGE_PIXELS, prepare
from kickstand.records import Record

THUMBNAIL = 320  # pixels, the longer side: sharp on a phone, and 40 of them stay below a megabyte
CRISP = 64  # pixels: pictures up to this size are shown pixel by pixel, not smoothed

ROUTES = {Route.ACCEPT: "accepted", Route.REVIEW: "to a person", Route.REJECT: "rejected"}


@dataclass(frozen=True)
class Picture:
    """An upload as a page shows it. uri: the thumbnail; seen: what the model saw, None where that is the same."""

    uri: str
    width: int
    height: int
    crisp: bool
    seen: str | None


@dataclass(frozen=True)
class Outcome:
    """One upload and what became of it. ms: from the upload to its recorded decision; picture: None if unreadable."""

    key: str
    record: Record
    ms: float
    picture: Picture | None

    @property
    def explanation(self) -> str:
        """The decision's, without the image's own name in front."""
        return self.record.decision.explanation.removeprefix(f"{self.record.image}: ")

    @property
    def reason(self) -> str:
        return self.record.decision.reason.replace("_", " ")


@dataclass(frozen=True)
class Failure:
    """An upload without a record, or an execution that failed, and why."""

    key: str
    cause: str


@dataclass(frozen=True)
class Run:
    """All that there is to show. about: what was run, sentence by sentence; state_machine: its SVG."""

    outcomes: Sequence[Outcome]
    failures: Sequence[Failure]
    about: Sequence[str]
    card: ModelCard
    state_machine: str

    def count(self, route: Route) -> int:
        return sum(outcome.record.decision.route is route for outcome in self.outcomes)

    @property
    def median_ms(self) -> float:
        return median(outcome.ms for outcome in self.outcomes) if self.outcomes else 0.0


def make_picture(data: bytes, input_shape: tuple[int, int, int]) -> Picture | None:
    """A thumbnail of the uploaded bytes; None where they are no picture, or one too large to be opened."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=FORMATS) as photo:
            if math.prod(photo.size) > MAX_IMAGE_PIXELS:
                return None
            size = photo.size
            photo.draft(None, (THUMBNAIL, THUMBNAIL))
            upright = ImageOps.exif_transpose(photo)
            if upright.mode.startswith("I;16"):
                upright = upright.convert("I").point(lambda value: value * (1 / 256)).convert("L")
            shown = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
            shown.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS, reducing_gap=2.0)
        crisp = max(size) <= CRISP
        encoded = io.BytesIO()
        if crisp or shown.mode == "RGBA":
            shown.save(encoded, "PNG", optimize=True)
        else:
            shown.save(encoded, "WEBP", quality=82)
        kind = "png" if crisp or shown.mode == "RGBA" else "webp"
        same = size == (input_shape[1], input_shape[0]) and shown.mode == "RGB"
        seen = None if same else f"data:image/png;base64,{prepare(data, '', input_shape).png}"
    except InvalidImage:
        return None
    except Exception:  # the bytes are hostile, and a decoder may fail in any way on them
        return None
    uri = f"data:image/{kind};base64,{base64.b64encode(encoded.getvalue()).decode('ascii')}"
    return Picture(uri, *shown.size, crisp, seen)


def render_report(run: Run) -> str:
    """The whole page."""
    environment = Environment(
        loader=PackageLoader("kickstand_cli"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    figures: dict[str, Any] = {
        "run": run,
        "uploads": len(run.outcomes) + len(run.failures),
        "routes": ROUTES,
        "policy": run.card.policy,
        "state_machine": Markup(run.state_machine),  # noqa: S704 - drawn and escaped by us
    }
    return environment.get_template("report.html").render(figures)


def _percent(value: float) -> str:
    """A share for people: never rounded up to certainty.

    >>> _percent(0.99996), _percent(0.421), _percent(0.0)
    ('> 99.9 %', '42.1 %', '0.0 %')
    """
    if 0.9995 <= value < 1:
        return "> 99.9 %"
    return "< 0.1 %" if 0 < value < 0.0005 else f"{value:.1%}".replace("%", " %")
