"""`kickstand policy`: from a guarantee to the thresholds."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from kickstand.classify.artefact import ModelCard, read_card, read_part
from kickstand.classify.promise import Answered, Promise, derive_cheapest, derive_promised, percent, worst_mix
from kickstand.classify.stated import StatedEvidence
from kickstand.errors import first_complaint
from kickstand.events import NEITHER
from kickstand.monitor.live_accuracy import outcomes
from kickstand.quality import clopper_pearson
from kickstand.records import Record
from kickstand.review.audit import draw
from kickstand.text import dump_json
from kickstand_cli.classify.classify import ModelOption, load_model
from kickstand_cli.classify.evaluation import (
    Readable,
    ReportedCard,
    answer_all,
    explain_unreadable,
    find_images,
    name_unread,
)
from kickstand_cli.classify.goal import (
    ConfidenceLevel,
    ForeignShare,
    Goal,
    LabelError,
    MaxRisk,
    MixOption,
    read_label_error,
)
from kickstand_cli.deployment import OutputsFile, reporting
from kickstand_cli.files import expect_writable, open_file, with_name, write_file
from kickstand_cli.project import MODEL, PROJECT
from kickstand_cli.records import RecordsFiles, open_records, parse_since_option
from kickstand_cli.terminal import AsJson, CommandError, ExitCode, console, exit_on, print_json, reason, stderr
from kickstand_cli.training.card import choose_gate, list_answers

OUT_OF_FOLD = PROJECT / "model-evidence" / "out_of_fold.json"
CONFIDENCE = 0.95
OUT_OF_FOLD_SOURCE = "out-of-fold predictions"
FORMER_SOURCE = "out-of-fold answers"  # the same in an older model.json


@dataclass(frozen=True)
class Evidence:
    """Predictions for labelled photos that the model did not learn from.

    gate: largest probability of "neither" that is accepted. about: domain, date and source, in words.
    """

    photos: Sequence[Answered]
    gate: float
    about: dict[str, Any]

    @property
    def counts(self) -> Counter[str]:
        """How many photos show each class, and "neither"."""
        return Counter(photo.truth for photo in self.photos)


def find_out_of_fold(artefact: Path, told: ReportedCard) -> Path:
    """Where `kickstand train` wrote the predictions: beside its artefact; the shipped model's in model-evidence/.

    Raises CommandError where another model has none there: the shipped model's would be evidence about that one.
    """
    home = with_name(artefact)
    beside = home.parent / f"{home.name}-evidence" / OUT_OF_FOLD.name
    if beside.is_file():
        return beside
    if told.out_of_fold_sha256 is None:
        raise CommandError(f"{artefact}: {beside} is missing; name evidence by --images, --records or --out-of-fold")
    return OUT_OF_FOLD


def read_out_of_fold(file: Path, card: ModelCard, told: ReportedCard) -> Evidence:
    """The predictions of cross-validation for the training photos.

    told: by model.json; it names the SHA-256 of its predictions.

    Raises CommandError when the file is missing, damaged, or of another model.
    """
    try:
        with open_file(file) as answers:
            text = answers.read()
        sha256 = hashlib.sha256(text).hexdigest()
        if told.out_of_fold_sha256 not in (None, sha256):
            raise CommandError(f"{file}: predictions of another model; name this model's by --out-of-fold")
        rows = json.loads(text)
        if tuple(rows["labels"]) != card.labels:
            raise CommandError(f"{file}: predictions of a model with the classes {', '.join(rows['labels'])}")
        known, foreign = (np.array(rows[part]["probabilities"], dtype=float) for part in ("known", "foreign"))
        gate = card.policy.neither_accept_at_most or choose_gate(foreign)
        truths = [card.labels[index] for index in rows["known"]["label"]]
        photos = list_answers(known, truths, card.labels, gate)
        photos += list_answers(foreign, [NEITHER] * len(foreign), card.labels, gate)
    except OSError as error:
        raise CommandError(reason(error)) from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CommandError(f"{file}: {reason(error)}") from error
    before = told.policy.evidence
    if before.procedure is None and not (before.source or "").startswith((OUT_OF_FOLD_SOURCE, FORMER_SOURCE)):
        before = StatedEvidence()  # of other photos, by --images, --records or --stack-name
    about = {
        "domain": before.domain or "the training photos, predicted out of fold",
        "date": before.date or (told.training.date if told.training else None),
        "source": f"{OUT_OF_FOLD_SOURCE}, SHA-256 {sha256}",
    }
    return Evidence(photos, gate, about)


def answer_labelled(folder: Path, artefact: Path, unread: list[str]) -> Evidence:
    """The model's own predictions for the photos of DIR/CLASS/ and DIR/neither/.

    unread: gets the reason for each file that cannot be read, which is left out.

    Raises CommandError for a folder that cannot be used.
    """
    model = load_model(artefact)
    answered = answer_all(find_images(folder, model.card.labels, unread), model, lambda: None, unread)
    read = [one for one in answered if isinstance(one, Readable)]
    unread += explain_unreadable(answered)
    rows = [
        [*(p * (1 - e.prediction.neither) for p in e.prediction.probabilities.values()), e.prediction.neither]
        for e in read
    ]
    p = np.array(rows, dtype=float).reshape(len(read), len(model.card.labels) + 1)
    truths = [one.truth for one in read]
    gate = model.card.policy.neither_accept_at_most or choose_gate(p[[truth == NEITHER for truth in truths]])
    about = {"domain": f"the photos of the folder {folder.resolve().name}/", "date": _today()}
    return Evidence(list_answers(p, truths, model.card.labels, gate), gate, about)


def sample_records(records: Iterable[Record], card: ModelCard, source: str) -> Evidence:
    """A uniform sample of the photos of a stack that people have labelled.

    Few accepted photos are audited, but every unsure one is reviewed. So each labelled photo is kept with a chance that
    makes all photos equally likely to be in the sample: as likely as the one that was least likely to be reviewed.

    Raises CommandError where people have labelled no photo that this model decided.
    """
    mine = [r for r in records if r.used_prediction and r.used_prediction.model_version == card.model_version]
    judged = [
        (record, seen.probability)
        for record, seen in zip(mine, outcomes(mine), strict=True)
        if seen.wrong is not None and seen.probability > 0.0
    ]
    if not judged:
        raise CommandError(f"{source}: no photo that model {card.model_version} decided has a label")
    gate = card.policy.neither_accept_at_most
    least = min(probability for _, probability in judged)
    photos = [
        Answered(
            # A label that this model does not know, such as an older name of a class, is none of its classes.
            record.review.answer.label if record.review.answer.label in card.labels else NEITHER,
            record.prediction.label,
            record.prediction.confidence if record.prediction.neither <= gate else 0.0,
        )
        for record, probability in judged
        if draw(*record.key, b"uniform sample") * probability < least
        if record.review and record.review.answer and record.prediction
    ]
    days = sorted(record.recorded_at.date() for record, _ in judged)
    about = {
        "domain": f"photos of {source} from {days[0]} to {days[-1]} that people labelled",
        "date": _today(),
        "source": f"{len(photos)} of {len(judged)} labelled photos, sampled so that each had the chance {least:.3g}",
    }
    return Evidence(photos, gate, about)


def policy(
    max_risk: MaxRisk = None,
    confidence: ConfidenceLevel = CONFIDENCE,
    mix: MixOption = None,
    foreign_share: ForeignShare = None,
    label_error: LabelError = "0",
    partial: Annotated[
        bool, typer.Option("--partial", help="Continue where a class is refused: its predictions go to review.")
    ] = False,
    review_cost: Annotated[float | None, typer.Option(min=0.0, help="Price of one review.")] = None,
    error_cost: Annotated[float | None, typer.Option(min=0.0, help="Price of one accepted wrong prediction.")] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Evidence: photos in DIR/CLASS/ and DIR/neither/ that the model has not learnt from."
        ),
    ] = None,
    records: RecordsFiles = None,
    stack_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Evidence: the labels that people gave this stack's photos.")
    ] = None,
    outputs: OutputsFile = None,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Only records since then: 30d, or ISO 8601.")
    ] = None,
    artefact: ModelOption = MODEL,
    out_of_fold: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default="where the training wrote them",
            help="Evidence: the out-of-fold predictions of the training; used where no other evidence is named.",
        ),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Store the policy and its evidence in model.json.")] = False,
    as_json: AsJson = False,
) -> None:
    """Derive the thresholds from a guarantee or from prices.

    --max-risk asks for a guarantee: of the accepted predictions of each class, at most this share is wrong, with the
    given confidence for all classes at once. --review-cost and --error-cost ask for the cheapest thresholds instead.

    The result holds for photos like those of the evidence: labelled photos (--images), a stack's reviewed photos
    (--stack-name or --records), or else the training photos, each predicted out of fold: by a model that did not learn
    from it, and learnt from slightly less data than this one.

    A guarantee that the evidence cannot support is refused, and the missing photos are named. Exit codes: 0 derived;
    1 an error; 3 refused.

    Examples:
    $ kickstand policy --max-risk 0.02
    $ kickstand policy --max-risk 0.02 --mix bicycle=0.4..0.6 --json
    """
    prices = (review_cost, error_cost) if review_cost is not None and error_cost is not None else None
    if bool(max_risk) == (prices is not None) or (review_cost is None) != (error_cost is None):
        raise typer.BadParameter("give either --max-risk, or both --review-cost and --error-cost")
    if prices and (
        confidence != CONFIDENCE or mix is not None or foreign_share is not None or label_error != "0" or partial
    ):
        raise typer.BadParameter("--confidence, --mix, --neither-share, --label-error and --partial need --max-risk")
    if since is not None and not (records or stack_name):
        raise typer.BadParameter("--since needs --records or --stack-name")
    if outputs and not stack_name:
        raise typer.BadParameter("it needs --stack-name", param_hint="--outputs")
    if sum(named is not None for named in (images, records, stack_name, out_of_fold)) > 1:
        raise typer.BadParameter("name one of --images, --records, --stack-name and --out-of-fold")
    start = parse_since_option(since, datetime.now(UTC), "30d")
    with reporting(), exit_on(OSError, ValueError):
        card = read_card(artefact)
        if write:
            expect_writable(artefact / "model.json")
        told = read_part(artefact, ReportedCard)
        stored: list[Record] = []
        unread: list[str] = []
        if images:
            evidence = answer_labelled(images, artefact, unread)
        elif records or stack_name:
            stored, _ = open_records(records or [], None, stack_name or "", outputs, start)
            evidence = sample_records(
                stored, card, ", ".join(file.name for file in records or []) or f"the stack {stack_name}"
            )
            if foreign_share is None:
                n = evidence.counts
                foreign_share = round(clopper_pearson(n[NEITHER], n.total(), confidence).high, 4)
        else:
            evidence = read_out_of_fold(out_of_fold or find_out_of_fold(artefact, told), card, told)
        if prices and not evidence.counts.keys() - {NEITHER}:
            stderr.print("refused: the evidence has no photo of a class")
            name_unread(unread, ExitCode.REFUSED)
        gates = {
            "neither_accept_at_most": evidence.gate,
            "neither_reject_at_least": max(evidence.gate, card.policy.neither_reject_at_least),
        }
        if prices:
            derived = derive_cheapest(evidence.photos, card.labels, prices, gates, evidence.about)
        else:
            goal = Goal(max_risk or (), confidence, mix, foreign_share, read_label_error(label_error, stored))
            promise = goal.promise(card.labels, evidence.counts)
            derived = derive_promised(evidence.photos, promise, gates, evidence.about)
    refused = [one["refused"] for one in derived["evidence"]["labels"].values() if "refused" in one]
    for why in refused:
        stderr.print(f"refused: {why}")
    stop = bool(refused) and not (partial and len(refused) < len(card.labels))
    if write and not stop:
        with exit_on():
            store_in_card(artefact, policy=derived)
    if as_json:
        print_json(derived, indent=2)
    else:
        _show(derived, written=write and not stop, partial=partial)
    name_unread(unread, ExitCode.REFUSED if stop else ExitCode.OK)


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def store_in_card(artefact: Path, **parts: Any) -> None:
    """Replace parts of model.json, all or nothing; everything else there stays as it is."""
    file = artefact / "model.json"
    write_file(file, card_text(json.loads(file.read_bytes()) | parts))


def card_text(card: Mapping[str, Any]) -> str:
    """The content of model.json. Raises CommandError where no command could read it."""
    text = dump_json({name: part for name, part in card.items() if name != "baseline"}, indent=1).removesuffix("\n}")
    if baseline := card.get("baseline"):
        # On one line: its thousand numbers would bury the parts that people read.
        text += f',\n "baseline": {dump_json(baseline, separators=(",", ":"))}'
    text += "\n}\n"
    try:
        ModelCard.model_validate_json(text)
    except ValueError as error:
        raise CommandError(f"model.json is not written: {first_complaint(error)}") from error
    return text


def _show(derived: dict[str, Any], *, written: bool, partial: bool) -> None:
    evidence = derived["evidence"]
    at_most = "wrong at most, guaranteed mix" if derived.get("promise", {}).get("mix") else "wrong at most"
    table = Table(
        "class",
        "accepted from",
        "photos of this class accepted, as any class",
        "wrong in the evidence",
        at_most,
        box=None,
    )
    for label, told in evidence["labels"].items():
        coverage = evidence["coverage"].get(label)
        wrong, accepted = told["wrong"] + told["foreign"], told["right"] + told["wrong"] + told["foreign"]
        table.add_row(
            label,
            f"{told['threshold']:.5f}" if told.get("threshold") is not None else "never",
            f"{coverage['value']:.1%} of {coverage['n']:,}" if coverage else "no photos",
            f"{wrong:,} of {accepted:,}",
            f"{told['upper_bound']:.2%}" if told.get("upper_bound") is not None else "",
        )
    console.print(f"policy {derived['policy_version']}")
    console.table(table)
    if "promise" in derived:
        promise = Promise.model_validate(derived["promise"])
        shown = {label: risk for label, risk in promise.max_risk.items() if "refused" not in evidence["labels"][label]}
        risks = ", ".join(f"{label} {percent(risk)}" for label, risk in shown.items())
        console.print(
            f"guarantee: of the accepted predictions of each class at most this share is wrong: {risks}; with "
            f"confidence {promise.confidence_level:g}, {promise.holds_for()}"
            if shown
            else "guarantee: none",
        )
        for where, shares in list_mixes(promise, evidence["photos"]):
            covered = sum(share * evidence["coverage"][label]["value"] for label, share in shares.items())
            console.print(f"coverage {where}: {covered:.1%} of the photos of the classes")
    else:
        console.print(f"mean cost: {evidence['mean_cost']:.4f} per photo")
    photos = ", ".join(f"{n:,} of {truth}" for truth, n in evidence["photos"].items())
    console.print(f"shown on: {evidence['domain']} ({photos})")
    refused = ["refused" in told for told in evidence["labels"].values()]
    if written:
        console.print("written to model.json")
    elif all(refused):
        console.print("not written: every class is refused")
    elif any(refused) and not partial:
        console.print("not written; --partial sends predictions of refused classes to review")
    else:
        console.print("not written; --write stores it in model.json")


def list_mixes(promise: Promise, photos: dict[str, int]) -> list[tuple[str, dict[str, float]]]:
    """Mixes to give the coverage for: the evidence's; or the ends of the guaranteed range, for each class."""
    labels = [label for label in promise.max_risk if photos.get(label)]
    if promise.mix is None:
        known = sum(photos[label] for label in labels)
        return [("in the mix of the evidence", {label: photos[label] / known for label in labels})] if known else []
    ends = {}
    for label in promise.mix:
        shares = worst_mix({other: float(other == label) for other in promise.mix}, promise.mix)
        ends["at " + ", ".join(f"{other} {percent(share)}" for other, share in shares.items())] = shares
    return list(ends.items())
