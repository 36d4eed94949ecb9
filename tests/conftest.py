"""No test reaches AWS: there are no credentials, and the network ends at 127.0.0.1 (see pyproject.toml)."""

import os
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest


@pytest.fixture(scope="session")
def absent() -> Callable[[str, str], NoReturn]:
    """Call it with what this machine lacks, and why: the test is skipped, or fails where KICKSTAND_REQUIRE names it.

    KICKSTAND_REQUIRE: comma-separated, such as "container,chromium"; for CI, which must not pass by skipping.
    """

    def skip_or_fail(what: str, reason: str) -> NoReturn:
        if what in os.environ.get("KICKSTAND_REQUIRE", "").split(","):
            pytest.fail(f"{what} is required here: {reason}")
        pytest.skip(reason)

    return skip_or_fail


@pytest.fixture(scope="session", autouse=True)
def _no_aws_account() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "POWERTOOLS_"))]:
            patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        yield
