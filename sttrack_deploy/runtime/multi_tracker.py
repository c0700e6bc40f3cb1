"""Tracking several targets through frames, as many in each call of the engine as the bundle takes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import Bundle, TrackingPolicy, open_bundle
from sttrack_deploy.cropping import Crop
from sttrack_deploy.engines.base import Engine, EngineState
from sttrack_deploy.engines.registry import DEFAULT_BACKEND, create_engine
from sttrack_deploy.errors import UsageError
from sttrack_deploy.geometry import validate_box
from sttrack_deploy.runtime.target import Target, TrackResult

__all__ = ["MultiTracker", "StepTimings", "calls_for"]

Frame = npt.NDArray[np.uint8]
Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]


class StepTimings(NamedTuple):
    """Where the last ``init`` or ``update`` spent its time: seconds of wall clock, all targets together."""

    crop: float
    inference: float


def calls_for(bundle: Bundle, targets: int) -> int:
    """Calls of the engine for each frame: one where the batch is dynamic or large enough."""
    batch = bundle.manifest.batch
    return -(-targets // batch) if isinstance(batch, int) else 1


class MultiTracker:
    """Tracks several targets, each on its own: one may be lost while the others go on.

    A bundle of a dynamic batch runs them all in one call, one of a fixed batch in calls of that size.

    Attributes:
        timings: of the last ``init`` or ``update``.

    >>> tracker = MultiTracker.from_bundle("export/sttrack-nano-dynamic")         # doctest: +SKIP
    >>> tracker.init(first_frame, [(120, 80, 64, 48), (300, 90, 40, 90)])         # doctest: +SKIP
    >>> for box, confidence, lost in tracker.update(next_frame): ...              # doctest: +SKIP
    """

    def __init__(self, bundle: Bundle, engine: Engine, policy: TrackingPolicy | None = None) -> None:
        self.bundle = bundle
        self.engine = engine
        self.policy = bundle.manifest.tracking if policy is None else policy
        self.timings = StepTimings(0.0, 0.0)
        self._targets: list[Target] = []
        self._states: list[EngineState] = []
        self._shape: tuple[int, ...] = ()

    @classmethod
    def from_bundle(
        cls,
        path: str | Path | None = None,
        engine: str = DEFAULT_BACKEND,
        threads: int | None = None,
        policy: TrackingPolicy | None = None,
    ) -> MultiTracker:
        """Open a bundle (the shipped one if no path is given) with an engine.

        Raises:
            UserError: the bundle cannot be used, or the engine's package is missing.
        """
        bundle = open_bundle(None if path is None else Path(path))
        return cls(bundle, create_engine(engine, bundle, threads), policy)

    @property
    def targets(self) -> Sequence[Target]:
        """The targets, in the order of the boxes that ``init`` was given."""
        return self._targets

    def init(self, frame: Frame, boxes: Sequence[Sequence[float]]) -> None:
        """Start on new targets; tracks that were running are forgotten.

        Args:
            frame: BGR uint8 ``(height, width, 3)``.
            boxes: x, y, w, h in pixels of each; cut to the image where one reaches over.

        Raises:
            UsageError: the frame or a box cannot be used; tracks that were running go on.
        """
        check_frame(frame)
        if not boxes:
            raise UsageError("there is nothing to track: give at least one box")
        height, width = frame.shape[:2]
        crop = self.bundle.manifest.crop
        valid = [validate_box(box, height, width) for box in boxes]
        targets = [Target(box, crop, self.policy) for box in valid]
        started = time.perf_counter()
        crops = [target.template(frame) for target in targets]
        cropped = time.perf_counter()
        self._states = [self.engine.initial_state(*batch) for batch in self._batches(crops)]
        self.timings = StepTimings(cropped - started, time.perf_counter() - cropped)
        self._targets = targets
        self._shape = frame.shape

    def update(self, frame: Frame) -> list[TrackResult]:
        """Find every target in the next frame; results in the order of the boxes given to ``init``.

        Raises:
            UsageError: not initialised, not a BGR uint8 frame, or of another size than before.
        """
        if not self._targets:
            raise UsageError("the tracker has no target yet: call init(frame, box) first")
        check_frame(frame)
        if frame.shape != self._shape:
            raise UsageError(
                f"the frame is {frame.shape[1]} x {frame.shape[0]}, the frames before were "
                f"{self._shape[1]} x {self._shape[0]}: call init(frame, box) again"
            )
        height, width = frame.shape[:2]
        started = time.perf_counter()
        crops = [target.search(frame) for target in self._targets]
        cropped = time.perf_counter()
        boxes, confidences = [], []
        for call, (patches, masks) in enumerate(self._batches(crops)):
            prediction, self._states[call] = self.engine.step(patches, masks, self._states[call])
            boxes += list(prediction.box)
            confidences += prediction.confidence.tolist()
        self.timings = StepTimings(cropped - started, time.perf_counter() - cropped)
        # Answers about the copies that fill up the last call are beyond the last target.
        answers = zip(self._targets, boxes, confidences, strict=False)
        return [target.settle(box, confidence, height, width) for target, box, confidence in answers]

    def _batches(self, crops: Sequence[Crop]) -> Iterator[Batch]:
        """Crops stacked as the engine takes them; a fixed batch is filled up with copies of its last crop."""
        fixed = self.bundle.manifest.batch
        size = fixed if isinstance(fixed, int) else len(crops)
        for first in range(0, len(crops), size):
            part = list(crops[first : first + size])
            part += part[-1:] * (self.bundle.manifest.smallest_batch - len(part))
            yield np.stack([crop.patch for crop in part]), np.stack([crop.mask for crop in part])


def check_frame(frame: Frame) -> None:
    """Raises UsageError where ``frame`` is not BGR uint8."""
    shape, dtype = getattr(frame, "shape", None), getattr(frame, "dtype", None)
    if dtype != np.uint8 or shape is None or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        hint = ""
        if shape is not None and (len(shape) == 2 or shape[-1] == 1):
            hint = "; convert a grey image with cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)"
        elif shape is not None and len(shape) == 3 and shape[2] == 4:
            hint = "; convert a 4-channel image with cv2.cvtColor(frame, cv2.COLOR_BGRA2BGR)"
        raise UsageError(f"a frame must be BGR uint8 (height, width, 3), not {dtype} {shape}{hint}")
