"""The wheel alone, in a fresh environment and an empty folder: no checkout is near."""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from kickstand import __version__
from kickstand_cli.main import COMMANDS
from kickstand_cli.project import PROJECT
from kickstand_cli.training.training_source import pack_source

pytestmark = pytest.mark.slow

Run = Callable[..., "subprocess.CompletedProcess[str]"]
LARGEST = 10_000_000  # bytes; the model and its evidence are most of it
ALIKE = {"samples/images/formats/twice-1.webp", "samples/images/formats/twice-2.webp"}  # one photo, uploaded twice


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the build backend of this environment: nothing is downloaded."""
    out = tmp_path_factory.mktemp("dist")
    build: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
    ]
    subprocess.run([*build, "--wheel-dir", out, PROJECT], check=True, capture_output=True, text=True)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def home(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, which sees the dependencies of this one."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, symlinks=True)
    paths = sysconfig.get_paths("venv", {"base": str(home), "platbase": str(home)})
    install: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        home / "bin/python",
        "install",
        "--quiet",
        "--no-index",
    ]
    subprocess.run([*install, "--no-deps", wheel], check=True, capture_output=True, text=True)
    # Of a folder that a .pth file names, no .pth file is read: the checkout of this environment stays out.
    (Path(paths["purelib"]) / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"], "utf-8")
    return home


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(scope="module")
def run(home: Path, folder: Path) -> Run:
    """Runs a program of the environment in the empty folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command: list[str | Path] = [home / "bin" / program, *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    return run


def test_the_demo_runs_from_the_wheel(run: Run, folder: Path) -> None:
    ran = run("kickstand", "demo")
    assert ran.returncode == 0, ran.stderr
    uploads = sum(path.is_file() for path in (PROJECT / "samples/images").rglob("*"))
    assert f"ledger: {uploads} uploads" in ran.stdout
    assert (folder / "demo-output/report.html").is_file()
    monitored = run("kickstand", "monitor", "--records", "demo-output/records.jsonl")
    assert "overall" in monitored.stdout, monitored.stderr


def test_the_wheel_has_the_version_of_the_package(wheel: Path, run: Run) -> None:
    assert wheel.name == f"kickstand-{__version__}-py3-none-any.whl"
    assert run("kickstand", "--version").stdout == f"kickstand {__version__}\n"


def test_the_package_comes_from_the_wheel(run: Run, home: Path) -> None:
    found = run("python", "-c", "import kickstand, kickstand_cli; print(kickstand.__file__, kickstand_cli.__file__)")
    assert all(Path(path).is_relative_to(home) for path in found.stdout.split())


def test_every_command_can_be_loaded_from_the_wheel(run: Run) -> None:
    code = "from kickstand_cli.main import app, get_command, loaded; "
    ran = run("python", "-c", f"{code}print(len([loaded(each) for each in get_command(app).commands.values()]))")
    assert (ran.stdout.strip(), ran.stderr) == (str(sum(map(len, COMMANDS.values()))), "")


@pytest.mark.parametrize("command", ["doctor", "cost", "policy --max-risk 0.02", "classify bicycle.jpg"])
def test_a_command_that_needs_no_stack_works_from_the_wheel(run: Run, folder: Path, command: str) -> None:
    shutil.copy(PROJECT / "samples/images/bicycle/ridden.jpg", folder / "bicycle.jpg")
    ran = run("kickstand", *command.split())
    assert ran.returncode == 0, ran.stderr


def test_to_deploy_from_the_wheel_is_refused_in_one_line(run: Run) -> None:
    ran = run("kickstand", "doctor", "--deploy")
    assert ran.returncode == 4
    (line,) = (line for line in ran.stdout.splitlines() if line.startswith("wrong   checkout"))
    assert "installed package" in line


def test_a_training_job_gets_the_same_code_from_the_wheel(run: Run) -> None:
    code = "from kickstand_cli.training.training_source import pack_source; import hashlib; "
    packed = run("python", "-c", f"{code}print(hashlib.sha256(pack_source()).hexdigest())")
    assert packed.stdout.strip() == hashlib.sha256(pack_source()).hexdigest()


def test_the_wheel_holds_nothing_twice_and_no_tests_or_caches(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        contents = {name: archive.read(name) for name in names if not name.endswith(tuple(ALIKE))}
    assert [name for name, count in Counter(names).items() if count > 1] == []
    same = Counter(content for content in contents.values() if content)
    assert [name for name, content in contents.items() if same[content] > 1] == []
    unwanted = ("__pycache__", ".pyc", "tests/", "test_", "requirements.in", "node_modules", ".DS_Store")
    assert [name for name in names if any(part in name for part in unwanted)] == []
    assert wheel.stat().st_size < LARGEST
