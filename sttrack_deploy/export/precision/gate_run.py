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
from sttrack_deploy.geometry import Box
from sttrack_deploy.progress import SILENT, Progress
from sttrack_deploy.runtime.tracker import Tracker, TrackResult
from sttrack_deploy.sequences.datasets.folder import read_folder
from sttrack_deploy.sequences.sequence import TrackRun, VideoSequence, usable_truth
from sttrack_deploy.verification.closed_loop import demo_sequence
from sttrack_deploy.verification.gates import GATES, Agreement, Verdict, agree, judge

__all__ = [
    "DEMO",
    "GateData",
    "GateResult",
    "Reference",
    "agreement_of",
    "gate",
    "gate_data",
    "track",
    "track_reference",
]

DEMO = "the demo clip only"
ENGINES = {"bf16": "openvino"}
"""What runs a precision that ONNX Runtime does not compute in."""


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


def agreement_of(data: GateData, reference: list[TrackRun], subject: list[TrackRun]) -> Agreement:
    """How far two runs of the same sequences agree."""
    return agree(data.sequences, reference, subject)


@dataclass(frozen=True, slots=True)
class Reference:
    """PyTorch's run of each sequence, which every converted bundle is held against."""

    data: GateData
    runs: list[TrackRun]


def track_reference(source: Bundle, data: GateData, threads: int | None, progress: Progress) -> Reference:
    """Track with PyTorch.

    Raises:
        UserError: PyTorch is not installed, or a sequence cannot be tracked.
    """
    progress.stage(f"gate: PyTorch on {data.name}", data.frames)
    return Reference(data, track(source, "torch", data, threads, progress))


@dataclass(frozen=True, slots=True)
class GateResult:
    """What a converted bundle's closed loop came to.

    Attributes:
        engine: that ran it.
    """

    engine: str
    data: GateData
    agreement: Agreement
    verdict: Verdict

    @property
    def passed(self) -> bool:
        return self.verdict.passed

    @property
    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "passed": self.verdict.passed,
            "detail": self.verdict.detail,
            "data": self.data.name,
            "sequences": len(self.data.sequences),
            "frames": self.data.frames,
            "engine": self.engine,
            "mean_iou": round(self.agreement.mean_iou, 5),
            "share_lost": round(self.agreement.lost, 5),
            "share_found": round(self.agreement.found, 5),
            "auc": round(self.agreement.auc, 5),
            "auc_pytorch": round(self.agreement.auc_reference, 5),
        }


def gate(trial: Bundle, reference: Reference, threads: int | None, progress: Progress) -> GateResult:
    """Closed loop of a converted bundle beside PyTorch's.

    Raises:
        UserError: a sequence cannot be tracked.
    """
    data, precision = reference.data, str(trial.manifest.precision["name"])
    engine = ENGINES.get(precision, "onnxruntime")
    progress.stage(f"gate: {precision} on {data.name}", data.frames)
    runs = track(trial, engine, data, threads, progress)
    agreement = agreement_of(data, reference.runs, runs)
    return GateResult(engine, data, agreement, judge(agreement, GATES[precision]))
