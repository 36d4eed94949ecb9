"""Text that strangers chose, such as an object's key, for people to read."""

import json
import re
from typing import Any

HALF = re.compile(r"\\\\|\\ud[89ab]..\\ud[c-f]..|(\\ud[89a-f]..)")  # in JSON: a backslash, a whole letter, half of one


def printable(text: str) -> str:
    r"""The text with control characters and hidden letters escaped: anybody can choose an object's key.

    >>> print(printable("s3://bucket/\x1b[31mred\u202e.png"))
    s3://bucket/\x1b[31mred\u202e.png
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def counted(number: int, thing: str) -> str:
    """So many things, in words for people.

    >>> counted(1, "photo"), counted(2000, "dead letter")
    ('1 photo', '2,000 dead letters')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def as_utf8(name: str) -> str:
    """The name with those bytes escaped that are not UTF-8: no reader of JSON would take it back."""
    return name.encode("utf-8", "backslashreplace").decode()


def dump_json(content: Any, indent: int | None = None, separators: tuple[str, str] | None = None) -> str:
    r"""JSON in ASCII that every reader takes: each text in it is as `as_utf8` makes it.

    >>> print(dump_json(["caf\udce9", "\U0001f6b2", "\\udce9"]))
    ["caf\\udce9", "\ud83d\udeb2", "\\udce9"]
    """
    text = json.dumps(content, indent=indent, separators=separators)
    return HALF.sub(lambda found: rf"\{found[1]}" if found[1] else found[0], text)


KEPT = "\n\u00a0"  # the second keeps a number and its unit on one line


def finalize(value: Any) -> Any:
    """A value on its way into a page: text `printable`, but for KEPT; what a template has made stays as it is.

    >>> finalize("2\\u00a0% of \\u202egnp") == "2\\u00a0% of \\\\u202egnp"
    True
    """
    if type(value) is not str or value.isprintable():  # as nearly all text is; a photo's data address is long
        return value
    return "".join(letter if letter in KEPT else printable(letter) for letter in value)


REASON_AT_MOST = 1000
"""Characters of a reason in words, which is stored, and travels in states and events of at most 256 KB."""


def shorten(text: str) -> str:
    """The text, cut to REASON_AT_MOST characters.

    >>> shorten("new cameras"), len(shorten("x" * 300_000))
    ('new cameras', 1000)
    """
    return text if len(text) <= REASON_AT_MOST else f"{text[: REASON_AT_MOST - 1]}…"
