"""What each compared tracker's confidence is worth, over its tracked frames."""

from __future__ import annotations

from dataclasses import dataclass

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
from sttrack_deploy.evaluation.report import Report

__all__ = ["ConfidenceSummary", "confidence_summaries"]

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


def confidence_summaries(comparison: Comparison, bins: int = 10) -> list[ConfidenceSummary]:
    """Those trackers whose confidence is known, in the order of the comparison.

    Args:
        bins: of the calibration curve.
    """
    found = (_summary(index, report, bins) for index, report in enumerate(comparison.reports))
    return [summary for summary in found if summary is not None]


def _summary(index: int, report: Report, bins: int) -> ConfidenceSummary | None:
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
    flagged = [(s.run.lost[1:], s.present[1:]) for s in report.sequences if s.run.lost is not None]
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
