"""From an FP32 bundle to one of another precision, in a straight line: measure, plan, apply, gate, write."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sttrack_deploy.bundle import Bundle, open_bundle
from sttrack_deploy.errors import UserError
from sttrack_deploy.export.precision import fp16
from sttrack_deploy.export.precision.bundle_writer import Graphs, write_variant
from sttrack_deploy.export.precision.gate_run import GateResult, Reference, gate, gate_data, track_reference
from sttrack_deploy.export.precision.job import PrecisionOptions, check_conversion, open_job
from sttrack_deploy.export.precision.layers import macs_by_group, members
from sttrack_deploy.export.precision.measurements import time_ratio
from sttrack_deploy.export.precision.plan import (
    MAIN,
    TENSORRT,
    Plan,
    Way,
    make_plan,
    measure,
    quantized_graphs,
)
from sttrack_deploy.export.precision.sensitivity import SearchResult, write_report
from sttrack_deploy.export.validation import check_real_build
from sttrack_deploy.files import atomic_directory
from sttrack_deploy.progress import SILENT, Progress

__all__ = ["Outcome", "PrecisionOptions", "convert_bundle"]

TIMED_SAMPLES = 6


@dataclass(frozen=True, slots=True)
class Converted:
    """A plan and the graphs made by it.

    Attributes:
        layouts: by the name in the manifest; the main graphs' is empty.
    """

    plan: Plan
    layouts: Mapping[str, Graphs]

    @property
    def graphs(self) -> Graphs:
        return self.layouts[MAIN]

    @property
    def others(self) -> dict[str, Graphs]:
        """All but the main ones."""
        return {name: graphs for name, graphs in self.layouts.items() if name != MAIN}

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
        chosen = frozenset(plan.groups)
        quantized = {
            name or "main": plan.measured.search.quantized(chosen, way, laid)
            for name, laid in plan.layouts.items()
        }
        return {
            "layouts": {
                name or "main": {
                    "weights": f"symmetric{', a scale for each output channel' if laid.per_channel else ''}",
                    "activations": "INT8, symmetric"
                    if laid.layout == "portable"
                    else "INT8, UINT8 after a ReLU",
                    "step_error": round(plan.measured.error(quantized[name or "main"]), 5),
                }
                for name, laid in plan.layouts.items()
            },
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
            "budget": options.budget,
            "step_budget": options.step_budget,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """A written bundle and what was measured.

    Attributes:
        time_ratio: time of the search graph over FP32's, in ONNX Runtime on this CPU, one thread; ``None`` where that
            does not compute in the precision.
        passed: the gate.
        detail: the gate's line for each layout of the graphs.
        real_build: what TensorRT for RTX said, where it is installed and was asked.
        search: what the sensitivity search measured, if there was one.
    """

    bundle: Bundle
    time_ratio: float | None
    passed: bool
    detail: str
    recipe: Mapping[str, Any]
    real_build: str
    search: SearchResult | None


@dataclass(frozen=True, slots=True)
class Gated:
    """Converted graphs and what the gate said.

    Attributes:
        results: by layout.
        failed_before: the gate's lines for plans that were given up.
    """

    converted: Converted
    results: Mapping[str, GateResult]
    failed_before: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return all(result.passed for result in self.results.values())

    @property
    def detail(self) -> str:
        """What was measured; of a gate that failed, only of the layouts that did."""
        shown = {name: r for name, r in self.results.items() if self.passed or not r.passed}
        return "; ".join(
            f"{f'layout {name}: ' if name else ''}{result.verdict.detail}" for name, result in shown.items()
        )

    @property
    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        main, *others = self.results
        return {
            **self.results[main].facts,
            "passed": self.passed,
            "failed_before": list(self.failed_before),
            **({"layouts": {name: self.results[name].facts for name in others}} if others else {}),
        }


@dataclass(frozen=True, slots=True)
class Written:
    """A complete folder."""

    time_ratio: float | None
    real_build: str


def convert_bundle(
    source: Bundle, out: Path, options: PrecisionOptions, progress: Progress = SILENT
) -> Outcome:
    """Write the bundle of another precision; it appears under its name only once everything is done.

    Raises:
        UsageError: the options contradict each other.
        UserError: the source is not FP32, the calibration set is not its, or the result fails its gate (unless
            ``options.force``); nothing is written then.
    """
    check_conversion(source, out, options)
    with atomic_directory(out) as folder, contextlib.ExitStack() as stack:
        plan = make_plan(measure(open_job(source, options, progress)))
        data = stack.enter_context(gate_data(options.gate_data))
        gated = _gate(plan, track_reference(source, data, options.threads, progress), folder)
        if not gated.passed and not options.force:
            raise UserError(
                f"{options.precision} fails its gate on {data.name}: {gated.detail}; nothing was written to {out} "
                "(--force writes it all the same)"
            )
        written = _write(gated, folder)
    bundle = open_bundle(out)
    return Outcome(
        bundle,
        written.time_ratio,
        gated.passed,
        gated.detail,
        bundle.manifest.precision,
        written.real_build,
        gated.converted.plan.found,
    )


def apply(plan: Plan) -> Converted:
    """Make the graphs."""
    measured = plan.measured
    if plan.way is None:
        return Converted(plan, {MAIN: _halved(measured.job.graphs, plan)})
    made = {}
    for name, laid in plan.layouts.items():
        graphs = quantized_graphs(measured, frozenset(plan.groups), plan.way, laid)
        made[name] = _halved(graphs, plan) if laid.layout == "portable" else graphs
    return Converted(plan, made)


def _halved(graphs: Graphs, plan: Plan) -> Graphs:
    """FP16 of what is still FP32, where the plan says so."""
    if plan.fp16 is None:
        return graphs
    halves = []
    for model, maxima in (
        (graphs.template, plan.measured.template.maxima),
        (graphs.search, plan.measured.search.maxima),
    ):
        found = fp16.parts(model)
        keep = [node for name in plan.fp16.parts for node in found.get(name, [])]
        halves.append(fp16.convert(model, {*keep, *fp16.wide_nodes(model, maxima)}))
    return Graphs(*halves)


def _gate(plan: Plan, reference: Reference, folder: Path) -> Gated:
    """Closed loop of what the plan makes; where that fails, of the plan with one group less in INT8, and so on."""
    job = plan.measured.job
    failed: list[str] = []
    while True:
        converted = apply(plan)
        gated = Gated(converted, _gate_layouts(converted, reference, folder), tuple(failed))
        smaller = None if gated.passed or job.options.force else plan.without_last()
        if smaller is None:
            return gated
        gone = ", ".join(sorted(set(plan.groups) - set(smaller.groups)))
        job.progress.note(f"gate failed with {len(plan.groups)} groups: {gated.detail}; without {gone}")
        failed.append(gated.detail)
        plan = smaller


def _gate_layouts(converted: Converted, reference: Reference, folder: Path) -> dict[str, GateResult]:
    """The closed loop with the graphs of each layout, up to one that fails.

    That for TensorRT runs in ONNX Runtime too, which computes what its Q/DQ pairs and types say.
    """
    job, results = converted.plan.measured.job, {}
    for name, graphs in converted.layouts.items():
        precision = "int8-fp16" if name == TENSORRT else job.options.precision
        trial = write_variant(
            folder,
            job.source,
            graphs,
            {"name": precision},
            tensorrt=name == TENSORRT or job.options.layout == "portable",
            weights=False,
        )
        results[name] = gate(trial, reference, job.options.threads, job.progress)
        if not results[name].passed and not job.options.force:
            break
    return results


def _write(gated: Gated, folder: Path) -> Written:
    """The bundle with its recipe, and the report of a search.

    Raises:
        UserError: TensorRT for RTX refuses graphs that are meant for it (unless ``options.force``).
    """
    converted, plan = gated.converted, gated.converted.plan
    job = plan.measured.job
    recipe = {**converted.recipe(), "gate": gated.facts}
    ratio = None
    if job.options.precision != "bf16":
        samples = list(job.samples.spread(TIMED_SAMPLES))
        ratio = time_ratio(converted.graphs.search, job.graphs.search, samples)
        recipe["cpu_time_ratio"] = round(ratio, 3)
    bundle = write_variant(
        folder,
        job.source,
        converted.graphs,
        recipe,
        layouts=converted.others,
        tensorrt=job.options.layout == "portable",
    )
    if plan.found is not None:
        write_report(folder, plan.found)
    built = check_real_build(bundle) if job.options.real_build and job.options.rounds_graphs else None
    if built is not None and not built.passed and not job.options.force:
        raise UserError(f"{built.name}: no: {built.detail}; report this with the command you typed")
    return Written(ratio, "" if built is None else f"{built.name}: {built.detail}")
