"""Whatever bytes are uploaded: a decision or a clear refusal, within 60 % of the function's time and memory.

`make fuzz` tries more.
"""

import json
import subprocess
import sys

import pytest

from fuzz.images import FAMILIES
from kickstand_cli.project import PROJECT

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("family", FAMILIES)
def test_no_photo_is_unhandled_or_takes_more_than_its_share_of_the_function(family: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "fuzz.images", family, "1"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    tally = json.loads(ran.stdout)
    assert tally["tried"] > 5
    assert tally["unhandled"] == []  # what takes too long or too much is among them
