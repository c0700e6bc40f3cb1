"""Groups of parameters, what is frozen, and the optimizer's state by name."""

from __future__ import annotations

import pytest
import torch
from tiny import TINY
from torch import nn

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.corner_network import STTrack
from sttrack_deploy.models.training.optimizer import (
    Optimizer,
    OptimizerRecipe,
    freeze_parts,
    learning_rate_at,
    train_mode,
)
from sttrack_deploy.models.training.validation import ClipNetwork, SimilarityProbe


@pytest.fixture
def module() -> ClipNetwork:
    return ClipNetwork(STTrack(TINY), SimilarityProbe(TINY.hidden_dim))


def settings(optimizer: Optimizer) -> dict[str, tuple[float, float]]:
    """Rate and weight decay of each parameter."""
    names = {id(p): name for name, p in optimizer.parameters.items()}
    return {
        names[id(p)]: (group["rate"], group["weight_decay"])
        for group in optimizer.adamw.param_groups
        for p in group["params"]
    }


def test_each_part_has_its_rate_and_decay(module: ClipNetwork) -> None:
    recipe = OptimizerRecipe(rates={"backbone": 0.1, "backbone.stages.3": 0.5}, weight_decay=0.2)
    found = settings(Optimizer(module, recipe, "none", "cpu"))
    assert set(found) == {name for name, _ in module.named_parameters()}
    assert found["network.backbone.stages.0.conv.weight"] == (0.1, 0.2)
    assert found["network.backbone.stages.3.conv.weight"] == (0.5, 0.2)
    assert found["network.backbone.stages.3.bn.weight"] == (0.5, 0.0)
    assert found["network.bottleneck.bias"] == (1.0, 0.0)
    assert found["probe.scale"] == (1.0, 0.0)


def test_published_decay_is_on_all(module: ClipNetwork) -> None:
    found = settings(Optimizer(module, OptimizerRecipe(decay_on="all"), "none", "cpu"))
    assert {decay for _, decay in found.values()} == {1e-4}


def test_frozen_parts_are_not_optimized(module: ClipNetwork) -> None:
    freeze_parts(module.network, ("backbone.stages.1", "query_embed"))
    optimizer = Optimizer(module, OptimizerRecipe(), "none", "cpu")
    assert "network.query_embed" not in optimizer.parameters
    assert not any(name.startswith("network.backbone.stages.1.") for name in optimizer.parameters)
    assert "network.backbone.stages.0.conv.weight" in optimizer.parameters


@pytest.mark.parametrize("part", ["backbone.layer1", "backbon", "backbone.stages.0.con"])
def test_a_part_that_is_not_there(module: ClipNetwork, part: str) -> None:
    with pytest.raises(UserError, match=f"freeze: there is no part '{part}'.*backbone.stages"):
        freeze_parts(module.network, (part,))
    with pytest.raises(UserError, match=f"rates: there is no part '{part}'"):
        Optimizer(module, OptimizerRecipe(rates={part: 0.5}), "none", "cpu")


def test_batch_norm_rests_where_it_is_frozen(module: ClipNetwork) -> None:
    def training(frozen: tuple[str, ...], everywhere: bool) -> dict[str, bool]:
        train_mode(module.network, frozen, everywhere)
        modules = module.network.named_modules()
        return {name: m.training for name, m in modules if isinstance(m, nn.BatchNorm2d)}

    some = training(("backbone.stages.0",), False)
    assert {name for name, trains in some.items() if not trains} == {"backbone.stages.0.bn"}
    assert not any(training((), True).values())
    assert all(training((), False).values())
    assert module.network.encoder.training


def test_the_gradient_is_clipped_and_the_state_comes_back(module: ClipNetwork) -> None:
    recipe = OptimizerRecipe(clip_norm=0.1)
    optimizer = Optimizer(module, recipe, "none", "cpu")
    weight = module.network.bottleneck.weight
    optimizer.backward((weight * 1e3).sum())
    assert not optimizer.step(1e-3)
    assert weight.grad is None
    moments = optimizer.state()["moments"]["network.bottleneck.weight"]
    assert float(moments["exp_avg"].norm()) == pytest.approx(
        0.1 * 0.1, rel=1e-3
    )  # (1 - beta1) times the norm
    other = Optimizer(ClipNetwork(STTrack(TINY), SimilarityProbe(TINY.hidden_dim)), recipe, "none", "cpu")
    other.load_state(optimizer.state())
    assert torch.equal(
        other.state()["moments"]["network.bottleneck.weight"]["exp_avg_sq"], moments["exp_avg_sq"]
    )


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
