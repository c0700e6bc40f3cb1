"""Live sources: the newest frame first, and back again after a drop."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Protocol

import av.error
import cv2
import numpy as np
from av.codec.context import Flags
from av.container import InputContainer
from av.video.frame import VideoFrame

from sttrack_deploy.errors import UserError
from sttrack_deploy.video.container import Pipe, open_container, reason, video_stream
from sttrack_deploy.video.decoded import DisplayedImage, MediaClock, usable_rate
from sttrack_deploy.video.frames import DEFAULT_FPS, QUEUE_DEPTH, Frame, Image, Note, SourceInfo

__all__ = ["CameraConnection", "Connection", "LiveOptions", "LiveSource", "StreamConnection"]

FIRST_DELAY, LONGEST_DELAY = 0.5, 8.0  # seconds between two tries
POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """How a live source is followed.

    Attributes:
        reconnect: seconds to go on trying after it stopped; 0 to end at once.
        stall: seconds without a frame after which that is said.
        timeout: seconds without a byte after which the connection counts as broken.
        every_frame: take each frame, and fall behind if need be, instead of the newest.
    """

    reconnect: float = 10.0
    stall: float = 3.0
    timeout: float = 10.0
    every_frame: bool = False


class Received(NamedTuple):
    """A frame as it came.

    Attributes:
        seconds: on the connection's own timeline, which starts at 0; ``None`` if it has none.
        image: makes the image; only called for frames that are delivered.
    """

    seconds: float | None
    image: Callable[[], Image]


class Connection(Protocol):
    """One connection to a live source."""

    fps: float | None
    ends: bool
    """Its end is the regular end of the source (a pipe), not a drop."""

    def __iter__(self) -> Iterator[Received]:
        """Frames, until the other side ends or fails (FFmpegError, OSError, UserError)."""
        ...

    def close(self) -> None:
        """Release it; may be called twice."""
        ...


class StreamConnection:
    """A stream or a capture device that PyAV reads."""

    def __init__(
        self,
        target: str | Pipe,
        name: str,
        displayed: DisplayedImage,
        timeout: float | None,
        *,
        format: str | None = None,
        options: dict[str, str] | None = None,
        container: InputContainer | None = None,
        ends: bool = False,
    ) -> None:
        """Connect.

        Args:
            target: URL for FFmpeg, or a pipe.
            name: for messages.
            displayed: makes images; kept over connections, so that they have one size.
            timeout: seconds to wait for the connection and for each read.
            container: already open.
            ends: see :class:`Connection`.

        Raises:
            UserError: no connection, or nothing to decode.
        """
        self.ends = ends
        try:
            self._container = container or open_container(
                target,
                name,
                format=format,
                options=options,
                timeout=None if timeout is None else (timeout, timeout),
                stream=True,
            )
        finally:
            if isinstance(target, Pipe):
                target.check()
        try:
            self._stream = video_stream(self._container, name)
        except BaseException:
            self.close()
            raise
        # Decoding by several frames at a time would hold frames back.
        self._stream.thread_type = "SLICE"
        self._stream.codec_context.flags |= Flags.low_delay
        displayed.use_aspect(self._stream.sample_aspect_ratio)
        self._displayed = displayed
        self.fps = usable_rate(self._stream.average_rate) or usable_rate(self._stream.guessed_rate)

    def __iter__(self) -> Generator[Received, None, None]:
        clock: MediaClock | None = None
        for packet in self._container.demux(self._stream):
            try:
                frames = self._stream.decode(packet)
            except av.error.InvalidDataError:
                continue  # a frame that was damaged on the way
            for frame in frames:
                if clock is None:
                    base = self._stream.time_base
                    first = 0.0 if frame.pts is None or base is None else float(frame.pts * base)
                    clock = MediaClock(first, 1 / (self.fps or DEFAULT_FPS), base)
                yield Received(clock.time_of(frame), self._image(frame))

    def _image(self, frame: VideoFrame) -> Callable[[], Image]:
        return lambda: self._displayed(frame)

    def close(self) -> None:
        """Release it; may be called twice."""
        self._container.close()


class CameraConnection:
    """A camera by its index, by OpenCV, which knows the cameras of every system."""

    ends = False

    def __init__(self, index: int) -> None:
        """Raises UserError if there is none, or it is in use."""
        self._capture = cv2.VideoCapture(index)
        if not self._capture.isOpened():
            self._capture.release()
            raise UserError(f"cannot open camera {index}: no such camera, or another program is using it")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = rate if 0.1 <= rate <= 480 else None
        self._size: tuple[int, int] | None = None

    def __iter__(self) -> Generator[Received, None, None]:
        while True:
            more, raw = self._capture.read()
            if not more:
                return
            image = np.asarray(raw, np.uint8)
            size = (image.shape[1], image.shape[0])
            self._size = self._size or size
            if size != self._size:
                image = np.asarray(cv2.resize(image, self._size), np.uint8)
            yield Received(None, lambda image=image: image)  # type: ignore[misc]

    def close(self) -> None:
        """Release it; may be called twice."""
        self._capture.release()


class _Waiting(NamedTuple):
    number: int
    time: float
    arrived: float
    received: Received


class LiveSource:
    """Iterates over a live source's frames: always the newest one that came, unless told otherwise.

    A thread receives and decodes. A frame that is overtaken by the next one before anybody asked for it
    is dropped and counted. After a drop of the connection the thread connects again, with growing pauses.

    Attributes:
        info: what is known.
        dropped: frames overtaken so far.
        reconnected: times that the connection came back.
    """

    def __init__(
        self,
        info: SourceInfo,
        connect: Callable[[], Connection],
        first: Connection,
        options: LiveOptions | None = None,
        *,
        start: int = 0,
        end: int | None = None,
        note: Note | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[threading.Event, float], object] = threading.Event.wait,
        interrupt: Callable[[], None] | None = None,
    ) -> None:
        """Start to receive.

        Args:
            connect: connects again.
            first: the first connection.
            start: index of the first frame to deliver.
            end: index to stop before.
            note: is told of stalls, drops and reconnections.
            clock: seconds.
            pause: waits for the event (the source was closed), or that many seconds.
            interrupt: ends a read that has no timeout, when the source is closed.
        """
        self.info = info
        self.dropped = self.reconnected = 0
        self._connect, self._options = connect, options or LiveOptions()
        self._range = (start, end)
        self._note: Note = note or (lambda _: None)
        self._clock, self._pause, self._interrupt = clock, pause, interrupt
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._ended = False
        self._error: BaseException | None = None
        self._index = 0
        self._last: tuple[float, float] | None = None  # the last frame's time and arrival
        self._silent_since = clock()
        self._stalled = False
        # A daemon, so that a driver that hangs in a read cannot keep the program alive.
        self._thread = threading.Thread(
            target=self._receive, args=(first,), name="sttrack-receive", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> LiveSource:
        return self

    def __next__(self) -> Frame:
        while not self._closed.is_set():
            with self._changed:
                if not self._waiting and not self._ended:
                    self._changed.wait(POLL_SECONDS)
                waiting = self._waiting.popleft() if self._waiting else None
                self._changed.notify_all()
            if waiting is not None:
                self._tell_stall(over=True)
                self._silent_since = self._clock()
                return Frame(waiting.number, waiting.time, waiting.received.image(), waiting.arrived)
            if self._ended:
                self._closed.set()
                if self._error is not None:
                    raise self._error
                break
            self._tell_stall(over=False)
        raise StopIteration

    def close(self) -> None:
        """End the thread and release the source; may be called twice."""
        self._closed.set()
        if self._interrupt is not None:
            self._interrupt()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout=2.0)

    def _tell_stall(self, *, over: bool) -> None:
        silent = self._clock() - self._silent_since
        if over and self._stalled:
            self._stalled = False
            self._note(f"note: {self.info.name} sends again, after {silent:.1f} s")
        elif not over and not self._stalled and silent >= self._options.stall:
            self._stalled = True
            self._note(f"note: no frame from {self.info.name} for {silent:.1f} s")

    # --- the thread ----------------------------------------------------------------------------------

    def _receive(self, first: Connection) -> None:
        connection: Connection | None = first
        try:
            while connection is not None:
                try:
                    problem = self._follow(connection)
                finally:
                    connection.close()
                if problem is None or self._closed.is_set():
                    break
                connection = self._again(problem)
        except BaseException as error:  # handed to the consumer, whatever it is
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _follow(self, connection: Connection) -> str | None:
        """Receive until the connection ends: why it did, or None where that is the regular end."""
        offset: float | None = None
        begin = 0.0
        try:
            for received in connection:
                arrived = self._clock()
                if offset is None:
                    # A new connection's timeline goes on where the last one's would be by now.
                    now = 0.0 if self._last is None else self._last[0] + arrived - self._last[1]
                    offset, begin = now - (received.seconds or 0.0), arrived - now
                seconds = arrived - begin if received.seconds is None else received.seconds + offset
                self._last = (seconds, arrived)
                if not self._offer(_Waiting(self._index, seconds, arrived, received)):
                    return None
                self._index += 1
        except (av.error.FFmpegError, OSError) as error:
            return "no answer" if isinstance(error, av.error.ExitError) else reason(error)
        return None if connection.ends else "the other side ended it"

    def _offer(self, frame: _Waiting) -> bool:
        """Put a frame where the consumer finds it; False if no more are wanted."""
        start, end = self._range
        if self._closed.is_set() or (end is not None and frame.number >= end):
            return False
        if frame.number < start:
            return True
        with self._changed:
            if self._options.every_frame:
                while len(self._waiting) >= QUEUE_DEPTH and not self._closed.is_set():
                    self._changed.wait(POLL_SECONDS)
            else:
                self.dropped += len(self._waiting)
                self._waiting.clear()
            self._waiting.append(frame)
            self._changed.notify_all()
        return end is None or frame.number + 1 < end

    def _again(self, problem: str) -> Connection | None:
        """Connect again.

        Raises:
            UserError: not within the time for it.
        """
        name, patience = self.info.name, self._options.reconnect
        stopped = f"{name} stopped sending after {self._index} frames ({problem})"
        if patience <= 0:
            raise UserError(f"{stopped}; --reconnect SECONDS goes on trying")
        self._note(f"note: {stopped}; trying again for {patience:g} s")
        began, delay = self._clock(), FIRST_DELAY
        while self._clock() - began + delay <= patience:
            self._pause(self._closed, delay)
            if self._closed.is_set():
                return None
            delay = min(LONGEST_DELAY, 2 * delay)
            with contextlib.suppress(UserError):
                connection = self._connect()
                self.reconnected += 1
                self._note(f"note: {name} is back after {self._clock() - began:.1f} s")
                return connection
        raise UserError(
            f"{stopped} and did not come back within {patience:g} s; --reconnect SECONDS waits longer"
        )
