"""A training run's settings: one frozen dataclass, read from a TOML file."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.config import ModelConfig, preset
from sttrack_deploy.models.training.data_recipe import DataRecipe
from sttrack_deploy.models.training.losses import LossWeights

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["OptimizerRecipe", "Recipe", "read_recipe"]


@dataclass(frozen=True, slots=True)
class OptimizerRecipe:
    """AdamW with a linear warm-up and a cosine to zero.

    Attributes:
        steps: length of the schedule, in batches.
        learning_rate: at its peak.
        backbone_rate: factor on it for the backbone.
        clip_norm: largest norm of the gradient.
        ema: decay of the running average of the weights, which is what is validated and kept.
        freeze_norm_at: from this share of the steps on, batch norm uses its running statistics.
            The rest of the network then adapts to what it is deployed with.
    """

    steps: int = 10_000
    warmup: int = 300
    learning_rate: float = 8e-4
    backbone_rate: float = 1.0
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    ema: float = 0.999
    freeze_norm_at: float = 0.75


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the outcome of a run, with the data and the seed."""

    model: ModelConfig
    data: DataRecipe = field(default_factory=DataRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    losses: LossWeights = field(default_factory=LossWeights)
    seed: int = 1
    bfloat16: bool = True


def read_recipe(path: Path) -> Recipe:
    """Read a recipe: tables ``[model]``, ``[data]``, ``[optimizer]``, ``[losses]`` and ``seed``.

    ``[model]`` names a ``preset`` and overrides any field of it.

    Raises:
        UserError: not readable, not TOML, or a key is unknown.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the recipe {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a TOML file: {error}") from error
    model = dict(data.pop("model", {}))
    base = preset(str(model.pop("preset", "sttrack-nano")))
    parts: dict[str, Any] = {"model": ModelConfig.from_dict({**base.to_dict(), **model})}
    for name, kind in (("data", DataRecipe), ("optimizer", OptimizerRecipe), ("losses", LossWeights)):
        parts[name] = _fill(kind, data.pop(name, {}), f"{path} [{name}]")
    for name in ("seed", "bfloat16"):
        if name in data:
            parts[name] = data.pop(name)
    if data:
        raise UserError(
            f"{path} has unknown keys {sorted(data)}; known tables are model, data, optimizer, losses"
        )
    return Recipe(**parts)


def _fill(kind: type[Any], values: Mapping[str, Any], where: str) -> Any:
    known = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UserError(f"{where} has unknown keys {unknown}; known keys are {sorted(known)}")
    return kind(**values)
