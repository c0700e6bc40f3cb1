"""Clips of noise for the tiny network: made in a millisecond, and the same for the same generator."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from tiny import TINY, search_input, template_input

from sttrack_deploy.models.training.clips.batch import ClipBatch
from sttrack_deploy.models.training.losses import LossWeights
from sttrack_deploy.models.training.optimizer import OptimizerRecipe
from sttrack_deploy.models.training.recipe import DataRecipe, Recipe
from sttrack_deploy.models.training.trainer import RunOptions, Trainer
from sttrack_deploy.models.training.training_log import LogLine


class NoiseClips:
    """Clips in which there is nothing to find; some frames do not show the target."""

    def sample(self, batch: int, frames: int, generator: torch.Generator) -> ClipBatch:
        template, template_mask = template_input(TINY, batch, generator)
        searches = [search_input(TINY, batch, generator) for _ in range(frames)]
        box = torch.rand(batch, frames, 4, generator=generator) * 0.4
        box[..., 2:] += 0.5
        present = torch.rand(batch, frames, generator=generator) < 0.8
        search, search_mask = (torch.stack([pair[i] for pair in searches], 1) for i in (0, 1))
        return ClipBatch(template, template_mask, search, search_mask, box, present)


def noise_recipe(steps: int = 8, clips: int = 2, dropout: float = 0.0, **optimizer: Any) -> Recipe:
    """A run of the tiny network; ``optimizer`` overrides settings of that table."""
    settings = {"warmup": 3, "learning_rate": 3e-3, "freeze_norm_at": 0.7, **optimizer}
    return Recipe(
        dataclasses.replace(TINY, dropout=dropout),
        DataRecipe(frames=2, clips=clips),
        OptimizerRecipe(steps=steps, **settings),
        LossWeights(corner=0.5, foreground=1.0),
        autocast="none",
    )


def train(
    recipe: Recipe, folder: Path, options: RunOptions | None = None, source: Any = None, **run: Any
) -> tuple[Trainer, list[LogLine]]:
    """Train in a folder; ``run`` goes to :meth:`Trainer.run`. The trainer, and the lines of the log."""
    trainer = Trainer(recipe, source or NoiseClips(), folder, options=options or RunOptions())
    lines: list[LogLine] = []
    trainer.run(lines.append, **{"report_every": 1, **run})
    return trainer, lines


def same_weights(one: Trainer, other: Trainer) -> bool:
    """Bit for bit: trained weights, their average, and the batch norm statistics."""
    pairs = ((one.network, other.network), (one.average, other.average), (one.probe, other.probe))
    return all(
        torch.equal(value, b.state_dict()[name]) for a, b in pairs for name, value in a.state_dict().items()
    )
