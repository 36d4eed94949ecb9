"""`kickstand dataset`: reading the archive, writing the folder, and every way in which that may not work."""

import hashlib
import io
import json
import os
import pickle
import re
import shutil
import signal
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from kickstand_cli.datasets import folder
from kickstand_cli.datasets.archive import FOLDER, MAX_MEMBER_BYTES, read_archive
from kickstand_cli.datasets.folder import encode_png, hash_images, open_dataset, write_dataset
from kickstand_cli.main import app
from kickstand_cli.terminal import CommandError
from tests.photos import odd_name

CLASSES = ["apple", "bicycle", "motorcycle", "worm", "empty_class"]
PER_CLASS = {"train": 5, "test": 2}

Content = dict[bytes, Any]


def pickled(content: object) -> bytes:
    """Pickle as Python 2 and the NumPy of its day did, with byte strings, like the original archive."""
    stream = io.BytesIO()
    pickler: Any = pickle._Pickler(stream, protocol=2)

    def save_bytes(_: object, text: bytes) -> None:
        pickler.write(pickle.BINSTRING + len(text).to_bytes(4, "little") + text)
        pickler.memoize(text)

    pickler.dispatch = {**pickler.dispatch, bytes: save_bytes}
    pickler.dump(content)
    return stream.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def contents() -> dict[str, Content]:
    """What meta, train and test of a tiny archive hold: noise images of four classes."""
    random = np.random.default_rng(7)
    members: dict[str, Content] = {"meta": {b"fine_label_names": [name.encode() for name in CLASSES]}}
    for split, number in PER_CLASS.items():
        labels = [label for label in range(4) for _ in range(number)]
        members[split] = {
            b"data": random.integers(0, 256, (len(labels), 3072), dtype=np.uint8),
            b"fine_labels": labels,
            b"filenames": [f"{CLASSES[label]}_s_{n:06}.png".encode() for n, label in enumerate(labels)],
            b"batch_label": f"{split}ing batch 1 of 1".encode(),
        }
    return members


def pack(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def write_archive(path: Path, **changed: Content) -> Path:
    return pack(path, {name: pickled(content) for name, content in (contents() | changed).items()})


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "cifar-100-python.tar.gz")


@pytest.fixture(autouse=True)
def _no_archive_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KICKSTAND_CIFAR100", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("KICKSTAND_CIFAR100_URL", "http://127.0.0.1:9/cifar-100-python.tar.gz")


def fetch(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["dataset", "fetch", *map(str, arguments)])


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- reading the archive -------------------------------------------------------------------------------------------


def test_an_archive_in_the_original_format_is_read_with_channels_last(archive: Path) -> None:
    loaded = read_archive(archive)
    assert loaded.class_names == tuple(CLASSES)
    assert not loaded.official
    assert loaded.archive_md5 == hashlib.md5(archive.read_bytes()).hexdigest()
    flat = contents()["train"][b"data"][3]
    pixels = loaded.splits["train"].pixels[3]
    assert pixels.shape == (32, 32, 3)
    assert pixels[2, 5].tolist() == [flat[channel * 1024 + 2 * 32 + 5] for channel in range(3)]


@pytest.mark.parametrize("inner", [FOLDER, "."])
def test_an_unpacked_folder_reads_like_the_archive(archive: Path, tmp_path: Path, inner: str) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    loaded = read_archive(tmp_path / "unpacked" / (FOLDER if inner == "." else "."))
    assert loaded.archive_md5 is None
    assert loaded.member_md5 == read_archive(archive).member_md5
    assert loaded.splits["test"].filenames == read_archive(archive).splits["test"].filenames


def test_an_archive_pickled_again_by_python_3_is_read_too(tmp_path: Path) -> None:
    protocol_2 = {name: pickle.dumps(content, protocol=2) for name, content in contents().items()}
    as_text = {
        name: pickle.dumps({key.decode(): value for key, value in content.items()}, protocol=4)
        for name, content in contents().items()
    }
    again = read_archive(pack(tmp_path / "a.tar.gz", protocol_2))
    assert again.splits["train"].labels == tuple(contents()["train"][b"fine_labels"])
    assert read_archive(pack(tmp_path / "b.tar.gz", as_text)).class_names == tuple(CLASSES)


