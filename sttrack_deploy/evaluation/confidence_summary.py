"""How good each compared tracker's confidence is, over its tracked frames."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.evaluation.comparison import Comparison
from sttrack_deploy.evaluation.confidence import (
    CalibrationCurve,
    LongTermScore,
    LostFlagsScore,
    calibration_curve,
    long_term_score,
    lost_flags_score,
)
from sttrack_deploy.evaluation.reporting.tables import format_ratio
from sttrack_deploy.evaluation.scores import Report

__all__ = ["ConfidenceSummary", "confidence_notes", "confidence_summaries", "summarize_confidence"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ConfidenceSummary:
    """One tracker's confidence; the first frame of a sequence, which the tracker was given, does not count.

    Attributes:
        index: of the tracker in the comparison.
        calibration: ``None`` where a confidence is not within 0..1, and so is no probability.
        lost: of the flag "lost", over the sequences that have it; ``None`` where none has.
    """

    index: int
    label: str
    presence_auroc: float
    on_target_auroc: float
    calibration: CalibrationCurve | None
    long_term: LongTermScore
    lost: LostFlagsScore | None

    def to_dict(self) -> dict[str, Any]:
        """The figures for programs, without the long-term curves; NaN where there is nothing to say."""
        calibration, lost = self.calibration, self.lost
        return {
            "presence_auroc": self.presence_auroc,
            "on_target_auroc": self.on_target_auroc,
            "calibration": None
            if calibration is None
            else {
                "expected_error": calibration.error,
                "edges": calibration.edges.tolist(),
                "count": calibration.count.tolist(),
                "confidence": calibration.confidence.tolist(),
                "overlap": calibration.overlap.tolist(),
                "good": calibration.good.tolist(),
            },
            "long_term": {
                name: getattr(self.long_term, name)
                for name in ("precision", "recall", "f_score", "threshold")
            },
            "lost": None
            if lost is None
            else {
                **dataclasses.asdict(lost),
                "absent_rate": lost.absent_rate,
                "off_target_rate": lost.off_target_rate,
                "false_alarm_rate": lost.false_alarm_rate,
            },
        }


def confidence_summaries(comparison: Comparison, bins: int = 10) -> list[ConfidenceSummary]:
    """Those trackers whose confidence is known, in the order of the comparison.

    Args:
        bins: of the calibration curve.
    """
    found = (summarize_confidence(report, index, bins) for index, report in enumerate(comparison.reports))
    return [summary for summary in found if summary is not None]


def confidence_notes(report: Report) -> list[str]:
    """The figures of one tracker as lines for a terminal; none where its confidence is not known."""
    summary = summarize_confidence(report)
    if summary is None:
        return []
    notes = [
        "confidence, AUROC over all tracked frames: target present / absent "
        f"{format_ratio(summary.presence_auroc)}, on target (IoU > 0.5) / off it (< 0.1) "
        f"{format_ratio(summary.on_target_auroc)}"
    ]
    if summary.calibration is not None:
        notes[0] += f"; calibration error {format_ratio(summary.calibration.error)}"
    lost = summary.lost
    if lost is not None:
        shares = [
            f"{flagged} of {frames} {where}"
            for flagged, frames, where in (
                (lost.off_target_flagged, lost.off_target, "frames off the target (IoU < 0.1)"),
                (lost.absent_flagged, lost.absent, "without it"),
                (lost.on_target_flagged, lost.on_target, "on it (IoU > 0.5): false alarms"),
            )
            if frames
        ]
        notes.append(f"LOST is said on {', '.join(shares)}" if shares else "LOST: no frame to judge it by")
        if lost.absent:
            notes[-1] += (
                f"; long-term F {format_ratio(summary.long_term.f_score)} at confidence "
                f"{format_ratio(summary.long_term.threshold)}"
            )
    return notes


def summarize_confidence(report: Report, index: int = 0, bins: int = 10) -> ConfidenceSummary | None:
    """One tracker's; ``None`` where its confidence is not known."""
    confidence: list[FloatArray] = []
    overlap: list[FloatArray] = []
    present: list[BoolArray] = []
    for s in report.sequences:
        if s.run.confidences is not None and s.frames > 1:
            confidence.append(s.run.confidences[1:])
            overlap.append(s.overlap[1:])
            present.append(s.present[1:])
    if not confidence:
        return None
    pooled = np.concatenate(confidence)
    probability = bool(((pooled >= 0) & (pooled <= 1)).all())
    flagged = [
        (s.run.lost[1:], s.overlap[1:], s.present[1:]) for s in report.sequences if s.run.lost is not None
    ]
    figures = report.confidence_figures
    return ConfidenceSummary(
        index=index,
        label=report.label,
        presence_auroc=figures["presence_auroc"],
        on_target_auroc=figures["on_target_auroc"],
        calibration=calibration_curve(pooled, np.concatenate(overlap), np.concatenate(present), bins)
        if probability
        else None,
        long_term=long_term_score(confidence, overlap, present),
        lost=lost_flags_score(*(np.concatenate(part) for part in zip(*flagged, strict=True)))
        if flagged
        else None,
    )
