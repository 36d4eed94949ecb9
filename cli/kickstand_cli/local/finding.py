"""One thing that `kickstand doctor` has looked at."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """lacking: something can be done without; unknown: it could not be checked; wrong: nothing works as it should."""

    OK = "ok"
    LACKING = "lacking"
    UNKNOWN = "unknown"
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    needed_for: what does not work without it. mend: what to do; empty when all is well.
    """

    name: str
    status: Status
    found: str
    needed_for: str
    mend: str = ""
