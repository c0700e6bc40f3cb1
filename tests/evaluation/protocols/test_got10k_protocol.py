from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_tracks import APART, BOX, NAN, Track, measure, score, sequence, some, tracks

from sttrack_deploy.evaluation.protocols import PROTOCOLS
from sttrack_deploy.evaluation.protocols.base import Measured

GOT10K = PROTOCOLS["got10k"]
HALF = [1.0, 1.0, 10.0, 5.0]


def val(
    prediction: npt.ArrayLike,
    truth: npt.ArrayLike,
    size: tuple[int, int] | None = (100, 100),
    **flags: npt.ArrayLike,
) -> Measured:
    return measure("got10k", prediction, truth, "got10k_val", size, **flags)


# --- its own data set --------------------------------------------------------------------------------


def test_it_asks_for_the_images_size() -> None:
    assert GOT10K.needs_image_size
    with pytest.raises(ValueError, match="image_size"):
        GOT10K.measure(np.array([BOX, BOX]), sequence([BOX, BOX], "got10k_val"), None)


def test_the_first_frame_does_not_count() -> None:
    result = val([APART, BOX, HALF], [BOX] * 3)
    assert (result.frames, result.mean_overlap) == (2, 0.75)


def test_covered_frames_do_not_count_and_absent_ones_do() -> None:
    result = val([BOX, APART, HALF], [BOX] * 3, occluded=[False, True, False], absent=[False, False, True])
    assert (result.frames, result.mean_overlap) == (1, 0.5)


def test_ao_is_over_the_frames_of_all_sequences() -> None:
    long, short = val([BOX] * 10, [BOX] * 10), val([BOX, APART], [BOX] * 2)
    overall = GOT10K.overall([long, short])
    assert overall["ao"] == pytest.approx(9 / 10)
    assert overall["sr50"] == overall["sr75"] == pytest.approx(9 / 10)


def test_success_rates_are_strict() -> None:
    three_quarters = [1.0, 1.0, 10.0, 7.5]
    result = GOT10K.score(val([BOX, BOX, three_quarters, HALF], [BOX] * 4))
    assert [result["sr50"], result["sr75"]] == pytest.approx([2 / 3, 1 / 3])


def test_boxes_are_clipped_on_the_right_and_below_by_their_size() -> None:
    # Both stop at 100: what juts out is cut off, and they agree.
    assert val([BOX, [90.0, 90.0, 50.0, 50.0]], [BOX, [90.0, 90.0, 20.0, 20.0]]).mean_overlap == 1.0


def test_boxes_are_moved_in_on_the_left_and_above() -> None:
    # -10 … 20 becomes 0 … 30, not 0 … 20.
    assert val([BOX, [-10.0, 0.0, 30.0, 10.0]], [BOX, [0.0, 0.0, 30.0, 10.0]]).mean_overlap == 1.0


def test_a_box_outside_the_image_is_empty() -> None:
    assert val([BOX, APART], [BOX, APART]).mean_overlap == 0.0


def test_it_has_no_center_errors() -> None:
    result = GOT10K.score(val([BOX] * 2, [BOX] * 2))
    assert math.isnan(result["precision"])
    assert math.isnan(result["normalized_precision"])


def test_a_sequence_in_which_nothing_counts_is_left_out() -> None:
    nothing = val([BOX, BOX], [BOX, BOX], occluded=[False, True])
    assert nothing.frames == 0
    assert math.isnan(GOT10K.score(nothing)["ao"])
    assert GOT10K.overall([nothing, val([BOX, HALF], [BOX, BOX])])["ao"] == 0.5


@some
@given(st.lists(tracks, min_size=1, max_size=5))
def test_ao_is_the_mean_of_the_pooled_frames(several: list[Track]) -> None:
    measured = [val(*track) for track in several]
    frames = sum(len(truth) - 1 for _, truth in several)
    total = sum(m.mean_overlap * m.frames for m in measured if m.frames)
    overall = GOT10K.overall(measured)["ao"]
    assert overall == pytest.approx(total / frames) if frames else math.isnan(overall)


@some
@given(tracks)
def test_the_auc_lies_within_a_step_of_the_mean_overlap(track: Track) -> None:
    result = val(*track)
    if result.frames:
        # Of IoU x, ceil(20 x) of 21 strict thresholds pass.
        assert -1e-9 <= result.success.sum() / 20 - result.mean_overlap <= 0.05 + 1e-9


# --- other data sets ---------------------------------------------------------------------------------


def test_frame_0_is_the_truth_and_sequences_weigh_the_same() -> None:
    perfect, lost = (
        measure("got10k", [APART] + [BOX] * 8, [BOX] * 9),
        measure("got10k", [BOX, APART], [BOX] * 2),
    )
    overall = GOT10K.overall([perfect, lost])
    assert overall["auc"] == pytest.approx((20 / 21 + 10 / 21) / 2)
    assert overall["precision"] == pytest.approx(0.75)
    assert overall["ao"] == pytest.approx(0.75)


def test_nan_truth_leaves_the_denominator() -> None:
    result = score("got10k", [BOX] * 3, [BOX, NAN, BOX], "uav123", size=None)
    assert result["auc"] == pytest.approx(20 / 21)
    assert result["precision"] == result["normalized_precision"] == result["ao"] == 1.0


def test_nan_truth_everywhere_counts_nothing() -> None:
    assert measure("got10k", [BOX], [NAN]).frames == 0


def test_empty_boxes_and_flags_are_not_looked_at() -> None:
    empty = [0.0] * 4
    result = measure(
        "got10k", [BOX, empty, BOX, BOX], [BOX, BOX, empty, BOX], "lasot", absent=[False] * 3 + [True]
    )
    assert (result.frames, result.mean_overlap) == (4, 0.5)


def test_normalized_precision_is_the_mean_of_51_points() -> None:
    truth = [[1.0, 1.0, 100.0, 100.0]] * 2
    # An error of a quarter passes the thresholds .25 … .50: 26 of 51.
    assert score("got10k", [truth[0], [26.0, 1.0, 100.0, 100.0]], truth)[
        "normalized_precision"
    ] == pytest.approx((1 + 26 / 51) / 2)


def test_the_normalized_error_is_of_one_pixel_at_least() -> None:
    truth = [[1.0, 1.0, 0.25, 0.25]] * 2
    result = measure("got10k", [truth[0], [1.25, 1.0, 0.25, 0.25]], truth)
    assert result.normalized[[24, 25]].tolist() == [0.5, 1.0]
