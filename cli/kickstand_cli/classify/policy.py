"""`kickstand policy`: state the promise, get the threshold."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from kickstand.classify.artefact import ModelCard, read_card
from kickstand.quality import PromiseRefusedError, cheapest_threshold, learn_then_test, risk_coverage, wilson_interval
from kickstand_cli.classify.classify import ModelOption, load_model
from kickstand_cli.classify.evaluation import NEITHER, Readable, answer_all, find_images
from kickstand_cli.project import MODEL, PROJECT
from kickstand_cli.terminal import CommandError, console, exit_on, stderr
from kickstand_cli.training.card import choose_gate

OUT_OF_FOLD = PROJECT / "model-evidence" / "out_of_fold.json"


@dataclass(frozen=True)
class Labelled:
    """Answers to labelled images that the model did not learn from.

    gate: largest probability of "neither" that is accepted. confidences: 0 where that gate refuses.
    """

    source: str
    gate: float
    confidences: Sequence[float]
    correct: Sequence[bool]


def find_out_of_fold(artefact: Path) -> Path:
    """Where `kickstand train` wrote the answers: beside its artefact, or for the shipped one into model-evidence/."""
    beside = artefact.parent / f"{artefact.name}-evidence" / OUT_OF_FOLD.name
    return beside if beside.is_file() else OUT_OF_FOLD


def read_out_of_fold(file: Path, card: ModelCard, told: str | None = None) -> Labelled:
    """The answers that cross-validation gave to the training images.

    told: the SHA-256 that model.json names; None where it names none.

    Raises CommandError when the file is missing, damaged, or of another model.
    """
    try:
        text = file.read_bytes()
        if told and hashlib.sha256(text).hexdigest() != told:
            raise CommandError(f"{file}: answers of another model; name those of this one by --out-of-fold")
        rows = json.loads(text)
        known = rows["known"]
        pairs = list(zip(known["probabilities"], known["label"], strict=True))
        if tuple(rows["labels"]) != card.labels:
            raise CommandError(f"{file}: of a model with the labels {', '.join(rows['labels'])}")
        gate = card.policy.neither_accept_at_most or choose_gate(np.array(rows["foreign"]["probabilities"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CommandError(f"{file}: {error}") from error
    confidences, correct = [], []
    for (*probabilities, neither), truth in pairs:
        best = max(probabilities)
        confidences.append(best / sum(probabilities) if neither <= gate else 0.0)
        correct.append(probabilities[truth] == best)
    return Labelled(f"out-of-fold answers, SHA-256 {hashlib.sha256(text).hexdigest()}", gate, confidences, correct)


def answer_labelled(folder: Path, artefact: Path) -> Labelled:
    """The model's own answers to the images of DIR/<label>/.

    Those in DIR/neither/ say how wide the first gate may open, where the artefact's policy was refused and has none.

    Raises CommandError for a folder that cannot be used.
    """
    model = load_model(artefact)
    examples = answer_all(find_images(folder, model.card.labels), model)
    read = [example for example in examples if isinstance(example, Readable)]
    known = [example for example in read if example.truth != NEITHER]
    foreign = [[*e.prediction.probabilities.values(), e.prediction.neither] for e in read if e.truth == NEITHER]
    gate = model.card.policy.neither_accept_at_most or choose_gate(np.array(foreign))
    return Labelled(
        f"the model's answers to {folder.name}/",
        gate,
        [example.prediction.confidence if example.prediction.neither <= gate else 0.0 for example in known],
        [example.correct for example in known],
    )


def derive(labelled: Labelled, card: ModelCard, goal: dict[str, float]) -> dict[str, Any]:
    """A policy with its evidence; what is rejected stays as it is.

    goal: max_risk and confidence_level, or review_cost and error_cost.

    Raises PromiseRefusedError when the labels cannot support the promise.
    """
    confidences, correct = labelled.confidences, labelled.correct
    if "max_risk" in goal:
        promise = learn_then_test(confidences, correct, goal["max_risk"], goal["confidence_level"])
        threshold, shown = promise.accept_at, {"upper_bound": round(promise.upper_bound, 6)}
    else:
        threshold, cost = cheapest_threshold(confidences, correct, goal["review_cost"], goal["error_cost"])
        shown = {"mean_cost": round(cost, 6)}
    # Rounded down, never up: rounding up would refuse the very image that the threshold was taken from.
    accept_at = min(1.0, math.floor(threshold * 1e5) / 1e5)
    point = [point for point in risk_coverage(confidences, correct) if point.accept_at >= threshold][-1:]
    accepted, errors = (point[0].accepted, point[0].errors) if point else (0, 0)
    policy = {
        "accept_at": accept_at,
        "neither_accept_at_most": labelled.gate,
        "neither_reject_at_least": card.policy.neither_reject_at_least,
        **goal,
    }
    version = hashlib.sha256(json.dumps(policy, sort_keys=True).encode()).hexdigest()[:8]
    evidence = {
        "source": labelled.source,
        "n": len(confidences),
        "accepted": accepted,
        "errors": errors,
        "coverage": wilson_interval(accepted, len(confidences))._asdict(),
        **shown,
    }
    return {"policy_version": version, **policy, "evidence": evidence}


def policy(
    max_risk: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Largest share of wrong answers among the accepted ones.")
    ] = None,
    confidence: Annotated[float, typer.Option(min=0.0, max=1.0, help="How sure that promise must be.")] = 0.95,
    review_cost: Annotated[float | None, typer.Option(min=0.0, help="Price of asking a person once.")] = None,
    error_cost: Annotated[float | None, typer.Option(min=0.0, help="Price of accepting one wrong answer.")] = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Labelled images in DIR/<label>/ that the model has never seen."),
    ] = None,
    artefact: ModelOption = MODEL,
    out_of_fold: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Out-of-fold answers from training, used without --images; default: where training wrote them.",
        ),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Store the policy, with its evidence, in model.json.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the policy as JSON.")] = False,
) -> None:
    """Derive the accept threshold from a promise, --max-risk, or from prices, --review-cost and --error-cost.

    The promise holds for finite data: exact binomial tests in fixed sequence (Learn-then-Test). It is exact with
    --images; out-of-fold answers come from models that learnt from a little less data than the deployed one. Where the
    labels cannot support the promise it is refused, with the number of labels that are missing, and exit code 3.
    """
    prices = review_cost is not None and error_cost is not None
    if (max_risk is not None) == prices or (review_cost is None) != (error_cost is None):
        raise typer.BadParameter("say either --max-risk, or both --review-cost and --error-cost")
    if prices:
        goal = {"review_cost": float(review_cost or 0), "error_cost": float(error_cost or 0)}
    else:
        goal = {"max_risk": float(max_risk or 0), "confidence_level": confidence}
    with exit_on(OSError, ValueError):
        card = read_card(artefact)
        if images:
            labelled = answer_labelled(images, artefact)
        else:
            told = json.loads((artefact / "model.json").read_text("utf-8")).get("out_of_fold_sha256")
            labelled = read_out_of_fold(out_of_fold or find_out_of_fold(artefact), card, told)
        try:
            derived = derive(labelled, card, goal)
        except PromiseRefusedError as refusal:
            stderr.print(f"refused: {refusal}", markup=False)
            raise typer.Exit(3) from refusal
    if write:
        store_in_card(artefact, policy=derived)
    if as_json:
        print(json.dumps(derived, indent=2))  # noqa: T201
    else:
        _show(derived, written=write)


def store_in_card(artefact: Path, **parts: Any) -> None:
    """Replace parts of model.json, all or nothing; everything else there stays as it is."""
    file = artefact / "model.json"
    card = json.loads(file.read_text("utf-8")) | parts
    # One line: a list of numbers, one a line, would bury what people read.
    baseline = json.dumps(card.pop("baseline", None), separators=(",", ":"))
    text = json.dumps(card, indent=1).rstrip().removesuffix("}").rstrip()
    draft = file.with_suffix(".json.part")
    draft.write_text(f"{text}\n}}\n" if baseline == "null" else f'{text},\n "baseline": {baseline}\n}}\n', "utf-8")
    draft.replace(file)


def _show(derived: dict[str, Any], *, written: bool) -> None:
    evidence = derived["evidence"]
    coverage, reviewed = evidence["coverage"], 1 - evidence["coverage"]["value"]
    console.print(f"policy {derived['policy_version']}: accept from confidence {derived['accept_at']:.5f}")
    console.print(
        f"  coverage     {coverage['value']:.3f} [{coverage['low']:.3f}, {coverage['high']:.3f}], n = {evidence['n']:,}"
        f"; {reviewed:.1%} of photos of the labels go to a person",
        markup=False,
    )
    console.print(f"  errors       {evidence['errors']} of {evidence['accepted']} accepted")
    if "upper_bound" in evidence:
        level = derived["confidence_level"]
        console.print(f"  promise      at most {evidence['upper_bound']:.4f} wrong, with confidence {level:g}")
    else:
        console.print(f"  mean cost    {evidence['mean_cost']:.4f} per photo")
    console.print(f"  evidence     {evidence['source']}", markup=False)
    console.print("written to model.json" if written else "not written; --write stores it in model.json")
