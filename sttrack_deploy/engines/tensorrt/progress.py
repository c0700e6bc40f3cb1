"""TensorRT's progress while it builds, and Ctrl-C, which must not cross its C++ code as an exception."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from sttrack_deploy.engines.building import BuildReport

__all__ = ["Stop", "make_monitor", "stop_on_interrupt"]


class Stop:
    """Set from a signal handler or a report, read from TensorRT's threads.

    A plain attribute: a lock, as :class:`threading.Event` has, could be held where the handler interrupts.
    """

    requested = False

    def request(self) -> None:
        self.requested = True


def make_monitor(trt: Any, report: BuildReport, stop: Stop) -> Any:
    """An ``IProgressMonitor`` that hands everything on to ``report``.

    TensorRT calls it from several threads and may call it until the build returns: the caller must keep it.
    An exception in it would end the process or be lost, so there is none.
    """
    lock = threading.Lock()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with lock, contextlib.suppress(Exception):
                report.phase(phase_name, parent_phase or None, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with lock, contextlib.suppress(Exception):
                if not report.step(phase_name, step + 1):
                    stop.request()
            return not stop.requested

        def phase_finish(self, phase_name: str) -> None:
            with lock, contextlib.suppress(Exception):
                report.finish(phase_name)

    return Monitor()


@contextlib.contextmanager
def stop_on_interrupt(stop: Stop) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into a request to stop; :class:`KeyboardInterrupt` follows when the block is left.

    Python runs a handler between two of its own instructions: during a build that is inside the monitor, called
    from C++.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers can be set in the main thread only
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    interrupted = False

    def note(number: int, frame: object) -> None:  # noqa: ARG001
        nonlocal interrupted
        interrupted = True
        stop.request()

    previous = [signal.signal(kind, note) for kind in kinds]
    try:
        yield
    finally:
        for kind, handler in zip(kinds, previous, strict=True):
            signal.signal(kind, handler)
        if interrupted:
            raise KeyboardInterrupt
