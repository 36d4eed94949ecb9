"""The model card of a package: it says what the verdict and the model's own card say, in SageMaker's words."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator
from pydantic import BaseModel, ConfigDict, Field

from kickstand.classify.promise import Promise
from kickstand.events import NEITHER, Route
from kickstand.lifecycle.dataset_store import Dataset
from kickstand.lifecycle.gate import Outcome, Stated, judge, read_stated
from kickstand.lifecycle.registry import Pin, as_model_card, describe_evaluation

SAGEMAKER = ServiceModel(Loader().load_service_model("sagemaker", "service-2"), "sagemaker")
DATASET = Dataset(
    name="20260504T100000",
    job_name="kickstand-20260504T100000",
    uri="s3://training/runs/20260504T100000/dataset/",
    artefact_uri="s3://training/jobs/kickstand-20260504T100000/output/model.tar.gz",
    answers_uri="s3://training/runs/20260504T100000/answers",
    labels=("a", "b"),
    n_labels=2,
    n_train=900,
    image_shape="3,32,32",
    counts={"train/a": 500, "train/b": 400, "test/a": 20},
    data_sha256="d4f1" * 16,
    reviewed=7,
    audited=3,
    left_out={},
)
ACCURACY = {"value": 0.949, "low": 0.93356, "high": 0.961, "n": 1000}
PIN = Pin(version="3HL4kqtJvjVBH40N", sha256="5" * 64)
REPORT = "s3://training/runs/20260504T100000/evaluation.json"


# ---- the documented schema of a package's model card, as far as Kickstand writes it; what it does not name is refused:
# https://docs.aws.amazon.com/sagemaker/latest/dg/model-registry-details.html#model-card-schema

Name = Annotated[str, Field(min_length=1, max_length=255)]
GroupName = Annotated[str, Field(min_length=1, max_length=63)]
Text1024 = Annotated[str, Field(max_length=1024)]
Text2048 = Annotated[str, Field(max_length=2048)]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Overview(Part):
    model_creator: Text1024
    model_artifact: list[Text1024] = Field(max_length=15)


class Uses(Part):
    purpose_of_model: Text2048
    intended_uses: Text2048


class TrainingMetric(Part):
    name: Name
    value: float
    notes: Text1024


class Job(Part):
    training_datasets: list[Text1024] = Field(max_length=15)
    user_provided_training_metrics: list[TrainingMetric] = Field(max_length=50)


class Training(Part):
    training_observations: Text1024
    training_job_details: Job


class Metric(Part):
    name: Name
    type: Literal["number", "string", "boolean"]
    value: float | GroupName | bool
    notes: Text1024


class Group(Part):
    name: GroupName
    metric_data: list[Metric]


class Evaluation(Part):
    name: GroupName
    evaluation_observation: Annotated[str, Field(max_length=2096)]
    datasets: list[Text1024] = Field(max_length=10)
    metadata: dict[str, Text1024]
    metric_groups: list[Group]


class Information(Part):
    caveats_and_recommendations: Text2048
    custom_details: dict[str, Text1024]


class Card(Part):
    model_overview: Overview
    intended_uses: Uses
    training_details: Training
    evaluation_details: list[Evaluation]
    additional_information: Information


# ---- what is written


def outcomes(right: int, foreign: int = 0) -> Sequence[Outcome]:
    """20 images of a label, this many of them accepted, and foreign ones, all refused."""
    truths = ["a"] * 20 + [NEITHER] * foreign
    return [
        Outcome(
            image=str(index),
            truth=truth,
            label="a",
            confidence=0.99,
            route=Route.ACCEPT if index < right else Route.REVIEW,
        )
        for index, truth in enumerate(truths)
    ]


def write(
    model_json: dict[str, Any] | None = None,
    leaked: Sequence[str] | None = (),
    labels: tuple[str, ...] = ("a", "b"),
    foreign: int = 0,
) -> str:
    champion = Stated(model_version="old", labels=labels, promise=Promise(max_risk=dict.fromkeys(labels, 0.02)))
    policy = {"promise": {"max_risk": dict.fromkeys(labels, 0.02)}}
    challenger = read_stated({"model_version": "new", "labels": labels, "policy": policy, **(model_json or {})})
    verdict = judge((champion, outcomes(10, foreign)), (challenger, outcomes(20, foreign)), leaked)
    return as_model_card(verdict, challenger, DATASET, REPORT, {"promise": "risk 0.02", "champion": "old"})


def read(content: str) -> Card:
    return Card.model_validate_json(content)


def metrics(card: Card, group: str) -> dict[str, Metric]:
    (found,) = [one for one in card.evaluation_details[0].metric_groups if one.name == group]
    return {metric.name: metric for metric in found.metric_data}


def test_it_says_how_both_models_did_with_intervals_and_numbers_of_images() -> None:
    card = read(write())
    assert metrics(card, "challenger")["coverage"].value == 1.0
    assert metrics(card, "champion")["coverage"].value == 0.5
    assert metrics(card, "champion")["coverage"].notes.endswith("(95 %), n = 20")
    assert "new can replace champion old" in card.evaluation_details[0].evaluation_observation


def test_what_no_image_tells_is_no_metric() -> None:
    assert "foreign_accepted" not in metrics(read(write()), "challenger")
    assert metrics(read(write(foreign=5)), "challenger")["foreign_accepted"].value == 0.0


def test_it_says_what_the_gate_checked_and_what_it_could_not() -> None:
    checks = metrics(read(write(leaked=None)), "gate")
    assert {name: check.value for name, check in checks.items()} == {
        **dict.fromkeys(("labels", "promise", "calibration", "not worse", "better"), "passed"),
        "leakage": "not checked",
    }


def test_it_names_the_data_by_its_hash_and_where_everything_lies() -> None:
    card = read(write())
    assert card.model_overview.model_artifact == [DATASET.artefact_uri]
    assert card.training_details.training_job_details.training_datasets == [DATASET.uri]
    assert card.evaluation_details[0].metadata == {"data_sha256": DATASET.data_sha256, "report": REPORT}
    assert card.additional_information.custom_details["promise"] == "risk 0.02"


def test_the_models_own_metrics_are_told_and_others_content_is_not() -> None:
    card = read(write({"metrics": {"accuracy": ACCURACY, "kept": True}}))
    (metric,) = card.training_details.training_job_details.user_provided_training_metrics
    assert (metric.name, metric.value) == ("accuracy", 0.949)
    assert metric.notes == "Out of fold: 0.93356 to 0.961 (95 %), n = 1000"


@pytest.mark.parametrize("labels", [("a", "b"), ("a", "b", *(f"label number {index}" for index in range(500)))])
def test_however_much_there_is_to_say_sagemaker_takes_it(labels: tuple[str, ...]) -> None:
    content = write({"metrics": {f"metric {index}": ACCURACY for index in range(200)}}, labels=labels)
    read(content)
    assert len(content) < 20_000  # of SageMaker's 100,000; and a state has 256 KiB for all
    assert "\n" not in content
    request = {
        "ModelPackageGroupName": "group",
        "ModelCard": {"ModelCardContent": content, "ModelCardStatus": "PendingReview"},
    }
    shape = SAGEMAKER.shape_for("CreateModelPackageInput")
    assert not ParamValidator().validate(request, shape).has_errors()


def test_a_package_names_what_was_compared_in_letters_that_sagemaker_takes() -> None:
    stated = Stated(model_version="new (2)", labels=("a", "b"), promise=Promise(max_risk={"a": 0.01, "b": 0.03}))
    champion = Stated(model_version="old", labels=("a", "b"))
    verdict = judge((champion, outcomes(10)), (stated, outcomes(20)), ()).model_copy(update={"reason": "long " * 900})
    told = describe_evaluation(verdict, stated, champion, "kickstand", DATASET, REPORT, PIN)
    assert (told.promote, len(told.reason), told.report_uri) == (True, 1024, REPORT)
    assert told.properties["model_version"] == "new  2 "
    assert told.properties["champion"] == "old"
    assert told.properties["promise"] == "risk a 0.01  b 0.03 with confidence 0.95"
    assert (told.properties["artefact_version"], told.properties["artefact_sha256"]) == PIN
    assert told.properties["accuracy"] == "1.0 of 20"
    assert told.properties["selective_risk a"] == "0.0 of 20"
    assert told.properties["selective_risk b"] == "0.0 of 0"
    card = read(told.model_card)
    assert card.additional_information.custom_details["data_sha256"] == DATASET.data_sha256
    assert metrics(card, "challenger")["selective_risk a"].notes.endswith("n = 20")
    assert "selective_risk b" not in metrics(card, "challenger")


def test_an_older_promise_is_told_as_it_was_made() -> None:
    old = read_stated({"model_version": "m", "labels": ["a", "b"], "policy": {"max_risk": 0.02}})
    verdict = judge((old, outcomes(10)), (old, outcomes(20)), ())
    told = describe_evaluation(verdict, old, old, "kickstand", DATASET, REPORT, PIN)
    assert told.properties["promise"] == "risk 0.02 with confidence 0.95"


def test_a_card_that_the_schema_does_not_know_is_refused() -> None:
    content = json.loads(write())
    content["model_overview"]["model_name"] = "kickstand"
    with pytest.raises(ValueError, match="model_name"):
        read(json.dumps(content))
