"""One thing that `kickstand doctor` checked."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """lacking: some commands do not work; unknown: it could not be checked; wrong: nothing works as it should."""

    OK = "ok"
    LACKING = "lacking"
    UNKNOWN = "unknown"
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """One thing that was checked.

    needed_for: what does not work without it. fix: what to do; empty when all is well.
    """

    name: str
    status: Status
    found: str
    needed_for: str
    fix: str = ""
