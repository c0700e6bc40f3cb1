"""OpenVINO on the CPU: graphs compiled for this machine, a track's state inside its infer requests."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino

from sttrack_deploy.bundle import (
    BOX,
    CONFIDENCE,
    SEARCH_IMAGE,
    SEARCH_MASK,
    TEMPLATE_IMAGE,
    TEMPLATE_MASK,
    Bundle,
    StateSpec,
)
from sttrack_deploy.engines.base import (
    Arrays,
    BoolArray,
    EngineState,
    Operator,
    Prediction,
    TwoSidedState,
    UInt8Array,
    check_process,
    graph_inputs,
    typical,
)
from sttrack_deploy.engines.openvino.build import (
    PRECISIONS,
    CompiledGraphs,
    compiled_graphs,
    native,
    the_core,
)

__all__ = ["OpenVinoEngine", "create", "create_bf16", "devices"]


class _BoundState(TwoSidedState[openvino.Tensor]):
    """Tensors of two infer requests; a step copies the crop in and the box out."""

    def __init__(self, search: openvino.CompiledModel, specs: tuple[StateSpec, ...], values: Arrays) -> None:
        """``values``: by the search graph's input names; the arrays become the state's own."""
        self._requests = [search.create_infer_request() for _ in range(2)]
        self._image: openvino.Tensor | None = None
        self._mask: openvino.Tensor | None = None
        super().__init__(specs, {name: openvino.Tensor(array) for name, array in values.items()})

    def like(self, buffer: openvino.Tensor) -> openvino.Tensor:
        return openvino.Tensor(np.empty_like(buffer.data))

    def bind(
        self, turn: int, read: tuple[str, openvino.Tensor], written: tuple[str, openvino.Tensor] | None
    ) -> None:
        self._requests[turn].set_tensor(*read)
        if written is not None:
            self._requests[turn].set_tensor(*written)

    def run(self, turn: int, image: UInt8Array, mask: BoolArray) -> Prediction:
        if self._image is None or self._mask is None:
            self._image, self._mask = openvino.Tensor(image.copy()), openvino.Tensor(mask.copy())
            for request in self._requests:
                request.set_tensor(SEARCH_IMAGE, self._image)
                request.set_tensor(SEARCH_MASK, self._mask)
        else:
            self._image.data[:] = image
            self._mask.data[:] = mask
        request = self._requests[turn]
        request.start_async()
        request.wait()
        return Prediction(request.get_tensor(BOX).data.copy(), request.get_tensor(CONFIDENCE).data.copy())

    def array(self, buffer: openvino.Tensor) -> npt.NDArray[Any]:
        return np.array(buffer.data)

    def counters(self) -> dict[tuple[str, str, str], float]:
        """Seconds of each operation of the last step, by name, type and kernel."""
        infos = self._requests[1 - self._turn].get_profiling_info()
        return {
            (info.node_name, info.node_type, info.exec_type): info.real_time.total_seconds()
            for info in infos
            if info.status == openvino.ProfilingInfo.Status.EXECUTED
        }


class OpenVinoEngine:
    """Runs both graphs in OpenVINO; INT8 graphs (Q/DQ) run as they are.

    Where the bundle's batch is dynamic, each number of targets has graphs of its own.
    """

    counters = False

    def __init__(self, bundle: Bundle, precision: str = "f32", threads: int | None = None) -> None:
        """``precision``: of floating-point arithmetic, ``f32`` or ``bf16``; see :func:`compiled_graphs`."""
        self.name = PRECISIONS[precision]
        self._bundle = bundle
        self._precision = precision
        self._threads = threads
        self._process = os.getpid()
        self._graphs: dict[int, CompiledGraphs] = {}
        self._starters: dict[int, openvino.InferRequest] = {}
        self._first = self._for(bundle.manifest.smallest_batch)

    def _for(self, batch: int) -> CompiledGraphs:
        """The graphs for that many targets; a number not met before is compiled or taken from the engine cache."""
        if batch not in self._graphs:
            graphs = compiled_graphs(
                self._bundle, self._precision, self._threads, batch, counters=self.counters
            )
            self._graphs[batch] = graphs
            self._starters[batch] = graphs.template.create_infer_request()
        return self._graphs[batch]

    def initial_state(self, template: UInt8Array, mask: BoolArray) -> EngineState:
        check_process(self.name, self._process)
        self._for(len(template))
        starter = self._starters[len(template)]
        starter.infer({TEMPLATE_IMAGE: template, TEMPLATE_MASK: mask})
        specs = self._bundle.manifest.state
        return self._track({s.input: starter.get_tensor(s.initial).data for s in specs})

    def step(self, search: UInt8Array, mask: BoolArray, state: EngineState) -> tuple[Prediction, EngineState]:
        check_process(self.name, self._process)
        return state.step(search, mask), state

    def export_state(self, state: EngineState) -> Arrays:
        values = state.values()
        return {spec.name: values[spec.input] for spec in self._bundle.manifest.state}

    def import_state(self, arrays: Arrays) -> EngineState:
        return self._track(graph_inputs(self._bundle, arrays))

    def _track(self, values: Arrays) -> EngineState:
        """A state that holds copies of these arrays, by the search graph's input names."""
        own = {name: np.array(value, order="C") for name, value in values.items()}
        search = self._for(len(next(iter(own.values())))).search
        return _BoundState(search, self._bundle.manifest.state, own)

    def describe(self) -> dict[str, str]:
        return {
            "engine": self.name,
            "version": openvino.__version__,
            "device": "CPU",
            "precision": self._precision,
            "threads": str(self._first.search.get_property("INFERENCE_NUM_THREADS")),
            "compiled model": self._first.origin,
        }


class ProfiledOpenVinoEngine(OpenVinoEngine):
    """The same, with OpenVINO's performance counters."""

    counters = True

    def __init__(self, bundle: Bundle, precision: str = "f32", threads: int | None = None) -> None:
        self._steps: list[dict[tuple[str, str, str], float]] = []
        super().__init__(bundle, precision, threads)

    def step(self, search: UInt8Array, mask: BoolArray, state: EngineState) -> tuple[Prediction, EngineState]:
        done = super().step(search, mask, state)
        self._steps.append(state.counters())
        return done

    def operators(self) -> list[Operator]:
        """See :class:`sttrack_deploy.engines.base.ProfiledEngine`."""
        return typical(self._steps)


def create(bundle: Bundle, threads: int | None) -> OpenVinoEngine:
    """See :func:`sttrack_deploy.engines.registry.load_engine`."""
    return OpenVinoEngine(bundle, native(bundle), threads)


def create_bf16(bundle: Bundle, threads: int | None) -> OpenVinoEngine:
    """The same with bf16 arithmetic: faster where the CPU has it, and its boxes are not quite the same."""
    return OpenVinoEngine(bundle, "bf16", threads)


def create_profiled(bundle: Bundle, threads: int | None) -> ProfiledOpenVinoEngine:
    """See :func:`sttrack_deploy.engines.registry.load_profiled`."""
    return ProfiledOpenVinoEngine(bundle, native(bundle), threads)


def create_profiled_bf16(bundle: Bundle, threads: int | None) -> ProfiledOpenVinoEngine:
    """The same with bf16 arithmetic."""
    return ProfiledOpenVinoEngine(bundle, "bf16", threads)


def devices() -> list[str]:
    """OpenVINO's devices here; the engine uses the CPU."""
    core = the_core()
    return [f"{name} ({core.get_property(name, 'FULL_DEVICE_NAME')})" for name in core.available_devices]
