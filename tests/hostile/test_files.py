"""Files of records, captured inferences and items of tables end in records or in a reason, never in anything else."""

import logging
from pathlib import Path

import pytest

from fuzz.files import try_captures, try_items, try_record_files

pytestmark = pytest.mark.slow


def test_no_file_of_records_ends_in_a_traceback(tmp_path: Path) -> None:
    tally = try_record_files(tmp_path, every=7)
    assert tally.tried > 200
    assert tally.unhandled == []


def test_no_captured_inference_ends_in_a_traceback() -> None:
    tally = try_captures(every=5)
    assert tally.tried > 150
    assert tally.unhandled == []


def test_no_item_of_a_table_hides_another(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL):
        tally = try_items(every=3)
    assert tally.tried > 200
    assert tally.unhandled == []
