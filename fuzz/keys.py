"""Photos under names that nobody means well by, from upload to record, question, ledger and every page about them."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from fuzz.tally import Tally
from kickstand_cli.local.stack import Stack
from kickstand_cli.main import app
from kickstand_cli.project import PROJECT

AT_ONCE = 8
# moto lists a bucket as XML without the encoding that S3 has for this, so the ledger cannot be drawn up with them here.
NOT_IN_XML = ("a\x1b[31mred\x07.png", "nul\0x", "\1\2", "carriage\rreturn", "￾")
MARKUP = (
    "<script>alert(1)</script>.png",
    "\"><img src=x onerror=alert(1)>'.png",
    "</script><script>alert(1)</script>",
    "<!--", "]]>", "&lt;b&gt;",
    "javascript:alert(1)//<b>",
)  # fmt: skip
EVERY_LETTER = "".join(map(chr, range(32, 127)))
PLAIN = (
    *("a b+c%2Fd%252F.png", "%00", "%0d%0a", "../../etc/passwd", "..", ".", "./x", "/leading", "a//b", "a/", "\\..\\x"),
    *("tab\there", "new\nline.png", "\x7f", "\x85", " leading and trailing ", "é" * 512, "k" * 1024, "自" * 341),
    *(
        "自転車 🚲.png",
        "e\u0301 and é",
        "\u202egnp.exe",
        "\u2028",
        "\ufeff",
        "{{7*7}}",
        "{% raw %}",
        "${jndi:ldap://x}",
    ),
    *("$(id)", "`id`", "; rm -rf /", "' OR 1=1 --", "[bold red]x[/]", "%s%n", "*?[a].png", "#frag?x=1&y=2", "s3://o/k"),
    *("null", "None", "true", "0", "{}", '{"a": 1}', "arn:aws:s3:::x", "CON", "a" * 255 + "/b"),
)


def try_keys(stack: Stack, folder: Path, every: int) -> Tally:
    """Every n-th key, into a fresh stack whose Decide sends everything to a person; a file goes to this folder."""
    tally = Tally("keys")
    photo = (PROJECT / "events/photo.png").read_bytes()
    bucket, outputs = stack.outputs["ImageBucketName"], folder / "outputs.json"
    outputs.write_text(json.dumps(stack.outputs), "utf-8")
    versions = _upload(stack, (*MARKUP, *PLAIN, EVERY_LETTER)[::every], photo)
    ledger = stack.ledger()
    if ledger.missing or ledger.dead_letter or ledger.uploads != len(versions):
        tally.count("ledger", f"does not balance: {ledger}")
    versions |= _upload(stack, NOT_IN_XML[::every], photo)
    records = {record.key: record for record in stack.records()}
    asked = {review.key for review in stack.reviews()}
    for key, version in versions.items():
        uploaded = (f"s3://{bucket}/{key}", version)
        record = records.get(uploaded)
        if record is None or record.prediction is None:
            tally.count(repr(key), "was not decided")
        elif uploaded not in asked:
            tally.count(repr(key), "nobody was asked")
        else:
            tally.count(repr(key), next(_pages(stack, key, outputs), "decided"))
    return tally


def _upload(stack: Stack, keys: Sequence[str], photo: bytes) -> dict[str, str]:
    """The version of each key, all decided; a few at a time, so that a slow machine keeps the tasks' timeouts."""
    versions: dict[str, str] = {}
    for start in range(0, len(keys), AT_ONCE):
        versions |= {key: stack.upload(key, photo) for key in keys[start : start + AT_ONCE]}
        stack.settle()
    return versions


def _pages(stack: Stack, key: str, outputs: Path) -> Iterator[str]:
    """What is wrong with what people are shown of it."""
    told = CliRunner().invoke(
        app, ["explain", f"s3://{stack.outputs['ImageBucketName']}/{key}", "--outputs", str(outputs)]
    )
    if told.exit_code:
        yield f"explain: {told.output[:200]}"
    if any(not character.isprintable() and character != "\n" for character in told.output):
        yield f"explain prints control characters: {told.output[:120]!r}"
    if told.stdout.count("\n") > 1:
        yield f"explain prints more than one paragraph: {told.stdout[:120]!r}"
    event: dict[str, Any] = json.loads((PROJECT / "events/review.json").read_bytes())
    status, headers, body = stack.invoke("ReviewFunction", json.dumps(event).encode())
    page = json.loads(body)
    if status != 200 or "X-Amz-Function-Error" in headers:
        yield f"review: {page}"
    for markup in MARKUP:
        if markup in str(page) and "<" in markup:
            yield f"the review page holds {markup!r} as it is"
