"""Ctrl-C and SIGTERM as a request that is answered between two steps, when the run's state is whole."""

from __future__ import annotations

import contextlib
import signal
import threading
from types import FrameType
from typing import Any

__all__ = ["StopRequest"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest(contextlib.AbstractContextManager["StopRequest"]):
    """Within the block the first signal is remembered in :attr:`made`; a second Ctrl-C interrupts at once.

    Args:
        launched: this process belongs to a launcher. That gets the Ctrl-C of a terminal too and passes it on, so
            a second signal tells nothing, and all are remembered only.
    """

    def __init__(self, launched: bool = False) -> None:
        self.made, self.launched = False, launched
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # others get no signals
            self._previous = {number: signal.signal(number, self._remember) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.made and number == signal.SIGINT and not self.launched:
            raise KeyboardInterrupt
        self.made = True
