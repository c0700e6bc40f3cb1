from __future__ import annotations

import math
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sttrack_deploy.auroc import auroc
from sttrack_deploy.evaluation.confidence import (
    calibration_curve,
    long_term_score,
    lost_flags_score,
    on_target_auroc,
)

steady = settings(deadline=None)
Columns = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]

# Sixteenths, so that ties are frequent and sums are exact.
sixteenths = st.integers(0, 16).map(lambda n: n / 16)
frames = st.tuples(sixteenths, sixteenths, st.booleans())


def columns(rows: list[tuple[float, float, bool]]) -> Columns:
    """Confidence, IoU (NaN where absent, as the evaluation has it), presence."""
    present = np.array([p for _, _, p in rows], bool)
    overlap = np.where(present, np.array([o for _, o, _ in rows], float), np.nan)
    return np.array([c for c, _, _ in rows], float), overlap, present


some_frames = st.lists(frames, min_size=1, max_size=20).map(columns)
any_frames = st.lists(frames, max_size=20).map(columns)


# --- AUROC -------------------------------------------------------------------------------------------


@steady
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30))
def test_auroc_counts_pairs(items: list[tuple[int, bool]]) -> None:
    scores, labels = [s for s, _ in items], [p for _, p in items]
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a, p in items if p for b, q in items if not q]
    result = auroc(scores, labels)
    if pairs:
        assert result == pytest.approx(sum(pairs) / len(pairs))
    else:
        assert math.isnan(result)


def test_auroc_of_a_constant_is_a_half() -> None:
    assert auroc([0.3] * 5, [True, False, True, False, False]) == 0.5


def test_on_target_auroc_leaves_out_absent_and_doubtful_frames() -> None:
    overlap = np.array([0.9, 0.05, 0.3, np.nan, 0.5])
    confidence = np.array([0.8, 0.2, 0.0, 0.99, 0.1])
    assert on_target_auroc(confidence, overlap) == 1.0
    assert math.isnan(on_target_auroc(confidence[2:], overlap[2:]))


# --- calibration -------------------------------------------------------------------------------------


def test_calibration_by_hand() -> None:
    confidence = np.array([0.9, 0.95, 0.1, 1.0, 0.5])
    overlap = np.array([0.8, 0.4, 0.0, np.nan, 0.7])
    curve = calibration_curve(confidence, overlap, np.array([True, True, True, False, True]), bins=2)
    assert curve.edges.tolist() == [0.0, 0.5, 1.0]
    assert curve.count.tolist() == [1, 4]
    np.testing.assert_allclose(curve.confidence, [0.1, 3.35 / 4])
    np.testing.assert_allclose(curve.overlap, [0.0, 1.9 / 4])
    np.testing.assert_allclose(curve.good, [0.0, 0.5])
    assert curve.error == pytest.approx((0.1 + 4 * (3.35 / 4 - 0.5)) / 5)


def test_a_confidence_that_is_the_share_of_good_frames_is_calibrated() -> None:
    confidence = np.repeat([0.25, 0.75], 4)
    overlap = np.array([1, 0, 0, 0, 1, 1, 1, 0.0])
    assert calibration_curve(confidence, overlap, np.ones(8, bool)).error == 0.0


def test_certain_and_wrong_is_as_bad_as_it_gets() -> None:
    assert calibration_curve(np.ones(3), np.full(3, np.nan), np.zeros(3, bool)).error == 1.0


def test_calibration_of_nothing() -> None:
    curve = calibration_curve(*columns([]))
    assert math.isnan(curve.error)
    assert curve.count.sum() == 0
    assert np.isnan(curve.good).all()


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_what_is_no_probability_cannot_be_calibrated(bad: float) -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        calibration_curve(np.array([0.5, bad]), np.ones(2), np.ones(2, bool))


@steady
@given(any_frames, st.integers(1, 20))
def test_calibration_loses_no_frame_and_keeps_the_means(data: Columns, bins: int) -> None:
    confidence, overlap, present = data
    curve = calibration_curve(confidence, overlap, present, bins)
    assert curve.count.sum() == len(confidence)
    assert len(curve.edges) - 1 == len(curve.count) == bins
    filled = curve.count > 0
    for mean, values in (
        (curve.confidence, confidence),
        (curve.overlap, np.where(present, overlap, 0)),
        (curve.good, present & (overlap > 0.5)),
    ):
        np.testing.assert_array_equal(np.isnan(mean), ~filled)
        np.testing.assert_allclose((mean * curve.count)[filled].sum(), values.sum())
    assert (curve.confidence[filled] >= curve.edges[:-1][filled] - 1e-12).all()
    assert (curve.confidence[filled] <= curve.edges[1:][filled] + 1e-12).all()
    assert math.isnan(curve.error) if not len(confidence) else 0 <= curve.error <= 1


