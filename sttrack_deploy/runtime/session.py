"""A run: frames in, one or several targets, results out, with the time that each part takes."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.geometry import Box, validate_box
from sttrack_deploy.runtime.detections import DetectedTargets
from sttrack_deploy.runtime.display import Key, Window
from sttrack_deploy.runtime.multi_tracker import MultiTracker
from sttrack_deploy.runtime.overlay import draw_results, draw_truth
from sttrack_deploy.runtime.results import FrameResult, ResultWriter
from sttrack_deploy.runtime.target import TrackResult
from sttrack_deploy.runtime.track_formats import TracksWriter
from sttrack_deploy.video.frames import Frame
from sttrack_deploy.video.writer import VideoWriter

__all__ = ["BoxChooser", "Outputs", "Session", "SessionStats"]

Image = npt.NDArray[np.uint8]
BoxChooser = Callable[[Image], Sequence[Box]]
"""Gives the targets' boxes on a frame."""

STATISTICS_WINDOW = 10_000  # frames; a camera may run for days
FPS_SMOOTHING = 0.1


def _times() -> deque[float]:
    return deque(maxlen=STATISTICS_WINDOW)


@dataclass(slots=True)
class SessionStats:
    """What happened so far; times in seconds, one for each of the last frames.

    Attributes:
        frames: frames with a result, the first one (whose box was given) included.
        lost: for each target by its number, frames on which it was lost.
        seconds: from having the targets' boxes to the last result written, without pauses.
        decode: waiting for the next frame.
        output: drawing and writing.
    """

    frames: int = 0
    lost: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0
    decode: deque[float] = field(default_factory=_times)
    crop: deque[float] = field(default_factory=_times)
    inference: deque[float] = field(default_factory=_times)
    output: deque[float] = field(default_factory=_times)

    @property
    def fps(self) -> float:
        """Frames a second, end to end."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    def medians_ms(self) -> dict[str, float]:
        """Median milliseconds of each part."""
        parts = {
            "decode wait": self.decode,
            "crop": self.crop,
            "inference": self.inference,
            "draw + write": self.output,
        }
        return {name: 1e3 * statistics.median(times) for name, times in parts.items() if times}


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where results go.

    Attributes:
        video: the annotated video.
        writers: the other files.
        window: the preview.
        truth: exact boxes by frame number, drawn beside the results.
        reselect: what the preview's key for new targets does; as many boxes as at the start.
    """

    video: VideoWriter | None = None
    writers: Sequence[ResultWriter] = ()
    window: Window | None = None
    truth: Sequence[Box] | None = None
    reselect: BoxChooser | None = None

    @property
    def draws(self) -> bool:
        """Somebody looks at the frames."""
        return self.video is not None or self.window is not None


class Session:
    """Runs a tracker over frames.

    ``stats`` is up to date at any time, after an exception or Ctrl-C too.

    Attributes:
        boxes: those that tracking started on; none where a detector says it.
    """

    def __init__(self, tracker: MultiTracker) -> None:
        self.stats = SessionStats()
        self.boxes: list[Box] = []
        self._tracker = tracker
        self._paused = 0.0
        self._shown_fps: float | None = None

    def run(
        self,
        frames: Iterable[Frame],
        choose: BoxChooser | DetectedTargets,
        outputs: Outputs,
        done: Callable[[int], None] | None = None,
    ) -> None:
        """Track until the frames end or the user quits.

        Args:
            frames: the first one is where the target is given.
            choose: gives the targets' boxes on the first frame, or says on any frame which start.
            outputs: where the results go.
            done: called after each frame with the number of frames done.

        Raises:
            UserError: no frame, an impossible box, frames that change size, or a failed read or write;
                everything before it is written.
        """
        remaining = iter(frames)
        first = next(remaining, None)
        if first is None:
            raise UserError("the source has no frames")
        height, width = first.image.shape[:2]
        if not isinstance(choose, DetectedTargets):
            self.boxes = [validate_box(box, height, width) for box in choose(first.image)]
            self._tracker.init(first.image, self.boxes)
        for writer in outputs.writers:
            if isinstance(writer, TracksWriter):
                writer.begin(width, height)
        started = asked = time.perf_counter()
        for frame in chain([first], remaining):
            got = time.perf_counter()
            results: Mapping[int, TrackResult]
            if isinstance(choose, DetectedTargets):
                results, timings = choose.update(frame.index, frame.image), choose.timings
            elif frame is first:  # its results are the boxes that were given, with full confidence
                results = {number: TrackResult(box, 1.0, False) for number, box in enumerate(self.boxes, 1)}
            else:
                results, timings = (
                    dict(enumerate(self._tracker.update(frame.image), 1)),
                    self._tracker.timings,
                )
            tracked = time.perf_counter()
            self._note_fps(tracked - asked)
            quit_asked = self._emit(frame, results, outputs)
            now = time.perf_counter()
            stats = self.stats
            stats.frames += 1
            for number, result in results.items():
                stats.lost[number] = stats.lost.get(number, 0) + result.lost
            if frame is not first:  # its crop and inference are those of the template
                stats.decode.append(got - asked)
                stats.crop.append(timings.crop)
                stats.inference.append(timings.inference)
                stats.output.append(now - tracked)
            stats.seconds = now - started - self._paused
            if done is not None:
                done(stats.frames)
            if quit_asked:
                return
            asked = time.perf_counter()

    def _note_fps(self, seconds: float) -> None:
        rate = 1.0 / max(seconds, 1e-6)
        if self.stats.frames == 0:
            return
        last = self._shown_fps
        self._shown_fps = rate if last is None else last + FPS_SMOOTHING * (rate - last)

    def _emit(self, frame: Frame, tracked: Mapping[int, TrackResult], outputs: Outputs) -> bool:
        """Write and show one frame's results; True if the user wants to quit."""
        age = None if frame.arrived is None else time.monotonic() - frame.arrived
        results = [
            FrameResult(frame.index, frame.time, *result, id=number, age=age)
            for number, result in tracked.items()
        ]
        canvas = self._draw(frame, results, outputs) if outputs.draws else frame.image
        # The video first: what fails on a full disk is it, and then no other file is a frame ahead.
        if outputs.video is not None:
            # A live recording plays at the pace in which it was seen.
            outputs.video.write(canvas, frame.time if frame.arrived is None else frame.arrived)
        for writer in outputs.writers:
            writer.write(results)
        return outputs.window is not None and self._obey(outputs, outputs.window, canvas, frame.image)

    def _draw(self, frame: Frame, results: Sequence[FrameResult], outputs: Outputs) -> Image:
        canvas = frame.image.copy()
        if outputs.truth is not None:
            draw_truth(canvas, outputs.truth[frame.index])
        draw_results(canvas, results, self._shown_fps, None if self.boxes else [r.id for r in results])
        return canvas

    def _obey(self, outputs: Outputs, window: Window, canvas: Image, image: Image) -> bool:
        key = window.show(canvas)
        stopped = time.perf_counter()
        if key is Key.PAUSE:
            key = window.wait()
        if key is Key.SELECT and outputs.reselect is not None:
            with contextlib.suppress(UserError):  # no box was drawn, or an impossible one: go on as before
                self._tracker.init(image, outputs.reselect(image))
        self._paused += time.perf_counter() - stopped
        return key is Key.QUIT
