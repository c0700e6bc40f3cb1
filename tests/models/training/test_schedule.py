"""The learning rate over a run."""

from __future__ import annotations

import pytest
import torch

from sttrack_deploy.models.training.optimizer_recipe import OptimizerRecipe
from sttrack_deploy.models.training.schedule import learning_rate_at


def test_the_cosine_warms_up_and_ends_at_zero() -> None:
    recipe = OptimizerRecipe(warmup=5, learning_rate=3e-3)
    rates = [learning_rate_at(step, 100, recipe) for step in range(101)]
    assert rates[0] == pytest.approx(3e-3 / 5, rel=0.01)
    assert max(rates) == pytest.approx(3e-3, rel=0.02)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_steps_fall_where_torchs_do() -> None:
    """``StepLR`` with 160 of 200 epochs, as published, here with an epoch of one step; and a faster one."""
    for drop_at in (0.8, 0.3):
        recipe = OptimizerRecipe(schedule="step", warmup=0, learning_rate=1e-2, drop_at=drop_at)
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, round(200 * drop_at))
        for step in range(200):
            expected = optimizer.param_groups[0]["lr"]
            assert learning_rate_at(step, 200, recipe) == pytest.approx(expected, rel=1e-6)
            optimizer.step()
            scheduler.step()
