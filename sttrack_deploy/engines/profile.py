"""What an engine spends a step on, operator by operator, as its own counters say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from sttrack_deploy.engines.base import Engine

__all__ = ["Operator", "ProfiledEngine", "typical"]


@dataclass(frozen=True, slots=True)
class Operator:
    """One operation of the search graph, as the engine runs it: fused, reordered, added by its compiler.

    Attributes:
        name: of the graph's node that it came from.
        kind: what it does, as the engine calls it: ``Conv``, ``FullyConnected``, ``Reorder``.
        kernel: what computes it; ONNX Runtime does not say, so there it is the types of its inputs.
        seconds: median of the steps.
    """

    name: str
    kind: str
    kernel: str
    seconds: float


class ProfiledEngine(Engine, Protocol):
    """An engine that counts; counting costs time, so its steps are not those that a benchmark times."""

    def operators(self) -> list[Operator]:
        """Those of all search steps so far, in the order in which they run. The engine is not used afterwards."""
        ...


def typical(steps: Sequence[Mapping[tuple[str, str, str], float]]) -> list[Operator]:
    """The median of each operator.

    Args:
        steps: for each step seconds by name, kind and kernel.
    """
    found: dict[tuple[str, str, str], list[float]] = {}
    for step in steps:
        for key, seconds in step.items():
            found.setdefault(key, []).append(seconds)
    return [Operator(*key, median(seconds)) for key, seconds in found.items()]
