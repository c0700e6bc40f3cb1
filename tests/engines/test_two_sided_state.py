"""The state that a step reads on one side and writes on the other, with arrays as buffers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import StateSpec
from sttrack_deploy.engines.base import Prediction, TwoSidedState

Array = npt.NDArray[Any]
SPECS = (
    StateSpec("memory", "memory", "memory_in", "memory_out"),
    StateSpec("target", "target", "target", None),
)


class Counter(TwoSidedState[Array]):
    """Its step adds the target to the memory."""

    def __init__(self, values: dict[str, Array]) -> None:
        self.bound: tuple[dict[str, Array], dict[str, Array]] = ({}, {})
        super().__init__(SPECS, values)

    def like(self, buffer: Array) -> Array:
        return np.full_like(buffer, -1)

    def bind(self, turn: int, read: tuple[str, Array], written: tuple[str, Array] | None) -> None:
        for name, buffer in (read, *([] if written is None else [written])):
            self.bound[turn][name] = buffer

    def run(self, turn: int, image: Array, mask: Array) -> Prediction:
        bound = self.bound[turn]
        bound["memory_out"][...] = bound["memory_in"] + bound["target"]
        return Prediction(np.zeros((1, 4), np.float32), bound["memory_out"].astype(np.float32))

    def array(self, buffer: Array) -> Array:
        return buffer.copy()


def test_each_step_goes_on_from_what_the_last_one_wrote() -> None:
    memory, target = np.array([1.0]), np.array([10.0])
    state = Counter({"memory_in": memory, "target": target})
    image, mask = np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 1, 1), np.bool_)
    for expected in (11, 21, 31):
        assert state.step(image, mask).confidence.tolist() == [expected]
        assert state.values()["memory_in"].tolist() == [expected]
    assert state.values()["target"].tolist() == [10]


def test_values_are_copies_and_what_is_constant_is_on_both_sides() -> None:
    target = np.array([10.0])
    state = Counter({"memory_in": np.array([1.0]), "target": target})
    state.values()["memory_in"][:] = 7
    assert state.values()["memory_in"].tolist() == [1]
    assert state.bound[0]["target"] is state.bound[1]["target"] is target
    assert state.bound[0]["memory_in"] is state.bound[1]["memory_out"]
    assert state.bound[1]["memory_in"] is state.bound[0]["memory_out"]
