"""``sttrack-bench``: how fast are bundles on engines, and what is that beside PyTorch?"""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import click
from rich.markup import escape

from sttrack_deploy.cli.bar import progress_bar
from sttrack_deploy.cli.bundle_choice import chosen_bundles, chosen_engines, subject_options
from sttrack_deploy.cli.common import (
    FILE,
    MOST_FRAMES,
    PATH,
    THREADS,
    check_reports,
    command,
    complain,
    console,
    emit_json,
    json_option,
    overwrite_option,
    say,
)
from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.evaluation.reporting.tables import plain_table
from sttrack_deploy.files import atomic_path
from sttrack_deploy.plotting import drawing
from sttrack_deploy.verification.benchmark.report import (
    CONTENTS,
    batch_cost,
    bench_document,
    latency,
    long_run,
    ratio,
)
from sttrack_deploy.verification.benchmark.run import (
    LEAST_FRAMES,
    BenchPlan,
    BenchResult,
    SubjectTimes,
    baseline_of,
    clip_of,
    engine_subjects,
    run_bench,
)
from sttrack_deploy.verification.benchmark.worker import (
    BLOCK_WARM_UP,
    COMPILED,
    STAGES,
)

__all__ = ["main", "show", "write_plot"]


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
    from sttrack_deploy.verification.benchmark.report import bench_plot

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


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@subject_options
@click.option("--source", type=PATH, help="Video or folder of images.  [default: the demo clip]")
@click.option("--init-box", metavar="X,Y,W,H", help="Target on its first frame.")
@click.option("--threads", type=THREADS, default=2, show_default=True, help="For engine and OpenCV.")
@click.option(
    "--frames",
    type=click.IntRange(LEAST_FRAMES, MOST_FRAMES),
    default=60,
    show_default=True,
    help="Frames of a turn.",
)
@click.option(
    "--rounds", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Turns of each engine."
)
@click.option(
    "--targets", metavar="1,2,4,8", help="Also time the search step with so many targets in a batch."
)
@click.option("--long", "long_frames", type=click.IntRange(0, MOST_FRAMES), default=0, metavar="FRAMES",
              help="Also track this long, for cost and memory against the frame index (10000, say).")  # fmt: skip
@click.option(
    "--baseline", metavar="ENGINE", help="What ratios are to.  [default: torch if measured, else the first]"
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Of the order in which engines take turns.",
)
@json_option
@click.option("--plot", type=FILE, help="Draw the times (PNG).")
@overwrite_option
@command
def main(
    bundles: tuple[Path, ...],
    engines: tuple[str, ...],
    engine_list: str | None,
    precisions: str | None,
    source: Path | None,
    init_box: str | None,
    threads: int,
    frames: int,
    rounds: int,
    targets: str | None,
    long_frames: int,
    baseline: str | None,
    seed: int,
    json_path: Path | None,
    plot: Path | None,
    overwrite: bool,
) -> None:
    """Time bundles on engines, taking turns on the same frames, with ratios and their intervals.

    Engines are those of sttrack-run and torch-compile. Each has a process of its own that does nothing while
    another one is timed.
    """
    check_reports((json_path, plot), overwrite=overwrite)
    if plot is not None:
        with drawing():  # refuses now, and not after the measurement, where matplotlib is missing
            pass
    names = chosen_engines(engines, engine_list, (COMPILED,))
    subjects = engine_subjects(chosen_bundles(bundles, precisions), names, threads)
    if baseline is not None and not any(baseline in (s.label, s.facts["engine"]) for s in subjects):
        raise UsageError(
            f"the baseline {baseline!r} is not measured; measured are {', '.join(s.label for s in subjects)}"
        )
    with clip_of(source, init_box, frames) as (clip, title):
        batch = _numbers(targets)
        plan = BenchPlan(clip, rounds, threads, batch, steps=min(20, frames), long=long_frames, seed=seed)
        with progress_bar(refresh=1.0) as bar:  # what is measured is not disturbed
            result = run_bench(subjects, plan, bar)
    base = baseline_of(result, baseline)
    show(result, base, title)
    emit_json(bench_document(result, base, title), json_path)
    write_plot(result, base, title, plot)
    best = min(result.subjects, key=lambda s: float(s.frame.mean()))
    path, engine = best.subject.facts["bundle"], best.subject.facts["engine"]
    engine = "torch" if engine == COMPILED else engine  # not an engine that anything else runs
    say(
        f"fastest: {best.subject.label}; next: sttrack-parity {shlex.quote(path)} --engine {engine} --data DIR"
    )
    if result.failures:
        raise UserError(f"not measured: {', '.join(result.failures)}")


def _numbers(text: str | None) -> tuple[int, ...]:
    """``1,2,4,8``; 1 is always among them, the others are compared with it."""
    if text is None:
        return ()
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 1 <= int(word) <= 64 for word in words):
        raise UsageError(f"--targets is numbers from 1 to 64 such as 1,2,4,8, not {text!r}")
    return tuple(sorted({1, *map(int, words)}))
