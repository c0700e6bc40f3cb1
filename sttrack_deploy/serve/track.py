"""A track as its clients see it: targets, their results, and a log to follow it by."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import threading
import time
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sttrack_deploy.geometry import Box
from sttrack_deploy.serve.settings import NotFound
from sttrack_deploy.serve.sources import Source
from sttrack_deploy.video.frames import Frame

__all__ = ["Event", "Found", "Recorder", "Start", "State", "Target", "Trace", "Track", "Waiters"]

Image = npt.NDArray[np.uint8]
State = Literal["running", "paused", "done", "stopped", "failed"]
LOG_LENGTH = 5_000  # events a client may be behind before it has to ask for everything again: 2.5 MB a target
STRIDE = 7


class Found(NamedTuple):
    """One target on one frame; ``box`` is x, y, w, h in pixels of the displayed frame, ``time`` in seconds."""

    target: int
    frame: int
    time: float
    box: Box
    confidence: float
    lost: bool


class Trace:
    """A target's results by frame, in a few bytes each: 64 for a frame."""

    def __init__(self, target: int, keep: int | None = None) -> None:
        """``keep``: about how many of the newest results to keep; ``None`` for all."""
        self._target = target
        self._keep = keep
        self._frames = array("q")
        self._values = array("d")

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[Found]:
        return (self._at(index) for index in range(len(self._frames)))

    @property
    def last(self) -> Found | None:
        """The newest result."""
        return self._at(len(self._frames) - 1) if self._frames else None

    def at(self, frame: int) -> Found | None:
        """The result on a frame."""
        index = bisect.bisect_left(self._frames, frame)
        return self._at(index) if index < len(self._frames) and self._frames[index] == frame else None

    def append(self, found: Found) -> None:
        """Add a result of a later frame."""
        if self._keep is not None and len(self._frames) >= self._keep + self._keep // 4:
            old = len(self._frames) - self._keep
            del self._frames[:old], self._values[: old * STRIDE]
        self._frames.append(found.frame)
        self._values.extend((found.time, *found.box, found.confidence, float(found.lost)))

    def cut(self, frame: int) -> None:
        """Forget the results from that frame on."""
        index = bisect.bisect_left(self._frames, frame)
        del self._frames[index:], self._values[index * STRIDE :]

    def _at(self, index: int) -> Found:
        seconds, x, y, w, h, confidence, lost = self._values[index * STRIDE : (index + 1) * STRIDE]
        return Found(self._target, self._frames[index], seconds, (x, y, w, h), confidence, bool(lost))


@dataclass(frozen=True, slots=True)
class Start:
    """Where a target is given; ``image`` is the frame, where it cannot be read again."""

    frame: int
    box: Box
    image: Image | None = None


@dataclass(slots=True)
class Target:
    """One target of a track.

    Attributes:
        number: 1, 2, … within the track: the ``id`` of its results.
        key: unique on the server.
        given: its boxes as the client gave them, in the order of their frames.
        pending: the one that it has to be started on.
        next: the next frame that it needs.
        generation: grows when it is corrected; results of an older one are void.
    """

    number: int
    key: int
    trace: Trace
    given: list[Start] = field(default_factory=list)
    pending: Start | None = None
    next: int = 0
    generation: int = 0

    def restart(self, start: Start) -> None:
        """Start (again) on a frame: what came from there on is void."""
        self.given = [old for old in self.given if old.frame < start.frame]
        self.given.append(Start(start.frame, start.box))
        self.trace.cut(start.frame)
        self.pending = start
        self.next = start.frame
        self.generation += 1


class Event(NamedTuple):
    """An entry of the log. ``kind``: ``results`` (a tuple of :class:`Found`) or ``state`` (a dictionary)."""

    sequence: int
    kind: Literal["results", "state", "rewind"]
    data: Any


class Recorder(Protocol):
    """Takes a live source's frames with their results, for the annotated video."""

    def write(self, frame: Frame, found: Sequence[Found]) -> None:
        """Add a frame."""
        ...

    def close(self) -> None:
        """Complete the file."""
        ...

    def delete(self) -> None:
        """Close and remove it."""
        ...


class Waiters:
    """Lets coroutines wait for what happens in threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    def wake(self) -> None:
        """Wake everybody; from any thread."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for event, loop in waiting.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    @contextlib.contextmanager
    def ticket(self) -> Iterator[Ticket]:
        """Something that the next :meth:`wake` sets. Take it first, then look, then wait for it."""
        event = asyncio.Event()
        with self._lock:
            self._waiting[event] = asyncio.get_running_loop()
        try:
            yield Ticket(event)
        finally:
            with self._lock:
                self._waiting.pop(event, None)


