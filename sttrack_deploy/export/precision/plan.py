"""From measurements to a plan: which layers become INT8, at which ranges, and which parts of the rest stay in FP32."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from sttrack_deploy.errors import UserError
from sttrack_deploy.export.precision import METHODS, Method, fp16
from sttrack_deploy.export.precision.bundle_writer import Graphs, write_variant
from sttrack_deploy.export.precision.fp16 import Fp16Choice, choose_parts
from sttrack_deploy.export.precision.gate import GateData, agreement_of, gate_data, track
from sttrack_deploy.export.precision.int8 import (
    Factors,
    Layout,
    activations,
    quantize,
    smooth,
    smoothing_factors,
)
from sttrack_deploy.export.precision.job import Job
from sttrack_deploy.export.precision.layers import (
    Layer,
    group_names,
    macs_by_group,
    members,
    quantizable_layers,
    read_groups,
)
from sttrack_deploy.export.precision.measurements import Feeds, StepError, measure_ranges, time_ratio
from sttrack_deploy.export.precision.sensitivity import ClosedLoop, SearchResult, search
from sttrack_deploy.sequences.sequence import TrackRun

__all__ = ["Converted", "Measured", "Plan", "apply", "make_plan", "measure"]

INT8_SAMPLES = 128
FP16_SAMPLES = 64
"""Recorded steps on which errors are compared."""
TIMED_SAMPLES = 6
TIMED_ROUNDS = 9
SMOOTHING_PAYS = 0.9
"""Smoothed layers cost a multiplication each (a quarter of the time of sttrack-r50 in ONNX Runtime): the step error
must fall below this part of what it was."""


@dataclass(frozen=True, slots=True)
class Way:
    """How to quantize whatever is chosen."""

    layout: Layout
    method: Method
    smooth: bool = False


@dataclass(frozen=True, slots=True)
class MeasuredGraph:
    """A graph, its layers and what was measured of its activations.

    Attributes:
        maxima: largest magnitude of each tensor.
        limits: thresholds by method, of what may be quantized.
        factors: for smoothing, empty where there is nothing to smooth.
    """

    model: onnx.ModelProto
    layers: list[Layer]
    maxima: Mapping[str, float]
    limits: Mapping[Method, Mapping[str, float]]
    factors: Factors

    def quantized(self, groups: frozenset[str], way: Way) -> onnx.ModelProto:
        """The graph with these groups in INT8."""
        chosen = [layer for layer in self.layers if layer.group in groups]
        model = smooth(self.model, chosen, self.factors) if way.smooth else self.model
        return quantize(model, self.limits[way.method], [layer.node for layer in chosen], way.layout)


@dataclass(frozen=True, slots=True)
class Measured:
    """What the recorded inputs tell about both graphs.

    Attributes:
        samples: of the search graph, spread over all.
        error: compares search graphs with the FP32 one on these samples.
    """

    job: Job
    template: MeasuredGraph
    search: MeasuredGraph
    samples: Sequence[Feeds]
    error: StepError


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of the graphs.

    Attributes:
        groups: these become INT8.
        way: how; ``None``: nothing becomes INT8.
        errors: step error of each way that was tried.
        found: what the sensitivity search measured, if there was one.
        fp16: what stays in FP32 where all else becomes FP16; ``None``: nothing does.
    """

    measured: Measured
    groups: tuple[str, ...] = ()
    way: Way | None = None
    errors: Mapping[str, float] = field(default_factory=dict)
    found: SearchResult | None = None
    fp16: Fp16Choice | None = None

    def without_last(self) -> Plan | None:
        """The same without the group that the search added last; ``None`` where that is the only one, or none was."""
        if self.found is None:
            return None
        order = [g for g in self.found.in_turn if g in self.groups]
        if len(order) < 2:
            return None
        groups = tuple(g for g in self.groups if g != order[-1])
        return replace(self, groups=groups, found=replace(self.found, chosen=groups))


