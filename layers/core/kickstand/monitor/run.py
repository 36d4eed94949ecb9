"""A run of the monitor: which statistics have moved, since when, and how often the predictions are correct."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from kickstand.classify.artefact import read_part
from kickstand.classify.policy import Switch
from kickstand.classify.promise import ANY_LABEL, Promise
from kickstand.classify.stated import StatedCard, StatedPolicy
from kickstand.events import ModelDegraded, Moment, Payload, Probability, Route, Symptom
from kickstand.monitor.drift import (
    Baseline,
    Budget,
    Checkpoint,
    Drift,
    Ended,
    Finding,
    PromisedMix,
    Severity,
    describe,
)
from kickstand.monitor.live_accuracy import (
    Accepted,
    Claim,
    LiveAccuracy,
    PromiseCheck,
    PromiseStatus,
    accepted_by_label,
    check_promise,
    estimate,
    list_claims,
    outcomes,
)
from kickstand.records import Record
from kickstand.settings import Settings

FEWEST_A_DAY = 100.0
"""A few photos in a minute do not count as a flood."""
LONGEST_GAP = timedelta(days=2)
"""After a longer pause, a run reads only this much."""

SYMPTOMS_NAMED = 5
"""A sentence names this many symptoms, and counts the others."""

When = Literal["never", "promise", "harm"]
"""What turns review-everything mode on: nothing, a guarantee that is no longer supported, or any alert."""


class Watch(Payload):
    """What the monitor reads from the artefact's `model.json`.

    baseline: None if there is none yet; then only the guaranteed mix can be compared.
    promise: None if the policy has no guarantee.
    refused: classes without accepted predictions.
    shares_at_most: largest share of predictions of each class that the guaranteed mix allows; empty without one.
    """

    model_version: str = ""
    policy_version: str = ""
    baseline: Baseline | None = None
    promise: Promise | None = None
    refused: tuple[str, ...] = ()
    shares_at_most: dict[str, Probability] = Field(default_factory=dict)

    @property
    def confidence_level(self) -> float:
        """Of the guarantee and of every interval."""
        return self.promise.confidence_level if self.promise else 0.95

    @property
    def label_error(self) -> float:
        """Largest probability that a person's label is wrong."""
        return self.promise.label_error if self.promise else 0.0

    @property
    def claims(self) -> list[Claim]:
        """The checkable parts of the guarantee."""
        return list_claims(self.promise, self.refused)

    def concerns(self, record: Record) -> bool:
        """Whether the guarantee's own policy has decided the record. Without a version, every record counts."""
        return self.policy_version in ("", record.decision.policy_version)

    @property
    def mix(self) -> PromisedMix | None:
        """The guaranteed mix, as drift watches it."""
        if self.promise is None or not self.shares_at_most:
            return None
        return PromisedMix(self.model_version, self.policy_version, self.promise, self.shares_at_most)


class Seen(Payload):
    """The results of a scheduled run and of a report.

    images, routes: number of photos, in all and by route.
    drift: one finding for each statistic, alarms first; None without a baseline and a guaranteed mix.
    accepted: live accuracy of accepted predictions; accepted_by_label: of those of each class.
    promises: one check of the guarantee for each class with accepted predictions; a single one for an older guarantee.
    """

    images: int
    routes: dict[Route, int]
    drift: tuple[Finding, ...] | None
    accepted: LiveAccuracy
    accepted_by_label: dict[str, LiveAccuracy]
    promises: tuple[PromiseCheck, ...]

    @property
    def promise(self) -> PromiseCheck | None:
        """The worst check; None if nothing can be checked."""
        return max(
            self.promises, key=lambda check: ([*PromiseStatus].index(check.status), check.evidence), default=None
        )

    @property
    def moved(self) -> tuple[Finding, ...]:
        """The statistics that have moved."""
        return tuple(finding for finding in self.drift or () if finding.alarm)

    @property
    def paged(self) -> tuple[Finding, ...]:
        """Those that wake somebody."""
        return tuple(finding for finding in self.moved if finding.severity is Severity.PAGE)

    @property
    def unsupported(self) -> tuple[PromiseCheck, ...]:
        """The checks of guarantees that people's answers no longer support."""
        return tuple(check for check in self.promises if not check.supported)

    @property
    def broken_promise(self) -> bool:
        """Whether people's answers no longer support the guarantee about some class."""
        return bool(self.unsupported)

    @property
    def harmed(self) -> bool:
        """Whether somebody must be woken."""
        return bool(self.paged) or self.broken_promise


