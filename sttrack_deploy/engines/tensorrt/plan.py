"""A plan that is loaded: its engine, checked against the manifest, and the kernels compiled for the GPU here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sttrack_deploy.bundle import GraphSpec, TensorSpec
from sttrack_deploy.engines.cuda.memory import Stream
from sttrack_deploy.engines.tensorrt.log import log_of
from sttrack_deploy.engines.tensorrt.plan_file import UnfitPlanError
from sttrack_deploy.engines.tensorrt.toolkit import Platform
from sttrack_deploy.errors import UserError
from sttrack_deploy.files import atomic_path

__all__ = ["Interface", "Plan", "RuntimeCache", "check_interface", "load_plan", "new_context", "shape_for"]

Interface = Mapping[str, tuple[str, Any, tuple[int, ...]]]
"""``input`` or ``output``, TensorRT's type, and the shape by name; a dynamic axis is -1."""


@dataclass(frozen=True, slots=True)
class Plan:
    """An engine and what must live as long as it does.

    Attributes:
        engine: ``ICudaEngine``.
        runtime: ``Runtime`` that made it.
        workspace_bytes: device memory for its scratch data; every execution context needs that much while it runs.
    """

    spec: GraphSpec
    engine: Any
    runtime: Any
    workspace_bytes: int


def shape_for(tensor: TensorSpec, batch: int) -> tuple[int, ...]:
    """A tensor's shape with the batch filled in."""
    return tuple(size if isinstance(size, int) else batch for size in tensor.shape)


def load_plan(here: Platform, path: Path, spec: GraphSpec, fix: str, *, host_code: bool) -> Plan:
    """Load a plan and hold its inputs and outputs against the graph that it should have been built from.

    Args:
        fix: the command that an error names.
        host_code: run code that the plan brings, as version compatible ones do.

    Raises:
        UnfitPlanError: TensorRT refuses it or says that it cannot run here, or it is another graph's.
        UserError: TensorRT cannot start.
    """
    log = log_of(here.trt)
    log.take_errors()
    try:
        runtime = here.trt.Runtime(log.native)
    except TypeError as error:  # pybind11: "factory function returned nullptr"
        raise UserError(
            f"{here.flavor.title} cannot start: {log.last_error(str(error))}; see sttrack-doctor"
        ) from error
    if host_code:
        runtime.engine_host_code_allowed = True
    data = path.read_bytes()
    if here.flavor.portable:
        _check_validity(here, runtime, data, path, fix)
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise UnfitPlanError(f"{here.flavor.title} refuses {path}: {log.last_error()}; build it again: {fix}")
    check_interface(here.trt, _interface_of(here.trt, engine), spec, str(path), f"build it again: {fix}")
    return Plan(spec, engine, runtime, int(engine.device_memory_size_v2))


def new_context(
    here: Platform,
    plan: Plan,
    batch: int,
    workspace: tuple[int, int],
    stream: Stream,
    settings: Any = None,
) -> Any:
    """An ``IExecutionContext`` for a fixed batch that computes in ``workspace`` (address, bytes).

    All of a process's contexts may share one workspace, because they run one after the other in one stream.

    Args:
        settings: the plan's ``IRuntimeConfig`` (TensorRT for RTX), with everything but the workspace's owner set.

    Raises:
        UserError: TensorRT cannot make one, or does not take the batch.
    """
    log = log_of(here.trt)
    ours = here.trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if settings is not None:
        settings.set_execution_context_allocation_strategy(ours)
    context = plan.engine.create_execution_context(ours if settings is None else settings)
    if context is None:
        raise UserError(f"TensorRT cannot make an execution context for {plan.spec.file}: {log.last_error()}")
    context.set_device_memory(*workspace)
    # Only the first context of an engine used to get profile 0 by itself.
    if context.active_optimization_profile != 0:
        context.set_optimization_profile_async(0, stream.handle)
    for tensor in plan.spec.inputs:
        shape = shape_for(tensor, batch)
        if not context.set_input_shape(tensor.name, shape):
            raise UserError(f"the plan does not take {tensor.name} {list(shape)}: {log.last_error()}")
    for tensor in plan.spec.outputs:
        shape, seen = shape_for(tensor, batch), tuple(context.get_tensor_shape(tensor.name))
        if seen != shape:
            raise UserError(f"the plan gives {tensor.name} {list(seen)}, the manifest says {list(shape)}")
    return context


def _interface_of(trt: Any, engine: Any) -> Interface:
    modes = {trt.TensorIOMode.INPUT: "input", trt.TensorIOMode.OUTPUT: "output"}
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return {
        name: (
            modes[engine.get_tensor_mode(name)],
            engine.get_tensor_dtype(name),
            tuple(engine.get_tensor_shape(name)),  # Dims have no ==
        )
        for name in names
    }


