"""What a policy is to promise, as the options of `policy` and `train` say it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer
from pydantic import ValidationError

from kickstand.classify.promise import Mix, Promise
from kickstand.records import Record
from kickstand.review.agreement import agreement

FOREIGN_SHARE = 0.05
"""Share of photos that show none of the labels, where nobody says another and there are photos to show it by."""

MaxRisk = Annotated[
    list[str] | None,
    typer.Option(
        "--max-risk",
        metavar="[LABEL=]SHARE",
        help="Largest share of wrong answers among the accepted answers of each label, or of this one; repeatable.",
    ),
]
ConfidenceLevel = Annotated[
    float, typer.Option("--confidence", help="How sure the promise must be, for all labels at once.")
]
MixOption = Annotated[
    str | None,
    typer.Option(
        "--mix",
        metavar="LABEL=SHARE,...",
        help="Shares of the labels for which the promise must hold, each a number or a range, bicycle=0.5..0.95; "
        "default: the mix of the evidence.",
    ),
]
ForeignShare = Annotated[
    float | None,
    typer.Option(
        "--foreign-share",
        help="Largest share of all photos that show none of the labels, for which the promise must hold; "
        f"default: {FOREIGN_SHARE:g} where the evidence has such photos.",
    ),
]
LabelError = Annotated[
    str,
    typer.Option(
        metavar="SHARE|auto",
        help="Largest probability that a person's label is wrong; auto: by the reviewers' agreement in the records.",
    ),
]


@dataclass(frozen=True)
class Goal:
    """The options. max_risk: "0.02", or "motorcycle=0.01". mix: "bicycle=0.5..0.95,motorcycle=0.1"."""

    max_risk: Sequence[str] = ("0.02",)
    confidence_level: float = 0.95
    mix: str | None = None
    foreign_share: float | None = None
    label_error: float = 0.0

    def promise(self, labels: Sequence[str], photos: Mapping[str, int]) -> Promise:
        """The promise about these labels. photos: how many there are that show each label, and "neither".

        Raises BadParameter naming the option.
        """
        foreign_share = self.foreign_share
        if foreign_share is None:
            foreign_share = FOREIGN_SHARE if photos.get("neither") else 0.0
        try:
            return Promise(
                max_risk=self._risks(labels),
                confidence_level=self.confidence_level,
                mix=None if self.mix is None else read_mix(self.mix, labels),
                foreign_share=foreign_share,
                label_error=self.label_error,
            )
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"][:2]))
            raise typer.BadParameter(f"{place}: {first['msg'].removeprefix('Value error, ')}") from error

    def _risks(self, labels: Sequence[str]) -> dict[str, float]:
        everywhere: float | None = None
        risks: dict[str, float] = {}
        for text in self.max_risk:
            label, _, share = text.rpartition("=")
            if label:
                _known("--max-risk", label, labels)
                if label in risks:
                    raise typer.BadParameter(f"--max-risk: {label} is named twice")
                risks[label] = _number("--max-risk", share)
            elif everywhere is None:
                everywhere = _number("--max-risk", share)
            else:
                raise typer.BadParameter("--max-risk: said twice for all labels")
        if everywhere is None and (missing := [label for label in labels if label not in risks]):
            raise typer.BadParameter(f"--max-risk: nothing is said about {', '.join(missing)}")
        return {label: risks.get(label, everywhere or 0.0) for label in labels}


def read_mix(text: str, labels: Sequence[str]) -> Mix:
    """ "bicycle=0.5..0.95,motorcycle=0.1". Raises BadParameter naming what cannot be read.

    >>> read_mix("a=0.5..0.95", ["a", "b"])
    {'a': (0.5, 0.95)}
    """
    mix: Mix = {}
    for part in text.split(","):
        label, equals, share = (piece.strip() for piece in part.rpartition("="))
        if not equals:
            raise typer.BadParameter(f"--mix {part.strip()!r}: expected LABEL=SHARE or LABEL=SHARE..SHARE")
        _known("--mix", label, labels)
        if label in mix:
            raise typer.BadParameter(f"--mix: {label} is named twice")
        least, dots, most = share.partition("..")
        mix[label] = (_number("--mix", least), _number("--mix", most if dots else least))
    return mix


def _known(option: str, label: str, labels: Sequence[str]) -> None:
    if label not in labels:
        raise typer.BadParameter(f"{option}: the model knows {', '.join(labels)}, not {label}")


def _number(option: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0.0 <= number <= 1.0:
        raise typer.BadParameter(f"{option}: {text or 'nothing'} is no number between 0 and 1")
    return number


def read_label_error(text: str, records: Iterable[Record] | None = None) -> float:
    """A share below 0.5; "auto" is the bound that the records show. Raises BadParameter where there is none."""
    if text == "auto":
        found = agreement(records or ()).label_error_at_most
        if found is None:
            raise typer.BadParameter("--label-error auto: no two people have judged one photo of these records")
        text = f"{found:.6f}"
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share < 0.5:
        raise typer.BadParameter(f"--label-error: {text} is no share below 0.5")
    return share
