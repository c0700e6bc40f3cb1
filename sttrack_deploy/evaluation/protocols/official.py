"""The toolkits of LaSOT and of TNL2K, which are one in what they compute.

Source: HengLan/LaSOT_Evaluation_Toolkit ``utils/{calc_seq_err_robust,eval_tracker,plot_draw_save}.m``;
wangxiao5791509/TNL2K_evaluation_toolkit has the same files.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sttrack_deploy.evaluation.protocols.base import (
    OTB_THRESHOLDS,
    Measured,
    Protocol,
    center_error,
    check_boxes,
    normalized_error,
    otb_iou,
    repaired,
    share_above,
    share_within,
)
from sttrack_deploy.evaluation.protocols.pytracking import OTB_HEADINGS, otb_score
from sttrack_deploy.sequences.sequence import VideoSequence, usable_truth

__all__ = ["OFFICIAL", "measure"]

FloatArray = npt.NDArray[np.float64]


def measure(
    prediction: FloatArray, sequence: VideoSequence, _size: tuple[int, int] | None = None
) -> Measured:
    """The curves of one sequence.

    The first prediction is the truth. Frames without the target leave the numerators and stay in the
    denominators: no tracker reaches 1 where there are any. They are those flagged absent or occluded; where
    a sequence has no flags (the toolkits have files of them for each), those whose truth is NaN or empty.

    Any other truth in which one of x, y, w, h is not above 0 has the IoU -1 and both center errors -1: a miss
    in success, a hit in precision. That takes in boxes that touch the image's left or upper border.

    The toolkits also leave sequences whose curve is 0 throughout out of that curve's mean, which cannot
    come about while the first frame is valid, and is not done here.

    Raises:
        UserError: lengths differ, or a prediction is NaN or has a negative side.
    """
    truth = sequence.truth
    check_boxes(prediction, truth)
    flags = sequence.visible
    present = usable_truth(truth) if flags is None else flags & ~np.isnan(truth).any(axis=1)
    valid = present & (truth > 0).all(axis=1)
    predicted, target = repaired(prediction, truth)[valid], truth[valid]
    overlap = np.full(len(truth), -1.0)
    overlap[valid] = otb_iou(predicted, target)
    center, normalized = np.where(present, -1.0, np.inf), np.where(present, -1.0, np.inf)
    center[valid] = center_error(predicted, target)
    normalized[valid] = normalized_error(predicted, target)
    return Measured(
        success=share_above(overlap, OTB_THRESHOLDS.success),
        precision=share_within(center, OTB_THRESHOLDS.precision),
        normalized=share_within(normalized, OTB_THRESHOLDS.normalized),
        mean_overlap=float(np.clip(overlap, 0.0, 1.0).mean()),
        frames=len(truth),
    )


OFFICIAL = Protocol(
    name="official",
    thresholds=OTB_THRESHOLDS,
    measure=measure,
    score=otb_score,
    headings=OTB_HEADINGS,
)
