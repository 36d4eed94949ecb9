"""Any key that S3 allows is decided, asked about, counted and shown; `make fuzz` tries more."""

from pathlib import Path

import pytest

from fuzz.keys import try_keys
from kickstand_cli.local.stack import deploy
from kickstand_cli.project import PROJECT

pytestmark = pytest.mark.slow

UNSURE = {"route": "review", "reason": "unsure", "explanation": "as the test wants it", "policy_version": "test"}


@pytest.mark.filterwarnings("ignore")
def test_no_key_is_lost_or_does_harm_where_it_is_shown(tmp_path: Path) -> None:
    with deploy(PROJECT / "template.yaml") as stack:
        stack.functions["DecideFunction"].handler = lambda event, context: UNSURE
        tally = try_keys(stack, tmp_path, every=5)
    assert tally.tried > 10
    assert tally.unhandled == []
