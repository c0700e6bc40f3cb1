from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_tracks import APART, BOX, NAN, Track, inner_tracks, measure, score, some

from sttrack_deploy.evaluation.protocols.base import Measured


def curves(
    prediction: npt.ArrayLike, truth: npt.ArrayLike, dataset: str = "lasot", **flags: npt.ArrayLike
) -> Measured:
    return measure("official", prediction, truth, dataset, size=None, **flags)


def numbers(
    prediction: npt.ArrayLike, truth: npt.ArrayLike, dataset: str = "lasot", **flags: npt.ArrayLike
) -> Mapping[str, float]:
    return score("official", prediction, truth, dataset, size=None, **flags)


def test_success_is_strict_and_a_perfect_track_scores_20_of_21() -> None:
    result = numbers([BOX] * 3, [BOX] * 3)
    assert result["auc"] == pytest.approx(20 / 21)
    assert result["precision"] == result["normalized_precision"] == result["op75"] == 1.0


@pytest.mark.parametrize("flags", ["absent", "occluded"])
def test_frames_without_the_target_leave_the_numerator_and_not_the_denominator(flags: str) -> None:
    result = numbers([BOX] * 4, [BOX] * 4, "lasot", **{flags: [False, True, False, False]})
    assert result["auc"] == pytest.approx(0.75 * 20 / 21)
    assert result["precision"] == result["normalized_precision"] == result["op50"] == 0.75


def test_nan_truth_counts_as_absent_with_and_without_flags() -> None:
    flagged = numbers([BOX] * 2, [BOX, NAN], absent=[False, False])
    assert flagged == numbers([BOX] * 2, [BOX, NAN])
    assert flagged["precision"] == flagged["normalized_precision"] == 0.5


def test_empty_truth_is_absent_without_flags_and_a_hit_in_precision_with_them() -> None:
    truth = [BOX, [0.0, 0.0, 0.0, 0.0]]
    assert numbers([BOX] * 2, truth, "tnl2k")["precision"] == 0.5
    flagged = numbers([BOX] * 2, truth, absent=[False, False])
    assert (flagged["op50"], flagged["precision"], flagged["normalized_precision"]) == (0.5, 1.0, 1.0)


@pytest.mark.parametrize("border", [[0.0, 5.0, 10.0, 10.0], [5.0, 0.0, 10.0, 10.0]])
def test_a_truth_at_the_upper_or_left_border_is_a_miss_in_success_and_a_hit_in_precision(
    border: list[float],
) -> None:
    result = numbers([BOX, border], [BOX, border])
    assert (result["op50"], result["precision"]) == (0.5, 1.0)
    assert numbers([BOX, APART], [BOX, border])["precision"] == 1.0


def test_the_first_prediction_is_the_truth_and_empty_ones_copy_the_one_before() -> None:
    assert numbers([APART, BOX, [3.0, 3.0, 0.0, 9.0]], [BOX] * 3) == numbers([BOX] * 3, [BOX] * 3)


def test_an_empty_prediction_copies_that_of_an_absent_frame() -> None:
    # The toolkit fixes first and drops the absent frames then.
    result = curves([BOX, APART, [0.0] * 4], [BOX] * 3, absent=[False, True, False])
    assert result.success[0] == pytest.approx(1 / 3)


def test_a_first_frame_that_is_absent_does_not_count() -> None:
    assert numbers([BOX] * 2, [BOX] * 2, absent=[True, False])["precision"] == 0.5


@some
@given(inner_tracks)
def test_is_pytracking_where_every_frame_has_the_target_inside_the_image(track: Track) -> None:
    mine, other = curves(*track), measure("pytracking", *track, "otb100")
    np.testing.assert_array_equal(mine.success, other.success)
    np.testing.assert_array_equal(mine.precision, other.precision)
    np.testing.assert_array_equal(mine.normalized, other.normalized)


@some
@given(inner_tracks, st.data())
def test_never_above_pytracking_where_frames_are_absent(track: Track, data: st.DataObject) -> None:
    prediction, truth = track
    missing = data.draw(st.lists(st.booleans(), min_size=len(truth), max_size=len(truth)))
    for dataset in ("lasot", "lasot_ext", "uav123"):
        mine = curves(prediction, truth, dataset, absent=missing)
        other = measure("pytracking", prediction, truth, dataset, absent=missing)
        for name in ("success", "precision", "normalized"):
            assert (getattr(mine, name) <= getattr(other, name)).all()


@some
@given(inner_tracks, st.data())
def test_is_the_got10k_toolkits_curve_times_the_share_of_known_frames(
    track: Track, data: st.DataObject
) -> None:
    prediction, truth = track
    missing = [False, *data.draw(st.lists(st.booleans(), min_size=len(truth) - 1, max_size=len(truth) - 1))]
    truth = np.where(np.array(missing)[:, None], np.nan, truth)
    mine, other = curves(prediction, truth), measure("got10k", prediction, truth)
    np.testing.assert_allclose(mine.success * mine.frames, other.success * other.frames)
    np.testing.assert_allclose(mine.precision * mine.frames, other.precision * other.frames)
