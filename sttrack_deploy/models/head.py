"""The corner head: two score maps, their soft-argmax, and the confidence read off them."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["CornerHead", "Corners", "corner_confidence"]

CONFIDENCE_SIGMA = 1.5
"""Width, in cells, of the neighborhood that counts as agreeing with the predicted corner."""


class Corners(NamedTuple):
    """What the head predicts.

    Attributes:
        box: float ``(B, 4)``, x1 y1 x2 y2 over the crop's side; not clamped, may be degenerate.
        confidence: float ``(B,)`` in (0, 1], see :func:`corner_confidence`.
        score_top_left, score_bottom_right: logits ``(B, cells, cells)``.
    """

    box: Tensor
    confidence: Tensor
    score_top_left: Tensor
    score_bottom_right: Tensor


class ConvBlock(nn.Module):
    """3x3 convolution, batch norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, 1, 1)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


class CornerBranch(nn.Module):
    """Five layers from features to one score a cell."""

    def __init__(self, channels_in: int, width: int) -> None:
        super().__init__()
        widths = (channels_in, width, width // 2, width // 4, width // 8)
        self.blocks = nn.Sequential(*(ConvBlock(a, b) for a, b in pairwise(widths)))
        self.score = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, cells, cells)`` to logits ``(B, cells, cells)``."""
        scores: Tensor = self.score(self.blocks(x))[:, 0]
        return scores


class CornerHead(nn.Module):
    """Predicts both corners as the mean of a softmax over the cells (STARK's corner head).

    Coordinates are ``index * stride / size`` without a half-cell offset, as published.

    Args:
        channels_in: of the features.
        width: channels of the branches' first layer.
        cells: along one side.
        prior: add a learned map to each corner's scores before the mean is taken. The search region is cut
            around the last box, so the target is likelier near its middle; the convolutions see no position
            and cannot say so. The confidence is read off the scores alone.
    """

    coordinates: Tensor

    def __init__(self, channels_in: int, width: int, cells: int, prior: bool = False) -> None:
        super().__init__()
        self.top_left = CornerBranch(channels_in, width)
        self.bottom_right = CornerBranch(channels_in, width)
        self.cells = cells
        self.prior = nn.Parameter(torch.zeros(2, cells, cells)) if prior else None
        # Not learned and not in published checkpoints.
        self.register_buffer("coordinates", torch.arange(cells).float() / cells, persistent=False)

    def forward(self, features: Tensor) -> Corners:
        """
        Args:
            features: ``(B, C, cells, cells)``.
        """
        scores = (self.top_left(features), self.bottom_right(features))
        seen = [self._probability(score) for score in scores]
        believed = seen
        if self.prior is not None:
            believed = [self._probability(score + p) for score, p in zip(scores, self.prior, strict=True)]
        points = [
            ((m.sum(1) * self.coordinates).sum(1), (m.sum(2) * self.coordinates).sum(1)) for m in believed
        ]
        box = torch.stack((*points[0], *points[1]), dim=1)
        confidence = torch.sqrt(
            corner_confidence(seen[0], *points[0], self.coordinates)
            * corner_confidence(seen[1], *points[1], self.coordinates)
        )
        return Corners(box, confidence, scores[0], scores[1])

    def _probability(self, score: Tensor) -> Tensor:
        """Logits ``(B, cells, cells)`` to a map that sums to 1."""
        return torch.softmax(score.flatten(1).float(), dim=1).reshape(-1, self.cells, self.cells)


def corner_confidence(probability: Tensor, x: Tensor, y: Tensor, coordinates: Tensor) -> Tensor:
    """How much of a corner's probability lies where the corner is said to be.

    The softmax map's mass, weighted by a Gaussian of :data:`CONFIDENCE_SIGMA` cells around its own mean:
    near 1 for one sharp peak, low for a map that is spread out or has several peaks (the mean then lies
    between them), about ``2 pi sigma^2 / cells^2`` for a uniform one. The two corners' values are
    combined by their geometric mean. A network trained with frames that do not show the target, towards
    flat maps, makes it fall when the target is gone.

    Args:
        probability: ``(B, cells, cells)``, sums to 1.
        x, y: ``(B,)``, the map's mean in units of the crop's side.
        coordinates: ``(cells,)``, the cells' coordinates in the same unit.

    Returns:
        ``(B,)`` in (0, 1].
    """
    falloff = -0.5 * (coordinates.shape[0] / CONFIDENCE_SIGMA) ** 2
    near_x = torch.exp(falloff * (coordinates - x[:, None]).square())
    near_y = torch.exp(falloff * (coordinates - y[:, None]).square())
    return ((probability * near_x[:, None, :]).sum(2) * near_y).sum(1)
