"""What happens in a synthetic clip: camera, target, look-alikes, occluders, all as numbers for each frame.

A *scene* is everything that is needed to draw a group of clips, drawn at random. Lengths are pixels of the
source frame (the video that a tracker would be run on); it is never rendered as a whole.
Frame 0 is the template's; frames 1 to T are searched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sttrack_deploy.models.training.clips.augmentation import color_matrices
from sttrack_deploy.models.training.clips.batch import Draws
from sttrack_deploy.models.training.clips.synthetic.image_bank import ImageBank, SpriteSampler
from sttrack_deploy.models.training.clips.synthetic.layers import (
    Layer,
    layer_alpha_at,
    linear,
    plane_matrix,
    points_in_frame,
    rotation,
)

__all__ = ["Scene", "appearance", "companions", "make_scene", "remove_target", "uncover"]


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


IN_PLACE = 0.36  # share of clips whose target is a part of the photograph


@dataclass(frozen=True, slots=True)
class Scene:
    """``n`` clips of ``F`` frames.

    Attributes:
        photo: int64 ``(n,)``, the background.
        camera: float32 ``(n, F, 3, 3)``, from frame pixels to the photograph's.
        zoom: float32 ``(n,)``, photograph pixels for each frame pixel.
        frame_size: float32 ``(n, 2)`` width, height of the source frame.
        layers: what is drawn, back to front.
        time: float32 ``(n, F)``, 0 at the template, at most 1.
        box: float32 ``(n, F, 4)`` x1 y1 x2 y2 of the whole target, frame pixels, not cut to the frame.
        interior: float32 ``(n, F, P, 2)``, points of the target's inside, frame pixels.
        visible: float32 ``(n, F, P)``, 1 where such a point is neither covered nor taken away.
    """

    photo: Tensor
    camera: Tensor
    zoom: Tensor
    frame_size: Tensor
    layers: tuple[Layer, ...]
    time: Tensor
    box: Tensor
    interior: Tensor
    visible: Tensor


@dataclass(frozen=True, slots=True)
class _Clock:
    """Random smooth functions of the clips' time."""

    draws: Draws
    time: Tensor  # (n, F)

    def curve(self, drift: float, swing: float) -> Tensor:
        """``(n, F)``, 0 at frame 0: a straight part plus an oscillation; heavy-tailed over the clips."""
        n = len(self.time)
        slope = self.draws.normal(drift, n, 1) * self.draws.log_uniform(0.4, 1.6, n, 1)
        depth = self.draws.normal(swing, n, 1)
        rate = self.draws.uniform(2, 14, n, 1)
        phase = self.draws.uniform(0, 2 * math.pi, n, 1)
        return slope * self.time + depth * (torch.sin(rate * self.time + phase) - torch.sin(phase))


