"""What a state machine's states find in their input: every way through it, by the shapes that each step leaves behind.

A shape is what JSON could be there: objects by their members, everything else as None. Nothing is computed, so each way
of a choice is gone; but for a choice on whether something is present.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import botocore.session
from pydantic import BaseModel

from kickstand.backfill.rules import Progress
from kickstand.events import Decision, ImageRef, Prediction, PreparedImage
from kickstand.ledger.books import as_event
from kickstand.lifecycle.dataset_store import Dataset
from kickstand.lifecycle.registry import Evaluation
from kickstand.records import Record
from kickstand_cli.project import PROJECT
from tests.contracts.stacks import Document

Shape = Any
NAMED = ("image", "version")
CAUGHT: Shape = {"Error": None, "Cause": None}


def of_model(model: type[BaseModel], full: bool) -> Shape:
    """What `model_dump(mode="json")` leaves; full: with every optional part, not null."""
    schema = model.model_json_schema(mode="serialization")
    return _of_schema(schema, schema.get("$defs", {}), full)


def _of_schema(schema: Document, definitions: Document, full: bool) -> Shape:
    if "$ref" in schema:
        return _of_schema(definitions[schema["$ref"].rpartition("/")[2]], definitions, full)
    if "anyOf" in schema:  # a value or null
        return _of_schema(schema["anyOf"][0], definitions, full) if full else None
    if "properties" not in schema:
        return None
    return {name: _of_schema(part, definitions, full) for name, part in schema["properties"].items()}


def of_operation(service: str, operation: str, full: bool) -> Shape:
    """What AWS answers: the members that it must, or all that it may have."""
    shape = operation_model(service, operation).output_shape
    members = () if shape is None else shape.members if full else shape.required_members
    return dict.fromkeys(members)


@cache
def _service(name: str) -> Any:
    return botocore.session.get_session().get_service_model(name)


def operation_model(service: str, operation: str) -> Any:
    """botocore's model of an operation, whose name begins with a small letter in state machines."""
    return _service(service).operation_model(operation[0].upper() + operation[1:])


def of_json(value: Any) -> Shape:
    return {key: of_json(part) for key, part in value.items()} if isinstance(value, dict) else None


RETURNS: dict[str, list[Shape]] = {  # by each function that a state machine calls
    "PrepareImageFunction": [of_model(PreparedImage, full=False), {"unreadable": None}],
    "ClassifyImageFunction:live": [of_model(Prediction, full=False), of_model(Prediction, full=True)],
    "DecideFunction": [of_model(Decision, full=False)],
    "RecordResultFunction": [dict.fromkeys((*NAMED, "duplicate"))],
    "AskPersonFunction": [{}],  # of a task token's answer nothing is kept
    "RecordReviewFunction": [dict.fromkeys((*NAMED, "status"))],
    "BackfillPhotosFunction": [of_model(Progress, full=False)],
    "PrepareDatasetFunction": [of_model(Dataset, full=False)],
    "EvaluateModelFunction": [of_model(Evaluation, full=False) | {"inference_image": None}],
}
PRESENT = {  # what AWS says is there at this point, though the shape has it as optional
    "Training Job Failed": "FailureReason",  # "If the training job failed, the reason it failed"
    "Transform Job Failed": "FailureReason",  # "If the transform job failed"
}
_UPLOADED = json.loads((PROJECT / "events/s3_object_created.json").read_bytes())
_REF = ImageRef.model_validate(_UPLOADED).model_copy(update={"version_id": None, "size": None})
INPUTS: dict[str, list[Shape]] = {
    "ClassifyImageStateMachine": [
        of_json(_UPLOADED),
        of_json(as_event(_REF)),
        {name: of_json(_UPLOADED[name]) for name in ("time", "detail")},  # started by hand: with what is needed,
        {},  # or wrongly
    ],
    "ReviewImageStateMachine": [{"detail": of_model(Record, full=full)} for full in (False, True)],
    "BackfillStateMachine": [
        {"order": {"run": None, "prefix": None}, "batches_at_once": None} | more
        for more in ({}, {"inventory": {"bucket": None, "key": None}})
    ],
    **{
        f"BackfillStateMachine: Decide {of}": [{"Items": None, "BatchInput": {"order": {"run": None, "prefix": None}}}]
        for of in ("Bucket", "Inventory")
    },
    "TrainModelStateMachine": [dict.fromkeys(("algorithm", "reason"))],
}


class Missing(NamedTuple):
    state: str
    path: str


def ways(machine: Document, inputs: list[Shape]) -> Iterator[tuple[str, Shape]]:
    """Every state with each input that some way through the machine gives it."""
    seen: set[tuple[str, str]] = set()
    waiting = [(machine["StartAt"], found) for found in inputs]
    while waiting:
        name, found = waiting.pop()
        key = name, json.dumps(found, sort_keys=True)
        if key not in seen:
            seen.add(key)
            yield name, found
            waiting += follow(name, machine["States"][name], found)


