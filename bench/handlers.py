"""One image through all handlers, warm, against the bare work; and against the three handlers of the reference design.

Both are loaded as Lambda loads them, pass JSON from one to the next as Step Functions does, and talk to an AWS that
answers at once. The bare work is Pillow's decoding and one ONNX Runtime call, with nothing around them. The reference
design (serialize → classify → filter, with the image as base64 in the state) is written from its description, with the
endpoint's part done by the same network in the same process.
"""

import base64
import contextlib
import importlib.util
import io
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from bench.harness import Row, in_turns
from kickstand.classify.artefact import read_card
from kickstand_cli.local.functions import Context
from kickstand_cli.local.template import Template
from kickstand_cli.project import MODEL, PROJECT, TEMPLATE

STEPS = ("prepare_image", "classify_image", "decide", "record_result")
STATE_LIMIT = 262_144  # bytes: https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html
THRESHOLD = 0.93  # the reference design's
HEIGHT, WIDTH, _ = read_card(MODEL).input_shape


def photos() -> dict[str, bytes]:
    """What is sent through, by name: the same noise, as different cameras would have it."""
    noise = Image.effect_noise((4000, 3000), 60).convert("RGB")

    def encoded(size: tuple[int, int], kind: str) -> bytes:
        file = io.BytesIO()
        noise.resize(size).save(file, kind, quality=85)
        return file.getvalue()

    return {
        "12-megapixel JPEG": encoded((4000, 3000), "JPEG"),
        "2-megapixel JPEG": encoded((1600, 1200), "JPEG"),
        "32 × 32 PNG": encoded((32, 32), "PNG"),
    }


class Aws:
    """S3, DynamoDB and EventBridge that answer at once, and hold one object."""

    class exceptions:  # noqa: N801 - as botocore's clients call it
        ConditionalCheckFailedException = type("ConditionalCheckFailedException", (Exception,), {})

    def __init__(self, photo: bytes) -> None:
        self.photo = photo

    def get_object(self, **_: Any) -> dict[str, Any]:
        return {"ContentLength": len(self.photo), "Body": io.BytesIO(self.photo)}

    def put_item(self, **_: Any) -> dict[str, Any]:
        return {}

    def put_events(self, **_: Any) -> dict[str, Any]:
        return {"FailedEntryCount": 0, "Entries": []}


def load_handlers() -> dict[str, Any]:
    """The modules of functions/*/app.py on an image's way, in their environment."""
    template = Template(TEMPLATE, {}, str, "{}.{}".format)
    shared = template.function_globals["Environment"]["Variables"]
    here = {
        "MODEL_DIR": str(MODEL),
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }
    modules = {}
    for name in STEPS:
        (own,) = (
            resource["Properties"].get("Environment", {}).get("Variables", {})
            for resource in template.resources.values()
            if resource.get("Properties", {}).get("CodeUri") == f"functions/{name}"
        )
        os.environ.update({key: str(value) for key, value in template.resolve({**shared, **own}).items()} | here)
        spec = importlib.util.spec_from_file_location(f"bench.{name}", PROJECT / f"functions/{name}/app.py")
        if spec is None or spec.loader is None:
            raise FileNotFoundError(name)
        modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[name])
    return modules


def through_handlers(modules: dict[str, Any], photo: bytes) -> tuple[Callable[[], dict[str, Any]], Callable[[], int]]:
    """The call that sends the photo through classify_image's four functions; and the largest state, in bytes."""
    aws = Aws(photo)
    modules["prepare_image"].s3 = modules["record_result"].dynamodb = modules["record_result"].events = aws
    event = json.loads((PROJECT / "events/s3_object_created.json").read_bytes())
    largest = 0

    def step(name: str, payload: Any) -> Any:
        text = json.dumps(payload)  # Step Functions sends text, and gets text
        return json.loads(json.dumps(modules[name].handler(json.loads(text), Context(name, 1024))))

    def run() -> dict[str, Any]:
        nonlocal largest
        state = dict(event)
        state["prepared_image"] = step("prepare_image", event)
        state["prediction"] = step("classify_image", state["prepared_image"])
        statistics = state["prepared_image"]["statistics"]
        state["decision"] = step("decide", {"prediction": state["prediction"], "statistics": statistics, "switch": {}})
        largest = max(largest, len(json.dumps(state)))
        state["record"] = step("record_result", {"state": state, "execution": "arn:execution"})
        return state

    return run, lambda: largest


