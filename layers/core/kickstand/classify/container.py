"""Serves an application over HTTP until it receives a signal, and finishes the requests in progress."""

import logging
import signal
import time
from typing import Any

from waitress import wasyncore
from waitress.server import create_server

from kickstand.classify.images import MAX_IMAGE_BYTES
from kickstand.classify.invocations import Application

logger = logging.getLogger(__name__)

STOP_SECONDS = 25
"""For the requests in progress; SageMaker and Docker kill the container after 30."""


def listen(application: Application, host: str, port: int, threads: int) -> Any:
    """waitress' server, which accepts connections from now on; `run` answers them. `effective_port` is its port."""
    return create_server(application, host=host, port=port, threads=threads, max_request_body_size=MAX_IMAGE_BYTES + 1)


def run(server: Any, stop_seconds: float = STOP_SECONDS) -> None:
    """Answer requests until SIGTERM or Ctrl-C; then accept no new connection, and finish the open requests. A second
    signal ends it at once.

    waitress by itself waits five seconds for requests in progress, and drops those that wait for a thread.
    """
    ends_at: float | None = None

    def stop(number: int, _: Any) -> None:
        nonlocal ends_at
        ends_at = time.monotonic() + stop_seconds
        signal.signal(number, signal.SIG_DFL)
        server.pull_trigger()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    while ends_at is None:
        _turn(server)
    server.del_channel()
    server.socket.close()
    while _is_busy(server) and time.monotonic() < ends_at:
        _turn(server)
    if _is_busy(server):
        logger.warning("%d connections were not answered within %g seconds", len(server.active_channels), stop_seconds)
    server.task_dispatcher.shutdown(timeout=0)
    wasyncore.close_all(server._map)
    for number, handler in before.items():
        signal.signal(number, handler)


def _turn(server: Any) -> None:
    wasyncore.loop(timeout=1, map=server._map, use_poll=server.adj.asyncore_use_poll, count=1)


def _is_busy(server: Any) -> bool:
    """Whether a request is being read or answered, is waiting, or its answer is not sent yet."""
    return any(
        channel.requests or channel.request or channel.total_outbufs_len
        for channel in list(server.active_channels.values())
    )
