from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_tracks import APART, BOX, NAN, Track, inner_tracks, measure, quarters, score, some, tracks

from sttrack_deploy.evaluation.protocols import DEFAULT_PROTOCOL, PROTOCOLS
from sttrack_deploy.evaluation.protocols.base import Measured


def curves(
    prediction: npt.ArrayLike, truth: npt.ArrayLike, dataset: str = "otb100", **flags: npt.ArrayLike
) -> Measured:
    return measure("pytracking", prediction, truth, dataset, size=None, **flags)


def numbers(
    prediction: npt.ArrayLike, truth: npt.ArrayLike, dataset: str = "otb100", **flags: npt.ArrayLike
) -> Mapping[str, float]:
    return score("pytracking", prediction, truth, dataset, size=None, **flags)


# --- hand-computed cases -----------------------------------------------------------------------------


def test_it_is_the_default() -> None:
    assert DEFAULT_PROTOCOL is PROTOCOLS["pytracking"]


def test_there_are_21_thresholds_from_0_to_1() -> None:
    thresholds = PROTOCOLS["pytracking"].thresholds
    np.testing.assert_allclose(thresholds.success, np.linspace(0, 1, 21), atol=1e-15)


def test_success_is_strict() -> None:
    # IoU 1 passes every threshold but 1.00; IoU 0.5 passes 0 .. 0.45: ten of them; IoU 0 passes none.
    assert curves([BOX], [BOX]).success.sum() == 20
    half = [1.0, 1.0, 10.0, 5.0]
    assert curves([BOX, half], [BOX, BOX]).success[[9, 10, 11]].tolist() == [1.0, 0.5, 0.5]
    assert curves([BOX, APART], [BOX, BOX]).success[0] == 0.5


def test_op50_and_op75_are_points_of_the_success_curve() -> None:
    three_quarters, four_fifths = [1.0, 1.0, 10.0, 7.5], [1.0, 1.0, 10.0, 8.0]
    result = numbers([BOX, three_quarters, four_fifths, APART], [BOX] * 4)
    assert (result["op50"], result["op75"]) == (0.75, 0.5)


def test_precision_includes_20_pixels_and_normalized_precision_includes_a_fifth() -> None:
    truth = [BOX, [0.0, 0.0, 100.0, 50.0], [0.0, 0.0, 100.0, 50.0]]
    at_limit = numbers([BOX, [20.0, 0.0, 100.0, 50.0], [0.0, 10.0, 100.0, 50.0]], truth)
    assert (at_limit["precision"], at_limit["normalized_precision"]) == (1.0, 1.0)
    beyond = numbers([BOX, [20.25, 0.0, 100.0, 50.0], [0.0, 10.25, 100.0, 50.0]], truth)
    assert beyond["precision"] == pytest.approx(2 / 3)
    assert beyond["normalized_precision"] == pytest.approx(1 / 3)


def test_normalized_error_is_divided_by_the_truths_sides_per_axis() -> None:
    truth, off = [BOX, [1.0, 1.0, 100.0, 10.0]], [BOX, [30.0, 4.9, 100.0, 10.0]]
    # (29 / 100, 3.9 / 10): length 0.486.
    assert curves(off, truth).normalized[[48, 49]].tolist() == [0.5, 1.0]


@pytest.mark.parametrize(("x", "share"), [(1.0, 1.0), (2.0, 0.5)])
def test_an_error_of_just_a_fifth_counts_or_not_as_pytracking_rounds(x: float, share: float) -> None:
    # Divided first and subtracted then, 4 of 20 pixels are 0.2 at x = 1 and 0.20000000000000007 at x = 2.
    truth = [[x, 1.0, 20.0, 20.0]] * 2
    assert numbers([truth[0], [x + 4.0, 1.0, 20.0, 20.0]], truth)["normalized_precision"] == share


def test_a_perfect_track_scores_20_of_21() -> None:
    result = numbers([BOX] * 3, [BOX] * 3)
    assert result["auc"] == pytest.approx(20 / 21)
    assert result["precision"] == result["normalized_precision"] == 1.0


def test_absent_frames_miss_success_and_precision_but_hit_normalized_precision() -> None:
    result = numbers([BOX] * 4, [BOX, NAN, NAN, BOX])
    assert result["auc"] == pytest.approx(0.5 * 20 / 21)
    assert (result["precision"], result["normalized_precision"]) == (0.5, 1.0)


def test_truth_without_area_counts_as_absent() -> None:
    assert numbers([BOX] * 2, [BOX, [5.0, 5.0, 0.0, 10.0]])["precision"] == 0.5


def test_uav_counts_absent_frames_as_hits_in_precision() -> None:
    result = numbers([BOX] * 2, [BOX, NAN], "uav123")
    assert result["auc"] == pytest.approx(0.5 * 20 / 21)
    assert result["precision"] == 1.0


@pytest.mark.parametrize("flags", ["absent", "occluded"])
def test_lasot_counts_invisible_frames_as_misses_in_normalized_precision_too(flags: str) -> None:
    result = numbers([BOX] * 2, [BOX, BOX], "lasot", **{flags: [False, True]})
    assert (result["precision"], result["normalized_precision"]) == (0.5, 0.5)