class Hostile:
    """Pickles as a call of a function with arguments."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("member", ["meta", "train", "test"])
@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (os.system, ("touch owned",), f"{os.system.__module__}.system"),
        (eval, ("open('owned', 'w')",), "builtin"),
        (np.load, ("owned",), "load"),
    ],
)
def test_a_hostile_pickle_is_refused_by_name_and_never_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    member: str,
    function: Callable[..., Any],
    arguments: tuple[object, ...],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_archive(tmp_path / "a.tar.gz", **{member: {b"data": Hostile(function, *arguments)}})
    with pytest.raises(CommandError, match=f"{member}: refused, its pickle asks for .*{named}"):
        read_archive(path)
    assert not Path("owned").exists()


def test_a_pickle_may_not_call_codecs_beyond_bytes_in_latin_1(tmp_path: Path) -> None:
    import _codecs

    path = write_archive(tmp_path / "a.tar.gz", meta={b"fine_label_names": Hostile(_codecs.encode, "x" * 9, "utf-16")})
    with pytest.raises(CommandError, match=r"meta: truncated or damaged pickle .*utf-16"):
        read_archive(path)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_truncated_archive_is_a_clear_error_wherever_it_was_cut(archive: Path, kept: float) -> None:
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(CommandError, match="truncated"):
        read_archive(archive)


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.999])
def test_a_truncated_pickle_is_a_clear_error(tmp_path: Path, kept: float) -> None:
    members = {name: pickled(content) for name, content in contents().items()}
    members["train"] = members["train"][: int(len(members["train"]) * kept) if kept < 1 else int(kept)]
    with pytest.raises(CommandError, match="train: truncated or damaged pickle"):
        read_archive(pack(tmp_path / "a.tar.gz", members))


def test_only_plain_files_by_the_members_own_names_are_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(pickled(contents()["meta"]))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        link = tarfile.TarInfo(f"{FOLDER}/meta")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
    with pytest.raises(CommandError, match=f"no {FOLDER}/meta, {FOLDER}/train, {FOLDER}/test"):
        read_archive(tmp_path / "a.tar.gz")


def test_a_member_that_claims_a_senseless_size_is_refused_before_it_is_read(tmp_path: Path) -> None:
    entry = tarfile.TarInfo(f"{FOLDER}/train")
    entry.size = MAX_MEMBER_BYTES + 1
    (tmp_path / "a.tar").write_bytes(entry.tobuf() + bytes(10_240))
    with pytest.raises(CommandError, match=f"train: {MAX_MEMBER_BYTES + 1} bytes, more than"):
        read_archive(tmp_path / "a.tar")


def test_an_archive_with_endless_entries_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"".join(tarfile.TarInfo(f"{n}").tobuf() for n in range(1_001)))
    with pytest.raises(CommandError, match="more than 1000 entries"):
        read_archive(tmp_path / "a.tar")


def test_what_is_not_there_or_no_archive_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="nowhere: no such archive or folder"):
        read_archive(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CommandError, match="empty: no meta, train, test"):
        read_archive(tmp_path / "empty")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(CommandError, match=r"not a tar.gz archive"):
        read_archive(tmp_path / "text")


@pytest.mark.parametrize(
    ("member", "change", "message"),
    [
        ("meta", {b"fine_label_names": None}, "no fine_label_names"),
        ("meta", {b"fine_label_names": [b"../../etc"]}, "cannot be a folder's name"),
        ("train", {b"data": [1, 2]}, "no uint8 array of shape"),
        ("train", {b"data": np.zeros((20, 3072))}, "no uint8 array of shape"),
        ("train", {b"data": np.zeros((20, 3071), np.uint8)}, "no uint8 array of shape"),
        ("test", {b"fine_labels": None}, "no fine_labels"),
        ("test", {b"filenames": [b"one"]}, "8 images, 8 labels, 1 filenames"),
        ("test", {b"fine_labels": [0, 1, 2, 3, 4, 5, 0, 0]}, "a label is not one of the 5 classes"),
        ("test", {b"fine_labels": [-1] * 8}, "a label is not one of the 5 classes"),
    ],
)
def test_content_in_another_format_is_a_clear_error(tmp_path: Path, member: str, change: Content, message: str) -> None:
    path = write_archive(tmp_path / "a.tar.gz", **{member: contents()[member] | change})
    with pytest.raises(CommandError, match=f"{member}: .*{message}"):
        read_archive(path)


def test_a_pickle_of_something_else_is_a_clear_error(tmp_path: Path) -> None:
    members = {name: pickled(content) for name, content in contents().items()} | {"meta": pickled([1])}
    with pytest.raises(CommandError, match="meta: holds a list"):
        read_archive(pack(tmp_path / "a.tar.gz", members))


# --- writing the folder --------------------------------------------------------------------------------------------


def test_an_archive_whose_name_is_not_utf_8_is_named_in_the_manifest(tmp_path: Path) -> None:
    archive = write_archive(odd_name(tmp_path, b"caf\xe9.tar.gz"))
    write_dataset(read_archive(archive), tmp_path / "out", ["motorcycle", "apple"])
    assert open_dataset(tmp_path / "out").source == r"caf\udce9.tar.gz"


def test_the_folder_holds_the_classes_as_images_lists_and_a_manifest(archive: Path, tmp_path: Path) -> None:
    manifest = write_dataset(read_archive(archive), tmp_path / "out", ["motorcycle", "apple"])
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "test", "test.lst", "train", "train.lst"]
    assert (out / "test.lst").read_text() == (
        "10\t0\tmotorcycle/motorcycle_s_000004.png\n"
        "11\t0\tmotorcycle/motorcycle_s_000005.png\n"
        "12\t1\tapple/apple_s_000000.png\n"
        "13\t1\tapple/apple_s_000001.png\n"
    )
    assert len((out / "train.lst").read_text().splitlines()) == 10
    assert json.loads((out / "manifest.json").read_text()) == manifest.model_dump(mode="json")
    assert manifest.counts == {"train": {"motorcycle": 5, "apple": 5}, "test": {"motorcycle": 2, "apple": 2}}
    assert manifest.archive_md5 == hashlib.md5(archive.read_bytes()).hexdigest()
    assert not manifest.official
    hashes = {entry.path: hashlib.sha256((out / entry.path).read_bytes()).hexdigest() for entry in manifest.images}
    assert hashes == {entry.path: entry.sha256 for entry in manifest.images}
    assert sorted(hashes) == sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert manifest.data_sha256 == hash_images(hashes)


def test_the_images_show_the_archives_pixels(archive: Path, tmp_path: Path) -> None:
    loaded = read_archive(archive)
    write_dataset(loaded, tmp_path / "out", ["bicycle"])
    with Image.open(tmp_path / "out/train/bicycle/bicycle_s_000005.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (32, 32))
        assert np.array_equal(np.asarray(image), loaded.splits["train"].pixels[5])


@pytest.mark.parametrize("shape", [(1, 1, 3), (32, 32, 3), (150, 201, 3)])
def test_an_encoded_png_decodes_to_the_same_pixels(shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    with Image.open(io.BytesIO(encode_png(pixels))) as image:
        image.verify()
    with Image.open(io.BytesIO(encode_png(pixels))) as image:
        assert np.array_equal(np.asarray(image), pixels)


def test_an_encoded_png_has_the_same_bytes_on_every_machine() -> None:
    pixels = np.arange(32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(32, 32, 3)
    assert hashlib.md5(encode_png(pixels)).hexdigest() == "cee50ccb0821adf57f73b4ddac3a95c1"


def test_the_same_request_gives_the_same_bytes(archive: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_dataset(read_archive(archive), tmp_path / name, ["bicycle", "apple"], neither=2)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


def test_file_names_become_safe_and_unique(tmp_path: Path) -> None:
    names = [b"../../up.png", b"UP.PNG", b"C:\\x\\up.png", "gr\xfcn <b>.png".encode(), b".hidden", b"", b"a" * 300]
    test = {
        b"data": np.zeros((7, 3072), np.uint8),
        b"fine_labels": [1] * 7,
        b"filenames": names,
    }
    write_dataset(read_archive(write_archive(tmp_path / "a.tar.gz", test=test)), tmp_path / "out", ["bicycle"])
    assert sorted(path.name for path in (tmp_path / "out/test").rglob("*.png")) == [
        "UP-2.png", f"{'a' * 100}.png", "gr_n__b_.png", "hidden.png", "image.png", "up-3.png", "up.png"
    ]  # fmt: skip


def test_images_of_other_classes_are_drawn_into_neither_but_not_into_the_lists(archive: Path, tmp_path: Path) -> None:
    manifest = write_dataset(read_archive(archive), tmp_path / "out", ["bicycle", "motorcycle"], neither=4)
    assert manifest.counts["test"] == {"bicycle": 2, "motorcycle": 2, "neither": 4}
    drawn = [entry for entry in manifest.images if entry.label == "neither"]
    assert {entry.archive_class for entry in drawn} <= {"apple", "worm"}
    assert len(list((tmp_path / "out/train/neither").iterdir())) == 4
    assert "neither" not in (tmp_path / "out/train.lst").read_text()
    assert len((tmp_path / "out/train.lst").read_text().splitlines()) == 10


def test_more_of_neither_than_the_archive_holds_is_a_clear_error(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"--neither 5: .* has 4 test photos of classes other than bicycle"):
        write_dataset(read_archive(archive), tmp_path / "out", ["bicycle", "motorcycle"], neither=5)
    with pytest.raises(CommandError, match="has no train photos of classes other than"):
        write_dataset(read_archive(archive), tmp_path / "out", CLASSES[:4], neither=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("motorcycles", "unknown class 'motorcycles'; similar: motorcycle.*--list-classes shows all 5"),
        ("Bicycle", "unknown class 'Bicycle'; similar: bicycle"),
        ("zzz", "unknown class 'zzz'; --list-classes"),
        ("empty_class", "class 'empty_class' has no train photos in cifar-100-python.tar.gz"),
    ],
)
def test_a_class_that_cannot_be_had_is_a_clear_error(archive: Path, tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(CommandError, match=message):
        write_dataset(read_archive(archive), tmp_path / "out", ["apple", name])
    assert not (tmp_path / "out").exists()


class Interrupting:
    """A progress that is interrupted, as by Ctrl-C, after some images."""

    def __init__(self, after: int) -> None:
        self.after = after

    def __call__(self, done: int, total: int | None) -> None:
        if done == self.after:
            raise KeyboardInterrupt


def test_an_interrupt_leaves_nothing_half_done(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_dataset(read_archive(archive), tmp_path / "new/out", ["apple"], on_progress=Interrupting(3))
    assert list((tmp_path / "new").iterdir()) == []


def test_an_interrupt_while_replacing_leaves_the_old_dataset(archive: Path, tmp_path: Path) -> None:
    write_dataset(read_archive(archive), tmp_path / "new/out", ["bicycle"])
    before = snapshot(tmp_path / "new")
    with pytest.raises(KeyboardInterrupt):
        write_dataset(read_archive(archive), tmp_path / "new/out", ["apple"], force=True, on_progress=Interrupting(3))
    assert snapshot(tmp_path / "new") == before


def test_a_termination_leaves_nothing_half_done(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def terminate(pixels: object) -> bytes:
        os.kill(os.getpid(), signal.SIGTERM)
        return b""

    monkeypatch.setattr(folder, "encode_png", terminate)
    result = fetch("--archive", archive, "--out", tmp_path / "new/out", "--classes", "apple")
    assert result.exit_code == 143
    assert list((tmp_path / "new").iterdir()) == []


# --- what is already there -----------------------------------------------------------------------------------------


def test_a_complete_dataset_is_left_as_it_is(archive: Path, tmp_path: Path) -> None:
    first = fetch("--archive", archive, "--out", tmp_path / "out", "--classes", "apple,worm")
    before = (tmp_path / "out").stat()
    again = fetch("--archive", archive, "--out", tmp_path / "out", "--classes", "apple,worm")
    assert (first.exit_code, again.exit_code) == (0, 0), first.output + again.output
    assert "already there" in again.stdout
    assert (tmp_path / "out").stat().st_ino == before.st_ino


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "worm,apple"], "exists already, but with classes apple, worm; --force replaces it"),
        (["--classes", "apple,worm", "--neither", "1"], "exists already, but with 0 of neither"),
    ],
)
def test_another_request_needs_force(archive: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    fetch("--archive", archive, "--out", tmp_path / "out", "--classes", "apple,worm")
    before = snapshot(tmp_path / "out")
    refused = fetch("--archive", archive, "--out", tmp_path / "out", *arguments)
    assert refused.exit_code == 1
    assert message in refused.stderr
    assert snapshot(tmp_path / "out") == before
    forced = fetch("--archive", archive, "--out", tmp_path / "out", "--force", *arguments)
    assert forced.exit_code == 0, forced.output
    assert snapshot(tmp_path / "out") != before
    assert sorted(path.name for path in tmp_path.iterdir()) == [archive.name, "out"]


def test_a_dataset_from_another_archive_needs_force(archive: Path, tmp_path: Path) -> None:
    fetch("--archive", archive, "--out", tmp_path / "out", "--classes", "apple")
    train = contents()["train"]
    train[b"data"][0, 0] ^= 1
    other = write_archive(tmp_path / "other.tar.gz", train=train)
    refused = fetch("--archive", other, "--out", tmp_path / "out", "--classes", "apple")
    assert refused.exit_code == 1
    assert "another archive (cifar-100-python.tar.gz, not the original)" in refused.stderr
    online = fetch("--out", tmp_path / "out", "--classes", "apple")
    assert online.exit_code == 1
    assert "another archive" in online.stderr


def test_the_same_archive_unpacked_counts_as_the_same(archive: Path, tmp_path: Path) -> None:
    fetch("--archive", archive, "--out", tmp_path / "out", "--classes", "apple")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    again = fetch("--archive", tmp_path / "unpacked", "--out", tmp_path / "out", "--classes", "apple")
    assert "already there" in again.stdout


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("train/apple/apple_s_000000.png", None, "incomplete, train/apple/apple_s_000000.png is missing"),
        ("train/apple/apple_s_000000.png", b"?", "apple_s_000000.png has changed since it was written"),
        ("test.lst", None, "incomplete, test.lst is missing"),
    ],
)
def test_a_damaged_dataset_is_named_and_written_again_with_force(
    archive: Path, tmp_path: Path, path: str, content: bytes | None, message: str
) -> None:
    arguments = ["--archive", archive, "--out", tmp_path / "out", "--classes", "apple"]
    fetch(*arguments)
    if content is None:
        (tmp_path / "out" / path).unlink()
    else:
        (tmp_path / "out" / path).write_bytes(content)
    refused = fetch(*arguments)
    assert refused.exit_code == 1
    assert message in refused.stderr
    assert fetch(*arguments, "--force").exit_code == 0
    open_dataset(tmp_path / "out")


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize(
    ("foreign", "message"),
    [
        ("notes.txt", "not empty"),
        ("train/apple/apple_s_000000.png", "unfinished: Kickstand wrote no"),
        ("manifest.json", "not empty"),
    ],
)
def test_a_folder_that_is_not_ours_is_never_touched(
    archive: Path, tmp_path: Path, foreign: str, message: str, force: list[str]
) -> None:
    path = tmp_path / "out" / foreign
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    refused = fetch("--archive", archive, "--out", tmp_path / "out", "--classes", "apple", *force)
    assert refused.exit_code == 1
    assert message in refused.stderr
    assert snapshot(tmp_path / "out") == {foreign: b"mine"}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [archive.name, "out"]


def test_a_foreign_folder_is_refused_before_anything_is_downloaded(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    refused = fetch("--out", tmp_path / "out")
    assert "not empty" in refused.stderr
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("foreign", ["train/apple/my own.png", "labels.csv", "train/readme"])
def test_force_does_not_delete_a_foreign_file_in_our_folder(archive: Path, tmp_path: Path, foreign: str) -> None:
    arguments = ["--archive", archive, "--out", tmp_path / "out", "--classes", "apple"]
    fetch(*arguments)
    (tmp_path / "out" / foreign).write_text("mine")
    refused = fetch(*arguments, "--force")
    assert refused.exit_code == 1
    assert f"not replaced, {foreign} was not written by Kickstand" in refused.stderr
    assert (tmp_path / "out" / foreign).read_text() == "mine"


def test_what_a_killed_run_left_is_a_clear_error_until_forced(archive: Path, tmp_path: Path) -> None:
    left = tmp_path / ".out.partial-0123abcd"
    (left / "train/apple").mkdir(parents=True)
    (left / ".kickstand-half-written").touch()
    arguments = ["--archive", archive, "--out", tmp_path / "out", "--classes", "apple"]
    refused = fetch(*arguments)
    assert refused.exit_code == 1
    assert ".out.partial-0123abcd: unfinished: a run was interrupted" in refused.stderr
    assert not (tmp_path / "out").exists()
    assert fetch(*arguments, "--force").exit_code == 0
    assert not left.exists()


def test_a_half_written_folder_with_our_mark_is_replaced_only_with_force(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "out/train/apple").mkdir(parents=True)
    (tmp_path / "out/train/apple/apple_s_000000.png").touch()
    (tmp_path / "out/.kickstand-half-written").touch()
    arguments = ["--archive", archive, "--out", tmp_path / "out", "--classes", "apple"]
    refused = fetch(*arguments)
    assert refused.exit_code == 1
    assert "an unfinished dataset already" in refused.stderr
    assert fetch(*arguments, "--force").exit_code == 0


def test_an_empty_folder_is_filled_and_a_file_in_the_way_is_an_error(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert fetch("--archive", archive, "--out", tmp_path / "out", "--classes", "apple").exit_code == 0
    (tmp_path / "file").write_text("mine")
    refused = fetch("--archive", archive, "--out", tmp_path / "file", "--classes", "apple")
    assert refused.exit_code == 1
    assert "a file is in the way" in refused.stderr
    below = fetch("--archive", archive, "--out", tmp_path / "file/out", "--classes", "apple")
    assert below.exit_code == 1
    assert "cannot be written" in below.stderr


# --- the command line ----------------------------------------------------------------------------------------------


def test_classes_may_be_repeated_or_comma_separated(archive: Path, tmp_path: Path) -> None:
    fetch("--archive", archive, "--out", tmp_path / "a", "--classes", "worm, apple")
    fetch("--archive", archive, "--out", tmp_path / "b", "--classes", "worm", "--classes", "apple")
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def test_the_archive_may_be_named_by_the_environment(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KICKSTAND_CIFAR100", str(archive))
    result = fetch("--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    rows = [re.findall(r"\w+", line) for line in result.stdout.splitlines() if "cycle" in line]
    assert rows == [["bicycle", "5", "2"], ["motorcycle", "5", "2"]]
    assert "not the original CIFAR-100 archive" in result.stderr


def test_json_is_one_object_on_stdout_and_nothing_else(archive: Path, tmp_path: Path) -> None:
    result = fetch("--archive", archive, "--out", tmp_path / "out", "--classes", "apple", "--json")
    summary = json.loads(result.stdout)
    assert summary["counts"] == {"train": {"apple": 5}, "test": {"apple": 2}}
    assert summary["official"] is False
    assert summary["already_there"] is False
    assert summary["data_sha256"] == open_dataset(tmp_path / "out").data_sha256


def test_all_classes_are_listed_with_their_numbers(archive: Path, tmp_path: Path) -> None:
    listed = fetch("--archive", archive, "--list-classes", "--json", "--out", tmp_path / "out")
    assert json.loads(listed.stdout)["worm"] == {"train": 5, "test": 2}
    assert "empty_class  train 0  test 0" in fetch("--archive", archive, "--list-classes").stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--classes", ","],
        ["--classes", "apple,apple"],
        ["--neither", "-1"],
        ["--upload", "https://bucket/prefix"],
        ["--upload", "s3://Bad_Bucket/prefix"],
        ["--nonsense"],
    ],
)
def test_a_wrong_use_exits_with_2_and_writes_nothing(archive: Path, tmp_path: Path, arguments: list[str]) -> None:
    result = fetch("--archive", archive, "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_url_that_is_not_http_is_refused(tmp_path: Path) -> None:
    result = fetch("--out", tmp_path / "out", "--url", "gopher://example.org/archive")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: gopher://example.org/archive: not an http or https URL")


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    result = fetch("--archive", tmp_path / "nowhere.tar.gz", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert f"error: {tmp_path / 'nowhere.tar.gz'}: no such archive or folder" in result.stderr


# --- the real archive ----------------------------------------------------------------------------------------------


def find_real_archive() -> Path | None:
    beside = Path(__file__).parents[3] / "../shared/data/cifar-100-python.tar.gz"
    path = Path(os.environ.get("KICKSTAND_CIFAR100") or beside)
    return path if path.exists() else None


REAL = find_real_archive()


@pytest.mark.skipif(REAL is None, reason="no CIFAR-100 archive: set KICKSTAND_CIFAR100 to run this")
def test_the_real_archive_gives_500_training_images_of_each_class(tmp_path: Path) -> None:
    result = fetch("--archive", REAL, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["counts"]["train"] == {"bicycle": 500, "motorcycle": 500}
    assert len((tmp_path / "out/train.lst").read_text().splitlines()) == 1_000
    shutil.rmtree(tmp_path / "out")
