"""One look at the records: what has moved, since when, and how often the answers are right."""

import json
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from pydantic import Field

from kickstand.drift import Baseline, Budget, Checkpoint, Drift, Finding, Severity
from kickstand.events import Payload, Route
from kickstand.live_accuracy import LiveAccuracy, PromiseCheck, check_promise, estimate, outcomes
from kickstand.records import Record


class Watch(Payload):
    """What the monitor takes from the artefact's `model.json`.

    baseline: None where nobody has made one yet; then nothing can be said of drift.
    max_risk: the promise, largest share of accepted answers that is wrong; None where the policy was set otherwise.
    """

    baseline: Baseline | None = None
    max_risk: float | None = None
    confidence_level: float = Field(default=0.95, gt=0, lt=1)


class MonitorReport(Payload):
    """What the monitor sees.

    first, last: when the first and the last of the `images` were recorded. routes: how many went where.
    drift: one finding for each statistic, alarms first; None without a baseline.
    compared: images that drift has seen since its checkpoint began, those of earlier looks too.
    accepted, overall: live accuracy of accepted answers, and of all.
    """

    images: int
    first: datetime | None
    last: datetime | None
    routes: dict[Route, int]
    drift: tuple[Finding, ...] | None
    compared: int
    accepted: LiveAccuracy
    overall: LiveAccuracy
    promise: PromiseCheck | None

    @property
    def moved(self) -> tuple[Finding, ...]:
        """The statistics that have moved."""
        return tuple(finding for finding in self.drift or () if finding.alarm)

    @property
    def harmed(self) -> bool:
        """Whether somebody should be called: a page, or a promise that the evidence no longer supports."""
        paged = any(finding.severity is Severity.PAGE for finding in self.moved)
        return paged or (self.promise is not None and not self.promise.supported)


def read_watch(artefact: Path) -> Watch:
    """Raises OSError or ValueError where there is no readable `model.json`."""
    card = json.loads((artefact / "model.json").read_bytes())
    policy = card.get("policy", {})
    told = {key: policy[key] for key in ("max_risk", "confidence_level") if policy.get(key) is not None}
    return Watch(baseline=card.get("baseline"), **told)


def look(
    records: Iterable[Record], watch: Watch, budget: Budget, checkpoint: Checkpoint | None = None
) -> tuple[MonitorReport, Checkpoint | None]:
    """The report on these records, and where drift goes on from; time and memory are linear in them.

    Drift reads what is newer than the checkpoint. Accuracy counts all records: people answer late.
    """
    seen = list(records)
    drift = Drift(watch.baseline, budget, checkpoint) if watch.baseline else None
    if drift:
        drift.read(seen)
    times = [record.recorded_at for record in seen]
    routes = Counter(record.decision.route for record in seen)
    report = MonitorReport(
        images=len(seen),
        first=min(times, default=None),
        last=max(times, default=None),
        routes={route: routes[route] for route in Route},
        drift=tuple(drift.findings()) if drift else None,
        compared=drift.n if drift else 0,
        accepted=estimate(outcomes(seen, Route.ACCEPT), watch.confidence_level),
        overall=estimate(outcomes(seen), watch.confidence_level),
        promise=check_promise(seen, watch.max_risk, budget, watch.confidence_level)
        if watch.max_risk is not None
        else None,
    )
    return report, drift.checkpoint() if drift else None