@steady
@given(some_frames)
def test_more_bins_never_hide_what_one_bin_shows(data: Columns) -> None:
    assert calibration_curve(*data, bins=10).error >= calibration_curve(*data, bins=1).error - 1e-12


# --- long-term precision, recall and F ---------------------------------------------------------------


def reference(sequences: list[Columns]) -> tuple[list[float], list[tuple[float, float, float]]]:
    """The definition, threshold by threshold."""
    thresholds = [math.inf, *sorted({c for confidence, _, _ in sequences for c in confidence}, reverse=True)]
    curve = []
    for threshold in thresholds:
        precisions, recalls = [], []
        for confidence, overlap, present in sequences:
            hits = [
                o if p else 0.0
                for c, o, p in zip(confidence, overlap, present, strict=True)
                if c >= threshold
            ]
            precisions.append(sum(hits) / len(hits) if hits else 1.0)
            if present.any():
                recalls.append(sum(hits) / present.sum())
        precision, recall = np.mean(precisions), np.mean(recalls)
        curve.append(
            (2 * precision * recall / (precision + recall) if precision + recall else 0.0, precision, recall)
        )
    return thresholds, curve


@steady
@given(st.lists(some_frames, min_size=1, max_size=5))
def test_long_term_score_is_as_defined(sequences: list[Columns]) -> None:
    score = long_term_score(*zip(*sequences, strict=True))
    if not any(present.any() for _, _, present in sequences):
        assert math.isnan(score.f_score)
        assert np.isnan(score.precisions).all()
        return
    thresholds, curve = reference(sequences)
    assert score.thresholds.tolist() == thresholds
    np.testing.assert_allclose(score.precisions, [p for _, p, _ in curve], atol=1e-12)
    np.testing.assert_allclose(score.recalls, [r for _, _, r in curve], atol=1e-12)
    assert score.f_score == pytest.approx(max(f for f, _, _ in curve), abs=1e-12)
    best = thresholds.index(score.threshold)
    assert (score.f_score, score.precision, score.recall) == pytest.approx(curve[best], abs=1e-12)
    assert (np.diff(score.recalls) >= -1e-12).all()


