"""Model artefacts that are damaged, or not what they say."""

import copy
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fuzz.events import WRONG, changed, paths
from fuzz.tally import Tally
from kickstand.classify.inference import EmbeddedModel
from kickstand.errors import ModelUnavailable
from kickstand.events import PreparedImage
from kickstand_cli.project import PROJECT

MODEL = PROJECT / "layers/model/model"
READ = ("model_version", "model_sha256", "labels", "input_shape", "temperature", "policy")


def variants() -> Iterator[tuple[str, bytes, bytes]]:
    """What it is, `model.json`, `model.onnx`."""
    card, network = (MODEL / "model.json").read_bytes(), (MODEL / "model.onnx").read_bytes()
    told: dict[str, Any] = json.loads(card)
    read = {name: told[name] for name in READ}
    read["policy"] = {name: value for name, value in read["policy"].items() if name != "evidence"}
    yield "no JSON", b"", network
    yield "JSON, but no object", b"[1]", network
    yield "half of model.json", card[: len(card) // 2], network
    for path in paths(read):
        name = ".".join(map(str, path))
        yield f"without {name}", _as_json(changed(read, path, lambda parent, key: parent.pop(key))), network
        for wrong in WRONG:

            def put(parent: Any, key: Any, wrong: Any = wrong) -> None:
                parent[key] = wrong

            yield f"{name} = {str(wrong)[:20]!r}", _as_json(changed(read, path, put)), network
    labels = read["labels"]
    others = (
        [*labels, "van"],
        labels[:1],
        [labels[0]] * 2,
        [labels[0], "neither"],
        [labels[0], "cannot_tell"],
        [labels[0], ""],
    )
    for wrong_labels in others:
        yield f"labels {wrong_labels}", _as_json(read | {"labels": wrong_labels}), network
    for shape in ([64, 64, 3], [32, 32, 1], [32, 32, 4], [3, 32, 32], [0, 0, 3], [10**9, 10**9, 3], [32, 32]):
        yield f"input shape {shape}", _as_json(read | {"input_shape": shape}), network
    for cut in (0, 1, 100, len(network) // 2, len(network) - 1):
        yield f"{cut} bytes of the network", card, network[:cut]
        yield f"{cut} bytes of the network, with their hash", _as_json(read | _hash(network[:cut])), network[:cut]
    for at in range(0, len(network), max(1, len(network) // 60)):
        hurt = network[:at] + bytes([network[at] ^ 0x55]) + network[at + 1 :]
        yield f"byte {at} of the network changed", card, hurt
    yield "another kind of file, with its hash", _as_json(read | _hash(card)), card


def try_artefacts(folder: Path, sample: PreparedImage, every: int) -> Tally:
    """Every n-th variant, in this folder. One that can be loaded must answer with probabilities."""
    tally = Tally("model artefacts")
    for number, (name, card, network) in enumerate(variants()):
        if number % every:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "model.json").write_bytes(card)
        (folder / "model.onnx").write_bytes(network)
        tally.count(name, _attempt(folder, sample))
    for missing in ("model.json", "model.onnx"):
        shutil.copytree(MODEL, folder, dirs_exist_ok=True)
        (folder / missing).unlink()
        tally.count(f"without {missing}", _attempt(folder, sample))
    return tally


def _attempt(folder: Path, sample: PreparedImage) -> str:
    try:
        prediction = EmbeddedModel(folder).predict(sample)
    except ModelUnavailable as error:
        return "refused" if str(folder) in str(error) else f"unclear: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    return "decided" if abs(sum(prediction.probabilities.values()) - 1) < 1e-3 else f"predicts {prediction}"


def _as_json(card: Any) -> bytes:
    return json.dumps(copy.deepcopy(card)).encode()


def _hash(network: bytes) -> dict[str, str]:
    return {"model_sha256": hashlib.sha256(network).hexdigest()}
