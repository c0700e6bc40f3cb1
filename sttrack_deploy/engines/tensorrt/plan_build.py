"""Building plans from a bundle.

One path for TensorRT 10.12 and later and for 11: strongly typed networks, where every precision is in the ONNX file.
There are no precision flags and no calibrators here, because TensorRT 11 has none.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sttrack_deploy.bundle import Bundle, GraphSpec
from sttrack_deploy.engines.building import (
    BatchRange,
    BuildOptions,
    BuildReport,
    BuiltEngine,
    batch_range,
)
from sttrack_deploy.engines.shelf import engines_shelf
from sttrack_deploy.engines.tensorrt.log import Log, log_of
from sttrack_deploy.engines.tensorrt.plan import load_plan, shape_for
from sttrack_deploy.engines.tensorrt.plan_file import (
    PLANS,
    PlanFile,
    PlanManifest,
    UnfitPlanError,
    build_command,
    check_header,
    host_system,
    open_plans,
    plan_folder,
    read_manifest,
    write_manifest,
)
from sttrack_deploy.engines.tensorrt.probe import Platform, open_platform
from sttrack_deploy.engines.tensorrt.progress import Stop, make_monitor, stop_on_interrupt
from sttrack_deploy.errors import UserError
from sttrack_deploy.files import atomic_directory, atomic_path, sha256_of

__all__ = ["build", "options_of", "record_gate", "timing_cache_path"]


@dataclass(frozen=True, slots=True)
class _Job:
    """One build of two plans."""

    here: Platform
    log: Log
    bundle: Bundle
    options: BuildOptions
    batch: BatchRange
    report: BuildReport
    stop: Stop


def build(bundle: Bundle, options: BuildOptions, report: BuildReport) -> BuiltEngine:
    """Build both plans of a bundle; plans that fit are kept unless ``options.force``.

    Raises:
        MissingDependencyError: TensorRT or CUDA's Python package is not installed.
        UserError: no GPU or driver, a graph that TensorRT refuses, or a failed build.
        UsageError: a batch that the bundle does not allow.
        KeyboardInterrupt: Ctrl-C; nothing was changed.
    """
    batch = batch_range(bundle, options.batch)
    here = open_platform()
    folder = options.out or plan_folder(bundle)
    if not options.force and (kept := _kept(folder, bundle, options, batch, here)) is not None:
        return BuiltEngine(_files(folder, kept), {**_facts(kept), "reused": True})
    job = _Job(here, log_of(here.trt), bundle, options, batch, report, Stop())
    started = time.monotonic()
    with atomic_directory(folder) as temporary, stop_on_interrupt(job.stop):
        manifest = _build_both(job, temporary)
        write_manifest(temporary, manifest)
    for warning in job.log.take_warnings():
        report.note(warning)
    facts = {**_facts(manifest), "seconds": time.monotonic() - started, "reused": False}
    return BuiltEngine(_files(folder, manifest), facts)


def options_of(made: PlanManifest) -> BuildOptions:
    """Options that build the same plans again."""
    return BuildOptions(
        batch=made.batch,
        workspace_mib=made.workspace_mib,
        optimization_level=made.optimization_level,
        hardware_compatible=made.hardware != "NONE",
        version_compatible=made.version_compatible,
        tf32="TF32" in made.flags,
        force=True,
    )


def timing_cache_path(here: Platform) -> Path:
    """Measurements of kernels, kept for all bundles; they hold for one TensorRT and one GPU."""
    name = "-".join(here.device.name.split())
    return engines_shelf() / "timing" / f"tensorrt-{here.version}-{name}-{here.device.sm}.cache"


def _kept(
    folder: Path, bundle: Bundle, options: BuildOptions, batch: BatchRange, here: Platform
) -> PlanManifest | None:
    """The plans that are there, if they fit and were built with the same options."""
    if not (folder / PLANS).is_file():
        return None
    try:
        made = open_plans(folder, bundle, here)
    except UnfitPlanError:
        return None
    kept = dataclasses.replace(
        options_of(made), out=options.out, timing_cache=options.timing_cache, force=False
    )
    return made if kept == dataclasses.replace(options, batch=batch, threads=None) else None


def _build_both(job: _Job, folder: Path) -> PlanManifest:
    bundle, options, here = job.bundle, job.options, job.here
    cache = _TimingCache(here) if options.timing_cache else None
    template = _build_plan(
        job, bundle.template_path, bundle.manifest.template, folder / "template.plan", cache
    )
    search = _build_plan(job, bundle.search_path, bundle.manifest.search, folder / "search.plan", cache)
    m = bundle.manifest
    return PlanManifest(
        template=template,
        search=search,
        tensorrt=here.version,
        cuda=here.device.runtime,
        driver=here.device.driver,
        gpu=here.device.name,
        capability=here.device.capability,
        hardware="AMPERE_PLUS" if options.hardware_compatible else "NONE",
        version_compatible=options.version_compatible,
        system=host_system(),
        batch=job.batch,
        flags=_flag_names(options),
        workspace_mib=options.workspace_mib,
        optimization_level=options.optimization_level,
        bundle=m.name,
        precision=m.precision,
        state=[dataclasses.asdict(spec) for spec in m.state],
        opset=m.opset,
        tools=m.tools,
        timing_cache="" if cache is None else cache.sha256,
    )


def _build_plan(job: _Job, onnx: Path, spec: GraphSpec, path: Path, cache: _TimingCache | None) -> PlanFile:
    """Build one plan, write it, and load it once to see that it can be."""
    trt, log = job.here.trt, job.log
    log.take_errors()
    try:
        builder = trt.Builder(log.native)
    except TypeError as error:  # pybind11: "factory function returned nullptr"
        raise UserError(f"TensorRT cannot start its builder: {log.last_error(str(error))}") from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, onnx, log)
    config = builder.create_builder_config()
    _configure(trt, config, job.options)
    if cache is not None:
        cache.attach(config)
    _add_profile(builder, network, config, spec, job.batch)
    monitor = make_monitor(trt, job.report, job.stop)  # must outlive the build
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if job.stop.requested:
        raise KeyboardInterrupt
    if plan is None:
        raise UserError(
            f"TensorRT cannot build {onnx}: {log.last_error()}; with too little GPU memory, try --workspace 512 or a "
            "smaller --batch"
        )
    with path.open("wb") as file:
        file.write(plan)
    if cache is not None:
        cache.keep(config)
    del monitor
    mend = build_command(job.bundle, job.batch)
    check_header(path, job.here.version, mend)
    loaded = load_plan(job.here, path, spec, mend, host_code=job.options.version_compatible)
    return PlanFile(
        file=path.name,
        sha256=sha256_of(path),
        bytes=path.stat().st_size,
        onnx_sha256=spec.sha256,
        inputs=[dataclasses.asdict(tensor) for tensor in spec.inputs],
        outputs=[dataclasses.asdict(tensor) for tensor in spec.outputs],
        workspace_bytes=loaded.workspace_bytes,
    )


def _parse(trt: Any, network: Any, onnx: Path, log: Log) -> None:
    parser = trt.OnnxParser(network, log.native)
    if parser.parse_from_file(str(onnx)):
        return
    reasons = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)  # its members are methods
        place = error.node_name() or f"node {error.node()}"
        reasons.append(f"{place} ({error.node_operator()}): {error.desc()}")
    reason = " ".join((reasons[0] if reasons else log.last_error()).split())
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    raise UserError(
        f"TensorRT's parser refuses {onnx}: {reason}{more}; a newer TensorRT, or --opset 18 at the export, may help"
    )


def _configure(trt: Any, config: Any, options: BuildOptions) -> None:
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    # TensorRT sets TF32 by default: ten bits of mantissa, in a network that says FP32.
    config.clear_flag(trt.BuilderFlag.TF32)
    for name in _flag_names(options):
        config.set_flag(getattr(trt.BuilderFlag, name))
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS


def _flag_names(options: BuildOptions) -> list[str]:
    flags = {"TF32": options.tf32, "VERSION_COMPATIBLE": options.version_compatible}
    return [name for name, wanted in flags.items() if wanted]


def _add_profile(builder: Any, network: Any, config: Any, spec: GraphSpec, batch: BatchRange) -> None:
    """Say what a dynamic batch axis may be; a network of fixed shapes needs no profile."""
    specs = {tensor.name: tensor for tensor in spec.inputs}
    profile, dynamic = builder.create_optimization_profile(), False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        wanted = specs.get(tensor.name)
        if wanted is None or len(wanted.shape) != len(shape):
            raise UserError(
                f"TensorRT sees an input {tensor.name!r} {list(shape)} that is not in the manifest's list"
            )
        if -1 in shape:
            dynamic = True
            least, best, most = (shape_for(wanted, size) for size in (batch.least, batch.best, batch.most))
            profile.set_shape(tensor.name, least, best, most)
    if dynamic and config.add_optimization_profile(profile) < 0:
        raise UserError(
            f"TensorRT refuses a batch of {batch.least} to {batch.most}; export with a fixed --batch"
        )


class _TimingCache:
    """The timing cache on the shelf; one that does not fit is replaced by an empty one."""

    def __init__(self, here: Platform) -> None:
        self._path = timing_cache_path(here)
        self._data = self._path.read_bytes() if self._path.is_file() else b""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self._data).hexdigest() if self._data else ""

    def attach(self, config: Any) -> None:
        """Give it to a build."""
        cache = config.create_timing_cache(self._data)
        # ignore_mismatch is False: times of another GPU would choose the wrong kernels.
        if cache is None or not config.set_timing_cache(cache, False):
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def keep(self, config: Any) -> None:
        """Write what the build has added."""
        cache = config.get_timing_cache()
        data = None if cache is None else cache.serialize()
        if data is None:
            return
        self._data = bytes(memoryview(data))
        with atomic_path(self._path) as temporary:
            temporary.write_bytes(self._data)


def _files(folder: Path, manifest: PlanManifest) -> tuple[Path, ...]:
    return (folder / manifest.search.file, folder / manifest.template.file, folder / PLANS)


def _facts(manifest: PlanManifest) -> Mapping[str, Any]:
    b = manifest.batch
    return {
        "tensorrt": manifest.tensorrt,
        "gpu": manifest.gpu,
        "driver": manifest.driver,
        "batch": str(b.best) if b.fixed else f"{b.least} to {b.most}, best {b.best}",
        "precision": manifest.precision["name"],
        "flags": ", ".join(manifest.flags) or "none",
    }


def record_gate(folder: Path, bundle: Bundle, gate: Mapping[str, Any]) -> None:
    """Add the result of a closed-loop comparison to the plans' manifest."""
    manifest = read_manifest(folder, build_command(bundle))
    write_manifest(folder, dataclasses.replace(manifest, gate=gate))
