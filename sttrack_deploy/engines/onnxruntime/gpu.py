"""ONNX Runtime on an NVIDIA GPU, through its CUDA or its TensorRT execution provider; state stays on the GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    StateSpec,
)
from sttrack_deploy.engines.base import (
    Arrays,
    BoolArray,
    EngineState,
    Prediction,
    TwoSidedState,
    UInt8Array,
    graph_inputs,
)
from sttrack_deploy.engines.building import cache_of
from sttrack_deploy.engines.onnxruntime.engine import CPU, Provider, open_session, session_options
from sttrack_deploy.engines.registry import BACKENDS
from sttrack_deploy.errors import MissingDependencyError, UserError

__all__ = ["CUDA", "TENSORRT", "OnnxRuntimeGpuEngine", "create_cuda", "create_tensorrt", "devices"]

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"


class _BoundState(TwoSidedState[Any]):
    """OrtValues that never leave the device; a step moves the crop in and the box out."""

    def __init__(
        self, session: onnxruntime.InferenceSession, specs: tuple[StateSpec, ...], values: Mapping[str, Any]
    ) -> None:
        self._session = session
        self._bindings = [session.io_binding() for _ in range(2)]
        super().__init__(specs, values)
        for binding in self._bindings:
            for name in (BOX, CONFIDENCE):
                binding.bind_output(name, "cpu")

    def like(self, buffer: Any) -> Any:
        make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        dtype = {"tensor(float)": np.float32, "tensor(bool)": np.bool_}[buffer.data_type()]
        return make(buffer.shape(), dtype, buffer.device_name(), 0)

    def bind(self, turn: int, read: tuple[str, Any], written: tuple[str, Any] | None) -> None:
        self._bindings[turn].bind_ortvalue_input(*read)
        if written is not None:
            self._bindings[turn].bind_ortvalue_output(*written)

    def run(self, turn: int, image: UInt8Array, mask: BoolArray) -> Prediction:
        binding = self._bindings[turn]
        binding.bind_cpu_input(SEARCH_IMAGE, np.ascontiguousarray(image))
        binding.bind_cpu_input(SEARCH_MASK, np.ascontiguousarray(mask))
        binding.synchronize_inputs()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        # In the order in which they were bound: state first.
        box, confidence = binding.get_outputs()[-2:]
        # Copies: the next step writes to the same memory.
        return Prediction(np.array(box.numpy()), np.array(confidence.numpy()))

    def array(self, buffer: Any) -> npt.NDArray[Any]:
        return np.array(buffer.numpy())


class OnnxRuntimeGpuEngine:
    """Runs both graphs on the GPU with IO binding."""

    def __init__(
        self, name: str, bundle: Bundle, providers: list[Provider], threads: int | None, device: str = "cuda"
    ) -> None:
        """``providers``: in order of preference, the first of which must start; ``device``: where state is kept.

        Raises:
            MissingDependencyError: the installed ONNX Runtime lacks the provider.
            UserError: the provider is there and does not start (no driver, missing libraries).
        """
        self.name = name
        self._device = device
        self._bundle = bundle
        self._specs = bundle.manifest.state
        wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
        if wanted not in onnxruntime.get_available_providers():
            raise MissingDependencyError(wanted, f"the engine '{name}'", BACKENDS[name].install)
        options = session_options(threads, bundle)
        self._template = open_session(bundle.template_path, bundle.template, options, providers)
        self._search = open_session(bundle.search_path, bundle.search, options, providers)
        for session in (self._template, self._search):
            # ONNX Runtime goes on with the CPU when a provider fails; nobody would notice but for the time.
            if wanted not in session.get_providers():
                raise UserError(
                    f"ONNX Runtime could not start {wanted} and would run on {session.get_providers()[0]}: no NVIDIA "
                    f"driver, or CUDA libraries of another version (nvidia-smi shows the driver); "
                    f"{BACKENDS[name].install}"
                )

    def initial_state(self, template: UInt8Array, mask: BoolArray) -> EngineState:
        binding = self._template.io_binding()
        binding.bind_cpu_input(TEMPLATE_IMAGE, np.ascontiguousarray(template))
        binding.bind_cpu_input(TEMPLATE_MASK, np.ascontiguousarray(mask))
        for spec in self._specs:
            binding.bind_output(spec.initial, self._device)
        self._template.run_with_iobinding(binding)
        binding.synchronize_outputs()
        values = zip(self._specs, binding.get_outputs(), strict=True)
        return _BoundState(self._search, self._specs, {spec.input: value for spec, value in values})

    def step(self, search: UInt8Array, mask: BoolArray, state: EngineState) -> tuple[Prediction, EngineState]:
        return state.step(search, mask), state

    def export_state(self, state: EngineState) -> Arrays:
        values = state.values()
        return {spec.name: values[spec.input] for spec in self._specs}

    def import_state(self, arrays: Arrays) -> EngineState:
        make = onnxruntime.OrtValue.ortvalue_from_numpy
        values = graph_inputs(self._bundle, arrays)
        # On the CPU an OrtValue is a view of its array, hence the copy.
        held = {name: make(np.array(value, order="C"), self._device, 0) for name, value in values.items()}
        return _BoundState(self._search, self._specs, held)

    def describe(self) -> dict[str, str]:
        return {
            "engine": self.name,
            "version": onnxruntime.__version__,
            "providers": ", ".join(self._search.get_providers()),
            "device": self._device,
        }


def create_cuda(bundle: Bundle, threads: int | None) -> OnnxRuntimeGpuEngine:
    """See :func:`sttrack_deploy.engines.registry.load_engine`."""
    _load_libraries()
    return OnnxRuntimeGpuEngine("onnxruntime-cuda", bundle, [_cuda(), CPU], threads)


def create_tensorrt(bundle: Bundle, threads: int | None) -> OnnxRuntimeGpuEngine:
    """Engines that TensorRT builds are kept in the engine cache: the first start takes minutes, later ones seconds."""
    _load_libraries()
    folder = cache_of(bundle) / "onnxruntime-tensorrt"
    options = {
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(folder),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # an engine cache that cannot be written costs the next start its time
        options = {}
    return OnnxRuntimeGpuEngine("onnxruntime-tensorrt", bundle, [(TENSORRT, options), _cuda(), CPU], threads)


def _cuda() -> Provider:
    # TF32 rounds the inputs of FP32 products to 10 bits: not the boxes that FP32 promises.
    return CUDA, {"device_id": 0, "use_tf32": 0}


def _load_libraries() -> None:
    """Find CUDA and cuDNN where pip puts them (``onnxruntime-gpu[cuda,cudnn]``)."""
    preload = getattr(onnxruntime, "preload_dlls", None)
    if preload is not None and CUDA in onnxruntime.get_available_providers():
        preload()


def devices() -> list[str]:
    """GPU execution providers of the installed ONNX Runtime."""
    return [name for name in onnxruntime.get_available_providers() if name in (CUDA, TENSORRT)]
