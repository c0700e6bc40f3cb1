"""Where a tracker would cut its crops: about its own, inexact, box of the frame before. One law for all sources."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sttrack_deploy.models.training.draws import Draws

__all__ = ["search_guess", "template_guess"]

LARGE_SHARE = 0.4  # of the search crops are far off (uniform to LARGE), the others nearly right
SMALL, LARGE = 0.16, 1.2  # target sizes: standard deviation, limit
SCALE, SCALE_RANGE = 0.25, (0.6, 1.7)  # of the logarithm of the crop's side; least and greatest factor
ELSEWHERE = 0.035  # share of search crops that are cut where the target is not


def template_guess(draws: Draws, box: Tensor, factor: float) -> Tensor:
    """Template crops ``(n, 1, 3)``, centre x, y and side, about the first of the boxes ``(n, F, 4)`` (x1 y1 x2 y2)."""
    n = len(box)
    size = (box[:, :1, 2:] - box[:, :1, :2]).prod(-1, keepdim=True).sqrt()
    centre = (box[:, :1, :2] + box[:, :1, 2:]) / 2
    side = size * factor * draws.normal(0.04, n, 1, 1).exp()
    return torch.cat([centre + draws.normal(0.03, n, 1, 2) * size, side], -1)


def search_guess(draws: Draws, box: Tensor, factor: float, limit: Tensor) -> Tensor:
    """Search crops of all frames but the first.

    Args:
        draws: the random numbers.
        box: ``(n, F, 4)`` x1 y1 x2 y2 of the target, pixels.
        factor: side of a crop over the target's size.
        limit: ``(n, 2)`` width and height of the video.

    Returns:
        ``(n, F - 1, 3)`` centre x, y and side, pixels.
    """
    n, t = len(box), box.shape[1] - 1
    unit = (box[:, :-1, 2:] - box[:, :-1, :2]).prod(-1, keepdim=True).sqrt()
    centre = (box[..., :2] + box[..., 2:]) / 2
    before, now = centre[:, :-1], centre[:, 1:]
    far = draws.chance(LARGE_SHARE, n, t, 1)
    jitter = torch.where(far, draws.uniform(-LARGE, LARGE, n, t, 2), draws.normal(SMALL, n, t, 2))
    side = unit * factor * draws.normal(SCALE, n, t, 1).exp().clamp(*SCALE_RANGE)
    guess = before + jitter * unit
    # Jitter and motion together seldom put the target's centre out of the crop: the tracker would be lost.
    reach = 0.46 * side
    lost = draws.chance(0.02, n, t, 1)
    guess = torch.where(lost, guess, now - (now - guess).clamp(-reach, reach))
    angle = draws.uniform(0, 2 * math.pi, n, t)
    away = torch.stack([angle.cos(), angle.sin()], -1) * draws.uniform(0.8, 1.6, n, t, 1) * side
    # Such a crop still shows some of the video.
    wrong = torch.minimum((now + away).clamp(min=0), limit[:, None])
    guess = torch.where(draws.chance(ELSEWHERE, n, t, 1), wrong, guess)
    return torch.cat([guess, side], -1)
