"""`make deploy` goes where the environment or the profile says, and nowhere else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kickstand_cli.project import PROJECT

SOURCES = ("template.yaml", "serving.yaml", "training.yaml", "samconfig.toml", "pyproject.toml")
PINS = tuple(f"requirements/{name}.txt" for name in ("dev", "uv", "sam"))
MADE = (".venv/.locked", ".venv/.installed", ".venv-sam/.installed", ".aws-sam/build/.made")
SAM = f"""#!{sys.executable}
import sys
import botocore.session
if "deploy" in sys.argv:
    given = dict(zip(sys.argv, sys.argv[1:])).get("--region")
    print("deploys to", given or botocore.session.get_session().get_config_variable("region"))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile with everything built, a doctor, and a SAM CLI that only says where it would deploy to."""
    shutil.copy(PROJECT / "Makefile", tmp_path)
    for name in ("functions", "layers"):
        (tmp_path / name).mkdir()
    for number, names in enumerate(((*SOURCES, *PINS), MADE)):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
            os.utime(tmp_path / name, (number, number))
    for name, text in (
        (".venv/bin/python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'),
        (".venv/bin/kickstand", '#!/bin/sh\nexit "${FOUND:-0}"\n'),  # doctor
        (".venv-sam/bin/sam", SAM),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "config").write_text("[profile work]\nregion = eu-north-1\n")
    return tmp_path


def deploy(checkout: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("AWS_") and name != "MAKEFLAGS"}
    path = os.pathsep.join([str(PROJECT / "layers/core"), str(PROJECT / "cli")])
    return subprocess.run(
        ["make", "--no-print-directory", *options, "deploy"],
        cwd=checkout,
        env=plain | {"PYTHONPATH": path, "AWS_CONFIG_FILE": str(checkout / "config")} | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("environment", "region"),
    [
        ({"AWS_REGION": "eu-central-1"}, "eu-central-1"),
        ({"AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "us-west-2"}, "eu-central-1"),
        ({"AWS_DEFAULT_REGION": "us-west-2", "AWS_PROFILE": "work"}, "us-west-2"),
        ({"AWS_PROFILE": "work"}, "eu-north-1"),
    ],
)
def test_it_deploys_to_the_region_that_is_named(checkout: Path, environment: dict[str, str], region: str) -> None:
    ran = deploy(checkout, **environment)
    assert f"deploys to {region}" in ran.stdout, ran.stdout + ran.stderr


def test_without_a_region_it_stops_and_says_so(checkout: Path) -> None:
    ran = deploy(checkout)
    assert ran.returncode != 0
    assert "AWS_REGION" in ran.stdout + ran.stderr
    assert "deploys to" not in ran.stdout


def test_what_the_doctor_finds_stops_it(checkout: Path) -> None:
    ran = deploy(checkout, AWS_REGION="eu-central-1", FOUND="1")
    assert ran.returncode != 0
    assert ran.stdout == ""


def test_a_dry_run_deploys_nothing(checkout: Path) -> None:
    ran = deploy(checkout, "--dry-run", AWS_REGION="eu-central-1")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "sam deploy" in ran.stdout
    assert "deploys to" not in ran.stdout
