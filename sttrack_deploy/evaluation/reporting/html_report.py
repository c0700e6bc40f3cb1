"""A comparison as one HTML page that needs nothing else: no network, no second file, no script to be read."""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sttrack_deploy import __version__
from sttrack_deploy.errors import MissingDependencyError, UserError
from sttrack_deploy.evaluation.comparison import Comparison, Difference, SequenceScores
from sttrack_deploy.evaluation.confidence_summary import confidence_summaries
from sttrack_deploy.evaluation.protocols.base import Protocol
from sttrack_deploy.evaluation.reporting.plots import (
    attribute_plot,
    calibration_plot,
    curve_plots,
    speed_plot,
    timeline_plot,
)
from sttrack_deploy.evaluation.reporting.strips import Strip, Tile, picture_strip
from sttrack_deploy.evaluation.reporting.tables import format_rate, format_ratio
from sttrack_deploy.evaluation.scores import FPS_NOTE
from sttrack_deploy.files import atomic_path
from sttrack_deploy.plotting import GRID, INK, PAPER, Plot, tracker_style
from sttrack_deploy.progress import SILENT, Progress

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

__all__ = ["write_html"]

_TEMPLATE = "html_report.html.j2"

"""Told what is being made."""


def write_html(
    comparison: Comparison, path: Path, *, made: str, worst: int = 5, progress: Progress = SILENT
) -> None:
    """Write the page.

    Args:
        comparison: of one tracker or several.
        path: the file; replaced at the end, or not touched.
        made: when, as the page is to say it.
        worst: how many of the hardest sequences get pictures; what is beyond the tables grows with it.
        progress: a stage for each thing that is made.

    Raises:
        MissingDependencyError: jinja2 or matplotlib is not installed.
        UserError: the file cannot be written.
    """
    template = _template()
    progress.stage("plots")
    page = _contents(comparison)
    page["hardest"] = _hardest(comparison, worst, progress)
    progress.stage("page")
    text = template.render(page, made=made, version=__version__)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@dataclass(frozen=True, slots=True)
class _Hard:
    """One of the hardest sequences; without a strip there is a problem, in one line."""

    row: SequenceScores
    timeline: Plot
    strip: Strip | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _DifferenceRow:
    """A difference with its bar: left end, width and middle in percent of the bar's space; ``None``: no bar."""

    index: int
    label: str
    difference: float
    low: float
    high: float
    probability: float
    sequences: int
    left: float | None
    width: float
    middle: float

    @property
    def verdict(self) -> tuple[str, str]:
        """A style's name, and the words."""
        if not math.isfinite(self.low):
            return "unclear", "too few sequences"
        if self.low > 0:
            return "higher", "higher"
        return ("lower", "lower") if self.high < 0 else ("unclear", "not separable")


def _template() -> Template:
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise MissingDependencyError(
            "jinja2", "the HTML report", "pip install 'sttrack-deploy[report]'"
        ) from error

    def inline(plot: Plot) -> Markup:
        return Markup(_inline_svg(plot))  # matplotlib has escaped the labels in it

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update(ratio=format_ratio, rate=format_rate, signed=_signed, percent=_percent)
    environment.tests["finite"] = math.isfinite
    environment.globals.update(
        style=tracker_style, dashes=_dashes, tint=_tint, inline=inline, picture=_picture, fps_note=FPS_NOTE
    )
    source = (
        resources.files("sttrack_deploy.evaluation.reporting").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    )
    return environment.from_string(source)


def _contents(comparison: Comparison) -> dict[str, Any]:
    """Everything that the template names, but the hardest sequences."""
    leading = comparison.protocols[0]
    several = len(comparison.reports) > 1
    summaries = confidence_summaries(comparison)
    known = {summary.index for summary in summaries}
    common = len(comparison.names)
    return {
        "title": f"{comparison.dataset}: {'comparison of trackers' if several else comparison.labels[0]}",
        "comparison": comparison,
        "several": several,
        "leading": leading,
        "heading": leading.headings[leading.headline],
        "left_out": _listed(
            f"{label} {own - common}"
            for label, own in zip(comparison.labels, comparison.own, strict=True)
            if own > common
        ),
        "timed": any(math.isfinite(report.fps) for report in comparison.reports),
        "ranking": comparison.ranking(leading),
        "differences": [_differences(comparison, protocol) for protocol in comparison.protocols],
        "curves": curve_plots(comparison, leading),
        "speed": speed_plot(comparison, leading) if several else None,
        "columns": _columns(comparison.protocols),
        "side_by_side": [
            (index, report.label, [(protocol, report.score(protocol)) for protocol in comparison.protocols])
            for index, report in enumerate(comparison.reports)
        ],
        "other_curves": [(p, curve_plots(comparison, p)) for p in comparison.protocols[1:]],
        "attributes": comparison.by_attribute(leading),
        "attribute_bars": attribute_plot(comparison, leading),
        "confidence": summaries,
        "unknown_confidence": _listed(
            label for index, label in enumerate(comparison.labels) if index not in known
        ),
        "calibration": calibration_plot(comparison),
        "sequences": comparison.by_sequence(leading),
        "failures": [
            (index, report.label, failure)
            for index, report in enumerate(comparison.reports)
            for failure in report.failures
        ],
        "subjects": _subjects([report.subject for report in comparison.reports]),
    }


