"""Plane-to-plane maps and sampling, straight from a picture to a crop.

A *crop* is a square of the (never rendered) source frame: centre x, y and side in frame pixels. Its own
coordinates are ``-1 .. 1``. Many crops of one picture are sampled in one call, stacked along the height.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["crop_matrix", "linear", "plane_matrix", "rotation", "sample_affine", "sample_plane"]


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
    """Crops ``(..., 3)`` (centre x, y, side) to the maps ``(..., 3, 3)`` from crop coordinates to the frame."""
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
    """Pixel centres of a ``size`` by ``size`` crop in crop coordinates, ``(size * size, 3)`` with a 1."""
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
