"""`python -m bench.burst`: how long uploads in a burst wait, and how many end as dead letters because of throttling.

A simulation of single invocations. Retry policies, delays and admission come from the shipped state machine and
template, durations from the assumptions of `kickstand cost`. Nothing is warm at first. Lambda refuses every invocation
beyond the account's concurrency, which admission, all steps and other applications share; so refusals come in waves.
"""

import heapq
import itertools
import json
import random
import re
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kickstand_cli.local.template import load_yaml
from kickstand_cli.project import PROJECT, TEMPLATE

THROTTLED = "Lambda.TooManyRequestsException"
FORMER_RETRY = {"IntervalSeconds": 1, "MaxAttempts": 3, "BackoffRate": 2}  # of each step, before uploads waited
ADMITS = "AdmitUploadsFunction"
POLLERS, POLLERS_MORE = (
    5,
    5,
)  # at first, and each second: https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html
PHOTOS, SECONDS, CONCURRENCY = (1_000, 5_000, 10_000, 50_000), (10, 60), (10, 100, 1_000)
HOURS_AT_MOST = 48


class Design(StrEnum):
    """FORMER: each upload starts its execution at once. Else uploads wait in the queue.

    EXPRESS is waited for, save an upload that comes alone; STANDARD is not.
    """

    FORMER = "former"
    EXPRESS = "EXPRESS"
    STANDARD = "STANDARD"


@dataclass(frozen=True)
class Step:
    """A function that an execution invokes. waits: the longest ones after each refusal, in seconds."""

    function: str
    seconds: float
    cold_seconds: float
    waits: tuple[float, ...]


@dataclass(frozen=True)
class Shipped:
    """What the template and the state machine say.

    postpones: seconds after which a throttled upload comes back, least and most; None where it is a dead letter.
    between: seconds between two steps.
    """

    admits: Step
    steps: tuple[Step, ...]
    postpones: tuple[int, int] | None
    between: float
    functions: int
    photos: int


@dataclass
class Outcome:
    """The outcome of a burst. emptied: seconds from its beginning until nothing waited or ran."""

    recorded: int = 0
    dead_letters: int = 0
    postponed: int = 0
    refused: int = 0
    emptied: float = 0.0


# ---- what is shipped


def shipped(concurrency: int, design: Design) -> Shipped:
    """The design, as an account of this concurrency would set it up."""
    template = load_yaml(TEMPLATE)
    states = load_yaml(PROJECT / template["Resources"]["ClassifyImageStateMachine"]["Properties"]["DefinitionUri"])[
        "States"
    ]
    assumed = json.loads((PROJECT / "cli/kickstand_cli/local/costs/assumptions.json").read_bytes())

    def step(function: str, retry: Mapping[str, Any] | None = None) -> Step:
        took, cold = assumed["milliseconds"][function], assumed["cold_milliseconds"][function]
        return Step(function, took / 1000, cold / 1000, waits(retry) if retry else ())

    steps = []
    for state in states.values():
        if called := re.fullmatch(r"\$\{(\w+Function)Arn\}", state.get("Resource", "")):
            retry = next(rule for rule in state["Retry"] if THROTTLED in rule["ErrorEquals"])
            steps.append(step(called[1], FORMER_RETRY if design is Design.FORMER else retry))
    between = assumed["execution_milliseconds"] / 1000 - sum(step.seconds for step in steps)
    admission = template["Mappings"]["Admission"][str(concurrency)]
    postpones = None if design is Design.FORMER else postponement(states)
    return Shipped(
        step(ADMITS), tuple(steps), postpones, between / len(steps), admission["Functions"], admission["Photos"]
    )


def waits(retry: Mapping[str, Any]) -> tuple[float, ...]:
    """The longest wait after each refusal; full jitter draws from zero to it.

    >>> waits({"IntervalSeconds": 2, "MaxAttempts": 4, "BackoffRate": 2, "MaxDelaySeconds": 6})
    (2, 4, 6, 6)
    """
    longest = retry.get("MaxDelaySeconds", float("inf"))
    return tuple(
        min(retry["IntervalSeconds"] * retry["BackoffRate"] ** n, longest) for n in range(retry["MaxAttempts"])
    )


def postponement(states: Mapping[str, Any]) -> tuple[int, int] | None:
    """Where a throttled step leads: seconds in the queue, or None for the dead letters."""
    catch = next(
        rule for rule in states["Prepare Image"]["Catch"] if {THROTTLED, "States.ALL"} & set(rule["ErrorEquals"])
    )
    state = states[catch["Next"]]
    if state["Type"] == "Choice":
        state = states[next(rule["Next"] for rule in state["Choices"] if rule.get("StringEquals") == THROTTLED)]
    if state["Parameters"]["QueueUrl"] != "${UploadQueueUrl}":
        return None
    drawn = re.fullmatch(r"States\.MathRandom\((\d+), (\d+)\)", state["Parameters"]["DelaySeconds.$"])
    if not drawn:
        raise ValueError(state)
    return int(drawn[1]), int(drawn[2])


# ---- the simulation

Process = Generator[float, None, bool]


