"""A frame with its time, and the thread that keeps a few frames ahead of whoever uses them."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["DEFAULT_FPS", "Frame", "FrameSource", "Image", "Note", "SourceInfo", "ThreadedSource"]

Image = npt.NDArray[np.uint8]

Note = Callable[[str], None]
"""Takes one line for people about something worth knowing that is no error."""

DEFAULT_FPS = 25.0
"""Frame rate taken where the source has none: a folder of images, a container that does not say."""

QUEUE_DEPTH = 4  # frames decoded ahead; a 4K frame is 24 MB
POLL_SECONDS = 0.2  # how soon a blocked side notices that the other one has gone


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One frame as it is displayed: rotated and with square pixels.

    Attributes:
        index: 0 for the source's first frame, whatever ``start`` is; a live source also counts
            the frames that were dropped.
        time: presentation time in seconds on the source's own timeline, which starts at 0. It
            always grows from frame to frame.
        image: BGR uint8 ``(height, width, 3)``, owned by the receiver.
        arrived: for a live source, ``time.monotonic()`` when it came; ``None`` otherwise.
    """

    index: int
    time: float
    image: Image
    arrived: float | None = None


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known before the first frame.

    Attributes:
        name: for messages; a URL is shown without user, password and query.
        stem: for naming what is made from it.
        frames: how many frames will come (after ``start`` and ``end``), as far as that is known.
        fps: frames a second on average, if that is known.
        live: frames come in real time; those that nobody had time for are dropped.
        audio: something :func:`av.open` reads sound from, if there is any.
    """

    name: str
    stem: str
    frames: int | None
    fps: float | None
    live: bool = False
    audio: str | None = None


class FrameSource(Protocol):
    """Iterates over frames. What goes wrong is raised after every frame that was good."""

    @property
    def info(self) -> SourceInfo:
        """What is known before the first frame."""
        ...

    @property
    def dropped(self) -> int:
        """Frames that came and were never delivered, because nobody had time for them."""
        ...

    def __iter__(self) -> Iterator[Frame]: ...

    def __enter__(self) -> FrameSource: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def close(self) -> None:
        """Release the source; may be called twice."""
        ...


class _End(NamedTuple):
    error: BaseException | None


class ThreadedSource:
    """Takes frames from an iterator in a thread of its own, up to :data:`QUEUE_DEPTH` ahead; none is dropped.

    Close it (or use ``with``): the thread ends and closes the iterator, so a generator's ``finally``
    releases the file in the thread that reads it.
    """

    dropped = 0

    def __init__(self, info: SourceInfo, frames: Iterator[Frame]) -> None:
        self.info = info
        self._queue: queue.Queue[Frame | _End] = queue.Queue(QUEUE_DEPTH)
        self._stop = threading.Event()
        # A daemon, so that a read that hangs cannot keep the program alive.
        self._thread = threading.Thread(target=self._read, args=(frames,), name="sttrack-decode", daemon=True)
        self._thread.start()

    def __enter__(self) -> ThreadedSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> ThreadedSource:
        return self

    def __next__(self) -> Frame:
        while not self._stop.is_set():
            try:
                item = self._queue.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if isinstance(item, Frame):
                return item
            self._stop.set()
            if item.error is not None:
                raise item.error
        raise StopIteration

    def close(self) -> None:
        """End the thread and release the source; may be called twice."""
        self._stop.set()
        self._thread.join(timeout=2.0)

    def _read(self, frames: Iterator[Frame]) -> None:
        end = _End(None)
        try:
            for frame in frames:
                self._put(frame)
                if self._stop.is_set():
                    break
        except BaseException as error:  # handed to the consumer, whatever it is
            end = _End(error)
        finally:
            close: Callable[[], None] | None = getattr(frames, "close", None)
            if close is not None:
                close()
        self._put(end)

    def _put(self, item: Frame | _End) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=POLL_SECONDS)
                return
