"""Running a tracker over annotated sequences, one after the other or in worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import open_bundle
from sttrack_deploy.engines.registry import DEFAULT_BACKEND, create_engine
from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.sequence import Sequence, frames_of
from sttrack_deploy.evaluation.sequence_run import SequenceFailure, SequenceRun
from sttrack_deploy.geometry import Box
from sttrack_deploy.runtime.tracker import Tracker, TrackResult

__all__ = [
    "BundleTracker",
    "Progress",
    "SingleTargetTracker",
    "run_sequence",
    "run_sequences",
    "threads_each",
]

Progress = Callable[[int], None]
"""Told how many more frames are done."""


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
    lost_below: float | None = None
    recover: bool | None = None

    def __call__(self) -> Tracker:
        if self.threads is not None:
            cv2.setNumThreads(self.threads)
        bundle = open_bundle(self.bundle)
        policy = bundle.manifest.tracking.override(self.lost_below, self.recover)
        return Tracker(bundle, create_engine(self.engine, bundle, self.threads), policy)


def run_sequence(
    tracker: SingleTargetTracker, sequence: Sequence, progress: Progress = lambda _: None
) -> SequenceRun:
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
        progress(1)
    return SequenceRun(sequence.name, boxes, confidences, lost, times, time.perf_counter() - begin)


def run_sequences(
    make_tracker: Callable[[], SingleTargetTracker],
    sequences: list[Sequence],
    workers: int = 1,
    progress: Progress = lambda _: None,
) -> Generator[SequenceRun | SequenceFailure, None, None]:
    """Run every sequence, giving each result as soon as it is there; a failure does not end the run.

    With one worker the order is that of ``sequences`` and one tracker serves them all; otherwise the order
    is that of completion, ``make_tracker`` must be picklable, and ``progress`` moves a sequence at a time.
    Boxes do not depend on the number of workers, since every track starts afresh.

    Raises:
        UserError: the tracker cannot be made.
    """
    if workers > 1 and len(sequences) > 1:
        yield from _run_in_processes(make_tracker, sequences, min(workers, len(sequences)), progress)
        return
    tracker = make_tracker()
    for sequence in sequences:
        done = 0

        def advance(frames: int) -> None:
            nonlocal done
            done += frames
            progress(frames)

        result = _guarded(tracker, sequence, advance)
        progress(len(sequence) - done)  # what a failure left over
        yield result


def threads_each(threads: int | None, workers: int) -> int | None:
    """Threads for each worker's inference, so that workers do not fight for the CPUs.

    A number asked for is kept. ``None`` stays ``None`` (the back end decides) for one worker.
    """
    if threads is not None or workers <= 1:
        return threads
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    cpus = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    return max(1, cpus // workers)


def _guarded(
    tracker: SingleTargetTracker, sequence: Sequence, progress: Progress = lambda _: None
) -> SequenceRun | SequenceFailure:
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
    sequences: list[Sequence],
    workers: int,
    progress: Progress,
) -> Generator[SequenceRun | SequenceFailure, None, None]:
    # "spawn", because a process that has started inference threads cannot be forked safely.
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, context, _start_worker, (make_tracker,))
    left = {sequence.name: len(sequence) for sequence in sequences}
    try:
        # Longest first, so that the last worker does not end long after the others.
        ordered = sorted(sequences, key=len, reverse=True)
        for future in as_completed([pool.submit(_work, sequence) for sequence in ordered]):
            result = future.result()
            progress(left.pop(result.name))
            yield result
    except BrokenProcessPool:
        for name, frames in left.items():
            progress(frames)
            yield SequenceFailure(
                name, "not run, because a worker process was killed (out of memory?); try fewer --workers"
            )
    except BaseException:  # Ctrl-C and a closed generator too: nobody waits for what still runs
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    pool.shutdown()


_make_tracker: Callable[[], SingleTargetTracker] | None = None
_tracker: SingleTargetTracker | None = None


def _start_worker(make_tracker: Callable[[], SingleTargetTracker]) -> None:
    """Runs once in each worker process."""
    global _make_tracker
    # Ctrl-C reaches the whole group; the parent alone answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _make_tracker = make_tracker


def _work(sequence: Sequence) -> SequenceRun | SequenceFailure:
    """Run one sequence in a worker, with the tracker that serves this process."""
    global _tracker
    if _tracker is None:
        assert _make_tracker is not None
        _tracker = _make_tracker()
    return _guarded(_tracker, sequence)
