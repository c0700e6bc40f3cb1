"""Objects found in boxes without a mask."""

from __future__ import annotations

import cv2
import numpy as np

from sttrack_deploy.models.training.clips.synthetic.sprites import segment_box, segment_middle


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A red ellipse before a green meadow, and its mask."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 60, (160, 200, 3)).astype(np.uint8)
    image[..., 1] += 90
    mask = np.zeros((160, 200), np.uint8)
    cv2.ellipse(mask, (100, 80), (40, 26), 20, 0, 360, 255, -1)
    image[mask > 0] = (200, 40, 50)
    return image, mask


def test_an_object_is_found_in_its_box() -> None:
    image, mask = scene()
    x, y, w, h = map(float, cv2.boundingRect(mask))
    for found in (segment_box(image, (x, y, w, h)), segment_middle(image)):
        assert found is not None
        assert found.shape == mask.shape
        assert set(np.unique(found)) == {0, 255}
        assert ((found > 0) & (mask > 0)).sum() / ((found > 0) | (mask > 0)).sum() > 0.85


def test_nothing_is_made_up() -> None:
    flat = np.full((160, 200, 3), 90, np.uint8)
    assert segment_box(flat, (50.0, 40.0, 60.0, 60.0)) is None
    image, _ = scene()
    assert segment_box(image, (0.0, 0.0, 200.0, 160.0)) is None  # no surroundings
    assert segment_box(image, (10.0, 10.0, 8.0, 8.0)) is None  # too small
