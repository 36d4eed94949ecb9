"""How often is the promise of a policy broken? Simulated worlds whose true risk is known.

`make bench-promise` runs it: the section "Guarantee" of docs/benchmarks.md, and build/bench-promise.json. In each world
a model classifies photos of two labels and of neither; its error rates and confidences are drawn again. The evidence is
a third each bicycles, motorcycles and neither; a share of its labels is wrong. Then thresholds are chosen. A world
counts as broken where, for any label, at any promised mix, more of the accepted predictions are wrong than promised.

It is compared with the rule that it replaced, one threshold for all labels, by Learn-then-Test on all accepted
predictions; and, where it can express the same, with MAPIE's control of precision.
"""

import argparse
import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from kickstand.classify.promise import Answered, Promise, keep_promise
from kickstand.events import NEITHER
from kickstand.quality import binomial_cdf, clopper_pearson, risk_coverage
from kickstand_cli.project import PROJECT

LABELS = ("bicycle", "motorcycle")
MAX_RISK, FOREIGN_SHARE, CONFIDENCE = 0.1, 0.05, 0.95
MIXES, LABEL_ERRORS = (0.5, 0.7, 0.9, 0.95, 0.98), (0.0, 0.02, 0.05, 0.1)
PHOTOS = 3000  # of each label, and of neither
HEADING = "## Guarantee"

Thresholds = Mapping[str, float | None]


@dataclass(frozen=True)
class World:
    """A model and the photos that it sees.

    errors: by label, the share of its photos that get the other label. foreign: share of the photos of neither that the
    gate lets through. right, wrong: a correct (wrong) prediction has a confidence of t or more with probability
    (2 (1 - t)) ** right (wrong), t from 0.5 to 1.
    """

    errors: Mapping[str, float]
    foreign: float
    right: float
    wrong: float

    @classmethod
    def draw(cls, random: np.random.Generator) -> "World":
        errors = {label: random.uniform(0.02, 0.25) for label in LABELS}
        return cls(errors, random.uniform(0.0, 0.02), random.uniform(0.1, 0.4), random.uniform(0.8, 2.5))

    def accepts(self, label: str, truth: str, threshold: float) -> float:
        """The share of photos of this truth that are accepted as the label."""
        tail = min(1.0, max(0.0, 2 * (1 - threshold)))
        if truth == NEITHER:
            return float(self.foreign / 2 * tail**self.wrong)
        if truth == label:
            return float((1 - self.errors[truth]) * tail**self.right)
        return float(self.errors[truth] * tail**self.wrong)

    def risk(self, label: str, threshold: float, bicycles: float, foreign_share: float) -> float:
        """The share of wrong predictions among those accepted as the label, at this mix."""
        shares = {"bicycle": (1 - foreign_share) * bicycles, "motorcycle": (1 - foreign_share) * (1 - bicycles)}
        taken = {
            truth: share * self.accepts(label, truth, threshold)
            for truth, share in (shares | {NEITHER: foreign_share}).items()
        }
        total = math.fsum(taken.values())
        return 1 - taken[label] / total if total else 0.0

    def coverage(self, thresholds: Thresholds, bicycles: float) -> float:
        """The share of photos of the labels that is accepted, at this mix."""
        shares = {"bicycle": bicycles, "motorcycle": 1 - bicycles}
        return math.fsum(
            share * self.accepts(label, truth, threshold)
            for truth, share in shares.items()
            for label, threshold in thresholds.items()
            if threshold is not None
        )

    def answers(self, random: np.random.Generator, n: Mapping[str, int], label_error: float = 0.0) -> list[Answered]:
        """The evidence: this many photos of each truth, a share of whose labels is wrong."""
        photos = []
        for truth, number in n.items():
            error = 0.5 if truth == NEITHER else self.errors[truth]
            first = truth if truth in LABELS else LABELS[0]
            other = LABELS[1 - LABELS.index(first)]
            wrong = random.random(number) < error
            shape = np.where(wrong | (truth == NEITHER), self.wrong, self.right)
            confidences = 1 - 0.5 * random.random(number) ** (1 / shape)
            if truth == NEITHER:
                confidences = np.where(random.random(number) < self.foreign, confidences, 0.0)
            flipped = random.random(number) < label_error
            others = random.choice([name for name in (*LABELS, NEITHER) if name != truth], number)
            photos += [
                Answered(str(said) if flip else truth, other if miss else first, confidence)
                for flip, said, miss, confidence in zip(
                    flipped.tolist(), others.tolist(), wrong.tolist(), confidences.tolist(), strict=True
                )
            ]
        return photos


