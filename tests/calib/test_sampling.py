"""The choice of samples: complete, fair, repeatable; and the fair division that it rests on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sttrack_deploy.calib.sampling import (
    ABSENT_TAIL,
    BORDER_SHARE,
    Candidates,
    PlannedTrack,
    band_counts,
    choose,
    confidence_edges,
    fair_shares,
    pick_sequences,
    plan_tracks,
)
from sttrack_deploy.sequences.sequence import VideoSequence


def tracked(lengths: tuple[int, ...], padded: float = 0.5, lost: float = 0.1, seed: int = 0) -> Candidates:
    """One track through each sequence."""
    random = np.random.default_rng(seed)
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    frame = np.concatenate([np.arange(1, n + 1) for n in lengths])
    low = random.random(len(frame)) < lost
    confidence = np.where(low, random.uniform(0, 0.3, len(frame)), random.uniform(0.3, 1, len(frame)))
    return Candidates(sequence, sequence, frame, frame, confidence, random.random(len(frame)) < padded)


def pick(candidates: Candidates, wanted: int, seed: int = 0) -> np.ndarray:
    edges = confidence_edges(candidates.confidence, 0.3)
    return choose(candidates, wanted, edges, np.random.default_rng(seed))


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    wanted=st.integers(1, 80),
    padded=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_any_choice(lengths: list[int], wanted: int, padded: float, seed: int) -> None:
    candidates = tracked(tuple(lengths), padded, seed=seed)
    chosen = pick(candidates, wanted, seed)
    assert len(set(chosen.tolist())) == len(chosen) == min(wanted, sum(lengths))
    border = min(candidates.padded.sum(), np.ceil(BORDER_SHARE * len(chosen)))
    assert candidates.padded[chosen].sum() >= border
    assert np.array_equal(chosen, pick(candidates, wanted, seed))


def test_sequences_share_alike_and_short_ones_give_what_they_have() -> None:
    candidates = tracked((400, 400, 400, 5))
    counts = np.bincount(candidates.sequence[pick(candidates, 125)])
    assert counts[3] >= 4
    assert counts[:3].min() > 0.8 * counts[:3].max()


def test_lost_frames_and_every_band_are_there() -> None:
    candidates = tracked((500, 500), lost=0.05)
    edges = confidence_edges(candidates.confidence, 0.3)
    available = band_counts(candidates.confidence, edges)
    taken = band_counts(candidates.confidence[pick(candidates, 140)], edges)
    assert sum(available) == 1000
    assert taken[0] / 140 > 1.5 * available[0] / 1000
    assert min(taken[1:]) > 0.7 * max(taken[1:])


def test_rare_border_crops_are_all_taken() -> None:
    candidates = tracked((300, 300), padded=0.0)
    padded = candidates.padded.copy()
    padded[[7, 8, 9, 10, 11, 400]] = True  # close together, so that nearness speaks against them
    chosen = pick(dataclasses.replace(candidates, padded=padded), 60)
    assert padded[chosen].sum() == 6


def test_neighbors_are_avoided() -> None:
    candidates = tracked((600,))
    frames = np.sort(candidates.frame[pick(candidates, 60)])
    late = frames[frames > 100]  # of the first steps many are wanted, so these lie close
    assert len(late) > 30
    assert np.diff(late).min() >= 6
    assert np.diff(late).max() <= 30


def test_the_first_ones_are_a_fair_choice_too() -> None:
    candidates = tracked((200, 200, 200, 200))
    first = pick(candidates, 200)[:20]
    assert np.bincount(candidates.sequence[first], minlength=4).min() >= 4
    assert candidates.padded[first].any()
    assert (~candidates.padded[first]).any()
    assert (candidates.confidence[first] < 0.3).any()


def test_the_seed_decides_between_equals() -> None:
    candidates = tracked((200, 200))
    assert set(pick(candidates, 30, seed=1).tolist()) != set(pick(candidates, 30, seed=2).tolist())


def test_edges_where_everything_is_lost_or_equal() -> None:
    assert band_counts(np.array([0.1, 0.2]), confidence_edges(np.array([0.1, 0.2]), 0.3)) == (2, 0, 0, 0)
    same = np.full(9, 0.7)
    assert sum(band_counts(same, confidence_edges(same, 0.3))) == 9


@settings(max_examples=60, deadline=None)
@given(
    room=st.lists(st.integers(0, 50), min_size=1, max_size=8),
    total=st.integers(0, 200),
    data=st.data(),
)
def test_fair_shares(room: list[int], total: int, data: st.DataObject) -> None:
    weights = [data.draw(st.floats(0.5, 4)) for _ in room]
    shares = fair_shares(room, total, weights)
    assert (shares <= np.array(room) + 1e-9).all()
    assert shares.sum() == pytest.approx(min(total, sum(room)))
    # Whoever is not full has as much for its weight as anyone, and no less than those who are.
    for share, most, weight in zip(shares, room, weights, strict=True):
        if share < most - 1e-6:
            assert share / weight >= (shares / weights).max() - 1e-6


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
