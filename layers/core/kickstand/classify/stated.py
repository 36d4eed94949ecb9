"""What `model.json` states beside what a decision needs: the guarantee, its evidence, metrics."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from kickstand.classify.promise import Guaranteed
from kickstand.events import Payload, Probability


class Share(Payload):
    """A share of n photos, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


class StatedLabel(Payload):
    """The evidence about one class: photos accepted as it, by what they show; or why its guarantee is refused."""

    right: int | None = Field(default=None, ge=0)
    wrong: int = Field(default=0, ge=0)
    foreign: int = Field(default=0, ge=0)
    refused: str | None = None


class StatedEvidence(Payload):
    """The photos that the guarantee was shown on. domain: which they are. photos: by what they show.

    refused: why an older guarantee, about all classes together, cannot be shown.
    """

    domain: str | None = None
    date: str | None = None
    source: str | None = None
    procedure: str | None = None
    photos: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    coverage: dict[str, Share] = Field(default_factory=dict)
    labels: dict[str, StatedLabel] = Field(default_factory=dict)
    shares_at_most: dict[str, Probability] = Field(default_factory=dict)
    refused: str | None = None

    @field_validator("coverage", mode="before")
    @classmethod
    def _of_each_class(cls, told: Any) -> Any:
        """An older guarantee has the coverage of all classes together."""
        return {} if isinstance(told, dict) and told.keys() == Share.model_fields.keys() else told


class StatedPolicy(Guaranteed):
    """The policy in `model.json`, for people and for checks; `SelectivePolicy` decides."""

    policy_version: str = ""
    thresholds: dict[str, Probability | None] = Field(default_factory=dict)
    evidence: StatedEvidence = StatedEvidence()

    @property
    def unaccepted(self) -> tuple[str, ...]:
        """The classes without accepted predictions."""
        return tuple(label for label, threshold in self.thresholds.items() if threshold is None)


class StatedCard(Payload):
    """What `model.json` states beside what a decision needs; other metrics than those with an interval are left out."""

    model_version: str
    labels: tuple[str, ...]
    policy: StatedPolicy
    metrics: dict[str, Share] = Field(default_factory=dict)

    @field_validator("metrics", mode="before")
    @classmethod
    def _have_an_interval(cls, told: Any) -> Any:
        if not isinstance(told, dict):
            return told
        return {k: v for k, v in told.items() if isinstance(v, dict) and v.keys() >= Share.model_fields.keys()}
