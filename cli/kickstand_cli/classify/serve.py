"""`kickstand serve`: the inference container on this machine, behind SageMaker's runtime API."""

import json
from collections.abc import Callable, Iterable
from typing import Annotated, Any
from wsgiref.types import StartResponse, WSGIEnvironment

import typer

from kickstand.classify.container import listen, run
from kickstand.classify.inference import EmbeddedModel
from kickstand.classify.invocations import Application
from kickstand.classify.invocations import serve as application
from kickstand.errors import ModelUnavailable
from kickstand_cli.classify.classify import ModelOption
from kickstand_cli.project import MODEL
from kickstand_cli.terminal import CommandError, console, exit_on


def serve(
    artefact: ModelOption = MODEL,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port on 127.0.0.1; 0: a free one.")] = 8080,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Requests served at a time.")] = 4,
) -> None:
    """Serve a model on this machine as a SageMaker endpoint does.

    It answers /ping, /invocations, and InvokeEndpoint of AWS SDKs. After SIGTERM or Ctrl-C it finishes open requests,
    for at most 25 seconds, and ends.

    Examples:
    $ kickstand serve --port 8080
    """
    with exit_on(ModelUnavailable, OSError):
        app = runtime(application(EmbeddedModel(artefact)))
        try:
            server = listen(app, "127.0.0.1", port, threads)
        except OSError as error:
            raise CommandError(f"port {port}: {error.strerror}; choose another with --port") from error
    url = f"http://127.0.0.1:{server.effective_port}"
    console.print(f"Serving {artefact} on {url}, until Ctrl-C. AWS SDKs: AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME={url}")
    run(server)


def runtime(container: Application) -> Application:
    """The container behind InvokeEndpoint of any endpoint's name: its refusals become ModelError, as SageMaker's do.

    https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html
    """

    def invoke_endpoint(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        _, *parts = environ["PATH_INFO"].split("/")
        if len(parts) != 3 or (parts[0], parts[2]) != ("endpoints", "invocations"):
            return container(environ, start_response)
        status, headers = "", [("", "")]

        def hear(said: str, with_headers: list[tuple[str, str]], *_: Any) -> Callable[[bytes], object]:
            nonlocal status, headers
            status, headers = said, with_headers
            return lambda _: None

        body = b"".join(container({**environ, "PATH_INFO": "/invocations"}, hear))
        if not status.startswith("200"):
            code = int(status.split()[0])
            reason = f"Received client error ({code}) from primary with message {body.decode()!r}."
            refusal = {"Message": reason, "OriginalStatusCode": code, "OriginalMessage": body.decode()}
            body, status = json.dumps(refusal).encode(), "424 Failed Dependency"
            headers = [("Content-Type", "application/json"), ("x-amzn-ErrorType", "ModelError")]
        start_response(status, [*headers, ("x-Amzn-Invoked-Production-Variant", "local")])
        return [body]

    return invoke_endpoint
