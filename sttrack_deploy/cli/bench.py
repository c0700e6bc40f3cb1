"""``sttrack-bench``: how fast are bundles on engines, and what is that beside PyTorch?"""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.records import parse_integer
from sttrack_deploy.terminal.help import GroupedCommand, heading
from sttrack_deploy.terminal.options import (
    ENGINE,
    RESULTS,
    check_reports,
    chosen_bundles,
    chosen_engines,
    emit_json,
    json_option,
    overwrite_option,
    subject_options,
)
from sttrack_deploy.terminal.program import command, progress_bar, say
from sttrack_deploy.terminal.reports import show_bench, show_profiles, write_plot
from sttrack_deploy.terminal.types import FILE, MOST_FRAMES, PATH, THREADS, Integer
from sttrack_deploy.verification.benchmark.profile import profile_engines, profile_facts
from sttrack_deploy.verification.benchmark.report import (
    bench_document,
)
from sttrack_deploy.verification.benchmark.run import (
    LEAST_FRAMES,
    BenchPlan,
    baseline_of,
    clip_of,
    engine_subjects,
    run_bench,
)
from sttrack_deploy.verification.benchmark.worker import (
    COMPILED,
)

__all__ = ["main"]


@click.command(cls=GroupedCommand)
@subject_options
@heading("Input")
@click.option("--source", type=PATH, help="Video or folder of images.  [default: the demo clip]")
@click.option("--init-box", metavar="X,Y,W,H", help="Target on its first frame.")
@heading(ENGINE)
@click.option(
    "--threads", type=THREADS, default=2, show_default=True, help="CPU threads of the engine and of OpenCV."
)
@heading("Timing")
@click.option(
    "--frames",
    type=Integer(LEAST_FRAMES, MOST_FRAMES),
    default=60,
    show_default=True,
    help="Frames per turn.",
)
@click.option("--rounds", type=Integer(1, 10_000), default=10, show_default=True, help="Turns per engine.")
@click.option(
    "--targets", metavar="1,2,4,8", help="Also time the search step with so many targets in a batch."
)
@heading("More measurements", more=True)
@click.option("--long", "long_frames", type=Integer(0, MOST_FRAMES), default=0, metavar="FRAMES",
              help="Also track this long, for cost and memory against the frame index (10000, say).")  # fmt: skip
@click.option(
    "--baseline",
    metavar="ENGINE",
    help="Engine that ratios refer to.  [default: torch if measured, else the first]",
)
@click.option(
    "--seed",
    type=Integer(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Seed of the order in which engines take turns.",
)
@heading("Timing")
@click.option("--profile", is_flag=True, help="Also show which operators of each engine its time goes to.")
@json_option
@heading(RESULTS)
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
    profile: bool,
    json_path: Path | None,
    plot: Path | None,
    overwrite: bool,
) -> None:
    """Time bundles on engines, taking turns on the same frames, with ratios and their intervals.

    Engines are those of sttrack-run and torch-compile. Each has a process of its own that does nothing while
    another one is timed.
    """
    check_reports((json_path,), plot=plot, overwrite=overwrite, inputs=(*bundles, source))
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
            measured = [times.subject for times in result.subjects] if profile else []
            profiles = profile_engines(measured, clip, threads, bar)
    base = baseline_of(result, baseline)
    show_bench(result, base, title)
    show_profiles(profiles)
    document = bench_document(result, base, title)
    emit_json({**document, "profiles": profile_facts(profiles)} if profile else document, json_path)
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
    try:
        numbers = [parse_integer(word.strip()) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(1 <= number <= 64 for number in numbers):
        raise UsageError(f"--targets is numbers from 1 to 64 such as 1,2,4,8, not {text!r}")
    return tuple(sorted({1, *numbers}))
