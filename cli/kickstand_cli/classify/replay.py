"""`kickstand replay`: stored decisions under another policy or model; nothing in AWS is changed."""

import hashlib
import json
import math
import sqlite3
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from kickstand.classify.artefact import read_card
from kickstand.classify.inference import EmbeddedModel
from kickstand.classify.photo_quality import find_flaw
from kickstand.classify.policy import decide
from kickstand.errors import InvalidImage, first_complaint
from kickstand.events import Prediction, Route, SelectivePolicy
from kickstand.monitor.live_accuracy import Outcome, as_label, estimate, judge, observe
from kickstand.records import Record
from kickstand_cli.classify.classify import Answer, answer_batch, cached_model, load_model
from kickstand_cli.deployment import DEFAULT_STACK, OutputsFile, StackName, reporting
from kickstand_cli.files import open_database, open_file
from kickstand_cli.parallel import in_processes, in_threads
from kickstand_cli.project import MODEL
from kickstand_cli.records import ImagesFolder, ReadUpload, RecordsFiles, stream_records
from kickstand_cli.terminal import (
    AsJson,
    CommandError,
    ExitCode,
    console,
    exit_on,
    print_json,
    reason,
    show_progress,
    stderr,
)

LISTED = 20
DIGITS = 4
"""Of expected errors: rounded ones are counted together, so memory does not grow with the records."""

Rescored = tuple[Record, Prediction | None]
"""A stored record, and the prediction to decide on now; None for an unreadable file."""

Found = tuple[str, bytes] | Prediction | str | None
"""A stored photo: its name and bytes, the model's prediction, or why it is left out; None: unreadable."""


def replay(
    records: RecordsFiles = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The output of `kickstand policy --json`, or a model.json.")
    ] = None,
    accept_at: Annotated[
        list[str] | None,
        typer.Option(metavar="[CLASS=]N", help="Another threshold, of all classes or of one; can be repeated."),
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
            help="Another model artefact: it classifies the stored photos again, with its policy.",
        ),
    ] = None,
    images: ImagesFolder = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keep the other model's predictions in this SQLite file: an interrupted replay then continues.",
        ),
    ] = None,
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
    as_json: AsJson = False,
) -> None:
    """Re-evaluate stored decisions under another policy or model.

    It shows which decisions change, the errors that people found, and the review load. The policy is that of --policy,
    else the model's, with the changes that the options make. Another model reads the stored photos on this machine;
    nothing in AWS is invoked or written. Errors come from reviews and audits, weighted by the probability of a review,
    so they are unbiased also for photos that only the new policy or model accepts.

    Exit codes: 0 all compared; 1 an error, or photos that are gone: they are named, and left out of the comparison.

    Examples:
    $ kickstand replay --records demo-output/records.jsonl --accept-at 0.99
    """
    changes = {
        "neither_accept_at_most": neither_accept_at_most,
        "neither_reject_at_least": neither_reject_at_least,
    }
    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    if images and not artefact:
        raise typer.BadParameter("only another --model reads photos", param_hint="--images")
    if artefact and records and not images:
        raise typer.BadParameter("with --records it needs --images, the folder that was uploaded", param_hint="--model")
    with reporting(), exit_on(OSError, ValueError):
        base = _read_policy(policy) if policy else read_card(artefact or MODEL).policy
        given |= read_thresholds(accept_at or [], base)
        try:
            chosen = SelectivePolicy.model_validate(
                base.model_dump() | given | ({"policy_version": "replayed"} if given else {})
            )
        except ValidationError as error:
            options = [f"--{name.replace('_', '-')}" for name in changes if name in given]
            raise typer.BadParameter(first_complaint(error), param_hint=options) from error
        stored, read = stream_records(records or [], images, stack_name, outputs)
        gone: list[str] = []
        labels: set[str] = set()
        pairs = (
            rescore(stored, load_model(artefact), read, gone, keep)
            if artefact and read
            else ((record, record.prediction) for record in stored)
        )
        result = compare(_note_labels(pairs, labels), chosen, None if as_json else LISTED) | {"left_out": gone}
        for reason in gone:
            stderr.print(f"error: left out: {reason}")
        if gone and not result["images"]:
            raise CommandError("no photo could be classified again")
        check_labels(accept_at or [], labels)
        if chosen.thresholds:  # an older policy has one threshold: that of each class that --accept-at does not name
            result["policy"]["thresholds"] = {label: chosen.threshold(label) for label in sorted(labels)}
    if as_json:
        print_json(result)
    else:
        _print(result)
    if gone:
        raise typer.Exit(ExitCode.ERROR)


