"""The reviewers' page in a real browser, in front of the real function: by mouse, by keys, and with bad luck."""

import io
import itertools
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from PIL import Image

from kickstand.events import Answer, ReviewStatus
from kickstand.records import Record
from kickstand.review import rules, store
from kickstand.review.rules import CLAIM, Review
from kickstand_cli.local.stack import Stack, deploy
from kickstand_cli.review.review import find_function, serving
from tests.waiting import end_wait

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Route

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
UNSURE = {"route": "review", "reason": "unsure", "explanation": "bicycle with confidence 0.612, accepted from 0.900"}


@pytest.fixture(scope="module")
def deployed(browser: "Browser") -> Iterator[Stack]:
    shares = dict.fromkeys(("AuditRate", "SecondAnswerShare", "GoldenReviewShare"), "0")
    with deploy(PROJECT / "template.yaml", shares) as stack:
        stack._lambdas.functions["DecideFunction"].handler = lambda event, context: UNSURE
        yield stack


@pytest.fixture
def stack(deployed: Stack) -> Iterator[Stack]:
    """The deployment; what still waits after the test is answered, so that the next one starts with nothing."""
    yield deployed
    for review in deployed.reviews():
        if review.status is not ReviewStatus.ANSWERED:
            give(deployed, review, "nobody")
    deployed.settle()


@pytest.fixture(scope="module")
def url(deployed: Stack) -> Iterator[str]:
    with serving(find_function(deployed.outputs), 0, "Ada") as url:
        yield url


@pytest.fixture
def context(browser: "Browser") -> Iterator["BrowserContext"]:
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    yield context
    context.close()


@pytest.fixture
def page(context: "BrowserContext") -> Iterator["Page"]:
    """A page on which nothing may go wrong unseen."""
    page = context.new_page()
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
    page.on("dialog", lambda dialog: trouble.append(dialog.message))
    yield page
    assert trouble == []


READY = "main:not([aria-busy])"  # for a key: the photo is there, and has been for a moment
COLOURS = itertools.cycle(["red", "green", "blue", "orange"])


def upload(stack: Stack, *names: str, size: tuple[int, int] = (640, 480)) -> list[str]:
    """Photos that nobody is sure about, asked about one after the other; their URIs."""
    for name in names:
        file = io.BytesIO()
        Image.new("RGB", size, next(COLOURS)).save(file, "PNG")
        stack.upload(name, file.getvalue())
        stack.settle()
    return [f"s3://{stack.outputs['ImageBucketName']}/{name}" for name in names]


def review_of(stack: Stack, image: str) -> Review:
    (review,) = (review for review in stack.reviews() if review.image == image)
    return review


def answer_of(stack: Stack, image: str) -> Answer:
    answer = review_of(stack, image).answer
    assert answer
    return answer


def record_of(stack: Stack, image: str) -> Record:
    return [record for record in stack.records() if record.image == image][-1]


def shows(page: "Page", words: str | re.Pattern[str]) -> None:
    """Waits until the page shows these words."""
    page.locator(READY, has_text=words).wait_for()


def press(page: "Page", key: str) -> None:
    page.locator(READY).wait_for()
    page.keyboard.press(key)


def await_ahead(stack: Stack, page: "Page", image: str) -> None:
    """Waits until the page has its next photo: asked for later, it would hear already that the first one is gone."""
    while review_of(stack, image).claim is None:
        page.wait_for_timeout(50)


def answer_to(stack: Stack, name: str) -> str | None:
    (found,) = (review for review in stack.reviews() if review.image.endswith(f"/{name}"))
    return found.answer.label if found.answer else None


def await_answer(stack: Stack, page: "Page", name: str) -> str:
    """Waits until the answer has arrived: the page shows the next photo before that."""
    while (answer := answer_to(stack, name)) is None:
        page.wait_for_timeout(50)
    return answer


def give(stack: Stack, review: Review, reviewer: str) -> None:
    """Has somebody else answer, though a reviewer looks at the photo now."""
    later, tables = datetime.now(UTC) + 3 * CLAIM, ("ReviewsTable", "RecordsTable")
    key = review.key
    change(stack, review.image, lambda review: rules.claim(review, reviewer, later))
    store.answer_review(stack.dynamodb, stack.stepfunctions, tables, key, "neither", reviewer, [], later)


