"""Running a tracker over annotated sequences: one after the other, in worker processes, or a shard on each of several
machines, whose results are merged.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import open_bundle
from sttrack_deploy.engines.registry import DEFAULT_BACKEND, load_engine
from sttrack_deploy.errors import UsageError, UserError, one_line
from sttrack_deploy.files import atomic_path, sha256_of
from sttrack_deploy.geometry import Box
from sttrack_deploy.policy import NO_CHANGES, PolicyChanges
from sttrack_deploy.progress import SILENT, Progress
from sttrack_deploy.records import show
from sttrack_deploy.runtime.tracker import Tracker, TrackResult
from sttrack_deploy.runtime.worker_pool import in_workers
from sttrack_deploy.sequences.sequence import SequenceFailure, TrackRun, VideoSequence, frames_of

__all__ = [
    "BundleTracker",
    "Merged",
    "Shard",
    "SingleTargetTracker",
    "merge_results",
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
        text = one_line(error)
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


MOST_SHARDS = 10_000


@dataclass(frozen=True, slots=True)
class Shard:
    """Part ``index`` of ``count``, counted from 1."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From ``I/N``.

        Raises:
            UsageError: not that, or I is not in 1..N.
        """
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
        if match is None or not 1 <= int(match[1]) <= int(match[2]) <= MOST_SHARDS:
            raise UsageError(
                f"--shard is {show(text)}; it must be I/N with I from 1 to N, as 1/4, and N at most {MOST_SHARDS}"
            )
        return cls(int(match[1]), int(match[2]))

    def take(self, sequences: list[VideoSequence]) -> list[VideoSequence]:
        """This part's sequences, in their order; about the same number of frames in every part.

        All machines must see the same data: the parts are dealt by length, longest first, and none is told
        what the others took.
        """
        ordered = sorted(sequences, key=lambda s: (-len(s), s.name))
        loads = [0] * self.count
        mine = set()
        for sequence in ordered:
            part = loads.index(min(loads))
            loads[part] += len(sequence)
            if part == self.index - 1:
                mine.add(sequence.name)
        return [s for s in sequences if s.name in mine]


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did."""

    copied: int
    same: int


def merge_results(parts: Iterable[Path], target: Path) -> Merged:
    """Copy the result files of several folders into one, keeping the paths below each.

    A file that several parts have must be the same in all. Nothing is copied unless all of it fits.

    Raises:
        UserError: a part is missing or empty, two parts disagree on a file, or the copy fails.
    """
    wanted: dict[Path, Path] = {}
    same = 0
    for part in parts:
        if not part.is_dir():
            raise UserError(
                f"the results' folder {part} {'is not a folder' if part.exists() else 'does not exist'}"
            )
        files = sorted(
            p
            for p in part.rglob("*")
            if p.is_file() and not any(name.startswith(".") for name in p.relative_to(part).parts)
        )
        if not files:
            raise UserError(f"{part} holds no result files; was its part of the evaluation run with --out?")
        for file in files:
            path = file.relative_to(part)
            other = wanted.get(path, target / path)
            if not other.exists():
                wanted[path] = file
            elif sha256_of(other) == sha256_of(file):
                same += 1
            else:
                raise UserError(
                    f"{file} and {other} differ; both say what one tracker did in one sequence. "
                    "Were the parts run with different bundles? Remove one of them"
                )
    for path, file in wanted.items():
        with atomic_path(target / path) as temporary:
            shutil.copyfile(file, temporary)
    return Merged(len(wanted), same)
