"""One look at the records: what has moved, since when, and how often the answers are right."""

import json
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from kickstand.classify.policy import Switch
from kickstand.events import ModelDegraded, Payload, Route, Symptom
from kickstand.monitor.drift import Baseline, Budget, Checkpoint, Drift, Finding, Severity, describe
from kickstand.monitor.live_accuracy import Accepted, LiveAccuracy, PromiseCheck, check_promise, estimate, outcomes
from kickstand.records import Record
from kickstand.settings import Settings

FEWEST_A_DAY = 100.0
"""A handful of images in a minute does not count as a flood."""
LONGEST_GAP = timedelta(days=2)
"""After a longer pause a look begins so long ago: the memory that it takes is that of the images since."""

When = Literal["never", "promise", "harm"]
"""What turns the switch "review everything" on: nothing, a promise that is no longer supported, or any harm."""


class Watch(Payload):
    """What the monitor takes from the artefact's `model.json`.

    baseline: None where nobody has made one yet; then nothing can be said of drift.
    max_risk: the promise, largest share of accepted answers that is wrong; None where the policy was set otherwise.
    """

    model_version: str = ""
    policy_version: str = ""
    baseline: Baseline | None = None
    max_risk: float | None = None
    confidence_level: float = Field(default=0.95, gt=0, lt=1)


class Seen(Payload):
    """What every kind of look sees.

    images, routes: how many there were, and went where.
    drift: one finding for each statistic, alarms first; None without a baseline.
    accepted: live accuracy of accepted answers.
    """

    images: int
    routes: dict[Route, int]
    drift: tuple[Finding, ...] | None
    accepted: LiveAccuracy
    promise: PromiseCheck | None

    @property
    def moved(self) -> tuple[Finding, ...]:
        """The statistics that have moved."""
        return tuple(finding for finding in self.drift or () if finding.alarm)

    @property
    def paged(self) -> tuple[Finding, ...]:
        """Those that somebody should be called for."""
        return tuple(finding for finding in self.moved if finding.severity is Severity.PAGE)

    @property
    def broken_promise(self) -> bool:
        """Whether people's answers no longer support the promise."""
        return self.promise is not None and not self.promise.supported

    @property
    def harmed(self) -> bool:
        """Whether somebody should be called."""
        return bool(self.paged) or self.broken_promise


class MonitorReport(Seen):
    """What the monitor sees in any records.

    first, last: when the first and the last of the `images` were recorded.
    compared: images that drift has seen since its checkpoint began, those of earlier looks too.
    overall: live accuracy of all answers.
    """

    first: datetime | None
    last: datetime | None
    compared: int
    overall: LiveAccuracy


def read_watch(artefact: Path) -> Watch:
    """Raises OSError or ValueError where there is no readable `model.json`."""
    card = json.loads((artefact / "model.json").read_bytes())
    policy = card.get("policy", {})
    names = ("policy_version", "max_risk", "confidence_level")
    told = {key: policy[key] for key in names if policy.get(key) is not None}
    return Watch(baseline=card.get("baseline"), model_version=card.get("model_version", ""), **told)


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


# ---- look by look


class MonitorSettings(Settings):
    """What the scheduled monitor reads from its environment.

    lag_seconds: later than which executions may still be recording, or the index may lag behind.
    """

    records_table: str
    reviews_table: str
    control_table: str
    image_bucket: str
    review_everything_when: When
    lag_seconds: float = Field(ge=0)
    model_dir: Path


class Measure(NamedTuple):
    """A metric's name, unit and value, as CloudWatch shows it and alarms watch it."""

    name: str
    unit: str
    value: float


class MonitorState(Payload):
    """What the scheduled monitor keeps between two looks, in some kilobytes.

    until: everything that was written or answered by then has been counted.
    degraded: the harm that has been found and is not over. announced: the event about it is out. switched: the switch
        "review everything" has been on because of it.
    """

    until: datetime
    drift: Checkpoint | None = None
    accepted: Accepted
    degraded: ModelDegraded | None = None
    announced: bool = False
    switched: bool = False


class Look(Seen):
    """What one look of the scheduled monitor sees: images since the last look, accepted and promise of the last
    `live_accuracy.WINDOW`.
    """

    @property
    def symptoms(self) -> tuple[Symptom, ...]:
        """What amounts to harm; none where all is well."""
        found = [
            Symptom(statistic=finding.statistic, description=describe(finding), since=finding.since)
            for finding in self.paged
        ]
        if self.promise and self.broken_promise:
            told = f"{self.promise.errors} of {self.promise.audits} audited answers wrong, promised at most"
            found.insert(0, Symptom(statistic="promise", description=f"{told} {self.promise.max_risk:.1%}"))
        return tuple(found)

    @property
    def harm(self) -> str:
        """The symptoms in one sentence; empty where there are none."""
        return "; ".join(symptom.description for symptom in self.symptoms)

    def calls_for_review(self, when: When) -> bool:
        """Whether a person is to decide about everything."""
        return (self.harmed and when == "harm") or (self.broken_promise and when == "promise")

    @property
    def strengths(self) -> dict[str, float]:
        """Each statistic's drift, 1 for an alarm. For the log: as a metric each would cost $0.30 a month."""
        return {finding.statistic: finding.strength for finding in self.drift or ()}


