"""Grading the confidence: does it tell good frames from bad ones, and absence from presence?

All frames given here are tracked ones: not the first of a sequence, which the tracker was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sttrack_deploy.auroc import auroc

__all__ = [
    "BAD_IOU",
    "GOOD_IOU",
    "CalibrationCurve",
    "LongTermScore",
    "LostFlagsScore",
    "calibration_curve",
    "long_term_score",
    "lost_flags_score",
    "on_target_auroc",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

GOOD_IOU, BAD_IOU = 0.5, 0.1
"""Above and below: a frame on and off the target."""


def on_target_auroc(confidence: FloatArray, overlap: FloatArray) -> float:
    """Does the confidence tell frames on the target (IoU > 0.5) from frames off it (IoU < 0.1)?

    Only frames that have the target count, and those between the two IoUs do not: it says something
    where no target is ever absent.

    Args:
        confidence: ``(N,)``.
        overlap: IoU with the truth ``(N,)``; NaN where the target is absent.
    """
    clear = (overlap > GOOD_IOU) | (overlap < BAD_IOU)
    return auroc(confidence[clear], overlap[clear] > GOOD_IOU)


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationCurve:
    """The confidence against what came of it, in bins of equal width over 0..1.

    Attributes:
        edges: ``(bins + 1,)``; a bin holds its lower edge, the last one its upper too.
        count: frames in each bin ``(bins,)``.
        confidence: their mean confidence ``(bins,)``; NaN in an empty bin, as the next two.
        overlap: their mean IoU ``(bins,)``.
        good: share of them with IoU > 0.5 ``(bins,)``.
        error: expected calibration error of the confidence as a probability that IoU > 0.5: the mean over
            frames of their bin's ``|good - confidence|``, 0..1 (Naeini et al., AAAI 2015); NaN of no frames.
    """

    edges: FloatArray
    count: IntArray
    confidence: FloatArray
    overlap: FloatArray
    good: FloatArray
    error: float


def calibration_curve(
    confidence: FloatArray, overlap: FloatArray, present: BoolArray, bins: int = 10
) -> CalibrationCurve:
    """Compare the confidence with the IoU that the boxes had.

    Args:
        confidence: ``(N,)``, 0..1.
        overlap: IoU with the truth ``(N,)``; not looked at where the target is absent.
        present: bool ``(N,)``; where it is not, the IoU counts as 0.
        bins: how many.

    Raises:
        ValueError: a confidence is NaN or outside 0..1.
    """
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("a confidence is NaN or outside 0..1: it cannot be calibrated as a probability")
    iou = np.where(present, overlap, 0.0)
    edges = np.linspace(0.0, 1.0, bins + 1)
    where = np.searchsorted(edges[1:-1], confidence, side="right")
    count = np.bincount(where, minlength=bins)

    def mean(values: npt.NDArray[np.float64]) -> FloatArray:
        total = np.bincount(where, weights=values, minlength=bins)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    claimed, good = mean(confidence), mean((iou > GOOD_IOU).astype(np.float64))
    gap = np.nansum(count * np.abs(good - claimed))
    return CalibrationCurve(
        edges=edges,
        count=count,
        confidence=claimed,
        overlap=mean(iou),
        good=good,
        error=float(gap / len(confidence)) if len(confidence) else float("nan"),
    )


@dataclass(frozen=True, slots=True, eq=False)
class LongTermScore:
    """VOT's long-term measures: a tracker reports a frame when its confidence reaches a threshold.

    Attributes:
        precision: at the threshold of the highest F-score, 0..1.
        recall: there.
        f_score: the highest, 0..1; all four are NaN where the target is never present.
        threshold: where it is reached, the highest such; infinite where nothing scores above 0.
        thresholds: of the curves, descending from infinity ``(T,)``.
        precisions: ``(T,)``; mean IoU of the reported frames (absent ones count 0), 1 if there are none.
        recalls: ``(T,)``; the sum of their IoU over the number of frames with the target.
    """

    precision: float
    recall: float
    f_score: float
    threshold: float
    thresholds: FloatArray
    precisions: FloatArray
    recalls: FloatArray


def long_term_score(
    confidence: Sequence[FloatArray],
    overlap: Sequence[FloatArray],
    present: Sequence[BoolArray],
    *,
    resolution: int | None = None,
) -> LongTermScore:
    """Precision, recall and F-score of VOT-LT over several sequences.

    Lukezic et al., "Now You See Me: Evaluating Performance in Long-Term Visual Tracking", 2018: precision
    and recall are averaged over sequences at each threshold, and F = 2 Pr Re / (Pr + Re) is taken of the
    averages. Follows votchallenge/toolkit ``vot/analysis/longterm.py``, except that it counts the first
    frame among those with the target. A sequence that never has the target is left out of the recall,
    one without frames out of both.

    Args:
        confidence: of each sequence ``(N,)``, any scale; a NaN is never reported.
        overlap: IoU with the truth ``(N,)``; not looked at where the target is absent.
        present: bool ``(N,)``.
        resolution: how many thresholds; ``None``: every confidence that occurs, so that the maximum is exact.
            The toolkit has 100 and takes them by rank.
    """
    # What each frame changes in the sums over sequences, when frames are reported one by one, the most
    # confident first: with that, all thresholds cost one sort.
    scores, precision_steps, recall_steps = [np.zeros(0)], [np.zeros(0)], [np.zeros(0)]
    tracked = with_target = 0
    for values, iou, seen in zip(confidence, overlap, present, strict=True):
        known = np.flatnonzero(~np.isnan(values))
        order = known[np.argsort(-values[known], kind="stable")]
        hits = np.where(seen, iou, 0.0)[order]
        scores.append(values[order])
        precision_steps.append(np.diff(np.cumsum(hits) / np.arange(1, len(hits) + 1), prepend=1.0))
        recall_steps.append(hits / max(1, seen.sum()))
        tracked += len(values) > 0
        with_target += bool(seen.any())
    pooled = np.concatenate(scores)
    order = np.argsort(-pooled, kind="stable")
    thresholds = _thresholds(pooled[order], resolution)
    if not with_target:
        nan, blank = float("nan"), np.full_like(thresholds, np.nan)
        return LongTermScore(nan, nan, nan, nan, thresholds, blank, blank)
    reported = np.searchsorted(-pooled[order], -thresholds, side="right")
    precisions = 1.0 + np.cumsum(np.append(0.0, np.concatenate(precision_steps)[order]))[reported] / tracked
    recalls = np.cumsum(np.append(0.0, np.concatenate(recall_steps)[order]))[reported] / with_target
    # The sums carry rounding errors.
    precisions, recalls = np.clip(precisions, 0.0, 1.0), np.clip(recalls, 0.0, 1.0)
    total = precisions + recalls
    f_scores = 2.0 * precisions * recalls / np.where(total > 0, total, 1.0)
    best = int(np.argmax(f_scores))
    return LongTermScore(
        precision=float(precisions[best]),
        recall=float(recalls[best]),
        f_score=float(f_scores[best]),
        threshold=float(thresholds[best]),
        thresholds=thresholds,
        precisions=precisions,
        recalls=recalls,
    )


def _thresholds(falling: FloatArray, resolution: int | None) -> FloatArray:
    """Infinity, then thresholds on the confidences of all sequences, descending."""
    if resolution is None:
        return np.concatenate([[np.inf], np.unique(falling)[::-1]])
    inner = resolution - 2
    if len(falling) > inner:
        step = len(falling) // inner
        falling = falling[np.round(np.linspace(step, len(falling) - step, inner)).astype(np.int64)]
    return np.concatenate([[np.inf], falling, [-np.inf]])


@dataclass(frozen=True, slots=True)
class LostFlagsScore:
    """Where the flag "lost" stands: it should on frames off the target, and never on frames on it.

    Frames between the two IoUs belong to neither. Whether the target is absent or the box elsewhere is told apart.

    Attributes:
        absent: frames without the target.
        absent_flagged: those of them that are flagged.
        off_target: frames with the target where the box is off it (IoU < 0.1).
        off_target_flagged: those of them that are flagged.
        on_target: frames where the box is on the target (IoU > 0.5).
        on_target_flagged: those of them that are flagged: false alarms.
    """

    absent: int
    absent_flagged: int
    off_target: int
    off_target_flagged: int
    on_target: int
    on_target_flagged: int

    @property
    def absent_rate(self) -> float:
        """Share of the frames without the target that are flagged; NaN where there are none, as the next two."""
        return _share(self.absent_flagged, self.absent)

    @property
    def off_target_rate(self) -> float:
        """Share of the frames off the target that are flagged."""
        return _share(self.off_target_flagged, self.off_target)

    @property
    def false_alarm_rate(self) -> float:
        """Share of the frames on the target that are flagged."""
        return _share(self.on_target_flagged, self.on_target)


def lost_flags_score(lost: BoolArray, overlap: FloatArray, present: BoolArray) -> LostFlagsScore:
    """Compare the flags of a tracker with where its boxes were.

    Args:
        lost: bool ``(N,)``, where the tracker said that it was lost.
        overlap: IoU with the truth ``(N,)``; not looked at where the target is absent.
        present: bool ``(N,)``, where the target is in view.
    """
    iou = np.where(present, overlap, np.nan)
    off, on = iou < BAD_IOU, iou > GOOD_IOU
    return LostFlagsScore(
        absent=int((~present).sum()),
        absent_flagged=int((lost & ~present).sum()),
        off_target=int(off.sum()),
        off_target_flagged=int((lost & off).sum()),
        on_target=int(on.sum()),
        on_target_flagged=int((lost & on).sum()),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
