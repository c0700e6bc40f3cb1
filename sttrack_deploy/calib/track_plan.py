"""Which tracks are run to choose samples from: where each starts, and for how long it goes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sttrack_deploy.calib.shares import level
from sttrack_deploy.geometry import Box
from sttrack_deploy.sequences.sequence import VideoSequence, usable_truth

__all__ = ["SCAN_PER_SAMPLE", "PlannedTrack", "pick_sequences", "plan_tracks"]

SCAN_PER_SAMPLE = 12
"""Frames tracked for each sample that is wanted: enough to choose among, and a bound on the time."""

LEAST_PER_SEQUENCE = 4
"""Samples for which a sequence is worth decoding."""

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
