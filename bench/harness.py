"""Runs calls in turns and compares them: on a busy machine only what was measured side by side can be compared."""

import gc
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fuzz.images import count_seconds


@dataclass(frozen=True)
class Row:
    """One comparison. ours, anchor: one number for each round, the n-th ones measured one right after the other."""

    bench: str
    what: str
    against: str
    unit: str
    ours: list[float]
    anchor: list[float]
    target: float | None = None

    @property
    def ratios(self) -> list[float]:
        return [mine / other for mine, other in zip(self.ours, self.anchor, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return statistics.median(self.ratios)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio}


def in_turns(calls: Mapping[str, Callable[[], Any]], rounds: int, per_round: int) -> dict[str, list[float]]:
    """CPU milliseconds per call, decoders' too: for each round the median, the rounds taken in turns."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # what happens only once is not what is measured
    gc.collect()
    for _ in range(rounds):
        for name, call in calls.items():
            times = []
            for _ in range(per_round):
                started = count_seconds()
                call()
                times.append(count_seconds() - started)
            taken[name].append(statistics.median(times) * 1000)
    return taken


def spread(values: list[float]) -> str:
    """Median, and in brackets the quartiles."""
    return f"{_short(statistics.median(values))} [{', '.join(map(_short, statistics.quantiles(values, n=4)[::2]))}]"


def _short(value: float) -> str:
    """Three digits, or all before the point.

    >>> _short(1234.5), _short(1.2345)
    ('1,234', '1.23')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
