"""The linear head on the frozen backbone: fit, cross-validated by source, and merged into one graph."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from threadpoolctl import threadpool_limits

from kickstand.events import NEITHER
from kickstand.text import counted
from kickstand_cli.files import write_file
from kickstand_cli.project import PROJECT
from kickstand_cli.terminal import CommandError

from .card import soften
from .photos import Logits, Photos

SOURCES_AT_MOST = 20  # folds; more sources share them
NEITHER_FEATURES = PROJECT / "model-evidence" / "neither.npz"
ALL_AT_LEAST = (
    0.9  # of the shipped photos of one kind must score as neither; of a class with another name, a third does
)
SHIPPED = "shipped:"  # prefix of the sources of the shipped features of neither
WEIGHT, BIAS, NODE = "head.weight", "head.bias", "head"


@dataclass(frozen=True)
class Recipe:
    """How the head is fitted; chosen by leaving out one source at a time, see docs/model-lab.md.

    penalty: `C` of scikit-learn's LogisticRegression on standardised features.
    unnamed: the weight of all photos without a known source, in sources; they come from many.
    neither: the weight of "neither", relative to a class.
    folds: of the cross-validation, if there are fewer sources.
    """

    penalty: float = 1e-4
    unnamed: float = 3.0
    neither: float = 2.0
    folds: int = 5
    seed: int = 0


@dataclass(frozen=True)
class Head:
    """logits = features @ weight + bias. weight: (width, n_labels + 1). bias: (n_labels + 1,)."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def __call__(self, features: NDArray[np.float16]) -> Logits:
        """features: plain view, shape (n, width)."""
        return np.asarray(features.astype(np.float32) @ self.weight + self.bias)


def weigh(photos: Photos, learn: NDArray[np.bool_], recipe: Recipe) -> NDArray[np.float64]:
    """The weight of each photo: equal for the sources of a class, and for the classes; 0 outside `learn`.

    Otherwise the largest source would dominate, and a class would be recognised by that source's background.
    """
    groups = np.array([SHIPPED if source.startswith(SHIPPED) else source for source in photos.sources.tolist()])
    weights = np.zeros(len(groups))
    for label in np.unique(photos.labels[learn]):
        mine = learn & (photos.labels == label)
        for group in np.unique(groups[mine]):
            rows = mine & (groups == group)
            weights[rows] = (1.0 if group else recipe.unnamed) / rows.sum()
        weights[mine] *= (recipe.neither if label == NEITHER else 1.0) / weights[mine].sum()
    return weights * (learn.sum() / weights.sum())


def fit(photos: Photos, learn: NDArray[np.bool_], recipe: Recipe) -> Head:
    """Multinomial logistic regression on all views of the photos in `learn`, standardisation folded into it."""
    # Imported here: it takes most of a second, which `kickstand train --help` can save.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    n_classes, views = len(photos.names) + 1, photos.features.shape[1]
    # Views of a photo are not more evidence. The shipped features have one view, which is learnt once.
    weight_of, once = weigh(photos, learn, recipe), np.char.startswith(photos.sources, SHIPPED)
    rows = [learn if view == 0 else learn & ~once for view in range(views)]
    features = np.concatenate([photos.features[keep, view] for view, keep in enumerate(rows)]).astype(np.float32)
    classes = np.concatenate([photos.classes[keep] for keep in rows])
    if len(np.unique(classes)) < 2:
        raise CommandError("too few photos that are not copies of one another: only one class is left")
    weights = np.concatenate([np.where(once, weight_of, weight_of / views)[keep] for keep in rows])
    mean = np.average(features, axis=0, weights=weights)
    scale = 1.0 / (np.sqrt(np.average((features - mean) ** 2, axis=0, weights=weights)) + 0.02)
    model = LogisticRegression(C=recipe.penalty, tol=3e-4, max_iter=300)
    with warnings.catch_warnings(), threadpool_limits(1):  # on one core, the numbers are reproducible
        warnings.simplefilter("ignore", ConvergenceWarning)  # 300 steps are as good as convergence here
        model.fit(np.ascontiguousarray((features - mean) * scale, np.float32), classes, weights)
    weight, bias = np.zeros((features.shape[1], n_classes)), np.full(n_classes, -20.0)
    coefficients, intercepts = model.coef_.T, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn then returns only the second class
        coefficients, intercepts = np.hstack([-coefficients, coefficients]) / 2, np.array([-1, 1]) * intercepts / 2
    weight[:, model.classes_], bias[model.classes_] = coefficients, intercepts
    weight *= scale[:, np.newaxis]
    return Head(weight.astype(np.float32), (bias - mean @ weight).astype(np.float32))


# ---- cross-validation


