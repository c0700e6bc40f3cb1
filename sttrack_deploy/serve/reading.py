"""Threads that read sources and track in them: one a track for files, one a source where it is live."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import Bundle, TrackingPolicy
from sttrack_deploy.engines.base import Engine
from sttrack_deploy.errors import UserError
from sttrack_deploy.geometry import Box
from sttrack_deploy.runtime.batch import Batch
from sttrack_deploy.runtime.target import TrackResult
from sttrack_deploy.serve.metrics import Metrics
from sttrack_deploy.serve.settings import Gone
from sttrack_deploy.serve.sources import Source
from sttrack_deploy.serve.track import Found, Target, Track, Waiters
from sttrack_deploy.video.frames import DEFAULT_FPS, Frame, FrameSource
from sttrack_deploy.video.source import open_source

__all__ = ["FileReading", "LiveReading", "Reading", "Tools"]

Image = npt.NDArray[np.uint8]
REST_SECONDS = 2.0  # a reading without work closes its file after that
UNWATCHED_SECONDS = 10.0  # a live source without tracks, that nobody looks at, is closed after that
HELD_FRAMES, RECENT_FRAMES, RECENT_BYTES = 4, 8, 48 * 2**20


@dataclass(frozen=True, slots=True)
class Tools:
    """What every reading uses: one engine for all of them."""

    bundle: Bundle
    engine: Engine
    policy: TrackingPolicy
    metrics: Metrics


class Reading:
    """What files and live sources have in common.

    Attributes:
        lock: guards this reading and its tracks.
        newest: the last frame that was read, with its results published.
        waiters: woken for every frame.
    """

    def __init__(self, source: Source, tools: Tools) -> None:
        self.source = source
        self.lock = threading.RLock()
        self.tracks: list[Track] = []
        self.newest: Frame | None = None
        self.waiters = Waiters()
        self._tools = tools
        self._batch = Batch(tools.bundle, tools.engine, tools.policy)
        self._wake = threading.Condition(self.lock)
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def busy(self) -> bool:
        """A thread reads it."""
        return self._thread is not None

    def go(self) -> None:
        """Something has changed: look at it, in a thread that is started if there is none."""
        with self.lock:
            if self._closed:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._main, name="sttrack-read", daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def end(self) -> None:
        """Tell the thread to end, and do not wait for it."""
        with self.lock:
            self._closed = True
            self._wake.notify_all()

    def close(self, seconds: float = 5.0) -> None:
        """End the thread; wait that long for it."""
        self.end()
        with self.lock:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(seconds)

    def forget(self, track: Track) -> None:
        """Take a track off."""
        with self.lock:
            if track in self.tracks:
                self.tracks.remove(track)
            self._wake.notify_all()

    def _main(self) -> None:
        try:
            self._run()
        except UserError as error:
            self._fail(str(error).replace(self.source.address, self.source.title))
        except Exception as error:
            self._fail(f"unexpected {type(error).__name__}: {error}")
        finally:
            with self.lock:
                self._thread = None
                again = not self._closed and self._has_work()
            if again:
                self.go()
            self.waiters.wake()

    def _run(self) -> None:
        raise NotImplementedError

    def _has_work(self) -> bool:
        raise NotImplementedError

    def _fail(self, message: str) -> None:
        with self.lock:
            for track in self.tracks:
                if track.active:
                    track.set_state("failed", message)

    def _process(
        self, frame: Frame, work: list[tuple[Track, Target]], read_seconds: float, *, live: bool = False
    ) -> None:
        """Track these targets in a frame and publish what is found."""
        metrics, batch = self._tools.metrics, self._batch
        begun = time.perf_counter()
        with self.lock:
            known = {target.key for track in self.tracks for target in track.targets.values()}
            generations = {target.key: target.generation for _, target in work}
            starts = {target.key: target.pending for _, target in work if target.pending is not None}
        batch.drop(batch.keys - known)
        crop = inference = 0.0
        answers: dict[int, TrackResult] = {}
        pictures: dict[int, tuple[Image, dict[int, Box]]] = {}
        for key, start in starts.items():
            image = frame.image if start.image is None else start.image
            pictures.setdefault(id(image), (image, {}))[1][key] = start.box
        for image, boxes in pictures.values():
            batch.start(image, boxes)
            crop, inference = crop + batch.timings.crop, inference + batch.timings.inference
        # On the frame that it was given on, a target is where the client said.
        given = {key for key, start in starts.items() if start.image is None or start.image is frame.image}
        answers.update(
            {key: TrackResult(start.box, 1.0, False) for key, start in starts.items() if key in given}
        )
        keys = {target.key for _, target in work} - given
        if keys:
            answers.update(batch.update(frame.image, keys))
            crop, inference = crop + batch.timings.crop, inference + batch.timings.inference
        found_at = time.perf_counter()
        published: list[tuple[Track, list[Found]]] = []
        with self.lock:
            self.newest = frame
            for track in {id(track): track for track, _ in work}.values():
                fresh = []
                for owner, target in work:
                    if owner is track and generations[target.key] == target.generation:
                        box, confidence, lost = answers[target.key]
                        fresh.append(Found(target.number, frame.index, frame.time, box, confidence, lost))
                        target.pending = None
                        target.next = frame.index + 1
                fresh = [result for result in fresh if result.target in track.targets]
                if fresh and track in self.tracks:
                    track.publish(fresh)
                    published.append((track, fresh))
                    metrics.results.inc(len(fresh))
                    metrics.lost.inc(sum(result.lost for result in fresh))
        self.waiters.wake()
        for track, fresh in published:
            if track.recorder is not None:
                track.recorder.write(frame, fresh)
        done = time.perf_counter()
        metrics.frames.inc()
        stages = metrics.stages
        if not live:  # a live source's waiting is no work
            stages["read"].observe(read_seconds)
        stages["crop"].observe(crop)
        stages["inference"].observe(inference)
        stages["publish"].observe(done - found_at)
        arrived = frame.arrived
        stages["total"].observe(
            time.monotonic() - arrived if arrived is not None else read_seconds + done - begun
        )


class FileReading(Reading):
    """Reads a file for one track, wherever its targets are: a corrected one is brought up to the others."""

    def _run(self) -> None:
        frames: Iterator[Frame] | None = None
        position = -1
        try:
            while True:
                work = self._await_work()
                if not work:
                    return
                track, wanted = work[0][0], work[0][1].next
                asked = time.perf_counter()
                if frames is None or position != wanted:
                    _close(frames)
                    assert self.source.reader is not None
                    frames = self.source.reader.iterate(wanted)
                frame = next(frames, None) if track.end is None or wanted < track.end else None
                if frame is None:
                    position = -1
                    self._finish(track, wanted)
                    continue
                # A frame that is missing in the file is passed over.
                position = frame.index + 1
                if frame.index != wanted:
                    with self.lock:
                        for _, target in work:
                            target.next = max(target.next, frame.index)
                self._process(frame, work, time.perf_counter() - asked)
        finally:
            _close(frames)

    def _has_work(self) -> bool:
        return bool(self._work())

    def _work(self) -> list[tuple[Track, Target]]:
        """The targets that need the earliest frame."""
        active = [
            (track, target) for track in self.tracks if track.active for target in track.targets.values()
        ]
        earliest = min((target.next for _, target in active), default=0)
        return [(track, target) for track, target in active if target.next == earliest]

    def _await_work(self) -> list[tuple[Track, Target]]:
        with self.lock:
            deadline = time.monotonic() + REST_SECONDS
            while not self._closed:
                work = self._work()
                left = deadline - time.monotonic()
                if work or left <= 0:
                    return work
                self._wake.wait(left)
            return []

    def _finish(self, track: Track, end: int) -> None:
        with self.lock:
            targets = track.targets.values()
            if track.active and all(target.next >= end for target in targets):
                if any(target.pending is not None for target in targets):
                    track.set_state(
                        "failed", f"the video ends before frame {end}, which the box was drawn on"
                    )
                else:
                    track.set_state("done")
            if track.end is None:
                self.source.frames = end


class LiveReading(Reading):
    """Reads a live source for everybody: all tracks in it are one batch.

    Attributes:
        dropped: frames that came and were not read.
    """

    def __init__(self, source: Source, tools: Tools) -> None:
        super().__init__(source, tools)
        self.dropped = 0
        self._asked = time.monotonic()
        self._recent: OrderedDict[int, Frame] = OrderedDict()
        self._held: OrderedDict[int, Frame] = OrderedDict()
        self._first = (0, 0.0)
        self._frames: FrameSource | None = None
        self.message = ""

    def end(self) -> None:
        """As for every reading; one that waits for a frame, which may never come, is woken."""
        super().end()
        frames = self._frames
        if frames is not None:
            # Waits for its own thread, which may hang in a driver.
            threading.Thread(target=frames.close, name="sttrack-close", daemon=True).start()

    def look(self) -> None:
        """Somebody wants to see it: keep it open."""
        self._asked = time.monotonic()
        self.go()

    def hold(self, index: int | None) -> Frame:
        """Keep a frame for a box to be drawn on.

        Args:
            index: one of the last few; ``None`` for the newest.

        Raises:
            Gone: it is not kept any more.
        """
        with self.lock:
            frame = self.newest if index is None else self._held.get(index) or self._recent.get(index)
            if frame is None:
                raise Gone(f"frame {index} of this live source is not kept any more; hold the newest one")
            self._held[frame.index] = frame
            while len(self._held) > HELD_FRAMES:
                self._held.popitem(last=False)
            return frame

    def held(self, index: int) -> Frame:
        """A frame that was held; raises Gone."""
        return self.hold(index)

    def _has_work(self) -> bool:
        return any(track.active for track in self.tracks)

    def _run(self) -> None:
        self.message = ""
        last = -1
        if self.newest is not None:  # opened again: numbers and times go on
            self._first = (self.newest.index + 1, self.newest.time + 1 / DEFAULT_FPS)
        try:
            with open_source(self.source.address) as frames:
                self._frames = frames
                if self._closed:  # while it was opened
                    return
                if self.source.fps is None:
                    self.source.fps = frames.info.fps
                for frame in frames:
                    last = self._take(frame, last)
                    if self._closed or not (self._has_work() or self._watched()):
                        return
        except UserError as error:
            self.message = str(error)
            raise
        finally:
            self._frames = None

    def _watched(self) -> bool:
        return time.monotonic() - self._asked < UNWATCHED_SECONDS

    def _take(self, came: Frame, last: int) -> int:
        index, seconds = self._first
        frame = replace(came, index=came.index + index, time=came.time + seconds)
        missed = max(0, frame.index - last - 1) if last >= 0 else 0
        if missed:
            self.dropped += missed
            self._tools.metrics.dropped.inc(missed)
        self.source.height, self.source.width = frame.image.shape[:2]
        with self.lock:
            self._remember(frame)
            work = [
                (track, target) for track in self.tracks if track.active for target in track.targets.values()
            ]
        if work:
            self._process(frame, work, 0.0, live=True)
        else:
            with self.lock:
                self.newest = frame
            self.waiters.wake()
        return frame.index

    def _remember(self, frame: Frame) -> None:
        self._recent[frame.index] = frame
        most = max(2, min(RECENT_FRAMES, RECENT_BYTES // max(1, frame.image.nbytes)))
        while len(self._recent) > most:
            self._recent.popitem(last=False)


def _close(frames: Iterator[Frame] | None) -> None:
    close = getattr(frames, "close", None)
    if close is not None:
        with contextlib.suppress(UserError):
            close()
