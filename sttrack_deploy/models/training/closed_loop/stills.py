"""Photographs of several objects as clips without any motion but the camera's: real look-alikes, thousands of them.

Annotated video shows few targets, most of them alone. A photograph of a crowd, a herd or a market stall shows many that
belong to one kind, each at its place, and nothing is pasted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from sttrack_deploy.cropping import cut_window
from sttrack_deploy.geometry import CropWindow, iou
from sttrack_deploy.models.training.clips.synthetic.image_bank import parse_boxes, read_image, read_index
from sttrack_deploy.models.training.closed_loop.clip_groups import VideoLook, Views

__all__ = ["Still", "StillGroup", "read_stills"]

SMALLEST_SIDE = 12.0
"""Pixels; of what may be a target."""
LARGEST_SHARE = 0.5
"""Of the picture's area."""
INSIDE = 0.5
"""Least part of a box that lies in the picture; it is cut to it."""
APART = 0.1
"""Overlap up to which two boxes are two objects."""
MIRRORED = 0.15
"""Share of the clips whose target has turned about since the template."""


@dataclass(frozen=True, slots=True)
class Still:
    """A photograph with several objects.

    Attributes:
        path: the image file.
        boxes: float64 ``(k, 4)``, x, y, w, h in pixels, two or more.
    """

    path: Path
    boxes: npt.NDArray[np.float64]


def read_stills(folder: Path, limit: int | None = None) -> list[Still]:
    """The photographs with two or more objects apart, in the picture, and neither too small nor too large.

    Args:
        folder: holds ``index.csv``.
        limit: look at so many photographs only, spread over the index.

    Raises:
        UserError: the index or a photograph cannot be read.
    """
    stills = []
    for row in read_index(folder, "train", limit):
        given = np.array(parse_boxes(folder, row, 1.0), np.float64).reshape(-1, 4)
        if len(given) < 2:
            continue
        path = folder / row["path"]
        height, width = read_image(path).shape[:2]
        low = np.clip(given[:, :2], 0, (width, height))
        high = np.clip(given[:, :2] + given[:, 2:], 0, (width, height))
        boxes = np.concatenate((low, high - low), 1)
        sides, areas = boxes[:, 2:].min(1), boxes[:, 2:].prod(1)
        fit = (sides >= SMALLEST_SIDE) & (areas <= LARGEST_SHARE * height * width)
        fit &= areas >= INSIDE * given[:, 2:].prod(1)
        boxes = boxes[fit]
        alone = [bool((iou(boxes, box) >= APART).all()) for box in boxes]
        boxes = boxes[~np.array(alone, np.bool_)]
        if len(boxes) >= 2:
            stills.append(Still(path, boxes))
    return stills


class StillGroup:
    """Clips of photographs; see :class:`~.clip_groups.ClipGroup`.

    Args:
        stills: to choose from.
        rng: decides everything.
        clips, frames: ``n`` and the number of search frames (``F - 1``).
    """

    def __init__(self, stills: Sequence[Still], rng: np.random.Generator, clips: int, frames: int) -> None:
        chosen = [stills[int(i)] for i in rng.integers(len(stills), size=clips)]
        self._pictures = [read_image(still.path) for still in chosen]
        self._look = VideoLook(rng, clips, frames + 1)
        self.limits = np.array([p.shape[1::-1] for p in self._pictures], np.float32)
        self._maps = np.stack([_camera(rng, frames + 1) for _ in chosen])
        self._aim(chosen, rng)

    def _aim(self, chosen: Sequence[Still], rng: np.random.Generator) -> None:
        """Choose the targets, and turn the camera on them: where they and the others are seen."""
        boxes, rivals = [], []
        for clip, still in enumerate(chosen):
            target = int(rng.integers(len(still.boxes)))
            apart = iou(still.boxes, still.boxes[target]) < APART
            # The camera moves about the target, so that it stays in the picture.
            x, y, w, h = still.boxes[target]
            middle = np.array([x + w / 2, y + h / 2])
            for matrix in self._maps[clip]:
                drift = matrix[:, 2] * np.sqrt(w * h)
                matrix[:, 2] = middle - matrix[:, :2] @ middle + drift
            boxes.append(_moved(still.boxes[target], self._maps[clip]))
            others = np.stack([_moved(box, self._maps[clip]) for box in still.boxes[apart]])
            others[~self._inside(others, clip)] = np.nan
            rivals.append(others)
        self.rivals: Sequence[npt.NDArray[np.float64]] = rivals
        self.boxes = np.stack(boxes).astype(np.float32)
        self.visible = np.stack([self._inside(box, clip) for clip, box in enumerate(self.boxes)])

    def _inside(self, boxes: npt.NDArray[np.floating], clip: int) -> npt.NDArray[np.bool_]:
        """Whether the middles of boxes ``(..., 4)`` lie in the picture."""
        middle = boxes[..., :2] + boxes[..., 2:] / 2
        return np.asarray(((middle > 0) & (middle < self.limits[clip])).all(-1), np.bool_)

    def look(self, frame: int, windows: Sequence[CropWindow], size: int) -> Views:
        pixels, masks = [], []
        for clip, window in enumerate(windows):
            picture, matrix = self._pictures[clip], self._maps[clip, frame]
            height, width = picture.shape[:2]
            moved = cv2.warpAffine(picture, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
            crop = cut_window(np.asarray(moved, np.uint8), window, size, 16)
            pixels.append(self._look.degraded(crop.patch, clip, frame))
            masks.append(crop.mask)
        return Views(np.stack(pixels), np.stack(masks))


def _camera(rng: np.random.Generator, frames: int) -> npt.NDArray[np.float64]:
    """Affine maps ``(frames, 2, 3)``, each a little further; the last column in target sizes."""
    walk = np.cumsum(rng.normal(0, 1, (frames, 5)) * rng.uniform(0.2, 1.0), axis=0)
    walk -= walk[:1]
    turn, wide, high = (
        np.clip(walk[:, i] * s, -m, m) for i, (s, m) in enumerate(((0.04, 0.25), (0.05, 0.3), (0.05, 0.3)))
    )
    drift = walk[:, 3:] * 0.15
    cos, sin = np.cos(turn), np.sin(turn)
    out = np.empty((frames, 2, 3))
    out[:, 0, 0], out[:, 0, 1] = np.exp(wide) * cos, -np.exp(wide) * sin
    out[:, 1, 0], out[:, 1, 1] = np.exp(high) * sin, np.exp(high) * cos
    out[:, :, 2] = drift
    if rng.random() < MIRRORED:
        out[1:, 0, 0] *= -1
        out[1:, 1, 0] *= -1
    return out


def _moved(box: npt.NDArray[np.float64], maps: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A box ``(4,)`` under affine maps ``(F, 2, 3)``: ``(F, 4)``, as if an ellipse filled it."""
    middle = box[:2] + box[2:] / 2
    places = maps[:, :, :2] @ middle + maps[:, :, 2]
    size = np.sqrt(maps[:, :, :2] ** 2 @ box[2:] ** 2)
    return np.concatenate((places - size / 2, size), 1)
