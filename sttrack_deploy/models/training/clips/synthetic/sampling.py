"""Who plays in a synthetic clip: which photograph, which sprites."""

from __future__ import annotations

import torch
from torch import Tensor

from sttrack_deploy.models.training.clips.draws import Draws
from sttrack_deploy.models.training.clips.synthetic.image_bank import ImageBank
from sttrack_deploy.models.training.clips.synthetic.sprites import KIND_BOX, KIND_CUT, KIND_MASK, KIND_REGION

__all__ = ["SpriteSampler"]


class SpriteSampler:
    """Chooses photographs and sprites: tables made once for a bank."""

    def __init__(self, bank: ImageBank) -> None:
        photo = bank.sizes[bank.owner]
        low, high = bank.outline.amin(1), bank.outline.amax(1)
        box = (high - low) * bank.frame[:, 2:]  # size of the object in its photograph
        relative = (box.prod(-1) / photo.prod(-1)).sqrt()
        # In place a target keeps its size relative to the photograph: a large one would fill the source frame.
        fits = ((relative > 0.07) & (relative < 0.2)).float() + 0.12 * ((relative >= 0.2) & (relative < 0.4))
        self.bank = bank
        self.in_place = _weights(bank.kind, fits, {KIND_MASK: 0.15, KIND_BOX: 0.5, KIND_REGION: 0.35})
        # Small ones are blurred when pasted: fewer of them.
        sharp = (box.prod(-1).sqrt() / 40).clamp(0.15, 1)
        self.pasted = _weights(
            bank.kind, sharp, {KIND_MASK: 0.2, KIND_CUT: 0.48, KIND_BOX: 0.14, KIND_REGION: 0.18}
        )
        # Sprites sorted by kind and set of photographs: a look-alike comes from the same run.
        group = bank.kind * len(bank.set_names) + bank.image_set[bank.owner]
        self.order = torch.argsort(group, stable=True)
        counts = torch.bincount(group)
        self.first = (counts.cumsum(0) - counts)[group]
        self.count = counts[group]

    def draw(self, draws: Draws, weights: Tensor, count: int) -> Tensor:
        """int64 ``(count,)`` sprites by one of the tables of cumulated chances."""
        position = torch.rand(count, generator=draws.generator, dtype=torch.float64)
        return torch.searchsorted(weights, position).clamp(max=len(weights) - 1).to(self.bank.device)

    def similar(self, draws: Draws, sprite: Tensor) -> Tensor:
        """For each sprite another of the same kind and set (sometimes itself); int64 ``(n,)``."""
        step = (draws.uniform(0, 1, len(sprite)) * self.count[sprite]).long()
        return self.order[self.first[sprite] + torch.minimum(step, self.count[sprite] - 1)]


def _weights(kind: Tensor, fits: Tensor, shares: dict[int, float]) -> Tensor:
    """Cumulated chances on the CPU: ``shares`` over the kinds that are there, ``fits`` within a kind."""
    weights = torch.zeros(len(kind), dtype=torch.float64)
    for value, share in shares.items():
        member = (fits * (kind == value)).cpu().double()
        weights += share * member / member.sum().clamp(min=1e-9)
    if weights.sum() == 0:
        weights += 1
    return (weights / weights.sum()).cumsum(0)
