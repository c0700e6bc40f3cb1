"""How well a score tells two kinds of frames apart; for training, evaluation and export alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["auroc"]


def auroc(scores: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """Chance that a positive scores above a negative, ties counting half (Mann-Whitney U / (m n)).

    Args:
        scores: ``(N,)``; NaN is not allowed.
        positive: bool ``(N,)``.

    Returns:
        0..1; NaN when either class is empty.
    """
    values, labels = np.asarray(scores, np.float64), np.asarray(positive, np.bool_)
    positives = int(labels.sum())
    negatives = labels.size - positives
    if not positives or not negatives:
        return float("nan")
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    # Equal values share the mean of the ranks that they take up; ranks start at 1.
    ranks = np.cumsum(counts) - (counts - 1) / 2.0
    rank_sum = float(ranks[group.reshape(-1)][labels].sum())
    return (rank_sum - positives * (positives + 1) / 2.0) / (positives * negatives)
