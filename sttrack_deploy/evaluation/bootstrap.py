"""How sure a difference between trackers is: the bootstrap over sequences.

Percentile intervals (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13). Sequences,
and not frames, are what is drawn again: the frames of one are no independent sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Interval", "MeanInterval", "bootstrap_interval", "paired_bootstrap"]

FloatArray = npt.NDArray[np.float64]

_BLOCK = 1 << 21
"""Indices that are drawn at a time: 16 MiB."""


@dataclass(frozen=True, slots=True)
class Interval:
    """The difference of two trackers over the same sequences.

    Attributes:
        difference: mean of the first less mean of the second; NaN without sequences.
        low: of the interval; NaN with fewer than two sequences, as the next two.
        high: of the interval.
        level: share of such intervals that hold the true difference, nominally.
        probability: share of the resamples in which the first is ahead, level ones counting half.
    """

    difference: float
    low: float
    high: float
    level: float
    probability: float


@dataclass(frozen=True, slots=True)
class MeanInterval:
    """One tracker's mean over sequences.

    Attributes:
        mean: NaN without sequences.
        low: of the interval; NaN with fewer than two sequences, as the next.
        high: of the interval.
        level: share of such intervals that hold the true mean, nominally.
    """

    mean: float
    low: float
    high: float
    level: float


def paired_bootstrap(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    samples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Is the first tracker better than the second on sequences like these?

    Deterministic: the same whatever order the sequences come in, and mirrored when the trackers swap.

    Args:
        first: one number a sequence ``(N,)``; pairs with a NaN are left out.
        second: of the same sequences ``(N,)``.
        weights: what each sequence counts in the mean ``(N,)``, as ``Measured.weight``; ``None``: all alike.
        samples: how many resamples.
        level: of the interval, between 0 and 1.
        seed: of the draws.

    Raises:
        ValueError: shapes differ, or the level is not between 0 and 1.
    """
    gain = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    values, sizes = _counted(gain, weights)
    # Resampled as if the better one came first: what follows is then the same for both orders.
    sign = math.copysign(1.0, math.fsum(values * sizes))
    mean, means = _resample(sign * values, sizes, samples, seed)
    low, high = _bounds(means, level)
    ahead = float((means > 0).mean() + (means == 0).mean() / 2.0) if len(means) else math.nan
    if sign < 0:
        mean, low, high, ahead = 0.0 - mean, 0.0 - high, 0.0 - low, 1.0 - ahead  # not -0.0
    return Interval(difference=mean, low=low, high=high, level=level, probability=ahead)


def bootstrap_interval(
    values: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    samples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> MeanInterval:
    """How far one tracker's mean could be off for the choice of sequences.

    Args:
        values: one number a sequence ``(N,)``; NaN is left out.
        weights: what each sequence counts in the mean ``(N,)``; ``None``: all alike.
        samples: how many resamples.
        level: of the interval, between 0 and 1.
        seed: of the draws.

    Raises:
        ValueError: shapes differ, or the level is not between 0 and 1.
    """
    mean, means = _resample(*_counted(np.asarray(values, np.float64), weights), samples, seed)
    low, high = _bounds(means, level)
    return MeanInterval(mean=mean, low=low, high=high, level=level)


def _counted(values: FloatArray, weights: npt.ArrayLike | None) -> tuple[FloatArray, FloatArray]:
    """Values and weights of the sequences that count."""
    sizes = np.ones_like(values) if weights is None else np.asarray(weights, np.float64)
    if values.ndim != 1 or values.shape != sizes.shape:
        raise ValueError(f"values {values.shape} and weights {sizes.shape} must be (sequences,) alike")
    counted = ~np.isnan(values) & (sizes > 0)
    return values[counted], sizes[counted]


def _resample(values: FloatArray, weights: FloatArray, samples: int, seed: int) -> tuple[float, FloatArray]:
    """The weighted mean, and those of the resamples ``(samples,)``, none of fewer than two values."""
    count = len(values)
    if not count:
        return math.nan, np.zeros(0)
    order = np.lexsort((weights, values))
    values, weights = values[order], weights[order]
    mean = float((values * weights).sum() / weights.sum())
    if count == 1:
        return mean, np.zeros(0)
    generator = np.random.default_rng(seed)
    products, means = values * weights, []
    block = max(1, _BLOCK // count)
    for start in range(0, samples, block):
        chosen = generator.integers(count, size=(min(block, samples - start), count))
        means.append(products[chosen].sum(axis=1) / weights[chosen].sum(axis=1))
    return mean, np.concatenate(means)


def _bounds(means: FloatArray, level: float) -> tuple[float, float]:
    if not 0.0 < level < 1.0:
        raise ValueError(f"the level is {level}; it must be between 0 and 1")
    if not len(means):
        return math.nan, math.nan
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)
