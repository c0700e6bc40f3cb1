"""How far one step of a converted search graph lies from the FP32 one, both fed the same recorded state.

Unlike a closed loop, in which one frame's luck decides what the next sees, this hardly varies from run to run: it is
what layers are ranked by. The closed loop then decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx

from sttrack_deploy.bundle import BOX, CONFIDENCE
from sttrack_deploy.export.precision.ranges import Feeds, open_model
from sttrack_deploy.geometry import iou
from sttrack_deploy.progress import SILENT, Progress

__all__ = ["StepError"]

FloatArray = npt.NDArray[np.float64]


class StepError:
    """Compares graphs with one FP32 graph on a few samples.

    Args:
        samples: inputs of the search graph; kept in memory.
        sure_above: samples on which the reference's confidence is lower are left out, unless that leaves none: there
            the tracker believes the target lost and does not use the box.
        threads: of ONNX Runtime.
    """

    def __init__(
        self,
        reference: onnx.ModelProto,
        samples: Sequence[Feeds],
        sure_above: float = 0.0,
        threads: int | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self._threads = threads
        self._progress = progress
        boxes, confidences = self._run(reference, samples, optimized=True)
        sure = np.array([c.min() >= sure_above for c in confidences])
        if not sure.any():
            sure[:] = True
        self._samples = [feeds for feeds, taken in zip(samples, sure, strict=True) if taken]
        self._boxes = np.concatenate([b for b, taken in zip(boxes, sure, strict=True) if taken])

    def __len__(self) -> int:
        """Samples that are compared."""
        return len(self._samples)

    def __call__(self, model: onnx.ModelProto, optimized: bool = True) -> float:
        """Mean of ``1 - IoU`` between the two boxes, 0..1; infinite if an output is not a number.

        Args:
            optimized: let ONNX Runtime fuse; without, FP16 tensors are really rounded between nodes.
        """
        boxes = np.concatenate(self._run(model, self._samples, optimized)[0])
        if not np.isfinite(boxes).all():
            return float("inf")
        return float(np.mean(1.0 - np.asarray(iou(_sides(boxes), _sides(self._boxes)))))

    def _run(
        self, model: onnx.ModelProto, samples: Sequence[Feeds], optimized: bool
    ) -> tuple[list[FloatArray], list[FloatArray]]:
        """Boxes and confidences of each sample."""
        session = open_model(model, self._threads, optimized)
        boxes, confidences = [], []
        for feeds in samples:
            box, confidence = session.run([BOX, CONFIDENCE], dict(feeds))
            boxes.append(np.asarray(box, np.float64))
            confidences.append(np.asarray(confidence, np.float64))
            self._progress.advance()
        return boxes, confidences


def _sides(corners: FloatArray) -> FloatArray:
    """x1 y1 x2 y2 to x y w h."""
    return np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)