def bare_work(photo: bytes) -> Callable[[], Any]:
    """Decode, scale and classify, with nothing around them."""
    session = bare_session()

    def run() -> Any:
        image = Image.open(io.BytesIO(photo))
        image.draft(None, (4 * WIDTH, 4 * HEIGHT))
        pixels = np.asarray(image.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS, reducing_gap=3.0))
        return session.run(["logits"], {"image": pixels[np.newaxis]})

    return run


def bare_session() -> onnxruntime.InferenceSession:
    """The deployed network on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(MODEL / "model.onnx", options, providers=["CPUExecutionProvider"])


def reference_design(photo: bytes) -> tuple[Callable[[], dict[str, Any]], Callable[[], int]]:
    """The reference design's three handlers in a row; and the largest state, in bytes."""
    aws, session, largest = Aws(photo), bare_session(), 0

    def serialize(event: dict[str, Any]) -> dict[str, Any]:
        data = base64.b64encode(aws.get_object()["Body"].read()).decode()
        body = {"image_data": data, "s3_bucket": event["s3_bucket"], "s3_key": event["s3_key"], "inferences": []}
        return {"statusCode": 200, "body": body}

    def classify(event: dict[str, Any]) -> dict[str, Any]:
        image = Image.open(io.BytesIO(base64.b64decode(event["body"]["image_data"]))).convert("RGB")
        image = image.resize((WIDTH, HEIGHT))
        logits = session.run(["logits"], {"image": np.asarray(image)[np.newaxis]})[0][0][:2]
        odds = np.exp(logits - logits.max())
        event["body"]["inferences"] = (odds / odds.sum()).tolist()
        return {"statusCode": 200, "body": json.dumps(event["body"])}

    def filter_(event: dict[str, Any]) -> dict[str, Any]:
        body = json.loads(event["body"])
        if max(body["inferences"]) < THRESHOLD:
            raise RuntimeError("THRESHOLD_CONFIDENCE_NOT_MET")
        return {"statusCode": 200, "body": json.dumps(body)}

    def run() -> dict[str, Any]:
        nonlocal largest
        state: dict[str, Any] = {"s3_bucket": "photos", "s3_key": "bicycle.png"}
        with contextlib.suppress(RuntimeError):  # an unsure answer fails the execution, and the photo is gone
            for step in (serialize, classify, filter_):
                state = json.loads(json.dumps(step(json.loads(json.dumps(state)))))
                largest = max(largest, len(json.dumps(state)))
        return state

    return run, lambda: largest


def measure(rounds: int = 15) -> tuple[list[Row], list[str]]:
    """The rows, and what is to be said of states."""
    rows, notes = [], []
    out = io.StringIO()
    with contextlib.redirect_stdout(out):  # before Powertools finds it
        modules = load_handlers()
        for name, photo in photos().items():
            ours, our_state = through_handlers(modules, photo)
            reference, reference_state = reference_design(photo)
            per_round = 40 if len(photo) < 10_000 else 5
            taken = in_turns({"ours": ours, "bare": bare_work(photo), "reference": reference}, rounds, per_round)
            what = f"{name} ({len(photo):,} bytes) through all handlers"
            rows.append(Row("handlers", what, "the bare work", "ms", taken["ours"], taken["bare"], 1.5))
            against = "the reference design's handlers"
            rows.append(Row("handlers", what, against, "ms", taken["ours"], taken["reference"]))
            fails = "" if reference_state() <= STATE_LIMIT else ": over the limit of 262,144, so the execution fails"
            notes.append(f"{name}: {our_state():,} bytes of state; the reference design {reference_state():,}{fails}")
            out.truncate(0)
    return rows, notes


if __name__ == "__main__":
    found, said = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
    for row in found:
        print(f"{row.what} against {row.against}: {row.ratio:.2f}")  # noqa: T201
    print(*said, sep="\n")  # noqa: T201
