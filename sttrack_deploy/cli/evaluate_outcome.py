"""What ``sttrack-eval`` shows and writes at its end."""

from __future__ import annotations

import datetime
import math
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from sttrack_deploy import __version__
from sttrack_deploy.cli.common import complain, console, say
from sttrack_deploy.cli.tracker_evaluation import Evaluation
from sttrack_deploy.errors import MissingDependencyError
from sttrack_deploy.evaluation.comparison import Comparison
from sttrack_deploy.evaluation.confidence_summary import confidence_notes, summarize_confidence
from sttrack_deploy.evaluation.report import Report, without_nan, write_json
from sttrack_deploy.evaluation.reporting.comparison_tables import comparison_notes, comparison_tables
from sttrack_deploy.evaluation.reporting.tables import format_ratio, report_notes, report_table

__all__ = [
    "REPORT_SCHEMA",
    "emit_json",
    "hardest_sequence",
    "report_document",
    "require_pictures",
    "show",
    "write_pictures",
]

REPORT_SCHEMA = 2
"""Of the JSON."""


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


def report_document(evaluations: Sequence[Evaluation], dataset: str) -> dict[str, Any]:
    """Everything for programs: each tracker's report, and the comparison if there are several."""
    reports, scored = [e.report for e in evaluations], _scored(evaluations)
    return {
        "schema": REPORT_SCHEMA,
        "sttrack_deploy": __version__,
        "dataset": dataset,
        "protocol": reports[0].protocol.name,
        "trackers": [{**report.to_dict(), "confidence": _confidence(report)} for report in reports],
        "comparison": Comparison.of(scored).to_dict() if len(scored) > 1 else None,
    }


def _confidence(report: Report) -> Any:
    summary = summarize_confidence(report)
    return None if summary is None else without_nan(summary.to_dict())


def emit_json(document: Any, path: Path | None) -> None:
    """Write a document where ``--json`` says; nothing without it."""
    if path is None:
        return
    if str(path) == "-":
        click.echo(write_json(document, None), nl=False)
        return
    write_json(document, path)
    say(f"made {path}")


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
    with console.status("plots") as status:
        if plots is not None:
            from sttrack_deploy.evaluation.reporting.plots import write_plots

            files = write_plots(comparison, plots)
            say(f"made {len(files)} plots in {plots}")
        if html is not None:
            from sttrack_deploy.evaluation.reporting.html_report import write_html

            write_html(comparison, html, made=_now(), worst=worst, progress=status.update)
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
    moment = datetime.datetime.fromtimestamp(int(epoch), zone) if epoch else datetime.datetime.now(zone)
    return moment.strftime("%Y-%m-%d %H:%M UTC")
