"""A challenger's entry in the model registry: description and properties of the package, and the model card."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from kickstand.classify.promise import Promise
from kickstand.classify.stated import Share
from kickstand.events import Payload
from kickstand.lifecycle.dataset_store import Dataset
from kickstand.lifecycle.gate import Check, Score, Stated, Verdict

REASON_LIMIT = 1024  # in the description of a model package
LABELS = 20  # whose risks are listed one by one: a package has at most 50 properties
_PASSED = {True: "passed", False: "failed", None: "not checked"}


class Evaluation(Payload):
    """The result of the state "Evaluate Model"; model_card is JSON."""

    promote: bool
    reason: str
    report_uri: str
    properties: dict[str, str]
    model_card: str


class Pin(NamedTuple):
    """The artefact that was evaluated: its version in S3, which never changes, and the SHA-256 of its bytes."""

    version: str
    sha256: str


def describe_evaluation(
    verdict: Verdict, challenger: Stated, champion: Stated, algorithm: str, dataset: Dataset, report_uri: str, pin: Pin
) -> Evaluation:
    """The verdict, as the workflow uses it and the registry stores it."""
    score = verdict.challenger
    told = {
        "model_version": challenger.model_version,
        "algorithm": algorithm,
        "champion": champion.model_version,
        "data_sha256": dataset.data_sha256,
        "dataset": dataset.uri,
        "artefact_version": pin.version,
        "artefact_sha256": pin.sha256,
        "promise": _describe(challenger.promise),
        "accuracy": f"{score.accuracy.value} of {score.accuracy.n}",
        "coverage": score.coverage.value,
        "selective_risk": score.selective_risk.value,
        **{
            f"selective_risk {label}": f"{share.value} of {share.n}"
            for label, share in list(score.risk_by_label.items())[:LABELS]
        },
    }
    return Evaluation(
        promote=verdict.promote,
        reason=verdict.reason[:REASON_LIMIT],
        report_uri=report_uri,
        properties=as_properties(told),
        model_card=as_model_card(verdict, challenger, dataset, report_uri, told),
    )


def _describe(promise: Promise | None) -> str:
    if promise is None:
        return "none"
    risks = ", ".join(f"{label} {risk}".strip() for label, risk in promise.max_risk.items())
    return f"risk {risks} with confidence {promise.confidence_level}"


def as_properties(told: Mapping[str, object]) -> dict[str, str]:
    """Metadata of a model package: letters, digits, spaces and `_.:/=+-@`; a name has at most 128 characters, its value
    256. Names that become equal get a number.

    https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_ModelPackage.html

    >>> as_properties({"why": "3 new labels (of 200)"})
    {'why': '3 new labels  of 200 '}
    >>> as_properties({"risk a&b": 1, "risk a(b": 2})
    {'risk a b': '1', 'risk a b 2': '2'}
    """

    def plain(value: object) -> Iterable[str]:
        return (sign if sign.isalnum() or sign in " _.:/=+-@" else " " for sign in str(value))

    found: dict[str, str] = {}
    for name, value in told.items():
        cleaned, number = "".join(plain(name))[:120], 1
        key = cleaned
        while key in found:
            number += 1
            key = f"{cleaned} {number}"
        found[key] = "".join(plain(value))[:256] or "-"
    return found


def as_model_card(
    verdict: Verdict, challenger: Stated, dataset: Dataset, report_uri: str, told: Mapping[str, object]
) -> str:
    """The card of a model package: the verdict and `model.json`, in SageMaker's schema.

    told: further facts, in words.

    On one line, as SageMaker's pattern requires. Each part is bounded, so it stays far below 100,000 characters:
    https://docs.aws.amazon.com/sagemaker/latest/dg/model-registry-details.html#model-card-schema
    """
    counts = ", ".join(f"{number} {place}" for place, number in dataset.counts.items())
    gate = {"name": "gate", "metric_data": [_check(check) for check in verdict.checks]}
    card = {
        "model_overview": {
            "model_creator": "Kickstand's workflow train_model",
            "model_artifact": [dataset.artefact_uri],
        },
        "intended_uses": {
            "purpose_of_model": f"Says which of these a photo shows: {', '.join(challenger.labels)}"[:2048],
            "intended_uses": "Accepted predictions need no person; a person decides the others. Not for decisions "
            "about people. Not tested on photos that differ from the evaluation photos.",
        },
        "training_details": {
            "training_observations": f"Answers of people: {dataset.reviewed} for training, {dataset.audited} among the "
            f"held-out photos. All photos: {counts}"[:1024],
            "training_job_details": {
                "training_datasets": [dataset.uri],
                "user_provided_training_metrics": [
                    {"name": name, "value": share.value, "notes": f"Out of fold: {_interval(share)}"}
                    for name, share in list(challenger.metrics.items())[:50]
                ],
            },
        },
        "evaluation_details": [
            {
                "name": "Challenger and champion on the held-out photos",
                "evaluation_observation": verdict.reason[:2096],
                "datasets": [dataset.uri],
                "metadata": {"data_sha256": dataset.data_sha256, "report": report_uri},
                "metric_groups": [
                    _scores("challenger", verdict.challenger),
                    _scores("champion", verdict.champion),
                    gate,
                ],
            }
        ],
        "additional_information": {
            "caveats_and_recommendations": "The numbers hold for photos like the held-out ones. The monitor and "
            "people's answers show the quality in use.",
            "custom_details": {name: str(value)[:1024] for name, value in told.items()},
        },
    }
    return json.dumps(card, allow_nan=False)


def _scores(name: str, score: Score) -> dict[str, Any]:
    shares = {key: getattr(score, key) for key, field in Score.model_fields.items() if field.annotation is Share}
    shares |= {f"selective_risk {label}": share for label, share in list(score.risk_by_label.items())[:LABELS]}
    return {
        "name": name,
        "metric_data": [
            {"name": key, "type": "number", "value": share.value, "notes": _interval(share)}
            for key, share in shares.items()
            if share.n
        ],
    }


def _check(check: Check) -> dict[str, Any]:
    return {"name": check.name, "type": "string", "value": _PASSED[check.passed], "notes": check.told[:1024]}


def _interval(share: Share) -> str:
    return f"{share.low:g} to {share.high:g} (95 %), n = {share.n}"
