"""Which frames of a sequence tell most about how it went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sttrack_deploy.evaluation.confidence import BAD_IOU, GOOD_IOU
from sttrack_deploy.evaluation.report import SequenceReport

__all__ = ["KeyFrame", "find_key_frames", "stretches"]

BoolArray = npt.NDArray[np.bool_]

STAYS = 5
"""Frames that the IoU stays low for a failure to be one, and not a slip."""
SURE = 0.5
"""Confidence from which on a wrong frame is a confident one."""


@dataclass(frozen=True, slots=True)
class KeyFrame:
    """A frame worth looking at.

    Attributes:
        frame: 0-based.
        reason: why, in a few words.
    """

    frame: int
    reason: str


def find_key_frames(report: SequenceReport, count: int = 5) -> tuple[KeyFrame, ...]:
    """The frames of a run that say most, in order: around the first failure, the longest one, and confident errors.

    Returns:
        ``count`` of them, or all that there are; the first frame, which the tracker was given, only for want
        of others.
    """
    chosen: dict[int, str] = {}
    for frame, reason, apart in _candidates(report, count):
        if len(chosen) == count:
            break
        if all(abs(frame - other) >= apart for other in chosen):
            chosen[frame] = reason
    return tuple(KeyFrame(frame, chosen[frame]) for frame in sorted(chosen))


def stretches(flags: BoolArray) -> list[tuple[int, int]]:
    """Runs of True: their first index, and the first after them."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _candidates(report: SequenceReport, count: int) -> Iterator[tuple[int, str, int]]:
    """Frames with a reason and the least distance to those taken before; the most telling first."""
    frames, tracked = report.frames, np.arange(report.frames) > 0
    present = report.present & tracked
    # Absent frames are neither good nor missed.
    overlap = np.where(present, report.overlap, (BAD_IOU + GOOD_IOU) / 2)
    missed, good = overlap < BAD_IOU, overlap > GOOD_IOU
    good[0] = True
    failures = [run for run in stretches(missed) if run[1] - run[0] >= STAYS] or stretches(missed)
    apart = max(1, frames // 40)  # neighbours look alike in a long sequence
    if failures:
        start = failures[0][0]
        yield start, "fails here", 1
        # Not the very frame before it, which looks the same.
        yield int(np.flatnonzero(good[: max(1, start - 2)])[-1]), "before it fails", 1
    yield from _confident_error(report, missed, tracked & ~present, apart)
    if failures:
        begin, end = max(failures, key=lambda run: run[1] - run[0])
        length = f"{end - begin} frame{'s' if end - begin > 1 else ''}"
        yield (begin + end) // 2, f"longest failure: {length}", apart
        if good[start:].any():
            yield start + int(np.argmax(good[start:])), "good again", apart
    gone = stretches(tracked & ~present)
    if gone:
        begin, end = max(gone, key=lambda run: run[1] - run[0])
        yield (begin + end) // 2, "target absent", apart
    lowest = np.argsort(np.where(present, overlap, np.inf), kind="stable")[: int(present.sum())]
    # The same frames once more in case that the first pass, which keeps them well apart, is not enough.
    for distance in (max(apart, frames // (2 * count)), 1):
        yield from ((frame, "lowest IoU", distance) for frame in lowest.tolist())
    yield from ((frame, "target absent", 1) for frame in np.flatnonzero(tracked & ~present).tolist())
    yield 0, "first frame", 1


def _confident_error(
    report: SequenceReport, missed: BoolArray, absent: BoolArray, apart: int
) -> Iterator[tuple[int, str, int]]:
    """The most confident wrong frame, if a tracker that is sure of itself said it."""
    if report.run.confidences is None:
        return
    wrong = missed | absent
    if report.run.lost is not None:
        wrong &= ~report.run.lost
    confidence = np.where(wrong, np.nan_to_num(report.run.confidences), -1.0)
    frame = int(np.argmax(confidence))
    if confidence[frame] >= SURE:
        yield frame, "sure, but the target is absent" if absent[frame] else "sure, but wrong", apart
