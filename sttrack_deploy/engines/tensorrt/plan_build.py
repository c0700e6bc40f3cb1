"""Building plans from a bundle: both graphs, the files and the manifest beside them."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
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
    SilentReport,
    batch_range,
    engine_cache,
)
from sttrack_deploy.engines.tensorrt.apart import make_plan_apart
from sttrack_deploy.engines.tensorrt.log import log_of
from sttrack_deploy.engines.tensorrt.plan import load_plan
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
from sttrack_deploy.engines.tensorrt.plan_maker import (
    MadePlan,
    PlanJob,
    Stop,
    check_capabilities,
    make_plan,
    stop_on_interrupt,
)
from sttrack_deploy.engines.tensorrt.toolkit import (
    RTX,
    TENSORRT,
    Flavor,
    Platform,
    Toolkit,
    open_platform,
    open_toolkit,
)
from sttrack_deploy.errors import UsageError
from sttrack_deploy.files import atomic_directory, atomic_path, sha256_of

__all__ = ["build", "build_rtx", "options_of", "record_gate", "timing_cache_path", "trial_build"]

DEFAULT_TARGETS = ("8.0", "8.6", "8.9", "12.0")
"""What TensorRT for RTX builds for where it is not told (its documentation)."""


@dataclass(frozen=True, slots=True)
class _Job:
    """One build of two plans."""

    here: Toolkit
    bundle: Bundle
    options: BuildOptions
    batch: BatchRange
    report: BuildReport
    stop: Stop


def build(
    bundle: Bundle, options: BuildOptions, report: BuildReport, flavor: Flavor = TENSORRT
) -> BuiltEngine:
    """Build both plans of a bundle; plans that fit are kept unless ``options.force``.

    Raises:
        MissingDependencyError: TensorRT or, where a GPU is needed, CUDA's Python package is not installed.
        UserError: no GPU or driver where one is needed, a graph that TensorRT refuses, or a failed build.
        UsageError: a batch that the bundle does not allow, or an option that the flavor does not have.
        KeyboardInterrupt: Ctrl-C; nothing was changed.
    """
    bundle = bundle.for_engine(flavor.name)
    batch = batch_range(bundle, options.batch)
    _check_options(options, flavor)
    here = open_toolkit(flavor) if flavor.portable else open_platform(flavor)
    if flavor.portable:
        check_capabilities(here, options.compute_capabilities)
    folder = plan_folder(bundle, flavor, options.out)
    if not options.force and (kept := _kept(folder, bundle, options, batch, here)) is not None:
        return BuiltEngine(_files(folder, kept), {**_facts(kept), "reused": True})
    job = _Job(here, bundle, options, batch, report, Stop())
    started = time.monotonic()
    with atomic_directory(folder, shared=True) as temporary, stop_on_interrupt(job.stop):
        manifest = _build_both(job, temporary)
        write_manifest(temporary, manifest)
    facts = {**_facts(manifest), "seconds": time.monotonic() - started, "reused": False}
    return BuiltEngine(_files(folder, manifest), facts)


def build_rtx(bundle: Bundle, options: BuildOptions, report: BuildReport) -> BuiltEngine:
    """:func:`build` for TensorRT for RTX; needs neither GPU nor driver."""
    return build(bundle, options, report, RTX)


def trial_build(
    bundle: Bundle, batch: BatchRange | None = None, capabilities: tuple[str, ...] = ()
) -> dict[str, MadePlan]:
    """Build both graphs with TensorRT for RTX, without a GPU, and keep nothing but what the builder said.

    It is the real parser and builder: what they refuse here, TensorRT would most likely refuse elsewhere.

    Returns:
        by ``template`` and ``search``.

    Raises:
        MissingDependencyError: TensorRT for RTX is not installed.
        UserError: it refuses a graph, or sees another interface than the manifest's.
    """
    job = _Job(
        open_toolkit(RTX),
        bundle.for_engine(RTX.name),
        BuildOptions(compute_capabilities=capabilities),
        batch_range(bundle, batch),
        SilentReport(),
        Stop(),
    )
    with tempfile.TemporaryDirectory(prefix="sttrack-rtx-") as folder:
        return {
            graph: make_plan_apart(
                job.here, _told(job, graph, Path(folder) / f"{graph}.plan"), job.report, job.stop
            )
            for graph in ("template", "search")
        }


def _check_options(options: BuildOptions, flavor: Flavor) -> None:
    only_there = {
        "--hardware-compatible": options.hardware_compatible,
        "--version-compatible": options.version_compatible,
        "--tf32": options.tf32,
        "--optimization-level": options.optimization_level is not None,
    }
    if not flavor.portable:
        only_there = {"--compute-capability": bool(options.compute_capabilities)}
    for name, given in only_there.items():
        if given:
            raise UsageError(f"{flavor.title} has no {name}; leave it out")


def options_of(made: PlanManifest) -> BuildOptions:
    """Options that build the same plans again."""
    return BuildOptions(
        batch=made.batch,
        workspace_mib=made.workspace_mib,
        optimization_level=made.optimization_level,
        hardware_compatible=made.hardware != "NONE",
        version_compatible=made.version_compatible,
        tf32="TF32" in made.flags,
        compute_capabilities=tuple(made.asked_for),
        force=True,
    )


def timing_cache_path(here: Platform) -> Path:
    """Measurements of kernels, kept for all bundles; they hold for one TensorRT and one GPU."""
    name = "-".join(here.device.name.split())
    return engine_cache() / "timing" / f"tensorrt-{here.version}-{name}-{here.device.sm}.cache"


def _kept(
    folder: Path, bundle: Bundle, options: BuildOptions, batch: BatchRange, here: Toolkit
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
    gpu = here.device if isinstance(here, Platform) else None
    timed = options.timing_cache and here.flavor.timing_cache and isinstance(here, Platform)
    cache = _TimingCache(here) if timed and isinstance(here, Platform) else None
    m = bundle.manifest
    template = _build_plan(job, bundle.template, "template", folder, cache)
    search = _build_plan(job, bundle.search, "search", folder, cache)
    return PlanManifest(
        template=template,
        search=search,
        tensorrt=here.version,
        cuda="" if gpu is None else gpu.runtime,
        driver="" if gpu is None else gpu.driver,
        gpu="" if gpu is None else gpu.name,
        capability=(0, 0) if gpu is None else gpu.capability,
        hardware="AMPERE_PLUS" if options.hardware_compatible else "NONE",
        version_compatible=options.version_compatible,
        system="any" if here.flavor.portable else host_system(),
        batch=job.batch,
        flags=_flag_names(options, here.flavor),
        workspace_mib=options.workspace_mib,
        optimization_level=options.optimization_level,
        bundle=m.name,
        precision=m.precision,
        state=[dataclasses.asdict(spec) for spec in m.state],
        opset=m.opset,
        tools=m.tools,
        timing_cache="" if cache is None else cache.sha256,
        asked_for=list(options.compute_capabilities),
        targets=list(options.compute_capabilities or DEFAULT_TARGETS) if here.flavor.portable else [],
        library=here.flavor.name,
    )


def _build_plan(job: _Job, spec: GraphSpec, graph: str, folder: Path, cache: _TimingCache | None) -> PlanFile:
    """Build one plan and, where it was built for the GPU here, load it once to see that it can be."""
    path, here, options = folder / f"{graph}.plan", job.here, job.options
    told = _told(job, graph, path)
    if here.flavor.portable:
        made = make_plan_apart(here, told, job.report, job.stop)
    else:
        made = make_plan(here, told, job.report, job.stop, cache)
    for warning in made.warnings:
        job.report.note(warning)
    fix = build_command(job.bundle, here.flavor, job.batch)
    check_header(here, path, here.version, fix)
    workspace = made.scratch_bytes
    if isinstance(here, Platform):
        workspace = load_plan(here, path, spec, fix, host_code=options.version_compatible).workspace_bytes
        for warning in log_of(here.trt).take_warnings():
            job.report.note(warning)
    if made.kernels:
        job.report.note(f"{path.name}: {made.summary}")
    return PlanFile(
        file=path.name,
        sha256=sha256_of(path),
        bytes=path.stat().st_size,
        onnx_sha256=spec.sha256,
        inputs=[dataclasses.asdict(tensor) for tensor in spec.inputs],
        outputs=[dataclasses.asdict(tensor) for tensor in spec.outputs],
        workspace_bytes=workspace,
        kernels=made.kernels,
    )


def _told(job: _Job, graph: str, path: Path) -> PlanJob:
    options, flavor = job.options, job.here.flavor
    return PlanJob(
        flavor=flavor.name,
        bundle=str(job.bundle.path),
        graph=graph,
        out=str(path),
        batch=(job.batch.least, job.batch.best, job.batch.most),
        capabilities=options.compute_capabilities,
        workspace_mib=options.workspace_mib,
        optimization_level=options.optimization_level,
        hardware_compatible=options.hardware_compatible,
        flags=tuple(_flag_names(options, flavor)),
    )


def _flag_names(options: BuildOptions, flavor: Flavor) -> list[str]:
    flags = {
        "TF32": options.tf32,
        "VERSION_COMPATIBLE": options.version_compatible,
        # The engine gives every context the same scratch memory.
        "REQUIRE_USER_ALLOCATION": flavor.portable,
    }
    return [name for name, wanted in flags.items() if wanted]


class _TimingCache:
    """The timing cache in the engine cache; one that does not fit is replaced by an empty one."""

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
    place = {"for": ", ".join(manifest.targets)} if manifest.targets else {"gpu": manifest.gpu}
    return {
        manifest.library: manifest.tensorrt,
        **place,
        **({} if manifest.targets else {"driver": manifest.driver}),
        "batch": str(b.best) if b.fixed else f"{b.least} to {b.most}, best {b.best}",
        "precision": manifest.precision["name"],
        "flags": ", ".join(manifest.flags) or "none",
    }


def record_gate(bundle: Bundle, gate: Mapping[str, Any], flavor: Flavor = TENSORRT) -> None:
    """Add the result of a closed-loop comparison to the manifest of the plans in the engine cache."""
    folder = plan_folder(bundle, flavor)
    manifest = read_manifest(folder, build_command(bundle, flavor))
    write_manifest(folder, dataclasses.replace(manifest, gate=gate))
