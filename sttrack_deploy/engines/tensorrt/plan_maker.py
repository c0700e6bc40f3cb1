"""Making one plan from one graph: parse, check, configure, build.

One path for TensorRT 10.12 and later, for 11, and for TensorRT for RTX: strongly typed networks, where every precision
is in the ONNX file. There are no precision flags and no calibrators here, because TensorRT 11 has none. Ctrl-C must not
cross TensorRT's C++ code as an exception.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sttrack_deploy.bundle import GraphSpec, open_bundle
from sttrack_deploy.engines.building import BatchRange, BuildReport
from sttrack_deploy.engines.tensorrt.log import Log, kernel_facts, log_of, read_kernels
from sttrack_deploy.engines.tensorrt.plan import check_interface, shape_for
from sttrack_deploy.engines.tensorrt.toolkit import Toolkit
from sttrack_deploy.errors import UsageError, UserError

__all__ = [
    "MadePlan",
    "PlanJob",
    "Stop",
    "TimingCache",
    "check_capabilities",
    "make_monitor",
    "make_plan",
    "stop_on_interrupt",
]


class Stop:
    """Set from a signal handler or a report, read from TensorRT's threads.

    A plain attribute: a lock, as :class:`threading.Event` has, could be held where the handler interrupts.
    """

    requested = False

    def request(self) -> None:
        self.requested = True


def make_monitor(trt: Any, report: BuildReport, stop: Stop) -> Any:
    """An ``IProgressMonitor`` that hands everything on to ``report``.

    TensorRT calls it from several threads and may call it until the build returns: the caller must keep it.
    An exception in it would end the process or be lost, so there is none.
    """
    lock = threading.Lock()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with lock, contextlib.suppress(Exception):
                report.phase(phase_name, parent_phase or None, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with lock, contextlib.suppress(Exception):
                if not report.step(phase_name, step + 1):
                    stop.request()
            return not stop.requested

        def phase_finish(self, phase_name: str) -> None:
            with lock, contextlib.suppress(Exception):
                report.finish(phase_name)

    return Monitor()


@contextlib.contextmanager
def stop_on_interrupt(stop: Stop) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into a request to stop; :class:`KeyboardInterrupt` follows when the block is left.

    Python runs a handler between two of its own instructions: during a build that is inside the monitor, called
    from C++.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers can be set in the main thread only
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    interrupted = False

    def note(number: int, frame: object) -> None:  # noqa: ARG001
        nonlocal interrupted
        interrupted = True
        stop.request()

    previous = [signal.signal(kind, note) for kind in kinds]
    try:
        yield
    finally:
        for kind, handler in zip(kinds, previous, strict=True):
            signal.signal(kind, handler)
        if interrupted:
            raise KeyboardInterrupt


TURING = "7.5"
_AS_INT8 = "Defaulting to INT8"
"""What TensorRT says when it takes UINT8 for INT8: values above 127 steps would saturate."""


@dataclass(frozen=True, slots=True)
class PlanJob:
    """One plan to make; plain values, so that another process can make it.

    Attributes:
        bundle: its folder.
        graph: ``template`` or ``search``.
        out: file to write.
        batch: least, best and most targets.
        capabilities: compute capabilities to build for, as ``8.9``; none: the library's own choice, or the GPU here.
        flags: names of builder flags to set.
    """

    flavor: str
    bundle: str
    graph: str
    out: str
    batch: tuple[int, int, int]
    capabilities: tuple[str, ...] = ()
    workspace_mib: int | None = None
    optimization_level: int | None = None
    hardware_compatible: bool = False
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MadePlan:
    """What the builder said of a plan.

    Attributes:
        kernels: see ``kernels.kernel_facts``; empty where the builder does not tell.
        scratch_bytes: device memory that it needs besides inputs and outputs; 0 where the builder does not tell.
    """

    warnings: tuple[str, ...]
    kernels: Mapping[str, Any]
    scratch_bytes: int

    @property
    def summary(self) -> str:
        """One line about what the plan computes with; only where the builder tells."""
        found = self.kernels
        convolutions, products = (
            ", ".join(f"{count} {types}" for types, count in found[kind].items()) or "none"
            for kind in ("convolutions", "products")
        )
        return (
            f"{found['kernels']} kernels; convolutions: {convolutions}; products: {products}; "
            f"fused attention: {found['fused_attention']}; {self.scratch_bytes / 1e6:.0f} MB of scratch"
        )


class TimingCache(Protocol):
    """Measurements of kernels that builds share."""

    def attach(self, config: Any) -> None: ...

    def keep(self, config: Any) -> None: ...


def make_plan(
    here: Toolkit, job: PlanJob, report: BuildReport, stop: Stop, cache: TimingCache | None = None
) -> MadePlan:
    """Make a plan and write it to ``job.out``.

    Raises:
        UserError: TensorRT refuses the graph, sees another interface than the manifest's, or cannot build.
        UsageError: a compute capability that the library does not build for.
        KeyboardInterrupt: ``stop`` was requested.
    """
    trt, log = here.trt, log_of(here.trt)
    bundle = open_bundle(Path(job.bundle), verify=False).for_engine(job.flavor)
    onnx, spec = (
        (bundle.template_path, bundle.template)
        if job.graph == "template"
        else (bundle.search_path, bundle.search)
    )
    log.take_errors()
    log.take_warnings()
    log.kernel_report, log.scratch_bytes = "", 0
    try:
        builder = trt.Builder(log.native)
    except TypeError as error:  # pybind11: "factory function returned nullptr"
        raise UserError(
            f"{here.flavor.title} cannot start its builder: {log.last_error(str(error))}"
        ) from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(here, network, onnx, log)
    _check_network(here, network, spec, onnx)
    config = builder.create_builder_config()
    _configure(here, config, job)
    if cache is not None:
        cache.attach(config)
    _add_profile(builder, network, config, spec, BatchRange(*job.batch))
    monitor = make_monitor(trt, report, stop)  # must outlive the build
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if stop.requested:
        raise KeyboardInterrupt
    if plan is None:
        raise UserError(_why_not_built(here, onnx, job, log))
    warnings = tuple(log.take_warnings())
    for warning in warnings:
        if _AS_INT8 in warning:
            raise UserError(
                f"{here.flavor.title} would take UINT8 for INT8 in {onnx}, which saturates: "
                f"{' '.join(warning.split())}; export the bundle again"
            )
    with Path(job.out).open("wb") as file:
        file.write(plan)
    if cache is not None:
        cache.keep(config)
    del monitor
    kernels = read_kernels(log.kernel_report)
    return MadePlan(warnings, kernel_facts(kernels) if kernels else {}, log.scratch_bytes)


def check_capabilities(here: Toolkit, capabilities: tuple[str, ...]) -> None:
    """
    Raises:
        UsageError: one that the library does not build for, or Turing among others.
    """
    known = _known_capabilities(here)
    for capability in capabilities:
        if capability not in known:
            raise UsageError(
                f"{here.flavor.title} {here.version} builds for the compute capabilities {', '.join(known)}, "
                f"not for {capability}"
            )
    if TURING in capabilities and len(capabilities) > 1:
        raise UsageError(
            f"--compute-capability {TURING} (Turing) only by itself: all GPUs would get Turing's kernels; "
            "build twice, with --out"
        )


def _known_capabilities(here: Toolkit) -> list[str]:
    """``7.5`` and so on, of the enum's ``SM75``."""
    names = [n[2:] for n in here.trt.ComputeCapability.__members__ if n.startswith("SM")]
    return [f"{name[:-1]}.{name[-1]}" for name in sorted(names, key=int)]


