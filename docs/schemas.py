"""JSON Schemas of the data that others read: the events that Kickstand publishes, and the record; their page."""

import json
from pathlib import Path
from typing import Any

from docs.markdown import table
from kickstand.events import ModelDegraded, Payload, Reason, Route
from kickstand.lifecycle.rollout import ModelApproved
from kickstand.records import Record
from kickstand.store import EVENT_SOURCE

EVENTS: dict[str, tuple[type[Payload], str]] = {  # type of the event, its detail, when it is published
    "Image Classified": (Record, "an upload has been decided: accepted, sent to review, or rejected"),
    "Review Requested": (Record, "a person must decide about the photo; right after “Image Classified”"),
    "Model Degraded": (ModelDegraded, "the monitor raises an alert; once, and not again until it is over"),
    "Model Approved": (ModelApproved, "somebody has approved a challenger in SageMaker's registry"),
}
PRIVATE: dict[type[Payload], str] = {Record: "review"}  # not published: it names reviewers
DRAFT = "https://json-schema.org/draft/2020-12/schema"

MEANINGS: dict[Reason, tuple[Route, str]] = {
    Reason.CONFIDENT: (Route.ACCEPT, "the confidence reaches the threshold of this class"),
    Reason.UNSURE: (Route.REVIEW, "the confidence is below the threshold: a person decides"),
    Reason.PERHAPS_NEITHER: (Route.REVIEW, "the photo may show none of the classes: a person decides"),
    Reason.REVIEW_EVERYTHING: (Route.REVIEW, "review-everything mode is on: a person decides"),
    Reason.NEITHER: (Route.REJECT, "the photo shows none of the classes"),
    Reason.RETAKE: (Route.REJECT, "the photo is too dark, blurred, small or bright: the explanation says what to do"),
    Reason.UNREADABLE: (Route.REJECT, "the file is not a photo, or is damaged: the explanation says why"),
}

PAGE = """# Decisions and events

Written by `make docs` from the code.

## Decisions

Each upload gets one record in DynamoDB, under its `image` (`s3://bucket/key`) and `version`, even if its event
arrives twice. The record holds all data that is needed to derive the decision again: the photo's SHA-256 and
statistics, the model's version and probabilities, the policy's version, the route with its reason, the execution and
the time.

{routes}

A random sample of accepted and rejected photos (`AuditRate`) also goes to review, with `audited` in the record:
these audits measure the accuracy. A rejected photo is a success. A failed execution is always a system fault: the event
is kept in the dead-letter queue, and an alarm fires.

## Events

Each link leads to a JSON Schema (draft 2020-12): validate against it, or generate types from it.

Kickstand publishes to EventBridge's default bus, with the source `kickstand`:

{events}

The [record](events/record.schema.json) is an item of the records table: the detail of the first two events, and
people's answers.

## Listen

A rule with this pattern gets all accepted photos:

```json
{{"source": ["kickstand"], "detail-type": ["Image Classified"], "detail": {{"decision": {{"route": ["accept"]}}}}}}
```

## What you can rely on

- An event comes at least once. Repeats of “Image Classified” have the same `image` and `version`.
- Fields are only ever added. Accept fields that you do not know, and a `reason` that you do not know.
- A field without a value is left out.
- No event names a reviewer or holds a photo. But it has the key of the object: put no personal data into keys.
"""


def write_schemas(folder: Path) -> dict[Path, str]:
    """events.md, and a schema for each event and for the record."""
    schemas = {"record": schema_of(Record, "Record", without=None)}
    rows = []
    for name, (detail, when) in EVENTS.items():
        file = name.lower().replace(" ", "-")
        schemas[file] = describe_event(name, detail)
        rows.append((f"[{name}](events/{file}.schema.json)", when))
    files = {folder / f"events/{name}.schema.json": json.dumps(schema, indent=2) for name, schema in schemas.items()}
    routes = [(route.value, f"`{reason}`", meaning) for reason, (route, meaning) in MEANINGS.items()]
    page = PAGE.format(
        events=table(("event", "published when"), rows), routes=table(("route", "reason", "meaning"), routes)
    )
    return {folder / "events.md": page, **{path: f"{text}\n" for path, text in files.items()}}


def describe_event(name: str, detail: type[Payload]) -> dict[str, Any]:
    """The schema of an event as EventBridge delivers it."""
    inner = schema_of(detail, f"{name}: detail", PRIVATE.get(detail))
    definitions = inner.pop("$defs", {})
    text, moment = {"type": "string"}, {"type": "string", "format": "date-time"}
    envelope = {
        "version": text,
        "id": text,
        "detail-type": {"const": name},
        "source": {"const": EVENT_SOURCE},
        "account": text,
        "time": moment,
        "region": text,
        "resources": {"type": "array", "items": text},
        "detail": {key: value for key, value in inner.items() if key != "$schema"},
    }
    whole = {"$schema": DRAFT, "title": name, "type": "object", "properties": envelope, "required": [*envelope]}
    return {**whole, "$defs": definitions} if definitions else whole


def schema_of(model: type[Payload], title: str, without: str | None) -> dict[str, Any]:
    """The schema of the model's JSON. A field that can be absent is not required: without a value it is left out."""
    schema = model.model_json_schema(mode="serialization")
    loosen(schema)
    if without:
        del schema["properties"][without]
    used = json.dumps(schema["properties"])
    definitions = schema.pop("$defs", {})
    kept: dict[str, Any] = {}
    while new := {name: each for name, each in definitions.items() if f'/{name}"' in used and name not in kept}:
        kept |= new
        used += json.dumps(new)
    return {"$schema": DRAFT, **schema, "title": title, **({"$defs": kept} if kept else {})}


def loosen(schema: Any) -> None:
    """A field that can be null can be absent; a reason can be one of a newer version."""
    if isinstance(schema, list):
        for item in schema:
            loosen(item)
    elif isinstance(schema, dict):
        for item in schema.values():
            loosen(item)
        if isinstance(properties := schema.get("properties"), dict):
            nullable = {name for name, each in properties.items() if {"type": "null"} in each.get("anyOf", [])}
            schema["required"] = [name for name in schema.get("required", []) if name not in nullable]
        if schema.get("title") == "Reason" and "enum" in schema:
            schema["examples"] = schema.pop("enum")
