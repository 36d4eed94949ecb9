"""`kickstand explain`: one decision in one paragraph; and whether it can be computed again."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from kickstand.classify.images import prepare
from kickstand.classify.inference import EmbeddedModel
from kickstand.classify.photo_quality import find_flaw
from kickstand.classify.policy import decide
from kickstand.errors import InvalidImage, first_complaint
from kickstand.events import Decision, Prediction, Reason, ReviewOutcome, Route, find_latest
from kickstand.ledger.books import Books
from kickstand.records import LaterDecision, Record
from kickstand.store import from_item
from kickstand.text import printable
from kickstand_cli.classify.classify import ModelOption, load_model
from kickstand_cli.deployment import (
    DEFAULT_STACK,
    OutputsFile,
    StackName,
    open_books,
    read_outputs,
    reporting,
)
from kickstand_cli.project import MODEL
from kickstand_cli.records import ImagesFolder, RecordsFiles, read_from_bucket, read_from_folder, read_records
from kickstand_cli.terminal import AsJson, CommandError, ExitCode, console, print_json

TOLERANCE = 0.001  # of a probability: processors round differently, and more so with 8-bit weights
ROUTES = {"accept": "was accepted", "reject": "was rejected", "review": "was sent to review"}


def explain(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="s3://bucket/key; with --records the key is enough.")],
    version: Annotated[
        str | None, typer.Option(metavar="ID", help="Which upload to that key; else the latest.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compute the decision again from the stored photo, and compare.")
    ] = False,
    artefact: ModelOption = MODEL,
    records: RecordsFiles = None,
    images: ImagesFolder = None,
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
    as_json: AsJson = False,
) -> None:
    """Explain one decision.

    --verify reads the same version of the photo, checks its SHA-256, repeats prepare, classify and decide with the
    model artefact of the recorded version, and names every field that differs.

    Exit codes: 0 explained, and with --verify it matches; 1 an error; 4 with --verify: it does not match.

    Examples:
    $ kickstand explain s3://bucket/bike.jpg --stack-name kickstand-dev
    $ kickstand explain bicycle/red-road-bike.jpg --records demo-output/records.jsonl
    """
    if verify and records and not images:
        raise typer.BadParameter(
            "with --records it needs --images, the folder that was uploaded", param_hint="--verify"
        )
    if not image or (not records and not image.startswith("s3://")):
        raise typer.BadParameter(f"{image}: expected s3://bucket/key; --records takes a key", param_hint="IMAGE")
    with reporting():
        if records:
            found = _from_files(records, image, version)
            read = read_from_folder(images) if images else None
        else:
            books = open_books(read_outputs(stack_name, outputs))
            found, read = _from_stack(books, image, version), read_from_bucket(books.s3)
        if not found:
            which = f"{image} (version {version})" if version else image
            raise CommandError(f"{which}: it has no record")
        latest = find_latest(record.image_ref for record in found)
        record = max((one for one in found if one.image_ref in latest), key=lambda one: one.recorded_at)
        if not as_json:
            console.print(describe(record))
        if len(found) > 1 and not as_json:
            which = "the latest" if len(latest) == 1 else "one of the latest, from the same second,"
            console.print(f"It is {which} of {len(found)} uploads to this key; --version names another.")
        differences = None
        if verify and read:
            try:
                data = read(record)
            except InvalidImage as error:
                raise CommandError(f"cannot be verified: {error}") from error
            differences = compare(record, data, load_model(artefact))
            for difference in differences if not as_json else ():
                console.print(f"differs: {difference}")
            if not differences and not as_json:
                console.print("verified: computed again from the stored photo, the result is the same")
        if as_json:
            explained = {"explanation": describe(record), "record": record.model_dump(mode="json")}
            print_json(explained | {"uploads_to_key": len(found), "differences": differences})
        if differences:
            raise typer.Exit(ExitCode.ATTENTION)


# ---- the paragraph


def describe(record: Record) -> str:
    """The upload, its decision and the reason, for people."""
    first = [_what(record), _scores(record.prediction), _route(record.decision), *_audit(record), *_review(record)]
    return printable(" ".join([*first, *map(_later, record.later)]))


def _what(record: Record) -> str:
    ref, photo = record.image_ref, record.prepared_image
    details = [f"version {record.version}"]
    if photo:
        details += [f"{photo.format}, {photo.width} × {photo.height} pixels", f"SHA-256 {photo.sha256[:12]}…"]
    return (
        f"{record.image} ({'; '.join(details)}) was uploaded at {_at(ref.uploaded_at)} "
        f"and decided at {_at(record.recorded_at)} by execution {record.execution.rpartition(':')[2]}."
    )


def _later(later: LaterDecision) -> str:
    asked = " It was not sent to review again." if later.decision.route is Route.REVIEW else ""
    return (
        f"Another model decided again at {_at(later.decided_at)}, for backfill {later.by}; the first decision stands. "
        f"{_scores(later.prediction)} {_route(later.decision, 'would be sent to review')}{asked}"
    )


def _scores(prediction: Prediction | None) -> str:
    if prediction is None:
        return "No model classified it."
    others = sorted(prediction.probabilities.items(), key=lambda item: -item[1])[1:]
    return (
        f"Model {prediction.model_version} ({prediction.backend}, {prediction.latency_ms:.1f} ms) saw "
        f"{prediction.label} with confidence {prediction.confidence:.3f} "
        f"({', '.join(f'{label} {probability:.3f}' for label, probability in others)}), "
        f"and a probability of {prediction.neither:.3f} that it shows none of the classes."
        + (f" It was used instead of the endpoint: {prediction.fallback}." if prediction.fallback else "")
    )


def _route(decision: Decision, review: str = ROUTES["review"]) -> str:
    """review: the words for the route to review."""
    policy = f", by policy {decision.policy_version}" if decision.policy_version else ""
    because = f": {decision.explanation}" if decision.explanation else ""
    route = review if decision.route is Route.REVIEW else ROUTES[decision.route]
    return f"It {route} ({decision.reason.replace('_', ' ')}{policy}){because}."


def _audit(record: Record) -> list[str]:
    if record.decision.route == "review" or not record.audit_probability:
        return []
    drawn = "is" if record.audited else "is not"
    return [f"A random {record.audit_probability:.1%} of such predictions are audited; this one {drawn} among them."]


def _review(record: Record) -> list[str]:
    outcome = record.review
    if outcome is None:
        return ["It waits for a person's answer."] if record.asks_a_person else []
    asked = f"The review was opened at {_at(outcome.requested_at)}, {_why(outcome)}."
    answer = outcome.answer
    if answer is None:
        return [asked, "Nobody answered in time; the review stays open."]
    late = ", late" if answer.late else ""
    label = "could not say what it shows" if answer.label == "cannot_tell" else f"answered {answer.label}"
    return [
        asked,
        f"{answer.reviewer} {label} at {_at(answer.answered_at)}{late}, "
        f"{answer.seconds_taken:.0f} s after the photo was shown.",
    ]


def _why(outcome: ReviewOutcome) -> str:
    if outcome.why == "audit":
        return "for the audit"
    if outcome.why == "review_everything":
        return "because review-everything mode was on"
    return f"because the decision's reason was “{outcome.why.replace('_', ' ')}”"


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S %Z}"


# ---- computed again


def compare(record: Record, data: bytes, model: "EmbeddedModel") -> list[str]:
    """The fields that differ when these bytes go through prepare, classify and decide again.

    Raises CommandError when another model decided.
    """
    was, version = record.prediction, model.card.model_version
    if was and was.model_version != version:
        raise CommandError(
            f"model {was.model_version} decided, but this artefact is {version}; name the other's folder by --model"
        )
    sha256 = hashlib.sha256(data).hexdigest()
    if record.prepared_image and record.prepared_image.sha256 != sha256:
        return [f"sha256 was {record.prepared_image.sha256}, is {sha256}: the stored photo is another file"]
    try:
        prepared = prepare(data, record.image, model.card.input_shape)
    except InvalidImage:  # not the words of the explanation, which may differ between versions
        return _differences([("reason", record.decision.reason, Reason.UNREADABLE)])
    if record.prepared_image is None or was is None:
        return [f"decision.reason was {record.decision.reason}, but now the photo can be read"]
    prediction = model.predict(prepared)
    switched_on = record.decision.explanation if record.decision.reason is Reason.REVIEW_EVERYTHING else None
    decision = decide(prediction, model.card.policy, switched_on, find_flaw(prepared.statistics))
    statistics = record.prepared_image.statistics.model_dump()
    labels = sorted(was.probabilities.keys() | prediction.probabilities.keys())
    return _differences(
        [
            *((name, getattr(record.prepared_image, name), getattr(prepared, name)) for name in ("width", "height")),
            *((f"statistics.{name}", statistics[name], getattr(prepared.statistics, name)) for name in statistics),
            ("label", was.label, prediction.label),
            *(
                (f"probabilities.{label}", was.probabilities.get(label), prediction.probabilities.get(label))
                for label in labels
            ),
            ("neither", was.neither, prediction.neither),
            ("policy_version", record.decision.policy_version, decision.policy_version),
            ("route", record.decision.route, decision.route),
            ("reason", record.decision.reason, decision.reason),
        ]
    )


def _differences(fields: Iterable[tuple[str, Any, Any]]) -> list[str]:
    def same(old: Any, new: Any) -> bool:
        if isinstance(old, float) and isinstance(new, float):
            return abs(old - new) <= TOLERANCE
        return bool(old == new)

    return [f"{name} was {old}, is {new}" for name, old, new in fields if not same(old, new)]


# ---- where the records are


def _from_files(files: Sequence[Path], image: str, version: str | None) -> list[Record]:
    return [
        record
        for record in read_records(*files)
        if image in (record.image, record.image_ref.key) and version in (None, record.version)
    ]


def _from_stack(books: Books, image: str, version: str | None) -> list[Record]:
    pages = books.dynamodb.get_paginator("query").paginate(
        TableName=books.records_table,
        KeyConditionExpression="image = :image",
        ExpressionAttributeValues={":image": {"S": image}},
    )
    return [_read(item) for page in pages for item in page["Items"] if version in (None, item["version"]["S"])]


def _read(item: Mapping[str, Any]) -> Record:
    try:
        return from_item(item)
    except ValueError as error:
        which = f"{item['image']['S']} (version {item['version']['S']})"
        raise CommandError(f"{which}: its record cannot be read: {first_complaint(error)}") from error
