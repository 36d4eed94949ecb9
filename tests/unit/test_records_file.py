"""Records in files: each upload once, whatever was appended, in any encoding that text comes in."""

import random
from datetime import timedelta
from pathlib import Path

import pytest

from kickstand.records import Record
from kickstand_cli.records import parse_duration, read_records
from kickstand_cli.terminal import CommandError
from tests.stream import NOON, make_records

RECORDS = list(make_records(60, audits=0.5))
ANSWERED = [record for record in RECORDS if record.review]


def written(file: Path, records: list[Record], encoding: str = "utf-8") -> Path:
    file.write_text("".join(f"{record.model_dump_json()}\n" for record in records), encoding)
    return file


def test_a_record_that_comes_twice_counts_once(tmp_path: Path) -> None:
    twice = [*RECORDS, *RECORDS[::-1]]
    assert list(read_records(written(tmp_path / "a", twice))) == RECORDS
    files = written(tmp_path / "b", RECORDS[:40]), written(tmp_path / "c", RECORDS[20:])
    assert list(read_records(*files)) == RECORDS


@pytest.mark.parametrize("seed", range(5))
def test_of_two_records_the_one_that_knows_the_answer_counts(seed: int, tmp_path: Path) -> None:
    asked = [record.model_copy(update={"review": None}) for record in ANSWERED]
    mixed = [*ANSWERED, *asked]
    random.Random(seed).shuffle(mixed)
    found = list(read_records(written(tmp_path / "a", mixed)))
    assert sorted(found, key=lambda one: one.image) == sorted(ANSWERED, key=lambda one: one.image)


def test_two_versions_of_one_key_are_two_uploads(tmp_path: Path) -> None:
    other = RECORDS[0].model_copy(update={"version": "w"})
    assert len(list(read_records(written(tmp_path / "a", [RECORDS[0], other])))) == 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_any_usual_encoding_is_read(encoding: str, tmp_path: Path) -> None:
    named = [record.model_copy(update={"image": f"s3://photos/自転\u2028車{i}"}) for i, record in enumerate(RECORDS)]
    assert list(read_records(written(tmp_path / "a", named, encoding))) == named


def test_files_with_byte_order_marks_may_be_joined(tmp_path: Path) -> None:
    parts = [written(tmp_path / name, [record], "utf-8-sig") for name, record in zip("ab", RECORDS, strict=False)]
    (tmp_path / "joined").write_bytes(b"".join(part.read_bytes() for part in parts))
    assert list(read_records(tmp_path / "joined")) == RECORDS[:2]


def test_times_of_another_zone_are_read_as_utc(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text(RECORDS[0].model_dump_json().replace("2026-05-04T12:00:00Z", "2026-05-04T21:00:00+09:00"))
    (record,) = read_records(file)
    assert record.recorded_at.isoformat() == NOON.isoformat()
    file.write_text(RECORDS[0].model_dump_json().replace("2026-05-04T12:00:00Z", "2026-05-04T12:00:00"))
    (record,) = read_records(file)
    assert record.recorded_at == NOON


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{}", "line 1: no decision record (image: Field required, and 5 more)"),
        (b'\n\n{"image": "a', "line 3: no decision record"),
        (b"[" * 100_000, "line 1: no decision record"),
        (b"\xff\xfe\0", "neither UTF-8 nor UTF-16 text"),
        (b'{"image": "\xe9"}', "neither UTF-8 nor UTF-16 text"),
        (RECORDS[0].model_dump_json().replace('"latency_ms":1.0', '"latency_ms":1e400').encode(), "latency_ms"),
        (RECORDS[0].model_dump_json().replace('"latency_ms":1.0', '"latency_ms":NaN').encode(), "latency_ms"),
    ],
)
def test_what_is_no_record_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(CommandError) as raised:
        list(read_records(tmp_path / "a"))
    assert said in str(raised.value)


def test_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No such file"):
        list(read_records(tmp_path / "a"))


@pytest.mark.parametrize("text", ["99999999999d", "1e5d", "²d", "-1d", "d", "", "36526d"])
def test_a_length_of_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a length|hundred years"):
        parse_duration(text)


def test_a_hundred_years_are_a_length_of_time() -> None:
    assert parse_duration("36525d") == timedelta(days=36_525)