def make_scene(
    sampler: SpriteSampler, draws: Draws, clips: int, frames: int, size_range: tuple[float, float]
) -> Scene:
    """Draw the scenes of a group of clips.

    Args:
        sampler: the tables of the bank.
        draws: the random numbers.
        clips: ``n``.
        frames: search frames ``T``.
        size_range: least and greatest ``sqrt(w * h)`` of the targets at the template, in frame pixels.
    """
    bank = sampler.bank
    inside = draws.chance(IN_PLACE, clips)
    sprite = torch.where(
        inside, sampler.draw(draws, sampler.in_place, clips), sampler.draw(draws, sampler.pasted, clips)
    )
    photo = torch.where(inside, bank.owner[sprite], draws.integers(len(bank.images), clips))
    step = draws.uniform(0.25, 1, clips, frames).cumsum(1)
    extent = draws.log_uniform(0.1, 1, clips, 1)  # from nearly still to fast
    time = torch.cat([torch.zeros_like(extent), step / step[:, -1:] * extent], 1)
    clock = _Clock(draws, time)

    size = draws.log_uniform(*size_range, clips)
    low, high = bank.outline[sprite].amin(1), bank.outline[sprite].amax(1)
    half = bank.frame[sprite, 2:]  # (n, 2) half size of the texture in its photograph
    # Frame pixels for each pixel of the sprite's photograph.
    scale = size / ((high - low) * half).prod(-1).sqrt()
    growth = clock.curve(0.5, 0.1).clamp(-0.9, 0.9)

    middle = bank.frame[sprite, :2]
    native = torch.cat([middle + low * half, middle + high * half], -1)
    zoom, frame_size, corner = _frame(draws, inside, bank.sizes[photo], native, scale, size, size_range[0])
    place = _target_path(draws, clock, inside, (middle - corner) * scale[:, None], size, frame_size)
    turn = torch.where(inside[:, None], draws.normal(0.03, clips, 1), draws.normal(0.12, clips, 1))
    spin = torch.where(inside[:, None], 1.0, torch.where(draws.chance(0.15, clips, 1), 5.0, 1.6))
    angle = turn + clock.curve(0.14, 0.05) * spin
    free = (~inside).float()[:, None]  # a target in place takes no part in what only sprites can do
    stretch = clock.curve(0.22, 0.08).clamp(-0.5, 0.5) * free + draws.normal(0.12, clips, 1) * free
    shear = clock.curve(0.1, 0.05) * free
    flip = torch.where(inside, 1.0, draws.sign(clips))[:, None]
    width = half[:, None, 0] * scale[:, None] * (growth + stretch / 2).exp()
    height = half[:, None, 1] * scale[:, None] * (growth - stretch / 2).exp()
    bend = draws.normal(0.09, clips, 1).clamp(-0.18, 0.18) * draws.chance(0.4, clips, 1) * free
    wobble = torch.stack(
        [
            bend.expand_as(time),
            draws.uniform(1.5, 4, clips, 1).expand_as(time),
            draws.uniform(0, 6.3, clips, 1) + clock.curve(3, 0),
        ],
        -1,
    )
    tilt = draws.normal(0.05, clips, 1, 2) * time.unsqueeze(-1) / frame_size.amax(-1)[:, None, None]
    target = Layer(
        torch.arange(clips, device=bank.device),
        sprite,
        appearance(draws, clips, 0.12),
        place,
        linear(width * flip, height, shear, angle),
        wobble,
        torch.ones_like(time),
    )
    camera = _camera(draws, clock, inside, target, bank, growth, angle, scale, zoom, frame_size, corner, tilt)

    outline = points_in_frame(target, bank.outline[sprite])
    interior = points_in_frame(target, bank.interior[sprite])
    # The camera's perspective bends a target in place as well; it is the inverse of plane_matrix's quotient.
    outline, interior = (
        torch.where(inside[:, None, None, None], _tilted(points, place, tilt), points)
        for points in (outline, interior)
    )
    box = torch.cat([outline.amin(-2), outline.amax(-2)], -1)

    behind, front = companions(sampler, draws, target, time, size, box)
    target = remove_target(draws, target, inside, behind)
    behind = uncover(behind, bank, interior, only=inside)
    front = uncover(front, bank, interior, only=torch.ones_like(inside))
    visible = target.gate.unsqueeze(-1).expand(interior.shape[:-1]).clone()
    for layer, mask in ((behind, inside), (front, torch.ones_like(inside))):
        alpha = layer_alpha_at(layer, bank, interior[layer.clip])
        alpha = alpha * mask[layer.clip][:, None, None]
        visible[layer.clip] = visible[layer.clip] * (alpha < 0.5)
    pasted = torch.nonzero(~inside)[:, 0]
    layers = (behind, _take(target, pasted), front)
    return Scene(photo, camera, zoom, frame_size, layers, time, box, interior, visible)


