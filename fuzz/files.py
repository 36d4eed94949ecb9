"""Records and captured inferences in files, and states and records in tables, with what nobody means them to hold."""

import base64
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fuzz.events import WRONG, changed, paths
from fuzz.tally import Tally
from kickstand.classify.artefact import read_card
from kickstand.classify.policy import parse_switch
from kickstand.records import Record
from kickstand.store import readable, record_item
from kickstand_cli.monitor.import_capture import read_line
from kickstand_cli.project import PROJECT
from kickstand_cli.records import read_records
from kickstand_cli.terminal import CommandError

MODEL = PROJECT / "layers/model/model"
# As JSON's text: Python reads some of them as other numbers than they are.
NUMBERS = (
    *("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1E-400", "5e-324", "1e-200", "-0.0", "1e126", "2", "-1"),
    *("9" * 400, "0." + "1" * 400, "true", '"0.5"'),
)
DEEP = "[" * 50_000 + "]" * 50_000
ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252")


def hurt_lines(line: str) -> Iterator[tuple[str, str]]:
    """The JSON with each part left out, or something else in its place."""
    whole = json.loads(line)
    for path in paths(whole):
        name = ".".join(map(str, path))
        yield f"without {name}", json.dumps(changed(whole, path, lambda parent, key: parent.pop(key)))
        for wrong in WRONG:
            yield f"{name} = {str(wrong)[:20]!r}", json.dumps(changed(whole, path, _putting(wrong)))
        marked = json.dumps(changed(whole, path, _putting("@@")))
        for text in (*NUMBERS, DEEP):
            yield f"{name} = {text[:20]}", marked.replace('"@@"', text)


def _putting(value: Any) -> Callable[[Any, Any], None]:
    def put(parent: Any, key: Any) -> None:
        parent[key] = value

    return put


def hurt_files(line: str) -> Iterator[tuple[str, bytes]]:
    """Whole files: each hurt line between two good ones; other encodings; cut off; bytes changed."""
    for name, hurt in hurt_lines(line):
        yield name, f"{line}\n{hurt}\n{line}\n".encode()
    for encoding in ENCODINGS:
        yield encoding, f"{line}\r\n{line}".encode(encoding, "replace")
    data, draw = line.encode(), random.Random(5)
    for cut in range(0, len(data), max(1, len(data) // 40)):
        yield f"{cut} bytes of it", data[:cut]
    for number in range(200):
        at = draw.randrange(len(data))
        yield f"changed {number}", data[:at] + draw.randbytes(1) + data[at + 1 :]
    yield "nothing", b""
    yield "blank lines", b"\n \r\n\t\n"
    yield "NUL bytes", bytes(1000)
    yield "a line without end", b'{"image": "' + b"x" * 2_000_000


def sample_record() -> Record:
    return Record.model_validate(json.loads((PROJECT / "events/ask_person.json").read_bytes())["record"])


def sample_capture() -> str:
    """A line as data capture writes it."""
    photo = base64.b64encode((PROJECT / "events/photo.png").read_bytes()).decode()
    asked = {"observedContentType": "image/png", "mode": "INPUT", "data": photo, "encoding": "BASE64"}
    said = {"observedContentType": "application/json", "mode": "OUTPUT", "data": "[0.9, 0.1]", "encoding": "JSON"}
    told = {"eventId": "e", "inferenceTime": "2026-05-04T12:00:00Z"}
    return json.dumps({"captureData": {"endpointInput": asked, "endpointOutput": said}, "eventMetadata": told})


def try_record_files(folder: Path, every: int) -> Tally:
    """Every n-th hurt file of records."""
    tally, file = Tally("files of records"), folder / "records.jsonl"
    for number, (name, data) in enumerate(hurt_files(sample_record().model_dump_json())):
        if number % every == 0:
            file.write_bytes(data)
            tally.count(name, _attempt(lambda: [record_item(record) for record in read_records(file)]))
    return tally


def try_captures(every: int) -> Tally:
    """Every n-th hurt line of data capture, and hurt answers in a whole one; a record of it can be stored."""
    tally, card, line = Tally("captured inferences"), read_card(MODEL), sample_capture()
    answers = [f"[{first}, {second}]" for first in ("0.9", "1.0", *NUMBERS) for second in ("0.1", "0", *NUMBERS)]
    answers += [hurt for _, hurt in hurt_lines('{"probabilities": [0.9, 0.1], "neither": 0.1, "model_version": "m"}')]
    captured = json.loads(line)
    lines = [*hurt_lines(line)]
    for answer in answers:
        captured["captureData"]["endpointOutput"]["data"] = answer
        lines.append((f"answer {answer[:60]}", json.dumps(captured)))
    for number, (name, hurt) in enumerate(lines):
        if number % every == 0:
            tally.count(name, _attempt(lambda: _imported(hurt, card)))  # noqa: B023
    return tally


def _imported(line: str, card: Any) -> None:
    record = read_line(line, "a:1", card, "mine")
    if record.prediction is None or abs(math.fsum(record.prediction.probabilities.values()) - 1) > 0.02:
        raise RuntimeError(f"predicts {record.prediction}")
    record_item(record)


def try_items(every: int) -> Tally:
    """Every n-th hurt item of a table: a record is read or passed over, a switch is read or counts as on."""
    tally = Tally("items of tables")
    item = record_item(sample_record())
    wrong: tuple[dict[str, Any], ...] = (
        {"NULL": True}, {"N": "1E-130"}, {"N": "1E+125"}, {"N": "-1"}, {"S": ""}, {"S": "\ud800"}, {"BOOL": True},
        {"L": []}, {"M": {}}, {"S": "NaN"}, {"N": "9" * 38}, {"B": b"\0"}, {"SS": ["a"]},
    )  # fmt: skip
    hurt: list[dict[str, Any]] = [{key: value for key, value in item.items() if key != left} for left in item]
    hurt += [changed(item, path, _putting(value)) for path in paths(item) if len(path) % 2 for value in wrong]
    for number, one in enumerate(hurt):
        if number % every == 0:
            tally.count(str(one)[:60], _attempt(lambda: [*readable([one], Record)], "decided"))  # noqa: B023
    values: tuple[Any, ...] = (
        *(None, "", 0, [], {}, "9999", "2026-05-04", "2026-05-04T12:00:00+25:00", float("nan"), 10**30),
    )
    for value in values:
        for field in ("reason", "by", "since", "until"):
            whole: dict[str, Any] = {
                "reason": "r",
                "by": "b",
                "since": "2026-05-04T12:00Z",
                "until": "2026-05-05T12:00Z",
            }
            tally.count(f"switch {field} = {value!r}", _attempt(lambda: parse_switch(whole | {field: value})))  # noqa: B023
    return tally


def _attempt(read: Callable[[], object], refused: str = "refused") -> str:
    try:
        read()
    except (CommandError, ValueError) as error:
        return refused if str(error) else "an error without words"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    return "decided"
