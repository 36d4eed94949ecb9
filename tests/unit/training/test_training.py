"""`kickstand train` on drawn photos of mixed sizes and formats, in seconds."""

import hashlib
import io
import json
import os
import shutil
import sqlite3
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image, ImageDraw
from typer.testing import CliRunner, Result

from kickstand.classify.artefact import read_card as load_card
from kickstand.classify.artefact import read_part
from kickstand.classify.inference import EmbeddedModel
from kickstand.lifecycle.golden import find_mistake, read_golden_images
from kickstand_cli.classify.classify import answer
from kickstand_cli.classify.evaluation import ReportedCard
from kickstand_cli.classify.policy import find_out_of_fold, policy
from kickstand_cli.datasets.doctor import read_out_of_fold
from kickstand_cli.parallel import start_pool
from kickstand_cli.project import PROJECT
from kickstand_cli.terminal import CommandError
from kickstand_cli.training.card import choose_gate
from kickstand_cli.training.photos import list_photos
from kickstand_cli.training.pipeline import Places
from kickstand_cli.training.train import _publish, train

app = typer.Typer()
app.command()(train)
app.command()(policy)

SHAPES = ("cross", "disc", "neither")
SUFFIXES = (".jpg", ".png", ".webp")


def draw(shape: str, number: int) -> Image.Image:
    """A shape on a coloured ground of noise: never twice the same, and of another size each time."""
    dice = np.random.default_rng([SHAPES.index(shape), number])
    width, height = (int(side) for side in dice.integers(60, 160, 2))
    ground = np.clip(dice.integers(0, 255, 3) + dice.normal(0, 25, (height, width, 3)), 0, 255)
    image = Image.fromarray(ground.astype(np.uint8))
    pen, ink = ImageDraw.Draw(image), tuple(int(value) for value in dice.integers(0, 255, 3))
    box = (width // 4, height // 4, 3 * width // 4, 3 * height // 4)
    if shape == "disc":
        pen.ellipse(box, fill=ink)
    elif shape == "cross":
        pen.line(box, fill=ink, width=10)
        pen.line((box[0], box[3], box[2], box[1]), fill=ink, width=10)
    return image


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the features of all that is drawn, so that each test looks at its own photos alone."""
    return tmp_path_factory.mktemp("features") / "features.sqlite"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for shape in SHAPES:
        (tmp_path / "photos" / shape).mkdir(parents=True)
        for number in range(12):
            draw(shape, number).save(tmp_path / "photos" / shape / f"{number}{SUFFIXES[number % 3]}")
    return tmp_path / "photos"


@pytest.fixture
def run(photos: Path, drawn: Path) -> Any:
    def train_on(*options: str) -> Result:
        places = ["--out", str(photos.parent / "own/model"), "--features", str(drawn)]
        return CliRunner().invoke(app, ["train", str(photos), *places, "--threads=1", "--no-shipped", *options])

    return train_on


def forbid(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Nobody may list these folders, not even root."""

    def guard(listing: Any) -> Any:
        def listed(path: Any = ".") -> Any:
            if not isinstance(path, int) and Path(path) in folders:
                raise PermissionError(13, "Permission denied", str(path))
            return listing(path)

        return listed

    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, guard(getattr(os, name)))


