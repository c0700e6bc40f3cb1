"""What ``sttrack-eval`` shows and writes at its end."""

from __future__ import annotations

import datetime
import math
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from sttrack_deploy.cli.bar import progress_bar
from sttrack_deploy.cli.common import INTERRUPTED, complain, console, say
from sttrack_deploy.errors import MissingDependencyError, UserError
from sttrack_deploy.evaluation.comparison import Comparison
from sttrack_deploy.evaluation.confidence_summary import confidence_notes
from sttrack_deploy.evaluation.evaluation import Evaluation
from sttrack_deploy.evaluation.report import Report
from sttrack_deploy.evaluation.reporting.tables import (
    comparison_notes,
    comparison_tables,
    format_ratio,
    report_notes,
    report_table,
)

__all__ = [
    "exit_by",
    "hardest_sequence",
    "require_pictures",
    "show",
    "write_pictures",
]


def show(evaluations: Sequence[Evaluation], workers: int = 1) -> None:
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