def test_lasot_hits_normalized_precision_where_a_visible_truth_has_no_area() -> None:
    result = numbers([BOX] * 2, [BOX, [0.0] * 4], "lasot", absent=[False, False])
    assert (result["precision"], result["normalized_precision"]) == (0.5, 1.0)


def test_the_lasot_extension_counts_invisible_frames_as_absent() -> None:
    result = numbers([BOX] * 2, [BOX, BOX], "lasot_ext", absent=[False, True])
    assert (result["precision"], result["normalized_precision"]) == (0.5, 1.0)


def test_flags_of_other_data_sets_are_not_looked_at() -> None:
    flagged = numbers([BOX] * 2, [BOX, BOX], "got10k_val", occluded=[False, True])
    assert flagged == numbers([BOX] * 2, [BOX, BOX], "got10k_val")


def test_the_first_prediction_is_replaced_by_the_truth() -> None:
    assert numbers([APART, BOX], [BOX, BOX]) == numbers([BOX, BOX], [BOX, BOX])


def test_an_empty_prediction_copies_the_one_before() -> None:
    flat = [3.0, 3.0, 0.0, 9.0]
    assert numbers([BOX, BOX, flat, flat], [BOX] * 4) == numbers([BOX] * 4, [BOX] * 4)


def test_an_empty_second_prediction_copies_the_first_as_it_was_predicted() -> None:
    assert curves([APART, [0.0] * 4], [BOX, BOX]).success[0] == 0.5


def test_an_empty_prediction_is_copied_on_from_an_absent_frame() -> None:
    # pytracking does not fix it where the truth is NaN, so the frame after copies an empty box.
    empty = [3.0, 3.0, 0.0, 0.0]
    assert curves([BOX, empty, empty], [BOX, NAN, BOX]).success[0] == pytest.approx(1 / 3)


# --- properties --------------------------------------------------------------------------------------


def reference(
    prediction: npt.NDArray[np.float64], truth: npt.NDArray[np.float64]
) -> list[npt.NDArray[np.float64]]:
    """The protocol frame by frame in plain Python."""
    success, precision, normalized = [0] * 21, [0] * 51, [0] * 51
    for frame, (p, t) in enumerate(zip(prediction.tolist(), truth.tolist(), strict=True)):
        p = t if frame == 0 else p
        w = max(0.0, min(p[0] + p[2], t[0] + t[2]) - max(p[0], t[0]))
        h = max(0.0, min(p[1] + p[3], t[1] + t[3]) - max(p[1], t[1]))
        overlap = w * h / (p[2] * p[3] + t[2] * t[3] - w * h)
        center, true_center = ([b[i] + (b[i + 2] - 1) / 2 for i in (0, 1)] for b in (p, t))
        error = math.dist(center, true_center)
        dx, dy = (center[i] / t[i + 2] - true_center[i] / t[i + 2] for i in (0, 1))
        for n in range(21):
            success[n] += overlap > n * 0.05
        for n in range(51):
            precision[n] += error <= n
            normalized[n] += math.sqrt(dx * dx + dy * dy) <= n / 100
    return [np.array(c) / len(truth) for c in (success, precision, normalized)]


@some
@given(tracks)
def test_agrees_with_the_plain_reference(track: Track) -> None:
    result = curves(*track)
    for mine, expected in zip(
        (result.success, result.precision, result.normalized), reference(*track), strict=True
    ):
        np.testing.assert_allclose(mine, expected, atol=1e-12)


@some
@given(tracks, quarters, quarters)
def test_moving_the_image_changes_no_overlap_and_no_distance(track: Track, dx: float, dy: float) -> None:
    shift = np.array([dx, dy, 0, 0])
    before, after = curves(*track), curves(track[0] + shift, track[1] + shift)
    np.testing.assert_array_equal(before.success, after.success)
    np.testing.assert_array_equal(before.precision, after.precision)


@some
@given(tracks, st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_scaling_the_image_changes_no_overlap(track: Track, scale: float) -> None:
    before, after = curves(*track), curves(track[0] * scale, track[1] * scale)
    np.testing.assert_array_equal(before.success, after.success)


@some
@given(inner_tracks, st.data())
def test_the_data_sets_differ_only_where_the_truth_is_unusable(track: Track, data: st.DataObject) -> None:
    prediction, truth = track
    plain = curves(prediction, truth)
    for name in ("uav123", "lasot", "lasot_ext"):
        np.testing.assert_array_equal(curves(prediction, truth, name).precision, plain.precision)
    missing = data.draw(st.lists(st.booleans(), min_size=len(truth), max_size=len(truth)))
    holes = np.where(np.array(missing)[:, None], np.nan, truth)
    strict, lenient = curves(prediction, holes), curves(prediction, holes, "uav123")
    np.testing.assert_allclose(lenient.precision - strict.precision, np.mean(missing), atol=1e-12)
    np.testing.assert_array_equal(lenient.success, strict.success)
    np.testing.assert_array_equal(lenient.normalized, strict.normalized)
