"""What these tests need: a container engine that answers, and Lambda's base image."""

import subprocess
from collections.abc import Callable
from typing import NoReturn

import pytest


def succeeds(*command: str, seconds: float = 60) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=seconds, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@pytest.fixture(scope="session")
def fetch(absent: Callable[[str, str], NoReturn]) -> Callable[[str], None]:
    """Call it with the image that a test needs."""

    def fetch(image: str) -> None:
        if not succeeds("docker", "info"):
            absent("container", "no container engine answers (docker info)")
        if not succeeds("docker", "image", "inspect", image) and not succeeds("docker", "pull", image, seconds=300):
            absent("container", f"{image} is not here and cannot be pulled")

    return fetch
