"""What may be printed."""


def printable(text: str) -> str:
    r"""The text without what steers a terminal or hides letters: anybody can choose an object's key.

    >>> print(printable("s3://bucket/\x1b[31mred\u202e.png"))
    s3://bucket/\x1b[31mred\u202e.png
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
