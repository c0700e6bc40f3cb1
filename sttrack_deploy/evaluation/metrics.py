"""Tracking accuracy by named protocols, and how well the confidence separates good frames from bad.

The same results score differently under different toolkits, so a number is only printed with the name of
the :class:`Protocol` that made it. Here: ``pytracking``, the one STARK and STTrack publish with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.geometry import iou

__all__ = [
    "BAD_IOU",
    "GOOD_IOU",
    "PROTOCOLS",
    "PYTRACKING",
    "Curves",
    "Protocol",
    "Score",
    "auroc",
    "mean_curves",
    "on_target_auroc",
    "presence_auroc",
    "pytracking_curves",
    "usable_truth",
]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

SUCCESS_THRESHOLDS: FloatArray = np.arange(21, dtype=np.float64) * 0.05
"""IoU 0, 0.05 .. 1."""
CENTRE_THRESHOLDS: FloatArray = np.arange(51, dtype=np.float64)
"""Centre error 0, 1 .. 50 pixels."""
NORMALIZED_THRESHOLDS: FloatArray = np.arange(51, dtype=np.float64) / 100.0
"""Centre error 0, 0.01 .. 0.5 of the truth's width and height."""

GOOD_IOU, BAD_IOU = 0.5, 0.1
"""Above and below: a frame on and off the target, for :func:`on_target_auroc`."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a protocol makes of its curves; each 0..1."""

    auc: float
    precision: float
    normalized_precision: float


@dataclass(frozen=True, slots=True)
class Curves:
    """Share of frames that pass each threshold, of one sequence or the mean of several.

    Attributes:
        success: by IoU.
        precision: by centre error in pixels.
        normalized: by centre error over the truth's width and height.
    """

    success: FloatArray
    precision: FloatArray
    normalized: FloatArray


@dataclass(frozen=True, slots=True)
class Protocol:
    """One toolkit's way from boxes to numbers.

    Attributes:
        name: printed beside every number.
        curves: from predicted boxes ``(N, 4)`` and true boxes ``(N, 4)``, NaN rows where absent, of one
            sequence.
        reduce: from one sequence's curves, or their mean over sequences, to the numbers.
        columns: short headings of the score's three numbers.
    """

    name: str
    curves: Callable[[FloatArray, FloatArray], Curves]
    reduce: Callable[[Curves], Score]
    columns: tuple[str, str, str]

    def overall(self, sequences: Sequence[Curves]) -> Score:
        """The score of a data set: the mean over sequences first, whatever their length, then the numbers."""
        return self.reduce(mean_curves(sequences))


def mean_curves(sequences: Sequence[Curves]) -> Curves:
    """The mean over sequences, each counting the same whatever its length; NaN where there are none."""
    if not sequences:
        return Curves(
            np.full_like(SUCCESS_THRESHOLDS, np.nan),
            np.full_like(CENTRE_THRESHOLDS, np.nan),
            np.full_like(NORMALIZED_THRESHOLDS, np.nan),
        )
    return Curves(
        np.mean([c.success for c in sequences], axis=0),
        np.mean([c.precision for c in sequences], axis=0),
        np.mean([c.normalized for c in sequences], axis=0),
    )


def usable_truth(truth: FloatArray) -> BoolArray:
    """Frames whose true box exists and has an area (pytracking's "valid"); bool ``(N,)``."""
    return np.asarray((truth[:, 2] > 0) & (truth[:, 3] > 0) & np.isfinite(truth).all(axis=1), np.bool_)