def choose_one_threshold(photos: Sequence[Answered], max_risk: float) -> Thresholds:
    """One threshold for all labels, by Learn-then-Test on all accepted predictions: the former rule."""
    known = [photo for photo in photos if photo.truth != NEITHER]
    curve = risk_coverage([photo.confidence for photo in known], [photo.truth == photo.label for photo in known])
    chosen, tested = None, len(known) // 10
    for point in curve:
        if point.accepted < tested or point.accept_at <= 0.0:
            continue
        if binomial_cdf(point.errors, point.accepted, max_risk) > 1 - CONFIDENCE:
            break
        chosen, tested = point.accept_at, point.accepted + len(known) // 100
    return dict.fromkeys(LABELS, chosen)


def choose_by_mapie(photos: Sequence[Answered], max_risk: float) -> Thresholds:
    """MAPIE's control of precision, for each label at half the allowed error; in the mix of the evidence alone."""
    from mapie.risk_control import BinaryClassificationController

    known = [photo for photo in photos if photo.truth != NEITHER]
    found: dict[str, float | None] = {}
    for label in LABELS:
        scores = np.array([photo.confidence if photo.label == label else 0.0 for photo in known])
        controller = BinaryClassificationController(
            lambda rows: np.column_stack([1 - np.ravel(rows), np.ravel(rows)]),
            risk="precision",
            target_level=1 - max_risk,
            confidence_level=1 - (1 - CONFIDENCE) / len(LABELS),
            list_predict_params=np.linspace(0.995, 0.5, 100),
            fwer_method="fixed_sequence",
        )
        with warnings.catch_warnings(
            action="ignore"
        ):  # it asks for harder goals, and cannot see that the order is right
            controller.calibrate(scores[:, None], np.array([int(photo.truth == label) for photo in known]))
        best = controller.best_predict_param
        found[label] = None if best is None else float(best)
    return found


def try_world(
    seed: int, bicycles: float, label_error: float, *, photos: int = PHOTOS, mapie: bool = False
) -> dict[str, Any]:
    """One world: for each rule whether its promise is broken, whether it is refused for any label, and its coverage.

    photos: of each label, and of neither. The promised mix is every one from half bicycles to this share of them. Each
    label counts at its worst mix.
    """
    random = np.random.default_rng([seed, round(1000 * bicycles), round(1000 * label_error)])
    world = World.draw(random)
    # The mix of the evidence is that of the photos: without a mix, and for MAPIE, it is half and half.
    foreign_share = 0.0 if mapie else FOREIGN_SHARE
    n = dict.fromkeys(LABELS, photos) | ({} if mapie else {NEITHER: photos})
    evidence = world.answers(random, n, label_error)
    promise = Promise(
        max_risk=dict.fromkeys(LABELS, MAX_RISK),
        mix=None if mapie else {"bicycle": (0.5, bicycles)},
        foreign_share=foreign_share,
        label_error=label_error,
    )
    rules: dict[str, Thresholds] = {
        "per label": {label: told.threshold for label, told in keep_promise(evidence, promise, explain=False).items()},
        "one threshold": choose_one_threshold(evidence, MAX_RISK),
    }
    if mapie:
        rules["MAPIE"] = choose_by_mapie(evidence, MAX_RISK)
    worst = {"bicycle": 0.5, "motorcycle": bicycles}
    return {
        name: {
            "broken": any(
                threshold is not None and world.risk(label, threshold, worst[label], foreign_share) > MAX_RISK
                for label, threshold in thresholds.items()
            ),
            "refused": any(threshold is None for threshold in thresholds.values()),
            "coverage": world.coverage(thresholds, bicycles),
        }
        for name, thresholds in rules.items()
    }


