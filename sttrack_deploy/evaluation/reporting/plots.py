"""The plots of a comparison; matplotlib is imported when the first one is drawn."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.evaluation.comparison import Comparison
from sttrack_deploy.evaluation.confidence_summary import confidence_summaries
from sttrack_deploy.evaluation.protocols.base import Protocol
from sttrack_deploy.evaluation.reporting.strips import stretches
from sttrack_deploy.files import atomic_path
from sttrack_deploy.plotting import (
    INK,
    SHADE,
    Plot,
    drawing,
    new_figure,
    tracker_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

__all__ = [
    "attribute_plot",
    "calibration_plot",
    "curve_plots",
    "every_plot",
    "speed_plot",
    "timeline_plot",
    "write_plots",
]

FloatArray = npt.NDArray[np.float64]

_LONGEST_LABEL = 40
_LONGEST_LINE = 600
"""Columns of a line over time; more than a plot has pixels would only make the file larger."""


def curve_plots(comparison: Comparison, protocol: Protocol) -> list[Plot]:
    """Success, precision and normalized precision by one protocol; those that it has a number for.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    plots = []
    for curve in _CURVES:
        # Every protocol measures all three, but not every one has a number for each.
        key = next((key for key in protocol.headings if key.startswith(curve.key)), None)
        if key is not None:
            plots.append(_curve_plot(comparison, protocol, curve, key))
    return plots


def attribute_plot(comparison: Comparison, protocol: Protocol) -> Plot | None:
    """Bars of the headline number for each attribute; ``None`` where the data set names none.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    rows = comparison.by_attribute(protocol)
    if not rows:
        return None
    count, heading = len(comparison.reports), protocol.headings[protocol.headline]
    title = f"{heading} by attribute, {protocol.name}"
    with drawing():
        from matplotlib.patches import Patch

        figure = new_figure(6.4, 0.9 + len(rows) * (0.16 + 0.13 * count) + 0.2 * count)
        axes = figure.add_subplot()
        places = np.arange(len(rows))
        handles = []
        for index in range(count):
            style = tracker_style(index)
            look: dict[str, Any] = {
                "facecolor": style.color,
                "edgecolor": INK,
                "hatch": style.hatch,
                "linewidth": 0,
            }
            offset = (index - (count - 1) / 2) * 0.8 / count
            values = np.nan_to_num([row.values[index] for row in rows])
            axes.barh(places + offset, values, 0.72 / count, **look)
            handles.append(Patch(**look))
        axes.set_yticks(places, [f"{row.attribute} ({row.sequences})" for row in rows])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.set(xlim=(0, 1), xlabel=heading, title=title)
        figure.legend(handles, [_short(label) for label in comparison.labels], loc="outside lower left")
    names = ", ".join(row.attribute for row in rows)
    return Plot(
        _stem("attributes", protocol.name), title, f"{title}: {names}. The table has the numbers.", figure
    )


def calibration_plot(comparison: Comparison, bins: int = 10) -> Plot | None:
    """How often a box was good (IoU > 0.5) at each confidence, and how often each confidence was given.

    ``None`` where no tracker's confidence is known to lie within 0..1.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    curves = [
        (summary.index, summary.label, summary.calibration)
        for summary in confidence_summaries(comparison, bins)
        if summary.calibration is not None
    ]
    if not curves:
        return None
    title = "Calibration of the confidence"
    with drawing():
        figure = new_figure(4.6, 4.3 + 0.2 * len(curves))
        upper, lower = figure.subplots(2, sharex=True, height_ratios=[2.6, 1])
        upper.plot([0, 1], [0, 1], color=SHADE, linewidth=1, dashes=(2, 2))
        handles, labels = [], []
        for index, label, curve in curves:
            line = _line(upper, curve.confidence, curve.good, index)
            line.set(marker=tracker_style(index).marker, markersize=4.5)
            handles.append(line)
            labels.append(f"{_number(curve.error)}  {_short(label)}")
            share = curve.count / max(1, int(curve.count.sum()))
            lower.stairs(share, curve.edges, color=tracker_style(index).color, linewidth=1.5)
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="Share with IoU > 0.5", title=title)
        lower.set(ylim=(0, None), xlabel="Confidence", ylabel="Share of frames")
        figure.align_ylabels()
        figure.legend(
            handles, labels, title="Expected calibration error", loc="outside lower left", alignment="left"
        )
    return Plot("calibration", title, f"{title}. Expected calibration error: {'; '.join(labels)}", figure)