def _frame(
    draws: Draws, inside: Tensor, photo: Tensor, native: Tensor, scale: Tensor, size: Tensor, least: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The source frame: zoom ``(n,)`` (photograph pixels for each of its pixels), size ``(n, 2)``, and the point
    of the photograph, ``(n, 2)``, at its top left corner.

    Args:
        draws: the random numbers.
        inside: bool ``(n,)``, the target is part of the photograph.
        photo: ``(n, 2)`` size of the photograph.
        native: ``(n, 4)`` x1 y1 x2 y2 of the sprite's object in its own photograph.
        scale: ``(n,)`` frame pixels for each pixel of that photograph.
        size: ``(n,)`` of the target in frame pixels.
        least: about the resolution that a target is drawn with, in frame pixels.
    """
    n = len(inside)
    # A pasted target: the frame is 6 to 26 targets high, whatever the photograph (which goes on mirrored), and
    # the photograph is shown about as sharp as the crop can show it.
    aspect = draws.log_uniform(0.85, 1.8, n)
    shorter = draws.log_uniform(6, 26, n) * size
    pasted = shorter[:, None] * torch.stack([aspect.clamp(min=1), (1 / aspect).clamp(min=1)], -1)
    zoom = draws.log_uniform(0.35, 1.1, n) * least / size
    start = draws.uniform(0, 1, n, 2) * (photo - pasted * zoom[:, None])
    # In place: the frame may reach beyond the photograph as far as the mirror image of the target stays out.
    before = native[:, :2].clamp(min=0) * draws.uniform(0.75, 1, n, 2)
    after = (photo - native[:, 2:]).clamp(min=0) * draws.uniform(0.75, 1, n, 2)
    pick = inside[:, None]
    zoom = torch.where(inside, 1 / scale, zoom)
    frame_size = torch.where(pick, (photo + before + after) * scale[:, None], pasted)
    return zoom, frame_size, torch.where(pick, -before, start)


def _target_path(
    draws: Draws, clock: _Clock, inside: Tensor, fixed: Tensor, size: Tensor, frame_size: Tensor
) -> Tensor:
    """Center of the target's texture, ``(n, F, 2)``."""
    n = len(inside)
    anywhere = (
        draws.uniform(0.06, 0.94, n, 2) + draws.uniform(0.06, 0.94, n, 2)
    ) / 2  # rather near the middle
    start = torch.where(inside[:, None], fixed, anywhere * frame_size)
    leaves = draws.chance(0.06, n)
    pace = torch.where(leaves, 2.5, 1.0)[:, None]
    travel = torch.stack([clock.curve(2.2, 0.35) * pace, clock.curve(1.4, 0.35) * pace], -1)
    path = start[:, None] + travel * size[:, None, None]
    # Most targets stay in the frame: paths are folded back at a margin.
    margin = 0.4 * size[:, None]
    low = torch.minimum(margin, start)[:, None]
    high = torch.maximum(frame_size - margin, start)[:, None]
    span = (high - low).clamp(min=1)
    folded = torch.remainder(path - low, 2 * span)
    folded = low + torch.minimum(folded, 2 * span - folded)
    return torch.where(leaves[:, None, None], path, folded)


def _camera(
    draws: Draws,
    clock: _Clock,
    inside: Tensor,
    target: Layer,
    bank: ImageBank,
    growth: Tensor,
    angle: Tensor,
    scale: Tensor,
    zoom: Tensor,
    frame_size: Tensor,
    corner: Tensor,
    tilt: Tensor,
) -> Tensor:
    """From frame pixels to the photograph's pixels, ``(n, F, 3, 3)``.

    With a target in place the camera's motion *is* the target's; otherwise it moves by itself.
    """
    n = len(inside)
    pick = inside[:, None]
    still = draws.chance(0.3, n, 1)
    own_zoom = torch.where(still, 0.0, clock.curve(0.2, 0.04)).clamp(-0.5, 0.5)
    own_angle = torch.where(still, 0.0, draws.normal(0.04, n, 1) + clock.curve(0.12, 0.03))
    pan = torch.stack([clock.curve(0.3, 0.03), clock.curve(0.15, 0.03)], -1)
    pan = torch.where(still[..., None], 0.0, pan) * frame_size.amin(-1)[:, None, None]
    magnify = torch.where(pick, (growth + scale.log()[:, None]).exp(), own_zoom.exp() / zoom[:, None])
    matrix = rotation(-torch.where(pick, angle, own_angle)) / magnify[..., None, None]
    origin = torch.where(pick[..., None], target.place, frame_size[:, None] / 2 + pan)
    looked_at = corner + frame_size * zoom[:, None] / 2
    anchor = torch.where(pick, bank.frame[target.sprite, :2], looked_at)[:, None].expand_as(origin)
    return plane_matrix(matrix, origin, anchor, tilt.expand_as(origin))


def _tilted(points: Tensor, origin: Tensor, tilt: Tensor) -> Tensor:
    """Where the camera's perspective moves frame points ``(n, F, P, 2)`` of a plane without it."""
    away = points - origin.unsqueeze(-2)
    return origin.unsqueeze(-2) + away / (1 - (away * tilt.unsqueeze(-2)).sum(-1, keepdim=True))


def _take(layer: Layer, index: Tensor) -> Layer:
    """The clips of ``index`` of a layer that has all of them."""
    wobble = None if layer.wobble is None else layer.wobble[index]
    return Layer(
        layer.clip[index],
        layer.sprite[index],
        layer.color[index],
        layer.place[index],
        layer.shape[index],
        wobble,
        layer.gate[index],
    )
