"""Events with missing, extra and wrong fields, for every function with a sample event: the shipped handlers on moto."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fuzz.tally import Tally
from kickstand.records import Record
from kickstand.store import put_record
from kickstand_cli.local.stack import Stack
from kickstand_cli.project import PROJECT

WRONG: tuple[Any, ...] = (
    *(None, True, 0, -1, 1e400, float("nan"), 5e-324, 10**30, "", " ", "nobody", "é\0\ud800", "../..", "x" * 5000),
    *([], {}, [1, "2"], {"a": {"b": []}}),
)
NOT_LOCAL = {"CheckGoldenImagesFunction"}  # it calls another function, and the local sandbox runs one at a time
# What says which field or which resource is wrong; the rest of Python's exceptions says that nobody thought of it.
CLEAR = {
    "ValidationError",  # pydantic's: it names the field
    "ClientError",  # AWS's, with its code
    "NoSuchBucket",
    "InvalidImage",
    "ModelUnavailable",
    "StoreUnavailable",
    "AlreadyAsked",
    "AlreadyAnswered",
    "LookupError",
    "PydanticSerializationError",  # both of text that is no UTF-8
    "UnicodeEncodeError",
    "Refused",
    "ReceiptHandleIsInvalid",  # SQS's, of a handle that it never gave
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def sample_events(stack: Stack) -> dict[str, Any]:
    """The sample event of each function that can be tried, by its logical ID; their photo and its record are there."""
    uploaded = json.loads((PROJECT / "events/prepare_image.json").read_bytes())["detail"]
    stack.s3.create_bucket(Bucket=uploaded["bucket"]["name"])
    photo = (PROJECT / "events/photo.png").read_bytes()
    stack.s3.put_object(Bucket=uploaded["bucket"]["name"], Key=uploaded["object"]["key"], Body=photo)
    asked = json.loads((PROJECT / "events/ask_person.json").read_bytes())["record"]
    put_record(stack.dynamodb, stack.outputs["RecordsTableName"], Record.model_validate(asked))
    functions = {
        name: PROJECT / f"events/{function.folder.name}.json"
        for name, function in stack.functions.items()
        if name not in NOT_LOCAL
    }
    return {name: json.loads(file.read_bytes()) for name, file in functions.items() if file.exists()}


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the parts of a JSON value are, outer ones first."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from paths(inner, (*path, key))


def changed(event: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """A copy of the event in which `change(parent, key)` was done at this path."""
    result = copy.deepcopy(event)
    parent = result
    for key in path[:-1]:
        parent = parent[key]
    change(parent, path[-1])
    return result


def mutations(event: Any) -> Iterator[tuple[str, Any]]:
    """The event without each of its parts, with each of them replaced, and with more than it should have."""
    for path in paths(event):
        name = ".".join(map(str, path))
        yield f"without {name}", changed(event, path, lambda parent, key: parent.pop(key))
        for wrong in WRONG:

            def put(parent: Any, key: Any, wrong: Any = wrong) -> None:
                parent[key] = wrong

            yield f"{name} = {str(wrong)[:20]!r}", changed(event, path, put)
    for wrong in WRONG:
        yield f"{str(wrong)[:20]!r} instead of an event", wrong
        yield f"and more: {str(wrong)[:20]!r}", {**event, "more": wrong, "task_token_": wrong, "detail_": {"x": wrong}}


def try_events(stack: Stack, function: str, event: Any, every: int, examples: int) -> Tally:
    """One function. every: try every n-th mutation; examples: how many events of Hypothesis' own to try besides."""
    tally = Tally(f"events of {stack.functions[function].folder.name}")
    if event.get("detail-type") == "Scheduled Event":  # nothing of it is read
        every, examples = 100 * every, 1
    for number, (name, hurt) in enumerate(mutations(event)):
        if number % every == 0:
            tally.count(name, attempt(stack, function, hurt))

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(JSON, st.sampled_from(sorted({path[0] for path in paths(event)}) or [""]), st.booleans())
    def anything(value: Any, field: str, whole: bool) -> None:
        hurt = value if whole else {**event, field: value}
        tally.count(f"{field or 'all'} = {str(hurt)[:60]}", attempt(stack, function, hurt))

    anything()
    return tally


def attempt(stack: Stack, function: str, event: Any) -> str:
    """ "decided", "refused", or what went wrong."""
    _, headers, body = stack.invoke(function, json.dumps(event).encode())
    if "X-Amz-Function-Error" not in headers:
        return "decided"
    failure = json.loads(body)
    if failure["errorType"] in CLEAR and failure["errorMessage"]:
        return "refused"
    return f"{failure['errorType']}: {failure['errorMessage']}"[:200]
