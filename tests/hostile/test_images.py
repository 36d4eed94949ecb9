"""Whatever bytes are uploaded: a decision or a clear refusal, within the function's memory. `make fuzz` tries more."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.images import FAMILIES
from kickstand_cli.local.template import load_yaml

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
REST_MB = 150  # what the function takes besides: boto3, Powertools, the upload itself


@pytest.mark.parametrize("family", FAMILIES)
def test_no_photo_is_unhandled_or_outgrows_the_function(family: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "fuzz.images", family, "1"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    tally = json.loads(ran.stdout)
    assert tally["tried"] > 5
    assert tally["unhandled"] == []
    assert (tally["peak_mb"] or 0) < memory() - REST_MB


def memory() -> int:
    """Megabytes of the function that prepares images."""
    properties = load_yaml(PROJECT / "template.yaml")["Resources"]["PrepareImageFunction"]["Properties"]
    return int(properties["MemorySize"])
