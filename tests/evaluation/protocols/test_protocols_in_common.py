from __future__ import annotations

import math
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_tracks import (
    APART,
    BOX,
    NAN,
    SIZE,
    Track,
    few,
    inner_tracks,
    measure,
    perfect_truth,
    score,
    sequence,
    tracks,
    whole_tracks,
)

from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.protocols import PROTOCOLS
from sttrack_deploy.evaluation.protocols.base import Measured

DATASETS = ("folder", "lasot", "lasot_ext", "uav123", "tnl2k", "trackingnet", "got10k_val")
every = pytest.mark.parametrize("name", sorted(PROTOCOLS))
every_on_every = pytest.mark.parametrize(
    ("name", "dataset"), [(name, dataset) for name in sorted(PROTOCOLS) for dataset in DATASETS]
)


def test_the_protocols_are_these() -> None:
    assert list(PROTOCOLS) == ["pytracking", "official", "got10k", "trackingnet"]


@every
def test_scores_come_in_the_order_of_the_headings(name: str) -> None:
    protocol = PROTOCOLS[name]
    assert list(score(name, [BOX] * 2, [BOX] * 2)) == list(protocol.headings)
    assert protocol.headline == next(iter(protocol.headings))


@every
def test_thresholds_ascend_and_fit_the_curves(name: str) -> None:
    thresholds, measured = PROTOCOLS[name].thresholds, measure(name, [BOX] * 2, [BOX] * 2)
    for curve in ("success", "precision", "normalized"):
        assert (np.diff(getattr(thresholds, curve)) > 0).all()
        assert getattr(measured, curve).shape == getattr(thresholds, curve).shape


@every_on_every
@pytest.mark.parametrize("bad", [NAN, [0.0, 0.0, -1.0, 5.0], [math.inf, 0.0, 1.0, 1.0]])
def test_a_nan_or_negative_prediction_is_refused_with_its_frame(
    name: str, dataset: str, bad: list[float]
) -> None:
    with pytest.raises(UserError, match="frame 1"):
        measure(name, [BOX, bad], [BOX, BOX], dataset)


@every_on_every
def test_lengths_must_agree(name: str, dataset: str) -> None:
    with pytest.raises(UserError, match="must be"):
        measure(name, [BOX], [BOX, BOX], dataset)


@every
def test_no_sequences_no_numbers(name: str) -> None:
    numbers = PROTOCOLS[name].overall([])
    assert list(numbers) == list(PROTOCOLS[name].headings)
    assert all(math.isnan(value) for value in numbers.values())


@every
def test_sequences_count_the_same_whatever_their_length(name: str) -> None:
    short, long = measure(name, [BOX, APART], [BOX] * 2), measure(name, [BOX] * 9, [BOX] * 9)
    protocol = PROTOCOLS[name]
    mean = np.mean([list(protocol.score(m).values()) for m in (short, long)], axis=0)
    np.testing.assert_allclose(list(protocol.overall([short, long]).values()), mean)


def flat(value: float, frames: int = 5, weight: float = 1.0) -> Measured:
    """Curves that are one value throughout."""
    return Measured(np.full(21, value), np.full(51, value), np.full(51, value), value, frames, weight)


def test_a_weight_is_what_a_sequence_counts() -> None:
    overall = PROTOCOLS["pytracking"].overall
    assert overall([flat(1.0, weight=3.0), flat(0.0)])["precision"] == 0.75
    assert overall([flat(1.0), flat(math.nan, frames=0)])["precision"] == 1.0
    assert overall([flat(1.0), flat(0.0, weight=0.0)])["precision"] == 1.0
    assert math.isnan(overall([flat(1.0, weight=0.0)])["precision"])


