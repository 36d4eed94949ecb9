"""Runs functions/*/app.py behind Lambda's Invoke API, in this process."""

import importlib.util
import json
import os
import threading
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

Handler = Callable[[dict[str, Any], Any], Any]
RUNTIME = ("awslambdaric", "runtime_client", "simplejson", "snapshot_restore_py")  # what Lambda brings besides Python


@dataclass
class Context:
    """The parts of the Lambda context that the handlers and Powertools use."""

    function_name: str
    memory_limit_in_mb: int
    aws_request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    function_version: str = "$LATEST"

    @property
    def invoked_function_arn(self) -> str:
        return function_arn(self.function_name)

    def get_remaining_time_in_millis(self) -> int:
        """Lambda's longest: here, functions have no timeout."""
        return 900_000


def function_arn(name: str) -> str:
    """The ARN that the local stack gives a function."""
    return f"arn:aws:lambda:us-east-1:123456789012:function:{name}"


@dataclass
class Function:
    """One function of the template: its folder, environment, memory in MB and timeout in seconds.

    alone: no other function runs meanwhile; not so for what the local stack plays itself, which waits for others.
    """

    name: str
    folder: Path
    environment: Mapping[str, str]
    memory: int
    timeout: float
    handler: Handler | None = None
    alone: bool = True

    def load(self) -> Handler:
        """Import app.py with this function's environment, as a cold start does."""
        if self.handler is None:
            spec = importlib.util.spec_from_file_location(f"{self.name}.app", self.folder / "app.py")
            if spec is None or spec.loader is None:
                raise FileNotFoundError(self.folder / "app.py")
            module = importlib.util.module_from_spec(spec)
            with environment(self.environment):
                spec.loader.exec_module(module)
            self.handler = module.handler
        return self.handler


FOREIGN = ("AWS_", "BOTO_", "POWERTOOLS_", "LAMBDA_", "MOTO_", "TEST_SERVER_MODE", "TEST_PROXY_MODE", "S3_", "SF_")
"""Prefixes of variables that configure a function, an AWS client, or the local replacement of AWS."""
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
ALONE = {
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@contextmanager
def environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Set these variables for a while; None removes one.

    Other threads read meanwhile: nothing but these names is ever missing.
    """
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def cut_off(values: Mapping[str, str]) -> dict[str, str | None]:
    """For `environment`: these variables, and no other AWS settings, profiles, endpoints or proxies."""
    foreign = [name for name in os.environ if name.startswith(FOREIGN) or name.upper() in PROXIES]
    return {**dict.fromkeys(foreign), **ALONE, **values}


def link_packages(names: Iterable[str], folder: Path) -> None:
    """Make this environment's packages and modules importable from a new folder. Raises ImportError."""
    folder.mkdir()
    for name in names:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise ImportError(name)
        origin = Path(spec.origin)
        source = origin.parent if origin.name == "__init__.py" else origin
        (folder / source.name).symlink_to(source)


class LambdaService:
    """Lambda's Invoke API on a local port. Use as a context manager; `url` is for AWS_ENDPOINT_URL_LAMBDA.

    faults: called with the function's name before each invocation; the function raises its exceptions.
    """

    def __init__(self, faults: Callable[[str], None] | None = None) -> None:
        self.functions: dict[str, Function] = {}
        self.faults = faults or (lambda _name: None)
        # Powertools keeps state per process, as in a real sandbox, which runs one invocation at a time.
        self._sandbox = threading.Lock()
        service = self

        class Api(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = self.headers.get("Content-Length") or "0"
                _, *parts = self.path.split("/")
                if not self._is_ours() or parts[3:] != ["invocations"] or not length.isdecimal():
                    self.close_connection = True
                    return self.send_error(403)
                payload = self.rfile.read(int(length))
                name = unquote(parts[2]).split(":function:")[-1].split(":")[0]
                status, headers, body = service.invoke(name, payload)
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body)
                return None

            def _is_ours(self) -> bool:
                """Whether an AWS SDK sent it: an SDK signs its requests, and a page in a browser cannot."""
                signed = self.headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256 ")
                return signed and "Origin" not in self.headers and self.headers.get("Host") == service.host

            def log_message(self, *_: Any) -> None:
                """Quiet: the handlers log for themselves."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"

    def __enter__(self) -> "LambdaService":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def invoke(self, name: str, payload: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body: https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html."""
        if name not in self.functions:
            missing = {"Type": "User", "Message": f"Function not found: {function_arn(name)}"}
            return 404, {"x-amzn-ErrorType": "ResourceNotFoundException"}, json.dumps(missing).encode()
        function = self.functions[name]
        context = Context(name, function.memory)
        try:
            with self._sandbox if function.alone else nullcontext():
                self.faults(name)
                answer = json.dumps(function.load()(json.loads(payload or b"{}"), context)).encode()
        except Exception as error:
            failure = {
                "errorMessage": str(error),
                "errorType": type(error).__name__,
                "requestId": context.aws_request_id,
                "stackTrace": traceback.format_exception(error),
            }
            return 200, {"X-Amz-Function-Error": "Unhandled"}, json.dumps(failure).encode()
        return 200, {"X-Amz-Executed-Version": "$LATEST"}, answer
