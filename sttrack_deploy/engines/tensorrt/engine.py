"""TensorRT, and TensorRT for RTX: the engines for NVIDIA GPUs.

A track's state never leaves the GPU. Each track has two sets of state buffers; a step reads one and writes the other,
so nothing is copied. Each direction has an execution context of its own whose addresses are bound once, and from the
third step on a CUDA graph of its own: crop to the GPU, network, box back, in one call.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass

from sttrack_deploy.bundle import (
    BOX,
    CONFIDENCE,
    SEARCH_IMAGE,
    SEARCH_MASK,
    TEMPLATE_IMAGE,
    TEMPLATE_MASK,
    Bundle,
)
from sttrack_deploy.engines.base import Arrays, BoolArray, EngineState, Prediction, UInt8Array, graph_inputs
from sttrack_deploy.engines.cuda import open_cuda
from sttrack_deploy.engines.tensorrt.log import log_of
from sttrack_deploy.engines.tensorrt.plan import RuntimeCache, load_plan
from sttrack_deploy.engines.tensorrt.plan_file import (
    UnfitPlanError,
    build_command,
    open_plans,
    plan_folder,
    read_manifest,
)
from sttrack_deploy.engines.tensorrt.toolkit import RTX, TENSORRT, Flavor, Platform, open_platform
from sttrack_deploy.engines.tensorrt.track import Shared, TemplateStage, Track
from sttrack_deploy.errors import UsageError, UserError

__all__ = ["REBUILD", "TensorRTEngine", "TrackState", "create", "create_rtx", "devices", "why_not_here"]

REBUILD = "STTRACK_REBUILD"
"""Environment variable: ``1`` builds plans that are missing or do not fit instead of refusing."""


@dataclass(slots=True)
class _Loan:
    """A track in use; it goes back to the pool with the last state that refers to it."""

    track: Track
    pool: list[Track]

    def __del__(self) -> None:
        self.pool.append(self.track)


@dataclass(frozen=True, slots=True)
class TrackState:
    """Where a track's state is: which of its two sets of buffers, at which step."""

    loan: _Loan
    side: int
    steps: int


