"""Boxes: the one home of their arithmetic, shared by training, runtime and evaluation.

A box is ``(x, y, w, h)`` in pixels, floats, ``(x, y)`` the top-left corner with the origin at the
top-left of the image, unless a name says ``xyxy``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UsageError
from sttrack_deploy.records import parse_number, show

__all__ = [
    "Box",
    "BoxCorrection",
    "CropWindow",
    "box_from_crop",
    "box_from_window",
    "center_shift",
    "clip_box",
    "context_box",
    "corrected",
    "correction_between",
    "crop_window",
    "iou",
    "parse_box",
    "snapped_window",
    "uncorrected",
    "validate_box",
]

Box = tuple[float, float, float, float]
FloatArray = npt.NDArray[np.float64]

CLIP_MARGIN = 10.0
"""Pixels of every box that stay inside the image, and its least width and height (published tracker)."""
LARGEST_CORRECTION = 0.3
"""Of each number of a :class:`BoxCorrection`, up or down."""
SAME_TARGET = 0.25
"""IoU of two boxes from which their difference is taken for a matter of taste, not of what they are around."""


@dataclass(frozen=True, slots=True)
class CropWindow:
    """The square of the image that a crop shows: ``x1 <= x < x2 = x1 + side``, whole pixels."""

    x1: int
    y1: int
    side: int

    @property
    def x2(self) -> int:
        return self.x1 + self.side

    @property
    def y2(self) -> int:
        return self.y1 + self.side

    def padding(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Pixels of padding ``(left, top, right, bottom)`` for an image of that size.

        The right and bottom pads carry the published ``+ 1``, which drops the image's last column and
        row; trained weights expect it.
        """
        return (
            max(0, -self.x1),
            max(0, -self.y1),
            max(0, self.x2 - width + 1),
            max(0, self.y2 - height + 1),
        )


def crop_window(box: Sequence[float], factor: float) -> CropWindow:
    """The square around ``box`` whose side is ``ceil(sqrt(w * h) * factor)`` (STARK's ``sample_target``).

    Raises:
        UsageError: the box has no area.
    """
    x, y, w, h = box
    side = math.ceil(_exact_side(box, factor))
    # round() is half to even, as in the published code.
    return CropWindow(round(x + 0.5 * w - side * 0.5), round(y + 0.5 * h - side * 0.5), side)


def context_box(box: Sequence[float], context: float) -> Box:
    """The square about the middle of ``box`` that crops are measured by when they count a margin in.

    Its side is ``sqrt((w + p) (h + p))`` with ``p = context * (w + h)`` (SiamFC: context 0.5): long, thin targets get
    more room than ``sqrt(w * h)`` gives them.

    Raises:
        UsageError: the box has no area.
    """
    x, y, w, h = box
    _exact_side(box, 1.0)
    margin = context * (w + h)
    side = math.sqrt((w + margin) * (h + margin))
    return x + 0.5 * (w - side), y + 0.5 * (h - side), side, side


def snapped_window(box: Sequence[float], factor: float, grid: float, scale_step: float) -> CropWindow:
    """The square around ``box`` that :func:`crop_window` means, moved to the nearest place and size of a coarse grid.

    Trackers whose boxes differ a little still cut the very same crop, nearly always, and then find the same box
    again: with :func:`box_from_window` rounding differences die out from frame to frame. In the published rule
    they never do (whole pixels, and a center that is carried on unrounded).

    Args:
        factor: side of the crop over ``sqrt(w * h)``, before it is moved.
        grid: distance of the places over the crop's side, above 0; at least one pixel.
        scale_step: ratio of neighboring sides less 1, for small steps; 0: every whole number of pixels.

    Raises:
        UsageError: the box has no area.
    """
    x, y, w, h = box
    exact = _exact_side(box, factor)
    if scale_step > 0:
        exact = math.exp(round(math.log(exact) / scale_step) * scale_step)
    side = math.ceil(exact)
    step = max(1, round(side * grid))
    x1, y1 = (round((middle - 0.5 * side) / step) * step for middle in (x + 0.5 * w, y + 0.5 * h))
    return CropWindow(x1, y1, side)


