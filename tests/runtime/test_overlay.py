from __future__ import annotations

import numpy as np
import pytest

from sttrack_deploy.geometry import Box
from sttrack_deploy.runtime.overlay import COLORS, draw_result, draw_results, draw_truth
from sttrack_deploy.runtime.results import FrameResult

BOXES: list[Box] = [
    (20.0, 20.0, 30.0, 20.0),
    (-50.0, -40.0, 100.0, 80.0),
    (1e7, -1e7, 50.0, 1e6),
    (0.0, 0.0, 10.0, 10.0),
]


@pytest.mark.parametrize("size", [(16, 16), (90, 160), (720, 405), (1080, 1920)])
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("lost", [False, True])
def test_only_pixels_of_the_frame_change(size: tuple[int, int], box: Box, lost: bool) -> None:
    height, width = size
    surroundings = np.full((height + 40, width + 40, 3), 77, np.uint8)
    image = surroundings[20:-20, 20:-20]
    draw_truth(image, box)
    draw_result(image, FrameResult(12, 0.5, box, 0.5, lost), 25.0)
    assert (image != 77).any()
    image[:] = 77
    assert (surroundings == 77).all()


def test_lost_looks_different_and_text_scales() -> None:
    def drawn(size: tuple[int, int], lost: bool) -> np.ndarray:
        image = np.full((*size, 3), 90, np.uint8)
        draw_result(image, FrameResult(1, 0.0, (60.0, 40.0, 40.0, 30.0), 0.5, lost), 25.0)
        return np.asarray(image != 90)

    found, lost = drawn((360, 640), False), drawn((360, 640), True)
    assert not found[-1].any()
    assert lost[0].all()
    assert lost[-1].all()  # the border
    share = [drawn(size, False).mean() for size in ((180, 320), (360, 640), (1080, 1920))]
    assert max(share) < 4 * min(share)


def test_the_box_itself_is_on_its_border() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    draw_result(image, FrameResult(0, 0.0, (30.0, 40.0, 20.0, 30.0), 1.0, False))
    for x, y in ((30, 55), (49, 55), (40, 69)):
        assert image[y, x].max() > 100
    assert not image[45:65, 35:45].any()


def test_nan_truth_draws_nothing() -> None:
    image = np.zeros((50, 50, 3), np.uint8)
    draw_truth(image, [float("nan")] * 4)
    assert not image.any()


def test_several_targets_have_colors_and_numbers_of_their_own() -> None:
    boxes: list[Box] = [(30.0, 60.0, 40.0, 40.0), (130.0, 60.0, 40.0, 40.0), (230.0, 60.0, 40.0, 40.0)]

    def drawn(lost: tuple[int, ...]) -> np.ndarray:
        image = np.zeros((180, 320, 3), np.uint8)
        draw_results(image, [FrameResult(3, 0.1, box, 0.5, i in lost) for i, box in enumerate(boxes)])
        return image

    clear = drawn(())
    for box, color in zip(boxes, COLORS, strict=False):
        assert tuple(clear[80, int(box[0])]) == color
    assert not clear[:, -1].any()
    assert not drawn((1,))[:, -1].any()  # one of three: no alarm
    assert (drawn((1,))[:, 130] != clear[:, 130]).any()  # but another box
    assert drawn((0, 1, 2))[:, -1].any()


def test_one_of_several_is_drawn_as_ever() -> None:
    one, as_ever = (np.zeros((90, 160, 3), np.uint8) for _ in range(2))
    result = FrameResult(3, 0.1, (30.0, 40.0, 20.0, 30.0), 0.5, True)
    draw_results(one, [result], 25.0)
    draw_result(as_ever, result, 25.0)
    assert np.array_equal(one, as_ever)


@pytest.mark.parametrize("corner", [(2.0, 25.0), (2.0, 140.0), (270.0, 25.0), (60.0, 25.0)])
def test_frame_number_and_label_do_not_cover_each_other(corner: tuple[float, float]) -> None:
    def drawn(box: Box, fps: float | None) -> np.ndarray:
        image = np.full((180, 320, 3), 90, np.uint8)
        draw_results(image, [FrameResult(123, 0.1, box, 0.5, False)] * 2, fps)
        return image

    def panel(image: np.ndarray) -> int:
        return int((image == 20).all(axis=2).sum())

    away, near = drawn((150.0, 80.0, 30.0, 30.0), 25.0), drawn((*corner, 30.0, 30.0), 25.0)
    assert abs(panel(away) - panel(near)) < 10
