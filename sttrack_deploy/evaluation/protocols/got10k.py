"""The GOT-10k toolkit: its own experiment for GOT-10k, and the one it has for other data sets.

Source: got-10k/toolkit ``got10k/experiments/{got10k,otb,uav123,lasot}.py`` and ``got10k/utils/metrics.py``;
LaSOT's, and with it the normalized precision, is in its repository but not in the release 0.1.3.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sttrack_deploy.evaluation.protocols.base import (
    Measured,
    Protocol,
    Score,
    Thresholds,
    center_error,
    centers,
    check_boxes,
    pool,
    share_above,
    share_within,
)
from sttrack_deploy.geometry import iou
from sttrack_deploy.sequences.sequence import VideoSequence

__all__ = ["GOT10K", "measure"]

FloatArray = npt.NDArray[np.float64]

THRESHOLDS = Thresholds(
    success=np.linspace(0.0, 1.0, 21),
    precision=np.arange(51, dtype=np.float64),
    normalized=np.linspace(0.0, 0.5, 51),
)


def measure(
    prediction: FloatArray, sequence: VideoSequence, image_size: tuple[int, int] | None = None
) -> Measured:
    """The curves of one sequence.

    Of GOT-10k the first frame does not count, nor do fully covered ones; all boxes are clipped to the
    image; a sequence weighs as many frames as count, so that the mean is over the frames of all sequences.
    That experiment looks at the overlap alone: the center's curves are NaN.

    Of any other data set the first prediction is the truth, frames with NaN truth do not count, all
    others do (flags and empty boxes, predicted or true, are not looked at), and each sequence weighs 1.

    Raises:
        UserError: lengths differ, or a prediction is NaN or has a negative side.
        ValueError: the data set is GOT-10k and ``image_size`` is ``None``.
    """
    check_boxes(prediction, sequence.truth)
    if sequence.dataset.startswith("got10k"):
        if image_size is None:
            raise ValueError("GOT-10k's boxes are clipped to the image: image_size is needed")
        return _measure_got10k(prediction, sequence, image_size)
    known = _known(sequence)
    predicted, target = prediction[known], sequence.truth[known]
    if known[0]:
        predicted[0] = target[0]
    if not len(target):
        return pool((), THRESHOLDS)
    overlap = _iou(predicted, target)
    # Unlike pytracking: the difference is divided, and by one pixel at least.
    offset = (centers(predicted) - centers(target)) / np.maximum(1.0, target[:, 2:])
    return Measured(
        success=share_above(overlap, THRESHOLDS.success),
        precision=share_within(center_error(predicted, target), THRESHOLDS.precision),
        normalized=share_within(np.sqrt((offset**2).sum(axis=1)), THRESHOLDS.normalized),
        mean_overlap=float(overlap.mean()),
        frames=len(target),
    )


def _measure_got10k(prediction: FloatArray, sequence: VideoSequence, image_size: tuple[int, int]) -> Measured:
    counted = _known(sequence)
    counted[0] = False
    if sequence.occluded is not None:
        counted &= ~sequence.occluded
    if not counted.any():
        return pool((), THRESHOLDS)
    overlap = _iou(_clipped(prediction[counted], image_size), _clipped(sequence.truth[counted], image_size))
    return Measured(
        success=share_above(overlap, THRESHOLDS.success),
        precision=np.full(len(THRESHOLDS.precision), np.nan),
        normalized=np.full(len(THRESHOLDS.normalized), np.nan),
        mean_overlap=float(overlap.mean()),
        frames=len(overlap),
        weight=float(len(overlap)),
    )


def _known(sequence: VideoSequence) -> npt.NDArray[np.bool_]:
    """Frames with a true box, even an empty one, bool ``(N,)``."""
    return np.asarray(~np.isnan(sequence.truth).any(axis=1), np.bool_)


def _clipped(boxes: FloatArray, image_size: tuple[int, int]) -> FloatArray:
    """Boxes inside the image as the toolkit clips them: what juts out on the left or above is moved in.

    (A box from -10 to 20 becomes one from 0 to 30, not to 20.)
    """
    corner = np.clip(boxes[:, :2], 0.0, image_size)
    return np.concatenate([corner, np.clip(boxes[:, 2:], 0.0, image_size - corner)], axis=1)


def _iou(predicted: FloatArray, target: FloatArray) -> FloatArray:
    return np.minimum(iou(predicted, target), 1.0)


def _score(measured: Measured) -> Score:
    """AO: mean IoU; SR: share of IoU > .5, .75; AUC and normalized precision: mean of all points; P at 20.

    The toolkit itself prints AO and SR for GOT-10k, AUC, precision and SR50 for the others, and normalized
    precision for LaSOT.
    """
    return {
        "ao": measured.mean_overlap,
        "sr50": float(measured.success[10]),
        "sr75": float(measured.success[15]),
        "auc": float(measured.success.mean()),
        "precision": float(measured.precision[20]),
        "normalized_precision": float(measured.normalized.mean()),
    }


GOT10K = Protocol(
    name="got10k",
    thresholds=THRESHOLDS,
    measure=measure,
    score=_score,
    headings={
        "ao": "AO",
        "sr50": "SR50",
        "sr75": "SR75",
        "auc": "AUC",
        "precision": "P@20",
        "normalized_precision": "NP",
    },
    needs_image_size=True,
)
