"""What TensorRT says while it works, kept for the one line that an error is told in."""

from __future__ import annotations

import threading
from typing import Any

__all__ = ["Log", "log_of"]

KEPT = 50
"""Messages kept of each kind; TensorRT can say the same thousands of times."""


class Log:
    """Errors and warnings since they were last taken; any thread may add to it.

    Attributes:
        native: the ``ILogger`` to hand to TensorRT.
    """

    def __init__(self, trt: Any) -> None:
        self._lock = threading.Lock()
        self._errors: list[str] = []
        self._warnings: list[str] = []
        severities = trt.ILogger.Severity
        serious = (severities.INTERNAL_ERROR, severities.ERROR)
        add_error, add_warning = self._errors.append, self._warnings.append
        lock = self._lock

        class Native(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)  # TensorRT's classes want it by name, not through super()

            def log(self, severity: Any, msg: str) -> None:
                with lock:
                    if severity in serious:
                        add_error(msg)
                    elif severity == severities.WARNING:
                        add_warning(msg)

        self.native = Native()

    def take_errors(self) -> list[str]:
        """Errors in the order they came; they are forgotten here."""
        with self._lock:
            taken = self._errors[:KEPT]
            self._errors.clear()
        return taken

    def take_warnings(self) -> list[str]:
        """Different warnings in the order they came; they are forgotten here."""
        with self._lock:
            taken = list(dict.fromkeys(self._warnings))[:KEPT]
            self._warnings.clear()
        return taken

    def last_error(self, otherwise: str = "it gave no reason") -> str:
        """The latest error in one line, all of them forgotten."""
        errors = self.take_errors()
        return " ".join(errors[-1].split()) if errors else otherwise


_logs: dict[int, tuple[Any, Log]] = {}


def log_of(trt: Any) -> Log:
    """The process's log: TensorRT keeps to the first logger it is given, and needs it to the end."""
    _, log = _logs.setdefault(id(trt), (trt, Log(trt)))
    return log
