"""`kickstand demo`, the whole command, on a few images."""

import fcntl
import json
import os
import pickle
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from kickstand.classify.artefact import read_card
from kickstand.classify.inference import EmbeddedModel
from kickstand.events import Route
from kickstand.records import Record
from kickstand_cli.classify.classify import answer
from kickstand_cli.local import stack as local_stack
from kickstand_cli.main import app
from kickstand_cli.project import MODEL, PROJECT

SAMPLES = PROJECT / "samples" / "images"
CARD = read_card(MODEL)
SAMPLES_AS_WELL = ("--images", str(SAMPLES))  # so that it is not over before it is ended


def demo(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["demo", *map(str, arguments)])


@pytest.fixture(scope="module")
def routes() -> dict[Path, Route]:
    """What the core alone says of every sample."""
    model = EmbeddedModel(MODEL)
    paths = sorted(path for path in SAMPLES.rglob("*") if path.is_file())
    return {path: answer(path.read_bytes(), "", model).decision.route for path in paths}


@pytest.fixture(scope="module")
def images(routes: dict[Path, Route], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample of each route, a broken file, and keys that are hard to get right."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "sub").mkdir()
    for route in Route:
        path = next(path for path, its in routes.items() if its is route and path.parent.name != "broken")
        (folder / "sub" / f"{route} <b>+1 é.png").write_bytes(path.read_bytes())
    (folder / "broken.jpg").write_bytes(b"not a photo")
    (folder / ".hidden").write_bytes(b"not a photo either")
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run") / "new" / "folder"


@pytest.fixture(scope="module")
def run(images: Path, out: Path) -> Result:
    return demo("--images", images, "--out", out)


@pytest.fixture
def lines(run: Result, out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "records.jsonl").read_text("utf-8").splitlines()]


def test_the_shipped_samples_take_all_three_routes(routes: dict[Path, Route]) -> None:
    assert set(routes.values()) == set(Route)


def test_broken_samples_are_rejected(routes: dict[Path, Route]) -> None:
    assert [path.name for path, route in routes.items() if path.parent.name == "broken" and route != Route.REJECT] == []


def test_every_upload_ends_in_a_line_of_records_sorted_by_key(run: Result, lines: list[dict[str, Any]]) -> None:
    assert run.exit_code == 0, run.output
    keys = [line["key"] for line in lines]
    assert keys == ["broken.jpg", *sorted(f"sub/{route} <b>+1 é.png" for route in Route)]


