"""Command lines by chance: each ends in a result, or in a line that says why not."""

import warnings
from pathlib import Path

import pytest

from fuzz.commands import try_commands


@pytest.mark.parametrize("number", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_no_command_line_ends_in_a_traceback(number: int, tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        tally = try_commands(tmp_path, number, seed=number)
    assert tally.unhandled == []
    assert tally.tried == number
    assert tally.refused > 0
