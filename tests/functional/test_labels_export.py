"""`kickstand labels export`, on moto: many photos, and an export that is interrupted and continues."""

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws
from PIL import Image

from kickstand.errors import StoreUnavailable
from kickstand.events import Answer, ImageRef, Reason, ReviewStatus, Route, Shown
from kickstand.review.rules import AUDIT, Review
from kickstand_cli.review.labels import write_labels
from kickstand_cli.terminal import CommandError

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
SHAPE = (32, 32, 3)
MANY = 45
LATE = [f"{index}.png" for index in range(40, MANY)]


class Bucket:
    """S3 with photos, which counts what is fetched, and fails for those that are `down`."""

    def __init__(self, s3: Any) -> None:
        self._s3 = s3
        self.fetched: list[str] = []
        self.down: list[str] = []

    def upload(self, key: str, shade: int) -> Review:
        """A photo, and the review of it that was answered."""
        file = io.BytesIO()
        Image.new("RGB", (40, 40), (shade, 255 - shade, 77)).save(file, "PNG")
        etag = self._s3.put_object(Bucket="photos", Key=key, Body=file.getvalue())["ETag"].strip('"')
        ref = ImageRef(bucket="photos", key=key, etag=etag, uploaded_at=NOON)
        label = "bicycle" if shade % 3 else "motorcycle"
        answer = Answer(
            label=label, reviewer="r", answered_at=NOON, seconds_taken=1, shown=Shown(explanation="", choices=())
        )
        return Review(
            image=ref.uri,
            version=ref.version,
            image_ref=ref,
            why=AUDIT if shade % 5 == 0 else Reason.UNSURE,
            route=Route.REVIEW,
            explanation="",
            audit_probability=1,
            status=ReviewStatus.ANSWERED,
            requested_at=NOON,
            execution="arn",
            task_token=None,
            answer=answer,
        )

    def get_object(self, **asked: Any) -> Any:
        if asked["Key"] in self.down:
            raise StoreUnavailable("S3: no more")
        self.fetched.append(asked["Key"])
        return self._s3.get_object(**asked)


