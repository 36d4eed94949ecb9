"""What travels along the workflow's arrows: ImageRef → PreparedImage → Prediction → Decision → (Answer) → Record."""

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, AliasPath, BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
NEITHER = "neither"
"""What a photo shows that shows none of the labels."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def as_utc(moment: datetime) -> datetime:
    """The same moment in UTC, which is meant where no zone is said.

    >>> as_utc(datetime.fromisoformat("2026-05-04T01:00+09:00")).isoformat()
    '2026-05-03T16:00:00+00:00'
    """
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError as error:
        raise ValueError(f"{moment}: outside of the years 1 to 9999 in UTC") from error


Moment = Annotated[datetime, AfterValidator(as_utc)]
"""A time, always in UTC: times that are compared, printed and sorted as text must have one zone."""


class Payload(BaseModel):
    """Base of everything that travels: immutable; older code reads newer payloads by ignoring what it does not know.

    Numbers are finite. One that slips past that check (`model_copy` makes none) is written as a word that is no JSON,
    so that writing it down fails, and not reading it later: `null` in its place would be found only then.
    """

    model_config = ConfigDict(
        frozen=True, extra="ignore", populate_by_name=True, allow_inf_nan=False, ser_json_inf_nan="constants"
    )


class ImageRef(Payload):
    """One uploaded object, exactly: read from the S3 event "Object Created" that EventBridge delivers.

    key: as S3 stores it; EventBridge, unlike S3's own notifications, does not URL-encode it.
    version_id: None when the bucket keeps no versions.
    size: bytes.
    sequencer: of two uploads to one key the later one has the larger; hexadecimal. Empty where S3 has sent none.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html
    """

    bucket: str = Field(validation_alias=AliasPath("detail", "bucket", "name"), min_length=3)
    key: str = Field(validation_alias=AliasPath("detail", "object", "key"), min_length=1)
    etag: str = Field(validation_alias=AliasPath("detail", "object", "etag"), min_length=1)
    version_id: str | None = Field(default=None, validation_alias=AliasPath("detail", "object", "version-id"))
    size: int | None = Field(default=None, validation_alias=AliasPath("detail", "object", "size"), ge=0, lt=2**63)
    sequencer: str = Field(default="", validation_alias=AliasPath("detail", "object", "sequencer"))
    uploaded_at: Moment = Field(validation_alias=AliasPath("time"))

    @property
    def uri(self) -> str:
        """Where the object lies: s3://bucket/key."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def version(self) -> str:
        """What tells this upload from another one to the same key: the version id, else the ETag."""
        return self.version_id or self.etag


def is_folder(key: str, size: int) -> bool:
    """Whether the object only makes a folder visible, as "Create folder" in the S3 console does. It is no upload.

    The rules of the template leave out the same ones.
    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-folders.html

    >>> is_folder("2026/", 0), is_folder("2026/", 26601), is_folder("empty.jpg", 0)
    (True, False, False)
    """
    return key.endswith("/") and size == 0


def find_latest(uploads: Iterable[ImageRef]) -> list[ImageRef]:
    """The latest of these uploads to one key; several where nothing says which of them it is.

    S3 sends times in whole seconds, in any order; its sequencer orders the events of one key. Sequencers differ in
    length; the shorter one gets zeros on its right: https://repost.aws/knowledge-center/s3-duplicate-sqs-messages
    """
    refs = list(uploads)
    if all(ref.sequencer for ref in refs):
        places = [(ref.sequencer.lower().ljust(64, "0"), ref.uploaded_at) for ref in refs]
    else:
        places = [("", ref.uploaded_at) for ref in refs]
    return [ref for ref, place in zip(refs, places, strict=True) if place == max(places)]


class ImageStatistics(Payload):
    """How the photo looks: for drift, and for whether it must be taken again (see `classify.photo_quality`).

    brightness: mean luma, 0 to 1.
    contrast: standard deviation of luma, 0 to 0.5.
    sharpness: the steepest edges in the blurriest direction, 0 to 1.
    saturation: mean of HSV saturation, 0 to 1.
    glare: how much more of the middle than of the border is burnt out, 0 to 1.
    shorter_side: of the upload, pixels; None in records older than this field, whose sharpness is another measure.
    """

    brightness: float = Field(ge=0.0, le=1.0)
    contrast: float = Field(ge=0.0, le=1.0)
    sharpness: float = Field(ge=0.0)
    saturation: float = Field(ge=0.0, le=1.0)
    glare: float = Field(default=0.0, ge=0.0, le=1.0)
    shorter_side: int | None = Field(default=None, gt=0)


class ImageSummary(Payload):
    """What a record keeps of the photo; its pixels stay in the bucket.

    sha256: of the uploaded bytes, so that a record names its image for ever.
    format, width, height: of the upload; pixels, after turning it as its EXIF orientation says.
    """

    sha256: Sha256
    format: str
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    statistics: ImageStatistics


class PreparedImage(ImageSummary):
    """The photo as the model sees it.

    png: base64 of a lossless RGB PNG in the model's input shape; bounded, because the state of an execution is
        limited to 256 KiB (https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html).
    """

    png: str = Field(min_length=1, max_length=210_000, repr=False)


