"""`kickstand gate`: can a challenger replace the champion? The rule of the workflow `train_model`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from kickstand.classify.artefact import read_part
from kickstand.classify.images import hash_pixels, scale
from kickstand.classify.stated import Share, StatedCard
from kickstand.errors import InvalidImage
from kickstand.lifecycle.gate import Outcome, Stated, Verdict, as_stated, judge
from kickstand_cli.classify.classify import load_model
from kickstand_cli.classify.evaluation import Example, Readable, answer_all, find_images, name_unread, title
from kickstand_cli.files import list_files, read_file
from kickstand_cli.terminal import (
    AsJson,
    CommandError,
    ExitCode,
    console,
    exit_on,
    print_json,
    reason,
    show_progress,
    stderr,
)


def gate(
    champion: Annotated[Path, typer.Argument(metavar="CHAMPION", help="The present model: a folder.")],
    challenger: Annotated[Path, typer.Argument(metavar="CHALLENGER", help="The new model.")],
    images: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Photos in DIR/CLASS/ and DIR/neither/ that neither model has learnt from."),
    ],
    trained_on: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR", help="The challenger's training photos: a held-out photo must not be among them; repeatable."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two models on the same held-out photos: can the new one replace the old?

    The challenger passes if exact paired tests show that it decides more photos correctly without a person, and do not
    show that it accepts more wrong predictions. Its guarantee and its confidences must not be refuted.

    Exit codes: 0 the challenger can replace the champion; 1 an error; 4 the champion stays.

    Examples:
    $ kickstand gate layers/model/model build/own/model dataset/test
    """
    with exit_on(OSError):
        card = load_model(champion).card
        unread: list[str] = []
        held_out = find_images(images, card.labels, unread)
        leaked = None if trained_on is None else _find_leaks(held_out, trained_on, card.input_shape, unread)
    with show_progress() as progress:
        task = progress.add_task("classifying", total=2 * len(held_out))
        contenders = [
            _answer(artefact, held_out, lambda: progress.advance(task), unread) for artefact in (champion, challenger)
        ]
    unread = list(dict.fromkeys(unread))
    try:
        verdict = judge(contenders[0], contenders[1], leaked)
    except ValueError as error:  # a photo that only one of them could read, or none at all
        stderr.print(f"error: {images}: {reason(error)}")
        name_unread(unread, ExitCode.ERROR)
    if as_json:
        print_json(verdict, indent=1)
    else:
        _show(verdict)
    name_unread(unread, ExitCode.OK if verdict.promote else ExitCode.ATTENTION)


def _answer(
    artefact: Path, images: Sequence[tuple[Path, str]], progress: Callable[[], None], unread: list[str]
) -> tuple[Stated, list[Outcome]]:
    model = load_model(artefact)
    examples = answer_all(images, model, progress, unread)
    with exit_on(OSError, ValueError):
        stated = as_stated(read_part(artefact, StatedCard))
    return stated, [as_outcome(example) for example in examples]


def as_outcome(example: Example) -> Outcome:
    """The parts of a prediction that the gate needs."""
    prediction = example.prediction if isinstance(example, Readable) else None
    return Outcome(
        image=str(example.path),
        truth=example.truth,
        label=prediction.label if prediction else None,
        confidence=prediction.confidence if prediction else 0.0,
        route=example.answer.decision.route,
    )


def _find_leaks(
    held_out: Sequence[tuple[Path, str]],
    folders: Sequence[Path],
    input_shape: tuple[int, int, int],
    unread: list[str],
) -> list[str]:
    """Held-out photos that are the same as a training photo for the model. Raises CommandError.

    unread: gets the reason for each file or folder that cannot be read.
    """

    def fingerprint(path: Path) -> str | None:
        """The hash of the pixels that the model sees; None for a file that is no photo, or cannot be read."""
        try:
            return hash_pixels(scale(read_file(path), str(path), input_shape)[0])
        except InvalidImage:
            return None
        except OSError as error:
            unread.append(f"{path}: {error.strerror or error}")
            return None

    learnt: set[str | None] = set()
    for folder in folders:
        if not folder.is_dir():
            raise CommandError(f"{folder}: no such folder")
        reasons: list[str] = []
        files = list_files(folder, reasons)
        if not files:
            raise CommandError(reasons[0] if reasons else f"{folder}: no photos to compare with")
        unread += reasons
        learnt |= set(map(fingerprint, files))
    return [str(path) for path, _ in held_out if fingerprint(path) in learnt - {None}]


def _cell(share: Share) -> str:
    return f"{share.value:.4f} [{share.low:.4f}, {share.high:.4f}] n={share.n}"


def _show(verdict: Verdict) -> None:
    table = Table("", "champion", "challenger", title="on the same held-out photos", title_justify="left")
    for name in ("accuracy", "coverage", "selective_risk", "foreign_accepted", "served", "harmed"):
        shares = [getattr(verdict.champion, name), getattr(verdict.challenger, name)]
        table.add_row(title(name), *map(_cell, shares))
        if name == "selective_risk":
            for label, share in verdict.challenger.risk_by_label.items():
                was = verdict.champion.risk_by_label.get(label)
                table.add_row(f"  of predictions {label}", _cell(was) if was else "", _cell(share))
    console.table(table)
    for check in verdict.checks:
        mark = {True: "yes", False: "NO", None: "?"}[check.passed]
        name = "guarantee" if check.name == "promise" else check.name  # the second is the registry's word
        console.print(f"{mark:4}{name}: {check.told}")
    console.print(verdict.reason)
