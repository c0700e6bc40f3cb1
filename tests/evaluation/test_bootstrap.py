from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sttrack_deploy.evaluation.bootstrap import Interval, bootstrap_interval, paired_bootstrap

SAMPLES = 400
some = settings(max_examples=40, deadline=None)
scores = st.floats(0, 1).map(lambda x: round(x, 6))
pairs = st.lists(st.tuples(scores, scores, st.integers(1, 500)), min_size=2, max_size=20)


def paired(rows: list[tuple[float, float, float]], **options: Any) -> Interval:
    first, second, weights = np.array(rows, float).T
    return paired_bootstrap(first, second, weights, samples=SAMPLES, **options)


@some
@given(pairs)
def test_swapping_the_trackers_mirrors_the_interval(rows: list[tuple[float, float, float]]) -> None:
    forth, back = paired(rows), paired([(b, a, w) for a, b, w in rows])
    assert forth.difference == -back.difference
    if forth.difference != 0:
        assert (forth.low, forth.high) == (-back.high, -back.low)
        assert forth.probability == pytest.approx(1 - back.probability, abs=1e-12)


@some
@given(pairs, st.randoms(use_true_random=False))
def test_the_order_of_sequences_does_not_matter(
    rows: list[tuple[float, float, float]], random: Random
) -> None:
    before = paired(rows)
    random.shuffle(rows)
    assert paired(rows) == before


@some
@given(pairs)
def test_the_interval_lies_within_the_single_differences(rows: list[tuple[float, float, float]]) -> None:
    result = paired(rows)
    gains = [a - b for a, b, _ in rows]
    assert min(gains) - 1e-12 <= result.low <= result.high <= max(gains) + 1e-12
    assert 0 <= result.probability <= 1


@some
@given(pairs)
def test_a_higher_level_holds_a_lower_one(rows: list[tuple[float, float, float]]) -> None:
    narrow, wide = paired(rows, level=0.5), paired(rows, level=0.9)
    assert wide.low <= narrow.low <= narrow.high <= wide.high


@some
@given(st.lists(st.tuples(scores, st.integers(1, 500)), min_size=2, max_size=20))
def test_equal_trackers_differ_by_nothing(rows: list[tuple[float, float, float]]) -> None:
    values, weights = np.array(rows, float).T
    result = paired_bootstrap(values, values, weights, samples=SAMPLES)
    assert (result.difference, result.low, result.high, result.probability) == (0.0, 0.0, 0.0, 0.5)


@some
@given(pairs)
def test_equal_weights_are_as_none(rows: list[tuple[float, float, float]]) -> None:
    first, second, _ = np.array(rows, float).T
    alike = paired_bootstrap(first, second, np.full(len(rows), 8.0), samples=SAMPLES)
    none = paired_bootstrap(first, second, samples=SAMPLES)
    np.testing.assert_allclose([alike.low, alike.high], [none.low, none.high], atol=1e-12)


def test_weights_pool_as_frames_do() -> None:
    assert paired_bootstrap([1.0, 0.0], [0.0, 0.0], [30, 10], samples=SAMPLES).difference == 0.75
    assert bootstrap_interval([1.0, 0.0], [30, 10], samples=SAMPLES).mean == 0.75


def test_always_ahead_is_certain() -> None:
    result = paired_bootstrap([0.5, 0.7, 0.9], [0.4, 0.5, 0.6])
    assert result.probability == 1.0
    assert 0.1 - 1e-12 <= result.low < result.difference < result.high <= 0.3 + 1e-12


def test_pairs_with_a_nan_are_left_out() -> None:
    kept = paired_bootstrap([0.5, 0.7, 0.9], [0.4, 0.8, 0.6])
    assert paired_bootstrap([0.5, 0.7, math.nan, 0.9, 0.1], [0.4, 0.8, 0.3, 0.6, math.nan]) == kept
    assert bootstrap_interval([0.5, math.nan, 0.7]) == bootstrap_interval([0.5, 0.7])
    # A sequence in which nothing counts has the weight 0.
    assert bootstrap_interval([0.5, 0.9, 0.7], [1, 0, 1]) == bootstrap_interval([0.5, 0.7], [1, 1])


@pytest.mark.parametrize("values", [[], [math.nan], [0.5], [0.5, math.nan]])
def test_fewer_than_two_sequences_have_no_interval(values: list[float]) -> None:
    single, double = bootstrap_interval(values), paired_bootstrap(values, np.zeros(len(values)))
    for result in (single, double):
        assert math.isnan(result.low)
        assert math.isnan(result.high)
    assert math.isnan(double.probability)
    known = [v for v in values if not math.isnan(v)]
    np.testing.assert_equal([single.mean, double.difference], known * 2 or [math.nan] * 2)


def test_the_seed_decides() -> None:
    random = np.random.default_rng(1)
    first, second = random.random((2, 30))
    assert paired_bootstrap(first, second) == paired_bootstrap(first, second)
    assert paired_bootstrap(first, second).low != paired_bootstrap(first, second, seed=1).low


def test_many_sequences_are_drawn_in_blocks() -> None:
    # 2**21 indices a block: 419 resamples of 5,000.
    values = np.random.default_rng(2).normal(0.5, 0.1, 5000)
    result = bootstrap_interval(values, samples=1000)
    assert (result.high - result.low) / 2 == pytest.approx(1.96 * 0.1 / math.sqrt(5000), rel=0.15)


def test_19_of_20_intervals_hold_the_true_difference() -> None:
    random = np.random.default_rng(3)
    inside = 0
    for trial in range(400):
        easy = random.normal(0.6, 0.15, 60)
        first = easy + 0.05 + random.exponential(0.1, 60) - 0.1
        result = paired_bootstrap(first, easy, samples=SAMPLES, seed=trial)
        inside += result.low <= 0.05 <= result.high
    # Percentile intervals of skewed data run a little short: two standard errors are 0.022.
    assert 0.90 <= inside / 400 <= 0.975


def test_pairing_narrows_the_interval() -> None:
    random = np.random.default_rng(4)
    easy = random.normal(0.6, 0.2, 100)
    result = paired_bootstrap(easy + random.normal(0.02, 0.02, 100), easy)
    single = bootstrap_interval(easy)
    assert result.high - result.low < 0.2 * (single.high - single.low)
    assert result.low > 0


@pytest.mark.parametrize("level", [0.0, 1.0, 95, math.nan])
def test_a_level_is_a_share(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval([0.1, 0.2], level=level)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError):
        paired_bootstrap([0.1, 0.2], [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="alike"):
        paired_bootstrap([0.1, 0.2], [0.1, 0.2], [1.0])
