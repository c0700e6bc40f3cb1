"""Where a tracker would cut its crops: about its own, inexact, box of the frame before.

:class:`Drift` is this project's rule, for all sources; :class:`Published` that of STARK and STTrack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sttrack_deploy.models.training.clips.batch import Draws

__all__ = ["Drift", "JitterRule", "Published", "search_guess", "template_guess"]

LARGE_SHARE = 0.15  # of the search crops are far off (uniform to LARGE), the others nearly right
SMALL, LARGE = 0.16, 1.2  # target sizes: standard deviation, limit
SCALE, SCALE_RANGE = 0.25, (0.6, 1.7)  # of the logarithm of the crop's side; least and greatest factor
ELSEWHERE = 0.035  # share of search crops that are cut where the target is not


def template_guess(draws: Draws, box: Tensor, factor: float) -> Tensor:
    """Template crops ``(n, 1, 3)``, center x, y and side, about the first of the boxes ``(n, F, 4)`` (x1 y1 x2 y2)."""
    n = len(box)
    size = (box[:, :1, 2:] - box[:, :1, :2]).prod(-1, keepdim=True).sqrt()
    center = (box[:, :1, :2] + box[:, :1, 2:]) / 2
    side = size * factor * draws.normal(0.04, n, 1, 1).exp()
    return torch.cat([center + draws.normal(0.03, n, 1, 2) * size, side], -1)


def search_guess(draws: Draws, box: Tensor, factor: float, limit: Tensor) -> Tensor:
    """Search crops of all frames but the first.

    Args:
        draws: the random numbers.
        box: ``(n, F, 4)`` x1 y1 x2 y2 of the target, pixels.
        factor: side of a crop over the target's size.
        limit: ``(n, 2)`` width and height of the video.

    Returns:
        ``(n, F - 1, 3)`` center x, y and side, pixels.
    """
    n, t = len(box), box.shape[1] - 1
    unit = (box[:, :-1, 2:] - box[:, :-1, :2]).prod(-1, keepdim=True).sqrt()
    center = (box[..., :2] + box[..., 2:]) / 2
    before, now = center[:, :-1], center[:, 1:]
    far = draws.chance(LARGE_SHARE, n, t, 1)
    jitter = torch.where(far, draws.uniform(-LARGE, LARGE, n, t, 2), draws.normal(SMALL, n, t, 2))
    side = unit * factor * draws.normal(SCALE, n, t, 1).exp().clamp(*SCALE_RANGE)
    guess = before + jitter * unit
    # Jitter and motion together seldom put the target's center out of the crop: the tracker would be lost.
    reach = 0.46 * side
    lost = draws.chance(0.02, n, t, 1)
    guess = torch.where(lost, guess, now - (now - guess).clamp(-reach, reach))
    angle = draws.uniform(0, 2 * math.pi, n, t)
    away = torch.stack([angle.cos(), angle.sin()], -1) * draws.uniform(0.8, 1.6, n, t, 1) * side
    # Such a crop still shows some of the video.
    wrong = torch.minimum((now + away).clamp(min=0), limit[:, None])
    guess = torch.where(draws.chance(ELSEWHERE, n, t, 1), wrong, guess)
    return torch.cat([guess, side], -1)


class JitterRule(Protocol):
    """Crops about the boxes ``(n, F, 4)`` (x1 y1 x2 y2, pixels) of clips whose first frame is the template's.

    Crops are center x, center y and side in pixels; ``factor`` is side over size of the target.
    """

    def template(self, draws: Draws, box: Tensor, factor: float) -> Tensor:
        """``(n, 1, 3)``."""
        ...

    def search(self, draws: Draws, box: Tensor, factor: float, limit: Tensor) -> Tensor:
        """``(n, F - 1, 3)``; ``limit``: ``(n, 2)`` width and height of the video."""
        ...


@dataclass(frozen=True, slots=True)
class Drift:
    """:func:`template_guess` and :func:`search_guess`."""

    def template(self, draws: Draws, box: Tensor, factor: float) -> Tensor:
        return template_guess(draws, box, factor)

    def search(self, draws: Draws, box: Tensor, factor: float, limit: Tensor) -> Tensor:
        return search_guess(draws, box, factor, limit)


@dataclass(frozen=True, slots=True)
class Published:
    """The published training's rule: each crop is off its own frame's box, as if nothing had come before.

    Width and height are multiplied by ``exp(scale * normal)`` each. Centers move by up to ``center / 2`` times
    the resulting size (the root of the area) along each axis, uniformly. At 4.5, with crops of factor 5, the
    target's center always stays in the crop.
    """

    center: float = 4.5
    scale: float = 0.5
    template_center: float = 0.0
    template_scale: float = 0.0

    def template(self, draws: Draws, box: Tensor, factor: float) -> Tensor:
        return _published(draws, box[:, :1], factor, self.template_center, self.template_scale)

    def search(self, draws: Draws, box: Tensor, factor: float, limit: Tensor) -> Tensor:  # noqa: ARG002
        return _published(draws, box[:, 1:], factor, self.center, self.scale)


def _published(draws: Draws, box: Tensor, factor: float, center: float, scale: float) -> Tensor:
    n, f = box.shape[:2]
    size = (box[..., 2:] - box[..., :2]) * draws.normal(scale, n, f, 2).exp()
    unit = size.prod(-1, keepdim=True).sqrt()
    middle = (box[..., :2] + box[..., 2:]) / 2
    return torch.cat([middle + draws.uniform(-center / 2, center / 2, n, f, 2) * unit, unit * factor], -1)
