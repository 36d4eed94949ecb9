"""The page that shows a run of the demo: each photo with its decision and the reason, in one file without a network."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from markupsafe import Markup
from PIL import Image

from kickstand.classify.artefact import ModelCard
from kickstand.classify.images import prepare, thumbnail
from kickstand.errors import InvalidImage
from kickstand.events import Route
from kickstand.records import Record
from kickstand.report.pages import data_uri, make_environment

THUMBNAIL = 288  # pixels, the longer side: sharp on a phone, and 50 of them stay near a megabyte
CRISP = 64  # pixels: photos up to this size are shown pixel by pixel, not smoothed

ROUTES = {Route.ACCEPT: "accepted", Route.REVIEW: "to review", Route.REJECT: "rejected"}


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
    """One upload and its decision. ms: from the upload to the recorded decision; picture: None if unreadable."""

    key: str
    record: Record
    ms: float
    picture: Picture | None

    @property
    def explanation(self) -> str:
        """The decision's, without the photo's name in front."""
        return self.record.decision.explanation.removeprefix(f"{self.record.image}: ")

    @property
    def answer(self) -> str:
        """What a person answered; empty where nobody has."""
        given = self.record.review and self.record.review.answer
        return f"{given.reviewer} answered: {given.label.replace('_', ' ')}" if given else ""

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
    """All that the page shows. about: what was run, sentence by sentence. state_machine: its SVG. weeks: what the
    monitoring page shows, a sentence.
    """

    uploads: int
    outcomes: Sequence[Outcome]
    failures: Sequence[Failure]
    about: Sequence[str]
    card: ModelCard
    state_machine: str
    weeks: str = ""

    def count(self, route: Route) -> int:
        return sum(outcome.record.decision.route is route for outcome in self.outcomes)

    @property
    def answered(self) -> int:
        """How many photos a person has answered for."""
        return sum(bool(outcome.answer) for outcome in self.outcomes)

    @property
    def story(self) -> list[Outcome]:
        """The photos as the page shows them: those that people answer for first."""
        return sorted(self.outcomes, key=lambda o: (not o.answer, o.record.decision.route is not Route.REVIEW))

    @property
    def median_ms(self) -> float:
        return median(outcome.ms for outcome in self.outcomes) if self.outcomes else 0.0


def make_picture(data: bytes, input_shape: tuple[int, int, int]) -> Picture | None:
    """A thumbnail of the uploaded bytes; None where they are not a photo that can be read."""
    try:
        kind, encoded = thumbnail(data, "", THUMBNAIL)
        prepared = prepare(data, "", input_shape)
    except InvalidImage:
        return None
    with Image.open(io.BytesIO(encoded)) as shown:
        width, height = shown.size
    same = (prepared.height, prepared.width) == input_shape[:2]
    return Picture(
        uri=data_uri(kind, encoded),
        width=width,
        height=height,
        crisp=max(width, height) <= CRISP,
        seen=None if same else f"data:image/png;base64,{prepared.png}",
    )


def render_report(run: Run) -> str:
    """The whole page."""
    environment = make_environment("kickstand_cli")
    figures: dict[str, Any] = {
        "run": run,
        "routes": ROUTES,
        "policy": run.card.policy,
        "state_machine": Markup(run.state_machine),  # noqa: S704 - drawn and escaped by us
    }
    return environment.get_template("demo.html").render(figures)