class Ticket(NamedTuple):
    """See :meth:`Waiters.ticket`."""

    event: asyncio.Event

    async def wait(self, seconds: float) -> bool:
        """Whether it was set within that time."""
        try:
            await asyncio.wait_for(self.event.wait(), seconds)
        except (asyncio.TimeoutError, TimeoutError):  # one class since Python 3.11
            return False
        return True


class Track:
    """Targets that one client follows in one source.

    Attributes:
        lock: guards everything here; the reading's own.
        keep: it goes on though nobody watches.
        touched: ``time.monotonic()`` of the last request for it.
        viewers: event streams open on it.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        lock: threading.RLock,
        *,
        keep: bool,
        end: int | None,
        kept: int | None,
    ) -> None:
        self.name = name
        self.source = source
        self.lock = lock
        self.keep = keep
        self.end = end
        self.state: State = "running"
        self.message = ""
        self.targets: dict[int, Target] = {}
        self.frame = -1
        self.created = time.time()
        self.touched = time.monotonic()
        self.viewers = 0
        self.recorder: Recorder | None = None
        self.waiters = Waiters()
        self._kept = kept
        self._numbers = 0
        self._sequence = 0
        self._log: deque[Event] = deque(maxlen=LOG_LENGTH)

    @property
    def active(self) -> bool:
        """Running or about to go on."""
        return self.state == "running"

    def target(self, number: int) -> Target:
        """Raises NotFound where there is none of that number."""
        found = self.targets.get(number)
        if found is None:
            raise NotFound(f"track {self.name} has no target {number}; it has {sorted(self.targets)}")
        return found

    def add(self, key: int, start: Start) -> Target:
        """A new target."""
        self._numbers += 1
        target = Target(self._numbers, key, Trace(self._numbers, self._kept))
        target.restart(start)
        self.targets[target.number] = target
        return target

    def set_state(self, state: State, message: str = "") -> None:
        """Change the state and tell everybody."""
        with self.lock:
            if (state, message) != (self.state, self.message):
                self.state, self.message = state, message
                self.tell_state()

    def tell_state(self) -> None:
        """Tell everybody what the track is now; ``sequence`` orders this among answers to requests."""
        with self.lock:  # described and logged at once, or an older state could stand last in the log
            self.tell("state", {**self.describe(), "sequence": self._sequence + 1})

    def publish(self, found: Sequence[Found]) -> None:
        """Add one frame's results."""
        for result in found:
            self.targets[result.target].trace.append(result)
        self.frame = found[0].frame
        self.tell("results", tuple(found))

    def tell(self, kind: Literal["results", "state", "rewind"], data: object) -> None:
        """Write an entry into the log."""
        with self.lock:
            self._sequence += 1
            self._log.append(Event(self._sequence, kind, data))
        self.waiters.wake()

    @property
    def sequence(self) -> int:
        """Number of the newest entry of the log."""
        return self._sequence

    def events(self, after: int) -> list[Event] | None:
        """Entries newer than ``after``; ``None`` where some of them are not kept any more."""
        with self.lock:
            new = self._sequence - after
            if new <= 0:
                return [] if new == 0 else None
            if new > len(self._log):
                return None
            return [self._log[index] for index in range(len(self._log) - new, len(self._log))]

    def results(self) -> list[Found]:
        """Every result, by frame and then by target."""
        with self.lock:
            found = [result for target in self.targets.values() for result in target.trace]
        return sorted(found, key=lambda result: (result.frame, result.target))

    def describe(self) -> dict[str, Any]:
        """The track for clients."""
        with self.lock:
            targets = []
            for target in self.targets.values():
                last = target.trace.last
                given = [{"frame": start.frame, "box": list(start.box)} for start in target.given]
                targets.append(
                    {
                        "id": target.number,
                        "given": given,
                        "results": len(target.trace),
                        "frame": None if last is None else last.frame,
                        "box": None if last is None else [round(value, 4) for value in last.box],
                        "confidence": None if last is None else round(last.confidence, 4),
                        "lost": None if last is None else last.lost,
                    }
                )
            return {
                "id": self.name,
                "source": self.source.name,
                "state": self.state,
                "message": self.message,
                "frame": None if self.frame < 0 else self.frame,
                "end": self.end,
                "keep": self.keep,
                "sequence": self._sequence,
                "targets": targets,
            }