def read_thresholds(options: Sequence[str], policy: SelectivePolicy) -> dict[str, Any]:
    """The fields of the policy that --accept-at changes: the threshold of all classes, then those of single ones.

    Raises typer.BadParameter for anything but a number from 0 to 1, and for a class that is named twice.
    """
    changes: dict[str, Any] = {}
    thresholds: dict[str, float | None] = dict(policy.thresholds)
    named: set[str] = set()
    for option in sorted(options, key=lambda option: "=" in option):
        label, _, text = option.rpartition("=")
        try:
            number = float(text) + 0.0  # not -0.0
        except ValueError:
            number = math.nan
        if not 0.0 <= number <= 1.0:
            raise typer.BadParameter(f"{option!r} is not a number from 0 to 1", param_hint="--accept-at")
        if label in named:
            raise typer.BadParameter(
                f"{label} is named twice" if label else "given twice for all classes", param_hint="--accept-at"
            )
        named.add(label)
        if label:
            thresholds[label] = number
        else:
            changes["accept_at"], thresholds = number, dict.fromkeys(thresholds, number)
    return changes | {"thresholds": thresholds} if options else {}


def check_labels(options: Sequence[str], labels: Collection[str]) -> None:
    """Raises typer.BadParameter where --accept-at names a class that no record has."""
    for label in (option.rpartition("=")[0] for option in options):
        if label and label not in labels:
            known = ", ".join(sorted(labels)) or "none"
            raise typer.BadParameter(
                f"{label!r} is not a class in these records, which have {known}", param_hint="--accept-at"
            )


def _note_labels(pairs: Iterable[Rescored], labels: set[str]) -> Iterator[Rescored]:
    for record, now in pairs:
        labels.update(record.prediction.probabilities if record.prediction else ())
        yield record, now


def _read_policy(file: Path) -> SelectivePolicy:
    """A policy, or the one in a model.json. Raises OSError, or CommandError that names the file."""
    with open_file(file) as opened:
        try:
            content = json.load(opened)
            return SelectivePolicy.model_validate(content.get("policy", content))
        except (ValueError, AttributeError, RecursionError) as error:
            raise CommandError(f"{file}: not a policy: {reason(error)}") from error


class Kept:
    """The predictions of one model, by the SHA-256 of the photo, in an SQLite file.

    Its methods raise CommandError where the file is not such a database, is damaged, or stays locked.
    """

    AT_ONCE = 200  # predictions written together; at most this many are computed again after a crash

    def __init__(self, file: Path, artefact: Path) -> None:
        self._file = file
        self._model = hashlib.sha256(
            (artefact / "model.json").read_bytes()
        ).hexdigest()  # it contains the network's hash
        self._new: list[tuple[str, str, str]] = []
        with self._naming():
            self._database = open_database(
                file, "CREATE TABLE IF NOT EXISTS answers (model, sha256, prediction, PRIMARY KEY (model, sha256))"
            )

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValidationError) as error:
            raise CommandError(
                f"{self._file}: predictions cannot be kept there ({reason(error)}); name another file by --keep"
            ) from error

    def close(self) -> None:
        try:
            self._write()
        finally:
            self._database.close()

    def get(self, sha256: str) -> Prediction | None:
        key = (self._model, sha256)
        with self._naming():
            row = self._database.execute(
                "SELECT prediction FROM answers WHERE model = ? AND sha256 = ?", key
            ).fetchone()
            return Prediction.model_validate_json(row[0]) if row else None

    def put(self, sha256: str, prediction: Prediction) -> None:
        self._new.append((self._model, sha256, prediction.model_dump_json(exclude={"policy"})))
        if len(self._new) >= self.AT_ONCE:
            self._write()

    def _write(self) -> None:
        """In one short transaction: another replay can use the file too."""
        rows, self._new = self._new, []
        with self._naming(), self._database:
            self._database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", rows)


