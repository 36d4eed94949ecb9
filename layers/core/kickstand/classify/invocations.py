"""SageMaker's contract for an inference container, as a WSGI application: `GET /ping` and `POST /invocations`.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
"""

import json
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from kickstand.classify.images import MAX_IMAGE_BYTES, prepare
from kickstand.classify.inference import EmbeddedModel
from kickstand.errors import InvalidImage

# The built-in image classification takes the third too.
IMAGE_TYPES = ("image/png", "image/jpeg", "application/x-image")
JSON = "application/json"
BARE_LIST = "application/json;answer=probabilities"
ANYTHING = ("", "*/*", "application/*", JSON)

Application = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]


class RequestError(Exception):
    """The request cannot be answered: with this status, for this reason."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def serve(model: EmbeddedModel) -> Application:
    """The application that answers with this model. It keeps no state: as many threads as you like may call it.

    `POST /invocations` takes one image, of any size that `prepare` takes, and answers
    `{"label", "confidence", "probabilities": {label: p, …}, "neither", "model_version"}`; with the Accept header
    `application/json;answer=probabilities`, the bare list of probabilities, in label order, of SageMaker's built-in
    image classification. Refused, with `{"error": reason}`: 400 no usable image, 406 another kind of answer, 413 too
    large, 415 another type.
    """

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            status, content = HTTPStatus.OK, _answer(environ, model)
        except RequestError as refusal:
            status, content = refusal.status, {"error": str(refusal)}
        body = b"" if content is None else json.dumps(content).encode()
        start_response(f"{status} {status.phrase}", [("Content-Type", JSON), ("Content-Length", str(len(body)))])
        return [body]

    return answer


def _answer(environ: WSGIEnvironment, model: EmbeddedModel) -> Any:
    path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
    allowed = {"/ping": "GET", "/invocations": "POST"}.get(path)
    if allowed is None:
        raise RequestError(HTTPStatus.NOT_FOUND, f"{path}: there are /ping and /invocations")
    if method != allowed:
        raise RequestError(HTTPStatus.METHOD_NOT_ALLOWED, f"{path}: {method}, not {allowed}")
    if path == "/ping":
        return None
    accept = environ.get("HTTP_ACCEPT", "").replace(" ", "")
    if accept not in (*ANYTHING, BARE_LIST):
        raise RequestError(HTTPStatus.NOT_ACCEPTABLE, f"{accept}: we answer {JSON} or {BARE_LIST}")
    try:
        prepared = prepare(_read_image(environ), "the request's body", model.card.input_shape)
    except InvalidImage as error:
        raise RequestError(HTTPStatus.BAD_REQUEST, str(error)) from error
    prediction = model.predict(prepared)
    if accept == BARE_LIST:
        return list(prediction.probabilities.values())
    return prediction.model_dump(include={"label", "confidence", "probabilities", "neither", "model_version"})


def _read_image(environ: WSGIEnvironment) -> bytes:
    kind = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    if kind not in IMAGE_TYPES:
        raise RequestError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"{kind or 'no type'}: we read {', '.join(IMAGE_TYPES)}")
    try:
        size = int(environ.get("CONTENT_LENGTH") or 0)
    except ValueError as error:
        raise RequestError(HTTPStatus.BAD_REQUEST, "Content-Length is not a number") from error
    if size > MAX_IMAGE_BYTES:
        raise RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{size:,} bytes, more than {MAX_IMAGE_BYTES:,}")
    data: bytes = environ["wsgi.input"].read(size)
    return data
