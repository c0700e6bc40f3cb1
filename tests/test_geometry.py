from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttrack_deploy.errors import UsageError
from sttrack_deploy.geometry import (
    LARGEST_CORRECTION,
    BoxCorrection,
    box_from_crop,
    box_from_window,
    clip_box,
    context_box,
    corrected,
    correction_between,
    crop_window,
    iou,
    parse_box,
    snapped_window,
    uncorrected,
    validate_box,
)

position = st.floats(-500, 1500)
length = st.floats(1, 800)
boxes = st.tuples(position, position, length, length)
sizes = st.tuples(st.integers(16, 1200), st.integers(16, 1200))


@given(boxes, boxes)
def test_iou_is_symmetric_and_between_0_and_1(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    assert 0.0 <= iou(a, b) <= 1.0 + 1e-12
    assert iou(a, b) == pytest.approx(float(iou(b, a)), abs=1e-12)


@given(boxes)
def test_iou_with_itself_is_1(box: tuple[float, ...]) -> None:
    assert iou(box, box) == pytest.approx(1.0)


@given(boxes, boxes, st.floats(-50, 50), st.floats(0.5, 4))
def test_iou_ignores_shift_and_scale(
    a: tuple[float, ...], b: tuple[float, ...], shift: float, scale: float
) -> None:
    def moved(box: tuple[float, ...]) -> list[float]:
        return [scale * (box[0] + shift), scale * (box[1] + shift), scale * box[2], scale * box[3]]

    assert iou(moved(a), moved(b)) == pytest.approx(float(iou(a, b)), abs=1e-6)


def test_iou_counts_pixels() -> None:
    rng = np.random.default_rng(3)
    for _ in range(30):
        a, b = ([*rng.integers(0, 20, 2), *rng.integers(1, 20, 2)] for _ in range(2))
        masks = []
        for x, y, w, h in (a, b):
            mask = np.zeros((60, 60), bool)
            mask[y : y + h, x : x + w] = True
            masks.append(mask)
        expected = (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
        assert iou(a, b) == pytest.approx(expected)


def test_iou_of_nan_and_of_nothing() -> None:
    assert math.isnan(float(iou([np.nan] * 4, [0, 0, 1, 1])))
    assert iou([0, 0, 0, 0], [0, 0, 0, 0]) == 0.0
    assert iou([[0, 0, 2, 2], [5, 5, 1, 1]], [[0, 0, 2, 1], [0, 0, 1, 1]]).tolist() == [0.5, 0.0]


@given(boxes, sizes)
def test_clip_box_keeps_a_part_inside(box: tuple[float, ...], size: tuple[int, int]) -> None:
    height, width = size
    x, y, w, h = clip_box(box, height, width)
    assert w >= 10
    assert h >= 10
    assert 0 <= x <= width - 10
    assert 0 <= y <= height - 10
    assert x + w <= width + 1e-9
    assert y + h <= height + 1e-9


@given(boxes, sizes)
def test_clip_box_does_nothing_twice(box: tuple[float, ...], size: tuple[int, int]) -> None:
    once = clip_box(box, *size)
    assert clip_box(once, *size) == pytest.approx(once)


@given(boxes, sizes)
def test_clip_box_leaves_boxes_inside_alone(box: tuple[float, ...], size: tuple[int, int]) -> None:
    height, width = size
    x, y, w, h = box
    if x >= 0 and y >= 0 and w >= 10 and h >= 10 and x + w <= width and y + h <= height:
        assert clip_box(box, height, width) == pytest.approx(box)


@given(boxes, st.floats(1, 5))
def test_crop_window_is_centered(box: tuple[float, ...], factor: float) -> None:
    x, y, w, h = box
    window = crop_window(box, factor)
    assert window.side == math.ceil(math.sqrt(w * h) * factor)
    assert abs(0.5 * (window.x1 + window.x2) - (x + 0.5 * w)) <= 0.5 + 1e-6
    assert abs(0.5 * (window.y1 + window.y2) - (y + 0.5 * h)) <= 0.5 + 1e-6


@given(boxes, boxes, st.sampled_from([112, 224, 320]))
def test_a_box_comes_back_from_its_crop(
    box: tuple[float, ...], previous: tuple[float, ...], size: int
) -> None:
    side = crop_window(previous, 4.0).side
    left = previous[0] + 0.5 * previous[2] - 0.5 * side
    top = previous[1] + 0.5 * previous[3] - 0.5 * side
    x, y, w, h = box
    normalized = [(x - left) / side, (y - top) / side, (x + w - left) / side, (y + h - top) / side]
    assert box_from_crop(normalized, previous, size, size / side) == pytest.approx(box, abs=1e-6)


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (0, 0, 5, 0), (3, 3, -4, 4)])
def test_crop_window_needs_an_area(box: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="no area"):
        crop_window(box, 2.0)


