"""Tables, and text that Markdown leaves as it is."""

import re
from collections.abc import Iterable, Sequence


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, ["---"] * len(titles), *rows))


def code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|") if text else ""


def escape(text: str) -> str:
    """For Markdown: no bar ends a table's cell, and no <word> outside of code is taken for HTML."""
    parts = re.sub(r"(?<!\\)\|", r"\\|", text).split("`")
    return "`".join(part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(parts))
