"""Does an engine track the boxes that another tracks? In closed loop, with its speed."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import numpy as np

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.base import Engine
from sttrack_deploy.evaluation.runner import run_sequence
from sttrack_deploy.evaluation.sequence import Sequence
from sttrack_deploy.evaluation.sequence_run import SequenceRun
from sttrack_deploy.runtime.tracker import Tracker
from sttrack_deploy.verification.agreement import GATES, Agreement, Verdict, agree, judge

__all__ = ["EngineCheck", "Speed", "check_engine", "run_engine", "speed_of"]


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
            "auc": self.agreement.auc,
            "auc_reference": self.agreement.auc_reference,
            "ms_p50": self.speed.p50,
            "ms_p95": self.speed.p95,
            "ms_p99": self.speed.p99,
            "fps": self.speed.fps,
            "frames": self.speed.frames,
        }


def run_engine(
    bundle: Bundle, engine: Engine, sequences: Seq[Sequence], tick: Callable[[int], None] = lambda _: None
) -> list[SequenceRun]:
    """Track every sequence.

    Raises:
        UserError: a sequence cannot be read, or the engine fails.
    """
    tracker = Tracker(bundle, engine)
    return [run_sequence(tracker, sequence, tick) for sequence in sequences]


def check_engine(
    bundle: Bundle, sequences: Seq[Sequence], reference: Seq[SequenceRun], runs: Seq[SequenceRun]
) -> EngineCheck:
    """Hold an engine's runs against the reference's with the gate of the bundle's precision."""
    agreement = agree(sequences, reference, runs)
    gate = GATES[str(bundle.manifest.precision["name"])]
    return EngineCheck(agreement, judge(agreement, gate), speed_of(runs))


WARM_UP = 10
"""Frames at the start of a sequence that are not timed: first calls prepare themselves."""


def speed_of(runs: Seq[SequenceRun]) -> Speed:
    """Percentiles over the frames of all runs."""
    times = np.concatenate(
        [run.times[min(WARM_UP, len(run.times) - 1) :] for run in runs if run.times is not None]
    )
    p50, p95, p99 = (1e3 * np.percentile(times, (50, 95, 99))).tolist()
    return Speed(p50, p95, p99, len(times))
