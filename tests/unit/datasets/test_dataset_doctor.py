"""`kickstand dataset check` on folders of three generated classes."""

import json
import os
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from typer.testing import CliRunner

from kickstand_cli.datasets import doctor
from kickstand_cli.datasets.doctor import (
    OutOfFold,
    Pair,
    PairCounts,
    examine_dataset,
    pair_near,
    read_out_of_fold,
)
from kickstand_cli.datasets.doctor_report import write_report
from kickstand_cli.main import app
from kickstand_cli.terminal import CommandError

CLASSES = ("circle", "square", "star")
NOTHING = PairCounts(exact=0, near=0, leaks=0, conflicts=0)


def draw(seed: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """A picture of blurred noise, unlike that of any other seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def put(folder: Path, name: str, image: Image.Image) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes with four pictures to train and two to test."""
    seed = 0
    for split, number in (("train", 4), ("test", 2)):
        for label in CLASSES:
            for n in range(number):
                seed += 1
                put(tmp_path / "shapes", f"{split}/{label}/{n}.png", draw(seed))
    return tmp_path / "shapes"


def check(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["dataset", "check", *map(str, arguments)])


def only_pair(folder: Path) -> Pair:
    (pair,) = examine_dataset(folder).pairs
    return pair


def test_a_sound_dataset_of_three_classes_passes(folder: Path) -> None:
    findings = examine_dataset(folder)
    assert findings.counts == {"train": dict.fromkeys(CLASSES, 4), "test": dict.fromkeys(CLASSES, 2)}
    assert findings.pair_counts == NOTHING
    assert findings.pairs == ()
    assert findings.unreadable == ()
    assert findings.sizes == {"32×32": 18}
    assert findings.doubtful_labels is None
    assert not findings.leaks
    assert check(folder).exit_code == 0


def test_a_folder_of_classes_without_splits_is_examined_too(folder: Path) -> None:
    assert examine_dataset(folder / "train").counts == {"all": dict.fromkeys(CLASSES, 4)}


def test_the_same_pixels_in_another_format_are_an_exact_duplicate(folder: Path) -> None:
    put(folder, "train/star/copy.bmp", draw(9))
    rgba = draw(10)
    rgba.putalpha(255)
    put(folder, "train/star/rgba.png", rgba)
    pairs = examine_dataset(folder).pairs
    assert {(pair.first, pair.second, pair.kind) for pair in pairs} == {
        ("train/star/0.png", "train/star/copy.bmp", "exact"),
        ("train/star/1.png", "train/star/rgba.png", "exact"),
    }
    assert check(folder).exit_code == 0  # a duplicate, but not a leak


@pytest.mark.parametrize("kind", ["exact", "near"])
def test_an_image_in_both_splits_is_a_leak_and_fails_unless_allowed(folder: Path, kind: str) -> None:
    image = draw(1) if kind == "exact" else ImageEnhance.Brightness(draw(1)).enhance(1.1)
    put(folder, "test/circle/again.png", image)
    pair = only_pair(folder)
    assert (pair.kind, pair.leaks, pair.conflicts) == (kind, True, False)
    refused = check(folder)
    assert refused.exit_code == 4
    assert "error: " in refused.stderr
    assert "1 pair of equal photos in different splits; --allow-leakage" in refused.stderr
    assert check(folder, "--allow-leakage").exit_code == 0


def test_a_group_of_copies_over_both_splits_is_a_leak_whatever_their_order(folder: Path) -> None:
    for name in ("train/circle/a.png", "train/circle/b.png", "test/circle/c.png"):
        put(folder, name, draw(99))
    assert examine_dataset(folder).pair_counts == PairCounts(exact=2, near=0, leaks=1, conflicts=0)


def test_the_same_picture_under_two_labels_is_a_conflict(folder: Path) -> None:
    put(folder, "train/square/circle.png", draw(1))
    pair = only_pair(folder)
    assert (pair.first, pair.second, pair.conflicts) == ("train/circle/0.png", "train/square/circle.png", True)


def change(name: str) -> Image.Image:
    """A near duplicate of picture 1, changed as photos are on their way through the web."""
    image = draw(1)
    if name == "noise":
        noisy = np.asarray(image) + np.random.default_rng(0).normal(0, 8, (32, 32, 3))
        return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    return {
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(0.8),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(0.6),
        "larger": lambda: image.resize((200, 150), Image.Resampling.BICUBIC),
        "mirrored": lambda: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "mirrored and larger": lambda: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((64, 64)),
    }[name]()


@pytest.mark.parametrize("name", ["noise", "brightness", "contrast", "larger", "mirrored", "mirrored and larger"])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_changed_copy_is_a_near_duplicate(folder: Path, name: str, suffix: str) -> None:
    put(folder, f"train/circle/changed.{suffix}", change(name))
    pair = only_pair(folder)
    assert (pair.first, pair.second) == ("train/circle/0.png", f"train/circle/changed.{suffix}")
    assert pair.kind == "near"
    assert pair.mirrored is name.startswith("mirrored")
    assert 0.9 <= pair.correlation <= 1


def test_a_higher_threshold_finds_fewer(folder: Path) -> None:
    put(folder, "train/circle/noisy.png", change("noise"))
    correlation = only_pair(folder).correlation
    assert examine_dataset(folder, near=correlation + 0.001).pairs == ()


def correlate(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.mark.parametrize("block", [1, 7, 64])
def test_every_pair_is_found_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(doctor, "BLOCK", block)
    images = [np.asarray(draw(seed % 13 if seed % 3 else 100 + seed)) for seed in range(40)]
    images = [image[:, ::-1] if n % 5 == 0 else image for n, image in enumerate(images)]
    expected = {
        (i, j): max(correlate(images[i], images[j]), correlate(images[i], images[j][:, ::-1]))
        for j in range(40)
        for i in range(j)
    }
    found = pair_near(images, 0.9)
    assert set(zip(found.first.tolist(), found.second.tolist(), strict=True)) == {
        pair for pair, correlation in expected.items() if correlation >= 0.9
    }
    assert len(found.first) > 10
    assert found.correlation == pytest.approx(
        [expected[i, j] for i, j in zip(found.first, found.second, strict=True)], abs=1e-5
    )


def test_no_image_or_one_makes_no_pair() -> None:
    assert len(pair_near([], 0.9).first) == 0
    assert len(pair_near([np.asarray(draw(1))], 0.9).first) == 0


def test_flat_pictures_are_duplicates_only_if_they_are_the_same(folder: Path) -> None:
    put(folder, "train/star/white.png", Image.new("RGB", (32, 32), "white"))
    put(folder, "train/star/black.png", Image.new("RGB", (32, 32), "black"))
    put(folder, "train/star/black again.png", Image.new("RGB", (32, 32), "black"))
    put(folder, "train/star/black wide.png", Image.new("RGB", (64, 16), "black"))
    assert examine_dataset(folder).pair_counts == PairCounts(exact=1, near=0, leaks=0, conflicts=0)


def test_different_16_bit_pictures_are_no_exact_duplicates(folder: Path) -> None:
    for seed in (1, 2):
        wide = np.random.default_rng(seed).integers(1_000, 60_000, (32, 32), dtype=np.uint16)
        put(folder, f"train/star/wide{seed}.png", Image.fromarray(wide))
    assert examine_dataset(folder).pair_counts == NOTHING


def test_all_pairs_are_counted_but_only_the_foremost_are_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LISTED", 2)
    for n in range(3):
        put(folder, f"train/circle/near{n}.png", ImageEnhance.Brightness(draw(1)).enhance(0.9 - n / 10))
    put(folder, "test/star/leak.png", draw(1))
    findings = examine_dataset(folder)
    assert findings.pair_counts == PairCounts(exact=1, near=9, leaks=4, conflicts=4)
    assert len(findings.pairs) == 2
    assert all(pair.leaks for pair in findings.pairs)


def test_a_file_that_does_not_open_is_named_and_the_rest_is_examined(folder: Path) -> None:
    whole = (folder / "train/star/0.png").read_bytes()
    (folder / "train/star/cut.png").write_bytes(whole[:100])
    (folder / "train/star/empty.png").touch()
    (folder / "train/star/notes.txt").write_text("not a picture")
    (folder / "train/star/.hidden").write_text("not looked at")
    (folder / "train/star/nested").mkdir()
    findings = examine_dataset(folder)
    reasons = {Path(file.path).name: file.reason for file in findings.unreadable}
    assert sorted(reasons) == ["cut.png", "empty.png", "nested", "notes.txt"]
    assert "0 bytes" in reasons["empty.png"]
    assert "a folder inside a class" in reasons["nested"]
    assert findings.counts["train"]["star"] == 4
    result = check(folder)
    assert "unreadable files   4" in result.stdout
    assert result.exit_code == 4


@pytest.mark.parametrize("name", ["train/star", "test", "train/star/nested"])
def test_a_folder_that_cannot_be_listed_is_named_and_the_rest_is_examined(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    (folder / "train/star/nested").mkdir()
    scandir = os.scandir

    def listed(path: Any) -> Any:
        if Path(path) == folder / name:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", listed)
    findings = examine_dataset(folder)
    assert {"path": name, "reason": "Permission denied"} in [file.model_dump() for file in findings.unreadable]
    assert findings.counts["train"]["circle"] == 4
    result = check(folder, "--report", tmp_path / "report")
    assert f"{name}: Permission denied" in result.stdout
    assert result.exit_code == 4
    assert (tmp_path / "report/index.html").is_file()


def test_where_no_folder_can_be_listed_the_reason_is_the_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", listed)
    with pytest.raises(CommandError, match="shapes: Permission denied"):
        examine_dataset(folder)


def test_names_that_are_not_utf_8_are_escaped(folder: Path) -> None:
    try:
        (folder / "train/star" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"no picture")
    except OSError as error:
        pytest.skip(f"this file system has no such name ({error})")
    assert json.loads(check(folder, "--json").stdout)["unreadable"][0]["path"] == r"train/star/caf\udce9.png"


def test_nothing_readable_is_still_a_finding(tmp_path: Path) -> None:
    (tmp_path / "star").mkdir()
    (tmp_path / "star/empty.png").touch()
    findings = examine_dataset(tmp_path)
    assert findings.counts == {"all": {"star": 0}}
    assert len(findings.unreadable) == 1


def test_balance_and_sizes_are_told_and_a_missing_class_shows(folder: Path) -> None:
    for n in range(4):
        put(folder, f"train/star/more{n}.png", draw(50 + n, (48, 40)))
    for path in (folder / "test/square").iterdir():
        path.unlink()
    findings = examine_dataset(folder)
    assert findings.imbalance == {"train": 2.0, "test": None}
    assert findings.counts["test"] == {"circle": 2, "square": 0, "star": 2}
    assert findings.sizes == {"32×32": 16, "48×40": 4}


def test_a_folder_without_images_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CommandError, match="empty: no photos; expected"):
        examine_dataset(tmp_path / "empty")
    result = check(tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "nowhere: no such folder" in result.stderr


# --- labels in doubt -----------------------------------------------------------------------------------------------


def predict(folder: Path, wrong: Mapping[str, str], sureness: float = 0.9) -> dict[str, Any]:
    """Out-of-fold predictions that agree with every training label but those in wrong: path to predicted class."""
    probabilities = {}
    for path in sorted((folder / "train").rglob("*.png")):
        name = path.relative_to(folder).as_posix()
        predicted = wrong.get(name, path.parent.name)
        probabilities[name] = [sureness if label == predicted else (1 - sureness) / 2 for label in CLASSES]
    return {"labels": CLASSES, "probabilities": probabilities}


def test_a_label_that_the_predictions_contradict_is_doubted(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "oof.json"
    path.write_text(json.dumps(predict(folder, {"train/star/2.png": "circle"})))
    summary = json.loads(check(folder, "--out-of-fold", path, "--json").stdout)
    assert summary["doubtful_labels"] == [
        {
            "path": "train/star/2.png",
            "label": "star",
            "suggested": "circle",
            "probability_of_label": 0.05,
            "probability_of_suggested": 0.9,
        }
    ]


def test_an_unsure_contradiction_is_not_enough(folder: Path) -> None:
    predictions = predict(folder, {})
    predictions["probabilities"]["train/star/2.png"] = [0.5, 0.1, 0.4]
    findings = examine_dataset(folder, out_of_fold=OutOfFold.model_validate(predictions))
    assert findings.doubtful_labels == ()


def test_predictions_may_name_images_by_their_pixels(folder: Path) -> None:
    import hashlib

    predictions = predict(folder, {"train/star/2.png": "circle"})
    by_pixels = {
        hashlib.sha256(np.asarray(Image.open(folder / name).convert("RGB")).tobytes()).hexdigest(): p
        for name, p in predictions["probabilities"].items()
    }
    out_of_fold = OutOfFold.model_validate(predictions | {"probabilities": by_pixels})
    doubted = examine_dataset(folder, out_of_fold=out_of_fold).doubtful_labels
    assert doubted is not None
    assert [doubt.path for doubt in doubted] == ["train/star/2.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no out-of-fold predictions"),
        ('{"labels": ["one"], "probabilities": {}}', "no out-of-fold predictions"),
        ('{"labels": ["a", "b"], "probabilities": {"x.png": [1]}}', r"x.png has 1 probabilities, not 2"),
        ('{"labels": ["a", "b"], "probabilities": {"x.png": [1.5, 0]}}', "outside 0 to 1"),
    ],
)
def test_a_file_that_holds_no_predictions_is_a_clear_error(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "oof.json").write_text(content)
    with pytest.raises(CommandError, match=message):
        read_out_of_fold(tmp_path / "oof.json")


def test_predictions_of_other_images_or_classes_are_a_clear_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="none is about a photo in this folder"):
        examine_dataset(folder, out_of_fold=OutOfFold(labels=CLASSES, probabilities={"x.png": (1, 0, 0)}))
    with pytest.raises(CommandError, match="none of star, only of circle, square"):
        examine_dataset(
            folder, out_of_fold=OutOfFold(labels=CLASSES[:2], probabilities={"train/star/0.png": (0.5, 0.5)})
        )
    with pytest.raises(CommandError, match=r"nowhere.json: cannot be read"):
        read_out_of_fold(tmp_path / "nowhere.json")


# --- the report ----------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Collects the addresses of pictures and the text, and whether every element is closed."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_one_page_that_needs_no_other_file(folder: Path, tmp_path: Path) -> None:
    put(folder, "train/star/<i>&leak.png", draw(13))
    put(folder, "train/star/mirror.png", draw(5).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    (folder / "train/star/<script>alert(1)<.png").write_text("not a picture")
    predictions = OutOfFold.model_validate(predict(folder, {"train/square/1.png": "circle"}))
    findings = examine_dataset(folder, out_of_fold=predictions)
    page = Page(write_report(folder, findings, tmp_path / "new/report").read_text("utf-8"))
    assert page.open == []
    assert all(re.match(r"data:image/png;base64,\w", source) for source in page.sources)
    assert len(page.sources) == 2 * len(findings.pairs) + 1 + 2 * len(CLASSES)
    for name in ("train/star/<i>&leak.png", "train/star/<script>alert(1)<.png", "train/square/1.png"):
        assert name in page.text
    assert "across splits" in page.text


def test_the_command_writes_the_report_even_where_it_fails(folder: Path, tmp_path: Path) -> None:
    put(folder, "test/circle/leak.png", draw(1))
    result = check(folder, "--report", tmp_path / "report")
    assert result.exit_code == 4
    assert f"report: {tmp_path / 'report' / 'index.html'}" in result.stdout
    assert (tmp_path / "report/index.html").is_file()


def test_a_report_that_cannot_be_written_is_a_clear_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = check(folder, "--report", tmp_path / "file")
    assert result.exit_code == 1
    assert "file: cannot be written" in result.stderr


# --- the real archive ----------------------------------------------------------------------------------------------


def find_real_archive() -> Path | None:
    beside = Path(__file__).parents[3] / "../shared/data/cifar-100-python.tar.gz"
    path = Path(os.environ.get("KICKSTAND_CIFAR100") or beside)
    return path if path.exists() else None


REAL = find_real_archive()


@pytest.mark.skipif(REAL is None, reason="no CIFAR-100 archive: set KICKSTAND_CIFAR100 to run this")
def test_the_real_training_images_have_six_near_duplicates_and_no_exact_one(tmp_path: Path) -> None:
    fetched = CliRunner().invoke(app, ["dataset", "fetch", "--archive", str(REAL), "--out", str(tmp_path / "out")])
    assert fetched.exit_code == 0, fetched.stderr
    findings = examine_dataset(tmp_path / "out/train")
    assert findings.pair_counts == PairCounts(exact=0, near=6, leaks=0, conflicts=0)
