"""`kickstand baseline`: the statistics of a time when all was well, which drift is measured against."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from kickstand.classify.artefact import ModelCard, read_card
from kickstand.classify.images import scale
from kickstand.classify.photo_quality import find_flaw
from kickstand.classify.policy import decide
from kickstand.errors import InvalidImage
from kickstand.events import Prediction
from kickstand.monitor.drift import Baseline, make_baseline, measure, observe
from kickstand.records import Record
from kickstand.text import as_utf8
from kickstand_cli.classify.classify import ModelOption, load_model
from kickstand_cli.classify.evaluation import find_images, name_unread
from kickstand_cli.classify.policy import store_in_card
from kickstand_cli.deployment import DEFAULT_STACK, STACK_VARIABLE, OutputsFile, StackName, reporting
from kickstand_cli.files import expect_writable, read_file
from kickstand_cli.project import MODEL
from kickstand_cli.records import RecordsFiles, open_records, parse_since_option
from kickstand_cli.terminal import AsJson, CommandError, console, exit_on, print_json, reason

Measured = tuple[Mapping[str, float], Mapping[str, bool]]


def as_prediction(row: list[float], card: ModelCard) -> Prediction:
    """row: probabilities of the classes, then of neither; they sum to 1 except for rounding."""
    *known, neither = row
    total = max(sum(known), 1e-12)
    return Prediction.of(
        {label: min(1.0, p / total) for label, p in zip(card.labels, known, strict=True)},
        neither=neither,
        model_version=card.model_version,
        backend="embedded",
        latency_ms=0.0,
    )


def measure_unseen(folder: Path, artefact: Path, unread: list[str]) -> list[Measured]:
    """Each photo of DIR/CLASS/ with the model's prediction: only for photos that it has not learnt from.

    unread: gets the reason for each file that cannot be read.

    Raises CommandError for a folder that cannot be used.
    """
    model = load_model(artefact)
    measured: list[Measured] = []
    for path, _ in find_images(folder, model.card.labels, unread):
        try:
            photo, summary = scale(read_file(path), str(path), model.card.input_shape)
        except (InvalidImage, OSError) as error:
            unread.append(reason(error))
            continue
        [prediction] = model.predict_pixels(np.asarray(photo)[np.newaxis])
        decision = decide(prediction, model.card.policy, flaw=find_flaw(summary.statistics))
        measured.append(measure(summary.statistics, prediction, decision))
    return measured


def baseline_of_records(records: Iterable[Record]) -> Baseline:
    """The baseline of these records: of the model and policy that decided most of them.

    Raises CommandError where there is too little to compare with.
    """
    seen = list(records)
    deciders = Counter(
        (record.prediction.model_version, record.decision.policy_version or "") for record in seen if record.prediction
    )
    if not deciders:
        raise CommandError("no record has a prediction")
    (model, policy), _ = deciders.most_common(1)[0]
    observed = [observe(record, model, policy) for record in seen]
    return make([(one.features, one.rates) for one in observed], "records", model, policy)


def baseline(
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Photos in DIR/CLASS/ that the model has never seen.")
    ] = None,
    records: RecordsFiles = None,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="The stack's records since then: 21d, or ISO 8601.")
    ] = None,
    stack_name: StackName = DEFAULT_STACK,
    outputs: OutputsFile = None,
    artefact: ModelOption = MODEL,
    as_json: AsJson = False,
) -> None:
    """Store the statistics of a time when all was well, for `kickstand monitor`.

    They go into model.json: order statistics of each feature, and how often p(neither) is too high, a photo goes to
    review, or is rejected. `kickstand train` stores a baseline of the training photos, which knows neither your cameras
    nor your mix of classes. After some weeks in which all was well, make your own with --since.

    Examples:
    $ kickstand baseline --stack-name kickstand-dev --since 21d --model build/own/model
    """
    if sum(given is not None for given in (images, records, since)) != 1:
        raise typer.BadParameter("give one of --images, --records and --since")
    if images and (outputs or stack_name not in (DEFAULT_STACK, os.environ.get(STACK_VARIABLE))):
        raise typer.BadParameter("--stack-name and --outputs need --since", param_hint="--images")
    start = parse_since_option(since, datetime.now(UTC), example="21d")
    unread: list[str] = []
    with reporting(), exit_on(OSError, ValueError):
        card = read_card(artefact)
        expect_writable(artefact / "model.json")
        if records or start:
            seen, _ = open_records(records or [], None, stack_name, outputs, start)
            made = baseline_of_records(seen)
        else:
            folder = images or Path()
            source = as_utf8(f"the model's predictions for {folder.resolve().name}/")
            measured = measure_unseen(folder, artefact, unread)
            made = make(measured, source, card.model_version, card.policy.policy_version)
        store_in_card(artefact, baseline=made.model_dump(mode="json"))
    if as_json:
        print_json(made)
        name_unread(unread)
        return
    largest = max(quantiles.n for quantiles in made.features.values())
    console.print(f"baseline {made.version}: {largest:,} photos ({made.source}); written to model.json")
    for name, quantiles in made.features.items():
        low, middle, high = quantiles.low[4], quantiles.low[49], quantiles.high[4]
        console.print(f"  {name:<12} 5 % below {low:g}, half below {middle:g}, 5 % above {high:g}")
    for name, rate in made.rates.items():
        console.print(f"  {name:<24} {rate.hits:,} of {rate.n:,}")
    name_unread(unread)


def make(measured: Sequence[Measured], source: str, model_version: str, policy_version: str) -> Baseline:
    """Raises CommandError where there is too little to compare with."""
    if len(measured) < 100:
        raise CommandError(f"{len(measured)} photos are too few for a baseline: it needs at least 100, better 1,000")
    made = make_baseline(measured, source, model_version, policy_version)
    if not made.features:
        raise CommandError("none of the records has statistics of its photo")
    return made