class AnswerShare(Payload):
    """How often a class is the prediction, and what the guaranteed mix allows.

    label: the class; or "neither", for photos with too large a p(neither). share: of the `images` predictions of the
        watched model. at_most: a larger share is outside the guaranteed mix. promised: smallest and largest guaranteed
        share of photos that show this class, among those that show one; for "neither", of all photos.
    """

    label: str
    share: float
    images: int
    at_most: float
    promised: tuple[float, float]


class MonitorReport(Seen):
    """The monitor's results about any records.

    first, last: when the first and the last of the `images` were recorded.
    compared: photos that drift has read since its checkpoint began, also in earlier runs.
    overall: live accuracy of all predictions.
    mix: of the predictions; empty if the policy guarantees none.
    refused: classes without accepted predictions, which need no check.
    ended: the alarms of drift that ended among these records, the first to end first.
    """

    first: datetime | None
    last: datetime | None
    compared: int
    overall: LiveAccuracy
    mix: tuple[AnswerShare, ...]
    refused: tuple[str, ...]
    ended: tuple[Ended, ...] = ()


class _WatchedCard(StatedCard):
    model_version: str = ""
    labels: tuple[str, ...] = ()
    policy: StatedPolicy = StatedPolicy()
    baseline: Baseline | None = None


def read_watch(artefact: Path) -> Watch:
    """Raises OSError, or ValueError that names the file and the field."""
    card = read_part(artefact, _WatchedCard)
    return Watch(
        model_version=card.model_version,
        policy_version=card.policy.policy_version,
        baseline=card.baseline,
        promise=card.policy.promise,
        refused=card.policy.unaccepted,
        shares_at_most=card.policy.evidence.shares_at_most,
    )


def examine(
    records: Iterable[Record], watch: Watch, budget: Budget, checkpoint: Checkpoint | None = None
) -> tuple[MonitorReport, Checkpoint | None]:
    """The report on these records, and the next checkpoint of drift; time and memory are linear in their number.

    Drift reads records after the checkpoint. Accuracy counts all records, since people answer late. The guarantee is
    tested only with predictions of its own policy.
    """
    seen = list(records)
    drift = _drift(watch, budget, checkpoint)
    if drift:
        drift.read(seen)
    level, label_error = watch.confidence_level, watch.label_error
    times = [record.recorded_at for record in seen]
    routes = Counter(record.decision.route for record in seen)
    report = MonitorReport(
        images=len(seen),
        first=min(times, default=None),
        last=max(times, default=None),
        routes={route: routes[route] for route in Route},
        drift=tuple(drift.findings()) if drift else None,
        compared=drift.n if drift else 0,
        accepted=estimate(outcomes(seen, Route.ACCEPT), level, label_error),
        accepted_by_label={
            label: estimate(outcomes(part), level, label_error) for label, part in accepted_by_label(seen).items()
        },
        overall=estimate(outcomes(seen), level, label_error),
        promises=check_promise(filter(watch.concerns, seen), watch.promise, budget, watch.refused),
        mix=_answer_shares(seen, watch.mix),
        refused=watch.refused,
        ended=tuple(drift.ended) if drift else (),
    )
    return report, drift.checkpoint() if drift else None


def _drift(watch: Watch, budget: Budget, checkpoint: Checkpoint | None) -> Drift | None:
    """None if there is nothing to compare with."""
    return Drift(watch.baseline, budget, checkpoint, watch.mix) if watch.baseline or watch.mix else None


def _answer_shares(records: Iterable[Record], mix: PromisedMix | None) -> tuple[AnswerShare, ...]:
    if mix is None:
        return ()
    hits, n = Counter[str](), Counter[str]()
    for record in records:
        for label, hit in mix.measure(record).items():
            n[label] += 1
            hits[label] += hit
    return tuple(
        AnswerShare(
            label=label,
            share=round(hits[label] / n[label], 6) if n[label] else 0.0,
            images=n[label],
            at_most=at_most,
            promised=mix.range_of(label),
        )
        for label, at_most in mix.shares_at_most.items()
    )


# ---- run by run


