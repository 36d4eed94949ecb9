"""Works on many items at a time, in order; only those in progress are in memory."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import chain, islice
from typing import TypeVar

from kickstand.batches import in_batches

Item = TypeVar("Item")
Result = TypeVar("Result")

BATCH = 8
"""Items of a process at a time. ONNX Runtime is fastest with 4 to 8 photos in a call."""
FEW = 4
"""Batches that are done before a new process has finished its imports."""
FETCHES = 10
"""As many connections as botocore keeps open."""


def cores() -> int:
    """The processor cores that this process can use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(call: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`call` for each item, in order: for calls that wait for a network."""
    pool = ThreadPoolExecutor(FETCHES)
    under_way: deque[Future[Result]] = deque()
    try:
        for item in items:
            under_way.append(pool.submit(call, item))
            if len(under_way) > FETCHES:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def in_processes(
    call: Callable[[list[Item]], Sequence[Result]],
    items: Iterable[Item],
    lost: Callable[[Item], Result],
    processes: int | None = None,
) -> Iterator[Result]:
    """The result for each item, in order, on all cores. A few items are done in this process.

    call: gives a result for each item of a batch; it must be importable by name.
    lost: the result for an item that crashes its process.
    """
    batches = in_batches(items, BATCH)
    first = list(islice(batches, FEW))
    number = processes or cores()
    if len(first) < FEW or number == 1:
        for batch in chain(first, batches):
            yield from call(batch)
        return
    pool = start_pool(number)
    under_way: deque[tuple[list[Item], Future[Sequence[Result]]]] = deque()

    def finish() -> Iterator[Result]:
        batch, future = under_way.popleft()
        try:
            yield from future.result()
        except BrokenProcessPool:
            for item in batch:
                yield _alone(call, item, lost)

    try:
        failure = None
        remaining = chain(first, batches)
        while True:
            try:
                batch = next(remaining)
            except StopIteration:
                break
            except Exception as error:  # while reading the items: the earlier ones are finished first
                failure = error
                break
            try:
                future = pool.submit(call, batch)
            except BrokenProcessPool:
                pool = start_pool(number)
                future = pool.submit(call, batch)
            under_way.append((batch, future))
            if len(under_way) > 2 * number:
                yield from finish()
        while under_way:
            yield from finish()
        if failure:
            raise failure
    except BaseException:
        end_now(pool)
        raise
    finally:
        with suppress(OSError):  # where its processes were ended, its pipe may be closed already
            pool.shutdown(cancel_futures=True)


def start_pool(processes: int) -> ProcessPoolExecutor:
    """Processes that ignore Ctrl-C: the command ends them."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, context, signal.signal, (signal.SIGINT, signal.SIG_IGN))


def end_now(pool: ProcessPoolExecutor) -> None:
    """After Ctrl-C, the pool would wait forever for a process that is just starting."""
    for process in list((pool._processes or {}).values()):
        process.kill()


def _alone(call: Callable[[list[Item]], Sequence[Result]], item: Item, lost: Callable[[Item], Result]) -> Result:
    """In a process of its own, because an item of its batch has crashed the last one."""
    with start_pool(1) as pool:
        try:
            return pool.submit(call, [item]).result()[0]
        except BrokenProcessPool:
            return lost(item)
