"""Where tracks start and end, and how they are cut to what may be spent."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sttrack_deploy.calib.track_plan import ABSENT_TAIL, PlannedTrack, pick_sequences, plan_tracks
from sttrack_deploy.sequences.sequence import VideoSequence

PLENTY = 10**6


def annotated(frames: int, first: int = 0, last: int | None = None, name: str = "s") -> VideoSequence:
    """The target is there from ``first`` to before ``last``."""
    truth = np.full((frames, 4), np.nan)
    inside = range(first, frames if last is None else last)
    truth[list(inside)] = [(10.0 + i, 20.0, 30.0, 40.0) for i in inside]
    return VideoSequence(name, Path("video.mp4"), truth)


def spans(plans: list[PlannedTrack]) -> list[tuple[int, int]]:
    return [(plan.frame, plan.end) for plan in plans]


def test_the_first_runs_through_and_the_others_up_to_the_next() -> None:
    plans = plan_tracks([annotated(100)], 4, PLENTY)
    assert spans(plans) == [(0, 100), (25, 51), (50, 76), (75, 100)]
    assert plans[1].box == (35.0, 20.0, 30.0, 40.0)
    assert [plan.number for plan in plans] == [0, 1, 2, 3]


def test_starts_are_where_the_target_is() -> None:
    plans = plan_tracks([annotated(500, 40, 60)], 2, PLENTY)
    assert spans(plans) == [(40, 60 + ABSENT_TAIL), (50, 60 + ABSENT_TAIL)]


def test_a_single_box_lets_later_tracks_ask_the_first() -> None:
    plans = plan_tracks([annotated(90, 0, 1)], 3, PLENTY)
    assert spans(plans) == [(0, 90), (30, 61), (60, 90)]
    assert [plan.box is None for plan in plans] == [False, True, True]


def test_short_sequences_have_fewer_tracks() -> None:
    assert spans(plan_tracks([annotated(3)], 5, PLENTY)) == [(0, 3), (1, 3)]
    assert plan_tracks([annotated(1)], 5, PLENTY) == []
    assert all(plan.steps >= 1 for n in range(2, 9) for plan in plan_tracks([annotated(n)], 6, PLENTY))


def test_the_longest_are_cut_first() -> None:
    plans = plan_tracks([annotated(1000), annotated(20)], 1, 300)
    assert [plan.steps for plan in plans] == [281, 19]


def test_too_many_sequences_are_drawn_from() -> None:
    many = [annotated(9, name=f"s{n}") for n in range(50)]
    drawn = pick_sequences(many, 40, np.random.default_rng(0))
    assert len(drawn) == 10
    assert [many.index(s) for s in drawn] == sorted(many.index(s) for s in drawn)
    assert drawn == pick_sequences(many, 40, np.random.default_rng(0))
    assert pick_sequences(many, 400, np.random.default_rng(0)) == many
