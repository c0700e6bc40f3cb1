"""One pass over a sequence: all its tracks side by side, so that each frame is decoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sttrack_deploy.calib.track_plan import PlannedTrack
from sttrack_deploy.errors import UsageError
from sttrack_deploy.evaluation.runner import SingleTargetTracker
from sttrack_deploy.geometry import Box, validate_box
from sttrack_deploy.runtime.tracker import TrackResult
from sttrack_deploy.sequences.sequence import VideoSequence, frames_of

__all__ = ["Step", "track_sequence"]

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
