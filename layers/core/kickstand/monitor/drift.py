"""Drift: have the photos moved away from the baseline? Sequential tests with a stated rate of false alarms."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, NamedTuple, Self

from pydantic import Field, model_validator

from kickstand.classify.promise import Promise, percent
from kickstand.events import NEITHER, Decision, ImageStatistics, Moment, OfUpload, Payload, Prediction, Reason, Route
from kickstand.quality import upper_bound
from kickstand.records import Record
from kickstand.text import counted

TAILS = (0.01, 0.05, 0.25)
"""Where the events "unusually low" and "unusually high" begin: shares of the baseline."""
ODDS = (2.0, 5.0, 20.0)
"""The bets: an event's odds have become this many times what the baseline allows."""
CHANGE_ODDS = 3.0
"""The bet that estimates the moment of a change. A bold bet is late for a small change, a cautious one early for a
large change."""
MIX_ODDS, MIX_CHANGE_ODDS = (1.25, 2.0, 5.0), 1.5
"""The bets on a share above the guaranteed mix: even a slightly larger share must be found, and such a share is large,
so its odds cannot become twenty times as much.
"""
UNLUCKY_BASELINE = 0.01
"""Chance that the finite baseline misstates any event's rate by more than its limit allows."""
RELEASE = 100.0
"""An alarm ends when its evidence has fallen to this part of the threshold."""
EXAMPLES = 8
"""Photos kept for each event, as examples."""
EXAMPLES_SIZE = 60_000
"""Bytes of a checkpoint for these examples: keys may be long, and the state has a limit."""


class Severity(StrEnum):
    """A notice: the photos have changed, perhaps without harm. An alert: the model is worse, which wakes somebody."""

    NOTICE = "notice"
    PAGE = "page"


class Side(StrEnum):
    """On which side a feature is unusual. A higher confidence or a lower p(neither) does no harm."""

    BELOW = "below"
    ABOVE = "above"


FEATURES: Mapping[str, tuple[Severity, tuple[Side, ...]]] = {
    "brightness": (Severity.NOTICE, (Side.BELOW, Side.ABOVE)),
    "contrast": (Severity.NOTICE, (Side.BELOW, Side.ABOVE)),
    "sharpness": (Severity.NOTICE, (Side.BELOW, Side.ABOVE)),
    "saturation": (Severity.NOTICE, (Side.BELOW, Side.ABOVE)),
    "confidence": (Severity.PAGE, (Side.BELOW,)),
    "neither": (Severity.PAGE, (Side.ABOVE,)),
}
RATES = ("flagged", "reviewed", "rejected")
"""Shares that wake somebody when they rise: too large a p(neither), sent to review, rejected or unreadable."""
CLASS_MIX = "class_mix"


class Observation(NamedTuple):
    """What drift measures in one photo.

    at: when it was recorded. features: by the names of FEATURES, if known. rates: yes or no, by the names of RATES,
    and for each class the name of CLASS_MIX, a colon and the class.
    """

    image: str
    version: str
    at: datetime
    features: Mapping[str, float]
    rates: Mapping[str, bool]


def measure(
    statistics: ImageStatistics | None, prediction: Prediction | None, decision: Decision | None
) -> tuple[dict[str, float], dict[str, bool]]:
    """Features and rates of one photo; None for missing ones, and those of another model or policy."""
    features: dict[str, float] = {}
    rates: dict[str, bool] = {}
    if statistics:
        features |= {name: getattr(statistics, name) for name in FEATURES if name in ImageStatistics.model_fields}
    if prediction:
        features |= {"confidence": prediction.confidence, "neither": prediction.neither}
        rates |= {f"{CLASS_MIX}:{label}": label == prediction.label for label in prediction.probabilities}
    if decision:
        rates |= {
            "flagged": decision.reason in (Reason.NEITHER, Reason.PERHAPS_NEITHER),
            # By the policy alone: review-everything mode would otherwise keep up the alarm that turned it on.
            "reviewed": decision.by_policy is Route.REVIEW,
            "rejected": decision.by_policy is Route.REJECT,
        }
    return features, rates


