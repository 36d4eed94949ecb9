"""`kickstand train` on generated images of three classes, in seconds."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner, Result

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'kickstand[train]'")
pytest.importorskip("onnx", reason="onnx is not installed: pip install 'kickstand[train]'")

import onnxruntime  # noqa: E402
import typer  # noqa: E402

from kickstand_cli.training import augment, card, export, fit, network, optimiser, photos, recipe, synthetic  # noqa: E402
from kickstand_cli.training.train import train  # noqa: E402

pytestmark = pytest.mark.slow

app = typer.Typer()
app.command()(train)

COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}


def painted(colour: tuple[int, int, int], n: int, seed: int) -> NDArray[np.uint8]:
    """n noisy 16×16 images of one colour, shape (n, 16, 16, 3)."""
    noise = np.random.default_rng(seed).normal(0, 12, (n, 16, 16, 3))
    return np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for seed, (name, colour) in enumerate(COLOURS.items()):
        home = tmp_path / "dataset" / "train" / name
        home.mkdir(parents=True)
        for i, pixels in enumerate(painted(colour, 8, seed)):
            Image.fromarray(pixels).save(home / f"{i}.png")
    return tmp_path / "dataset"


@pytest.fixture
def auxiliary(tmp_path: Path) -> Path:
    path = tmp_path / "auxiliary.npz"
    images = np.concatenate([painted((128, 128, 128), 12, 7), painted((240, 240, 240), 12, 8)])
    np.savez(path, image=images, label=np.array(["grey"] * 12 + ["white"] * 12))
    return path


def run_train(dataset: Path, *options: str) -> Result:
    root = dataset.parent
    places = ["--out", str(root / "out"), "--checkpoints", str(root / "checkpoints")]
    return CliRunner().invoke(app, [str(dataset), *places, "--quick", "--folds=2", "--threads=1", "--json", *options])


def read_card(dataset: Path) -> dict[str, object]:
    card: dict[str, object] = json.loads((dataset.parent / "out" / "model.json").read_text("utf-8"))
    return card


def test_three_classes_train_like_any_others(dataset: Path, auxiliary: Path) -> None:
    result = run_train(dataset, "--auxiliary", str(auxiliary))
    assert result.exit_code == 0, result.output
    card = read_card(dataset)
    assert card["labels"] == ["blue", "green", "red"]
    assert card["input_shape"] == [16, 16, 3]
    session = onnxruntime.InferenceSession(dataset.parent / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": painted(COLOURS["red"], 5, 3)})
    assert logits.shape == (5, 4)


@pytest.mark.parametrize(("passing", "gate"), [(1, 0.5), (2, 0.3)])
def test_the_first_gate_opens_as_far_as_one_foreign_image_in_500_allows(passing: int, gate: float) -> None:
    """Of 500 foreign images, so many look like a label, at p(neither) just above 0.3."""
    foreign = np.array([[0.66, 0.0, 0.34]] * passing + [[0.005, 0.005, 0.99]] * (500 - passing))
    assert card.choose_gate(foreign) == gate


def test_so_few_images_promise_nothing_and_everything_goes_to_a_person(dataset: Path) -> None:
    assert run_train(dataset).exit_code == 0
    policy = read_card(dataset)["policy"]
    assert isinstance(policy, dict)
    assert (policy["accept_at"], policy["neither_accept_at_most"]) == (1.0, 0.0)
    assert re.search(r"about \d+ more labels", policy["evidence"]["refused"])


def test_a_finished_training_is_loaded_not_repeated(dataset: Path) -> None:
    assert run_train(dataset).exit_code == 0
    first = read_card(dataset)
    checkpoints = sorted((dataset.parent / "checkpoints").rglob("*.pt"))
    before = [path.stat().st_mtime_ns for path in checkpoints]
    assert run_train(dataset).exit_code == 0
    assert [path.stat().st_mtime_ns for path in checkpoints] == before
    assert read_card(dataset)["model_sha256"] == first["model_sha256"]


def test_a_killed_training_goes_on_to_the_same_weights(dataset: Path, tmp_path: Path) -> None:
    known = photos.read_folder(dataset / "train")
    plan = recipe.Recipe(members=1, folds=2, synthetic=12)
    material = recipe.divide(known, None, plan)
    pools = [material.known_pool(material.fold == 0), *material.foreign_pools(0, 12)]
    schedule = fit.Schedule(epochs=3, peak_rate=0.05, batch=8)

    def fresh() -> network.Network:
        torch.manual_seed(1)
        return network.Network(material.n_classes, width=4)

    whole = fit.fit(fresh(), pools, schedule, seed=1)

    def kill(done: int, total: int, loss: float) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit.fit(fresh(), pools, schedule, 1, tmp_path / "killed.pt", kill)
    resumed = fit.fit(fresh(), pools, schedule, 1, tmp_path / "killed.pt")
    for one, other in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("shape", [(16, 144), (144, 16), (16, 16)])
def test_an_orthogonal_update_moves_every_direction_alike(shape: tuple[int, int]) -> None:
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    before, after = (torch.linalg.svdvals(matrix) for matrix in (gradient, optimiser.orthogonalise(gradient)))
    spread = [float(values[0] / values[len(values) * 9 // 10]) for values in (before, after)]
    assert spread[1] < spread[0]
    assert float(after[0]) < 1.5
    assert float(after[len(after) * 9 // 10]) > 0.5


def test_filters_keep_their_length_and_turn_by_the_rate_whatever_the_size_of_the_gradient() -> None:
    turned = []
    for scale in (1e-3, 1e3):
        torch.manual_seed(0)
        layer = torch.nn.Conv2d(8, 16, 3, bias=False)
        start = layer.weight.detach() * (4.0 / float(layer.weight.detach().norm()))
        muon = optimiser.Muon(layer, rate=0.02, weight_decay=2e-3)
        layer.weight.grad = scale * torch.randn_like(layer.weight)
        muon.step()
        turned.append(float((layer.weight.detach() - start).norm() / start.norm()))
    assert turned[0] == pytest.approx(turned[1], rel=1e-3)
    assert turned[0] == pytest.approx(0.02 * optimiser.FILTER_RATE, rel=0.2)


def test_what_stands_behind_no_norm_learns_by_nesterovs_momentum() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    muon = optimiser.Muon(ours, rate=0.1, weight_decay=0.01)
    decayed = [{"params": [theirs.weight]}, {"params": [theirs.bias], "weight_decay": 0.0}]
    sgd = torch.optim.SGD(decayed, lr=0.1, momentum=optimiser.MOMENTUM, nesterov=True, weight_decay=0.01)
    for _ in range(3):
        x = torch.randn(4, 5)
        for layer, steps in ((ours, muon), (theirs, sgd)):
            steps.zero_grad()
            layer(x).square().sum().backward()
            steps.step()
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-6)
    assert torch.allclose(ours.bias, theirs.bias, atol=1e-6)


def test_what_is_served_is_the_mean_of_what_each_tuning_ended_with(tmp_path: Path) -> None:
    known = photos.of_arrays(painted((9, 9, 9), 8, 0), ["a"] * 4 + ["b"] * 4)
    foreign = photos.of_arrays(painted((99, 9, 9), 20, 1), ["c"] * 20)
    once = fit.Schedule(epochs=1, peak_rate=0.05, batch=8)
    plan = recipe.Recipe(members=1, folds=2, width=4, synthetic=6, pretrain=once, tune=(once, once))
    material = recipe.divide(known, foreign, plan)
    jobs = [recipe.Job(1, "pretrained"), recipe.Job(1, "final"), recipe.Job(1, "final", cycle=2)]
    _, first, second = (recipe.run(job, material, plan, tmp_path).state_dict() for job in jobs)
    served = recipe.settle(1, "final", material, plan, tmp_path).state_dict()
    weights = [name for name, values in served.items() if values.is_floating_point()]
    assert any(not torch.equal(first[name], second[name]) for name in weights)
    for name in weights:
        assert torch.allclose(served[name], (first[name] + second[name]) / 2, atol=1e-6)


def test_another_recipe_never_resumes_from_these_checkpoints(dataset: Path, tmp_path: Path) -> None:
    known = photos.read_folder(dataset / "train")
    homes = set()
    for plan in (recipe.Recipe(folds=2, synthetic=6), recipe.Recipe(folds=2, synthetic=6, seed=1)):
        homes.add(recipe.open_checkpoints(tmp_path, recipe.divide(known, None, plan), plan))
    assert len(homes) == 2


@pytest.mark.parametrize("mirror", [False, True])
def test_the_exported_graph_computes_what_the_networks_do(mirror: bool) -> None:
    torch.manual_seed(0)
    members = [network.Network(n_classes=7, width=4).eval() for _ in range(2)]
    images = synthetic.draw_synthetic(12, 16, 20, seed=0)
    exported = export.run_onnx(export.build_onnx(members, 3, 16, 20, mirror=mirror), images)
    planes = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    views = [planes, planes.flip(3)] if mirror else [planes]
    answers = [network.with_neither(fit.predict(member, view), 3) for member in members for view in views]
    expected = torch.stack(answers).mean(dim=0)
    assert np.allclose(exported, expected, atol=1e-5)


def test_held_out_images_and_classes_named_like_a_label_are_never_learnt_from() -> None:
    known = photos.of_arrays(painted((9, 9, 9), 8, 0), ["a"] * 4 + ["b"] * 4)
    foreign = photos.of_arrays(painted((99, 9, 9), 40, 1), ["b"] * 20 + ["c"] * 20)
    material = recipe.divide(known, foreign, recipe.Recipe(folds=2, synthetic=6, held_out=0.25))
    assert material.foreign is not None
    assert material.foreign.names == ("c",)
    assert (int(material.held.sum()), len(material.foreign_pools(None, 6)[0].images)) == (5, 15)


def test_variations_keep_shape_and_range_and_depend_on_the_seed_only() -> None:
    images = torch.rand(6, 3, 16, 16)
    once, again = (augment.vary(images, torch.Generator().manual_seed(4)) for _ in range(2))
    assert once.shape == images.shape
    assert 0.0 <= float(once.min()) <= float(once.max()) <= 1.0
    assert torch.equal(once, again)


def test_a_blend_shares_the_target_out() -> None:
    targets = torch.eye(4)
    for seed in range(8):
        _, shares = augment.blend(torch.rand(4, 3, 16, 16), targets, torch.Generator().manual_seed(seed))
        assert torch.allclose(shares.sum(dim=1), torch.ones(4))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda d: (d / "train" / "empty").mkdir(), "empty: a class without an image"),
        (lambda d: Image.new("RGB", (20, 16)).save(d / "train" / "red" / "z.png"), "z.png: 20 × 16 pixels"),
        (lambda d: (d / "train" / "red" / "z.png").write_bytes(b"no"), "z.png: cannot be read"),
        (lambda d: [p.unlink() for p in (d / "train" / "red").glob("[1-9].png")], "class 'red' has 1 images"),
        (lambda d: (d / "train").rename(d.parent / "gone"), "no class folders in it"),
    ],
)
def test_a_dataset_that_cannot_be_learnt_from_is_named(dataset: Path, spoil: object, reason: str) -> None:
    assert callable(spoil)
    spoil(dataset)
    result = run_train(dataset)
    assert result.exit_code == 1
    assert reason in result.output


def test_an_auxiliary_file_without_its_arrays_is_named(dataset: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", pictures=np.zeros(3))
    result = run_train(dataset, "--auxiliary", str(tmp_path / "other.npz"))
    assert result.exit_code == 1
    assert "other.npz: no .npz with arrays" in result.output


def test_without_pytorch_the_error_says_what_to_install(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run_train(dataset)
    assert result.exit_code == 1
    assert "use `make train`" in result.output


@pytest.fixture
def leaky(dataset: Path) -> Path:
    """The dataset, with one training image, unlike all others, among its test images."""
    (dataset / "test" / "red").mkdir(parents=True)
    noise = Image.fromarray(np.random.default_rng(5).integers(0, 256, (16, 16, 3), np.uint8))
    noise.save(dataset / "train" / "red" / "leaked.png")
    noise.save(dataset / "test" / "red" / "seen.png")
    return dataset


def test_leakage_stops_training_and_names_the_images(leaky: Path) -> None:
    result = run_train(leaky)
    assert result.exit_code == 1
    assert "train/red/leaked.png" in result.stderr
    assert "test/red/seen.png" in result.stderr
    assert not (leaky.parent / "out").exists()


@pytest.mark.parametrize(("leakage", "images"), [("drop", 8), ("allow", 9)])
def test_leaking_images_are_dropped_or_allowed_on_request(leaky: Path, leakage: str, images: int) -> None:
    result = run_train(leaky, f"--leakage={leakage}")
    assert result.exit_code == 0, result.output
    training: Any = read_card(leaky)["training"]
    assert training["n_images"]["red"] == images
