"""Photographs set in motion: clips with exact boxes, made by batched tensor operations.

:mod:`scenes` draws what happens, :mod:`layers` draws it straight into the crops that a
tracker would cut (the source frame is never rendered), ``clips/augmentation.py`` spoils the picture. Everything runs
on the device that the image bank lies on.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sttrack_deploy.models.training.clips.augmentation import Degradation, search_guess, template_guess
from sttrack_deploy.models.training.clips.batch import ClipBatch, ClipGeometry, Draws, concatenate
from sttrack_deploy.models.training.clips.synthetic.image_bank import ImageBank, SpriteSampler
from sttrack_deploy.models.training.clips.synthetic.layers import crop_matrix, draw_layer, sample_plane
from sttrack_deploy.models.training.clips.synthetic.scenes import Scene, make_scene

__all__ = ["SyntheticSource"]

FULL_SHARE = 0.5  # of the clips are drawn at the crop's own resolution, the others at a lower one
LOW_LEVELS = (0.25, 0.33, 0.42, 0.5, 0.58, 0.75)  # resolution of the others: 12 to 36 px targets at 192 / 4
VISIBLE = 0.3  # least visible part of a target that is called present
NOISE_TILE = 640


class SyntheticSource:
    """A :class:`~sttrack_deploy.models.training.clips.batch.ClipSource` over an image bank."""

    def __init__(self, bank: ImageBank, geometry: ClipGeometry | None = None) -> None:
        self.bank = bank
        self.geometry = geometry or ClipGeometry()
        self.sampler = SpriteSampler(bank)
        tile = max(NOISE_TILE, self.geometry.search_size + 64)
        noise = torch.randn(3, tile, tile, generator=torch.Generator().manual_seed(0))
        self.noise = noise.to(bank.device)

    @torch.no_grad()
    def sample(self, batch: int, frames: int, generator: torch.Generator) -> ClipBatch:
        """See :meth:`~sttrack_deploy.models.training.clips.batch.ClipSource.sample`."""
        draws = Draws(generator, self.bank.device)
        # The clips are drawn in up to three groups, each at one resolution.
        full = int(batch * FULL_SHARE + draws.number(0, 1))
        first = (batch - full + 1) // 2
        groups = [(full, 1.0)]
        for count in (first, batch - full - first):
            level = LOW_LEVELS[int(draws.number(0, len(LOW_LEVELS) - 1e-6))]
            groups.append((count, level))
        parts = [self._group(draws, count, frames, level) for count, level in groups if count]
        joined = concatenate(parts)
        return joined if len(parts) == 1 else joined.select(draws.permutation(batch))

    def _group(self, draws: Draws, clips: int, frames: int, level: float) -> ClipBatch:
        """``clips`` clips drawn at ``level`` times the crop's resolution."""
        g = self.geometry
        size = round(g.search_size * level)
        across = size / g.search_factor  # pixels of a target as drawn
        spread = (1.0, 2.4) if level == 1 else (0.85, 1.3)
        scene = make_scene(self.sampler, draws, clips, frames, (spread[0] * across, spread[1] * across))
        template_crop = template_guess(draws, scene.box, g.template_factor)
        search_crop = search_guess(draws, scene.box, g.search_factor, scene.frame_size)
        degradation = Degradation(draws, clips, frames + 1, scene.time, self.noise)
        photo = self._photographs(scene, across)
        template_size = round(g.template_size * level)
        template_across = template_size / g.template_factor
        pictures = []
        for crop, part, pixels, target in (
            (template_crop, slice(0, 1), template_size, template_across),
            (search_crop, slice(1, frames + 1), size, across),
        ):
            to_frame = crop_matrix(crop)
            canvas = sample_plane(photo, scene.camera[:, part] @ to_frame, pixels)
            for layer in scene.layers:
                draw_layer(canvas, layer, self.bank, to_frame, part, target)
            pictures.append(degradation.apply(canvas, part))
        template, template_mask = _finish(
            pictures[0], template_crop, scene.frame_size, g.template_size, g.stride
        )
        search, search_mask = _finish(pictures[1], search_crop, scene.frame_size, g.search_size, g.stride)
        box, present = _truth(scene, search_crop)
        return ClipBatch(template[:, 0], template_mask[:, 0], search, search_mask, box, present)

    def _photographs(self, scene: Scene, across: float) -> Tensor:
        """The backgrounds, float32 ``(n, 3, S, S)``, averaged where they will be sampled sparsely."""
        photo = self.bank.images[scene.photo].float()
        size = (scene.box[:, 0, 2:] - scene.box[:, 0, :2]).prod(-1).sqrt()
        step = scene.zoom * size / across  # photograph pixels for each drawn pixel
        for least, most, pool in ((1.6, 3.2, 2), (3.2, 1e9, 4)):
            index = torch.nonzero((step >= least) & (step < most))[:, 0]
            if len(index):
                small = F.avg_pool2d(photo[index], pool)
                photo[index] = F.interpolate(small, scale_factor=pool, mode="bilinear", align_corners=False)
        return photo


