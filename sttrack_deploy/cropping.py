"""Cutting the square crop that the network sees out of a frame, and its padding mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import CropSpec
from sttrack_deploy.geometry import CropWindow, context_box, crop_window, snapped_window

__all__ = ["Crop", "crop_patch", "cut_window", "search_crop", "template_crop"]

UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Crop:
    """A resized crop.

    Attributes:
        patch: uint8 ``(size, size, 3)``, RGB.
        mask: bool ``(size / stride, size / stride)``, True where the network's cell is padding.
        resize_factor: ``size / side``, crop pixels for each image pixel.
        window: the square of the image it was cut from.
    """

    patch: UInt8Array
    mask: BoolArray
    resize_factor: float
    window: CropWindow


def crop_patch(frame: UInt8Array, box: Sequence[float], factor: float, size: int, stride: int) -> Crop:
    """Cut the square of ``factor`` times the box's mean side around ``box`` and resize it: the published rule.

    Args:
        frame: BGR uint8 ``(height, width, 3)``, as OpenCV gives it.
        box: x, y, w, h in pixels.
        factor: side of the crop over ``sqrt(w * h)``.
        size, stride: see :func:`cut_window`.
    """
    return cut_window(frame, crop_window(box, factor), size, stride)


def template_crop(frame: UInt8Array, box: Sequence[float], spec: CropSpec) -> Crop:
    """The crop to start on; arguments as in :func:`crop_patch`."""
    return crop_patch(frame, _measured(box, spec), spec.template_factor, spec.template_size, spec.stride)


def search_crop(frame: UInt8Array, box: Sequence[float], spec: CropSpec, growth: float = 1.0) -> Crop:
    """The crop to look for a target in that was at ``box``; ``growth`` widens it."""
    factor = spec.search_factor * growth
    if spec.snapped:
        window = snapped_window(_measured(box, spec), factor, spec.search_grid, spec.search_scale_step)
    else:
        window = crop_window(_measured(box, spec), factor)
    return cut_window(frame, window, spec.search_size, spec.stride)


def _measured(box: Sequence[float], spec: CropSpec) -> Sequence[float]:
    """What crops about a box are measured by."""
    return context_box(box, spec.context) if spec.context > 0 else box


def cut_window(frame: UInt8Array, window: CropWindow, size: int, stride: int) -> Crop:
    """Cut a square of the image and resize it.

    Args:
        frame: BGR uint8 ``(height, width, 3)``.
        window: the square.
        size: side of the resized crop in pixels.
        stride: pixels of the resized crop for each cell of the mask.

    What lies outside the image is black and masked. The mask is the published one (the float mask of
    the padding, resized bilinearly, any non-zero counts, sampled at the stride), computed on the two
    axes apart: a pixel is padded when its column or its row is.
    """
    height, width = frame.shape[:2]
    left, top, right, bottom = window.padding(height, width)
    rows_inside = slice(window.y1 + top, max(window.y2 - bottom, 0))
    columns_inside = slice(window.x1 + left, max(window.x2 - right, 0))
    inside: UInt8Array = frame[rows_inside, columns_inside]
    cells = size // stride
    if inside.size == 0:  # the window does not touch the image at all
        black = np.zeros((size, size, 3), np.uint8)
        return Crop(black, np.ones((cells, cells), np.bool_), size / window.side, window)
    if left or top or right or bottom:
        bordered = cv2.copyMakeBorder(inside, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(0, 0, 0))
        inside = np.asarray(bordered, np.uint8)
    patch = cv2.cvtColor(cv2.resize(inside, (size, size)), cv2.COLOR_BGR2RGB)
    columns = _padded_cells(window.side, left, right, size, stride)
    rows = _padded_cells(window.side, top, bottom, size, stride)
    mask = rows[:, None] | columns[None, :]
    return Crop(np.asarray(patch, np.uint8), mask, size / window.side, window)


def _padded_cells(side: int, before: int, after: int, size: int, stride: int) -> BoolArray:
    """Which cells along one axis are padding; bool ``(size / stride,)``."""
    if not before and not after:
        return np.zeros(size // stride, np.bool_)
    line = np.zeros((1, side), np.float32)
    line[:, :before] = 1.0
    line[:, side - after :] = 1.0
    return np.asarray(cv2.resize(line, (size, 1))[0, ::stride] != 0.0, np.bool_)