grids = st.sampled_from([1 / 128, 1 / 64, 1 / 16])
scale_steps = st.sampled_from([0.0, 0.05, 0.1])


@given(boxes, st.floats(1, 5), grids, scale_steps)
def test_snapped_window_lies_on_its_grid_near_the_box(
    box: tuple[float, ...], factor: float, grid: float, scale_step: float
) -> None:
    x, y, w, h = box
    window = snapped_window(box, factor, grid, scale_step)
    exact = math.sqrt(w * h) * factor
    assert exact * math.exp(-scale_step / 2) - 1e-6 <= window.side <= exact * math.exp(scale_step / 2) + 1
    step = max(1, round(window.side * grid))
    assert window.x1 % step == window.y1 % step == 0
    assert abs(0.5 * (window.x1 + window.x2) - (x + 0.5 * w)) <= 0.5 * step + 1e-6
    assert abs(0.5 * (window.y1 + window.y2) - (y + 0.5 * h)) <= 0.5 * step + 1e-6


def test_snapped_windows_are_few() -> None:
    # Boxes anywhere within a pixel and 2 % of each other mostly share one window.
    draws = np.random.default_rng(4)
    boxes = np.array([100.0, 80.0, 60.0, 60.0]) * (1 + draws.uniform(-0.01, 0.01, (500, 4)))
    snapped = {snapped_window(box, 4.0, 1 / 64, 0.05) for box in boxes.tolist()}
    published = {crop_window(box, 4.0) for box in boxes.tolist()}
    assert len(snapped) <= 8 < len(published)


@given(boxes, boxes, grids)
def test_a_box_comes_back_from_its_snapped_window(
    box: tuple[float, ...], previous: tuple[float, ...], grid: float
) -> None:
    window = snapped_window(previous, 4.0, grid, 0.05)
    x, y, w, h = box
    corners = np.array([x - window.x1, y - window.y1, x + w - window.x1, y + h - window.y1]) / window.side
    assert box_from_window(corners.tolist(), window) == pytest.approx(box, abs=1e-6)


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (3, 3, -4, 4), (0, 0, math.nan, 5)])
def test_snapped_window_needs_an_area(box: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="no area"):
        snapped_window(box, 4.0, 1 / 64, 0.05)


@pytest.mark.parametrize("text", ["1,2,3,4", " 1 2 3 4", "1, 2,3 ,4", "1e0,2.0,3,4"])
def test_parse_box(text: str) -> None:
    assert parse_box(text) == (1, 2, 3, 4)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1,2,3,4px"])
def test_parse_box_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="four numbers"):
        parse_box(text)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((10, 10, 0, 5), "no area"),
        ((10, 10, 5, -5), "no area"),
        ((math.nan, 10, 5, 5), "finite"),
        ((10, 10, math.inf, 5), "finite"),
        ((10, 10, 5), "finite"),
        ((200, 10, 20, 20), "inside the image, which is 160 x 96"),
        ((-30, 10, 20, 20), "inside the image"),
        ((159.5, 10, 20, 20), "inside the image"),
    ],
)
def test_validate_box_refuses(box: tuple[float, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        validate_box(box, 96, 160)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((-5, 10, 20, 20), (0, 10, 15, 20)),
        ((150, 90, 40, 40), (150, 90, 10, 6)),
        ((10.5, 20.25, 30.125, 40), (10.5, 20.25, 30.125, 40)),
        ((0, 0, 160, 96), (0, 0, 160, 96)),
        ((50, 50, 1, 1), (50, 50, 1, 1)),
    ],
)
def test_validate_box_cuts_to_the_image(box: tuple[float, ...], expected: tuple[float, ...]) -> None:
    assert validate_box(box, 96, 160) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_clip_box_refuses_what_is_no_number(value: float) -> None:
    for place in range(4):
        box = [10.0, 10.0, 20.0, 20.0]
        box[place] = value
        with pytest.raises(ValueError, match="is not finite"):
            clip_box(box, 100, 100)


