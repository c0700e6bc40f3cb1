"""The web server, and how it ends: within seconds, whatever its clients do."""

from __future__ import annotations

import asyncio
import logging
import socket

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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See :class:`uvicorn.Server`."""
        self._service.end_waiting()
        await super().shutdown(sockets)


def _is_fault(record: logging.LogRecord) -> bool:
    """An answer that the end of the server cut off is none; uvicorn would show its traceback."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
