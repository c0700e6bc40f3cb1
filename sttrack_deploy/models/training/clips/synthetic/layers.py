"""A moving cut-out, one sprite for each clip with its place and shape in every frame, and how it is sampled.

Maps go from plane to plane, straight from a picture to a crop. A *crop* is a square of the (never rendered) source
frame: center x, y and side in frame pixels. Its own coordinates are ``-1 .. 1``. Many crops of one picture are sampled
in one call, stacked along the height.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sttrack_deploy.models.training.clips.synthetic.image_bank import ImageBank

__all__ = [
    "Layer",
    "crop_matrix",
    "draw_layer",
    "layer_alpha_at",
    "linear",
    "plane_matrix",
    "points_in_frame",
    "rotation",
    "sample_affine",
    "sample_plane",
]


def rotation(angle: Tensor) -> Tensor:
    """Radians ``(...)`` to rotation matrices ``(..., 2, 2)``, from x towards y."""
    c, s = angle.cos(), angle.sin()
    return torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)


def linear(scale_x: Tensor, scale_y: Tensor, shear: Tensor, angle: Tensor) -> Tensor:
    """Scale, then shear (x by y), then rotate; all ``(...)``, gives ``(..., 2, 2)``."""
    zero = torch.zeros_like(scale_x)
    shape = torch.stack(
        [torch.stack([scale_x, shear * scale_y], -1), torch.stack([zero, scale_y], -1)],
        -2,
    )
    return rotation(angle) @ shape


def crop_matrix(crop: Tensor) -> Tensor:
    """Crops ``(..., 3)`` (center x, y, side) to the maps ``(..., 3, 3)`` from crop coordinates to the frame."""
    half = crop[..., 2] / 2
    matrix = torch.zeros(*crop.shape[:-1], 3, 3, device=crop.device)
    matrix[..., 0, 0] = half
    matrix[..., 1, 1] = half
    matrix[..., :2, 2] = crop[..., :2]
    matrix[..., 2, 2] = 1
    return matrix


def plane_matrix(matrix: Tensor, origin: Tensor, anchor: Tensor, tilt: Tensor) -> Tensor:
    """The homography ``(..., 3, 3)`` ``y = anchor + matrix (x - origin) / (1 + tilt . (x - origin))``.

    ``matrix`` is ``(..., 2, 2)``, the others ``(..., 2)``.
    """
    shift = (tilt * origin).sum(-1)
    out = torch.zeros(*origin.shape[:-1], 3, 3, device=origin.device)
    out[..., :2, :2] = matrix + anchor.unsqueeze(-1) * tilt.unsqueeze(-2)
    out[..., :2, 2] = anchor * (1 - shift).unsqueeze(-1) - (matrix @ origin.unsqueeze(-1)).squeeze(-1)
    out[..., 2, :2] = tilt
    out[..., 2, 2] = 1 - shift
    return out


def _lattice(size: int, device: torch.device) -> Tensor:
    """Pixel centers of a ``size`` by ``size`` crop in crop coordinates, ``(size * size, 3)`` with a 1."""
    axis = (torch.arange(size, device=device) + 0.5) * (2 / size) - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)], -1).reshape(-1, 3)


def sample_plane(pictures: Tensor, matrix: Tensor, size: int) -> Tensor:
    """Crops of pictures under homographies.

    Args:
        pictures: float32 ``(n, c, s, s)``; beyond its edges a picture is mirrored.
        matrix: ``(n, f, 3, 3)`` from crop coordinates to the picture's pixels (edges at 0 and s).
        size: side of the crops in pixels.

    Returns:
        float32 ``(n, c, f, size, size)``.
    """
    n, frames = matrix.shape[:2]
    side = pictures.shape[-1]
    points = _lattice(size, pictures.device) @ matrix.transpose(-1, -2)  # (n, f, size * size, 3)
    grid = points[..., :2] / points[..., 2:].clamp(min=0.05) * (2 / side) - 1
    grid = grid.reshape(n, frames * size, size, 2)
    crops = F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)
    return crops.reshape(n, -1, frames, size, size)


def sample_affine(textures: Tensor, matrix: Tensor, size: int, wobble: Tensor | None) -> Tensor:
    """Crops of textures under affine maps, 0 beyond the texture.

    Args:
        textures: float32 ``(n, c, s, s)``.
        matrix: ``(n, f, 3, 3)`` from crop coordinates to texture coordinates -1 .. 1.
        size: side of the crops in pixels.
        wobble: ``(n, f, 3)`` amplitude, frequency, phase of ``x += a sin(w y + p)`` in texture coordinates.

    Returns:
        float32 ``(n, c, f, size, size)``.
    """
    n, frames = matrix.shape[:2]
    grid = _lattice(size, textures.device) @ matrix[..., :2, :].transpose(-1, -2)  # (n, f, size * size, 2)
    if wobble is not None:
        amplitude, frequency, phase = wobble.unsqueeze(-2).unbind(-1)  # each (n, f, 1)
        grid[..., 0] += amplitude * torch.sin(frequency * grid[..., 1] + phase)
    crops = F.grid_sample(textures, grid.reshape(n, frames * size, size, 2), align_corners=False)
    return crops.reshape(n, -1, frames, size, size)


@dataclass(frozen=True, slots=True)
class Layer:
    """Cut-outs drawn over ``n`` of the clips, in ``F`` frames (frame 0 is the template's).

    Attributes:
        clip: int64 ``(n,)``, which clips of the group.
        sprite: int64 ``(n,)``, index into the bank.
        color: float32 ``(n, 3, 4)``: gains and offset (0..255) of the sprite's colors.
        place: float32 ``(n, F, 2)``, the texture's center in frame pixels.
        shape: float32 ``(n, F, 2, 2)``, from texture coordinates -1 .. 1 to frame pixels.
        wobble: float32 ``(n, F, 3)`` amplitude, frequency, phase; None where nothing is bent.
        gate: float32 ``(n, F)``, opacity.
    """

    clip: Tensor
    sprite: Tensor
    color: Tensor
    place: Tensor
    shape: Tensor
    wobble: Tensor | None
    gate: Tensor


def points_in_frame(layer: Layer, points: Tensor) -> Tensor:
    """Texture points ``(n, P, 2)`` to frame pixels ``(n, F, P, 2)``."""
    own = points.unsqueeze(1)
    if layer.wobble is not None:
        amplitude, frequency, phase = layer.wobble.unsqueeze(-2).unbind(-1)
        # The texture is read at x + a sin(w y + p), so a texture point shows up at x - a sin(w y + p).
        bent = own[..., 0] - amplitude * torch.sin(frequency * own[..., 1] + phase)
        own = torch.stack([bent, own[..., 1].expand_as(bent)], -1)
    return own @ layer.shape.transpose(-1, -2) + layer.place.unsqueeze(-2)


def _to_texture(layer: Layer) -> tuple[Tensor, Tensor]:
    """Matrix ``(n, F, 2, 2)`` and offset ``(n, F, 2)`` from frame pixels to texture coordinates."""
    a, b = layer.shape[..., 0, 0], layer.shape[..., 0, 1]
    c, d = layer.shape[..., 1, 0], layer.shape[..., 1, 1]
    determinant = a * d - b * c
    adjugate = torch.stack([torch.stack([d, -b], -1), torch.stack([-c, a], -1)], -2)
    inverse = adjugate / determinant[..., None, None]
    return inverse, -(inverse @ layer.place.unsqueeze(-1)).squeeze(-1)


def draw_layer(
    canvas: Tensor, layer: Layer, bank: ImageBank, crops: Tensor, frames: slice, pixels_across: float
) -> None:
    """Draw the layer over the canvas, in place.

    Args:
        canvas: float32 ``(N, 3, f, size, size)``, 0 to 255.
        layer: what to draw.
        bank: holds the textures.
        crops: ``(N, f, 3, 3)`` from crop coordinates to the frame.
        frames: which of the layer's frames the canvas shows.
        pixels_across: about how many canvas pixels a target covers, to choose how far the texture is averaged
            before it is sampled (no aliasing).
    """
    if len(layer.clip) == 0:
        return
    texture = bank.texture[layer.sprite].float()
    content = 0.8 * texture.shape[-1]  # the object's part of the texture, without its margin
    shrink = 4 if content > 3.4 * pixels_across else 2 if content > 1.7 * pixels_across else 1
    if shrink > 1:
        texture = F.avg_pool2d(texture, shrink)
    side = texture.shape[-1]
    flat = texture[:, :3].flatten(2)
    rgb = torch.baddbmm(layer.color[:, :, 3:], layer.color[:, :, :3], flat).clamp(0, 255)
    texture = torch.cat([rgb.reshape(-1, 3, side, side), texture[:, 3:] / 255], 1)
    inverse, offset = _to_texture(layer)
    matrix = torch.zeros(*offset.shape[:-1], 3, 3, device=offset.device)
    matrix[..., :2, :2], matrix[..., :2, 2], matrix[..., 2, 2] = inverse, offset, 1
    wobble = None if layer.wobble is None else layer.wobble[:, frames]
    drawn = sample_affine(texture, matrix[:, frames] @ crops[layer.clip], canvas.shape[-1], wobble)
    # Over the texture's edge the color fades to 0 together with alpha; alpha is 0 there already.
    alpha = drawn[:, 3:] * layer.gate[:, None, frames, None, None]
    under = canvas[layer.clip]
    canvas[layer.clip] = under + alpha * (drawn[:, :3] - under)


def layer_alpha_at(layer: Layer, bank: ImageBank, points: Tensor) -> Tensor:
    """Opacity of the layer at frame points ``(n, F, P, 2)`` of its own clips; float32 ``(n, F, P)``."""
    if len(layer.clip) == 0:
        return torch.zeros(points.shape[:-1], device=points.device)
    inverse, offset = _to_texture(layer)
    own = points @ inverse.transpose(-1, -2) + offset.unsqueeze(-2)
    if layer.wobble is not None:
        amplitude, frequency, phase = layer.wobble.unsqueeze(-2).unbind(-1)
        own[..., 0] += amplitude * torch.sin(frequency * own[..., 1] + phase)
    alpha = bank.texture[layer.sprite, 3:].float() / 255
    return F.grid_sample(alpha, own, align_corners=False)[:, 0] * layer.gate.unsqueeze(-1)