@every
@few
@given(dataset=st.sampled_from(DATASETS), track=tracks, data=st.data())
def test_numbers_are_shares_and_curves_monotone(
    name: str, dataset: str, track: Track, data: st.DataObject
) -> None:
    prediction, truth = track
    flags = st.lists(st.booleans(), min_size=len(truth), max_size=len(truth))
    truth = np.where(np.array(data.draw(flags))[:, None], data.draw(st.sampled_from([np.nan, 0.0])), truth)
    prediction = np.where(np.array(data.draw(flags))[:, None], 0.0, prediction)
    result = measure(name, prediction, truth, dataset, absent=data.draw(flags), occluded=data.draw(flags))
    assert 0 <= result.frames <= len(truth)
    if result.frames:
        assert 0 <= result.mean_overlap <= 1
        assert (np.diff(result.success) <= 0).all()
    if result.frames and dataset + name != "got10k_valgot10k":
        assert (np.diff(result.precision) >= 0).all()
        assert (np.diff(result.normalized) >= 0).all()
    for value in PROTOCOLS[name].score(result).values():
        assert math.isnan(value) or 0 <= value <= 1


@every
@few
@given(dataset=st.sampled_from(DATASETS), track=tracks)
def test_nothing_that_is_given_is_changed(name: str, dataset: str, track: Track) -> None:
    prediction, truth = track
    before, given_truth = prediction.copy(), sequence(truth, dataset)
    PROTOCOLS[name].measure(prediction, given_truth, SIZE)
    np.testing.assert_array_equal(prediction, before)
    np.testing.assert_array_equal(given_truth.truth, truth)


@every
@few
@given(
    dataset=st.sampled_from(DATASETS),
    several=st.lists(tracks, max_size=5),
    random=st.randoms(use_true_random=False),
)
def test_the_order_of_sequences_does_not_matter(
    name: str, dataset: str, several: list[Track], random: Random
) -> None:
    measured = [measure(name, *track, dataset) for track in several]
    numbers = PROTOCOLS[name].overall(measured)
    random.shuffle(measured)
    np.testing.assert_allclose(
        list(PROTOCOLS[name].overall(measured).values()), list(numbers.values()), equal_nan=True
    )


@every
@few
@given(track=inner_tracks)
def test_the_first_prediction_never_counts(name: str, track: Track) -> None:
    prediction, truth = track
    other = np.concatenate([[APART], prediction[1:]])
    for dataset in ("folder", "got10k_val"):
        first, second = (score(name, boxes, truth, dataset) for boxes in (prediction, other))
        np.testing.assert_equal(second, first)


@pytest.mark.parametrize(
    ("name", "best"),
    [("pytracking", 20 / 21), ("official", 20 / 21), ("got10k", 20 / 21), ("trackingnet", 1.0)],
)
@few
@given(track=whole_tracks)
def test_any_perfect_track_scores_the_same(name: str, best: float, track: Track) -> None:
    numbers = dict(score(name, track[1], track[1]))
    assert numbers.pop("auc") == pytest.approx(best)
    np.testing.assert_allclose(list(numbers.values()), 1.0)


@pytest.mark.parametrize("name", ["pytracking", "official"])
@few
@given(truth=perfect_truth)
def test_with_fractions_rounding_may_let_perfect_frames_pass_the_last_threshold(
    name: str, truth: npt.NDArray[np.float64]
) -> None:
    # As in the toolkits: see otb_iou.
    assert 20 / 21 - 1e-9 <= score(name, truth, truth)["auc"] <= 1.0


@every
@few
@given(track=inner_tracks, near=st.integers(0, 50), farther=st.integers(1, 50))
def test_farther_off_is_never_better(name: str, track: Track, near: int, farther: int) -> None:
    truth = track[1]
    direction = np.array([1.0, 0.0, 0.0, 0.0])
    close = measure(name, truth + direction * near, truth)
    far = measure(name, truth + direction * (near + farther), truth)
    assert (far.success <= close.success).all()
    assert (far.precision <= close.precision).all()
    assert (far.normalized <= close.normalized).all()


@pytest.mark.parametrize("name", ["official", "got10k"])
@few
@given(track=inner_tracks, dx=st.integers(0, 200), dy=st.integers(0, 200))
def test_moving_the_image_changes_no_overlap_and_no_distance(
    name: str, track: Track, dx: float, dy: float
) -> None:
    shift = np.array([dx / 4, dy / 4, 0, 0])
    before, after = measure(name, *track), measure(name, track[0] + shift, track[1] + shift)
    np.testing.assert_array_equal(before.success, after.success)
    np.testing.assert_array_equal(before.precision, after.precision)
