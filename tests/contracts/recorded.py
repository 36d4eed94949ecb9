"""What functions do, as the tests have seen it: build/calls, which tests/conftest.py writes.

A test that needs it comes last in `make test`: without some of the calls, what only they show seems to be unused.
"""

import json
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, NoReturn

from kickstand_cli.project import PROJECT

CALLS = PROJECT / "build/calls"


class Call(NamedTuple):
    """A call of AWS. named: the parameters that name a resource.

    patience: seconds that it may take, all attempts and the pauses between them together.
    """

    function: str
    service: str
    operation: str
    named: dict[str, Any]
    patience: float


class Emitted(NamedTuple):
    """A metric that a function has sent. dimensions: their names."""

    function: str
    name: str
    dimensions: tuple[str, ...]
    namespace: str


@cache
def _all() -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {"calls": [], "metrics": []}
    for file in CALLS.glob("*.json"):
        for kind, rows in json.loads(file.read_bytes()).items():
            found[kind] += rows
    return found


def calls(absent: Callable[[str, str], NoReturn]) -> list[Call]:
    """Every call that was seen, once."""
    if not _all()["calls"]:
        absent("calls", "nothing that functions do has been recorded: make test does it")
    rows = {tuple(row) for row in _all()["calls"]}
    return [
        Call(function, service, operation, json.loads(named), patience)
        for function, service, operation, named, patience in sorted(rows)
    ]


def metrics(absent: Callable[[str, str], NoReturn]) -> set[Emitted]:
    """Every metric that was seen."""
    calls(absent)
    return {Emitted(function, name, tuple(of), namespace) for function, name, of, namespace in _all()["metrics"]}