def _hardest(comparison: Comparison, worst: int, progress: Progress) -> list[_Hard]:
    rows = {row.name: row for row in comparison.by_sequence(comparison.protocols[0])}
    found = []
    for name in comparison.worst(worst):
        progress.stage(f"pictures of {name}")
        strip, problem = None, ""
        try:
            strip = picture_strip(comparison, name)
        except UserError as error:  # results can be scored where the frames no longer are
            problem = str(error)
        pictured = [tile.key.frame for tile in strip.tiles] if strip else []
        found.append(_Hard(rows[name], timeline_plot(comparison, name, pictured), strip, problem))
    return found


def _differences(comparison: Comparison, protocol: Protocol) -> tuple[Protocol, float, list[_DifferenceRow]]:
    """The rows of one protocol, and the difference at either end of their bars."""
    rows = comparison.differences(protocol)
    limits = [abs(v) for row in rows for v in (row.interval.low, row.interval.high) if math.isfinite(v)]
    scale = max(0.01, *limits) if limits else 0.01
    return protocol, scale, [_difference_row(row, scale) for row in rows]


def _difference_row(row: Difference, scale: float) -> _DifferenceRow:
    interval = row.interval
    low, middle, high = (
        round(50 + 48 * value / scale, 2) for value in (interval.low, interval.difference, interval.high)
    )
    return _DifferenceRow(
        index=row.index,
        label=row.label,
        difference=interval.difference,
        low=interval.low,
        high=interval.high,
        probability=interval.probability,
        sequences=row.sequences,
        left=low if math.isfinite(low) else None,
        width=round(high - low, 2),
        middle=middle,
    )


def _columns(protocols: tuple[Protocol, ...]) -> dict[str, str]:
    """Every score's key, and the headings that the protocols have for it."""
    columns: dict[str, list[str]] = {}
    for protocol in protocols:
        for key, heading in protocol.headings.items():
            headings = columns.setdefault(key, [])
            if heading not in headings:
                headings.append(heading)
    return {key: " / ".join(headings) for key, headings in columns.items()}


def _subjects(subjects: list[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """A row for everything that any tracker's subject says, one value a tracker."""
    flat = [dict(_flattened(subject)) for subject in subjects]
    names = dict.fromkeys(name for each in flat for name in each)
    return [(name, [each.get(name, "-") for each in flat]) for name in names]


def _flattened(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(item, Mapping):
            pairs += _flattened(item, f"{name}: ")
        else:
            pairs.append((name, "-" if item is None else str(item)))
    return pairs


def _inline_svg(plot: Plot) -> str:
    """The plot for the page: in its theme's colors, as wide as its place, with no id that another one has."""
    svg = plot.svg()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # its selector would match the whole page
    # matplotlib numbers everything in each drawing from 1; only what is referred to has an id of its own.
    wanted = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in wanted else "", svg)
    alt = html.escape(plot.alt)
    svg = re.sub(
        r'<svg ([^>]*?)width="[^"]*"([^>]*?)height="[^"]*"',
        lambda match: f'<svg role="img" aria-label="{alt}" {match[1]}{match[2]}',
        svg,
        count=1,
    )
    for color, replacement in ((INK, "currentColor"), (GRID, "var(--grid)"), (PAPER, "none")):
        svg = svg.replace(color, replacement)
    return svg


def _picture(tile: Tile) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(tile.jpeg()).decode()}"


def _dashes(index: int) -> str:
    """The tracker's line style for a swatch of 3 pixels; empty: solid."""
    return " ".join(f"{2 * length:g}" for length in tracker_style(index).dashes)


def _tint(value: float) -> str:
    """A cell's background: stronger the further from one half, orange below it and blue above; none at NaN."""
    if math.isnan(value):
        return ""
    color = "low" if value < 0.5 else "high"
    return f"rgb(var(--tint-{color}) / {min(0.45, 0.9 * abs(value - 0.5)):.2f})"


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"


def _listed(parts: Iterable[str]) -> str:
    return ", ".join(parts)
