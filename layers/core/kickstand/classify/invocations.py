"""SageMaker's contract for an inference container, as a WSGI application: `GET /ping` and `POST /invocations`.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
"""

import json
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import numpy as np

from kickstand.classify.images import MAX_IMAGE_BYTES, scale
from kickstand.classify.inference import EmbeddedModel
from kickstand.errors import InvalidImage

UNNAMED_IMAGE = "application/x-image"  # the built-in image classification accepts it too
JSON = "application/json"
BARE_LIST = "application/json;answer=probabilities"
"""The answer if this type is preferred to JSON, or equal to it."""

Application = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]


class RequestError(Exception):
    """The request cannot be answered: the HTTP status and the reason."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def serve(model: EmbeddedModel) -> Application:
    """The application that answers with this model. It keeps no state: as many threads as you like can call it.

    `POST /invocations` takes one photo, of any size that `scale` takes, and answers
    `{"label", "confidence", "probabilities": {label: p, …}, "neither", "model_version"}`; with the Accept header
    `application/json;answer=probabilities`, the plain list of probabilities, in class order, of SageMaker's built-in
    image classification. Refused, with `{"error": reason}`: 400 not a usable photo, 406 another kind of answer, 413 too
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
    accept = environ.get("HTTP_ACCEPT", "")
    answered = choose_type(accept)
    if answered is None:
        raise RequestError(HTTPStatus.NOT_ACCEPTABLE, f"{accept[:200]}: we answer {JSON} or {BARE_LIST}")
    try:
        photo, _ = scale(_read_image(environ), "the request's body", model.card.input_shape)
    except InvalidImage as error:
        raise RequestError(HTTPStatus.BAD_REQUEST, str(error)) from error
    [prediction] = model.predict_pixels(np.asarray(photo)[np.newaxis])
    if answered == BARE_LIST:
        return list(prediction.probabilities.values())
    return prediction.model_dump(include={"label", "confidence", "probabilities", "neither", "model_version"})


def choose_type(accept: str) -> str | None:
    """Which of the two kinds of answer an Accept header prefers; None if it accepts neither.

    For each kind the most specific matching range counts; of the two kinds, the one with the larger weight is chosen:
    https://www.rfc-editor.org/rfc/rfc9110.html#name-accept. A range that is not valid is ignored.

    >>> choose_type("application/json, text/plain, */*"), choose_type("text/csv")
    ('application/json', None)
    """
    ranges = [range_ for part in _split(accept, ",") if part.strip() and (range_ := _read_range(part))]
    if not ranges:
        return None if accept.strip(" \t,") else JSON

    def weight(parameters: dict[str, str]) -> float:
        fitting = [
            (exactness, quality)
            for kind, wanted, quality in ranges
            if (exactness := _exactness(kind, wanted, parameters)) is not None
        ]
        return max(fitting, default=((0, 0), 0.0))[1]

    weights = {JSON: weight({}), BARE_LIST: weight({"answer": "probabilities"})}
    named = any(wanted == {"answer": "probabilities"} for _, wanted, _ in ranges)
    if named and weights[BARE_LIST] >= weights[JSON] and weights[BARE_LIST]:
        return BARE_LIST
    return JSON if weights[JSON] else None


def _exactness(kind: str, wanted: dict[str, str], parameters: dict[str, str]) -> tuple[int, int] | None:
    """How specifically a range matches JSON with these parameters; None if it does not."""
    place = {"*/*": 0, "application/*": 1, JSON: 2}.get(kind)
    told = {name: value for name, value in wanted.items() if name != "charset"}  # JSON is always UTF-8
    return None if place is None or any(parameters.get(name) != told[name] for name in told) else (place, len(told))


def _read_range(text: str) -> tuple[str, dict[str, str], float] | None:
    """A media range, its parameters, and its weight; None for anything else."""
    kind, *parts = (part.strip() for part in _split(text, ";"))
    kind = "*/*" if kind == "*" else kind  # as Java's own client sends it
    if kind.count("/") != 1 or not all(kind.split("/")):
        return None
    parameters: dict[str, str] = {}
    for part in filter(None, parts):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name.lower() == "q":
            try:
                quality = float(value)
            except ValueError:
                return None
            return (kind.lower(), parameters, quality) if 0.0 <= quality <= 1.0 else None
        parameters[name.lower()] = value.strip('"').lower()
    return kind.lower(), parameters, 1.0


def _split(text: str, sign: str) -> list[str]:
    """Split outside of quotes."""
    parts, quoted = [""], False
    for letter in text:
        quoted ^= letter == '"'
        if letter == sign and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _read_image(environ: WSGIEnvironment) -> bytes:
    kind = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    if not kind.startswith("image/") and kind != UNNAMED_IMAGE:  # the bytes determine the format
        raise RequestError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"{kind or 'no type'}: we read image/jpeg, others of image/, {UNNAMED_IMAGE}",
        )
    try:
        size = int(environ.get("CONTENT_LENGTH") or 0)
    except ValueError as error:
        raise RequestError(HTTPStatus.BAD_REQUEST, "Content-Length is not a number") from error
    if size < 0:
        raise RequestError(HTTPStatus.BAD_REQUEST, "Content-Length is negative")
    if size > MAX_IMAGE_BYTES:
        raise RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{size:,} bytes, more than {MAX_IMAGE_BYTES:,}")
    data: bytes = environ["wsgi.input"].read(size)
    return data
