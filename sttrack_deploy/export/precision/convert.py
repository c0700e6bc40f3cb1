"""From an FP32 bundle to one of another precision, in a straight line: measure, plan, apply, gate, write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sttrack_deploy.bundle import Bundle, open_bundle
from sttrack_deploy.errors import UserError
from sttrack_deploy.export.precision.bundle_writer import write_variant
from sttrack_deploy.export.precision.gate import GateResult, Reference, gate, gate_data, track_reference
from sttrack_deploy.export.precision.job import Job, PrecisionOptions, open_job
from sttrack_deploy.export.precision.measurements import time_ratio
from sttrack_deploy.export.precision.plan import Converted, Plan, apply, make_plan, measure
from sttrack_deploy.export.precision.sensitivity import SearchResult, write_report
from sttrack_deploy.files import atomic_directory
from sttrack_deploy.progress import SILENT, Progress

__all__ = ["Outcome", "PrecisionOptions", "convert_bundle"]

TIMED_SAMPLES = 6


@dataclass(frozen=True, slots=True)
class Outcome:
    """A written bundle and what was measured.

    Attributes:
        time_ratio: time of the search graph over FP32's, in ONNX Runtime on this CPU, one thread.
        passed: the gate.
        detail: the gate's line.
        search: what the sensitivity search measured, if there was one.
    """

    bundle: Bundle
    time_ratio: float
    passed: bool
    detail: str
    recipe: Mapping[str, Any]
    search: SearchResult | None


@dataclass(frozen=True, slots=True)
class Gated:
    """Converted graphs and what the gate said.

    Attributes:
        failed_before: the gate's lines for plans that were given up.
    """

    converted: Converted
    result: GateResult
    failed_before: tuple[str, ...]


def convert_bundle(
    source: Bundle, out: Path, options: PrecisionOptions, progress: Progress = SILENT
) -> Outcome:
    """Write the bundle of another precision; it appears under its name only once everything is done.

    Raises:
        UsageError: the options contradict each other.
        UserError: the source is not FP32, the calibration set is not its, or the result fails its gate (unless
            ``options.force``); nothing is written then.
    """
    job = open_job(source, out, options, progress)
    plan = make_plan(measure(job))
    with atomic_directory(out) as folder, gate_data(options.gate_data) as data:
        reference = track_reference(source, data, options.threads, progress)
        gated = _gate(plan, reference, folder)
        if not gated.result.passed and not options.force:
            raise UserError(
                f"{options.precision} fails its gate on {data.name}: {gated.result.verdict.detail}; nothing was "
                f"written to {out} (--force writes it all the same)"
            )
        ratio = _write(gated, folder)
    bundle = open_bundle(out)
    verdict, found = gated.result.verdict, gated.converted.plan.found
    return Outcome(bundle, ratio, verdict.passed, verdict.detail, bundle.manifest.precision, found)


def _gate(plan: Plan, reference: Reference, folder: Path) -> Gated:
    """Closed loop of what the plan makes; where that fails, of the plan with one group less in INT8, and so on."""
    job = plan.measured.job
    failed: list[str] = []
    while True:
        converted = apply(plan)
        trial = _written(converted, folder, {"name": job.options.precision}, weights=False)
        result = gate(trial, reference, job.options.threads, job.progress)
        smaller = None if result.passed or job.options.force else plan.without_last()
        if smaller is None:
            return Gated(converted, result, tuple(failed))
        gone = ", ".join(sorted(set(plan.groups) - set(smaller.groups)))
        detail = result.verdict.detail
        job.progress.note(f"gate failed with {len(plan.groups)} groups: {detail}; without {gone}")
        failed.append(detail)
        plan = smaller


def _write(gated: Gated, folder: Path) -> float:
    """The bundle with its recipe, and the report of a search.

    Returns:
        Time of the search graph over FP32's.
    """
    converted = gated.converted
    job, plan = converted.plan.measured.job, converted.plan
    ratio = time_ratio(converted.graphs.search, job.graphs.search, list(job.samples.spread(TIMED_SAMPLES)))
    recipe = converted.recipe() | {
        "cpu_time_ratio": round(ratio, 3),
        "gate": {**gated.result.facts, "failed_before": list(gated.failed_before)},
    }
    _written(converted, folder, recipe, weights=True)
    if plan.found is not None and plan.way is not None:
        write_report(folder, plan.found, plan.way.layout)
    return ratio


def _written(converted: Converted, folder: Path, recipe: Mapping[str, Any], *, weights: bool) -> Bundle:
    job: Job = converted.plan.measured.job
    return write_variant(
        folder, job.source, converted.graphs, recipe, tensorrt=job.options.for_tensorrt, weights=weights
    )
