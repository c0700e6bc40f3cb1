"""ONNX Runtime on the CPU: the default back end."""

from __future__ import annotations

from pathlib import Path

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
    GraphSpec,
)
from sttrack_deploy.engines.base import BoolArray, EngineState, Prediction, UInt8Array
from sttrack_deploy.errors import UserError

__all__ = ["OnnxRuntimeEngine", "create", "devices"]

_ORT_TYPES = {
    "tensor(float)": "float32",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
    "tensor(int64)": "int64",
}


class OnnxRuntimeEngine:
    """Runs both graphs in ONNX Runtime sessions; a track's state is a dictionary of arrays."""

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Attention to what is far off underflows; arithmetic on such numbers is many times slower.
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        if threads is not None:
            options.intra_op_num_threads = threads
        self._threads = threads
        self._spec = bundle.manifest.state
        self._template = _session(bundle.template_path, bundle.manifest.template, options)
        self._search = _session(bundle.search_path, bundle.manifest.search, options)
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
        return {
            "engine": self.name,
            "version": onnxruntime.__version__,
            "providers": ", ".join(self._search.get_providers()),
            "threads": "default" if self._threads is None else str(self._threads),
        }


def _session(
    path: Path, spec: GraphSpec, options: onnxruntime.SessionOptions
) -> onnxruntime.InferenceSession:
    """Open a graph and hold its interface against the manifest.

    Raises:
        UserError: ONNX Runtime cannot load the file, or its inputs or outputs are not the manifest's.
    """
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
        reason = " ".join(str(error).split())
        raise UserError(f"ONNX Runtime cannot load {path}: {reason}; export the bundle again") from error
    for side, actual, expected in (
        ("inputs", session.get_inputs(), spec.inputs),
        ("outputs", session.get_outputs(), spec.outputs),
    ):
        seen = {a.name: (_ORT_TYPES.get(a.type, a.type), tuple(a.shape)) for a in actual}
        wanted = {e.name: (e.dtype, tuple(e.shape)) for e in expected}
        if seen != wanted:
            names = sorted(name for name in {*seen, *wanted} if seen.get(name) != wanted.get(name))
            name = names[0]
            raise UserError(
                f"{path} does not match its manifest: {side[:-1]} '{name}' is {_show(seen.get(name))} in the file, "
                f"{_show(wanted.get(name))} in the manifest; export the bundle again"
            )
    return session


def _show(value: tuple[str, tuple[object, ...]] | None) -> str:
    return "absent" if value is None else f"{value[0]} {list(value[1])}"


def create(bundle: Bundle, threads: int | None) -> OnnxRuntimeEngine:
    """See :func:`sttrack_deploy.engines.registry.create_engine`."""
    return OnnxRuntimeEngine(bundle, threads)


def devices() -> list[str]:
    """Execution providers of the installed ONNX Runtime."""
    return list(onnxruntime.get_available_providers())
