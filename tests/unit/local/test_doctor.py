"""What `kickstand doctor` says of machines that are not this one."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kickstand_cli.local import doctor
from kickstand_cli.local.doctor import Machine, examine
from kickstand_cli.local.finding import Finding, Status
from kickstand_cli.main import app
from kickstand_cli.project import MODEL

PROGRAMS = {
    "sam --version": "SAM CLI, version 1.170.0",
    "python3.13 --version": "Python 3.13.0",
    "docker info": "Server:",
    "node --version": "v22.1.0",
    "chromium --version": "Chromium 140.0",
}


class Fake(Machine):
    """A machine that has all, until it is changed. programs: what each command prints; a command without is broken."""

    home: Path

    def __init__(self, folder: Path, programs: Mapping[str, str] = PROGRAMS, there: tuple[str, ...] = ()) -> None:
        self.project, self.model, self.home = folder / "checkout", folder / "model", folder / "home"
        self.environment = {"AWS_PROFILE": "work", "AWS_REGION": "eu-west-1"}
        self.python, self.free, self.taken = (3, 13, 0), 50e9, False
        self.programs, self.there = programs, {*there, *(command.split()[0] for command in programs)}
        self.project.mkdir()
        self.is_checkout = True
        shutil.copytree(MODEL, self.model)
        for name, text in {"template.yaml": "", ".python-version": "3.13\n"}.items():
            (self.project / name).write_text(text)

    def which(self, program: str) -> str | None:
        return program if program in self.there else None

    def run(self, *command: str) -> str | None:
        return self.programs.get(" ".join(command))

    def free_bytes(self) -> int:
        return int(self.free)

    def takes(self, port: int) -> bool:
        return not self.taken


def without(*commands: str) -> dict[str, str]:
    return {command: said for command, said in PROGRAMS.items() if command not in commands}


def find(machine: Machine, name: str) -> Finding:
    (finding,) = (finding for finding in examine(machine) if finding.name == name)
    return finding


def test_a_machine_that_has_all_lacks_nothing(tmp_path: Path) -> None:
    findings = examine(Fake(tmp_path))
    assert [finding for finding in findings if finding.status is not Status.OK or finding.fix] == []


@pytest.mark.parametrize(
    ("command", "name", "fix"),
    [
        ("sam --version", "SAM CLI", "make .venv-sam/.installed"),
        ("python3.13 --version", "python3.13", "install Python 3.13"),
        ("docker info", "container engine", "install one of docker, finch, podman"),
        ("node --version", "node", "Node.js"),
        ("chromium --version", "chromium", "apt-get install chromium"),
    ],
)
def test_a_program_that_is_not_there_is_lacking_with_what_to_do(
    tmp_path: Path, command: str, name: str, fix: str
) -> None:
    finding = find(Fake(tmp_path, without(command)), name)
    assert finding.status is Status.LACKING
    assert fix in finding.fix


def test_a_program_that_is_there_and_does_not_run_is_lacking(tmp_path: Path) -> None:
    finding = find(Fake(tmp_path, without("python3.13 --version"), ("python3.13",)), "python3.13")
    assert (finding.status, finding.found) == (Status.LACKING, "python3.13 does not run")


@pytest.mark.parametrize("engine", ["docker", "finch", "podman"])
def test_any_engine_will_do(tmp_path: Path, engine: str) -> None:
    programs = {**without("docker info"), f"{engine} info": ""}
    assert find(Fake(tmp_path, programs), "container engine").found == engine


def test_an_engine_that_does_not_answer_is_to_be_started(tmp_path: Path) -> None:
    finding = find(Fake(tmp_path, without("docker info"), ("docker", "podman")), "container engine")
    assert finding.status is Status.LACKING
    assert finding.found.startswith("docker and podman installed, but no answer")
    assert finding.fix.startswith("start it")


def test_no_credentials_and_no_region_are_lacking(tmp_path: Path) -> None:
    machine = Fake(tmp_path)
    machine.environment = {}
    assert find(machine, "AWS credentials").status is Status.LACKING
    assert find(machine, "AWS region").status is Status.LACKING


def test_credentials_and_region_of_a_file_are_found(tmp_path: Path) -> None:
    machine = Fake(tmp_path)
    machine.environment = {}
    (machine.home / ".aws").mkdir(parents=True)
    (machine.home / ".aws/config").write_text("[default]\nregion = eu-west-1\nsso_session = work\n")
    assert find(machine, "AWS credentials").status is Status.OK
    assert find(machine, "AWS region").status is Status.OK


def test_the_installed_package_lacks_a_checkout_and_only_a_deployment_needs_one(tmp_path: Path) -> None:
    machine = Fake(tmp_path)
    machine.is_checkout = False
    assert find(machine, "checkout").status is Status.LACKING
    found = {finding.name: finding for finding in doctor.examine_deployment(machine, "default")}
    assert found["checkout"].status is Status.WRONG
    assert "clone the repository" in found["checkout"].fix


def test_an_old_python_is_wrong(tmp_path: Path) -> None:
    machine = Fake(tmp_path)
    machine.python = (3, 10, 12)
    assert find(machine, "Python").status is Status.WRONG


@pytest.mark.parametrize(("free", "status"), [(5.0e9, Status.OK), (4.9e9, Status.WRONG)])
def test_little_disk_is_wrong(tmp_path: Path, free: float, status: Status) -> None:
    machine = Fake(tmp_path)
    machine.free = free
    assert find(machine, "disk").status is status


def test_a_damaged_model_is_wrong(tmp_path: Path) -> None:
    machine = Fake(tmp_path)
    with (machine.model / "model.onnx").open("ab") as file:
        file.write(b"x")
    finding = find(machine, "model artefact")
    assert finding.status is Status.WRONG
    assert "its card says" in finding.found


def test_a_model_that_is_not_there_is_wrong_in_one_line(tmp_path: Path) -> None:
    machine = Fake(tmp_path)
    (machine.model / "model.json").unlink()
    finding = find(machine, "model artefact")
    assert (finding.status, "\n" in finding.found) == (Status.WRONG, False)


def test_a_port_that_is_taken_can_be_chosen(tmp_path: Path) -> None:
    machine = Fake(tmp_path)
    machine.taken = True
    assert "--port 0" in find(machine, "port 8765").fix


def test_what_is_only_lacking_leaves_the_exit_code_at_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Fake(tmp_path, {})
    monkeypatch.setattr(doctor, "Machine", lambda: machine)
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0
    machine.free = 0
    result = CliRunner().invoke(app, ["doctor", "--json"])
    told = json.loads(result.stdout)
    assert (result.exit_code, told["well"]) == (4, False)
    assert {finding["status"] for finding in told["findings"]} == {"ok", "lacking", "wrong"}


def test_this_machine_can_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "takes", lambda machine, port: True)  # unit tests open no sockets
    assert find(Machine(), "Python").status is Status.OK
    assert find(Machine(), "model artefact").status is Status.OK
