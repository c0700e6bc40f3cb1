"""TrackingNet's evaluation, the one behind its server.

Source: SilvioGiancola/TrackingNet-devkit ``metrics.py``, the version with a command line. (The version
before it compared the IoU with ``>``.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sttrack_deploy.evaluation.protocols.base import (
    Measured,
    Protocol,
    Score,
    Thresholds,
    area_under,
    check_boxes,
    share_within,
)
from sttrack_deploy.geometry import iou
from sttrack_deploy.sequences.sequence import VideoSequence, usable_truth

__all__ = ["TRACKINGNET", "measure"]

FloatArray = npt.NDArray[np.float64]

THRESHOLDS = Thresholds(
    # linspace and not multiples of 1/20: with ">=" the last bit counts (0.6 misses 0.6000000000000001).
    success=np.linspace(0.0, 1.0, 21),
    precision=np.linspace(0.0, 50.0, 21),
    normalized=np.linspace(0.0, 0.5, 21),
)


def measure(
    prediction: FloatArray, sequence: VideoSequence, _size: tuple[int, int] | None = None
) -> Measured:
    """The curves of one sequence.

    All boxes, true ones too, are rounded to whole pixels (halves to even); then the first prediction is the
    truth. Every frame counts. One with NaN truth is a miss everywhere; otherwise even an IoU of 0 passes
    the threshold 0, so a tracker that is lost throughout has an AUC of 0.025 and not 0. Empty predictions
    stay as they are; flags are not looked at.

    Raises:
        UserError: lengths differ, or a prediction is NaN or has a negative side.
    """
    check_boxes(prediction, sequence.truth)
    truth, predicted = np.round(sequence.truth), np.round(prediction)
    predicted[0] = truth[0]
    overlap = iou(predicted, truth)
    # 0 / 0 in the toolkit, which passes nothing.
    overlap[(predicted[:, 2:].prod(axis=1) == 0) & (truth[:, 2:].prod(axis=1) == 0)] = np.nan
    dx, dy = ((predicted[:, :2] + predicted[:, 2:] / 2.0) - (truth[:, :2] + truth[:, 2:] / 2.0)).T
    width, height = np.where(usable_truth(truth), truth[:, 2:].T, np.nan)
    # In the toolkit's order: with whole pixels the result often lies on a threshold.
    normalized = np.sqrt(dx / width * dx / width + dy / height * dy / height)
    return Measured(
        success=np.asarray(np.mean(overlap[:, None] >= THRESHOLDS.success, axis=0), np.float64),
        precision=share_within(np.sqrt(dx * dx + dy * dy), THRESHOLDS.precision),
        normalized=share_within(normalized, THRESHOLDS.normalized),
        mean_overlap=float(np.nan_to_num(overlap).mean()),
        frames=len(truth),
    )


def _score(measured: Measured) -> Score:
    """AUC, precision and normalized precision: areas by the trapezoid rule over 21 points; OP at .5, .75."""
    return {
        "auc": area_under(measured.success),
        "precision": area_under(measured.precision),
        "normalized_precision": area_under(measured.normalized),
        "op50": float(measured.success[10]),
        "op75": float(measured.success[15]),
    }


TRACKINGNET = Protocol(
    name="trackingnet",
    thresholds=THRESHOLDS,
    measure=measure,
    score=_score,
    headings={
        "auc": "AUC",
        "precision": "P",
        "normalized_precision": "NP",
        "op50": "OP50",
        "op75": "OP75",
    },
)