def test_a_line_is_a_record(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        record = Record.model_validate(line)
        assert record.image_ref.key == line["key"]
        assert line["ms"] > 0


def test_every_image_goes_where_the_core_says(lines: list[dict[str, Any]]) -> None:
    for line in lines[1:]:
        assert line["key"].startswith(f"sub/{line['decision']['route']} ")


def test_the_terminal_shows_the_table_and_nothing_that_the_functions_print(run: Result) -> None:
    for words in (
        "broken.jpg",
        "unreadable",
        *Route,
        "4 uploads, 4 decisions",
        "Your own files.",
        "ledger: 4 uploads =",
    ):
        assert words in run.stdout
    assert "{" not in run.stdout
    assert "Traceback" not in run.stderr


def test_the_steps_are_told_line_by_line_where_there_is_no_terminal(run: Result) -> None:
    assert run.stderr.splitlines() == [
        "Deploying the template on this machine …",
        "Uploading and deciding photos …",
        *(f"  {number} of 4" for number in range(1, 5)),
        "Simulating four weeks for the monitoring report …",
        "Writing the pages …",
    ]


def test_on_a_terminal_a_bar_shows_the_step(images: Path, tmp_path: Path) -> None:
    command = ["demo", "--images", str(images), "--limit", "1", "--out", str(tmp_path)]
    terminal, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    demo = subprocess.Popen(
        [sys.executable, "-c", "from kickstand_cli.main import app; app()", *command],
        stdout=subprocess.DEVNULL,
        stderr=side,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(side)
    shown = b""
    try:
        while part := os.read(terminal, 65536):
            shown += part
    except OSError:  # Linux: the other side is closed
        pass
    assert demo.wait() == 0
    for step in (b"Deploying the template", b"Uploading and deciding photos", b"Writing the pages"):
        assert step in shown
    assert b"of 1" not in shown  # no plain lines beside the bar


def test_the_summary_names_one_file_to_open_and_it_links_to_the_others(run: Result, out: Path) -> None:
    assert run.stdout.rstrip().splitlines()[-1] == f"Open {out}/report.html"
    assert run.stdout.count(".html") == 1
    linked = re.findall(r'href="([^"#:]+)"', (out / "report.html").read_text("utf-8"))
    assert sorted(linked) == sorted(file.name for file in out.iterdir() if file.name != "report.html")


def test_a_sample_of_which_the_model_is_unsure_is_answered_and_that_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "hard"
    folder.mkdir(parents=True)
    shutil.copy(SAMPLES / "hard" / "trail-motorcycle.jpg", folder)
    result = demo("--images", folder.parent, "--out", tmp_path / "out")
    said = "The demo answered “motorcycle”, as a reviewer would."
    assert said in result.stdout
    assert "0 waiting + 1 reviewed" in result.stdout
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert said in page
    assert "Demo answered: motorcycle" in page
    (line,) = (tmp_path / "out" / "records.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["decision"]["reason"] == "unsure"
    assert json.loads(line)["review"]["answer"]["label"] == "motorcycle"


def test_the_functions_output_is_kept(run: Result, out: Path) -> None:
    assert '"ImagesReceived":[1.0]' in (out / "functions.log").read_text("utf-8")


def test_the_drawing_counts_the_executions(run: Result, out: Path) -> None:
    drawing = ET.parse(out / "state-machine.svg").getroot()
    hints = ["".join(group.itertext()) for group in drawing.iter("{http://www.w3.org/2000/svg}g")]
    assert "start → Allow Unreadable4" in hints
    assert "Readable? → Reject With Reason: unreadableunreadable 1" in hints


def test_the_page_shows_every_upload(run: Result, out: Path) -> None:
    page = (out / "report.html").read_text("utf-8")
    assert page.count('<li class="card ') == 4
    assert "<b>+1" not in page


def test_the_monitoring_report_is_simulated_says_so_and_has_the_numbers_of_the_monitor(run: Result, out: Path) -> None:
    report = (out / "monitoring.html").read_text("utf-8")
    assert "<b>Simulated:</b> four weeks" in report
    assert "Simulated: four weeks" in run.stdout
    told = CliRunner().invoke(app, ["monitor", "--records", str(out / "simulated-weeks.jsonl"), "--json"])
    (numbers,) = re.findall(r'id="numbers">(.*?)</script>', report, re.S)
    monitor, page = json.loads(told.stdout), json.loads(numbers)
    assert monitor["images"] == 28 * 90
    assert {name: page[name] for name in monitor} == monitor


def test_a_second_run_in_the_same_process_replaces_the_first(images: Path, out: Path, run: Result) -> None:
    again = demo("--out", out, "--limit", "1", images / "broken.jpg")
    assert again.exit_code == 0, again.output
    assert "{" not in again.stdout
    assert (out / "records.jsonl").read_text("utf-8").count("\n") == 1


def test_a_failed_execution_is_named_with_its_cause(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(function: str) -> None:
        if function == "DecideFunction":
            raise RuntimeError("the policy is on fire")

    monkeypatch.setattr(local_stack, "deploy", partial(local_stack.deploy, faults=fail))
    result = demo("--images", images, "--out", tmp_path, "--workflow", "standard")
    assert result.exit_code == 1
    assert "4 uploads, 1 decision in" in result.stdout
    assert result.stdout.count("the policy is on fire") == 3
    assert "failed sub/accept <b>+1 é.png: FAILED: RuntimeError" in result.stdout
    assert "ledger: 4 uploads = 0 accepted + 1 rejected + 0 waiting + 0 reviewed + 3 dead-letter" in result.stdout
    assert "the policy is on fire" in (tmp_path / "report.html").read_text("utf-8")
    assert (tmp_path / "records.jsonl").read_text("utf-8").count("\n") == 1


def test_names_that_xml_cannot_hold_and_files_that_cannot_be_read_lose_nothing(tmp_path: Path) -> None:
    photo = next((SAMPLES / "bicycle").iterdir()).read_bytes()
    names = [
        b"Icon\r",
        b"a\x01b\x1b[2J",
        b"\xff.jpg",
        b"\xfe.jpg",
        "\ufffe and \uffff".encode(),
        b"<&>\"' ]]>",
        b"a b+c%2F",
    ]
    folder = tmp_path / "images"
    folder.mkdir()
    for name in names:
        (folder / os.fsdecode(name)).write_bytes(photo)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "gone.jpg").symlink_to("nowhere")
    result = demo("--images", folder, "--out", tmp_path / "out")
    assert result.exit_code == 1, result.output
    assert f"{len(names)} uploads, {len(names)} decisions" in result.stdout
    assert f"ledger: {len(names)} uploads = " in result.stdout
    assert "missing" not in result.stdout
    assert sorted(line for line in result.stderr.splitlines() if line.startswith("error")) == [
        f"error: left out: {folder}/gone.jpg: No such file or directory",
        f"error: left out: {folder}/pipe.jpg: a named pipe, not a file",
    ]
    assert all(character.isprintable() or character == "\n" for character in result.output)
    keys = {json.loads(line)["key"] for line in (tmp_path / "out/records.jsonl").read_text("utf-8").splitlines()}
    assert len(keys) == len(names)


def test_the_shells_settings_of_aws_and_its_proxy_change_nothing(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = {
        "AWS_PROFILE": "nobody",
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_CA_BUNDLE": "/nowhere",
        "AWS_REGION": "nowhere",
    }
    urls = (
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_ENDPOINT_URL_LAMBDA",
        "HTTP_PROXY",
        "https_proxy",
        "ALL_PROXY",
    )
    for name, value in (shell | dict.fromkeys(urls, "http://127.0.0.1:9")).items():
        monkeypatch.setenv(name, value)
    result = demo("--images", images / "sub", "--limit", "1", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "1 upload, 1 decision in" in result.stdout


DEMO_THAT_STAYS = """
import signal
from kickstand_cli.local import demo
from kickstand_cli.main import app
demo.simulate_weeks = lambda *_: signal.pause()
app()
"""


@pytest.mark.parametrize(
    ("ended_by", "code", "said"), [(signal.SIGINT, 130, "interrupted\n"), (signal.SIGTERM, 143, "")]
)
def test_an_interrupt_ends_it_without_logs_and_leaves_the_older_results(
    ended_by: signal.Signals, code: int, said: str, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "records.jsonl").write_text("older")
    command = ["demo", "--images", str(images), *SAMPLES_AS_WELL, "--out", str(tmp_path)]
    demo = subprocess.Popen(
        [sys.executable, "-c", DEMO_THAT_STAYS, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores Ctrl-C
    )
    log = tmp_path / "functions.log"
    while not (log.exists() and log.stat().st_size):
        assert demo.poll() is None
        time.sleep(0.05)
    demo.send_signal(ended_by)
    printed, told = demo.communicate()
    assert (printed, demo.returncode) == ("", code)
    assert told.endswith(said)
    assert {line for line in told.splitlines() if line[0] not in " DU"} == set(said.split("\n")) - {""}
    assert (tmp_path / "records.jsonl").read_text() == "older"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["functions.log", "records.jsonl"]


def test_what_cannot_be_written_leaves_the_older_results(images: Path, out: Path, run: Result, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "older")
    command = [
        sys.executable,
        "-c",
        "from kickstand_cli.main import app; app()",
        "demo",
        "--out",
        str(tmp_path / "older"),
    ]
    full = ["bash", "-c", 'ulimit -f 8; exec "$@"', "-", *command, "--images", str(images)]  # a file may have 8 kB
    ended = subprocess.run(full, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "cannot be written (File too large)" in ended.stderr
    assert ended.stderr.count("error:") == 1
    for file in out.iterdir():
        if file.name != "functions.log":
            assert file.read_bytes() == (tmp_path / "older" / file.name).read_bytes()
    assert sorted(file.name for file in (tmp_path / "older").iterdir()) == sorted(file.name for file in out.iterdir())


def test_cifar100_uploads_the_test_images_of_the_models_classes(tmp_path: Path) -> None:
    result = demo("--cifar100", write_archive(tmp_path, ["apple", *CARD.labels]), "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    keys = [json.loads(line)["key"] for line in (tmp_path / "out/records.jsonl").read_text().splitlines()]
    assert keys == sorted(f"{label}/{label}.png" for label in CARD.labels)
    assert "drawings" not in result.stdout


def test_cifar100_may_be_named_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KICKSTAND_CIFAR100", str(write_archive(tmp_path, ["apple", "bear"])))
    assert "no test photos of" in demo("--cifar100", "--out", tmp_path / "out").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "{tmp}/nowhere"], "nowhere: no such file or folder"),
        (["--images", "{tmp}/empty"], "empty: no files in this folder"),
        (["--cifar100", "{tmp}/nowhere"], "nowhere: no such archive or folder"),
        (["--cifar100"], "no such archive; name one after --cifar100"),
        (["--cifar100", "{tmp}/a", "{tmp}/b"], "takes one archive, not 2"),
        (["--cifar100", "--images", "{tmp}/a"], "exclude each other"),
        (["--out", "{tmp}/file"], "file: cannot be written"),
        (["--out", "{tmp}/taken"], "functions.log: cannot be written"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KICKSTAND_CIFAR100", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "taken" / "functions.log").mkdir(parents=True)
    result = demo("--out", tmp_path / "out", *(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def write_archive(folder: Path, class_names: list[str]) -> Path:
    """An unpacked CIFAR-100 archive with one image of every class in each part."""
    archive = folder / "cifar-100-python"
    archive.mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (len(class_names), 3 * 32 * 32), dtype=np.uint8)
    part = {
        "data": pixels,
        "fine_labels": list(range(len(class_names))),
        "filenames": [f"{name}.png" for name in class_names],
    }
    for name, content in (("meta", {"fine_label_names": class_names}), ("train", part), ("test", part)):
        (archive / name).write_bytes(pickle.dumps(content, protocol=2))
    return archive