class MonitorSettings(Settings):
    """Settings of the scheduled monitor.

    lag_seconds: younger records may not be written or indexed yet.
    """

    records_table: str
    reviews_table: str
    control_table: str
    image_bucket: str
    review_everything_when: When
    lag_seconds: float = Field(ge=0)
    model_dir: Path


class Measure(NamedTuple):
    """A CloudWatch metric: its name, unit and value."""

    name: str
    unit: str
    value: float


class Slice(Payload):
    """A counted part of a backlog: the records that changed after the first moment and until the second, by the index
    of changes at read_at.
    """

    after: Moment
    until: Moment
    read_at: Moment


class MonitorState(Payload):
    """The state of the scheduled monitor between two runs, some kilobytes.

    until: everything that was written or answered by then has been counted.
    slices: of a backlog that is being worked off; empty once nothing is left.
    lost: why an earlier state could not be read; empty if none was lost. Its knowledge is gone, so this is an alert
        until people's answers alone show every guarantee again.
    degraded: the present alert. announced: whether its event was published. switched: whether the monitor has turned
        review-everything mode on because of it, and not off since.
    """

    until: Moment
    drift: Checkpoint | None = None
    accepted: Accepted
    degraded: ModelDegraded | None = None
    announced: bool = False
    switched: bool = False
    slices: tuple[Slice, ...] = ()
    lost: str = ""

    def has_counted(self, record: Record) -> bool:
        """Whether the record has been counted as a new one.

        An answer moves a record to a later place in the index. If it came before the record's own slice was read, that
        slice did not contain the record.
        """
        at = record.recorded_at
        own = next((part for part in self.slices if part.after < at <= part.until), None)
        return at <= self.until and (own is None or (record.changed_at or at) > own.read_at)


class Run(Seen):
    """The results of one scheduled run: photos since the last run, accuracy and guarantee of the last
    `live_accuracy.WINDOW`. lost: see `MonitorState`.
    """

    lost: str = ""

    @property
    def symptoms(self) -> tuple[Symptom, ...]:
        """The alerts; empty if all is well."""
        found = [
            Symptom(statistic=finding.statistic, description=describe(finding), since=finding.since)
            for finding in self.paged
        ]
        return (*self._loss, *map(_as_symptom, self.unsupported), *found)

    @property
    def _loss(self) -> tuple[Symptom, ...]:
        description = f"the monitor's state could not be read ({self.lost}): its evidence from people's answers is lost"
        return (Symptom(statistic="state", description=description),) if self.lost else ()

    @property
    def harm(self) -> str:
        """The symptoms in one sentence; empty without symptoms."""
        told = [symptom.description for symptom in self.symptoms]
        more = [f"and {len(told) - SYMPTOMS_NAMED} more"] if len(told) > SYMPTOMS_NAMED else []
        return "; ".join(told[:SYMPTOMS_NAMED] + more)

    def calls_for_review(self, when: When) -> bool:
        """Whether review-everything mode must be on."""
        broken = self.broken_promise or bool(self.lost)
        return ((self.harmed or broken) and when == "harm") or (broken and when == "promise")

    @property
    def strengths(self) -> dict[str, float]:
        """Each statistic's drift; 1 is the threshold. For the log, since each metric would cost $0.30 a month."""
        return {finding.statistic: finding.strength for finding in self.drift or ()}

    @property
    def labels(self) -> dict[str, dict[str, float | str]]:
        """Accuracy and guarantee of each class's accepted predictions; for the log, for the same reason."""
        told: dict[str, dict[str, float | str]] = {
            label: {"accuracy": live.accuracy, "low": live.low, "images": live.images}
            for label, live in self.accepted_by_label.items()
        }
        for check in self.promises:
            if check.label != ANY_LABEL:
                told.setdefault(check.label, {}).update(promise=check.status, evidence=check.evidence)
        return told


def _as_symptom(check: PromiseCheck) -> Symptom:
    about = f" “{check.label}”" if check.label else ""
    wrong = f"{check.errors} of {check.audits} audited predictions{about} wrong"
    found = f"{wrong}, guaranteed at most {check.max_risk:.1%}"
    return Symptom(statistic="promise", description=found, label=check.label or None)


