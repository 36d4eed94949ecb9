"""The findings about a dataset as one HTML page with its photos."""

import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from kickstand.classify.images import scale
from kickstand.errors import InvalidImage
from kickstand.report.pages import data_uri, make_environment
from kickstand_cli.datasets.doctor import Findings, list_images
from kickstand_cli.files import read_file, write_file

PAGE = "index.html"
TILE = 96  # pixels; a photo is squeezed into a square, as the model sees it
ON_SHEET = 48  # photos of each class and split, spread over all of them
COLUMNS = 12


def write_report(folder: Path, findings: Findings, report: Path) -> Path:
    """Write `report/index.html`, which needs no other file; return its path.

    Raises CommandError where it cannot be written.
    """
    page = (
        make_environment("kickstand_cli")
        .get_template("doctor.html")
        .render(
            findings=findings,
            show=lambda path: _encode(_draw(folder / path)),
            sheets=_draw_sheets(folder),
            tile=TILE,
        )
    )
    write_file(report / PAGE, page)
    return report / PAGE


def _draw_sheets(folder: Path) -> dict[tuple[str, str], str]:
    """A contact sheet of each split and class."""
    homes: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for split, label, path in list_images(folder, []):
        homes[split, label].append(path)
    return {home: _encode(_draw_sheet(_spread(paths, ON_SHEET))) for home, paths in homes.items()}


def _spread(paths: Sequence[Path], number: int) -> list[Path]:
    """At most this many, at equal distances.

    >>> [str(path) for path in _spread([Path(c) for c in "abcdef"], 3)]
    ['a', 'c', 'e']
    """
    number = min(number, len(paths))
    return [paths[i * len(paths) // number] for i in range(number)]


def _draw_sheet(paths: Sequence[Path]) -> Image.Image:
    columns = min(COLUMNS, len(paths))
    sheet = Image.new("RGBA", (columns * TILE, -(-len(paths) // columns) * TILE))
    for position, path in enumerate(paths):
        sheet.paste(_draw(path), (position % columns * TILE, position // columns * TILE))
    return sheet


def _draw(path: Path) -> Image.Image:
    """The photo as a tile; a grey one where it cannot be read."""
    try:
        return scale(read_file(path), path.name, (TILE, TILE, 3))[0]
    except (InvalidImage, OSError):
        return Image.new("RGB", (TILE, TILE), "grey")


def _encode(image: Image.Image) -> str:
    """The tile as a data URL."""
    png = io.BytesIO()
    image.save(png, "PNG")
    return data_uri("image/png", png.getvalue())