def change(stack: Stack, image: str, rule: Callable[[Review], Review]) -> None:
    version = review_of(stack, image).version
    store.change_review(stack.dynamodb, "ReviewsTable", image, version, rule)


def test_an_answer_by_mouse_completes_the_execution_and_shows_the_next_picture_at_once(
    stack: Stack, url: str, page: "Page"
) -> None:
    first, _ = upload(stack, "by mouse/1.png", "by mouse/2.png")
    page.goto(url)
    shows(page, "0 done, 2 left")
    shows(page, "1.png")
    shows(page, "What does this photo show?")
    assert "0.612" not in page.content()  # what the model said leads the reviewer
    page.get_by_role("button", name="motorcycle").click()
    shows(page, "1 done, 1 left")
    shows(page, "2.png")
    while (outcome := record_of(stack, first).review) is None:
        page.wait_for_timeout(50)
    stack.settle()
    assert outcome.answer
    assert (outcome.status, outcome.answer.label, outcome.answer.reviewer) == ("answered", "motorcycle", "Ada")
    running = {execution["executionArn"] for execution in stack.executions("RUNNING")}
    assert review_of(stack, first).execution not in running


def test_every_answer_has_its_key(stack: Stack, url: str, page: "Page") -> None:
    answers = {"1": "bicycle", "2": "motorcycle", "n": "neither", "c": "cannot_tell"}
    images = upload(stack, *(f"by keys/{label}.png" for label in answers.values()))
    page.goto(url)
    for key, label in answers.items():
        shows(page, f"{label}.png")
        press(page, key)
    shows(page, "Nothing to do")
    stack.settle()
    outcomes = [record_of(stack, image).review for image in images]
    assert [outcome and outcome.answer and outcome.answer.label for outcome in outcomes] == list(answers.values())


def test_a_button_reached_by_tab_is_pressed_by_enter(stack: Stack, url: str, page: "Page") -> None:
    (image,) = upload(stack, "by tab.png")
    page.goto(url)
    shows(page, "by tab.png")
    page.get_by_role("button", name="none of these", exact=True).focus()
    press(page, "Enter")
    shows(page, "Nothing to do")
    assert answer_of(stack, image).label == "neither"


def test_skipping_shows_the_others_first(stack: Stack, url: str, page: "Page") -> None:
    images = upload(stack, "skip 1.png", "skip 2.png")
    page.goto(url)
    for name in ("skip 1.png", "skip 2.png"):
        shows(page, name)
        press(page, "s")
    shows(page, "skip 1.png")
    assert {review_of(stack, image).status for image in images} == {ReviewStatus.WAITING}


def test_a_key_held_down_or_pressed_twice_answers_one_picture(stack: Stack, url: str, page: "Page") -> None:
    images = upload(stack, "held 1.png", "held 2.png", "held 3.png")
    page.goto(url)
    shows(page, "held 1.png")
    for _ in range(3):  # no key up between: the browser repeats it
        page.keyboard.down("1")
    page.keyboard.up("1")
    shows(page, "held 2.png")
    await_answer(stack, page, "held 1.png")
    assert [review_of(stack, image).status for image in images] == ["answered", "waiting", "waiting"]


def test_two_reviewers_get_different_pictures(stack: Stack, url: str, browser: "Browser", page: "Page") -> None:
    upload(stack, "two 1.png", "two 2.png")
    context = browser.new_context()
    grace = context.new_page()
    grace.goto(url)
    shows(grace, "two 1.png")  # still Ada, to the page
    grace.get_by_text("not you?").click()
    grace.get_by_label("Your name").fill("Grace <b>Hopper</b>")
    grace.keyboard.press("Enter")
    shows(grace, "two 1.png")  # which nobody holds in her former name
    shows(grace, "Grace <b>Hopper</b>")
    page.goto(url)
    shows(page, "two 2.png")  # though it is the one that Grace is shown next
    grace.reload()
    shows(grace, "Grace <b>Hopper</b>")  # remembered
    press(grace, "1")
    shows(grace, "Other reviewers see all photos that wait")
    context.close()