class Burst:
    """One burst. others: how many functions of other applications run at a time, in seconds from the beginning."""

    def __init__(
        self,
        photos: int,
        seconds: float,
        concurrency: int,
        design: Design,
        seed: int = 1,
        others: Callable[[float], int] = lambda _now: 0,
    ) -> None:
        self.shipped, self.design = shipped(concurrency, design), design
        self.concurrency, self.others = concurrency, others
        self.chance = random.Random(seed)  # noqa: S311 - the same again
        self.outcome = Outcome()
        self.now, self.busy, self.admitting, self.looks = 0.0, 0, 0, False
        self.idle: dict[str, int] = {}  # warm, by function
        self.queued = 0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        for _ in range(photos):
            at = self.chance.uniform(0, seconds)
            self.at(at, self.arrive)

    def run(self) -> Outcome:
        """Until nothing waits or runs. Raises TimeoutError after two days."""
        while self.events:
            self.now, _, act = heapq.heappop(self.events)
            if self.now > HOURS_AT_MOST * 3600:
                raise TimeoutError(self.outcome)
            act()
        return self.outcome

    def at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self.events, (when, next(self.order), act))

    def play(self, process: Process, ended: Callable[[bool], None]) -> None:
        """Run a process, which yields seconds to wait."""

        def resume() -> None:
            try:
                self.at(self.now + next(process), resume)
            except StopIteration as stop:
                self.outcome.emptied = self.now
                ended(stop.value)

        resume()

    # ---- Lambda

    def take(self, function: str, cold_seconds: float) -> float | None:
        """Seconds of a cold start, or none where a warm one is idle; None where the account runs as many as it may."""
        if self.busy + self.others(self.now) >= self.concurrency:
            self.outcome.refused += 1
            return None
        self.busy += 1
        if self.idle.get(function):
            self.idle[function] -= 1
            return 0.0
        return cold_seconds

    def give(self, function: str) -> None:
        self.busy -= 1
        self.idle[function] = self.idle.get(function, 0) + 1

    # ---- an upload

    def arrive(self) -> None:
        if self.design is Design.FORMER:
            self.execute(lambda: None)
        else:
            self.queued += 1
            self.admit()

    def execute(self, ended: Callable[[], None]) -> None:
        def end(done: bool) -> None:
            if done:
                self.outcome.recorded += 1
            elif self.shipped.postpones is None:
                self.outcome.dead_letters += 1
            else:
                self.outcome.postponed += 1
                self.at(self.now + self.chance.uniform(*self.shipped.postpones), self.arrive)
            ended()

        self.play(self.execution(), end)

    def execution(self) -> Process:
        """Whether every step was done, and none refused too often."""
        for step in self.shipped.steps:
            yield self.shipped.between
            for wait in (*step.waits, None):
                cold = self.take(step.function, step.cold_seconds)
                if cold is not None:
                    yield cold + step.seconds
                    self.give(step.function)
                    break
                if wait is None:
                    return False
                yield self.chance.uniform(0, wait)
        return True

    # ---- the queue

    def admit(self) -> None:
        """Invoke the function that admits as often as its event source may, and while there is something to admit."""
        pollers = min(self.shipped.functions, int(POLLERS + POLLERS_MORE * self.now))
        while self.queued and self.admitting < pollers:
            cold = self.take(ADMITS, self.shipped.admits.cold_seconds)
            if cold is None:
                self.look_again()
                return
            batch = min(self.shipped.photos, self.queued)
            self.queued -= batch
            self.admitting += 1
            self.at(self.now + cold + self.shipped.admits.seconds, lambda batch=batch: self.start(batch))  # type: ignore[misc]
        if self.queued and pollers < self.shipped.functions:
            self.look_again()

    def look_again(self) -> None:
        if not self.looks:
            self.looks = True
            self.at(self.now + 1, self.looked)

    def looked(self) -> None:
        self.looks = False
        self.admit()

    def start(self, batch: int) -> None:
        """EXPRESS is waited for, all of the batch, where it is more than one."""
        left = batch
        waits = self.design is Design.EXPRESS and left > 1

        def ended() -> None:
            nonlocal left
            left -= 1
            if not left and waits:
                self.admitted()

        for _ in range(batch):
            self.execute(ended)
        if not waits:
            self.admitted()

    def admitted(self) -> None:
        self.admitting -= 1
        self.give(ADMITS)
        self.admit()


# ---- the table


def in_waves(concurrency: int, share: float, every: float, lasts: float) -> Callable[[float], int]:
    """Other applications that take a share of the account, for `lasts` seconds at the end of every `every` seconds.

    >>> busy = in_waves(100, 0.5, every=60, lasts=20)
    >>> busy(10), busy(50), busy(70)
    (0, 50, 0)
    """
    return lambda now: int(share * concurrency) if now % every >= every - lasts else 0


def table(photos: tuple[int, ...] = PHOTOS, seconds: tuple[int, ...] = SECONDS) -> Iterator[str]:
    """In Markdown, a row at a time."""
    yield "| photos | within | account runs | former: dead letters | EXPRESS | empty after | STANDARD | empty after |"
    yield "|--:|--:|--:|--:|--:|--:|--:|--:|"
    for within, count, concurrency in itertools.product(seconds, photos, CONCURRENCY):
        found = {design: Burst(count, within, concurrency, design).run() for design in Design}
        express, standard = found[Design.EXPRESS], found[Design.STANDARD]
        yield (
            f"| {count:,} | {within} s | {concurrency:,} | {found[Design.FORMER].dead_letters / count:.1%} "
            f"| {express.dead_letters} | {spoken(express.emptied)} "
            f"| {standard.dead_letters} | {spoken(standard.emptied)} |"
        )


def spoken(seconds: float) -> str:
    """Seconds, or minutes from two on.

    >>> spoken(40), spoken(150)
    ('40 s', '2.5 min')
    """
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def main() -> None:
    for line in table():
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
