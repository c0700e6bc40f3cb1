"""The interface that every back end implements."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Engine", "EngineState", "Prediction"]

UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
Float32Array = npt.NDArray[np.float32]

EngineState = Any
"""A track's state, opaque to the caller: it stays where the back end computes (arrays, device buffers).
A state is used up by the step it is given to; only the one that the step returns may be used next."""


class Prediction(NamedTuple):
    """What one step predicts for each target of the batch.

    Attributes:
        box: float32 ``(B, 4)``, x1 y1 x2 y2 over the crop's side, not clamped.
        confidence: float32 ``(B,)`` in 0..1.
    """

    box: Float32Array
    confidence: Float32Array


class Engine(Protocol):
    """Runs one bundle."""

    name: str

    def initial_state(self, template: UInt8Array, mask: BoolArray) -> EngineState:
        """Start tracks.

        Args:
            template: uint8 RGB ``(B, template_size, template_size, 3)``.
            mask: bool ``(B, template cells, template cells)``, True = padding.
        """
        ...

    def step(self, search: UInt8Array, mask: BoolArray, state: EngineState) -> tuple[Prediction, EngineState]:
        """Predict one frame for every track and advance their state.

        Args:
            search: uint8 RGB ``(B, search_size, search_size, 3)``.
            mask: bool ``(B, search cells, search cells)``, True = padding.
        """
        ...

    def describe(self) -> dict[str, str]:
        """Version, device or execution provider, threads: what to print beside a measurement."""
        ...