def observe(record: Record, model_version: str, policy_version: str) -> Observation:
    """The comparable part of the record: without scores of another model, and routes of another policy."""
    image, prediction, decision = record.prepared_image, record.prediction, record.decision
    same_model = prediction is not None and prediction.model_version == model_version
    # An unreadable file was decided without model or policy.
    same_policy = decision.policy_version == policy_version and same_model if prediction else not image
    return Observation(
        record.image,
        record.version,
        record.recorded_at,
        *measure(
            image.statistics if image else None,
            prediction if same_model else None,
            decision if same_policy else None,
        ),
    )


class PromisedMix(NamedTuple):
    """The largest shares of predictions that a guaranteed mix allows; see `promise.largest_shares`."""

    model_version: str
    policy_version: str
    promise: Promise
    shares_at_most: Mapping[str, float]

    def measure(self, record: Record) -> dict[str, bool]:
        """By class, whether it is the prediction; for "neither", whether p(neither) is too large. Empty for a
        prediction of another model, without "neither" for a decision of another policy.
        """
        rates = observe(record, self.model_version, self.policy_version).rates
        names = {label: "flagged" if label == NEITHER else f"{CLASS_MIX}:{label}" for label in self.shares_at_most}
        known = record.prediction is not None
        return {label: rates[name] for label, name in names.items() if known and name in rates}

    def range_of(self, label: str) -> tuple[float, float]:
        """The guaranteed share of photos: for a class, among those that show one; for "neither", among all."""
        return (
            (0.0, self.promise.foreign_share) if label == NEITHER else (self.promise.mix or {}).get(label, (0.0, 1.0))
        )

    def events(self) -> "list[Event]":
        """A class's share must not be larger than any guaranteed mix allows; a smaller one makes others larger."""
        return [
            Event(
                CLASS_MIX,
                Severity.PAGE,
                f"{CLASS_MIX}:{label}",
                None,
                0.0,
                usual=share,
                limit=share,
                told=self._exceeded(label, share),
                bets=MIX_ODDS,
                change=MIX_CHANGE_ODDS,
            )
            for label, share in self.shares_at_most.items()
            if share < 1.0
        ]

    def _exceeded(self, label: str, share: float) -> str:
        low, high = self.range_of(label)
        if label == NEITHER:
            return (
                f"the share of photos that may show none of the classes is above {percent(share)}, the maximum that "
                f"the guarantee allows (up to {percent(high)} of them): renew it by `kickstand policy` with a larger "
                "`--neither-share`"
            )
        promised = percent(low) if low == high else f"{percent(low)} to {percent(high)}"
        return (
            f"the share of predictions {label} is above {percent(share)}, the maximum that the guaranteed mix "
            f"({promised}) allows: renew the guarantee by `kickstand policy` with a wider `--mix`"
        )


class Rate(Payload):
    """How often something happened in the baseline."""

    hits: int = Field(ge=0)
    n: int = Field(gt=0)

    @model_validator(mode="after")
    def _is_a_share(self) -> Self:
        if self.hits > self.n:
            raise ValueError(f"{self.hits} hits of {self.n}")
        return self


class Quantiles(Payload):
    """A feature's baseline: the order statistics of rank max(1, ⌊level · n⌋) for the levels 1 % to 50 %, counted from
    below and from above; both begin with the most extreme.
    """

    n: int = Field(gt=0)
    low: tuple[float, ...] = Field(min_length=50, max_length=50)
    high: tuple[float, ...] = Field(min_length=50, max_length=50)

    @model_validator(mode="after")
    def _are_ranked(self) -> Self:
        if [*self.low, *reversed(self.high)] != sorted(self.low + self.high):
            raise ValueError("the order statistics are not in order")
        return self