@dataclass(frozen=True, slots=True)
class Converted:
    """A plan and the graphs made by it."""

    plan: Plan
    graphs: Graphs

    def recipe(self) -> dict[str, Any]:
        """For the manifest: what was done, and the figures that decided it."""
        plan, job = self.plan, self.plan.measured.job
        recipe: dict[str, Any] = {
            "name": job.options.precision,
            "calibration": dict(job.samples.facts),
        }
        if plan.fp16 is not None:
            recipe["fp16"] = plan.fp16.recipe
        if plan.way is not None:
            recipe["int8"] = self._int8(plan.way)
        return recipe

    def _int8(self, way: Way) -> dict[str, Any]:
        plan, options, layers = self.plan, self.plan.measured.job.options, self.plan.measured.search.layers
        macs = macs_by_group(layers)
        quantized = plan.measured.search.quantized(frozenset(plan.groups), way)
        return {
            "layout": way.layout,
            "layers": options.layers
            if options.layers in ("auto", "all", "backbone")
            else "chosen by the user",
            "groups": list(plan.groups),
            "nodes": members(layers, plan.groups),
            "macs_share": round(sum(macs[g] for g in plan.groups) / max(sum(macs.values()), 1), 4),
            "template": options.template,
            "method": way.method,
            "smoothed": way.smooth,
            "step_errors": {name: round(value, 5) for name, value in plan.errors.items()},
            "step_error": round(plan.measured.error(quantized), 5),
            "weights": "symmetric per output channel",
            "activations": "symmetric per tensor" if way.layout == "portable" else "per tensor, UINT8",
            "budget": options.budget,
            "step_budget": options.step_budget,
        }


def measure(job: Job) -> Measured:
    """Ranges of all tensors, and what to hold errors against.

    Raises:
        UsageError: ``options.layers`` names no such group.
    """
    options, samples, progress = job.options, job.samples, job.progress
    if options.layers != "auto" and options.quantizes:
        read_groups(options.layers, quantizable_layers(job.graphs.search))  # a typing error is told at once
    some = list(samples.spread(INT8_SAMPLES if options.quantizes else FP16_SAMPLES))
    searches: Iterable[Feeds] = samples.all_searches() if options.quantizes else some
    count = samples.searches if options.quantizes else len(some)
    progress.stage("calibrating", count + samples.templates)
    template = _measured_graph(job, job.graphs.template, samples.all_templates(), [])
    searched = _measured_graph(job, job.graphs.search, searches, some)
    sure_above = job.source.manifest.tracking.lost_below
    error = StepError(job.graphs.search, some, sure_above, options.threads, progress)
    return Measured(job, template, searched, some, error)


def _measured_graph(
    job: Job, model: onnx.ModelProto, feeds: Iterable[Feeds], some: list[Feeds]
) -> MeasuredGraph:
    """Ranges of everything that may be quantized, smoothed or not.

    Args:
        some: samples for the smoothing factors; none for a graph without linear layers.
    """
    options, threads = job.options, job.options.threads
    if not options.quantizes:
        ranges = measure_ranges(model, feeds, threads=threads, progress=job.progress)
        return MeasuredGraph(model, [], {name: r.absmax for name, r in ranges.items()}, {}, {})
    layers = quantizable_layers(model)
    nodes = [layer.node for layer in layers]
    factors = smoothing_factors(model, layers, some, threads) if some else {}
    smoothed = smooth(model, layers, factors)
    wanted = activations(model, nodes) | activations(smoothed, nodes)
    ranges = measure_ranges(smoothed, feeds, wanted, threads, job.progress)
    methods = [m for m in METHODS if options.method in ("auto", m)]
    limits = {m: {n: r.threshold(m) for n, r in ranges.items() if r.counts.size} for m in methods}
    return MeasuredGraph(model, layers, {name: r.absmax for name, r in ranges.items()}, limits, factors)


def make_plan(measured: Measured) -> Plan:
    """Choose by measurement: layers and ranges for INT8, parts in FP32 for FP16.

    Raises:
        UserError: no layer can be quantized within the budget, or the search's videos cannot be read.
    """
    job, options = measured.job, measured.job.options
    plan = _plan_int8(measured) if options.quantizes else Plan(measured)
    if options.quantizes and not plan.groups:
        raise UserError(
            f"no layer of {job.source.path} can be quantized within the budget of {options.budget} AUC with a gain: "
            "raise --budget, give more videos with --search-data, or name the layers with --layers"
        )
    if not options.halves:
        return plan
    choice = choose_parts(measured.search.model, measured.search.maxima, measured.error, job.progress)
    return replace(plan, fp16=choice)


def _plan_int8(measured: Measured) -> Plan:
    job, options, layers = measured.job, measured.job.options, measured.search.layers
    groups = group_names(layers) if options.layers == "auto" else read_groups(options.layers, layers)
    job.progress.stage("ranges and smoothing", (len(METHODS) + 2) * len(measured.error))
    way, errors = _choose_way(measured, frozenset(groups))
    if options.layers != "auto":
        return Plan(measured, tuple(groups), way, errors)
    with gate_data(options.search_data) as data:
        job.progress.stage(f"search: FP32 on {data.name}", data.frames)
        reference = track(
            job.source, "onnxruntime", data, options.threads, job.progress, options.search_window
        )
        attempts, frames = 2 * len(groups), data.frames + len(measured.error)
        job.progress.stage(f"search: {len(groups)} groups on {data.name}", attempts * frames)
        trials = _Trials(measured, way, data, reference)
        found = search(
            groups, macs_by_group(layers), trials, options.budget, options.step_budget, job.progress
        )
    return Plan(measured, found.chosen, way, errors, found)


