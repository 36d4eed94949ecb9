"""What a policy is to guarantee: the options of `policy` and `train`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer
from pydantic import ValidationError

from kickstand.classify.promise import Mix, Promise
from kickstand.records import Record
from kickstand.review.agreement import agreement

FOREIGN_SHARE = 0.05
"""Default share of photos of none of the classes, where there are such photos as evidence."""

PANEL = "The guarantee"
OPTIONS = {"confidence_level": "--confidence", "foreign_share": "--neither-share", "mix": "--mix"}

MaxRisk = Annotated[
    list[str] | None,
    typer.Option(
        "--max-risk",
        metavar="[CLASS=]SHARE",
        rich_help_panel=PANEL,
        help="Largest share of wrong predictions among the accepted ones, of each class or of one; repeatable.",
    ),
]
ConfidenceLevel = Annotated[
    float,
    typer.Option("--confidence", rich_help_panel=PANEL, help="Confidence of the guarantee, for all classes at once."),
]
MixOption = Annotated[
    str | None,
    typer.Option(
        "--mix",
        metavar="CLASS=SHARE,...",
        rich_help_panel=PANEL,
        show_default="the evidence's",
        help="Shares of the classes for which the guarantee must hold: a number or a range, bicycle=0.5..0.95.",
    ),
]
ForeignShare = Annotated[
    float | None,
    typer.Option(
        "--neither-share",
        rich_help_panel=PANEL,
        show_default=f"{FOREIGN_SHARE:g} where the evidence has such photos",
        help="Largest share of photos of none of the classes for which the guarantee must hold.",
    ),
]
LabelError = Annotated[
    str,
    typer.Option(
        metavar="SHARE|auto",
        rich_help_panel=PANEL,
        help="Largest probability that a label is wrong; auto: from the reviewers' agreement in the records.",
    ),
]


@dataclass(frozen=True)
class Goal:
    """The options. max_risk: "0.02", or "motorcycle=0.01". mix: "bicycle=0.5..0.95,motorcycle=0.1".

    Raises BadParameter naming the option for a number out of range; `promise` checks what depends on the classes.
    """

    max_risk: Sequence[str] = ("0.02",)
    confidence_level: float = 0.95
    mix: str | None = None
    foreign_share: float | None = None
    label_error: float = 0.0

    def __post_init__(self) -> None:
        for text in self.max_risk:
            label, _, share = text.rpartition("=")
            self._promise({label: _number("--max-risk", share)}, self.foreign_share or 0.0)

    def promise(self, labels: Sequence[str], photos: Mapping[str, int]) -> Promise:
        """The guarantee for these classes. photos: how many show each class, and "neither".

        Raises BadParameter naming the option.
        """
        foreign_share = self.foreign_share
        if foreign_share is None:
            foreign_share = FOREIGN_SHARE if photos.get("neither") else 0.0
        mix = None if self.mix is None else read_mix(self.mix, labels)
        return self._promise(self._risks(labels), foreign_share, mix)

    def _promise(self, max_risk: dict[str, float], foreign_share: float = 0.0, mix: Mix | None = None) -> Promise:
        try:
            return Promise(
                max_risk=max_risk,
                confidence_level=self.confidence_level,
                mix=mix,
                foreign_share=foreign_share,
                label_error=self.label_error,
            )
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            option = OPTIONS.get(str(first["loc"][0]) if first["loc"] else "", "--max-risk")
            message = first["msg"].removeprefix("Value error, ").removeprefix("mix: ")
            raise typer.BadParameter(f"{option}: {message[0].lower()}{message[1:]}") from error

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
                raise typer.BadParameter("--max-risk: given twice for all classes")
        if everywhere is None and (missing := [label for label in labels if label not in risks]):
            raise typer.BadParameter(f"--max-risk: no value for {', '.join(missing)}")
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
            raise typer.BadParameter(f"--mix {part.strip()!r}: expected CLASS=SHARE or CLASS=SHARE..SHARE")
        _known("--mix", label, labels)
        if label in mix:
            raise typer.BadParameter(f"--mix: {label} is named twice")
        least, dots, most = share.partition("..")
        mix[label] = (_number("--mix", least), _number("--mix", most if dots else least))
    return mix


def _known(option: str, label: str, labels: Sequence[str]) -> None:
    if label not in labels:
        raise typer.BadParameter(f"{option}: {label!r} is not a class of this model, which knows {', '.join(labels)}")


def _number(option: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0.0 <= number <= 1.0:
        raise typer.BadParameter(f"{option}: {text or 'nothing'} is not a number from 0 to 1")
    return number


def read_label_error(text: str, records: Iterable[Record] | None = None) -> float:
    """A share below 0.5; for "auto", the bound that the records show. Raises BadParameter where there is none."""
    if text == "auto":
        found = agreement(records or ()).label_error_at_most
        if found is None:
            raise typer.BadParameter("--label-error auto: no photo of these records was judged by two people")
        text = f"{found:.6f}"
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share < 0.5:
        raise typer.BadParameter(f"--label-error: {text} is not a share below 0.5")
    return share
