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
from sttrack_deploy.engines.base import Engine, EngineState, check_finite
from sttrack_deploy.engines.registry import DEFAULT_BACKEND, load_engine
from sttrack_deploy.errors import UsageError
from sttrack_deploy.geometry import validate_box
from sttrack_deploy.runtime.target import Target, TrackResult
from sttrack_deploy.runtime.track_state import TrackerState, pack, unpack

__all__ = ["MultiTracker", "StepTimings", "calls_for", "first_look"]

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


def first_look(engine: Engine, template: Batch, search: Batch) -> npt.NDArray[np.float32]:
    """The network's boxes ``(B, 4)`` on the frame that targets start on; their tracks begin with a fresh state.

    Args:
        template, search: crops and masks of that frame, as :class:`~sttrack_deploy.engines.base.Engine` takes them.

    Raises:
        UserError: the network's numbers are not finite.
    """
    prediction, _ = engine.step(*search, engine.initial_state(*template))
    check_finite(engine.name, prediction, 0)
    return prediction.box


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
        self._frame = 0
        self._states: list[EngineState] = []
        self._shape: tuple[int, int, int] = (0, 0, 0)

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
        return cls(bundle, load_engine(engine, bundle, threads), policy)

    @classmethod
    def from_state(
        cls,
        data: bytes,
        bundle: Bundle | str | Path | None = None,
        engine: str | Engine = DEFAULT_BACKEND,
        threads: int | None = None,
        policy: TrackingPolicy | None = None,
    ) -> MultiTracker:
        """Go on where a tracker was that exported its state, on any engine and in any process.

        Args:
            data: of :meth:`export_state`.
            bundle: the same bundle, or one converted from it to another precision or batch.
            engine: an engine's name, or one that is made already.
            policy: another one than it had.

        Raises:
            UserError: the bytes are not such a state, or not of this bundle; or see :meth:`from_bundle`.
        """
        opened = (
            bundle if isinstance(bundle, Bundle) else open_bundle(None if bundle is None else Path(bundle))
        )
        state = unpack(data, opened)
        made = load_engine(engine, opened, threads) if isinstance(engine, str) else engine
        tracker = cls(opened, made, policy or state.policy)
        tracker._restore(state)
        return tracker

    def export_state(self) -> bytes:
        """Everything that is carried from frame to frame; tracking goes on as before.

        Raises:
            UsageError: there is no target yet.
        """
        if not self._targets:
            raise UsageError("the tracker has no target yet: call init(frame, box) first")
        calls = [self.engine.export_state(state) for state in self._states]
        count = len(self._targets)  # rows beyond are copies that fill up the last call
        arrays = {name: np.concatenate([call[name] for call in calls])[:count] for name in calls[0]}
        memories = tuple(target.memory() for target in self._targets)
        return pack(TrackerState(self._shape[:2], self.policy, memories, arrays), self.bundle)

    def _restore(self, state: TrackerState) -> None:
        crop = self.bundle.manifest.crop
        self._shape = (*state.frame, 3)
        self._targets = [Target(memory.box, crop, self.policy) for memory in state.targets]
        for target, memory in zip(self._targets, state.targets, strict=True):
            target.recall(memory)
        rows = self._rows(len(self._targets))
        self._states = [
            self.engine.import_state({name: value[row] for name, value in state.arrays.items()})
            for row in rows
        ]

    @property
    def targets(self) -> Sequence[Target]:
        """The targets, in the order of the boxes that ``init`` was given."""
        return self._targets

    @property
    def states(self) -> Sequence[EngineState]:
        """The engine's states, one for each call, each for as many targets in turn as a call takes."""
        return self._states

    def resume(
        self, targets: Sequence[Target], states: Sequence[EngineState], shape: tuple[int, ...]
    ) -> None:
        """Go on with targets and states of another tracker of the same bundle and engine.

        Args:
            shape: of the frames to come, ``(height, width, 3)``.
        """
        height, width = shape[:2]
        self._targets, self._states, self._shape = list(targets), list(states), (height, width, 3)

    def init(self, frame: Frame, boxes: Sequence[Sequence[float]]) -> None:
        """Start on new targets; tracks that were running are forgotten.

        Args:
            frame: BGR uint8 ``(height, width, 3)``.
            boxes: x, y, w, h in pixels of each; cut to the image where one reaches over.

        Raises:
            UsageError: the frame or a box cannot be used; tracks that were running go on.
            UserError: the network's numbers are not finite; the same.
        """
        check_frame(frame)
        if not hasattr(boxes, "__len__") or not len(boxes):
            raise UsageError("there is nothing to track: give at least one box")
        height, width = frame.shape[:2]
        crop = self.bundle.manifest.crop
        valid = [validate_box(box, height, width) for box in boxes]
        targets = [Target(box, crop, self.policy) for box in valid]
        started = time.perf_counter()
        templates = list(self._batches([target.template(frame) for target in targets]))
        cropped = time.perf_counter()
        if self.policy.box_correction > 0:
            self._correct(frame, targets, templates)
        self._states = [self.engine.initial_state(*batch) for batch in templates]
        self.timings = StepTimings(cropped - started, time.perf_counter() - cropped)
        self._targets = targets
        self._frame = 0
        self._shape = (height, width, 3)

    def _correct(self, frame: Frame, targets: Sequence[Target], templates: Sequence[Batch]) -> None:
        """Look for the targets on the frame they start on, where their boxes are known."""
        boxes: list[npt.NDArray[np.float32]] = []
        searches = self._batches([target.search(frame) for target in targets])
        for template, search in zip(templates, searches, strict=True):
            boxes += list(first_look(self.engine, template, search))
        for target, box in zip(targets, boxes, strict=False):
            target.learn_correction(box)

    def update(self, frame: Frame) -> list[TrackResult]:
        """Find every target in the next frame; results in the order of the boxes given to ``init``.

        Raises:
            UsageError: not initialized, not a BGR uint8 frame, or of another size than before.
            UserError: the network's numbers are not finite.
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
            check_finite(self.engine.name, prediction, self._frame + 1)
            boxes += list(prediction.box)
            confidences += prediction.confidence.tolist()
        self.timings = StepTimings(cropped - started, time.perf_counter() - cropped)
        self._frame += 1
        # Answers about the copies that fill up the last call are beyond the last target.
        answers = zip(self._targets, boxes, confidences, strict=False)
        return [target.settle(box, confidence, height, width) for target, box, confidence in answers]

    def _batches(self, crops: Sequence[Crop]) -> Iterator[Batch]:
        """Crops stacked as the engine takes them."""
        for rows in self._rows(len(crops)):
            part = [crops[row] for row in rows]
            yield np.stack([crop.patch for crop in part]), np.stack([crop.mask for crop in part])

    def _rows(self, count: int) -> Iterator[list[int]]:
        """The targets of each call of the engine; a fixed batch is filled up with copies of its last one."""
        fixed = self.bundle.manifest.batch
        size = fixed if isinstance(fixed, int) else count
        for first in range(0, count, size):
            rows = list(range(first, min(first + size, count)))
            yield rows + rows[-1:] * (self.bundle.manifest.smallest_batch - len(rows))


def check_frame(frame: Frame) -> None:
    """Raises UsageError where ``frame`` is not BGR uint8."""
    shape, dtype = getattr(frame, "shape", None), getattr(frame, "dtype", None)
    if dtype != np.uint8 or shape is None or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        hint = ""
        if shape is not None and (len(shape) == 2 or shape[-1] == 1):
            hint = "; convert a gray image with cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)"
        elif shape is not None and len(shape) == 3 and shape[2] == 4:
            hint = "; convert a 4-channel image with cv2.cvtColor(frame, cv2.COLOR_BGRA2BGR)"
        raise UsageError(f"a frame must be BGR uint8 (height, width, 3), not {dtype} {shape}{hint}")
