"""ONNX Runtime on the CPU: the default back end."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnxruntime

from sttrack_deploy.bundle import (
    BOX,
    CONFIDENCE,
    SEARCH_IMAGE,
    SEARCH_MASK,
    TEMPLATE_IMAGE,
    TEMPLATE_MASK,
    Bundle,
)
from sttrack_deploy.engines.base import BoolArray, EngineState, Prediction, UInt8Array
from sttrack_deploy.engines.onnxruntime_build import optimized_graphs
from sttrack_deploy.engines.onnxruntime_session import open_session, session_options

__all__ = ["OnnxRuntimeEngine", "create", "devices"]


class OnnxRuntimeEngine:
    """Runs both graphs in ONNX Runtime sessions; a track's state is a dictionary of arrays.

    Binding inputs and outputs (IO binding) was measured and gained nothing on the CPU: arrays are given to the
    graph and taken from it without a copy as it is, and the state is a few kilobytes.
    """

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self._threads = threads
        self._spec = bundle.manifest.state
        ready = optimized_graphs(bundle)
        options = session_options(threads, bundle)
        if ready is not None:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._optimized = ready is not None
        template, search = ready or (bundle.template_path, bundle.search_path)
        self._template = open_session(template, bundle.manifest.template, options)
        self._search = open_session(search, bundle.manifest.search, options)
        self._recurrent = tuple(s for s in self._spec if s.output is not None)
        self._initial = [s.initial for s in self._spec]
        self._outputs = [BOX, CONFIDENCE, *(s.output for s in self._recurrent if s.output)]

    def initial_state(self, template: UInt8Array, mask: BoolArray) -> EngineState:
        values = self._template.run(self._initial, {TEMPLATE_IMAGE: template, TEMPLATE_MASK: mask})
        return {spec.input: value for spec, value in zip(self._spec, values, strict=True)}

    def step(self, search: UInt8Array, mask: BoolArray, state: EngineState) -> tuple[Prediction, EngineState]:
        feeds: dict[str, npt.NDArray[np.generic]] = {SEARCH_IMAGE: search, SEARCH_MASK: mask, **state}
        box, confidence, *after = self._search.run(self._outputs, feeds)
        changed = {spec.input: value for spec, value in zip(self._recurrent, after, strict=True)}
        return Prediction(box, confidence), {**state, **changed}

    def describe(self) -> dict[str, str]:
        facts = {
            "engine": self.name,
            "version": onnxruntime.__version__,
            "providers": ", ".join(self._search.get_providers()),
            "threads": "default" if self._threads is None else str(self._threads),
        }
        return {**facts, "graphs": "optimized beforehand"} if self._optimized else facts


def create(bundle: Bundle, threads: int | None) -> OnnxRuntimeEngine:
    """See :func:`sttrack_deploy.engines.registry.create_engine`."""
    return OnnxRuntimeEngine(bundle, threads)


def devices() -> list[str]:
    """Execution providers of the installed ONNX Runtime."""
    return list(onnxruntime.get_available_providers())
