"""The monitoring report: one page, from records, that says whether all is well, and on what evidence."""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

from markupsafe import Markup
from matplotlib.figure import Figure
from pydantic import Field

from kickstand.classify.artefact import ModelCard, read_part
from kickstand.classify.images import thumbnail
from kickstand.classify.promise import ANY_LABEL
from kickstand.classify.stated import StatedCard
from kickstand.errors import InvalidImage
from kickstand.events import Payload, Route, hash_upload
from kickstand.monitor.drift import (
    CLASS_MIX,
    FEATURES,
    Baseline,
    Budget,
    Checkpoint,
    Ended,
    Finding,
    PromisedMix,
    Severity,
    describe,
    list_events,
    observe,
)
from kickstand.monitor.live_accuracy import LiveAccuracy, PromiseCheck, PromiseStatus, judge
from kickstand.monitor.live_quality import (
    ConfusionRow,
    LiveRiskCoverage,
    ReliabilityBin,
    ReviewLoad,
    asked_at,
    confusion,
    hours_between,
    hours_to_answer,
    reliability,
    review_load,
    risk_coverage,
)
from kickstand.monitor.run import MonitorReport, Watch, examine
from kickstand.quality import Interval, wilson_interval
from kickstand.records import Record
from kickstand.report import figures
from kickstand.report.pages import data_uri, for_script, make_environment, moment, percent
from kickstand.review.agreement import describe as describe_agreement
from kickstand.text import counted

DOTS = 1200  # photos on the timeline: more would only cover each other
SPANS = 36  # at most, along any time axis
IMAGES_PER_SPAN = 15
ENOUGH = 100  # photos from which a statistic that has not moved counts as steady
FEW = f"there are fewer than {2 * IMAGES_PER_SPAN} photos"
MOMENT = timedelta(minutes=1)  # no time axis is shorter
LAST = datetime.max.replace(tzinfo=UTC)  # a camera's clock may be wrong
PICTURES = 8  # on each contact sheet
LONGEST = 160  # pixels of such a photo

ReadPicture = Callable[[Record], str | None]
"""The photo of a record as an address (`pages.data_uri`); None where it is not available."""


class Evidence(Payload):
    """The photos that the guarantee was shown on. domain: which they are, in words. photos: by what they show."""

    domain: str = ""
    date: str = ""
    photos: dict[str, int] = Field(default_factory=dict)


def read_evidence(artefact: Path) -> Evidence:
    """Raises OSError, or ValueError that names the file and the field."""
    told = read_part(artefact, StatedCard).policy.evidence
    return Evidence(domain=told.domain or "", date=told.date or "", photos=told.photos)


class Report(Payload):
    """All numbers of the page. monitor: as `kickstand.monitor.run.examine` gives it.

    answers: photos by the predicted class.
    """

    monitor: MonitorReport
    images_per_day: float
    evidence: Evidence
    answers: dict[str, int]
    model_versions: dict[str, int]
    reliability: tuple[ReliabilityBin, ...]
    risk_coverage: tuple[LiveRiskCoverage, ...]
    confusion: tuple[ConfusionRow, ...]
    reviews: ReviewLoad

    def numbers(self) -> dict[str, Any]:
        """JSON-ready: what `kickstand monitor --json` prints, and what the page adds to it."""
        monitor = {"harmed": self.monitor.harmed, "images_per_day": self.images_per_day}
        return self.monitor.model_dump(mode="json") | monitor | self.model_dump(mode="json", exclude={"monitor"})