def _choose_way(measured: Measured, groups: frozenset[str]) -> tuple[Way, dict[str, float]]:
    """The range method of the least step error when all these groups are quantized, and smoothing where it pays."""
    searched, error, note = measured.search, measured.error, measured.job.progress.note
    errors: dict[str, float] = {}
    ways = [Way(measured.job.options.layout, method) for method in searched.limits]
    for way in ways:
        errors[way.method] = error(searched.quantized(groups, way))
        note(f"ranges by {way.method}: step error {errors[way.method]:.4f} with {len(groups)} groups in INT8")
    best = min(ways, key=lambda way: errors[way.method])
    if not any(layer.activation in searched.factors for layer in searched.layers if layer.group in groups):
        return best, errors
    smoothed = replace(best, smooth=True)
    name = f"{best.method}, smoothed"
    errors[name] = error(searched.quantized(groups, smoothed))
    helps = errors[name] < SMOOTHING_PAYS * errors[best.method]
    note(f"linear layers smoothed: step error {errors[name]:.4f}, {'kept' if helps else 'left out'}")
    return (smoothed if helps else best), errors


@dataclass(frozen=True, slots=True)
class _Trials:
    """Real measurements for the search; see ``sensitivity.Probe``."""

    measured: Measured
    way: Way
    data: GateData
    reference: list[TrackRun]

    def step_error(self, groups: frozenset[str]) -> float:
        return self.measured.error(self.measured.search.quantized(groups, self.way))

    def cost(self, groups: frozenset[str]) -> float:
        """Time, where this CPU can tell it: only one of the layouts is made for it. Else the work left in float."""
        searched = self.measured.search
        if self.way.layout == "cpu":
            timed = self.measured.samples[:TIMED_SAMPLES]
            return time_ratio(searched.quantized(groups, self.way), searched.model, timed, TIMED_ROUNDS)
        macs = macs_by_group(searched.layers)
        return 1.0 - sum(macs[g] for g in groups) / max(sum(macs.values()), 1)

    def closed_loop(self, groups: frozenset[str]) -> ClosedLoop:
        job, options = self.measured.job, self.measured.job.options
        graphs = _quantized(self.measured, groups, self.way)
        with tempfile.TemporaryDirectory(prefix="sttrack-int8-") as folder:
            trial = write_variant(
                Path(folder),
                job.source,
                graphs,
                {"name": "int8"},
                tensorrt=options.for_tensorrt,
                weights=False,
            )
            runs = track(
                trial, "onnxruntime", self.data, options.threads, job.progress, options.search_window
            )
        agreement = agreement_of(self.data, self.reference, runs)
        changes = [s.auc - s.auc_reference for s in agreement.sequences]
        # One sequence says nothing about chance.
        spread = float(np.std(changes, ddof=1) / np.sqrt(len(changes))) if len(changes) > 1 else 0.0
        return ClosedLoop(agreement.mean_iou, agreement.auc - agreement.auc_reference, spread)


def apply(plan: Plan) -> Converted:
    """Make the graphs."""
    graphs = plan.measured.job.graphs
    if plan.way is not None:
        graphs = _quantized(plan.measured, frozenset(plan.groups), plan.way)
    if plan.fp16 is not None:
        template, searched = plan.measured.template, plan.measured.search
        graphs = Graphs(
            _halved(graphs.template, template.maxima, plan.fp16),
            _halved(graphs.search, searched.maxima, plan.fp16),
        )
    return Converted(plan, graphs)


def _quantized(measured: Measured, groups: frozenset[str], way: Way) -> Graphs:
    template = groups if measured.job.options.template else frozenset()
    return Graphs(measured.template.quantized(template, way), measured.search.quantized(groups, way))


def _halved(model: onnx.ModelProto, maxima: Mapping[str, float], choice: Fp16Choice) -> onnx.ModelProto:
    """FP16 of what is still FP32."""
    found = fp16.parts(model)
    keep = [node for name in choice.parts for node in found.get(name, [])]
    return fp16.convert(model, {*keep, *fp16.wide_nodes(model, maxima)})
