"""What evaluations and benchmarks print and write at their end."""

from __future__ import annotations

import datetime
import math
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.markup import escape

from sttrack_deploy.errors import MissingDependencyError, UserError
from sttrack_deploy.evaluation.comparison import Comparison
from sttrack_deploy.evaluation.confidence_summary import confidence_notes
from sttrack_deploy.evaluation.evaluation import Evaluation
from sttrack_deploy.evaluation.reporting.tables import (
    comparison_notes,
    comparison_tables,
    format_ratio,
    plain_table,
    report_notes,
    report_table,
)
from sttrack_deploy.evaluation.scores import Report
from sttrack_deploy.files import atomic_path
from sttrack_deploy.terminal.program import INTERRUPTED, complain, console, progress_bar, say
from sttrack_deploy.verification.benchmark.profile import EngineProfile
from sttrack_deploy.verification.benchmark.report import (
    CONTENTS,
    batch_cost,
    latency,
    long_run,
    ratio,
)
from sttrack_deploy.verification.benchmark.run import (
    BenchResult,
    SubjectTimes,
)
from sttrack_deploy.verification.benchmark.worker import (
    BLOCK_WARM_UP,
    STAGES,
)

__all__ = [
    "exit_by",
    "hardest_sequence",
    "require_pictures",
    "show_bench",
    "show_evaluations",
    "show_profiles",
    "write_pictures",
    "write_plot",
]

PROFILE_ROWS = 12


def show_evaluations(evaluations: Sequence[Evaluation], workers: int = 1) -> None:
    """Print one tracker's table and notes, or the comparison of several."""
    scored = _scored(evaluations)
    if len(scored) == 1:
        console.print(report_table(scored[0], console))
        for note in (*confidence_notes(scored[0]), *report_notes(scored[0])):
            say(note)
    elif scored:
        comparison = Comparison.of(scored)
        for table in comparison_tables(comparison, console):
            console.print(table)
        for note in comparison_notes(comparison):
            say(note)
    for report in (e.report for e in evaluations):
        if report.failures:
            complain(
                f"{report.label}: {len(report.failures)} of {report.planned} sequences failed: "
                f"{', '.join(failure.name for failure in report.failures)}"
            )
    if workers > 1 and any(not math.isnan(r.fps) for r in scored):
        say(f"these FPS are of {workers} workers side by side; measure speed with --workers 1")


def _scored(evaluations: Sequence[Evaluation]) -> list[Report]:
    """The reports that have anything to show, of one if nothing is common to all."""
    reports = [report for e in evaluations if (report := e.report).sequences]
    names = [{s.name for s in report.sequences} for report in reports]
    if reports and not set.intersection(*names):
        complain(
            "no sequence was scored for every tracker, so they are not compared; only the first is shown"
        )
        return reports[:1]
    return reports


def write_pictures(
    evaluations: Sequence[Evaluation], html: Path | None, plots: Path | None, worst: int
) -> None:
    """The HTML report and the plots, where asked for.

    Raises:
        UserError: matplotlib or jinja2 is missing, or the files cannot be written.
    """
    scored = _scored(evaluations)
    if not scored or (html is None and plots is None):
        return
    comparison = Comparison.of(scored)
    with progress_bar() as bar:
        bar.stage("plots")
        if plots is not None:
            from sttrack_deploy.evaluation.reporting.plots import write_plots

            files = write_plots(comparison, plots)
            say(f"made {len(files)} plots in {plots}")
        if html is not None:
            from sttrack_deploy.evaluation.reporting.html_report import write_html

            write_html(comparison, html, made=_now(), worst=worst, progress=bar)
            say(f"made {html} ({html.stat().st_size / 2**20:.1f} MiB)")


def require_pictures() -> None:
    """End before hours of tracking rather than after, if the report cannot be made.

    Raises:
        MissingDependencyError: matplotlib or jinja2 is not installed.
    """
    from importlib.util import find_spec

    for package in ("matplotlib", "jinja2"):
        if find_spec(package) is None:
            raise MissingDependencyError(
                package, "a report with plots", "pip install 'sttrack-deploy[report]'"
            )


def hardest_sequence(report: Report, bundle: Path | None, engine_words: list[str]) -> str:
    """The command that shows the sequence with the lowest headline score."""
    protocol = report.protocol
    heading = protocol.headings[protocol.headline]
    worst = min(report.sequences, key=lambda s: _lowest(s.scores[protocol.name][protocol.headline]))
    box = ",".join(f"{value:g}" for value in worst.sequence.truth[0])
    words = ["sttrack-run", str(worst.sequence.source), "--init-box", box]
    words += [] if bundle is None else ["--bundle", str(bundle)]
    score = format_ratio(worst.scores[protocol.name][protocol.headline])
    return f"next, see the hardest one ({worst.name}, {heading} {score}): {shlex.join(words + engine_words)}"


def _lowest(value: float) -> float:
    """NaN (nothing counted) is not hard."""
    return math.inf if math.isnan(value) else value


def _now() -> str:
    """Today, unless SOURCE_DATE_EPOCH asks for a reproducible report."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    zone = datetime.timezone.utc
    try:
        moment = datetime.datetime.fromtimestamp(int(epoch), zone) if epoch else datetime.datetime.now(zone)
    except (ValueError, OverflowError, OSError) as error:
        raise UserError(f"SOURCE_DATE_EPOCH={epoch} is not a time in seconds since 1970; unset it") from error
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def exit_by(evaluations: Iterable[Evaluation]) -> None:
    """End the command with the exit code for an interruption or a failed sequence; return if there was none."""
    evaluations = list(evaluations)
    if any(e.interrupted for e in evaluations):
        sys.exit(INTERRUPTED)
    if any(e.report.failures for e in evaluations):
        sys.exit(1)


def show_bench(result: BenchResult, baseline: SubjectTimes, clip: str) -> None:
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


def show_profiles(profiles: Sequence[EngineProfile]) -> None:
    """A table for each engine: its operators by kind and kernel, the longest first."""
    for profile in profiles:
        if profile.reason:
            say(f"{profile.label}: no profile: {profile.reason}")
            continue
        count = len(profile.operators)
        table = plain_table(
            f"{profile.label}: {profile.milliseconds:.2f} ms in {count} operators of a search step"
        )
        for heading in ("operator", "kernel"):
            table.add_column(heading)
        for heading in ("count", "ms", "share"):
            table.add_column(heading, justify="right")
        groups = profile.groups()
        rows = [(one.kind, one.kernel, one.count, one.milliseconds, one.share) for one in groups]
        if len(rows) > PROFILE_ROWS:
            count, times, share = (
                sum(values) for values in zip(*(row[2:] for row in rows[PROFILE_ROWS:]), strict=True)
            )
            rows[PROFILE_ROWS:] = [("others", "", int(count), times, share)]
        for kind, kernel, number, milliseconds, part in rows:
            table.add_row(escape(kind), escape(kernel), str(number), f"{milliseconds:.3f}", f"{part:.1%}")
        console.print(table)


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
