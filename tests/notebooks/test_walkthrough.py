"""The notebook runs from top to bottom, without an AWS account, and is kept as it should be read: without outputs."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "notebooks/walkthrough.ipynb"


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]


def test_it_is_kept_without_outputs_and_names_no_machine() -> None:
    for cell in read().cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert not re.findall(r"/(?:home|Users|work|tmp)/", NOTEBOOK.read_text())


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The notebook after every cell has run in a kernel of this environment, on the drawings."""
    home = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "XDG_CACHE_HOME"):
            patch.setenv(name, str(home / name))
        patch.delenv("KICKSTAND_CIFAR100", raising=False)
        patch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
        notebook = read()
        place, patience = {"metadata": {"path": home}}, 500  # seconds; less than the test's own
        NotebookClient(
            notebook, timeout=patience, startup_timeout=patience, kernel_name="python3", resources=place
        ).execute()
        yield notebook


def said(notebook: Any) -> str:
    return json.dumps([cell.outputs for cell in notebook.cells if cell.cell_type == "code"], ensure_ascii=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the kernel's client
@pytest.mark.timeout(600)
@pytest.mark.enable_socket
def test_it_runs_and_tells_the_whole_story(executed: Any) -> None:
    text = said(executed)
    for part in (
        "cross-validated",  # training
        "accepted from 0.",  # a promise that holds
        "these photos cannot show",  # and one that does not
        "outputs, among them the bucket",  # deployment
        "FAILED",  # a run that fails
        "reject because unreadable",  # and one that only looks so
        "questions answered by a person",  # what was captured
        "page: ",  # the drawings are not photos
        "Confidence over time",  # monitoring pictures
        "monitoring.html: ",
    ):
        assert part in text, part
    assert text.count("<svg") >= 5
