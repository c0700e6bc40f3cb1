"""Closed loop: does a converted bundle still track the boxes of PyTorch?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.runner import BundleTracker, run_sequence, run_sequences
from sttrack_deploy.export.precision.options import Watch
from sttrack_deploy.geometry import Box
from sttrack_deploy.progress import SILENT, Progress
from sttrack_deploy.runtime.tracker import Tracker, TrackResult
from sttrack_deploy.sequences.datasets.folder import read_folder
from sttrack_deploy.sequences.sequence import VideoSequence, usable_truth
from sttrack_deploy.sequences.track_run import TrackRun
from sttrack_deploy.verification.agreement import GATES, Agreement, Verdict, agree, judge
from sttrack_deploy.verification.closed_loop import demo_sequence

__all__ = ["DEMO", "GateData", "Gated", "gate", "gate_data", "track"]

DEMO = "the demo clip only"

"""Told how many more frames are done."""


@dataclass(frozen=True, slots=True)
class GateData:
    """Annotated sequences and what to call them."""

    name: str
    sequences: tuple[VideoSequence, ...]

    @property
    def frames(self) -> int:
        return sum(len(sequence) for sequence in self.sequences)


@contextlib.contextmanager
def gate_data(folders: Sequence[Path]) -> Iterator[GateData]:
    """The annotated videos of some folders; without any the demo clip, rendered to files for as long as it is used.

    Raises:
        UserError: a folder holds no annotated video.
    """
    if folders:
        name = " + ".join(folder.resolve().name for folder in folders)
        yield GateData(name, tuple(sequence for folder in folders for sequence in read_folder(folder)))
        return
    with demo_sequence() as sequence:
        yield GateData(DEMO, (sequence,))


def track(
    bundle: Bundle,
    engine: str,
    data: GateData,
    threads: int | None = None,
    progress: Progress = SILENT,
    window: int = 0,
) -> list[TrackRun]:
    """Track every sequence from its first true box.

    Args:
        window: start again on the true box after so many frames; 0: never. Two trackers that differ by a rounding part
            for good at the first crop that is cut a pixel further, and what they do then is chance. Windows keep chance
            from piling up, so that a small loss can be seen on few videos.

    Raises:
        UserError: one cannot be tracked.
    """
    make = BundleTracker(bundle.path, engine, threads)
    if window:
        tracker = make()
        return [run_sequence(_Restarted(tracker, s, window), s, progress) for s in data.sequences]
    runs = []
    for run in run_sequences(make, list(data.sequences), progress=progress):
        if not isinstance(run, TrackRun):
            raise UserError(f"{run.name} could not be tracked by {engine}: {run.error}")
        runs.append(run)
    return runs


class _Restarted:
    """A tracker that is put back on the true box every so many frames."""

    def __init__(self, tracker: Tracker, sequence: VideoSequence, window: int) -> None:
        self._tracker, self._truth, self._window = tracker, sequence.truth, window
        self._usable = usable_truth(sequence.truth)
        self._index = 0

    def init(self, frame: npt.NDArray[np.uint8], box: Box) -> None:
        self._index = 0
        self._tracker.init(frame, box)

    def update(self, frame: npt.NDArray[np.uint8]) -> TrackResult:
        self._index += 1
        if self._index % self._window or not self._usable[self._index]:
            return self._tracker.update(frame)
        x, y, w, h = self._truth[self._index].tolist()
        self._tracker.init(frame, (x, y, w, h))
        return TrackResult((x, y, w, h), 1.0, False)


def gate(
    name: str, data: GateData, reference: list[TrackRun], candidate: list[TrackRun]
) -> tuple[Agreement, Verdict]:
    """How far two runs agree, and whether that is enough for a precision of that name."""
    agreement = agree(data.sequences, reference, candidate)
    return agreement, judge(agreement, GATES[name])


@dataclass(frozen=True, slots=True)
class Gated:
    """The gate of one precision, with PyTorch's runs, which every candidate is held against.

    Attributes:
        precision: of ``agreement.GATES``.
        reference: PyTorch's run of each sequence.
    """

    precision: str
    data: GateData
    reference: list[TrackRun]

    def judge(self, trial: Bundle, threads: int | None, watch: Watch) -> tuple[bool, dict[str, Any]]:
        """Closed loop of a converted bundle in ONNX Runtime: whether it passed, and what to record."""
        candidate = track(trial, "onnxruntime", self.data, threads, watch)
        agreement, verdict = gate(self.precision, self.data, self.reference, candidate)
        return verdict.passed, {
            "passed": verdict.passed,
            "detail": verdict.detail,
            "data": self.data.name,
            "sequences": len(self.data.sequences),
            "frames": self.data.frames,
            "engine": "onnxruntime",
            "mean_iou": round(agreement.mean_iou, 5),
            "share_lost": round(agreement.lost, 5),
            "share_found": round(agreement.found, 5),
            "auc": round(agreement.auc, 5),
            "auc_pytorch": round(agreement.auc_reference, 5),
        }
