"""Decode photos in a separate process, which the operating system limits in time and memory.

An uploader chooses the bytes, and nothing in them shows how long a decoder takes or how much memory it needs. So
`decoder` runs separately. It is reused until a photo exceeds a limit; then it is ended, and the photo is refused.
"""

import atexit
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from PIL import Image

from kickstand.classify.decoder import READY, Decoded, Refused

Given = TypeVar("Given")

CPU_S = 5  # for one photo; a second more passes before the system notices: 10 s where a function has 58 % of a CPU
WALL_S = 120  # for one photo, on a machine that may be busy; without it a stuck decoder would never end
MEGABYTES = 420  # in addition to what the program maps at its start
AT_ONCE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # Lambda: 2

_KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "TMPDIR")  # from the environment: no credentials
_MALLOC = {  # of glibc
    "MALLOC_ARENA_MAX": "1",  # each further one reserves 64 MB of the limit
    "MALLOC_MMAP_THRESHOLD_": "33554432",  # keep freed memory for the next photo, which saves a sixth of the
    "MALLOC_TRIM_THRESHOLD_": "67108864",  # time for a photo of 12 megapixels: new pages must be cleared
}
_PROGRAM = "from kickstand.classify.decoder import main; main()"


class _Ended(Exception):  # noqa: N818
    """The decoder has ended, or was ended, in the middle of a photo; the message says why."""


class _Decoder:
    """One process."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= {"PYTHONPATH": paths, **_MALLOC}
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-S", "-P", "-c", _PROGRAM, str(CPU_S), str(MEGABYTES)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=environment,
                process_group=0,  # Ctrl-C goes to this process, and its end ends the decoder
            )
        self._socket.settimeout(1)
        self._ready = False

    def lives(self) -> bool:
        return self._process.poll() is None

    def ask(self, data: bytes, longest: int, wall_s: int) -> tuple[dict[str, Any], bytes]:
        """The program's answer. Raises _Ended."""
        left = wall_s

        def patiently(call: Callable[..., Given], *given: Any) -> Given:
            """Repeat the call until the time is up. It counts calls, so that a suspended computer counts as one."""
            nonlocal left
            while True:
                try:
                    return call(*given)
                except TimeoutError:
                    left -= 1
                    if left <= 0:
                        raise _Ended(f"took more than {wall_s} s to decode") from None

        def receive(size: int) -> bytes:
            found = bytearray(size)
            view = memoryview(found)
            while view:
                got = patiently(self._socket.recv_into, view)
                if not got:
                    raise ConnectionResetError
                view = view[got:]
            return bytes(found)

        try:
            if not self._ready:
                self._ready = receive(1) == READY
            for part in (struct.pack("!II", len(data), longest), data):
                view = memoryview(part)
                while view:
                    view = view[patiently(self._socket.send, view) :]
            header, pixels = struct.unpack("!II", receive(8))
            return json.loads(receive(header)), receive(pixels)
        except (BrokenPipeError, ConnectionResetError):
            raise _Ended(self._why()) from None

    def _why(self) -> str:
        """Why the process has ended."""
        self._socket.close()
        code = self._process.wait()
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        if not self._ready:
            raise RuntimeError(f"the program that decodes photos does not start ({how})")
        return (
            f"took more than {CPU_S} s to decode" if how == "SIGXCPU" else f"ended the program that decodes it ({how})"
        )

    def end(self) -> None:
        """End it at once."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


class _Pool:
    """The decoders of this process."""

    def __init__(self) -> None:
        self.wall_s = WALL_S
        self._idle: list[_Decoder] = []
        self._turns = threading.BoundedSemaphore(AT_ONCE)

    def start(self) -> None:
        """One decoder, so that the first photo need not wait."""
        if not self._idle:
            self._idle.append(_Decoder())

    def decode(self, data: bytes, longest: int) -> Decoded:
        with self._turns:
            decoder = self._take()
            try:
                answer, pixels = decoder.ask(data, longest, self.wall_s)
            except _Ended as why:
                decoder.end()
                raise Refused(f"{why}; send it as a plain JPEG") from None
            except BaseException:  # Ctrl-C above all: the late answer would be taken for the next photo's
                decoder.end()
                raise
            if answer["last"]:
                decoder.end()
            else:
                self._idle.append(decoder)
        if "memory" in answer:
            raise Refused(f"needs more than {MEGABYTES} MB to decode; send a smaller photo, or a plain JPEG")
        if "refused" in answer:
            raise Refused(answer["refused"])
        return Decoded(Image.frombytes("RGB", answer["size"], pixels), answer["format"], tuple(answer["uploaded"]))

    def _take(self) -> _Decoder:
        with suppress(IndexError):
            while True:
                decoder = self._idle.pop()
                if decoder.lives():
                    return decoder
                decoder.end()
        return _Decoder()

    def end(self) -> None:
        while self._idle:
            self._idle.pop().end()


_pool = _Pool()


def decode(data: bytes, longest: int) -> Decoded:
    """The result of `decoder.decode`, within CPU_S, MEGABYTES and the wall clock's limit. Raises Refused."""
    return _pool.decode(data, longest)


def start(wall_s: int = WALL_S) -> None:
    """Start a decoder before the first photo. wall_s: seconds for each photo, less than the function's timeout."""
    _pool.wall_s = wall_s
    _pool.start()


def _begin_anew() -> None:
    """In a forked process: the decoders are the parent's."""
    global _pool
    _pool = _Pool()


atexit.register(lambda: _pool.end())
os.register_at_fork(after_in_child=_begin_anew)