class TensorRTEngine:
    """Runs both plans of a bundle; for one thread. Tracks do not share buffers, and may be stepped in any order.

    Raises:
        UnfitPlanError: TensorRT refuses a plan.
    """

    def __init__(self, bundle: Bundle, here: Platform) -> None:
        folder = plan_folder(bundle, here.flavor)
        manifest = open_plans(folder, bundle, here)
        fix = build_command(bundle, here.flavor, manifest.batch)
        self.name = here.flavor.name
        self._here = here
        self._bundle = bundle
        self._batch = manifest.batch
        self._log = log_of(here.trt)
        plans = [
            load_plan(here, folder / plan.file, spec, fix, host_code=manifest.version_compatible)
            for plan, spec in (
                (manifest.template, bundle.template),
                (manifest.search, bundle.search),
            )
        ]
        self._kernels = RuntimeCache(here, plans, folder) if here.flavor.portable else None
        self._kept: set[tuple[int, int]] = set()
        self._shared = Shared(here, plans[0], plans[1], bundle.manifest.state, self._kernels)
        self._templates: dict[int, TemplateStage] = {}
        self._pools: dict[int, list[Track]] = {}
        self._no_graphs = ""

    def initial_state(self, template: UInt8Array, mask: BoolArray) -> EngineState:
        batch = len(template)
        state = self._lend(batch)
        stage = self._templates.get(batch)
        if stage is None:
            stage = self._templates[batch] = TemplateStage(self._shared, batch)
        stage.put({TEMPLATE_IMAGE: template, TEMPLATE_MASK: mask})
        self._did(stage.enqueue(state.loan.track), "the template plan")
        self._shared.synchronize()
        return state

    def step(self, search: UInt8Array, mask: BoolArray, state: EngineState) -> tuple[Prediction, EngineState]:
        track, side = self._track(state), state.side
        if len(search) != track.batch:
            raise UsageError(
                f"the state is of {track.batch} target(s), the search crops are of {len(search)}"
            )
        track.put({SEARCH_IMAGE: search, SEARCH_MASK: mask})
        recorded = track.launch(side)
        if not recorded:
            self._did(track.enqueue(side), "the search plan")
        self._shared.synchronize()
        prediction = Prediction(track.output(BOX), track.output(CONFIDENCE))
        track.steps += 1
        if not recorded and not self._no_graphs and not track.record(side):
            # One refusal is enough: the next track would only be slowed down by the attempt.
            self._no_graphs = self._log.last_error("it cannot be captured")
        if self._kernels is not None and (track.batch, side) not in self._kept:
            self._kept.add((track.batch, side))
            self._kernels.keep()
        return prediction, TrackState(state.loan, 1 - side, track.steps)

    def describe(self) -> dict[str, str]:
        device, batch = self._here.device, self._batch
        kernels = (
            {} if self._kernels is None else {"kernels": "reused" if self._kernels.reused else "compiled"}
        )
        return {
            "engine": self.name,
            "version": self._here.version,
            "device": f"{device.name} ({device.sm})",
            "driver": device.driver,
            "memory": self._here.cuda.name,
            "batch": str(batch.best) if batch.fixed else f"{batch.least} to {batch.most}",
            "cuda graph": f"no ({self._no_graphs})"
            if self._no_graphs
            else "yes, from a track's third step on",
            **kernels,
        }

    def export_state(self, state: EngineState) -> Arrays:
        """See :class:`~sttrack_deploy.engines.base.Engine`.

        Raises:
            UsageError: the state was used up.
        """
        values = self._track(state).read(state.side)
        return {spec.name: values[spec.input] for spec in self._bundle.manifest.state}

    def import_state(self, arrays: Arrays) -> EngineState:
        values = graph_inputs(self._bundle, arrays)
        state = self._lend(len(next(iter(values.values()))))
        state.loan.track.write(values)
        return state

    def _lend(self, batch: int) -> TrackState:
        """A track of its own, at the side that the template plan writes."""
        if not self._batch.least <= batch <= self._batch.most:
            raise UsageError(
                f"the plans take {self._batch.least} to {self._batch.most} target(s) a call, not {batch}; "
                f"build them for more: sttrack-build-engine {shlex.quote(str(self._bundle.path))} --target {self.name} "
                f"--batch 1,1,{batch}"
            )
        pool = self._pools.setdefault(batch, [])
        track = pool.pop() if pool else Track(self._shared, batch)
        track.steps += 1  # states of its earlier use are void
        return TrackState(_Loan(track, pool), 0, track.steps)

    def _track(self, state: EngineState) -> Track:
        if not isinstance(state, TrackState):
            raise UsageError(f"a state of the engine '{self.name}' is needed, not {type(state).__name__}")
        if state.steps != state.loan.track.steps:
            raise UsageError(
                "this state was used up by an earlier step: its buffers hold a later one; use the state that the last "
                "step returned"
            )
        return state.loan.track

    def _did(self, done: bool, what: str) -> None:
        if not done:
            self._shared.synchronize()  # nothing may still be reading the staged crop
            raise UserError(f"{self._here.flavor.title} failed to run {what}: {self._log.last_error()}")


def create(bundle: Bundle, threads: int | None, flavor: Flavor = TENSORRT) -> TensorRTEngine:  # noqa: ARG001
    """The engine from the plans in the engine cache; see :data:`REBUILD`.

    Raises:
        MissingDependencyError: TensorRT or a CUDA package is not installed.
        UnfitPlanError: there are no plans, or they are for another bundle, TensorRT or GPU.
        UserError: there is no GPU or driver.
    """
    here = open_platform(flavor)
    try:
        return TensorRTEngine(bundle, here)
    except UnfitPlanError:
        if os.environ.get(REBUILD) != "1":
            raise
    _rebuild(bundle, flavor)
    return TensorRTEngine(bundle, here)


def create_rtx(bundle: Bundle, threads: int | None) -> TensorRTEngine:
    """:func:`create` for TensorRT for RTX."""
    return create(bundle, threads, RTX)


def why_not_here() -> str:
    """Why plans can be built but not run on this machine; empty if there is a GPU."""
    try:
        open_cuda().device()
    except UserError as error:  # a missing CUDA package among them
        return str(error)
    return ""


def _rebuild(bundle: Bundle, flavor: Flavor) -> None:
    """Build again with the options of the plans that are there, if they can still be read."""
    from sttrack_deploy.engines.building import BuildOptions, SilentReport
    from sttrack_deploy.engines.tensorrt.plan_build import build, options_of

    try:
        options = options_of(read_manifest(plan_folder(bundle, flavor), build_command(bundle, flavor)))
    except UnfitPlanError:
        options = BuildOptions(force=True)
    build(bundle, options, SilentReport(), flavor)


def devices() -> list[str]:
    """GPUs, or an error that says why there is none."""
    device = open_cuda().device()
    return [f"{device.name} ({device.sm}, {device.bytes / 2**30:.0f} GiB, driver {device.driver})"]
