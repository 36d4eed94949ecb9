"""`kickstand dataset`: fetch classes of CIFAR-100 as a folder, copy it to S3; check a folder for faults."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from kickstand.text import counted
from kickstand_cli.datasets.archive import Archive, hash_md5, hash_members, read_archive
from kickstand_cli.datasets.doctor import Findings, examine_dataset, read_out_of_fold
from kickstand_cli.datasets.doctor_report import PAGE, write_report
from kickstand_cli.datasets.download import CIFAR100_URL, download_archive, locate_cache
from kickstand_cli.datasets.download import Progress as OnProgress
from kickstand_cli.datasets.folder import (
    Manifest,
    check_output,
    count_images,
    open_dataset,
    read_manifest,
    write_dataset,
)
from kickstand_cli.datasets.upload import Destination, Upload, parse_s3_uri, upload_dataset
from kickstand_cli.files import expect_writable
from kickstand_cli.terminal import (
    AsJson,
    CommandError,
    ExitCode,
    console,
    exit_on,
    fail,
    print_json,
    show_progress,
    stderr,
)

app = typer.Typer(help="Fetch a dataset of labelled photos, or check one for faults.", no_args_is_help=True)
LISTED_IN_SUMMARY = 10  # of each kind; --json and --report list more


@app.command()
def fetch(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder to write; it appears once it is complete.")
    ] = Path("dataset"),
    archive: Annotated[
        Path | None,
        typer.Option(
            envvar="KICKSTAND_CIFAR100",
            metavar="FILE",
            help="A local cifar-100-python.tar.gz, or its unpacked folder, instead of a download.",
        ),
    ] = None,
    classes: Annotated[
        list[str],
        typer.Option(
            metavar="NAMES",
            help="Classes to keep, in the model's order; separated by commas, or repeated.",
        ),
    ] = ["bicycle,motorcycle"],  # noqa: B006 - typer copies it
    neither: Annotated[
        int, typer.Option(min=0, help="Also write N photos of other classes to train/neither and test/neither.")
    ] = 0,
    upload: Annotated[
        str | None, typer.Option(metavar="S3URI", help="Also copy the folder to s3://bucket/prefix.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an older or unfinished dataset.")] = False,
    list_classes: Annotated[bool, typer.Option("--list-classes", help="Only list the classes of the archive.")] = False,
    as_json: AsJson = False,
    url: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="KICKSTAND_CIFAR100_URL",
            show_default="the original",
            help="Download from a mirror; the checksum must be the original's.",
        ),
    ] = CIFAR100_URL,
) -> None:
    """Fetch classes of CIFAR-100 as a folder of photos with manifests.

    The download has 161 MB.

    Examples:
    $ kickstand dataset fetch
    $ kickstand dataset fetch --classes cat,dog --neither 100 --out cats
    """
    names = _split_names(classes)
    destination = _parse_destination(upload)
    with exit_on():
        if list_classes:
            _print_classes(_read(archive, url), as_json=as_json)
            return
        manifest = None if force else _find_dataset(out, names, neither, archive)
        already_there = manifest is not None
        if manifest is None:
            check_output(out.resolve(), force=force)  # before a download that takes minutes
            manifest = _write(_read(archive, url), out, names, neither, force=force)
        uploaded = _upload(out, destination) if destination else None
        if as_json:
            print_json(_summarise(out, manifest, uploaded, already_there=already_there))
        else:
            _print_summary(out, manifest, uploaded, already_there=already_there)


@app.command()
def check(
    folder: Annotated[
        Path, typer.Argument(metavar="DATASET", help="A folder of classes, or of train/ and test/ with classes.")
    ],
    near: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="Pixel correlation from which two photos are near duplicates.")
    ] = 0.90,
    out_of_fold: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Out-of-fold predictions, to find doubtful labels."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write DIR/index.html, with the photos.")
    ] = None,
    allow_leakage: Annotated[
        bool, typer.Option("--allow-leakage", help="Exit with 0 even if a photo is in more than one split.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find duplicates, leaks between splits, doubtful labels, imbalance and unreadable files.

    Exit codes: 0 no leak; 1 an error; 4 a photo of one split is, exactly or nearly, in another, or a file is no photo.

    Examples:
    $ kickstand dataset check dataset
    """
    with exit_on():
        if report:
            expect_writable(report / PAGE, new_folder=True, inputs=[folder])
        predictions = read_out_of_fold(out_of_fold) if out_of_fold else None
        with _show_progress("examine") as on_progress:
            findings = examine_dataset(folder, near=near, out_of_fold=predictions, on_progress=on_progress)
        page = write_report(folder, findings, report) if report else None
        if as_json:
            print_json(findings)
        else:
            _print_findings(findings, page)
        if findings.leaks and not allow_leakage:
            leaks = (
                f"{folder}: leakage, {counted(findings.pair_counts.leaks, 'pair')} of equal photos in different splits"
            )
            fail(CommandError(f"{leaks}; --allow-leakage accepts them"), code=ExitCode.ATTENTION)
    if findings.unreadable:
        raise typer.Exit(ExitCode.ATTENTION)