def measure(look: Look, oldest_review: datetime | None, switch: Switch | None, now: datetime) -> list[Measure]:
    """What CloudWatch is told of a run.

    oldest_review: since when the review that has waited longest has been open; None where none is.
    """
    waited = (now - oldest_review).total_seconds() / 3600 if oldest_review else 0.0
    found = [
        Measure("OldestReviewHours", "None", waited),
        Measure("ReviewEverything", "None", float(switch is not None and switch.is_on(now))),
        Measure("MonitorImages", "Count", look.images),
        Measure("PromiseUnsupported", "None", float(look.broken_promise)),
        Measure("DriftPages", "Count", len(look.paged)),
        Measure("DriftNotices", "Count", len(look.moved) - len(look.paged)),
        Measure("DriftStrength", "Percent", 100 * max(look.strengths.values(), default=0.0)),
    ]
    if look.images:
        found.append(Measure("PercentReviewed", "Percent", 100 * look.routes[Route.REVIEW] / look.images))
        found.append(Measure("PercentRejected", "Percent", 100 * look.routes[Route.REJECT] / look.images))
    if look.accepted.images:
        found.append(Measure("AcceptedAccuracy", "Percent", 100 * look.accepted.accuracy))
        found.append(Measure("AcceptedAccuracyLow", "Percent", 100 * look.accepted.low))
    return found


def resume(standing: MonitorState | None, watch: Watch, until: datetime) -> MonitorState:
    """Where this look goes on from: the standing state, unless it is missing, too old, or of another policy."""
    earliest = until - LONGEST_GAP
    if standing is None or standing.until < earliest:
        state = MonitorState(until=earliest, accepted=Accepted(policy_version=watch.policy_version, since=earliest))
        return state.model_copy(update={"drift": standing.drift}) if standing else state
    if standing.accepted.policy_version != watch.policy_version:
        fresh = Accepted(policy_version=watch.policy_version, since=standing.until)
        return standing.model_copy(update={"accepted": fresh})
    return standing


def advance(
    state: MonitorState, changes: Iterable[Record], watch: Watch, until: datetime, bucket: str
) -> tuple[Look, MonitorState]:
    """One look at what has been written or answered since the last one; time and memory are linear in that.

    changes: everything since `state.until`, as far as it can be seen; what is newer than `until` is left to the next
        look, and may come more than once.
    until: later than which executions may still be recording, or the index may lag behind.
    """
    seen = {(record.image, record.version): record for record in changes}.values()
    written = [record for record in seen if state.until < record.recorded_at <= until]
    # Its place in the index may have moved on between finding and fetching it: then the next look sees it again.
    answered = [record for record in seen if record.review and (record.changed_at or record.recorded_at) <= until]
    routes = Counter(record.decision.route for record in written)
    budget = Budget(images_per_day=_pace(state.accepted, len(written), until))
    drift = Drift(watch.baseline, budget, state.drift) if watch.baseline else None
    if drift:
        drift.read(written)
    accepted = state.accepted.after(written, answered, until, 1.0 if watch.max_risk is None else watch.max_risk, budget)
    look = Look(
        images=len(written),
        routes={route: routes[route] for route in Route},
        drift=tuple(drift.findings()) if drift else None,
        accepted=accepted.estimate(watch.confidence_level),
        promise=None if watch.max_risk is None else accepted.check_promise(watch.max_risk, watch.confidence_level),
    )
    degraded = state.degraded if look.symptoms else None
    if look.symptoms and degraded is None:
        degraded = ModelDegraded(
            bucket=bucket,
            reason=look.harm,
            findings=look.symptoms,
            model_version=watch.model_version,
            policy_version=watch.policy_version,
            degraded_at=until,
        )
    return look, MonitorState(
        until=until,
        drift=drift.checkpoint() if drift else None,
        accepted=accepted,
        degraded=degraded,
        announced=state.announced and degraded is not None,
        switched=state.switched and degraded is not None,
    )


def _pace(accepted: Accepted, more: int, until: datetime) -> float:
    """Images a day so far."""
    days = max(1.0, (until.date() - min(accepted.images, default=until.date())).days + 1.0)
    return max(FEWEST_A_DAY, (sum(accepted.images.values()) + more) / days)