@steady
@given(st.lists(some_frames, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_sequences_does_not_matter(sequences: list[Columns], random: Random) -> None:
    before = long_term_score(*zip(*sequences, strict=True))
    random.shuffle(sequences)
    after = long_term_score(*zip(*sequences, strict=True))
    np.testing.assert_allclose(after.f_score, before.f_score, atol=1e-12)
    np.testing.assert_allclose(after.precisions, before.precisions, atol=1e-12)


@steady
@given(some_frames)
def test_any_increasing_scale_of_the_confidence_gives_the_same_f_score(data: Columns) -> None:
    confidence, overlap, present = data
    before = long_term_score([confidence], [overlap], [present])
    after = long_term_score([np.exp(3 * confidence) - 7], [overlap], [present])
    np.testing.assert_equal(after.f_score, before.f_score)


def test_a_confidence_that_knows_absence_beats_a_constant_one() -> None:
    overlap, present = np.array([1.0, 1.0, np.nan, np.nan]), np.array([True, True, False, False])
    knowing = long_term_score([np.array([0.9, 0.8, 0.2, 0.1])], [overlap], [present])
    assert (knowing.precision, knowing.recall, knowing.f_score, knowing.threshold) == (1.0, 1.0, 1.0, 0.8)
    constant = long_term_score([np.full(4, 0.5)], [overlap], [present])
    assert (constant.precision, constant.recall) == (0.5, 1.0)
    assert constant.f_score == pytest.approx(2 / 3)


def test_f_is_taken_of_the_averages_over_sequences() -> None:
    # Pr 1 and 0.5, Re 1 and 0.5 at the one threshold: F of (0.75, 0.75), whatever the lengths.
    overlap = [np.ones(3), np.array([1.0, 0.0])]
    score = long_term_score([np.ones(3), np.ones(2)], overlap, [np.ones(3, bool), np.ones(2, bool)])
    assert score.f_score == 0.75


def test_a_tracker_that_never_hits_scores_0() -> None:
    score = long_term_score([np.array([0.3, 0.6])], [np.zeros(2)], [np.ones(2, bool)])
    assert (score.f_score, score.threshold, score.precision, score.recall) == (0.0, math.inf, 1.0, 0.0)


def test_sequences_without_the_target_count_for_precision_only() -> None:
    present = [np.ones(2, bool), np.zeros(2, bool)]
    score = long_term_score([np.ones(2), np.ones(2)], [np.ones(2), np.full(2, np.nan)], present)
    assert (score.precision, score.recall) == (0.5, 1.0)


def test_sequences_without_frames_do_not_count() -> None:
    empty, half = (
        (np.zeros(0), np.zeros(0), np.zeros(0, bool)),
        (np.ones(2), np.array([1.0, 0.0]), np.ones(2, bool)),
    )
    score = long_term_score(*zip(empty, half, strict=True))
    assert score.precision == score.recall == score.f_score == 0.5


def test_a_nan_confidence_is_never_reported() -> None:
    score = long_term_score([np.array([0.5, math.nan])], [np.ones(2)], [np.ones(2, bool)])
    assert (score.precision, score.recall) == (1.0, 0.5)
    assert long_term_score([np.array([math.nan])], [np.ones(1)], [np.ones(1, bool)]).f_score == 0.0


@pytest.mark.parametrize("resolution", [None, 100])
def test_long_term_score_of_nothing(resolution: int | None) -> None:
    assert math.isnan(long_term_score([], [], [], resolution=resolution).f_score)


def test_the_number_of_lists_must_agree() -> None:
    with pytest.raises(ValueError, match="zip"):
        long_term_score([np.ones(1)], [np.ones(1)], [])


@steady
@given(st.lists(some_frames, min_size=1, max_size=5), st.integers(4, 30))
def test_fewer_thresholds_never_find_a_higher_f_score(sequences: list[Columns], resolution: int) -> None:
    lists = list(zip(*sequences, strict=True))
    exact, coarse = long_term_score(*lists), long_term_score(*lists, resolution=resolution)
    assert len(coarse.thresholds) <= resolution
    assert coarse.thresholds[[0, -1]].tolist() == [math.inf, -math.inf]
    assert (np.diff(coarse.thresholds) <= 0).all()
    if any(present.any() for _, _, present in sequences):
        assert coarse.f_score <= exact.f_score + 1e-12
        assert coarse.recalls[-1] == pytest.approx(exact.recalls[-1])


# --- lost flags --------------------------------------------------------------------------------------


def test_lost_flags_by_hand() -> None:
    lost = np.array([True, True, False, False, False, True, True, True])
    present = np.array([False, True, False, True, True, False, True, True])
    overlap = np.array([np.nan, 0.05, np.nan, 0.0, 0.9, np.nan, 0.8, 0.3])
    score = lost_flags_score(lost, overlap, present)
    assert (score.absent, score.absent_flagged) == (3, 2)
    assert (score.off_target, score.off_target_flagged) == (2, 1)
    assert (score.on_target, score.on_target_flagged) == (2, 1)  # 0.3 is neither
    assert score.absent_rate == pytest.approx(2 / 3)
    assert (score.off_target_rate, score.false_alarm_rate) == (0.5, 0.5)


def test_lost_on_a_box_that_is_off_the_target_is_no_false_alarm() -> None:
    score = lost_flags_score(np.array([True, False]), np.array([0.0, 0.9]), np.array([True, True]))
    assert (score.off_target_rate, score.false_alarm_rate) == (1.0, 0.0)
    assert math.isnan(score.absent_rate)


def test_lost_flags_of_nothing() -> None:
    score = lost_flags_score(np.zeros(0, bool), np.zeros(0), np.zeros(0, bool))
    assert all(map(math.isnan, (score.absent_rate, score.off_target_rate, score.false_alarm_rate)))


@steady
@given(any_frames, st.data())
def test_lost_flags_count_every_clear_frame_once(some: Columns, data: st.DataObject) -> None:
    _, overlap, present = some
    lost = np.array(data.draw(st.lists(st.booleans(), min_size=len(present), max_size=len(present))), bool)
    score = lost_flags_score(lost, overlap, present)
    between = present & (overlap >= 0.1) & (overlap <= 0.5)
    assert score.absent + score.off_target + score.on_target == len(present) - int(between.sum())
    flagged = score.absent_flagged + score.off_target_flagged + score.on_target_flagged
    assert flagged == int((lost & ~between).sum())