def rescore(
    stored: Iterable[Record], model: EmbeddedModel, read: ReadUpload, gone: list[str], keep: Path | None
) -> Iterator[Rescored]:
    """This model's predictions for the stored photos, in order. A photo that is gone or has changed is left out, and
    the reason added to `gone`.

    keep: a file of predictions, so that none is computed twice.
    """
    kept = Kept(keep, model.artefact) if keep else None
    waiting: deque[Record] = deque()

    def look_up() -> Iterator[tuple[Record, Found]]:
        for record in stored:
            waiting.append(record)
            known = kept.get(record.prepared_image.sha256) if kept and record.prepared_image else None
            yield record, known

    def fetch(asked: tuple[Record, Found]) -> Found:
        record, known = asked
        if known or record.prepared_image is None:
            return known
        try:
            data = read(record)
        except InvalidImage as error:
            return str(error)
        if (sha256 := hashlib.sha256(data).hexdigest()) != record.prepared_image.sha256:
            return f"{record.image}: SHA-256 {sha256[:12]}…, the record says {record.prepared_image.sha256[:12]}…"
        return record.image, data

    def lost(found: Found) -> Prediction | str | None:
        return f"{found[0]}: the process that read it has crashed" if isinstance(found, tuple) else found

    try:
        with show_progress() as progress:
            answers = in_processes(partial(_predict, model.artefact), in_threads(fetch, look_up()), lost)
            for given in progress.track(answers, description="predict again"):
                record = waiting.popleft()
                if isinstance(given, str):
                    gone.append(given)
                    continue
                if kept and given and record.prepared_image:
                    kept.put(record.prepared_image.sha256, given)
                yield record, given
    finally:
        if kept:
            kept.close()


def _predict(artefact: Path, found: Sequence[Found]) -> list[Prediction | str | None]:
    """The model's prediction where there are bytes, or why there is none; everything else unchanged."""
    photos = [one for one in found if isinstance(one, tuple)]
    answers = iter(answer_batch(photos, cached_model(artefact)))
    return [_of(next(answers)) if isinstance(one, tuple) else one for one in found]


def _of(given: Answer) -> Prediction | str:
    return given.prediction or given.decision.explanation


def compare(pairs: Iterable[Rescored], policy: SelectivePolicy, listed: int | None = None) -> dict[str, Any]:
    """Before and after, JSON-ready. Unreadable files have no scores: their decision stays.

    listed: how many changes are listed; None: all.
    model: the one whose predictions are used; None where there is none, or more than one.
    routes: how many the policies send to each route, without review-everything mode.
    accepted: live accuracy of the accepted predictions; by_label: of each class, and how many a person found wrong.
    judged: predictions that a person has checked, and how many of them were wrong, and would be.
    changes: every photo with another route or another class.
    """
    before, after, moves, judged, images = Counter[str](), Counter[str](), Counter[str](), Counter[str](), 0
    asked, answered, models = Counter[Route](), Counter[Route](), set[str]()
    seen: dict[str, Counter[tuple[str, Route, Outcome]]] = {"before": Counter(), "after": Counter()}
    changed: list[dict[str, Any]] = []
    for record, prediction in pairs:
        images += 1
        was, route = record.used_prediction, record.decision.by_policy
        before[route] += 1
        if not (was and prediction):
            after[route] += 1
            continue
        models.add(prediction.model_version)
        one = observe(record)
        asked[route] += record.asks_a_person
        answered[route] += one.wrong is not None
        image = record.prepared_image
        decision = decide(prediction, policy, flaw=find_flaw(image.statistics if image else None))
        then = record.model_copy(update={"prediction": prediction, "decision": decision})
        after[decision.route] += 1
        if one.wrong is not None:
            judged.update(n=1, wrong_before=one.wrong, wrong_after=bool(judge(then)))
        if route is Route.ACCEPT:
            seen["before"][was.label, route, _rounded(one)] += 1
        if decision.route is Route.ACCEPT:
            seen["after"][prediction.label, route, _rounded(as_label(then, one))] += 1
        if (decision.route, prediction.label) != (route, was.label):
            moves[f"{route} → {decision.route}"] += 1
            if listed is None or len(changed) < listed:
                changed.append(
                    {
                        "image": record.image,
                        "version": record.version,
                        "from": route,
                        "to": decision.route,
                        "label_before": was.label,
                        "label": prediction.label,
                        "confidence": prediction.confidence,
                        "neither": prediction.neither,
                        "truth": record.review.answer.label if record.review and record.review.answer else None,
                    }
                )
    # Open reviews are assumed to be like the answered ones of their route: `outcomes` does the same.
    shares = {route: answered[route] / asked[route] if asked[route] else 0.0 for route in Route}
    accepted: dict[str, Counter[tuple[str, Outcome]]] = {"before": Counter(), "after": Counter()}
    for when, counts in seen.items():
        for (label, route, one), number in counts.items():
            accepted[when][label, one._replace(probability=one.probability * shares[route])] += number
    return {
        "policy": policy.model_dump(mode="json"),
        "model": models.pop() if len(models) == 1 else None,
        "images": images,
        "changed": moves.total(),
        "moves": dict(moves),
        "routes": {
            "before": {route: before[route] for route in Route},
            "after": {route: after[route] for route in Route},
        },
        "judged": {name: judged[name] for name in ("n", "wrong_before", "wrong_after")},
        "accepted": {when: estimate(_counts(answers)).model_dump() for when, answers in accepted.items()},
        "by_label": {
            label: {when: _about(_counts(answers, label)) for when, answers in accepted.items()}
            for label in sorted({label for answers in accepted.values() for label, _ in answers})
        },
        "changes": changed,
    }