def test_an_answer_to_a_picture_that_went_to_somebody_else_is_refused(stack: Stack, url: str, page: "Page") -> None:
    image, following = upload(stack, "conflict 1.png", "conflict 2.png")
    page.goto(url)
    shows(page, "conflict 1.png")
    await_ahead(stack, page, following)
    change(stack, image, lambda review: rules.claim(review, "Grace", datetime.now(UTC) + CLAIM))
    press(page, "1")
    shows(page, "went to somebody else")
    shows(page, "conflict 2.png")
    shows(page, "0 done")
    assert review_of(stack, image).status is ReviewStatus.WAITING


def test_an_answer_to_a_picture_that_somebody_has_answered_is_refused(stack: Stack, url: str, page: "Page") -> None:
    image, following = upload(stack, "raced 1.png", "raced 2.png")
    page.goto(url)
    shows(page, "raced 1.png")
    await_ahead(stack, page, following)
    give(stack, review_of(stack, image), "Grace")
    press(page, "2")
    shows(page, "their answer counts")
    shows(page, "raced 2.png")


def test_a_review_that_expired_while_its_picture_was_shown_takes_the_late_answer(
    stack: Stack, url: str, page: "Page"
) -> None:
    (image,) = upload(stack, "expired.png")
    page.goto(url)
    shows(page, "expired.png")
    for status in (ReviewStatus.ESCALATED, ReviewStatus.UNANSWERED):
        end_wait(review_of(stack, image))
        while review_of(stack, image).status is not status:
            time.sleep(0.1)
        stack.settle()
    press(page, "2")
    shows(page, "Nothing to do")
    outcome = record_of(stack, image).review
    assert outcome
    assert outcome.answer
    assert (outcome.answer.label, outcome.answer.late) == ("motorcycle", True)


RENAME = "document.title='owned'"
NASTY = f'<img src=x onerror="{RENAME}"> \'"></cwdb-action><script>{RENAME}</script> &lt;b.png'


def test_html_in_a_file_name_is_shown_and_not_run(stack: Stack, url: str, page: "Page") -> None:
    (image,) = upload(stack, NASTY)
    page.goto(url)
    caption = page.locator("figcaption span").first
    caption.wait_for()
    assert caption.text_content() == NASTY.rpartition("/")[2]
    assert page.locator("main script, main img:not([alt='The photo in question'])").count() == 0
    press(page, "1")
    shows(page, "Nothing to do")
    assert page.title() == "Kickstand · review"
    assert review_of(stack, image).status is ReviewStatus.ANSWERED


def test_a_tiny_picture_is_shown_big_and_its_pixels_sharp(stack: Stack, url: str, page: "Page") -> None:
    upload(stack, "tiny.png", size=(32, 32))
    page.goto(url)
    shows(page, "tiny.png")
    picture = page.get_by_alt_text("The photo in question")
    size = picture.bounding_box()
    assert size
    assert size["height"] >= 400
    # The page forbids evaluating text, so a handle is asked instead.
    assert picture.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"


