"""Sine position encoding over the unpadded cells (DETR)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["sine_position"]


def sine_position(mask: Tensor, dim: int) -> Tensor:
    """Encode each cell's place among the unpadded cells.

    The coordinate is the running count of unpadded cells divided by its last value and scaled to
    2 pi, so it depends on the mask. Sine and cosine are interleaved; the first half of the channels is
    the row, the second the column (Carion et al. 2020, ``PositionEmbeddingSine``).

    Args:
        mask: bool ``(B, h, w)``, True = padding.
        dim: channels, divisible by 4.

    Returns:
        float32 ``(B, h * w, dim)``. Kept in float32 whatever the network's precision: a fully padded
        row divides 0 by 1e-6.
    """
    visible = (~mask).float()
    frequencies = torch.pow(
        torch.tensor(10000.0, device=mask.device),
        -(2 * torch.arange(dim // 4, device=mask.device, dtype=torch.float32)) / (dim // 2),
    )
    halves = []
    for axis in (1, 2):
        count = visible.cumsum(axis)
        last = count[:, -1:, :] if axis == 1 else count[:, :, -1:]
        phase = (count / (last + 1e-6) * (2 * math.pi))[..., None] * frequencies
        halves.append(torch.stack((phase.sin(), phase.cos()), dim=-1).flatten(3))
    return torch.cat(halves, dim=-1).flatten(1, 2)
