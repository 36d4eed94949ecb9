"""`kickstand replay`: what another policy would have made of stored records; nothing is invoked, nothing is changed."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from kickstand_cli.classify import ModelOption, stderr
from kickstand_cli.project import MODEL
from kickstand_cli.records import RecordsError, read_records

if TYPE_CHECKING:
    from kickstand.policy import SelectivePolicy
    from kickstand.records import Record

console = Console(highlight=False, soft_wrap=True)

LISTED = 20


def replay(
    records: Annotated[
        Path, typer.Option(metavar="FILE", help="Records, one JSON object a line, such as the demo's records.jsonl.")
    ],
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What `kickstand policy --json` printed, or a model.json.")
    ] = None,
    accept_at: Annotated[
        float | None, typer.Option(min=0, max=1, help="Another smallest confidence that is accepted.")
    ] = None,
    neither_accept_at_most: Annotated[
        float | None, typer.Option(min=0, max=1, help="Another largest p(neither) that is accepted.")
    ] = None,
    neither_reject_at_least: Annotated[
        float | None, typer.Option(min=0, max=1, help="Another smallest p(neither) that is rejected.")
    ] = None,
    artefact: ModelOption = MODEL,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as one JSON object.")] = False,
) -> None:
    """Decide stored records again by another policy: which answers change, the review load, the errors known.

    The policy is the artefact's, with what the options change. Errors come from reviews and audits, weighted by how
    probable it was that a person was asked; so they stay honest for images that only the other policy accepts.
    """
    from kickstand.artefact import read_card
    from kickstand.policy import SelectivePolicy

    changes = {
        "accept_at": accept_at,
        "neither_accept_at_most": neither_accept_at_most,
        "neither_reject_at_least": neither_reject_at_least,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        if policy:
            told = json.loads(policy.read_bytes())
            base = SelectivePolicy.model_validate(told.get("policy", told))
        else:
            base = read_card(artefact).policy
        chosen = base.model_copy(update=given | ({"policy_version": "replayed"} if given else {}))
        result = compare(read_records(records), chosen)
    except (RecordsError, OSError, ValueError, AttributeError) as error:
        stderr.print(f"error: {error}", markup=False)
        raise typer.Exit(1) from error
    if as_json:
        print(json.dumps(result))  # noqa: T201
    else:
        _print(result)


def compare(records: "Iterable[Record]", policy: "SelectivePolicy") -> dict[str, Any]:
    """Before and after, JSON-ready. Unreadable images have no scores: they stay as they were decided.

    routes: how many went, and would go, where. accepted: live accuracy of the accepted answers.
    """
    from kickstand.events import Route
    from kickstand.live_accuracy import Outcome, estimate, outcomes
    from kickstand.policy import decide

    stored = list(records)
    scored = [record for record in stored if record.prediction]
    before: Counter[str] = Counter(record.decision.route for record in stored)
    after: Counter[str] = Counter(record.decision.route for record in stored if not record.prediction)
    moves: Counter[str] = Counter()
    changed: list[dict[str, Any]] = []
    accepted: list[Outcome] = []
    for record, seen in zip(scored, outcomes(scored), strict=True):
        if record.prediction is None:
            continue
        decision = decide(record.prediction, policy)
        after[decision.route] += 1
        if decision.route is Route.ACCEPT:
            accepted.append(_as_label(record, seen))
        if decision.route is not record.decision.route:
            moves[f"{record.decision.route} → {decision.route}"] += 1
            changed.append(
                {
                    "image": record.image,
                    "version": record.version,
                    "from": record.decision.route,
                    "to": decision.route,
                    "label": record.prediction.label,
                    "confidence": record.prediction.confidence,
                    "neither": record.prediction.neither,
                    "truth": record.review.answer.label if record.review and record.review.answer else None,
                }
            )
    return {
        "policy": policy.model_dump(mode="json"),
        "images": len(stored),
        "changed": len(changed),
        "moves": dict(moves),
        "routes": {
            "before": {route: before[route] for route in Route},
            "after": {route: after[route] for route in Route},
        },
        "accepted": {
            "before": estimate(outcomes(scored, Route.ACCEPT)).model_dump(),
            "after": estimate(accepted).model_dump(),
        },
        "changes": changed,
    }


def _as_label(record: "Record", seen: Any) -> Any:
    """The outcome if the label is the answer, though the record may have been rejected."""
    prediction, answer = record.prediction, record.review.answer if record.review else None
    if prediction is None:
        return seen
    wrong = None if seen.wrong is None or answer is None else answer.label != prediction.label
    return seen._replace(expected=1 - prediction.confidence * (1 - prediction.neither), wrong=wrong)


def _print(result: dict[str, Any]) -> None:
    policy, routes = result["policy"], result["routes"]
    console.print(
        f"accept from confidence {policy['accept_at']:.5f} and p(neither) up to {policy['neither_accept_at_most']:g}; "
        f"reject from p(neither) {policy['neither_reject_at_least']:g}"
    )
    moves = ", ".join(f"{count} {move}" for move, count in result["moves"].items())
    console.print(f"{result['changed']:,} of {result['images']:,} answers change{': ' + moves if moves else ''}")
    for route, before in routes["before"].items():
        console.print(f"  {route:<8} {before:,} → {routes['after'][route]:,}", markup=False)
    for when, live in result["accepted"].items():
        console.print(
            f"accepted, {when:<6}  {live['accuracy']:.3f} [{live['low']:.3f}, {live['high']:.3f}] right; "
            f"{live['answers']:,} of {live['images']:,} seen by a person",
            markup=False,
        )
    for change in result["changes"][:LISTED]:
        truth = f", in truth {change['truth']}" if change["truth"] else ""
        console.print(
            f"  {change['from']} → {change['to']}: {change['image']} ({change['label']} {change['confidence']:.3f}, "
            f"p(neither) {change['neither']:.3f}{truth})",
            markup=False,
        )
    if result["changed"] > LISTED:
        console.print(f"  and {result['changed'] - LISTED:,} more: --json lists them all")
