"""From an FP32 bundle to one of another precision: calibrate, choose, convert, gate, write."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sttrack_deploy.bundle import Bundle, check_replaceable, open_bundle
from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.export.precision import fp16
from sttrack_deploy.export.precision.bundle_writer import Graphs, load_graphs, write_variant
from sttrack_deploy.export.precision.fp16_choice import choose_parts
from sttrack_deploy.export.precision.gate import Gated, gate_data, track
from sttrack_deploy.export.precision.int8_choice import Int8Plan, plan_int8
from sttrack_deploy.export.precision.options import Outcome, PrecisionOptions, Watch
from sttrack_deploy.export.precision.ranges import measure_ranges
from sttrack_deploy.export.precision.samples import Samples, calibration_samples, demo_samples
from sttrack_deploy.export.precision.sensitivity_report import write_report
from sttrack_deploy.export.precision.timing import time_ratio
from sttrack_deploy.files import atomic_directory

__all__ = ["convert_bundle"]

FP16_SAMPLES = 64
TIMED_SAMPLES = 6


def convert_bundle(source: Bundle, out: Path, options: PrecisionOptions, watch: Watch) -> Outcome:
    """Write the bundle of another precision; it appears under its name only once everything is done.

    Raises:
        UsageError: the options contradict each other.
        UserError: the source is not FP32, the calibration set is not its, or the result fails its gate (unless
            ``options.force``); nothing is written then.
    """
    _check(source, out, options)
    graphs = load_graphs(source)
    samples = _samples(source, options, watch)
    recipe: dict[str, Any] = {"name": options.precision, "calibration": dict(samples.facts)}
    plan: Int8Plan | None = None
    if options.precision != "fp16":
        plan = plan_int8(source, graphs, samples, options, watch)
        if not plan.groups:
            raise UserError(
                f"no layer of {source.path} can be quantized within the budget of {options.budget} AUC with a gain: "
                "raise --budget, give more videos with --search-data, or name the layers with --layers"
            )
    halve: Callable[[Graphs], Graphs] = _unchanged
    if options.precision != "int8":
        halve = _halving(graphs, samples, source.manifest.tracking.lost_below, options, watch, recipe)
    portable = options.precision == "fp16" or options.layout == "portable"
    with atomic_directory(out) as folder, gate_data(options.gate_data) as data:
        watch.stage(f"gate: PyTorch on {data.name}", data.frames)
        gated = Gated(options.precision, data, track(source, "torch", data, options.threads, watch))
        failed: list[str] = []
        while True:
            converted = halve(graphs if plan is None else plan.graphs)
            trial = write_variant(folder, source, converted, recipe, tensorrt=portable)
            watch.stage(f"gate: {options.precision} on {data.name}", data.frames)
            passed, facts = gated.judge(trial, options.threads, watch)
            smaller = plan.without_last() if plan is not None and not passed and not options.force else None
            if smaller is None or plan is None:
                break
            gone = ", ".join(sorted(set(plan.groups) - set(smaller.groups)))
            watch.note(f"gate failed with {len(plan.groups)} groups: {facts['detail']}; without {gone}")
            failed.append(str(facts["detail"]))
            plan = smaller
        if not passed and not options.force:
            raise UserError(
                f"{options.precision} fails its gate on {facts['data']}: {facts['detail']}; nothing was written to "
                f"{out} (--force writes it all the same)"
            )
        ratio = time_ratio(converted.search, graphs.search, list(samples.spread(TIMED_SAMPLES)))
        recipe |= {"cpu_time_ratio": round(ratio, 3), "gate": {**facts, "failed_before": failed}}
        if plan is not None:
            recipe["int8"] = plan.recipe
        bundle = write_variant(folder, source, converted, recipe, tensorrt=portable, weights=False)
        if plan is not None and plan.search is not None:
            write_report(folder, plan.search, options.layout)
    return Outcome(open_bundle(out), ratio, passed, str(facts["detail"]), bundle.manifest.precision)


def _unchanged(graphs: Graphs) -> Graphs:
    return graphs


def _check(source: Bundle, out: Path, options: PrecisionOptions) -> None:
    if options.precision != "fp16" and options.calibration is None:
        raise UsageError(
            f"{options.precision} needs recorded inputs: "
            f"sttrack-calibrate VIDEOS --bundle {shlex.quote(str(source.path))} --out SET, then --calib SET"
        )
    if options.precision == "int8-fp16" and options.layout == "cpu":
        raise UsageError(
            "int8-fp16 is for GPUs and has the portable layout; leave --qdq cpu out, or choose int8"
        )
    if out.resolve() == source.path.resolve():
        raise UsageError(f"--out {out} is the bundle that is converted; choose another folder")
    check_replaceable(out)


def _samples(source: Bundle, options: PrecisionOptions, watch: Watch) -> Samples:
    if options.calibration is not None:
        return calibration_samples(options.calibration, source)
    watch.stage("tracking the demo clip for calibration", 0)
    return demo_samples(source)


def _halving(
    reference: Graphs,
    samples: Samples,
    sure_above: float,
    options: PrecisionOptions,
    watch: Watch,
    recipe: dict[str, Any],
) -> Callable[[Graphs], Graphs]:
    """Makes FP16 of what is still FP32, with the parts in FP32 that the measurement asks for."""
    some = list(samples.spread(FP16_SAMPLES))
    watch.stage("magnitudes of all tensors", len(some) + samples.templates)
    maxima = [
        {
            name: r.absmax
            for name, r in measure_ranges(model, feeds, threads=options.threads, progress=watch).items()
        }
        for model, feeds in ((reference.template, samples.all_templates()), (reference.search, some))
    ]
    choice = choose_parts(reference.search, maxima[1], some, sure_above, options.threads, watch)
    recipe["fp16"] = choice.recipe

    def halve(graphs: Graphs) -> Graphs:
        halved = []
        for model, largest in ((graphs.template, maxima[0]), (graphs.search, maxima[1])):
            found = fp16.parts(model)
            keep = [node for name in choice.parts for node in found.get(name, [])]
            halved.append(fp16.convert(model, {*keep, *fp16.wide_nodes(model, largest)}))
        return Graphs(*halved)

    return halve
