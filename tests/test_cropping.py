from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sttrack_deploy.cropping import crop_patch

STRIDE = 16


def _straightforward(
    image: np.ndarray, box: tuple[float, ...], factor: float, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Patch (BGR) and 2-D mask, pixel by pixel: what the published ``sample_target`` means.

    The pad of the right and bottom border is one pixel too wide where there is one at all.
    """
    x, y, w, h = box
    side = int(np.ceil(np.sqrt(w * h) * factor))
    x1, y1 = round(x + 0.5 * w - side * 0.5), round(y + 0.5 * h - side * 0.5)
    height, width = image.shape[:2]
    last_column = width - 1 if x1 + side >= width else width
    last_row = height - 1 if y1 + side >= height else height
    patch = np.zeros((side, side, 3), np.uint8)
    mask = np.ones((side, side), np.float32)
    for row in range(max(0, -y1), min(side, last_row - y1)):
        left, right = max(0, -x1), min(side, last_column - x1)
        if right > left:
            patch[row, left:right] = image[y1 + row, x1 + left : x1 + right]
            mask[row, left:right] = 0.0
    small = cv2.resize(mask, (size, size)) != 0
    return cv2.resize(patch, (size, size)), small[::STRIDE, ::STRIDE]


image_sizes = st.tuples(st.integers(8, 120), st.integers(8, 120))
box_values = st.tuples(st.floats(-60, 160), st.floats(-60, 160), st.floats(1, 60), st.floats(1, 60))


@settings(max_examples=150, deadline=None)
@given(image_sizes, box_values, st.sampled_from([2.0, 4.0]), st.sampled_from([64, 128]))
@example((50, 50), (20.0, 20.0, 10.0, 10.0), 4.0, 64)  # inside
@example((50, 50), (5.0, 5.0, 40.0, 40.0), 4.0, 64)  # over all four borders
@example((50, 50), (30.0, 30.0, 5.0, 5.0), 7.0, 64)  # ends exactly at the border
@example((50, 50), (300.0, 300.0, 5.0, 5.0), 2.0, 64)  # does not touch the image
def test_patch_and_mask_equal_the_straightforward_ones(
    image_size: tuple[int, int], box: tuple[float, ...], factor: float, size: int
) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*image_size, 3), np.uint8)
    crop = crop_patch(image, box, factor, size, STRIDE)
    patch, mask = _straightforward(image, box, factor, size)
    np.testing.assert_array_equal(crop.mask, mask)
    np.testing.assert_array_equal(crop.patch[..., ::-1], patch)
    assert crop.resize_factor == pytest.approx(size / crop.window.side)
    assert crop.patch.dtype == np.uint8
    assert crop.mask.dtype == np.bool_


def test_the_patch_is_rgb() -> None:
    image = np.zeros((60, 60, 3), np.uint8)
    image[..., 0] = 200  # blue, in OpenCV's order
    patch = crop_patch(image, (20, 20, 10, 10), 2.0, 64, STRIDE).patch
    assert patch[32, 32].tolist() == [0, 0, 200]


def test_the_frame_is_not_changed() -> None:
    image = np.random.default_rng(2).integers(0, 256, (40, 40, 3), np.uint8)
    before = image.copy()
    crop = crop_patch(image, (-5, -5, 30, 30), 4.0, 64, STRIDE)
    crop.patch[:] = 0
    np.testing.assert_array_equal(image, before)
