"""The learning rate over a run."""

from __future__ import annotations

import math

from sttrack_deploy.models.training.optimizer_recipe import OptimizerRecipe

__all__ = ["learning_rate_at"]


def learning_rate_at(step: int, steps: int, recipe: OptimizerRecipe) -> float:
    """The rate of the step with this number (from 0), before the parts' own factors.

    A linear warm-up, under a cosine that reaches zero after the last step, or under steps down as
    ``torch.optim.lr_scheduler.StepLR`` takes them: by ``drop_factor`` after each ``drop_at`` share of the run.

    Args:
        step: of the run, from 0.
        steps: length of the run.
        recipe: the schedule's form.
    """
    warm = min(1.0, (step + 1) / max(1, recipe.warmup))
    if recipe.schedule == "cosine":
        level = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    else:
        # In whole steps, so that rounding does not move a drop.
        level = recipe.drop_factor ** (step // max(1, round(recipe.drop_at * steps)))
    return recipe.learning_rate * warm * level