@pytest.mark.parametrize("text", ["0.2,0.1,0.5,0.5", "0,0,0.5,1", "1,1,.5,.5"])
def test_fractions_are_told_so(text: str) -> None:
    with pytest.raises(UsageError, match="in pixels, not fractions"):
        parse_box(text)


@pytest.mark.parametrize(
    "box", [None, 3, "abcd", ["a", 1, 2, 3], [[1, 2], [3, 4]], [1, 2, 3], [None] * 4, [10**400] * 4]
)
def test_what_is_no_box_is_told_in_one_line(box: object) -> None:
    with pytest.raises(UsageError) as caught:
        validate_box(box, 100, 100)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["nan,1,2,3", "1,2,inf,3", "1e400,1,2,3"])
def test_a_box_of_no_numbers(text: str) -> None:
    with pytest.raises(UsageError, match="four finite numbers"):
        parse_box(text)


def test_context_gives_thin_targets_more_room_and_keeps_the_middle() -> None:
    assert context_box((10, 20, 40, 40), 0.5) == (-10, 0, 80, 80)
    thin, square = (0.0, 0.0, 90.0, 10.0), (30.0, -10.0, 30.0, 30.0)  # of the same area and middle
    x, y, w, h = context_box(thin, 0.5)
    assert (x + w / 2, y + h / 2) == pytest.approx((45, 5))
    assert w == h > context_box(square, 0.5)[2]
    # Without context a box is measured by its area: the window is the published one.
    assert crop_window(context_box(thin, 0.0), 4.0) == crop_window(thin, 4.0)
    with pytest.raises(UsageError, match="no area"):
        context_box((1, 2, 0, 5), 0.5)


shares = st.floats(0, 1)
near = st.floats(-0.25, 0.25)


@given(boxes, near, near, near, near, shares)
def test_a_correction_takes_a_box_to_the_one_that_was_meant(
    predicted: tuple[float, ...], dx: float, dy: float, wider: float, higher: float, share: float
) -> None:
    x, y, w, h = predicted
    given_box = corrected((x, y, w, h), BoxCorrection(dx, dy, wider, higher))
    assert iou(predicted, given_box) > 0.25
    full = correction_between((x, y, w, h), given_box, 1.0)
    assert full == pytest.approx((dx, dy, wider, higher), abs=1e-6)
    assert corrected((x, y, w, h), full) == pytest.approx(given_box, rel=1e-6, abs=1e-6)
    assert uncorrected(given_box, full) == pytest.approx(predicted, rel=1e-6, abs=1e-6)
    part = correction_between((x, y, w, h), given_box, share)
    assert part == pytest.approx([share * value for value in full], abs=1e-6)


@given(boxes, boxes, shares)
def test_corrections_are_bounded_and_only_for_boxes_around_the_same(
    predicted: tuple[float, float, float, float], meant: tuple[float, float, float, float], share: float
) -> None:
    correction = correction_between(predicted, meant, share)
    assert all(abs(value) <= LARGEST_CORRECTION for value in correction)
    if iou(predicted, meant) < 0.25 or share == 0:
        assert correction == BoxCorrection()
        assert corrected(predicted, correction) == pytest.approx(predicted)


def test_a_correction_of_known_boxes() -> None:
    # Given: twice as wide to the right, a quarter less high from below.
    assert correction_between((10, 20, 40, 80), (10, 20, 80, 60), 0.4) == pytest.approx(
        (0.4 * 0.5, -0.4 * 0.125, 0.4 * math.log(2), 0.4 * math.log(0.75))
    )
    assert correction_between((10, 20, 40, 80), (10, 20, 80, 60), 1.0).width == LARGEST_CORRECTION
