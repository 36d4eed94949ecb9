"""Nothing that people read uses a word that docs/glossary.md lists under "Words not to use"."""

import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from kickstand_cli.project import PROJECT

GLOSSARY = PROJECT / "docs/glossary.md"
SECTION = "## Words not to use"
AREAS = {
    "docs": ["*.md", "docs/*.md"],
    "command line": ["cli/**/*.py", "cli/**/*.html"],
    "core": ["layers/core/kickstand/*.py", "layers/core/kickstand/[!r]*/*.py", "layers/core/kickstand/review/*.py"],
    "report": ["layers/core/kickstand/report/*.py", "layers/core/kickstand/report/templates/*.html"],
    "functions": ["functions/*/*.py", "functions/*/*.html"],
    "templates": ["template.yaml", "serving.yaml", "training.yaml"],
    "state machines": ["statemachine/*.yaml"],
}
HIDDEN = {  # what people do not read, by a file's kind
    ".md": r"^```.*?^```|<!--.*?-->|</?picture>|\]\([^)]*\)",
    ".html": r"<style.*?</style>|<script.*?</script>|\{[%{#].*?[%}#]\}|<(?:(?!alt=|title=|aria-label=)[^>])*>",
    ".yaml": r"^ *(Default|AllowedValues):.*?$",
}
PROSE = {"COMMENT", "STRING", "FSTRING_MIDDLE"}  # of Python's tokens; before 3.12 a whole f-string is a STRING


def words() -> dict[str, str]:
    """What to say instead, by the word not to use."""
    _, _, section = GLOSSARY.read_text("utf-8").partition(SECTION)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", section, re.M)]
    return {word.strip(): instead for unwanted, instead in rows[2:] for word in unwanted.split(",")}


WORDS = words()
# A word before a colon is the name of a field or of a value, followed by its meaning.
UNWANTED = re.compile(rf"(?<![\w-])({'|'.join(sorted(WORDS, key=len, reverse=True))})(?![\w-]|:)", re.IGNORECASE)


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines that people read. Python: comments and texts of several words, without doctests."""
    text = file.read_text("utf-8")
    if file == GLOSSARY:
        text = text.partition(SECTION)[0]
    if file.suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if tokenize.tok_name[token.type] in PROSE and " " in token.string:
                for number, line in enumerate(token.string.splitlines(), token.start[0]):
                    if not line.lstrip().startswith((">>>", "...")):
                        yield number, line
        return
    if hidden := HIDDEN.get(file.suffix):
        text = re.sub(hidden, lambda found: "\n" * found[0].count("\n"), text, flags=re.M | re.S)
    yield from enumerate(text.splitlines(), 1)


def find(file: Path) -> list[str]:
    """Each unwanted word, as file:line: word, what to say instead."""
    try:
        name = file.relative_to(PROJECT)
    except ValueError:
        name = file
    return [
        f"{name}:{number}: “{word}”: say “{WORDS[word.lower()]}”"
        for number, line in lines_of(file)
        for word in UNWANTED.findall(re.sub(r"`[^`]*`", "", line))
    ]


def files(patterns: Iterable[str]) -> list[Path]:
    return sorted(file for pattern in patterns for file in PROJECT.glob(pattern))


@pytest.mark.parametrize("area", AREAS)
def test_nothing_that_people_read_uses_an_unwanted_word(area: str) -> None:
    found = files(AREAS[area])
    assert found
    unwanted = [line for file in found for line in find(file)]
    assert not unwanted, "\n".join(unwanted)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("page.md", "One.\nA picture of it.\n", ["2: “picture”: say “photo”"]),
        ("page.md", "`picture`\n\n```\npicture\n```\n", []),
        ("page.md", "[photo](picture.md)\n", []),
        ("code.py", "x = 1\n# Mended now.\n", ["2: “Mended”: say “fix”"]),
        ("code.py", '"""One.\n\nA picture.\n"""\n', ["3: “picture”: say “photo”"]),
        ("code.py", "n = 1\ntext = f'{n} pictures'\n", ["2: “pictures”: say “photo”"]),
        ("code.py", "picture = record['picture']\n", []),
        ("code.py", "option = 'the option --foreign-share'\n", []),
        ("page.html", "<p class='picture'>{{ picture }}</p>\n<style>\n.picture {}\n</style>\n", []),
        ("page.html", "<p>\nA picture.</p>\n", ["2: “picture”: say “photo”"]),
        ("page.html", "<img class='it' alt='A picture'>", ["1: “picture”: say “photo”"]),
        ("template.yaml", "A: 1   # whoever\n", ["1: “whoever”: say “anybody who, or the person's role”"]),
    ],
)
def test_an_unwanted_word_is_found_where_people_read_it(
    tmp_path: Path, name: str, text: str, expected: list[str]
) -> None:
    file = tmp_path / name
    file.write_text(text, "utf-8")
    assert [line.removeprefix(f"{file}:") for line in find(file)] == expected


def test_every_file_of_the_code_is_searched() -> None:
    searched = {file for patterns in AREAS.values() for file in files(patterns)}
    code = files(f"{folder}/**/*.{kind}" for folder in ("layers/core", "cli", "functions") for kind in ("py", "html"))
    assert set(code) <= searched
