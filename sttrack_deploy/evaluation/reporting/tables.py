"""Tables for a terminal: of one tracker's report and of a comparison, with the lines below them."""

from __future__ import annotations

import math
from collections.abc import Callable

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from sttrack_deploy.evaluation.comparison import AttributeScores, Comparison
from sttrack_deploy.evaluation.protocols.base import Protocol
from sttrack_deploy.evaluation.scores import FPS_NOTE, Report

__all__ = [
    "comparison_notes",
    "comparison_tables",
    "format_rate",
    "format_ratio",
    "narrowed",
    "plain_table",
    "report_notes",
    "report_table",
]


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


NARROWEST_LABEL = 24
"""Characters that a tracker's label has at least before columns are left out for it."""


def comparison_tables(comparison: Comparison, console: Console) -> list[Table]:
    """For a terminal of ``console``'s width: a ranking for each protocol, the differences, the attributes."""
    leading = comparison.protocols[0]
    tables = [narrowed(_ranking_builder(comparison, p), 3, console) for p in comparison.protocols]
    if len(comparison.reports) > 1:
        tables.append(_differences_table(comparison))
    rows = comparison.by_attribute(leading)
    if rows:
        tables.append(narrowed(_attributes_builder(comparison, leading, rows), 2, console))
    return tables


def comparison_notes(comparison: Comparison) -> list[str]:
    """The lines below the tables."""
    notes = [f"scores are over the {_sequences(len(comparison.names))} that all trackers have"]
    left_out = [
        f"{label} {own - len(comparison.names)}"
        for label, own in zip(comparison.labels, comparison.own, strict=True)
        if own > len(comparison.names)
    ]
    if left_out:
        notes[0] += f"; left out, because another tracker lacks them: {', '.join(left_out)}"
    if any(s.run.confidences is not None for report in comparison.reports for s in report.sequences):
        notes.append(
            "present, on target: the confidence's AUROC over all tracked frames, target present / absent and "
            "on target (IoU > 0.5) / off it (< 0.1)"
        )
    if not all(math.isnan(report.fps) for report in comparison.reports):
        notes.append(FPS_NOTE)
    return notes


def _ranking_builder(comparison: Comparison, protocol: Protocol) -> Callable[[int], Table]:
    leading = protocol is comparison.protocols[0]

    def build(level: int) -> Table:
        table = plain_table(
            f"{comparison.dataset}, {_sequences(len(comparison.names))}, protocol {protocol.name}"
        )
        table.add_column("#", justify="right")
        widest = max(len(label) for label in comparison.labels)
        table.add_column("tracker", overflow="fold", min_width=min(widest, NARROWEST_LABEL))
        # Too narrow for everything: first the confidence and the speed end to end go, then all but the headline.
        keys = list(protocol.headings)[: 1 if level == 2 else None]
        # They are the same under every protocol.
        figures = ["present", "on target", "FPS", "e2e"] if leading else []
        figures = [name for name in figures if not level or name == "FPS"]
        for heading in (*(protocol.headings[key] for key in keys), *figures):
            table.add_column(heading, justify="right", min_width=len(heading))
        for rank, row in enumerate(comparison.ranking(protocol), 1):
            said = {
                "present": format_ratio(row.presence_auroc),
                "on target": format_ratio(row.on_target_auroc),
                "FPS": format_rate(row.fps),
                "e2e": format_rate(row.fps_end_to_end),
            }
            scores = (format_ratio(row.score[key]) for key in keys)
            table.add_row(str(rank), escape(row.label), *scores, *(said[name] for name in figures))
        return table

    return build


def _differences_table(comparison: Comparison) -> Table:
    table = plain_table(f"difference to {comparison.baseline.label}, paired bootstrap over sequences")
    table.add_column("tracker", overflow="fold")
    for heading in ("protocol", "score"):
        table.add_column(heading)
    table.add_column("difference", justify="right")
    table.add_column("interval", justify="right", no_wrap=True)
    for protocol in comparison.protocols:
        for row in comparison.differences(protocol):
            low, high = row.interval.low, row.interval.high
            limits = "-" if math.isnan(low) else f"{low:+.3f} … {high:+.3f}"
            heading = protocol.headings[protocol.headline]
            difference = "-" if math.isnan(row.interval.difference) else f"{row.interval.difference:+.3f}"
            table.add_row(escape(row.label), protocol.name, heading, difference, limits)
    return table


def _attributes_builder(
    comparison: Comparison, protocol: Protocol, rows: list[AttributeScores]
) -> Callable[[int], Table]:
    def build(level: int) -> Table:
        heading = protocol.headings[protocol.headline]
        table = plain_table(f"{heading} by attribute, protocol {protocol.name}")
        table.add_column("attribute")
        table.add_column("sequences", justify="right", min_width=len("sequences"))
        ranks = {row.index: rank for rank, row in enumerate(comparison.ranking(protocol), 1)}
        for index, label in enumerate(comparison.labels):
            # The ranks by this protocol stand for labels that do not fit beside each other.
            name = f"#{ranks[index]}" if level else label
            table.add_column(escape(name), justify="right", min_width=len(name))
        for row in rows:
            table.add_row(escape(row.attribute), str(row.sequences), *(format_ratio(v) for v in row.values))
        return table

    return build


def _sequences(count: int) -> str:
    return f"{count} sequence{'s' if count != 1 else ''}"
