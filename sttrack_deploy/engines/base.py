"""The interface that every back end implements, and the checks that all of them make."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import Bundle, GraphSpec, StateSpec
from sttrack_deploy.errors import UsageError, UserError

__all__ = [
    "Arrays",
    "Engine",
    "EngineState",
    "Operator",
    "Ports",
    "Prediction",
    "ProfiledEngine",
    "TwoSidedState",
    "check_finite",
    "check_interface",
    "check_process",
    "graph_inputs",
    "typical",
]


UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
Float32Array = npt.NDArray[np.float32]
Buffer = TypeVar("Buffer")

Arrays = dict[str, npt.NDArray[Any]]
"""State tensors by :attr:`~sttrack_deploy.bundle.StateSpec.name`, ``(B, ...)`` each."""

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

    def export_state(self, state: EngineState) -> Arrays:
        """Copies of a state's tensors in host memory: to look at, to keep, or for :meth:`import_state` of any engine
        of a bundle with the same state. The state may still be used.
        """
        ...

    def import_state(self, arrays: Arrays) -> EngineState:
        """A new state that holds copies of these tensors: all those of the manifest, in its shapes and dtypes.

        Raises:
            UsageError: a tensor is missing, or is of another shape or dtype.
        """
        ...

    def describe(self) -> dict[str, str]:
        """Version, device or execution provider, threads: what to print beside a measurement."""
        ...


class TwoSidedState(ABC, Generic[Buffer]):
    """A track's state where the back end computes, in two sides: each step reads one and writes the other.

    Buffers are bound once, when a back end's subclass has made them; a step copies no state. What never changes is in
    both sides.
    """

    def __init__(self, specs: tuple[StateSpec, ...], values: Mapping[str, Buffer]) -> None:
        """``values``: buffers by the search graph's input names; they become the state's own."""
        first = dict(values)
        second = {s.input: self.like(first[s.input]) if s.output else first[s.input] for s in specs}
        self._sides = (first, second)
        self._turn = 0
        for turn in (0, 1):
            for s in specs:
                written = None if s.output is None else (s.output, self._sides[1 - turn][s.input])
                self.bind(turn, (s.input, self._sides[turn][s.input]), written)

    @abstractmethod
    def like(self, buffer: Buffer) -> Buffer:
        """A buffer of the same shape and dtype in the same place; its content is undefined."""

    @abstractmethod
    def bind(self, turn: int, read: tuple[str, Buffer], written: tuple[str, Buffer] | None) -> None:
        """Let that turn's steps read a graph's input from a buffer, and write an output to another one."""

    @abstractmethod
    def run(self, turn: int, image: UInt8Array, mask: BoolArray) -> Prediction:
        """One step of that turn; the prediction is the caller's own copy."""

    @abstractmethod
    def array(self, buffer: Buffer) -> npt.NDArray[Any]:
        """A copy in host memory."""

    def step(self, image: UInt8Array, mask: BoolArray) -> Prediction:
        """Predict one frame; the state is then the other side."""
        prediction = self.run(self._turn, image, mask)
        self._turn = 1 - self._turn
        return prediction

    def values(self) -> Arrays:
        """Copies of the state, by the search graph's input names."""
        return {name: self.array(buffer) for name, buffer in self._sides[self._turn].items()}


def check_finite(engine: str, prediction: Prediction, frame: int) -> None:
    """Refuse numbers that mean nothing: they would become a box in the corner, and "not lost".

    Args:
        frame: counted from the first one, which is 0.

    Raises:
        UserError: the box or the confidence of a target is NaN or infinite.
    """
    for name, values in (("box", prediction.box), ("confidence", prediction.confidence)):
        finite = np.isfinite(values)
        if not finite.all():
            row = int(np.argwhere(~finite)[0][0])
            target = f" for target {row + 1}" if len(values) > 1 else ""
            raise UserError(
                f"the engine '{engine}' gave '{name}' = {np.asarray(values)[row].tolist()}{target} on frame "
                f"{frame} (the first is 0): the network's numbers are not finite. Its weights are damaged, or this "
                "precision overflows: try the fp32 bundle, or another --engine"
            )


def check_process(engine: str, made_in: int) -> None:
    """Refuse to run an engine in a child that was forked: its threads are not there, and it would wait for ever.

    Args:
        made_in: ``os.getpid()`` of the process that made it.

    Raises:
        UserError: this is another process.
    """
    if os.getpid() != made_in:
        raise UserError(
            f"the engine '{engine}' was made before this process was forked and cannot run in it: make the tracker in "
            "the child, and start children with multiprocessing.get_context('spawn')"
        )


Ports = Mapping[str, tuple[str, tuple[int | str, ...]]]
"""dtype and shape by name; an axis that is not fixed is a name."""


def check_interface(
    path: Path, spec: GraphSpec, inputs: Ports, outputs: Ports, batch: int | None = None
) -> None:
    """Raises UserError where a graph's inputs or outputs are not the manifest's.

    Args:
        batch: what the manifest's dynamic axes were fixed to, if they were.
    """
    for side, actual, expected in (("input", inputs, spec.inputs), ("output", outputs, spec.outputs)):
        wanted = {e.name: (e.dtype, _fixed(e.shape, batch)) for e in expected}
        for name in sorted({*actual, *wanted}):
            seen, told = actual.get(name), wanted.get(name)
            if seen != told:
                raise UserError(
                    f"{path} does not match its manifest: {side} '{name}' is {_show(seen)} in the file, "
                    f"{_show(told)} in the manifest; export the bundle again"
                )


def graph_inputs(bundle: Bundle, arrays: Arrays) -> Arrays:
    """State tensors by the names of the search graph's inputs, not copied.

    Args:
        arrays: by :attr:`StateSpec.name`.

    Raises:
        UsageError: they are not the state of this bundle: a tensor is missing, unknown, or of another shape or dtype.
    """
    states = bundle.manifest.state
    if set(arrays) != {spec.name for spec in states}:
        raise UsageError(
            f"the state holds {', '.join(sorted(arrays)) or 'nothing'}; {bundle.path} needs "
            f"{', '.join(sorted(spec.name for spec in states))}: it was exported from another model"
        )
    tensors = {tensor.name: tensor for tensor in bundle.manifest.search.inputs}
    batch = {len(value) for value in arrays.values() if value.ndim}
    if len(batch) > 1:
        raise UsageError(f"the tensors of a state are of one batch, not of {sorted(batch)} targets")
    for spec in states:
        value, wanted = arrays[spec.name], tensors[spec.input]
        shape = _fixed(wanted.shape, next(iter(batch), 1))
        if value.dtype.name != wanted.dtype or value.shape != shape:
            raise UsageError(
                f"the state's {spec.name} is {value.dtype.name} {list(value.shape)}; {bundle.path} needs "
                f"{wanted.dtype} {list(shape)}"
            )
    return {spec.input: arrays[spec.name] for spec in states}


def _fixed(shape: tuple[int | str, ...], batch: int | None) -> tuple[int | str, ...]:
    return tuple(batch if isinstance(axis, str) and batch is not None else axis for axis in shape)


def _show(value: tuple[str, tuple[int | str, ...]] | None) -> str:
    return "absent" if value is None else f"{value[0]} {list(value[1])}"


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
