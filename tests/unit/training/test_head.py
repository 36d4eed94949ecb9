"""The linear head: what counts how much, how photos are divided, and that the merged graph answers as it does."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from kickstand.events import ImageStatistics
from kickstand_cli.project import MODEL
from kickstand_cli.terminal import CommandError
from kickstand_cli.training import head
from kickstand_cli.training.head import Recipe
from kickstand_cli.training.photos import Photos

WIDTH = 6
STATISTICS = ImageStatistics(brightness=0.5, contrast=0.1, sharpness=0.1, saturation=0.1)


def make(labels: str, sources: list[str] | None = None, seed: int = 0) -> Photos:
    """A photo for each letter; a's have the first feature, b's the second, everything else ("neither") the third."""
    dice, n = np.random.default_rng(seed), len(labels)
    features = dice.normal(0, 0.1, (n, 3, WIDTH)) + 1
    for row, letter in enumerate(labels):
        features[row, :, "ab".find(letter) if letter in "ab" else 2] += 1
    names = np.array([letter if letter in "ab" else "neither" for letter in labels])
    return Photos(
        tuple(f"{i}.jpg" for i in range(n)),
        names,
        names,
        np.array(sources or [""] * n),
        tuple(str(i) for i in range(n)),
        features.astype(np.float16),
        dice.integers(0, 255, (n, 32, 32, 3), np.uint8),
        (STATISTICS,) * n,
    )


def everything(photos: Photos) -> NDArray[np.bool_]:
    return np.ones(len(photos.paths), np.bool_)


def test_every_source_counts_alike_within_a_class_and_neither_twice() -> None:
    photos = make("aaaabbbbnnnn", ["x", "x", "x", "y"] + ["x"] * 4 + ["x"] * 4)
    weights = head.weigh(photos, everything(photos), Recipe(neither=2.0))
    assert weights[:3].sum() == pytest.approx(weights[3])
    assert weights[:4].sum() == pytest.approx(weights[4:8].sum())
    assert weights[8:].sum() == pytest.approx(2 * weights[:4].sum())


def test_photos_of_no_known_source_count_as_several_sources() -> None:
    photos = make("aaab", ["", "", "x", "x"])
    weights = head.weigh(photos, everything(photos), Recipe(unnamed=3.0))
    assert weights[:2].sum() == pytest.approx(3 * weights[2])


def test_what_is_not_learnt_from_counts_nothing_and_changes_nothing() -> None:
    photos = make("aaabbbnnn")
    learn = everything(photos)
    learn[2] = False
    assert head.weigh(photos, learn, Recipe())[2] == 0
    other = make("aaabbbnnn")
    other.features[2] = 5
    assert np.array_equal(head.fit(photos, learn, Recipe()).weight, head.fit(other, learn, Recipe()).weight)


@pytest.mark.parametrize("labels", ["aaaabbbbnnnn", "aaaabbbb"])
def test_the_head_tells_the_classes_apart_with_photos_of_neither_and_without(labels: str) -> None:
    photos = make(labels)
    logits = head.fit(photos, everything(photos), Recipe(penalty=1.0))(photos.features[:, 0])
    assert logits.argmax(axis=1).tolist() == photos.classes.tolist()


def test_a_source_lies_in_one_fold_and_near_duplicates_lie_together() -> None:
    photos = make("ab" * 20, ["x", "x", "y", "y", "z", "z"] + [""] * 34)
    photos.thumbnails[7] = photos.thumbnails[21]
    photos.thumbnails[9] = photos.thumbnails[31][:, ::-1]
    fold = head.split(photos, ~everything(photos), Recipe(folds=2))
    assert len({int(fold[0]), int(fold[2]), int(fold[4])}) == 3
    assert all(fold[i] == fold[i + 1] for i in (0, 2, 4))
    assert (fold[7], fold[9]) == (fold[21], fold[31])
    assert fold.min() == 0


def test_a_source_that_is_all_there_is_of_a_class_is_dealt_out() -> None:
    photos = make("a" * 10 + "b" * 10, ["x"] * 10 + ["y"] * 10)
    fold = head.split(photos, ~everything(photos), Recipe(folds=5))
    assert np.bincount(fold).tolist() == [4] * 5


def test_what_is_only_measured_is_in_no_fold_and_gets_an_answer() -> None:
    photos = make("ab" * 10, ["", ""] * 5 + ["far"] * 10)
    unseen = photos.sources == "far"
    fold = head.split(photos, unseen, Recipe(folds=2))
    assert (fold[unseen] == -1).all()
    logits, _ = head.score_out_of_fold(photos, fold, Recipe(folds=2, penalty=1.0))
    assert logits.argmax(axis=1).tolist() == photos.classes.tolist()


def test_an_answer_out_of_fold_owes_nothing_to_the_photo_itself() -> None:
    photos = make("ab" * 10)
    photos.features[0] = make("b").features[0]  # one a that looks like a b
    fold = head.split(photos, ~everything(photos), Recipe(folds=5))
    logits, _ = head.score_out_of_fold(photos, fold, Recipe(folds=5, penalty=100.0))
    assert logits[0].argmax() == 1


def test_an_answer_out_of_fold_owes_nothing_to_a_copy_in_another_source() -> None:
    photos = make("ab" * 10 + "a" * 2, ["x"] * 10 + ["y"] * 10 + ["x", "y"])
    photos.thumbnails[-1] = photos.thumbnails[-2]
    photos.features[-2:] = make("b").features[0]  # one a that looks like a b, in both sources
    photos.features[:, :, 4] = [[1]] * 20 + [[4]] * 2  # but for something of its own
    fold = head.split(photos, ~everything(photos), Recipe(folds=2))
    assert fold[-1] != fold[-2]
    logits, _ = head.score_out_of_fold(photos, fold, Recipe(folds=2, penalty=100.0))
    assert logits[-2:].argmax(axis=1).tolist() == [1, 1]


def test_a_class_of_too_few_photos_is_named() -> None:
    photos = make("aaab")
    with pytest.raises(CommandError, match="class 'b' has 1 photo, fewer than the 2 folds"):
        head.split(photos, ~everything(photos), Recipe(folds=2))


def test_shipped_photos_that_are_named_or_look_like_a_label_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = make("n" * 20, seed=2).features[:, 0]
    like_a, named_b = make("a" * 5, seed=3).features[:, 0], make("n" * 5, seed=4).features[:, 0]
    np.savez(
        tmp_path / "neither.npz",
        backbone=np.array("net"),
        features=np.round(np.concatenate([foreign, like_a, named_b]).astype(np.float32) * (255 / 6)).astype(np.uint8),
        shows=np.array(["neither"] * 20 + ["alpha"] * 5 + ["b"] * 5),
        source=np.array(["far"] * 30),
    )
    monkeypatch.setattr(head, "NEITHER_FEATURES", tmp_path / "neither.npz")
    photos = make("a" * 20 + "b" * 20)
    taken = head.add_shipped(photos, "net", Recipe(penalty=1.0))
    assert taken.counts() == {"a": 20, "b": 20, "neither": 20}
    assert set(taken.sources.tolist()) == {"", "shipped:far"}
    assert head.add_shipped(photos, "another net", Recipe()) is photos


def test_of_shipped_photos_that_show_a_label_by_another_name_none_is_taught_as_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = np.concatenate([make("n" * 40, seed=2).features[:, 0], make("a" * 5, seed=3).features[:, 0]])
    np.savez(
        tmp_path / "neither.npz",
        backbone=np.array("net"),
        features=np.round(shown.astype(np.float32) * (255 / 6)).astype(np.uint8),
        shows=np.array(["neither"] * 30 + ["bike"] * 15),  # of which two thirds do not look like the a's
        source=np.array(["far"] * 45),
    )
    monkeypatch.setattr(head, "NEITHER_FEATURES", tmp_path / "neither.npz")
    taken = head.add_shipped(make("a" * 20 + "b" * 20), "net", Recipe(penalty=1.0))
    assert taken.counts() == {"a": 20, "b": 20, "neither": 30}


def test_the_sources_of_a_class_never_share_all_one_fold() -> None:
    photos = make("a" * 4 + "b" * 19 + "a" * 4, ["s00"] * 4 + [f"s{i:02}" for i in range(1, 20)] + ["s20"] * 4)
    fold = head.split(photos, ~everything(photos), Recipe())
    assert fold[0] != fold[-1]


def test_a_class_of_copies_alone_is_named() -> None:
    photos = make("a" * 6 + "b" * 6)
    photos.thumbnails[:6] = photos.thumbnails[0]
    with pytest.raises(CommandError, match="class 'a' has only one photo to learn from"):
        head.split(photos, ~everything(photos), Recipe(folds=2))


def test_the_merged_graph_gives_the_logits_of_the_head_on_its_own_features() -> None:
    dice = np.random.default_rng(0)
    new = head.Head(dice.normal(0, 0.1, (1280, 4)).astype(np.float32), dice.normal(0, 1, 4).astype(np.float32))
    graph = head.merge((MODEL / "model.onnx").read_bytes(), new).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    images = dice.integers(0, 256, (2, 224, 224, 3), np.uint8)
    logits, features = session.run(["logits", "features"], {"image": images})
    assert logits.shape == (2, 4)
    assert np.allclose(logits, new(features), atol=1e-3)
