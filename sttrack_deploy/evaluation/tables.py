"""A tracker's report as a table for a terminal, and the lines below it."""

from __future__ import annotations

import math

from rich import box
from rich.markup import escape
from rich.table import Table

from sttrack_deploy.evaluation.report import FPS_NOTE, Report

__all__ = ["format_rate", "format_ratio", "plain_table", "report_notes", "report_table"]


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


def report_table(report: Report) -> Table:
    """A row a sequence, the whole set below, by the leading protocol."""
    protocol = report.protocol
    table = plain_table(f"{report.label} on {report.dataset}, protocol {protocol.name}", footer=True)
    count = len(report.sequences)
    name = f"{count} sequence{'s' if count != 1 else ''}"
    name += f" of {report.planned}" if count < report.planned else ""
    table.add_column("sequence", name, no_wrap=True)
    score = report.score()
    table.add_column("frames", str(report.frames), justify="right")
    table.add_column("absent", str(report.absent), justify="right")
    for key, heading in protocol.headings.items():
        table.add_column(heading, format_ratio(score[key]), justify="right")
    table.add_column("FPS", format_rate(report.fps), justify="right")
    table.add_column("e2e", format_rate(report.fps_end_to_end), justify="right")
    for s in report.sequences:
        table.add_row(
            escape(s.name),
            str(s.frames),
            str(s.absent),
            *(format_ratio(s.scores[protocol.name][key]) for key in protocol.headings),
            format_rate(s.run.fps),
            format_rate(s.run.fps_end_to_end),
        )
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
