from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_tracks import APART, BOX, NAN, Track, measure, score, some, tracks, whole_tracks

from sttrack_deploy.evaluation.protocols.base import Measured


def curves(prediction: npt.ArrayLike, truth: npt.ArrayLike, **flags: npt.ArrayLike) -> Measured:
    return measure("trackingnet", prediction, truth, "trackingnet", size=None, **flags)


def numbers(prediction: npt.ArrayLike, truth: npt.ArrayLike, **flags: npt.ArrayLike) -> Mapping[str, float]:
    return score("trackingnet", prediction, truth, "trackingnet", size=None, **flags)


def test_a_perfect_track_scores_1() -> None:
    assert set(numbers([BOX] * 3, [BOX] * 3).values()) == {1.0}


def test_success_includes_the_threshold() -> None:
    half = [1.0, 1.0, 10.0, 5.0]
    assert curves([BOX, half], [BOX, BOX]).success[[9, 10, 11]].tolist() == [1.0, 1.0, 0.5]
    assert numbers([BOX, half], [BOX, BOX])["op50"] == 1.0


def test_no_overlap_passes_the_threshold_0() -> None:
    # The first frame is perfect (1); the second adds half of one step of 1/20 to the area.
    result = numbers([BOX, APART], [BOX, BOX])
    assert result["auc"] == pytest.approx((1 + 0.025) / 2)
    assert result["precision"] == result["normalized_precision"] == 0.5


def test_curves_are_integrated_by_the_trapezoid_rule_over_50_pixels_and_a_half() -> None:
    truth = [[1.0, 1.0, 100.0, 100.0]] * 2
    # 25 pixels, a quarter of the side: the curves rise from .5 to 1 between 22.5 and 25 pixels (.225 and .25).
    result = numbers([truth[0], [26.0, 1.0, 100.0, 100.0]], truth)
    for name in ("precision", "normalized_precision"):
        assert result[name] == pytest.approx((9 * 0.5 + 0.75 + 10 * 1) / 20)


def test_boxes_are_rounded_to_whole_pixels_with_halves_to_even() -> None:
    assert numbers([BOX, [1.5, 0.5, 10.4, 9.6]], [BOX, [2.0, 0.0, 10.0, 10.0]])["auc"] == 1.0
    assert numbers([BOX, [2.0, 0.0, 10.0, 10.0]], [BOX, [1.5, 0.5, 10.4, 9.6]])["auc"] == 1.0


def test_the_first_prediction_is_the_truth() -> None:
    assert numbers([APART, BOX], [BOX, BOX])["auc"] == 1.0


def test_empty_predictions_are_not_fixed() -> None:
    result = curves([BOX, BOX, [6.0, 6.0, 0.0, 0.0]], [BOX] * 3)
    assert result.success[1] == pytest.approx(2 / 3)
    assert result.precision[0] == 1.0


def test_nan_truth_is_a_miss_everywhere() -> None:
    result = curves([BOX, BOX], [BOX, NAN])
    for curve in (result.success, result.precision, result.normalized):
        assert (curve == 0.5).all()


def test_empty_truth_has_a_distance_but_no_normalized_one() -> None:
    result = curves([BOX, [3.0, 3.0, 4.0, 4.0]], [BOX, [5.0, 5.0, 0.0, 0.0]])
    assert result.success[[0, 1]].tolist() == [1.0, 0.5]
    assert result.precision[0] == 1.0
    assert result.normalized[-1] == 0.5
    both = curves([BOX, [5.0, 5.0, 0.0, 0.0]], [BOX, [5.0, 5.0, 0.0, 0.0]])
    assert both.success[0] == 0.5


def test_a_ratio_of_whole_pixels_misses_its_threshold_where_numpys_linspace_rounds_up() -> None:
    # linspace(0, 1, 21)[12] is 0.6000000000000001: the toolkit does not count 6/10 as 0.6.
    assert curves([BOX, [1.0, 1.0, 10.0, 6.0]], [BOX, BOX]).success[12] == 0.5


@some
@given(whole_tracks)
def test_never_below_the_strict_comparison_of_pytracking(track: Track) -> None:
    assert (curves(*track).success >= measure("pytracking", *track, "trackingnet").success).all()


@some
@given(whole_tracks, st.integers(-50, 50), st.integers(-50, 50))
def test_moving_the_image_by_whole_pixels_changes_nothing(track: Track, dx: float, dy: float) -> None:
    shift = np.array([dx, dy, 0, 0])
    before, after = curves(*track), curves(track[0] + shift, track[1] + shift)
    np.testing.assert_array_equal(before.success, after.success)
    np.testing.assert_array_equal(before.precision, after.precision)
    np.testing.assert_array_equal(before.normalized, after.normalized)


@some
@given(tracks)
def test_the_first_point_of_success_is_full_where_the_truth_has_an_area(track: Track) -> None:
    prediction, truth = track
    if (np.round(truth[:, 2:]) > 0).all():
        assert curves(prediction, truth).success[0] == 1.0


@some
@given(tracks)
def test_rounding_first_changes_nothing(track: Track) -> None:
    np.testing.assert_array_equal(curves(*track).success, curves(*np.round(track)).success)
