"""What a protocol is, one toolkit's way from boxes to numbers, and what the protocols share.

Shared are predictions repaired, errors of the center, and curves over thresholds. Result files mostly hold whole
pixels, and the errors of some frames then lie exactly on a threshold. Each toolkit's order of operations decides,
through rounding, on which side: it is followed here to the letter (any other moves the normalized precision by
about 0.01 points).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.sequences.sequence import VideoSequence

__all__ = [
    "OTB_THRESHOLDS",
    "Measured",
    "Protocol",
    "Thresholds",
    "area_under",
    "center_error",
    "centers",
    "check_boxes",
    "normalized_error",
    "otb_iou",
    "pool",
    "repaired",
    "share_above",
    "share_within",
]


FloatArray = npt.NDArray[np.float64]

Score = Mapping[str, float]
"""A protocol's numbers by key, in the order of its headings; each 0..1, NaN where nothing counts."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where the three curves are sampled; ascending.

    Attributes:
        success: IoU.
        precision: center error, pixels.
        normalized: center error over the truth's width and height.
    """

    success: FloatArray
    precision: FloatArray
    normalized: FloatArray


@dataclass(frozen=True, slots=True)
class Measured:
    """One sequence by one protocol, or the mean of several; a curve is NaN where a protocol has none.

    Attributes:
        success: share of the counted frames that pass each IoU threshold.
        precision: the same by center error in pixels.
        normalized: the same by normalized center error.
        mean_overlap: mean IoU of the counted frames.
        frames: how many frames count.
        weight: what this sequence counts in the mean over sequences: 1, or its frames.
    """

    success: FloatArray
    precision: FloatArray
    normalized: FloatArray
    mean_overlap: float
    frames: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Protocol:
    """One toolkit's way from boxes to numbers.

    Attributes:
        name: printed beside every number.
        thresholds: of the curves.
        measure: from predicted boxes x, y, w, h ``(N, 4)``, their sequence and the frames' (width, height).
        score: from one sequence, or the mean of several, to the numbers.
        headings: a short heading for each key of the score; the first is the headline.
        needs_image_size: whether ``measure`` looks at the frames' size; otherwise it may be ``None``.
    """

    name: str
    thresholds: Thresholds
    measure: Callable[[FloatArray, VideoSequence, tuple[int, int] | None], Measured]
    score: Callable[[Measured], Score]
    headings: Mapping[str, str]
    needs_image_size: bool = False

    @property
    def headline(self) -> str:
        """The key of the number that trackers are ranked by."""
        return next(iter(self.headings))

    def overall(self, sequences: Sequence[Measured]) -> Score:
        """The score of a data set: the weighted mean over sequences first, then the numbers."""
        return self.score(pool(sequences, self.thresholds))


def pool(sequences: Sequence[Measured], thresholds: Thresholds) -> Measured:
    """The weighted mean; sequences in which no frame counts are left out; NaN where none is left."""
    counted = [s for s in sequences if s.frames and s.weight > 0]
    if not counted:
        return Measured(
            success=np.full_like(thresholds.success, np.nan),
            precision=np.full_like(thresholds.precision, np.nan),
            normalized=np.full_like(thresholds.normalized, np.nan),
            mean_overlap=float("nan"),
            frames=0,
            weight=0.0,
        )
    weights = np.array([s.weight for s in counted])
    weights = weights / weights.sum()
    return Measured(
        success=weights @ np.stack([s.success for s in counted]),
        precision=weights @ np.stack([s.precision for s in counted]),
        normalized=weights @ np.stack([s.normalized for s in counted]),
        mean_overlap=float(weights @ np.array([s.mean_overlap for s in counted])),
        frames=sum(s.frames for s in counted),
        weight=float(sum(s.weight for s in counted)),
    )


def check_boxes(prediction: FloatArray, truth: FloatArray) -> None:
    """What no protocol can score.

    Raises:
        UserError: lengths differ, or a prediction is NaN, infinite, or has a negative side.
    """
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


def centers(boxes: FloatArray) -> FloatArray:
    """Middle pixels ``(N, 2)``: half a pixel up and left of the boxes' middle points, as in OTB."""
    return np.asarray(boxes[:, :2] + (boxes[:, 2:] - 1.0) / 2.0, np.float64)


def center_error(predicted: FloatArray, truth: FloatArray) -> FloatArray:
    """Distance of the centers in pixels, ``(N,)``."""
    return _length(centers(predicted) - centers(truth))


def normalized_error(predicted: FloatArray, truth: FloatArray) -> FloatArray:
    """Distance of the centers, each axis in units of the truth's side, ``(N,)``; the truth has an area.

    OTB's descendants divide both centers and then subtract.
    """
    sides = truth[:, 2:]
    return _length(centers(predicted) / sides - centers(truth) / sides)


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
