"""Choosing samples: which tracks are run, for how long, and which of their frames become samples.

Samples are spread over sequences, time, confidence and the image's borders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sttrack_deploy.geometry import Box
from sttrack_deploy.sequences.sequence import VideoSequence, usable_truth

__all__ = [
    "BORDER_SHARE",
    "SCAN_PER_SAMPLE",
    "Candidates",
    "PlannedTrack",
    "band_counts",
    "choose",
    "confidence_edges",
    "fair_shares",
    "level",
    "pick_sequences",
    "plan_tracks",
]


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


SCAN_PER_SAMPLE = 12
"""Frames tracked for each sample that is wanted: enough to choose among, and a bound on the time."""

LEAST_PER_SEQUENCE = 4
"""Fewest samples of a sequence that is decoded at all."""

ABSENT_TAIL = 30
"""Frames tracked after an annotated target was last there; what a lost tracker then wanders over is endless."""


@dataclass(frozen=True, slots=True)
class PlannedTrack:
    """One track through a sequence.

    Attributes:
        sequence: its index among the sequences.
        number: 0 for the sequence's first track.
        frame: where it starts.
        end: the frame to stop before; at least ``frame + 2``.
        box: the target there; ``None``: only the first track knows it then.
    """

    sequence: int
    number: int
    frame: int
    end: int
    box: Box | None

    @property
    def steps(self) -> int:
        """Calls of the search graph."""
        return self.end - self.frame - 1


def pick_sequences(
    sequences: Sequence[VideoSequence], samples: int, random: np.random.Generator
) -> list[VideoSequence]:
    """All, or as many drawn at random as give a few samples each; in the order given."""
    most = max(1, samples // LEAST_PER_SEQUENCE)
    if len(sequences) <= most:
        return list(sequences)
    return [sequences[i] for i in sorted(random.choice(len(sequences), most, replace=False).tolist())]


def plan_tracks(sequences: Sequence[VideoSequence], starts: int, frames: int) -> list[PlannedTrack]:
    """The tracks of every sequence.

    A sequence's first track starts on its first box and runs to its end. The others start on boxes spread evenly
    over it, and each ends where the next one starts: they make templates vary and cost, together, no more than
    the first. Tracks are cut alike, the longest first, until all together have ``frames`` steps.
    """
    tracks = [t for index, sequence in enumerate(sequences) for t in _tracks_of(index, sequence, starts)]
    cap = level([t.steps for t in tracks], frames) if tracks else math.inf
    if math.isinf(cap):
        return tracks
    most = max(1, math.floor(cap))
    return [replace(t, end=min(t.end, t.frame + 1 + most)) for t in tracks]


def _tracks_of(index: int, sequence: VideoSequence, starts: int) -> list[PlannedTrack]:
    known = np.flatnonzero(usable_truth(sequence.truth))
    only_first = len(known) == 1
    first = int(known[0])
    end = len(sequence) if only_first else min(len(sequence), int(known[-1]) + 1 + ABSENT_TAIL)
    places = np.arange(first, end) if only_first else known
    spread = [int(places[k * len(places) // starts]) for k in range(starts)]
    frames = sorted({frame for frame in spread if frame + 2 <= end})
    tracks = []
    for number, frame in enumerate(frames):
        until = end if number == 0 or number + 1 == len(frames) else frames[number + 1] + 1
        x, y, w, h = sequence.truth[frame].tolist()
        box = None if only_first and number else (x, y, w, h)
        if frame + 2 <= until:
            tracks.append(PlannedTrack(index, number, frame, until, box))
    return tracks


IntArray = npt.NDArray[np.int64]
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
