"""Tracking sequences in closed loop: the way the evaluation does, or with one engine beside another."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.base import Engine
from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.runner import SingleTargetTracker, run_sequence
from sttrack_deploy.progress import SILENT, Progress
from sttrack_deploy.runtime.demo import DemoClip
from sttrack_deploy.runtime.tracker import Tracker
from sttrack_deploy.sequences.sequence import TrackRun, VideoSequence, frames_of
from sttrack_deploy.verification.gates import GATES, Agreement, Verdict, agree, judge

__all__ = [
    "DEMO",
    "Beginning",
    "EngineCheck",
    "Speed",
    "check_engine",
    "demo_sequence",
    "run_engine",
    "speed_of",
    "track_beginning",
]

DEMO = "demo clip"


@dataclasses.dataclass(frozen=True, slots=True)
class Beginning:
    """The first frames of a sequence.

    Attributes:
        whole: the sequence as it lies on the disk.
        frames: how many of its frames count; at least 2 and at most all.
    """

    whole: VideoSequence
    frames: int

    @classmethod
    def of(cls, sequence: VideoSequence, limit: int | None) -> Beginning:
        """At most ``limit`` frames."""
        return cls(sequence, len(sequence) if limit is None else min(limit, len(sequence)))

    @property
    def sequence(self) -> VideoSequence:
        """The annotation of these frames alone, for scoring."""
        whole, end = self.whole, self.frames
        return dataclasses.replace(
            whole,
            truth=whole.truth[:end],
            absent=None if whole.absent is None else whole.absent[:end],
            occluded=None if whole.occluded is None else whole.occluded[:end],
        )


def track_beginning(
    tracker: SingleTargetTracker,
    beginning: Beginning,
    progress: Progress = SILENT,
    tracked: Callable[[], None] = lambda: None,
) -> TrackRun:
    """Start on the first true box and track to the last frame that counts; see ``evaluation.runner``.

    Args:
        tracked: called after each frame.

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
        tracked()
        progress.advance()
    if count != beginning.frames:
        raise UserError(
            f"{sequence.source} ends after {count} frames, its ground truth has {len(sequence)} lines"
        )
    return TrackRun(sequence.name, boxes, confidences, lost)


@contextlib.contextmanager
def demo_sequence(frames: int | None = None) -> Iterator[VideoSequence]:
    """The demo clip as an annotated sequence, its frames as lossless images in a folder that goes away."""
    clip = DemoClip()
    count = len(clip.truth) if frames is None else min(frames, len(clip.truth))
    with tempfile.TemporaryDirectory(prefix="sttrack-demo-") as folder:
        for index in range(count):
            file = str(Path(folder) / f"{index:05d}.png")
            if not cv2.imwrite(file, clip.frame(index), [cv2.IMWRITE_PNG_COMPRESSION, 1]):
                raise UserError(f"cannot write {file}; is there space left for the demo clip?")
        yield VideoSequence(DEMO, Path(folder), np.array(clip.truth[:count], np.float64))


@dataclass(frozen=True, slots=True)
class Speed:
    """Milliseconds for one frame: crop, inference, box; without decoding. The first frames are left out."""

    p50: float
    p95: float
    p99: float
    frames: int

    @property
    def fps(self) -> float:
        return 1e3 / self.p50


@dataclass(frozen=True, slots=True)
class EngineCheck:
    """An engine beside its reference."""

    agreement: Agreement
    verdict: Verdict
    speed: Speed

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "passed": self.verdict.passed,
            "detail": self.verdict.detail,
            "mean_iou": self.agreement.mean_iou,
            "share_lost": self.agreement.lost,
            "share_found": self.agreement.found,
            "auc": self.agreement.auc,
            "auc_reference": self.agreement.auc_reference,
            "ms_p50": self.speed.p50,
            "ms_p95": self.speed.p95,
            "ms_p99": self.speed.p99,
            "fps": self.speed.fps,
            "frames": self.speed.frames,
        }


def run_engine(
    bundle: Bundle,
    engine: Engine,
    sequences: Sequence[VideoSequence],
    progress: Progress = SILENT,
) -> list[TrackRun]:
    """Track every sequence.

    Raises:
        UserError: a sequence cannot be read, or the engine fails.
    """
    tracker = Tracker(bundle, engine)
    return [run_sequence(tracker, sequence, progress) for sequence in sequences]


def check_engine(
    bundle: Bundle,
    sequences: Sequence[VideoSequence],
    reference: Sequence[TrackRun],
    runs: Sequence[TrackRun],
) -> EngineCheck:
    """Hold an engine's runs against the reference's with the gate of the bundle's precision."""
    agreement = agree(sequences, reference, runs)
    gate = GATES[str(bundle.manifest.precision["name"])]
    return EngineCheck(agreement, judge(agreement, gate), speed_of(runs))


WARM_UP = 10
"""Frames at the start of a sequence that are not timed: first calls prepare themselves."""


def speed_of(runs: Sequence[TrackRun]) -> Speed:
    """Percentiles over the frames of all runs."""
    times = np.concatenate(
        [run.times[min(WARM_UP, len(run.times) - 1) :] for run in runs if run.times is not None]
    )
    p50, p95, p99 = (1e3 * np.percentile(times, (50, 95, 99))).tolist()
    return Speed(p50, p95, p99, len(times))
