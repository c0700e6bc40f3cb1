"""What a clip's predictions are graded by: :func:`grade` for networks with a corner head, :func:`grade_dense` for those
with a dense head (``sttrack-nano``)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.dense_network import DenseStep, DenseSTTrack

__all__ = [
    "DenseLosses",
    "LossTerms",
    "LossWeights",
    "corner_targets",
    "foreground_cells",
    "generalized_iou",
    "grade",
    "grade_dense",
]


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the terms; ``corner`` and ``foreground`` are 0 in the published recipe.

    Attributes:
        giou, l1: on the box of frames that show the target (published: 5 and 2, see
            ``docs/semantics.md``: the published names are swapped).
        corner: divergence of the corner maps from where the corners are; from the uniform map where the
            target is absent, which is what gives the confidence its meaning.
        foreground: which cells lie on the target, from their similarity to the temporal query.
        over_frames: the frames of a clip are averaged (``mean``), or added up as published (``sum``).
    """

    giou: float = 5.0
    l1: float = 2.0
    corner: float = 0.0
    foreground: float = 0.0
    over_frames: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        terms = {"giou": self.giou, "l1": self.l1, "corner": self.corner, "foreground": self.foreground}
        for name, weight in terms.items():
            if weight < 0 or not math.isfinite(weight):
                raise UserError(f"{name} is 0 or more, not {weight}")
        if not any(terms.values()):
            raise UserError("all losses have weight 0: there is nothing to learn")


class LossTerms(NamedTuple):
    """The weighted sum to minimise, its unweighted parts, and the mean IoU; scalars."""

    total: Tensor
    giou: Tensor
    l1: Tensor
    corner: Tensor
    foreground: Tensor
    iou: Tensor


def generalized_iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalized IoU of boxes ``(N, 4)`` in x1 y1 x2 y2 (Rezatofighi et al. 2019).

    Degenerate boxes (x2 < x1) count as empty; they occur early in training.
    """
    area_a = (a[:, 2:] - a[:, :2]).clamp(min=0).prod(1)
    area_b = (b[:, 2:] - b[:, :2]).clamp(min=0).prod(1)
    overlap = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (area_a + area_b - overlap).clamp(min=1e-7)
    iou = overlap / union
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    return iou, iou - (hull - union) / hull.clamp(min=1e-7)


def corner_targets(points: Tensor, cells: int) -> Tensor:
    """Distribution over the cells whose mean is the corner.

    Args:
        points: ``(N, 2)`` x, y over the crop's side; clamped to what the cells can express.

    Returns:
        ``(N, cells, cells)``: the four cells around the point, weighted bilinearly.
    """
    place = (points * cells).clamp(0, cells - 1)
    index = torch.arange(cells, device=points.device)
    weight = (1 - (place[:, :, None] - index).abs()).clamp(min=0)
    return weight[:, 1, :, None] * weight[:, 0, None, :]


def foreground_cells(box: Tensor, cells: int) -> Tensor:
    """1 where a cell's center lies in the box ``(N, 4)``; float ``(N, cells^2)``."""
    center = (torch.arange(cells, device=box.device) + 0.5) / cells
    inside = (center >= box[:, :2, None]) & (center <= box[:, 2:, None])
    return (inside[:, 1, :, None] & inside[:, 0, None, :]).flatten(1).float()