class Baseline(Payload):
    """Statistics of photos and predictions when all is well.

    source: its origin, in words.
    """

    source: str
    model_version: str
    policy_version: str
    features: dict[str, Quantiles]
    rates: dict[str, Rate]

    @property
    def version(self) -> str:
        """Identifies the content: a checkpoint belongs to one baseline."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:8]


def rank(level: float, n: int) -> int:
    """The index of the order statistic of n for this level, counted from 1."""
    return max(1, math.floor(level * n + 1e-9))


def make_baseline(
    images: Iterable[tuple[Mapping[str, float], Mapping[str, bool]]],
    source: str,
    model_version: str,
    policy_version: str,
) -> Baseline:
    """The baseline of these photos, from the features and rates that `measure` and `observe` return."""
    features: dict[str, list[float]] = {}
    hits: dict[str, list[bool]] = {}
    for values, events in images:
        for name, value in values.items():
            features.setdefault(name, []).append(value)
        for name, event in events.items():
            hits.setdefault(name, []).append(event)
    quantiles = {}
    for name, values_of in features.items():
        ranked, n = sorted(values_of), len(values_of)
        ranks = [rank(percent / 100, n) for percent in range(1, 51)]
        quantiles[name] = Quantiles(
            n=n,
            low=tuple(round(ranked[k - 1], 5) for k in ranks),
            high=tuple(round(ranked[n - k], 5) for k in ranks),
        )
    return Baseline(
        source=source,
        model_version=model_version,
        policy_version=policy_version,
        features=quantiles,
        rates={name: Rate(hits=sum(events), n=len(events)) for name, events in hits.items()},
    )


class Budget(Payload):
    """The budget for false alarms: on average at most `false_alarms` in `days`, at this many photos a day.

    Why that holds. For an event of probability at most p, and any q > p, the likelihood ratio of q against p has mean
    at most 1. R ← (R + 1) · ratio (Shiryaev–Roberts) therefore grows by at most 1 a photo in the mean, and so does
    any weighted mean of such R, however dependent they are. When it reaches a threshold A an alarm is raised and it
    starts again from 0: it has lost A, so that after N photos A · (mean number of alarms) ≤ N. With S statistics,
    A = S · N / false_alarms. Such R are e-detectors: Shin, Ramdas and Rinaldo, New England J. Stat. Data Sci. 2 (2024),
    229–260 (arXiv:2203.03532).
    """

    images_per_day: float = Field(default=1000.0, gt=0, le=1e12)
    days: float = Field(default=90.0, gt=0, le=1e6)
    false_alarms: float = Field(default=1.0, ge=1e-6)

    def threshold(self, statistics: int) -> float:
        """The evidence at which one of this many statistics raises an alarm.

        >>> Budget(images_per_day=100).threshold(10)
        90000.0
        """
        return statistics * self.images_per_day * self.days / self.false_alarms


def images_per_day(times: Sequence[datetime]) -> float:
    """The number of photos a day; at least 100, so that a few in a minute do not count as a flood.

    >>> images_per_day([])
    100.0
    """
    days = (max(times) - min(times)).total_seconds() / 86400 if times else 0.0
    return max(100.0, round(len(times) / max(1.0, days), 1))


class Event(NamedTuple):
    """A yes-or-no property of a photo that must not become more frequent.

    statistic: what it belongs to. source: the feature or rate it reads. side, cut: None for a rate.
    usual: its share of the baseline. limit: the largest probability that the finite baseline allows it.
    told: for a share limited by a guaranteed mix (`usual` is the limit): what exceeding it means, in words.
    bets, change: as ODDS and CHANGE_ODDS.
    """

    statistic: str
    severity: Severity
    source: str
    side: Side | None
    cut: float
    usual: float
    limit: float
    told: str = ""
    bets: tuple[float, ...] = ODDS
    change: float = CHANGE_ODDS

    def happens(self, observation: Observation) -> bool | None:
        """None if unknown for this photo."""
        if self.side is None:
            return observation.rates.get(self.source)
        value = observation.features.get(self.source)
        if value is None:
            return None
        return value < self.cut if self.side is Side.BELOW else value > self.cut

    def __str__(self) -> str:
        if self.side is None:
            kind, _, label = self.source.partition(":")
            return f"share of predictions {label}" if kind == CLASS_MIX else f"share {kind}"
        return f"{self.source} {self.side} {self.cut:g}"


def list_events(baseline: Baseline | None, mix: PromisedMix | None = None) -> list[Event]:
    """All events that can be watched with this baseline and guaranteed mix. The limits of a guaranteed mix replace the
    baseline's class mix: a change within the guaranteed range does no harm.

    The true probability of falling below the k-th smallest of n baseline values is at most Beta(k, n + 1 - k), ties or
    not; its upper quantile, which is Clopper and Pearson's bound for k - 1 of n, is the event's limit. So neither an
    endless stream nor small n turns the baseline's own sampling error into drift.
    """
    plan: list[tuple[str, Severity, str, Side | None, float, int, int]] = []
    for name, (severity, sides) in FEATURES.items():
        if quantiles := baseline and baseline.features.get(name):
            for tail in TAILS:
                k, index = rank(tail, quantiles.n), round(tail * 100) - 1
                for side in sides:
                    cut = (quantiles.low if side is Side.BELOW else quantiles.high)[index]
                    plan.append((name, severity, name, side, cut, k - 1, quantiles.n))
    for name, rate in baseline.rates.items() if baseline else ():
        statistic = name.partition(":")[0]
        if statistic in RATES or (statistic == CLASS_MIX and mix is None):
            plan.append((statistic, Severity.PAGE, name, None, 0.0, rate.hits, rate.n))
    chance = UNLUCKY_BASELINE / max(1, len(plan))
    return [
        Event(statistic, severity, source, side, cut, (hits + (side is not None)) / n, upper_bound(hits, n, 1 - chance))
        for statistic, severity, source, side, cut, hits, n in plan
    ] + (mix.events() if mix else [])


def ratios(limit: float, bets: Sequence[float] = ODDS) -> list[tuple[float, float]]:
    """For each bet the likelihood ratio (where the event happens, where it does not) against this limit.

    >>> [(round(up, 3), round(down, 3)) for up, down in ratios(0.5)]
    [(1.333, 0.667), (1.667, 0.333), (1.905, 0.095)]
    """
    return [(odds / (1 + limit * (odds - 1)), 1 / (1 + limit * (odds - 1))) for odds in bets]


class Example(OfUpload):
    """A photo with the event. value: of the feature; 1 for a rate."""

    value: float


class EventState(Payload):
    """The state of one event.

    seen: photos for which it is known. evidence: one R for each of ODDS.
    climb: log-likelihood ratio at CHANGE_ODDS since the likeliest change so far (Page's CUSUM); 0 if there is no
        evidence of a change. since, n, hits, examples: of the photos since then.
    """

    seen: int = Field(default=0, ge=0)
    evidence: tuple[Annotated[float, Field(ge=0.0)], ...] = Field(
        default=(0.0,) * len(ODDS), min_length=len(ODDS), max_length=len(ODDS)
    )
    climb: float = Field(default=0.0, ge=0.0)
    since: Moment | None = None
    n: int = Field(default=0, ge=0)
    hits: int = Field(default=0, ge=0)
    examples: tuple[Example, ...] = ()


class Checkpoint(Payload):
    """The state of drift between two runs; a few kilobytes, however much it has read.

    baseline_version: of baseline and guaranteed mix.
    last: (recorded_at, image, version) of the last record read: reading it again changes nothing.
    raised: the open alarms, by statistic: when the evidence sufficed, when the change began, and the number of the
        event with the most evidence.
    """

    baseline_version: str
    last: tuple[Moment, str, str] | None = None
    n: int = 0
    events: tuple[EventState, ...] = ()
    raised: dict[str, tuple[Moment, Moment, Annotated[int, Field(ge=0)]]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _led_by_known_events(self) -> Self:
        if any(leader >= len(self.events) for *_, leader in self.raised.values()):
            raise ValueError("an alarm is led by an event that is not there")
        return self


class Finding(Payload):
    """The result of one statistic.

    seen: comparable photos; 0 if all were decided by another model or policy.
    alarm: whether it has moved. strength: log evidence as a share of the threshold; at most 1 is reported.
    since: the likeliest moment of the change. raised_at: when the evidence sufficed.
    event: what became more frequent; observed: its share since then, of n photos; usual: its share of the baseline.
    told: for a share limited by a guaranteed mix (`usual` is the limit): what the alarm means, in words.
    examples: the photos with the largest effect.
    """

    statistic: str
    severity: Severity
    seen: int = 0
    alarm: bool
    strength: float
    raised_at: datetime | None
    since: datetime | None
    event: str
    observed: float | None
    n: int
    usual: float
    told: str = ""
    examples: tuple[Example, ...]


class Ended(Payload):
    """An alarm that is over. finding: as it stood while the evidence was strong."""

    finding: Finding
    ended_at: datetime


class _Track:
    """The running evidence about one event."""

    __slots__ = ("climb", "event", "evidence", "examples", "factors", "hits", "n", "seen", "since", "steps")

    def __init__(self, event: Event, state: EventState) -> None:
        self.event = event
        up, down = zip(*ratios(event.limit, event.bets), strict=True)
        self.factors = {True: up, False: down}
        (rise, fall), *_ = ratios(event.limit, (event.change,))
        self.steps = {True: math.log(rise), False: math.log(fall)}
        self.load(state)

    def load(self, state: EventState) -> None:
        self.seen, self.evidence = state.seen, list(state.evidence)
        self.climb, self.since, self.n, self.hits = state.climb, state.since, state.n, state.hits
        self.examples = list(state.examples)

    def state(self) -> EventState:
        return EventState(
            seen=self.seen,
            evidence=tuple(self.evidence),
            climb=self.climb,
            since=self.since,
            n=self.n,
            hits=self.hits,
            examples=tuple(self.examples),
        )

    @property
    def share(self) -> float | None:
        """How often it has happened since the change; None where nothing speaks for one."""
        return round(self.hits / self.n, 4) if self.n else None

    def see(self, observation: Observation) -> None:
        happened = self.event.happens(observation)
        if happened is None:
            return
        self.evidence = [(r + 1.0) * f for r, f in zip(self.evidence, self.factors[happened], strict=False)]
        self.seen += 1
        self.climb += self.steps[happened]
        if self.climb > 0.0:
            self.since = self.since or observation.at
            self.n += 1
            if happened:
                self.hits += 1
                self._keep(observation)
        else:
            self.climb = 0.0
            if self.n:
                self.since, self.n, self.hits, self.examples = None, 0, 0, []

    def _keep(self, observation: Observation) -> None:
        """The most extreme photos; for a rate, the latest."""
        source, side = self.event.source, self.event.side
        value = 1.0 if side is None else observation.features[source]
        self.examples.append(Example(image=observation.image, version=observation.version, value=value))
        if len(self.examples) > EXAMPLES:
            values = [example.value for example in self.examples]
            self.examples.pop(0 if side is None else values.index(max(values) if side is Side.BELOW else min(values)))


class Drift:
    """The sequential tests of one stream of photos against one baseline, and one guaranteed mix.

    Reading the records at once or in parts, with a checkpoint between them, gives the same result.
    """

    def __init__(
        self,
        baseline: Baseline | None,
        budget: Budget,
        checkpoint: Checkpoint | None = None,
        mix: PromisedMix | None = None,
    ) -> None:
        """A checkpoint of another baseline, guaranteed mix or list of events is not used: the tests start again."""
        self._baseline, self._mix, self._version = baseline, mix, _version(baseline, mix)
        events = list_events(baseline, mix)
        self._statistics = list(dict.fromkeys(event.statistic for event in events))
        self.threshold = budget.threshold(max(1, len(self._statistics)))
        if (
            checkpoint is None
            or checkpoint.baseline_version != self._version
            or (checkpoint.events and len(checkpoint.events) != len(events))
        ):
            checkpoint = Checkpoint(baseline_version=self._version)
        states: Sequence[EventState] = checkpoint.events or [EventState()] * len(events)
        self._tracks = [_Track(event, state) for event, state in zip(events, states, strict=True)]
        self._groups = {
            name: [i for i, event in enumerate(events) if event.statistic == name] for name in self._statistics
        }
        self._last, self.n = checkpoint.last, checkpoint.n
        self._raised = dict(checkpoint.raised)
        self.ended: list[Ended] = []  # while this reads; a checkpoint keeps none
        self._at_worst: dict[str, tuple[float | None, int, tuple[Example, ...]]] = {}

    def read(self, records: Iterable[Record]) -> None:
        """Read the records after the last one read, oldest first."""
        for record in sorted(records, key=_place):
            if self._last is None or _place(record) > self._last:
                self.see(self._observe(record))

    def _observe(self, record: Record) -> Observation:
        """Baseline and mix may belong to different policies: the mix has the newest one."""
        baseline, mix = self._baseline, self._mix
        seen = observe(record, baseline.model_version, baseline.policy_version) if baseline else None
        if mix is None:
            return seen or Observation(record.image, record.version, record.recorded_at, {}, {})
        rates = {f"{CLASS_MIX}:{label}": hit for label, hit in mix.measure(record).items()}
        return Observation(
            record.image,
            record.version,
            record.recorded_at,
            seen.features if seen else {},
            {**(seen.rates if seen else {}), **rates},
        )

    def see(self, observation: Observation) -> None:
        """Read one photo."""
        self._last, self.n = (observation.at, observation.image, observation.version), self.n + 1
        for track in self._tracks:
            track.see(observation)
        for name, group in self._groups.items():
            self._judge(name, group, observation.at)

    def _judge(self, name: str, group: list[int], at: datetime) -> None:
        evidence = self._evidence(group)
        if evidence >= self.threshold:
            if name not in self._raised:
                leader = self._leader(group)
                self._raised[name] = (at, self._tracks[leader].since or at, leader)
            led = self._tracks[self._raised[name][2]]
            self._at_worst[name] = led.share, led.n, tuple(led.examples)
            # The cap changes no alarm, and lets it end soon after its cause.
            cap = self.threshold * len(group) * len(ODDS)
            for i in group:
                self._tracks[i].evidence = [min(cap, r) for r in self._tracks[i].evidence]
        elif name in self._raised and evidence < self.threshold / RELEASE:
            finding = self._find(name, group)
            if name in self._at_worst:
                observed, n, examples = self._at_worst.pop(name)
                finding = finding.model_copy(update={"observed": observed, "n": n, "examples": examples})
            self.ended.append(Ended(finding=finding, ended_at=at))
            del self._raised[name]
            for i in group:
                self._tracks[i].load(EventState(seen=self._tracks[i].seen))

    def _evidence(self, group: list[int]) -> float:
        return sum([sum(self._tracks[i].evidence) for i in group]) / (len(group) * len(ODDS))

    def _leader(self, group: list[int]) -> int:
        return max(group, key=lambda i: sum(self._tracks[i].evidence))

    def findings(self) -> list[Finding]:
        """The present result of each statistic: alarms first, alerts before notices, the strongest evidence first."""
        found = [self._find(name, group) for name, group in self._groups.items()]
        return sorted(found, key=lambda f: (not f.alarm, f.severity is not Severity.PAGE, -f.strength))

    def _find(self, name: str, group: list[int]) -> Finding:
        raised_at, since, leader = self._raised.get(name, (None, None, self._leader(group)))
        track = self._tracks[leader]
        strength = math.log(max(1.0, self._evidence(group))) / math.log(max(2.0, self.threshold))
        return Finding(
            statistic=name,
            severity=track.event.severity,
            seen=max(self._tracks[i].seen for i in group),
            alarm=raised_at is not None,
            strength=round(min(1.0, strength), 4),
            raised_at=raised_at,
            since=since or track.since,
            event=str(track.event),
            observed=track.share,
            n=track.n,
            usual=round(track.event.usual, 4),
            told=track.event.told if raised_at else "",
            examples=tuple(track.examples),
        )

    def checkpoint(self) -> Checkpoint:
        """The state to keep until the next run, with examples for the events that have moved most."""
        states, left = [track.state() for track in self._tracks], EXAMPLES_SIZE
        for i in sorted(range(len(states)), key=lambda i: -self._tracks[i].climb):
            left -= sum(len(one.model_dump_json().encode()) for one in states[i].examples)
            if left < 0:
                states[i] = states[i].model_copy(update={"examples": ()})
        return Checkpoint(
            baseline_version=self._version,
            last=self._last,
            n=self.n,
            events=tuple(states),
            raised=self._raised,
        )


def _version(baseline: Baseline | None, mix: PromisedMix | None) -> str:
    if mix is None:
        return baseline.version if baseline else ""
    told = [baseline and baseline.version, mix.model_version, mix.policy_version, sorted(mix.shares_at_most.items())]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:8]


def _place(record: Record) -> tuple[datetime, str, str]:
    return record.recorded_at, *record.key


def describe(finding: Finding) -> str:
    """The finding in words, without its photos.

    >>> describe(Finding(statistic="sharpness", severity=Severity.NOTICE, alarm=True, strength=1.0, raised_at=None,
    ...     since=None, event="sharpness below 0.06", observed=0.8, n=25, usual=0.05, examples=()))
    'sharpness below 0.06: 80 % of 25 photos, usually 5 %'
    """
    if finding.observed is None:
        return finding.told or f"{finding.event}: as usual"
    observed = f"{finding.observed:.0%} of {counted(finding.n, 'photo')}".replace("%", " %")
    if finding.told:
        return f"{finding.told} ({observed})"
    return f"{finding.event}: {observed}, usually {100 * finding.usual:.0f} %"