def check_interface(trt: Any, found: Interface, spec: GraphSpec, where: str, fix: str) -> None:
    """
    Args:
        where: what the interface was read from, for the error.
        fix: what to do, for the error.

    Raises:
        UnfitPlanError: inputs or outputs are not those of the manifest.
    """
    seen = {
        name: (side, _dtype(trt, dtype), tuple(size if size >= 0 else "batch" for size in shape))
        for name, (side, dtype, shape) in found.items()
    }
    wanted = {
        tensor.name: (side, tensor.dtype, tuple(tensor.shape))
        for side, tensors in (("input", spec.inputs), ("output", spec.outputs))
        for tensor in tensors
    }
    if seen != wanted:
        name = sorted(name for name in {*seen, *wanted} if seen.get(name) != wanted.get(name))[0]
        raise UnfitPlanError(
            f"{where} does not match the bundle's manifest: '{name}' is {_show(seen.get(name))} there, "
            f"{_show(wanted.get(name))} in the manifest; {fix}"
        )


def _check_validity(here: Platform, runtime: Any, data: bytes, path: Path, fix: str) -> None:
    """Ask TensorRT for RTX, which reads the header alone, and say what it answers.

    An answer without a reason is left to the attempt to load the plan, which gives one.
    """
    trt, device = here.trt, here.device
    validity, bits = runtime.get_engine_validity(data[: int(runtime.engine_header_size)])
    if validity != trt.EngineValidity.INVALID:
        return
    reasons = trt.EngineInvalidityDiagnostics
    for reason, text in (
        (
            reasons.UNSUPPORTED_CC,
            f"cannot run on this GPU, {device.name}, which has compute capability {device.capability[0]}."
            f"{device.capability[1]}; build it for that with --compute-capability, or use --engine tensorrt",
        ),
        (reasons.VERSION_MISMATCH, f"is of another version than {here.version}; build it again: {fix}"),
        (reasons.OLD_CUDA_DRIVER, f"needs a newer driver than {device.driver}; update the driver"),
        (reasons.OLD_CUDA_RUNTIME, f"needs a newer CUDA than {device.runtime}; update cuda-python"),
        (reasons.INSUFFICIENT_GPU_MEMORY, "needs more memory than is free on this GPU"),
        (reasons.MALFORMED_ENGINE, f"is not a plan that it can read; build it again: {fix}"),
        (reasons.CUDA_ERROR, "could not be looked at: CUDA failed; see sttrack-doctor"),
    ):
        if bits & int(reason):
            here_log = log_of(here.trt)
            here_log.take_errors()
            raise UnfitPlanError(f"{path}, says {here.flavor.title}, {text}")


def _dtype(trt: Any, dtype: Any) -> str:
    """NumPy's name for a TensorRT type, or TensorRT's own where NumPy has none (bfloat16)."""
    try:
        return str(np.dtype(trt.nptype(dtype)))
    except TypeError:
        return str(dtype)


def _show(value: tuple[str, str, tuple[object, ...]] | None) -> str:
    return "absent" if value is None else f"{value[0]} {value[1]} {list(value[2])}"


class RuntimeCache:
    """One ``IRuntimeCache`` for all execution contexts of some plans, and the ``IRuntimeConfig`` of each plan.

    Without it every context compiles its kernels at every start.

    Attributes:
        reused: kernels of an earlier start were taken.
    """

    def __init__(self, here: Platform, plans: Iterable[Plan], folder: Path) -> None:
        device = here.device
        name = "-".join((here.version, *device.name.split(), device.sm, device.driver))
        self._path = folder / f"kernels-{name}.cache"
        self._settings = {plan.spec.file: _settings_of(here, plan) for plan in plans}
        self._cache = next(iter(self._settings.values())).create_runtime_cache()
        self._kept = self._path.read_bytes() if self._path.is_file() else b""
        # False: of another GPU, driver or version, or damaged. It is then empty, and will be written anew.
        self.reused = bool(self._kept) and bool(self._cache.deserialize(self._kept))
        for settings in self._settings.values():
            if not settings.set_runtime_cache(self._cache):
                raise UserError(
                    f"{here.flavor.title} refuses its runtime cache: {log_of(here.trt).last_error()}"
                )

    def settings(self, plan: Plan) -> Any:
        """The plan's ``IRuntimeConfig``."""
        return self._settings[plan.spec.file]

    def keep(self) -> None:
        """Write what was compiled since; a folder that cannot be written only costs the next start its time."""
        memory = self._cache.serialize()
        data = b"" if memory is None else bytes(memoryview(memory))
        if data and data != self._kept:
            with contextlib.suppress(OSError, UserError), atomic_path(self._path) as temporary:
                temporary.write_bytes(data)
            self._kept = data


def _settings_of(here: Platform, plan: Plan) -> Any:
    trt = here.trt
    settings = plan.engine.create_runtime_config()
    # The engine captures graphs itself; two captures would be one inside the other.
    settings.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED
    # Lazily, kernels for a batch are compiled beside the run and swapped in later: a graph would keep the slow ones.
    settings.dynamic_shapes_kernel_specialization_strategy = (
        trt.DynamicShapesKernelSpecializationStrategy.EAGER
    )
    return settings
