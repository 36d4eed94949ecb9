"""`kickstand import-capture`: SageMaker's data capture as decision records."""

import base64
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from kickstand.classify.artefact import ModelCard, read_card
from kickstand.classify.endpoint import read_answer
from kickstand.classify.images import scale
from kickstand.classify.policy import decide
from kickstand.errors import InvalidImage
from kickstand.events import Decision, ImageRef, Reason, Route, as_utc
from kickstand.records import Record
from kickstand.text import as_utf8, counted
from kickstand_cli.classify.classify import ModelOption
from kickstand_cli.files import expect_writable, list_files, replacing
from kickstand_cli.project import MODEL
from kickstand_cli.records import read_lines
from kickstand_cli.terminal import AsJson, CommandError, ExitCode, console, exit_on, print_json, reason, stderr

MOST = 2**31  # bytes of a file; data capture starts a new one every few minutes


def import_capture(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="JSON Lines from data capture; a folder means all *.jsonl in it."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write: one record a line.")] = Path(
        "records.jsonl"
    ),
    endpoint: Annotated[str, typer.Option(metavar="NAME", help="The name of the endpoint.")] = "captured",
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Write an empty file where there is no record; else that is an error.")
    ] = False,
    artefact: ModelOption = MODEL,
    as_json: AsJson = False,
) -> None:
    """Turn an endpoint's captured inferences into records.

    `kickstand monitor`, `report` and `baseline` read them with --records. An inference that was captured twice is one
    record. Classes and policy are those of model.json.

    Unusable lines and files are named on standard error, the others are written, and the exit code is 1. A folder
    without *.jsonl and files without a record are errors; an older file then stays as it was.

    Examples:
    $ kickstand import-capture captured/ --out records.jsonl
    """
    with exit_on(OSError, ValueError):
        card = read_card(artefact)
        paths = [path for file in files for path in _find_captures(file)]
        expect_writable(out, new_folder=True, inputs=[*files, artefact])
        failures = twice = 0
        seen: set[str] = set()
        with replacing(out) as written:
            for found in _read_all(paths, card, as_utf8(endpoint)):
                if isinstance(found, str):
                    stderr.print(f"error: {found}")
                    failures += 1
                elif found.image in seen:
                    twice += 1
                else:
                    seen.add(found.image)
                    written.write(f"{found.model_dump_json()}\n".encode())
            if not seen and not allow_empty:  # an older file stays as it was
                raise CommandError(f"{', '.join(map(str, files))}: no record in it, so {out} is not written")
    if as_json:
        print_json({"records": len(seen), "files": len(paths), "out": str(out), "twice": twice, "failed": failures})
    else:
        again = f"; captured twice: {counted(twice, 'line')}" if twice else ""
        console.print(f"{counted(len(seen), 'record')} of {counted(len(paths), 'file')} written to {out}{again}")
    if failures:
        raise typer.Exit(ExitCode.ERROR)


def _find_captures(file: Path) -> list[Path]:
    """The file itself, or all *.jsonl below a folder. Raises CommandError where there is none."""
    if not file.is_dir():
        return [file]
    unread: list[str] = []
    found = list_files(file, unread)
    if unread:
        raise CommandError(unread[0])
    captures = [path for path in found if path.suffix == ".jsonl"]
    if not captures:
        raise CommandError(f"{file}: no *.jsonl in this folder, but {counted(len(found), 'other file')}")
    return captures


def _read_all(paths: Iterable[Path], card: ModelCard, endpoint: str) -> Iterator[Record | str]:
    """Each line's record, or why a line or the rest of a file cannot be used."""
    for path in paths:
        try:
            for number, line in read_lines(path):
                try:
                    yield read_line(line, as_utf8(f"{path.name}:{number}"), card, endpoint)
                except CommandError as error:
                    yield f"{path}, line {number}: {error}"
        except (OSError, CommandError) as error:
            yield reason(error)


def read_line(line: str, name: str, card: ModelCard, endpoint: str) -> Record:
    """One captured inference as a record; name: of the file and line, which stands for the image's key.

    Format: https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-data-capture-endpoint.html

    Raises CommandError.
    """
    with _naming():
        captured = json.loads(line)
        if not isinstance(captured, dict):
            raise ValueError("not a JSON object")
        data, about = _part(captured, "captureData"), _part(captured, "eventMetadata")
        given, answer = _part(data, "endpointInput"), _part(data, "endpointOutput")
        time, event_id = about["inferenceTime"], about["eventId"]
        with _naming("endpointInput: "):
            photo = _decode(given)
        with _naming("endpointOutput: "):
            prediction = read_answer(json.loads(_decode(answer)), card, endpoint, latency_ms=0.0)
        with _naming("inferenceTime: "):
            at = as_utc(datetime.fromisoformat(time))
        if not isinstance(event_id, str) or not event_id or as_utf8(event_id) != event_id:
            raise ValueError("eventId is not a text")
        ref = ImageRef(bucket="captured", key=name, etag=event_id, version_id=event_id, size=len(photo), uploaded_at=at)
    try:
        # The caller may have scaled the photo, so its quality is unknown: no "retake".
        image, decision = scale(photo, name, card.input_shape)[1], decide(prediction, card.policy)
    except InvalidImage as error:
        image, decision = None, Decision(route=Route.REJECT, reason=Reason.UNREADABLE, explanation=str(error))
    return Record(
        image=f"captured:{endpoint}/{event_id}",
        version=event_id,
        image_ref=ref,
        prepared_image=image,
        prediction=prediction,
        decision=decision,
        execution=f"captured:{endpoint}",
        recorded_at=at,
    )


@contextmanager
def _naming(field: str = "") -> Iterator[None]:
    """Errors of a wrong line become a CommandError, which starts with the field."""
    try:
        yield
    except KeyError as error:
        raise CommandError(f"{field}{error} is missing") from error
    except RecursionError as error:
        raise CommandError(f"{field}too deeply nested JSON") from error
    except (ValueError, TypeError) as error:
        raise CommandError(f"{field}{reason(error)}") from error


def _part(whole: dict[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(part := whole[name], dict):
        raise ValueError(f"{name} is not an object")
    return part


def _decode(part: dict[str, Any]) -> bytes:
    """The bytes of a request or an answer. Raises ValueError."""
    if part["encoding"] == "BASE64":
        try:
            return base64.b64decode(part["data"], validate=True)
        except (ValueError, TypeError) as error:
            raise ValueError(f"damaged base64 ({error})") from error
    return str(part["data"]).encode()
