"""Where to cut off an activation's magnitudes before it is quantized: min-max, percentile, entropy, least squares.

All are for symmetric INT8: 127 steps from zero to the threshold, what is larger saturates.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["METHODS"]

Counts = npt.NDArray[np.int64]

LEVELS = 128
"""Magnitudes that symmetric INT8 can tell apart, zero included."""

PERCENTILE = 99.99


def _min_max(absmax: float, counts: Counts, top: float) -> float:  # noqa: ARG001 (one signature for all)
    return absmax


def _percentile(absmax: float, counts: Counts, top: float) -> float:
    """The magnitude that ``PERCENTILE`` of 100 values do not exceed (a bin's upper edge)."""
    total = int(counts.sum())
    if not total:
        return absmax
    index = int(np.searchsorted(np.cumsum(counts), total * PERCENTILE / 100.0))
    return min(absmax, (index + 1) * top / len(counts))


def _entropy(absmax: float, counts: Counts, top: float) -> float:
    """The threshold whose quantized distribution is nearest to the real one (least KL divergence).

    The bin of exact zeros is left out, as usual: after a ReLU it would outweigh all others.
    """
    used = int(np.ceil(absmax / top * len(counts))) if top else 0
    weights = counts[:used].astype(np.float64)
    if used <= LEVELS or not weights[1:].any():
        return absmax
    weights[0] = weights[1]
    best, best_at = np.inf, used
    for end in range(LEVELS, used + 1, 8):
        divergence = _divergence(weights, end)
        if divergence < best:
            best, best_at = divergence, end
    return min(absmax, best_at * top / len(counts))


def _least_squares(absmax: float, counts: Counts, top: float) -> float:
    """The threshold of the least mean squared error: rounding to its steps below, saturation above.

    Exact zeros (the first bin) have no rounding error.
    """
    used = int(np.ceil(absmax / top * len(counts))) if top else 0
    weights = counts[:used].astype(np.float64)
    if not weights[1:].any():
        return absmax
    width = top / len(counts)
    middle = (np.arange(used) + 0.5) * width
    ends = np.arange(1, used + 1)
    threshold = ends * width
    inside = np.cumsum(weights)[ends - 1] - weights[0]
    # Sums over what lies above each end, by the moments: sum of w (x - t)^2.
    above = [_above(weights * middle**power) for power in range(3)]
    saturated = above[2] - 2.0 * threshold * above[1] + threshold**2 * above[0]
    error = inside * (threshold / (LEVELS - 1)) ** 2 / 12.0 + saturated
    return min(absmax, float(threshold[np.argmin(error)]))


def _above(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """For each index the sum of all values behind it."""
    total: npt.NDArray[np.float64] = values.sum() - np.cumsum(values)
    return total


def _divergence(weights: npt.NDArray[np.float64], end: int) -> float:
    """KL divergence of ``weights`` cut off at bin ``end`` from the same in ``LEVELS`` steps."""
    real = weights[:end].copy()
    real[-1] += weights[end:].sum()  # saturated
    level = np.arange(end) * LEVELS // end
    filled = weights[:end] > 0
    sums = np.bincount(level, weights[:end], LEVELS)
    members = np.bincount(level, filled.astype(np.float64), LEVELS)
    spread = np.where(filled, (sums / np.maximum(members, 1.0))[level], 0.0)
    p, q = real / real.sum(), spread / max(spread.sum(), 1e-300)
    # What saturates into an empty last bin has no counterpart; a floor keeps its cost finite.
    both = p > 0
    return float((p[both] * np.log(p[both] / np.maximum(q[both], 1e-9))).sum())


METHODS: dict[str, Callable[[float, Counts, float], float]] = {
    "minmax": _min_max,
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _least_squares,
}
"""From largest magnitude, histogram and its upper edge to the threshold."""