def explore(machine: Document, inputs: list[Shape]) -> set[Missing]:
    """The paths that some way through the machine does not find. Each is States.Runtime, which no Catch catches."""
    return {
        Missing(name, path)
        for name, found in ways(machine, inputs)
        for path in reads(machine["States"][name])
        if not has(found, path)
    }


def example(shape: Shape) -> Any:
    """A value of this shape; a number fits wherever a state reads one value."""
    return {key: example(part) for key, part in shape.items()} if isinstance(shape, dict) else 1


def reads(state: Document) -> Iterator[str]:
    """The paths of the input that a state reads, but for those that it only asks the presence of."""
    for key, value in state.items():
        if key in ("InputPath", "ItemsPath", "OutputPath") or (key.endswith("Path") and key != "ResultPath"):
            yield from paths(value)
        if key in ("Parameters", "ItemReader", "ItemBatcher"):
            yield from (path for expression in expressions(value) for path in paths(expression))
        if key == "Choices":
            for rule in value:
                if "IsPresent" not in rule:
                    yield from (path for word, text in rule.items() if word != "Next" for path in paths(text))


def expressions(part: Any) -> Iterator[str]:
    """What stands in members whose names end with `.$`."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
        if str(key).endswith(".$"):
            yield value
        else:
            yield from expressions(value)


def paths(expression: Any) -> list[str]:
    """The paths in an expression; `$$` is the context, which AWS fills in."""
    return re.findall(r"(?<![\w$])\$(?:\.\w+)*(?![\w$])", expression) if isinstance(expression, str) else []


def has(shape: Shape, path: str) -> bool:
    for word in path.split(".")[1:]:
        if not isinstance(shape, dict) or word not in shape:
            return False
        shape = shape[word]
    return True


def put(shape: Shape, path: str | None, result: Shape) -> Shape:
    """The shape with the result at a ResultPath of one member, in place of all, or nowhere."""
    if path is None:
        return shape
    return result if path == "$" else {**shape, path.removeprefix("$."): result}


def follow(name: str, state: Document, found: Shape) -> Iterator[tuple[str, Shape]]:
    """The states that may come next, each with its input."""
    for catcher in state.get("Catch", []):
        yield catcher["Next"], put(found, catcher.get("ResultPath", "$"), CAUGHT)
    if state["Type"] == "Choice":
        for rule in state["Choices"]:
            if "IsPresent" not in rule or has(found, rule["Variable"]) is rule["IsPresent"]:
                yield rule["Next"], found
        decided = any(
            "IsPresent" in rule and has(found, rule["Variable"]) is rule["IsPresent"] for rule in state["Choices"]
        )
        if not decided:
            yield state["Default"], found
    elif "Next" in state:
        for result in results(name, state, found):
            yield state["Next"], put(found, state.get("ResultPath", "$"), result)


def results(name: str, state: Document, found: Shape) -> list[Shape]:
    """What the state leaves at its ResultPath."""
    if state["Type"] == "Pass":
        return [of_json(state["Result"]) if "Result" in state else of_parameters(state.get("Parameters"), found)]
    if state["Type"] != "Task":
        return [found]
    called = str(state["Resource"])
    function = re.search(r":function:[\w-]*?-(\w+Function(?::live)?)$", called)
    if not function and not all(has(found, path) for path in reads(state)):
        return []  # it has failed
    if function:
        # A function that is given what it cannot read raises, and its error is caught.
        return [] if found == {"unreadable": None} else RETURNS[function[1]]
    if ".waitForTaskToken" in called:
        return [{}]
    service, operation = called.partition(":states:::")[2].removeprefix("aws-sdk:").split(":")
    answers = [of_operation(service, operation, full) for full in (False, True)]
    if name in PRESENT:
        answers = [answer | {PRESENT[name]: None} for answer in answers]
    if "ResultSelector" in state:
        return [of_parameters(state["ResultSelector"], answer) for answer in answers]
    return answers


def of_parameters(parameters: Any, _found: Shape) -> Shape:
    if not isinstance(parameters, dict):
        return None
    return {key.removesuffix(".$"): of_parameters(value, _found) for key, value in parameters.items()}


def selected(machine: Document) -> set[Missing]:
    """The paths of AWS's answers that a ResultSelector reads, and that an answer may lack."""
    found = set()
    for name, state in machine["States"].items():
        if "ResultSelector" in state:
            service, operation = str(state["Resource"]).partition(":states:::")[2].removeprefix("aws-sdk:").split(":")
            answer = of_operation(service, operation, full=False) | ({PRESENT[name]: None} if name in PRESENT else {})
            wanted = [path for expression in expressions(state["ResultSelector"]) for path in paths(expression)]
            found |= {Missing(name, path) for path in wanted if not has(answer, path)}
    return found
