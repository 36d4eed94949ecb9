"""From out-of-fold predictions to temperature, policy and metrics; and the artefact's files."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kickstand import quality
from kickstand.classify.promise import Answered, Promise, derive_promised
from kickstand.events import NEITHER

from .photos import Logits, Photos

Probabilities = NDArray[np.float64]

GATES = (0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01)
"""Candidates for the largest probability of "neither" that can still be accepted."""

PROCEDURE = (
    "Predictions for the training photos by models that learnt neither from the photo nor, where its source is known, "
    "from any photo of that source; within the limit on p(neither), which was chosen on photos of none of the classes "
    "alone; then, for each class, Learn-then-Test: exact bounds in fixed sequence from strict to lax thresholds, one "
    "for each per cent of the photos of the class. It holds for photos like these; the models of cross-validation "
    "learnt from fewer photos than this one."
)
ACCEPTED_AT_MOST = 0.002
"""Share of the photos of neither."""
NO_STRICTER = 0.8
"""A threshold on the confidence that is too low rather than too high, so that the share is kept. The true threshold is
chosen later, from photos of the classes, and this limit from photos of neither alone, so that the guarantee needs no
correction."""


def soften(logits: Logits, temperature: float) -> Probabilities:
    """Calibrated softmax, shape (n, n_labels + 1)."""
    scaled = logits.astype(np.float64) / temperature
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return scaled / scaled.sum(axis=1, keepdims=True)


def find_temperature(logits: Logits, classes: NDArray[np.int64]) -> float:
    """The temperature of least negative log-likelihood: Guo et al., ICML 2017; golden section, it has one minimum."""

    def loss(log_temperature: float) -> float:
        p = soften(logits, float(np.exp(log_temperature)))
        return float(-np.log(np.maximum(p[np.arange(len(p)), classes], 1e-12)).mean())

    low, high, ratio = np.log(0.1), np.log(10.0), (np.sqrt(5) - 1) / 2
    for _ in range(50):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return round(float(np.exp((low + high) / 2)), 4)


def renormalise(p: Probabilities) -> Probabilities:
    """The probabilities of the classes, given that it is one of them, shape (n, n_labels)."""
    return np.asarray(p[:, :-1] / np.maximum(p[:, :-1].sum(axis=1, keepdims=True), 1e-300))


def gated(p: Probabilities, gate: float) -> Probabilities:
    """Confidence of each photo, 0 where its p(neither) is too high, shape (n,)."""
    return np.where(p[:, -1] <= gate, renormalise(p).max(axis=1), 0.0)


def choose_gate(foreign: Probabilities) -> float:
    """The largest limit on p(neither) at which at most ACCEPTED_AT_MOST of the photos of neither are accepted.

    Without photos of neither there is no evidence: a fifth.
    """
    if not len(foreign):
        return 0.2
    for gate in GATES:
        if (gated(foreign, gate) >= NO_STRICTER).mean() <= ACCEPTED_AT_MOST:
            return gate
    return GATES[-1]


def list_answers(p: Probabilities, truths: Sequence[str], labels: Sequence[str], gate: float) -> list[Answered]:
    """The predictions with these probabilities. truths: a class or "neither", of each row."""
    if not len(p):
        return []
    rows = zip(truths, renormalise(p).argmax(axis=1).tolist(), gated(p, gate).tolist(), strict=True)
    return [Answered(truth, labels[index], confidence) for truth, index, confidence in rows]


def accepted(p: Probabilities, labels: Sequence[str], policy: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Whether the policy accepts each photo, shape (n,)."""
    thresholds = [policy["thresholds"][label] for label in labels]
    least = np.array([np.inf if threshold is None else threshold for threshold in thresholds])
    confidence = gated(p, policy["neither_accept_at_most"])
    return np.asarray((confidence > 0.0) & (confidence >= least[renormalise(p).argmax(axis=1)]))


def choose_policy(
    known: Probabilities,
    truths: Sequence[str],
    foreign: Probabilities,
    labels: Sequence[str],
    promise: Promise,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """The policy with its evidence. Predictions of a class without a guarantee go to review."""
    gate = choose_gate(foreign)
    rejected = [
        level for level in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99) if (known[:, -1] >= level).mean() <= 0.01
    ]
    gates = {"neither_accept_at_most": gate, "neither_reject_at_least": rejected[0] if rejected else 1.0}
    photos = list_answers(known, truths, labels, gate) + list_answers(foreign, [NEITHER] * len(foreign), labels, gate)
    return derive_promised(photos, promise, gates, {**about, "procedure": PROCEDURE})


