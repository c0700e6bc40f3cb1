"""Seeded random numbers for the clip generator.

Everything is drawn on the CPU from one generator and then moved, so the same seed gives the same clips
on every device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Draws"]


class Draws:
    """Random tensors from ``generator``, delivered on ``device`` (float32 unless said otherwise)."""

    def __init__(self, generator: torch.Generator, device: torch.device) -> None:
        self.generator = generator
        self.device = device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in ``low .. high``."""
        drawn = torch.rand(shape, generator=self.generator) * (high - low) + low
        return drawn.to(self.device)

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in the logarithm, ``low .. high``, both above 0."""
        return self.uniform(math.log(low), math.log(high), *shape).exp()

    def normal(self, scale: float, *shape: int) -> Tensor:
        """Normal with mean 0 and standard deviation ``scale``."""
        return (torch.randn(shape, generator=self.generator) * scale).to(self.device)

    def chance(self, probability: float, *shape: int) -> Tensor:
        """Bool, True with that probability."""
        return (torch.rand(shape, generator=self.generator) < probability).to(self.device)

    def sign(self, *shape: int) -> Tensor:
        """-1 or 1."""
        return self.chance(0.5, *shape).float() * 2 - 1

    def integers(self, high: int, *shape: int) -> Tensor:
        """int64 in ``0 .. high - 1``."""
        return torch.randint(high, shape, generator=self.generator).to(self.device)

    def subset(self, count: int, probability: float) -> Tensor:
        """The indices, int64, of those of ``count`` things that are hit, each with that probability."""
        return torch.nonzero(torch.rand(count, generator=self.generator) < probability)[:, 0].to(self.device)

    def number(self, low: float, high: float) -> float:
        """One Python float, uniform."""
        return float(torch.rand((), generator=self.generator)) * (high - low) + low

    def permutation(self, count: int) -> Tensor:
        """int64 ``(count,)``."""
        return torch.randperm(count, generator=self.generator).to(self.device)
