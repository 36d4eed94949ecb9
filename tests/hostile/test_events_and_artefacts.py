"""Events and artefacts with missing, extra and wrong fields end in an error that names what is wrong."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz.artefacts import try_artefacts
from fuzz.events import sample_events, try_events
from kickstand.events import PreparedImage
from kickstand_cli.local.stack import Stack, deploy
from kickstand_cli.project import PROJECT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with deploy(PROJECT / "template.yaml") as stack:
        yield stack


def test_no_function_stumbles_over_an_event(stack: Stack) -> None:
    tallies = [try_events(stack, name, event, every=11, examples=10) for name, event in sample_events(stack).items()]
    assert sum(tally.tried for tally in tallies) > 300
    assert [problem for tally in tallies for problem in tally.unhandled] == []


@pytest.mark.filterwarnings("ignore")
def test_no_artefact_is_taken_for_what_it_is_not(tmp_path: Path) -> None:
    sample = PreparedImage.model_validate(json.loads((PROJECT / "events/classify_image.json").read_bytes()))
    tally = try_artefacts(tmp_path / "model", sample, every=3)
    assert tally.tried > 60
    assert tally.unhandled == []
