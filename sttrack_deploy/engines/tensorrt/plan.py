"""A plan that is loaded: its engine, checked against the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sttrack_deploy.bundle import GraphSpec, TensorSpec
from sttrack_deploy.engines.cuda.memory import Stream
from sttrack_deploy.engines.tensorrt.log import log_of
from sttrack_deploy.engines.tensorrt.plan_file import UnfitPlanError
from sttrack_deploy.engines.tensorrt.probe import Platform
from sttrack_deploy.errors import UserError

__all__ = ["Plan", "load_plan", "new_context", "shape_for"]


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


def load_plan(here: Platform, path: Path, spec: GraphSpec, mend: str, *, host_code: bool) -> Plan:
    """Load a plan and hold its inputs and outputs against the graph that it should have been built from.

    Args:
        mend: the command that an error names.
        host_code: run code that the plan brings, as version compatible ones do.

    Raises:
        UnfitPlanError: TensorRT refuses it, or it is another graph's.
        UserError: TensorRT cannot start.
    """
    log = log_of(here.trt)
    log.take_errors()
    try:
        runtime = here.trt.Runtime(log.native)
    except TypeError as error:  # pybind11: "factory function returned nullptr"
        raise UserError(f"TensorRT cannot start: {log.last_error(str(error))}; see sttrack-doctor") from error
    if host_code:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise UnfitPlanError(f"TensorRT refuses {path}: {log.last_error()}; build it again: {mend}")
    _check_interface(here.trt, engine, spec, path, mend)
    return Plan(spec, engine, runtime, int(engine.device_memory_size_v2))


def new_context(here: Platform, plan: Plan, batch: int, workspace: tuple[int, int], stream: Stream) -> Any:
    """An ``IExecutionContext`` for a fixed batch that computes in ``workspace`` (address, bytes).

    All of a process's contexts may share one workspace, because they run one after the other in one stream.

    Raises:
        UserError: TensorRT cannot make one, or does not take the batch.
    """
    log = log_of(here.trt)
    context = plan.engine.create_execution_context(here.trt.ExecutionContextAllocationStrategy.USER_MANAGED)
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


def _check_interface(trt: Any, engine: Any, spec: GraphSpec, path: Path, mend: str) -> None:
    modes = {trt.TensorIOMode.INPUT: "input", trt.TensorIOMode.OUTPUT: "output"}
    seen = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        # Dims have no ==; a dynamic axis is -1.
        shape = tuple(size if size >= 0 else "batch" for size in engine.get_tensor_shape(name))
        seen[name] = (modes[engine.get_tensor_mode(name)], _dtype(trt, engine.get_tensor_dtype(name)), shape)
    wanted = {
        tensor.name: (side, tensor.dtype, tuple(tensor.shape))
        for side, tensors in (("input", spec.inputs), ("output", spec.outputs))
        for tensor in tensors
    }
    if seen != wanted:
        name = sorted(name for name in {*seen, *wanted} if seen.get(name) != wanted.get(name))[0]
        raise UnfitPlanError(
            f"{path} does not match the bundle's manifest: '{name}' is {_show(seen.get(name))} in the plan, "
            f"{_show(wanted.get(name))} in the manifest; build it again: {mend}"
        )


def _dtype(trt: Any, dtype: Any) -> str:
    """NumPy's name for a TensorRT type, or TensorRT's own where NumPy has none (bfloat16)."""
    try:
        return str(np.dtype(trt.nptype(dtype)))
    except TypeError:
        return str(dtype)


def _show(value: tuple[str, str, tuple[object, ...]] | None) -> str:
    return "absent" if value is None else f"{value[0]} {value[1]} {list(value[2])}"
