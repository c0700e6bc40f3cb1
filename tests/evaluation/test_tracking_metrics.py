from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.metrics import (
    PYTRACKING,
    SUCCESS_THRESHOLDS,
    auroc,
    on_target_auroc,
    presence_auroc,
    pytracking_curves,
)

NAN = [math.nan] * 4
BOX = [0.0, 0.0, 10.0, 10.0]


def curves(prediction, truth, **options):
    return pytracking_curves(np.array(prediction, float), np.array(truth, float), **options)


def score(prediction, truth, **options):
    return PYTRACKING.reduce(curves(prediction, truth, **options))


# --- hand-computed cases -----------------------------------------------------------------------------


def test_there_are_21_thresholds_from_0_to_1():
    np.testing.assert_allclose(SUCCESS_THRESHOLDS, np.linspace(0, 1, 21), atol=1e-15)


def test_success_is_strict():
    # IoU 1 passes every threshold but 1.00; IoU 0.5 passes 0 .. 0.45: ten of them; IoU 0 passes none.
    assert curves([BOX], [BOX]).success.sum() == 20
    half = [0.0, 0.0, 10.0, 5.0]
    assert curves([BOX, half], [BOX, BOX]).success[[9, 10, 11]].tolist() == [1.0, 0.5, 0.5]
    apart = [50.0, 50.0, 10.0, 10.0]
    assert curves([BOX, apart], [BOX, BOX]).success[0] == 0.5


def test_precision_includes_20_pixels_and_normalized_precision_includes_a_fifth():
    truth = [BOX, [0.0, 0.0, 100.0, 50.0], [0.0, 0.0, 100.0, 50.0]]
    at_limit = [BOX, [20.0, 0.0, 100.0, 50.0], [0.0, 10.0, 100.0, 50.0]]
    assert score(at_limit, truth).precision == 1.0
    assert score(at_limit, truth).normalized_precision == 1.0
    beyond = [BOX, [20.25, 0.0, 100.0, 50.0], [0.0, 10.25, 100.0, 50.0]]
    assert score(beyond, truth).precision == pytest.approx(2 / 3)
    assert score(beyond, truth).normalized_precision == pytest.approx(1 / 3)


def test_normalized_error_is_divided_by_the_truths_sides_per_axis():
    truth, off = [BOX, [0.0, 0.0, 100.0, 10.0]], [BOX, [30.0, 4.0, 100.0, 10.0]]
    # (30/100, 4/10): length 0.5 exactly.
    assert curves(off, truth).normalized[[49, 50]].tolist() == [0.5, 1.0]


def test_a_perfect_track_scores_20_of_21():
    result = score([BOX] * 3, [BOX] * 3)
    assert (result.auc, result.precision, result.normalized_precision) == (pytest.approx(20 / 21), 1.0, 1.0)


def test_absent_frames_miss_success_and_precision_but_hit_normalized_precision():
    result = score([BOX] * 4, [BOX, NAN, NAN, BOX])
    assert result.auc == pytest.approx(0.5 * 20 / 21)
    assert result.precision == 0.5
    assert result.normalized_precision == 1.0


def test_truth_without_area_counts_as_absent():
    assert score([BOX] * 2, [BOX, [5.0, 5.0, 0.0, 10.0]]).precision == 0.5


def test_uav_counts_absent_frames_as_hits_in_precision():
    result = score([BOX] * 2, [BOX, NAN], dataset="uav")
    assert (result.auc, result.precision) == (pytest.approx(0.5 * 20 / 21), 1.0)


def test_lasot_counts_invisible_frames_as_misses_in_normalized_precision():
    visible = np.array([True, False])
    assert score([BOX] * 2, [BOX, BOX], visible=visible).normalized_precision == 1.0
    assert score([BOX] * 2, [BOX, BOX], visible=visible, dataset="lasot").normalized_precision == 0.5


def test_the_first_prediction_is_replaced_by_the_truth():
    assert score([[90.0, 90.0, 1.0, 1.0], BOX], [BOX, BOX]) == score([BOX, BOX], [BOX, BOX])


def test_an_empty_prediction_copies_the_one_before():
    flat = [3.0, 3.0, 0.0, 9.0]
    assert score([BOX, BOX, flat, flat], [BOX] * 4) == score([BOX] * 4, [BOX] * 4)


def test_an_empty_prediction_is_copied_on_from_an_absent_frame():
    # pytracking does not mend it where the truth is NaN, so the frame after copies an empty box.
    empty = [3.0, 3.0, 0.0, 0.0]
    result = curves([BOX, empty, empty], [BOX, NAN, BOX])
    assert result.success[0] == pytest.approx(1 / 3)


@pytest.mark.parametrize("bad", [NAN, [0.0, 0.0, -1.0, 5.0], [math.inf, 0.0, 1.0, 1.0]])
def test_a_nan_or_negative_prediction_is_refused_with_its_frame(bad):
    with pytest.raises(UserError, match="frame 1"):
        curves([BOX, bad], [BOX, BOX])


def test_lengths_must_agree():
    with pytest.raises(UserError, match="must be"):
        curves([BOX], [BOX, BOX])


def test_sequences_count_the_same_whatever_their_length():
    perfect = curves([BOX] * 9, [BOX] * 9)
    apart = [500.0, 500.0, 10.0, 10.0]
    lost = curves([BOX, apart], [BOX, BOX])
    overall = PYTRACKING.overall([perfect, lost])
    assert overall.auc == pytest.approx((20 / 21 + 10 / 21) / 2)
    assert overall.precision == pytest.approx(0.75)


