"""`kickstand replay`: what another policy or model would have made of stored records; nothing in AWS is changed."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from kickstand.classify.artefact import read_card
from kickstand.classify.images import prepare
from kickstand.classify.inference import EmbeddedModel
from kickstand.classify.photo_quality import find_flaw
from kickstand.classify.policy import SelectivePolicy, decide
from kickstand.errors import InvalidImage
from kickstand.events import Prediction, Route
from kickstand.monitor.live_accuracy import Outcome, as_label, estimate, judge, outcomes
from kickstand.records import Record
from kickstand_cli.classify.classify import load_model
from kickstand_cli.deployment import DEFAULT_STACK, OutputsFile, StackName, reporting
from kickstand_cli.project import MODEL
from kickstand_cli.records import ImagesFolder, ReadUpload, RecordsFile, open_records
from kickstand_cli.terminal import CommandError, console, exit_on, show_progress, stderr

LISTED = 20

Rescored = tuple["Record", "Prediction | None"]
"""A stored record, and the prediction that is to be decided on now; None for an unreadable image."""


def replay(
    records: RecordsFile = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What `kickstand policy --json` printed, or a model.json.")
    ] = None,
    accept_at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[LABEL=]NUMBER", help="Another smallest confidence that is accepted: of all labels, or of one."
        ),
    ] = None,
    neither_accept_at_most: Annotated[
        float | None, typer.Option(min=0, max=1, help="Another largest p(neither) that is accepted.")
    ] = None,
    neither_reject_at_least: Annotated[
        float | None, typer.Option(min=0, max=1, help="Another smallest p(neither) that is rejected.")
    ] = None,
    artefact: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="DIR",
            help="Another model artefact: it looks at the stored images again, with its policy.",
        ),
    ] = None,
    images: ImagesFolder = None,
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as one JSON object.")] = False,
) -> None:
    """Decide stored records again by another policy or model: which answers change, errors, review load.

    The policy is that of --policy, else of the model's artefact, with what the options change. Another model reads the
    stored images and runs on this machine; nothing in AWS is invoked or written. Errors come from reviews and audits,
    weighted by how probable it was that a person was asked; so they stay honest for images that only the new policy
    or model accepts.

    Exit codes: 0 all compared; 1 an error, or images that are gone: they are named, and left out of the comparison.
    """
    changes = {
        "neither_accept_at_most": neither_accept_at_most,
        "neither_reject_at_least": neither_reject_at_least,
    }
    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    if images and not artefact:
        raise typer.BadParameter("only another --model looks at images", param_hint="--images")
    if artefact and records and not images:
        raise typer.BadParameter("with --records it needs --images, the folder that was uploaded", param_hint="--model")
    with reporting(), exit_on(OSError, ValueError, AttributeError):
        if policy:
            told = json.loads(policy.read_bytes())
            base = SelectivePolicy.model_validate(told.get("policy", told))
        else:
            base = read_card(artefact or MODEL).policy
        stored, read = open_records([records] if records else [], images, stack_name, outputs)
        labels = {label for record in stored if record.prediction for label in record.prediction.probabilities}
        given |= read_thresholds(accept_at or [], base, labels)
        chosen = base.model_copy(update=given | ({"policy_version": "replayed"} if given else {}))
        gone: list[str] = []
        pairs = (
            list(rescore(stored, load_model(artefact), read, gone))
            if artefact and read
            else [(record, record.prediction) for record in stored]
        )
        for reason in gone:
            stderr.print(f"error: left out: {reason}", markup=False)
        if gone and len(gone) == len(stored):
            raise CommandError("no image could be looked at again")
        result = compare(pairs, chosen) | {"left_out": gone}
    if as_json:
        print(json.dumps(result))  # noqa: T201
    else:
        _print(result)
    if gone:
        raise typer.Exit(1)


def read_thresholds(options: Sequence[str], policy: SelectivePolicy, labels: Collection[str]) -> dict[str, Any]:
    """The fields of the policy that --accept-at changes: a number for all labels, then those of single labels.

    Raises typer.BadParameter for what is no number from 0 to 1, or another label than these.
    """
    changes: dict[str, Any] = {}
    thresholds = dict(policy.thresholds)
    if any("=" in option for option in options):  # then an older policy's one number is that of each other label
        thresholds = {label: policy.threshold(label) for label in sorted({*labels, *thresholds})}
    for option in sorted(options, key=lambda option: "=" in option):
        label, _, text = option.rpartition("=")
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0.0 <= number <= 1.0:
            raise typer.BadParameter(f"{option!r} is no number from 0 to 1", param_hint="--accept-at")
        if label and label not in labels:
            known = ", ".join(sorted(labels)) or "none"
            raise typer.BadParameter(f"{label!r} is no label of the records: {known}", param_hint="--accept-at")
        if label:
            thresholds[label] = number
        else:
            changes["accept_at"], thresholds = number, dict.fromkeys(thresholds, number)
    return changes | {"thresholds": thresholds} if options else {}


def rescore(stored: Sequence[Record], model: "EmbeddedModel", read: ReadUpload, gone: list[str]) -> Iterator[Rescored]:
    """What this model says of the stored images, one after the other; an image that is gone, or not the one that was
    decided on, is left out and its reason added to `gone`.
    """
    with show_progress() as progress:
        for record in progress.track(stored, description="look again"):
            if record.prepared_image is None:
                yield record, None
                continue
            try:
                data = read(record)
                if (sha256 := hashlib.sha256(data).hexdigest()) != record.prepared_image.sha256:
                    raise InvalidImage(
                        f"{record.image}: SHA-256 {sha256[:12]}…, the record says {record.prepared_image.sha256[:12]}…"
                    )
                yield record, model.predict(prepare(data, record.image, model.card.input_shape))
            except InvalidImage as error:
                gone.append(str(error))


def compare(pairs: Iterable[Rescored], policy: "SelectivePolicy") -> dict[str, Any]:
    """Before and after, JSON-ready. Unreadable images have no scores: they stay as they were decided.

    model: whose predictions are decided on; None where there is none, or more than one.
    routes: how many the policies send where, whatever the switch "review everything" made of it.
    accepted: live accuracy of the accepted answers; by_label: of each label's, and how many a person found wrong.
    judged: answers that a person has checked, and how many of those were, and would be, wrong.
    changes: every image with another route, or another label.
    """
    stored = list(pairs)
    scored = [(record, record.used_prediction, now) for record, now in stored if record.used_prediction and now]
    before: Counter[str] = Counter(record.decision.by_policy for record, _ in stored)
    after: Counter[str] = Counter(
        record.decision.by_policy for record, now in stored if not (record.used_prediction and now)
    )
    moves: Counter[str] = Counter()
    judged: Counter[str] = Counter()
    changed: list[dict[str, Any]] = []
    chosen = [record for record, _, _ in scored if record.decision.by_policy is Route.ACCEPT]
    accepted = {
        "before": [(r.prediction.label, one) for r, one in zip(chosen, outcomes(chosen), strict=True) if r.prediction],
        "after": list[tuple[str, Outcome]](),
    }
    known = outcomes([record for record, _, _ in scored])
    for (record, was, prediction), seen in zip(scored, known, strict=True):
        image = record.prepared_image
        decision = decide(prediction, policy, flaw=find_flaw(image.statistics if image else None))
        then = record.model_copy(update={"prediction": prediction, "decision": decision})
        after[decision.route] += 1
        if seen.wrong is not None:
            judged.update(n=1, wrong_before=seen.wrong, wrong_after=bool(judge(then)))
        if decision.route is Route.ACCEPT:
            accepted["after"].append((prediction.label, as_label(then, seen)))
        if (decision.route, prediction.label) != (record.decision.by_policy, was.label):
            moves[f"{record.decision.by_policy} → {decision.route}"] += 1
            changed.append(
                {
                    "image": record.image,
                    "version": record.version,
                    "from": record.decision.by_policy,
                    "to": decision.route,
                    "label_before": was.label,
                    "label": prediction.label,
                    "confidence": prediction.confidence,
                    "neither": prediction.neither,
                    "truth": record.review.answer.label if record.review and record.review.answer else None,
                }
            )
    models = {prediction.model_version for _, _, prediction in scored}
    return {
        "policy": policy.model_dump(mode="json"),
        "model": models.pop() if len(models) == 1 else None,
        "images": len(stored),
        "changed": len(changed),
        "moves": dict(moves),
        "routes": {
            "before": {route: before[route] for route in Route},
            "after": {route: after[route] for route in Route},
        },
        "judged": {name: judged[name] for name in ("n", "wrong_before", "wrong_after")},
        "accepted": {when: estimate(one for _, one in answers).model_dump() for when, answers in accepted.items()},
        "by_label": {
            label: {
                when: _about([one for answer, one in answers if answer == label]) for when, answers in accepted.items()
            }
            for label in sorted({label for answers in accepted.values() for label, _ in answers})
        },
        "changes": changed,
    }


def _about(answers: Sequence[Outcome]) -> dict[str, Any]:
    return estimate(answers).model_dump() | {"wrong": sum(bool(one.wrong) for one in answers)}


def _print(result: dict[str, Any]) -> None:
    policy, routes = result["policy"], result["routes"]
    thresholds = policy["thresholds"] or {"every label": policy["accept_at"]}
    told = (f"{label} {'never' if at is None else f'from confidence {at:.5f}'}" for label, at in thresholds.items())
    console.print(
        f"accept {', '.join(told)}, with p(neither) up to {policy['neither_accept_at_most']:g}; "
        f"reject from p(neither) {policy['neither_reject_at_least']:g}",
        markup=False,
    )
    moves = ", ".join(f"{count} {move}" for move, count in result["moves"].items())
    if result["model"]:
        console.print(f"model {result['model']}", markup=False)
    console.print(f"{result['changed']:,} of {result['images']:,} answers change{': ' + moves if moves else ''}")
    for route, before in routes["before"].items():
        console.print(f"  {route:<8} {before:,} → {routes['after'][route]:,}", markup=False)
    judged = result["judged"]
    if judged["n"]:
        console.print(
            f"of {judged['n']:,} answers that a person has checked, {judged['wrong_before']:,} were wrong, "
            f"{judged['wrong_after']:,} would be"
        )
    for when, live in result["accepted"].items():
        console.print(
            f"accepted, {when:<6}  {live['accuracy']:.3f} [{live['low']:.3f}, {live['high']:.3f}] right; "
            f"{live['answers']:,} of {live['images']:,} seen by a person",
            markup=False,
        )
    for label, both in result["by_label"].items():
        before, after = both["before"], both["after"]
        console.print(
            f"  {label}: {before['wrong']:,} of {before['answers']:,} checked wrong → {after['wrong']:,} of "
            f"{after['answers']:,}; of {before['images']:,} accepted → {after['images']:,}",
            markup=False,
        )
    for change in result["changes"][:LISTED]:
        label = change["label"]
        if change["label_before"] != label:
            label = f"{change['label_before']} → {label}"
        truth = f", in truth {change['truth']}" if change["truth"] else ""
        console.print(
            f"  {change['from']} → {change['to']}: {change['image']} ({label} {change['confidence']:.3f}, "
            f"p(neither) {change['neither']:.3f}{truth})",
            markup=False,
        )
    if result["changed"] > LISTED:
        console.print(f"  and {result['changed'] - LISTED:,} more: --json lists them all")
