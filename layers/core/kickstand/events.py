"""What travels along the workflow's arrows: ImageRef → PreparedImage → Prediction → Decision → (Answer) → Record."""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, AliasPath, BaseModel, ConfigDict, Field, model_validator

from kickstand.text import shorten

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
NEITHER = "neither"
"""The label of a photo that shows none of the classes."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def as_utc(moment: datetime) -> datetime:
    """The same moment in UTC; a time without a zone is in UTC.

    >>> as_utc(datetime.fromisoformat("2026-05-04T01:00+09:00")).isoformat()
    '2026-05-03T16:00:00+00:00'
    """
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError as error:
        raise ValueError(f"{moment}: outside of the years 1 to 9999 in UTC") from error


Moment = Annotated[datetime, AfterValidator(as_utc)]
"""A time, always in UTC: times are compared, printed and sorted as text, so they need one zone."""


ShortText = Annotated[str, AfterValidator(shorten)]
"""A reason in words; a longer one is cut, so that it blocks nothing."""


class Payload(BaseModel):
    """Base of all payloads: immutable; older code reads newer payloads by ignoring unknown fields.

    Numbers are finite. `model_copy` does not check that; an infinite number is then written as a word that is not JSON,
    so that writing fails. With `null` instead, only reading would fail, much later.
    """

    model_config = ConfigDict(
        frozen=True, extra="ignore", populate_by_name=True, allow_inf_nan=False, ser_json_inf_nan="constants"
    )


class OfUpload(Payload):
    """Base of payloads about one upload. image: s3://bucket/key. version: distinguishes uploads to that key."""

    image: str
    version: str

    @property
    def key(self) -> tuple[str, str]:
        """Which upload it is about."""
        return self.image, self.version


def hash_upload(image: str, version: str) -> bytes:
    """SHA-256 of an upload's key: the same in every process. It orders uploads at random, and names executions."""
    return hashlib.sha256(f"{image}\n{version}".encode()).digest()


class ImageRef(Payload):
    """One uploaded object, exactly: read from the S3 event "Object Created" that EventBridge delivers.

    key: as S3 stores it; EventBridge, unlike S3's own notifications, does not URL-encode it.
    version_id: None if the bucket keeps no versions.
    size: bytes.
    sequencer: hexadecimal; of two uploads to one key, the later one has the larger. Empty if S3 has sent none.

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
        """The object's address: s3://bucket/key."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def version(self) -> str:
        """Distinguishes uploads to the same key: the version id, or else the ETag."""
        return self.version_id or self.etag

    @property
    def upload(self) -> tuple[str, str]:
        """Which upload it is, as in `OfUpload.key`."""
        return self.uri, self.version


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of s3://bucket/key. A key may contain any character, also ? and #.

    >>> split_uri("s3://photos/a folder/what?.jpg")
    ('photos', 'a folder/what?.jpg')
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def is_folder(key: str, size: int) -> bool:
    """Whether the object is a folder marker, as made by "Create folder" in the S3 console. It is not an upload.

    The rules in the template exclude the same objects.
    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-folders.html

    >>> is_folder("2026/", 0), is_folder("2026/", 26601), is_folder("empty.jpg", 0)
    (True, False, False)
    """
    return key.endswith("/") and size == 0


def find_latest(uploads: Iterable[ImageRef]) -> list[ImageRef]:
    """The latest of these uploads to one key; several if their order is unknown.

    S3 sends times in whole seconds, in any order; its sequencer orders the events of one key. Sequencers differ in
    length; the shorter one is padded on its right: https://repost.aws/knowledge-center/s3-duplicate-sqs-messages
    """
    refs = list(uploads)
    if all(ref.sequencer for ref in refs):
        places = [(ref.sequencer.lower().ljust(64, "0"), ref.uploaded_at) for ref in refs]
    else:
        places = [("", ref.uploaded_at) for ref in refs]
    return [ref for ref, place in zip(refs, places, strict=True) if place == max(places)]


class ImageStatistics(Payload):
    """Statistics of the photo: for drift, and to decide whether it must be taken again (see `classify.photo_quality`).

    brightness: mean luma, 0 to 1.
    contrast: standard deviation of luma, 0 to 0.5.
    sharpness: of the steepest edges, in the blurriest direction, 0 to 1.
    saturation: mean of HSV saturation, 0 to 1.
    glare: overexposed share of the centre, less that of the border, 0 to 1.
    shorter_side: of the upload, pixels; None in older records, whose sharpness was measured in another way.
    """

    brightness: float = Field(ge=0.0, le=1.0)
    contrast: float = Field(ge=0.0, le=1.0)
    sharpness: float = Field(ge=0.0)
    saturation: float = Field(ge=0.0, le=1.0)
    glare: float = Field(default=0.0, ge=0.0, le=1.0)
    shorter_side: int | None = Field(default=None, gt=0)