@pytest.fixture
def bucket() -> Iterator[Any]:
    with mock_aws():
        s3 = boto3.client("s3", region_name="us-east-1")
        s3.create_bucket(Bucket="photos")
        yield Bucket(s3)


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting others takes seconds, and one test does it."""
    monkeypatch.setattr("kickstand_cli.parallel.cores", lambda: 1)


def cut_off(bucket: Any, out: Path) -> list[Any]:
    """An export that ends in an outage, which is over; returns the reviews."""
    reviews = [bucket.upload(f"{index}.png", index) for index in range(MANY)]
    bucket.down = LATE
    with pytest.raises(StoreUnavailable):
        write_labels(bucket, reviews, out, SHAPE)
    bucket.down = []
    return reviews


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_interrupted_export_goes_on_and_fetches_nothing_twice(
    bucket: Any, tmp_path: Path, one_process: None
) -> None:
    reviews = [bucket.upload(f"{index}.png", index) for index in range(MANY)]
    whole = write_labels(bucket, reviews, tmp_path / "whole", SHAPE)
    assert sum(whole.counts.values()) == MANY
    bucket.fetched, bucket.down = [], LATE
    with pytest.raises(StoreUnavailable):
        write_labels(bucket, reviews, tmp_path / "cut", SHAPE)
    assert not (tmp_path / "cut").exists()
    first, bucket.fetched, bucket.down = set(bucket.fetched), [], []
    done = {path.name for path in (tmp_path / ".cut.unfinished").rglob("original/*/*")}
    assert write_labels(bucket, reviews, tmp_path / "cut", SHAPE) == whole
    assert len(bucket.fetched) == MANY - len(done)
    assert len(done) >= 8  # a batch was complete, and none of it is fetched again
    assert first | set(bucket.fetched) == {f"{index}.png" for index in range(MANY)}
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"cut", "whole"}


def test_a_file_that_was_damaged_meanwhile_is_fetched_again(bucket: Any, tmp_path: Path, one_process: None) -> None:
    reviews = cut_off(bucket, tmp_path / "cut")
    damaged = next((tmp_path / ".cut.unfinished").rglob("original/*/*"))
    damaged.write_bytes(b"half of it")
    write_labels(bucket, reviews, tmp_path / "cut", SHAPE)
    assert (tmp_path / "cut" / damaged.relative_to(tmp_path / ".cut.unfinished")).read_bytes() != b"half of it"


def test_what_was_forgotten_meanwhile_does_not_stay_in_the_folder(
    bucket: Any, tmp_path: Path, one_process: None
) -> None:
    reviews = cut_off(bucket, tmp_path / "cut")
    written = write_labels(bucket, reviews[3:], tmp_path / "cut", SHAPE)
    assert sum(written.counts.values()) == MANY - 3
    labels = json.loads((tmp_path / "cut/labels.json").read_text())["labels"]
    files = {name for label in labels for name in (label["path"], label["original"])}
    assert files | {"labels.json"} == content(tmp_path / "cut").keys()


def test_another_kind_of_export_does_not_go_on_where_the_first_was(
    bucket: Any, tmp_path: Path, one_process: None
) -> None:
    reviews = cut_off(bucket, tmp_path / "cut")
    written = write_labels(bucket, reviews, tmp_path / "cut", SHAPE, with_audits=True)
    assert set(written.counts) == {"train/bicycle", "train/motorcycle"}
    assert not (tmp_path / "cut/audit").exists()


def test_a_photo_that_is_gone_and_one_that_nobody_could_tell_are_counted(bucket: Any, tmp_path: Path) -> None:
    gone, told, open_one = (bucket.upload(f"{index}.png", index) for index in range(3))
    bucket._s3.delete_object(Bucket="photos", Key="0.png")
    riddle = told.model_copy(update={"answer": told.answer.model_copy(update={"label": "cannot_tell"})})
    unanswered = open_one.model_copy(update={"answer": None})
    written = write_labels(bucket, [gone, riddle, unanswered], tmp_path / "out", SHAPE)
    assert (written.counts, written.gone, written.cannot_tell) == ({}, 1, 1)
    assert json.loads((tmp_path / "out/labels.json").read_text())["labels"] == []


def saying(review: Review, label: str, **more: Any) -> Review:
    assert review.answer
    return review.model_copy(update={"answer": review.answer.model_copy(update={"label": label}), **more})


@pytest.mark.parametrize(
    "label", ["../../../escaped", "/tmp/escaped", "a/b", "..", "", "CON", "a\nb", "\x1b[2J", "x" * 300]
)
def test_a_label_that_is_no_folder_is_written_nowhere(bucket: Any, tmp_path: Path, label: str) -> None:
    reviews = [saying(bucket.upload("1.png", 1), label), bucket.upload("2.png", 2)]
    out = tmp_path / "deep/er/dataset"
    written = write_labels(bucket, reviews, out, SHAPE)
    assert (written.no_folder, written.counts) == (1, {"train/bicycle": 1})
    assert all(path.is_relative_to(out) for path in tmp_path.rglob("*") if path.is_file())


def test_answers_that_contradict_each_other_are_counted_and_not_written(bucket: Any, tmp_path: Path) -> None:
    same = [bucket.upload(f"{name}.png", 1) for name in "abc"]  # three uploads of one picture
    by_two = bucket.upload("2.png", 2)
    other = by_two.answer.model_copy(update={"label": "motorcycle", "reviewer": "s"})
    unsure = bucket.upload("4.png", 4)
    reviews = [
        saying(same[0], "bicycle"),
        saying(same[1], "motorcycle"),
        saying(same[2], "bicycle"),
        by_two.model_copy(update={"second": other}),
        unsure.model_copy(update={"second": other.model_copy(update={"label": "cannot_tell"})}),
    ]
    written = write_labels(bucket, reviews, tmp_path / "out", SHAPE)
    assert (written.contradictory, written.counts) == (4, {"train/bicycle": 1})
    assert len(content(tmp_path / "out")) == 3


def test_a_folder_beside_the_output_that_no_export_has_left_is_not_touched(
    bucket: Any, tmp_path: Path, one_process: None
) -> None:
    reviews = [bucket.upload("a.png", 1)]
    precious = tmp_path / "victim/train/bicycle/precious.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("x")
    beside = tmp_path / ".out.unfinished"
    for make in (lambda: beside.symlink_to(tmp_path / "victim"), lambda: (tmp_path / "victim").rename(beside)):
        make()
        with pytest.raises(CommandError, match=r"\.out\.unfinished: not left by an export of yours"):
            write_labels(bucket, reviews, tmp_path / "out", SHAPE)
        assert (beside / "train/bicycle/precious.txt").read_text() == "x"
        if beside.is_symlink():
            beside.unlink()
    assert bucket.fetched == []


def test_a_link_to_the_folder_of_another_interrupted_export_is_not_gone_on_with(
    bucket: Any, tmp_path: Path, one_process: None
) -> None:
    reviews = cut_off(bucket, tmp_path / "cut")
    (tmp_path / ".out.unfinished").symlink_to(tmp_path / ".cut.unfinished")
    with pytest.raises(CommandError, match="not left by an export of yours"):
        write_labels(bucket, reviews, tmp_path / "out", SHAPE)


def test_a_file_that_no_export_writes_stays_in_the_folder(bucket: Any, tmp_path: Path, one_process: None) -> None:
    reviews = cut_off(bucket, tmp_path / "cut")
    note = next((tmp_path / ".cut.unfinished").glob("train/*")) / "note.txt"
    note.write_text("x")
    write_labels(bucket, reviews, tmp_path / "cut", SHAPE)
    assert (tmp_path / "cut" / note.relative_to(tmp_path / ".cut.unfinished")).read_text() == "x"


def test_of_two_exports_at_a_time_the_second_says_so_and_the_first_is_complete(
    bucket: Any, tmp_path: Path, one_process: None
) -> None:
    reviews = [bucket.upload(f"{index}.png", index) for index in range(3)]

    def read() -> Iterator[Review]:
        yield reviews[0]
        with pytest.raises(CommandError, match=r"\.out\.unfinished: another export is writing it"):
            write_labels(bucket, reviews, tmp_path / "out", SHAPE)
        yield from reviews[1:]

    assert sum(write_labels(bucket, read(), tmp_path / "out", SHAPE).counts.values()) == 3