def grade(
    box: Tensor,
    score_top_left: Tensor,
    score_bottom_right: Tensor,
    similarity: Tensor,
    truth: Tensor,
    present: Tensor,
    weights: LossWeights,
    frames: int = 1,
    average: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> LossTerms:
    """Losses of N frames.

    Args:
        box: predicted ``(N, 4)`` x1 y1 x2 y2 over the crop's side.
        score_top_left, score_bottom_right: logits ``(N, cells, cells)``.
        similarity: logits ``(N, cells^2)`` of each cell lying on the target.
        truth: ``(N, 4)``, like ``box``; ignored where not ``present``.
        present: bool ``(N,)``.
        weights: of the terms.
        frames: of each clip, for ``over_frames``.
        average: of a vector over the processes of a run. The terms are means over frames and cells that not all
            batches have the same number of; with it the processes' losses average to that of all their
            frames in one batch.
    """
    cells = score_top_left.shape[-1]
    shown = present.float()
    truth = torch.where(present[:, None], truth, truth.new_full((), 0.5))  # absent: any box will do
    inside = truth.clamp(0, 1)
    target_cells = foreground_cells(truth, cells) * shown[:, None]
    number, foreground_number = average(torch.stack((shown.sum(), target_cells.sum())))
    count = number.clamp(min=1e-6)
    iou, giou = generalized_iou(box, inside)
    giou_loss = ((1 - giou) * shown).sum() / count
    l1_loss = ((box - inside).abs().mean(1) * shown).sum() / count
    divergence = box.new_zeros(())
    for scores, points in ((score_top_left, truth[:, :2]), (score_bottom_right, truth[:, 2:])):
        flat = torch.full((cells, cells), 1.0 / cells**2, device=box.device)
        target = torch.where(present[:, None, None], corner_targets(points, cells), flat).flatten(1)
        log_probability = torch.log_softmax(scores.flatten(1).float(), dim=1)
        divergence = divergence + F.kl_div(log_probability, target, reduction="batchmean")
    # Few cells are foreground: weigh both classes alike.
    rarity = (target_cells.numel() / foreground_number.clamp(min=1e-6) - 1).clamp(max=20)
    foreground = F.binary_cross_entropy_with_logits(similarity.float(), target_cells, pos_weight=rarity)
    scale = frames if weights.over_frames == "sum" else 1
    total = scale * (
        weights.giou * giou_loss
        + weights.l1 * l1_loss
        + weights.corner * divergence
        + weights.foreground * foreground
    )
    return LossTerms(total, giou_loss, l1_loss, divergence, foreground, (iou.detach() * shown).sum() / count)


CENTER = 0.3
"""Places within this part of the target's half sides from its middle may win."""


class DenseLosses(NamedTuple):
    """Losses of one frame of ``n`` clips, ``(n,)`` each.

    Attributes:
        box: generalized IoU and L1; 0 where the target is not in the crop.
        place: cross entropy of the score map; 0 there too.
        confidence: cross entropy of the confidence, on every frame.
    """

    box: Tensor
    place: Tensor
    confidence: Tensor


def grade_dense(
    network: DenseSTTrack, step: DenseStep, target: Tensor, held: Tensor, on_target: tuple[float, float]
) -> tuple[Tensor, DenseLosses]:
    """Overlap ``(n,)``, without gradients, and the losses of one step.

    Args:
        target: true boxes x1 y1 x2 y2 over the crop's side.
        held: bool ``(n,)``: the crop shows the target.
        on_target: between these overlaps the wanted confidence rises from 0 to 1.
    """
    overlap, box_loss = _box_loss(step.box, target)
    overlap = overlap.detach()
    low, high = on_target
    sure = ((overlap - low) / (high - low)).clamp(0, 1) * held
    losses = DenseLosses(
        box_loss * held,
        _place_loss(network, step, target) * held,
        F.binary_cross_entropy_with_logits(step.confidence_logit, sure, reduction="none"),
    )
    return overlap, losses


def _box_loss(box: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Overlap ``(n,)``, and ``2 (1 - generalized IoU)`` with the L1 distance in target sizes."""
    low, high = torch.maximum(box[:, :2], target[:, :2]), torch.minimum(box[:, 2:], target[:, 2:])
    overlap = (high - low).clamp(min=0).prod(1)
    area = (box[:, 2:] - box[:, :2]).clamp(min=1e-4).prod(1)
    wanted = (target[:, 2:] - target[:, :2]).clamp(min=1e-4).prod(1)
    union = area + wanted - overlap
    hull = torch.maximum(box[:, 2:], target[:, 2:]) - torch.minimum(box[:, :2], target[:, :2])
    hull_area = hull.clamp(min=1e-4).prod(1)
    iou = overlap / union
    generalized = iou - (hull_area - union) / hull_area
    distance = (box - target).abs().mean(1) / wanted.sqrt()
    return iou, 2.0 * (1.0 - generalized) + torch.clamp(distance, max=3.0)


def _place_loss(network: DenseSTTrack, step: DenseStep, target: Tensor) -> Tensor:
    """``(n,)``: less the logarithm of the score map's mass on places near the target's middle."""
    points = network.points[None]
    middle = (target[:, :2] + target[:, 2:])[:, :, None] / 2
    half = (target[:, 2:] - target[:, :2])[:, :, None] / 2
    # At least the nearest places, however small the target is.
    reach = torch.clamp(CENTER * half * 2, min=0.75 / network.config.search_cells)
    near = ((points - middle).abs() <= reach).all(1)
    logs = torch.log_softmax(step.logits, 1)
    return -torch.logsumexp(torch.where(near, logs, torch.full_like(logs, -30.0)), 1).clamp(min=-30.0)
