"""Running the network along boxes that are known already, instead of those that it finds."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import Bundle, TrackingPolicy
from sttrack_deploy.engines.base import Engine, EngineState, check_finite
from sttrack_deploy.geometry import Box
from sttrack_deploy.runtime.target import Target, TrackResult
from sttrack_deploy.sequences.sequence import TrackRun

__all__ = ["FollowedRun"]

Frame = npt.NDArray[np.uint8]
Scalar = TypeVar("Scalar", bound=np.generic)


class FollowedRun:
    """Looks like a tracker; each crop is cut around the box that an evaluation run has on the frame before.

    Where the run was lost and the policy recovers, the crop stays on the last believed box and grows, as the
    tracker's did. Result files round boxes to a hundredth of a pixel, so the crops are those of the run but for
    a pixel now and then.
    """

    def __init__(self, bundle: Bundle, engine: Engine, policy: TrackingPolicy, run: TrackRun) -> None:
        self._engine = engine
        self._policy = policy
        self._run = run
        self._crop = bundle.manifest.crop
        self._target: Target | None = None
        self._copies = bundle.manifest.smallest_batch
        self._state: EngineState = None
        self._index = 0

    def init(self, frame: Frame, box: Box) -> None:
        """Start on the run's first frame."""
        self._target = Target(box, self._crop, self._policy)
        crop = self._target.template(frame)
        self._state = self._engine.initial_state(self._batched(crop.patch), self._batched(crop.mask))
        self._index = 0

    def update(self, frame: Frame) -> TrackResult:
        """The run's box; the confidence is the network's."""
        assert self._target is not None
        crop = self._target.search(frame)
        prediction, self._state = self._engine.step(
            self._batched(crop.patch), self._batched(crop.mask), self._state
        )
        self._index += 1
        check_finite(self._engine.name, prediction, self._index)
        x, y, w, h = self._run.boxes[self._index].tolist()
        confidence = float(prediction.confidence[0])
        known = self._run.lost
        lost = confidence < self._policy.lost_below if known is None else bool(known[self._index])
        result = TrackResult((x, y, w, h), confidence, lost)
        # Other trackers' files may hold empty boxes; nobody can look around one.
        self._target.believe(result if w > 0 and h > 0 else result._replace(box=self._target.box))
        return result

    def _batched(self, array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        return np.repeat(array[None], self._copies, axis=0)