def read_card(photos: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((photos.parent / "own/model/model.json").read_text("utf-8"))
    return card


def test_a_folder_of_photos_of_any_size_and_format_becomes_a_classifier(photos: Path, run: Any) -> None:
    result = run("--max-risk", "0.3")
    assert result.exit_code == 0, result.output
    card = read_card(photos)
    assert card["labels"] == ["cross", "disc"]
    assert card["metrics"]["accuracy"]["value"] > 0.9
    model = EmbeddedModel(photos.parent / "own/model")
    for shape in ("cross", "disc"):
        given = answer(_encode(draw(shape, 99)), "new", model)
        assert given.prediction is not None
        assert given.prediction.label == shape
    assert (photos.parent / "own/model-evidence/evaluation.html").is_file()
    assert card["training"]["n_photos"] == {"cross": 12, "disc": 12, "neither": 12}


def _encode(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_the_golden_photos_pass_the_check_of_the_rollout(photos: Path, run: Any) -> None:
    assert run("--max-risk", "0.3").exit_code == 0
    model = EmbeddedModel(photos.parent / "own/model")
    golden = list(read_golden_images(photos.parent / "own/golden", model.card.labels))
    assert {image.expected for image in golden} == set(SHAPES)
    for image in golden:
        given = answer(image.data, image.name, model).prediction
        assert given is not None
        assert find_mistake(image, given, model.card.policy) is None


@pytest.mark.slow
def test_without_photos_of_neither_the_shipped_ones_are_learnt_from(photos: Path, run: Any) -> None:
    for file in (photos / "neither").iterdir():
        file.unlink()
    (photos / "neither").rmdir()
    assert run("--shipped").exit_code == 0
    card = read_card(photos)
    assert card["metrics"]["foreign_accepted"]["n"] > 100
    assert card["training"]["n_photos"] == {"cross": 12, "disc": 12}


@pytest.mark.parametrize(("passing", "gate"), [(1, 0.5), (2, 0.3)])
def test_the_first_gate_opens_as_far_as_one_foreign_image_in_500_allows(passing: int, gate: float) -> None:
    """Of 500 foreign images, this many look like a label, at p(neither) just above 0.3."""
    foreign = np.array([[0.66, 0.0, 0.34]] * passing + [[0.005, 0.005, 0.99]] * (500 - passing))
    assert choose_gate(foreign) == gate


def test_so_few_photos_promise_nothing_and_everything_goes_to_a_person(photos: Path, run: Any) -> None:
    result = run()
    assert result.exit_code == 0
    told = read_card(photos)["policy"]
    assert set(told["thresholds"].values()) == {None}
    assert all(
        one["refused"].startswith("these photos cannot show that") for one in told["evidence"]["labels"].values()
    )
    assert result.stdout.count("No guarantee: ") == len(told["thresholds"])
    assert f"kickstand policy --model {photos.parent / 'own/model'} --max-risk 0.05 --write" in result.stdout


@pytest.mark.slow
def test_a_model_that_knows_nothing_of_neither_is_said_to_take_anything(photos: Path, run: Any) -> None:
    shutil.rmtree(photos / "neither")
    assert "assigns every photo to one of them" in run().stdout


@pytest.mark.slow
def test_a_refused_promise_can_be_replaced_by_one_that_the_photos_support(photos: Path, run: Any) -> None:
    assert run().exit_code == 0
    own = photos.parent / "own"
    promise = ["--max-risk", "0.4", "--model", str(own / "model")]
    shipped = ["--out-of-fold", str(PROJECT / "model-evidence/out_of_fold.json")]
    assert "predictions of another model" in CliRunner().invoke(app, ["policy", *promise, *shipped]).stderr
    assert CliRunner().invoke(app, ["policy", *promise, "--write"]).exit_code == 0
    told = read_card(photos)["policy"]
    assert None not in told["thresholds"].values()


@pytest.mark.parametrize("name", ["golden/thesis.txt", "golden/disc/summer/1.jpg", "golden/husky.jpg"])
@pytest.mark.slow
def test_a_folder_called_golden_that_no_training_wrote_is_left_alone(photos: Path, run: Any, name: str) -> None:
    assert run().exit_code == 0
    assert run().exit_code == 0  # its own are replaced
    mine = photos.parent / "own" / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    result = run()
    assert result.exit_code == 1
    assert "not written by a training" in result.stderr
    assert mine.read_text() == "mine"


def read_all(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.slow
def test_the_golden_photos_of_another_model_are_replaced_but_a_changed_one_is_not(photos: Path, run: Any) -> None:
    assert run().exit_code == 0
    (photos / "disc").rename(photos / "ring")
    assert run("--out", str(photos.parent / "own/second")).exit_code == 0
    golden = photos.parent / "own/golden"
    assert {path.name for path in golden.iterdir()} == {"cross", "ring", "neither", "kickstand.sha256"}
    mine = next((golden / "ring").iterdir())
    mine.write_bytes(b"a clearer photo")
    result = run()
    assert result.exit_code == 1
    assert f"{mine}: not written by a training" in result.stderr
    assert mine.read_bytes() == b"a clearer photo"


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), CommandError("no space left")])
@pytest.mark.parametrize("step", ["_write_report", "answer", "write_files"])
@pytest.mark.slow
def test_a_training_that_does_not_end_leaves_all_as_it_was(
    photos: Path, run: Any, monkeypatch: pytest.MonkeyPatch, step: str, failure: BaseException
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    def run_and_fail() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(f"kickstand_cli.training.train.{step}", fail)
            assert run().exit_code != 0

    run_and_fail()
    assert read_all(photos.parent / "own") == {}
    assert run().exit_code == 0
    before = read_all(photos.parent / "own")
    (photos / "disc" / "0.jpg").unlink()
    run_and_fail()
    assert read_all(photos.parent / "own") == before


@pytest.mark.slow
def test_photos_that_would_be_sent_back_are_counted(photos: Path, run: Any) -> None:
    assert "would be rejected as unusable" not in run().stdout
    for number in range(3):
        draw("disc", 90 + number).point(lambda value: value // 20).save(photos / "disc" / f"night-{number}.png")
    assert "3 of your 39 photos would be rejected as unusable, most of them because: too dark" in run().stdout


def make_results(folder: Path, content: str) -> Path:
    """A training's results, all of the same content, as they are before they replace the older ones."""
    for name in ("model/model.onnx", "model/model.json", "evidence/out_of_fold.json", "golden/disc/1.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    (folder / "golden/kickstand.sha256").write_text(f"{hashlib.sha256(content.encode()).hexdigest()}  disc/1.jpg\n")
    return folder


def test_of_trainings_that_end_at_once_all_results_are_of_the_same_one(tmp_path: Path) -> None:
    places = Places([], tmp_path / "own/model", tmp_path / "own/model-evidence", tmp_path / "features")
    drafts = [make_results(tmp_path / str(number), str(number)) for number in range(16)]
    with ThreadPoolExecutor(len(drafts)) as pool:
        list(pool.map(lambda draft: _publish(draft, places), drafts))
    found = read_all(tmp_path / "own")
    del found["golden/kickstand.sha256"]
    assert set(found) == {
        "model/model.onnx",
        "model/model.json",
        "model-evidence/out_of_fold.json",
        "golden/disc/1.jpg",
    }
    assert len(set(found.values())) == 1


def test_results_that_cannot_be_written_leave_the_older_ones(tmp_path: Path) -> None:
    places = Places([], tmp_path / "own/model", tmp_path / "own/model-evidence", tmp_path / "features")
    _publish(make_results(tmp_path / "old", "old"), places)
    before = read_all(tmp_path / "own")
    (tmp_path / "own/model-evidence/report.html").mkdir()
    new = make_results(tmp_path / "new", "new")
    (new / "evidence/report.html").write_text("new")
    with pytest.raises(CommandError, match=r"report\.html: cannot be written \(Is a directory\)"):
        _publish(new, places)
    assert read_all(tmp_path / "own") == before


@pytest.mark.slow
def test_a_training_that_ends_last_replaces_all_of_one_that_ended_before(
    photos: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_another(folder: Path, places: Places) -> None:
        monkeypatch.undo()
        (photos / "disc" / "0.jpg").unlink()
        assert run().exit_code == 0
        _publish(folder, places)

    monkeypatch.setattr("kickstand_cli.training.train._publish", run_another)
    assert run("--max-risk", "0.3").exit_code == 0
    assert read_card(photos)["training"]["n_photos"]["disc"] == 12
    evidence = (photos.parent / "own/model-evidence/out_of_fold.json").read_bytes()
    assert read_card(photos)["out_of_fold_sha256"] == hashlib.sha256(evidence).hexdigest()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cannot_tell", "class 'cannot_tell': a reserved word"),
        ("Cannot_Tell", "class 'Cannot_Tell': a reserved word"),
        ("Cross", "class 'cross': it differs from 'Cross' in capitals only"),
        ("c" * 250, "longer than 100 bytes"),
        (os.fsdecode(b"v\xe9lo"), r"class 'v\udce9lo': with a character that cannot be printed"),
        ("a\nb", r"class 'a\nb': with a character that cannot be printed"),
        ("con", "class 'con': Windows keeps this name for a device"),
    ],
)
def test_a_class_that_no_model_can_have_is_named_before_any_photo_is_read(
    photos: Path, run: Any, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    monkeypatch.setattr("kickstand_cli.training.pipeline.read_photos", lambda *_: pytest.fail("photos were read"))
    try:
        (photos / "disc").rename(photos / name)
    except OSError as error:
        pytest.skip(f"this file system has no such name ({error})")
    result = run()
    assert result.exit_code == 1
    assert reason in result.stderr
    assert "give the folder another name" in result.stderr
    assert not (photos.parent / "own").exists()


@pytest.mark.slow
def test_photos_and_sources_with_names_that_are_not_utf_8_are_learnt_from(photos: Path, run: Any) -> None:
    home = photos / "disc" / os.fsdecode(b"caf\xe9")
    try:
        home.mkdir()
    except OSError as error:
        pytest.skip(f"this file system has no such name ({error})")
    for number in range(6):
        (photos / "disc" / f"{number}{SUFFIXES[number % 3]}").rename(home / os.fsdecode(b"v\xe9lo%d" % number))
    assert run("--max-risk", "0.3").exit_code == 0
    assert load_card(photos.parent / "own/model").labels == ("cross", "disc")
    evidence = photos.parent / "own/model-evidence/out_of_fold.json"
    assert r"disc/caf\udce9/v\udce9lo0" in read_out_of_fold(evidence).probabilities


@pytest.mark.slow
def test_a_folder_that_cannot_be_listed_is_named_and_the_rest_is_learnt_from(
    photos: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "disc" / "shop").mkdir()
    forbid(monkeypatch, photos / "neither", photos / "disc" / "shop")
    result = run()
    assert result.exit_code == 0
    for folder in ("neither", "disc/shop"):
        assert f"left out: {photos / folder}: Permission denied" in result.stderr
    assert read_card(photos)["training"]["n_photos"] == {"cross": 12, "disc": 12}


@pytest.mark.parametrize("folder", ["disc", ""])
def test_a_class_that_cannot_be_listed_ends_the_training_with_the_reason(
    photos: Path, run: Any, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    forbid(monkeypatch, photos / folder)
    result = run()
    assert result.exit_code == 1
    assert f"error: {photos / folder}: Permission denied" in result.stderr


def test_a_class_without_a_usable_photo_ends_the_training(photos: Path, run: Any) -> None:
    (photos / "third").mkdir()
    (photos / "third" / "torn.jpg").write_bytes(b"no picture")
    result = run()
    assert result.exit_code == 1
    assert "class 'third': none of its photos can be used" in result.stderr


@pytest.mark.parametrize(("threads", "used"), [(64, 2), (1, 1)])
@pytest.mark.slow
def test_a_training_starts_at_most_a_process_for_each_core(
    photos: Path, run: Any, monkeypatch: pytest.MonkeyPatch, threads: int, used: int
) -> None:
    pools: list[int] = []
    monkeypatch.setattr("kickstand_cli.training.photos.cores", lambda: 2)

    def start(number: int) -> ProcessPoolExecutor:
        pools.append(number)
        return start_pool(number)

    monkeypatch.setattr("kickstand_cli.training.photos.start_pool", start)
    assert run(f"--threads={threads}").exit_code == 0
    assert pools == [used]


@pytest.mark.slow
def test_features_are_not_kept_among_the_photos(photos: Path, run: Any) -> None:
    result = run("--features", str(photos / "disc" / "1.png"))
    assert result.exit_code == 1
    assert f"disc/1.png: the output would be inside the input {photos}; choose another place" in result.stderr


@pytest.mark.slow
def test_a_class_called_golden_beside_the_artefact_is_left_alone(photos: Path, run: Any) -> None:
    (photos / "disc").rename(photos / "golden")
    assert run("--out", str(photos.parent / "elsewhere" / "model")).exit_code == 0
    assert run("--out", str(photos / "model")).exit_code == 1
    assert len(list((photos / "golden").iterdir())) == 12


@pytest.mark.slow
def test_what_is_named_like_a_photo_and_is_no_file_is_passed_over(photos: Path, run: Any) -> None:
    (photos / "disc" / "album.jpg").mkdir()
    (photos / "disc" / "gone.jpg").symlink_to(photos / "nowhere.jpg")
    os.mkfifo(photos / "disc" / "pipe.jpg")
    assert run().exit_code == 0


@pytest.mark.slow
def test_the_model_of_before_works_when_the_evidence_cannot_be_written(photos: Path, run: Any) -> None:
    assert run().exit_code == 0
    (photos / "disc" / "0.jpg").unlink()
    (photos.parent / "no_folder").write_text("")
    assert run("--evidence", str(photos.parent / "no_folder")).exit_code == 1
    assert EmbeddedModel(photos.parent / "own/model").card.model_version == read_card(photos)["model_version"]


@pytest.mark.slow
def test_a_damaged_file_of_features_is_an_error_in_one_line(photos: Path, run: Any, tmp_path: Path) -> None:
    (tmp_path / "torn.sqlite").write_bytes(b"no database" * 100)
    result = run("--features", str(tmp_path / "torn.sqlite"))
    assert result.exit_code == 1
    assert (
        "torn.sqlite: features cannot be kept there (file is not a database); name another file by --features"
        in result.stderr
    )
    assert (tmp_path / "torn.sqlite").read_bytes() == b"no database" * 100


@pytest.mark.slow
def test_a_second_training_looks_at_new_photos_alone_and_gives_the_same_model(
    photos: Path, run: Any, tmp_path: Path
) -> None:
    features = str(tmp_path / "own.sqlite")
    assert run("--features", features).exit_code == 0
    first = read_card(photos)["model_sha256"]
    with closing(sqlite3.connect(features)) as kept, kept:
        kept.execute("UPDATE photos SET statistics = json_set(statistics, '$.brightness', 0.123)")
    assert run("--features", features).exit_code == 0
    assert read_card(photos)["model_sha256"] == first
    draw("disc", 50).save(photos / "disc" / "new.png")
    assert run("--features", features).exit_code == 0
    with closing(sqlite3.connect(features)) as kept, kept:
        rows = kept.execute("SELECT json_extract(statistics, '$.brightness') FROM photos").fetchall()
    assert sorted(value == 0.123 for (value,) in rows) == [False] + [True] * 36


@pytest.mark.slow
def test_a_photo_that_cannot_be_used_is_named_and_the_others_are_learnt_from(photos: Path, run: Any) -> None:
    (photos / "disc" / "torn.jpg").write_bytes(b"no picture")
    result = run()
    assert result.exit_code == 0
    assert "left out: disc/torn.jpg: not a photo" in result.stderr
    assert read_card(photos)["training"]["n_photos"]["disc"] == 12


@pytest.mark.slow
def test_the_card_says_of_each_source_what_it_is_and_whether_it_was_learnt_from(photos: Path, run: Any) -> None:
    rows = ["class,file,source"]
    for shape in SHAPES:
        rows += [f"{shape},{n}{SUFFIXES[n % 3]},{'shop' if n % 2 else 'street'}" for n in range(12)]
    (photos / "manifest.csv").write_text("\n".join(rows))
    (photos / "sources.csv").write_text("source,repository,commit,licence\nshop,some/shop,abc,CC0\n")
    assert run("--folds", "2", "--hold-out", "street").exit_code == 0
    shop, street = read_card(photos)["training"]["sources"]
    assert (shop["licence"], shop["learnt"], shop["n"]["disc"]) == ("CC0", True, 6)
    assert (street["source"], street["learnt"]) == ("street", False)
    assert read_card(photos)["sources"]["street"]["accuracy"]["n"] == 12


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda d: (d / "empty").mkdir(), "empty: a class without a photo"),
        (lambda d: [p.unlink() for p in (d / "cross").glob("[1-9]*")], "class 'cross' has 1 photo"),
        (lambda d: d.rename(d.parent / "gone"), "photos: no such folder"),
        (lambda d: [(d / shape).rename(d.parent / shape) for shape in SHAPES], "no class folders in it"),
        (lambda d: (d / "disc").rename(d.parent / "disc"), "only the class 'cross'"),
        (lambda d: [(d / shape).rename(d.parent / shape) for shape in SHAPES[:2]], "only the class 'neither'"),
        (lambda d: (d / "sources.csv").write_bytes(b"\xff\xfe"), "sources.csv: no table of sources in UTF-8"),
        (lambda d: (d / "manifest.csv").write_text("name\n1\n"), "no manifest with the columns class, file and source"),
    ],
)
@pytest.mark.slow
def test_photos_that_cannot_be_learnt_from_are_named(photos: Path, run: Any, spoil: Any, reason: str) -> None:
    spoil(photos)
    result = run()
    assert result.exit_code == 1
    assert reason in result.stderr


def test_an_unknown_source_is_named(photos: Path, run: Any) -> None:
    result = run("--hold-out", "nowhere")
    assert result.exit_code == 1
    assert "--hold-out nowhere: no photo has this source" in result.stderr


@pytest.mark.slow
def test_arrays_are_images_of_neither(photos: Path, run: Any, tmp_path: Path) -> None:
    arrays = np.stack([np.asarray(draw("neither", n).resize((32, 32))) for n in range(40, 52)])
    np.savez(tmp_path / "more.npz", image=arrays, label=np.array(["noise"] * 12))
    assert run(str(tmp_path / "more.npz")).exit_code == 0
    assert read_card(photos)["training"]["n_photos"]["neither"] == 24
    np.savez(tmp_path / "other.npz", pictures=np.zeros(3))
    result = run(str(tmp_path / "other.npz"))
    assert result.exit_code == 1
    assert "other.npz: no .npz with arrays `image` and `label` ('image is not a file in the archive')" in result.stderr


def write_arrays(file: Path, image: Any = None, label: Any = ("noise", "noise"), **more: Any) -> None:
    image = np.zeros((2, 8, 8, 3), np.uint8) if image is None else image
    np.savez(file, image=image, label=np.array(label), **more)


def truncate(file: Path) -> None:
    write_arrays(file)
    file.write_bytes(file.read_bytes()[:300])


def damage(file: Path) -> None:
    write_arrays(file)
    data = bytearray(file.read_bytes())
    data[300] ^= 255
    file.write_bytes(data)


def write_one_array(file: Path) -> None:
    with file.open("wb") as stream:
        np.save(stream, np.zeros((2, 8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda file: None, "No such file or directory"),
        (Path.mkdir, "Is a directory"),
        (Path.touch, "File is not a zip file"),
        (os.mkfifo, "File is not a zip file"),
        (truncate, "File is not a zip file"),
        (damage, "Bad CRC-32 for file 'image.npy'"),
        (write_one_array, "File is not a zip file"),
        (lambda file: write_arrays(file, label=[{}, {}]), "Object arrays cannot be loaded"),
        (lambda file: write_arrays(file, label=[["a"], ["b"]]), "`label` is <U1 (2, 1), not text (2,)"),
        (lambda file: write_arrays(file, label="ab"), "`label` is <U2 (), not text (2,)"),
        (lambda file: write_arrays(file, label=[1, 2]), "`label` is int64 (2,), not text (2,)"),
        (lambda file: write_arrays(file, label=["a"]), "`label` is <U1 (1,), not text (2,)"),
        (lambda file: write_arrays(file, np.uint8(1)), "`image` is uint8 (), not uint8 (n, H, W, 3)"),
        (lambda file: write_arrays(file, np.zeros((2, 0, 8, 3), np.uint8)), "`image` is uint8 (2, 0, 8, 3), not"),
        (lambda file: write_arrays(file, more=np.zeros(10**6)), "larger than 0 GiB; divide it"),
        (lambda file: file.write_bytes(bytes(2 * 10**6)), "File is not a zip file"),
    ],
)
def test_a_file_of_arrays_that_cannot_be_used_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, reason: str
) -> None:
    monkeypatch.setattr("kickstand_cli.training.photos.MOST_ARRAYS", 10**6)
    write(tmp_path / "x.npz")
    with pytest.raises(CommandError) as error:
        list_photos(tmp_path / "x.npz")
    assert str(error.value).startswith(f"{tmp_path / 'x.npz'}: ")
    assert reason in str(error.value)


