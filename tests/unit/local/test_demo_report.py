"""The demo's page: every figure is there, and nothing in it can become markup."""

import base64
import io
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from PIL import Image

from kickstand.classify.artefact import ModelCard
from kickstand.events import Decision, ImageRef, Prediction, Reason, Route, SelectivePolicy
from kickstand.records import Record
from kickstand_cli.local.demo_report import Failure, Outcome, Run, make_picture, render_report

SHAPE = (32, 32, 3)
CARD = ModelCard(
    model_version="v7",
    model_sha256="0" * 64,
    labels=("tram", "bus"),
    input_shape=SHAPE,
    temperature=1.0,
    policy=SelectivePolicy(
        policy_version="p3", accept_at=0.9, neither_accept_at_most=0.25, neither_reject_at_least=0.75
    ),
)


def encode(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def decided(key: str, route: Route, reason: Reason, *, explanation: str = "because", ms: float = 120) -> Outcome:
    readable = reason is not Reason.UNREADABLE
    prediction = Prediction.of(
        {"tram": 0.9731, "bus": 0.0269}, neither=0.0412, model_version="v7", backend="embedded", latency_ms=1.0
    )
    now = datetime(2026, 1, 1, tzinfo=UTC)
    record = Record(
        image=f"s3://photos/{key}",
        version="1",
        image_ref=ImageRef(bucket="photos", key=key, etag="e", uploaded_at=now),
        prediction=prediction if readable else None,
        decision=Decision(route=route, reason=reason, explanation=explanation),
        execution="arn",
        recorded_at=now,
    )
    picture = make_picture(encode(Image.new("RGB", (300, 200), "teal")), SHAPE) if readable else None
    return Outcome(key, record, ms, picture)


OUTCOMES = (
    decided("a.png", Route.ACCEPT, Reason.CONFIDENT, ms=1_512),
    decided("b.png", Route.ACCEPT, Reason.CONFIDENT),
    decided("c.png", Route.REVIEW, Reason.PERHAPS_NEITHER),
    decided("d.png", Route.REJECT, Reason.UNREADABLE, explanation="s3://photos/d.png: 0 bytes"),
)


LINKED = [
    *("monitoring.html", "state-machine.svg", "records.jsonl", "ledger.json"),
    *("simulated-weeks.jsonl", "functions.log"),
]


def rendered(*outcomes: Outcome, failures: tuple[Failure, ...] = ()) -> str:
    uploads = len(outcomes) + len(failures)
    return render_report(Run(uploads, outcomes, failures, ["What was run."], CARD, '<svg id="drawn"></svg>'))


class Page(HTMLParser):
    """What a browser makes of it: tags, and the text of each tile and card."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += " ".join(data.split()) + " "

    def classes(self, tag: str) -> list[str]:
        return [attributes.get("class") or "" for name, attributes in self.tags if name == tag]


def test_every_figure_of_an_outcome_is_on_the_page() -> None:
    text = Page(rendered(OUTCOMES[0])).text
    for figure in ("a.png", "tram", "97.3 %", "4.1 %", "confident", "because", "1,512 ms", "v7", "p3", "What was run."):
        assert figure in text


def test_the_tiles_count_uploads_and_routes() -> None:
    text = Page(rendered(*OUTCOMES, failures=(Failure("e.png", "FAILED: Boom"),))).text
    for tile in ("5 uploads", "2 accepted", "1 to review", "1 rejected", "1 failed"):
        assert tile in text


def test_each_route_has_its_cards_and_its_filter() -> None:
    page = Page(rendered(*OUTCOMES))
    assert sorted(name for name in page.classes("li") if "card" in name) == [
        "card accept", "card accept", "card reject", "card review",
    ]  # fmt: skip
    assert [attributes["data-route"] for tag, attributes in page.tags if tag == "button"] == [
        "", "accept", "review", "reject",
    ]  # fmt: skip


def test_thresholds_are_marked_on_the_bars() -> None:
    assert re.findall(r'class="mark" style="left:([\d.]+)%"', rendered(OUTCOMES[0])) == ["90.0", "25.0", "75.0"]


@pytest.mark.parametrize(
    ("threshold", "marks", "hint"),
    [
        (0.941, ["94.1", "25.0", "75.0"], "accepted as tram from 0.941"),
        (None, ["25.0", "75.0"], "always sent to review"),
    ],
)
def test_the_mark_is_that_of_the_labels_own_threshold(threshold: float | None, marks: list[str], hint: str) -> None:
    policy = CARD.policy.model_copy(update={"thresholds": {"tram": threshold, "bus": 0.5}})
    card = CARD.model_copy(update={"policy": policy})
    page = render_report(Run(1, [OUTCOMES[0]], (), ["What was run."], card, ""))
    assert re.findall(r'class="mark" style="left:([\d.]+)%"', page) == marks
    assert f'title="{hint}"' in page


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>.png", '"><img src=x onerror=alert(1)>.png', "a&b.png"])
def test_a_key_cannot_become_markup(hostile: str) -> None:
    plain, page = Page(rendered(OUTCOMES[0])), Page(rendered(decided(hostile, Route.ACCEPT, Reason.CONFIDENT)))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert hostile in page.text
    assert hostile in [attributes.get("alt") for _, attributes in page.tags]


def test_a_cause_and_an_explanation_cannot_become_markup() -> None:
    bad = decided("x.png", Route.REJECT, Reason.UNREADABLE, explanation="<b>no</b>")
    page = Page(rendered(bad, failures=(Failure("<i>", "<u>"),)))
    assert not {"bi", "u"} & {tag for tag, _ in page.tags}
    assert "<b>no</b>" in page.text


def test_an_unreadable_upload_gets_a_placeholder_and_its_reason_without_its_name() -> None:
    page = Page(rendered(OUTCOMES[3]))
    assert "no photo to show" in page.text
    assert "unreadable : 0 bytes" in page.text
    assert not [tag for tag, _ in page.tags if tag == "img"]


def test_the_page_needs_no_network() -> None:
    page = rendered(*OUTCOMES)
    assert re.findall(r'(?:src|href)="(?!data:)([^"]*)', page) == LINKED
    assert not re.findall(r"https?://", page)


def test_the_drawn_state_machine_is_part_of_the_page() -> None:
    assert ("svg", {"id": "drawn"}) in Page(rendered(OUTCOMES[0])).tags


def test_a_small_picture_is_shown_pixel_by_pixel() -> None:
    picture = make_picture(encode(Image.new("RGB", (32, 32))), SHAPE)
    assert picture
    assert picture.crisp
    assert picture.seen is None, "the model sees the same"


def test_a_large_picture_becomes_a_thumbnail_beside_what_the_model_sees() -> None:
    picture = make_picture(encode(Image.new("RGB", (1_600, 800), "navy"), "JPEG"), SHAPE)
    assert picture
    assert (picture.width, picture.height) == (288, 144)
    assert picture.seen
    seen = Image.open(io.BytesIO(base64.b64decode(picture.seen.partition(",")[2])))
    assert seen.size == (32, 32)


@pytest.mark.parametrize("image", [Image.new("CMYK", (9, 9)), Image.new("I;16", (9, 9)), Image.new("P", (9, 9))])
def test_other_colour_modes_have_a_picture(image: Image.Image) -> None:
    assert make_picture(encode(image, "TIFF"), SHAPE)


@pytest.mark.parametrize(
    "data", [b"", b"text", encode(Image.new("RGB", (90, 90)))[:80], encode(Image.new("1", (12_000, 9_000)))]
)
def test_what_is_no_picture_has_none(data: bytes) -> None:
    assert make_picture(data, SHAPE) is None
