"""Masks where none are published: GrabCut inside a box, kept only where the result looks like an object."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["segment_box", "segment_middle"]

UInt8Array = npt.NDArray[np.uint8]

WORKING_SIZE = 96  # side that a box and its surroundings are shrunk to: 14 ms each, and sprites are 64 px
CONTEXT = 0.3  # of the box's sides, on every side


def segment_box(image: UInt8Array, box: tuple[float, float, float, float]) -> UInt8Array | None:
    """The object in a box.

    Args:
        image: RGB uint8 ``(height, width, 3)``.
        box: x, y, w, h of an object, pixels.

    Returns:
        uint8 ``(height, width)``, 255 on the object, or None where it could not be told from its surroundings
        (about six boxes of ten).
    """
    return _segment(image, box, fill=(0.3, 0.88), least_side=0.75)


def segment_middle(image: UInt8Array) -> UInt8Array | None:
    """The object in the middle of a photograph that shows one; see :func:`segment_box`."""
    height, width = image.shape[:2]
    box = (0.1 * width, 0.1 * height, 0.8 * width, 0.8 * height)
    return _segment(image, box, fill=(0.12, 0.7), least_side=0.35)


def _segment(
    image: UInt8Array, box: tuple[float, float, float, float], fill: tuple[float, float], least_side: float
) -> UInt8Array | None:
    """``fill``: least and greatest share of the box; ``least_side``: of the box's sides."""
    height, width = image.shape[:2]
    x, y, w, h = box
    left, top = max(0, int(x - CONTEXT * w)), max(0, int(y - CONTEXT * h))
    right, bottom = min(width, int(x + w + CONTEXT * w) + 1), min(height, int(y + h + CONTEXT * h) + 1)
    scale = min(1.0, WORKING_SIZE / max(right - left, bottom - top))
    if min(w, h) < 20 or max(w, h) > 6 * min(w, h):
        return None
    patch = cv2.resize(image[top:bottom, left:right], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    x1, y1 = max(0, round((x - left) * scale)), max(0, round((y - top) * scale))
    x2, y2 = round((x + w - left) * scale), round((y + h - top) * scale)
    labels = np.full(patch.shape[:2], cv2.GC_BGD, np.uint8)
    labels[y1:y2, x1:x2] = cv2.GC_PR_FGD
    if (labels == cv2.GC_BGD).mean() < 0.15:
        return None  # no surroundings to learn from
    cv2.setRNGSeed(0)  # GrabCut's clustering starts at random
    models = np.zeros((1, 65)), np.zeros((1, 65))
    try:
        cv2.grabCut(patch, labels, (0, 0, 1, 1), *models, 3, cv2.GC_INIT_WITH_MASK)
    except cv2.error:
        return None  # a flat patch
    found = ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)).astype(np.uint8)
    found = np.asarray(cv2.morphologyEx(found, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), np.uint8)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(found, connectivity=4)
    if count < 2:
        return None
    best = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    share = int(stats[best, cv2.CC_STAT_AREA]) / max(1, (x2 - x1) * (y2 - y1))
    wide = int(stats[best, cv2.CC_STAT_WIDTH]) > least_side * (x2 - x1)
    tall = int(stats[best, cv2.CC_STAT_HEIGHT]) > least_side * (y2 - y1)
    if not (fill[0] < share < fill[1] and wide and tall):
        return None
    part = (parts == best).astype(np.uint8)
    outline, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(part, outline, -1, (255,), -1)  # with its holes filled
    mask = np.zeros((height, width), np.uint8)
    size = (right - left, bottom - top)
    mask[top:bottom, left:right] = cv2.resize(part, size, interpolation=cv2.INTER_LINEAR) > 127
    return np.asarray(mask * 255, np.uint8)