def speed_plot(comparison: Comparison, protocol: Protocol) -> Plot | None:
    """Speed against the headline number; ``None`` where no tracker's times are known.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    rows = [row for row in comparison.ranking(protocol) if math.isfinite(row.fps)]
    if not rows:
        return None
    heading = protocol.headings[protocol.headline]
    title = f"Speed and {heading}, {protocol.name}"
    with drawing():
        figure = new_figure(4.6, 3.2 + 0.2 * len(rows))
        axes = figure.add_subplot()
        handles, labels = [], []
        for row in rows:
            style, score = tracker_style(row.index), row.score[protocol.headline]
            handles += axes.plot([row.fps], [score], style.marker, color=style.color, markersize=8)
            labels.append(f"{_number(score)}  {row.fps:.3g} FPS  {_short(row.label)}")
        axes.set_xscale("log")
        speeds = [row.fps for row in rows]
        low, high = min(speeds) / 1.6, max(speeds) * 1.6
        ticks = [t * 10**e for e in range(-3, 6) for t in (1, 2, 5) if low <= t * 10**e <= high]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        scores = [s for s in (row.score[protocol.headline] for row in rows) if math.isfinite(s)]
        bottom, top = min(scores, default=0.0), max(scores, default=1.0)
        room = max(0.05, 0.25 * (top - bottom))
        axes.set(xlim=(low, high), ylim=(max(0.0, bottom - room), min(1.0, top + room)))
        axes.set(xlabel="FPS in update(), median over sequences", ylabel=heading)
        axes.set_title(title)
        figure.legend(handles, labels, loc="outside lower left")
    return Plot(_stem("speed", protocol.name), title, f"{title}. {'; '.join(labels)}", figure)


def timeline_plot(comparison: Comparison, name: str, pictured: Iterable[int] = ()) -> Plot:
    """IoU and confidence over one sequence: frames without the target shaded, those called lost marked.

    Args:
        pictured: frames to point at, because pictures show them.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        KeyError: the sequence is not common to all trackers.
    """
    runs = list(enumerate(comparison.sequence(name)))
    confident = [(i, s.run.confidences) for i, s in runs if s.run.confidences is not None]
    called = [(i, s.run.lost) for i, s in runs if s.run.lost is not None and s.run.lost.any()]
    heights = [1.5, *([1.1] if confident else []), *([0.11 * len(called) + 0.06] if called else [])]
    title = f"{name}: IoU" + (" and confidence" if confident else "") + " over time"
    present = runs[0][1].present
    with drawing():
        figure = new_figure(11.0, 0.75 + sum(heights) + 0.1 * len(heights) + 0.2 * math.ceil(len(runs) / 2))
        panels: list[Axes] = list(
            figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        )
        handles = [_line(panels[0], np.arange(s.frames), s.overlap, index) for index, s in runs]
        panels[0].set(ylim=(-0.03, 1.03), ylabel="IoU", title=title)
        for frame in pictured:
            panels[0].plot([frame], [1.03], "v", color=SHADE, markersize=6, clip_on=False)
        for index, values in confident:
            _line(panels[1], np.arange(len(values)), values, index)
        if confident:
            panels[1].set(ylim=(-0.03, 1.03), ylabel="confidence")
        for row, (index, lost) in enumerate(called):
            bars = [(start - 0.5, stop - start) for start, stop in stretches(lost)]
            panels[-1].broken_barh(bars, (-row - 0.4, 0.8), color=tracker_style(index).color)
        if called:
            panels[-1].set(yticks=[], ylim=(0.6 - len(called), 0.6))
            panels[-1].set_ylabel("lost", rotation=0, ha="right", va="center")
            panels[-1].spines["left"].set_visible(False)
        shades = [
            panel.axvspan(start - 0.5, stop - 0.5, color=SHADE, alpha=0.28, linewidth=0, zorder=0.5)
            for start, stop in stretches(~present)
            for panel in panels
        ]
        panels[-1].set(xlabel="frame", xlim=(-0.5, len(present) - 0.5))
        labels = [_short(label) for label in comparison.labels]
        if shades:
            figure.legend(
                [*handles, shades[0]], [*labels, "target absent"], loc="outside lower left", ncols=2
            )
        else:
            figure.legend(handles, labels, loc="outside lower left", ncols=2)
    alt = f"{title}. " + "; ".join(
        f"{label}: mean IoU {_number(_mean(s.overlap))}, IoU under 0.1 in {int((s.overlap < 0.1).sum())} frames"
        + (f", called lost in {s.lost}" if s.lost is not None else "")
        for label, (_, s) in zip(comparison.labels, runs, strict=True)
    )
    return Plot(
        _stem("timeline", name),
        title,
        f"{alt}. The target is absent in {int((~present).sum())} frames.",
        figure,
    )


def every_plot(comparison: Comparison) -> Iterator[Plot]:
    """All but those of single sequences, one at a time: by each protocol, then speed and confidence.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    for protocol in comparison.protocols:
        yield from curve_plots(comparison, protocol)
        for plot in (attribute_plot(comparison, protocol), speed_plot(comparison, protocol)):
            if plot is not None:
                yield plot
    calibration = calibration_plot(comparison)
    if calibration is not None:
        yield calibration


