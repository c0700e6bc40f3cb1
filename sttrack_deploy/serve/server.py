"""The web server, and how it ends: within seconds, whatever its clients do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Iterator

import uvicorn

from sttrack_deploy.serve.app import make_app
from sttrack_deploy.serve.service import Service

__all__ = ["Server"]

GRACE_SECONDS = 2  # for answers that are under way, such as a long download


class Server(uvicorn.Server):
    """Serves ``service`` until a signal; closes it with that.

    Uvicorn waits for every answer to be complete before it closes the application, but an event stream
    has no end of its own: those are ended first.
    """

    def __init__(self, service: Service, *, behind_proxy: bool = False) -> None:
        super().__init__(
            uvicorn.Config(
                make_app(service),
                log_level="warning",
                server_header=False,
                proxy_headers=behind_proxy,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        logging.getLogger("uvicorn.error").addFilter(_is_fault)
        self._service = service

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGHUP (a dropped ssh) ends the server in order too; it stays ignored where it is (``nohup``)."""
        number = getattr(signal, "SIGHUP", None)
        with super().capture_signals():
            if (
                number is None
                or threading.current_thread() is not threading.main_thread()
                or signal.getsignal(number) == signal.SIG_IGN
            ):
                yield
                return
            before = signal.signal(number, self.handle_exit)
            try:
                yield
            finally:
                signal.signal(number, before)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See :class:`uvicorn.Server`."""
        self._service.end_waiting()
        await super().shutdown(sockets)


def _is_fault(record: logging.LogRecord) -> bool:
    """An answer that the end of the server cut off is none; uvicorn would show its traceback."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
