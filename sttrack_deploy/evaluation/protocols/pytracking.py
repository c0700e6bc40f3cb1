"""The protocol that STARK and STTrack publish with: pytracking's analysis.

Source: visionml/pytracking ``analysis/extract_results.py`` and ``plot_results.py``, with
``exclude_invalid_frames=False`` and ``plot_bin_gap=0.05``, as researchmm/Stark ships them. (Versions of
pytracking before that option took invalid frames out of the denominator, except of ``lasot`` and ``uav``.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sttrack_deploy.evaluation.protocols.base import (
    OTB_THRESHOLDS,
    Measured,
    Protocol,
    Score,
    center_error,
    check_boxes,
    normalized_error,
    otb_iou,
    repaired,
    share_above,
    share_within,
)
from sttrack_deploy.sequences.sequence import VideoSequence, usable_truth

__all__ = ["OTB_HEADINGS", "PYTRACKING", "measure", "otb_score"]

FloatArray = npt.NDArray[np.float64]

_WITH_FLAGS = frozenset({"lasot", "lasot_ext"})
"""Data sets whose visibility pytracking reads; it ignores what flags the others have."""

OTB_HEADINGS = {
    "auc": "AUC",
    "precision": "P@20",
    "normalized_precision": "NP",
    "op50": "OP50",
    "op75": "OP75",
}


def measure(
    prediction: FloatArray, sequence: VideoSequence, _size: tuple[int, int] | None = None
) -> Measured:
    """The curves of one sequence.

    Every frame counts in the denominator, the first (where the prediction is the truth) and the absent
    ones included. Where the truth is unusable the IoU is -1 (a miss at every threshold), the center error
    infinite (a miss; for UAV123 -1, a hit) and the normalized error -1 (a hit). LaSOT's frames that are
    flagged occluded or out of view are misses in all three; those of its extension are unusable truth.

    Raises:
        UserError: lengths differ, or a prediction is NaN or has a negative side.
    """
    truth = sequence.truth
    check_boxes(prediction, truth)
    predicted = repaired(prediction, truth)
    visible = sequence.visible if sequence.dataset in _WITH_FLAGS else None
    valid = usable_truth(truth) if visible is None else usable_truth(truth) & visible
    # Rows that are not valid are overwritten below: any finite stand-in keeps the arithmetic quiet.
    target = np.where(valid[:, None], truth, 1.0)
    predicted = np.where(valid[:, None], predicted, 1.0)
    overlap = np.where(valid, otb_iou(predicted, target), -1.0)
    missed = -1.0 if sequence.dataset == "uav123" else np.inf
    center = np.where(valid, center_error(predicted, target), missed)
    normalized = np.where(valid, normalized_error(predicted, target), -1.0)
    if sequence.dataset == "lasot" and visible is not None:
        normalized[~visible] = np.inf
    return Measured(
        success=share_above(overlap, OTB_THRESHOLDS.success),
        precision=share_within(center, OTB_THRESHOLDS.precision),
        normalized=share_within(normalized, OTB_THRESHOLDS.normalized),
        mean_overlap=float(np.clip(overlap, 0.0, 1.0).mean()),
        frames=len(truth),
    )


def otb_score(measured: Measured) -> Score:
    """AUC: mean of the 21 points; precision at 20 pixels; normalized precision at 0.20; OP at IoU .5, .75."""
    return {
        "auc": float(measured.success.mean()),
        "precision": float(measured.precision[20]),
        "normalized_precision": float(measured.normalized[20]),
        "op50": float(measured.success[10]),
        "op75": float(measured.success[15]),
    }


PYTRACKING = Protocol(
    name="pytracking",
    thresholds=OTB_THRESHOLDS,
    measure=measure,
    score=otb_score,
    headings=OTB_HEADINGS,
)