def box_from_window(box_xyxy: Sequence[float], window: CropWindow) -> Box:
    """Map a predicted box back to the image: a function of the crop alone.

    Args:
        box_xyxy: corners normalized to the search crop, 0 to 1.
        window: where the crop was cut.

    Returns:
        ``(x, y, w, h)`` in image pixels, not clipped.
    """
    x1, y1, x2, y2 = (float(v) * window.side for v in box_xyxy)
    return window.x1 + x1, window.y1 + y1, x2 - x1, y2 - y1


def box_from_crop(
    box_xyxy: Sequence[float], previous: Sequence[float], search_size: int, resize_factor: float
) -> Box:
    """Map a predicted box back to the image.

    Args:
        box_xyxy: corners normalized to the search crop, 0 to 1.
        previous: the box ``(x, y, w, h)`` that the crop was centered on, image pixels.
        search_size: side of the resized crop in pixels.
        resize_factor: ``search_size / side of the crop in image pixels``.

    Returns:
        ``(x, y, w, h)`` in image pixels, not clipped. The center is relative to the *unrounded*
        previous center, as published, although the crop itself was cut at whole pixels.
    """
    scale = search_size / resize_factor
    x1, y1, x2, y2 = (float(v) for v in box_xyxy)
    cx, cy = 0.5 * (x1 + x2) * scale, 0.5 * (y1 + y2) * scale
    w, h = (x2 - x1) * scale, (y2 - y1) * scale
    previous_cx, previous_cy = previous[0] + 0.5 * previous[2], previous[1] + 0.5 * previous[3]
    half = 0.5 * scale
    return cx + previous_cx - half - 0.5 * w, cy + previous_cy - half - 0.5 * h, w, h


def clip_box(box: Sequence[float], height: int, width: int, margin: float = CLIP_MARGIN) -> Box:
    """Keep at least ``margin`` pixels of the box inside the image and both sides at least ``margin``.

    Raises:
        ValueError: a value is NaN or infinite, which min and max would turn into a box in the corner.
    """
    if not all(math.isfinite(v) for v in box):
        raise ValueError(f"the box {_show(box)} is not finite")
    x, y, w, h = box
    x2, y2 = x + w, y + h
    x1, y1 = min(max(0.0, x), width - margin), min(max(0.0, y), height - margin)
    x2, y2 = min(max(margin, x2), float(width)), min(max(margin, y2), float(height))
    return x1, y1, max(margin, x2 - x1), max(margin, y2 - y1)


def center_shift(before: Box, after: Box) -> tuple[float, float]:
    """How far the center moved, in pixels to the right and down."""
    dx = after[0] + 0.5 * after[2] - before[0] - 0.5 * before[2]
    dy = after[1] + 0.5 * after[3] - before[1] - 0.5 * before[3]
    return dx, dy


class BoxCorrection(NamedTuple):
    """What makes a predicted box the one that was meant; see :func:`corrected`.

    Attributes:
        x, y: how far the center goes, over the predicted box's width and height.
        width, height: logarithms of the factors of width and height.
    """

    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0


def correction_between(predicted: Box, given: Box, share: float) -> BoxCorrection:
    """The correction that takes a predicted box part of the way to the given one, at most ``LARGEST_CORRECTION``.

    Args:
        share: of the way, 0 to 1.

    Returns:
        No correction where the boxes hardly overlap: they are then not around the same thing.
    """
    if share <= 0 or not iou(predicted, given) >= SAME_TARGET:
        return BoxCorrection()
    full = (
        *(step / side for step, side in zip(center_shift(predicted, given), predicted[2:], strict=True)),
        *(math.log(given[i] / predicted[i]) for i in (2, 3)),
    )
    return BoxCorrection(*(max(-LARGEST_CORRECTION, min(LARGEST_CORRECTION, share * v)) for v in full))


