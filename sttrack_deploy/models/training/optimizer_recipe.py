"""How a training run optimises: the ``[optimizer]`` table of a recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sttrack_deploy.errors import UserError

__all__ = ["OptimizerRecipe"]


@dataclass(frozen=True, slots=True)
class OptimizerRecipe:
    """AdamW, its groups, its schedule.

    Attributes:
        steps: updates of the weights in the whole schedule; 0: it follows from ``samples``.
        samples: clips seen in the whole schedule, by all processes together; 0: it follows from ``steps``.
        accumulate: batches of each process whose gradients are averaged into one step.
        schedule: ``cosine`` to zero, or ``step``: ``drop_factor`` times the rate after each ``drop_at`` share.
        warmup: steps over which the rate rises to its peak.
        learning_rate: at its peak.
        rates: factors on it for parts of the network, by the start of their parameters' names
            (``{backbone = 0.1}``); the longest that fits counts.
        freeze: parts that are not trained, named in the same way.
        decay_on: ``matrices``: no weight decay on biases, norms and other vectors; ``all`` as published.
        clip_norm: largest norm of the gradient; 0: it is not clipped.
        ema: decay of the running average of the weights, which is what is validated and kept; 0: none, the
            weights themselves are.
        freeze_norm_at: from this share of the steps on, batch norm uses its running statistics.
            The rest of the network then adapts to what it is deployed with.
        truncate: the gradient goes back through so many frames of the temporal state; 0: through the whole clip.
    """

    steps: int = 10_000
    samples: int = 0
    accumulate: int = 1
    schedule: Literal["cosine", "step"] = "cosine"
    warmup: int = 300
    drop_at: float = 0.8
    drop_factor: float = 0.1
    learning_rate: float = 8e-4
    rates: Mapping[str, float] = field(default_factory=dict)
    freeze: tuple[str, ...] = ()
    weight_decay: float = 1e-4
    decay_on: Literal["matrices", "all"] = "matrices"
    clip_norm: float = 1.0
    ema: float = 0.999
    freeze_norm_at: float = 0.75
    truncate: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "samples", "warmup", "weight_decay", "clip_norm", "truncate"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        if bool(self.steps) == bool(self.samples):
            raise UserError(
                f"one of steps and samples gives the schedule's length and the other is 0, not steps = {self.steps} "
                f"and samples = {self.samples}"
            )
        _check("accumulate", self.accumulate, 1 <= self.accumulate <= 10_000, "from 1 to 10000")
        _check("learning_rate", self.learning_rate, 0 < self.learning_rate <= 1, "above 0 and at most 1")
        _check("drop_at", self.drop_at, 0 < self.drop_at <= 1, "above 0 and at most 1")
        _check("drop_factor", self.drop_factor, 0 < self.drop_factor <= 1, "above 0 and at most 1")
        _check("ema", self.ema, 0 <= self.ema < 1, "from 0 to below 1")
        _check("freeze_norm_at", self.freeze_norm_at, 0 <= self.freeze_norm_at <= 1, "from 0 to 1")
        for part, rate in self.rates.items():
            _check(
                f"rates.{part}", rate, rate > 0 and math.isfinite(rate), "above 0 (freeze names what stays)"
            )

    def length(self, clips_a_step: int) -> int:
        """Steps of the whole schedule.

        Args:
            clips_a_step: of all processes and accumulated batches together.
        """
        return self.steps or math.ceil(self.samples / clips_a_step)


def _check(name: str, value: float, allowed: bool, what: str) -> None:
    if not allowed or not math.isfinite(value):
        raise UserError(f"{name} is {what}, not {value}")
