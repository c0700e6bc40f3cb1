"""Tracking one target through frames: crop, engine, box, and what to do when the target is lost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import Bundle, TrackingPolicy, open_bundle
from sttrack_deploy.cropping import crop_patch
from sttrack_deploy.engines.base import Engine, EngineState
from sttrack_deploy.engines.registry import DEFAULT_BACKEND, create_engine
from sttrack_deploy.errors import UsageError
from sttrack_deploy.geometry import Box, box_from_crop, clip_box, validate_box

__all__ = ["StepTimings", "TrackResult", "Tracker"]

Frame = npt.NDArray[np.uint8]
Scalar = TypeVar("Scalar", bound=np.generic)


class TrackResult(NamedTuple):
    """One frame's result.

    Attributes:
        box: x, y, w, h in pixels.
        confidence: 0..1, see ``models/head.py``.
        lost: the target is believed not to be there; ``box`` is then only the best guess.
    """

    box: Box
    confidence: float
    lost: bool


class StepTimings(NamedTuple):
    """Where the last ``init`` or ``update`` spent its time: seconds of wall clock."""

    crop: float
    inference: float


class Tracker:
    """Tracks one target.

    Attributes:
        timings: of the last ``init`` or ``update``.

    >>> tracker = Tracker.from_bundle()                              # doctest: +SKIP
    >>> tracker.init(first_frame, (120, 80, 64, 48))                 # doctest: +SKIP
    >>> box, confidence, lost = tracker.update(next_frame)           # doctest: +SKIP
    """

    def __init__(self, bundle: Bundle, engine: Engine, policy: TrackingPolicy | None = None) -> None:
        self.bundle = bundle
        self.engine = engine
        self.policy = bundle.manifest.tracking if policy is None else policy
        self._crop = bundle.manifest.crop
        # A bundle of a fixed batch is fed the one target that often; only the first answer is read.
        self._copies = bundle.manifest.smallest_batch
        self._state: EngineState = None
        self._shape: tuple[int, ...] | None = None
        self._box: Box = (0.0, 0.0, 0.0, 0.0)
        self._lost = False
        self._growth = 1.0
        self.timings = StepTimings(0.0, 0.0)

    @classmethod
    def from_bundle(
        cls,
        path: str | Path | None = None,
        engine: str = DEFAULT_BACKEND,
        threads: int | None = None,
        policy: TrackingPolicy | None = None,
    ) -> Tracker:
        """Open a bundle (the shipped one if no path is given) with an engine.

        Raises:
            UserError: the bundle cannot be used, or the engine's package is missing.
        """
        bundle = open_bundle(None if path is None else Path(path))
        return cls(bundle, create_engine(engine, bundle, threads), policy)

    def init(self, frame: Frame, box: Sequence[float]) -> None:
        """Start on a new target; a track that was running is forgotten.

        Args:
            frame: BGR uint8 ``(height, width, 3)``.
            box: x, y, w, h in pixels; cut to the image where it reaches over.

        Raises:
            UsageError: the frame or the box cannot be used.
        """
        _check_frame(frame)
        height, width = frame.shape[:2]
        self._box = validate_box(box, height, width)
        started = time.perf_counter()
        crop = crop_patch(
            frame, self._box, self._crop.template_factor, self._crop.template_size, self._crop.stride
        )
        cropped = time.perf_counter()
        self._state = self.engine.initial_state(self._batched(crop.patch), self._batched(crop.mask))
        self.timings = StepTimings(cropped - started, time.perf_counter() - cropped)
        self._shape = frame.shape
        self._lost, self._growth = False, 1.0

    def update(self, frame: Frame) -> TrackResult:
        """Find the target in the next frame.

        Raises:
            UsageError: not initialised, not a BGR uint8 frame, or of another size than before.
        """
        if self._shape is None:
            raise UsageError("the tracker has no target yet: call init(frame, box) first")
        _check_frame(frame)
        if frame.shape != self._shape:
            raise UsageError(
                f"the frame is {frame.shape[1]} x {frame.shape[0]}, the frames before were "
                f"{self._shape[1]} x {self._shape[0]}: call init(frame, box) again"
            )
        height, width = frame.shape[:2]
        started = time.perf_counter()
        crop = crop_patch(
            frame,
            self._box,
            self._crop.search_factor * self._growth,
            self._crop.search_size,
            self._crop.stride,
        )
        cropped = time.perf_counter()
        prediction, self._state = self.engine.step(
            self._batched(crop.patch), self._batched(crop.mask), self._state
        )
        self.timings = StepTimings(cropped - started, time.perf_counter() - cropped)
        confidence = float(prediction.confidence[0])
        found = box_from_crop(
            prediction.box[0].tolist(), self._box, self._crop.search_size, crop.resize_factor
        )
        box = clip_box(found, height, width)
        self._lost = confidence < (self.policy.found_above if self._lost else self.policy.lost_below)
        if self._lost and self.policy.recovery:
            # Keep looking around the last box that was believed, in a region that grows.
            self._growth = min(self._growth * self.policy.growth, self.policy.max_growth)
        else:
            self._box, self._growth = box, 1.0
        return TrackResult(box, confidence, self._lost)

    def _batched(self, array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        return np.repeat(array[None], self._copies, axis=0)


def _check_frame(frame: Frame) -> None:
    shape, dtype = getattr(frame, "shape", None), getattr(frame, "dtype", None)
    if dtype != np.uint8 or shape is None or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        hint = ""
        if shape is not None and (len(shape) == 2 or shape[-1] == 1):
            hint = "; convert a grey image with cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)"
        elif shape is not None and len(shape) == 3 and shape[2] == 4:
            hint = "; convert a 4-channel image with cv2.cvtColor(frame, cv2.COLOR_BGRA2BGR)"
        raise UsageError(f"a frame must be BGR uint8 (height, width, 3), not {dtype} {shape}{hint}")
