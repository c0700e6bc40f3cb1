"""A pipe that FFmpeg reads through us, so that waiting for it can be ended: by Ctrl-C, and by closing the source."""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

from sttrack_deploy.errors import UserError

__all__ = ["Pipe", "open_pipe"]

WAIT_SECONDS = 0.2


class Pipe:
    """A file for PyAV that can only be read; FFmpeg's own reading of a silent pipe never comes back.

    Attributes:
        name: what FFmpeg may guess a format from.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self.name = name
        self._descriptor, self._closed = descriptor, False
        self._interrupt: KeyboardInterrupt | None = None

    def read(self, size: int) -> bytes:
        """The next bytes; none at the end, and when it is closed or Ctrl-C is pressed meanwhile."""
        try:
            while not self._closed:
                # Windows cannot wait for pipes.
                if sys.platform == "win32" or select.select([self._descriptor], [], [], WAIT_SECONDS)[0]:
                    return os.read(self._descriptor, size)
        except KeyboardInterrupt as interrupt:  # PyAV would print it and read on
            self._interrupt, self._closed = interrupt, True
        return b""

    def check(self) -> None:
        """Raise a KeyboardInterrupt that came while FFmpeg was reading."""
        if self._interrupt is not None:
            raise self._interrupt

    def close(self) -> None:
        """Let whoever is reading come back with nothing."""
        self._closed = True


def open_pipe(path: str | None) -> Pipe:
    """Standard input, or a named pipe, whose writer is waited for.

    Raises:
        UserError: it cannot be opened.
    """
    if path is None:
        return Pipe(0, "")
    try:
        return Pipe(os.open(path, os.O_RDONLY), Path(path).name)
    except OSError as error:
        raise UserError(f"cannot open {path}: {error.strerror}") from error
