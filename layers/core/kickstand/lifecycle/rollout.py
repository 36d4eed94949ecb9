"""What follows from a decision about a model package: rejected, nothing; approved, somebody rolls it out."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import AliasPath, Field

from kickstand.events import Payload


class ApprovalChange(Payload):
    """The event "SageMaker Model Package State Change".

    Source: https://docs.aws.amazon.com/sagemaker/latest/dg/automating-sagemaker-with-eventbridge.html
    """

    package: str = Field(validation_alias=AliasPath("detail", "ModelPackageArn"))
    group: str = Field(validation_alias=AliasPath("detail", "ModelPackageGroupName"))
    status: str = Field(validation_alias=AliasPath("detail", "ModelApprovalStatus"))


class ModelApproved(Payload):
    """Detail of the event "Model Approved": a person has approved a challenger; a pipeline may deploy it.

    package, group: the model package's ARN, and the name of its group, in SageMaker's registry.
    artefact_uri: the artefact, s3://bucket/key.tar.gz.
    verdict: what the gate said of it, one sentence for people.
    artefact_version, artefact_sha256: S3's version and the hash of the file that was judged; None of one that was
        registered before they were noted.
    """

    package: str
    group: str
    artefact_uri: str
    verdict: str
    artefact_version: str | None = None
    artefact_sha256: str | None = None


class Rollout(NamedTuple):
    """What is told. detail: published only of an approved challenger."""

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
    """What to tell of this change; None where there is nothing new.

    describe: gives SageMaker's answer to DescribeModelPackage; not asked where all has been told.
    told: package and status that were told last; SageMaker may send several events for one change.
    find_version: which version of an artefact lies in S3 now. What is approved is the one that was judged: where
        another lies in its place, or none, nothing is approved.
    """
    if told == (change.package, change.status):
        return None
    package = describe()
    properties = package.get("CustomerMetadataProperties", {})
    if properties.get("role") == "champion":
        return None  # `kickstand training upload` has registered what serves already
    approved = change.status == "Approved"
    artefact = package["InferenceSpecification"]["Containers"][0]["ModelDataUrl"]
    verdict = package.get("ModelPackageDescription", "")
    why = package.get("ApprovalDescription") or "no reason was given"
    pin = {name: properties[name] for name in ("artefact_version", "artefact_sha256") if name in properties}
    detail = ModelApproved(package=change.package, group=change.group, artefact_uri=artefact, verdict=verdict, **pin)
    if not approved:
        return Rollout(False, "Kickstand: challenger rejected", f"{change.package}: {why}. The champion stays.", detail)
    judged = pin.get("artefact_version")
    if judged and (now := find_version(artefact)) != judged:
        what = f"version {now} lies at {artefact}" if now else f"nothing lies at {artefact}"
        message = f"{change.package} is approved, but {what}, and version {judged} was judged. The champion stays."
        return Rollout(False, "Kickstand: challenger was replaced", message, detail)
    place = urlsplit(artefact)
    fetch = f"aws s3api get-object --bucket {place.netloc} --key {place.path.lstrip('/')}"
    fetch += f" --version-id {judged} model.tar.gz" if judged else " model.tar.gz"
    check = f", whose SHA-256 is {pin['artefact_sha256']}," if "artefact_sha256" in pin else ""
    message = (
        f"{change.package} is approved ({why}). {verdict} It does not serve yet. Embedded: `{fetch}`{check} unpacked "
        "into layers/model/model, and deploy; the rollout shifts traffic and rolls back by itself. Endpoint: deploy "
        "with this very file as ModelDataUrl. The event “Model Approved” tells a pipeline the same. See "
        "docs/training.md."
    )
    return Rollout(True, "Kickstand: challenger approved", message, detail)