def split(photos: Photos, held_out: NDArray[np.bool_], recipe: Recipe) -> NDArray[np.int64]:
    """The fold of each photo; -1 for those of `held_out`, from which nothing is learnt.

    A known source is in one fold. Up to 20 sources have a fold each; more share folds. The photos of a source that is
    the only one of a class, and those without a known source, are distributed at random, class by class, near
    duplicates together.

    Raises CommandError where a class has too few photos.
    """
    for name, count in photos.counts().items():
        if count < recipe.folds:
            raise CommandError(f"class {name!r} has {counted(count, 'photo')}, fewer than the {recipe.folds} folds")
    labels_of: dict[str, set[str]] = {}
    sources_of: dict[str, set[str]] = {}
    for label, source, left in zip(photos.labels.tolist(), photos.sources.tolist(), held_out.tolist(), strict=True):
        if not left:
            labels_of.setdefault(source, set()).add(label)
            sources_of.setdefault(label, set()).add(source)
    named = [
        source
        for source, labels in sorted(labels_of.items())
        if source and all(len(sources_of[label]) > 1 for label in labels)
    ]
    own = [source for source in named if not source.startswith(SHIPPED)]
    folds = max(recipe.folds, min(len(own), SOURCES_AT_MOST))
    fold = np.full(len(photos.paths), -1)
    turns: Counter[str] = Counter()  # class by class: a class whose sources all share a fold would not be learnt
    for number, source in enumerate(sorted(named, key=lambda source: source not in own)):
        rarest = min(sorted(labels_of[source]), key=lambda label: len(sources_of[label]))
        fold[~held_out & (photos.sources == source)] = (number if len(own) <= folds else turns[rarest]) % folds
        turns[rarest] += 1
    rng, bursts = np.random.default_rng(recipe.seed), photos.bursts
    rest = (fold < 0) & ~held_out
    for label in np.unique(photos.labels[rest]):
        mine = np.flatnonzero(rest & (photos.labels == label))
        for turn, burst in enumerate(rng.permutation(np.unique(bursts[mine])).tolist()):
            fold[mine[bursts[mine] == burst]] = turn % folds
    for name in photos.names:
        mine = fold[photos.labels == name]
        if len(np.unique(mine[mine >= 0])) < 2:
            raise CommandError(f"class {name!r} has only one photo to learn from, with copies of it, or one source")
    return fold


def score_out_of_fold(
    photos: Photos, fold: NDArray[np.int64], recipe: Recipe, on_fold: Callable[[], None] = lambda: None
) -> tuple[Logits, Head]:
    """Logits of every photo by a head that learnt neither from it, its copies, nor its fold; and the head of all."""
    logits = np.zeros((len(fold), len(photos.names) + 1), np.float32)
    head, bursts = fit(photos, fold >= 0, recipe), photos.bursts
    on_fold()
    for number in range(-1, fold.max() + 1):
        out = fold == number
        if out.any():
            # Folds are of sources, and one photo may be in two of them.
            learn = (fold >= 0) & ~out & ~np.isin(bursts, bursts[out])
            learnt = head if learn.sum() == (fold >= 0).sum() else fit(photos, learn, recipe)
            logits[out] = learnt(photos.features[out, 0])
        on_fold()
    return logits, head


# ---- the shipped features of neither


def add_shipped(photos: Photos, backbone: str, recipe: Recipe) -> Photos:
    """The photos, and shipped features of photos of none of their classes; unchanged for another backbone.

    Shipped features with the name of a class are left out, and so are those that resemble one: a head that has not seen
    them finds a class likelier than neither. They would be learnt as the opposite of what they show.
    """
    if not NEITHER_FEATURES.is_file():
        return photos
    with np.load(NEITHER_FEATURES, allow_pickle=False) as told:
        if str(told["backbone"]) != backbone:
            return photos
        other = ~np.isin(told["shows"], photos.names)
        features = (told["features"][other].astype(np.float32) * (6 / 255)).astype(np.float16)
        sources, shows = np.char.add(SHIPPED, told["source"][other]), told["shows"][other]
    if not len(features):
        return photos
    half = np.random.default_rng(recipe.seed).random(len(features)) < 0.5
    wanted = np.zeros(len(features), np.bool_)
    for unseen in (half, ~half):
        more = _append(photos, features[~unseen], sources[~unseen])
        logits = fit(more, np.ones(len(more.paths), np.bool_), recipe)(features[unseen])
        wanted[unseen] = soften(logits, 1.0)[:, -1] >= 0.5
    for name in set(shows.tolist()):  # a class "bike" shows bicycles: all of a kind are used, or none
        if wanted[shows == name].mean() < ALL_AT_LEAST:
            wanted[shows == name] = False
    if not wanted.any():
        return photos
    return _append(photos, features[wanted], sources[wanted])


def _append(photos: Photos, features: NDArray[np.float16], sources: NDArray[np.str_]) -> Photos:
    """With more photos of neither, given by features (n, width), which are used for each view."""
    n, (_, views, width) = len(features), photos.features.shape
    return replace(
        photos,
        paths=photos.paths + tuple(f"{source}/{i}" for i, source in enumerate(sources)),
        labels=np.concatenate([photos.labels, np.full(n, NEITHER)]),
        shows=np.concatenate([photos.shows, np.full(n, NEITHER)]),
        sources=np.concatenate([photos.sources, sources]),
        sha256=photos.sha256 + ("",) * n,
        features=np.concatenate([photos.features, np.broadcast_to(features[:, np.newaxis], (n, views, width))]),
        thumbnails=np.concatenate([photos.thumbnails, np.zeros((n, *photos.thumbnails.shape[1:]), np.uint8)]),
    )


# ---- one graph


def merge(artefact: bytes, head: Head) -> onnx.ModelProto:
    """The artefact's backbone with this head: `image` uint8 RGB (n, height, width, 3) → `logits`, and `features`."""
    model = onnx.load_from_string(artefact)
    graph = model.graph
    for kept, name in ((graph.node, NODE), (graph.initializer, WEIGHT), (graph.initializer, BIAS)):
        for item in [item for item in kept if item.name == name]:
            kept.remove(item)
    graph.initializer.extend([numpy_helper.from_array(head.weight, WEIGHT), numpy_helper.from_array(head.bias, BIAS)])
    graph.node.append(helper.make_node("Gemm", ["features", WEIGHT, BIAS], ["logits"], NODE))
    del graph.output[:]
    for name, columns in (("logits", len(head.bias)), ("features", len(head.weight))):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", columns]))
    onnx.checker.check_model(model, full_check=True)
    return model


def write_onnx(model: onnx.ModelProto, path: Path) -> str:
    """Write it; returns the SHA-256 of the file."""
    content: bytes = model.SerializeToString()
    write_file(path, content)
    return hashlib.sha256(content).hexdigest()
