"""Looking into an engine's state, which the runtime never does: by name, as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import Bundle, StateSpec
from sttrack_deploy.engines.base import Engine, EngineState

__all__ = ["Arrays", "given_state", "read_state"]

Arrays = dict[str, npt.NDArray[Any]]
"""State tensors by :attr:`StateSpec.name`, or ``{}``."""


def read_state(engine: Engine, bundle: Bundle, state: EngineState) -> Arrays | None:
    """Copies of the state's tensors, or ``None`` where the engine shows none.

    Understood are an engine's own ``read_state(state) -> {graph input: array}``, a mapping by the search graph's
    input names (ONNX Runtime), and an object with an attribute for each tensor (PyTorch).
    """
    reader = getattr(engine, "read_state", None)
    values = state if reader is None else reader(state)
    found: Arrays = {}
    for spec in bundle.manifest.state:
        value = _value(values, spec)
        if value is None:
            return None
        found[spec.name] = value
    return found


def given_state(engine: Engine, bundle: Bundle, state: EngineState, arrays: Arrays) -> EngineState | None:
    """A state of this engine that holds ``arrays``, or ``None`` where it does not take one.

    Args:
        state: any state of the engine; shows what its states look like.
    """
    writer = getattr(engine, "write_state", None)
    values = {spec.input: arrays[spec.name] for spec in bundle.manifest.state}
    if writer is not None:
        return writer(values)
    plain = isinstance(state, Mapping) and all(isinstance(value, np.ndarray) for value in state.values())
    return values if plain and set(state) == set(values) else None


def _value(values: Any, spec: StateSpec) -> npt.NDArray[Any] | None:
    value = values.get(spec.input) if isinstance(values, Mapping) else getattr(values, spec.name, None)
    if value is None:
        return None
    if hasattr(value, "detach"):  # a tensor of PyTorch, which this module does not import
        value = value.detach().cpu().numpy()
    return np.array(value) if isinstance(value, np.ndarray) else None
