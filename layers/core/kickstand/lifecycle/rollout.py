"""The consequences of a decision about a model package: a rejected one has none; an approved one is rolled out."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pydantic import AliasPath, Field

from kickstand.events import Payload, split_uri


class ApprovalChange(Payload):
    """The event "SageMaker Model Package State Change".

    Source: https://docs.aws.amazon.com/sagemaker/latest/dg/automating-sagemaker-with-eventbridge.html
    """

    package: str = Field(validation_alias=AliasPath("detail", "ModelPackageArn"))
    group: str = Field(validation_alias=AliasPath("detail", "ModelPackageGroupName"))
    status: str = Field(validation_alias=AliasPath("detail", "ModelApprovalStatus"))


class ModelApproved(Payload):
    """Detail of the event "Model Approved": a person has approved a challenger; a pipeline can deploy it.

    package, group: the model package's ARN, and the name of its group, in SageMaker's registry.
    artefact_uri: the artefact, s3://bucket/key.tar.gz.
    verdict: of the gate, one sentence for people.
    artefact_version, artefact_sha256: version in S3 and hash of the evaluated file; None if it was registered before
        these were stored.
    """

    package: str
    group: str
    artefact_uri: str
    verdict: str
    artefact_version: str | None = None
    artefact_sha256: str | None = None


class Rollout(NamedTuple):
    """A message for people. detail: of the event for an approved challenger."""

    approved: bool
    subject: str
    message: str
    detail: ModelApproved


def describe_rollout(
    change: ApprovalChange,
    describe: Callable[[], Mapping[str, Any]],
    told: tuple[str, str] | None,
    find_version: Callable[[str], str | None],
) -> Rollout | None:
    """The message about this change; None if there is nothing new.

    describe: returns SageMaker's answer to DescribeModelPackage; not called if the change was announced before.
    told: package and status of the last announcement; SageMaker may send several events for one change.
    find_version: returns the artefact's present version in S3. An approval is about the evaluated version: if S3 has
        another one, or none, nothing is approved.
    """
    if told == (change.package, change.status):
        return None
    package = describe()
    properties = package.get("CustomerMetadataProperties", {})
    if properties.get("role") == "champion":
        return None  # `kickstand training upload` has registered the model that already serves
    approved = change.status == "Approved"
    artefact = package["InferenceSpecification"]["Containers"][0]["ModelDataUrl"]
    verdict = package.get("ModelPackageDescription", "")
    why = package.get("ApprovalDescription") or "no reason given"
    pin = {name: properties[name] for name in ("artefact_version", "artefact_sha256") if name in properties}
    detail = ModelApproved(package=change.package, group=change.group, artefact_uri=artefact, verdict=verdict, **pin)
    if not approved:
        return Rollout(False, "Kickstand: challenger rejected", f"{change.package}: {why}. The champion stays.", detail)
    judged = pin.get("artefact_version")
    if judged and (now := find_version(artefact)) != judged:
        what = f"version {now} is at {artefact}" if now else f"nothing is at {artefact}"
        message = f"{change.package} is approved, but {what}, and version {judged} was evaluated. The champion stays."
        return Rollout(False, "Kickstand: challenger was replaced", message, detail)
    bucket, key = split_uri(artefact)
    fetch = f"aws s3api get-object --bucket {bucket} --key {key}"
    fetch += f" --version-id {judged} model.tar.gz" if judged else " model.tar.gz"
    check = f" (SHA-256 {pin['artefact_sha256']})" if "artefact_sha256" in pin else ""
    message = (
        f"{change.package} is approved ({why}). {verdict} It is not deployed yet. With the embedded model: run "
        f"`{fetch}`{check}, unpack the file into layers/model/model, then make deploy; the rollout shifts traffic and "
        "rolls back by itself. With an endpoint: deploy with ServingModel set to this file. The event “Model Approved” "
        "also notifies your pipeline. See docs/training.md."
    )
    return Rollout(True, "Kickstand: challenger approved", message, detail)
