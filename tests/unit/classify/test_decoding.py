"""A decoder that takes too much, hangs or dies costs its photo, and nothing else."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from fuzz.parts import tiff_of_shared_tiles
from kickstand.classify import decoding
from kickstand.classify.images import prepare, thumbnail
from kickstand.errors import InvalidImage

SHAPE = (32, 32, 3)


@pytest.fixture(autouse=True)
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[decoding._Pool]:
    """Decoders of the test's own."""
    fresh = decoding._Pool()
    monkeypatch.setattr(decoding, "_pool", fresh)
    yield fresh
    fresh.end()


def plain(colour: str = "red", size: tuple[int, int] = (64, 48)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def program(monkeypatch: pytest.MonkeyPatch, text: str, *, ready: bool = True) -> None:
    """Start this in place of the decoder. ready: whether it says that it is."""
    says = "import os, signal, socket, time; other = socket.socket(fileno=0); other.sendall(b'\\1'); "
    monkeypatch.setattr(decoding, "_PROGRAM", says + text if ready else text)


def test_a_photo_that_takes_too_long_is_refused_and_the_next_one_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "CPU_S", 1)
    with pytest.raises(InvalidImage, match="photo: took more than 1 s to decode; send it as a plain JPEG"):
        prepare(tiff_of_shared_tiles(4000, 4000), "photo", SHAPE)
    assert prepare(plain(), "next", SHAPE).width == 64


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not limit address space")
def test_a_photo_that_needs_too_much_memory_is_refused_and_the_next_one_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoding, "MEGABYTES", 50)
    with pytest.raises(InvalidImage, match="photo: needs more than 50 MB to decode"):
        thumbnail(plain(size=(6000, 5000)), "photo", 512)
    assert prepare(plain(), "next", SHAPE).width == 64


@pytest.mark.parametrize(
    ("text", "how"),
    [
        *((f"os.kill(os.getpid(), signal.{name})", name) for name in ("SIGKILL", "SIGSEGV", "SIGABRT")),
        ("os._exit(1)", "exit code 1"),
    ],
)
def test_a_photo_that_ends_the_decoder_is_refused(monkeypatch: pytest.MonkeyPatch, text: str, how: str) -> None:
    program(monkeypatch, f"other.recv(1); {text}")
    with pytest.raises(InvalidImage, match=f"photo: ended the program that decodes it \\({how}\\)"):
        prepare(plain(), "photo", SHAPE)


@pytest.mark.parametrize("size", [10, 5_000_000])
def test_a_decoder_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, pool: decoding._Pool, size: int) -> None:
    program(monkeypatch, "time.sleep(1_000)")
    pool.wall_s = 2
    with pytest.raises(InvalidImage, match="photo: took more than 2 s to decode"):
        prepare(bytes(size), "photo", SHAPE)


def test_a_decoder_that_does_not_start_is_no_fault_of_the_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, "raise SystemExit(3)", ready=False)
    with pytest.raises(RuntimeError, match="exit code 3"):
        prepare(plain(), "photo", SHAPE)


def test_a_decoder_is_used_again_and_one_that_was_killed_meanwhile_is_replaced(pool: decoding._Pool) -> None:
    prepare(plain(), "one", SHAPE)
    (first,) = pool._idle
    prepare(plain(), "two", SHAPE)
    assert pool._idle == [first]
    first._process.kill()
    first._process.wait()
    assert prepare(plain(), "three", SHAPE).width == 64
    assert pool._idle != [first]


def test_after_ctrl_c_no_photo_gets_the_answer_to_another(
    monkeypatch: pytest.MonkeyPatch, pool: decoding._Pool
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(json, "loads", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(plain(size=(20, 10)), "one", SHAPE)
    assert pool._idle == []
    assert prepare(plain(size=(64, 48)), "two", SHAPE).width == 64


def test_many_threads_share_few_decoders(pool: decoding._Pool) -> None:
    photos = [plain(size=(20 + number, 10)) for number in range(30)]
    with ThreadPoolExecutor(10) as threads:
        widths = list(threads.map(lambda data: prepare(data, "photo", SHAPE).width, photos))
    assert widths == [20 + number for number in range(30)]
    assert 1 <= len(pool._idle) <= decoding.AT_ONCE


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, None])
def test_no_decoder_outlives_who_started_it(how: signal.Signals | None) -> None:
    heeds = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # a job in the background does not
    )
    text = "from kickstand.classify import decoding; decoding.start(); print(decoding._pool._idle[0]._process.pid)"
    wait = "" if how is None else "; import sys, time; sys.stdout.flush(); time.sleep(1_000)"
    with subprocess.Popen(
        [sys.executable, "-c", heeds + text + wait], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as starter:
        assert starter.stdout
        decoder = int(starter.stdout.readline())
        if how:
            starter.send_signal(how)
        starter.wait()
    while lives(decoder):
        time.sleep(0.05)  # the time limit of the test ends this


def lives(process: int) -> bool:
    try:
        os.kill(process, 0)
        return ") Z " not in Path(f"/proc/{process}/stat").read_text("ascii")
    except FileNotFoundError:
        return not Path("/proc/self").exists()  # no Linux
    except ProcessLookupError:
        return False


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux")
def test_a_decoder_knows_no_credentials(monkeypatch: pytest.MonkeyPatch, pool: decoding._Pool) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very secret")
    prepare(plain(), "photo", SHAPE)
    assert b"very secret" not in Path(f"/proc/{pool._idle[0]._process.pid}/environ").read_bytes()
