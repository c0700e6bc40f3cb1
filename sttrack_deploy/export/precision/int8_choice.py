"""Which layers become INT8, at which ranges: everything between a calibration set and two Q/DQ graphs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.export.precision.bundle_writer import Graphs, write_variant
from sttrack_deploy.export.precision.gate import gate, gate_data, track
from sttrack_deploy.export.precision.int8 import Layout, activations, quantize
from sttrack_deploy.export.precision.layers import (
    Layer,
    group_names,
    macs_by_group,
    members,
    quantizable_layers,
    read_groups,
)
from sttrack_deploy.export.precision.options import PrecisionOptions, Watch
from sttrack_deploy.export.precision.ranges import Feeds, TensorRange, measure_ranges
from sttrack_deploy.export.precision.samples import Samples
from sttrack_deploy.export.precision.sensitivity import (
    ClosedLoop,
    GroupResult,
    Probe,
    SearchResult,
    Step,
    search,
)
from sttrack_deploy.export.precision.smoothing import Factors, smooth, smoothing_factors
from sttrack_deploy.export.precision.step_error import StepError
from sttrack_deploy.export.precision.thresholds import METHODS
from sttrack_deploy.export.precision.timing import time_ratio

__all__ = ["Int8Plan", "plan_int8"]

PROBED_SAMPLES = 128
TIMED_SAMPLES = 6
SMOOTHING_PAYS = 0.9
"""Smoothed layers cost a multiplication each (a quarter of the time of sttrack-r50 in ONNX Runtime): the step error
must fall below this part of what it was."""
TIMED_ROUNDS = 9


@dataclass(frozen=True, slots=True)
class Int8Plan:
    """What is quantized and how.

    Attributes:
        recipe: for the manifest.
        search: what the sensitivity search measured, if there was one.
        quantized: the same with these groups instead.
    """

    graphs: Graphs
    groups: tuple[str, ...]
    recipe: Mapping[str, Any]
    search: SearchResult | None
    quantized: Callable[[Sequence[str]], Int8Plan]

    def without_last(self) -> Int8Plan | None:
        """The same without the group that the search added last; ``None`` where that is the only one, or none was."""
        order = [g for g in self.search.in_turn if g in self.groups] if self.search is not None else []
        if len(order) < 2:
            return None
        return self.quantized([g for g in self.groups if g != order[-1]])


@dataclass(frozen=True, slots=True)
class _Ranged:
    """A graph, its layers and what was measured of its activations.

    Attributes:
        factors: for smoothing, empty where there is nothing to smooth.
        limits: thresholds by method, filled as they are asked for: entropy takes a while.
    """

    model: onnx.ModelProto
    layers: list[Layer]
    ranges: dict[str, TensorRange]
    factors: Factors
    limits: dict[str, dict[str, float]] = field(default_factory=dict)

    def quantized(self, groups: frozenset[str], way: _Way) -> onnx.ModelProto:
        chosen = [layer for layer in self.layers if layer.group in groups]
        model = smooth(self.model, chosen, self.factors) if way.smooth else self.model
        if way.method not in self.limits:
            histograms = {name: found for name, found in self.ranges.items() if found.counts.size}
            self.limits[way.method] = {n: found.threshold(way.method) for n, found in histograms.items()}
        return quantize(model, self.limits[way.method], [layer.node for layer in chosen], way.layout)


@dataclass(frozen=True, slots=True)
class _Way:
    """How to quantize whatever is chosen."""

    layout: Layout
    method: str
    smooth: bool


def plan_int8(
    source: Bundle, graphs: Graphs, samples: Samples, options: PrecisionOptions, watch: Watch
) -> Int8Plan:
    """Calibrate, choose layers, quantize.

    Raises:
        UsageError: ``options.layers`` names no such group.
        UserError: the calibration set or the search's videos cannot be read.
    """
    some = list(samples.spread(PROBED_SAMPLES))
    watch.stage("calibrating", samples.searches + samples.templates)
    template = _calibrated(graphs.template, samples.all_templates(), [], options, watch)
    searched = _calibrated(graphs.search, samples.all_searches(), some, options, watch)
    names = group_names(searched.layers)
    groups = names if options.layers == "auto" else read_groups(options.layers, searched.layers)
    lost_below = source.manifest.tracking.lost_below
    watch.stage("ranges and smoothing", (len(METHODS) + 2) * len(some))
    error = StepError(graphs.search, some, lost_below, options.threads, watch)
    way, errors = _choose_way(searched, frozenset(groups), error, options, watch)
    found: SearchResult | None = None
    if options.layers == "auto":
        found = _search(source, graphs, template, searched, error, some[:TIMED_SAMPLES], way, options, watch)
        groups = list(found.chosen)
    macs = macs_by_group(searched.layers)

    def quantized(groups: Sequence[str]) -> Int8Plan:
        chosen = frozenset(groups)
        small = template.quantized(chosen if options.template else frozenset(), way)
        result = Graphs(small, searched.quantized(chosen, way))
        kept = None if found is None else replace(found, chosen=tuple(groups))
        return Int8Plan(result, tuple(groups), recipe_of(groups, result), kept, quantized)

    def recipe_of(groups: Sequence[str], result: Graphs) -> dict[str, Any]:
        return {
            "layout": options.layout,
            "layers": options.layers
            if options.layers in ("auto", "all", "backbone")
            else "chosen by the user",
            "groups": list(groups),
            "nodes": members(searched.layers, frozenset(groups)),
            "macs_share": round(sum(macs[g] for g in groups) / max(sum(macs.values()), 1), 4),
            "template": options.template,
            "method": way.method,
            "smoothed": way.smooth,
            "step_errors": {name: round(value, 5) for name, value in errors.items()},
            "step_error": round(error(result.search), 5),
            "weights": "symmetric per output channel",
            "activations": "symmetric per tensor" if options.layout == "portable" else "per tensor, UINT8",
            "budget": options.budget,
            "step_budget": options.step_budget,
        }

    return quantized(groups)


def _calibrated(
    model: onnx.ModelProto, feeds: Iterable[Feeds], some: list[Feeds], options: PrecisionOptions, watch: Watch
) -> _Ranged:
    """Ranges of everything that may be quantized, smoothed or not.

    Args:
        some: samples for the smoothing factors; none for a graph without linear layers.
    """
    layers = quantizable_layers(model)
    nodes = [layer.node for layer in layers]
    factors = smoothing_factors(model, layers, some, options.threads) if some else {}
    smoothed = smooth(model, layers, factors)
    wanted = activations(model, nodes) | activations(smoothed, nodes)
    return _Ranged(model, layers, measure_ranges(smoothed, feeds, wanted, options.threads, watch), factors)


def _choose_way(
    ranged: _Ranged, groups: frozenset[str], error: StepError, options: PrecisionOptions, watch: Watch
) -> tuple[_Way, dict[str, float]]:
    """The range method of the least step error when all these groups are quantized, and smoothing where it pays."""
    methods = list(METHODS) if options.method == "auto" else [options.method]
    errors = {}
    for method in methods:
        errors[method] = error(ranged.quantized(groups, _Way(options.layout, method, smooth=False)))
        watch.note(f"ranges by {method}: step error {errors[method]:.4f} with {len(groups)} groups in INT8")
    best = min(methods, key=lambda method: errors[method])
    plain = _Way(options.layout, best, smooth=False)
    if not any(layer.activation in ranged.factors for layer in ranged.layers if layer.group in groups):
        return plain, errors
    smoothed = _Way(options.layout, best, smooth=True)
    name = f"{best}, smoothed"
    errors[name] = error(ranged.quantized(groups, smoothed))
    helps = errors[name] < SMOOTHING_PAYS * errors[best]
    watch.note(f"linear layers smoothed: step error {errors[name]:.4f}, {'kept' if helps else 'left out'}")
    return (smoothed if helps else plain), errors


def _search(
    source: Bundle,
    graphs: Graphs,
    template: _Ranged,
    searched: _Ranged,
    error: StepError,
    timed: list[Feeds],
    way: _Way,
    options: PrecisionOptions,
    watch: Watch,
) -> SearchResult:
    """Run the search with real measurements; see ``sensitivity.py``."""
    names = group_names(searched.layers)
    macs = macs_by_group(searched.layers)

    def model(groups: frozenset[str]) -> onnx.ModelProto:
        return searched.quantized(groups, way)

    def work_left(groups: frozenset[str]) -> float:
        return 1.0 - sum(macs[g] for g in groups) / max(sum(macs.values()), 1)

    def measured_time(groups: frozenset[str]) -> float:
        return time_ratio(model(groups), graphs.search, timed, TIMED_ROUNDS)

    # Only one of the layouts is made for the CPU that can be timed here.
    cost: Callable[[frozenset[str]], float] = measured_time if options.layout == "cpu" else work_left
    with gate_data(options.search_data) as data:
        watch.stage(f"search: FP32 on {data.name}", data.frames)
        reference = track(source, "onnxruntime", data, options.threads, watch, options.search_window)

        def closed_loop(groups: frozenset[str]) -> ClosedLoop:
            small = template.quantized(groups if options.template else frozenset(), way)
            with tempfile.TemporaryDirectory(prefix="sttrack-int8-") as folder:
                trial = write_variant(
                    Path(folder),
                    source,
                    Graphs(small, model(groups)),
                    {"name": "int8"},
                    tensorrt=options.layout == "portable",
                    weights=False,
                )
                candidate = track(trial, "onnxruntime", data, options.threads, watch, options.search_window)
            agreement, _ = gate("int8", data, reference, candidate)
            changes = [s.auc - s.auc_reference for s in agreement.sequences]
            # One sequence says nothing about chance.
            spread = float(np.std(changes, ddof=1) / np.sqrt(len(changes))) if len(changes) > 1 else 0.0
            return ClosedLoop(agreement.mean_iou, agreement.auc - agreement.auc_reference, spread)

        def note(result: GroupResult | Step) -> None:
            if isinstance(result, Step):
                what = "kept" if result.kept else f"left out ({result.why})"
                watch.note(
                    f"+ {result.added}: cost {result.cost:.3f}, step error {result.step_error:.4f}, {what}"
                )

        attempts = 2 * len(names)
        frames = data.frames + PROBED_SAMPLES
        watch.stage(f"search: {len(names)} groups on {data.name}", attempts * frames)
        probe = Probe(lambda groups: error(model(groups)), cost, closed_loop)
        result = search(names, dict(macs), probe, options.budget, options.step_budget, note)
    watch.searched(result)
    return result