def summarise(worlds: Sequence[Mapping[str, Any]], rule: str) -> dict[str, float]:
    """Shares of worlds, with the exact 95 % interval of the broken ones."""
    told = [world[rule] for world in worlds]
    broken = clopper_pearson(sum(one["broken"] for one in told), len(told))
    return {
        "worlds": len(told),
        "broken": broken.value,
        "low": broken.low,
        "high": broken.high,
        "refused": sum(one["refused"] for one in told) / len(told),
        "coverage": sum(one["coverage"] for one in told) / len(told),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=1000, help="of each row; default: 1000")
    count = parser.parse_args().worlds
    rows = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for bicycles in MIXES:
            for label_error in LABEL_ERRORS:
                one = partial(try_world, bicycles=bicycles, label_error=label_error)
                rows.append(_row(list(pool.map(one, range(count), chunksize=20)), bicycles, label_error))
                print(json.dumps(rows[-1]), flush=True)  # noqa: T201
        peers = list(
            pool.map(partial(try_world, bicycles=0.5, label_error=0.0, mapie=True), range(count), chunksize=20)
        )
        oracle = _row(peers, 0.5, 0.0)
    measured = {"rows": rows, "oracle": oracle, "date": datetime.now(UTC).date().isoformat()}
    (PROJECT / "build").mkdir(exist_ok=True)
    (PROJECT / "build/bench-promise.json").write_text(json.dumps(measured, indent=1), "utf-8")
    page = PROJECT / "docs/benchmarks.md"
    page.write_text(page.read_text("utf-8").partition(HEADING)[0].rstrip() + "\n\n" + write_section(measured), "utf-8")


def _row(worlds: Sequence[Mapping[str, Any]], bicycles: float, label_error: float) -> dict[str, Any]:
    return {
        "bicycles": bicycles,
        "label_error": label_error,
        "rules": {rule: summarise(worlds, rule) for rule in worlds[0]},
    }


def write_section(measured: Mapping[str, Any]) -> str:
    """The section of docs/benchmarks.md."""
    worlds = measured["oracle"]["rules"]["per label"]["worlds"]
    lines = [
        HEADING,
        "",
        f"`make bench-promise` wrote this section on {measured['date']}. Each row is {worlds:,} simulated worlds. Each "
        f"world has its own model, and {PHOTOS:,} labelled photos each of bicycles, motorcycles, and none of them. "
        "A share of the labels is wrong.",
        "",
        f"The guarantee: at most {MAX_RISK:.0%} of the accepted predictions of each class are wrong, with confidence "
        f"{CONFIDENCE:.0%}. It covers every mix from 50 % bicycles to the share in the row, with {FOREIGN_SHARE:.0%} "
        "of out-of-distribution photos.",
        "",
        "| column | meaning |",
        "|---|---|",
        "| broken | worlds in which the true share of any class is larger, at its worst mix; exact 95 % interval |",
        "| refused | worlds whose photos cannot show the guarantee of one of the classes: its photos go to review |",
        "| one threshold | the former rule: one threshold for all classes |",
        "",
        "| bicycles up to | labels wrong | per class: broken | refused | coverage | one threshold: broken | coverage |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in measured["rows"]:
        ours, old = row["rules"]["per label"], row["rules"]["one threshold"]
        lines.append(
            f"| {row['bicycles']:.0%} | {row['label_error']:.0%} | **{_shares(ours)}** | {ours['refused']:.0%} | "
            f"{ours['coverage']:.0%} | {_shares(old)} | {old['coverage']:.0%} |"
        )
    lines += [
        "",
        "MAPIE's control of precision makes the same guarantee for the mix of the evidence, without "
        "out-of-distribution photos and without wrong labels. It has a fixed sequence of 100 thresholds. Each class "
        "gets half of the allowed error:",
        "",
        "| rule | broken | refused | coverage |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {rule} | {_shares(told)} | {told['refused']:.0%} | {told['coverage']:.1%} |"
        for rule, told in measured["oracle"]["rules"].items()
    ]
    return "\n".join(lines) + "\n"


def _shares(told: Mapping[str, float]) -> str:
    return f"{told['broken']:.1%} [{told['low']:.1%}, {told['high']:.1%}]"


if __name__ == "__main__":
    main()
