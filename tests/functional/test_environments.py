"""Every command in the environments that people have: no traceback, and the exit code that the command would have."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer

from docs.make import walk
from kickstand.events import Decision, ImageRef, Reason, Route
from kickstand.records import Record
from kickstand_cli.main import app
from kickstand_cli.project import MODEL, PROJECT

SAMPLES = PROJECT / "samples/images"
COMMANDS = {" ".join(words[1:]): command for words, command in walk(typer.main.get_command(app))}
NO_STACK = "--outputs {folder}/outputs.json"
USES = {  # what each command is used for most often; without a network, the ones on AWS end at the way there: 1
    "demo": ("demo --limit 1 --out {folder}/demo", 0),
    "doctor": ("doctor --json", 0),
    "classify": ("classify {folder}/photos/bicycle/bike.jpg", 0),
    "evaluate": ("evaluate {folder}/photos", 0),
    "policy": ("policy --max-risk 0.02", 0),
    "replay": ("replay --records {folder}/records.jsonl --accept-at 0.9", 0),
    "switch on": (f"switch on --reason x --for 1h {NO_STACK}", 1),
    "switch off": (f"switch off {NO_STACK}", 1),
    "switch status": (f"switch status {NO_STACK}", 1),
    "serve": ("serve --model {folder}", 1),
    "review": (f"review {NO_STACK}", 2),
    "labels export": (f"labels export --out {{folder}}/labels {NO_STACK}", 1),
    "backfill": (f"backfill {NO_STACK}", 1),
    "labels agreement": ("labels agreement --records {folder}/records.jsonl", 0),
    "ledger": (f"ledger {NO_STACK}", 1),
    "dead-letters": (f"dead-letters {NO_STACK}", 1),
    "explain": ("explain bike.jpg --records {folder}/records.jsonl", 0),
    "forget": (f"forget s3://photos/x.jpg {NO_STACK}", 1),
    "monitor": ("monitor --records {folder}/records.jsonl", 0),
    "baseline": ("baseline --records {folder}/records.jsonl --model {folder}", 1),
    "report": ("report --records {folder}/records.jsonl --out {folder}/page.html", 0),
    "import-capture": ("import-capture {folder} --out {folder}/captured.jsonl", 1),
    "train": ("train {folder}/nowhere --out {folder}/model", 1),
    "training upload": (f"training upload {{folder}}/photos {NO_STACK}", 1),
    "training start": (f"training start --reason x {NO_STACK}", 1),
    "training status": (f"training status {NO_STACK}", 1),
    "gate": ("gate {model} {model} {folder}/photos", 4),
    "dataset fetch": ("dataset fetch --archive {folder}/nowhere --out {folder}/dataset", 1),
    "dataset check": ("dataset check {folder}/photos", 0),
    "load-test": ("load-test -n 1 --bad 0 --duplicates 0", 0),
    "cost": ("cost", 0),
}
HEAVY = {"demo", "load-test", "evaluate", "gate"}


@dataclass(frozen=True)
class Environment:
    """What is other than usual. without, settings: variables. before, after: words of the shell around the command."""

    settings: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    before: str = ""
    after: str = ""
    read_only: bool = False
    heavy: bool = False  # whether it is worth the seconds that the commands in HEAVY take


NOBODY = "unshare -U --map-user=12345 --map-group=12345"
ENVIRONMENTS = {
    "no user": Environment(without=("HOME", "USER", "LOGNAME"), before=NOBODY, heavy=True),
    "C locale": Environment({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}),
    "latin-1": Environment({"PYTHONIOENCODING": "latin-1"}),
    "no terminal": Environment(before="setsid -w", after="</dev/null"),
    "closed streams": Environment(after=">&- 2>&- <&-", heavy=True),
    "a proxy and an endpoint": Environment(
        dict.fromkeys(("HTTP_PROXY", "https_proxy", "ALL_PROXY", "AWS_ENDPOINT_URL"), "http://127.0.0.1:9")
        | {"MOTO_ACCOUNT_ID": "9", "TEST_SERVER_MODE": "true", "S3_IGNORE_SUBDOMAIN_BUCKETNAME": "true"},
        heavy=True,
    ),
    "a profile that is not there": Environment(
        {"AWS_PROFILE": "nobody", "AWS_CONFIG_FILE": "/nowhere", "AWS_CA_BUNDLE": "/nowhere"}
    ),
    "a folder to read only": Environment(read_only=True),
    "no colour": Environment({"NO_COLOR": "1", "TERM": "dumb", "MPLBACKEND": "nonsense"}),
    "a narrow terminal": Environment({"COLUMNS": "5", "FORCE_COLOR": "1", "TERM": "xterm-256color"}),
}
# Many commands in one process: importing what they need takes longer than they do.
RUN = """
import io, json, os, sys
from kickstand.events import Decision, ImageRef, Reason, Route
from kickstand.records import Record
from kickstand_cli.main import app
def run(words):
    try:
        app(words, standalone_mode=True)
    except SystemExit as ended:
        return ended.code or 0
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
for words in json.loads(os.environ["WORDS"]):
    code = run(words)
    with open(os.environ["CODES"], "a", encoding="utf-8") as file:
        file.write(json.dumps([words, code]) + "\\n")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands are used on."""
    folder = tmp_path_factory.mktemp("used")
    for label, name in {"bicycle": "red-road-bike.jpg", "motorcycle": "red-sport.jpg"}.items():
        (folder / "photos" / label).mkdir(parents=True)
        (folder / "photos" / label / "bike.jpg").write_bytes((SAMPLES / label / name).read_bytes())
    now = datetime(2026, 5, 4, tzinfo=UTC)
    ref = ImageRef(bucket="photos", key="bike.jpg", etag="e", version_id="v", size=0, uploaded_at=now)
    decision = Decision(route=Route.REJECT, reason=Reason.UNREADABLE, explanation="0 bytes → é")
    record = Record(
        image="s3://photos/bike.jpg", version="v", image_ref=ref, prepared_image=None, prediction=None,
        decision=decision, execution="arn:x", recorded_at=now,
    )  # fmt: skip
    (folder / "records.jsonl").write_text(record.model_dump_json() + "\n")
    (folder / "outputs.json").write_text("{}")
    return folder


@pytest.fixture
def run(folder: Path, tmp_path: Path, absent: Callable[[str, str], Any]) -> Callable[..., tuple[list[Any], str]]:
    """Runs these commands one after the other; returns their exit codes and all that they said."""

    def in_it(environment: Environment, commands: list[str]) -> tuple[list[Any], str]:
        if environment.before.startswith("unshare") and subprocess.run([*NOBODY.split(), "true"]).returncode:
            absent("unshare", "this kernel gives no user namespaces")
        tmp_path.chmod(0o777)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)
        here = Path("/proc") if environment.read_only else tmp_path
        words = [use.format(folder=folder, model=MODEL).split() for use in commands]
        kept = {name: value for name, value in os.environ.items() if name not in environment.without}
        settings = {
            "PYTHONPATH": os.pathsep.join([str(PROJECT / "layers/core"), str(PROJECT / "cli")]),
            "MPLCONFIGDIR": str(folder),
            "WORDS": json.dumps(words),
            "CODES": str(tmp_path / "codes"),
        }
        (tmp_path / "run.py").write_text(RUN)
        command = f"{environment.before} {sys.executable} {tmp_path / 'run.py'} {environment.after}"
        ran = subprocess.run(
            ["bash", "-c", command],
            env=kept | settings | environment.settings,
            cwd=here,
            capture_output=True,
            check=False,
        )
        said = (ran.stdout + ran.stderr).decode("utf-8", "replace")
        return [json.loads(line)[1] for line in (tmp_path / "codes").read_text("utf-8").splitlines()], said

    return in_it


def expect_no_traceback(said: str) -> None:
    assert "Traceback" not in said
    assert "internal error" not in said
    assert "Error:" not in said


def test_every_command_has_a_use_here() -> None:
    assert set(COMMANDS) == set(USES)


@pytest.mark.parametrize("environment", ["no user", "C locale", "closed streams"])  # all of them: the slow test below
def test_quick_commands_and_help_work_in_this_environment(environment: str, run: Any) -> None:
    quick = {"--help": 0, USES["classify"][0]: 0, USES["replay"][0]: 0, USES["import-capture"][0]: 1}
    codes, said = run(ENVIRONMENTS[environment], list(quick))
    expect_no_traceback(said)
    assert codes == list(quick.values()), said


@pytest.mark.slow
@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_every_command_works_in_this_environment(environment: Environment, run: Any) -> None:
    uses = {name: use for name, use in USES.items() if environment.heavy or name not in HEAVY}
    if environment.read_only:
        uses["load-test"] = (USES["load-test"][0], 1)  # it writes into the folder where it is called
    helps = ["--help", *(f"{name} --help" for name in COMMANDS)]
    codes, said = run(environment, helps + [use for use, _ in uses.values()])
    expect_no_traceback(said)
    wrong = {
        use: (code, expected)
        for (use, expected), code in zip([*((words, 0) for words in helps), *uses.values()], codes, strict=True)
        if code != expected and not (use.startswith("review") and code == 1)  # a terminal is there: AWS is not
    }
    assert wrong == {}, said
