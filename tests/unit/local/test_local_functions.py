"""What the local Lambda does with the environment, and whom it answers."""

import os
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from kickstand_cli.local.functions import Function, LambdaService, cut_off, environment


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


SHELL = (
    "AWS_PROFILE",
    "AWS_ENDPOINT_URL_S3",
    "AWS_CA_BUNDLE",
    "POWERTOOLS_DEV",
    "HTTP_PROXY",
    "https_proxy",
    "no_proxy",
)


def test_of_the_shells_aws_settings_and_proxies_nothing_reaches_the_local_stack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in SHELL:
        monkeypatch.setenv(name, "of the shell")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    with environment(cut_off({"AWS_ENDPOINT_URL_LAMBDA": "http://127.0.0.1:1"})):
        assert [name for name in SHELL if name in os.environ] == []
        assert os.environ["AWS_REGION"] == os.environ["AWS_DEFAULT_REGION"] == "us-east-1"
        assert os.environ["AWS_CONFIG_FILE"] == os.devnull
        assert os.environ["AWS_ENDPOINT_URL_LAMBDA"] == "http://127.0.0.1:1"
    assert {os.environ[name] for name in SHELL} == {"of the shell"}
    assert os.environ["AWS_REGION"] == "eu-central-1"


# ---- whom it answers

SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=local"}
INVOKE = "/2015-03-31/functions/Any/invocations"


@pytest.fixture
def service(socket_enabled: None) -> Iterator[LambdaService]:
    with LambdaService() as service:
        service.functions["Any"] = Function("Any", Path(), {}, 128, 1, handler=lambda event, context: event)
        yield service


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (INVOKE, SIGNED, 200),
        (INVOKE.replace("Any", "Other"), SIGNED, 404),
        (INVOKE, {}, 403),  # a page of any site may post text/plain without asking first
        (INVOKE, SIGNED | {"Origin": "http://evil.example"}, 403),
        (INVOKE, SIGNED | {"Host": "evil.example"}, 403),
        ("/x", SIGNED, 403),
        ("/", SIGNED, 403),
        (f"{INVOKE}/more", SIGNED, 403),
        (INVOKE, SIGNED | {"Content-Length": "-1"}, 403),
        (INVOKE, SIGNED | {"Content-Length": "abc"}, 403),
    ],
)
def test_only_an_sdk_of_this_machine_is_answered(
    service: LambdaService, path: str, headers: dict[str, str], status: int
) -> None:
    with closing(HTTPConnection("127.0.0.1", int(service.url.rpartition(":")[2]))) as connection:
        connection.putrequest("POST", path, skip_host="Host" in headers)
        for name, value in ({"Content-Length": "2"} | headers).items():
            connection.putheader(name, value)
        connection.endheaders(b"{}")
        assert connection.getresponse().status == status
