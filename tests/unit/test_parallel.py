"""Many items at a time: in order, in flat memory, and one bad one ends nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path

import pytest

from kickstand_cli.parallel import BATCH, FETCHES, in_processes, in_threads
from kickstand_cli.project import PROJECT
from tests.photos import coloured


def double_all(numbers: Sequence[int]) -> list[int]:
    return [2 * number for number in numbers]


def die_of_13(numbers: Sequence[int]) -> list[int]:
    if 13 in numbers:
        os._exit(1)  # as a decoder's crash does, or the kernel when memory runs out
    return list(numbers)


def lost(number: int) -> int:
    return -number


def test_processes_keep_the_order() -> None:
    assert list(in_processes(double_all, range(100), lost, processes=2)) == [2 * number for number in range(100)]


@pytest.mark.parametrize("at", [0, 200])
def test_an_item_that_ends_its_process_is_the_only_one_lost(at: int) -> None:
    numbers = [*range(20, 20 + at), 13, *range(300, 360)]
    assert list(in_processes(die_of_13, numbers, lost, processes=2)) == [-n if n == 13 else n for n in numbers]


def test_a_few_items_start_no_process() -> None:
    assert list(in_processes(lambda numbers: numbers, range(20), lost)) == list(range(20))  # no process can have that


@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_items_are_read_only_as_they_are_needed(kind: str) -> None:
    read = []

    def numbers() -> Iterator[int]:
        for number in count():
            read.append(number)
            yield number

    results = (
        in_processes(double_all, numbers(), lost, processes=2)
        if kind == "processes"
        else in_threads(lambda number: 2 * number, numbers())
    )
    assert list(islice(results, 1000)) == [2 * number for number in range(1000)]
    assert len(read) <= 1000 + max(6 * BATCH, 2 * FETCHES)


def test_ctrl_c_ends_the_command_and_its_processes_without_a_traceback(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    coloured("red").resize((2000, 2000)).save(photo)
    program = [
        sys.executable,
        "-c",
        "from kickstand_cli.main import app; app()",
        "classify",
        "--json",
        *[str(photo)] * 5000,
    ]
    with subprocess.Popen(
        program,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=PROJECT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores Ctrl-C
    ) as command:
        assert command.stdout
        assert "route" in command.stdout.readline()
        os.killpg(command.pid, signal.SIGINT)
        _, err = command.communicate()  # until the last process that holds stderr has ended
    assert command.returncode not in (0, None)
    assert "Traceback" not in err
