"""What light, lens, sensor and codec do to a picture, as batched tensor operations."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sttrack_deploy.models.training.clips.batch import Draws

__all__ = ["Degradation", "color_matrices"]

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
