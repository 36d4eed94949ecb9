"""What the local Lambda does with the environment."""

import os
from pathlib import Path

import pytest

from kickstand_cli.local.functions import Function


def test_a_function_loads_in_its_environment_and_leaves_alone_what_other_threads_put_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TABLE", "before")
    monkeypatch.delenv("OURS", raising=False)
    monkeypatch.delenv("OF_ANOTHER_THREAD", raising=False)
    (tmp_path / "app.py").write_text(
        "import os\n"
        "seen = {name: os.environ[name] for name in ('TABLE', 'OURS')}\n"
        "os.environ['OF_ANOTHER_THREAD'] = 'meanwhile'\n"
        "handler = lambda event, context: seen\n"
    )
    function = Function("Any", tmp_path, {"TABLE": "of the function", "OURS": "alone"}, memory=128, timeout=1)
    try:
        assert function.load()({}, None) == {"TABLE": "of the function", "OURS": "alone"}
        assert (os.environ["TABLE"], os.environ["OF_ANOTHER_THREAD"]) == ("before", "meanwhile")
        assert "OURS" not in os.environ
    finally:
        os.environ.pop("OF_ANOTHER_THREAD", None)
