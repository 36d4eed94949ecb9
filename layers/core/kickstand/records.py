"""The decision record: monitor, report and replay read only records."""

import json
from datetime import datetime, timedelta
from typing import Any

from pydantic import AliasChoices, Field

from kickstand.events import (
    Decision,
    ImageRef,
    ImageSummary,
    Moment,
    OfUpload,
    Payload,
    Prediction,
    Probability,
    Reason,
    ReviewOutcome,
    Route,
)


class StateError(Payload):
    """The error that Step Functions' Catch puts into the state. cause: for an error of a Lambda function, JSON."""

    error: str = Field(validation_alias="Error")
    cause: str = Field(default="", validation_alias="Cause")

    @property
    def message(self) -> str:
        """The exception's message, if the cause is a Lambda error; otherwise the cause itself."""
        try:
            return str(json.loads(self.cause)["errorMessage"])
        except (ValueError, KeyError, TypeError):
            return self.cause or self.error


class LaterDecision(Payload):
    """A newer model's decision about an upload that had its decision: stored beside it, without a new review.

    by: the run of backfill that asked for it. execution: see Record.
    """

    prediction: Prediction
    decision: Decision
    execution: str
    decided_at: datetime
    by: str


class Record(OfUpload):
    """One upload and what was decided about it: enough to derive the decision again.

    image, version: the table's key: s3://bucket/key, and the version id (else the ETag) of that upload.
    prepared_image, prediction: None for an unreadable file.
    execution: the last part of the ARN of the execution that wrote the record; in older records the whole ARN. DynamoDB
        bills a record above 1,024 bytes as two writes, and the ARN's other parts are the same for all records.
    audit_probability: probability that a person reviews this photo; 1 for route "review". Weighting reviewed records
        by its inverse makes estimates unbiased. None in records older than audits.
    audited: drawn for a random audit.
    review: the outcome of the review, once there is one.
    later: decisions of newer models, the oldest first; one for each model version except the first.
    keep_until: when its retention ends, seconds since 1970; None for never.
    changed_at: when it was written or answered, by its place in the index by time. Only the table holds it.
    """

    image_ref: ImageRef
    prepared_image: ImageSummary | None = None
    prediction: Prediction | None = None
    decision: Decision
    execution: str
    recorded_at: Moment
    audit_probability: Probability | None = None
    audited: bool = False
    review: ReviewOutcome | None = None
    later: tuple[LaterDecision, ...] = ()
    keep_until: int | None = Field(default=None, validation_alias=AliasChoices("keep_until", "expires_at"))
    changed_at: Moment | None = Field(default=None, exclude=True)

    @property
    def used_prediction(self) -> Prediction | None:
        """The model's prediction, if it counts: not for an unreadable file, or a photo that must be taken again."""
        return None if self.decision.reason is Reason.RETAKE else self.prediction

    @property
    def asks_a_person(self) -> bool:
        """Whether this photo goes to review."""
        return self.audited or self.decision.route is Route.REVIEW


class Recording(Payload):
    """The input of the state "Record Result". state: the whole state of the execution."""

    state: dict[str, Any]
    execution: str

    @property
    def again(self) -> str | None:
        """The run of backfill that requested a repeated decision; None for a first decision."""
        detail = self.state.get("detail")
        again = detail.get("again") if isinstance(detail, dict) else None
        return None if again is None else str(again)


def compose_record(state: dict[str, Any], execution: str, recorded_at: datetime, retention_days: int = 0) -> Record:
    """The record, from the execution's state after the decision.

    state: the S3 event, with `decision` and, if the execution got there, `prepared_image`, `prediction`, `error`.
    retention_days: how long a photo and its record are kept after the upload; 0 for no limit.
    """
    ref = ImageRef.model_validate(state)
    decision = Decision.model_validate(state.get("decision"))
    if "error" in state and not decision.explanation:
        explanation = StateError.model_validate(state["error"]).message
        decision = decision.model_copy(update={"explanation": explanation})
    prediction = Prediction.model_validate(state["prediction"]) if "prediction" in state else None
    end = ref.uploaded_at + timedelta(days=retention_days)
    return Record(
        image=ref.uri,
        version=ref.version,
        image_ref=ref,
        prepared_image=state.get("prepared_image"),
        prediction=prediction and prediction.model_copy(update={"policy": None}),
        decision=decision,
        execution=execution.rpartition(":")[2],
        recorded_at=recorded_at,
        keep_until=int(end.timestamp()) if retention_days else None,
    )


def compose_later(state: dict[str, Any], execution: str, decided_at: datetime, by: str) -> LaterDecision | None:
    """The repeated decision in the execution's state; None without a prediction, for an unreadable file."""
    if "prediction" not in state:
        return None
    prediction = Prediction.model_validate(state["prediction"])
    return LaterDecision(
        prediction=prediction.model_copy(update={"policy": None}),
        decision=Decision.model_validate(state.get("decision")),
        execution=execution.rpartition(":")[2],
        decided_at=decided_at,
        by=by,
    )
