"""What else moves in a synthetic clip: look-alikes beside the target, things that pass in front of it."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from sttrack_deploy.models.training.clips.batch import Draws
from sttrack_deploy.models.training.clips.photometry import color_matrices
from sttrack_deploy.models.training.clips.synthetic.image_bank import ImageBank, SpriteSampler
from sttrack_deploy.models.training.clips.synthetic.layers import Layer, layer_alpha_at, linear

__all__ = ["appearance", "companions", "remove_target", "uncover"]

DISTRACTED = 0.5  # share of clips with a look-alike
OCCLUDED = 0.22  # share of clips with something passing in front
REMOVED = 0.05  # share of search frames that the target is taken out of


def appearance(draws: Draws, n: int, strength: float) -> Tensor:
    """Color matrices ``(n, 3, 4)`` of sprites: nothing has the light of the photograph it lands in."""
    saturation = draws.normal(strength, n).exp()
    tint = draws.normal(strength / 2, n, 3).exp()
    return color_matrices(draws.normal(strength, n).exp(), draws.normal(strength, n).exp(), saturation, tint)


def companions(
    sampler: SpriteSampler, draws: Draws, target: Layer, time: Tensor, size: Tensor, box: Tensor
) -> tuple[Layer, Layer]:
    """The layer behind the target (look-alikes) and the one in front (occluders, look-alikes)."""
    n = len(size)
    center = (box[..., :2] + box[..., 2:]) / 2
    behind = draws.subset(n, DISTRACTED)
    lookalike = _same_or_similar(sampler, draws, target.sprite[behind])
    gap = draws.log_uniform(0.7, 2.2, len(behind))
    ratio = draws.log_uniform(0.65, 1.5, len(behind))
    pace = draws.uniform(0, 6, len(behind)) * draws.chance(0.8, len(behind))  # some stay alongside
    first = _passing(sampler.bank, draws, behind, lookalike, center, time, size, gap, ratio, pace)

    front = draws.subset(n, OCCLUDED)
    kin = draws.chance(0.25, len(front))
    stranger = sampler.draw(draws, sampler.pasted, len(front))
    cover = torch.where(kin, _same_or_similar(sampler, draws, target.sprite[front]), stranger)
    # Its like may not hide it altogether: who would be who?
    gap = torch.where(kin, 0.6, 0.0) + draws.uniform(0, 0.7, len(front))
    ratio = torch.where(kin, draws.log_uniform(0.7, 1.4, len(front)), draws.log_uniform(0.8, 3, len(front)))
    pace = draws.uniform(2.5, 8, len(front))  # what hides the target passes on
    second = _passing(sampler.bank, draws, front, cover, center, time, size, gap, ratio, pace)
    return first, second


def _same_or_similar(sampler: SpriteSampler, draws: Draws, sprite: Tensor) -> Tensor:
    return torch.where(draws.chance(0.5, len(sprite)), sprite, sampler.similar(draws, sprite))


def _passing(
    bank: ImageBank,
    draws: Draws,
    clip: Tensor,
    sprite: Tensor,
    center: Tensor,
    time: Tensor,
    size: Tensor,
    gap: Tensor,
    ratio: Tensor,
    pace: Tensor,
) -> Layer:
    """Sprites that pass the target.

    Args:
        bank: holds the sprites.
        draws: the random numbers.
        clip: int64 ``(m,)`` of the group's clips.
        sprite: int64 ``(m,)``.
        center: ``(n, F, 2)`` of the target.
        time: ``(n, F)``.
        size: ``(n,)`` of the target.
        gap: ``(m,)`` distance at the closest, in target sizes.
        ratio: ``(m,)`` size of the sprite over the target's.
        pace: ``(m,)`` target sizes that it travels along the target's path over the clip.
    """
    m, frames = len(clip), time.shape[1]
    # It is closest at the time of one of the searched frames, so that the meeting is seen.
    meeting = time[clip].gather(1, 1 + draws.integers(frames - 1, m, 1))
    heading = draws.uniform(0, 2 * math.pi, m)
    along = torch.stack([heading.cos(), heading.sin()], -1)
    across = torch.stack([-heading.sin(), heading.cos()], -1) * draws.sign(m, 1)
    extent = time[clip][:, -1:]
    # However slow the clip's time runs.
    travel = pace[:, None] / extent.clamp(min=0.02)
    offset = travel * (time[clip] - meeting)
    place = along[:, None] * offset.unsqueeze(-1) + across[:, None] * gap[:, None, None]
    place = center[clip] + place * size[clip][:, None, None]
    low, high = bank.outline[sprite].amin(1), bank.outline[sprite].amax(1)
    half = bank.frame[sprite, 2:]
    scale = ratio * size[clip] / ((high - low) * half).prod(-1).sqrt()
    spin = draws.normal(0.1, m, 1) + draws.normal(0.3, m, 1) * time[clip]
    swell = (draws.normal(0.15, m, 1) * time[clip]).exp() * scale[:, None]
    flip = draws.sign(m, 1)
    shape = linear(half[:, :1] * swell * flip, half[:, 1:] * swell, torch.zeros_like(spin), spin)
    gate = torch.ones_like(time[clip])
    return Layer(clip, sprite, appearance(draws, m, 0.28), place, shape, None, gate)


def remove_target(draws: Draws, target: Layer, inside: Tensor, behind: Layer) -> Layer:
    """Take pasted targets out of some searched frames, except where its double would be taken for it."""
    double = torch.zeros_like(inside)
    double[behind.clip] = behind.sprite == target.sprite[behind.clip]
    gone = draws.chance(REMOVED, len(inside), target.gate.shape[1] - 1) & ~(inside | double)[:, None]
    gate = target.gate.clone()
    gate[:, 1:] = gate[:, 1:] * (~gone).float()
    return replace(target, gate=gate)


def uncover(layer: Layer, bank: ImageBank, interior: Tensor, only: Tensor) -> Layer:
    """Take the layer out of the template's frame where it would cover the target (of the clips of ``only``)."""
    alpha = layer_alpha_at(layer, bank, interior[layer.clip])[:, 0]
    covered = ((alpha > 0.3).float().mean(-1) > 0.05) & only[layer.clip]
    gate = layer.gate.clone()
    gate[:, 0] = gate[:, 0] * (~covered).float()
    return replace(layer, gate=gate)