def _truth(scene: Scene, crop: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes ``(n, T, 4)`` normalized to the search crops and presence ``(n, T)``."""
    box = scene.box[:, 1:]
    limit = scene.frame_size[:, None, [0, 1, 0, 1]]
    cut = torch.minimum(box.clamp(min=0), limit)  # as annotators do: what is in the frame
    low = crop[..., :2] - crop[..., 2:] / 2
    normal = (cut - torch.cat([low, low], -1)) / crop[..., 2:]
    middle = (normal[..., :2] + normal[..., 2:]) / 2
    points = scene.interior[:, 1:]
    seen = (points > 0) & (points < scene.frame_size[:, None, None])
    away = (points - crop[..., None, :2]).abs() < crop[..., None, 2:] / 2
    part = ((seen & away).all(-1) * scene.visible[:, 1:]).mean(-1)
    central = ((middle > 0) & (middle < 1)).all(-1)
    extent = ((normal[..., 2:] - normal[..., :2]) > 0.02).all(-1)
    return normal, (part >= VISIBLE) & central & extent


def _finish(
    canvas: Tensor, crop: Tensor, frame_size: Tensor, size: int, stride: int
) -> tuple[Tensor, Tensor]:
    """Bring drawn crops to their final size, black out what lies beyond the source frame.

    Args:
        canvas: float32 ``(n, 3, f, s, s)``.
        crop: ``(n, f, 3)``.
        frame_size: ``(n, 2)``.
        size: side of the result.
        stride: pixels for each cell of the mask.

    Returns:
        uint8 ``(n, f, size, size, 3)`` and bool ``(n, f, size / stride, size / stride)``, True = padding.
    """
    n, _, f, drawn, _ = canvas.shape
    frames = canvas.transpose(1, 2).reshape(n * f, 3, drawn, drawn)
    if drawn != size:
        frames = F.interpolate(frames, size=(size, size), mode="bilinear", align_corners=False)
    pixels = (frames + 0.5).clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    pixels = pixels.reshape(n, f, size, size, 3)
    axis = ((torch.arange(size, device=canvas.device) + 0.5) / size - 0.5) * crop[..., 2:]
    column = axis + crop[..., :1]  # (n, f, size) where each pixel lies in the source frame
    row = axis + crop[..., 1:2]
    column_in = (column >= 0) & (column < frame_size[:, None, :1])
    row_in = (row >= 0) & (row < frame_size[:, None, 1:])
    mask = ~(row_in[..., ::stride].unsqueeze(-1) & column_in[..., ::stride].unsqueeze(-2))
    padded = torch.nonzero(~(column_in.all(-1) & row_in.all(-1)))
    if len(padded):
        a, b = padded.unbind(-1)
        inside = row_in[a, b].unsqueeze(-1) & column_in[a, b].unsqueeze(-2)
        pixels[a, b] = pixels[a, b] * inside.unsqueeze(-1)
    return pixels, mask
