"""What is varied at random in a clip: where a tracker would cut its crops, and what light, lens, sensor and codec do.

:class:`Drift` is this project's rule for crops, for all sources; :class:`Published` that of STARK and STTrack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sttrack_deploy.models.training.clips.batch import Draws

__all__ = [
    "Degradation",
    "Drift",
    "JitterRule",
    "Published",
    "color_matrices",
    "search_guess",
    "template_guess",
]


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


LUMA = (0.299, 0.587, 0.114)
COARSE = 0.18  # share of clips whose target has few pixels
COARSENESS = (1.5, 4.5)  # crop pixels for each pixel of their video
MIDDLE = 118.0  # the gray that contrast turns about


def color_matrices(brightness: Tensor, contrast: Tensor, saturation: Tensor, tint: Tensor) -> Tensor:
    """Gains and offset of colors 0..255, float32 ``(..., 3, 4)``.

    Args:
        brightness: ``(...)`` factor of all channels.
        contrast: ``(...)`` factor about a middle gray.
        saturation: ``(...)``, 0 makes it gray, 1 leaves it, below 0 turns it to the complementary color.
        tint: ``(..., 3)`` factor of each channel.
    """
    device = brightness.device
    gray = torch.tensor(LUMA, device=device).expand(3, 3)
    mix = torch.eye(3, device=device) * saturation[..., None, None] + gray * (1 - saturation)[..., None, None]
    gains = mix * (brightness * contrast)[..., None, None] * tint.unsqueeze(-1)
    offset = (MIDDLE * (1 - contrast))[..., None, None].expand(*brightness.shape, 3, 1)
    return torch.cat([gains, offset], -1)


class Degradation:
    """Light and camera of a group of clips: drawn once, applied to its template and to its search frames."""

    def __init__(self, draws: Draws, clips: int, frames: int, extent: Tensor, noise: Tensor) -> None:
        """Draw everything.

        Args:
            draws: the random numbers.
            clips: ``n`` of the group.
            frames: ``F``, the template's frame included.
            extent: ``(n, F)``, 0 at the template and growing with the time since: how far light has drifted.
            noise: ``(3, s, s)`` a tile of unit noise.
        """
        self.noise = noise
        self.draws = draws
        drift = extent.sqrt()

        def walk(fixed: float, moving: float) -> Tensor:
            return (draws.normal(fixed, clips, 1) + draws.normal(moving, clips, frames) * drift).clamp(
                -0.9, 0.9
            )

        tint = draws.normal(0.06, clips, 1, 3) + draws.normal(0.04, clips, frames, 3) * drift.unsqueeze(-1)
        gray = draws.chance(0.1, clips, 1)
        self.matrix = color_matrices(
            walk(0.18, 0.16).exp(),
            walk(0.15, 0.12).exp(),
            torch.where(gray, 0.0, walk(0.2, 0.1).exp()),
            torch.where(gray.unsqueeze(-1), 0.0, tint).exp(),
        )
        self.gamma = walk(0.12, 0.1)
        self.noise_clips = draws.subset(clips, 0.35)
        self.noise_level = draws.log_uniform(2, 16, len(self.noise_clips))
        self.block_clips = draws.subset(clips, 0.25)
        self.block_step = draws.log_uniform(4, 28, len(self.block_clips))
        self.defocus_clips = draws.subset(clips, 0.08)
        self.smear_clips = draws.subset(clips, 0.18)
        # A small target: template and search crops are enlarged alike.
        self.coarse_clips = draws.subset(clips, COARSE)
        self.coarseness = draws.number(*COARSENESS)

    def apply(self, canvas: Tensor, frames: slice) -> Tensor:
        """The degraded canvas, float32 ``(n, 3, f, size, size)``; not clamped.

        Args:
            canvas: ``(n, 3, f, size, size)``, 0 to 255.
            frames: the canvas's part of the frames that were drawn.
        """
        n, _, f, size, _ = canvas.shape
        search = frames.start != 0
        if search and len(self.smear_clips):
            self._smear(canvas)
        if search and len(self.defocus_clips):
            self._defocus(canvas)
        matrix = self.matrix[:, frames].flatten(0, 1)
        flat = canvas.transpose(1, 2).reshape(n * f, 3, size * size)
        flat = torch.baddbmm(matrix[:, :, 3:], matrix[:, :, :3], flat).clamp_(0, 255)
        # x + g x (1 - x): the shape of a gamma curve, without its cost.
        bend = self.gamma[:, frames].reshape(n * f, 1, 1)
        flat = torch.addcmul(flat, bend * flat, 1 - flat / 255)
        canvas = flat.reshape(n, f, 3, size, size).transpose(1, 2)
        if len(self.noise_clips):
            self._add_noise(canvas)
        if len(self.block_clips):
            self._quantize(canvas)
        if len(self.coarse_clips):
            self._enlarge(canvas, self.coarse_clips, self.coarseness)
        return canvas

    def _smear(self, canvas: Tensor) -> None:
        """Motion blur: the mean of shifted copies. One direction for all clips of this call that have it."""
        clips = canvas[self.smear_clips]
        angle = self.draws.number(0, math.pi)
        length = self.draws.number(0.015, 0.09) * canvas.shape[-1]
        taps = max(2, min(5, round(length / 1.5)))
        total = torch.zeros_like(clips)
        for tap in range(taps):
            reach = length * (tap / (taps - 1) - 0.5)
            dy, dx = round(reach * math.sin(angle)), round(reach * math.cos(angle))
            total += torch.roll(clips, (dy, dx), (-2, -1))
        # Roll wraps round: the outermost pixels keep their sharp values instead.
        margin = math.ceil(length / 2)
        inner = slice(margin, canvas.shape[-1] - margin)
        clips[..., inner, inner] = total[..., inner, inner] / taps
        canvas[self.smear_clips] = clips

    def _defocus(self, canvas: Tensor) -> None:
        """A lens out of focus, at each call another one."""
        self._enlarge(canvas, self.defocus_clips, self.draws.number(1.3, 1.5 + canvas.shape[-1] / 200))

    @staticmethod
    def _enlarge(canvas: Tensor, index: Tensor, factor: float) -> None:
        """Average to fewer pixels by this factor, and back."""
        size = canvas.shape[-1]
        clips = canvas[index]
        small = max(16, round(size / factor))
        frames = clips.flatten(0, 2).unsqueeze(1)
        frames = F.interpolate(frames, size=(small, small), mode="area")
        frames = F.interpolate(frames, size=(size, size), mode="bilinear", align_corners=False)
        canvas[index] = frames.reshape(clips.shape)

    def _add_noise(self, canvas: Tensor) -> None:
        """Sensor noise from a random place of the tile: drawing it anew would cost more than all the rest."""
        size, tile = canvas.shape[-1], self.noise.shape[-1]
        for frame in range(canvas.shape[2]):
            y, x = (round(self.draws.number(0, tile - size)) for _ in range(2))
            patch = self.noise[:, y : y + size, x : x + size] * self.noise_level[:, None, None, None]
            canvas[self.noise_clips, :, frame] += patch

    def _quantize(self, canvas: Tensor) -> None:
        """Blocks of a coarse codec: rounded cosine coefficients of 8 x 8 pixels, coarser for higher ones."""
        size = canvas.shape[-1]
        whole = size - size % 8
        clips = canvas[self.block_clips][..., :whole, :whole]
        blocks = clips.reshape(*clips.shape[:3], whole // 8, 8, whole // 8, 8).transpose(-3, -2)
        basis = _cosines(canvas.device)
        wave = torch.arange(8, device=canvas.device)
        step = self.block_step[:, None, None, None, None, None, None] * (1 + 0.5 * (wave[:, None] + wave)) / 2
        coefficients = basis @ blocks @ basis.T
        blocks = basis.T @ (torch.round(coefficients / step) * step) @ basis
        canvas[self.block_clips, ..., :whole, :whole] = blocks.transpose(-3, -2).reshape(clips.shape)


def _cosines(device: torch.device) -> Tensor:
    """The orthonormal cosine basis of 8 samples, ``(8, 8)``, one wave a row."""
    k = torch.arange(8, device=device).float()
    basis = torch.cos(math.pi / 8 * (k + 0.5) * k[:, None]) / 2
    basis[0] = basis[0] / math.sqrt(2)
    return basis
