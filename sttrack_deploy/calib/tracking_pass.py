"""One pass over a sequence: all its tracks side by side, so that each frame is decoded once.

A track goes after the boxes that the network finds, or along boxes that are known already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import Bundle, TrackingPolicy
from sttrack_deploy.calib.sampling import PlannedTrack
from sttrack_deploy.engines.base import Engine, EngineState, check_finite
from sttrack_deploy.errors import UsageError
from sttrack_deploy.evaluation.runner import SingleTargetTracker
from sttrack_deploy.geometry import Box, uncorrected, validate_box
from sttrack_deploy.runtime.multi_tracker import first_look
from sttrack_deploy.runtime.target import Target, TrackResult
from sttrack_deploy.sequences.sequence import TrackRun, VideoSequence, frames_of

__all__ = ["FollowedRun", "Step", "track_sequence"]


Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Step:
    """Something that a track did on a frame.

    Attributes:
        track: index among the tracks of the pass.
        frame: of the sequence.
        number: steps since the track's start; 0: it was started here.
        result: ``None`` for the start.
    """

    track: int
    frame: int
    number: int
    result: TrackResult | None


class _Running:
    """A track on its way."""

    def __init__(self, plan: PlannedTrack, tracker: SingleTargetTracker) -> None:
        self.plan = plan
        self.tracker = tracker
        self.started: int | None = None
        self.last: TrackResult | None = None

    def waits(self, index: int) -> bool:
        """Whether it may start here; a box of its own is right on one frame only."""
        if self.started is not None or index >= self.plan.end - 1:
            return False
        return index == self.plan.frame if self.plan.box else index >= self.plan.frame

    def runs(self, index: int) -> bool:
        return self.started is not None and index < self.plan.end


def track_sequence(
    sequence: VideoSequence,
    plans: Sequence[PlannedTrack],
    make: Callable[[PlannedTrack], SingleTargetTracker],
    prepare: Callable[[int, int], None] = lambda *_: None,
) -> Iterator[Step]:
    """Run a sequence's tracks and report each step just after it was made.

    A later track without a box of its own starts on the first track's, once that one is not lost. A box that lies
    outside the image is not started on.

    Args:
        plans: tracks of this sequence.
        make: the tracker for one of them.
        prepare: told track and frame just before an update.

    Raises:
        UserError: the frames cannot be read.
        UsageError: the one box that the user gave lies outside the image.
    """
    if not plans:  # of a single frame
        return
    running = [_Running(plan, make(plan)) for plan in plans]
    end = max(plan.end for plan in plans)
    for index, image in enumerate(frames_of(sequence)):
        if index >= end:
            return
        for track, one in enumerate(running):
            if one.runs(index):
                prepare(track, index)
                one.last = one.tracker.update(image)
                yield Step(track, index, index - (one.started or 0), one.last)
            elif one.waits(index) and _start(one, image, running[0], given=not sequence.scorable):
                one.started = index
                yield Step(track, index, 0, None)


def _start(one: _Running, image: Frame, first: _Running, *, given: bool) -> bool:
    box = one.plan.box or _believed(first)
    if box is None:
        return False
    try:
        box = validate_box(box, *image.shape[:2])
    except UsageError:
        if given and one.plan.number == 0:
            raise
        return False
    one.tracker.init(image, box)
    return True


def _believed(first: _Running) -> Box | None:
    return None if first.last is None or first.last.lost else first.last.box


Scalar = TypeVar("Scalar", bound=np.generic)


class FollowedRun:
    """Looks like a tracker; each crop is cut around the box that an evaluation run has on the frame before.

    Where the run held its box, the crop stays on the last one that was followed and grows, as the tracker's did.
    Result files round boxes to a hundredth of a pixel, so the crops are those of the run but for
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
        target = self._target = Target(box, self._crop, self._policy)
        crop = target.template(frame)
        template = self._batched(crop.patch), self._batched(crop.mask)
        # Files of other trackers hold boxes alone, and nobody corrected those.
        if self._policy.box_correction > 0 and self._run.confidences is not None:
            look = target.search(frame)
            search = self._batched(look.patch), self._batched(look.mask)
            target.learn_correction(first_look(self._engine, template, search)[0])
        self._state = self._engine.initial_state(*template)
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
        if self._run.confidences is not None:  # whether it was held depends on what the run saw
            believed = result._replace(confidence=float(self._run.confidences[self._index]))
        else:
            believed = result
        # Other trackers' files may hold empty boxes; nobody can look around one.
        around = uncorrected((x, y, w, h), self._target.correction) if w > 0 and h > 0 else self._target.box
        self._target.believe(believed._replace(box=around))
        return result

    def _batched(self, array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        return np.repeat(array[None], self._copies, axis=0)
