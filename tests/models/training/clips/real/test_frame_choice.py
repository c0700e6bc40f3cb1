"""Which frames make a clip."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.clips.batch import Draws, seeded
from sttrack_deploy.models.training.clips.real.frame_choice import (
    FrameChooser,
    causal,
    paced,
    trident,
    with_hidden,
)
from sttrack_deploy.models.training.clips.real.track_bank import HIDDEN, UNUSABLE, VISIBLE
from sttrack_deploy.models.training.recipe import NegativesRecipe, SamplingRecipe


def draws(seed: int) -> Draws:
    return Draws(seeded(seed), torch.device("cpu"))


class Bank:
    """Tracks of which only the states are known, given as a text a track."""

    title = "the bank"

    def __init__(self, *tracks: str, still: bool = False) -> None:
        code = {"-": UNUSABLE, "v": VISIBLE, "h": HIDDEN}
        self.tracks = [np.array([code[c] for c in track], np.uint8) for track in tracks]
        self.visible = np.array([(t == VISIBLE).sum() for t in self.tracks])
        self.hidden = np.array([(t == HIDDEN).sum() for t in self.tracks])
        self.weights = np.ones(len(tracks))
        self.still = still

    def states(self, track: int) -> np.ndarray:
        return self.tracks[track]

    def boxes(self, track: int) -> np.ndarray:
        raise NotImplementedError

    def read(self, track: int, frame: int) -> np.ndarray:
        raise NotImplementedError


visible_frames = st.sets(st.integers(0, 400), min_size=12, max_size=80).map(lambda s: np.array(sorted(s)))
common = given(
    visible=visible_frames, frames=st.integers(1, 5), gap=st.integers(1, 250), seed=st.integers(0, 999)
)


@settings(max_examples=60)
@common
def test_causal(visible: np.ndarray, frames: int, gap: int, seed: int) -> None:
    indices = causal(draws(seed), visible, frames, gap)
    assert len(indices) == frames + 1
    assert set(indices.tolist()) <= set(visible.tolist())
    assert (np.diff(indices) > 0).all()
    # Beyond the gap only where it does not hold enough frames, and then no further than five frames more.
    after = visible[visible > indices[0]]
    needed = after[min(frames, len(after) - 1)]
    assert indices[-1] < max(indices[0] + gap, needed + 6)
    # As published, more frames than are taken follow the template.
    assert len(after) > frames


@settings(max_examples=60)
@common
def test_trident(visible: np.ndarray, frames: int, gap: int, seed: int) -> None:
    indices = trident(draws(seed), visible, frames, gap)
    assert len(indices) == frames + 1
    assert set(indices.tolist()) <= set(visible.tolist())
    searched = indices[1:]
    assert (np.diff(searched) > 0).all()
    after = visible[visible > searched[0]]
    needed = after[min(frames - 1, len(after) - 1)] if len(after) else 0
    assert searched[-1] < max(searched[0] + gap, needed + 6)


@settings(max_examples=60)
@common
def test_paced(visible: np.ndarray, frames: int, gap: int, seed: int) -> None:
    indices = paced(draws(seed), visible, frames, gap)
    place = np.searchsorted(visible, indices)
    assert (visible[place] == indices).all()
    steps = np.diff(place)
    assert (np.abs(steps) <= gap).all()
    assert (steps >= 0).all() or (steps <= 0).all()


def test_causal_covers_the_gap_evenly() -> None:
    """The rule of the published sampler: a template anywhere, search frames evenly after it."""
    visible = np.arange(300)
    drawn = np.stack([causal(draws(seed), visible, 2, 100) for seed in range(800)])
    assert drawn[:, 0].min() < 10
    assert drawn[:, 0].max() == 296
    assert abs(drawn[:, 0].mean() - 148) < 10
    offsets = (drawn[:, 1:] - drawn[:, :1])[drawn[:, 0] < 190]
    assert offsets.max() == 99
    assert abs(offsets.mean() - 50) < 3


def test_trident_has_its_template_anywhere() -> None:
    visible = np.arange(300)
    drawn = np.stack([trident(draws(seed), visible, 3, 20) for seed in range(200)])
    assert (drawn[:, 0] > drawn[:, 1]).any()
    assert (drawn[:, 1] - drawn[:, 0]).max() > 150
    assert (drawn[:, 3] - drawn[:, 1]).max() < 20


@settings(max_examples=60)
@given(
    states=st.lists(st.sampled_from([UNUSABLE, VISIBLE, VISIBLE, HIDDEN]), min_size=10, max_size=60),
    frames=st.integers(1, 5),
    gap=st.integers(2, 80),
    seed=st.integers(0, 999),
)
def test_clips_with_hidden_frames(states: list[int], frames: int, gap: int, seed: int) -> None:
    array = np.array([VISIBLE, *states, HIDDEN], np.uint8)
    indices = with_hidden(draws(seed), array, frames, gap)
    if indices is None:
        return
    assert len(indices) == frames + 1
    assert (np.diff(indices) > 0).all()
    assert array[indices[0]] == VISIBLE
    shown = array[indices[1:]]
    assert (shown != UNUSABLE).all()
    assert (shown == HIDDEN).any()


def test_shares_of_negatives() -> None:
    bank = Bank("v" * 30, "v" * 20 + "h" * 5 + "v" * 20, "v" * 5)
    chooser = FrameChooser(bank, SamplingRecipe("causal", 30), NegativesRecipe(absent=0.3, stranger=0.2))
    chooser.prepare(3)
    kinds: Counter[str] = Counter()
    for seed in range(600):
        clip = chooser.choose(draws(seed), 3)
        if clip is None:
            continue
        assert clip.track != 2
        hidden = (bank.states(clip.track)[clip.frames] == HIDDEN).any()
        assert not (hidden and clip.stranger)
        assert not clip.stranger or clip.stranger[0] != clip.track
        kinds["hidden" if hidden else "stranger" if clip.stranger else "usual"] += 1
    assert abs(kinds["hidden"] / 600 - 0.3) < 0.06
    # Half of the strangers that are drawn are no strangers, and are drawn again elsewhere.
    assert abs(kinds["stranger"] / 600 - 0.7 * 0.2 / 2) < 0.04


def test_without_flags_there_are_no_hidden_frames() -> None:
    chooser = FrameChooser(Bank("v" * 30), SamplingRecipe("paced", 5), NegativesRecipe(absent=1.0))
    chooser.prepare(2)
    clip = chooser.choose(draws(0), 2)
    assert clip is not None
    assert clip.stranger is None


def test_images_stand_still() -> None:
    chooser = FrameChooser(
        Bank("v", "v", still=True), SamplingRecipe("causal", 9), NegativesRecipe(stranger=1)
    )
    chooser.prepare(4)
    clips = [clip for clip in (chooser.choose(draws(seed), 4) for seed in range(9)) if clip]
    assert clips
    assert all(clip.frames.tolist() == [0] * 5 and clip.stranger == (1 - clip.track, 0) for clip in clips)


def test_sequences_must_be_long_enough() -> None:
    chooser = FrameChooser(Bank("v" * 20, "v" * 4), SamplingRecipe("causal", 9), NegativesRecipe())
    chooser.prepare(6)
    assert {c.track for c in (chooser.choose(draws(s), 6) for s in range(20)) if c} == {0}
    with pytest.raises(UserError, match=r"the bank shows its target in 21 frames or more.*'causal'"):
        chooser.prepare(9)