class SelectivePolicy(Payload):
    """Two gates: is it one of the labels at all, and if so, is the answer sure enough?

    accept_at: smallest confidence that is accepted of a label without a threshold of its own. Where labels have theirs
        it is the strictest of them, for a reader that knows only this one.
    thresholds: smallest confidence that is accepted, by label; None: a person decides about every answer of this label.
    neither_accept_at_most: largest probability of "neither" that is accepted.
    neither_reject_at_least: smallest probability of "neither" that is rejected; between the two a person decides.

    Selective classification with a reject option: El-Yaniv and Wiener, JMLR 11 (2010), 1605–1641.
    """

    policy_version: str
    accept_at: Probability
    thresholds: dict[str, Probability | None] = Field(default_factory=dict)
    neither_accept_at_most: Probability
    neither_reject_at_least: Probability

    def threshold(self, label: str) -> float | None:
        """Smallest confidence from which this label is accepted; None where a person decides about all of them."""
        return self.thresholds.get(label, self.accept_at)

    def accepts(self, label: str, confidence: float, neither: float) -> bool:
        """Whether both gates let this answer through."""
        threshold = self.threshold(label)
        return threshold is not None and confidence >= threshold and neither <= self.neither_accept_at_most


class Prediction(Payload):
    """The model's answer for one image.

    probabilities: calibrated, one per label, given that the image shows one of them; they sum to 1.
    label: the label of the largest probability.
    confidence: that probability (maximum softmax response).
    neither: calibrated probability that the image shows none of the labels.
    latency_ms: the forward pass alone, milliseconds.
    backend: "embedded" or "sagemaker".
    fallback: why the embedded model answered in the endpoint's place; None where the one answered that was meant to.
    policy: the model's own, so that a model is never judged by another one's while two versions share the traffic;
        a record leaves it to its decision. None where the prediction is older than this field.
    """

    label: str
    confidence: Probability
    probabilities: dict[str, Probability] = Field(min_length=2)
    neither: Probability
    model_version: str
    backend: str
    latency_ms: float = Field(ge=0.0)
    fallback: str | None = None
    policy: SelectivePolicy | None = None

    @classmethod
    def of(cls, probabilities: dict[str, float], **rest: Any) -> Self:
        """The prediction that these probabilities amount to."""
        label = max(probabilities, key=probabilities.__getitem__)
        return cls(label=label, confidence=probabilities[label], probabilities=probabilities, **rest)


class Route(StrEnum):
    """Where a decision sends the image."""

    ACCEPT = "accept"
    REVIEW = "review"
    REJECT = "reject"


class Reason(StrEnum):
    """Why it goes there.

    A reason that a newer version has written is kept as it stands: after a rollback this one must read its records.
    """

    CONFIDENT = "confident"
    UNSURE = "unsure"
    PERHAPS_NEITHER = "perhaps_neither"
    NEITHER = "neither"
    UNREADABLE = "unreadable"
    REVIEW_EVERYTHING = "review_everything"
    RETAKE = "retake"

    @classmethod
    def _missing_(cls, value: object) -> "Reason | None":
        if not (isinstance(value, str) and value):
            return None
        newer = str.__new__(cls, value)
        newer._name_, newer._value_ = value.upper(), value
        return newer


class Decision(Payload):
    """What becomes of the image.

    explanation: one sentence for people, with the numbers that decided.
    policy_version: None when no policy was asked, because there was no image to ask about.
    """

    route: Route
    reason: Reason
    explanation: str = ""
    policy_version: str | None = None

    @property
    def by_policy(self) -> Route:
        """Where the policy alone sends the image: the switch "review everything" only ever takes accepted ones."""
        return Route.ACCEPT if self.reason is Reason.REVIEW_EVERYTHING else self.route


class ReviewStatus(StrEnum):
    """How far a review has come. Only an answer closes it: whoever comes late is still heard."""

    WAITING = "waiting"
    ESCALATED = "escalated"
    UNANSWERED = "unanswered"
    ANSWERED = "answered"


class Shown(Payload):
    """What the reviewer saw beside the picture."""

    explanation: str
    choices: tuple[str, ...]


class Answer(Payload):
    """What a person says the image shows.

    label: a label of the model, "neither" or "cannot_tell".
    reviewer: as the reviewers call themselves; personal, so it stands in the tables and nowhere else.
    seconds_taken: from being shown the picture to answering.
    late: nobody was expected to answer any more.
    """

    label: str
    reviewer: str = Field(repr=False)
    answered_at: Moment
    seconds_taken: float = Field(ge=0.0)
    shown: Shown
    late: bool = False


class GoldenAnswer(Payload):
    """What the reviewer said next about a golden photo, without knowing that it was one.

    photo: its folder and name among the model's golden photos. expected: what it shows. label: as in `Answer`.
    """

    photo: str
    expected: str
    label: str
    answered_at: Moment


class ReviewOutcome(Payload):
    """What a record tells of its review.

    why: "audit", or the reason of a decision to ask.
    second: what another reviewer said, who did not know the first answer; it decides nothing.
    golden: how carefully the first reviewer looked, just after.
    """

    status: ReviewStatus
    why: str
    requested_at: Moment
    answer: Answer | None = None
    second: Answer | None = None
    golden: GoldenAnswer | None = None


class Symptom(Payload):
    """One way in which the model is degraded.

    statistic: of drift (see `drift.FEATURES` and `drift.RATES`), or "promise".
    description: in words, with the numbers.
    since: the likeliest moment at which it began, if it is known.
    label: whose promise the answers do not support; None where it is about no single label.
    """

    statistic: str
    description: str
    since: Moment | None = None
    label: str | None = None


class ModelDegraded(Payload):
    """Detail of the event "Model Degraded": published when harm is found, once, and not again while it lasts.

    bucket: whose images; another stack's are none of ours.
    reason: one sentence for people.
    findings: what amounts to harm; never empty.
    degraded_at: when the monitor found it.
    """

    bucket: str
    reason: str
    findings: tuple[Symptom, ...] = Field(min_length=1)
    model_version: str
    policy_version: str
    degraded_at: Moment
