"""A tracker's report as a table for a terminal, and the lines below it."""

from __future__ import annotations

import math
from collections.abc import Callable

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from sttrack_deploy.evaluation.report import FPS_NOTE, Report

__all__ = ["format_rate", "format_ratio", "narrowed", "plain_table", "report_notes", "report_table"]


def plain_table(title: str, *, footer: bool = False) -> Table:
    """An empty table in the style of all of them; the title may hold any text."""
    return Table(
        title=escape(title),
        title_justify="left",
        box=box.SIMPLE,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),  # all columns fit into 80 characters
        show_footer=footer,
    )


def narrowed(build: Callable[[int], Table], levels: int, console: Console) -> Table:
    """The first of ``levels`` tables that fits the console without cutting a word, or the last."""
    unlimited = console.options.update(width=10_000)
    for level in range(levels - 1):
        table = build(level)
        if Measurement.get(console, unlimited, table).minimum <= console.width:
            return table
    return build(levels - 1)


def report_table(report: Report, console: Console) -> Table:
    """A row a sequence, the whole set below, by the leading protocol; as many columns as ``console`` has room for."""
    return narrowed(lambda level: _report_table(report, level), 3, console)


def _report_table(report: Report, level: int) -> Table:
    """Level 0 has everything; 1 leaves out the speed end to end; 2 also all but the first two scores."""
    protocol = report.protocol
    keys = list(protocol.headings)[: 2 if level == 2 else None]
    table = plain_table(f"{report.label} on {report.dataset}, protocol {protocol.name}", footer=True)
    count = len(report.sequences)
    name = f"{count} sequence{'s' if count != 1 else ''}"
    name += f" of {report.planned}" if count < report.planned else ""
    table.add_column("sequence", name, no_wrap=True)
    score = report.score()
    columns = [("frames", str(report.frames)), ("absent", str(report.absent))]
    columns += [(protocol.headings[key], format_ratio(score[key])) for key in keys]
    columns += [("FPS", format_rate(report.fps)), ("e2e", format_rate(report.fps_end_to_end))]
    shown = len(columns) - (level > 0)
    for heading, footer in columns[:shown]:
        table.add_column(heading, footer, justify="right", no_wrap=True, min_width=len(heading))
    for s in report.sequences:
        cells = [str(s.frames), str(s.absent)]
        cells += [format_ratio(s.scores[protocol.name][key]) for key in keys]
        cells += [format_rate(s.run.fps), format_rate(s.run.fps_end_to_end)]
        table.add_row(escape(s.name), *cells[:shown])
    return table


def report_notes(report: Report) -> list[str]:
    """The lines below the table: other protocols, and what FPS means."""
    notes = []
    for protocol in report.protocols[1:]:
        score = report.score(protocol)
        numbers = "  ".join(
            f"{heading} {format_ratio(score[key])}" for key, heading in protocol.headings.items()
        )
        notes.append(f"by protocol {protocol.name}: {numbers}")
    if not math.isnan(report.fps):
        notes.append(FPS_NOTE)
    return notes


def format_ratio(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def format_rate(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}" if value < 100 else f"{value:.0f}"
