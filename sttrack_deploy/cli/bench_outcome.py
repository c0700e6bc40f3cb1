"""What ``sttrack-bench`` shows and writes at its end."""

from __future__ import annotations

import math
from pathlib import Path

from rich.markup import escape

from sttrack_deploy.cli.common import complain, console, say
from sttrack_deploy.evaluation.reporting.tables import plain_table
from sttrack_deploy.files import atomic_path
from sttrack_deploy.verification.bench_document import CONTENTS
from sttrack_deploy.verification.bench_figures import batch_cost, latency, long_run, ratio
from sttrack_deploy.verification.bench_run import BenchResult, SubjectTimes
from sttrack_deploy.verification.bench_worker import BLOCK_WARM_UP, STAGES

__all__ = ["show", "write_plot"]


def show(result: BenchResult, baseline: SubjectTimes, clip: str) -> None:
    """Tables for people, what is inside the times, and how quiet the machine was."""
    plan = result.plan
    subjects = result.subjects
    counted = subjects[0].stages.shape[1]
    title = f"end to end on {clip}: {plan.rounds} rounds of {counted} frames, {plan.threads} thread(s)"
    title += f"; speed: times that of {baseline.subject.label}"
    speed = "speed [95 %]"
    table = plain_table(title)
    table.add_column("engine", no_wrap=True)
    for heading in ("p50 ms", "p95", "p99", "FPS", speed, "MiB"):
        table.add_column(heading, justify="right", min_width=17 if heading == speed else None)
    for s in subjects:
        whole = latency(s.frame)
        table.add_row(
            escape(s.subject.label),
            *(f"{value:.2f}" for value in (whole.p50, whole.p95, whole.p99)),
            f"{1e3 / whole.mean:.1f}",
            escape(f"{ratio(baseline.frame, s.frame)}"),
            f"{s.memory[-1]:.0f}",
        )
    console.print(table)
    _show_stages(result, baseline)
    _show_targets(result)
    _show_long(result)
    for label, reason in result.failures.items():
        complain(f"{label} was not run: {reason}")
    say("what is inside: " + "; ".join(f"{name}: {text}" for name, text in CONTENTS.items()))
    say(
        f"engines take turns, each in its own idle process; the first {BLOCK_WARM_UP} frames of a turn are not counted"
    )
    _show_machine(result)


def write_plot(result: BenchResult, baseline: SubjectTimes, clip: str, path: Path | None) -> None:
    """The plot as PNG; nothing without a path.

    Raises:
        UserError: it cannot be written.
    """
    if path is None:
        return
    from sttrack_deploy.verification.bench_plot import bench_plot

    with atomic_path(path) as temporary:
        temporary.write_bytes(bench_plot(result, baseline, clip).png())
    say(f"made {path}")


def _show_stages(result: BenchResult, baseline: SubjectTimes) -> None:
    table = plain_table(f"stages; speed: times that of {baseline.subject.label}")
    table.add_column("engine", no_wrap=True)
    table.add_column("stage", no_wrap=True)
    for heading in ("p50 ms", "p95", "p99", "FPS", "speed [95 %]"):
        table.add_column(heading, justify="right", min_width=17 if "speed" in heading else None)
    for s in result.subjects:
        stages = [(stage, s.stages[:, :, i], baseline.stages[:, :, i]) for i, stage in enumerate(STAGES)]
        stages.insert(STAGES.index("search"), ("template", s.template, baseline.template))
        name = escape(s.subject.label)
        for stage, seconds, base in stages:
            found = latency(seconds)
            if math.isnan(found.p50):
                continue
            compared = stage in ("template", "search")
            table.add_row(
                name,
                stage,
                *(f"{value:.2f}" for value in (found.p50, found.p95, found.p99)),
                f"{1e3 / found.mean:.1f}" if found.mean > 0 else "",
                escape(str(ratio(base, seconds))) if compared else "",
            )
            name = ""
    console.print(table)


def _show_targets(result: BenchResult) -> None:
    measured = [s for s in result.subjects if len(s.batches) > 1]
    if measured:
        numbers = sorted({n for s in measured for n in s.batches})
        table = plain_table("search step: ms, cost over as many single ones")
        table.add_column("engine", no_wrap=True)
        for n in numbers:
            table.add_column(f"{n}", justify="right")
        for s in measured:
            cells = []
            for n in numbers:
                cost = batch_cost(s, n)
                cells.append(
                    "-"
                    if n not in s.batches
                    else f"{latency(s.batches[n]).p50:.2f}"
                    + (f"\n{escape(str(cost))}" if cost and n > 1 else "")
                )
            table.add_row(escape(s.subject.label), *cells)
        console.print(table)
    for label in result.fixed if result.plan.targets else ():
        say(
            f"{label}: its bundle has a fixed batch; export one with --batch dynamic to measure several targets"
        )


def _show_long(result: BenchResult) -> None:
    for s in result.subjects:
        found = long_run(s)
        if found is None:
            continue
        say(
            f"{s.subject.label}: {len(s.long)} frames: {found.first:.2f} ms in the first tenth of them, "
            f"{found.last:.2f} ms in the last ({found.change:+.1%}); memory {found.growth:+.2f} MiB for 1,000 frames"
        )


def _show_machine(result: BenchResult) -> None:
    m = result.machine
    parts = [f"{m.cpus} CPUs"]
    if not math.isnan(m.others):
        parts += [f"load {m.load:.2f} before", f"other processes {m.others:.1%} of the CPU time"]
        parts += [f"waiting engines {m.idle_workers:.1%}"]
    parts += [f"spin test p95 / median {m.before.spread:.2f} before, {m.after.spread:.2f} after"]
    say("machine: " + ", ".join(parts))
    for warning in m.warnings:
        complain(f"not a quiet machine: {warning}")