def measure(run: Run, oldest_review: datetime | None, switch: Switch | None, now: datetime) -> list[Measure]:
    """The metrics of a run.

    oldest_review: when the oldest open review was opened; None without open reviews.
    """
    waited = (now - oldest_review).total_seconds() / 3600 if oldest_review else 0.0
    found = [
        Measure("OldestReviewHours", "None", waited),
        Measure("ReviewEverything", "None", float(switch is not None and switch.is_on(now))),
        Measure("PromiseUnsupported", "None", len(run.unsupported) + bool(run.lost)),
        Measure("DriftPages", "Count", len(run.paged)),
        Measure("DriftNotices", "Count", len(run.moved) - len(run.paged)),
        Measure("DriftStrength", "Percent", 100 * max(run.strengths.values(), default=0.0)),
    ]
    if run.images:
        found.append(Measure("PercentReviewed", "Percent", 100 * run.routes[Route.REVIEW] / run.images))
        found.append(Measure("PercentRejected", "Percent", 100 * run.routes[Route.REJECT] / run.images))
    if run.accepted.images:
        found.append(Measure("AcceptedAccuracy", "Percent", 100 * run.accepted.accuracy))
        found.append(Measure("AcceptedAccuracyLow", "Percent", 100 * run.accepted.low))
    return found


def resume(standing: MonitorState | None, watch: Watch, until: datetime) -> MonitorState:
    """The state from which this run continues: the saved one, unless it is missing, too old, or of another policy.

    After a long pause, alerts are kept: only records of the pause are skipped.
    """
    earliest = until - LONGEST_GAP
    if standing is None:
        return MonitorState(until=earliest, accepted=Accepted(policy_version=watch.policy_version, since=earliest))
    if standing.until < earliest:
        accepted = standing.accepted.model_copy(update={"since": earliest})
        standing = standing.model_copy(update={"until": earliest, "accepted": accepted, "slices": ()})
    if standing.accepted.policy_version != watch.policy_version:
        fresh = Accepted(policy_version=watch.policy_version, since=standing.until)
        return standing.model_copy(update={"accepted": fresh})
    return standing


def resume_lost(why: str, watch: Watch, until: datetime) -> MonitorState:
    """A fresh state in place of an unreadable one, which is an alert."""
    return resume(None, watch, until).model_copy(update={"lost": why, "switched": False})


def advance(
    state: MonitorState, changes: Iterable[Record], watch: Watch, until: datetime, bucket: str
) -> tuple[Run, MonitorState]:
    """One run over the records that were written or answered since the last run; time and memory are linear in them.

    changes: all visible changes since `state.until`; those after `until` are left to the next run. A record may come
        more than once.
    until: younger records may not be written or indexed yet.
    """
    seen = {record.key: record for record in changes}.values()
    written = [record for record in seen if record.recorded_at <= until and not state.has_counted(record)]
    # Its place in the index may have moved between finding and fetching it: then the next run reads it again.
    answered = [record for record in seen if record.review and (record.changed_at or record.recorded_at) <= until]
    routes = Counter(record.decision.route for record in written)
    budget = Budget(images_per_day=_pace(state.accepted, len(written), until))
    drift = _drift(watch, budget, state.drift)
    if drift:
        drift.read(written)
    accepted = state.accepted.after(written, answered, until, watch.claims, budget)
    level, label_error = watch.confidence_level, watch.label_error
    promises = accepted.check_promise(watch.claims)
    shown = bool(promises) and all(check.status is PromiseStatus.KEPT for check in promises)
    run = Run(
        lost="" if shown else state.lost,
        images=len(written),
        routes={route: routes[route] for route in Route},
        drift=tuple(drift.findings()) if drift else None,
        accepted=accepted.estimate(level, label_error),
        accepted_by_label=accepted.estimate_labels(level, label_error),
        promises=promises,
    )
    degraded = state.degraded if run.symptoms else None
    if run.symptoms and degraded is None:
        degraded = ModelDegraded(
            bucket=bucket,
            reason=run.harm,
            findings=run.symptoms,
            model_version=watch.model_version,
            policy_version=watch.policy_version,
            degraded_at=until,
        )
    return run, MonitorState(
        until=until,
        drift=drift.checkpoint() if drift else None,
        accepted=accepted,
        degraded=degraded,
        announced=state.announced and degraded is not None,
        switched=state.switched,
        lost=run.lost,
    )


def _pace(accepted: Accepted, more: int, until: datetime) -> float:
    """Photos a day so far."""
    days = max(1.0, (until.date() - min(accepted.images, default=until.date())).days + 1.0)
    return max(FEWEST_A_DAY, (sum(accepted.images.values()) + more) / days)
