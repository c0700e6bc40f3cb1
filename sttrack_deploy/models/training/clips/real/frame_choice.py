"""Which target and which of its frames make a clip: one template, then the search frames in order.

The published orders are those of STTrack's and STARK's ``lib/train/data/sampler.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.clips.batch import Draws
from sttrack_deploy.models.training.clips.real.track_bank import HIDDEN, VISIBLE, TrackBank
from sttrack_deploy.models.training.recipe import NegativesRecipe, SamplingRecipe

__all__ = ["ChosenClip", "FrameChooser", "causal", "paced", "trident", "with_hidden"]

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

WIDENING = 5
"""Frames by which the published samplers widen a gap that holds too few frames."""

SHORTEST = 20
"""Frames of the shortest sequence that the published samplers use; here they must be visible ones."""


@dataclass(frozen=True, slots=True)
class ChosenClip:
    """What a clip shows.

    Attributes:
        track: whose frames are searched.
        frames: ``(T + 1,)``, the template's frame first.
        stranger: another track and a frame of it, to take the template from; ``None``: as it should be.
    """

    track: int
    frames: IntArray
    stranger: tuple[int, int] | None = None


class FrameChooser:
    """Chooses clips from a bank; holds no state but what was worked out about it."""

    def __init__(self, bank: TrackBank, sampling: SamplingRecipe, negatives: NegativesRecipe) -> None:
        self.bank = bank
        self.sampling = sampling
        self.negatives = negatives
        self.with_hidden = _sums(bank.weights * ((bank.hidden > 0) & (bank.visible > 0)))
        self.eligible: dict[int, npt.NDArray[np.float64]] = {}

    def prepare(self, frames: int) -> None:
        """Work out which tracks are long enough for that many search frames.

        Raises:
            UserError: none is.
        """
        if frames in self.eligible:
            return
        bank, least = self.bank, self._least(frames)
        usable = bank.visible >= least
        if not usable.any():
            raise UserError(
                f"no sequence of {bank.title} shows its target in {least} frames or more, which clips of "
                f"{frames} search frames need with order = {self.sampling.order!r}"
            )
        self.eligible[frames] = _sums(bank.weights * usable)

    def choose(self, draws: Draws, frames: int) -> ChosenClip | None:
        """A clip of ``frames`` search frames; ``None`` where the draw led nowhere, and another must be made."""
        if self._happens(draws, self.negatives.absent) and self.with_hidden[-1] > 0:
            track = _pick(draws, self.with_hidden)
            indices = with_hidden(draws, self.bank.states(track), frames, self.sampling.max_gap)
            return None if indices is None else ChosenClip(track, indices)
        sums = self.eligible[frames]
        track = _pick(draws, sums)
        indices = self._indices(draws, track, frames)
        if not self._happens(draws, self.negatives.stranger):
            return ChosenClip(track, indices)
        other = _pick(draws, sums)
        if other == track:
            return None
        shown = np.flatnonzero(self.bank.states(other) == VISIBLE)
        return ChosenClip(track, indices, (other, int(shown[_below(draws, len(shown))])))

    def _least(self, frames: int) -> int:
        if self.bank.still:
            return 1
        # The published samplers want more than twice the frames that they take.
        return 2 if self.sampling.order == "paced" else max(2 * (frames + 1) + 1, SHORTEST)

    def _indices(self, draws: Draws, track: int, frames: int) -> IntArray:
        if self.bank.still:
            return np.zeros(frames + 1, np.int64)
        visible = np.flatnonzero(self.bank.states(track) == VISIBLE)
        rule = {"paced": paced, "causal": causal, "trident": trident}[self.sampling.order]
        return rule(draws, visible, frames, self.sampling.max_gap)

    @staticmethod
    def _happens(draws: Draws, share: float) -> bool:
        return share > 0 and draws.number(0, 1) < share


def causal(draws: Draws, visible: IntArray, frames: int, max_gap: int) -> IntArray:
    """A template, and search frames from the ``max_gap`` frames after it; as STTrack samples them.

    Args:
        visible: the frames that show the target, ascending; more than ``frames + 1``.
        frames: ``T``.

    Returns:
        ``(T + 1,)``, ascending without repetition.
    """
    first = _below(draws, len(visible) - frames - 1)
    return _after(draws, visible, first, frames, max_gap, visible[first : first + 1])


def trident(draws: Draws, visible: IntArray, frames: int, max_gap: int) -> IntArray:
    """A template from anywhere, and search frames from ``max_gap`` frames anywhere, in order.

    STARK draws its first template so, without regard to the search frame, and its further ones near that
    frame; here a clip's earlier search frames play their part.
    """
    template = visible[_below(draws, len(visible))]
    first = _below(draws, len(visible) - frames)
    rest = _after(draws, visible, first, frames - 1, max_gap, visible[first : first + 1])
    return np.concatenate([[template], rest])


def paced(draws: Draws, visible: IntArray, frames: int, max_gap: int) -> IntArray:
    """Frames at about even gaps, running forwards or backwards; short sequences stop at their end.

    Gaps are counted in visible frames and are small as often as large: their logarithm is drawn.
    """
    length = len(visible)
    widest = max(1.0, min(float(max_gap), (length - 1) / frames))
    reach = draws.number(0, math.log(widest))
    gaps = [min(max_gap, max(1, round(math.exp(reach) * draws.number(0.4, 1.6)))) for _ in range(frames)]
    steps = np.minimum(np.cumsum([0, *gaps]), length - 1)
    start = int(draws.number(0, length - int(steps[-1]) - 1e-6))
    indices = start + steps
    if draws.number(0, 1) < 0.5:
        indices = 2 * start + int(steps[-1]) - indices
    return np.asarray(visible[indices], np.int64)


def with_hidden(draws: Draws, states: npt.NDArray[np.uint8], frames: int, max_gap: int) -> IntArray | None:
    """A template, and search frames from the ``max_gap`` after it of which at least one hides the target.

    Returns:
        ``(T + 1,)``, ascending without repetition; ``None``: the frame that was drawn has none before it, or
        too few after its template.
    """
    visible, hidden = np.flatnonzero(states == VISIBLE), np.flatnonzero(states == HIDDEN)
    sure = int(hidden[_below(draws, len(hidden))])
    before = visible[visible < sure]
    if not len(before):
        return None
    near = before[before > sure - max_gap]
    template = int(near[_below(draws, len(near))]) if len(near) else int(before[-1])
    known = np.flatnonzero(states[template + 1 :] != 0) + template + 1
    others = known[known != sure]
    if len(others) < frames - 1:
        return None
    inside = others[: max(frames - 1, int(np.searchsorted(others, template + max_gap)))]
    chosen = inside[draws.permutation(len(inside))[: frames - 1].numpy()]
    return np.concatenate([[template], np.sort(np.append(chosen, sure))]).astype(np.int64)


def _after(
    draws: Draws, visible: IntArray, first: int, count: int, max_gap: int, begin: IntArray
) -> IntArray:
    """``begin``, and ``count`` of the visible frames less than ``max_gap`` after number ``first``, in order."""
    start = int(visible[first])
    end = int(np.searchsorted(visible, start + max_gap))
    if end - first - 1 <= count:
        # As published: more than is taken, if there are so many; the gap grows by fives until it holds them.
        needed = int(visible[min(first + count + 1, len(visible) - 1)])
        steps = max(0, -(-(needed - start - max_gap + 1) // WIDENING))
        end = int(np.searchsorted(visible, start + max_gap + steps * WIDENING))
    candidates = visible[first + 1 : end]
    chosen = candidates[draws.permutation(len(candidates))[:count].numpy()]
    return np.concatenate([begin, np.sort(chosen)]).astype(np.int64)


def _sums(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(np.cumsum(weights), np.float64)


def _pick(draws: Draws, sums: npt.NDArray[np.float64]) -> int:
    """An index, as often as its weight says; ``sums`` are the cumulated weights."""
    point = draws.number(0, 1) * float(sums[-1])
    return min(int(np.searchsorted(sums, point, side="right")), int(np.searchsorted(sums, sums[-1])))


def _below(draws: Draws, count: int) -> int:
    """A whole number from 0 to ``count - 1``."""
    return min(int(draws.number(0, count)), count - 1)
