"""Choosing which tracked frames become samples: spread over sequences, time, confidence and borders."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sttrack_deploy.calib.shares import fair_shares

__all__ = ["BORDER_SHARE", "Candidates", "band_counts", "choose", "confidence_edges"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

BORDER_SHARE = 0.2
"""Least part of the samples whose crop reaches over the image's border, where there are so many."""

BAND_WEIGHTS = (1.0, 2.0, 2.0, 2.0)
"""Samples from the confidence bands: lost, and the lower, middle and upper third of the others."""

AGE_EDGES = (5, 17, 65)
"""Steps since the start at which the next age begins: the memory fills, settles, and runs on."""
AGE_WEIGHTS = (1.0, 2.0, 2.0, 3.0)

NEAR_FRAMES = 3.0
"""Distance in frames at which two samples of one sequence are still much alike."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Every frame that was tracked, one a row.

    Attributes:
        sequence: index of the sequence.
        track: index of the planned track.
        frame: of the sequence.
        step: frames since the track's start, from 1.
        confidence: 0..1.
        padded: the crop reaches over the border.
    """

    sequence: IntArray
    track: IntArray
    frame: IntArray
    step: IntArray
    confidence: FloatArray
    padded: BoolArray

    def __len__(self) -> int:
        return len(self.frame)


def confidence_edges(confidence: FloatArray, lost_below: float) -> tuple[float, ...]:
    """Edges of the four bands: 0, where lost begins, the two thirds of what is not lost, 1."""
    rest = confidence[confidence >= lost_below]
    thirds = np.quantile(rest, (1 / 3, 2 / 3)) if len(rest) else np.array([lost_below, lost_below])
    return (0.0, lost_below, *(round(float(edge), 4) for edge in thirds), 1.0)


def band_counts(confidence: FloatArray, edges: tuple[float, ...]) -> tuple[int, ...]:
    """Values in each band."""
    return tuple(np.bincount(_bands(confidence, edges), minlength=len(edges) - 1).tolist())


def choose(
    candidates: Candidates, wanted: int, edges: tuple[float, ...], random: np.random.Generator
) -> IntArray:
    """Choose samples one by one, each the one that is missed most; int64 rows, in the order chosen.

    Every sequence, confidence band, age of the track, and crops with and without padding have a share to be
    filled; a candidate counts for what its four shares still lack, and less the closer it is to a sample of its
    sequence. So the first n of the choice are a fair choice of n as well. ``random`` breaks ties.
    """
    count = len(candidates)
    wanted = min(wanted, count)
    border = min(int(candidates.padded.sum()), math.ceil(BORDER_SHARE * wanted))
    shares = [
        _Share(candidates.sequence, wanted),
        _Share(_bands(candidates.confidence, edges), wanted, BAND_WEIGHTS),
        _Share(np.digitize(candidates.step, AGE_EDGES).astype(np.int64), wanted, AGE_WEIGHTS),
        _Share(candidates.padded.astype(np.int64), wanted, _border_weights(candidates.padded)),
    ]
    near = np.zeros(count)
    tie = random.random(count) * 1e-3
    free = np.ones(count, np.bool_)
    chosen: list[int] = []
    while len(chosen) < wanted:
        worth = tie - near + sum(share.lacking() for share in shares)
        owed = border - int(candidates.padded[chosen].sum())
        allowed = free & candidates.padded if owed >= wanted - len(chosen) else free
        best = int(np.argmax(np.where(allowed, worth, -np.inf)))
        free[best] = False
        chosen.append(best)
        for share in shares:
            share.take(best)
        same = candidates.sequence == candidates.sequence[best]
        distance = np.abs(candidates.frame[same] - candidates.frame[best])
        near[same] = np.maximum(near[same], np.exp(-distance / NEAR_FRAMES))
    return np.array(chosen, np.int64)


class _Share:
    """How much of each group is still wanted.

    Args:
        group: of each candidate, int64 ``(N,)``.
        wanted: samples in all.
        weights: of the groups; equal if not given.
    """

    def __init__(self, group: IntArray, wanted: int, weights: tuple[float, ...] | None = None) -> None:
        self._group = group
        room = np.bincount(group, minlength=0 if weights is None else len(weights))
        self._target = fair_shares(room, wanted, 1.0 if weights is None else weights)
        self._taken = np.zeros(len(room))

    def lacking(self) -> FloatArray:
        """For each candidate, the part of its group's share that is missing; negative where it is exceeded."""
        part = 1.0 - self._taken / np.maximum(self._target, 1e-9)
        return np.asarray(part[self._group], np.float64)

    def take(self, candidate: int) -> None:
        self._taken[self._group[candidate]] += 1


def _border_weights(padded: BoolArray) -> tuple[float, float]:
    """As it comes, but at least the border's share and at most half."""
    share = min(0.5, max(BORDER_SHARE, float(padded.mean()) if len(padded) else 0.0))
    return 1.0 - share, share


def _bands(confidence: FloatArray, edges: tuple[float, ...]) -> IntArray:
    return np.digitize(confidence, edges[1:-1]).astype(np.int64)