def corrected(box: Box, correction: BoxCorrection) -> Box:
    """A predicted box, moved and scaled by a correction; not clipped."""
    x, y, w, h = box
    dx, dy, log_width, log_height = correction
    cx, cy = x + (0.5 + dx) * w, y + (0.5 + dy) * h
    w, h = w * math.exp(log_width), h * math.exp(log_height)
    return cx - 0.5 * w, cy - 0.5 * h, w, h


def uncorrected(box: Box, correction: BoxCorrection) -> Box:
    """The predicted box of which :func:`corrected` made this one."""
    x, y, w, h = box
    dx, dy, log_width, log_height = correction
    cx, cy = x + 0.5 * w, y + 0.5 * h
    w, h = w * math.exp(-log_width), h * math.exp(-log_height)
    return cx - (0.5 + dx) * w, cy - (0.5 + dy) * h, w, h


def iou(a: npt.ArrayLike, b: npt.ArrayLike) -> FloatArray:
    """Intersection over union of boxes ``(..., 4)`` in x, y, w, h; 0 where either has no area.

    NaN boxes give NaN.
    """
    p, q = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    left = np.maximum(p[..., :2], q[..., :2])
    right = np.minimum(p[..., :2] + p[..., 2:], q[..., :2] + q[..., 2:])
    overlap = np.prod(np.clip(right - left, 0.0, None), axis=-1)
    area_p = np.prod(np.clip(p[..., 2:], 0.0, None), axis=-1)
    area_q = np.prod(np.clip(q[..., 2:], 0.0, None), axis=-1)
    union = area_p + area_q - overlap
    with np.errstate(invalid="ignore"):
        ratio = overlap / np.where(union > 0, union, 1.0)
    return np.asarray(np.where(np.isnan(union), np.nan, ratio), dtype=np.float64)


def parse_box(text: str) -> Box:
    """``"X,Y,W,H"`` as a box.

    Raises:
        UsageError: not four numbers.
    """
    parts = text.replace(",", " ").split()
    try:
        values = [parse_number(part) for part in parts]
    except ValueError:
        values = []
    if len(values) != 4:
        raise UsageError(f"a box is four numbers X,Y,W,H (for example 120,80,64,48), not {show(text)}")
    if not all(math.isfinite(v) for v in values):
        raise UsageError(f"the box {_show(values)} is not four finite numbers x,y,w,h")
    if all(0 <= v <= 1 for v in values) and not all(v.is_integer() for v in values):
        raise UsageError(
            f"the box {text} is in fractions of the image: give X,Y,W,H in pixels, not fractions"
        )
    return values[0], values[1], values[2], values[3]


def validate_box(box: Sequence[float], height: int, width: int) -> Box:
    """The part of ``box`` inside an image of that size, fit to start tracking on.

    A box that reaches over the border is cut to the image.

    Raises:
        UsageError: not four finite numbers, no area, or nothing (less than one pixel) inside the image.
    """
    try:
        values = [float(v) for v in box]
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"a box is four numbers x,y,w,h in pixels, not {show(box)}") from None
    if len(values) != 4 or not all(math.isfinite(v) for v in values):
        raise UsageError(f"the box {_show(values)} is not four finite numbers x,y,w,h")
    x, y, w, h = values
    if w <= 0 or h <= 0:
        raise UsageError(f"the box {_show(values)} has no area; width and height must be greater than 0")
    x1, y1, x2, y2 = max(0.0, x), max(0.0, y), min(float(width), x + w), min(float(height), y + h)
    if x2 - x1 < 1 or y2 - y1 < 1:
        raise UsageError(
            f"the box {_show(values)} has less than one pixel inside the image, which is {width} x {height}"
        )
    return (x, y, w, h) if (x1, y1, x2, y2) == (x, y, x + w, y + h) else (x1, y1, x2 - x1, y2 - y1)


def _exact_side(box: Sequence[float], factor: float) -> float:
    """Side of a crop before it becomes a whole number; above 0."""
    area = box[2] * box[3]
    if not area > 0:
        raise UsageError(f"the box {_show(box)} has no area; width and height must be greater than 0")
    return math.sqrt(area) * factor


def _show(box: Sequence[float]) -> str:
    return ",".join(f"{v:g}" for v in box)
