"""The outcomes of many attempts of one family."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Tally:
    """Attempts of one family.

    decided: went through, as any other input would. refused: ended in an error that says why, or in a rejected record.
    unhandled: ended in anything else; each with what it was.
    slowest_s: CPU seconds of the slowest attempt. peak_mb: largest resident set of the process. None: not measured.
    """

    family: str
    tried: int = 0
    decided: int = 0
    refused: int = 0
    unhandled: list[str] = field(default_factory=list)
    slowest_s: float | None = None
    peak_mb: int | None = None

    def count(self, name: str, outcome: str) -> None:
        """outcome: "decided", "refused", or what went wrong."""
        self.tried += 1
        if outcome == "decided":
            self.decided += 1
        elif outcome == "refused":
            self.refused += 1
        else:
            self.unhandled.append(f"{name}: {outcome}")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def total(tallies: Iterable[Tally]) -> Tally:
    """All of them together."""
    everything = Tally("all")
    for tally in tallies:
        everything.tried += tally.tried
        everything.decided += tally.decided
        everything.refused += tally.refused
        everything.unhandled += tally.unhandled
    return everything