def _rounded(one: Outcome) -> Outcome:
    return one._replace(expected=round(one.expected, DIGITS))


def _counts(answers: Mapping[tuple[str, Outcome], int], label: str | None = None) -> Counter[Outcome]:
    """The number of each outcome; label: only of the predictions with this class."""
    counts = Counter[Outcome]()
    for (answer, one), number in answers.items():
        if label in (None, answer):
            counts[one] += number
    return counts


def _about(counts: Mapping[Outcome, int]) -> dict[str, Any]:
    return estimate(counts).model_dump() | {"wrong": sum(number for one, number in counts.items() if one.wrong)}


def _print(result: dict[str, Any]) -> None:
    policy, routes = result["policy"], result["routes"]
    thresholds = policy["thresholds"] or {"every class": policy["accept_at"]}
    from_ = (f"{label} {'never' if at is None else f'from confidence {at:.5f}'}" for label, at in thresholds.items())
    console.print(
        f"accept {', '.join(from_)}, with p(neither) up to {policy['neither_accept_at_most']:g}; "
        f"reject from p(neither) {policy['neither_reject_at_least']:g}",
    )
    moves = ", ".join(f"{count} {move}" for move, count in result["moves"].items())
    if result["model"]:
        console.print(f"model {result['model']}")
    console.print(f"{result['changed']:,} of {result['images']:,} decisions change{': ' + moves if moves else ''}")
    for route, before in routes["before"].items():
        console.print(f"  {route:<8} {before:,} → {routes['after'][route]:,}")
    judged = result["judged"]
    if judged["n"]:
        console.print(
            f"of {judged['n']:,} predictions that a person has checked, {judged['wrong_before']:,} were wrong, "
            f"{judged['wrong_after']:,} would be"
        )
    for when, live in result["accepted"].items():
        if not live["images"]:
            console.print(f"accepted, {when:<6}  none")
            continue
        console.print(
            f"accepted, {when:<6}  {live['accuracy']:.3f} [{live['low']:.3f}, {live['high']:.3f}] correct; "
            f"{live['answers']:,} of {live['images']:,} reviewed",
        )
    for label, both in result["by_label"].items():
        before, after = both["before"], both["after"]
        console.print(
            f"  {label}: {before['wrong']:,} of {before['answers']:,} checked wrong → {after['wrong']:,} of "
            f"{after['answers']:,}; of {before['images']:,} accepted → {after['images']:,}",
        )
    for change in result["changes"][:LISTED]:
        label = change["label"]
        if change["label_before"] != label:
            label = f"{change['label_before']} → {label}"
        truth = f", in truth {change['truth']}" if change["truth"] else ""
        console.print(
            f"  {change['from']} → {change['to']}: {change['image']} ({label} {change['confidence']:.3f}, "
            f"p(neither) {change['neither']:.3f}{truth})",
        )
    if result["changed"] > LISTED:
        console.print(f"  and {result['changed'] - LISTED:,} more: --json lists them all")