class ImageSummary(Payload):
    """What a record keeps about the photo; its pixels stay in the bucket.

    sha256: of the uploaded bytes, to identify the photo for good.
    format, width, height: of the upload; pixels, after applying its EXIF orientation.
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
    """Two thresholds: does the photo show one of the classes at all, and if so, is the prediction confident enough?

    accept_at: smallest accepted confidence of a class without a threshold of its own. If classes have their own, this
        is the strictest of them, for older readers, which know only this one.
    thresholds: smallest accepted confidence, by class; None: every prediction of this class goes to review.
    neither_accept_at_most: largest probability of "neither" that is accepted.
    neither_reject_at_least: smallest probability of "neither" that is rejected; between the two, a person decides.

    Selective classification with a reject option: El-Yaniv and Wiener, JMLR 11 (2010), 1605–1641.
    """

    policy_version: str
    accept_at: Probability
    thresholds: dict[str, Probability | None] = Field(default_factory=dict)
    neither_accept_at_most: Probability
    neither_reject_at_least: Probability

    @model_validator(mode="after")
    def _accepts_below_reject(self) -> Self:
        if self.neither_accept_at_most > self.neither_reject_at_least:
            raise ValueError("neither_accept_at_most is larger than neither_reject_at_least")
        return self

    def threshold(self, label: str) -> float | None:
        """Smallest accepted confidence of this class; None if all of its predictions go to review."""
        return self.thresholds.get(label, self.accept_at)

    def accepts(self, label: str, confidence: float, neither: float) -> bool:
        """Whether this prediction passes both thresholds."""
        threshold = self.threshold(label)
        return threshold is not None and confidence >= threshold and neither <= self.neither_accept_at_most


class Prediction(Payload):
    """The model's prediction for one photo.

    probabilities: calibrated, one per class, given that the photo shows one of them; they sum to 1.
    label: the class with the largest probability.
    confidence: that probability (maximum softmax response).
    neither: calibrated probability that the photo shows none of the classes.
    latency_ms: of the forward pass, milliseconds.
    backend: "embedded" or "sagemaker".
    fallback: why the embedded model was used in place of the endpoint; None if the chosen backend was.
    policy: the model's own, so that during a rollout each version is judged by its own policy; a record names only the
        version of the policy, in its decision. None in a prediction older than this field.
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
        """The prediction from these probabilities."""
        label = max(probabilities, key=probabilities.__getitem__)
        return cls(label=label, confidence=probabilities[label], probabilities=probabilities, **rest)


class Route(StrEnum):
    """Where a decision sends the photo."""

    ACCEPT = "accept"
    REVIEW = "review"
    REJECT = "reject"


class Reason(StrEnum):
    """Why a photo gets its route.

    An unknown reason, written by a newer version, is kept: after a rollback this version must read those records.
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
    """The decision about a photo.

    explanation: one sentence for people, with the numbers that decided.
    policy_version: None for an unreadable file, to which no policy applies.
    """

    route: Route
    reason: Reason
    explanation: str = ""
    policy_version: str | None = None

    @property
    def by_policy(self) -> Route:
        """The route by the policy alone: review-everything mode sends would-be-accepted photos to review."""
        return Route.ACCEPT if self.reason is Reason.REVIEW_EVERYTHING else self.route


class ReviewStatus(StrEnum):
    """The state of a review. Only an answer closes it: a late answer counts too."""

    WAITING = "waiting"
    ESCALATED = "escalated"
    UNANSWERED = "unanswered"
    ANSWERED = "answered"


class Shown(Payload):
    """What the reviewer saw beside the photo."""

    explanation: str
    choices: tuple[str, ...]


class Answer(Payload):
    """What a person says a photo shows.

    label: a class of the model, "neither" or "cannot_tell".
    reviewer: the name that the reviewer gave; personal data, so it is only in the tables.
    seconds_taken: from seeing the photo to answering.
    late: after both waits had ended.
    """

    label: str
    reviewer: str = Field(repr=False)
    answered_at: Moment
    seconds_taken: float = Field(ge=0.0)
    shown: Shown
    late: bool = False


class GoldenAnswer(Payload):
    """What the reviewer answered next about a golden photo, without knowing that it was one.

    photo: its folder and name among the model's golden photos. expected: what it shows. label: as in `Answer`.
    """

    photo: str
    expected: str
    label: str
    answered_at: Moment


class ReviewOutcome(Payload):
    """The review of a record.

    why: "audit", or the reason of the decision to ask.
    second: another reviewer's answer, given without knowing the first; it decides nothing.
    golden: the first reviewer's next answer, which checks how careful they are.
    """

    status: ReviewStatus
    why: str
    requested_at: Moment
    answer: Answer | None = None
    second: Answer | None = None
    golden: GoldenAnswer | None = None


class Symptom(Payload):
    """One way in which the model is degraded.

    statistic: of drift (see `drift.FEATURES` and `drift.RATES`), or `promise`, for the guarantee.
    description: in words, with the numbers.
    since: when it most likely began, if known.
    label: the class whose guarantee people's answers do not support; None if it is not about one class.
    """

    statistic: str
    description: str
    since: Moment | None = None
    label: str | None = None


class ModelDegraded(Payload):
    """Detail of the event "Model Degraded": published once when an alert begins, and not again while it lasts.

    bucket: of the photos; it identifies the stack.
    reason: one sentence for people.
    findings: the symptoms; never empty.
    degraded_at: when the monitor found it.
    """

    bucket: str
    reason: str
    findings: tuple[Symptom, ...] = Field(min_length=1)
    model_version: str
    policy_version: str
    degraded_at: Moment