def pytracking_curves(
    prediction: FloatArray, truth: FloatArray, *, dataset: str = "folder", visible: BoolArray | None = None
) -> Curves:
    """The curves of one sequence as pytracking's ``analysis/extract_results.py`` defines them.

    Every frame counts in the denominator, the first (where the prediction is the truth) and the absent
    ones included. Where the truth is unusable the IoU is -1 (a miss at every threshold), the centre error
    infinite (a miss; for ``uav`` -1, a hit) and the normalized error -1 (a hit), except that for ``lasot``
    frames flagged invisible are misses in that too.

    Args:
        prediction: x, y, w, h ``(N, 4)``, pixels.
        truth: the same; NaN rows where the target is absent.
        dataset: pytracking's name of the data set, because its rules for unusable truth depend on it.
        visible: bool ``(N,)``, False where the data set flags the target as out of sight.

    Raises:
        UserError: lengths differ, or a prediction is NaN or has a negative side.
    """
    predicted = _repaired(prediction, truth)
    valid = usable_truth(truth) if visible is None else usable_truth(truth) & visible
    # Rows that are not valid are overwritten below: any finite stand-in keeps the arithmetic quiet.
    target = np.where(valid[:, None], truth, 1.0)
    offset = (predicted[:, :2] + 0.5 * predicted[:, 2:]) - (target[:, :2] + 0.5 * target[:, 2:])
    # Identical boxes can come out a rounding error above 1, which the strict ">" would let pass.
    overlap = np.where(valid, np.minimum(iou(predicted, target), 1.0), -1.0)
    centre = np.where(valid, np.hypot(*offset.T), -1.0 if dataset == "uav" else np.inf)
    normalized = np.where(valid, np.hypot(*(offset / target[:, 2:]).T), -1.0)
    if dataset == "lasot" and visible is not None:
        normalized[~visible] = np.inf
    return Curves(
        np.mean(overlap[:, None] > SUCCESS_THRESHOLDS, axis=0),
        np.mean(centre[:, None] <= CENTRE_THRESHOLDS, axis=0),
        np.mean(normalized[:, None] <= NORMALIZED_THRESHOLDS, axis=0),
    )


def _repaired(prediction: FloatArray, truth: FloatArray) -> FloatArray:
    """Predictions as pytracking scores them: no empty boxes, and the truth in the first frame."""
    if prediction.shape != truth.shape or truth.ndim != 2 or truth.shape[1] != 4 or not len(truth):
        raise UserError(
            f"the predicted boxes are {prediction.shape}, the true ones {truth.shape}; both must be (frames, 4)"
        )
    bad = ~np.isfinite(prediction).all(axis=1) | (prediction[:, 2:] < 0).any(axis=1)
    if bad.any():
        frame = int(np.argmax(bad))
        raise UserError(
            f"the predicted box of frame {frame} is {prediction[frame].tolist()}; "
            "x,y,w,h must be finite, w and h not negative"
        )
    boxes: FloatArray = prediction.copy()
    # pytracking leaves an empty box alone where the truth is NaN, so that the next frame copies it.
    empty = (boxes[:, 2:] == 0).any(axis=1) & ~np.isnan(truth).any(axis=1)
    for index in np.flatnonzero(empty[1:]) + 1:
        boxes[index] = boxes[index - 1]
    boxes[0] = truth[0]
    return boxes


def _pytracking_score(curves: Curves) -> Score:
    """AUC: mean of the 21 points; precision at 20 pixels; normalized precision at 0.20."""
    return Score(float(curves.success.mean()), float(curves.precision[20]), float(curves.normalized[20]))


PYTRACKING = Protocol("pytracking", pytracking_curves, _pytracking_score, ("AUC", "P@20", "NP"))
PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in (PYTRACKING,)}


def auroc(scores: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """Chance that a positive scores above a negative, ties counting half (Mann-Whitney U / (m n)).

    Args:
        scores: ``(N,)``; NaN is not allowed.
        positive: bool ``(N,)``.

    Returns:
        0..1; NaN when either class is empty.
    """
    values, labels = np.asarray(scores, np.float64), np.asarray(positive, np.bool_)
    positives = int(labels.sum())
    negatives = labels.size - positives
    if not positives or not negatives:
        return float("nan")
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    # Equal values share the mean of the ranks that they take up; ranks start at 1.
    ranks = np.cumsum(counts) - (counts - 1) / 2.0
    rank_sum = float(ranks[group.reshape(-1)][labels].sum())
    return (rank_sum - positives * (positives + 1) / 2.0) / (positives * negatives)


def presence_auroc(confidence: FloatArray, truth: FloatArray) -> float:
    """Does the confidence tell frames with the target from frames without it?

    Args:
        confidence: ``(N,)``, of tracked frames (not the first, which the tracker was given).
        truth: ``(N, 4)``, NaN rows where absent.
    """
    return auroc(confidence, usable_truth(truth))


def on_target_auroc(confidence: FloatArray, overlap: FloatArray, truth: FloatArray) -> float:
    """Does the confidence tell frames on the target (IoU > 0.5) from frames off it (IoU < 0.1)?

    Only frames that have the target count, and those between the two IoUs do not: it says something
    where no target is ever absent.

    Args:
        confidence: ``(N,)``, of tracked frames.
        overlap: IoU with the truth ``(N,)``.
        truth: ``(N, 4)``, NaN rows where absent.
    """
    clear = usable_truth(truth) & ((overlap > GOOD_IOU) | (overlap < BAD_IOU))
    return auroc(confidence[clear], overlap[clear] > GOOD_IOU)