def _parse(here: Toolkit, network: Any, onnx: Path, log: Log) -> None:
    parser = here.trt.OnnxParser(network, log.native)
    if parser.parse_from_file(str(onnx)):
        return
    reasons = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)  # its members are methods
        place = error.node_name() or f"node {error.node()}"
        reasons.append(f"{place} ({error.node_operator()}): {error.desc()}")
    # Without a GPU a description may go on with errors that only say so.
    reason = " ".join((reasons[0] if reasons else log.last_error()).partition("[checkMacros.cpp")[0].split())
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    raise UserError(
        f"{here.flavor.title}'s parser refuses {onnx}: {reason}{more}; a newer version of it, or --opset 18 at the "
        "export, may help"
    )


def _check_network(here: Toolkit, network: Any, spec: GraphSpec, onnx: Path) -> None:
    sides = {
        "input": [network.get_input(index) for index in range(network.num_inputs)],
        "output": [network.get_output(index) for index in range(network.num_outputs)],
    }
    seen = {
        tensor.name: (side, tensor.dtype, tuple(tensor.shape)) for side in sides for tensor in sides[side]
    }
    check_interface(here.trt, seen, spec, f"{onnx}, as {here.flavor.title} reads it,", "export it again")


def _configure(here: Toolkit, config: Any, job: PlanJob) -> None:
    trt = here.trt
    if job.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace_mib << 20)
    if job.optimization_level is not None:
        config.builder_optimization_level = job.optimization_level
    # TensorRT sets TF32 by default: ten bits of mantissa, in a network that says FP32.
    config.clear_flag(trt.BuilderFlag.TF32)
    for name in job.flags:
        config.set_flag(getattr(trt.BuilderFlag, name))
    if job.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if not here.flavor.portable:
        return
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for the list of kernels
    check_capabilities(here, job.capabilities)
    config.num_compute_capabilities = len(job.capabilities)
    for index, capability in enumerate(job.capabilities):
        member = getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}")
        if not config.set_compute_capability(member, index):
            raise UsageError(
                f"{here.flavor.title} {here.version} does not build for compute capability {capability}"
            )


def _add_profile(builder: Any, network: Any, config: Any, spec: GraphSpec, batch: BatchRange) -> None:
    """Say what a dynamic batch axis may be; a network of fixed shapes needs no profile."""
    specs = {tensor.name: tensor for tensor in spec.inputs}
    profile, dynamic = builder.create_optimization_profile(), False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if -1 in tuple(tensor.shape):
            dynamic = True
            sizes = (batch.least, batch.best, batch.most)
            profile.set_shape(tensor.name, *(shape_for(specs[tensor.name], size) for size in sizes))
    if dynamic and config.add_optimization_profile(profile) < 0:
        raise UserError(
            f"TensorRT refuses a batch of {batch.least} to {batch.most}; export with a fixed --batch"
        )


def _why_not_built(here: Toolkit, onnx: Path, job: PlanJob, log: Log) -> str:
    reason = log.last_error()
    if here.flavor.portable:
        if TURING in job.capabilities and "FP32" in reason:
            hint = f"; on Turing ({TURING}) only fp16 bundles run"
        elif "workspace" in reason:
            hint = "; raise --workspace, or leave it out"
        else:
            hint = ""
    else:
        hint = "; with too little GPU memory, try --workspace 512 or a smaller --batch"
    return f"{here.flavor.title} cannot build {onnx}: {reason}{hint}"
