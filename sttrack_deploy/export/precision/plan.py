"""From measurements to a plan: which layers become INT8, at which ranges, and which parts of the rest stay in FP32."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx

from sttrack_deploy.errors import UserError
from sttrack_deploy.export.precision import METHODS, Method
from sttrack_deploy.export.precision.bundle_writer import Graphs, write_variant
from sttrack_deploy.export.precision.fp16 import Fp16Choice, choose_parts
from sttrack_deploy.export.precision.gate_run import GateData, agreement_of, gate_data, track
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
    quantizable_layers,
    read_groups,
)
from sttrack_deploy.export.precision.measurements import Feeds, StepError, measure_ranges
from sttrack_deploy.export.precision.sensitivity import ClosedLoop, SearchResult, search
from sttrack_deploy.sequences.sequence import TrackRun

__all__ = ["MAIN", "TENSORRT", "Measured", "Plan", "make_plan", "measure", "quantized_graphs"]

INT8_SAMPLES = 128
FP16_SAMPLES = 64
"""Recorded steps on which errors are compared."""
SMOOTHING_PAYS = 0.9
"""Smoothed layers cost a multiplication each (a quarter of the time of sttrack-r50 in ONNX Runtime): the step error
must fall below this part of what it was."""
ONE_SCALE_COSTS = 1.1
"""Greatest factor of the step error for which all weights of a layer get one scale, where TensorRT runs it."""
MAIN, TENSORRT = "", "tensorrt"
"""Names of layouts."""


@dataclass(frozen=True, slots=True)
class Way:
    """How to quantize whatever is chosen."""

    method: Method
    smooth: bool = False


@dataclass(frozen=True, slots=True)
class Laid:
    """Where Q/DQ pairs go and how weights are scaled: what engines differ in."""

    layout: Layout
    per_channel: bool = True


@dataclass(frozen=True, slots=True)
class MeasuredGraph:
    """A graph, its layers and what was measured of its activations.

    Attributes:
        maxima: largest magnitude of each tensor.
        limits: thresholds by method, of what may be quantized.
        lowest: smallest value of the same.
        factors: for smoothing, empty where there is nothing to smooth.
    """

    model: onnx.ModelProto
    layers: list[Layer]
    maxima: Mapping[str, float]
    limits: Mapping[Method, Mapping[str, float]]
    lowest: Mapping[str, float]
    factors: Factors

    def quantized(self, groups: frozenset[str], way: Way, laid: Laid) -> onnx.ModelProto:
        """The graph with these groups in INT8."""
        chosen = [layer for layer in self.layers if layer.group in groups]
        model = smooth(self.model, chosen, self.factors) if way.smooth else self.model
        limits, nodes = self.limits[way.method], [layer.node for layer in chosen]
        return quantize(model, limits, nodes, laid.layout, lowest=self.lowest, per_channel=laid.per_channel)


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
        layouts: of INT8, by the name in the manifest; empty: of the main graphs.
        errors: step error of each way that was tried.
        found: what the sensitivity search measured, if there was one.
        fp16: what stays in FP32 where all else becomes FP16 (in an ``int8`` bundle: for TensorRT); ``None``: nothing
            does.
    """

    measured: Measured
    groups: tuple[str, ...] = ()
    way: Way | None = None
    layouts: Mapping[str, Laid] = field(default_factory=dict)
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
        return MeasuredGraph(model, [], {name: r.absmax for name, r in ranges.items()}, {}, {}, {})
    layers = quantizable_layers(model)
    nodes = [layer.node for layer in layers]
    factors = smoothing_factors(model, layers, some, threads) if some else {}
    smoothed = smooth(model, layers, factors)
    wanted = activations(model, nodes) | activations(smoothed, nodes)
    ranges = measure_ranges(smoothed, feeds, wanted, threads, job.progress)
    methods = [m for m in METHODS if options.method in ("auto", m)]
    limits = {m: {n: r.threshold(m) for n, r in ranges.items() if r.counts.size} for m in methods}
    lowest = {name: r.lowest for name, r in ranges.items() if r.counts.size}
    maxima = {name: r.absmax for name, r in ranges.items()}
    return MeasuredGraph(model, layers, maxima, limits, lowest, factors)


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
    if not options.rounds_graphs:
        return plan
    choice = choose_parts(measured.search.model, measured.search.maxima, measured.error, job.progress)
    return replace(plan, fp16=choice)


