"""Running a tracker over annotated sequences, one after the other or in worker processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import open_bundle
from sttrack_deploy.engines.registry import DEFAULT_BACKEND, load_engine
from sttrack_deploy.errors import UserError
from sttrack_deploy.geometry import Box
from sttrack_deploy.policy import NO_CHANGES, PolicyChanges
from sttrack_deploy.progress import SILENT, Progress
from sttrack_deploy.runtime.tracker import Tracker, TrackResult
from sttrack_deploy.runtime.worker_pool import in_workers
from sttrack_deploy.sequences.sequence import SequenceFailure, TrackRun, VideoSequence, frames_of

__all__ = [
    "BundleTracker",
    "SingleTargetTracker",
    "run_sequence",
    "run_sequences",
]


class SingleTargetTracker(Protocol):
    """What can be measured: :class:`~sttrack_deploy.runtime.tracker.Tracker`, or another tracker dressed as one."""

    def init(self, frame: npt.NDArray[np.uint8], box: Box) -> None: ...

    def update(self, frame: npt.NDArray[np.uint8]) -> TrackResult: ...


@dataclass(frozen=True, slots=True)
class BundleTracker:
    """Makes a tracker from a bundle; plain values only, so that it can be sent to a worker process."""

    bundle: Path | None = None
    engine: str = DEFAULT_BACKEND
    threads: int | None = None
    changes: PolicyChanges = NO_CHANGES

    def __call__(self) -> Tracker:
        if self.threads is not None:
            cv2.setNumThreads(self.threads)
        bundle = open_bundle(self.bundle)
        policy = bundle.manifest.tracking.override(self.changes)
        return Tracker(bundle, load_engine(self.engine, bundle, self.threads), policy)


def run_sequence(
    tracker: SingleTargetTracker, sequence: VideoSequence, progress: Progress = SILENT
) -> TrackRun:
    """Start on the first frame's true box and track to the end.

    Raises:
        UserError: the frames cannot be read or do not fit the truth, or the tracker refuses one.
    """
    boxes = np.empty((len(sequence), 4))
    confidences, lost = np.ones(len(sequence)), np.zeros(len(sequence), np.bool_)
    times = np.empty(len(sequence))
    begin = time.perf_counter()
    for index, frame in enumerate(frames_of(sequence)):
        start = time.perf_counter()
        if index == 0:
            x, y, w, h = sequence.truth[0].tolist()
            tracker.init(frame, (x, y, w, h))
            times[0] = time.perf_counter() - start
            boxes[0] = x, y, w, h
        else:
            result = tracker.update(frame)
            times[index] = time.perf_counter() - start
            boxes[index], confidences[index], lost[index] = result
        progress.advance()
    return TrackRun(sequence.name, boxes, confidences, lost, times, time.perf_counter() - begin)


def run_sequences(
    make_tracker: Callable[[], SingleTargetTracker],
    sequences: list[VideoSequence],
    workers: int = 1,
    progress: Progress = SILENT,
) -> Generator[TrackRun | SequenceFailure, None, None]:
    """Run every sequence, giving each result as soon as it is there; a failure does not end the run.

    With one worker the order is that of ``sequences`` and one tracker serves them all; otherwise the order
    is that of completion, ``make_tracker`` must be picklable, and ``progress`` advances a sequence at a time.
    Boxes do not depend on the number of workers, since every track starts afresh.

    Raises:
        UserError: the tracker cannot be made.
    """
    if workers > 1 and len(sequences) > 1:
        yield from _run_in_processes(make_tracker, sequences, min(workers, len(sequences)), progress)
        return
    tracker = make_tracker()
    for sequence in sequences:
        counted = _Counted(progress)
        result = _guarded(tracker, sequence, counted)
        progress.advance(len(sequence) - counted.done)  # what a failure left over
        yield result


@dataclass(slots=True)
class _Counted:
    """Hands on what it is told, and counts the steps."""

    progress: Progress
    done: int = 0

    def stage(self, name: str, total: int | None = None) -> None:
        self.progress.stage(name, total)

    def advance(self, count: int = 1) -> None:
        self.done += count
        self.progress.advance(count)

    def note(self, text: str) -> None:
        self.progress.note(text)


def _guarded(
    tracker: SingleTargetTracker, sequence: VideoSequence, progress: Progress = SILENT
) -> TrackRun | SequenceFailure:
    """A run, or the line that says why there is none."""
    try:
        return run_sequence(tracker, sequence, progress)
    except UserError as error:
        return SequenceFailure(sequence.name, str(error))
    except Exception as error:  # a back end's own: one bad sequence must not cost the others
        text = " ".join(str(error).split())
        return SequenceFailure(sequence.name, f"{type(error).__name__}: {text}" if text else repr(error))


def _run_in_processes(
    make_tracker: Callable[[], SingleTargetTracker],
    sequences: list[VideoSequence],
    workers: int,
    progress: Progress,
) -> Generator[TrackRun | SequenceFailure, None, None]:
    left = {sequence.name: len(sequence) for sequence in sequences}
    # Longest first, so that the last worker does not end long after the others.
    ordered = sorted(sequences, key=len, reverse=True)
    for result in in_workers(make_tracker, _guarded, ordered, workers, lost=_killed):
        progress.advance(left[result.name])
        yield result


def _killed(sequence: VideoSequence) -> SequenceFailure:
    return SequenceFailure(
        sequence.name, "not run, because a worker process was killed (out of memory?); try fewer --workers"
    )