class Spans:
    """Equal spans of time that together hold all records."""

    def __init__(self, times: Sequence[datetime]) -> None:
        self.start, self.end = min(times), max(times)
        if self.end - self.start < MOMENT:
            self.start = min(self.start, LAST - MOMENT)
            self.end = self.start + MOMENT
        self.n = max(1, min(SPANS, len(times) // IMAGES_PER_SPAN))
        self.length = (self.end - self.start) / self.n

    def of(self, at: datetime) -> int:
        """Which span this moment falls into; moments outside fall into the first or the last."""
        return max(0, min(self.n - 1, int((at - self.start) / self.length)))

    def edges(self, index: int) -> figures.Period:
        """Where this span starts and ends."""
        whole = self.end - self.start
        return figures.Period(self.start + whole * index / self.n, self.start + whole * (index + 1) / self.n)

    @property
    def period(self) -> figures.Period:
        """From the first record to the last."""
        return figures.Period(self.start, self.end)


class Verdict(NamedTuple):
    """How it stands. colour: "accept" (green), "review" (amber), "reject" (red), "unknown" (grey)."""

    colour: str
    words: str
    sentence: str


class LabelRow(NamedTuple):
    """One class's predictions as the page shows them.

    coverage: accepted share of the predictions. share: of all accepted predictions. mix: of the photos, under the
        guarantee.
    """

    label: str
    threshold: float | None
    coverage: float
    share: float
    mix: tuple[float, float] | None
    check: PromiseCheck | None


class Drawing(NamedTuple):
    """A chart as the page shows it. figure: None where it would be empty; then the caption says why."""

    title: str
    figure: Figure | None
    caption: str

    @property
    def svg(self) -> Markup:
        return figures.as_svg(self.figure, f"{self.title}. {self.caption}") if self.figure else Markup()


class Statistic(NamedTuple):
    """A statistic of drift as the page shows it. state: "alarm", "notice", "steady" or "unknown"."""

    finding: Finding
    state: str
    words: str
    svg: Markup


class Tile(NamedTuple):
    """A photo on a contact sheet. record: None where it is not among those that were read."""

    record: Record | None
    image: str
    value: float | None


class Picture(NamedTuple):
    """A photo as the page shows it. uri: None where it is not available. image: s3://bucket/key."""

    uri: str | None
    image: str
    caption: str


class Sheet(NamedTuple):
    """A finding, the photos that moved it most, and usual ones; before: these are of the time before it moved."""

    name: str
    words: str
    moved: list[Picture]
    usual: list[Picture]
    before: bool


def choose_latest(changes: Iterable[Record], start: datetime, most: int) -> list[Record]:
    """The records since `start`, or the latest part of them.

    changes: as they were written or answered, the latest first; at most `most` are read.

    Of older records only the answered ones would be included, and bias every estimate.
    """
    records = list(islice(changes, most))
    if len(records) == most:
        start = max(start, min(record.changed_at or record.recorded_at for record in records))
    return [record for record in records if record.recorded_at >= start]


def compose(
    records: Sequence[Record],
    watch: Watch,
    card: ModelCard,
    budget: Budget,
    checkpoint: Checkpoint | None = None,
    as_of: datetime | None = None,
    evidence: Evidence | None = None,
) -> Report:
    """The numbers, in time and memory linear in the records.

    evidence: of the guarantee.
    as_of: when the records were read, for the age of open questions; by default the latest moment in the records.
    """
    monitor, _ = examine(records, watch, budget, checkpoint)
    level = watch.confidence_level
    return Report(
        monitor=monitor,
        images_per_day=budget.images_per_day,
        evidence=evidence or Evidence(),
        answers=Counter(record.prediction.label for record in records if record.prediction),
        model_versions=Counter(record.prediction.model_version for record in records if record.prediction),
        reliability=reliability(records, level, watch.label_error),
        risk_coverage=risk_coverage(records, card.policy, level, watch.label_error),
        confusion=confusion(records, level, watch.label_error),
        reviews=review_load(records, as_of or _latest(records), level),
    )


def _latest(records: Sequence[Record]) -> datetime | None:
    times = [record.recorded_at for record in records]
    times += [record.review.answer.answered_at for record in records if record.review and record.review.answer]
    return max(times, default=None)


def draw_report(
    report: Report, records: Sequence[Record], watch: Watch, card: ModelCard, read_picture: ReadPicture, about: str = ""
) -> str:
    """The whole page, which needs no other file and no network.

    records: those that the report was composed of. about: what a reader must know of them, such as "simulated".
    """
    return _page("report.html", report, records, watch, card, read_picture, about)


def draw_widget(report: Report, records: Sequence[Record], watch: Watch, card: ModelCard) -> str:
    """The essentials as a fragment without scripts, for a CloudWatch dashboard."""
    return _page("report_widget.html", report, records, watch, card, None)


def frame_widget(drawn: str, link: str, endpoint: str, *, dark: bool) -> str:
    """What the dashboard shows: the widget as `draw_widget` drew it, empty before the first time, and what to do next.

    link: to the whole page. endpoint: ARN of the function that the button calls.
    """
    frame = {"drawn": Markup(drawn), "link": link, "endpoint": endpoint, "dark": dark}  # noqa: S704 - drawn here
    return make_environment().get_template("report_frame.html").render(frame)


def small_pictures(read: Callable[[Record], bytes] | None, lost: dict[str, str] | None = None) -> ReadPicture:
    """Thumbnails of the photos that `read` reads; None for one that is gone or cannot be decoded.

    lost: gets the reason, by photo, for those that the model could read.
    """

    def picture(record: Record) -> str | None:
        try:
            return data_uri(*thumbnail(read(record), record.image, LONGEST)) if read else None
        except InvalidImage as error:
            if lost is not None and record.prepared_image:
                lost[record.image] = str(error)
            return None

    return picture


def _page(
    template: str,
    report: Report,
    records: Sequence[Record],
    watch: Watch,
    card: ModelCard,
    read_picture: ReadPicture | None,
    about: str = "",
) -> str:
    spans = Spans([record.recorded_at for record in records]) if records else None
    content: dict[str, Any] = {
        "report": report,
        "monitor": report.monitor,
        "card": card,
        "about": about,
        "enough": ENOUGH,
        "level": f"{watch.confidence_level:.0%}".replace("%", " %"),
        "verdict": verdict(report.monitor),
        "promise": watch.promise,
        "rows": list(_list_labels(report, watch, card)),
        "by_label": [(f"accepted as {label}", live) for label, live in report.monitor.accepted_by_label.items()],
        "essentials": _draw_essentials(report, records, watch, card, spans) if spans else [],
    }
    if read_picture:
        content |= {
            "quality": _draw_quality(report, watch, card) if spans else [],
            "load": _draw_load(report, records, spans) if spans else [],
            "agreement": describe_agreement(report.reviews.agreement),
            "board": _draw_board(report.monitor, records, watch.baseline, watch.mix, spans)
            if spans and watch.baseline
            else [],
            "sheets": [
                *(_lay_out(finding, records, read_picture) for finding in report.monitor.moved),
                *(_lay_out(end.finding, records, read_picture, end.ended_at) for end in report.monitor.ended),
            ],
            "numbers": Markup(for_script(report.numbers())),  # noqa: S704
        }
    return make_environment().get_template(template).render(content)


def verdict(monitor: MonitorReport) -> Verdict:
    """The worst that the monitor sees, for a reader of two seconds. Nothing is green without evidence."""
    check = monitor.promise
    if not monitor.images:
        return Verdict("unknown", "No records", "There are no photos to report on.")
    if check and monitor.broken_promise:
        about = f" “{check.label}”" if check.label else ""
        wrong = f"{check.errors:,} of {check.audits:,} audited predictions{about} were wrong"
        sentence = f"{wrong}; the policy guarantees at most {percent(check.max_risk)} of the accepted ones."
        words = "The guarantee is broken" if check.status is PromiseStatus.BROKEN else "The guarantee is in doubt"
        return Verdict("reject", words, sentence)
    if monitor.paged:
        return Verdict("reject", "The model is worse", _list(monitor.paged))
    if monitor.moved:
        return Verdict("review", "The photos have changed", _list(monitor.moved))
    if monitor.drift is None:
        return Verdict("unknown", "No baseline", "Drift needs a baseline in model.json: kickstand baseline makes one.")
    few = [finding for finding in monitor.drift if finding.seen < ENOUGH]
    missing = [f"fewer than {ENOUGH} photos for {len(few)} of {len(monitor.drift)} statistics"] * bool(few)
    for open_ in (check for check in monitor.promises if check.status is PromiseStatus.OPEN):
        about = f" about “{open_.label}”" if open_.label else ""
        missing.append(f"the guarantee{about} needs about {open_.audits_missing:,} more audits without an error")
    if missing:
        text = "; ".join(missing)
        return Verdict("unknown", "Not enough evidence", f"No alert, but {text}.")
    guarantee = " Audits show that the guarantee holds." if check else ""
    over = ""
    if ended := _ended_alarms(monitor):
        number, last = len(ended), moment(ended[-1].ended_at)
        over = f" {number} alert{'s are' if number > 1 else ' is'} over, the last since {last} UTC."
    return Verdict("accept", "All is well", f"No statistic has moved now.{over}{guarantee}")


def _ended_alarms(monitor: MonitorReport) -> list[Ended]:
    """The alerts, without the notices."""
    return [end for end in monitor.ended if end.finding.severity is Severity.PAGE]


def _list(moved: Iterable[Finding]) -> str:
    text = "; ".join(map(describe, moved))
    return f"{text[:1].upper()}{text[1:]}."


def _list_labels(report: Report, watch: Watch, card: ModelCard) -> Iterable[LabelRow]:
    monitor, promise = report.monitor, watch.promise
    checks = {check.label: check for check in monitor.promises}
    for label in card.labels:
        live, answers = monitor.accepted_by_label.get(label), report.answers.get(label, 0)
        accepted = live.images if live else 0
        yield LabelRow(
            label,
            card.policy.threshold(label),
            accepted / answers if answers else 0.0,
            accepted / monitor.accepted.images if monitor.accepted.images else 0.0,
            promise.mix.get(label) if promise and promise.mix else None,
            checks.get(label),
        )


# ---- the figures


def _draw_essentials(
    report: Report, records: Sequence[Record], watch: Watch, card: ModelCard, spans: Spans
) -> list[Drawing]:
    monitor = report.monitor
    risks = watch.promise.max_risk if watch.promise else {}
    shown = [("accepted", monitor.accepted, risks.get(ANY_LABEL))]
    shown += [(f"as {label}", live, risks.get(label)) for label, live in monitor.accepted_by_label.items()]
    shown.append(("all", monitor.overall, None))
    rows = [
        (f"{name}\nn = {live.images:,}", _right(live), None if risk is None else 1 - risk)
        for name, live, risk in shown
        if live.answers
    ]
    thresholds = {label: card.policy.threshold(label) for label in card.labels}
    scored = [record for record in records if record.prediction]
    dots = _sample_dots(scored)
    drawn = f"{len(dots):,} of {len(scored):,} photos" if len(dots) < len(scored) else f"n = {len(scored):,}"
    confidences = _split(
        ((record.recorded_at, record.prediction.confidence) for record in scored if record.prediction), spans
    )
    counts = [Counter[Route]() for _ in range(spans.n)]
    for record in records:
        counts[spans.of(record.recorded_at)][record.decision.route] += 1
    since = [finding.since for finding in monitor.moved if finding.since]
    return [
        Drawing(
            "Estimated accuracy",
            figures.draw_accuracy(rows),
            f"Dot: the estimate from {counted(monitor.overall.answers, 'answer')} by people, weighted by the "
            "probability of a review, and from confidences. Bar: its interval, which assumes nothing about the photos.",
        )
        if rows
        else Drawing("Estimated accuracy", None, "no person has answered yet"),
        Drawing(
            "Confidence over time",
            figures.draw_timeline(
                spans.period, dots, _medians(confidences, spans), thresholds, since, _periods(_ended_alarms(monitor))
            ),
            f"{drawn}: each a dot, coloured by where it went. The line is the median of all. Times are UTC.",
        )
        if scored
        else Drawing("Confidence over time", None, "the model has seen no photo"),
        Drawing(
            "Routes",
            figures.draw_routes(spans.period, [(spans.edges(i), counts[i]) for i in range(spans.n)]),
            f"n = {monitor.images:,} photos in {spans.n:,} equal spans of time.",
        )
        if spans.n > 1
        else Drawing("Routes", None, FEW),
    ]


def _periods(ended: Iterable[Ended]) -> list[figures.Period]:
    return [figures.Period(end.finding.since or end.ended_at, end.ended_at) for end in ended]


def _draw_quality(report: Report, watch: Watch, card: ModelCard) -> list[Drawing]:
    answers = report.monitor.overall.answers
    bins = [part for part in report.reliability if part.live.answers]
    cells = {row.answer: row for row in report.confusion}
    truths = list(report.confusion[0].truth) if report.confusion else []
    columns = {f"{row.answer}\n{row.answers:,} of\n{row.images:,}\nchecked": row.answer for row in report.confusion}

    def cell(truth: str, answer: str) -> tuple[float, str]:
        share = cells[answer].truth[truth]
        if not cells[answer].answers:
            return 0.0, "?"
        return share.share, f"{share.share:.1%}\n{100 * share.low:.0f}–{share.high:.0%}".replace("%", " %")

    if not answers:
        titles = "Reliability", "Risk and coverage", "Confusion"
        return [Drawing(title, None, "no person has answered yet") for title in titles]
    return [
        Drawing(
            "Reliability",
            figures.draw_reliability(
                [(part.live.predicted, _right(part.live)) for part in bins],
                "probability of being correct, by the model",
            ),
            f"n = {counted(answers, 'answer')} by people, about equally many behind each dot. On the diagonal the "
            "model is correct as often as it says. Bars are intervals.",
        ),
        Drawing(
            "Risk and coverage",
            figures.draw_risk_coverage(_list_curves(report, watch, card), "to the interval's end"),
            "Each point of a curve is a threshold on the confidence: to the right more is accepted, and more of it is "
            f"wrong. Band: interval. n = {counted(answers, 'answer')} by people.",
        ),
        Drawing(
            "Confusion",
            figures.draw_confusion(
                truths,
                list(columns),
                lambda truth, column: cell(truth, columns[column]),
                "Kickstand's prediction",
                "what it shows",
            ),
            "For each prediction, what its photos really show, by people's answers: estimate and interval. A rejected "
            "photo has the prediction “neither”: none of the classes.",
        ),
    ]


def _list_curves(report: Report, watch: Watch, card: ModelCard) -> list[figures.Curve]:
    """One for each class that has a threshold of its own, else one for all together."""
    curves = []
    for label in card.policy.thresholds or (ANY_LABEL,):
        threshold = card.policy.threshold(label)
        points = [point for point in report.risk_coverage if point.label == label and point.live.answers]
        own = next(((p.coverage, _wrong(p.live)) for p in points if p.accept_at == threshold), None)
        from_ = "never accepted" if threshold is None else f"accepted from {threshold:.3f}"
        promised = watch.promise.max_risk.get(label) if watch.promise else None
        curve = [(point.coverage, _wrong(point.live)) for point in points]
        curves.append(figures.Curve(f"{label or 'all classes'}, {from_}", curve, own, promised))
    return curves


def _draw_load(report: Report, records: Sequence[Record], spans: Spans) -> list[Drawing]:
    load, asked = report.reviews, [record for record in records if record.asks_a_person]
    done, open_ = [0] * spans.n, [0] * spans.n
    for record in asked:
        (open_ if hours_to_answer(record) is None else done)[spans.of(record.recorded_at)] += 1
    answered = [hours for record in asked if (hours := hours_to_answer(record)) is not None]
    waiting = [
        hours_between(asked_at(record), load.as_of)
        for record in asked
        if hours_to_answer(record) is None and load.as_of
    ]
    if not asked:
        return [Drawing(title, None, "no photo was sent to review") for title in ("Review load", "Review age")]
    return [
        Drawing(
            "Review load",
            figures.draw_load(spans.period, [(spans.edges(i), done[i], open_[i]) for i in range(spans.n)]),
            f"n = {counted(load.asked, 'review')}, {counted(load.audits, 'audit')} among them, by when the photo was "
            "decided.",
        )
        if spans.n > 1
        else Drawing("Review load", None, FEW),
        Drawing(
            "Review age",
            figures.draw_ages(answered, waiting),
            f"n = {load.answered:,} answered and {load.waiting:,} waiting"
            + (f", as of {moment(load.as_of)} UTC." if load.as_of else "."),
        ),
    ]


def _draw_board(
    monitor: MonitorReport, records: Sequence[Record], baseline: Baseline, mix: PromisedMix | None, spans: Spans
) -> list[Statistic]:
    """Each statistic and how it went; those that moved first. mix: whose limits take the place of the class mix's
    baseline.
    """
    seen = [observe(record, baseline.model_version, baseline.policy_version) for record in records]
    sources = {str(event): event.source for event in list_events(baseline, mix)}
    board = []
    for finding in monitor.drift or ():
        name = finding.statistic
        if name in FEATURES:
            values = _split(((one.at, one.features.get(name)) for one in seen), spans)
            quantile = baseline.features[name]
            usual = quantile.low[9], quantile.low[49], quantile.high[9]
            bands = _medians(values, spans, 10)
        else:
            source = sources[finding.event]
            if name == CLASS_MIX and mix:
                label = source.removeprefix(f"{CLASS_MIX}:")
                shares: Iterable[tuple[datetime, float | None]] = (
                    (record.recorded_at, mix.measure(record).get(label)) for record in records
                )
                usual = 0.0, finding.usual, finding.usual
            else:
                shares = ((one.at, one.rates.get(source)) for one in seen)
                share = wilson_interval(baseline.rates[source].hits, baseline.rates[source].n)
                usual = share.low, share.value, share.high
            values = _split(shares, spans)
            bands = _shares(values, spans)
        svg = Markup()
        if bands and spans.n > 1:
            drawing = figures.draw_statistic(
                spans.period,
                bands,
                usual,
                finding.since if finding.alarm else None,
                _periods(end for end in monitor.ended if end.finding.statistic == name),
                share=name not in FEATURES,
            )
            svg = figures.as_svg(drawing, f"{finding.event} over time, beside the baseline")
        state = "steady" if finding.seen >= ENOUGH else "unknown"
        if finding.alarm:
            state = "alarm" if finding.severity is Severity.PAGE else "notice"
        board.append(Statistic(finding, state, describe(finding) if finding.alarm else finding.event, svg))
    return board


def _sample_dots(scored: Sequence[Record]) -> list[figures.Dot]:
    """A random sample, the same each time, of those found wrong first."""
    chosen = heapq.nsmallest(DOTS, scored, key=lambda record: (not _is_mistake(record), hash_upload(*record.key)))
    return [
        figures.Dot(record.recorded_at, record.prediction.confidence, record.decision.route, _is_mistake(record))
        for record in chosen
        if record.prediction
    ]


def _is_mistake(record: Record) -> bool:
    """Whether the policy accepted the prediction, and a person found it wrong."""
    return record.decision.by_policy is Route.ACCEPT and bool(judge(record))


def _split(values_at: Iterable[tuple[datetime, float | None]], spans: Spans) -> list[list[float]]:
    """The values in each span of time; None is none."""
    values: list[list[float]] = [[] for _ in range(spans.n)]
    for at, value in values_at:
        if value is not None:
            values[spans.of(at)].append(float(value))
    return values


def _medians(values: Sequence[Sequence[float]], spans: Spans, parts: int = 4) -> list[figures.Band]:
    """The median of each span with the first and last of its quantiles."""
    bands = []
    for index, part in enumerate(values):
        if part:
            cuts = quantiles(part, n=parts, method="inclusive") if len(part) > 1 else [part[0]]
            bands.append(figures.Band(*spans.edges(index), cuts[0], median(part), cuts[-1], len(part)))
    return bands


def _shares(values: Sequence[Sequence[float]], spans: Spans) -> list[figures.Band]:
    """The share of each span with its interval."""
    bands = []
    for index, part in enumerate(values):
        if part:
            share = wilson_interval(int(sum(part)), len(part))
            bands.append(figures.Band(*spans.edges(index), share.low, share.value, share.high, len(part)))
    return bands


def _right(live: LiveAccuracy) -> Interval:
    return Interval(live.accuracy, live.low, live.high, live.answers)


def _wrong(live: LiveAccuracy) -> Interval:
    return Interval(1 - live.accuracy, 1 - live.high, 1 - live.low, live.answers)


# ---- contact sheets


def _lay_out(
    finding: Finding, records: Sequence[Record], read_picture: ReadPicture, ended_at: datetime | None = None
) -> Sheet:
    """The photos that moved the finding most, and a random sample of the ones before it moved."""
    by_key = {record.key: record for record in records}
    keys = [example.key for example in finding.examples]
    moved = [Tile(by_key.get(key), key[0], example.value) for key, example in zip(keys, finding.examples, strict=True)]
    readable = [record for record in records if record.prepared_image and record.key not in keys]
    before = [record for record in readable if finding.since and record.recorded_at < finding.since]
    usual = heapq.nsmallest(PICTURES, before or readable, key=lambda record: hash_upload(*record.key))
    name = finding.statistic

    def value(record: Record) -> float | None:
        if record.prepared_image and name in type(record.prepared_image.statistics).model_fields:
            return float(getattr(record.prepared_image.statistics, name))
        return getattr(record.prediction, name, None) if name in FEATURES else None

    def show(tile: Tile) -> Picture:
        record = tile.record
        caption = "" if tile.value is None or name not in FEATURES else f"{name} {tile.value:.3f}"
        if record and record.prediction and not caption:
            caption = f"{record.decision.route}, {record.prediction.label} {record.prediction.confidence:.2f}"
        return Picture(read_picture(record) if record else None, tile.image, caption)

    until = f". Over since {moment(ended_at)} UTC" if ended_at else ""
    since = f", since {moment(finding.since)} UTC" if finding.since else ""
    return Sheet(
        name,
        f"{describe(finding)}{since}{until}.",
        [show(tile) for tile in moved],
        [show(Tile(record, record.image, value(record))) for record in usual],
        before=bool(before),
    )
