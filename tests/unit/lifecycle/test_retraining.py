"""When to train again, and what is told of a decision about a challenger."""

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from kickstand.clients import DynamoDBClient
from kickstand.lifecycle.retraining import LastTraining, Request, RequestTrainingSettings, choose
from kickstand.lifecycle.rollout import ApprovalChange, describe_rollout
from kickstand.lifecycle.store import load_training

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
PERSON, DEGRADED, DAILY = {"reason": "new cameras"}, "Model Degraded", "Scheduled Event"
LOG = "x" * 300_000


def request(kind: str | dict[str, str]) -> Request:
    return Request.model_validate(
        {"detail-type": kind, "detail": {"reason": "night"}} if isinstance(kind, str) else kind
    )


def last(days: float) -> LastTraining:
    requested_at = NOW - timedelta(days=days)
    return LastTraining(requested_at=requested_at, execution="arn", reason="r", algorithm="kickstand")


def settings(**changes: str) -> RequestTrainingSettings:
    limits = {"RETRAIN_AT_MOST_EVERY": "7", "RETRAIN_AT_LEAST_EVERY": "0", "RETRAIN_AFTER_LABELS": "200"}
    names = dict.fromkeys(("TRAIN_MODEL", "CONTROL_TABLE"), "name")
    return RequestTrainingSettings.model_validate(names | limits | changes)


@pytest.mark.parametrize(
    ("kind", "days", "labels", "trains", "reason"),
    [
        (PERSON, 0.1, 0, True, "new cameras"),
        (DEGRADED, 7.0, 0, True, "the model is degraded: night"),
        (DEGRADED, 6.9, 0, False, "the last training was requested less than 7 days ago"),
        (DAILY, 7.0, 200, True, "200 new labels since the last training"),
        (DAILY, 6.9, 200, False, "the last training was requested less than 7 days ago"),
        (DAILY, 7.0, 199, False, "199 new labels, fewer than 200"),
        (DAILY, 999.0, 0, False, "0 new labels, fewer than 200"),
    ],
)
def test_who_asks_how_long_ago_and_how_many_labels_decide_about_training(
    kind: str | dict[str, str], days: float, labels: int, trains: bool, reason: str
) -> None:
    assert choose(request(kind), last(days), False, labels, settings(), NOW) == (trains, reason)


def test_time_alone_starts_a_training_where_that_is_set() -> None:
    monthly = settings(RETRAIN_AT_LEAST_EVERY="30", RETRAIN_AFTER_LABELS="0")
    assert choose(request(DAILY), last(30.5), False, 0, monthly, NOW) == (True, "the last training is 30 days old")
    assert not choose(request(DAILY), last(29.9), False, 999, monthly, NOW).train
    assert not choose(request(DAILY), None, False, 999, monthly, NOW).train


def test_the_first_training_waits_for_nothing() -> None:
    assert choose(request(DEGRADED), None, False, 0, settings(), NOW).train


@pytest.mark.parametrize("event", [{"reason": LOG}, {"detail-type": DEGRADED, "detail": {"reason": LOG}}])
def test_a_reason_of_any_length_fits_into_the_executions_input(event: dict[str, Any]) -> None:
    reason = choose(Request.model_validate(event), None, False, 0, settings(), NOW).reason
    claimed = LastTraining(requested_at=NOW, execution="arn", reason=reason, algorithm="kickstand")
    assert (len(claimed.reason), claimed.reason[-1]) == (1000, "…")


def test_a_claim_with_a_long_reason_that_an_older_version_has_written_can_be_started() -> None:
    item = last(1).model_dump() | {"reason": LOG}
    assert len(LastTraining.model_validate(item).reason) == 1000


@pytest.mark.parametrize("kind", [PERSON, DEGRADED, DAILY])
def test_no_training_starts_beside_another(kind: str | dict[str, str]) -> None:
    assert choose(request(kind), last(30), True, 999, settings(), NOW) == (False, "a training is in progress")


# ---- what is told of a decision

CHALLENGER = "arn:aws:sagemaker:us-east-1:123456789012:model-package/group/2"


def decided(status: str, told: tuple[str, str] | None = None, lies: str | None = "v1", **package: Any) -> Any:
    """lies: the version of the artefact that is there now."""
    detail = {"ModelPackageArn": CHALLENGER, "ModelPackageGroupName": "group", "ModelApprovalStatus": status}
    described = {"InferenceSpecification": {"Containers": [{"ModelDataUrl": "s3://b/model.tar.gz"}]}, **package}
    return describe_rollout(ApprovalChange.model_validate({"detail": detail}), lambda: described, told, lambda _: lies)


def test_a_decision_is_told_once_and_a_changed_mind_again() -> None:
    assert decided("Approved").approved
    assert decided("Approved", told=(CHALLENGER, "Approved")) is None
    assert "The champion stays" in decided("Rejected", told=(CHALLENGER, "Approved")).message


def test_nothing_is_told_of_the_champion_that_was_registered_when_training_was_set_up() -> None:
    assert decided("Approved", CustomerMetadataProperties={"role": "champion"}) is None


PINNED: dict[str, Any] = {"CustomerMetadataProperties": {"artefact_version": "v1", "artefact_sha256": "ab" * 32}}


def test_what_is_approved_is_the_version_that_was_judged() -> None:
    rollout = decided("Approved", **PINNED)
    assert rollout.approved
    assert (rollout.detail.artefact_version, rollout.detail.artefact_sha256) == ("v1", "ab" * 32)
    assert "--bucket b --key model.tar.gz --version-id v1 model.tar.gz` (SHA-256 abab" in rollout.message


@pytest.mark.parametrize(("lies", "said"), [("v2", "version v2 is at s3://b/model.tar.gz"), (None, "nothing is at")])
def test_an_artefact_that_was_replaced_after_it_was_judged_is_not_approved(lies: str | None, said: str) -> None:
    rollout = decided("Approved", lies=lies, **PINNED)
    assert not rollout.approved
    assert said in rollout.message
    assert "version v1 was evaluated" in rollout.message


def test_a_package_from_before_artefacts_were_pinned_is_approved_as_it_was() -> None:
    rollout = decided("Approved", lies="v7")
    assert rollout.approved
    assert rollout.detail.artefact_version is None


def test_a_damaged_item_is_named_with_what_a_person_has_to_do() -> None:
    class Table:
        def get_item(self, **_: Any) -> Any:
            return {"Item": {"id": {"S": "training"}, "requested_at": {"S": "soon"}}}

    with pytest.raises(ValueError, match="requested_at") as raised:
        load_training(cast("DynamoDBClient", Table()), "control")
    assert str(raised.value).endswith(
        """delete it: aws dynamodb delete-item --table-name control --key '{"id": {"S": "training"}}'"""
    )