def write_plots(comparison: Comparison, folder: Path) -> list[Path]:
    """Every plot as ``<name>.svg`` and ``<name>.png``; returns the files.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        UserError: a file cannot be written.
    """
    written = []
    for plot in every_plot(comparison):
        drawn = plot.svg() + "<!-- made by sttrack-deploy -->\n"  # so that the next run may replace it
        for suffix, content in ((".svg", drawn.encode()), (".png", plot.png())):
            path = folder / f"{plot.name}{suffix}"
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
            written.append(path)
    return written


@dataclass(frozen=True, slots=True)
class _Curve:
    """One of the three curves.

    Attributes:
        axis: label of the thresholds.
        name: of the attribute of ``Measured`` and ``Thresholds``.
        key: how the key of its score begins; empty: the headline.
    """

    kind: str
    axis: str
    name: str
    key: str


_CURVES = (
    _Curve("success", "Overlap threshold (IoU)", "success", ""),
    _Curve("precision", "Center error threshold (pixels)", "precision", "precision"),
    _Curve("normalized precision", "Normalized center error threshold", "normalized", "normalized"),
)


def _curve_plot(comparison: Comparison, protocol: Protocol, curve: _Curve, key: str) -> Plot:
    title = f"{curve.kind.capitalize()}, {protocol.name}"
    order = sorted(comparison.ranking(protocol), key=lambda row: -np.nan_to_num(row.score[key], nan=-1.0))
    thresholds: FloatArray = getattr(protocol.thresholds, curve.name)
    with drawing():
        figure = new_figure(4.6, 3.2 + 0.2 * len(order))
        axes = figure.add_subplot()
        handles, labels = [], []
        for row in order:
            pooled = comparison.reports[row.index].pooled(protocol)
            handles.append(_line(axes, thresholds, getattr(pooled, curve.name), row.index))
            labels.append(f"{_number(row.score[key])}  {_short(row.label)}")
        axes.set(
            xlim=(thresholds[0], thresholds[-1]),
            ylim=(0, 1),
            xlabel=curve.axis,
            ylabel="Share of frames",
            title=title,
        )
        figure.legend(
            handles, labels, title=protocol.headings[key], loc="outside lower left", alignment="left"
        )
    return Plot(
        _stem(curve.kind, protocol.name),
        title,
        f"{title}. {protocol.headings[key]}: {'; '.join(labels)}",
        figure,
    )


def _line(axes: Axes, x: npt.NDArray[Any], y: FloatArray, index: int) -> Line2D:
    style = tracker_style(index)
    x, y = _thinned(x, y)
    (line,) = axes.plot(x, y, color=style.color, linewidth=1.7)
    if style.dashes:
        line.set_dashes(style.dashes)
    return line


def _thinned(x: npt.NDArray[Any], y: FloatArray) -> tuple[npt.NDArray[Any], FloatArray]:
    """The lowest and the highest point of each of as many stretches as can be seen: no dip is lost."""
    if len(y) <= 2 * _LONGEST_LINE:
        return x, y
    kept = []
    for part in np.array_split(np.arange(len(y)), _LONGEST_LINE):
        filled = part[np.isfinite(y[part])]
        # A stretch without numbers stays a gap.
        kept += (
            sorted({int(filled[y[filled].argmin()]), int(filled[y[filled].argmax()])})
            if filled.size
            else [part[0]]
        )
    return x[kept], y[kept]


def _mean(values: FloatArray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"


def _stem(*parts: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "_", "_".join(parts))
