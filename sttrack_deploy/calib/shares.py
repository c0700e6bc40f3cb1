"""Dividing a number fairly among those who can take only so much."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["fair_shares", "level"]

FloatArray = npt.NDArray[np.float64]


def fair_shares(room: npt.ArrayLike, total: float, weights: npt.ArrayLike = 1.0) -> FloatArray:
    """Shares in proportion to ``weights``, none above its ``room``; what one cannot take goes to the others.

    Args:
        room: the most that each can take, ``(N,)``.
        total: what is divided; if it is more than all the room, everyone is full.

    Returns:
        float64 ``(N,)``.
    """
    most = np.asarray(room, np.float64)
    wanted = np.broadcast_to(np.asarray(weights, np.float64), most.shape)
    return np.minimum(most, wanted * level(most, total, wanted))


def level(room: npt.ArrayLike, total: float, weights: npt.ArrayLike = 1.0) -> float:
    """The share of one unit of weight in :func:`fair_shares`; infinite when everyone is full."""
    most = np.asarray(room, np.float64)
    wanted = np.broadcast_to(np.asarray(weights, np.float64), most.shape)
    if most.sum() <= total:
        return float("inf")
    full_at = most / wanted
    left, weight = float(total), float(wanted.sum())
    for index in np.argsort(full_at, kind="stable"):
        if full_at[index] * weight >= left:
            break
        left -= float(most[index])
        weight -= float(wanted[index])
    return left / weight
