"""What a protocol is: one toolkit's way from boxes to numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.sequences.sequence import VideoSequence

__all__ = ["Measured", "Protocol", "Thresholds", "check_boxes", "pool"]

FloatArray = npt.NDArray[np.float64]

Score = Mapping[str, float]
"""A protocol's numbers by key, in the order of its headings; each 0..1, NaN where nothing counts."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where the three curves are sampled; ascending.

    Attributes:
        success: IoU.
        precision: centre error, pixels.
        normalized: centre error over the truth's width and height.
    """

    success: FloatArray
    precision: FloatArray
    normalized: FloatArray


@dataclass(frozen=True, slots=True)
class Measured:
    """One sequence by one protocol, or the mean of several; a curve is NaN where a protocol has none.

    Attributes:
        success: share of the counted frames that pass each IoU threshold.
        precision: the same by centre error in pixels.
        normalized: the same by normalized centre error.
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
