from __future__ import annotations

import numpy as np
import pytest

from sttrack_deploy.geometry import iou
from sttrack_deploy.runtime import demo
from sttrack_deploy.runtime.demo import DemoClip


@pytest.fixture(scope="module")
def clip() -> DemoClip:
    return DemoClip()


def test_it_is_deterministic(clip: DemoClip) -> None:
    other = DemoClip()
    for index in (0, 77, 121):
        np.testing.assert_array_equal(clip.frame(index), other.frame(index))
    np.testing.assert_array_equal(clip.truth, other.truth)


@pytest.mark.parametrize("index", [0, 20, 60, 75, 150, 179])
def test_truth_is_where_the_pixels_are(clip: DemoClip, index: int) -> None:
    """The box around the pixels that the fish changes, but for its half-transparent rim."""
    frame = clip.frame(index).astype(int)
    assert frame.shape == (360, 640, 3)
    changed = np.abs(frame - clip.frame(index, target=False)).max(axis=2) > 24
    ys, xs = np.nonzero(changed)
    seen = (xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1)
    np.testing.assert_allclose(seen, clip.truth[index], atol=2.0)
    assert iou(seen, clip.truth[index]) > 0.94


def test_truth_is_nan_exactly_while_nothing_shows(clip: DemoClip) -> None:
    hidden = [index for index, box in enumerate(clip.truth) if np.isnan(box[0])]
    assert 3 <= len(hidden) <= 12
    assert hidden == list(range(hidden[0], hidden[-1] + 1))
    for index in hidden:
        changed = np.abs(clip.frame(index).astype(int) - clip.frame(index, target=False)).max(axis=2) > 60
        assert not changed.any()
    for index in (hidden[0] - 2, hidden[-1] + 2):  # partly hidden: the box is that of the whole fish
        assert (clip.frame(index) != clip.frame(index, target=False)).any()
        assert iou(clip.truth[index], clip.truth[hidden[0] - 12]) >= 0.0
        assert clip.truth[index][2] > 50


def test_what_the_clip_promises(clip: DemoClip) -> None:
    truth = np.array(clip.truth)
    assert 150 <= len(truth) <= 200
    shown = truth[~np.isnan(truth).any(axis=1)]
    assert (shown[:, :2] >= 0).all()
    assert (shown[:, 0] + shown[:, 2] <= 640).all()
    assert (shown[:, 1] + shown[:, 3] <= 360).all()
    widths = shown[:, 2] / demo.FISH_LENGTH
    assert widths.min() < 0.8
    assert widths.max() > 1.4
    assert not np.isnan(truth[0]).any()


def test_frames(clip: DemoClip) -> None:
    frames = list(clip.frames(range(3, 6)))
    assert [item.index for item in frames] == [3, 4, 5]
    assert frames[1].time == pytest.approx(4 / 30)