def _print_findings(findings: Findings, page: Path | None) -> None:
    table = _count(findings.counts, findings.folder)
    ratios = ("-" if ratio is None else f"{ratio:g}" for ratio in findings.imbalance.values())
    table.add_row("largest/smallest", *ratios)
    console.table(table)
    pairs = findings.pair_counts
    console.print(f"exact duplicates   {counted(pairs.exact, 'pair')}")
    console.print(
        f"near duplicates    {counted(pairs.near, 'pair')} at correlation {findings.near:g} or more, mirrored too"
    )
    console.print(f"across splits      {counted(pairs.leaks, 'pair')}")
    console.print(f"different labels   {counted(pairs.conflicts, 'pair')}")
    doubtful = findings.doubtful_labels
    console.print(f"doubtful labels    {'not examined, see --out-of-fold' if doubtful is None else len(doubtful)}")
    console.print(f"unreadable files   {len(findings.unreadable)}")
    console.print(f"sizes              {', '.join(f'{size}: {n}' for size, n in findings.sizes.items())}")
    for pair in findings.pairs[:LISTED_IN_SUMMARY]:
        marks = [pair.kind, *(name for name in ("mirrored", "leaks", "conflicts") if getattr(pair, name))]
        console.print(f"  {pair.correlation:.3f} {', '.join(marks)}: {pair.first} = {pair.second}")
    for doubt in (doubtful or ())[:LISTED_IN_SUMMARY]:
        console.print(f"  {doubt.path}: rather {doubt.suggested} ({doubt.probability_of_suggested:.3f})?")
    for file in findings.unreadable[:LISTED_IN_SUMMARY]:
        console.print(f"  {file.path}: {file.reason}")
    if page:
        console.print(f"report: {page}")


def _count(counts: dict[str, dict[str, int]], title: str) -> Table:
    """A row for each class, a column for each split."""
    table = Table("class", *counts, title=title)
    for label in next(iter(counts.values())):
        table.add_row(label, *(str(numbers[label]) for numbers in counts.values()))
    return table


def _split_names(classes: Sequence[str]) -> tuple[str, ...]:
    names = tuple(name.strip() for item in classes for name in item.split(",") if name.strip())
    if not names:
        raise typer.BadParameter("no class is given", param_hint="--classes")
    if len(set(names)) < len(names):
        raise typer.BadParameter(f"a class is named twice: {', '.join(names)}", param_hint="--classes")
    return names


def _parse_destination(uri: str | None) -> Destination | None:
    if uri is None:
        return None

    try:
        return parse_s3_uri(uri)
    except CommandError as error:
        raise typer.BadParameter(str(error), param_hint="--upload") from error


def _find_dataset(out: Path, classes: tuple[str, ...], neither: int, archive: Path | None) -> Manifest | None:
    """The manifest of a complete dataset folder that matches the request; None where there is none.

    Raises CommandError where the folder is damaged, or does not match.
    """
    if read_manifest(out) is None:
        return None
    manifest = open_dataset(out)
    differences = []
    if manifest.classes != classes:
        differences.append(f"classes {', '.join(manifest.classes)}")
    if manifest.neither != neither:
        differences.append(f"{manifest.neither} of neither")
    if not _comes_from(manifest, archive):
        original = "the original" if manifest.official else "not the original"
        differences.append(f"photos from another archive ({manifest.source}, {original})")
    if differences:
        raise CommandError(f"{out}: exists already, but with {' and '.join(differences)}; --force replaces it")
    return manifest


def _comes_from(manifest: Manifest, archive: Path | None) -> bool:
    if archive is None:
        return manifest.official
    if archive.is_dir():
        return manifest.member_md5 == hash_members(archive)
    if not archive.is_file():
        raise CommandError(f"{archive}: no such archive or folder")
    return manifest.archive_md5 == hash_md5(archive)


def _read(archive: Path | None, url: str) -> Archive:
    if archive is None:
        with _show_progress("download", in_bytes=True) as on_progress:
            archive = download_archive(url, locate_cache(), on_progress=on_progress)
    loaded = read_archive(archive)
    if not loaded.official:
        stderr.print(
            f"notice: {archive} is not the original CIFAR-100 archive (other checksum); the manifest notes it",
        )
    return loaded


def _write(archive: Archive, out: Path, classes: Sequence[str], neither: int, *, force: bool) -> Manifest:
    with _show_progress("write") as on_progress:
        return write_dataset(archive, out, classes, neither=neither, force=force, on_progress=on_progress)


def _upload(out: Path, destination: Destination) -> Upload:
    with _show_progress("upload") as on_progress:
        return upload_dataset(out, destination, on_progress=on_progress)


def _summarise(out: Path, manifest: Manifest, uploaded: Upload | None, *, already_there: bool) -> dict[str, Any]:
    return {
        "out": str(out),
        "already_there": already_there,
        **manifest.model_dump(mode="json", exclude={"format", "images", "member_md5"}),
        "uploaded": uploaded
        and {
            "uri": str(uploaded.destination),
            "sent": uploaded.sent,
            "skipped": uploaded.skipped,
            "channels": uploaded.channels,
        },
    }


def _print_summary(out: Path, manifest: Manifest, uploaded: Upload | None, *, already_there: bool) -> None:
    console.table(_count(manifest.counts, f"{out}{' (already there)' if already_there else ''}"))
    console.print(f"data SHA-256 {manifest.data_sha256}")
    if uploaded:
        console.print(
            f"{uploaded.destination}: {counted(uploaded.sent, 'file')} sent, {uploaded.skipped} already there"
        )
        for channel, uri in uploaded.channels.items():
            console.print(f"  {channel:14} {uri}")


def _print_classes(archive: Archive, *, as_json: bool) -> None:
    counts = {name: count_images(archive, name) for name in archive.class_names}
    if as_json:
        print_json(counts)
    else:
        for name, numbers in counts.items():
            console.print(f"{name}  {'  '.join(f'{split} {number}' for split, number in numbers.items())}")


@contextmanager
def _show_progress(what: str, *, in_bytes: bool = False) -> Iterator[OnProgress]:
    with show_progress(in_bytes=in_bytes) as progress:
        task = progress.add_task(what, total=None)

        def show(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total)

        yield show