@pytest.mark.parametrize("width", [320, 375, 768])
def test_on_a_phone_nothing_sticks_out_and_every_button_is_big_enough(
    stack: Stack, url: str, browser: "Browser", width: int
) -> None:
    upload(stack, "a_rather_long_file_name_of_a_photo_that_a_phone_has_made_up_all_by_itself.png")
    context = browser.new_context(viewport={"width": width, "height": 640}, is_mobile=True, has_touch=True)
    page = context.new_page()
    page.goto(url)
    shows(page, "a_rather_long")
    buttons = page.locator(".ks-button:visible").all()
    boxes = [box for box in (button.bounding_box() for button in buttons) if box]
    assert len(boxes) == 5
    assert all(box["height"] >= 44 and box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert page.locator("kbd").first.is_hidden()
    page.get_by_role("button", name="bicycle").tap()
    shows(page, "Nothing to do")
    context.close()


def test_when_the_function_fails_the_reviewer_is_told(stack: Stack, url: str, context: "BrowserContext") -> None:
    (image,) = upload(stack, "outage.png")
    page = context.new_page()
    page.goto(url)
    shows(page, "outage.png")
    function = stack._lambdas.functions["ReviewFunction"]
    handler = function.handler
    function.handler = lambda event, context: 1 / 0
    press(page, "1")
    page.get_by_role("alert").filter(has_text="give it again").wait_for()
    function.handler = handler
    press(page, "1")
    shows(page, "Nothing to do")
    assert page.get_by_role("alert").filter(has_text="give it again").count() == 0
    assert review_of(stack, image).status is ReviewStatus.ANSWERED


def strike(page: "Page", key: str, code: str, **more: object) -> None:
    """A key of another keyboard than Playwright's: what is printed on it, and its place."""
    page.locator(READY).wait_for()
    for event in ("keydown", "keyup"):
        page.locator("main").dispatch_event(event, {"key": key, "code": code, **more})


@pytest.mark.parametrize(
    ("key", "code", "label"),
    [
        ("&", "Digit1", "bicycle"),  # AZERTY
        ("é", "Digit2", "motorcycle"),
        ("1", "Numpad1", "bicycle"),
        ("т", "KeyN", "neither"),  # Cyrillic
        ("с", "KeyC", "cannot_tell"),
        ("N", "KeyN", "neither"),  # Caps Lock
        ("n", "KeyL", "neither"),  # Dvorak
        ("?", "Slash", "cannot_tell"),
    ],
)
def test_keys_work_on_every_keyboard(stack: Stack, url: str, page: "Page", key: str, code: str, label: str) -> None:
    (image,) = upload(stack, f"keyboard {code} {ord(key)}.png")
    page.goto(url)
    shows(page, f"keyboard {code} {ord(key)}.png")
    strike(page, key, code)
    shows(page, "Nothing to do")
    assert answer_of(stack, image).label == label


@pytest.mark.parametrize(
    "event",
    [
        {"key": "1", "code": "Digit1", "isComposing": True},
        {"key": "Process", "code": "Digit1", "keyCode": 229},
        {"key": "1", "code": "Digit1", "ctrlKey": True},
        {"key": "1", "code": "Digit1", "repeat": True},
        {"key": "!", "code": "Digit1", "shiftKey": True},
        {"key": "End", "code": "Numpad1"},
        {"key": "Dead", "code": "KeyN"},
    ],
)
def test_what_is_not_a_press_of_the_key_answers_nothing(
    stack: Stack, url: str, page: "Page", event: dict[str, object]
) -> None:
    name = f"no press {' '.join(event)} {event['key']}.png"
    (image,) = upload(stack, name)
    page.goto(url)
    shows(page, name)
    page.locator(READY).wait_for()
    page.locator("main").dispatch_event("keydown", event)
    press(page, "s")
    shows(page, name)
    assert review_of(stack, image).answer is None


def test_two_quick_presses_or_clicks_answer_one_photo(stack: Stack, url: str, page: "Page") -> None:
    upload(stack, "quick 1.png", "quick 2.png", "quick 3.png")
    page.goto(url)
    shows(page, "quick 1.png")
    page.locator(READY).wait_for()
    page.locator("main").evaluate(
        """main => {
          for (const type of ["keydown", "keyup", "keydown", "keyup"])
            main.dispatchEvent(new KeyboardEvent(type, { key: "1", code: "Digit1", bubbles: true }));
        }"""
    )
    shows(page, "quick 2.png")
    page.get_by_role("button", name="motorcycle").dblclick()
    shows(page, "quick 3.png")
    shows(page, "2 done, 1 left")
    await_answer(stack, page, "quick 2.png")
    assert [answer_to(stack, f"quick {number}.png") for number in (1, 2, 3)] == ["bicycle", "motorcycle", None]


def test_the_next_photo_is_shown_before_the_answer_has_arrived(stack: Stack, url: str, page: "Page") -> None:
    upload(stack, "ahead 1.png", "ahead 2.png", "ahead 3.png")
    page.goto(url)
    with page.expect_response("**/call"):  # the next photo is on its way as soon as the first one is there
        shows(page, "ahead 1.png")
    held: list[Route] = []
    page.route("**/call", lambda route: route.continue_() if held else held.append(route))
    press(page, "1")
    shows(page, "ahead 2.png")
    shows(page, "1 done, 2 left")
    assert ['"action":"answer"' in str(route.request.post_data) for route in held] == [True]
    press(page, "2")  # waits for the reply, and is not lost
    held[0].continue_()
    shows(page, "ahead 3.png")
    shows(page, "2 done, 1 left")
    await_answer(stack, page, "ahead 2.png")
    assert [answer_to(stack, f"ahead {number}.png") for number in (1, 2, 3)] == ["bicycle", "motorcycle", None]


def test_an_answer_that_does_not_arrive_brings_its_photo_back(
    stack: Stack, url: str, context: "BrowserContext"
) -> None:
    upload(stack, "lost 1.png", "lost 2.png")
    page = context.new_page()
    page.goto(url)
    with page.expect_response("**/call"):
        shows(page, "lost 1.png")
    page.route("**/call", lambda route: route.abort())
    press(page, "1")
    page.get_by_role("alert").filter(has_text="give it again").wait_for()
    shows(page, "lost 1.png")
    page.unroute_all()
    press(page, "2")
    shows(page, "lost 2.png")
    shows(page, "1 done, 1 left")
    assert await_answer(stack, page, "lost 1.png") == "motorcycle"


def test_the_last_answer_is_undone_by_a_key(stack: Stack, url: str, page: "Page") -> None:
    upload(stack, "undo 1.png", "undo 2.png")
    page.goto(url)
    shows(page, "undo 1.png")
    assert page.locator("[data-key=u]").is_hidden()
    press(page, "1")
    shows(page, "undo 2.png")
    press(page, "u")
    shows(page, "undo 1.png")
    shows(page, "0 done, 2 left")
    assert answer_to(stack, "undo 1.png") is None
    press(page, "2")
    shows(page, "undo 2.png")
    press(page, "n")
    shows(page, "You answered 2: 1 motorcycle, 1 none of these.")
    press(page, "u")
    shows(page, "undo 2.png")
    assert (answer_to(stack, "undo 1.png"), answer_to(stack, "undo 2.png")) == ("motorcycle", None)


def test_a_photo_is_shown_larger_and_the_keys_below_it_answer_nothing(stack: Stack, url: str, page: "Page") -> None:
    upload(stack, "large.png", size=(3000, 1500))
    page.goto(url)
    shows(page, "large.png")
    press(page, "z")
    photo = page.get_by_alt_text("The photo, larger")
    photo.wait_for()
    assert photo.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [2048, 1024]
    page.keyboard.press("1")
    page.keyboard.press("z")
    photo.wait_for(state="hidden")
    assert answer_to(stack, "large.png") is None


def test_photos_are_shown_for_one_reason_only_if_the_reviewer_wants(stack: Stack, url: str, page: "Page") -> None:
    upload(stack, "reason 1.png")
    function = stack._lambdas.functions["DecideFunction"]
    unsure = function.handler
    function.handler = lambda event, context: {**UNSURE, "reason": "perhaps_neither"}
    upload(stack, "reason 2.png")
    function.handler = unsure
    page.goto(url)
    shows(page, "reason 1.png")
    page.locator(READY).wait_for()
    page.get_by_role("button", name="perhaps none of these").click()
    shows(page, "reason 2.png")
    press(page, "n")
    shows(page, "No photo for this reason")
    page.get_by_role("button", name="all", exact=True).click()
    shows(page, "reason 1.png")


def test_a_photo_that_cannot_be_drawn_keeps_nobody_from_the_others(
    stack: Stack, url: str, context: "BrowserContext"
) -> None:
    upload(stack, "poison 1.png", "poison 2.png", "poison 3.png")
    function = stack._lambdas.functions["ReviewFunction"]
    handler: Callable[[object, object], object] = function.handler  # type: ignore[assignment]

    def killed(event: dict[str, object], lambda_context: object) -> object:
        shown = handler(event, lambda_context)
        if event.get("draw") and re.search(r'data-image="[^"]*poison 2', str(shown)):
            raise MemoryError
        return shown

    function.handler = killed
    page = context.new_page()
    page.goto(url)
    shows(page, "poison 1.png")
    press(page, "1")
    if page.get_by_role("alert").filter(has_text="give it again").count():
        press(page, "1")
    shows(page, "poison 2.png")
    shows(page, "This photo cannot be shown")
    press(page, "c")
    shows(page, "poison 3.png")
    page.get_by_alt_text("The photo in question").wait_for()
    function.handler = handler
    assert [answer_to(stack, f"poison {number}.png") for number in (1, 2)] == ["bicycle", "cannot_tell"]


def test_the_name_that_the_command_is_given_wins_over_the_one_that_the_browser_remembers(
    deployed: Stack, stack: Stack, context: "BrowserContext"
) -> None:
    images = upload(stack, "named 1.png", "named 2.png")
    page = context.new_page()
    with serving(find_function(deployed.outputs), 0, "reviewer-a") as url:
        port = urlsplit(url).port or 0
        page.goto(url)
        page.get_by_text("not you?").click()
        page.get_by_label("Your name").fill("reviewer-b")
        page.keyboard.press("Enter")
        shows(page, "reviewer-b")
    for name, expected in (("", "reviewer-b"), ("reviewer-c", "reviewer-c"), ("", "reviewer-b")):
        with serving(find_function(deployed.outputs), port, name) as url:
            page.goto(url)
            shows(page, expected)
            if name:
                press(page, "2")
                shows(page, "1 done")
                while not any(review.answer for review in stack.reviews() if review.image in images):
                    page.wait_for_timeout(50)
    answers = [review.answer for review in stack.reviews() if review.image in images and review.answer]
    assert [answer.reviewer for answer in answers] == ["reviewer-c"]


@pytest.mark.parametrize(("width", "height"), [(640, 430), (683, 384)])  # 1280 × 860 and 1366 × 768 at 200 %
def test_at_200_per_cent_every_answer_is_above_the_fold(
    stack: Stack, url: str, browser: "Browser", width: int, height: int
) -> None:
    upload(stack, f"zoomed {width}.png")
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    page.goto(url)
    shows(page, f"zoomed {width}.png")
    for name in ("bicycle", "motorcycle", "none of these", "can’t tell"):
        box = page.get_by_role("button", name=name, exact=False).first.bounding_box()
        assert box
        assert box["y"] + box["height"] <= height, name
    photo = page.get_by_alt_text("The photo in question").bounding_box()
    assert photo
    assert photo["height"] >= 100
    context.close()


def test_a_new_name_is_shown_the_photo_that_the_former_name_held(stack: Stack, url: str, page: "Page") -> None:
    (image,) = upload(stack, "held by a former name.png")
    page.goto(url)
    shows(page, "held by a former name.png")
    page.get_by_text("not you?").click()
    page.get_by_label("Your name").fill("somebody new")
    page.keyboard.press("Enter")
    shows(page, "held by a former name.png")
    press(page, "1")
    shows(page, "Nothing to do")
    assert answer_of(stack, image).reviewer == "somebody new"


def test_the_page_counts_as_many_as_the_ledger_and_shows_no_probability(stack: Stack, url: str, page: "Page") -> None:
    upload(stack, "counted 1.png", "counted 2.png", "counted 3.png")
    page.goto(url)
    shows(page, "0 done, 3 left")
    assert stack.ledger().waiting == 3
    shown = page.locator("main").inner_text()
    assert "What does this photo show?" in shown
    assert not re.search(r"0\.\d|%|confidence|probab", shown)
    press(page, "1")
    shows(page, "1 done, 2 left")
    while stack.ledger().waiting != 2:
        page.wait_for_timeout(50)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 320)])  # nothing depends on both
def test_the_page_meets_wcag_2_2_aa(
    stack: Stack, url: str, browser: "Browser", meets_wcag: Callable[["Page", str], None], scheme: str, width: int
) -> None:
    upload(stack, f"axe 1 {scheme} {width}.png", f"axe 2 {scheme} {width}.png")
    context = browser.new_context(
        color_scheme="dark" if scheme == "dark" else "light", viewport={"width": width, "height": 800}, bypass_csp=True
    )
    page = context.new_page()
    page.goto(url)

    def check(what: str) -> None:
        page.locator(READY).wait_for()
        meets_wcag(page, what)

    shows(page, "axe 1")
    check("a photo")
    press(page, "1")
    shows(page, "axe 2")
    check("another one, with undo")
    press(page, "z")
    page.get_by_alt_text("The photo, larger").wait_for()
    check("the photo, larger")
    page.keyboard.press("Escape")
    press(page, "n")
    shows(page, "Nothing to do")
    check("the end")
    page.get_by_text("not you?").click()
    page.get_by_label("Your name").wait_for()
    check("who reviews")
    context.close()