@pytest.fixture
def leaky(photos: Path) -> Path:
    """The photos as a dataset of two splits, with one training photo among its test images."""
    (photos / "train").mkdir()
    for shape in SHAPES:
        (photos / shape).rename(photos / "train" / shape)
    (photos / "test" / "disc").mkdir(parents=True)
    draw("disc", 77).save(photos / "train" / "disc" / "leaked.png")
    draw("disc", 77).save(photos / "test" / "disc" / "seen.png")
    return photos


@pytest.mark.slow
def test_leakage_stops_training_and_names_the_photos(leaky: Path, run: Any) -> None:
    result = run()
    assert result.exit_code == 1
    assert "train/disc/leaked.png" in result.stderr
    assert "test/disc/seen.png" in result.stderr
    assert not (leaky.parent / "own").exists()


@pytest.mark.slow
def test_test_photos_that_cannot_be_compared_are_named(leaky: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid(monkeypatch, leaky / "test" / "disc")
    result = run()
    assert result.exit_code == 0
    assert f"not compared with the training photos: {leaky / 'test/disc'}: Permission denied" in result.stderr


@pytest.mark.parametrize(("leakage", "n"), [("drop", 12), ("allow", 13)])
@pytest.mark.slow
def test_leaking_photos_are_dropped_or_allowed_on_request(leaky: Path, run: Any, leakage: str, n: int) -> None:
    assert run(f"--leakage={leakage}").exit_code == 0
    assert read_card(leaky)["training"]["n_photos"]["disc"] == n


def test_a_class_may_be_called_train_and_neither_may_be_written_large(photos: Path, run: Any) -> None:
    (photos / "disc").rename(photos / "train")
    (photos / "neither").rename(photos / "Neither")
    assert run().exit_code == 0
    assert read_card(photos)["training"]["n_photos"] == {"cross": 12, "neither": 12, "train": 12}


def test_one_photo_in_two_classes_is_named(photos: Path, run: Any) -> None:
    (photos / "cross" / "again.png").write_bytes((photos / "disc" / "1.png").read_bytes())
    result = run()
    assert result.exit_code == 0
    assert "1 photo of one class with copies in another; is one wrong? cross/again.png and disc/1.png" in result.stderr


def test_a_photo_too_small_for_the_model_is_left_out(photos: Path, run: Any) -> None:
    Image.new("RGB", (1, 1)).save(photos / "disc" / "dot.png")
    result = run()
    assert "left out: disc/dot.png: a side of 1 pixels, the model needs 32" in result.stderr
    assert read_card(photos)["training"]["n_photos"]["disc"] == 12


def test_a_manifest_of_photos_that_are_not_here_is_refused(photos: Path, run: Any) -> None:
    (photos / "manifest.csv").write_text("class,file,source\ndisc,gone.jpg,shop\n")
    result = run()
    assert result.exit_code == 1
    assert "1 of its photos missing, among them disc/gone.jpg" in result.stderr


@pytest.mark.parametrize(
    ("again", "said"), [("shop", ""), ("street", "two lines about disc/0.jpg contradict each other")]
)
def test_a_photo_with_two_sources_is_named_and_one_that_is_listed_twice_counts_once(
    tmp_path: Path, again: str, said: str
) -> None:
    (tmp_path / "disc").mkdir()
    (tmp_path / "disc/0.jpg").write_bytes(b"x")
    (tmp_path / "manifest.csv").write_text(f"class,file,source\ndisc,0.jpg,shop\ndisc,0.jpg,{again}\n")
    if said:
        with pytest.raises(CommandError, match=said):
            list_photos(tmp_path)
    else:
        assert [file.source for file in list_photos(tmp_path)] == ["shop"]


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, lambda file: file.symlink_to("nowhere"), Path.mkdir, lambda file: file.write_bytes(b"\xff\xfe")],
)
def test_a_manifest_that_cannot_be_read_is_not_passed_over(tmp_path: Path, make: Any) -> None:
    (tmp_path / "disc").mkdir()
    (tmp_path / "disc/0.jpg").write_bytes(b"x")
    make(tmp_path / "manifest.csv")
    with pytest.raises(CommandError, match=r"manifest\.csv: no manifest with the columns class, file and source"):
        list_photos(tmp_path)


@pytest.mark.slow
def test_in_the_folder_of_the_model_itself_the_evidence_and_golden_photos_are_beside_it(
    photos: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = photos.parent / "own/model"
    model.mkdir(parents=True)
    monkeypatch.chdir(model)
    assert run("--out", ".").exit_code == 0
    assert {path.name for path in model.parent.iterdir()} == {"model", "model-evidence", "golden"}
    assert {path.name for path in model.iterdir()} == {"model.onnx", "model.json"}
    assert find_out_of_fold(Path(), read_part(model, ReportedCard)).parent == model.parent / "model-evidence"
