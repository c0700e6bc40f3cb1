"""A training run's settings: one frozen dataclass, read from a TOML file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.config import ModelConfig, preset
from sttrack_deploy.models.training.clips.recipe import DataRecipe
from sttrack_deploy.models.training.losses import LossWeights
from sttrack_deploy.models.training.optimizer import Autocast, OptimizerRecipe
from sttrack_deploy.records import fill, parse_toml, read_text, show

__all__ = ["Autocast", "OptimizerRecipe", "Recipe", "read_recipe"]

DEFAULT_PRESET = "sttrack-plain"
"""The small network with a corner head; ``sttrack-nano`` is trained in closed loop (``closed_loop/``)."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the outcome of a run, with the data.

    Attributes:
        seed: of the fresh weights, the clips and the dropout.
        autocast: type of the forward pass's matrix products and convolutions; the weights and their
            optimization are float32 always. With ``fp16`` the loss is scaled.
    """

    model: ModelConfig
    data: DataRecipe = field(default_factory=DataRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    losses: LossWeights = field(default_factory=LossWeights)
    seed: int = 1
    autocast: Autocast = "bf16"

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, fit for JSON and for comparing recipes."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> Recipe:
        """The reverse of :meth:`to_dict`; a setting that is not there has its default.

        Raises:
            UserError: a key is unknown, or a value is not possible.
        """
        tables = {
            name: fill(kind, data[name], f"{where} [{name}]")
            for name, kind in _TABLES.items()
            if name in data
        }
        return fill(cls, {**data, **tables}, where)

    def length(self, shares: int) -> int:
        """Steps of the whole schedule, with ``shares`` batches side by side in each (see ``clips/batch.py``)."""
        return self.optimizer.length(self.data.clips * shares * self.optimizer.accumulate)


_TABLES: dict[str, type[Any]] = {
    "model": ModelConfig,
    "data": DataRecipe,
    "optimizer": OptimizerRecipe,
    "losses": LossWeights,
}


def read_recipe(path: Path) -> Recipe:
    """Read a recipe: tables ``[model]``, ``[data]``, ``[optimizer]``, ``[losses]``, ``seed`` and ``autocast``.

    ``[model]`` names a ``preset`` and overrides any field of it.

    Raises:
        UserError: not readable, not TOML, a key is unknown, or a value is not possible.
    """
    data = parse_toml(read_text(path, "the recipe"), str(path))
    known = {f.name for f in dataclasses.fields(Recipe)}
    unknown = sorted(set(data) - known)
    if unknown:
        raise UserError(f"{path} has unknown keys {show(unknown)}; known keys are {sorted(known)}")
    for name in _TABLES:
        if not isinstance(data.get(name, {}), dict):
            raise UserError(f"{path}: {name} is a table [{name}], not {show(data[name])}")
    model = dict(data.get("model", {}))
    data["model"] = {**preset(str(model.pop("preset", DEFAULT_PRESET))).to_dict(), **model}
    if "samples" in data.get("optimizer", {}):
        data["optimizer"] = {"steps": 0, **data["optimizer"]}
    recipe = Recipe.from_dict(data, str(path))
    return recipe


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
