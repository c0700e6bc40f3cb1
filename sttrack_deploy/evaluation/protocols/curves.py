"""What the protocols share: predictions repaired, errors of the centre, and curves over thresholds.

Result files mostly hold whole pixels, and the errors of some frames then lie exactly on a threshold. Each
toolkit's order of operations decides, through rounding, on which side: it is followed here to the letter
(any other moves the normalized precision by about 0.01 points).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sttrack_deploy.evaluation.protocols.base import Thresholds

__all__ = [
    "OTB_THRESHOLDS",
    "area_under",
    "centre_error",
    "centres",
    "normalized_error",
    "otb_iou",
    "repaired",
    "share_above",
    "share_within",
]

FloatArray = npt.NDArray[np.float64]

OTB_THRESHOLDS = Thresholds(
    success=np.arange(21, dtype=np.float64) * 0.05,
    precision=np.arange(51, dtype=np.float64),
    normalized=np.arange(51, dtype=np.float64) / 100.0,
)
"""IoU 0, .05 … 1; 0 … 50 pixels; 0, .01 … .50: of the OTB toolkit and those made from it."""


def repaired(prediction: FloatArray, truth: FloatArray) -> FloatArray:
    """Predictions ``(N, 4)`` as the OTB family scores them: no empty boxes, and the truth in the first frame.

    A box without width or height becomes the one before it, except where the truth is NaN: there it stays,
    so that the next frame copies it.
    """
    boxes: FloatArray = prediction.copy()
    empty = (boxes[:, 2:] == 0).any(axis=1) & ~np.isnan(truth).any(axis=1)
    for index in np.flatnonzero(empty[1:]) + 1:
        boxes[index] = boxes[index - 1]
    boxes[0] = truth[0]
    return boxes


def otb_iou(predicted: FloatArray, truth: FloatArray) -> FloatArray:
    """Intersection over union ``(N,)`` by way of the boxes' last pixels, as in OTB; the truth has an area.

    With fractions of pixels, equal boxes can come out a rounding error above 1. Then the first frame,
    where the prediction is the truth, passes the last threshold; so it does in the toolkits.
    """
    last = np.minimum(predicted[:, :2] + predicted[:, 2:] - 1.0, truth[:, :2] + truth[:, 2:] - 1.0)
    sides = np.maximum(last - np.maximum(predicted[:, :2], truth[:, :2]) + 1.0, 0.0)
    common = sides.prod(axis=1)
    union = predicted[:, 2:].prod(axis=1) + truth[:, 2:].prod(axis=1) - common
    return np.asarray(common / union, np.float64)


def centres(boxes: FloatArray) -> FloatArray:
    """Middle pixels ``(N, 2)``: half a pixel up and left of the boxes' middle points, as in OTB."""
    return np.asarray(boxes[:, :2] + (boxes[:, 2:] - 1.0) / 2.0, np.float64)


def centre_error(predicted: FloatArray, truth: FloatArray) -> FloatArray:
    """Distance of the centres in pixels, ``(N,)``."""
    return _length(centres(predicted) - centres(truth))


def normalized_error(predicted: FloatArray, truth: FloatArray) -> FloatArray:
    """Distance of the centres, each axis in units of the truth's side, ``(N,)``; the truth has an area.

    OTB's descendants divide both centres and then subtract.
    """
    sides = truth[:, 2:]
    return _length(centres(predicted) / sides - centres(truth) / sides)


def _length(offset: FloatArray) -> FloatArray:
    return np.asarray(np.sqrt((offset**2).sum(axis=1)), np.float64)


def share_above(overlap: FloatArray, thresholds: FloatArray) -> FloatArray:
    """Share of the frames ``(N,)`` strictly above each threshold ``(T,)``; NaN is above none."""
    return np.asarray(np.mean(overlap[:, None] > thresholds, axis=0), np.float64)


def share_within(error: FloatArray, thresholds: FloatArray) -> FloatArray:
    """Share of the frames ``(N,)`` at most each threshold ``(T,)``; NaN is within none."""
    return np.asarray(np.mean(error[:, None] <= thresholds, axis=0), np.float64)


def area_under(curve: FloatArray) -> float:
    """Area by the trapezoid rule, over equal steps from 0 to 1."""
    return float((curve[:-1] + curve[1:]).sum() / (2.0 * (len(curve) - 1)))
