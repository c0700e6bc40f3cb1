"""Tracking a sequence, or its beginning, the way the evaluation does."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.runner import SingleTargetTracker
from sttrack_deploy.evaluation.sequence import Sequence, frames_of
from sttrack_deploy.evaluation.sequence_run import SequenceRun
from sttrack_deploy.runtime.demo import DemoClip

__all__ = ["DEMO", "Beginning", "demo_sequence", "track_beginning"]

DEMO = "demo clip"


@dataclasses.dataclass(frozen=True, slots=True)
class Beginning:
    """The first frames of a sequence.

    Attributes:
        whole: the sequence as it lies on the disk.
        frames: how many of its frames count; at least 2 and at most all.
    """

    whole: Sequence
    frames: int

    @classmethod
    def of(cls, sequence: Sequence, limit: int | None) -> Beginning:
        """At most ``limit`` frames."""
        return cls(sequence, len(sequence) if limit is None else min(limit, len(sequence)))

    @property
    def sequence(self) -> Sequence:
        """The annotation of these frames alone, for scoring."""
        whole, end = self.whole, self.frames
        return dataclasses.replace(
            whole,
            truth=whole.truth[:end],
            absent=None if whole.absent is None else whole.absent[:end],
            occluded=None if whole.occluded is None else whole.occluded[:end],
        )


def track_beginning(
    tracker: SingleTargetTracker, beginning: Beginning, tick: Callable[[], None] = lambda: None
) -> SequenceRun:
    """Start on the first true box and track to the last frame that counts; see ``evaluation.runner``.

    Raises:
        UserError: the frames cannot be read or do not fit the truth, or the tracker refuses one.
    """
    sequence = beginning.whole
    boxes, confidences = np.empty((beginning.frames, 4)), np.ones(beginning.frames)
    lost = np.zeros(beginning.frames, np.bool_)
    count = 0
    # Reading a video to its end also checks that it is as long as its truth.
    frames = frames_of(sequence)
    whole = beginning.frames == len(sequence)
    for index, frame in enumerate(frames if whole else islice(frames, beginning.frames)):
        if index == 0:
            x, y, w, h = sequence.truth[0].tolist()
            tracker.init(frame, (x, y, w, h))
            boxes[0] = x, y, w, h
        else:
            boxes[index], confidences[index], lost[index] = tracker.update(frame)
        count += 1
        tick()
    if count != beginning.frames:
        raise UserError(
            f"{sequence.source} ends after {count} frames, its ground truth has {len(sequence)} lines"
        )
    return SequenceRun(sequence.name, boxes, confidences, lost)


@contextlib.contextmanager
def demo_sequence(frames: int | None = None) -> Iterator[Sequence]:
    """The demo clip as an annotated sequence, its frames as lossless images in a folder that goes away."""
    clip = DemoClip()
    count = len(clip.truth) if frames is None else min(frames, len(clip.truth))
    with tempfile.TemporaryDirectory(prefix="sttrack-demo-") as folder:
        for index in range(count):
            file = str(Path(folder) / f"{index:05d}.png")
            if not cv2.imwrite(file, clip.frame(index), [cv2.IMWRITE_PNG_COMPRESSION, 1]):
                raise UserError(f"cannot write {file}; is there space left for the demo clip?")
        yield Sequence(DEMO, Path(folder), np.array(clip.truth[:count], np.float64))