def measure(
    known: Probabilities,
    classes: NDArray[np.int64],
    foreign: Probabilities,
    labels: Sequence[str],
    policy: Mapping[str, Any],
) -> dict[str, Any]:
    """Metrics, each with its interval (95 %) and the number of photos behind it."""
    p, truth = renormalise(known), classes.tolist()
    confidence = p.max(axis=1)
    right = p.argmax(axis=1) == classes
    taken = accepted(known, labels, policy)
    rows, ok, sure = p.tolist(), right.tolist(), confidence.tolist()

    def over(statistic: Any) -> dict[str, float]:
        return quality.bootstrap_interval(statistic, len(known), resamples=200).rounded()

    def pick(values: Sequence[Any], chosen: Sequence[int]) -> list[Any]:
        return [values[i] for i in chosen]

    metrics = {
        "accuracy": _share(right),
        "ece": over(lambda i: quality.expected_calibration_error(pick(sure, i), pick(ok, i))),
        "brier": over(lambda i: quality.brier_score(pick(rows, i), pick(truth, i))),
        "nll": over(lambda i: quality.negative_log_likelihood(pick(rows, i), pick(truth, i))),
        "auroc_of_correctness": over(lambda i: quality.auroc(pick(sure, i), pick(ok, i))),
        "area_under_risk_coverage": over(lambda i: quality.area_under_risk_coverage(pick(sure, i), pick(ok, i))),
        "coverage": _share(taken),
        "selective_risk": _share(~right[taken]),
        **{
            f"selective_risk_of_{label}": _share(~right[taken & (p.argmax(axis=1) == index)])
            for index, label in enumerate(labels)
        },
        "called_neither": _share(known[:, -1] >= policy["neither_reject_at_least"]),
    }
    if len(foreign):
        scores = np.concatenate([known[:, -1], foreign[:, -1]])
        is_foreign = np.arange(len(scores)) >= len(known)

        def separation(i: Sequence[int]) -> float:
            return quality.auroc(scores[list(i)].tolist(), is_foreign[list(i)].tolist())

        metrics["foreign_auroc"] = quality.bootstrap_interval(separation, len(scores), resamples=200).rounded()
        metrics["foreign_accepted"] = _share(accepted(foreign, labels, policy))
        metrics["foreign_rejected"] = _share(foreign[:, -1] >= policy["neither_reject_at_least"])
    return metrics


def _share(hits: NDArray[np.bool_]) -> dict[str, float]:
    return quality.wilson_interval(int(hits.sum()), len(hits)).rounded()


def measure_sources(photos: Photos, p: Probabilities, policy: Any) -> dict[str, Any]:
    """The metrics of each known source; p: of all photos, out of fold.

    accepted: share. selective_risk: wrong among the accepted. foreign_accepted: of neither.
    """
    taken = accepted(p, photos.names, policy)
    right = renormalise(p).argmax(axis=1) == photos.classes
    known = photos.labels != NEITHER
    found: dict[str, Any] = {}
    for source in sorted(set(photos.sources.tolist())):
        labelled, foreign = known & (photos.sources == source), ~known & (photos.sources == source)
        found[source or "not stated"] = {
            name: _share(hits)
            for name, hits in (
                ("accuracy", right[labelled]),
                ("accepted", taken[labelled]),
                ("selective_risk", ~right[labelled & taken]),
                ("foreign_accepted", taken[foreign]),
            )
            if len(hits)
        }
    return found


def list_evidence(
    photos: Photos, fold: NDArray[np.int64], p: Probabilities, foreign: NDArray[np.bool_]
) -> dict[str, Any]:
    """The out-of-fold rows, enough to derive another policy and to find wrong labels.

    foreign: the photos of neither that the policy was chosen with, shape (n,).

    Rows of known and foreign: probabilities of the classes, then of neither; fold -1 was not learnt from; sha256: the
    first 16 digits of each file's. `probabilities`: those of the classes alone, renormalised, by the photo's path.
    """

    def rows(p: Probabilities) -> list[list[float]]:
        return [[round(float(value), 5) for value in row] for row in p]

    def part(keep: NDArray[np.bool_]) -> dict[str, Any]:
        return {
            "source": photos.sources[keep].tolist(),
            "sha256": [sha[:16] for sha, kept in zip(photos.sha256, keep, strict=True) if kept],
            "fold": fold[keep].tolist(),
            "probabilities": rows(p[keep]),
        }

    known, paths = photos.labels != NEITHER, np.array(photos.paths)
    return {
        "labels": list(photos.names),
        "probabilities": dict(zip(paths[known].tolist(), rows(renormalise(p[known])), strict=True)),
        "known": {"label": photos.classes[known].tolist(), **part(known)},
        "foreign": {"path": paths[foreign].tolist(), **part(foreign)},
    }