def test_no_sequences_no_numbers():
    assert math.isnan(PYTRACKING.overall([]).auc)


# --- properties --------------------------------------------------------------------------------------

# Quarters, so that moving and scaling by powers of two is exact and no threshold is crossed by rounding.
quarters = st.integers(-400, 400).map(lambda n: n / 4)
sides = st.integers(1, 400).map(lambda n: n / 4)
boxes = st.tuples(quarters, quarters, sides, sides)
tracks = st.lists(st.tuples(boxes, boxes), min_size=1, max_size=12).map(
    lambda pairs: (np.array([p for p, _ in pairs]), np.array([t for _, t in pairs]))
)


def reference(prediction, truth):
    """The protocol frame by frame in plain Python."""
    success, precision, normalized = [0] * 21, [0] * 51, [0] * 51
    for frame, (p, t) in enumerate(zip(prediction.tolist(), truth.tolist(), strict=True)):
        p = t if frame == 0 else p
        w = max(0.0, min(p[0] + p[2], t[0] + t[2]) - max(p[0], t[0]))
        h = max(0.0, min(p[1] + p[3], t[1] + t[3]) - max(p[1], t[1]))
        overlap = w * h / (p[2] * p[3] + t[2] * t[3] - w * h)
        dx, dy = p[0] + p[2] / 2 - t[0] - t[2] / 2, p[1] + p[3] / 2 - t[1] - t[3] / 2
        for n in range(21):
            success[n] += overlap > n * 0.05
        for n in range(51):
            precision[n] += math.hypot(dx, dy) <= n
            normalized[n] += math.hypot(dx / t[2], dy / t[3]) <= n / 100
    return [np.array(c) / len(truth) for c in (success, precision, normalized)]


@given(tracks)
def test_agrees_with_the_plain_reference(track):
    result = pytracking_curves(*track)
    for mine, expected in zip(
        (result.success, result.precision, result.normalized), reference(*track), strict=True
    ):
        np.testing.assert_allclose(mine, expected, atol=1e-12)


@given(tracks)
def test_numbers_are_shares_and_curves_monotone(track):
    result = pytracking_curves(*track)
    numbers = PYTRACKING.reduce(result)
    assert 0 <= numbers.auc <= 20 / 21 + 1e-12
    assert 0 <= numbers.precision <= 1
    assert 0 <= numbers.normalized_precision <= 1
    assert (np.diff(result.success) <= 0).all()
    assert (np.diff(result.precision) >= 0).all()
    assert (np.diff(result.normalized) >= 0).all()


@given(
    st.lists(
        st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.floats(0.1, 1e4), st.floats(0.1, 1e4)),
        min_size=1,
    )
)
def test_any_perfect_track_scores_the_same(track):
    truth = np.array(track)
    numbers = PYTRACKING.reduce(pytracking_curves(truth, truth))
    assert numbers.auc == pytest.approx(20 / 21)
    assert numbers.precision == numbers.normalized_precision == 1.0


@given(tracks, quarters, quarters)
def test_moving_the_image_changes_nothing(track, dx, dy):
    shift = np.array([dx, dy, 0, 0])
    before, after = pytracking_curves(*track), pytracking_curves(track[0] + shift, track[1] + shift)
    np.testing.assert_array_equal(before.success, after.success)
    np.testing.assert_array_equal(before.precision, after.precision)
    np.testing.assert_array_equal(before.normalized, after.normalized)


@given(tracks, st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_scaling_the_image_changes_only_the_precision_in_pixels(track, scale):
    before, after = pytracking_curves(*track), pytracking_curves(track[0] * scale, track[1] * scale)
    np.testing.assert_array_equal(before.success, after.success)
    np.testing.assert_array_equal(before.normalized, after.normalized)


@given(tracks, st.integers(0, 50), st.integers(1, 50))
def test_farther_off_is_never_better(track, near, farther):
    truth = track[1]
    direction = np.array([1.0, 0.0, 0.0, 0.0])
    close = pytracking_curves(truth + direction * near, truth)
    far = pytracking_curves(truth + direction * (near + farther), truth)
    assert (far.success <= close.success).all()
    assert (far.precision <= close.precision).all()
    assert (far.normalized <= close.normalized).all()


# --- AUROC -------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30))
def test_auroc_counts_pairs(items):
    scores, labels = [s for s, _ in items], [p for _, p in items]
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a, p in items if p for b, q in items if not q]
    result = auroc(scores, labels)
    if pairs:
        assert result == pytest.approx(sum(pairs) / len(pairs))
    else:
        assert math.isnan(result)


def test_auroc_of_a_constant_is_a_half():
    assert auroc([0.3] * 5, [True, False, True, False, False]) == 0.5


def test_presence_auroc_takes_absent_frames_as_negatives():
    truth = np.array([BOX, NAN, BOX])
    assert presence_auroc(np.array([0.9, 0.1, 0.8]), truth) == 1.0
    assert math.isnan(presence_auroc(np.array([0.9, 0.8]), truth[[0, 2]]))


def test_on_target_auroc_leaves_out_absent_and_doubtful_frames():
    truth = np.array([BOX, BOX, BOX, NAN, BOX])
    overlap = np.array([0.9, 0.05, 0.3, np.nan, 0.5])
    confidence = np.array([0.8, 0.2, 0.0, 0.99, 0.1])
    assert on_target_auroc(confidence, overlap, truth) == 1.0
    assert math.isnan(on_target_auroc(confidence[2:], overlap[2:], truth[2:]))