def _plan_int8(measured: Measured) -> Plan:
    job, options, layers = measured.job, measured.job.options, measured.search.layers
    groups = group_names(layers) if options.layers == "auto" else read_groups(options.layers, layers)
    job.progress.stage("ranges and smoothing", (len(METHODS) + 2) * len(measured.error))
    way, errors = _choose_way(measured, frozenset(groups))
    main = Laid(options.layout)
    if options.layers != "auto":
        return _lay_out(Plan(measured, tuple(groups), way, {MAIN: main}, errors))
    with gate_data(options.search_data) as data:
        job.progress.stage(f"search: FP32 on {data.name}", data.frames)
        reference = track(
            job.source, "onnxruntime", data, options.threads, job.progress, options.search_window
        )
        attempts, frames = 2 * len(groups), data.frames + len(measured.error)
        job.progress.stage(f"search: {len(groups)} groups on {data.name}", attempts * frames)
        trials = _Trials(measured, way, main, data, reference)
        found = search(
            groups, macs_by_group(layers), trials, options.budget, options.step_budget, job.progress
        )
    return _lay_out(Plan(measured, found.chosen, way, {MAIN: main}, errors, found))


def _lay_out(plan: Plan) -> Plan:
    """Weights for TensorRT get one scale where that costs little: its convolutions then write FP16 by themselves."""
    measured, options, way = plan.measured, plan.measured.job.options, plan.way
    if way is None or not plan.groups:
        return plan
    name = MAIN if options.layout == "portable" else TENSORRT
    whole, each = (Laid("portable", per_channel=per_channel) for per_channel in (False, True))
    chosen = frozenset(plan.groups)
    errors = {laid: measured.error(measured.search.quantized(chosen, way, laid)) for laid in (whole, each)}
    cheap = errors[whole] < ONE_SCALE_COSTS * errors[each]
    measured.job.progress.note(
        f"for TensorRT: step error {errors[whole]:.4f} with one scale for all weights of a layer, "
        f"{errors[each]:.4f} with one for each output channel: {'one for all' if cheap else 'one for each'}"
    )
    return replace(plan, layouts={**plan.layouts, name: whole if cheap else each})


def _choose_way(measured: Measured, groups: frozenset[str]) -> tuple[Way, dict[str, float]]:
    """The range method of the least step error when all these groups are quantized, and smoothing where it pays."""
    searched, error, note = measured.search, measured.error, measured.job.progress.note
    errors: dict[str, float] = {}
    main = Laid(measured.job.options.layout)
    ways = [Way(method) for method in searched.limits]
    for way in ways:
        errors[way.method] = error(searched.quantized(groups, way, main))
        note(f"ranges by {way.method}: step error {errors[way.method]:.4f} with {len(groups)} groups in INT8")
    best = min(ways, key=lambda way: errors[way.method])
    if not any(layer.activation in searched.factors for layer in searched.layers if layer.group in groups):
        return best, errors
    smoothed = replace(best, smooth=True)
    name = f"{best.method}, smoothed"
    errors[name] = error(searched.quantized(groups, smoothed, main))
    helps = errors[name] < SMOOTHING_PAYS * errors[best.method]
    note(f"linear layers smoothed: step error {errors[name]:.4f}, {'kept' if helps else 'left out'}")
    return (smoothed if helps else best), errors


@dataclass(frozen=True, slots=True)
class _Trials:
    """Real measurements for the search; see ``sensitivity.Probe``."""

    measured: Measured
    way: Way
    laid: Laid
    data: GateData
    reference: list[TrackRun]

    def step_error(self, groups: frozenset[str]) -> float:
        return self.measured.error(self.measured.search.quantized(groups, self.way, self.laid))

    def cost(self, groups: frozenset[str]) -> float:
        """The work left in float: one bundle serves all engines, and their times differ."""
        macs = macs_by_group(self.measured.search.layers)
        return 1.0 - sum(macs[g] for g in groups) / max(sum(macs.values()), 1)

    def closed_loop(self, groups: frozenset[str]) -> ClosedLoop:
        job, options = self.measured.job, self.measured.job.options
        graphs = quantized_graphs(self.measured, groups, self.way, self.laid)
        with tempfile.TemporaryDirectory(prefix="sttrack-int8-") as folder:
            trial = write_variant(
                Path(folder),
                job.source,
                graphs,
                {"name": "int8"},
                tensorrt=self.laid.layout == "portable",
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


def quantized_graphs(measured: Measured, groups: frozenset[str], way: Way, laid: Laid) -> Graphs:
    template = groups if measured.job.options.template else frozenset()
    return Graphs(
        measured.template.quantized(template, way, laid), measured.search.quantized(groups, way, laid)
    )
