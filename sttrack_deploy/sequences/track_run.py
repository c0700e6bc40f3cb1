"""What a tracker said in one sequence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["SequenceFailure", "TrackRun"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TrackRun:
    """One track; frame 0 is the one that the tracker was started on.

    Result files of other trackers hold boxes, and the rest only sometimes.

    Attributes:
        boxes: x, y, w, h in pixels, float64 ``(N, 4)``; the first is the truth that it was given.
        confidences: float64 ``(N,)``, 0..1; the first is 1. ``None``: not known.
        lost: bool ``(N,)``; the first is False. ``None``: not known.
        times: seconds, float64 ``(N,)``: ``init`` for the first frame, ``update`` alone for the others.
            ``None``: not known.
        wall: seconds from opening the video to the last box: decoding, ``init`` and every ``update``; NaN: not
            known.
    """

    name: str
    boxes: FloatArray
    confidences: FloatArray | None = None
    lost: BoolArray | None = None
    times: FloatArray | None = None
    wall: float = float("nan")

    @property
    def fps(self) -> float:
        """Tracked frames (without the first) over the time in ``update``: cropping and inference, no decoding."""
        busy = 0.0 if self.times is None else float(self.times[1:].sum())
        return (len(self.boxes) - 1) / busy if busy > 0 else float("nan")

    @property
    def fps_end_to_end(self) -> float:
        """All frames over the wall time, decoding included."""
        return len(self.boxes) / self.wall if self.wall > 0 else float("nan")


@dataclass(frozen=True, slots=True)
class SequenceFailure:
    """A sequence that could not be run or scored, and why in one line."""

    name: str
    error: str
